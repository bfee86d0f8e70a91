package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/testenv"
)

// describe opens a snapshot for a moment and returns the description of a table of schema public.
func describeTable(t *testing.T, server *Server, database string, name catalog.Text) *catalog.Table {
	t.Helper()
	snapshot := openSnapshot(t, server, database, SnapshotOptions{})
	defer snapshot.Close(context.Background())
	return tableNamed(t, snapshot, "public", name)
}

func TestRowShapeDiffersWheneverRowTextMay(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, `
CREATE TYPE ct AS (a int, b int);
CREATE TYPE inner_ct AS (m int, n int); CREATE TYPE outer_ct AS (v inner_ct[]);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN moods AS mood[];
CREATE TYPE deep_range AS RANGE (subtype = mood);
CREATE TABLE x (id int, c int); INSERT INTO x SELECT g, g FROM generate_series(1, 500) g;
CREATE TABLE y (id int, v ct); INSERT INTO y VALUES (1, (1, 1));
CREATE TABLE z (v outer_ct); CREATE TABLE e (v moods); CREATE TABLE r (v deep_multirange);
CREATE TABLE g (id int, p text COLLATE "C")`)
		server := testServer(t, cluster, "", nil)
		for _, test := range []struct {
			table    catalog.Text
			ddl      string
			rowsAlso bool
		}{
			{"x", "ALTER TABLE x DROP COLUMN c; ALTER TABLE x ADD COLUMN c int", true},
			{"x", "ALTER TABLE x DROP COLUMN c; ALTER TABLE x ADD COLUMN c int DEFAULT 7; ALTER TABLE x ALTER c DROP DEFAULT", true},
			{"x", "ALTER TABLE x DROP COLUMN c; ALTER TABLE x ADD COLUMN c int DEFAULT 8; ALTER TABLE x ALTER c DROP DEFAULT", true},
			{"y", "ALTER TYPE ct DROP ATTRIBUTE b; ALTER TYPE ct ADD ATTRIBUTE b int", true},
			{"z", "ALTER TYPE inner_ct DROP ATTRIBUTE n; ALTER TYPE inner_ct ADD ATTRIBUTE n int", false},
			{"e", "ALTER TYPE mood RENAME VALUE 'sad' TO 't'; ALTER TYPE mood RENAME VALUE 'happy' TO 'sad'; ALTER TYPE mood RENAME VALUE 't' TO 'happy'", false},
			{"r", "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'", false},
			{"g", `ALTER TABLE g ALTER p TYPE text COLLATE "POSIX"`, false},
		} {
			before := describeTable(t, server, database, test.table)
			same := describeTable(t, server, database, test.table)
			if encode(t, before.Shape) != encode(t, same.Shape) {
				t.Errorf("%s: two descriptions of one table differ", test.table)
			}
			rowsBefore := rowsOf(t, server, database, test.table)
			cluster.Exec(t, database, test.ddl)
			after := describeTable(t, server, database, test.table)
			if encode(t, before.Shape) == encode(t, after.Shape) {
				t.Errorf("after %s the shape is the same: %s", test.ddl, encode(t, after.Shape))
			}
			if test.rowsAlso && (rowsOf(t, server, database, test.table) == rowsBefore || before.RelFileNode != after.RelFileNode) {
				t.Errorf("after %s: the case shows nothing: rows the same, or the file another", test.ddl)
			}
		}
	})
}

func rowsOf(t *testing.T, server *Server, database string, name catalog.Text) string {
	t.Helper()
	snapshot := openSnapshot(t, server, database, SnapshotOptions{})
	defer snapshot.Close(context.Background())
	return readTable(t, snapshot, "public", name)
}

func encode(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestShapesReachTypesAtAnyDepth(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, `
CREATE EXTENSION hstore; CREATE EXTENSION citext;
CREATE DOMAIN rels AS regclass[]; CREATE TYPE withrels AS (a int, b rels); CREATE DOMAIN h AS hstore;
CREATE TABLE plain (a int, b text, c timestamptz[]);
CREATE TABLE unstable (a withrels[]); CREATE TABLE acl (a aclitem[]); CREATE TABLE ext (a h[]);
CREATE TABLE recursive (id int); ALTER TABLE recursive ADD dropped withrels; ALTER TABLE recursive DROP dropped`)
	snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
	for table, want := range map[catalog.Text]catalog.Text{"plain": "", "unstable": "regclass", "acl": "aclitem", "ext": ""} {
		if got := tableNamed(t, snapshot, "public", table).Shape.Unstable; got != want {
			t.Errorf("%s: got unstable %q, want %q", table, got, want)
		}
	}
	var names []catalog.Text
	extension := catalog.Text("")
	shape := tableNamed(t, snapshot, "public", "ext").Shape
	for i, shape := range shape.Types {
		names = append(names, shape.Name)
		if shape.Extension != "" {
			extension = shape.Extension
		}
		if i > 0 && !(shape.OID > 0) {
			t.Error("a type without oid")
		}
	}
	if !slices.Contains(names, "h") || !slices.Contains(names, "_h") || !slices.Contains(names, "hstore") || !strings.HasPrefix(string(extension), "hstore 1.") {
		t.Errorf("got types %q, extension %q", names, extension)
	}
	if shape := tableNamed(t, snapshot, "public", "recursive").Shape; len(shape.Attributes) != 2 || !shape.Attributes[1].Dropped {
		t.Errorf("got %+v", shape)
	}
}

func TestAwkwardTablesComeOutWhole(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		virtual := ""
		if cluster.Major() >= 18 {
			virtual = ", v int GENERATED ALWAYS AS (id * 3) VIRTUAL"
		}
		cluster.Exec(t, database, `
CREATE TABLE nothing (); INSERT INTO nothing SELECT FROM generate_series(1, 3);
CREATE TABLE dropped (a int, b int, c text); INSERT INTO dropped VALUES (1, 2, E'\\.'), (2, 3, E'a\tb\nc\\d'), (3, 4, NULL), (4, 5, ''); ALTER TABLE dropped DROP b;
CREATE TABLE only_dropped (a int); INSERT INTO only_dropped VALUES (1); ALTER TABLE only_dropped DROP a;
CREATE TABLE generated (id int, g int GENERATED ALWAYS AS (id * 2) STORED, t text`+virtual+`); INSERT INTO generated (id, t) VALUES (5, 'x');
CREATE TABLE only_generated (a int GENERATED ALWAYS AS (1) STORED); INSERT INTO only_generated DEFAULT VALUES;
CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2);
CREATE TABLE part (a int) PARTITION BY LIST (a); CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1) PARTITION BY RANGE (a); CREATE TABLE leaf PARTITION OF part1 DEFAULT; INSERT INTO part VALUES (1);
CREATE UNLOGGED TABLE unlogged (a int); INSERT INTO unlogged VALUES (9);
CREATE TABLE "odd ""name'\`+"\n"+`éé" ("select" int, "a""b\" text); INSERT INTO "odd ""name'\`+"\n"+`éé" VALUES (1, 'q');
CREATE TABLE `+strings.Repeat("n", 63)+` (a int); INSERT INTO `+strings.Repeat("n", 63)+` VALUES (63);
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE other (a int) USING heap2; INSERT INTO other SELECT generate_series(1, 3); CREATE TABLE none () USING heap2; INSERT INTO none DEFAULT VALUES;
CREATE TEMP TABLE temporary (a int); CREATE VIEW view AS SELECT 1; CREATE MATERIALIZED VIEW matview AS SELECT 1;
SELECT lo_from_bytea(4711, '\x0102');`)
		server := testServer(t, cluster, "", nil)
		snapshot := openSnapshot(t, server, database, SnapshotOptions{})
		reader := newReader(t, snapshot)
		want := map[catalog.Text]string{
			"nothing": "\n\n\n", "dropped": "1\t\\\\.\n2\ta\\tb\\nc\\\\d\n3\t\\N\n4\t\n", "only_dropped": "\n", "generated": "5\tx\n", "only_generated": "\n",
			"parent": "1\n", "child": "2\n", "leaf": "1\n", "unlogged": "9\n", "odd \"name'\\\néé": "1\tq\n", catalog.Text(strings.Repeat("n", 63)): "63\n",
			"other": "1\n2\n3\n", "none": "\n", "pg_largeobject": "4711\t0\t\\\\x0102\n",
		}
		count, last := 0, catalog.OID(0)
		for table, err := range snapshot.Tables(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			count++
			if table.OID <= last {
				t.Errorf("%s: oids do not rise", table.Name)
			}
			last = table.OID
			var sink memorySink
			var rows int64
			if table.AccessMethod == catalog.HeapAccessMethod {
				rows, err = reader.ReadBlocks(t.Context(), &table, 0, max(table.Blocks, 1), &sink)
			} else {
				rows, err = reader.ReadStream(t.Context(), &table, &sink)
				if _, refused := reader.ReadBlocks(t.Context(), &table, 0, 1, &sink); refused == nil {
					t.Errorf("%s: blocks of another access method were read", table.Name)
				}
			}
			expected, known := want[table.Name]
			if err != nil || !known || sink.all() != expected || rows != int64(strings.Count(expected, "\n")) {
				t.Errorf("%s: got %d rows %q, error %v, want %q", table.Name, rows, sink.all(), err, expected)
			}
			if (table.Persistence == "u") != (table.Name == "unlogged") || table.Owner != "postgres" || table.Tablespace == 0 || table.RelFileNode == 0 {
				t.Errorf("%s: got %+v", table.Name, table)
			}
			if (table.Kind == catalog.KindLargeObjects) != (table.Name == "pg_largeobject") {
				t.Errorf("%s: kind %s", table.Name, table.Kind)
			}
		}
		if count != len(want) || snapshot.TableCount() != count {
			t.Errorf("got %d tables, TableCount %d, want %d", count, snapshot.TableCount(), len(want))
		}
	})
}

func TestRangesReadByTidRangeScanAndMeetWithoutGapOrOverlap(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE TABLE t (id int, pad text); INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 5000) g; DELETE FROM t WHERE id % 3 = 0 OR id BETWEEN 1000 AND 1500")
		cluster.Exec(t, "postgres", "ALTER DATABASE "+database+" SET enable_tidscan = off; ALTER DATABASE "+database+" SET max_parallel_workers_per_gather = 4; ALTER DATABASE "+database+" SET parallel_setup_cost = 0; ALTER DATABASE "+database+" SET parallel_tuple_cost = 0; ALTER DATABASE "+database+" SET min_parallel_table_scan_size = 0")
		snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
		table, reader := tableNamed(t, snapshot, "public", "t"), newReader(t, snapshot)
		var whole, ranges memorySink
		if _, err := reader.ReadBlocks(t.Context(), table, 0, OpenEnd, &whole); err != nil {
			t.Fatal(err)
		}
		for from := uint32(0); from < table.Blocks; from += 13 {
			if _, err := reader.ReadBlocks(t.Context(), table, from, min(from+13, table.Blocks), &ranges); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(whole.order, ranges.order) || whole.all() != ranges.all() || len(whole.order) < 100 {
			t.Errorf("ranges: %d blocks, whole: %d", len(ranges.order), len(whole.order))
		}
		for block, content := range whole.blocks {
			if ranges.blocks[block] != content {
				t.Errorf("block %d differs", block)
			}
		}
		rows, err := reader.conn.Query(t.Context(), "explain (costs off) select ctid, id from only public.t where ctid >= '(5,0)' and ctid < '(6,0)'")
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || !strings.HasPrefix(plan[0], "Tid Range Scan") {
			t.Errorf("plan: %q, %v", plan, err)
		}
	})
}

func TestConfigurationTablesOfExtensionsAreReadByTheirConditionInOrder(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	database := cluster.CreateDatabase(t, "")
	// What CREATE EXTENSION of a packaged extension would leave behind.
	cluster.Exec(t, database, `
CREATE EXTENSION hstore;
CREATE TABLE config (id int PRIMARY KEY, pad text); CREATE TABLE whole (id int); CREATE TABLE internal (id int); CREATE TABLE empty (id int);
INSERT INTO config SELECT g, repeat('x', 300) FROM generate_series(2000, 1, -1) g; INSERT INTO whole VALUES (1); INSERT INTO internal VALUES (1);
ALTER EXTENSION hstore ADD TABLE config; ALTER EXTENSION hstore ADD TABLE whole; ALTER EXTENSION hstore ADD TABLE internal; ALTER EXTENSION hstore ADD TABLE empty;
UPDATE pg_extension SET extconfig = array['config'::regclass::oid, 'whole'::regclass::oid], extcondition = array['WHERE id > 1990', ''] WHERE extname = 'hstore';
ANALYZE`)
	snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
	table := tableNamed(t, snapshot, "public", "config")
	if table.Kind != catalog.KindExtensionConfig || table.Extension != "hstore" || table.Condition != "WHERE id > 1990" {
		t.Errorf("got %+v", table)
	}
	rows := readTable(t, snapshot, "public", "config")
	if strings.Count(rows, "\n") != 10 || !strings.HasPrefix(rows, "2000\t") {
		t.Errorf("got %.300q", rows)
	}
	if got := readTable(t, snapshot, "public", "whole"); got != "1\n" {
		t.Errorf("got %q", got)
	}
	warnings := snapshot.Warnings()
	if len(warnings) != 1 || warnings[0].Code != "extension_table_not_configured" || warnings[0].Object != `"public"."internal"` {
		t.Errorf("got warnings %v", warnings)
	}
	if snapshot.TableCount() != 3 {
		t.Errorf("got %d tables, want 3", snapshot.TableCount())
	}
}

func TestTreesHashedByOIDsAreLoadedThroughTheirRoot(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, `
CREATE TYPE mood AS ENUM ('a', 'b'); CREATE DOMAIN moody AS mood; CREATE TYPE moods AS (m mood);
CREATE TABLE by_text (k text) PARTITION BY HASH (k); CREATE TABLE by_text0 PARTITION OF by_text FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE by_list (k mood) PARTITION BY LIST (k); CREATE TABLE by_list0 PARTITION OF by_list DEFAULT;
CREATE TABLE by_enum (k mood) PARTITION BY HASH (k); CREATE TABLE by_enum0 PARTITION OF by_enum FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE by_domain (k moody) PARTITION BY HASH (k); CREATE TABLE by_domain0 PARTITION OF by_domain FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE by_array (k mood[]) PARTITION BY HASH (k); CREATE TABLE by_array0 PARTITION OF by_array FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE by_record (k moods) PARTITION BY HASH (k); CREATE TABLE by_record0 PARTITION OF by_record FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE by_expression (k mood) PARTITION BY HASH ((coalesce(k, 'a'::mood))); CREATE TABLE by_expression0 PARTITION OF by_expression FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE below (i int, k mood) PARTITION BY RANGE (i); CREATE TABLE below1 PARTITION OF below DEFAULT PARTITION BY HASH (k);
CREATE TABLE below0 PARTITION OF below1 FOR VALUES WITH (MODULUS 1, REMAINDER 0); CREATE TABLE beside PARTITION OF below FOR VALUES FROM (1) TO (2)`)
	snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
	conn := cluster.Connect(t, database)
	for leaf, root := range map[catalog.Text]string{"by_text0": "", "by_list0": "", "by_enum0": "by_enum", "by_domain0": "by_domain", "by_array0": "by_array",
		"by_record0": "by_record", "by_expression0": "by_expression", "below0": "below", "beside": "below"} {
		var want catalog.OID
		if err := conn.QueryRow(t.Context(), "select coalesce(to_regclass(nullif($1, ''))::oid, 0::oid)", root).Scan(&want); err != nil {
			t.Fatal(err)
		}
		if got := tableNamed(t, snapshot, "public", leaf).LoadThrough; got != want {
			t.Errorf("%s: got %d, want %d (%s)", leaf, got, want, root)
		}
	}
}

func TestNamesInOtherEncodingsComeByteForByte(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	for _, encoding := range []string{"LATIN1", "SQL_ASCII", "EUC_JP"} {
		database := cluster.CreateDatabase(t, "ENCODING '"+encoding+"' LOCALE 'C' TEMPLATE template0")
		server := testServer(t, cluster, "", nil)
		name, value := "t\xe9\xff", "v\xe4"
		if encoding == "EUC_JP" {
			name, value = "t\xa4\xa2", "v\xb0\xa1"
		}
		conn, err := server.ConnectRestore(t.Context(), database)
		if err != nil {
			t.Fatal(err)
		}
		if err := execute(t.Context(), conn, `CREATE TABLE public."`+name+`" ("c`+name+`" text); INSERT INTO public."`+name+`" VALUES ('`+value+`')`); err != nil {
			t.Fatal(err)
		}
		closeConn(t.Context(), conn)
		snapshot := openSnapshot(t, server, database, SnapshotOptions{})
		if got := readTable(t, snapshot, "public", catalog.Text(name)); got != value+"\n" || snapshot.Encoding() != encoding {
			t.Errorf("%s: got %q in %s", encoding, got, snapshot.Encoding())
		}
		table := tableNamed(t, snapshot, "public", catalog.Text(name))
		if len(table.Columns) != 1 || table.Columns[0] != catalog.Text("c"+name) {
			t.Errorf("%s: got columns %q", encoding, table.Columns)
		}
		if _, err := snapshot.SchemaArchive(t.Context(), io.Discard); err != nil {
			t.Errorf("%s: pg_dump: %v", encoding, err)
		}
		if _, err := snapshot.Reading(t.Context()); err != nil {
			t.Errorf("%s: %v", encoding, err)
		}
		snapshot.Close(t.Context())
	}
}

func TestManyTablesAreDescribedInBatches(t *testing.T) {
	cluster := testenv.Postgres(t, 17)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, "DO $$ BEGIN FOR i IN 1.."+fmt.Sprint(2*tableBatch+7)+" LOOP EXECUTE 'CREATE TABLE t' || i || '(id int, n text[])'; IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$")
	snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
	tables := allTables(t, snapshot)
	if len(tables) != 2*tableBatch+8 || snapshot.TableCount() != len(tables) {
		t.Errorf("got %d tables, TableCount %d", len(tables), snapshot.TableCount())
	}
	for _, err := range snapshot.Tables(t.Context()) { // stopping early leaves the leader free
		if err != nil {
			t.Error(err)
		}
		break
	}
	if _, err := snapshot.Reading(t.Context()); err != nil {
		t.Error(err)
	}
}

// hashSink keeps nothing.
type hashSink struct {
	hash.Hash
	largest uint64
	size    int64
}

func (h *hashSink) Block(uint32) error { return nil }
func (h *hashSink) Write(p []byte) (int, error) {
	if h.size>>24 != (h.size+int64(len(p)))>>24 {
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		h.largest = max(h.largest, now.HeapAlloc)
	}
	h.size += int64(len(p))
	return h.Hash.Write(p)
}

func TestMemoryDoesNotGrowWithTheRow(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	database := cluster.CreateDatabase(t, "")
	const size = 200 << 20
	cluster.Exec(t, database, fmt.Sprintf(`CREATE TABLE t (id int, v bytea, w text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
INSERT INTO t SELECT 1, decode(repeat('00ff5c0a', %d), 'hex'), 'end'; INSERT INTO t VALUES (2, '\x01', 'x')`, size/4))
	snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
	table, reader := tableNamed(t, snapshot, "public", "t"), newReader(t, snapshot)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sink := hashSink{Hash: sha256.New()}
	rows, err := reader.ReadBlocks(t.Context(), table, 0, OpenEnd, &sink)
	runtime.ReadMemStats(&after)
	if err != nil || rows != 2 {
		t.Fatalf("got %d rows, %v", rows, err)
	}
	want := sha256.New()
	want.Write([]byte("1\t\\\\x"))
	piece := []byte(strings.Repeat("00ff5c0a", 1<<10))
	for range size / 4 / (1 << 10) {
		want.Write(piece)
	}
	want.Write([]byte("\tend\n2\t\\\\x01\tx\n"))
	if got := hex.EncodeToString(sink.Sum(nil)); got != hex.EncodeToString(want.Sum(nil)) {
		t.Errorf("the value came out changed, %d bytes", sink.size)
	}
	// The text has twice the value's size. Under the race detector pools lose a part of what they are given.
	if total := after.TotalAlloc - before.TotalAlloc; total > size || sink.largest > before.HeapAlloc+16<<20 {
		t.Errorf("allocated %d MiB in all, heap grew from %d to %d MiB", total>>20, before.HeapAlloc>>20, sink.largest>>20)
	}
}

func TestRowTooLargeToSendIsNamedByItsPlace(t *testing.T) {
	cluster := testenv.Postgres(t, 15)
	database := cluster.CreateDatabase(t, "")
	cluster.Exec(t, database, `CREATE TABLE t (id int, v bytea); ALTER TABLE t ALTER v SET STORAGE EXTERNAL; INSERT INTO t SELECT g FROM generate_series(1, 300) g`)
	cluster.Exec(t, database, `INSERT INTO t SELECT 301, decode(repeat('00', 540 * 1024 * 1024 / 2), 'hex') || decode(repeat('00', 540 * 1024 * 1024 / 2), 'hex'); INSERT INTO t VALUES (302)`)
	var ctid string
	if err := cluster.Connect(t, database).QueryRow(t.Context(), "select ctid::text from t where id = 301").Scan(&ctid); err != nil {
		t.Fatal(err)
	}
	snapshot := openSnapshot(t, testServer(t, cluster, "", nil), database, SnapshotOptions{})
	table, reader := tableNamed(t, snapshot, "public", "t"), newReader(t, snapshot)
	_, err := reader.ReadBlocks(t.Context(), table, 0, OpenEnd, &memorySink{})
	var large *RowTooLargeError
	if !errors.As(err, &large) || large.CTID != ctid || large.Table != `"public"."t"` {
		t.Fatalf("got %v, want ctid %s", err, ctid)
	}
	if rows, err := reader.ReadBlocks(t.Context(), table, 0, 1, &memorySink{}); err != nil || rows == 0 {
		t.Errorf("the reader is of no use afterwards: %d rows, %v", rows, err)
	}
}
