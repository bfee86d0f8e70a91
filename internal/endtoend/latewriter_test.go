package endtoend_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/testenv"
)

// Where the process that is suspended finds what it needs.
const (
	lateStore    = "HOURVAULT_TEST_LATE_STORE"
	lateDSN      = "HOURVAULT_TEST_LATE_DSN"
	lateBin      = "HOURVAULT_TEST_LATE_BIN"
	lateDatabase = "HOURVAULT_TEST_LATE_DATABASE"
)

// lateLease is short, because somebody waits for it to expire.
const lateLease = 500 * time.Millisecond

// stopping is a store that suspends its whole process once, before the manifest is written.
type stopping struct {
	objectstore.Store
	stopped bool
}

func (s *stopping) PutIfAbsent(ctx context.Context, key string, content []byte) (objectstore.Info, error) {
	if strings.Contains(key, "/snapshots/") && !s.stopped {
		s.stopped = true
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return objectstore.Info{}, err
		}
	}
	return s.Store.PutIfAbsent(ctx, key, content)
}

// TestLateWriterProcess is the process that the next test suspends.
func TestLateWriterProcess(t *testing.T) {
	if os.Getenv(lateStore) == "" {
		t.Skip("is a part of TestProcessSuspendedPastItsLeaseCannotCommit")
	}
	store, err := objectstore.OpenDirectory(os.Getenv(lateStore), objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := crypto.ParseLocalRootKey(bytes.Repeat([]byte{7}, crypto.KeySize), "test")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := repository.Open(t.Context(), &stopping{Store: store}, root)
	if err != nil {
		t.Fatal(err)
	}
	server, err := postgres.NewServer(postgres.ServerConfig{Name: "test", DSN: os.Getenv(lateDSN), Connections: 4, BinDirs: []string{os.Getenv(lateBin)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = backup.Run(t.Context(), server, databaseEntry(t, server, os.Getenv(lateDatabase)), repo, backup.Options{Holder: "suspended", LeaseLifetime: lateLease})
	if !errors.Is(err, repository.ErrLeaseLost) {
		t.Fatalf("the backup ended with: %v", err)
	}
	t.Logf("the backup ended as it should: %v", err)
}

// A process is stopped with all its packs stored and its manifest about to be; meanwhile another one takes a snapshot and deletes the packs
// that no manifest names.
func TestProcessSuspendedPastItsLeaseCannotCommit(t *testing.T) {
	cluster := testenv.Postgres(t, 18)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, "create table t as select g, md5(g::text) from generate_series(1, 1000) g")
	path := t.TempDir()
	v := newVault(t, func(t *testing.T) closingStore {
		t.Helper()
		store, err := objectstore.OpenDirectory(path, objectstore.DirectoryOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
	server := newServer(t, cluster, "postgres")
	v.backup(t, server, database)
	cluster.Exec(t, database, "insert into t select g, md5(g::text) from generate_series(1001, 2000) g")

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	command := exec.CommandContext(t.Context(), self, "-test.run=^TestLateWriterProcess$", "-test.v")
	command.Env = append(os.Environ(), lateStore+"="+path, lateDSN+"="+cluster.DSNFor("postgres", "postgres"), lateBin+"="+cluster.BinDir(), lateDatabase+"="+database)
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill() }) // also ends one that is stopped
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(command.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process was to stop: %v, %v\n%s", status, err, output.String())
	}

	next := v.backup(t, server, database)
	v.with(t, func(repo *repository.Repository) {
		workspace, err := repo.FindWorkspace(t.Context(), next.identity)
		if err != nil {
			t.Fatal(err)
		}
		deleted := 0
		for range 2 { // the plan, then its packs
			report, err := workspace.Prune(t.Context(), repository.PruneOptions{Holder: "test", Grace: -1})
			if err != nil {
				t.Fatal(err)
			}
			deleted += report.PacksDeleted.Count
		}
		if deleted == 0 {
			t.Error("the suspended process had stored no pack")
		}
	})

	if err := command.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil || !strings.Contains(output.String(), repository.ErrLeaseLost.Error()) {
		t.Errorf("the suspended process: %v\n%s", err, output.String())
	}
	v.with(t, func(repo *repository.Repository) {
		report, err := repo.Verify(t.Context(), repository.VerifyOptions{ReadData: true})
		if err != nil || len(report.Problems) != 0 {
			t.Errorf("verify: %v, %v", report.Problems, err)
		}
	})
	v.backup(t, server, database)
}
