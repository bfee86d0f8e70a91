package repository

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// wholePack is the longest pack, in bytes, that a check reads with one request. Writers make none longer.
const wholePack = 80 << 20

// checkPack reads a pack whole and opens its directory and every part. size is what the store says.
func (w *workspaceVerifier) checkPack(ctx context.Context, info PackInfo, size int64) (problems []Problem) {
	object := w.id().packKey(info.Name)
	fail := func(err error) {
		problems = append(problems, Problem{Kind: problemKind(err, ProblemPackDamaged, ProblemPackMissing), Object: object, Message: err.Error()})
	}
	section := func(offset, length int64) ([]byte, error) {
		return w.v.repository.store.GetRange(ctx, object, offset, length)
	}
	if size < crypto.HeaderSize+crypto.Overhead+packTrailerSize {
		fail(fmt.Errorf("%w: %d bytes are too few for a pack", ErrDamaged, size))
		return problems
	}
	if size <= wholePack {
		content, _, err := objectstore.ReadAll(ctx, w.v.repository.store, object, size)
		if err != nil {
			fail(err)
			return problems
		}
		size = int64(len(content))
		section = func(offset, length int64) ([]byte, error) {
			if offset < 0 || length < 0 || offset+length > size {
				return nil, fmt.Errorf("%w: parts reach beyond its %d bytes", ErrDamaged, size)
			}
			return content[offset : offset+length], nil
		}
	}
	head, err := section(0, crypto.HeaderSize)
	var header crypto.Header
	if err == nil {
		header, err = crypto.ParseHeader(head)
	}
	if err == nil && (header.Kind != crypto.KindPack || header.Salt != info.Name.ID || header.KeyNumber != info.Key) {
		err = fmt.Errorf("%w: its header is that of another object", ErrDamaged)
	}
	if err != nil {
		fail(err)
		return problems // reading goes by the manifest, but nothing of a pack may be changed
	}
	sealer, err := w.parts.sealer(info.Name, partKinds...)
	if err != nil {
		fail(err)
		return problems
	}
	directory, at, err := w.packDirectory(section, sealer, info, size)
	if err != nil {
		fail(err)
		return problems
	}
	offset := int64(crypto.HeaderSize)
	var plain []byte // of one part after the other
	for number, entry := range directory {
		if ctx.Err() != nil {
			return problems
		}
		length := int64(entry.stored)
		var sealed []byte
		err := error(nil)
		switch {
		case !slices.Contains(partKinds, entry.kind) || entry.kind == crypto.KindDirectory:
			err = fmt.Errorf("%w: is a %s", ErrDamaged, entry.kind)
		case length < crypto.Overhead || entry.plain > maxPartSize || length > maxPartSize+1<<20 || offset+length > at:
			err = fmt.Errorf("%w: %d stored and %d plain bytes", ErrDamaged, length, entry.plain)
		default:
			sealed, err = section(offset, length)
		}
		if err == nil {
			var text []byte
			if text, err = sealer.Open(nil, entry.kind, uint32(number), uint64(entry.plain), sealed); err == nil {
				var opened []byte
				if opened, err = w.v.repository.codec.decompressInto(plain, text, int(entry.plain)); err == nil {
					plain = opened[:0]
				}
			}
		}
		if err != nil {
			fail(&PartError{Object: object, Part: uint32(number), Kind: entry.kind, Err: err})
		}
		offset += length
	}
	if offset != at {
		fail(fmt.Errorf("%w: its parts end at %d and its directory begins at %d", ErrDamaged, offset, at))
	}
	return problems
}

// packDirectory opens a pack's directory and says where it begins.
func (w *workspaceVerifier) packDirectory(section func(offset, length int64) ([]byte, error), sealer *crypto.Sealer, info PackInfo, size int64) ([]directoryEntry, int64, error) {
	trailer, err := section(size-packTrailerSize, packTrailerSize)
	if err != nil {
		return nil, 0, err
	}
	stored, plain := int64(binary.BigEndian.Uint32(trailer)), binary.BigEndian.Uint32(trailer[4:])
	at := size - packTrailerSize - stored
	if stored < crypto.Overhead || stored > maxPartSize+1<<20 || plain > maxPartSize || at < crypto.HeaderSize {
		return nil, 0, fmt.Errorf("%w: its directory would have %d stored and %d plain bytes", ErrDamaged, stored, plain)
	}
	sealed, err := section(at, stored)
	if err != nil {
		return nil, 0, err
	}
	text, err := sealer.Open(nil, crypto.KindDirectory, info.Parts, uint64(plain), sealed)
	if err == nil {
		text, err = w.v.repository.codec.decompress(text, int(plain))
	}
	var entries []directoryEntry
	if err == nil {
		entries, err = parsePackDirectory(text)
	}
	if err == nil && uint64(len(entries)) != uint64(info.Parts) {
		err = fmt.Errorf("%w: %d parts, and manifests say %d", ErrDamaged, len(entries), info.Parts)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("directory: %w", err)
	}
	return entries, at, nil
}

// read returns an opened part. What is wrong with it is returned as an error that names its object.
func (w *workspaceVerifier) read(ctx context.Context, kind crypto.Kind, ref PartRef) ([]byte, error) {
	return w.v.cache.get(ctx, w.parts, kind, ref)
}

// checkRef says what is wrong with a reference of one snapshot, before anything is read.
func checkRef(snapshot *Snapshot, ref PartRef, packs map[PackName]*verifiedPack) error {
	number, named := snapshot.parts.keyNumbers[ref.Pack]
	pack := packs[ref.Pack]
	switch {
	case !named || pack == nil || number != pack.info.Key:
		return fmt.Errorf("%w: refers to pack %s, which is not in the manifest's list", ErrDamaged, ref.Pack)
	case ref.Part >= pack.info.Parts, ref.Offset < crypto.HeaderSize, ref.Offset > pack.info.Size, uint64(ref.Stored) > pack.info.Size-ref.Offset:
		return fmt.Errorf("%w: refers to part %d at %d of pack %s, which that pack does not have", ErrDamaged, ref.Part, ref.Offset, ref.Pack)
	}
	return nil
}

// partProblem makes the problem out of an error of reading or understanding a part.
func (w *workspaceVerifier) partProblem(err error, kind string, object, what string) Problem {
	var part *PartError
	if errors.As(err, &part) {
		object = part.Object
	}
	return Problem{Kind: problemKind(err, kind, ProblemPackMissing), Object: object, Message: what + ": " + err.Error()}
}

// checkContent checks what manifests refer to: pages of records, listings, and with ReadData the archive and all rows.
func (w *workspaceVerifier) checkContent(ctx context.Context) {
	pages := make(map[checkedPage]uint64) // to the number of records
	for _, snapshot := range w.snapshots {
		if ctx.Err() != nil {
			return
		}
		manifest := &snapshot.manifest
		var size uint64
		whole := true
		for i, page := range manifest.Archive.Pages {
			_, ok := w.checkPage(ctx, snapshot, crypto.KindArchive, page, fmt.Sprintf("schema archive, page %d", i), pages)
			whole = whole && ok
			size += uint64(page.Plain)
		}
		if whole && size != manifest.Archive.Size {
			w.report(Problem{Kind: ProblemPageDamaged, Object: w.id().manifestKey(manifest.Snapshot), Message: fmt.Sprintf("schema archive: %d bytes instead of %d", size, manifest.Archive.Size)}, manifest.Snapshot)
		}
		w.checkRecordsOf(ctx, snapshot, crypto.KindSequences, manifest.Sequences, pages)
		w.checkRecordsOf(ctx, snapshot, crypto.KindLargeObjs, manifest.LargeObjects, pages)
	}
	w.checkTables(ctx)
}

// checkedPage is a page that was checked under a fingerprint key.
type checkedPage struct {
	ref            PartRef
	digest         string
	fingerprintKey uint32
}

// checkPage checks one page of records or of the archive, each distinct one once.
func (w *workspaceVerifier) checkPage(ctx context.Context, snapshot *Snapshot, kind crypto.Kind, page Page, what string, known map[checkedPage]uint64) (records uint64, ok bool) {
	object := w.id().manifestKey(snapshot.manifest.Snapshot)
	if err := checkRef(snapshot, page.PartRef, w.packs); err != nil {
		w.report(w.partProblem(err, ProblemPageDamaged, object, what), snapshot.manifest.Snapshot)
		return 0, false
	}
	if !w.v.options.ReadData && kind != crypto.KindTables {
		return 0, true
	}
	id := checkedPage{ref: page.PartRef, digest: string(page.Digest), fingerprintKey: snapshot.manifest.FingerprintKey}
	if records, done := known[id]; done {
		return records, true
	}
	plain, err := w.readPage(ctx, snapshot, kind, page)
	if err == nil && kind != crypto.KindArchive {
		decoder := json.NewDecoder(bytes.NewReader(plain))
		for {
			var record struct {
				OID catalog.OID `json:"oid"`
			}
			if err = decoder.Decode(&record); err != nil {
				break
			}
			records++
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	if err != nil {
		w.report(w.partProblem(err, ProblemPageDamaged, w.id().packKey(page.Pack), what), snapshot.manifest.Snapshot)
		return 0, false
	}
	known[id] = records
	return records, true
}

func (w *workspaceVerifier) readPage(ctx context.Context, snapshot *Snapshot, kind crypto.Kind, page Page) ([]byte, error) {
	plain, err := w.read(ctx, kind, page.PartRef)
	if err == nil && !hmac.Equal(snapshot.digest(kind, plain), page.Digest) {
		err = &PartError{Object: w.id().packKey(page.Pack), Part: page.Part, Kind: kind, Err: crypto.ErrNotAuthentic}
	}
	return plain, err
}

func (w *workspaceVerifier) checkRecordsOf(ctx context.Context, snapshot *Snapshot, kind crypto.Kind, stored Records, known map[checkedPage]uint64) {
	var count uint64
	whole := true
	for i, page := range stored.Pages {
		records, ok := w.checkPage(ctx, snapshot, kind, page, fmt.Sprintf("%s, page %d", kind, i), known)
		whole = whole && ok
		count += records
	}
	if w.v.options.ReadData && whole && count != stored.Count {
		w.report(Problem{Kind: ProblemPageDamaged, Object: w.id().manifestKey(snapshot.manifest.Snapshot), Message: fmt.Sprintf("%d %s instead of %d", count, kind, stored.Count)}, snapshot.manifest.Snapshot)
	}
}

// tablePage is an opened page of table records, shared by all snapshots that are at it.
type tablePage struct {
	id      checkedPage
	entries []*TableEntry
	users   int
}

// tableCursor walks one snapshot's tables.
type tableCursor struct {
	snapshot *Snapshot
	next     int // page of the manifest
	page     *tablePage
	at       int
	last     catalog.OID
	count    uint64
	skipped  bool // a page could not be read
}

// tableVersion is a table as one or several snapshots hold it.
type tableVersion struct {
	entry          *TableEntry
	fingerprintKey uint32
	snapshots      []*Snapshot

	mu     sync.Mutex // guards what follows
	bytes  uint64
	rows   uint64
	broken bool
}

func (t *tableVersion) ids() []SnapshotID {
	ids := make([]SnapshotID, len(t.snapshots))
	for i, snapshot := range t.snapshots {
		ids[i] = snapshot.manifest.Snapshot
	}
	return ids
}

// checkTables walks the tables of all snapshots side by side by oid: what several snapshots have in common is checked once, and memory holds
// one page of records for each snapshot, not one table for each.
func (w *workspaceVerifier) checkTables(ctx context.Context) {
	pages := make(map[checkedPage]*tablePage)
	cursors := make([]*tableCursor, len(w.snapshots))
	for i, snapshot := range w.snapshots {
		cursors[i] = &tableCursor{snapshot: snapshot}
		w.advanceCursor(ctx, cursors[i], pages)
	}
	var group errgroup.Group
	group.SetLimit(4)
	for ctx.Err() == nil {
		var oid catalog.OID
		found := false
		for _, cursor := range cursors {
			if cursor.page != nil && (!found || cursor.page.entries[cursor.at].OID < oid) {
				oid, found = cursor.page.entries[cursor.at].OID, true
			}
		}
		if !found {
			break
		}
		var versions []*tableVersion
		known := make(map[*TableEntry]*tableVersion)
		for _, cursor := range cursors {
			if cursor.page == nil || cursor.page.entries[cursor.at].OID != oid {
				continue
			}
			entry := cursor.page.entries[cursor.at]
			version := known[entry]
			if version == nil {
				version = &tableVersion{entry: entry, fingerprintKey: cursor.snapshot.manifest.FingerprintKey}
				known[entry] = version
				versions = append(versions, version)
			}
			version.snapshots = append(version.snapshots, cursor.snapshot)
		}
		for _, cursor := range cursors {
			if cursor.page != nil && cursor.page.entries[cursor.at].OID == oid {
				w.advanceCursor(ctx, cursor, pages)
			}
		}
		w.result.Tables++
		group.Go(func() error {
			w.checkTable(ctx, versions)
			return nil
		})
	}
	_ = group.Wait() // problems were collected; no function returns an error
	for _, cursor := range cursors {
		if manifest := &cursor.snapshot.manifest; ctx.Err() == nil && !cursor.skipped && cursor.count != manifest.Tables.Count {
			w.report(Problem{Kind: ProblemPageDamaged, Object: w.id().manifestKey(manifest.Snapshot), Message: fmt.Sprintf("%d tables instead of %d", cursor.count, manifest.Tables.Count)}, manifest.Snapshot)
		}
	}
}

// advanceCursor goes to the next table record; cursor.page is nil at the end.
func (w *workspaceVerifier) advanceCursor(ctx context.Context, cursor *tableCursor, pages map[checkedPage]*tablePage) {
	manifest := &cursor.snapshot.manifest
	if cursor.page != nil {
		cursor.at++
		if cursor.at == len(cursor.page.entries) {
			if cursor.page.users--; cursor.page.users == 0 {
				delete(pages, cursor.page.id)
			}
			cursor.page = nil
		}
	}
	for cursor.page == nil && cursor.next < len(manifest.Tables.Pages) && ctx.Err() == nil {
		stored := manifest.Tables.Pages[cursor.next]
		what := fmt.Sprintf("tables, page %d", cursor.next)
		cursor.next++
		id := checkedPage{ref: stored.PartRef, digest: string(stored.Digest), fingerprintKey: manifest.FingerprintKey}
		err := checkRef(cursor.snapshot, stored.PartRef, w.packs)
		if err != nil {
			w.report(w.partProblem(err, ProblemPageDamaged, w.id().manifestKey(manifest.Snapshot), what), manifest.Snapshot)
			cursor.skipped = true
			continue
		}
		page := pages[id]
		if page == nil {
			page = &tablePage{id: id}
			if page.entries, err = w.tableEntries(ctx, cursor.snapshot, stored); err != nil {
				w.report(w.partProblem(err, ProblemPageDamaged, w.id().packKey(stored.Pack), what), manifest.Snapshot)
				cursor.skipped = true
				continue
			}
			pages[id] = page
		}
		page.users++
		cursor.page, cursor.at = page, 0
	}
	if cursor.page == nil {
		return
	}
	oid := cursor.page.entries[cursor.at].OID
	if cursor.count > 0 && oid <= cursor.last {
		w.report(Problem{Kind: ProblemPageDamaged, Object: w.id().packKey(cursor.page.id.ref.Pack), Message: fmt.Sprintf("table %d is recorded behind table %d", oid, cursor.last)}, manifest.Snapshot)
	}
	cursor.last = oid
	cursor.count++
}

func (w *workspaceVerifier) tableEntries(ctx context.Context, snapshot *Snapshot, page Page) ([]*TableEntry, error) {
	plain, err := w.readPage(ctx, snapshot, crypto.KindTables, page)
	if err != nil {
		return nil, err
	}
	var entries []*TableEntry
	decoder := json.NewDecoder(bytes.NewReader(plain))
	for {
		entry := new(TableEntry)
		if err := decoder.Decode(entry); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if err := entry.understood(); err != nil {
			return nil, err
		}
		entry.Shape = catalog.RowShape{} // only memory
		entries = append(entries, entry)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: a page without records", ErrDamaged)
	}
	return entries, nil
}

// checkTable checks the listings of all versions of one table, and with ReadData their rows.
func (w *workspaceVerifier) checkTable(ctx context.Context, versions []*tableVersion) {
	what := fmt.Sprintf("table %q.%q", versions[0].entry.Schema, versions[0].entry.Name)
	spans := 0
	for _, version := range versions {
		listing := version.entry.Listing
		n := (len(listing.Pages) + indexSpan - 1) / indexSpan
		if listing.Inline != nil {
			n = 1
		}
		spans = max(spans, n, len(listing.Index))
	}
	for span := range spans {
		refs := make([][]*PartRef, len(versions))
		indexes := make(map[PartRef][]*PartRef)
		width := 0
		for i, version := range versions {
			refs[i] = w.spanRefs(ctx, version, span, what, indexes)
			width = max(width, len(refs[i]))
			if span == 0 && version.entry.Listing.Inline != nil {
				width = max(width, 1)
			}
		}
		var group errgroup.Group
		group.SetLimit(verifyReads)
		for n := range width {
			if ctx.Err() != nil {
				break
			}
			group.Go(func() error {
				w.checkListingPages(ctx, versions, refs, span, n, what)
				return nil
			})
		}
		_ = group.Wait() // problems were collected; no function returns an error
	}
	if ctx.Err() != nil {
		return
	}
	for _, version := range versions {
		entry := version.entry
		if !version.broken && (version.bytes != uint64(entry.Bytes) || w.v.options.ReadData && version.rows != uint64(entry.Rows)) {
			w.report(Problem{Kind: ProblemRowsDamaged, Object: w.id().manifestKey(version.snapshots[0].manifest.Snapshot),
				Message: fmt.Sprintf("%s: %d rows in %d bytes, and its record says %d in %d", what, version.rows, version.bytes, entry.Rows, entry.Bytes)}, version.ids()...)
		}
	}
}

// spanRefs returns the references of the listing pages that one index page covers.
func (w *workspaceVerifier) spanRefs(ctx context.Context, version *tableVersion, span int, what string, opened map[PartRef][]*PartRef) []*PartRef {
	listing := version.entry.Listing
	if len(listing.Index) == 0 {
		return listing.Pages[min(span*indexSpan, len(listing.Pages)):min((span+1)*indexSpan, len(listing.Pages))]
	}
	if span >= len(listing.Index) {
		return nil
	}
	ref := listing.Index[span]
	refs, done := opened[ref]
	err := w.checkVersionRef(version, ref)
	if err == nil && !done {
		var plain []byte
		if plain, err = w.read(ctx, crypto.KindIndex, ref); err == nil {
			refs, err = parseIndex(plain)
		}
		if err == nil && span < len(listing.Index)-1 && len(refs) != indexSpan {
			err = fmt.Errorf("%w: an index page in the middle refers to %d listing pages", ErrDamaged, len(refs))
		}
	}
	if err != nil {
		version.broken = true
		w.report(w.partProblem(err, ProblemPageDamaged, w.id().packKey(ref.Pack), what), version.ids()...)
		return nil
	}
	opened[ref] = refs
	return refs
}

// checkVersionRef is checkRef for all snapshots that hold a version of a table.
func (w *workspaceVerifier) checkVersionRef(version *tableVersion, ref PartRef) error {
	for _, snapshot := range version.snapshots {
		if err := checkRef(snapshot, ref, w.packs); err != nil {
			return err
		}
	}
	return nil
}

// checkedListing is what was found of one listing page.
type checkedListing struct {
	bytes, rows uint64
	chunks      []PartRef
	err         error
	object      string
}

// checkedBlock is a block whose content was compared with its fingerprint.
type checkedBlock struct {
	chunk          PartRef
	offset, length uint64
	fingerprint    fingerprint
	key            uint32
}

// checkListingPages checks listing page n of a span for all versions: equal pages once, and blocks that several have in common once.
func (w *workspaceVerifier) checkListingPages(ctx context.Context, versions []*tableVersion, refs [][]*PartRef, span, n int, what string) {
	number := span*indexSpan + n
	byRef := make(map[PartRef]*checkedListing)
	byText := make(map[string]*checkedListing)
	blocks := make(map[checkedBlock]uint64) // to their rows
	for i, version := range versions {
		var found *checkedListing
		listing := version.entry.Listing
		switch {
		case listing.Inline != nil && number == 0:
			if found = byText[string(listing.Inline)]; found == nil {
				found = &checkedListing{object: w.id().manifestKey(version.snapshots[0].manifest.Snapshot)}
				w.checkListingPage(ctx, version, listing.Inline, number, blocks, found)
				byText[string(listing.Inline)] = found
			}
		case n < len(refs[i]) && refs[i][n] != nil:
			ref := *refs[i][n]
			if err := w.checkVersionRef(version, ref); err != nil {
				found = &checkedListing{err: err, object: w.id().manifestKey(version.snapshots[0].manifest.Snapshot)}
			} else if found = byRef[ref]; found == nil {
				found = &checkedListing{object: w.id().packKey(ref.Pack)}
				plain, err := w.read(ctx, crypto.KindListing, ref)
				if err == nil {
					w.checkListingPage(ctx, version, plain, number, blocks, found)
				} else {
					found.err = err
				}
				byRef[ref] = found
			}
		default:
			continue
		}
		err := found.err
		for _, chunk := range found.chunks {
			if err == nil {
				err = w.checkVersionRef(version, chunk)
			}
		}
		if err != nil && ctx.Err() == nil {
			kind := ProblemPageDamaged
			if errors.Is(err, errRows) {
				kind = ProblemRowsDamaged
			}
			w.report(w.partProblem(err, kind, found.object, fmt.Sprintf("%s, listing page %d", what, number)), version.ids()...)
		}
		version.mu.Lock()
		version.bytes += found.bytes
		version.rows += found.rows
		version.broken = version.broken || err != nil
		version.mu.Unlock()
	}
}

// errRows marks errors of the content that a listing page refers to, as opposed to the page itself.
var errRows = errors.New("rows")

// checkListingPage checks one listing page, and with ReadData the content of its blocks.
func (w *workspaceVerifier) checkListingPage(ctx context.Context, version *tableVersion, plain []byte, number int, blocks map[checkedBlock]uint64, found *checkedListing) {
	page, err := parseListingPage(plain)
	if err == nil && uint64(page.first) != uint64(number)*ListingSpan {
		err = fmt.Errorf("begins at block %d: %w", page.first, errMalformed)
	}
	if err != nil {
		found.err = err
		return
	}
	for _, block := range page.blocks {
		found.bytes += block.length
	}
	for _, chunk := range page.chunks {
		found.chunks = append(found.chunks, chunk.PartRef)
		if found.err == nil {
			found.err = w.checkVersionRef(version, chunk.PartRef)
		}
	}
	if found.err != nil || !w.v.options.ReadData {
		return
	}
	mac := version.snapshots[0].macs.Get().(hash.Hash)
	defer version.snapshots[0].macs.Put(mac)
	for i := range page.blocks {
		block := &page.blocks[i]
		if block.length == 0 {
			continue
		}
		id := checkedBlock{chunk: page.chunks[block.chunk].PartRef, offset: block.offset, length: block.length, fingerprint: block.fingerprint, key: version.fingerprintKey}
		alone := page.span(block) == 1
		if rows, done := blocks[id]; done && alone {
			found.rows += rows
			continue
		}
		rows, err := w.checkBlock(ctx, page, block, mac)
		if err != nil {
			found.err = fmt.Errorf("block %d: %w: %w", page.first+uint32(i), errRows, err)
			return
		}
		if alone {
			blocks[id] = rows
		}
		found.rows += rows
	}
}

// checkBlock compares a block's content with its fingerprint and counts its rows.
func (w *workspaceVerifier) checkBlock(ctx context.Context, page *listingPage, block *blockEntry, mac hash.Hash) (uint64, error) {
	mac.Reset()
	counted := &countingWriter{out: mac}
	left, offset := block.length, block.offset
	for chunk := block.chunk; left > 0; chunk, offset = chunk+1, 0 {
		plain, err := w.read(ctx, crypto.KindChunk, page.chunks[chunk].PartRef)
		if err != nil {
			return 0, err
		}
		here := min(left, uint64(len(plain))-offset)
		if _, err := counted.Write(plain[offset : offset+here]); err != nil {
			return 0, err
		}
		left -= here
	}
	if !hmac.Equal(mac.Sum(nil)[:FingerprintSize], block.fingerprint[:]) {
		return 0, fmt.Errorf("content does not have the listed fingerprint: %w", crypto.ErrNotAuthentic)
	}
	return counted.lines, nil
}
