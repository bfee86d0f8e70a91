package repository

import (
	"bytes"
	"container/list"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"sync"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// ErrDamaged says that what is stored is not what a writer of this format writes. It comes with the cause.
var ErrDamaged = errors.New("damaged")

// ErrVoid says that at a manifest's key lies a void: its run never became a snapshot.
var ErrVoid = errors.New("the run was given up before it became a snapshot")

// chunkCacheSize bounds the opened chunks that a Snapshot keeps for the blocks and tables that share them, in bytes.
const chunkCacheSize = 64 << 20

// Snapshot is a stored snapshot, opened for reading. It is safe for concurrent use.
type Snapshot struct {
	workspace *Workspace
	manifest  Manifest
	sha256    []byte // of the manifest object
	parts     *partReader
	cache     *chunkCache
	macs      sync.Pool // fingerprinters
	digesters sync.Pool

	listingsMu sync.Mutex
	listings   map[catalog.OID]TableEntry // without their shapes; filled by Tables
}

// OpenSnapshot reads and checks a manifest. ErrVoid when the run never became a snapshot, objectstore.ErrNotFound when there
// is nothing, ErrDamaged when it was damaged or moved, *UnknownFeatureError when it needs a newer version.
func (w *Workspace) OpenSnapshot(ctx context.Context, id SnapshotID) (*Snapshot, error) {
	object := w.id.manifestKey(id)
	content, _, err := objectstore.ReadAll(ctx, w.repository.store, object, maxObjectSize)
	if tooLarge := (*objectstore.TooLargeError)(nil); errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("manifest: %w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	snapshot, err := w.parseSnapshot(id, content)
	switch {
	case err == nil:
		return snapshot, nil
	case errors.Is(err, ErrVoid), errors.Is(err, crypto.ErrNewerFormat), isUnknownFeature(err):
		return nil, fmt.Errorf("manifest %s: %w", object, err)
	}
	return nil, fmt.Errorf("manifest %s: %w: %w", object, ErrDamaged, err)
}

func (w *Workspace) parseSnapshot(id SnapshotID, content []byte) (*Snapshot, error) {
	header, plain, err := w.open(w.id.manifestKey(id), content, crypto.KindManifest, crypto.KindVoid)
	if err != nil {
		return nil, err
	}
	if header.Kind == crypto.KindVoid {
		return nil, ErrVoid
	}
	// Features come first: an unknown one may change the meaning of anything else.
	var required struct {
		Format   int      `json:"format"`
		Features []string `json:"features"`
	}
	if err := json.Unmarshal(plain, &required); err != nil {
		return nil, err
	}
	if required.Format > crypto.FormatVersion {
		return nil, crypto.ErrNewerFormat
	}
	if err := checkFeatures(required.Features); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	snapshot := &Snapshot{workspace: w, sha256: sum[:], cache: newChunkCache(chunkCacheSize)}
	if err := json.Unmarshal(plain, &snapshot.manifest); err != nil {
		return nil, err
	}
	if snapshot.manifest.Snapshot != id || snapshot.manifest.Workspace != w.id {
		return nil, fmt.Errorf("names snapshot %s of workspace %s: %w", snapshot.manifest.Snapshot, snapshot.manifest.Workspace, crypto.ErrNotAuthentic)
	}
	snapshot.parts = &partReader{workspace: w, keyNumbers: make(map[PackName]uint32, len(snapshot.manifest.Packs))}
	for _, pack := range snapshot.manifest.Packs {
		snapshot.parts.keyNumbers[pack.Name] = pack.Key
	}
	key, err := w.key(snapshot.manifest.FingerprintKey)
	if err != nil {
		return nil, err
	}
	snapshot.macs.New = func() any { return key.NewFingerprinter() }
	snapshot.digesters.New = func() any { return key.NewDigester() }
	return snapshot, nil
}

// Manifest returns the manifest. The caller must not change it.
func (s *Snapshot) Manifest() *Manifest { return &s.manifest }

// Ref names the snapshot with the SHA-256 of its manifest object.
func (s *Snapshot) Ref() ManifestRef {
	return ManifestRef{Snapshot: s.manifest.Snapshot, SHA256: s.sha256}
}

// Database returns what was recorded of the database itself.
func (s *Snapshot) Database() catalog.Database { return s.manifest.Database }

// MaterializedViews returns the materialized views and whether they held rows.
func (s *Snapshot) MaterializedViews() []catalog.MaterializedView {
	return s.manifest.MaterializedViews
}

// SchemaArchive writes the schema archive, pg_dump's custom format, to out.
func (s *Snapshot) SchemaArchive(ctx context.Context, out io.Writer) error {
	var size uint64
	for i, page := range s.manifest.Archive.Pages {
		plain, err := s.readPage(ctx, crypto.KindArchive, page)
		if err != nil {
			return fmt.Errorf("schema archive, page %d: %w", i, err)
		}
		if _, err := out.Write(plain); err != nil {
			return err
		}
		size += uint64(len(plain))
	}
	if size != s.manifest.Archive.Size {
		return fmt.Errorf("schema archive: %d bytes instead of %d: %w", size, s.manifest.Archive.Size, crypto.ErrNotAuthentic)
	}
	return nil
}

// Sequences yields the recorded sequences, in the order in which they were recorded, and ends after the first error.
func (s *Snapshot) Sequences(ctx context.Context) iter.Seq2[catalog.Sequence, error] {
	return records[catalog.Sequence](ctx, s, crypto.KindSequences, s.manifest.Sequences)
}

// LargeObjects yields the recorded large objects' metadata, ascending by oid, and ends after the first error.
func (s *Snapshot) LargeObjects(ctx context.Context) iter.Seq2[catalog.LargeObject, error] {
	return records[catalog.LargeObject](ctx, s, crypto.KindLargeObjs, s.manifest.LargeObjects)
}

// Entries yields the tables with where their rows are, ascending by oid, and ends after the first error.
func (s *Snapshot) Entries(ctx context.Context) iter.Seq2[TableEntry, error] {
	return func(yield func(TableEntry, error) bool) {
		for entry, err := range records[TableEntry](ctx, s, crypto.KindTables, s.manifest.Tables) {
			if err == nil {
				err = entry.understood()
			}
			if !yield(entry, err) || err != nil {
				return
			}
		}
	}
}

// understood returns an *UnknownFeatureError when a later version reads or loads the table in a way that this one does not know.
func (t *TableEntry) understood() error {
	var unknown []string
	switch t.Kind {
	case catalog.KindTable, catalog.KindExtensionConfig, catalog.KindLargeObjects:
	default:
		unknown = append(unknown, fmt.Sprintf("table kind %q", t.Kind))
	}
	if t.Layout != LayoutBlocks && t.Layout != LayoutStream {
		unknown = append(unknown, fmt.Sprintf("layout %q", t.Layout))
	}
	if len(unknown) > 0 {
		return fmt.Errorf("table %q.%q: %w", t.Schema, t.Name, &UnknownFeatureError{Features: unknown})
	}
	return nil
}

// Tables yields the tables whose rows the snapshot holds, ascending by oid, and ends after the first error.
func (s *Snapshot) Tables(ctx context.Context) iter.Seq2[catalog.StoredTable, error] {
	return func(yield func(catalog.StoredTable, error) bool) {
		for entry, err := range s.Entries(ctx) {
			if err == nil {
				s.remember(entry)
			}
			if !yield(entry.StoredTable, err) || err != nil {
				return
			}
		}
	}
}

// remember keeps where a table's rows are for Rows, without what takes most memory.
func (s *Snapshot) remember(entry TableEntry) {
	entry.Shape = catalog.RowShape{}
	s.listingsMu.Lock()
	defer s.listingsMu.Unlock()
	if s.listings == nil {
		s.listings = make(map[catalog.OID]TableEntry)
	}
	s.listings[entry.OID] = entry
}

func (s *Snapshot) readPage(ctx context.Context, kind crypto.Kind, page Page) ([]byte, error) {
	plain, err := s.parts.read(ctx, kind, page.PartRef)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(s.digest(kind, plain), page.Digest) {
		return nil, &PartError{Object: s.workspace.id.packKey(page.Pack), Part: page.Part, Kind: kind, Err: crypto.ErrNotAuthentic}
	}
	return plain, nil
}

// pageDigestSize is the length of a page's digest in bytes.
const pageDigestSize = 16

// digest is the keyed digest of a page's text: HMAC-SHA-256 under the digest key (HKDF label "page digest") of the kind's number and the
// text, cut to 16 bytes.
func (s *Snapshot) digest(kind crypto.Kind, plain []byte) []byte {
	mac := s.digesters.Get().(hash.Hash)
	defer s.digesters.Put(mac)
	return pageDigest(mac, kind, plain)
}

func pageDigest(mac hash.Hash, kind crypto.Kind, plain []byte) []byte {
	mac.Reset()
	mac.Write([]byte{byte(kind)})
	mac.Write(plain)
	return mac.Sum(nil)[:pageDigestSize]
}

func records[T any](ctx context.Context, s *Snapshot, kind crypto.Kind, stored Records) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		var count uint64
		for _, page := range stored.Pages {
			plain, err := s.readPage(ctx, kind, page)
			if err != nil {
				yield(none, err)
				return
			}
			decoder := json.NewDecoder(bytes.NewReader(plain))
			for {
				var record T
				if err := decoder.Decode(&record); err == io.EOF {
					break
				} else if err != nil {
					yield(none, fmt.Errorf("%s of snapshot %s: %w", kind, s.manifest.Snapshot, err))
					return
				}
				count++
				if !yield(record, nil) {
					return
				}
			}
		}
		if count != stored.Count {
			yield(none, fmt.Errorf("%s of snapshot %s: %d records instead of %d: %w", kind, s.manifest.Snapshot, count, stored.Count, crypto.ErrNotAuthentic))
		}
	}
}

// listingRefs returns the references of a table's listing pages by number; nil for those without rows. For inline
// listings it returns nothing.
func (s *Snapshot) listingRefs(ctx context.Context, listing Listing) ([]*PartRef, error) {
	if len(listing.Index) == 0 {
		return listing.Pages, nil
	}
	var refs []*PartRef
	for i, ref := range listing.Index {
		plain, err := s.parts.read(ctx, crypto.KindIndex, ref)
		if err != nil {
			return nil, err
		}
		page, err := parseIndex(plain)
		if err == nil && i < len(listing.Index)-1 && len(page) != indexSpan {
			err = fmt.Errorf("index page: %w", errMalformed)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, part %d: %w", s.workspace.id.packKey(ref.Pack), ref.Part, err)
		}
		refs = append(refs, page...)
	}
	return refs, nil
}

// listingPage reads page number n of a listing; nil when it has no rows.
func (s *Snapshot) listingPage(ctx context.Context, listing Listing, refs []*PartRef, n int) (*listingPage, error) {
	var page *listingPage
	var err error
	switch {
	case listing.Inline != nil && n == 0:
		page, err = parseListingPage(listing.Inline)
	case n < len(refs) && refs[n] != nil:
		var plain []byte
		if plain, err = s.parts.read(ctx, crypto.KindListing, *refs[n]); err != nil {
			return nil, err
		}
		page, err = parseListingPage(plain)
	default:
		return nil, nil
	}
	if err == nil && page.first != uint32(n)*ListingSpan {
		err = fmt.Errorf("listing page %d begins at block %d: %w", n, page.first, errMalformed)
	}
	return page, err
}

// Rows writes the content of a table that Tables yielded to out: COPY text rows in block order. Each block's fingerprint and the
// totals of rows and bytes are checked; out may have received bytes when an error is returned, so what was loaded from
// them must not be kept.
func (s *Snapshot) Rows(ctx context.Context, table catalog.StoredTable, out io.Writer) error {
	s.listingsMu.Lock()
	entry, known := s.listings[table.OID]
	s.listingsMu.Unlock()
	if !known {
		return fmt.Errorf("snapshot %s: table %d was not listed", s.manifest.Snapshot, table.OID)
	}
	return s.EntryRows(ctx, entry, out)
}

// EntryRows is Rows for an entry that Entries yielded.
func (s *Snapshot) EntryRows(ctx context.Context, table TableEntry, out io.Writer) error {
	if err := s.rows(ctx, table, out); err != nil {
		return fmt.Errorf("rows of %q.%q: %w", table.Schema, table.Name, err)
	}
	return nil
}

func (s *Snapshot) rows(ctx context.Context, table TableEntry, out io.Writer) error {
	refs, err := s.listingRefs(ctx, table.Listing)
	if err != nil {
		return err
	}
	pages := len(refs)
	if table.Listing.Inline != nil {
		pages = 1
	}
	mac := s.macs.Get().(hash.Hash)
	defer s.macs.Put(mac)
	var written uint64
	var rows uint64
	ahead := s.startAhead(ctx, table.Listing, refs, pages)
	defer ahead.stop()
	var position chunkPosition
	for page := range ahead.pages {
		if page.err != nil {
			return page.err
		}
		position.enter(page.listingPage)
		for i := range page.blocks {
			block := &page.blocks[i]
			if block.length == 0 {
				continue
			}
			mac.Reset()
			counted := &countingWriter{out: io.MultiWriter(mac, out)}
			if err := s.writeBlock(ctx, page.listingPage, block, counted); err != nil {
				return err
			}
			if !hmac.Equal(mac.Sum(nil)[:FingerprintSize], block.fingerprint[:]) {
				return fmt.Errorf("block %d: content does not have the listed fingerprint: %w", page.first+uint32(i), crypto.ErrNotAuthentic)
			}
			written += block.length
			rows += counted.lines
			for range position.pass(block) { // to its last chunk
			}
			ahead.wrote(position.before)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if written != uint64(table.Bytes) || rows != uint64(table.Rows) {
		return fmt.Errorf("%d rows in %d bytes instead of %d in %d: %w", rows, written, table.Rows, table.Bytes, crypto.ErrNotAuthentic)
	}
	return nil
}

// countingWriter counts the rows that pass: COPY text has a line feed at the end of each row, and nowhere else.
type countingWriter struct {
	out   io.Writer
	lines uint64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.lines += uint64(bytes.Count(p, []byte{'\n'}))
	return c.out.Write(p)
}

func (s *Snapshot) writeBlock(ctx context.Context, page *listingPage, block *blockEntry, out io.Writer) error {
	left, offset := block.length, block.offset
	for chunk := block.chunk; left > 0; chunk, offset = chunk+1, 0 {
		if chunk >= len(page.chunks) {
			return errMalformed
		}
		plain, err := s.cache.get(ctx, s.parts, crypto.KindChunk, page.chunks[chunk].PartRef)
		if err != nil {
			return err
		}
		here := min(left, uint64(len(plain))-offset)
		if _, err := out.Write(plain[offset : offset+here]); err != nil {
			return err
		}
		left -= here
	}
	return nil
}

// chunkCache holds opened parts, most of them chunks, the least recently used going first. A part that several ask for at once is read
// once.
type chunkCache struct {
	mu      sync.Mutex
	limit   int
	size    int
	entries map[PartRef]*list.Element
	order   *list.List // of *cachedChunk, most recently used first
}

type chunkID struct {
	pack PackName
	part uint32
}

type cachedChunk struct {
	ref   PartRef
	ready chan struct{}
	plain []byte
	err   error
}

func newChunkCache(limit int) *chunkCache {
	return &chunkCache{limit: limit, entries: make(map[PartRef]*list.Element), order: list.New()}
}

func (c *chunkCache) get(ctx context.Context, parts *partReader, kind crypto.Kind, ref PartRef) ([]byte, error) {
	c.mu.Lock()
	if element, known := c.entries[ref]; known {
		c.order.MoveToFront(element)
		c.mu.Unlock()
		chunk := element.Value.(*cachedChunk)
		select {
		case <-chunk.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if chunk.err == nil || !errors.Is(chunk.err, context.Canceled) {
			return chunk.plain, chunk.err
		}
		// Whoever read it was stopped; that is not this caller's error.
		return parts.read(ctx, kind, ref)
	}
	chunk := &cachedChunk{ref: ref, ready: make(chan struct{})}
	element := c.order.PushFront(chunk)
	c.entries[ref] = element
	c.mu.Unlock()

	plain, err := parts.read(ctx, kind, ref)

	c.mu.Lock()
	defer c.mu.Unlock()
	chunk.plain, chunk.err = plain, err
	close(chunk.ready)
	if chunk.err != nil {
		c.remove(element)
		return nil, chunk.err
	}
	c.size += len(chunk.plain)
	for oldest := c.order.Back(); c.size > c.limit && oldest != nil; {
		previous := oldest.Prev()
		if victim := oldest.Value.(*cachedChunk); victim != chunk && victim.plain != nil {
			c.size -= len(victim.plain)
			c.remove(oldest)
		}
		oldest = previous
	}
	return chunk.plain, nil
}

// remove forgets an element; the lock is held.
func (c *chunkCache) remove(element *list.Element) {
	c.order.Remove(element)
	delete(c.entries, element.Value.(*cachedChunk).ref)
}

// packsOf collects the packs that a listing page and its chunks lie in.
func packsOf(page *listingPage, need func(PackName)) {
	for _, chunk := range page.chunks {
		need(chunk.Pack)
	}
}

// pageCount is how many listing pages a table of so many blocks has.
func pageCount(blocks uint32) int {
	return int((uint64(blocks) + ListingSpan - 1) / ListingSpan)
}
