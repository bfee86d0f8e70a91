package formatreader

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	forgedTime     = "20261122T140000Z-0123456789abcdef"
	forgedVoid     = "20261122T150000Z-0123456789abcdef"
	forgedDatabase = "7123456789012345678/16384"
)

// forger writes one repository by the page, with what the product has no occasion to write, and with the mistakes that a
// test asks for. Hooks that are nil change nothing.
type forger struct {
	t      *testing.T
	path   string
	id     [16]byte
	wid    [16]byte
	root   rootKey
	secret []byte            // the repository key
	keys   map[uint32][]byte // workspace keys

	repository func(map[string]any)
	wrap       func(map[string]any)
	claim      func(map[string]any)
	record     func(map[string]any)
	manifest   func(map[string]any)
	table      func(map[string]any)
	extents    []extent            // of listing page 0
	page       func([]byte) []byte // listing page 1025
	index      func([]byte) []byte // the last index page
	records    func([]byte) []byte // the page of table records
	header     func([]byte)        // the manifest's object
	frame      func([]byte) []byte // the manifest's text
	plainSize  func(uint64) uint64 // the manifest's stated length of plain
}

func hook[T any](change func(T), value T) T {
	if change != nil {
		change(value)
	}
	return value
}

func replaced[T any](change func(T) T, value T) T {
	if change != nil {
		return change(value)
	}
	return value
}

func (f *forger) put(key string, content []byte) {
	f.t.Helper()
	name := filepath.Join(f.path, filepath.FromSlash(key))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *forger) json(value any) []byte {
	f.t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		f.t.Fatal(err)
	}
	return encoded
}

func random(n int) []byte {
	value := make([]byte, n)
	rand.Read(value)
	return value
}

// seal returns nonce, ciphertext and tag.
func (f *forger) seal(key, text, associated []byte) []byte {
	f.t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		f.t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		f.t.Fatal(err)
	}
	nonce := random(12)
	return gcm.Seal(nonce, nonce, text, associated)
}

// compress makes a frame as later versions may: with a checksum, and a window of 8 MiB.
func (f *forger) compress(plain []byte) []byte {
	f.t.Helper()
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true), zstd.WithWindowSize(maxWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.t.Fatal(err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(plain, nil)
}

func forgedHeader(kind byte, number uint32, salt []byte) []byte {
	head := []byte{'H', 'V', 'L', 'T', 0, 1, kind, 0}
	head = binary.BigEndian.AppendUint32(head, number)
	head = append(head, 0, 0, 0, 0)
	return append(head, salt...)
}

// object puts a sealed object that is no pack, and returns it.
func (f *forger) object(key string, kind byte, workspace [16]byte, secret []byte, number uint32, plain []byte) []byte {
	f.t.Helper()
	salt := random(32)
	content, size := f.compress(plain), uint64(len(plain))
	if kind == kindManifest {
		content, size = replaced(f.frame, content), replaced(f.plainSize, size)
	}
	object := binary.BigEndian.AppendUint64(forgedHeader(kind, number, salt), size)
	object = append(object, f.seal(derive(secret, salt, kindLabel(kind)), content, associatedData(kind, f.id, workspace, number, 0, size, key))...)
	if kind == kindManifest {
		hook(f.header, object)
	}
	f.put(key, object)
	return object
}

func (f *forger) putWrap(folder string, workspace [16]byte, number uint32, secret []byte) {
	f.t.Helper()
	associated := append([]byte("hourvault/1 wrap"), f.id[:]...)
	associated = append(associated, workspace[:]...)
	associated = binary.BigEndian.AppendUint32(associated, number)
	associated = append(associated, f.root.id...)
	wrapped := base64.StdEncoding.EncodeToString(f.seal(f.root.wrapping, secret, associated))
	f.put(folder+f.root.id, f.json(hook(f.wrap, map[string]any{"format": 1, "key": number, "root_key": f.root.id, "wrapped": wrapped, "later": []int{1}})))
}

// forgedPack is a pack under way.
type forgedPack struct {
	f      *forger
	name   packName
	number uint32
	object []byte
	parts  []byte // the directory's entries
	count  uint32
}

func (f *forger) newPack(number uint32) *forgedPack {
	id := random(32)
	return &forgedPack{f: f, name: packName(fmt.Sprintf("%s/%x", forgedTime, id)), number: number, object: forgedHeader(kindPack, number, id)}
}

func (p *forgedPack) sealPart(kind byte, plain []byte) []byte {
	key := fmt.Sprintf("workspaces/%x/packs/%s", p.f.wid, p.name)
	return p.f.seal(derive(p.f.keys[p.number], p.name.id(), kindLabel(kind)), p.f.compress(plain), associatedData(kind, p.f.id, p.f.wid, p.number, p.count, uint64(len(plain)), key))
}

func (p *forgedPack) add(kind byte, plain []byte) reference {
	sealed := p.sealPart(kind, plain)
	ref := reference{Pack: p.name, Part: p.count, Offset: uint64(len(p.object)), Stored: uint32(len(sealed)), Plain: uint32(len(plain))}
	p.object = append(p.object, sealed...)
	p.parts = append(append(p.parts, kind), uvarintBytes(uint64(len(sealed)), uint64(len(plain)))...)
	p.count++
	return ref
}

func (p *forgedPack) end() map[string]any {
	plain := append(uvarintBytes(uint64(p.count)), p.parts...)
	directory := p.sealPart(kindDirectory, plain)
	p.object = append(p.object, directory...)
	p.object = binary.BigEndian.AppendUint32(p.object, uint32(len(directory)))
	p.object = binary.BigEndian.AppendUint32(p.object, uint32(len(plain)))
	p.f.put(fmt.Sprintf("workspaces/%x/packs/%s", p.f.wid, p.name), p.object)
	return map[string]any{"name": p.name, "size": len(p.object), "parts": p.count, "key": p.number}
}

// page returns the reference of a page of records or of the archive, with its digest.
func (f *forger) digested(kind byte, plain []byte, ref reference) map[string]any {
	digest := keyedHash(derive(f.keys[1], nil, "page digest"), []byte{kind}, plain)[:16]
	return map[string]any{"pack": ref.Pack, "part": ref.Part, "offset": ref.Offset, "stored": ref.Stored, "plain": ref.Plain, "digest": fmt.Sprintf("%x", digest)}
}

// table of references, all of one pack.
func forgedReferences(references []reference, shares bool) []byte {
	name := references[0].Pack
	seconds, err := time.Parse("20060102T150405Z", string(name[:16]))
	if err != nil {
		panic(err)
	}
	out := binary.BigEndian.AppendUint64([]byte{1}, uint64(seconds.Unix()))
	out = append(out, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef)
	out = append(append(out, name.id()...), uvarintBytes(uint64(len(references)))...)
	for _, ref := range references {
		out = append(out, uvarintBytes(0, uint64(ref.Part), ref.Offset, uint64(ref.Stored), uint64(ref.Plain))...)
		if shares {
			out = append(out, 0)
		}
	}
	return out
}

// listingPage makes listing page k of one block for each content, one extent for each, over the chunks that follow
// each other in the table.
func (f *forger) listingPage(k uint64, chunks []reference, extents []extent, contents ...string) []byte {
	out := append(uvarintBytes(1024*k), forgedReferences(chunks, true)...)
	out = append(out, uvarintBytes(uint64(len(contents)))...)
	for _, content := range contents {
		out = append(out, uvarintBytes(uint64(len(content)))...)
	}
	for _, content := range contents {
		if content != "" {
			out = append(out, keyedHash(derive(f.keys[1], nil, "fingerprint"), []byte(content))[:8]...)
		}
	}
	out = append(out, uvarintBytes(uint64(len(extents)))...)
	for _, e := range extents {
		out = append(out, uvarintBytes(e.blocks, e.chunk, e.offset)...)
	}
	return out
}

// forgedText is the COPY text of the forged table.
const forgedText = "1\tfirst\n" + "2\tsecond\n3\tcontinued over three chunks\n" + "4\tlast\n" + "5\tpage 1023\n" + "6\tpage 1025\n"

// write makes the repository. Its one table has an indexed listing of three pages in two index pages, content that
// continues, packs under another key than the fingerprints, and everything that a reader must pass over lies around.
func (f *forger) write(t *testing.T) *forger {
	t.Helper()
	root, err := parseRootKey(material)
	if err != nil {
		t.Fatal(err)
	}
	f.t, f.path, f.root = t, t.TempDir(), root
	f.id, f.wid, f.secret = [16]byte(random(16)), [16]byte(random(16)), random(32)
	f.keys = map[uint32][]byte{1: random(32), 2: random(32)}
	w := fmt.Sprintf("workspaces/%x/", f.wid)

	f.put("repository.json", f.json(hook(f.repository, map[string]any{"format": 1, "id": fmt.Sprintf("%x", f.id), "created": "2026-11-22T14:00:00Z", "features": []string{}})))
	f.putWrap(fmt.Sprintf("keys/1/%x/", f.id), [16]byte{}, 1, f.secret)
	for number, key := range f.keys {
		f.putWrap(fmt.Sprintf("%skeys/%d/", w, number), f.wid, number, key)
		f.put(fmt.Sprintf("%skeys/%d/recovery-1", w, number), f.json(map[string]any{"format": 1, "key": number, "root_key": "recovery-1", "wrapped": "bm90IGZvciB1cw=="}))
	}
	f.put(w+"keys/notes", []byte("foreign"))
	identity := map[string]any{"system_identifier": "7123456789012345678", "database_oid": 16384}
	claim := map[string]any{"workspace": fmt.Sprintf("%x", f.wid)}
	record := map[string]any{"server": "s", "database": "d", "created": "2026-11-22T14:00:00Z"}
	for name, value := range identity {
		claim[name], record[name] = value, value
	}
	f.object((&repository{repositoryKey: f.secret}).claimKey(forgedDatabase), kindClaim, [16]byte{}, f.secret, 1, f.json(hook(f.claim, claim)))
	f.object(w+"workspace/0000000001", kindWorkspace, f.wid, f.keys[1], 1, []byte(`{"server": "before", "system_identifier": "1", "database_oid": 1}`))
	f.object(w+"workspace/0000000002", kindWorkspace, f.wid, f.keys[2], 2, f.json(hook(f.record, record)))

	first, rest := forgedText[:8], forgedText[8:]
	pack := f.newPack(2)
	second, last := rest[:len("2\tsecond\n3\tcontinued over three chunks\n")], "4\tlast\n"
	chunks := []reference{pack.add(kindChunk, []byte("foreign"+first+second[:5])), {}, {}}
	chunks[2] = pack.add(kindChunk, []byte(second[20:]+last)) // parts lie in another order than chunks
	chunks[1] = pack.add(kindChunk, []byte(second[5:20]))
	extents := f.extents
	if extents == nil {
		extents = []extent{{2, 0, 7}, {1, 2, uint64(len(second) - 20)}}
	}
	page0 := f.listingPage(0, chunks, extents, first, "", second, last)
	chunk := pack.add(kindChunk, []byte("5\tpage 1023\n6\tpage 1025\n"))
	page1023 := f.listingPage(1023, []reference{chunk}, []extent{{1, 0, 0}}, "", "5\tpage 1023\n")
	page1025 := replaced(f.page, f.listingPage(1025, []reference{chunk}, []extent{{1, 0, 12}}, "6\tpage 1025\n"))
	pages := []reference{pack.add(kindListing, page0), pack.add(kindListing, page1023), pack.add(kindListing, page1025)}
	flags := make([]byte, 1024)
	flags[0], flags[1023] = 1, 1
	index := []reference{
		pack.add(kindIndex, append(append(uvarintBytes(1024), flags...), forgedReferences(pages[:2], false)...)),
		pack.add(kindIndex, replaced(f.index, append([]byte{2, 0, 1}, forgedReferences(pages[2:], false)...))),
	}
	table := hook(f.table, map[string]any{
		"oid": 16385, "kind": "table", "schema": "public", "name": map[string]any{"base64": "6Q=="}, "columns": []string{"a", "b"}, "layout": "blocks",
		"blocks": 1025*1024 + 1, "rows": 6, "bytes": len(forgedText), "listing": map[string]any{"index": index}, "later": map[string]any{"KIND": 1},
	})
	records := replaced(f.records, append(f.json(table), '\n'))
	tables := f.digested(kindTables, records, pack.add(kindTables, records))
	archive := f.digested(kindArchive, []byte("schema"), pack.add(kindArchive, []byte("schema")))
	manifest := hook(f.manifest, map[string]any{
		"format": 1, "features": []string{}, "snapshot": forgedTime, "workspace": fmt.Sprintf("%x", f.wid), "time": "2026-11-22T14:00:01.5Z", "sequence": 1,
		"database": map[string]any{"encoding": "LATIN1", "block_size": 8192, "grants": []string{}}, "fingerprint_key": 1, "packs": []any{pack.end()},
		"archive": map[string]any{"pages": []any{archive}, "size": 6}, "tables": map[string]any{"count": 1, "pages": []any{tables}},
		"warnings": []any{map[string]any{"code": "of a later version"}}, "previous": nil,
	})
	f.object(w+"snapshots/"+forgedTime, kindManifest, f.wid, f.keys[2], 2, f.json(manifest))
	f.object(w+"snapshots/"+forgedVoid, kindVoid, f.wid, f.keys[1], 1, []byte(`{"void": true}`))
	f.put(w+"snapshots/notes", []byte("foreign"))
	f.put(w+"snapshots/20261131T140000Z-0123456789abcdef", []byte("no such day"))
	f.put(w+"drills/later", []byte("reserved"))
	return f
}

// read opens everything, and returns the rows of the forged table.
func (f *forger) read() (string, error) {
	r, err := openRepository(f.path, material)
	if err != nil {
		return "", err
	}
	workspaces, problems := r.workspaces()
	if len(problems) > 0 {
		return "", problems[0]
	}
	if len(workspaces) != 1 {
		return "", fmt.Errorf("%d workspaces", len(workspaces))
	}
	objects, err := workspaces[0].snapshots()
	if err != nil {
		return "", err
	}
	if len(objects) != 2 || !errors.Is(objects[1].err, errVoid) {
		return "", fmt.Errorf("objects %+v", objects)
	}
	if objects[0].err != nil {
		return "", objects[0].err
	}
	s := objects[0].snapshot
	if err := s.readAll(); err != nil {
		return "", err
	}
	for name := range s.packs {
		if err := s.checkPack(name); err != nil {
			return "", err
		}
	}
	tables, err := s.tables()
	if err != nil {
		return "", err
	}
	if s.Database.Grants == nil || string(tables[0].Name) != "\xe9" {
		return "", fmt.Errorf("grants %v, name %q", s.Database.Grants, tables[0].Name)
	}
	var content strings.Builder
	err = s.rows(tables[0], &content)
	return content.String(), err
}

func TestReaderReadsWhateverThePageAllowsAWriter(t *testing.T) {
	content, err := new(forger).write(t).read()
	if err != nil || content != forgedText {
		t.Errorf("rows %q, %v", content, err)
	}
}

func set(name string, value any) func(map[string]any) {
	return func(object map[string]any) { object[name] = value }
}

func TestReaderRefusesWhatThePageSaysMustBeRefused(t *testing.T) {
	within := func(outer, name string, value any) func(map[string]any) {
		return func(object map[string]any) { object[outer].(map[string]any)[name] = value }
	}
	reference := map[string]any{"snapshot": "20261122T130000Z-0123456789abcdef", "sha256": strings.Repeat("ab", 32)}
	for what, c := range map[string]struct {
		forger forger
		after  func(*forger)
		want   error
		names  string
	}{
		"a later repository":          {forger: forger{repository: set("format", 2)}, want: errNewer},
		"an earlier repository":       {forger: forger{repository: set("format", 0)}, want: errDamaged},
		"a feature of the repository": {forger: forger{repository: set("features", []string{"star-keys"})}, want: errUnknown, names: "star-keys"},
		"a repository of another id":  {forger: forger{repository: set("id", strings.Repeat("0", 32))}, want: errNoWrap},
		"an id in upper case":         {forger: forger{repository: set("id", strings.Repeat("A", 32))}, want: errDamaged},
		"a later wrap":                {forger: forger{wrap: set("format", 2)}, want: errNewer},
		"a wrap that is no Base64":    {forger: forger{wrap: set("wrapped", "AAAA\nAAAA")}, want: errDamaged},
		"a claim of another database": {forger: forger{claim: set("database_oid", 5)}, want: errDamaged},
		"a claim that does not count": {forger: forger{record: set("database_oid", 5)}, want: errDamaged},
		"a later manifest":            {forger: forger{manifest: set("format", 2)}, want: errNewer},
		"a manifest without a format": {forger: forger{manifest: set("format", nil)}, want: errDamaged},
		"a feature of the manifest":   {forger: forger{manifest: set("features", []string{"big-pages"})}, want: errUnknown, names: "big-pages"},
		"a feature before all else is looked at": {forger: forger{manifest: func(m map[string]any) {
			m["features"], m["packs"], m["snapshot"] = []string{"big-pages"}, "elsewhere", 7
		}}, want: errUnknown, names: "big-pages"},
		"a manifest of another snapshot":      {forger: forger{manifest: set("snapshot", forgedVoid)}, want: errDamaged},
		"a manifest of another workspace":     {forger: forger{manifest: set("workspace", strings.Repeat("0", 32))}, want: errDamaged},
		"a fingerprint key that is not there": {forger: forger{manifest: set("fingerprint_key", 3)}, want: errNoWrap},
		"digests under another key":           {forger: forger{manifest: set("fingerprint_key", 2)}, want: errDamaged},
		"a pack that is not in the list":      {forger: forger{manifest: set("packs", []any{})}, want: errDamaged},
		"previous without alive":              {forger: forger{manifest: set("previous", reference)}, want: errDamaged},
		"alive without previous":              {forger: forger{manifest: set("alive", []any{reference})}, want: errDamaged},
		"an archive of another length":        {forger: forger{manifest: within("archive", "size", 7)}, want: errDamaged},
		"a page of another digest": {forger: forger{manifest: func(m map[string]any) {
			m["archive"].(map[string]any)["pages"].([]any)[0].(map[string]any)["digest"] = strings.Repeat("0", 32)
		}}, want: errDamaged},
		"another number of tables":                {forger: forger{manifest: within("tables", "count", 2)}, want: errDamaged},
		"an unknown kind of table":                {forger: forger{table: set("kind", "graph")}, want: errUnknown, names: "graph"},
		"an unknown layout":                       {forger: forger{table: set("layout", "columns")}, want: errUnknown, names: "columns"},
		"another number of rows":                  {forger: forger{table: set("rows", 5)}, want: errDamaged},
		"another length of rows":                  {forger: forger{table: set("bytes", 5)}, want: errDamaged},
		"rows behind the last block":              {forger: forger{table: set("blocks", 1025*1024)}, want: errDamaged},
		"two listings":                            {forger: forger{table: within("listing", "inline", "AA==")}, want: errDamaged},
		"a record that is cut off":                {forger: forger{records: func(p []byte) []byte { return p[:len(p)-1] }}, want: errDamaged},
		"a blank line between records":            {forger: forger{records: func(p []byte) []byte { return append(p, '\n') }}, want: errDamaged},
		"the same table twice":                    {forger: forger{records: func(p []byte) []byte { return append(p, p...) }, manifest: within("tables", "count", 2)}, want: errDamaged},
		"a listing page in another's place":       {forger: forger{page: func(p []byte) []byte { p[0]++; return p }}, want: errDamaged},
		"a byte behind a listing page":            {forger: forger{page: func(p []byte) []byte { return append(p, 0) }}, want: errDamaged},
		"an extent that begins elsewhere":         {forger: forger{page: func(p []byte) []byte { p[len(p)-1] = 0; return p }}, want: errDamaged},
		"an extent behind its chunk":              {forger: forger{page: func(p []byte) []byte { p[len(p)-1] = 24; return p }}, want: errDamaged},
		"a block of another fingerprint":          {forger: forger{page: func(p []byte) []byte { p[len(p)-5] ^= 1; return p }}, want: errDamaged},
		"an extent that goes on in another chunk": {forger: forger{extents: []extent{{3, 0, 7}}}, want: errDamaged},
		"a flag too many":                         {forger: forger{index: func(p []byte) []byte { p[1] = 1; return p }}, want: errDamaged},
		"a flag that is neither":                  {forger: forger{index: func(p []byte) []byte { p[2] = 2; return p }}, want: errDamaged},
		"a version 2 of the header":               {forger: forger{header: func(o []byte) { o[5] = 2 }}, want: errNewer},
		"a bit that must be zero in the header":   {forger: forger{header: func(o []byte) { o[12] = 1 }}, want: errDamaged},
		"another key number in the header":        {forger: forger{header: func(o []byte) { o[11] = 1 }}, want: errDamaged},
		"a key number that is not there":          {forger: forger{header: func(o []byte) { o[11] = 9 }}, want: errNoWrap},
		"a lease's kind at a manifest's key":      {forger: forger{header: func(o []byte) { o[6] = kindLease }}, want: errDamaged},
		"a void made of a manifest":               {forger: forger{header: func(o []byte) { o[6] = kindVoid }}, want: errDamaged},
		"two frames":                              {forger: forger{frame: func(p []byte) []byte { return append(p, p...) }}, want: errDamaged},
		"a skippable frame behind":                {forger: forger{frame: func(p []byte) []byte { return append(p, 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0) }}, want: errDamaged},
		"a frame that is cut off":                 {forger: forger{frame: func(p []byte) []byte { return p[:len(p)-5] }}, want: errDamaged},
		"a plain that is longer than it says":     {forger: forger{plainSize: func(n uint64) uint64 { return n - 1 }}, want: errDamaged},
		"a plain that is shorter than it says":    {forger: forger{plainSize: func(n uint64) uint64 { return n + 1 }}, want: errDamaged},
		"a plain beyond the bounds":               {forger: forger{plainSize: func(uint64) uint64 { return 1<<30 + 1 }}, want: errDamaged},
		"a manifest under another name":           {after: func(f *forger) { f.rename("snapshots/"+forgedTime, "snapshots/20261122T140000Z-0123456789abcdee") }, want: errDamaged},
		"a retired key in the place of a newer":   {after: func(f *forger) { f.copy("keys/1/"+f.root.id, "keys/2/"+f.root.id) }, want: errDamaged},
		"an older record as the newest":           {after: func(f *forger) { f.copy("workspace/0000000001", "workspace/0000000003") }, want: errDamaged},
		"a foreign name among records":            {after: func(f *forger) { f.copy("workspace/0000000001", "workspace/3") }, want: errDamaged},
		"a foreign name among claims":             {after: func(f *forger) { f.put("claims/x", nil) }, want: errDamaged},
		"a workspace whose keys were destroyed":   {after: func(f *forger) { f.remove("keys") }, want: errNoWrap},
		"a pack that is gone":                     {after: func(f *forger) { f.remove("packs") }, want: errNotFound},
	} {
		t.Run(what, func(t *testing.T) {
			f := c.forger
			f.write(t)
			if c.after != nil {
				c.after(&f)
			}
			content, err := f.read()
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.names) {
				t.Errorf("rows %q, error %v, want %v", content, err, c.want)
			}
		})
	}
}

func (f *forger) file(name string) string {
	return filepath.Join(f.path, fmt.Sprintf("workspaces/%x", f.wid), filepath.FromSlash(name))
}

func (f *forger) rename(from, to string) {
	if err := os.Rename(f.file(from), f.file(to)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *forger) copy(from, to string) {
	content, err := os.ReadFile(f.file(from))
	if err == nil {
		err = os.WriteFile(f.file(to), content, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *forger) remove(folder string) {
	if err := os.RemoveAll(f.file(folder)); err != nil {
		f.t.Fatal(err)
	}
}
