package postgres

import (
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv"
)

// Planning a query evaluates what is constant in the expressions of a table's indexes and statistics, with the rights of whoever
// asks: a tenant's function must not get the reading role's.
func TestFunctionsInIndexesAndStatisticsDoNotRunWithTheReadersRights(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		tenant, reader := "tenant_"+database, "reader_"+database
		cluster.Exec(t, database, `CREATE ROLE `+tenant+` LOGIN; CREATE ROLE `+reader+` LOGIN BYPASSRLS; GRANT pg_read_all_data TO `+reader+`;
CREATE SCHEMA s AUTHORIZATION `+tenant+`; ALTER DATABASE `+database+` SET constraint_exclusion = on`)
		t.Cleanup(func() {
			cluster.Exec(t, database, "DROP OWNED BY "+tenant+" CASCADE; DROP OWNED BY "+reader+"; DROP ROLE "+tenant+"; DROP ROLE "+reader)
		})
		asTenant := cluster.ConnectAs(t, tenant, database)
		// The function looks harmless to whoever creates the index, and says so when it runs as somebody else.
		if err := execute(t.Context(), asTenant, `
CREATE FUNCTION s.trap(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
begin if current_user <> '`+tenant+`' then raise exception 'ran as %', current_user using errcode = 'HV001'; end if; return i; end $$;
CREATE TABLE s.predicate (id int, gone int, text text); ALTER TABLE s.predicate DROP COLUMN gone;
INSERT INTO s.predicate SELECT i, 'row '||i FROM generate_series(1, 3000) i;
CREATE INDEX ON s.predicate (id) WHERE s.trap(1) = 1;
CREATE TABLE s.expression (id int); INSERT INTO s.expression VALUES (1); CREATE INDEX ON s.expression ((id + s.trap(1)));
CREATE TABLE s.statistic (id int); INSERT INTO s.statistic VALUES (1); CREATE STATISTICS s.st ON (id + s.trap(1)) FROM s.statistic;
CREATE TABLE s.checked (id int CHECK (s.trap(1) = 1)); INSERT INTO s.checked VALUES (1);
CREATE TABLE s.no_columns (id int); INSERT INTO s.no_columns VALUES (1), (2); CREATE INDEX ON s.no_columns ((s.trap(1)));
ALTER TABLE s.no_columns DROP COLUMN id;
CREATE TABLE s.plain (id int, t text); INSERT INTO s.plain VALUES (1, 'a'); CREATE INDEX ON s.plain (lower(t)) WHERE id > 0`); err != nil {
			t.Fatal(err)
		}
		snapshot := openSnapshot(t, testServer(t, cluster, reader, nil), database, SnapshotOptions{})
		rows := newReader(t, snapshot)
		whole := map[string]bool{"predicate": true, "expression": true, "statistic": true, "no_columns": true, "checked": false, "plain": false}
		for _, table := range allTables(t, snapshot) {
			want, ours := whole[string(table.Name)]
			if !ours {
				continue
			}
			delete(whole, string(table.Name))
			if table.ReadWhole != want || table.HasBlocks() == want {
				t.Errorf("%s: read whole %v, want %v", table.Name, table.ReadWhole, want)
			}
			sink := &memorySink{}
			var count int64
			var err error
			if table.HasBlocks() {
				count, err = rows.ReadBlocks(t.Context(), &table, 0, OpenEnd, sink)
			} else {
				count, err = rows.ReadStream(t.Context(), &table, sink)
			}
			if err != nil {
				t.Fatalf("%s: %v", table.Name, err)
			}
			if table.Name == "predicate" && (count != 3000 || !strings.HasPrefix(sink.blocks[0], "1\trow 1\n2\trow 2\n")) {
				t.Errorf("predicate: %d rows, beginning with %.20q", count, sink.blocks[0])
			}
			if table.Name == "no_columns" && (count != 2 || sink.blocks[0] != "\n\n") {
				t.Errorf("no_columns: %d rows %q", count, sink.blocks[0])
			}
		}
		if len(whole) > 0 {
			t.Errorf("not read: %v", whole)
		}
	})
}

func TestServerThatHidesDamageIsRefused(t *testing.T) {
	for _, setting := range []string{"zero_damaged_pages", "ignore_checksum_failure"} {
		cluster := testenv.StartPostgres(t, 17, testenv.WithSetting(setting, "on"))
		_, err := testServer(t, cluster, "", nil).OpenSnapshot(t.Context(), "postgres", SnapshotOptions{})
		if err == nil || !strings.Contains(err.Error(), setting+" is on") {
			t.Errorf("%s: got %v, want it refused by name", setting, err)
		}
	}
}
