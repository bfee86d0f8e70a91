package backup

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/testenv"
)

func newRepository(t *testing.T) *repository.Repository {
	t.Helper()
	store, err := objectstore.OpenDirectory(t.TempDir(), objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	root, err := crypto.ParseLocalRootKey(bytes.Repeat([]byte{9}, crypto.KeySize), "test")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := repository.Create(t.Context(), store, root, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(repo.Close)
	return repo
}

// source is a database of a test and the server as hourvault sees it.
type source struct {
	cluster  *testenv.Cluster
	server   *postgres.Server
	database string
}

func newSource(t *testing.T, major int, connections int) *source {
	t.Helper()
	cluster := testenv.Postgres(t, major)
	server, err := postgres.NewServer(postgres.ServerConfig{
		Name: "test", DSN: cluster.DSN("postgres"), Connections: connections, LockTimeout: 10 * time.Second,
		YieldToDDL: 10 * time.Second, BinDirs: []string{cluster.BinDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &source{cluster: cluster, server: server, database: cluster.CreateDatabase(t, "")}
}

func (s *source) entry(t *testing.T) postgres.DatabaseEntry {
	t.Helper()
	databases, err := s.server.Databases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, database := range databases {
		if string(database.Name) == s.database {
			return database
		}
	}
	t.Fatalf("database %s is not listed", s.database)
	return postgres.DatabaseEntry{}
}

func (s *source) backup(t *testing.T, repo *repository.Repository) *repository.Snapshot {
	t.Helper()
	result, err := Run(t.Context(), s.server, s.entry(t), repo, Options{Readers: 3, Holder: "test", Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return result.Snapshot
}

// rows returns what COPY says of every ordinary table, by qualified name, in physical order.
func (s *source) rows(t *testing.T) map[string]string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.cluster.DSN(s.database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	names, err := conn.Query(t.Context(), `select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema')`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(names, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	contents := make(map[string]string)
	for _, table := range tables {
		var content bytes.Buffer
		if _, err := conn.PgConn().CopyTo(t.Context(), &content, "COPY (SELECT * FROM ONLY "+table+") TO STDOUT"); err != nil {
			t.Fatal(err)
		}
		contents[table] = content.String()
	}
	return contents
}

// stored returns the same of a snapshot.
func stored(t *testing.T, snapshot *repository.Snapshot) map[string]string {
	t.Helper()
	contents := make(map[string]string)
	for table, err := range snapshot.Tables(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if table.Kind != catalog.KindTable {
			continue
		}
		var content bytes.Buffer
		if err := snapshot.Rows(t.Context(), table, &content); err != nil {
			t.Fatal(err)
		}
		contents[postgres.QualifiedName(table.Schema, table.Name)] = content.String()
	}
	return contents
}

func checkEqual(t *testing.T, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d tables, want %d", len(got), len(want))
	}
	for table, content := range want {
		if unquoted := strings.ReplaceAll(table, `"`, ""); got[table] != content {
			found := got[table]
			if found == "" {
				for name := range got {
					if strings.ReplaceAll(name, `"`, "") == unquoted {
						found = got[name]
					}
				}
			}
			if found != content {
				t.Errorf("%s: %d bytes stored, want %d", table, len(found), len(content))
			}
		}
	}
}

func TestSnapshotHoldsWhatCopySaysAndStoresOnlyWhatChanged(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			s := newSource(t, major, 4)
			repo := newRepository(t)
			s.cluster.Exec(t, s.database, `
				create table big as select i as id, md5(i::text) as a, repeat(md5((i*7)::text), 5) as b from generate_series(1, 120000) i;
				create table small (id int primary key, note text);
				insert into small select i, 'note '||i from generate_series(1, 50) i;
				create table empty (id int);
				create table nothing ();
				insert into nothing select from generate_series(1, 1000);
				create table wide (id int, b bytea);
				insert into wide select 1, decode(repeat('00ff5c0a', 1500000), 'hex');
				select lo_from_bytea(0, decode(repeat('ab', 100000), 'hex'));
				create sequence counter; select nextval('counter');
				create materialized view summary as select count(*) from big;`)
			first := s.backup(t, repo)
			checkEqual(t, stored(t, first), s.rows(t))
			for _, warning := range first.Manifest().Warnings {
				t.Errorf("warning: %+v", warning)
			}

			second := s.backup(t, repo)
			checkEqual(t, stored(t, second), s.rows(t))
			if got := second.Manifest().Statistics; got.NewBlocks != 0 {
				t.Errorf("an unchanged database stored %d blocks", got.NewBlocks)
			}
			if first, second := first.Manifest().Statistics.StoredBytes, second.Manifest().Statistics.StoredBytes; second*100 > first {
				t.Errorf("an unchanged database stored %d bytes after %d", second, first)
			}

			s.cluster.Exec(t, s.database, `update big set a = 'changed' where id % 5000 = 0; delete from small where id = 7; truncate empty; update wide set b = b || 'x'`)
			third := s.backup(t, repo)
			checkEqual(t, stored(t, third), s.rows(t))
			got := third.Manifest().Statistics
			t.Logf("first %+v\nsecond %+v\nthird %+v", first.Manifest().Statistics, second.Manifest().Statistics, got)
			if got.NewBlocks == 0 || got.NewBlocks > 100 {
				t.Errorf("24 updated rows in scattered blocks stored %d blocks", got.NewBlocks)
			}
		})
	}
}
