package formatreader

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	product "github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// material is the root key of the repositories that these tests write.
var material = bytes.Repeat([]byte{9}, 32)

// live is a real database that the product takes snapshots of, into a repository in a directory.
type live struct {
	cluster  *testenv.Cluster
	server   *postgres.Server
	database string
	path     string
	product  *product.Repository
}

func newLive(t *testing.T, options string) *live {
	t.Helper()
	l := &live{cluster: testenv.Postgres(t, 17), path: t.TempDir()}
	server, err := postgres.NewServer(postgres.ServerConfig{
		Name: "test", DSN: l.cluster.DSN("postgres"), Connections: 3, LockTimeout: 10 * time.Second, YieldToDDL: 10 * time.Second, BinDirs: []string{l.cluster.BinDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.server = server
	l.database = l.cluster.CreateDatabase(t, options)
	store, err := objectstore.OpenDirectory(l.path, objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	root, err := crypto.ParseLocalRootKey(bytes.Clone(material), "test")
	if err != nil {
		t.Fatal(err)
	}
	if l.product, err = product.Create(t.Context(), store, root, time.Now()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.product.Close)
	return l
}

// backup lets the product take a snapshot.
func (l *live) backup(t *testing.T) {
	t.Helper()
	databases, err := l.server.Databases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(databases, func(d postgres.DatabaseEntry) bool { return string(d.Name) == l.database })
	if at < 0 {
		t.Fatalf("database %s is not listed", l.database)
	}
	if _, err := backup.Run(t.Context(), l.server, databases[at], l.product, backup.Options{Readers: 2, Holder: "test", Version: "test"}); err != nil {
		t.Fatal(err)
	}
}

// open opens the repository with the reader; there must be one workspace and nothing wrong.
func (l *live) open(t *testing.T) *workspace {
	t.Helper()
	r, err := openRepository(l.path, material)
	if err != nil {
		t.Fatal(err)
	}
	workspaces, problems := r.workspaces()
	if len(problems) > 0 || len(workspaces) != 1 {
		t.Fatalf("%d workspaces, problems %v", len(workspaces), problems)
	}
	return workspaces[0]
}

// connect opens a connection with the settings of section 16 that decide what row text looks like. Nothing is converted:
// what goes in and out is in the database's encoding.
func (l *live) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), l.cluster.DSN(l.database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	var encoding string
	if err := conn.QueryRow(t.Context(), "show server_encoding").Scan(&encoding); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.PgConn().Exec(t.Context(), `set search_path = ''; set datestyle = 'ISO, MDY'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3;
		set bytea_output = hex; set lc_monetary = 'C'; set xmlbinary = base64; set xmloption = content; set row_security = off; set synchronize_seqscans = off;
		set max_parallel_workers_per_gather = 0; set client_encoding = '`+encoding+`'`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	return conn
}

func quoted(name []byte) string { return `"` + strings.ReplaceAll(string(name), `"`, `""`) + `"` }

// copied returns what COPY says of a table now.
func copied(t *testing.T, conn *pgx.Conn, table tableRecord) string {
	t.Helper()
	var columns []string
	for _, column := range table.Columns {
		columns = append(columns, quoted(column))
	}
	var content bytes.Buffer
	statement := fmt.Sprintf("COPY (SELECT %s FROM ONLY %s.%s %s) TO STDOUT", strings.Join(columns, ", "), quoted(table.Schema), quoted(table.Name), table.Condition)
	if _, err := conn.PgConn().CopyTo(t.Context(), &content, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return content.String()
}

// answers runs a query and returns its rows as text in the database's encoding, fields joined by bars, sorted.
func answers(t *testing.T, conn *pgx.Conn, query string) []string {
	t.Helper()
	results, err := conn.PgConn().Exec(t.Context(), query).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, row := range results[0].Rows {
		rows = append(rows, string(bytes.Join(row, []byte("|"))))
	}
	slices.Sort(rows)
	return rows
}

// seen is what the live database said when a snapshot was taken.
type seen struct {
	tables       map[uint32]string // COPY text by oid
	sequences    []string
	largeObjects []string
	layouts      map[string]bool
}

const largeObjectsQuery = `select oid::text, md5(pg_catalog.lo_get(oid)) from pg_catalog.pg_largeobject_metadata`

// look takes a snapshot, and asks the live database for everything that the reader must find in it.
func (l *live) look(t *testing.T) seen {
	t.Helper()
	l.backup(t)
	conn := l.connect(t)
	defer conn.Close(context.WithoutCancel(t.Context()))
	w := l.open(t)
	s, _, err := w.snapshotAt(time.Now().Add(time.Hour))
	if err != nil || s == nil {
		t.Fatalf("newest snapshot: %v, %v", s, err)
	}
	tables, err := s.tables()
	if err != nil {
		t.Fatal(err)
	}
	found := seen{tables: make(map[uint32]string), layouts: make(map[string]bool)}
	var oids []string
	for _, table := range tables {
		if table.Kind == "large_objects" {
			continue
		}
		found.tables[table.OID] = copied(t, conn, table)
		oids = append(oids, fmt.Sprint(table.OID))
	}
	slices.Sort(oids)
	if want := answers(t, conn, `select c.oid::text from pg_catalog.pg_class c where c.relkind = 'r' and c.relpersistence in ('p', 'u') and c.oid >= 16384`); !slices.Equal(oids, want) {
		t.Errorf("tables %s, want %s", oids, want)
	}
	for _, name := range answers(t, conn, `select c.oid::text, format('%I.%I', n.nspname, c.relname) from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.relkind = 'S'`) {
		oid, name, _ := strings.Cut(name, "|")
		found.sequences = append(found.sequences, oid+"|"+answers(t, conn, "select last_value, log_cnt, is_called from "+name)[0])
	}
	found.largeObjects = answers(t, conn, largeObjectsQuery)
	return found
}

// matches holds everything in a snapshot against what the live database said.
func (s *snapshot) matches(t *testing.T, want seen) (forms map[string]bool) {
	t.Helper()
	forms = make(map[string]bool)
	tables, err := s.tables()
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, table := range tables {
		forms[table.Listing.form()], forms[table.Layout] = true, true
		if table.Kind == "large_objects" {
			continue
		}
		var content strings.Builder
		if err := s.rows(table, &content); err != nil {
			t.Error(err)
			continue
		}
		if content.String() != want.tables[table.OID] {
			t.Errorf("snapshot %s: table %s: %d bytes that are not the %d of the live table", s.id, table.Name, content.Len(), len(want.tables[table.OID]))
		}
		checked++
	}
	if checked != len(want.tables) {
		t.Errorf("%d tables, want %d", checked, len(want.tables))
	}
	records, err := s.sequences()
	if err != nil {
		t.Fatal(err)
	}
	var sequences []string
	for _, record := range records {
		sequences = append(sequences, fmt.Sprintf("%d|%d|%d|%.1s", record.OID, record.LastValue, record.LogCount, fmt.Sprint(record.IsCalled)))
	}
	slices.Sort(sequences)
	if !slices.Equal(sequences, want.sequences) {
		t.Errorf("sequences %q, want %q", sequences, want.sequences)
	}
	contents, err := s.largeObjects()
	if err != nil {
		t.Fatal(err)
	}
	var objects []string
	for oid, content := range contents {
		objects = append(objects, fmt.Sprintf("%d|%x", oid, md5.Sum(content)))
	}
	slices.Sort(objects)
	if !slices.Equal(objects, want.largeObjects) {
		t.Errorf("large objects %q, want %q", objects, want.largeObjects)
	}
	for name := range s.packs {
		if err := s.checkPack(name); err != nil {
			t.Error(err)
		}
	}
	s.checkFields(t)
	return forms
}

// unnamedFields returns the paths of fields that a parsed value has and that a type, which has those of the page, has not.
func unnamedFields(value any, named reflect.Type, path string) (unnamed []string) {
	switch named.Kind() {
	case reflect.Pointer:
		return unnamedFields(value, named.Elem(), path)
	case reflect.Slice:
		elements, _ := value.([]any)
		for _, element := range elements {
			unnamed = append(unnamed, unnamedFields(element, named.Elem(), path+"[]")...)
		}
		return unnamed
	case reflect.Struct:
		object, _ := value.(map[string]any)
		fields := make(map[string]reflect.Type)
		for _, field := range reflect.VisibleFields(named) {
			fields[field.Tag.Get("json")] = field.Type
		}
		for name, value := range object {
			if field, ok := fields[name]; ok {
				unnamed = append(unnamed, unnamedFields(value, field, path+"."+name)...)
			} else {
				unnamed = append(unnamed, path+"."+name)
			}
		}
	}
	return unnamed
}

// checkFields finds fields in what the product wrote that the page does not name.
func (s *snapshot) checkFields(t *testing.T) {
	t.Helper()
	type top struct {
		manifest
		Format   int64    `json:"format"`
		Features []string `json:"features"`
		Rewrite  []struct {
			Pack packName `json:"pack"`
			Part uint32   `json:"part"`
		} `json:"rewrite"`
	}
	unnamed := unnamedFields(s.tree, reflect.TypeFor[top](), "manifest")
	for _, list := range []struct {
		records
		kind  byte
		named reflect.Type
	}{
		{s.Tables, kindTables, reflect.TypeFor[tableRecord]()},
		{s.Sequences, kindSequences, reflect.TypeFor[sequenceRecord]()},
		{s.LargeObjects, kindLargeObjects, reflect.TypeFor[largeObjectRecord]()},
	} {
		trees, err := readRecords[any](s, list.records, list.kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, tree := range trees {
			unnamed = append(unnamed, unnamedFields(tree, list.named, kindLabel(list.kind))...)
		}
	}
	slices.Sort(unnamed)
	if unnamed = slices.Compact(unnamed); len(unnamed) > 0 {
		t.Errorf("snapshot %s has fields that the page does not name: %s", s.id, unnamed)
	}
}

// checkArchive lets pg_restore list the schema archive, and looks at the creation time in its header.
func (l *live) checkArchive(t *testing.T, s *snapshot, want string) {
	t.Helper()
	archive, err := s.archive()
	if err != nil {
		t.Fatal(err)
	}
	if string(archive[:5]) != "PGDMP" || archive[10] != 1 {
		t.Fatalf("schema archive begins with %q", archive[:11])
	}
	at := 12 // compression is one byte from 1.15 on
	if archive[6] < 15 {
		at = 11 + 5
	}
	for i, field := range []byte{0, 0, 0, 1, 0, 100, 0} {
		if got := archive[at+5*i : at+5*i+5]; !bytes.Equal(got, []byte{0, field, 0, 0, 0}) {
			t.Errorf("field %d of the creation time is %x", i, got)
		}
	}
	file := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	listed, err := exec.CommandContext(t.Context(), filepath.Join(l.cluster.BinDir(), "pg_restore"), "--list", file).CombinedOutput()
	if err != nil || !strings.Contains(string(listed), want) {
		t.Errorf("pg_restore --list: %v, and %q in it is %v", err, want, strings.Contains(string(listed), want))
	}
}

func TestReaderFindsWhatTheLiveDatabaseHeld(t *testing.T) {
	l := newLive(t, "")
	steps := []string{`
		create table big as select i as id, md5(i::text) as a, repeat(md5((i*7)::text), 5) as b from generate_series(1, 150000) i;
		create table sparse (id int, pad text) with (fillfactor = 10);
		alter table sparse alter pad set storage plain;
		insert into sparse select i, repeat('x', 700) from generate_series(1, 4000) i;
		create table empty (id int);
		create table nothing ();
		insert into nothing select from generate_series(1, 1000);
		create table long (id int, b bytea, note text);
		insert into long select 1, decode(repeat('00ff5c0a', 1500000), 'hex'), E'tab\there\nline\\.';
		insert into long select 2, string_agg(sha256(i::text::bytea), ''), null from generate_series(1, 150000) i;
		insert into long select 3, '', E'\\.';
		create table "odd "" name
of é 'table'" ("col umn" text, "tab	é" int, gone int, twice int generated always as ("tab	é" * 2) stored);
		insert into "odd "" name
of é 'table'" values ('ünï', 1, 2), (null, 3, 4), ('', null, null);
		alter table "odd "" name
of é 'table'" drop column gone;
		create unlogged table unlogged as select i from generate_series(1, 100) i;
		create table parent (id int, at timestamptz, f float8) partition by list (id);
		create table child1 partition of parent for values in (1);
		create table child2 partition of parent default;
		insert into parent values (1, '2026-11-22 14:00:00.5+05', 'NaN'), (2, '0044-03-15 BC', '-0'), (3, 'infinity', 1e-300);
		create access method other type table handler heap_tableam_handler;
		create table streamed using other as select i as id, repeat(md5(i::text), 20) as b from generate_series(1, 3000) i;
		create sequence counter start 10; create sequence called; select nextval('called'), nextval('called');
		create sequence down increment -1 minvalue -9223372036854775808 start -9223372036854775807; select nextval('down');
		select lo_from_bytea(0, decode(repeat('ab', 100000), 'hex')); select lo_create(0);
		select lo_from_bytea(77777, 'x'); select lo_put(77777, 2048*5 + 7, 'later');
		comment on large object 77777 is 'sparse';
		create materialized view summary as select count(*) from big`,
		``,
		`update big set a = 'changed' where id % 5000 = 0; delete from sparse where id between 1000 and 3000; truncate empty; update long set b = b || 'x' where id = 1;
		insert into empty select 5; select nextval('counter'); select lo_unlink(77777)`,
		`delete from big where id < 100000; delete from sparse where id > 3900; insert into big select -i, 'new', 'new' from generate_series(1, 50) i; alter table nothing add column c int default 7; drop table empty`,
	}
	var history []seen
	for _, step := range steps {
		l.cluster.Exec(t, l.database, step)
		history = append(history, l.look(t))
	}
	w := l.open(t)
	objects, err := w.snapshots()
	if err != nil || len(objects) != len(steps) {
		t.Fatalf("%d snapshots: %v", len(objects), err)
	}
	forms := make(map[string]bool)
	for i, object := range objects {
		if object.err != nil {
			t.Fatal(object.err)
		}
		s := object.snapshot
		if s.Sequence != int64(i+1) || string(s.Database.Name) != l.database || s.Database.Encoding != "UTF8" {
			t.Errorf("snapshot %s: sequence %d, database %s in %s", s.id, s.Sequence, s.Database.Name, s.Database.Encoding)
		}
		maps.Copy(forms, s.matches(t, history[i]))
		l.checkArchive(t, s, "summary")
	}
	t.Logf("forms of listings and layouts: %v", slices.Sorted(maps.Keys(forms)))
	for _, form := range []string{"inline", "pages", "empty", "blocks", "stream"} {
		if !forms[form] {
			t.Errorf("nothing of form %s was tried", form)
		}
	}
	problems, planned, err := w.checkHistory()
	if err != nil || planned || len(problems) > 0 {
		t.Errorf("history: %v, %v, %v", problems, planned, err)
	}
	if lease, err := w.lease(); err != nil || !lease.Released || lease.Epoch != int64(len(steps)) {
		t.Errorf("lease %+v: %v", lease, err)
	}

	t.Run("a deleted manifest is missed", func(t *testing.T) {
		name := filepath.Join(l.path, fmt.Sprintf("workspaces/%x/snapshots/%s", w.id, objects[1].id))
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		problems, _, err := w.checkHistory()
		if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Error(), string(objects[1].id)) {
			t.Errorf("history: %v, %v", problems, err)
		}
		l.backup(t) // names it in a warning, and goes on without it
		problems, _, err = w.checkHistory()
		if err != nil || len(problems) != 1 {
			t.Errorf("history after another snapshot: %v, %v", problems, err)
		}
		newest, _, err := w.snapshotAt(time.Now().Add(time.Hour))
		if err != nil || !slices.ContainsFunc(newest.Warnings, func(w warning) bool {
			return w.Code == "manifest_missing" && string(w.Object) == string(objects[1].id)
		}) {
			t.Errorf("warnings %v, %v", newest.Warnings, err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("the number of parts can be found out from a directory", func(t *testing.T) {
		s := objects[0].snapshot
		entry := s.Packs[0]
		pack, err := os.ReadFile(filepath.Join(l.path, w.packKey(entry.Name)))
		if err != nil {
			t.Fatal(err)
		}
		plain := uint32(pack[len(pack)-4])<<24 | uint32(pack[len(pack)-3])<<16 | uint32(pack[len(pack)-2])<<8 | uint32(pack[len(pack)-1])
		for n := plain / 21; n <= plain/3; n++ {
			if _, _, err := w.openDirectory(w.packKey(entry.Name), entry.Name.id(), pack, entry.Key, n); err == nil {
				if n != entry.Parts {
					t.Errorf("directory opens with %d parts, the manifest says %d", n, entry.Parts)
				}
				return
			}
		}
		t.Error("no number of parts opens the directory")
	})
}

// latin1 returns the bytes of a string in that encoding.
func latin1(text string) string {
	var encoded []byte
	for _, r := range text {
		encoded = append(encoded, byte(r))
	}
	return string(encoded)
}

func TestReaderHandsBackTheBytesOfALatin1Database(t *testing.T) {
	l := newLive(t, "encoding 'LATIN1' locale 'C' template template0")
	conn := l.connect(t) // speaks LATIN1
	if _, err := conn.PgConn().Exec(t.Context(), latin1(`
		create schema "schéma"; create table "schéma"."tâble" ("cölumn" text, plain int);
		insert into "schéma"."tâble" select chr(i) || 'é', i from generate_series(128, 255) i;
		insert into "schéma"."tâble" values ('Ã©', 1);
		create sequence "schéma"."séquence" start 5;
		create type "schéma"."mood" as enum ('été', 'hiver'); create table public.moods (m "schéma"."mood" default 'été'); insert into public.moods default values;
		comment on database `+quoted([]byte(l.database))+` is 'commenté'`)).ReadAll(); err != nil {
		t.Fatal(err)
	}
	want := l.look(t)
	w := l.open(t)
	s, _, err := w.snapshotAt(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	s.matches(t, want)
	if s.Database.Encoding != "LATIN1" || s.Database.Comment == nil || string(*s.Database.Comment) != "comment\xe9" {
		t.Errorf("encoding %s, comment %q", s.Database.Encoding, *s.Database.Comment)
	}
	tables, err := s.tables()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(tables, func(table tableRecord) bool { return string(table.Name) == "t\xe2ble" })
	if at < 0 || string(tables[at].Schema) != "sch\xe9ma" || string(tables[at].Columns[0]) != "c\xf6lumn" {
		t.Fatalf("no table of that name in its own bytes: %+v", tables)
	}
	var content bytes.Buffer
	if err := s.rows(tables[at], &content); err != nil || !bytes.HasSuffix(content.Bytes(), []byte("\xc3\xa9\t1\n")) || !bytes.Contains(content.Bytes(), []byte("\xff\xe9\t255\n")) {
		t.Errorf("rows %q, %v", content.Bytes(), err)
	}
}

// readAll reads everything that a snapshot refers to.
func (s *snapshot) readAll() error {
	if _, err := s.archive(); err != nil {
		return err
	}
	tables, err := s.tables()
	if err != nil {
		return err
	}
	for _, table := range tables {
		if err := s.rows(table, discard{}); err != nil {
			return err
		}
	}
	if _, err := s.sequences(); err != nil {
		return err
	}
	_, err = s.largeObjects()
	return err
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// readRepository reads a whole repository, every object that the page names included.
func readRepository(path string) error {
	r, err := openRepository(path, material)
	if err != nil {
		return err
	}
	workspaces, problems := r.workspaces()
	if len(problems) > 0 {
		return problems[0]
	}
	if len(workspaces) == 0 {
		return errors.New("no workspace")
	}
	for _, w := range workspaces {
		objects, err := w.snapshots()
		if err != nil {
			return err
		}
		for _, object := range objects {
			if object.err != nil && !errors.Is(object.err, errVoid) {
				return object.err
			}
			if object.snapshot == nil {
				continue
			}
			if err := object.snapshot.readAll(); err != nil {
				return err
			}
			for name := range object.snapshot.packs {
				if err := object.snapshot.checkPack(name); err != nil {
					return err
				}
			}
		}
		if problems, _, err := w.checkHistory(); err != nil || len(problems) > 0 {
			return errors.Join(append(problems, err)...)
		}
		if _, err := w.lease(); err != nil {
			return err
		}
	}
	return nil
}

// One bit is turned in every byte of headers and ends of sealed objects, and in samples between; clear JSON objects are
// left alone, because not every bit of them matters (white space, the time of creation).
func TestReaderRefusesEveryFlippedByte(t *testing.T) {
	l := newLive(t, "")
	l.cluster.Exec(t, l.database, `create table t as select i as id, md5(i::text) as a from generate_series(1, 40) i; create sequence s; select lo_from_bytea(0, 'large')`)
	l.backup(t)
	l.cluster.Exec(t, l.database, `update t set a = 'x' where id = 3`)
	l.backup(t)
	if err := readRepository(l.path); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	sealed := 0
	err := filepath.WalkDir(l.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil || len(content) == 0 {
			return err
		}
		if !bytes.HasPrefix(content, []byte("HVLT")) {
			return nil
		}
		sealed++
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		for at := 0; at < len(content); at++ {
			// All of the header and the ends, and samples between them: every trial reads everything.
			if at > 80 && at < len(content)-30 && random.IntN(200) != 0 {
				continue
			}
			if _, err := file.WriteAt([]byte{content[at] ^ 1<<random.IntN(8)}, int64(at)); err != nil {
				return err
			}
			if err := readRepository(l.path); err == nil || !isDamage(err) && !errors.Is(err, errNewer) && !errors.Is(err, errNoWrap) {
				t.Errorf("%s: byte %d of %d flipped: %v", path, at, len(content), err)
			}
			if _, err := file.WriteAt(content[at:at+1], int64(at)); err != nil {
				return err
			}
		}
		for _, size := range []int{0, 47, 48, 84, len(content) / 2, len(content) - 1} {
			if err := os.Truncate(path, int64(min(size, len(content)-1))); err != nil {
				return err
			}
			if err := readRepository(l.path); err == nil {
				t.Errorf("%s: cut to %d bytes: no error", path, size)
			}
			if _, err := file.WriteAt(content, 0); err != nil {
				return err
			}
		}
		if _, err := file.WriteAt([]byte{0}, int64(len(content))); err != nil {
			return err
		}
		if err := readRepository(l.path); err == nil {
			t.Errorf("%s: a byte more: no error", path)
		}
		return file.Truncate(int64(len(content)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if sealed < 6 {
		t.Errorf("only %d sealed objects", sealed)
	}
	if err := readRepository(l.path); err != nil {
		t.Errorf("after everything was put back: %v", err)
	}
	if _, err := openRepository(l.path, bytes.Repeat([]byte{8}, 32)); !errors.Is(err, errNoWrap) {
		t.Errorf("with another root key: %v", err)
	}
}
