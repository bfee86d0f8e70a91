package endtoend_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv"
)

// startStandby returns a streaming standby of primary, which replays as long as the test runs. It is a cluster of the
// test's own, whose data directory was replaced by pg_basebackup's copy.
func startStandby(t *testing.T, primary *testenv.Cluster) *testenv.Cluster {
	t.Helper()
	program := filepath.Join(primary.BinDir(), "pg_basebackup")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("make a standby: %v", err)
	}
	standby := testenv.StartPostgres(t, primary.Major())
	standby.Stop(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("make a standby: %v", err)
		}
	}
	data := standby.DataDir()
	info, err := os.Stat(data)
	must(err)
	owner := info.Sys().(*syscall.Stat_t)
	must(os.RemoveAll(data))
	command := exec.CommandContext(t.Context(), program, "--dbname", primary.DSN("postgres"), "--pgdata", data,
		"--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
	command.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("make a standby: %v\n%s", err, output)
	}
	file, err := os.OpenFile(filepath.Join(data, "postgresql.auto.conf"), os.O_WRONLY|os.O_APPEND, 0)
	must(err)
	_, err = fmt.Fprintf(file, "unix_socket_directories = '%s'\n", standby.SocketDir())
	must(err)
	must(file.Close())
	if os.Geteuid() == 0 { // servers run as another user
		must(filepath.WalkDir(data, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, int(owner.Uid), int(owner.Gid))
		}))
	}
	standby.Start(t)
	return standby
}

// await asks until the query answers "t". It waits for the server, which has no event to offer.
func await(t *testing.T, cluster *testenv.Cluster, database, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for query(t, cluster, database, sql)[0] != "true" {
		if !pace(ctx, 50*time.Millisecond) {
			t.Fatalf("after a minute the server still does not answer true to: %s", sql)
		}
	}
}

// Hazard 4.3 in docs/hazards.md: a standby refuses the functions that tell WAL positions and transaction ids.
func TestStandbyGivesASnapshotWithoutMarks(t *testing.T) {
	primary := testenv.StartPostgres(t, 17)
	database := primary.CreateDatabase(t, "TEMPLATE template0")
	primary.Exec(t, database, `create table t (id int primary key, note text);
		insert into t select i, md5(i::text) from generate_series(1, 20000) i;
		create sequence s; select nextval('s');
		select lo_from_bytea(0, 'a large object');
		create materialized view m as select count(*) from t`)
	standby := startStandby(t, primary)
	primary.Exec(t, database, "update t set note = 'after the standby began' where id % 100 = 0")
	position := query(t, primary, database, "select pg_current_wal_flush_lsn()::text")[0]
	await(t, standby, database, "select (pg_last_wal_replay_lsn() >= '"+position+"')::text")
	if got := query(t, standby, database, "select pg_is_in_recovery()::text")[0]; got != "true" {
		t.Fatalf("in recovery: %s", got)
	}

	vault, server := newVault(t, directory(t)), newServer(t, standby, "postgres")
	snapshot := vault.backup(t, server, database)
	checkWarnings(t, "backup of a standby", snapshot.manifest.Warnings)
	reading := snapshot.manifest.Reading
	if !strings.Contains(reading.NotBase, "standby") {
		t.Errorf("the snapshot says of itself as a base: %q", reading.NotBase)
	}
	if reading.Marks != nil || reading.Proof != nil || reading.End != nil {
		t.Errorf("the snapshot has positions of a server that inserts nothing: %+v", reading)
	}
	// The next one takes unchanged blocks over all the same, by their fingerprints.
	second := vault.backup(t, server, database)
	if got := second.manifest.Statistics.NewBlocks; got != 0 {
		t.Errorf("an unchanged database stored %d blocks", got)
	}

	// And what was read is what the primary holds: both have one identity, so it is one workspace.
	into := database + "_restored"
	vault.restore(t, second, newServer(t, primary, "postgres"), into)
	t.Cleanup(func() { primary.Exec(t, "postgres", "DROP DATABASE IF EXISTS "+into+" WITH (FORCE)") })
	checkSame(t, primary, database, into)
	const all = "select * from public.t order by id"
	if want, got := contentDigest(t, primary, database, all), contentDigest(t, primary, into, all); got != want {
		t.Errorf("restored rows: %s, want %s", got, want)
	}
	third := vault.backup(t, newServer(t, primary, "postgres"), database)
	if third.identity != second.identity || third.manifest.Sequence != 3 {
		t.Errorf("the primary's snapshot is number %d of %+v, the standby's was 2 of %+v", third.manifest.Sequence, third.identity, second.identity)
	}
}
