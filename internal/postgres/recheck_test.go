package postgres

import (
	"errors"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv"
)

func TestRecheckSeesNamesThatWereSwappedAndSwappedBack(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (v text); CREATE TABLE b.t (v text); INSERT INTO a.t VALUES ('of a'); INSERT INTO b.t VALUES ('of b')")
		const swap = "ALTER SCHEMA a RENAME TO x; ALTER SCHEMA b RENAME TO a; ALTER SCHEMA x RENAME TO b"
		snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
		cluster.Exec(t, database, swap)
		if got := readTable(t, snapshot, "a", "t"); got != "of b\n" {
			t.Fatalf("a.t while the names are swapped: got %q: the test does not reach its case", got)
		}
		cluster.Exec(t, database, swap)
		var unsettled *UnsettledError
		if _, err := snapshot.Reading(t.Context()); !errors.As(err, &unsettled) || !strings.Contains(err.Error(), "schema") {
			t.Errorf("after swapping back: got %v, want an UnsettledError", err)
		}
	})
}

func TestRecheckSeesRenamesBackOfLabelsAndAttributes(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	for change, want := range map[string]string{
		"ALTER TYPE s.mood RENAME VALUE 'sad' TO 'x'; ALTER TYPE s.mood RENAME VALUE 'x' TO 'sad'":        "s.mood",
		"ALTER TYPE s.pair RENAME ATTRIBUTE a TO x; ALTER TYPE s.pair RENAME ATTRIBUTE x TO a":            "s.pair",
		"GRANT SELECT ON s.t TO pg_monitor; CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'": "",
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

func TestRecheckSeesRenamesOfWhatColumnsPrint(t *testing.T) {
	const objects = `CREATE SCHEMA s; CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW s.v AS SELECT 1 AS one;
CREATE TYPE s.mood AS ENUM ('sad'); CREATE SCHEMA empty; CREATE TEXT SEARCH DICTIONARY s.d (TEMPLATE = simple);
CREATE TEXT SEARCH CONFIGURATION s.c (COPY = simple); CREATE COLLATION s.l (LOCALE = 'C');
CREATE OPERATOR s.@#@ (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int); `
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		for column, prints := range map[string]bool{"regproc": true, "regclass[]": true, "s.deep": true, "aclitem": true, "text": false} {
			t.Run(column, func(t *testing.T) {
				database := cluster.CreateDatabase(t, "")
				role := "role_of_" + database
				cluster.Exec(t, database, objects+"CREATE DOMAIN s.level AS regtype; CREATE TYPE s.deep AS (a int, b s.level[]); CREATE TABLE s.t (r "+column+"); CREATE ROLE "+role)
				defer cluster.Exec(t, database, "DROP ROLE IF EXISTS "+role+", renamed_"+role)
				for _, change := range []struct {
					sql    string
					counts bool
				}{
					{"ALTER FUNCTION s.f RENAME TO g", true},
					{"ALTER FUNCTION s.g RENAME TO h; ALTER FUNCTION s.h RENAME TO g", true},
					{"ALTER VIEW s.v RENAME TO w", true},
					{"DROP VIEW s.w", true},
					{"ALTER TYPE s.mood RENAME TO temper", true},
					{"ALTER SCHEMA empty RENAME TO void", true},
					{"ALTER TEXT SEARCH DICTIONARY s.d SET SCHEMA void", true},
					{"ALTER TEXT SEARCH CONFIGURATION s.c RENAME TO k", true},
					{"ALTER COLLATION s.l RENAME TO m", true},
					{"ALTER OPERATOR s.@#@ (int, int) SET SCHEMA void", true},
					{"ALTER ROLE " + role + " RENAME TO renamed_" + role, true},
					{"CREATE TABLE s.later (id int); CREATE FUNCTION s.later() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TEMP TABLE x (id int)", false},
				} {
					snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
					cluster.Exec(t, database, change.sql)
					err := snapshot.Recheck(t.Context())
					var unsettled *UnsettledError
					if want := prints && change.counts; errors.As(err, &unsettled) != want || !want && err != nil {
						t.Errorf("after %s: got %v, want an error: %v", change.sql, err, want)
					}
					snapshot.Close(t.Context())
				}
			})
		}
	})
}
