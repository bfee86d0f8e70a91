package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/witness"
)

// Databases of one name follow each other, each with a workspace of its own. What the witness file knows of the first one is
// held against the repository in every round, and not against a list that could not be read.
func TestAWorkspaceThatTheRepositoryLostIsMissedInEveryRound(t *testing.T) {
	store, err := objectstore.OpenDirectory(t.TempDir(), objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	root, err := crypto.ParseLocalRootKey(bytes.Repeat([]byte{7}, 32), "test")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := repository.Create(t.Context(), store, root, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	server, err := postgres.NewServer(postgres.ServerConfig{Name: "main", DSN: "host=localhost user=nobody", Connections: postgres.MinConnections})
	if err != nil {
		t.Fatal(err)
	}
	live := liveWorkspace{server: server, database: postgres.DatabaseEntry{Name: "acme"}, name: "acme"}
	take := func(oid uint32) *backup.Result {
		t.Helper()
		workspace, created, err := repo.EnsureWorkspace(t.Context(), repository.WorkspaceRecord{Server: "main", Database: "acme", Identity: repository.Identity{SystemIdentifier: "7", Database: catalog.OID(oid)}})
		if err != nil {
			t.Fatal(err)
		}
		writer, err := workspace.BeginSnapshot(t.Context(), repository.SnapshotOptions{Holder: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(writer.SchemaArchive(), "schema"); err != nil {
			t.Fatal(err)
		}
		snapshot, err := writer.Commit(t.Context(), repository.Ending{Time: time.Now(), Server: "main"})
		if err != nil {
			t.Fatal(err)
		}
		return &backup.Result{Snapshot: snapshot, Workspace: workspace, NewWorkspace: created}
	}
	path := filepath.Join(t.TempDir(), "witness.json")
	// round takes a snapshot of the database with that oid, and returns what was warned of.
	round := func(oid uint32, list func() ([]*repository.Workspace, error)) (codes []string) {
		t.Helper()
		app := newApp(&console.Streams{Out: io.Discard, Err: io.Discard}, config.System())
		keeper := newWitnessKeeper(app, path, repo)
		keeper.taken(t.Context(), live, take(oid), list)
		for _, warning := range keeper.warnings {
			codes = append(codes, warning.Code)
		}
		return codes
	}
	all := func() ([]*repository.Workspace, error) { return repo.Workspaces(t.Context()) }
	cut := func() ([]*repository.Workspace, error) { return nil, errors.New("list claims: connection refused") }
	stopped := func() ([]*repository.Workspace, error) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return repo.Workspaces(ctx)
	}
	lost := func() (others []*repository.Workspace, err error) {
		workspaces, err := all()
		for _, workspace := range workspaces {
			if workspace.Record().Identity.Database != 1 {
				others = append(others, workspace)
			}
		}
		return others, err
	}
	partly := func() ([]*repository.Workspace, error) {
		found, _ := all()
		return found, errors.New("another workspace: not authentic")
	}
	for _, step := range []struct {
		name string
		oid  uint32
		list func() ([]*repository.Workspace, error)
		want string
	}{
		{"the file is begun", 1, all, warningWitnessMissing},
		{"the same database", 1, cut, ""},
		{"another database of the name, and the list was cut", 2, cut, warningWitnessUndecided},
		{"another one, and the command was stopped", 3, stopped, warningWitnessUndecided + " " + warningWitnessUndecided},
		{"both are there", 3, all, ""},
		{"both are there, and something else cannot be opened", 3, partly, ""},
		{"the first is lost", 3, lost, warningRolledBack},
		{"and stays lost", 3, lost, warningRolledBack},
		{"also for one that is new", 4, lost, warningRolledBack},
	} {
		if got := strings.Join(round(step.oid, step.list), " "); got != step.want {
			t.Errorf("%s: warned %q, want %q", step.name, got, step.want)
		}
	}
}

func TestAWitnessFileOfAnotherUserIsNotToBeRemoved(t *testing.T) {
	const otherwise = "remove it"
	denied := &fs.PathError{Op: "open", Path: "w.json", Err: syscall.EACCES}
	if got := mendWitness(denied, "w.json", otherwise); strings.Contains(got, otherwise) || !strings.Contains(got, "give w.json and w.json.lock to this user") {
		t.Errorf("advises %q", got)
	}
	if got := mendWitness(errors.New("is damaged"), "w.json", otherwise); got != otherwise {
		t.Errorf("damaged: advises %q", got)
	}
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	path := filepath.Join(t.TempDir(), "w.json")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	w := &witnesses{path: path, known: map[repository.WorkspaceID][]witness.Sighting{}}
	if err := w.of("0"); err != nil || len(w.problems) != 1 || !strings.Contains(w.problems[0].Message, "give "+path) {
		t.Errorf("a check says %+v, %v", w.problems, err)
	}
}

func TestWhatIsWaitedForDoesNotWriteIntoTheBar(t *testing.T) {
	for _, format := range []string{logConsole, logJSON} {
		var out bytes.Buffer
		app := newApp(&console.Streams{Out: io.Discard, Err: &out}, config.System())
		app.global.logFormat, app.logger = format, newLogger(&out, format)
		bar := newBackupBar(app, []liveWorkspace{{name: "acme"}})
		for range 2 { // before a bar is drawn, and with one
			bar.say("hourvault: acme: waiting")
			bar.report(0, 1, 2)
		}
		bar.finish(nil)
		if got := strings.Count(out.String(), "acme: waiting"); got != 2 {
			t.Errorf("%s: told %d times, want 2:\n%s", format, got, out.String())
		}
	}
}
