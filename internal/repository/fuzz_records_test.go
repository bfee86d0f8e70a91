package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/testenv/allocation"
)

// jsonFactor is how many bytes reading a hostile record may allocate for each byte of it: the worst is a list of empty
// objects, each of which takes three bytes of text, in a list that is copied whenever it has outgrown its place.
const jsonFactor = 500

// settled fails unless a record that was read is written in a form that reads as the same again.
func settled[T any](t *testing.T, record T) {
	t.Helper()
	first, err := json.Marshal(record)
	if err != nil {
		t.Errorf("%+v cannot be written again: %v", record, err)
		return
	}
	var again T
	if err := json.Unmarshal(first, &again); err != nil {
		t.Errorf("%s was written and cannot be read: %v", first, err)
		return
	}
	if second, err := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
		t.Errorf("%s is written as %s the next time, %v", first, second, err)
	}
}

// sealedAt returns the workspace of a store in which plain lies at key, sealed as it should be: so what is fuzzed lies
// behind the seal.
func sealedAt(t *testing.T, workspace *Workspace, kind crypto.Kind, key string, plain []byte) *Workspace {
	t.Helper()
	if len(plain) == 0 {
		t.Skip("no text is empty")
	}
	repository := workspace.repository
	secret, number, owner := workspace.keyring[1], uint32(1), workspace.id
	if kind == crypto.KindClaim {
		secret, number, owner = repository.key, repositoryKeyNumber, WorkspaceID{}
	}
	object, err := repository.codec.sealObject(secret, number, kind, repository.place(owner, key), plain)
	if err != nil {
		t.Fatal(err)
	}
	return inStore(workspace, overlay{Store: repository.store, objects: map[string][]byte{key: object}})
}

// inStore returns the workspace as it is in another view of its store.
func inStore(workspace *Workspace, store objectstore.Store) *Workspace {
	original := workspace.repository
	repository := &Repository{store: store, root: original.root, id: original.id, key: original.key, codec: original.codec}
	return &Workspace{repository: repository, id: workspace.id, record: workspace.record, recordNo: workspace.recordNo, keyring: workspace.keyring, current: workspace.current}
}

// fuzzWorkspace is a workspace whose store is in memory.
func fuzzWorkspace(f *testing.F) *Workspace {
	f.Helper()
	repository := createIn(f, newDirectory(f))
	workspace := ensure(f, repository, WorkspaceRecord{Server: "s", Database: "d", Identity: testIdentity(5)})
	return inStore(workspace, hold(f, repository.store).with(nil))
}

func FuzzRepositoryDescription(f *testing.F) {
	workspace := fuzzWorkspace(f)
	store := workspace.repository.store
	original := contentOf(f, store, descriptionKey)
	f.Add(original)
	id := workspace.repository.ID()
	f.Fuzz(func(t *testing.T, data []byte) {
		if data == nil {
			return // would be an object that is not there
		}
		var repository *Repository
		var err error
		// Opening one that is right makes the tables of a compressor and a decompressor.
		allocation.Bound(t, 16<<20+jsonFactor*uint64(len(data)), func() {
			repository, err = Open(t.Context(), overlay{Store: store, objects: map[string][]byte{descriptionKey: data}}, workspace.repository.root)
		})
		if err != nil {
			return
		}
		if repository.ID() != id {
			t.Errorf("%q opened repository %s, whose key is not here", data, repository.ID())
		}
		// Close would clear the key of a repository that is this one's alone.
		repository.Close()
	})
}

func FuzzClaim(f *testing.F) {
	workspace := fuzzWorkspace(f)
	identity := testIdentity(5)
	key := workspace.repository.claimKey(identity)
	f.Add([]byte(`{"workspace":"2bfeff4e8961416dc5514fc9f8fdc3a8","system_identifier":"7","database_oid":5}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		view := sealedAt(t, workspace, crypto.KindClaim, key, plain)
		var id WorkspaceID
		var err error
		allocation.Bound(t, jsonFactor*uint64(len(plain)), func() {
			id, err = view.repository.readClaim(t.Context(), key, identity)
		})
		if err != nil {
			return
		}
		settled(t, claim{Workspace: id, Identity: identity})
		if found, err := view.repository.FindWorkspace(t.Context(), identity); err == nil && found.id != workspace.id {
			t.Errorf("%q leads to a workspace that is not there", plain)
		}
	})
}

func FuzzWorkspaceRecord(f *testing.F) {
	workspace := fuzzWorkspace(f)
	f.Add([]byte(`{"server":"eu-1","database":{"base64":"Y2Fm6Q=="},"system_identifier":"7","database_oid":5,"labels":{"tier":"gold"},"created":"2026-11-22T05:00:00Z"}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		view := sealedAt(t, workspace, crypto.KindWorkspace, workspace.id.recordsPrefix()+"0000000009", plain)
		var err error
		allocation.Bound(t, jsonFactor*uint64(len(plain)), func() { err = view.loadRecord(t.Context()) })
		if err == nil {
			settled(t, view.Record())
		}
	})
}

func FuzzLease(f *testing.F) {
	workspace := fuzzWorkspace(f)
	f.Add([]byte(`{"epoch":3,"purpose":"snapshot","holder":"h 1","since":"2026-11-22T05:00:00Z","lifetime":"1m0s","run_key":"workspaces/x/snapshots/20261122T140000Z-0123456789abcdef","released":false,"token":"00"}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		view := sealedAt(t, workspace, crypto.KindLease, workspace.id.leaseKey(), plain)
		var record leaseRecord
		var err error
		allocation.Bound(t, jsonFactor*uint64(len(plain)), func() { record, _, err = view.readLease(t.Context()) })
		if err == nil {
			settled(t, record)
			_ = (&LeaseHeldError{Holder: record.Holder, Purpose: record.Purpose, Since: record.Since}).Error()
		}
	})
}

// FuzzSnapshotObject seals what it is given as a manifest and as a void: at one key both may lie.
func FuzzSnapshotObject(f *testing.F) {
	workspace := fuzzWorkspace(f)
	id := SnapshotID{seconds: 1795356000, random: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}
	f.Add([]byte(fmt.Sprintf(`{"format":1,"features":[],"snapshot":%q,"workspace":%q,"fingerprint_key":1}`, id, workspace.id)), false)
	f.Add([]byte(`{"void":true,"by":"h 1","time":"2026-11-22T05:00:00Z","reason":"lease expired","token":"00"}`), true)
	f.Fuzz(func(t *testing.T, plain []byte, void bool) {
		kind := crypto.KindManifest
		if void {
			kind = crypto.KindVoid
		}
		// The id of the workspace is drawn anew by each process; a manifest may name it by this.
		plain = bytes.ReplaceAll(plain, []byte("WORKSPACE"), []byte(workspace.id.String()))
		view := sealedAt(t, workspace, kind, workspace.id.manifestKey(id), plain)
		var snapshot *Snapshot
		var err error
		allocation.Bound(t, jsonFactor*uint64(len(plain)), func() { snapshot, err = view.OpenSnapshot(t.Context(), id) })
		switch {
		case void != errors.Is(err, ErrVoid):
			t.Errorf("void %t: got %v", void, err)
		case err == nil:
			settled(t, *snapshot.Manifest())
		}
	})
}

// fuzzPack is the one pack of fuzzSnapshot. Its name is the same in every process, so that seeds can refer to it.
var fuzzPack = PackName{Snapshot: SnapshotID{seconds: 1795356000}, ID: [crypto.SaltSize]byte{'f', 'u', 'z', 'z'}}

// fuzzSnapshot returns a snapshot that reads parts of a pack with the given texts, all of one kind, and where they lie.
func fuzzSnapshot(t testing.TB, workspace *Workspace, kind crypto.Kind, plains ...[]byte) (*Snapshot, []PartRef) {
	t.Helper()
	repository := workspace.repository
	key := workspace.id.packKey(fuzzPack)
	header := crypto.Header{Kind: crypto.KindPack, KeyNumber: 1, Salt: fuzzPack.ID}
	sealer := crypto.NewSealer(workspace.keyring[1], header, repository.place(workspace.id, key), kind)
	object := header.Append(nil)
	var refs []PartRef
	for i, plain := range plains {
		at := len(object)
		object = sealer.Seal(object, kind, uint32(i), uint64(len(plain)), repository.codec.compress(plain))
		refs = append(refs, PartRef{Pack: fuzzPack, Part: uint32(i), Offset: uint64(at), Stored: uint32(len(object) - at), Plain: uint32(len(plain))})
	}
	view := inStore(workspace, overlay{Store: repository.store, objects: map[string][]byte{key: object}})
	snapshot := &Snapshot{workspace: view, cache: newChunkCache(chunkCacheSize), parts: &partReader{workspace: view, keyNumbers: map[PackName]uint32{fuzzPack: 1}}}
	snapshot.macs.New = func() any { return workspace.keyring[1].NewFingerprinter() }
	snapshot.digesters.New = func() any { return workspace.keyring[1].NewDigester() }
	return snapshot, refs
}

// fuzzRecords is the body of a target whose data is one page of records.
func fuzzRecords[T any](f *testing.F, kind crypto.Kind, check func(t *testing.T, snapshot *Snapshot, record T)) {
	workspace := fuzzWorkspace(f)
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) == 0 {
			return
		}
		snapshot, refs := fuzzSnapshot(t, workspace, kind, plain)
		stored := Records{Count: uint64(bytes.Count(plain, []byte{'\n'})), Pages: []Page{{PartRef: refs[0], Digest: snapshot.digest(kind, plain)}}}
		var all []T
		allocation.Bound(t, jsonFactor*uint64(len(plain)), func() {
			for record, err := range records[T](t.Context(), snapshot, kind, stored) {
				if err != nil {
					break
				}
				all = append(all, record)
			}
		})
		for _, record := range all {
			settled(t, record)
			if check != nil {
				check(t, snapshot, record)
			}
		}
	})
}

func FuzzTableRecords(f *testing.F) {
	f.Add([]byte(`{"oid":100,"kind":"table","schema":"public","name":"t","owner":"o","persistence":"p","access_method":"heap","columns":["a",{"base64":"6Q=="}],"shape":{"attributes":[{"number":1,"name":"a","type":25,"typmod":-1}],"types":[{"oid":25,"schema":"pg_catalog","name":"text","kind":"b"}]},"blocks":1,"rows":1,"bytes":2,"layout":"blocks","listing":{"inline":"AAAAAA=="}}` + "\n"))
	fuzzRecords(f, crypto.KindTables, func(t *testing.T, snapshot *Snapshot, entry TableEntry) {
		_ = entry.understood()
		var out bytes.Buffer
		if err := snapshot.EntryRows(t.Context(), entry, &out); err == nil && int64(out.Len()) != entry.Bytes {
			t.Errorf("%d bytes are the rows of a table of %d", out.Len(), entry.Bytes)
		}
	})
}

func FuzzSequenceRecords(f *testing.F) {
	f.Add([]byte(`{"oid":5,"schema":"public","name":"s","last_value":"-7","log_cnt":3,"is_called":true,"extension":"e"}` + "\n"))
	fuzzRecords[catalog.Sequence](f, crypto.KindSequences, nil)
}

func FuzzLargeObjectRecords(f *testing.F) {
	f.Add([]byte(`{"oid":6,"owner":"o","grants":[{"grantor":"o","grantee":"p","privilege":"SELECT","grantable":false}],"comment":"c","security_labels":[{"provider":"p","label":"l"}]}` + "\n"))
	fuzzRecords[catalog.LargeObject](f, crypto.KindLargeObjs, nil)
}

// FuzzRowsOfListing reads a table whose listing is fuzzed, with two chunks that exist: whatever the listing says, what comes out is what the
// fingerprints are of, or an error.
func FuzzRowsOfListing(f *testing.F) {
	workspace := fuzzWorkspace(f)
	chunks := [][]byte{[]byte("1\ta\n2\tb\n3\tc\n"), []byte(strings.Repeat("long", 20) + "\n")}
	_, refs := fuzzSnapshot(f, workspace, crypto.KindChunk, chunks...)
	all := strings.Join([]string{string(chunks[0]), string(chunks[1])}, "")
	page := &listingPage{chunks: []chunkRef{{PartRef: refs[0], share: 12}, {PartRef: refs[1], share: 81}},
		blocks: []blockEntry{{length: 4}, {}, {length: 4, offset: 4}, {length: 4 + 81, offset: 8}}}
	f.Add(page.encode(), uint16(4), uint16(len(all)))
	f.Fuzz(func(t *testing.T, text []byte, rows, size uint16) {
		snapshot, _ := fuzzSnapshot(t, workspace, crypto.KindChunk, chunks...)
		parsed, err := parseListingPage(text)
		if err != nil {
			return
		}
		// What the fuzzer cannot guess is put right: the fingerprints.
		var want bytes.Buffer
		for i := range parsed.blocks {
			block := &parsed.blocks[i]
			if block.length == 0 {
				continue
			}
			if want.Len() > 1<<20 {
				return // chunks may be listed, and read, many times
			}
			from := want.Len()
			if err := snapshot.writeBlock(t.Context(), parsed, block, &want); err != nil {
				break
			}
			if uint64(want.Len()-from) != block.length {
				t.Fatalf("block %d of %d bytes is read as %d", i, block.length, want.Len()-from)
			}
			mac := workspace.keyring[1].NewFingerprinter()
			mac.Write(want.Bytes()[from:])
			copy(block.fingerprint[:], mac.Sum(nil))
		}
		entry := TableEntry{Layout: LayoutBlocks, Listing: Listing{Inline: parsed.encode()}}
		entry.Rows, entry.Bytes = int64(rows), int64(size)
		var got bytes.Buffer
		err = snapshot.EntryRows(t.Context(), entry, &got)
		if err == nil && (got.String() != want.String() || got.Len() != int(size) || bytes.Count(got.Bytes(), []byte{'\n'}) != int(rows)) {
			t.Errorf("%d rows in %d bytes were asked for, and came as %q", rows, size, got.String())
		}
	})
}

// FuzzCompression gives the decompressor hostile bytes and any length: what comes out has that length, and nothing longer is ever held.
func FuzzCompression(f *testing.F) {
	codec, err := newCodec()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(codec.close)
	f.Add(codec.compress([]byte("some text\n")), uint32(10))
	f.Add(codec.compress(make([]byte, 64<<20)), uint32(100))                  // a bomb of 64 MiB
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x10}, uint32(10))    // says that it holds 256 MiB
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8, 1, 0, 0, 'x'}, uint32(100)) // says that its window is 2 TiB
	f.Fuzz(func(t *testing.T, text []byte, size uint32) {
		size %= 1 << 20
		var plain []byte
		var err error
		// The decompressor has buffers of a few blocks of 128 KiB of its own.
		allocation.Bound(t, uint64(size)+2<<20+16*uint64(len(text)), func() { plain, err = codec.decompress(text, int(size)) })
		if err == nil && len(plain) != int(size) {
			t.Errorf("%d bytes instead of %d", len(plain), size)
		}
		if again, err := codec.decompress(codec.compress(text), len(text)); len(text) > 0 && (err != nil || !bytes.Equal(again, text)) {
			t.Errorf("%x comes back as %x, %v", text, again, err)
		}
	})
}

func FuzzArchiveTime(f *testing.F) {
	for _, minor := range []byte{13, 14, 15, 16, 17} {
		head := append([]byte("PGDMP"), 1, minor, 0, 4, 8, 1)
		if minor < 15 {
			head = append(head, 0, 0, 0, 0, 0)
		} else {
			head = append(head, 0)
		}
		f.Add(append(head, bytes.Repeat([]byte{0, 5, 0, 0, 0}, 9)...))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		fixed := bytes.Clone(head)
		fixArchiveTime(fixed)
		again := bytes.Clone(fixed)
		fixArchiveTime(again)
		if len(fixed) != len(head) || !bytes.Equal(again, fixed) {
			t.Errorf("%x becomes %x, and then %x", head, fixed, again)
		}
		if bytes.Equal(fixed, head) {
			return
		}
		// Seven integers behind a header that says version 1.13 to 1.16, integers of four bytes and the custom format, and nothing else.
		at := 12
		if head[6] < 15 {
			at = 16
		}
		if !bytes.Equal(fixed[:at], head[:at]) || !bytes.Equal(fixed[at+35:], head[at+35:]) {
			t.Errorf("more than the time was changed: %x becomes %x", head, fixed)
		}
		if string(head[:6]) != "PGDMP\x01" || head[6] < 13 || head[6] > 16 || head[8] != 4 || head[10] != 1 {
			t.Errorf("%x is not a header of which the time is known", head)
		}
	})
}

// FuzzNames reads the names that object keys are made of: each name is written in one way only.
func FuzzNames(f *testing.F) {
	const snapshot = "20261122T140000Z-0123456789abcdef"
	f.Add(snapshot)
	f.Add(snapshot + "/" + strings.Repeat("0a", 32))
	f.Add("2bfeff4e8961416dc5514fc9f8fdc3a8")
	f.Add("20261122T140000.5Z-0123456789abcdef")
	f.Add("20260230T140000Z-0123456789abcdef")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := ParseSnapshotID(text); err == nil {
			if id.String() != text || objectstore.CheckKey(text) != nil {
				t.Errorf("snapshot id %q is written %q", text, id)
			}
			if next := newSnapshotID(id.Begun(), id); next.String() <= text && id.Begun().Year() < 9999 {
				t.Errorf("%s comes behind %s", next, text)
			}
		}
		var pack PackName
		if pack.UnmarshalText([]byte(text)) == nil {
			if pack.String() != text || objectstore.CheckKey(text) != nil {
				t.Errorf("pack name %q is written %q", text, pack)
			}
			if again := packNameFromBinary(pack.appendBinary(nil)); again != pack {
				t.Errorf("pack name %q is %q in binary", text, again)
			}
		}
		var workspace WorkspaceID
		if workspace.UnmarshalText([]byte(text)) == nil && workspace.String() != text {
			t.Errorf("workspace id %q is written %q", text, workspace)
		}
		var sum HexBytes
		if sum.UnmarshalText([]byte(text)) == nil {
			if written, err := sum.MarshalText(); err != nil || string(written) != text {
				t.Errorf("%q is written %q", text, written)
			}
		}
	})
}

// FuzzStream cuts one table without meaningful blocks in two ways: the pieces that take the place of blocks must be the same, or an
// unchanged table would be stored anew every hour.
func FuzzStream(f *testing.F) {
	workspace := fuzzWorkspace(f)
	f.Add([]byte{0, 1, 255, 255, 2}, uint64(1))
	f.Add(bytes.Repeat([]byte{90, 3}, 40), uint64(2))
	f.Add(bytes.Repeat([]byte{30, 3, 9}, 300), uint64(3))
	f.Fuzz(func(t *testing.T, lengths []byte, seed uint64) {
		var content strings.Builder
		for i, n := range lengths {
			if content.Len() > 3*streamPiece {
				break
			}
			number := strconv.Itoa(i)
			content.WriteString(strings.Repeat(number, 4*int(n)*int(n)/len(number)) + "\n")
		}
		random := rand.New(rand.NewPCG(seed, 3))
		view := inStore(workspace, newMemory())
		first := cutStream(t, view, content.String(), func(rest string) int { return len(rest) })
		second := cutStream(t, view, content.String(), func(rest string) int {
			n := min(len(rest), 1+random.IntN(1<<random.IntN(20)))
			if end := strings.IndexByte(rest[n:], '\n'); end >= 0 && random.IntN(2) == 0 {
				n += end + 1 // at the end of a row, where a piece could end
			}
			return n
		})
		for what, snapshot := range map[string]*Snapshot{"in one piece": first, "in many": second} {
			got, err := readTables(t.Context(), snapshot)
			if err != nil || got[9] != content.String() {
				t.Fatalf("written %s: %d bytes of %d, %v", what, len(got[9]), content.Len(), err)
			}
		}
		if a, b := piecesOf(t, first), piecesOf(t, second); !reflect.DeepEqual(a, b) {
			t.Errorf("pieces of %v, and cut in another way of %v bytes", a, b)
		}
		// A row of its own piece that is longer than is held in memory cannot be compared before it is stored.
		if stats := second.Manifest().Statistics; stats.NewBlocks > 0 {
			for _, length := range piecesOf(t, second) {
				if length > blockLimit {
					return
				}
			}
			t.Errorf("%d pieces were stored again because they were cut in another way", stats.NewBlocks)
		}
	})
}

// cutStream takes a snapshot of one table that is read as a stream, written in pieces whose lengths cut chooses.
func cutStream(t *testing.T, workspace *Workspace, content string, cut func(rest string) int) *Snapshot {
	t.Helper()
	writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "test"})
	if err != nil {
		t.Fatal(err)
	}
	table, err := writer.OpenTable(t.Context(), catalog.Table{OID: 9, Kind: catalog.KindTable, AccessMethod: catalog.HeapAccessMethod, ReadWhole: true})
	if err != nil {
		t.Fatal(err)
	}
	blocks := writer.NewBlockWriter()
	stream := blocks.BeginStream(table)
	for rest := content; len(rest) > 0; {
		n := cut(rest)
		if written, err := stream.Write([]byte(rest[:n])); err != nil || written != n {
			t.Fatalf("%d bytes of %d were taken: %v", written, n, err)
		}
		rest = rest[n:]
	}
	table.AddRows(int64(strings.Count(content, "\n")))
	for _, end := range []func() error{blocks.EndRange, table.CloseTable, blocks.Close} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	snapshot, err := writer.Commit(t.Context(), Ending{Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// piecesOf returns the lengths of the pieces of the only table.
func piecesOf(t *testing.T, snapshot *Snapshot) (lengths []uint64) {
	t.Helper()
	for entry, err := range snapshot.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		page, err := snapshot.listingPage(t.Context(), entry.Listing, entry.Listing.Pages, 0)
		if err != nil {
			t.Fatal(err)
		}
		if page == nil {
			continue
		}
		for _, block := range page.blocks {
			lengths = append(lengths, block.length)
		}
	}
	return lengths
}

// memory is a store in memory, for tests that make thousands of snapshots.
type memory struct {
	objectstore.Store // nil: for what no test calls

	mu      sync.Mutex
	objects map[string][]byte
	writes  int
	etags   map[string]string
}

func newMemory() *memory {
	return &memory{objects: make(map[string][]byte), etags: make(map[string]string)}
}

func (m *memory) Location() string { return "memory" }

func (m *memory) info(key string) objectstore.Info {
	return objectstore.Info{Key: key, Size: int64(len(m.objects[key])), ETag: m.etags[key]}
}

func (m *memory) put(key string, content []byte) objectstore.Info {
	m.writes++
	m.objects[key], m.etags[key] = bytes.Clone(content), strconv.Itoa(m.writes)
	return m.info(key)
}

func (m *memory) PutIfAbsent(_ context.Context, key string, content []byte) (objectstore.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.objects[key]; taken {
		return objectstore.Info{}, fmt.Errorf("put %s: %w", key, objectstore.ErrExists)
	}
	return m.put(key, content), nil
}

func (m *memory) PutIfMatch(_ context.Context, key string, content []byte, etag string) (objectstore.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.etags[key] != etag {
		return objectstore.Info{}, fmt.Errorf("replace %s: %w", key, objectstore.ErrChanged)
	}
	return m.put(key, content), nil
}

func (m *memory) Get(_ context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	content, found := m.objects[key]
	if !found {
		return nil, objectstore.Info{}, fmt.Errorf("get %s: %w", key, objectstore.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(content)), m.info(key), nil
}

func (m *memory) GetRange(_ context.Context, key string, offset, length int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	content, found := m.objects[key]
	switch {
	case !found:
		return nil, fmt.Errorf("get %s: %w", key, objectstore.ErrNotFound)
	case offset < 0 || length < 1 || offset+length > int64(len(content)):
		return nil, &objectstore.RangeError{Key: key, Offset: offset, Length: length, Size: int64(len(content))}
	}
	return bytes.Clone(content[offset : offset+length]), nil
}

func (m *memory) Stat(_ context.Context, key string) (objectstore.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, found := m.objects[key]; !found {
		return objectstore.Info{}, fmt.Errorf("stat %s: %w", key, objectstore.ErrNotFound)
	}
	return m.info(key), nil
}

func (m *memory) List(_ context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	m.mu.Lock()
	defer m.mu.Unlock()
	var infos []objectstore.Info
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if strings.HasPrefix(key, prefix) {
			infos = append(infos, m.info(key))
		}
	}
	return func(yield func(objectstore.Info, error) bool) {
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}
