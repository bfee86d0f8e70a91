package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// testRoot is the root key of all tests but those of several root keys.
func testRoot(t testing.TB, fill byte) *crypto.LocalRootKey {
	t.Helper()
	root, err := crypto.ParseLocalRootKey(bytes.Repeat([]byte{fill}, 32), "test")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// newDirectory makes a directory store, in memory where the system has a file system for that: the store syncs everything that it writes.
func newDirectory(t testing.TB) *objectstore.Directory {
	t.Helper()
	path, err := os.MkdirTemp("/dev/shm", "hourvault-repository-*")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(path) })
	} else {
		path = t.TempDir()
	}
	store, err := objectstore.OpenDirectory(path, objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// createIn makes a repository in store.
func createIn(t testing.TB, store objectstore.Store) *Repository {
	t.Helper()
	repository, err := Create(t.Context(), store, testRoot(t, 7), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(repository.Close)
	return repository
}

// openIn opens the repository in store, which may be another view of one that is open already.
func openIn(t testing.TB, store objectstore.Store) *Repository {
	t.Helper()
	repository, err := Open(t.Context(), store, testRoot(t, 7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(repository.Close)
	return repository
}

func testIdentity(oid catalog.OID) Identity {
	return Identity{SystemIdentifier: "7", Database: oid}
}

func ensure(t testing.TB, repository *Repository, record WorkspaceRecord) *Workspace {
	t.Helper()
	workspace, _, err := repository.EnsureWorkspace(t.Context(), record)
	if err != nil {
		t.Fatal(err)
	}
	return workspace
}

// testTable is a table of a test: its content by block, in blocks blocks.
type testTable struct {
	oid    catalog.OID
	blocks uint32
	rows   heap
	stream bool // of another access method
}

func (t testTable) catalog() catalog.Table {
	table := catalog.Table{OID: t.oid, Name: catalog.Text(fmt.Sprintf("t%d", t.oid)), Schema: "public", Kind: catalog.KindTable, AccessMethod: catalog.HeapAccessMethod, Blocks: t.blocks}
	if t.stream {
		table.AccessMethod = "columnar"
	}
	return table
}

func (t testTable) text() string {
	var all strings.Builder
	for number := range t.blocks {
		all.WriteString(t.rows[number])
	}
	return all.String()
}

// table makes a table of one row in each of so many blocks.
func table(oid catalog.OID, blocks uint32, length int) testTable {
	rows := make(heap)
	for number := range blocks {
		rows[number] = randomRow(length)
	}
	return testTable{oid: oid, blocks: blocks, rows: rows}
}

// snapshotBytes writes a snapshot of the tables with one BlockWriter and returns the first error.
func writeSnapshot(ctx context.Context, workspace *Workspace, options SnapshotOptions, tables ...testTable) (*Snapshot, error) {
	writer, err := workspace.BeginSnapshot(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := fillSnapshot(ctx, writer, tables...); err != nil {
		return nil, errors.Join(err, writer.Abandon(ctx))
	}
	return writer.Commit(ctx, Ending{Time: time.Now(), Server: "s"})
}

// fillSnapshot writes the tables, a schema archive, a sequence and a large object.
func fillSnapshot(ctx context.Context, writer *SnapshotWriter, tables ...testTable) error {
	if _, err := io.WriteString(writer.SchemaArchive(), "schema"); err != nil {
		return err
	}
	if err := writer.AddSequence(catalog.Sequence{OID: 5, Schema: "public", Name: "s", LastValue: 7, IsCalled: true}); err != nil {
		return err
	}
	if err := writer.AddLargeObject(catalog.LargeObject{OID: 6, Owner: "o"}); err != nil {
		return err
	}
	block := writer.NewBlockWriter()
	for _, table := range tables {
		if err := fillTable(ctx, writer, block, table); err != nil {
			return err
		}
	}
	return block.Close()
}

func fillTable(ctx context.Context, writer *SnapshotWriter, block *BlockWriter, table testTable) error {
	tw, err := writer.OpenTable(ctx, table.catalog())
	if err != nil {
		return err
	}
	tw.AddRows(int64(strings.Count(table.text(), "\n")))
	if table.stream {
		stream := block.BeginStream(tw)
		for text := table.text(); len(text) > 0; {
			n := min(len(text), 100_000)
			if _, err := stream.Write([]byte(text[:n])); err != nil {
				return err
			}
			text = text[n:]
		}
		if err := block.EndRange(); err != nil {
			return err
		}
		return tw.CloseTable()
	}
	write := func(from, to uint32) error {
		for number := from; number < to; number++ {
			if text := table.rows[number]; text != "" {
				if err := block.Block(number); err != nil {
					return err
				}
				if _, err := io.WriteString(block, text); err != nil {
					return err
				}
			}
		}
		return nil
	}
	const span = 4 * ListingSpan
	for from := uint32(0); from < table.blocks; from += span {
		to := min(from+span, table.blocks)
		if err := block.BeginRange(ctx, tw, from, to); err != nil {
			return err
		}
		if err := write(from, to); err != nil {
			return err
		}
		runs, err := block.EndPass()
		if err != nil {
			return err
		}
		for _, run := range runs {
			if err := write(run.From, run.To); err != nil {
				return err
			}
		}
		if err := block.EndRange(); err != nil {
			return err
		}
	}
	return tw.CloseTable()
}

func mustSnapshot(t testing.TB, workspace *Workspace, tables ...testTable) *Snapshot {
	t.Helper()
	snapshot, err := writeSnapshot(t.Context(), workspace, SnapshotOptions{Holder: "test"}, tables...)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// readTables returns the row text of all tables of a snapshot by oid.
func readTables(ctx context.Context, snapshot *Snapshot) (map[catalog.OID]string, error) {
	tables := make(map[catalog.OID]string)
	for entry, err := range snapshot.Entries(ctx) {
		if err != nil {
			return tables, err
		}
		var text strings.Builder
		if err := snapshot.EntryRows(ctx, entry, &text); err != nil {
			return tables, err
		}
		tables[entry.OID] = text.String()
	}
	return tables, nil
}

func mustHold(t testing.TB, snapshot *Snapshot, tables ...testTable) {
	t.Helper()
	got, err := readTables(t.Context(), snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(tables) {
		t.Fatalf("snapshot holds %d tables, want %d", len(got), len(tables))
	}
	for _, table := range tables {
		if want := table.text(); got[table.oid] != want {
			t.Fatalf("table %d: got %d bytes, want %d, or other ones", table.oid, len(got[table.oid]), len(want))
		}
	}
}

// verify runs a check that must come to its end.
func verify(t testing.TB, repository *Repository, options VerifyOptions) VerifyReport {
	t.Helper()
	report, err := repository.Verify(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func mustBeSound(t testing.TB, repository *Repository) VerifyReport {
	t.Helper()
	report := verify(t, repository, VerifyOptions{ReadData: true})
	for _, problem := range report.Problems {
		t.Errorf("verify: %s", problem)
	}
	return report
}

func mustReport(t testing.TB, report VerifyReport, kind, object string) {
	t.Helper()
	for _, problem := range report.Problems {
		if problem.Kind == kind && strings.HasPrefix(problem.Object, object) {
			return
		}
	}
	t.Errorf("verify did not report %s of %s, but: %v", kind, object, report.Problems)
}

// keysOf lists the object keys below a prefix.
func keysOf(t testing.TB, store objectstore.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range store.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func contentOf(t testing.TB, store objectstore.Store, key string) []byte {
	t.Helper()
	content, _, err := objectstore.ReadAll(t.Context(), store, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// overlay is a store in which an attacker, or a bad disk, has put some objects in the place of others. The store beneath is not changed.
type overlay struct {
	objectstore.Store
	objects map[string][]byte // nil: deleted
}

func (o overlay) content(ctx context.Context, key string) ([]byte, error) {
	content, changed := o.objects[key]
	if !changed {
		content, _, err := objectstore.ReadAll(ctx, o.Store, key, 1<<30)
		return content, err
	}
	if content == nil {
		return nil, fmt.Errorf("get %s: %w", key, objectstore.ErrNotFound)
	}
	return content, nil
}

func (o overlay) info(key string, content []byte) objectstore.Info {
	return objectstore.Info{Key: key, Size: int64(len(content)), ETag: fmt.Sprintf("%x", len(content))}
}

func (o overlay) Get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	content, err := o.content(ctx, key)
	if err != nil {
		return nil, objectstore.Info{}, err
	}
	return io.NopCloser(bytes.NewReader(content)), o.info(key, content), nil
}

func (o overlay) GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	content, err := o.content(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || length < 1 || offset+length > int64(len(content)) {
		return nil, &objectstore.RangeError{Key: key, Offset: offset, Length: length, Size: int64(len(content))}
	}
	return bytes.Clone(content[offset : offset+length]), nil
}

func (o overlay) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	content, err := o.content(ctx, key)
	if err != nil {
		return objectstore.Info{}, err
	}
	return o.info(key, content), nil
}

func (o overlay) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		infos := make(map[string]objectstore.Info)
		for info, err := range o.Store.List(ctx, prefix) {
			if err != nil {
				yield(info, err)
				return
			}
			infos[info.Key] = info
		}
		for key, content := range o.objects {
			if content == nil {
				delete(infos, key)
			} else if strings.HasPrefix(key, prefix) {
				infos[key] = o.info(key, content)
			}
		}
		var keys []string
		for key := range infos {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			if !yield(infos[key], nil) {
				return
			}
		}
	}
}

// held is a store whose objects were all read into memory once: what reads it thousands of times should not wait for a disk. It is for
// reading only.
type held struct {
	objectstore.Store
	objects map[string][]byte
}

func hold(t testing.TB, store objectstore.Store) held {
	t.Helper()
	objects := make(map[string][]byte)
	for _, key := range keysOf(t, store, "") {
		objects[key] = contentOf(t, store, key)
	}
	return held{Store: objectstore.ReadOnly(store), objects: objects}
}

// with returns the store with one object changed; nil content deletes it.
func (h held) with(changes map[string][]byte) objectstore.Store {
	return overlay{Store: overlay{Store: empty{h.Store}, objects: h.objects}, objects: changes}
}

// empty lists nothing of the store beneath.
type empty struct{ objectstore.Store }

func (empty) List(context.Context, string) iter.Seq2[objectstore.Info, error] {
	return func(func(objectstore.Info, error) bool) {}
}

// counted counts what is read.
type counted struct {
	objectstore.Store
	bytes    atomic.Int64
	requests atomic.Int64
	mu       sync.Mutex
	ranges   map[string]int // of each range, how often it was read
}

func (c *counted) GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	c.bytes.Add(length)
	c.requests.Add(1)
	c.mu.Lock()
	if c.ranges == nil {
		c.ranges = make(map[string]int)
	}
	c.ranges[fmt.Sprintf("%s@%d", key, offset)]++
	c.mu.Unlock()
	return c.Store.GetRange(ctx, key, offset, length)
}

// seeded returns a random source and logs its seed.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// watch tells which writes and listings reach a store.
type watch struct {
	objectstore.Store
	seen func(string)
	mu   sync.Mutex
}

func (w *watch) tell(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen(what)
}

func (w *watch) PutIfAbsent(ctx context.Context, key string, content []byte) (objectstore.Info, error) {
	w.tell("put " + key)
	return w.Store.PutIfAbsent(ctx, key, content)
}

func (w *watch) PutIfMatch(ctx context.Context, key string, content []byte, etag string) (objectstore.Info, error) {
	w.tell("replace " + key)
	return w.Store.PutIfMatch(ctx, key, content, etag)
}

func (w *watch) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	w.tell("list " + prefix)
	return w.Store.List(ctx, prefix)
}

// lateWrites keeps the first manifest that is written after arm back, and reports an error.
type lateWrites struct {
	objectstore.Store
	armed   bool
	key     string
	content []byte
}

func (l *lateWrites) arm() { l.armed = true }

func (l *lateWrites) PutIfAbsent(ctx context.Context, key string, content []byte) (objectstore.Info, error) {
	if l.armed && l.key == "" && strings.Contains(key, "/snapshots/") {
		l.key, l.content = key, bytes.Clone(content)
		return objectstore.Info{}, fmt.Errorf("put %s: %w", key, errInjected)
	}
	return l.Store.PutIfAbsent(ctx, key, content)
}
