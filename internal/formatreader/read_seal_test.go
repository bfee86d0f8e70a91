package formatreader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Kinds of section 4.
const (
	kindClaim        = 1
	kindWorkspace    = 2
	kindLease        = 3
	kindManifest     = 4
	kindVoid         = 5
	kindPlan         = 6
	kindPack         = 8
	kindChunk        = 16
	kindArchive      = 17
	kindListing      = 18
	kindIndex        = 19
	kindTables       = 20
	kindSequences    = 21
	kindLargeObjects = 22
	kindDirectory    = 23
)

func kindLabel(kind byte) string {
	return map[byte]string{
		kindClaim: "claim", kindWorkspace: "workspace", kindLease: "lease", kindManifest: "manifest", kindVoid: "void", kindPlan: "plan", kindChunk: "chunk", kindArchive: "archive",
		kindListing: "listing", kindIndex: "index", kindTables: "tables", kindSequences: "sequences", kindLargeObjects: "large objects", kindDirectory: "directory",
	}[kind]
}

// header is the clear header of a sealed object. Section 5.
type header struct {
	kind byte
	key  uint32
	salt []byte
}

func parseHeader(object []byte) (header, error) {
	if len(object) < 48 || string(object[:4]) != "HVLT" {
		return header{}, damage("no header")
	}
	switch version := binary.BigEndian.Uint16(object[4:]); {
	case version > 1:
		return header{}, fmt.Errorf("format version %d: %w", version, errNewer)
	case version < 1:
		return header{}, damage("format version %d", version)
	}
	if object[7] != 0 || !bytes.Equal(object[12:16], make([]byte, 4)) {
		return header{}, damage("bytes of the header that must be zero are not")
	}
	return header{kind: object[6], key: binary.BigEndian.Uint32(object[8:]), salt: object[16:48]}, nil
}

// associatedData is that of objects and parts. Section 5.
func associatedData(kind byte, repository, workspace [16]byte, number, part uint32, plain uint64, key string) []byte {
	data := []byte{0, 1, kind}
	data = append(data, repository[:]...)
	data = append(data, workspace[:]...)
	data = binary.BigEndian.AppendUint32(data, number)
	data = binary.BigEndian.AppendUint32(data, part)
	data = binary.BigEndian.AppendUint64(data, plain)
	return append(data, key...)
}

// openObject opens a sealed object that is no pack and that must be of one of kinds. keyOf gives the key with the number
// in the header; workspace is zero for claims.
func (r *repository) openObject(key string, object []byte, workspace [16]byte, keyOf func(uint32) ([]byte, error), kinds ...byte) (byte, []byte, error) {
	kind, plain, err := func() (byte, []byte, error) {
		head, err := parseHeader(object)
		if err != nil {
			return 0, nil, err
		}
		if !slices.Contains(kinds, head.kind) {
			return 0, nil, damage("kind %d does not belong here", head.kind)
		}
		if len(object) < 48+8+12+1+16 {
			return 0, nil, damage("%d bytes are too few", len(object))
		}
		size := binary.BigEndian.Uint64(object[48:])
		if size < 1 || size > 1<<30 {
			return 0, nil, damage("plain of %d bytes", size)
		}
		secret, err := keyOf(head.key)
		if err != nil {
			return 0, nil, err
		}
		text, err := openGCM(derive(secret, head.salt, kindLabel(head.kind)), object[56:],
			associatedData(head.kind, r.id, workspace, head.key, 0, size, key))
		if err != nil {
			return 0, nil, err
		}
		plain, err := r.decompress(text, size)
		return head.kind, plain, err
	}()
	if err != nil {
		return 0, nil, fmt.Errorf("open %s: %w", key, err)
	}
	return kind, plain, nil
}

const maxWindow = 8 << 20

// decompress undoes the one Zstandard frame of a text, which must give exactly size bytes.
func (r *repository) decompress(text []byte, size uint64) ([]byte, error) {
	if err := checkFrame(text); err != nil {
		return nil, err
	}
	if r.decoder == nil {
		decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		r.decoder = decoder
	}
	if err := r.decoder.Reset(bytes.NewReader(text)); err != nil {
		return nil, damage("decompress: %v", err)
	}
	var plain bytes.Buffer
	plain.Grow(int(min(size+bytes.MinRead, 4<<20)))
	if _, err := io.Copy(&plain, io.LimitReader(r.decoder, int64(size)+1)); err != nil {
		return nil, damage("decompress: %v", err)
	}
	if uint64(plain.Len()) != size {
		return nil, damage("plain is not the %d bytes that it should be", size)
	}
	return plain.Bytes(), nil
}

// checkFrame finds the end of the first frame (RFC 8878, section 3.1.1), which must be that of text, and refuses
// dictionaries and skippable frames.
func checkFrame(text []byte) error {
	var head zstd.Header
	if err := head.Decode(text); err != nil {
		return damage("no Zstandard frame: %v", err)
	}
	if head.Skippable || head.DictionaryID != 0 || head.WindowSize > maxWindow {
		return damage("a Zstandard frame that is not allowed")
	}
	at := head.HeaderSize
	for last := false; !last; {
		if len(text)-at < 3 {
			return damage("Zstandard frame is cut off")
		}
		block := int(text[at]) | int(text[at+1])<<8 | int(text[at+2])<<16
		last = block&1 != 0
		size := block >> 3
		if block>>1&3 == 1 { // RLE: the size is that of what comes out
			size = 1
		}
		if at += 3 + size; at > len(text) {
			return damage("Zstandard frame is cut off")
		}
	}
	if head.HasCheckSum {
		at += 4
	}
	if at != len(text) {
		return damage("text is not one Zstandard frame")
	}
	return nil
}

// reference says where a part is. Section 6.
type reference struct {
	Pack   packName `json:"pack"`
	Part   uint32   `json:"part"`
	Offset uint64   `json:"offset"`
	Stored uint32   `json:"stored"`
	Plain  uint32   `json:"plain"`
}

func (p reference) check() error {
	if p.Plain < 1 || p.Plain > 64<<20 || p.Stored < 29 || p.Stored > 65<<20 || p.Offset > 1<<62 {
		return damage("reference %+v is out of bounds", p)
	}
	return nil
}

// openPart opens the part of a pack whose stored bytes are sealed, under the workspace key with a number.
func (w *workspace) openPart(key string, id []byte, number uint32, kind byte, part uint32, sealed []byte, plain uint32) ([]byte, error) {
	secret, err := w.key(number)
	if err != nil {
		return nil, err
	}
	text, err := openGCM(derive(secret, id, kindLabel(kind)), sealed, associatedData(kind, w.repository.id, w.id, number, part, uint64(plain), key))
	if err != nil {
		return nil, fmt.Errorf("open part %d of %s as %s: %w", part, key, kindLabel(kind), err)
	}
	content, err := w.repository.decompress(text, uint64(plain))
	if err != nil {
		return nil, fmt.Errorf("open part %d of %s: %w", part, key, err)
	}
	return content, nil
}

// part reads what a reference of this snapshot refers to, which must be of a kind.
func (s *snapshot) part(ref reference, kind byte) ([]byte, error) {
	if err := ref.check(); err != nil {
		return nil, err
	}
	entry, ok := s.packs[ref.Pack]
	if !ok {
		return nil, damage("pack %s is referred to, and not in the list of packs of %s", ref.Pack, s.id)
	}
	key := s.workspace.packKey(ref.Pack)
	sealed, err := s.workspace.repository.store.getRange(key, int64(ref.Offset), int64(ref.Stored))
	if err != nil {
		return nil, err
	}
	return s.workspace.openPart(key, ref.Pack.id(), entry.Key, kind, ref.Part, sealed, ref.Plain)
}

func (w *workspace) packKey(name packName) string {
	return fmt.Sprintf("workspaces/%x/packs/%s", w.id, name)
}

// directoryEntry describes one part of a pack.
type directoryEntry struct {
	kind   byte
	stored uint64
	plain  uint64
}

// openDirectory opens the directory of a whole pack that has parts parts. Section 6.
func (w *workspace) openDirectory(key string, id, pack []byte, number uint32, parts uint32) ([]directoryEntry, int, error) {
	if len(pack) < 48+29+8 {
		return nil, 0, damage("%s: %d bytes are too few", key, len(pack))
	}
	trailer := pack[len(pack)-8:]
	stored, plain := uint64(binary.BigEndian.Uint32(trailer)), binary.BigEndian.Uint32(trailer[4:])
	if stored < 29 || stored > uint64(len(pack)-48-8) || plain < 1 || plain > 64<<20 {
		return nil, 0, damage("%s: trailer", key)
	}
	begin := len(pack) - 8 - int(stored)
	content, err := w.openPart(key, id, number, kindDirectory, parts, pack[begin:len(pack)-8], plain)
	if err != nil {
		return nil, 0, err
	}
	in := binaryReader{rest: content}
	entries := make([]directoryEntry, in.count("parts", 3))
	for i := range entries {
		entries[i] = directoryEntry{kind: in.octet(), stored: in.uvarint(64), plain: in.uvarint(64)}
	}
	if err := in.end(); err != nil {
		return nil, 0, fmt.Errorf("%s: directory: %w", key, err)
	}
	if uint32(len(entries)) != parts {
		return nil, 0, damage("%s: directory of %d parts, not %d", key, len(entries), parts)
	}
	return entries, begin, nil
}

// checkPack reads a whole pack of this snapshot and opens every part of it.
func (s *snapshot) checkPack(name packName) error {
	entry := s.packs[name]
	key := s.workspace.packKey(name)
	pack, err := s.workspace.repository.store.get(key, 1<<30)
	if err != nil {
		return err
	}
	head, err := parseHeader(pack)
	if err != nil {
		return fmt.Errorf("open %s: %w", key, err)
	}
	if head.kind != kindPack || head.key != entry.Key || !bytes.Equal(head.salt, name.id()) || int64(len(pack)) != entry.Size {
		return damage("%s: header or length", key)
	}
	entries, end, err := s.workspace.openDirectory(key, name.id(), pack, entry.Key, entry.Parts)
	if err != nil {
		return err
	}
	at := uint64(48)
	for i, part := range entries {
		if part.kind < kindChunk || part.kind > kindLargeObjects || part.stored < 29 || part.stored > 65<<20 || part.plain < 1 || part.plain > 64<<20 || part.stored > uint64(end)-at {
			return damage("%s: directory entry %d: %+v", key, i, part)
		}
		if _, err := s.workspace.openPart(key, name.id(), entry.Key, part.kind, uint32(i), pack[at:at+part.stored], uint32(part.plain)); err != nil {
			return err
		}
		at += part.stored
	}
	if at != uint64(end) {
		return damage("%s: a gap before the directory", key)
	}
	return nil
}

// binaryReader reads the binary texts of section 10.2 and 10.3. After the first error everything reads as zero.
type binaryReader struct {
	rest []byte
	err  error
}

func (b *binaryReader) fail(err error) {
	if b.err == nil {
		b.err = err
	}
	b.rest = nil
}

func (b *binaryReader) uvarint(bits int) uint64 {
	value, n := binary.Uvarint(b.rest)
	if n <= 0 || bits < 64 && value>>bits != 0 {
		b.fail(damage("bad uvarint"))
		return 0
	}
	b.rest = b.rest[n:]
	return value
}

// count reads a number of things that take at least size bytes each.
func (b *binaryReader) count(what string, size int) int {
	value := b.uvarint(64)
	if value > uint64(len(b.rest)/size) {
		b.fail(damage("%d %s in %d bytes", value, what, len(b.rest)))
		return 0
	}
	return int(value)
}

func (b *binaryReader) bytes(n int) []byte {
	if len(b.rest) < n {
		b.fail(damage("cut off"))
		return make([]byte, n)
	}
	value := b.rest[:n]
	b.rest = b.rest[n:]
	return value
}

func (b *binaryReader) octet() byte { return b.bytes(1)[0] }

func (b *binaryReader) end() error {
	if b.err == nil && len(b.rest) != 0 {
		b.err = damage("%d bytes behind the end", len(b.rest))
	}
	return b.err
}

// isDamage tells whether err is about what is stored.
func isDamage(err error) bool { return errors.Is(err, errDamaged) }
