package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/testenv"
)

// await waits until a query on conn returns true.
func await(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		var done bool
		if err := conn.QueryRow(ctx, sql, args...).Scan(&done); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if done {
			return
		}
		if _, err := conn.Exec(ctx, "select pg_sleep(0.005)"); err != nil {
			t.Fatal(err)
		}
	}
}

// waitsForLock is true when some session of the database waits for a lock.
const waitsForLock = "select exists (select from pg_locks l join pg_stat_activity a using (pid) where not l.granted and a.datname = $1)"

func numbers(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func TestSnapshotThatWaitedForRewritingDDLHoldsTheRightRows(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		for name, test := range map[string]struct{ ddl, want string }{
			"truncate":    {"TRUNCATE t", ""},
			"alter type":  {"ALTER TABLE t ALTER id TYPE bigint", numbers(1, 500)},
			"vacuum full": {"VACUUM FULL t", numbers(1, 500)},
			"cluster":     {"CLUSTER t USING t_id", numbers(1, 500)},
		} {
			t.Run(name, func(t *testing.T) {
				database := cluster.CreateDatabase(t, "")
				cluster.Exec(t, database, "CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(-999, 500); CREATE INDEX t_id ON t (id)")
				cluster.Exec(t, database, "DELETE FROM t WHERE id < 1")
				holder, other, watcher := cluster.Connect(t, database), cluster.Connect(t, database), cluster.Connect(t, "postgres")
				// VACUUM cannot run in a transaction: a reader's lock holds it back, while it waits in front of the snapshot.
				begin := "BEGIN; " + test.ddl
				ddl := make(chan error, 1)
				if strings.HasPrefix(test.ddl, "VACUUM") {
					begin = "BEGIN; SELECT FROM t LIMIT 1"
				}
				if err := execute(t.Context(), holder, begin); err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(test.ddl, "VACUUM") {
					go func() { ddl <- execute(context.Background(), other, test.ddl) }()
					await(t, watcher, waitsForLock, database)
				} else {
					ddl <- nil
				}
				server := testServer(t, cluster, "", func(c *ServerConfig) { c.LockTimeout = 30 * time.Second })
				attempts := 0
				opened := make(chan *Snapshot)
				go func() {
					snapshot, err := server.OpenSnapshot(context.Background(), database, SnapshotOptions{listed: func(int) { attempts++ }})
					if err != nil {
						t.Error(err)
					}
					opened <- snapshot
				}()
				await(t, watcher, "select exists (select from pg_locks l join pg_stat_activity a using (pid) where not l.granted and a.datname = $1 and a.application_name like 'hourvault %')", database)
				if err := execute(t.Context(), holder, "COMMIT"); err != nil {
					t.Fatal(err)
				}
				if err := <-ddl; err != nil {
					t.Fatal(err)
				}
				snapshot := <-opened
				if snapshot == nil {
					return
				}
				defer snapshot.Close(context.Background())
				if attempts != 1 {
					t.Errorf("%d attempts: the snapshot was fixed before the tables were locked", attempts)
				}
				if got := readTable(t, snapshot, "public", "t"); got != test.want {
					t.Errorf("got %d rows (%.40q), want %d", strings.Count(got, "\n"), got, strings.Count(test.want, "\n"))
				}
				table := tableNamed(t, snapshot, "public", "t")
				var file catalog.OID
				if err := watcherIn(t, cluster, database).QueryRow(t.Context(), "select pg_relation_filenode('t')").Scan(&file); err != nil || table.RelFileNode != file {
					t.Errorf("relfilenode: got %d, want %d (%v)", table.RelFileNode, file, err)
				}
			})
		}
	})
}

func watcherIn(t *testing.T, cluster *testenv.Cluster, database string) *pgx.Conn {
	t.Helper()
	return cluster.Connect(t, database)
}

func TestTableEmptiedBetweenLockAndSnapshotCannotBe(t *testing.T) {
	// The other half of the rule: a snapshot fixed before the lock would see pg_class of before and a file of after.
	cluster := testenv.Postgres(t, 17)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
	server := testServer(t, cluster, "", nil)
	conn, err := server.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(t.Context(), conn)
	if err := execute(t.Context(), conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1"); err != nil {
		t.Fatal(err)
	}
	cluster.Exec(t, database, "TRUNCATE t")
	list, err := listRelations(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	before := append([]relation(nil), list...)
	for i := range before {
		before[i].rewritten = false
	}
	if change := difference(before, list); change != `"public"."t" was emptied or rewritten` {
		t.Errorf("got %q", change)
	}
}

func TestDifferenceBetweenListingsIsNamed(t *testing.T) {
	a, b := relation{oid: 1, schema: "s", name: "a", kind: 'r'}, relation{oid: 2, schema: "s", name: "b", kind: 'r'}
	view := b
	view.kind = 'v'
	renamed := b
	renamed.name = "c"
	rewritten := b
	rewritten.rewritten = true
	for _, test := range []struct {
		locked, now []relation
		want        string
	}{
		{[]relation{a, b}, []relation{a, b}, ""},
		{[]relation{a, b}, []relation{a}, `"s"."b" was dropped, or is no table any more`},
		{[]relation{a, b}, []relation{b}, `"s"."a" was dropped, or is no table any more`},
		{[]relation{a}, []relation{a, b}, `"s"."b" was created`},
		{[]relation{b}, []relation{a, b}, `"s"."a" was created`},
		{[]relation{a, b}, []relation{a, view}, `"s"."b" was changed`},
		{[]relation{a, b}, []relation{a, renamed}, `"s"."b" was changed`},
		{[]relation{a, b}, []relation{a, rewritten}, `"s"."b" was emptied or rewritten`},
		{[]relation{a, rewritten}, []relation{a, b}, ""},
	} {
		if got := difference(test.locked, test.now); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestSnapshotBeginsAgainWhileTablesChangeAndGivesUpInTheEnd(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
	server := testServer(t, cluster, "", nil)
	changes := []string{"CREATE TABLE u (id int)", "ALTER TABLE u RENAME TO v", "DROP TABLE v", "ALTER TABLE t SET SCHEMA pg_catalog", ""}
	changes[3] = "CREATE SCHEMA w; ALTER TABLE t SET SCHEMA w"
	attempts := 0
	snapshot := openSnapshot(t, server, database, SnapshotOptions{listed: func(attempt int) {
		attempts++
		if changes[attempt] != "" {
			cluster.Exec(t, database, changes[attempt])
		}
	}})
	if attempts != 5 {
		t.Errorf("got %d attempts, want 5", attempts)
	}
	if got := readTable(t, snapshot, "w", "t"); got != "1\n" {
		t.Errorf("got %q", got)
	}
	snapshot.Close(t.Context())
	_, err := server.OpenSnapshot(t.Context(), database, SnapshotOptions{Attempts: 2, listed: func(attempt int) {
		cluster.Exec(t, database, fmt.Sprintf("CREATE TABLE more%d (id int)", attempt))
	}})
	var unsettled *UnsettledError
	if !errors.As(err, &unsettled) || unsettled.Attempts != 2 || !strings.Contains(err.Error(), "more1") {
		t.Errorf("got %v, want an UnsettledError that names the table", err)
	}
	if len(server.tokens) != 4 {
		t.Errorf("%d of 4 places are free", len(server.tokens))
	}
}

func TestTableSwappedForAViewDoesNotRunItsOwnersCode(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		tenant, reader := "tenant_"+database, "reader_"+database
		cluster.Exec(t, database, `CREATE ROLE `+tenant+` LOGIN; CREATE ROLE `+reader+` LOGIN BYPASSRLS; GRANT pg_read_all_data TO `+reader+`;
CREATE SCHEMA s AUTHORIZATION `+tenant)
		t.Cleanup(func() {
			cluster.Exec(t, database, "DROP OWNED BY "+tenant+" CASCADE; DROP OWNED BY "+reader+"; DROP ROLE "+tenant+"; DROP ROLE "+reader)
		})
		asTenant := cluster.ConnectAs(t, tenant, database)
		if err := execute(t.Context(), asTenant, `CREATE TABLE s.tt (id int); INSERT INTO s.tt VALUES (1);
CREATE SEQUENCE s.ran;
GRANT ALL ON SEQUENCE s.ran TO PUBLIC;
CREATE FUNCTION s.trap() RETURNS int LANGUAGE plpgsql AS $$ begin raise exception 'ran as %', current_user using errcode = 'HV001'; end $$`); err != nil {
			t.Fatal(err)
		}
		server := testServer(t, cluster, reader, nil)
		first := openSnapshot(t, server, database, SnapshotOptions{})
		table := tableNamed(t, first, "s", "tt")
		first.Close(t.Context())
		swap := `ALTER TABLE s.tt RENAME TO old; CREATE VIEW s.tt AS SELECT '(0,1)'::tid AS ctid, s.trap() AS id`
		snapshot := openSnapshot(t, server, database, SnapshotOptions{listed: func(attempt int) {
			if attempt == 0 {
				if err := execute(context.Background(), asTenant, swap); err != nil {
					t.Error(err)
				}
			}
		}})
		for _, table := range allTables(t, snapshot) {
			if table.Name == "tt" {
				t.Error("the view is among the tables")
			}
		}
		if got := readTable(t, snapshot, "s", "old"); got != "1\n" {
			t.Errorf("got %q", got)
		}
		// Even a reader that is told that the view is a table does not run it.
		_, err := newReader(t, snapshot).ReadBlocks(t.Context(), table, 0, OpenEnd, &memorySink{})
		if hasState(err, "HV001") || !hasState(err, "55000") {
			t.Errorf("reading the view: got %v, want it refused", err)
		}
		var archive bytes.Buffer
		if _, err := snapshot.SchemaArchive(t.Context(), &archive); err != nil {
			t.Errorf("pg_dump: %v", err)
		}
	})
}

func TestSnapshotGivesWayToWaitingDDL(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TABLE u (id int)")
		watcher := cluster.Connect(t, "postgres")
		alter := func() chan error {
			conn := cluster.Connect(t, database)
			done := make(chan error, 1)
			go func() {
				done <- execute(context.Background(), conn, "SET application_name = 'migration'; ALTER TABLE t ADD c"+fmt.Sprint(time.Now().UnixNano())+" int")
			}()
			await(t, watcher, waitsForLock, database)
			return done
		}
		t.Run("after the time allowed, while a reader idles", func(t *testing.T) {
			server := testServer(t, cluster, "", func(c *ServerConfig) { c.YieldToDDL = 300 * time.Millisecond })
			snapshot := openSnapshot(t, server, database, SnapshotOptions{poll: 20 * time.Millisecond})
			reader := newReader(t, snapshot)
			if _, err := reader.ReadBlocks(t.Context(), tableNamed(t, snapshot, "public", "t"), 0, OpenEnd, &memorySink{}); err != nil {
				t.Fatal(err)
			}
			done := alter()
			// Nobody closes anything: the ALTER must come through by itself.
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			var gave *GaveWayError
			if cause := context.Cause(snapshot.Context()); !errors.As(cause, &gave) || gave.Table != `"public"."t"` || gave.PID == 0 || gave.Waited < 300*time.Millisecond || gave.Application != "migration" {
				t.Errorf("got %v, want a GaveWayError that names the session and the table", cause)
			}
			for _, call := range []func() error{
				func() error { _, err := snapshot.Query(t.Context(), "select 1"); return err },
				func() error { _, err := snapshot.NewReader(t.Context()); return err },
				func() error { _, err := snapshot.Reading(t.Context()); return err },
				func() error { _, err := snapshot.SchemaArchive(t.Context(), io.Discard); return err },
				func() error {
					_, err := reader.ReadBlocks(t.Context(), &catalog.Table{Schema: "public", Name: "t", AccessMethod: "heap"}, 0, 9, &memorySink{})
					return err
				},
			} {
				if err := call(); !errors.As(err, &gave) {
					t.Errorf("use after giving way: got %v", err)
				}
			}
			snapshot.Close(t.Context())
			if len(server.tokens) != 4 {
				t.Errorf("%d of 4 places are free", len(server.tokens))
			}
		})
		t.Run("at once when a reader is refused its lock", func(t *testing.T) {
			const never = 10 * time.Minute // the test's own time limit is shorter
			server := testServer(t, cluster, "", func(c *ServerConfig) { c.LockTimeout, c.YieldToDDL = never, never })
			snapshot := openSnapshot(t, server, database, SnapshotOptions{})
			table := tableNamed(t, snapshot, "public", "t")
			reader := newReader(t, snapshot)
			done := alter()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err := reader.ReadBlocks(ctx, table, 0, OpenEnd, &memorySink{})
			var gave *GaveWayError
			if !errors.As(err, &gave) || gave.Table != `"public"."t"` || gave.PID == 0 {
				t.Fatalf("got %v, want a GaveWayError", err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
		t.Run("when pg_dump is refused its lock", func(t *testing.T) {
			server := testServer(t, cluster, "", func(c *ServerConfig) { c.LockTimeout = 200 * time.Millisecond })
			snapshot := openSnapshot(t, server, database, SnapshotOptions{})
			done := alter()
			_, err := snapshot.SchemaArchive(t.Context(), io.Discard)
			var gave *GaveWayError
			if !errors.As(err, &gave) {
				t.Errorf("got %v, want a GaveWayError", err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
		t.Run("while a large table is being read", func(t *testing.T) {
			cluster.Exec(t, database, "INSERT INTO u SELECT generate_series(1, 200000)")
			server := testServer(t, cluster, "", func(c *ServerConfig) { c.YieldToDDL = 50 * time.Millisecond })
			snapshot := openSnapshot(t, server, database, SnapshotOptions{poll: 20 * time.Millisecond})
			table := tableNamed(t, snapshot, "public", "u")
			var done chan error
			_, err := newReader(t, snapshot).ReadBlocks(t.Context(), table, 0, OpenEnd, blockFunc(func() {
				if done == nil {
					done = alter()
					<-snapshot.Context().Done()
				}
			}))
			var gave *GaveWayError
			if !errors.As(err, &gave) {
				t.Errorf("got %v, want a GaveWayError", err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	})
}

type blockFunc func()

func (f blockFunc) Block(uint32) error          { f(); return nil }
func (f blockFunc) Write(p []byte) (int, error) { return len(p), nil }

func TestLockTimeoutNamesTheBlocker(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, `CREATE TABLE a (id int); CREATE TABLE "odd ""name" (id int); CREATE TABLE z (id int)`)
		server := testServer(t, cluster, "", func(c *ServerConfig) { c.LockTimeout = 100 * time.Millisecond })
		holder := cluster.Connect(t, database)
		if err := execute(t.Context(), holder, `SET application_name = 'migration'; BEGIN; LOCK TABLE "odd ""name"`); err != nil {
			t.Fatal(err)
		}
		_, err := server.OpenSnapshot(t.Context(), database, SnapshotOptions{})
		var locked *LockTimeoutError
		if !errors.As(err, &locked) || locked.Table != `"public"."odd ""name"` || locked.PID != int(holder.PgConn().PID()) || locked.Application != "migration" ||
			locked.User != "postgres" || locked.State != "idle in transaction" || locked.QuerySince.IsZero() || !hasState(err, stateLockNotAvailable) {
			t.Errorf("got %+v (%v)", locked, err)
		}
		if err != nil && (strings.Contains(err.Error(), "LOCK TABLE") || !strings.Contains(err.Error(), "pg_terminate_backend")) {
			t.Errorf("the text: %v", err)
		}
		if err := execute(t.Context(), holder, "PREPARE TRANSACTION 'forgotten "+database+"'"); err != nil {
			t.Fatal(err)
		}
		_, err = server.OpenSnapshot(t.Context(), database, SnapshotOptions{})
		if !errors.As(err, &locked) || locked.Prepared != "forgotten "+database {
			t.Errorf("behind a prepared transaction: got %v", err)
		}
		if err := execute(t.Context(), holder, "ROLLBACK PREPARED 'forgotten "+database+"'"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMissingPrivilegesAreListedWithTheGrantThatMendsThem(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		role := "poor_" + database
		cluster.Exec(t, database, `CREATE ROLE `+role+` LOGIN; CREATE SCHEMA hidden; CREATE TABLE hidden.a (id int); CREATE TABLE b (id int);
CREATE TABLE policed (id int); ALTER TABLE policed ENABLE ROW LEVEL SECURITY; INSERT INTO policed VALUES (1)`)
		t.Cleanup(func() { cluster.Exec(t, database, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
		server := testServer(t, cluster, role, nil)
		_, err := server.OpenSnapshot(t.Context(), database, SnapshotOptions{})
		var missing *PrivilegeError
		if !errors.As(err, &missing) || missing.Role != role {
			t.Fatalf("got %v", err)
		}
		if fmt.Sprint(missing.Schemas) != `["hidden"]` || len(missing.Tables) != 4 || fmt.Sprint(missing.RowSecurity) != `["public"."policed"]` {
			t.Errorf("got %q %q %q", missing.Schemas, missing.Tables, missing.RowSecurity)
		}
		for _, statement := range missing.Statements {
			cluster.Exec(t, database, statement)
		}
		snapshot, err := server.OpenSnapshot(t.Context(), database, SnapshotOptions{})
		if err != nil {
			t.Fatalf("after the statements that the error named: %v", err)
		}
		defer snapshot.Close(context.Background())
		if got := readTable(t, snapshot, "public", "policed"); got != "1\n" {
			t.Errorf("got %q", got)
		}
		reading, err := snapshot.Reading(t.Context())
		if err != nil || reading.Proof != nil || !strings.Contains(reading.NotBase, "not configured") {
			t.Errorf("got %+v, %v", reading, err)
		}
	})
}

func TestSpaceForLocksIsCheckedBeforeItIsUsed(t *testing.T) {
	for _, test := range []struct {
		tables, perTransaction, sessions, used int
		fits                                   bool
	}{{1000, 64, 110, 50, true}, {3100, 64, 110, 0, true}, {3200, 64, 110, 0, false}, {1000, 64, 110, 5000, false}} {
		err := lockSpace("d", test.tables, test.perTransaction, test.sessions, test.used)
		if (err == nil) != test.fits {
			t.Errorf("%+v: got %v", test, err)
		}
		var space *LockSpaceError
		if errors.As(err, &space) {
			if lockSpace("d", test.tables, space.Suggested, test.sessions, test.used) != nil {
				t.Errorf("%+v: the suggested %d does not suffice", test, space.Suggested)
			}
			if !strings.Contains(err.Error(), "max_locks_per_transaction from 64 to") {
				t.Errorf("the text: %v", err)
			}
		}
	}
	cluster := testenv.StartPostgres(t, 15, testenv.WithSetting("max_locks_per_transaction", "10"), testenv.WithSetting("max_connections", "20"))
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, "DO $$ BEGIN FOR i IN 1..140 LOOP EXECUTE 'CREATE TABLE t' || i || '(id int)'; IF i % 50 = 0 THEN COMMIT; END IF; END LOOP; END $$")
	var space *LockSpaceError
	if _, err := testServer(t, cluster, "", nil).OpenSnapshot(t.Context(), database, SnapshotOptions{}); !errors.As(err, &space) || space.Tables != 141 || space.PerTransaction != 10 {
		t.Errorf("got %v", err)
	}
}

func TestLostLeaderEndsTheSnapshot(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 1000)")
		server := testServer(t, cluster, "", nil)
		for name, use := range map[string]func(*Snapshot, *Reader) error{
			"idle":    func(s *Snapshot, _ *Reader) error { <-s.Context().Done(); return context.Cause(s.Context()) },
			"query":   func(s *Snapshot, _ *Reader) error { return queryFails(t, s) },
			"reading": func(s *Snapshot, _ *Reader) error { _, err := s.Reading(t.Context()); return err },
			"recheck": func(s *Snapshot, _ *Reader) error { return s.Recheck(t.Context()) },
			"archive": func(s *Snapshot, _ *Reader) error { _, err := s.SchemaArchive(t.Context(), io.Discard); return err },
		} {
			poll := time.Hour
			if name == "idle" {
				poll = 10 * time.Millisecond
			}
			snapshot := openSnapshot(t, server, database, SnapshotOptions{poll: poll})
			reader := newReader(t, snapshot)
			cluster.Exec(t, "postgres", fmt.Sprintf("select pg_terminate_backend(%d)", snapshot.leader.PgConn().PID()))
			await(t, cluster.Connect(t, "postgres"), "select not exists (select from pg_stat_activity where pid = $1)", snapshot.leader.PgConn().PID())
			err := use(snapshot, reader)
			var lost *LeaderLostError
			if name == "archive" {
				var tool *ToolError
				if !errors.As(err, &lost) && !errors.As(err, &tool) {
					t.Errorf("%s: got %v", name, err)
				}
			} else if !errors.As(err, &lost) || !strings.Contains(err.Error(), database) {
				t.Errorf("%s: got %v, want a LeaderLostError", name, err)
			}
			snapshot.Close(t.Context())
			reader.Close(t.Context())
			if len(server.tokens) != 4 {
				t.Errorf("%s: %d of 4 places are free", name, len(server.tokens))
			}
		}
	})
}

func queryFails(t *testing.T, snapshot *Snapshot) error {
	rows, err := snapshot.Query(t.Context(), "select 1")
	if err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

func TestClosingToleratesAnyOrderAndCancelledContexts(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, "CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 100000)")
	server := testServer(t, cluster, "", nil)
	ctx, cancel := context.WithCancel(t.Context())
	snapshot, err := server.OpenSnapshot(ctx, database, SnapshotOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first, second := newReader(t, snapshot), newReader(t, snapshot)
	table := tableNamed(t, snapshot, "public", "t")
	broken := errors.New("sink broken")
	if _, err := first.ReadBlocks(t.Context(), table, 0, OpenEnd, failingSink{broken}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	rows, err := snapshot.Query(t.Context(), "select generate_series(1, 10)")
	if err != nil {
		t.Fatal(err)
	}
	if !rows.Next() {
		t.Fatal("no row")
	}
	cancel() // with rows open
	if err := snapshot.Close(ctx); err != nil {
		t.Error(err)
	}
	rows.Close()
	for range 2 {
		second.Close(ctx)
		first.Close(ctx)
		snapshot.Close(ctx)
	}
	if !errors.Is(context.Cause(snapshot.Context()), context.Canceled) {
		t.Errorf("cause: %v", context.Cause(snapshot.Context()))
	}
	if len(server.tokens) != 4 {
		t.Errorf("%d of 4 places are free", len(server.tokens))
	}
}

func TestSchemaArchiveIsThatOfTheSnapshotAndWarningsAreKept(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE TABLE t (id int); CREATE TABLE circle (id int PRIMARY KEY, other int REFERENCES circle)")
		snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
		cluster.Exec(t, database, "CREATE TABLE later (id int)")
		var archive bytes.Buffer
		warnings, err := snapshot.SchemaArchive(t.Context(), &archive)
		if err != nil || len(warnings) != 0 {
			t.Fatalf("warnings %v, error %v", warnings, err)
		}
		file := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := exec.Command(filepath.Join(cluster.BinDir(), "pg_restore"), "--list", file).CombinedOutput()
		if err != nil || !strings.Contains(string(list), "TABLE public circle") || strings.Contains(string(list), "later") {
			t.Errorf("pg_restore --list: %v\n%s", err, list)
		}
	})
	t.Run("lines on standard error and exit status", func(t *testing.T) {
		cluster := testenv.Postgres(t, 15)
		database := cluster.CreateDatabase(t, "")
		dir := t.TempDir()
		script := "#!/bin/sh\ncase \"$1\" in --version) echo 'pg_dump (PostgreSQL) 15.99';; *) echo one >&2; echo two >&2; cat /dev/null; exit ${HV_EXIT:-0};; esac\n"
		for _, tool := range []string{"pg_dump", "pg_restore"} {
			if err := os.WriteFile(filepath.Join(dir, tool), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		server := testServer(t, cluster, "", func(c *ServerConfig) { c.BinDirs = []string{dir} })
		snapshot := openSnapshot(t, server, database, SnapshotOptions{})
		warnings, err := snapshot.SchemaArchive(t.Context(), io.Discard)
		if err != nil || len(warnings) != 2 || warnings[1].Code != "pg_dump" || warnings[1].Message != "two" {
			t.Errorf("got %v, %v", warnings, err)
		}
		t.Setenv("HV_EXIT", "3")
		_, err = snapshot.SchemaArchive(t.Context(), io.Discard)
		var tool *ToolError
		if !errors.As(err, &tool) || !strings.Contains(err.Error(), "exit status 3: one | two") {
			t.Errorf("got %v", err)
		}
	})
}

func TestReadingRecordsMarksAndItsProof(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE TABLE t (id int)")
		server := testServer(t, cluster, "", func(c *ServerConfig) { c.RequestCheckpoint = true })
		var previous catalog.Mark
		for range 2 {
			cluster.Exec(t, database, "INSERT INTO t VALUES (1)")
			before := time.Now()
			snapshot := openSnapshot(t, server, database, SnapshotOptions{})
			cluster.Exec(t, database, "INSERT INTO t VALUES (2)")
			reading, err := snapshot.Reading(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if reading.SettingsVersion != 1 || reading.End == nil || reading.Timeline != 1 || len(reading.Marks) == 0 || reading.Proof == nil || reading.NotBase != "" ||
				reading.XMin == 0 || reading.XMax < reading.XMin {
				t.Fatalf("got %+v", reading)
			}
			if reading.Proof.Redo < *reading.End || reading.Marks[0].Redo > *reading.End || reading.Proof.NextXID < reading.XMax || reading.Marks[0].Timeline != 1 {
				t.Errorf("proof %v, end %v, marks %v, xmax %d", reading.Proof, reading.End, reading.Marks, reading.XMax)
			}
			if previous.Redo != 0 && (reading.Marks[0] != previous || len(reading.Marks) < 2) {
				t.Errorf("marks %v: want the proof of the snapshot before, %v, first", reading.Marks, previous)
			}
			previous = *reading.Proof
			if snapshot.Time().Location() != time.UTC || snapshot.Time().Before(before.Add(-time.Second)) || snapshot.Time().After(time.Now().Add(time.Second)) {
				t.Errorf("time %v", snapshot.Time())
			}
			snapshot.Close(t.Context())
		}
	})
	if xid, err := parseEpochXID("3:7"); err != nil || xid != 3<<32|7 {
		t.Errorf("got %d, %v", xid, err)
	}
	var history markHistory
	start := time.Unix(1, 0)
	history.add("a", start, catalog.Mark{Redo: 1})
	if marks := history.add("a", start, catalog.Mark{Redo: 2}); len(marks) != 2 || marks[0].Redo != 2 {
		t.Errorf("got %v", marks)
	}
	for _, marks := range [][]catalog.Mark{history.add("a", start, catalog.Mark{Redo: 1}), history.add("a", start.Add(1), catalog.Mark{Redo: 5}), history.add("b", start.Add(1), catalog.Mark{Redo: 6})} {
		if len(marks) != 1 {
			t.Errorf("marks of another history are kept: %v", marks)
		}
	}
}

func TestRecheckSeesWhatLocksDoNotProtect(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	for change, want := range map[string]string{
		"ALTER SCHEMA s RENAME TO r":                                                               `"s"."t"`,
		"ALTER TYPE s.mood RENAME VALUE 'sad' TO 'glad'":                                           "s.mood",
		"ALTER TYPE s.pair DROP ATTRIBUTE b":                                                       "s.pair",
		"ALTER TYPE s.mood ADD VALUE 'new' BEFORE 'sad'":                                           "",
		"CREATE TABLE s.later (id int); CREATE TYPE s.n AS ENUM ('a'); CREATE TYPE s.o AS (a int)": "",
	} {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE SCHEMA s; CREATE TYPE s.mood AS ENUM ('sad', 'ok'); CREATE TYPE s.pair AS (a int, b int); CREATE TABLE s.t (m s.mood, p s.pair)")
		snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
		cluster.Exec(t, database, change)
		_, err := snapshot.Reading(t.Context())
		var unsettled *UnsettledError
		if want == "" && err != nil || want != "" && (!errors.As(err, &unsettled) || !strings.Contains(err.Error(), want)) {
			t.Errorf("after %s: got %v, want %q", change, err, want)
		}
		snapshot.Close(t.Context())
	}
}
