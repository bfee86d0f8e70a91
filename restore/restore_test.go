package restore_test

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/testenv"
	"github.com/hourvault/hourvault/restore"
)

//go:embed testdata/awkward.sql
var awkward string

// awkwardDatabase makes the database of testdata/awkward.sql.
func awkwardDatabase(t *testing.T, cluster *testenv.Cluster, options string) string {
	t.Helper()
	database := cluster.CreateDatabase(t, options)
	cluster.Exec(t, database, strings.ReplaceAll(awkward, "@", database))
	return database
}

// intoName returns a name for a restored database, which is dropped with the test.
func intoName(t *testing.T, cluster *testenv.Cluster, database string) string {
	t.Helper()
	into := database + "_restored"
	t.Cleanup(func() { cluster.Exec(t, "postgres", `DROP DATABASE IF EXISTS "`+into+`" WITH (FORCE)`) })
	return into
}

// dump returns what pg_dump of tools says of a database, without what differs between any two dumps.
func dump(t *testing.T, cluster *testenv.Cluster, tools, database string, arguments ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "pg_dump"), append(arguments, "--create", "--dbname="+cluster.DSN(database))...) //nolint:gosec // a test's program
	cmd.Env = []string{"LC_ALL=C", "PGOPTIONS=-c role=none -c statement_timeout=0 -c bytea_output=hex"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("pg_dump of %s: %v: %s", database, err, stderr.String())
	}
	var kept []string
	for line := range strings.Lines(stdout.String()) {
		if strings.HasPrefix(line, `\restrict `) || strings.HasPrefix(line, `\unrestrict `) || strings.HasPrefix(line, "-- Dumped ") {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

// assertEqualDumps compares two databases by what pg_dump says of them.
func assertEqualDumps(t *testing.T, tools string, source *testenv.Cluster, original string, target *testenv.Cluster, restored string) {
	t.Helper()
	want := dump(t, source, tools, original)
	got := strings.ReplaceAll(dump(t, target, tools, restored), restored, original)
	got = strings.ReplaceAll(got, `"`+original+`"`, original)
	want = strings.ReplaceAll(want, `"`+original+`"`, original)
	if got == want {
		return
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"original": want, "restored": got} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	difference, _ := exec.CommandContext(t.Context(), "diff", "-U1", filepath.Join(dir, "original"), filepath.Join(dir, "restored")).Output() //nolint:gosec // a test's program
	t.Errorf("the restored database differs:\n%.6000s", difference)
}

// reference restores a database into another cluster under its own name, by that cluster's pg_dump and pg_restore.
func reference(t *testing.T, from *testenv.Cluster, database string, to *testenv.Cluster) {
	t.Helper()
	t.Cleanup(func() { to.Exec(t, "postgres", `DROP DATABASE IF EXISTS "`+database+`" WITH (FORCE)`) })
	archive := filepath.Join(t.TempDir(), "archive")
	for _, command := range [][]string{
		{"pg_dump", "--format=custom", "--file=" + archive, "--dbname=" + from.DSN(database)},
		{"pg_restore", "--create", "--exit-on-error", "--dbname=" + to.DSN("postgres"), archive},
	} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(to.BinDir(), command[0]), command[1:]...) //nolint:gosec // a test's program
		cmd.Env = []string{"LC_ALL=C", "PGOPTIONS=-c role=none -c default_transaction_read_only=off -c array_nulls=on -c xmloption=content -c datestyle=iso -c statement_timeout=0"}
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command[0], err, output)
		}
	}
	// The reference fires event triggers for its own REFRESH, and grants MAINTAIN to an owner who had revoked all that
	// there was before PostgreSQL 17.
	mend := "SET session_replication_role = replica; DELETE FROM app.ddl_log WHERE tag LIKE 'REFRESH%';"
	if from.Major() < 17 && to.Major() >= 17 {
		mend += `REVOKE MAINTAIN ON app.revoked FROM "` + database + `_owner"`
	}
	if _, err := connect(t, to, database).Exec(t.Context(), mend); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, server *postgres.Server, source restore.Source, options restore.Options) restore.Result {
	t.Helper()
	result, err := restore.Run(t.Context(), server, source, options)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	return result
}

// connect opens a session that the database's own settings do not reach: one of them allows a millisecond.
func connect(t *testing.T, cluster *testenv.Cluster, database string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(cluster.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["options"] = "-c role=none -c statement_timeout=0 -c default_transaction_read_only=off"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatalf("connect to %s: %v", database, err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func query[T any](t *testing.T, cluster *testenv.Cluster, database, sql string) []T {
	t.Helper()
	rows, err := connect(t, cluster, database).Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return all
}

// assertNothingLeft fails when databases or roles of an unfinished restore exist.
func assertNothingLeft(t *testing.T, cluster *testenv.Cluster) {
	t.Helper()
	left := query[string](t, cluster, "postgres", `SELECT datname::text FROM pg_database WHERE datname LIKE 'hourvault %'
		UNION ALL SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'hourvault %'`)
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestRestoredDatabaseEqualsTheOriginal(t *testing.T) {
	for _, versions := range [][2]int{{15, 15}, {17, 17}, {18, 18}, {15, 17}, {15, 18}, {17, 18}} {
		t.Run(fmt.Sprintf("%d into %d", versions[0], versions[1]), func(t *testing.T) {
			from, to := testenv.Postgres(t, versions[0]), testenv.Postgres(t, versions[1])
			original := awkwardDatabase(t, from, "")
			source := hold(t, newServer(t, from, "postgres"), original)
			into := intoName(t, to, original)
			var phases []restore.Phase
			var last restore.Progress
			result := run(t, newServer(t, to, "postgres"), source, restore.Options{
				Into: into, CreateRoles: true, Progress: func(p restore.Progress) {
					if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
						phases = append(phases, p.Phase)
					}
					last = p
				},
			})
			if from == to {
				assertEqualDumps(t, to.BinDir(), from, original, to, into)
			} else { // versions print some definitions in other words: compare with what the reference tools restore
				reference(t, from, original, to)
				assertEqualDumps(t, to.BinDir(), to, original, to, into)
			}
			assertNothingLeft(t, to)
			if populated := query[string](t, to, into, "SELECT relname::text FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY 1"); !slices.Equal(populated, []string{"a_second", "z_first"}) {
				t.Errorf("populated materialized views: %q", populated)
			}
			if n := query[int64](t, to, into, "SELECT n FROM app.a_second"); n[0] != 7 {
				t.Errorf("materialized view on a materialized view counts %d, want 7", n[0])
			}
			if analyzed := query[float32](t, to, into, "SELECT reltuples FROM pg_class WHERE relname = 'evolved'"); analyzed[0] != 429 {
				t.Errorf("statistics say %v rows, want 429", analyzed[0])
			}
			if last.Rows != last.RowsTotal || last.Bytes != last.BytesTotal || last.Tables != last.TablesTotal || last.Tables == 0 {
				t.Errorf("progress ended at %+v", last)
			}
			if len(result.Phases) != len(phases) || result.Rows != last.RowsTotal || result.Bytes != last.BytesTotal ||
				result.LargeObjects != 4 || result.Database != into {
				t.Errorf("result %+v after phases %q", result, phases)
			}
		})
	}
}

func TestRestoreKeepsEncodingAndLocale(t *testing.T) {
	for _, options := range []string{
		"TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
		"TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'",
		"TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LOCALE 'C.UTF-8'",
		"TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'und' ICU_RULES '&a < g' LOCALE 'C.UTF-8'",
		"TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C.UTF-8'",
	} {
		t.Run(options, func(t *testing.T) {
			major := 15
			if strings.Contains(options, "RULES") || strings.Contains(options, "builtin") {
				major = 17
			}
			cluster := testenv.Postgres(t, major)
			original := cluster.CreateDatabase(t, options)
			cluster.Exec(t, original, scriptIn(options))
			into := intoName(t, cluster, original)
			run(t, newServer(t, cluster, "postgres"), hold(t, newServer(t, cluster, "postgres"), original), restore.Options{Into: into})
			assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
		})
	}
}

// scriptIn is a script whose bytes above 127 are no UTF-8 where the encoding of options allows it.
func scriptIn(options string) string {
	letter := "ü"
	if strings.Contains(options, "ENCODING") {
		letter = "\xfc"
	}
	return strings.ReplaceAll(`CREATE TABLE "t?" ("c?" text); COMMENT ON TABLE "t?" IS 'gr?n'; INSERT INTO "t?" VALUES ('?'), ('a'), (NULL);
		CREATE SEQUENCE "s?" START 7; SELECT lo_create(5); COMMENT ON LARGE OBJECT 5 IS '?'`, "?", letter)
}

func TestRestoreThatFailsHalfWayLeavesNothing(t *testing.T) {
	cluster := testenv.StartPostgres(t, 17)
	original := awkwardDatabase(t, cluster, "")
	source := hold(t, newServer(t, cluster, "postgres"), original)
	before := query[int64](t, cluster, "postgres", "SELECT count(*) FROM pg_database")[0]
	broken := errors.New("pack is damaged")
	cut := func(name catalog.Text) func(context.Context, catalog.StoredTable, io.Writer) error {
		return func(_ context.Context, table catalog.StoredTable, w io.Writer) error {
			if table.Name != name {
				return nil
			}
			if _, err := w.Write(source.rows[table.OID][:len(source.rows[table.OID])/2]); err != nil {
				return err
			}
			return broken
		}
	}
	for name, prepare := range map[string]func(source *heldSource, cancel context.CancelCauseFunc){
		"rows cannot be read":              func(s *heldSource, _ context.CancelCauseFunc) { s.onRows = cut("evolved") },
		"large objects cannot be read":     func(s *heldSource, _ context.CancelCauseFunc) { s.onRows = cut("pg_largeobject") },
		"a row is missing":                 func(s *heldSource, _ context.CancelCauseFunc) { s.table(t, "evolved").Rows++ },
		"a page is missing":                func(s *heldSource, _ context.CancelCauseFunc) { s.table(t, "pg_largeobject").Rows++ },
		"a table is not in the archive":    func(s *heldSource, _ context.CancelCauseFunc) { s.table(t, "evolved").Name = "elsewhere" },
		"a sequence is not in the archive": func(s *heldSource, _ context.CancelCauseFunc) { s.sequences[0].Name = "elsewhere" },
		"the archive is cut":               func(s *heldSource, _ context.CancelCauseFunc) { s.archive = s.archive[:len(s.archive)*2/3] },
		"the restore is stopped": func(s *heldSource, cancel context.CancelCauseFunc) {
			s.onRows = func(ctx context.Context, table catalog.StoredTable, _ io.Writer) error {
				cancel(broken)
				<-ctx.Done()
				return ctx.Err()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			damaged := *source
			damaged.tables, damaged.sequences = slices.Clone(source.tables), slices.Clone(source.sequences)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			damaged.database.Roles = append(slices.Clone(source.database.Roles), catalog.Role{Name: "made for the restore", Inherit: true})
			prepare(&damaged, cancel)
			_, err := restore.Run(ctx, newServer(t, cluster, "postgres"), &damaged, restore.Options{Into: original + "_restored", CreateRoles: true})
			if err == nil {
				t.Fatal("the restore succeeded")
			}
			t.Log(err)
			if strings.Contains(name, "cannot be read") || strings.Contains(name, "stopped") {
				if !errors.Is(err, broken) {
					t.Errorf("error %v does not tell its cause", err)
				}
			}
			if after := query[int64](t, cluster, "postgres", "SELECT count(*) FROM pg_database")[0]; after != before {
				t.Errorf("%d databases before and %d after", before, after)
			}
			assertNothingLeft(t, cluster)
			if roles := query[string](t, cluster, "postgres", "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'made%'"); len(roles) > 0 {
				t.Errorf("roles left behind: %q", roles)
			}
		})
	}
}

func TestUnfinishedDatabaseNeverHasTheWantedName(t *testing.T) {
	cluster := testenv.StartPostgres(t, 17)
	original := awkwardDatabase(t, cluster, "")
	into := intoName(t, cluster, original)
	source := hold(t, newServer(t, cluster, "postgres"), original)
	var phases int
	run(t, newServer(t, cluster, "postgres"), source, restore.Options{Into: into, Progress: func(p restore.Progress) {
		phases++
		names := query[string](t, cluster, "postgres", "SELECT datname::text FROM pg_database")
		if slices.Contains(names, into) {
			t.Errorf("in phase %q a database has the wanted name", p.Phase)
		}
	}})
	if phases == 0 {
		t.Error("no progress was told")
	}
	if names := query[string](t, cluster, "postgres", "SELECT datname::text FROM pg_database"); !slices.Contains(names, into) {
		t.Errorf("databases %q", names)
	}
}

func TestKeptPartialDatabaseDoesNotLookFinished(t *testing.T) {
	cluster := testenv.StartPostgres(t, 17)
	original := awkwardDatabase(t, cluster, "")
	source := hold(t, newServer(t, cluster, "postgres"), original)
	source.table(t, "evolved").Rows++
	source.database.Roles = append(source.database.Roles, catalog.Role{Name: "made for the restore", Inherit: true})
	into := original + "_restored"
	_, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: into, KeepPartial: true, CreateRoles: true, Jobs: 1})
	failed, ok := errors.AsType[*restore.Error](err)
	if !ok || failed.Kept == "" || !strings.Contains(err.Error(), failed.Kept) || failed.Phase != restore.PhaseRows {
		t.Fatalf("error %v does not name the database that was kept", err)
	}
	if !strings.HasPrefix(failed.Kept, restore.TemporaryPrefix) {
		t.Errorf("kept as %q", failed.Kept)
	}
	names := query[string](t, cluster, "postgres", "SELECT datname::text FROM pg_database")
	if !slices.Contains(names, failed.Kept) || slices.Contains(names, into) {
		t.Errorf("databases %q", names)
	}
	if roles := query[string](t, cluster, "postgres", "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'hourvault %'"); len(roles) > 0 {
		t.Errorf("roles left: %q", roles)
	}
	plan, err := restore.Preflight(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: into})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(plan.Warnings, func(w catalog.Warning) bool { return string(w.Object) == failed.Kept }) {
		t.Errorf("the next restore does not mention what was left: %+v", plan.Warnings)
	}
}

// Hazard 3.4 (b) in docs/hazards.md: a CHECK constraint's function ran as the superuser that restored.
func TestCustomersFunctionsDoNotRunAsSuperuserDuringARestore(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprintf("postgres %d", major), func(t *testing.T) {
			cluster := testenv.Postgres(t, major)
			original := cluster.CreateDatabase(t, "")
			cluster.Exec(t, original, strings.ReplaceAll(`
				CREATE ROLE "@_owner";
				CREATE SCHEMA closed;
				CREATE FUNCTION public.refuse_superuser(what text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
					IF starts_with(current_database(), 'hourvault') AND (SELECT bool_or(rolsuper) FROM pg_roles
							WHERE rolname = current_user OR rolname = session_user AND what NOT IN ('index', 'materialized view')) THEN
						-- Functions of indexes and materialized views run in a security-restricted operation of the owner.
						RAISE EXCEPTION '% runs as superuser %', what, current_user;
					END IF;
					RETURN true;
				END $$;
				CREATE DOMAIN d AS int CHECK (refuse_superuser('domain'));
				CREATE TABLE owned (a int CHECK (refuse_superuser('check'))); ALTER TABLE owned OWNER TO "@_owner";
				CREATE TABLE of_superuser (a int CHECK (refuse_superuser('check of a superuser''s table')), b d);
				CREATE TABLE whole_row (a int); ALTER TABLE whole_row OWNER TO "@_owner";
				CREATE FUNCTION check_row(r whole_row) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN public.refuse_superuser('separate check'); END $$;
				ALTER TABLE whole_row ADD CHECK (check_row(whole_row));
				CREATE TABLE closed.no_usage (a int CHECK (refuse_superuser('check without usage'))); ALTER TABLE closed.no_usage OWNER TO "@_owner";
				CREATE SCHEMA granted; GRANT USAGE ON SCHEMA granted TO "@_owner";
				CREATE TABLE granted.read (a int); ALTER TABLE granted.read OWNER TO "@_owner";
				CREATE FUNCTION granted.reads() RETURNS bool LANGUAGE sql AS 'SELECT count(*) >= 0 FROM granted.read';
				CREATE TABLE granted.reader (a int CHECK (granted.reads())); ALTER TABLE granted.reader OWNER TO "@_owner";
				INSERT INTO granted.reader VALUES (1);
				CREATE INDEX ON owned ((public.refuse_superuser('index')));
				CREATE MATERIALIZED VIEW mv AS SELECT public.refuse_superuser('materialized view'); ALTER MATERIALIZED VIEW mv OWNER TO "@_owner";
				REVOKE EXECUTE ON FUNCTION refuse_superuser(text) FROM PUBLIC; GRANT EXECUTE ON FUNCTION refuse_superuser(text) TO "@_owner";
				INSERT INTO owned VALUES (1); INSERT INTO of_superuser VALUES (1, 1); INSERT INTO whole_row VALUES (1); INSERT INTO closed.no_usage VALUES (1);
			`, "@", original))
			into := intoName(t, cluster, original)
			result := run(t, newServer(t, cluster, "postgres"), hold(t, newServer(t, cluster, "postgres"), original), restore.Options{Into: into})
			if len(result.Warnings) > 0 {
				t.Errorf("warnings %+v", result.Warnings)
			}
			assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
			assertNothingLeft(t, cluster)
		})
	}
}

// Hazard 3.2 in docs/hazards.md: the hash of an enum value is that of its oid, which differs in every database.
func TestHashPartitionsOnAnEnumAreLoadedThroughTheirRoot(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprintf("postgres %d", major), func(t *testing.T) {
			cluster := testenv.Postgres(t, major)
			original := cluster.CreateDatabase(t, "")
			cluster.Exec(t, original, hashScript)
			source := hold(t, newServer(t, cluster, "postgres"), original)
			through := 0
			for _, table := range source.tables {
				if table.LoadThrough != 0 {
					through++
				}
			}
			if through != 4 {
				t.Fatalf("%d leaves of 4 are marked to be loaded through the root", through)
			}
			into := intoName(t, cluster, original)
			run(t, newServer(t, cluster, "postgres"), source, restore.Options{Into: into})
			const content = "SELECT k::text || ' ' || n FROM h ORDER BY 1"
			if want, got := query[string](t, cluster, original, content), query[string](t, cluster, into, content); !slices.Equal(got, want) || len(want) != 800 {
				t.Errorf("%d rows restored of %d", len(got), len(want))
			}
			for _, label := range query[string](t, cluster, into, "SELECT unnest(enum_range(NULL::e))::text") { // by pruning
				if n := query[int64](t, cluster, into, "SELECT count(*) FROM h WHERE k = '"+label+"'")[0]; n != 100 {
					t.Errorf("%d rows of 100 are found in the partition of %s", n, label)
				}
			}
		})
	}
}

const hashScript = `
	CREATE TYPE e AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
	CREATE TABLE h (k e, n int) PARTITION BY HASH (k);
	CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 3, REMAINDER 0);
	CREATE TABLE h1 (gone int, n int, k e); ALTER TABLE h1 DROP COLUMN gone;
	ALTER TABLE h ATTACH PARTITION h1 FOR VALUES WITH (MODULUS 3, REMAINDER 1);
	CREATE TABLE h2 PARTITION OF h FOR VALUES WITH (MODULUS 3, REMAINDER 2) PARTITION BY RANGE (n);
	CREATE TABLE h2a PARTITION OF h2 FOR VALUES FROM (0) TO (50);
	CREATE TABLE h2b PARTITION OF h2 DEFAULT;
	INSERT INTO h SELECT l, i FROM unnest(enum_range(NULL::e)) l, generate_series(1, 100) i;`

// Hazard 3.3 in docs/hazards.md: emptying such a table deletes rows that CREATE EXTENSION brought, reading it whole doubles them.
func TestExtensionConfigurationIsAppendedToWhatTheExtensionBrings(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "extension"), 0o755), os.Chmod(filepath.Dir(dir), 0o755), //nolint:gosec // the server reads it as another user
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"conf.control": "default_version = '1.0'\nrelocatable = false\n",
		"conf--1.0.sql": `CREATE TABLE conf_child (id int PRIMARY KEY, parent int);
			CREATE TABLE conf_parent (id int PRIMARY KEY, own bool DEFAULT true);
			CREATE SEQUENCE conf_seq START 100;
			ALTER TABLE conf_child ADD FOREIGN KEY (parent) REFERENCES conf_parent;
			INSERT INTO conf_parent VALUES (1, false), (2, false);
			SELECT pg_catalog.pg_extension_config_dump('conf_child', '');
			SELECT pg_catalog.pg_extension_config_dump('conf_parent', 'WHERE own');
			SELECT pg_catalog.pg_extension_config_dump('conf_seq', '');`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "extension", name), []byte(text), 0o644); err != nil { //nolint:gosec // as above
			t.Fatal(err)
		}
	}
	cluster := testenv.StartPostgres(t, 18, testenv.WithSetting("extension_control_path", dir+":$system"))
	original := cluster.CreateDatabase(t, "")
	cluster.Exec(t, original, `CREATE EXTENSION conf; INSERT INTO conf_parent VALUES (10), (11); INSERT INTO conf_child VALUES (5, 11), (6, 1);
		SELECT nextval('conf_seq'), nextval('conf_seq')`)
	into := intoName(t, cluster, original)
	run(t, newServer(t, cluster, "postgres"), hold(t, newServer(t, cluster, "postgres"), original), restore.Options{Into: into})
	for _, sql := range []string{
		"SELECT id || ' ' || own FROM conf_parent ORDER BY id", "SELECT id || ' ' || parent FROM conf_child ORDER BY id",
		"SELECT last_value || ' ' || is_called FROM conf_seq",
	} {
		if want, got := query[string](t, cluster, original, sql), query[string](t, cluster, into, sql); !slices.Equal(want, got) {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
	assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
}

// Hazard 1.8 in docs/hazards.md: with array_nulls off on the restoring session, NULL elements became the string NULL.
func TestSettingsOfTheRestoringRoleDoNotChangeWhatIsRestored(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	original := awkwardDatabase(t, cluster, "")
	source := hold(t, newServer(t, cluster, "postgres"), original)
	user := original + "_hostile"
	cluster.Exec(t, "postgres", strings.ReplaceAll(`CREATE ROLE "@" SUPERUSER LOGIN; ALTER ROLE "@" SET array_nulls = off; ALTER ROLE "@" SET xmloption = document;
		ALTER ROLE "@" SET datestyle = 'SQL, DMY'; ALTER ROLE "@" SET default_transaction_read_only = on; ALTER ROLE "@" SET statement_timeout = '1ms';
		ALTER ROLE "@" SET search_path = 'nowhere'; ALTER ROLE "@" SET standard_conforming_strings = off; ALTER ROLE "@" SET client_encoding = 'LATIN1';
		ALTER ROLE "@" SET default_tablespace = ''; ALTER ROLE "@" SET check_function_bodies = on`, "@", user))
	t.Cleanup(func() { cluster.Exec(t, "postgres", `DROP ROLE "`+user+`"`) })
	into := intoName(t, cluster, original)
	run(t, newServer(t, cluster, user), source, restore.Options{Into: into})
	assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
}

func TestPreflightNamesEveryProblemAndCreatesNothing(t *testing.T) {
	cluster := testenv.StartPostgres(t, 15)
	original := awkwardDatabase(t, cluster, "")
	server := newServer(t, cluster, "postgres")
	source := hold(t, server, original)
	cluster.Exec(t, "postgres", "CREATE ROLE weak LOGIN")
	for _, test := range []struct {
		name, user string
		options    restore.Options
		change     func(*catalog.Database)
		want       []string
	}{
		{name: "existing database", options: restore.Options{Into: original}, want: []string{`database "` + original + `" exists`}},
		{name: "no name", want: []string{"no name"}},
		{name: "long name", options: restore.Options{Into: strings.Repeat("ü", 32)}, want: []string{"64 bytes"}},
		{name: "name of an unfinished restore", options: restore.Options{Into: restore.TemporaryPrefix + "x"}, want: []string{"unfinished"}},
		{name: "newer source", options: restore.Options{Into: "x"}, change: func(d *catalog.Database) { d.ServerVersion = 180001 }, want: []string{"PostgreSQL 15", "PostgreSQL 18"}},
		{name: "all at once", options: restore.Options{Into: "x"}, change: func(d *catalog.Database) {
			d.Extensions = append(d.Extensions, catalog.Extension{Name: "postgis", Version: "3.4.2"})
			d.Roles = append(d.Roles, catalog.Role{Name: `no "body`, Inherit: true, Login: true, ConnectionLimit: -1})
			d.Tablespaces = []catalog.Text{"fast"}
			d.Collate, d.CType = "xx_XX.UTF-8", "xx_XX.UTF-8"
		}, want: []string{`extension "postgis" (version 3.4.2)`, `CREATE ROLE "no ""body" LOGIN;`, `tablespaces of the snapshot are missing on the server: create "fast"`, "xx_XX.UTF-8"}},
		{name: "superuser role is missing", options: restore.Options{Into: "x", CreateRoles: true}, change: func(d *catalog.Database) {
			d.Roles = append(d.Roles, catalog.Role{Name: "boss", Superuser: true, Inherit: true, ConnectionLimit: -1}, catalog.Role{Name: "plain", Inherit: true})
		}, want: []string{`CREATE ROLE "boss" SUPERUSER;`}},
		{name: "unknown locale provider", options: restore.Options{Into: "x"}, change: func(d *catalog.Database) { d.LocaleProvider, d.Locale = "builtin", "C.UTF-8" }, want: []string{"builtin"}},
		{name: "weak role", user: "weak", options: restore.Options{Into: "x"}, want: []string{
			`ALTER ROLE "weak" CREATEDB;`, `GRANT "` + original + `_owner" TO "weak";`, `superuser "postgres"`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := *source
			changed.database.Extensions, changed.database.Roles = slices.Clone(source.database.Extensions), slices.Clone(source.database.Roles)
			if test.change != nil {
				test.change(&changed.database)
			}
			target := server
			if test.user != "" {
				target = newServer(t, cluster, test.user)
			}
			before := query[string](t, cluster, "postgres", "SELECT datname::text FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1")
			_, err := restore.Preflight(t.Context(), target, &changed, test.options)
			refused, ok := errors.AsType[*restore.PreflightError](err)
			if !ok {
				t.Fatalf("error %v", err)
			}
			t.Log(refused)
			for _, want := range test.want {
				if !strings.Contains(refused.Error(), want) {
					t.Errorf("%q is missing in: %v", want, refused)
				}
			}
			if errors.Is(err, restore.ErrDatabaseExists) != (test.name == "existing database") {
				t.Errorf("ErrDatabaseExists: %v", errors.Is(err, restore.ErrDatabaseExists))
			}
			if _, runErr := restore.Run(t.Context(), target, &changed, test.options); runErr == nil || runErr.Error() != err.Error() {
				t.Errorf("Run: %v", runErr)
			}
			if after := query[string](t, cluster, "postgres", "SELECT datname::text FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1"); !slices.Equal(after, before) {
				t.Errorf("before %q, after %q", before, after)
			}
		})
	}
}

func TestPreflightWarnsOfOtherVersionsOfExtensionsAndCollations(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	original := cluster.CreateDatabase(t, "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LOCALE 'C.UTF-8'")
	cluster.Exec(t, original, "CREATE EXTENSION hstore")
	source := hold(t, newServer(t, cluster, "postgres"), original)
	plan, err := restore.Preflight(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "x"})
	if err != nil || len(plan.Warnings) != 0 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	source.database.CollationVersion = "1.2.3"
	source.database.Extensions[0].Version = "0.9"
	plan, err = restore.Preflight(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "x"})
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, warning := range plan.Warnings {
		codes = append(codes, warning.Code)
	}
	if !slices.Equal(codes, []string{"extension_version", "collation_version"}) {
		t.Errorf("warnings %+v", plan.Warnings)
	}
}

func TestPreflightNamesWhatKilledRestoresLeft(t *testing.T) {
	cluster := testenv.StartPostgres(t, 17)
	original := cluster.CreateDatabase(t, "")
	source := hold(t, newServer(t, cluster, "postgres"), original)
	database := restore.TemporaryPrefix + "0123456789abcdef"
	cluster.Exec(t, "postgres", `CREATE ROLE "hourvault loader 0123456789abcdef"; CREATE ROLE "hourvault loader fedcba9876543210"`)
	cluster.Exec(t, "postgres", `CREATE DATABASE "`+database+`" ALLOW_CONNECTIONS false`)
	plan, err := restore.Preflight(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Warnings) != 2 || plan.Warnings[0].Object != catalog.Text(database) || plan.Warnings[1].Object != "hourvault loader fedcba9876543210" {
		t.Fatalf("warnings %+v", plan.Warnings)
	}
	for _, warning := range plan.Warnings {
		_, remove, _ := strings.Cut(string(warning.Message), "run ")
		for statement := range strings.SplitSeq(strings.TrimSuffix(remove, ";"), ";") {
			cluster.Exec(t, "postgres", statement)
		}
	}
	if plan, err = restore.Preflight(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "x"}); err != nil || len(plan.Warnings) != 0 {
		t.Errorf("after what was advised: warnings %+v, %v", plan.Warnings, err)
	}
}

func TestErrorsOfARestoreQuoteNoRows(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	original := cluster.CreateDatabase(t, "")
	cluster.Exec(t, original, `CREATE TABLE p (id text PRIMARY KEY); CREATE TABLE c (id text REFERENCES p, n int);
		INSERT INTO p VALUES ('row-data-1'); INSERT INTO c VALUES ('row-data-1', 1)`)
	source := hold(t, newServer(t, cluster, "postgres"), original)
	for name, rows := range map[string]string{
		"bad value":                 "row-data-1\trow-data-9\n",
		"foreign key":               "row-data-2\t1\n",
		"too many columns":          "row-data-1\t1\trow-data-3\n",
		"bytes of another encoding": "row-data-\xff\t1\n",
	} {
		t.Run(name, func(t *testing.T) {
			source.rows[source.table(t, "c").OID] = []byte(rows)
			_, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "never"})
			if err == nil || strings.Contains(err.Error(), "row-data") {
				t.Errorf("error %v", err)
			}
			if name != "foreign key" && !strings.Contains(err.Error(), `"public"."c"`) {
				t.Errorf("error %v does not name the table", err)
			}
			t.Log(err)
		})
	}
}

func TestRoleThatIsNoSuperuserRestoresWhatItMay(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprintf("postgres %d", major), func(t *testing.T) {
			cluster := testenv.Postgres(t, major)
			original := cluster.CreateDatabase(t, "")
			cluster.Exec(t, original, strings.ReplaceAll(`
				CREATE ROLE "@_owner"; CREATE ROLE "@_restorer" LOGIN CREATEDB; GRANT "@_owner" TO "@_restorer";
				ALTER DATABASE "@" OWNER TO "@_owner";
				SET ROLE "@_owner";
				CREATE SCHEMA s; CREATE TABLE s.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text); INSERT INTO s.t (v) VALUES ('a'), ('b');
				CREATE TABLE s.c (id int REFERENCES s.t); INSERT INTO s.c VALUES (2); CREATE MATERIALIZED VIEW s.m AS SELECT count(*) FROM s.t;
				SELECT lo_create(1), lo_put(1, 0, 'x'); GRANT SELECT ON s.t TO PUBLIC;
				REVOKE INSERT ON s.c FROM "@_owner"; GRANT INSERT ON s.c TO "@_owner";
				COMMENT ON DATABASE "@" IS 'x'; REVOKE TEMPORARY ON DATABASE "@" FROM PUBLIC; ALTER DATABASE "@" SET work_mem = '5MB';
				RESET ROLE`, "@", original))
			into := intoName(t, cluster, original)
			run(t, newServer(t, cluster, original+"_restorer"), hold(t, newServer(t, cluster, "postgres"), original), restore.Options{Into: into})
			assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
		})
	}
}

// pg_dump run by a role that is no superuser leaves out the options of user mappings without a word.
func TestUserMappingOptionsComeBackFromABackupOfLeastPrivilege(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprintf("postgres %d", major), func(t *testing.T) {
			cluster := testenv.Postgres(t, major)
			original := cluster.CreateDatabase(t, "")
			cluster.Exec(t, original, strings.ReplaceAll(`CREATE ROLE "@_backup" LOGIN BYPASSRLS; GRANT pg_read_all_data TO "@_backup";
				CREATE ROLE "@_app"; CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
				CREATE USER MAPPING FOR "@_app" SERVER far OPTIONS (user 'u', password 'p''\=w');
				CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'public');
				SELECT lo_create(3), lo_put(3, 3000, 'page'); REVOKE ALL ON LARGE OBJECT 3 FROM postgres`, "@", original))
			into := intoName(t, cluster, original)
			source := hold(t, newServer(t, cluster, original+"_backup"), original)
			run(t, newServer(t, cluster, "postgres"), source, restore.Options{Into: into})
			assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
		})
	}
}

func TestSubscriptionComesBackDisabledAndAFailureLeavesItsSlotAlone(t *testing.T) {
	cluster := testenv.StartPostgres(t, 17)
	publisher := cluster.CreateDatabase(t, "")
	cluster.Exec(t, publisher, "CREATE TABLE t (a int); CREATE PUBLICATION p FOR TABLE t")
	cluster.Exec(t, publisher, "SELECT pg_create_logical_replication_slot('sub', 'pgoutput')")
	t.Cleanup(func() { cluster.Exec(t, publisher, "SELECT pg_drop_replication_slot('sub')") })
	original := cluster.CreateDatabase(t, "")
	forget := func(database string) {
		cluster.Exec(t, database, "ALTER SUBSCRIPTION sub DISABLE")
		cluster.Exec(t, database, "ALTER SUBSCRIPTION sub SET (slot_name = NONE)")
		cluster.Exec(t, database, "DROP SUBSCRIPTION sub")
	}
	cluster.Exec(t, original, "CREATE TABLE t (a int); CREATE INDEX ON t (a)")
	cluster.Exec(t, original, fmt.Sprintf("CREATE SUBSCRIPTION sub CONNECTION '%s' PUBLICATION p WITH (create_slot = false, slot_name = 'sub')", cluster.TCPDSN(publisher)))
	t.Cleanup(func() { forget(original) })
	source := hold(t, newServer(t, cluster, "postgres"), original)
	slots := func() int {
		return len(query[string](t, cluster, publisher, "SELECT slot_name::text FROM pg_replication_slots"))
	}
	before := slots()

	source.database.Settings = []catalog.Setting{{Name: "work_mem", Value: "nonsense"}} // fails after the subscription was made
	if _, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "never"}); err == nil {
		t.Fatal("the restore succeeded")
	} else {
		t.Log(err)
	}
	assertNothingLeft(t, cluster)
	if after := slots(); after != before {
		t.Errorf("%d slots before and %d after", before, after)
	}

	// What is kept on request names the slot no more, and the error says how to remove it.
	_, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "never", KeepPartial: true})
	failed, ok := errors.AsType[*restore.Error](err)
	if !ok || failed.Kept == "" {
		t.Fatalf("error %v, want one that names a database", err)
	}
	t.Log(err)
	if named := query[bool](t, cluster, failed.Kept, "SELECT subslotname IS NOT NULL FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid AND datname = current_database()"); !slices.Equal(named, []bool{false}) {
		t.Errorf("the subscription of the database that was kept names a slot: %v", named)
	}
	plan, err := restore.Preflight(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "never"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(plan.Warnings, func(w catalog.Warning) bool {
		return string(w.Object) == failed.Kept && strings.Contains(string(w.Message), strings.Join(failed.RemoveInside, " "))
	}) {
		t.Errorf("the next restore does not say that the database has subscriptions: %+v", plan.Warnings)
	}
	for _, statement := range failed.RemoveInside {
		cluster.Exec(t, failed.Kept, statement)
	}
	for _, statement := range failed.Remove {
		cluster.Exec(t, "postgres", statement)
	}
	assertNothingLeft(t, cluster)
	if after := slots(); after != before {
		t.Errorf("%d slots before and %d after", before, after)
	}

	source.database.Settings = nil
	result := run(t, newServer(t, cluster, "postgres"), source, restore.Options{Into: original + "_restored"})
	if enabled := query[bool](t, cluster, original+"_restored", "SELECT subenabled FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid AND datname = current_database()"); !slices.Equal(enabled, []bool{false}) {
		t.Errorf("enabled: %v", enabled)
	}
	if len(result.Warnings) != 1 || result.Warnings[0].Code != "subscription_disabled" {
		t.Errorf("warnings %+v", result.Warnings)
	}
	forget(original + "_restored")
	cluster.Exec(t, "postgres", `DROP DATABASE "`+original+`_restored" WITH (FORCE)`)
}

func TestMaterializedViewThatCannotBeRefreshedIsAWarning(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	original := cluster.CreateDatabase(t, "")
	cluster.Exec(t, original, `CREATE TABLE t (a int); INSERT INTO t VALUES (4);
		CREATE FUNCTION through() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.z); END';
		CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF starts_with(current_database(), 'hourvault') THEN RAISE 'no'; END IF; RETURN 1; END $$;
		CREATE MATERIALIZED VIEW z AS SELECT a FROM t;
		CREATE MATERIALIZED VIEW a AS SELECT through();
		CREATE MATERIALIZED VIEW broken AS SELECT fails();`)
	into := intoName(t, cluster, original)
	result := run(t, newServer(t, cluster, "postgres"), hold(t, newServer(t, cluster, "postgres"), original), restore.Options{Into: into})
	if len(result.Warnings) != 1 || result.Warnings[0].Object != `"public"."broken"` {
		t.Errorf("warnings %+v", result.Warnings)
	}
	if populated := query[string](t, cluster, into, "SELECT relname::text FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY 1"); !slices.Equal(populated, []string{"a", "z"}) {
		t.Errorf("populated %q", populated)
	}
}

// pg_restore 17 and later sets transaction_timeout, which older servers do not know.
func TestArchiveOfANewerPgDumpIsRestoredIntoAnOlderServer(t *testing.T) {
	cluster, newer := testenv.Postgres(t, 15), testenv.Postgres(t, 17)
	original := awkwardDatabase(t, cluster, "")
	source := hold(t, newServer(t, cluster, "postgres"), original)
	cmd := exec.CommandContext(t.Context(), filepath.Join(newer.BinDir(), "pg_dump"), "--format=custom", "--schema-only", "--dbname="+cluster.DSN(original)) //nolint:gosec // a test's program
	cmd.Env = []string{"LC_ALL=C", "PGOPTIONS=-c role=none"}
	archive, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	source.archive = archive
	t.Setenv("PATH", newer.BinDir()+":"+os.Getenv("PATH"))
	into := intoName(t, cluster, original)
	run(t, newServer(t, cluster, "postgres"), source, restore.Options{Into: into})
	assertEqualDumps(t, newer.BinDir(), cluster, original, cluster, into)

	source.sequences[0].Name = "elsewhere"
	if _, err := restore.Run(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "never"}); err == nil {
		t.Error("the restore succeeded")
	}
	t.Setenv("PATH", "/nowhere")
	_, err = restore.Preflight(t.Context(), newServer(t, cluster, "postgres"), source, restore.Options{Into: "never"})
	if _, refused := errors.AsType[*restore.PreflightError](err); !refused || !strings.Contains(err.Error(), "pg_restore 15") {
		t.Errorf("without newer programs: %v", err)
	}
}

// Rows that are loaded frozen are written once, and the first VACUUM finds nothing to do.
func TestRestoredRowsAreFrozenWhereNothingForbidsIt(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprintf("postgres %d", major), func(t *testing.T) {
			cluster := testenv.Postgres(t, major)
			original := cluster.CreateDatabase(t, "")
			cluster.Exec(t, original, strings.ReplaceAll(`
				CREATE TABLE plain (a int, b text); INSERT INTO plain SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i;
				CREATE TABLE parts (a int, b text) PARTITION BY RANGE (a); CREATE TABLE part PARTITION OF parts DEFAULT;
				INSERT INTO parts SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i;
				CREATE TABLE small (a int); INSERT INTO small SELECT generate_series(1, 3000);
				-- Such a function does not see what the command that calls it inserts, unless that is frozen.
				CREATE FUNCTION is_empty() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN NOT EXISTS (SELECT FROM public.looks_at_itself); END';
				CREATE TABLE looks_at_itself (a int CHECK (is_empty()), b text); INSERT INTO looks_at_itself SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i;
				CREATE FUNCTION refuse_own(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
					'BEGIN IF EXISTS (SELECT FROM public.own_error) THEN RAISE ''not empty'' USING ERRCODE = ''HV123''; END IF; RETURN true; END';
				CREATE TABLE own_error (a int CHECK (refuse_own(a)), b text); INSERT INTO own_error SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i;
				-- Its owner may read it, so that nothing but freezing has the function refuse.
				CREATE ROLE "@_owner"; ALTER TABLE own_error OWNER TO "@_owner"`, "@", original))
			into := intoName(t, cluster, original)
			run(t, newServer(t, cluster, "postgres"), hold(t, newServer(t, cluster, "postgres"), original), restore.Options{Into: into})
			assertEqualDumps(t, cluster.BinDir(), cluster, original, cluster, into)
			got := query[string](t, cluster, into, `SELECT relname || ' ' || (relallvisible > 10) FROM pg_class
				WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1`)
			if want := []string{"looks_at_itself false", "own_error false", "part true", "plain true", "small false"}; !slices.Equal(got, want) {
				t.Errorf("all rows frozen: %q, want %q", got, want)
			}
		})
	}
}
