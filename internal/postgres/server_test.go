package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/testenv"
)

func eachMajor(t *testing.T, test func(t *testing.T, cluster *testenv.Cluster)) {
	t.Helper()
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) { test(t, testenv.Postgres(t, major)) })
	}
}

// testServer connects to the cluster as role ("" is the superuser).
func testServer(t *testing.T, cluster *testenv.Cluster, role string, change func(*ServerConfig)) *Server {
	t.Helper()
	dsn := cluster.DSN("postgres")
	if role != "" {
		dsn = cluster.DSNFor(role, "postgres")
	}
	config := ServerConfig{Name: "test", DSN: dsn, Connections: 4, BinDirs: []string{cluster.BinDir()},
		LockTimeout: 5 * time.Second, YieldToDDL: time.Minute}
	if change != nil {
		change(&config)
	}
	server, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func openSnapshot(t *testing.T, server *Server, database string, options SnapshotOptions) *Snapshot {
	t.Helper()
	snapshot, err := server.OpenSnapshot(t.Context(), database, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { snapshot.Close(context.Background()) })
	return snapshot
}

func newReader(t *testing.T, snapshot *Snapshot) *Reader {
	t.Helper()
	reader, err := snapshot.NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(context.Background()) })
	return reader
}

// memorySink keeps rows by block.
type memorySink struct {
	order  []uint32
	blocks map[uint32]string
	now    uint32
}

func (m *memorySink) Block(number uint32) error {
	if m.blocks == nil {
		m.blocks = map[uint32]string{}
	}
	m.order, m.now = append(m.order, number), number
	return nil
}

func (m *memorySink) Write(p []byte) (int, error) {
	m.blocks[m.now] += string(p)
	return len(p), nil
}

func (m *memorySink) all() string {
	var b strings.Builder
	for _, number := range m.order {
		b.WriteString(m.blocks[number])
	}
	return b.String()
}

func allTables(t *testing.T, snapshot *Snapshot) []catalog.Table {
	t.Helper()
	var tables []catalog.Table
	for table, err := range snapshot.Tables(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
	}
	return tables
}

func tableNamed(t *testing.T, snapshot *Snapshot, schema, name catalog.Text) *catalog.Table {
	t.Helper()
	for _, table := range allTables(t, snapshot) {
		if table.Schema == schema && table.Name == name {
			return &table
		}
	}
	t.Fatalf("the snapshot has no table %s", QualifiedName(schema, name))
	return nil
}

func readTable(t *testing.T, snapshot *Snapshot, schema, name catalog.Text) string {
	t.Helper()
	reader := newReader(t, snapshot)
	defer reader.Close(context.Background())
	var sink memorySink
	if _, err := reader.ReadBlocks(t.Context(), tableNamed(t, snapshot, schema, name), 0, OpenEnd, &sink); err != nil {
		t.Fatal(err)
	}
	return sink.all()
}

func TestDSNIsCheckedWithoutBeingQuoted(t *testing.T) {
	for _, test := range []struct{ dsn, want string }{
		{"postgres://u:sekret@h/db?wrong=1", `"wrong" is not supported`},
		{"postgres://u:sek%ret@h/db", "not a valid URL"},
		{"host=a,b user=u password=sekret", "several hosts"},
		{"postgres://u:sekret@a:1,b:2/db", "it "},
		{"nonsense sekret", "neither a URL"},
		{"host='sekret", "no closing quote"},
		{"host=h sslmode=sekret-not", "sslmode"},
		{"host=h options='-c a=b' password=sekret", `"options" is not supported`},
	} {
		_, err := NewServer(ServerConfig{Name: "eu-1", DSN: test.dsn, Connections: 2})
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "password=") || strings.Contains(err.Error(), "u:sek") {
			t.Errorf("NewServer(%q): got %v, want an error that says %q", test.dsn, err, test.want)
		}
	}
	if _, err := NewServer(ServerConfig{DSN: "host=h", Connections: 1}); err == nil || !strings.Contains(err.Error(), "at least 2") {
		t.Errorf("one connection was accepted: %v", err)
	}
	for _, verb := range []string{"%v", "%s", "%q", "%#v", "%x", "%d"} {
		if text := fmt.Sprintf(verb, ServerConfig{Password: "sekret"}); strings.Contains(text, "sekret") || strings.Contains(text, fmt.Sprintf("%x", "sekret")) {
			t.Errorf("%s prints a password: %s", verb, text)
		}
	}
}

func TestBothFormsOfDSNMeanTheSame(t *testing.T) {
	url, err := NewServer(ServerConfig{DSN: "postgres://us%20er:pass%40word@example.net:6000/my%20db?sslmode=disable", Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	keywords, err := NewServer(ServerConfig{DSN: `host = example.net port=6000 user='us er' password=pass@word dbname='my db' sslmode=disable`, Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*Server{url, keywords} {
		c := server.config
		if c.Host != "example.net" || c.Port != 6000 || c.User != "us er" || c.Password != "pass@word" || c.Database != "my db" {
			t.Errorf("got host %q port %d user %q password %q database %q", c.Host, c.Port, c.User, c.Password, c.Database)
		}
		for _, p := range server.toolParams {
			if p.key == "password" || p.key == "dbname" {
				t.Errorf("%s is passed to tools", p.key)
			}
		}
	}
}

func TestServerTooOldToBeReadSafelyIsRefused(t *testing.T) {
	for version, needed := range map[int]string{130022: "14.13", 140012: "14.13", 150007: "15.8", 160003: "16.4", 90624: "14.13"} {
		_, err := PinnedSettings(version, Reading)
		var old *UnsupportedServerError
		if !errors.As(err, &old) || old.Needed != needed || !strings.Contains(err.Error(), needed) {
			t.Errorf("version %d: got %v, want a request to upgrade to %s", version, err, needed)
		}
	}
	for _, version := range []int{140013, 150008, 160004, 170000, 180001} {
		if _, err := PinnedSettings(version, Reading); err != nil {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

func TestIdentityAndDatabases(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		server := testServer(t, cluster, "", nil)
		identity, err := server.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if identity.ServerVersion/10000 != cluster.Major() || !identity.Superuser || identity.InRecovery || identity.Role != "postgres" || len(identity.SystemIdentifier) < 10 {
			t.Errorf("got %+v", identity)
		}
		list, err := server.Databases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := map[catalog.Text]DatabaseEntry{}
		for i, entry := range list {
			found[entry.Name] = entry
			if i > 0 && list[i-1].Name >= entry.Name {
				t.Errorf("%q comes after %q", entry.Name, list[i-1].Name)
			}
		}
		if entry := found["template0"]; entry.AllowConnections || !entry.IsTemplate {
			t.Errorf("template0: got %+v", entry)
		}
		if entry := found[catalog.Text(database)]; !entry.AllowConnections || entry.IsTemplate || entry.Owner != "postgres" || entry.SizeBytes < 1<<20 || entry.OID == 0 {
			t.Errorf("the database: got %+v", entry)
		}
	})
}

// hostile are settings that a database's owner, or a superuser for a role, can bring along.
var hostile = []string{
	"array_nulls = off", "bytea_output = escape", "enable_tidscan = off", "DateStyle = 'German, DMY'", "IntervalStyle = iso_8601",
	"TimeZone = 'Asia/Tokyo'", "extra_float_digits = -15", "search_path = trap, pg_catalog", "default_transaction_isolation = serializable",
	"default_transaction_read_only = on", "default_transaction_deferrable = on", "statement_timeout = 1", "lock_timeout = 1",
	"idle_in_transaction_session_timeout = 1", "idle_session_timeout = 1", "row_security = on", "quote_all_identifiers = on",
	"xmloption = document", "xmlbinary = hex", "client_encoding = LATIN1", "lc_monetary = 'C.UTF-8'", "jit = on", "jit_above_cost = 0",
	"max_parallel_workers_per_gather = 4", "min_parallel_table_scan_size = 0", "parallel_setup_cost = 0", "parallel_tuple_cost = 0",
	"synchronize_seqscans = on", "standard_conforming_strings = off", "transform_null_equals = on", "client_min_messages = debug5",
	"restrict_nonsystem_relation_kind = ''", "enable_seqscan = off",
}

func TestSettingsOfDatabaseAndRoleDoNotReachRows(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0")
		role := "pinned_" + database
		cluster.Exec(t, database, `
CREATE ROLE `+role+` LOGIN BYPASSRLS; GRANT pg_read_all_data TO `+role+`; CREATE ROLE `+role+`_none; GRANT `+role+`_none TO `+role+`;
CREATE SCHEMA trap; CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE sql AS 'select 1/0 || $1';
CREATE TABLE t (a text[], b bytea, d date, ts timestamptz, i interval, f float8, m money, c regclass, n text);
INSERT INTO t SELECT array['NULL', null], '\x00ff5c', date '2026-11-22', timestamptz '2026-11-22 01:02:03.456789+00', interval '1 year 2 mons 3 days 04:05:06',
  0.1::float8 + 0.2::float8, 12.34::numeric::money, 'pg_class'::regclass, E'\u00e9\u20ac' || g FROM generate_series(1, 3000) g;
CREATE TABLE hidden (id int); INSERT INTO hidden VALUES (1); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY;`)
		t.Cleanup(func() {
			cluster.Exec(t, "postgres", "DROP OWNED BY "+role+" CASCADE; DROP OWNED BY "+role+"_none; DROP ROLE "+role+"; DROP ROLE "+role+"_none")
		})
		read := func() string {
			server := testServer(t, cluster, role, nil)
			snapshot := openSnapshot(t, server, database, SnapshotOptions{})
			defer snapshot.Close(context.Background())
			table := tableNamed(t, snapshot, "public", "t")
			reader := newReader(t, snapshot)
			var sink memorySink
			for from := uint32(0); from < table.Blocks; from += 7 {
				if _, err := reader.ReadBlocks(t.Context(), table, from, from+7, &sink); err != nil {
					t.Fatal(err)
				}
			}
			reader.Close(context.Background())
			var archive bytes.Buffer
			if warnings, err := snapshot.SchemaArchive(t.Context(), &archive); err != nil || len(warnings) > 0 || archive.Len() == 0 {
				t.Fatalf("pg_dump: %d bytes, warnings %v, error %v", archive.Len(), warnings, err)
			}
			return sink.all() + readTable(t, snapshot, "public", "hidden")
		}
		want := read()
		if strings.Count(want, "\n") != 3001 {
			t.Fatalf("got %d rows", strings.Count(want, "\n"))
		}
		settings := append([]string{"role = " + role + "_none"}, hostile...)
		if cluster.Major() >= 17 {
			settings = append(settings, "transaction_timeout = 1")
		}
		for _, target := range []string{"DATABASE " + database, "ROLE " + role, "ROLE " + role + " IN DATABASE " + database} {
			var script strings.Builder
			for _, setting := range settings {
				fmt.Fprintf(&script, "ALTER %s SET %s;\n", target, setting)
			}
			cluster.Exec(t, "postgres", script.String())
			if got := read(); got != want {
				t.Errorf("settings of %s reach the rows:\ngot  %.300q\nwant %.300q", target, got, want)
			}
			cluster.Exec(t, "postgres", "ALTER "+target+" RESET ALL")
		}
		t.Run("each alone", func(t *testing.T) {
			if testing.Short() {
				t.Skip("short")
			}
			for _, setting := range settings {
				cluster.Exec(t, "postgres", "ALTER DATABASE "+database+" SET "+setting)
				server := testServer(t, cluster, role, nil)
				conn, err := server.Connect(t.Context(), database)
				if err != nil {
					t.Errorf("with %s: %v", setting, err)
				} else {
					closeConn(t.Context(), conn)
				}
				cluster.Exec(t, "postgres", "ALTER DATABASE "+database+" RESET ALL")
			}
		})
	})
}

func TestRestoringSessionWritesAndKeepsNulls(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, "postgres", "ALTER DATABASE "+database+" SET array_nulls = off; ALTER DATABASE "+database+" SET default_transaction_read_only = on")
	conn, err := testServer(t, cluster, "", nil).ConnectRestore(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(t.Context(), conn)
	if err := execute(t.Context(), conn, `CREATE TABLE public.a (v text[]); INSERT INTO public.a VALUES ('{NULL}')`); err != nil {
		t.Fatal(err)
	}
	var null bool
	if err := conn.QueryRow(t.Context(), "select v[1] is null from public.a").Scan(&null); err != nil || !null {
		t.Errorf("NULL in an array was loaded as a string (error %v)", err)
	}
}

func TestConnectionsNeverExceedTheBudget(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	database := cluster.CreateDatabase(t, "")
	role := "budget_" + database
	cluster.Exec(t, database, "CREATE ROLE "+role+" LOGIN SUPERUSER; CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 1000)")
	t.Cleanup(func() { cluster.Exec(t, "postgres", "DROP ROLE "+role) })
	for _, budget := range []int{2, 3} {
		server := testServer(t, cluster, role, func(c *ServerConfig) { c.Connections = budget })
		ctx, stop := context.WithCancel(t.Context())
		watcher := cluster.Connect(t, "postgres")
		var most int
		var watching sync.WaitGroup
		watching.Go(func() {
			for ctx.Err() == nil {
				var now int
				if err := watcher.QueryRow(context.Background(), "select count(*)::int from pg_stat_activity, pg_sleep(0.002) where usename = $1", role).Scan(&now); err != nil {
					t.Error(err)
					return
				}
				most = max(most, now)
			}
		})
		var work sync.WaitGroup
		for range 3 {
			work.Go(func() {
				for range 3 {
					snapshot, err := server.OpenSnapshot(t.Context(), database, SnapshotOptions{})
					if err != nil {
						t.Error(err)
						return
					}
					var readers sync.WaitGroup
					for range 3 {
						readers.Go(func() {
							reader, err := snapshot.NewReader(t.Context())
							if err != nil {
								t.Error(err)
								return
							}
							for table, err := range snapshot.Tables(t.Context()) {
								if err != nil {
									t.Error(err)
									return
								}
								if _, err := reader.ReadBlocks(t.Context(), &table, 0, OpenEnd, &memorySink{}); err != nil {
									t.Error(err)
								}
							}
							reader.Close(t.Context())
						})
					}
					readers.Go(func() {
						if _, err := snapshot.SchemaArchive(t.Context(), io.Discard); err != nil {
							t.Error(err)
						}
					})
					readers.Wait()
					if _, err := snapshot.Reading(t.Context()); err != nil {
						t.Error(err)
					}
					snapshot.Close(t.Context())
				}
			})
		}
		work.Wait()
		stop()
		watching.Wait()
		if most > budget || most < 2 {
			t.Errorf("the server saw %d connections, the budget is %d", most, budget)
		}
		if len(server.tokens) != budget {
			t.Errorf("%d of %d places were given back", len(server.tokens), budget)
		}
	}
}

func TestPlaceInTheBudgetReturnsWhenTheServerEndsTheSession(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	server := testServer(t, cluster, "", func(c *ServerConfig) { c.Connections = 2 })
	for range 5 {
		conn, err := server.Connect(t.Context(), "postgres")
		if err != nil {
			t.Fatal(err)
		}
		cluster.Exec(t, "postgres", fmt.Sprintf("select pg_terminate_backend(%d)", conn.PgConn().PID()))
		if _, err := conn.Exec(t.Context(), "select 1"); err == nil {
			t.Fatal("the session lives")
		}
		<-conn.PgConn().CleanupDone()
	}
	if _, err := server.Connect(t.Context(), "no such database"); err == nil || strings.Contains(err.Error(), "user=") {
		t.Errorf("got %v", err)
	}
	if len(server.tokens) != 2 {
		t.Errorf("%d of 2 places are free", len(server.tokens))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	<-server.tokens
	<-server.tokens
	if _, err := server.Connect(ctx, "postgres"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a free place: got %v", err)
	}
}

func TestToolsAreChosenByMajorThenTheNextNewer(t *testing.T) {
	dir := t.TempDir()
	fake := func(name, version string) string {
		bin := filepath.Join(dir, name)
		if err := os.MkdirAll(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, tool := range []string{"pg_dump", "pg_restore"} {
			if err := os.WriteFile(filepath.Join(bin, tool), []byte("#!/bin/sh\necho '"+tool+" (PostgreSQL) "+version+" (Debian x)'\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return bin
	}
	t.Setenv("PATH", fake("path", "16.2"))
	found, err := FindTools([]string{fake("a", "99.1"), fake("b", "98beta1")})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 3 || found[0].Version != "99.1" || found[1].Major != 98 {
		t.Fatalf("found %+v", found)
	}
	for major, want := range map[int]int{97: 98, 98: 98, 99: 99} {
		if chosen, err := ChooseTools(found, major); err != nil || chosen.Major != want {
			t.Errorf("for server %d: got %d (%v), want %d", major, chosen.Major, err, want)
		}
	}
	_, err = ChooseTools([]Tools{{Major: 15, Version: "15.14", Dir: "/x"}}, 17)
	var none *ToolsError
	if !errors.As(err, &none) || !strings.Contains(err.Error(), "15.14 in /x") || !strings.Contains(err.Error(), "postgresql-client-17") {
		t.Errorf("got %v", err)
	}
	if _, err := FindTools([]string{filepath.Join(dir, "nothing")}); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("a directory named by the operator without pg_dump: got %v", err)
	}
}

func TestToolsGetNoSecretOnTheCommandLine(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	t.Setenv("PGOPTIONS", "-c search_path=trap")
	server := testServer(t, cluster, "", func(c *ServerConfig) { c.Password = "sekret" })
	cmd, err := server.CommandContext(t.Context(), "psql", "post'gres", "-c", "select 1")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.Join(cmd.Args, " "), "sekret") || !strings.Contains(strings.Join(cmd.Env, "\n"), "PGPASSWORD=sekret") || strings.Contains(strings.Join(cmd.Env, "\n"), "trap") {
		t.Errorf("arguments %q", cmd.Args)
	}
	cmd, err = server.CommandContext(t.Context(), "psql", "postgres", "-XAtc",
		"select current_setting('array_nulls') || current_setting('DateStyle') || current_setting('restrict_nonsystem_relation_kind') || current_user")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "onISO, MDYpostgres" {
		t.Errorf("psql: %v: %s", err, out)
	}
}

func TestErrorsKeepTheServersCodeAndNoData(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	conn, err := testServer(t, cluster, "", nil).ConnectRestore(t.Context(), "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(t.Context(), conn)
	for _, sql := range []string{
		"select 'sekret'::text::int",
		"do $$ begin raise exception 'sekret'; end $$",
		"create temp table u (id text primary key); insert into u values ('sekret'); insert into u values ('sekret')",
	} {
		err := ServerError(execute(t.Context(), conn, sql))
		if err == nil || strings.Contains(err.Error(), "sekret") || !strings.Contains(err.Error(), "SQLSTATE") {
			t.Errorf("%s: got %v", sql, err)
		}
		if !hasState(err, "22P02", "P0001", "23505") {
			t.Errorf("%s: the code is lost", sql)
		}
	}
	if err := ServerError(pgx.ErrNoRows); err != pgx.ErrNoRows { //nolint:errorlint // the very same error
		t.Errorf("an error that is not the server's was changed: %v", err)
	}
}
