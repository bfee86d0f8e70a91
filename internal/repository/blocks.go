package repository

import (
	"bytes"
	"context"
	"fmt"
	"hash"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
)

// Sizes in bytes that a writer aims at; a reader takes what it finds.
const (
	// chunkTarget is the content after which a chunk is closed.
	chunkTarget = 1 << 20
	// blockLimit is the longest block content that is held in memory: longer ones pass through.
	blockLimit = 1 << 20
	// streamPiece is the content after which a piece of a table without meaningful blocks ends, at the next row.
	streamPiece = 256 << 10
)

// openChunk is a chunk that is being gathered, and later where it lies.
type openChunk struct {
	content []byte
	sealed  chan struct{} // closed when ref or err is set
	ref     PartRef
	err     error
}

// builtBlock is a block of a listing page that is being made: its content is in new chunks, or where the base has it.
type builtBlock struct {
	length      uint64
	fingerprint fingerprint
	offset      uint64
	own         []*openChunk // new: the chunks that the content lies in, from offset in the first
	base        bool         // taken over from the base's page
}

// pageBuilder makes one listing page.
type pageBuilder struct {
	table  *TableWriter
	number int
	base   *listingPage // the base's page, nil without rows
	blocks []builtBlock
	last   *openChunk // the newest gathered chunk that the page refers to
}

// Run is a run of blocks, to exclusive.
type Run struct{ From, To uint32 }

// BlockWriter takes the rows of one connection's ranges, block by block. It finds out which blocks the base has already, and gathers the
// others into chunks, which it shares between all tables it is given. It belongs to one goroutine; a snapshot has one for each connection.
//
// Use: for each range BeginRange, then Block and Write as the rows come, then EndPass; when that names runs to be
// read again, the same for each of them; then EndRange. At the end Close.
type BlockWriter struct {
	sw      *SnapshotWriter
	mac     hash.Hash
	chunk   *openChunk     // being gathered; nil: none
	waiting []*pageBuilder // complete pages whose last chunk is still being gathered

	table *TableWriter
	from  uint32
	pages []*pageBuilder  // of the range
	again map[uint32]bool // blocks to be stored in the second pass; nil in the first
	// stream says that the range is a whole table without meaningful blocks: pages are added as it grows, and
	// nothing is read again.
	stream bool

	// The block that is being taken.
	inBlock  bool
	number   uint32
	mode     blockMode
	size     uint64
	content  []byte       // mode gathering
	through  []*openChunk // mode passing
	expected blockEntry   // what the base has at this position
}

// blockMode says what happens to the content of the block that is being taken.
type blockMode int

const (
	gathering blockMode = iota // held in memory until the block ends
	passing                    // too long for that, and certainly to be stored: goes into chunks of its own
	hashing                    // too long, but it may be what the base has: only its fingerprint is taken
	ignoring                   // second pass, and not one of the blocks to be stored
)

// NewBlockWriter returns a writer for one connection.
func (sw *SnapshotWriter) NewBlockWriter() *BlockWriter {
	return &BlockWriter{sw: sw, mac: sw.key.NewFingerprinter()}
}

// BeginRange begins the blocks from (a multiple of ListingSpan) to to (exclusive) of a table.
func (b *BlockWriter) BeginRange(ctx context.Context, table *TableWriter, from, to uint32) error {
	if from%ListingSpan != 0 || to < from {
		panic(fmt.Sprintf("repository: internal error: range %d to %d", from, to))
	}
	first, count := int(from/ListingSpan), pageCount(to-from)
	b.table, b.from, b.again, b.stream = table, from, nil, false
	b.pages = make([]*pageBuilder, count)
	table.beginPages(count)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(chunksAhead)
	for i := range b.pages {
		page := &pageBuilder{table: table, number: first + i}
		b.pages[i] = page
		group.Go(func() (err error) {
			page.base, err = table.basePage(ctx, page.number)
			return err
		})
	}
	return b.sw.fail(group.Wait())
}

// Block says that what is written next are rows of the block with that number. Numbers rise within a pass.
func (b *BlockWriter) Block(number uint32) error {
	if err := b.endBlock(); err != nil {
		return err
	}
	page, err := b.page(number)
	if err != nil {
		return err
	}
	b.inBlock, b.number, b.size, b.content = true, number, 0, b.content[:0]
	b.mode = gathering
	b.expected = page.base.block(number)
	b.mac.Reset()
	if b.again != nil && !b.again[number] {
		b.mode = ignoring
	}
	return context.Cause(b.sw.ctx)
}

func (b *BlockWriter) page(number uint32) (*pageBuilder, error) {
	if b.stream && number == uint32(len(b.pages))*ListingSpan {
		base, err := b.table.basePage(b.sw.ctx, len(b.pages))
		if err != nil {
			return nil, b.sw.fail(err)
		}
		b.table.beginPages(1)
		b.pages = append(b.pages, &pageBuilder{table: b.table, number: len(b.pages), base: base})
	}
	if number < b.from || int((number-b.from)/ListingSpan) >= len(b.pages) {
		return nil, b.sw.fail(fmt.Errorf("internal error: block %d is outside the range that begins at %d", number, b.from))
	}
	return b.pages[(number-b.from)/ListingSpan], nil
}

// Stream is the sink for the rows of a table without meaningful blocks: it cuts them into pieces that take the place of blocks.
type Stream struct {
	blocks *BlockWriter
	next   uint32
	size   int
}

// BeginStream begins a table of another access method than heap. All of it is written to the Stream that is returned, then the
// BlockWriter's EndRange is called.
func (b *BlockWriter) BeginStream(table *TableWriter) *Stream {
	b.table, b.from, b.again, b.pages, b.stream = table, 0, nil, nil, true
	return &Stream{blocks: b}
}

// Block is ignored: the rows have no meaningful block.
func (s *Stream) Block(uint32) error { return nil }

// Write takes COPY text rows, in pieces of any length. A piece ends behind a row, because a line feed stands nowhere else.
func (s *Stream) Write(content []byte) (int, error) {
	written := 0
	for len(content) > 0 {
		if s.size == 0 {
			if err := s.blocks.Block(s.next); err != nil {
				return written, err
			}
			s.next++
		}
		piece := content
		if room := max(streamPiece-s.size, 0); room < len(content) {
			if end := bytes.IndexByte(content[room:], '\n'); end >= 0 {
				piece = content[:room+end+1]
			}
		}
		n, err := s.blocks.Write(piece)
		if written += n; err != nil {
			return written, err
		}
		content = content[len(piece):]
		if s.size += len(piece); s.size > streamPiece && piece[len(piece)-1] == '\n' {
			s.size = 0
		}
	}
	return written, nil
}

// Write takes content of the current block: COPY text rows, in pieces of any length.
func (b *BlockWriter) Write(content []byte) (int, error) {
	if b.mode == ignoring {
		return len(content), nil
	}
	b.mac.Write(content)
	b.size += uint64(len(content))
	if b.mode == gathering {
		if b.size <= blockLimit {
			b.content = append(b.content, content...)
			return len(content), nil
		}
		if b.again == nil && !b.stream && b.expected.length >= b.size {
			// The base has a long block here, and this may be the same: it is read once more if it turns out not to be.
			b.mode = hashing
			return len(content), nil
		}
		b.mode = passing
		if err := b.pass(b.content); err != nil {
			return 0, err
		}
	}
	if b.mode == passing {
		if err := b.pass(content); err != nil {
			return 0, err
		}
	}
	return len(content), nil
}

// pass puts content of a long block into chunks that belong to it alone.
func (b *BlockWriter) pass(content []byte) error {
	for len(content) > 0 {
		if len(b.through) == 0 || len(b.through[len(b.through)-1].content) == chunkTarget {
			if err := b.sealPassed(); err != nil {
				return err
			}
			b.through = append(b.through, b.sw.newOpenChunk())
		}
		chunk := b.through[len(b.through)-1]
		n := min(len(content), chunkTarget-len(chunk.content))
		chunk.content = append(chunk.content, content[:n]...)
		content = content[n:]
	}
	return nil
}

func (b *BlockWriter) sealPassed() error {
	if len(b.through) == 0 {
		return nil
	}
	return b.seal(b.through[len(b.through)-1])
}

// chunkRoom is the capacity of a chunk's buffer: the block with which a chunk reaches its target still fits, unless it is a long one.
const chunkRoom = chunkTarget + 64<<10

// newOpenChunk returns an empty chunk, in a buffer of one that was sealed where there is one: chunks come as fast as rows are read, and
// what the collector has not yet found would double the memory of a snapshot.
func (sw *SnapshotWriter) newOpenChunk() *openChunk {
	chunk := &openChunk{sealed: make(chan struct{})}
	select {
	case chunk.content = <-sw.buffers:
	default:
		chunk.content = make([]byte, 0, chunkRoom)
	}
	return chunk
}

// recycle keeps the buffer of a chunk that was sealed.
func (sw *SnapshotWriter) recycle(buffer []byte) {
	if cap(buffer) == chunkRoom {
		select {
		case sw.buffers <- buffer[:0]:
		default:
		}
	}
}

// seal hands a chunk over to be compressed, sealed and packed. It waits while too many are under way.
func (b *BlockWriter) seal(chunk *openChunk) error {
	if err := context.Cause(b.sw.ctx); err != nil {
		return err
	}
	b.sw.sealing.Go(func() error {
		defer close(chunk.sealed)
		chunk.ref, chunk.err = b.sw.packer.add(crypto.KindChunk, chunk.content)
		b.sw.recycle(chunk.content)
		chunk.content = nil
		return b.sw.fail(chunk.err)
	})
	return nil
}

// endBlock decides what becomes of the block that was taken last.
func (b *BlockWriter) endBlock() error {
	if !b.inBlock {
		return nil
	}
	b.inBlock = false
	if b.mode == ignoring || b.size == 0 {
		return nil
	}
	page, err := b.page(b.number)
	if err != nil {
		return err
	}
	built := builtBlock{length: b.size, fingerprint: fingerprint(b.mac.Sum(nil)[:FingerprintSize])}
	known := b.expected.length == built.length && b.expected.fingerprint == built.fingerprint
	switch {
	case b.again != nil:
		before := page.blocks[b.number-page.first()]
		if before.length != built.length || before.fingerprint != built.fingerprint {
			return b.sw.fail(fmt.Errorf("block %d of %q.%q read differently the second time under one snapshot", b.number, b.table.entry.Schema, b.table.entry.Name))
		}
		delete(b.again, b.number)
	case known && b.mode != passing:
		built.base = true
	case b.mode == hashing:
		page.set(b.number, built) // neither own nor base: EndPass finds it
		return nil
	}
	if !built.base {
		if err := b.store(page, &built); err != nil {
			return err
		}
	}
	page.set(b.number, built)
	return nil
}

// store puts the block's content into a chunk.
func (b *BlockWriter) store(page *pageBuilder, built *builtBlock) error {
	b.sw.count(func(s *Statistics) { s.NewBlocks++; s.NewBytes += built.length })
	if b.mode == passing {
		// page.last stays: the long block's chunks are all on their way, while a short block before it may lie in the chunk
		// that is still being gathered, and the page must wait for that one.
		built.own = b.through
		err := b.sealPassed()
		b.through = nil
		return err
	}
	if b.chunk == nil {
		b.chunk = b.sw.newOpenChunk()
	}
	built.own, built.offset = []*openChunk{b.chunk}, uint64(len(b.chunk.content))
	b.chunk.content = append(b.chunk.content, b.content...)
	page.last = b.chunk
	if len(b.chunk.content) >= chunkTarget {
		return b.closeChunk()
	}
	return nil
}

// closeChunk seals the chunk that is being gathered, and hands on the pages that waited for it.
func (b *BlockWriter) closeChunk() error {
	if b.chunk == nil {
		return nil
	}
	err := b.seal(b.chunk)
	b.chunk = nil
	if err != nil {
		return err
	}
	for _, page := range b.waiting {
		b.finishPage(page)
	}
	b.waiting = b.waiting[:0]
	return nil
}

func (p *pageBuilder) first() uint32 { return uint32(p.number) * ListingSpan }

func (p *pageBuilder) set(number uint32, block builtBlock) {
	i := int(number - p.first())
	for len(p.blocks) <= i {
		p.blocks = append(p.blocks, builtBlock{})
	}
	p.blocks[i] = block
}

// EndPass ends the rows of a pass and returns the runs of blocks that must be read again and stored: long blocks that turned out
// to be changed, and unchanged blocks of chunks of which less than half is still live, so that a restore never
// downloads more than twice what it loads. Blocks of those runs that need not be stored are ignored.
func (b *BlockWriter) EndPass() ([]Run, error) {
	if err := b.endBlock(); err != nil {
		return nil, err
	}
	if b.again != nil || b.stream { // no piece of a stream can be read once more
		return nil, nil
	}
	var runs []Run
	b.again = make(map[uint32]bool)
	for _, page := range b.pages {
		dying := page.dyingChunks()
		var run *Run
		for i, block := range page.blocks {
			if block.length == 0 || block.own != nil {
				continue
			}
			number := page.first() + uint32(i)
			if block.base && !dying[page.base.block(number).chunk] {
				continue
			}
			b.again[number] = true
			if run == nil || run.To != number {
				runs = append(runs, Run{From: number})
				run = &runs[len(runs)-1]
			}
			run.To = number + 1
		}
	}
	return mergeRuns(runs), nil
}

// mergeRuns joins runs with small gaps: reading a few blocks more costs less than asking again.
func mergeRuns(runs []Run) []Run {
	const gap = 64
	var merged []Run
	for _, run := range runs {
		if n := len(merged); n > 0 && run.From-merged[n-1].To <= gap {
			merged[n-1].To = run.To
		} else {
			merged = append(merged, run)
		}
	}
	return merged
}

// dyingChunks returns the chunks of the base's page of which less than half of the page's share would be referred to again, and those of
// which the last snapshot as a whole referred to less than half.
func (p *pageBuilder) dyingChunks() map[int]bool {
	if p.base == nil {
		return nil
	}
	// What the page will still refer to: the base's page without the blocks that changed.
	kept := listingPage{chunks: p.base.chunks, blocks: make([]blockEntry, len(p.blocks))}
	for i, block := range p.blocks {
		if block.base {
			kept.blocks[i] = p.base.blocks[i]
		}
	}
	dying := make(map[int]bool)
	for i, live := range kept.live() {
		chunk := p.base.chunks[i]
		if live > 0 && (live*2 < chunk.share || p.table.sw.rewrite[chunkID{pack: chunk.Pack, part: chunk.Part}]) {
			dying[i] = true
		}
	}
	return dying
}

// EndRange ends the range that was begun last.
func (b *BlockWriter) EndRange() error {
	if err := b.endBlock(); err != nil {
		return err
	}
	for number := range b.again {
		return b.sw.fail(fmt.Errorf("block %d of %q.%q was there the first time and not the second, under one snapshot", number, b.table.entry.Schema, b.table.entry.Name))
	}
	for _, page := range b.pages {
		if page.last != nil && page.last == b.chunk {
			b.waiting = append(b.waiting, page)
			continue
		}
		b.finishPage(page)
	}
	b.pages, b.table, b.again = nil, nil, nil
	return context.Cause(b.sw.ctx)
}

// Close ends the writer after its last range.
func (b *BlockWriter) Close() error { return b.closeChunk() }

// finishPage stores the page's listing once its chunks are sealed, all of which have been handed over.
func (b *BlockWriter) finishPage(page *pageBuilder) {
	b.sw.listing.Go(func() error { return b.sw.fail(page.finish()) })
}

func (p *pageBuilder) finish() error {
	for _, block := range p.blocks {
		for _, chunk := range block.own {
			<-chunk.sealed
			if chunk.err != nil {
				return chunk.err
			}
		}
	}
	sw := p.table.sw
	var bytesInPage, rowsIn uint64
	for _, block := range p.blocks {
		bytesInPage += block.length
		if block.length > 0 {
			rowsIn++
		}
	}
	sw.count(func(s *Statistics) { s.Blocks += rowsIn })
	if p.unchanged() {
		return p.takeOver(bytesInPage)
	}
	page := p.build()
	packsOf(page, sw.need)
	sw.use(page)
	text := page.encode()
	if len(page.blocks) == 0 {
		return p.table.setPage(p.number, nil, nil, 0)
	}
	if p.number == 0 && len(text) <= inlineListing {
		return p.table.setPage(0, nil, text, bytesInPage)
	}
	ref, err := sw.packer.add(crypto.KindListing, text)
	if err != nil {
		return err
	}
	sw.need(ref.Pack)
	return p.table.setPage(p.number, &ref, nil, bytesInPage)
}

// unchanged says whether every block is where the base has it, and the base has no other.
func (p *pageBuilder) unchanged() bool {
	if p.base == nil || p.base.lossy || len(p.blocks) != len(p.base.blocks) {
		return false
	}
	return !slices.ContainsFunc(p.blocks, func(block builtBlock) bool { return block.length > 0 && !block.base }) &&
		p.countRows() == p.base.countRows()
}

func (p *pageBuilder) countRows() (n int) {
	for _, block := range p.blocks {
		if block.length > 0 {
			n++
		}
	}
	return n
}

func (p *listingPage) countRows() (n int) {
	for _, block := range p.blocks {
		if block.length > 0 {
			n++
		}
	}
	return n
}

// takeOver refers to the base's page.
func (p *pageBuilder) takeOver(contentBytes uint64) error {
	packsOf(p.base, p.table.sw.need)
	p.table.sw.use(p.base)
	if p.table.base.Listing.Inline != nil && p.number == 0 {
		return p.table.setPage(0, nil, bytes.Clone(p.table.base.Listing.Inline), contentBytes)
	}
	ref := *p.table.baseRefs[p.number]
	p.table.sw.need(ref.Pack)
	return p.table.setPage(p.number, &ref, nil, contentBytes)
}

// build turns the blocks into a listing page. The chunks that a long block lies in stand one behind the other.
func (p *pageBuilder) build() *listingPage {
	page := &listingPage{first: p.first(), blocks: make([]blockEntry, len(p.blocks))}
	own := make(map[*openChunk]int)
	fromBase := make(map[int]int)
	for i, block := range p.blocks {
		entry := &page.blocks[i]
		entry.length, entry.fingerprint = block.length, block.fingerprint
		switch {
		case block.length == 0:
		case block.base:
			old := p.base.blocks[i]
			entry.offset = old.offset
			for k := range p.base.span(&old) {
				n, known := fromBase[old.chunk+k]
				if !known {
					n = len(page.chunks)
					fromBase[old.chunk+k] = n
					page.chunks = append(page.chunks, p.base.chunks[old.chunk+k])
				}
				if k == 0 {
					entry.chunk = n
				}
			}
		default:
			entry.offset = block.offset
			left := block.length
			for k, chunk := range block.own {
				n, known := own[chunk]
				if !known {
					n = len(page.chunks)
					own[chunk] = n
					page.chunks = append(page.chunks, chunkRef{PartRef: chunk.ref})
				}
				if k == 0 {
					entry.chunk = n
				}
				here := min(left, uint64(chunk.ref.Plain))
				page.chunks[n].share += here
				left -= here
			}
		}
	}
	// Blocks without rows behind the last one with rows say nothing.
	for len(page.blocks) > 0 && page.blocks[len(page.blocks)-1].length == 0 {
		page.blocks = page.blocks[:len(page.blocks)-1]
	}
	return page
}
