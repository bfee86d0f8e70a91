package endtoend_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv"
	"github.com/hourvault/hourvault/restore"
)

// checkSame compares what pg_dump and the properties say of two databases of one cluster, and returns the dump's size.
func checkSame(t *testing.T, cluster *testenv.Cluster, original, restored string) int {
	t.Helper()
	want, got := dump(t, cluster, cluster, original), dump(t, cluster, cluster, restored)
	if report := differences(want, got); report != "" {
		t.Errorf("pg_dump of the restored database differs: %s", report)
	}
	if report := differences(properties(t, cluster, original), properties(t, cluster, restored)); report != "" {
		t.Errorf("properties of the restored database differ: %s", report)
	}
	size := 0
	for _, line := range got {
		size += len(line) + 1
	}
	return size
}

func TestDatabaseKeepsItsEncodingAndLocale(t *testing.T) {
	const latin = "caf\xe9 \xff" // no UTF-8
	for _, c := range []struct {
		name, options, fixture string
		majors                 []int
	}{
		{latin + " sql", "ENCODING 'SQL_ASCII' LOCALE 'C'", "encoding.sql", []int{15, 18}},
		{latin + " latin", "ENCODING 'LATIN1' LOCALE 'C'", "encoding.sql", []int{15, 17}},
		{"wörter icu", "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE-u-co-phonebk' LOCALE 'C.UTF-8'", "locale.sql", []int{15, 18}},
		{"rules", "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'und' ICU_RULES '&z < a' LOCALE 'C'", "locale.sql", []int{17}},
		{"builtin", "ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'", "locale.sql", []int{17}},
		{"builtin full", "ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST' LOCALE 'C'", "locale.sql", []int{18}},
		{"c", "ENCODING 'UTF8' LOCALE 'C'", "locale.sql", []int{18}},
	} {
		for _, major := range c.majors {
			t.Run(fmt.Sprintf("%q on %d", c.name, major), func(t *testing.T) {
				cluster := testenv.Postgres(t, major)
				// Statements with names that are no UTF-8 are sent from a database that takes any bytes.
				host := cluster.CreateDatabase(t, "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
				// The name is given from the maintenance database, whose encoding it must fit.
				into := strings.ToValidUTF8(c.name, "_") + " restored"
				for _, name := range []string{c.name, into} {
					t.Cleanup(func() { cluster.Exec(t, host, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)") })
				}
				cluster.Exec(t, host, "CREATE DATABASE "+quote(c.name)+" TEMPLATE template0 "+c.options)
				fixture(t, cluster, c.name, c.fixture)
				vault, server := newVault(t, directory(t)), newServer(t, cluster, "postgres")
				snapshot := vault.backup(t, server, c.name)
				checkWarnings(t, "backup", snapshot.manifest.Warnings)
				checkWarnings(t, "restore", vault.restore(t, snapshot, server, into).Warnings)
				if size := checkSame(t, cluster, c.name, into); size < 1500 {
					t.Errorf("only %d bytes of pg_dump's output were compared", size)
				}
			})
		}
	}
}

// TestValueOf100MillionBytesComesBack goes the whole way with one row that is larger than everything else's bounds, and
// never has it in memory.
func TestValueOf100MillionBytesComesBack(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	database := cluster.CreateDatabase(t, "TEMPLATE template0")
	// Its beginning recurs every 16 kB: compressing something random takes minutes under the race detector.
	const size = 100_000_000 + 2*16
	execute(t, cluster, database, fmt.Sprintf(`
		create table public.large (id int, before text, b bytea, after text);
		alter table public.large alter b set storage external;
		insert into public.large values (1, 'before', '\x00', 'after');
		insert into public.large select 2, 'before', decode(md5('begins')||repeat(string_agg(md5(i::text), '' order by i), %d)||md5('ends'), 'hex'), 'after' from generate_series(1, 1000) i;
		insert into public.large values (3, '', '', NULL)`, size/16_000))
	if got := query(t, cluster, database, "select octet_length(b)::text from public.large where id = 2"); got[0] != fmt.Sprint(size) {
		t.Fatalf("the value has %s bytes", got[0])
	}
	vault, server := newVault(t, directory(t)), newServer(t, cluster, "postgres")
	var snapshot taken
	checkMemory(t, "backup", size, func() { snapshot = vault.backup(t, server, database) })
	into := database + "_restored"
	t.Cleanup(func() { cluster.Exec(t, "postgres", "DROP DATABASE IF EXISTS "+into+" WITH (FORCE)") })
	checkMemory(t, "restore", size, func() { vault.restore(t, snapshot, server, into) })
	const all = "select * from public.large"
	if want, got := contentDigest(t, cluster, database, all), contentDigest(t, cluster, into, all); got != want {
		t.Errorf("restored rows: %s, want %s", got, want)
	}
}

// TestNameThatTheServerCannotGiveIsRefusedBeforehand: the name is given last, when everything was loaded.
func TestNameThatTheServerCannotGiveIsRefusedBeforehand(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	database := cluster.CreateDatabase(t, "TEMPLATE template0")
	vault, server := newVault(t, directory(t)), newServer(t, cluster, "postgres")
	snapshot := vault.backup(t, server, database)
	err := vault.tryRestore(t, snapshot, server, "caf\xe9")
	refused, ok := errors.AsType[*restore.PreflightError](err)
	if !ok {
		t.Fatalf("restore: %v, want a *restore.PreflightError", err)
	}
	if len(refused.Problems) != 1 || refused.Problems[0].Code != "name" {
		t.Errorf("problems: %+v", refused.Problems)
	}
}
