package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/testenv"
	"github.com/hourvault/hourvault/restore"
)

// plainDatabase makes a database with rows, indexes, and an event trigger that lets nothing be dropped.
func plainDatabase(t *testing.T, cluster *testenv.Cluster) string {
	t.Helper()
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, strings.ReplaceAll(`
		CREATE ROLE "@_owner"; ALTER DATABASE "@" OWNER TO "@_owner";
		CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t SELECT i, repeat('x', i % 100) FROM generate_series(1, 5000) i;
		CREATE TABLE small (a int); INSERT INTO small VALUES (1), (2); CREATE INDEX ON small (a);
		CREATE FUNCTION on_drop() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''dropped''; END';
		CREATE EVENT TRIGGER on_drop ON sql_drop EXECUTE FUNCTION on_drop()`, "@", database))
	return database
}

// settings returns what is set for databases, whatever their names.
func settings(t *testing.T, cluster *testenv.Cluster) []string {
	t.Helper()
	return query[string](t, cluster, "postgres", "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setdatabase <> 0")
}

func databases(t *testing.T, cluster *testenv.Cluster) []string {
	t.Helper()
	return query[string](t, cluster, "postgres", "SELECT datname::text FROM pg_database")
}

func TestRestoreFromWhichTheServerIsTaken(t *testing.T) {
	cluster := testenv.StartPostgres(t, 17) // the tests share it, since starting it takes longest
	original := plainDatabase(t, cluster)
	source := hold(t, newServer(t, cluster, "postgres"), original)
	t.Run("it crashes between two steps", func(t *testing.T) { crashesBetweenTwoSteps(t, cluster, original, source) })
	t.Run("sessions are lost", func(t *testing.T) { lostSessions(t, cluster, original, source) })
	t.Run("it is killed while rows are loaded", func(t *testing.T) { killedWhileRowsAreLoaded(t, cluster, original, source) })
}

// What is committed without waiting for the disk can be lost in a crash. A restore that holds no session at that moment
// would not notice, and give its name to a database that lacks rows.
func crashesBetweenTwoSteps(t *testing.T, cluster *testenv.Cluster, original string, source *heldSource) {
	for _, phase := range []restore.Phase{restore.PhaseSequences, restore.PhaseProperties, restore.PhaseFinish} {
		t.Run(string(phase), func(t *testing.T) {
			into := intoName(t, cluster, original)
			_, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: into, Progress: func(p restore.Progress) {
				if p.Phase == phase {
					cluster.Kill(t)
					cluster.Start(t)
				}
			}})
			if phase == restore.PhaseFinish { // by then nothing can be lost
				if err != nil {
					t.Fatal(err)
				}
				assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
				return
			}
			t.Log(err)
			if !errors.Is(err, restore.ErrServerCrashed) {
				t.Errorf("error %v, want %v", err, restore.ErrServerCrashed)
			}
			assertNothingLeft(t, cluster)
			if slices.Contains(databases(t, cluster), into) {
				t.Error("a database has the wanted name")
			}
		})
	}
}

func lostSessions(t *testing.T, cluster *testenv.Cluster, original string, source *heldSource) {
	const cut = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname LIKE 'hourvault %'"
	cutOnce := func(t *testing.T, condition string) error {
		conn := cluster.Connect(t, "postgres")
		for n := 0; n == 0; {
			if err := conn.QueryRow(t.Context(), cut+condition).Scan(&n); err != nil {
				return err
			}
		}
		return nil
	}
	for _, test := range []struct {
		phase   restore.Phase
		says    string
		lock    string // held in the unfinished database, so that the step stands still until its session is cut
		waiting string
	}{
		{restore.PhaseRows, `load table "public"."t"`, "", ""},
		{restore.PhaseIndexes, "CREATE INDEX small_a_idx", "LOCK TABLE small IN ACCESS EXCLUSIVE MODE", " AND application_name LIKE 'hourvault pg_restore' AND wait_event_type = 'Lock'"},
		{restore.PhaseStatistics, `analyze table "public"."small"`, "LOCK TABLE small IN ACCESS EXCLUSIVE MODE", " AND application_name = 'hourvault' AND wait_event_type = 'Lock'"},
	} {
		t.Run(string(test.phase), func(t *testing.T) {
			into := intoName(t, cluster, original)
			cutting := *source
			var watching sync.WaitGroup
			if test.lock == "" {
				cutting.onRows = func(_ context.Context, table catalog.StoredTable, _ io.Writer) error {
					if table.Name != "t" {
						return nil
					}
					return cutOnce(t, "")
				}
			}
			_, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), &cutting, restore.Options{Into: into, Progress: func(p restore.Progress) {
				if p.Phase != test.phase || test.lock == "" {
					return
				}
				unfinished := query[string](t, cluster, "postgres", "SELECT datname::text FROM pg_database WHERE datname LIKE 'hourvault %'")[0]
				locker := connect(t, cluster, unfinished)
				if _, err := locker.Exec(t.Context(), "BEGIN; "+test.lock); err != nil {
					t.Error(err)
				}
				watching.Go(func() {
					if err := cutOnce(t, test.waiting); err != nil {
						t.Error(err)
					}
				})
			}})
			watching.Wait()
			failed, ok := errors.AsType[*restore.Error](err)
			if !ok || failed.Phase != test.phase || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want one of step %q with %q", err, test.phase, test.says)
			}
			t.Log(err)
			if failed != nil && (failed.Kept != "" || len(failed.Remove) > 0) {
				t.Errorf("says that something is left: %+v", failed)
			}
			assertNothingLeft(t, cluster)
			if slices.Contains(databases(t, cluster), into) {
				t.Error("a database has the wanted name")
			}
			if left := settings(t, cluster); len(left) > 0 {
				t.Errorf("settings left: %q", left)
			}
		})
	}
}

func killedWhileRowsAreLoaded(t *testing.T, cluster *testenv.Cluster, original string, held *heldSource) {
	for _, comesBack := range []bool{true, false} {
		t.Run(fmt.Sprintf("comes back %t", comesBack), func(t *testing.T) {
			source := *held
			source.database.Roles = append(slices.Clone(held.database.Roles), catalog.Role{Name: "made for the restore", Inherit: true})
			into := intoName(t, cluster, original)
			source.onRows = func(_ context.Context, table catalog.StoredTable, _ io.Writer) error {
				if table.Name == "t" {
					cluster.Kill(t)
					if comesBack {
						cluster.Start(t)
					}
				}
				return nil
			}
			_, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), &source, restore.Options{Into: into, CreateRoles: true, Jobs: 1})
			failed, ok := errors.AsType[*restore.Error](err)
			if !ok || failed.Phase != restore.PhaseRows || !strings.Contains(err.Error(), "load table") {
				t.Fatalf("error %v does not say what was done", err)
			}
			t.Log(err)
			if !comesBack {
				cluster.Start(t)
				names := databases(t, cluster)
				if slices.Contains(names, into) || !slices.Contains(names, failed.Kept) {
					t.Errorf("databases %q, and the error names %q", names, failed.Kept)
				}
				for _, statement := range failed.Remove {
					if !strings.Contains(err.Error(), statement) {
						t.Errorf("%q is not in: %v", statement, err)
					}
					cluster.Exec(t, "postgres", statement)
				}
			}
			assertNothingLeft(t, cluster)
			if roles := query[string](t, cluster, "postgres", "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'made%'"); len(roles) > 0 {
				t.Errorf("roles left behind: %q", roles)
			}
			if left := databases(t, cluster); slices.Contains(left, into) {
				t.Error("a database has the wanted name")
			}
		})
	}
}

// The last statement of a restore decides: whether it was done must be found out, not guessed, when its answer is lost.
func TestConnectionThatIsLostOverTheLastStep(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	original := plainDatabase(t, cluster)
	source := hold(t, newServer(t, cluster, "postgres"), original)
	source.database.Settings = []catalog.Setting{{Name: "maintenance_work_mem", Value: "7MB"}}
	for name, tap := range map[string]testenv.Tap{
		"the statement does not arrive": {Times: 1, ToServer: testenv.Stream{CutAfter: 1, Contains: []byte("RENAME TO")}},
		"the answer is lost":            {Times: 1, ToClient: testenv.Stream{CutAfter: 1, Contains: []byte("ALTER DATABASE")}},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := testenv.NewTCPProxy(t, fmt.Sprintf("127.0.0.1:%d", cluster.Port()))
			server, err := postgres.NewServer(postgres.ServerConfig{
				Name: "proxied", DSN: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", proxy.Port()), Connections: 2,
				BinDirs: []string{cluster.BinDir()},
			})
			if err != nil {
				t.Fatal(err)
			}
			into := intoName(t, cluster, original)
			result, err := restore.Run(t.Context(), server, source, restore.Options{Into: into, Progress: func(p restore.Progress) {
				if p.Phase == restore.PhaseFinish {
					proxy.Set(tap)
				}
			}})
			if err != nil || result.Database != into {
				t.Fatalf("result %+v, error %v", result, err)
			}
			assertNothingLeft(t, cluster)
			set := query[string](t, cluster, "postgres", "SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = '"+into+"'")
			if !slices.Equal(set, []string{"maintenance_work_mem=7MB"}) {
				t.Errorf("settings of the restored database: %q", set)
			}
			if rows := query[int64](t, cluster, into, "SELECT count(*) FROM t"); rows[0] != 5000 {
				t.Errorf("%d rows of 5000", rows[0])
			}
		})
	}
}

// An operator whose standby is gone has set commits to wait for the primary alone; a restore must not wait for more.
func TestRestoreDoesNotWaitForAStandbyThatTheServerDoesNotWaitFor(t *testing.T) {
	cluster := testenv.StartPostgres(t, 17)
	original := plainDatabase(t, cluster)
	source := hold(t, newServer(t, cluster, "postgres"), original)
	cluster.Exec(t, "postgres", "ALTER SYSTEM SET synchronous_commit = local")
	cluster.Exec(t, "postgres", "ALTER SYSTEM SET synchronous_standby_names = 'gone'")
	cluster.Exec(t, "postgres", "SELECT pg_reload_conf()")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	into := intoName(t, cluster, original)
	if _, err := restore.Run(ctx, newServer(t, cluster, "postgres"), source, restore.Options{Into: into}); err != nil {
		t.Fatal(err)
	}
}

// Whoever stops a restore during its last statement must not be told that nothing is left while the server goes on.
func TestRestoreThatIsStoppedInItsLastStepFinishes(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	original := plainDatabase(t, cluster)
	source := hold(t, newServer(t, cluster, "postgres"), original)
	into := intoName(t, cluster, original)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stopping sync.WaitGroup
	_, err := restore.Run(ctx, newServer(t, cluster, "postgres"), source, restore.Options{Into: into, Progress: func(p restore.Progress) {
		if p.Phase != restore.PhaseFinish {
			return
		}
		unfinished := query[string](t, cluster, "postgres", "SELECT datname::text FROM pg_database WHERE datname LIKE 'hourvault %'")[0]
		locker, watcher := connect(t, cluster, "postgres"), connect(t, cluster, "postgres")
		if _, err := locker.Exec(t.Context(), `BEGIN; ALTER DATABASE "`+unfinished+`" CONNECTION LIMIT 0`); err != nil {
			t.Error(err)
		}
		stopping.Go(func() {
			for waits := false; !waits; {
				err := watcher.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%RENAME TO%' AND wait_event_type = 'Lock')").Scan(&waits)
				if err != nil {
					t.Error(err)
					return
				}
			}
			cancel()
			if _, err := locker.Exec(t.Context(), "ROLLBACK"); err != nil {
				t.Error(err)
			}
		})
	}})
	stopping.Wait()
	if err != nil {
		t.Errorf("error %v although the last step was begun", err)
	}
	assertNothingLeft(t, cluster)
	if rows := query[int64](t, cluster, into, "SELECT count(*) FROM t"); rows[0] != 5000 {
		t.Errorf("%d rows of 5000", rows[0])
	}
}

func TestFinishedDatabaseWhoseNameWasTakenIsKept(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	original := plainDatabase(t, cluster)
	source := hold(t, newServer(t, cluster, "postgres"), original)
	into := intoName(t, cluster, original)
	_, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: into, Progress: func(p restore.Progress) {
		if p.Phase == restore.PhaseFinish {
			cluster.Exec(t, "postgres", `CREATE DATABASE "`+into+`"`)
		}
	}})
	t.Log(err)
	failed, ok := errors.AsType[*restore.Error](err)
	if !ok || !errors.Is(err, restore.ErrDatabaseExists) || failed.Kept == "" || len(failed.Finish) == 0 {
		t.Fatalf("error %v does not say how to finish", err)
	}
	cluster.Exec(t, "postgres", `DROP DATABASE "`+into+`"`)
	cluster.Exec(t, "postgres", strings.Join(failed.Finish, " "))
	assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
	assertNothingLeft(t, cluster)
}

func TestErrorSaysOfWhatIsLeftOnlyWhatIsTrue(t *testing.T) {
	cause, refused := errors.New("cause"), errors.New("refused")
	for _, test := range []struct {
		err  restore.Error
		want string
	}{
		{restore.Error{}, `load rows: cause`},
		{restore.Error{Kept: "k"}, `load rows: cause (what was restored until then is kept as database "k")`},
		{restore.Error{Kept: "k", DropErr: refused}, `load rows: cause (and the unfinished database "k" could not be dropped: refused)`},
		{restore.Error{RolesErr: refused}, `load rows: cause (and roles of the restore could not be dropped: refused)`},
		{restore.Error{Kept: "k", RolesErr: refused},
			`load rows: cause (what was restored until then is kept as database "k") (and roles of the restore could not be dropped: refused)`},
		{restore.Error{Kept: "k", RemoveInside: []string{"A;"}, Remove: []string{"B;", "C;"}}, `load rows: cause (what was restored until then is kept as database "k")` +
			`; to remove what is left, run first in psql, connected to database "k" as the restoring role (others may not connect): A; and then, run in psql, connected to another database: B; C;`},
	} {
		test.err.Phase, test.err.Err = restore.PhaseRows, cause
		if got := test.err.Error(); got != test.want {
			t.Errorf("%+v:\n got %s\nwant %s", test.err, got, test.want)
		}
	}
}
