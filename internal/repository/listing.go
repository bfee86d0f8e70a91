package repository

import (
	"encoding/binary"
	"fmt"
)

// Numbers of the format (docs/format.md, "Listings").
const (
	// ListingSpan is how many blocks a listing page covers; page n covers blocks n×1024 to n×1024+1023.
	ListingSpan = 1024
	// indexSpan is how many listing pages an index page refers to.
	indexSpan = 1024
	// FingerprintSize is the length of a block's fingerprint in bytes.
	FingerprintSize = 8
)

// fingerprint is the first 8 bytes of HMAC-SHA-256 of a block's content under the fingerprint key.
type fingerprint [FingerprintSize]byte

// chunkRef is a chunk as a listing page knows it.
type chunkRef struct {
	PartRef
	// share is how many of the chunk's plain bytes belonged to this page when the chunk was written: what is still live of them tells
	// when the rest should be written anew.
	share uint64
}

// blockEntry is what a listing says of one block. A block without visible rows has length 0 and nothing else.
type blockEntry struct {
	length      uint64 // of the content, in bytes
	fingerprint fingerprint
	chunk       int // index into listingPage.chunks of the chunk in which the content begins
	offset      uint64
}

// listingPage is the part of a table's listing that covers the blocks from first on.
//
// A block's content lies in one chunk at an offset, except that content longer than what follows there continues at
// the start of the next chunk in chunks, and so on.
type listingPage struct {
	first  uint32
	chunks []chunkRef
	blocks []blockEntry // by number, from first; at most ListingSpan; the last has rows
	// lossy says that blocks were left out because their chunks are lost: the page must not be referred to again.
	lossy bool
}

// appendPartRefs writes a table of pack names and then the references, which name packs by index.
func appendPartRefs(buffer []byte, refs []PartRef, extra func([]byte, int) []byte) []byte {
	index := make(map[PackName]int)
	var names []PackName
	for _, ref := range refs {
		if _, known := index[ref.Pack]; !known {
			index[ref.Pack] = len(names)
			names = append(names, ref.Pack)
		}
	}
	buffer = binary.AppendUvarint(buffer, uint64(len(names)))
	for _, name := range names {
		buffer = name.appendBinary(buffer)
	}
	buffer = binary.AppendUvarint(buffer, uint64(len(refs)))
	for i, ref := range refs {
		buffer = binary.AppendUvarint(buffer, uint64(index[ref.Pack]))
		buffer = binary.AppendUvarint(buffer, uint64(ref.Part))
		buffer = binary.AppendUvarint(buffer, ref.Offset)
		buffer = binary.AppendUvarint(buffer, uint64(ref.Stored))
		buffer = binary.AppendUvarint(buffer, uint64(ref.Plain))
		if extra != nil {
			buffer = extra(buffer, i)
		}
	}
	return buffer
}

// partRefs is the inverse of appendPartRefs; extra is called after each reference was read.
func (d *decoder) partRefs(extra func()) []PartRef {
	names := make([]PackName, d.count(packNameSize))
	for i := range names {
		if data := d.bytes(packNameSize); data != nil {
			names[i] = packNameFromBinary(data)
		}
	}
	refs := make([]PartRef, d.count(5))
	for i := range refs {
		pack := d.uvarint()
		if pack >= uint64(len(names)) {
			d.fail()
			return nil
		}
		refs[i] = PartRef{Pack: names[pack], Part: d.uint32(), Offset: d.uvarint(), Stored: d.uint32(), Plain: d.uint32()}
		if extra != nil {
			extra()
		}
	}
	return refs
}

// encode returns the page's text (docs/format.md, "Listing pages").
func (p *listingPage) encode() []byte {
	buffer := binary.AppendUvarint(nil, uint64(p.first))
	refs := make([]PartRef, len(p.chunks))
	for i, chunk := range p.chunks {
		refs[i] = chunk.PartRef
	}
	buffer = appendPartRefs(buffer, refs, func(buffer []byte, i int) []byte {
		return binary.AppendUvarint(buffer, p.chunks[i].share)
	})
	buffer = binary.AppendUvarint(buffer, uint64(len(p.blocks)))
	for _, block := range p.blocks {
		buffer = binary.AppendUvarint(buffer, block.length)
	}
	for _, block := range p.blocks {
		if block.length > 0 {
			buffer = append(buffer, block.fingerprint[:]...)
		}
	}
	extents := p.extents()
	buffer = binary.AppendUvarint(buffer, uint64(len(extents)))
	for _, extent := range extents {
		buffer = binary.AppendUvarint(buffer, uint64(extent.blocks))
		buffer = binary.AppendUvarint(buffer, uint64(extent.chunk))
		buffer = binary.AppendUvarint(buffer, extent.offset)
	}
	return buffer
}

// extent is a run of consecutive blocks with rows whose contents lie one behind the other in one chunk. Blocks without rows in between do
// not count.
type extent struct {
	blocks int // with rows
	chunk  int
	offset uint64
}

func (p *listingPage) extents() []extent {
	var extents []extent
	var end uint64 // where the last extent's content ends in its chunk
	for _, block := range p.blocks {
		if block.length == 0 {
			continue
		}
		if n := len(extents); n > 0 && extents[n-1].chunk == block.chunk && end == block.offset {
			extents[n-1].blocks++
		} else {
			extents = append(extents, extent{blocks: 1, chunk: block.chunk, offset: block.offset})
		}
		end = block.offset + block.length
	}
	return extents
}

// parseListingPage reads a page's text and checks that every block's content lies inside its chunks.
func parseListingPage(data []byte) (*listingPage, error) {
	d := decoder{data: data}
	page := &listingPage{first: d.uint32()}
	var shares []uint64
	for i, ref := range d.partRefs(func() { shares = append(shares, d.uvarint()) }) {
		page.chunks = append(page.chunks, chunkRef{PartRef: ref, share: shares[i]})
	}
	count := d.count(1)
	if count > ListingSpan || page.first%ListingSpan != 0 {
		d.fail()
		count = 0
	}
	page.blocks = make([]blockEntry, count)
	for i := range page.blocks {
		page.blocks[i].length = d.uvarint()
	}
	for i := range page.blocks {
		if page.blocks[i].length > 0 {
			copy(page.blocks[i].fingerprint[:], d.bytes(FingerprintSize))
		}
	}
	next := 0
	for range d.count(3) {
		blocks, chunk, offset := d.uvarint(), d.uvarint(), d.uvarint()
		if blocks == 0 || chunk >= uint64(len(page.chunks)) {
			d.fail()
			break
		}
		for range blocks {
			for next < count && page.blocks[next].length == 0 {
				next++
			}
			if next == count {
				d.fail()
				break
			}
			block := &page.blocks[next]
			block.chunk, block.offset = int(chunk), offset
			if !page.contains(block) {
				d.fail()
				break
			}
			offset += block.length
			next++
		}
	}
	for next < count && page.blocks[next].length == 0 {
		next++
	}
	if next != count || (count > 0 && page.blocks[count-1].length == 0) {
		d.fail()
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("listing page: %w", err)
	}
	return page, nil
}

// contains says whether the block's content lies within the chunks that the page lists.
func (p *listingPage) contains(block *blockEntry) bool {
	room := uint64(p.chunks[block.chunk].Plain)
	if block.offset >= room {
		return false
	}
	left := block.length
	for chunk, offset := block.chunk, block.offset; ; chunk, offset = chunk+1, 0 {
		if chunk == len(p.chunks) {
			return false
		}
		here := uint64(p.chunks[chunk].Plain) - offset
		if left <= here {
			return true
		}
		left -= here
	}
}

// span returns how many chunks the block's content touches.
func (p *listingPage) span(block *blockEntry) int {
	left, offset, n := block.length, block.offset, 1
	for {
		here := uint64(p.chunks[block.chunk+n-1].Plain) - offset
		if left <= here {
			return n
		}
		left, offset = left-here, 0
		n++
	}
}

// live returns for each of the page's chunks how many bytes of it the page's blocks are.
func (p *listingPage) live() []uint64 {
	live := make([]uint64, len(p.chunks))
	for _, block := range p.blocks {
		left, offset := block.length, block.offset
		for chunk := block.chunk; left > 0; chunk, offset = chunk+1, 0 {
			here := min(left, uint64(p.chunks[chunk].Plain)-offset)
			live[chunk] += here
			left -= here
		}
	}
	return live
}

// block returns the entry of a block by number; one without rows where the page says nothing of it.
func (p *listingPage) block(number uint32) blockEntry {
	if p == nil || number < p.first || number-p.first >= uint32(len(p.blocks)) {
		return blockEntry{}
	}
	return p.blocks[number-p.first]
}

// Listing says where a table's listing is. Exactly one of the three is used.
type Listing struct {
	// Inline is the only listing page's text, for small tables.
	Inline []byte `json:"inline,omitempty"`
	// Pages are the listing pages, by number; a zero reference (nil) stands for a page of blocks without rows.
	Pages []*PartRef `json:"pages,omitempty"`
	// Index are index pages: each holds the references of 1024 listing pages.
	Index []PartRef `json:"index,omitempty"`
}

// encodeIndex returns the text of an index page: a flag byte for each listing page says whether it has blocks with rows,
// and the references of those that have follow.
func encodeIndex(refs []*PartRef) []byte {
	buffer := binary.AppendUvarint(nil, uint64(len(refs)))
	var present []PartRef
	for _, ref := range refs {
		if ref == nil {
			buffer = append(buffer, 0)
			continue
		}
		buffer = append(buffer, 1)
		present = append(present, *ref)
	}
	return appendPartRefs(buffer, present, nil)
}

func parseIndex(data []byte) ([]*PartRef, error) {
	d := decoder{data: data}
	count := d.count(1)
	flags := d.bytes(count)
	present := d.partRefs(nil)
	refs := make([]*PartRef, 0, count)
	for _, flag := range flags {
		switch {
		case flag == 0:
			refs = append(refs, nil)
		case flag == 1 && len(present) > 0:
			refs = append(refs, &present[0])
			present = present[1:]
		default:
			d.fail()
		}
	}
	if len(present) > 0 || count > indexSpan {
		d.fail()
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("index page: %w", err)
	}
	return refs, nil
}
