package endtoend_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/testenv"
)

// everything are the files of the fixture in the order in which they run in one database.
var everything = []string{"types.sql", "structure.sql", "reading.sql", "code.sql", "security.sql", "names.sql", "replication.sql", "database.sql"}

// fixtureName is the name of the database with everything.
const fixtureName = `fx "odd" \ 'näme' %s=?`

// fixtureOptions are those of CREATE DATABASE for it.
const fixtureOptions = ` TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8' TABLESPACE "fx Other \ space"`

// sourceWarnings and targetWarnings are all that may be said of the fixture, by a superuser's backup and restore.
var (
	sourceWarnings = []string{"foreign_table_rows_not_captured"}
	targetWarnings = []string{"subscription_disabled", "table_not_analyzed"}
)

// dumpArguments leave the rows of trees out in which the partition of a row depends on oids; properties compares them.
var dumpArguments = []string{"--exclude-table-data=hashed.*"}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// startServers starts a cluster of each version with the fixture's roles and tablespaces.
func startServers(t *testing.T, majors ...int) map[int]*testenv.Cluster {
	t.Helper()
	clusters := make(map[int]*testenv.Cluster)
	for _, major := range majors {
		clusters[major] = startCluster(t, major)
		fixture(t, clusters[major], "postgres", "cluster.sql")
	}
	return clusters
}

func makeFixture(t *testing.T, cluster *testenv.Cluster) {
	t.Helper()
	cluster.Exec(t, "postgres", "CREATE DATABASE "+quote(fixtureName)+fixtureOptions)
	fixture(t, cluster, fixtureName, everything...)
}

func TestRestoredDatabaseEqualsTheOriginal(t *testing.T) {
	clusters := startServers(t, testenv.Majors()...)
	for _, c := range []struct {
		source  int
		store   func(t *testing.T) opener
		targets []int
	}{
		{18, directory, []int{18}},
		{15, func(t *testing.T) opener { return bucket(t, testenv.VersityGW(t), objectstore.SSENone) }, []int{15, 17, 18}},
		{17, func(t *testing.T) opener { return bucket(t, testenv.MinIO(t), objectstore.SSEKMS) }, []int{17}},
	} {
		t.Run(fmt.Sprintf("from %d", c.source), func(t *testing.T) {
			vault := newVault(t, c.store(t))
			source := clusters[c.source]
			makeFixture(t, source)
			snapshot := vault.backup(t, newServer(t, source, "postgres"), fixtureName)
			checkWarnings(t, "backup", snapshot.manifest.Warnings, sourceWarnings...)
			for _, major := range c.targets {
				t.Run(fmt.Sprintf("to %d", major), func(t *testing.T) {
					target := clusters[major]
					before := roles(t, target)
					result := vault.restore(t, snapshot, newServer(t, target, "postgres"), fmt.Sprintf("restored of %d", c.source))
					expected := targetWarnings
					if major != c.source {
						expected = append(slices.Clone(expected), "extension_version")
					}
					checkWarnings(t, "restore", result.Warnings, expected...)
					if report := differences(before, roles(t, target)); report != "" {
						t.Errorf("the restore changed the server's roles: %s", report)
					}
					compare(t, source, fixtureName, target, result.Database)
				})
			}
		})
	}
	t.Run("differences would be found", func(t *testing.T) { checkMutationsAreFound(t, clusters[18], "restored of 18") })
}

// compare holds a restored database against its original, and makes sure that there was something to compare.
//
// On a server of another version the same definition prints differently: names of columns in views are no longer
// qualified, ALL holds one privilege more, NOT NULL has a name. There the rows, sequences and large objects are those of
// the original, and the definitions those that pg_dump and pg_restore bring over.
func compare(t *testing.T, source *testenv.Cluster, original string, target *testenv.Cluster, restored string) {
	t.Helper()
	got := dump(t, target, target, restored, dumpArguments...)
	checkSubstance(t, got)
	if source.Major() == target.Major() {
		if report := differences(dump(t, target, source, original, dumpArguments...), got); report != "" {
			t.Errorf("pg_dump of the restored database differs: %s", report)
		}
	} else {
		data := append([]string{"--section=data"}, dumpArguments...)
		if report := differences(dump(t, target, source, original, data...), dump(t, target, target, restored, data...)); report != "" {
			t.Errorf("the rows of the restored database differ: %s", report)
		}
		reference := fmt.Sprintf("reference of %d", source.Major())
		target.Exec(t, "postgres", "CREATE DATABASE "+quote(reference)+fixtureOptions)
		schemaByPostgres(t, source, original, target, reference)
		if report := differences(dump(t, target, target, reference, "--schema-only"), dump(t, target, target, restored, "--schema-only")); report != "" {
			t.Errorf("the definitions of the restored database are not those that pg_dump and pg_restore bring: %s", report)
		}
	}
	wantProperties, gotProperties := properties(t, source, original), properties(t, target, restored)
	if report := differences(wantProperties, gotProperties); report != "" {
		t.Errorf("properties of the restored database differ: %s", report)
	}
	if least := 600; len(gotProperties) < least {
		t.Errorf("only %d properties were compared, at least %d are expected", len(gotProperties), least)
	}
}

// checkSubstance fails when a dump of the fixture lacks what the comparison is about.
func checkSubstance(t *testing.T, lines []string) {
	t.Helper()
	size := 0
	beginnings := make(map[string]int)
	for _, line := range lines {
		size += len(line) + 1
		for _, kind := range []string{"COPY ", "CREATE TABLE ", "CREATE INDEX ", "GRANT ", "COMMENT ON ", "SELECT pg_catalog.setval(", "REFRESH MATERIALIZED VIEW "} {
			if strings.HasPrefix(line, kind) {
				beginnings[kind]++
			}
		}
	}
	if least := 4 << 20; size < least {
		t.Errorf("the dump has only %d bytes, at least %d are expected", size, least)
	}
	for kind, least := range map[string]int{
		"COPY ": 70, "CREATE TABLE ": 85, "CREATE INDEX ": 12, "GRANT ": 25, "COMMENT ON ": 40, "SELECT pg_catalog.setval(": 15, "REFRESH MATERIALIZED VIEW ": 5,
	} {
		if beginnings[kind] < least {
			t.Errorf("the dump has %d lines that begin with %q, at least %d are expected", beginnings[kind], kind, least)
		}
	}
	text := strings.Join(lines, "\n")
	for _, topic := range []string{
		"\tNaN\t", "\t-0\t", "\tInfinity\t", "4713-01-01 BC", "infinity", `\\.`, `\\x000102030405`, "CREATE TYPE types.mood AS ENUM", "CREATE DOMAIN types.short", "AS RANGE (",
		"GENERATED ALWAYS AS IDENTITY", "GENERATED BY DEFAULT AS IDENTITY", "STORED", "INHERITS (", "PARTITION BY HASH", "ATTACH PARTITION", "DEFERRABLE INITIALLY DEFERRED", "NOT VALID", "EXCLUDE USING gist",
		"CREATE UNLOGGED TABLE", "WITH NO DATA", "FORCE ROW LEVEL SECURITY", "CREATE POLICY", "CREATE RULE", "DISABLE TRIGGER", "ENABLE ALWAYS TRIGGER", "ENABLE REPLICA TRIGGER", "CREATE EVENT TRIGGER", "ALTER EVENT TRIGGER fx_off DISABLE",
		"CREATE PUBLICATION fx_some", "CREATE SUBSCRIPTION fx_sub", "CREATE FOREIGN TABLE", "CREATE USER MAPPING FOR fx_app", "CREATE EXTENSION IF NOT EXISTS hourvault_fixture", "COPY fixture_ext.setting", "ALTER DEFAULT PRIVILEGES", "GRANT SELECT(a)",
		"CREATE STATISTICS", "REPLICA IDENTITY FULL", "CREATE COLLATION", "CREATE TEXT SEARCH CONFIGURATION", "CREATE OPERATOR ", "CREATE OPERATOR CLASS", "CREATE CAST", "CREATE AGGREGATE", "CREATE PROCEDURE", "CLUSTER ON", "SET default_tablespace = fx_space",
		"SET default_table_access_method = heap2", "SECURITY DEFINER", "lo_create('4294967295')", "ALTER LARGE OBJECT 70002 OWNER TO fx_owner", "ON LARGE OBJECT 70002", "COMMENT ON LARGE OBJECT 70001", "CREATE CONVERSION", "CREATE ACCESS METHOD heap2",
		"REVOKE ALL ON TABLE security.revoked FROM fx_owner", `"ünïcode_name_that_is_sixty_three_bytes_long_xxxxxxxxxxxxxxxxx"`,
	} {
		if !strings.Contains(text, topic) {
			t.Errorf("the dump does not hold %q", topic)
		}
	}
}

// checkMutationsAreFound changes one thing after another in a restored database: each must change what is compared.
func checkMutationsAreFound(t *testing.T, cluster *testenv.Cluster, database string) {
	look := func() []string {
		return slices.Concat(dump(t, cluster, cluster, database, dumpArguments...), properties(t, cluster, database))
	}
	before := look()
	for _, mutation := range []string{
		`drop publication fx_all, fx_schema`, // which would forbid to change rows without a key
		`update types.edge set t = t || ' ' where id = 9`,
		`update types.edge set f8 = 0 where id = 2`, // from -0
		`delete from types.bytes where i = 92`,
		// The same rows in another order.
		`with moved as (delete from types.lines where ctid = (select min(ctid) from types.lines) returning *) insert into types.lines select * from moved`,
		`revoke select (a) on security.secret from fx_app`,
		`select setval('structure.uncalled', -5, true)`,
		`alter table code.guarded enable trigger disabled`,
		`alter event trigger fx_off enable`,
		`comment on large object 70001 is 'another'`,
		`select lo_put(70002, 5000, 'H')`,
		`refresh materialized view structure.unpopulated`,
		`alter materialized view structure.a_third owner to fx_app`,
		`update hashed.tree set v = -1 where v = 7`,
		`alter user mapping for fx_app server fx_far options (set password 'other')`,
		`alter default privileges for role fx_owner in schema security revoke select on tables from fx_app`,
		`update fixture_ext.setting set value = 'y' where name = 'own'`,
		`alter database ` + quote(database) + ` connection limit 41`,
		`alter database ` + quote(database) + ` set array_nulls = on`,
		`alter role fx_setting in database ` + quote(database) + ` set work_mem = '8MB'`,
		`revoke create on database ` + quote(database) + ` from fx_grantor cascade`,
		`comment on database ` + quote(database) + ` is ''`,
	} {
		execute(t, cluster, database, mutation)
		after := look()
		if differences(before, after) == "" {
			t.Errorf("the comparison does not see: %s", mutation)
		}
		before = after
	}
}
