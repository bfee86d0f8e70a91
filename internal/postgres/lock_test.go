package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/testenv"
)

// hourvaultWaits is true while a session of hourvault waits for a lock in the database.
const hourvaultWaits = "select exists (select from pg_locks l join pg_stat_activity a using (pid) where not l.granted and a.datname = $1 and a.application_name like 'hourvault %')"

func TestMigrationThatCrossesTheOpeningOfASnapshotIsNotEndedByADeadlock(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE TABLE t1 (id int); CREATE TABLE t2 (id int)")
		migration, watcher := cluster.Connect(t, database), cluster.Connect(t, "postgres")
		// It looks for deadlocks before hourvault's session would, and so is the one to be ended.
		if err := execute(t.Context(), migration, "SET deadlock_timeout = '800ms'; BEGIN; ALTER TABLE t2 ADD c int"); err != nil {
			t.Fatal(err)
		}
		server := testServer(t, cluster, "", func(c *ServerConfig) { c.LockTimeout = 30 * time.Second })
		opened := make(chan *Snapshot, 1)
		go func() {
			snapshot, err := server.OpenSnapshot(context.Background(), database, SnapshotOptions{})
			if err != nil {
				t.Errorf("the snapshot beside the migration: %v", err)
			}
			opened <- snapshot
		}()
		await(t, watcher, hourvaultWaits, database) // for t2, and holds t1
		err := execute(t.Context(), migration, "ALTER TABLE t1 ADD c int")
		if err == nil {
			err = execute(t.Context(), migration, "COMMIT")
		} else {
			_ = execute(t.Context(), migration, "ROLLBACK")
		}
		if err != nil {
			t.Errorf("the migration: %v", err)
		}
		snapshot := <-opened
		if snapshot == nil {
			return
		}
		defer snapshot.Close(context.Background())
		for _, table := range []catalog.Text{"t1", "t2"} {
			if got := len(tableNamed(t, snapshot, "public", table).Columns); got != 2 {
				t.Errorf("%s has %d columns, want those after the migration", table, got)
			}
		}
		var timeout string
		if err := snapshot.leader.QueryRow(t.Context(), "show lock_timeout").Scan(&timeout); err != nil || timeout != "30s" {
			t.Errorf("lock_timeout after opening: %s (%v)", timeout, err)
		}
	})
}

func TestLockTimeoutNamesTheHolderAndNotWhoWaitsForHourvault(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE TABLE t1 (id int); CREATE TABLE t2 (id int)")
		holder, innocent, watcher := cluster.Connect(t, database), cluster.Connect(t, database), cluster.Connect(t, "postgres")
		if err := execute(t.Context(), holder, "SET application_name = 'holder'; BEGIN; ALTER TABLE t2 ADD c int"); err != nil {
			t.Fatal(err)
		}
		server := testServer(t, cluster, "", func(c *ServerConfig) { c.LockTimeout = 450 * time.Millisecond })
		failed := make(chan error, 1)
		go func() {
			snapshot, err := server.OpenSnapshot(context.Background(), database, SnapshotOptions{})
			if err == nil {
				snapshot.Close(context.Background())
			}
			failed <- err
		}()
		await(t, watcher, hourvaultWaits, database)
		// This one waits behind hourvault's lock on t1, and has it as soon as hourvault gives up.
		if err := execute(t.Context(), innocent, "SET application_name = 'innocent'; BEGIN; ALTER TABLE t1 ADD c int"); err != nil {
			t.Fatal(err)
		}
		var locked *LockTimeoutError
		if err := <-failed; !errors.As(err, &locked) || locked.Table != `"public"."t2"` || locked.Application != "holder" || locked.PID != int(holder.PgConn().PID()) {
			t.Errorf("got %v, want a LockTimeoutError that names the holder of t2", err)
		}
	})
}
