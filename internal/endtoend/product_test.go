package endtoend_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/testenv"
	"github.com/hourvault/hourvault/restore"
)

// opener opens a store that stays the same one from call to call.
type opener func(t *testing.T) closingStore

type closingStore interface {
	objectstore.Store
	io.Closer
}

// directory is a store in a directory that ends with the test.
func directory(t *testing.T) opener {
	path := t.TempDir()
	return func(t *testing.T) closingStore {
		t.Helper()
		store, err := objectstore.OpenDirectory(path, objectstore.DirectoryOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
}

// bucket is a store in a new bucket of server, with the given encryption at rest.
func bucket(t *testing.T, server *testenv.S3Server, sse objectstore.SSE) opener {
	options := objectstore.S3Options{
		Bucket: server.NewBucket(t), Prefix: "prod", Region: server.Region, Endpoint: server.Endpoint, PathStyle: true, SSE: sse,
		AccessKeyID: server.AccessKey, SecretAccessKey: objectstore.NewSecret(server.SecretKey),
	}
	if sse == objectstore.SSEKMS {
		options.SSEKMSKeyID = server.KMSKeyID
	}
	return func(t *testing.T) closingStore {
		t.Helper()
		store, err := objectstore.OpenS3(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
}

// vault is a repository as different processes use it: each act opens it anew, from nothing but store and root key.
type vault struct {
	open opener
	root crypto.RootKey
}

func newVault(t *testing.T, open opener) *vault {
	t.Helper()
	root, err := crypto.ParseLocalRootKey(bytes.Repeat([]byte{7}, crypto.KeySize), "test")
	if err != nil {
		t.Fatal(err)
	}
	store := open(t)
	defer closeStore(t, store)
	repo, err := repository.Create(t.Context(), store, root, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	repo.Close()
	return &vault{open: open, root: root}
}

func closeStore(t *testing.T, store io.Closer) {
	t.Helper()
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

// with opens the repository for one act.
func (v *vault) with(t *testing.T, act func(*repository.Repository)) {
	t.Helper()
	store := v.open(t)
	defer closeStore(t, store)
	repo, err := repository.Open(t.Context(), store, v.root)
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	act(repo)
}

// newServer returns the cluster as hourvault sees it when it connects as role.
func newServer(t *testing.T, cluster *testenv.Cluster, role string) *postgres.Server {
	t.Helper()
	server, err := postgres.NewServer(postgres.ServerConfig{
		Name: "test", DSN: cluster.DSNFor(role, "postgres"), Connections: 4, BinDirs: []string{cluster.BinDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func databaseEntry(t *testing.T, server *postgres.Server, database string) postgres.DatabaseEntry {
	t.Helper()
	databases, err := server.Databases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range databases {
		if string(entry.Name) == database {
			return entry
		}
	}
	t.Fatalf("database %q is not listed", database)
	return postgres.DatabaseEntry{}
}

// taken is what is known of a snapshot after the process that took it has ended.
type taken struct {
	id       repository.SnapshotID
	identity repository.Identity
	manifest repository.Manifest
}

// backup takes a snapshot.
func (v *vault) backup(t *testing.T, server *postgres.Server, database string) taken {
	t.Helper()
	snapshot, err := v.tryBackup(t, server, database, nil)
	if err != nil {
		t.Fatalf("back up database %q: %v", database, err)
	}
	return snapshot
}

func (v *vault) tryBackup(t *testing.T, server *postgres.Server, database string, progress func(backup.Progress)) (snapshot taken, err error) {
	t.Helper()
	v.with(t, func(repo *repository.Repository) {
		var result *backup.Result
		result, err = backup.Run(t.Context(), server, databaseEntry(t, server, database), repo,
			backup.Options{Readers: 3, Holder: "test", Version: "test", Progress: progress})
		if err == nil {
			snapshot = taken{id: result.Snapshot.Manifest().Snapshot, identity: result.Workspace.Record().Identity, manifest: *result.Snapshot.Manifest()}
		}
	})
	return snapshot, err
}

// restore puts a snapshot back into a new database.
func (v *vault) restore(t *testing.T, snapshot taken, server *postgres.Server, into string) restore.Result {
	t.Helper()
	result, err := v.runRestore(t, snapshot, server, into)
	if err != nil {
		t.Fatalf("restore into %q: %v", into, err)
	}
	return result
}

func (v *vault) tryRestore(t *testing.T, snapshot taken, server *postgres.Server, into string) error {
	t.Helper()
	_, err := v.runRestore(t, snapshot, server, into)
	return err
}

func (v *vault) runRestore(t *testing.T, snapshot taken, server *postgres.Server, into string) (result restore.Result, err error) {
	t.Helper()
	v.with(t, func(repo *repository.Repository) {
		workspace, findErr := repo.FindWorkspace(t.Context(), snapshot.identity)
		if findErr != nil {
			t.Fatal(findErr)
		}
		stored, openErr := workspace.OpenSnapshot(t.Context(), snapshot.id)
		if openErr != nil {
			t.Fatal(openErr)
		}
		result, err = restore.Run(t.Context(), server, stored, restore.Options{Into: into, Jobs: 3})
	})
	return result, err
}

// checkWarnings fails for every warning whose code is not among those that are expected, and for each of those that
// there is none of.
func checkWarnings(t *testing.T, what string, warnings []catalog.Warning, expected ...string) {
	t.Helper()
	seen := make(map[string]bool)
	for _, code := range expected {
		seen[code] = false
	}
	for _, warning := range warnings {
		if _, known := seen[warning.Code]; !known {
			t.Errorf("%s: unexpected warning %s for %q: %s", what, warning.Code, warning.Object, warning.Message)
		}
		seen[warning.Code] = true
	}
	for code, found := range seen {
		if !found {
			t.Errorf("%s: no warning %s", what, code)
		}
	}
}

// execute runs a script in a database as superuser, whatever the database's own settings are.
func execute(t *testing.T, cluster *testenv.Cluster, database, script string) {
	t.Helper()
	conn := connect(t, cluster, database)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
		t.Fatalf("%v\n%s", err, script)
	}
}
