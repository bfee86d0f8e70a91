package postgres

import (
	"testing"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/testenv"
)

// Hazard 1.2 in docs/hazards.md: pg_dump prints neither an extension's version nor what belongs to it, and an update may
// change what its types print without touching a block.
func TestUpdateOfAnExtensionChangesTheShapeOfTablesWithItsTypes(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, `
CREATE EXTENSION hstore VERSION '1.4';
CREATE TYPE mood AS ENUM ('sad', 'ok'); ALTER EXTENSION hstore ADD TYPE mood;
CREATE DOMAIN moods AS mood[]; CREATE TYPE pair AS (a hstore, b int);
CREATE TABLE direct (v hstore); INSERT INTO direct VALUES ('a=>1');
CREATE TABLE deep (v pair[]); CREATE TABLE member (v moods); CREATE TABLE apart (id int, v text)`)
		server := testServer(t, cluster, "", nil)
		describe := func() map[catalog.Text]*catalog.Table {
			tables := make(map[catalog.Text]*catalog.Table)
			for _, name := range []catalog.Text{"direct", "deep", "member", "apart"} {
				tables[name] = describeTable(t, server, database, name)
			}
			return tables
		}
		before := describe()
		cluster.Exec(t, database, "ALTER EXTENSION hstore UPDATE TO '1.8'")
		after := describe()
		for name := range before {
			same := encode(t, before[name].Shape) == encode(t, after[name].Shape)
			if same != (name == "apart") {
				t.Errorf("%s: shape before the update\n%s\nand after\n%s", name, encode(t, before[name].Shape), encode(t, after[name].Shape))
			}
			if before[name].RelFileNode != after[name].RelFileNode {
				t.Errorf("%s: the update rewrote the table, so the case shows nothing", name)
			}
		}
	})
}
