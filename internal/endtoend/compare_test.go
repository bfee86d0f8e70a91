package endtoend_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/testenv"
)

// ownSettings are in force in every session of the tests and of the judge, whatever the database brings: they override
// what the fixture sets to hurt.
var ownSettings = []string{
	"role=none", "statement_timeout=0", "default_transaction_read_only=off", "array_nulls=on", "xmloption=content", "bytea_output=hex",
	"standard_conforming_strings=on", "session_replication_role=origin", "default_transaction_isolation=read\\ committed",
	"search_path=pg_catalog", "datestyle=ISO", "intervalstyle=postgres", "timezone=UTC", "extra_float_digits=3",
}

// connect opens a session of the superuser in which bytes are not converted.
func connect(t *testing.T, cluster *testenv.Cluster, database string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(cluster.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams = map[string]string{"options": "-c " + strings.Join(ownSettings, " -c "), "client_encoding": "SQL_ASCII"}
	config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// fixture runs files of testdata in a database, with psql.
func fixture(t *testing.T, cluster *testenv.Cluster, database string, files ...string) {
	t.Helper()
	for _, file := range files {
		cmd := exec.CommandContext(t.Context(), filepath.Join(cluster.BinDir(), "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "db="+database,
			"-o", "/dev/null", "-f", filepath.Join("testdata", file), cluster.DSN(database))
		cmd.Env = []string{
			"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", fmt.Sprintf("FX_AT_LEAST_17=%t", cluster.Major() >= 17), fmt.Sprintf("FX_AT_LEAST_18=%t", cluster.Major() >= 18),
		}
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s on PostgreSQL %d: %v\n%s", file, cluster.Major(), err, output)
		} else if said := strings.TrimSpace(string(output)); said != "" && !strings.Contains(said, "WARNING") && !strings.Contains(said, "NOTICE") {
			t.Logf("%s: %s", file, said)
		}
	}
}

// unequalLines are the beginnings of the lines that cannot be equal in two dumps, and why.
var unequalLines = []struct{ prefix, reason string }{
	{"-- Dumped from database version ", "names the server's version, which differs when a snapshot goes to a newer server"},
	{`\restrict `, "is followed by a random token"},
	{`\unrestrict `, "is followed by a random token"},
}

// dump is what pg_dump says of a database: definitions, rows in stored order, large objects.
func dump(t *testing.T, judge, cluster *testenv.Cluster, database string, arguments ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(judge.BinDir(), "pg_dump"),
		append(append([]string{"--format=plain", "--blobs", "--encoding=SQL_ASCII"}, arguments...), "--dbname="+cluster.DSN(database))...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "PGOPTIONS=-c " + strings.Join(ownSettings, " -c ")}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("pg_dump of %q: %v\n%s", database, err, stderr.String())
	}
	var lines []string
	for line := range strings.Lines(stdout.String()) {
		if !slices.ContainsFunc(unequalLines, func(u struct{ prefix, reason string }) bool { return strings.HasPrefix(line, u.prefix) }) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// schemaByPostgres puts the definitions of a database into a new one on another server with PostgreSQL's own tools, in the
// way its manual has it: pg_dump of the source's version, pg_restore of the target's.
func schemaByPostgres(t *testing.T, source *testenv.Cluster, database string, target *testenv.Cluster, into string) {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "schema")
	for _, cmd := range []*exec.Cmd{
		exec.CommandContext(t.Context(), filepath.Join(source.BinDir(), "pg_dump"), "--format=custom", "--schema-only", "--encoding=SQL_ASCII", "--file="+archive, "--dbname="+source.DSN(database)),
		exec.CommandContext(t.Context(), filepath.Join(target.BinDir(), "pg_restore"), "--exit-on-error", "--dbname="+target.DSN(into), archive),
	} {
		cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "PGOPTIONS=-c " + strings.Join(ownSettings, " -c ")}
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd.Path, err, output)
		}
	}
}

// differences describes up to 40 lines in which two lists differ; "" when they are equal. Equal lines in another order
// are a difference.
func differences(want, got []string) string {
	if slices.Equal(want, got) {
		return ""
	}
	var report strings.Builder
	shorten := func(line string) string {
		if len(line) > 300 {
			return fmt.Sprintf("%.300q... (%d bytes)", line, len(line))
		}
		return line
	}
	first := 0
	for first < min(len(want), len(got)) && want[first] == got[first] {
		first++
	}
	fmt.Fprintf(&report, "%d lines instead of %d; the first difference is in line %d, after\n", len(got), len(want), first+1)
	for _, line := range want[max(0, first-4):first] {
		fmt.Fprintf(&report, "    %s\n", shorten(line))
	}
	count := make(map[string]int)
	for _, line := range want {
		count[line]++
	}
	for _, line := range got {
		count[line]--
	}
	found := 0
	list := func(sign string, lines []string, factor int) {
		for _, line := range lines {
			if count[line]*factor > 0 && found < 40 {
				count[line] -= factor
				found++
				fmt.Fprintf(&report, "%s %s\n", sign, shorten(line))
			}
		}
	}
	list("-", want, 1)
	found = 0
	list("+", got, -1)
	if found == 0 {
		fmt.Fprintf(&report, "the lines are the same, in another order: from line %d on\n- %s\n+ %s\n", first+1, shorten(want[min(first, len(want)-1)]), shorten(got[min(first, len(got)-1)]))
	}
	return report.String()
}

// query returns the rows of a query, each as one text.
func query(t *testing.T, cluster *testenv.Cluster, database, sql string) []string {
	t.Helper()
	conn := connect(t, cluster, database)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return list
}

// properties is what pg_dump does not print without --create, and some that it never does: of the database, its
// settings, and what lies in its materialized views. The database's name is left out: a restore gives another.
func properties(t *testing.T, cluster *testenv.Cluster, database string) []string {
	t.Helper()
	locale := "''"
	switch {
	case cluster.Major() >= 17:
		locale = "concat_ws(' ', d.datlocale, d.daticurules)"
	case cluster.Major() >= 15:
		locale = "coalesce(d.daticulocale, '')"
	}
	list := query(t, cluster, database, `
		select concat_ws(' | ', 'database', pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider, `+locale+`,
			'limit', datconnlimit, 'connect', datallowconn, 'template', datistemplate, spcname, quote_nullable(shobj_description(d.oid, 'pg_database')))
		from pg_database d join pg_tablespace t on t.oid = dattablespace where datname = current_database()
		union all
		select concat_ws(' | ', 'grant', pg_get_userbyid(grantor), case grantee when 0 then 'PUBLIC' else pg_get_userbyid(grantee) end, privilege_type, is_grantable)
		from pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) where datname = current_database()
		union all
		select concat_ws(' | ', 'setting', case setrole when 0 then '' else pg_get_userbyid(setrole) end, item)
		from pg_db_role_setting, unnest(setconfig) item where setdatabase = (select oid from pg_database where datname = current_database())
		union all
		select concat_ws(' | ', 'extension', extname, extnamespace::regnamespace) from pg_extension
		union all
		select concat_ws(' | ', 'view', oid::regclass, relispopulated) from pg_class where relkind = 'm'
		union all
		select concat_ws(' | ', 'count', relkind, relpersistence, count(*)) from pg_class c join pg_namespace n on n.oid = relnamespace
		where nspname not in ('pg_catalog', 'information_schema', 'pg_toast') group by relkind, relpersistence
		union all
		select concat_ws(' | ', 'user mapping', srvname, usename, array(select unnest(umoptions) order by 1)) from pg_user_mappings
		union all
		select concat_ws(' | ', 'subscription', subname, subenabled, subslotname, subconninfo) from pg_subscription
			where subdbid = (select oid from pg_database where datname = current_database())
		order by 1`)
	for _, view := range query(t, cluster, database, `select oid::regclass::text from pg_class where relkind = 'm' and relispopulated order by 1`) {
		// They are refreshed, which may give the same rows in another order.
		list = append(list, "content of "+view+" "+contentDigest(t, cluster, database, "select * from "+view+" x order by x::text"))
	}
	// Which partition holds a row depends on oids there: the whole tree is compared, in another order.
	for _, tree := range query(t, cluster, database, `select oid::regclass::text from pg_class where relkind = 'p' and not relispartition and relnamespace::regnamespace::text = 'hashed' order by 1`) {
		list = append(list, query(t, cluster, database, "select '"+tree+" '||x::text from "+tree+" x order by x::text")...)
	}
	return list
}

// contentDigest is the number of bytes and the SHA-256 of what COPY writes for a query.
func contentDigest(t *testing.T, cluster *testenv.Cluster, database, sql string) string {
	t.Helper()
	conn := connect(t, cluster, database)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	return digestOn(t, conn, sql)
}

func digestOn(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	digest := sha256.New()
	counted := &countingWriter{}
	if _, err := conn.PgConn().CopyTo(t.Context(), io.MultiWriter(digest, counted), "COPY ("+sql+") TO STDOUT"); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return fmt.Sprintf("%d bytes %s", counted.bytes, hex.EncodeToString(digest.Sum(nil)))
}

type countingWriter struct{ bytes int64 }

func (w *countingWriter) Write(p []byte) (int, error) { w.bytes += int64(len(p)); return len(p), nil }

// roles is what a restore must leave as it was: the server's roles and memberships, and its other databases.
func roles(t *testing.T, cluster *testenv.Cluster) []string {
	t.Helper()
	return query(t, cluster, "postgres", `
		select concat_ws(' | ', rolname, rolsuper, rolinherit, rolcanlogin, rolconnlimit, rolbypassrls) from pg_roles
		union all select concat_ws(' | ', roleid::regrole, member::regrole, admin_option) from pg_auth_members order by 1`)
}
