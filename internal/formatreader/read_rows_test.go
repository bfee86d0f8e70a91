package formatreader

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
)

// tableRecord is that of section 10.1.
type tableRecord struct {
	OID          uint32  `json:"oid"`
	Kind         string  `json:"kind"`
	Schema       text    `json:"schema"`
	Name         text    `json:"name"`
	Owner        text    `json:"owner"`
	Persistence  string  `json:"persistence"`
	AccessMethod string  `json:"access_method"`
	Columns      []text  `json:"columns"`
	Shape        shape   `json:"shape"`
	Tablespace   uint32  `json:"tablespace"`
	Relfilenode  uint32  `json:"relfilenode"`
	Blocks       uint32  `json:"blocks"`
	ReadWhole    bool    `json:"read_whole"`
	LoadThrough  uint32  `json:"load_through"`
	Extension    *text   `json:"extension"`
	Condition    text    `json:"condition"`
	Rows         int64   `json:"rows"`
	Bytes        int64   `json:"bytes"`
	Layout       string  `json:"layout"`
	Listing      listing `json:"listing"`
}

type shape struct {
	Attributes []attribute `json:"attributes"`
	Types      []struct {
		OID        uint32      `json:"oid"`
		Schema     text        `json:"schema"`
		Name       text        `json:"name"`
		Kind       string      `json:"kind"`
		Base       uint32      `json:"base"`
		Attributes []attribute `json:"attributes"`
		Labels     []struct {
			OID   uint32 `json:"oid"`
			Label text   `json:"label"`
		} `json:"labels"`
		Extension *text `json:"extension"`
	} `json:"types"`
	Unstable *text `json:"unstable"`
}

type attribute struct {
	Number    int64  `json:"number"`
	Name      text   `json:"name"`
	Type      uint32 `json:"type"`
	Typmod    int64  `json:"typmod"`
	Dropped   bool   `json:"dropped"`
	Generated string `json:"generated"`
	Missing   *text  `json:"missing"`
	Collation uint32 `json:"collation"`
}

// listing is that of section 10.2. At most one field is there.
type listing struct {
	Inline *string      `json:"inline"`
	Pages  []*reference `json:"pages"`
	Index  []reference  `json:"index"`
}

// form names the field that is there.
func (l listing) form() string {
	switch {
	case l.Inline != nil:
		return "inline"
	case l.Pages != nil:
		return "pages"
	case l.Index != nil:
		return "index"
	}
	return "empty"
}

// tables opens all table records.
func (s *snapshot) tables() ([]tableRecord, error) {
	tables, err := readRecords[tableRecord](s, s.Tables, kindTables)
	if err != nil {
		return nil, err
	}
	if !rising(tables, func(t tableRecord) uint32 { return t.OID }) {
		return nil, damage("table records are not ascending")
	}
	for _, table := range tables {
		if !slices.Contains([]string{"table", "extension_config", "large_objects"}, table.Kind) {
			return nil, fmt.Errorf("table %d: kind %q: %w", table.OID, table.Kind, errUnknown)
		}
		if !slices.Contains([]string{"blocks", "stream"}, table.Layout) {
			return nil, fmt.Errorf("table %d: layout %q: %w", table.OID, table.Layout, errUnknown)
		}
		fields := 0
		for _, there := range []bool{table.Listing.Inline != nil, table.Listing.Pages != nil, table.Listing.Index != nil} {
			if there {
				fields++
			}
		}
		if fields > 1 {
			return nil, damage("table %d: more than one listing", table.OID)
		}
	}
	return tables, nil
}

// listingPage is that of section 10.3.
type listingPage struct {
	first        uint64
	chunks       []reference
	lengths      []uint64
	fingerprints [][]byte // of the blocks with rows, in order
	extents      []extent
}

type extent struct {
	blocks uint64
	chunk  uint64
	offset uint64
}

// references reads a table of references. Section 10.2.
func (b *binaryReader) references(shares bool) []reference {
	names := make([]packName, b.count("pack names", 48))
	for i := range names {
		name, err := binaryPackName(b.bytes(48))
		if err != nil {
			b.fail(err)
		}
		names[i] = name
	}
	size := 5
	if shares {
		size = 6
	}
	references := make([]reference, b.count("references", size))
	for i := range references {
		name := b.uvarint(64)
		if name >= uint64(len(names)) {
			b.fail(damage("pack name %d of %d", name, len(names)))
			return nil
		}
		references[i] = reference{Pack: names[name], Part: uint32(b.uvarint(32)), Offset: b.uvarint(64), Stored: uint32(b.uvarint(32)), Plain: uint32(b.uvarint(32))}
		if shares {
			b.uvarint(64)
		}
		if b.err == nil {
			if err := references[i].check(); err != nil {
				b.fail(err)
			}
		}
	}
	return references
}

// parseListingPage parses listing page k.
func parseListingPage(plain []byte, k uint64) (listingPage, error) {
	in := binaryReader{rest: plain}
	page := listingPage{first: in.uvarint(64)}
	if in.err == nil && page.first != 1024*k {
		return page, damage("listing page %d begins with block %d", k, page.first)
	}
	page.chunks = in.references(true)
	page.lengths = make([]uint64, in.count("blocks", 1))
	if in.err == nil && (len(page.lengths) < 1 || len(page.lengths) > 1024) {
		return page, damage("%d blocks in a listing page", len(page.lengths))
	}
	var sum, withRows uint64
	for _, chunk := range page.chunks {
		sum += uint64(chunk.Plain)
	}
	for i := range page.lengths {
		page.lengths[i] = in.uvarint(64)
		if page.lengths[i] > sum {
			in.fail(damage("a block of %d bytes in chunks of %d", page.lengths[i], sum))
		}
		if page.lengths[i] > 0 {
			withRows++
		}
	}
	if in.err == nil && page.lengths[len(page.lengths)-1] == 0 {
		return page, damage("the last block listed has no rows")
	}
	for range withRows {
		page.fingerprints = append(page.fingerprints, in.bytes(8))
	}
	page.extents = make([]extent, in.count("extents", 3))
	var placed uint64
	for i := range page.extents {
		e := extent{blocks: in.uvarint(64), chunk: in.uvarint(64), offset: in.uvarint(64)}
		if in.err == nil && (e.blocks < 1 || e.blocks > withRows-placed || e.chunk >= uint64(len(page.chunks)) || e.offset >= uint64(page.chunks[e.chunk].Plain)) {
			return page, damage("extent %+v", e)
		}
		placed += e.blocks
		page.extents[i] = e
	}
	if err := in.end(); err != nil {
		return page, err
	}
	if placed != withRows {
		return page, damage("extents hold %d blocks of %d", placed, withRows)
	}
	return page, nil
}

// listingPages calls each for all listing pages with rows, in order.
func (s *snapshot) listingPages(table tableRecord, each func(listingPage) error) error {
	open := func(k uint64, ref reference) error {
		plain, err := s.part(ref, kindListing)
		if err != nil {
			return fmt.Errorf("listing page %d: %w", k, err)
		}
		page, err := parseListingPage(plain, k)
		if err != nil {
			return fmt.Errorf("listing page %d: %w", k, err)
		}
		return each(page)
	}
	switch list := table.Listing; list.form() {
	case "inline":
		plain, err := decodeBase64(*list.Inline)
		if err != nil {
			return err
		}
		page, err := parseListingPage(plain, 0)
		if err != nil {
			return fmt.Errorf("listing: %w", err)
		}
		return each(page)
	case "pages":
		for k, ref := range list.Pages {
			if ref == nil {
				continue
			}
			if err := open(uint64(k), *ref); err != nil {
				return err
			}
		}
	case "index":
		for j, ref := range list.Index {
			plain, err := s.part(ref, kindIndex)
			if err != nil {
				return fmt.Errorf("index page %d: %w", j, err)
			}
			flags, references, err := parseIndexPage(plain, j == len(list.Index)-1)
			if err != nil {
				return fmt.Errorf("index page %d: %w", j, err)
			}
			for i, flag := range flags {
				if flag == 0 {
					continue
				}
				if err := open(uint64(1024*j+i), references[0]); err != nil {
					return err
				}
				references = references[1:]
			}
		}
	}
	return nil
}

// parseIndexPage parses an index page: a flag for each listing page, and the references of those flagged.
func parseIndexPage(plain []byte, last bool) ([]byte, []reference, error) {
	in := binaryReader{rest: plain}
	flags := in.bytes(in.count("listing pages", 1))
	references := in.references(false)
	if err := in.end(); err != nil {
		return nil, nil, err
	}
	if len(flags) > 1024 || !last && len(flags) != 1024 {
		return nil, nil, damage("%d listing pages", len(flags))
	}
	flagged := 0
	for _, flag := range flags {
		if flag > 1 {
			return nil, nil, damage("flag %d", flag)
		}
		flagged += int(flag)
	}
	if flagged != len(references) {
		return nil, nil, damage("%d references of %d listing pages", len(references), flagged)
	}
	return flags, references, nil
}

// rows writes a table's COPY text to w. What was written may be kept only when no error is returned. Section 10.4.
func (s *snapshot) rows(table tableRecord, w io.Writer) error {
	var size, rows int64
	var cached reference
	var cache []byte
	chunk := func(ref reference) ([]byte, error) {
		if ref != cached {
			plain, err := s.part(ref, kindChunk)
			if err != nil {
				return nil, err
			}
			cached, cache = ref, plain
		}
		return cache, nil
	}
	err := s.listingPages(table, func(page listingPage) error {
		var extents, left = page.extents, uint64(0)
		var begin, at, offset uint64 // the extent's chunk, and the chunk and where in it the next block begins
		fingerprints := page.fingerprints
		for i, length := range page.lengths {
			if length == 0 {
				continue
			}
			number := page.first + uint64(i)
			if table.Layout == "blocks" && number >= uint64(table.Blocks) {
				return damage("block %d of %d has rows", number, table.Blocks)
			}
			if left == 0 {
				left, at, offset = extents[0].blocks, extents[0].chunk, extents[0].offset
				extents, begin = extents[1:], at
			}
			left--
			if at != begin {
				return damage("block %d is in an extent of chunk %d, and begins in chunk %d", number, begin, at)
			}
			if offset >= uint64(page.chunks[at].Plain) {
				return damage("block %d begins behind its chunk", number)
			}
			mac := hmac.New(sha256.New, s.fingerprintKey)
			counter := &lineCounter{mac: mac}
			for need := length; need > 0; {
				if offset == uint64(page.chunks[at].Plain) {
					at, offset = at+1, 0
				}
				if at >= uint64(len(page.chunks)) {
					return damage("block %d is cut off", number)
				}
				plain, err := chunk(page.chunks[at])
				if err != nil {
					return fmt.Errorf("block %d: %w", number, err)
				}
				piece := plain[offset:min(uint64(len(plain)), offset+need)]
				counter.Write(piece)
				if _, err := w.Write(piece); err != nil {
					return err
				}
				need -= uint64(len(piece))
				offset += uint64(len(piece))
			}
			if !bytes.Equal(mac.Sum(nil)[:8], fingerprints[0]) {
				return damage("block %d: fingerprint", number)
			}
			fingerprints = fingerprints[1:]
			if counter.last != '\n' {
				return damage("block %d ends within a row", number)
			}
			size += int64(length)
			rows += counter.rows
		}
		return nil
	})
	if err == nil && (size != table.Bytes || rows != table.Rows) {
		err = damage("%d rows in %d bytes instead of %d in %d", rows, size, table.Rows, table.Bytes)
	}
	if err != nil {
		return fmt.Errorf("table %d: %w", table.OID, err)
	}
	return nil
}

// lineCounter counts rows and hashes them.
type lineCounter struct {
	mac  hash.Hash
	rows int64
	last byte
}

func (c *lineCounter) Write(piece []byte) {
	c.mac.Write(piece)
	c.rows += int64(bytes.Count(piece, []byte("\n")))
	c.last = piece[len(piece)-1]
}

// largeObjects returns the content of all large objects by oid. Section 10.5.
func (s *snapshot) largeObjects() (map[uint32][]byte, error) {
	records, err := s.largeObjectRecords()
	if err != nil {
		return nil, err
	}
	contents := make(map[uint32][]byte)
	for _, record := range records {
		if _, twice := contents[record.OID]; twice {
			return nil, damage("large object %d has two records", record.OID)
		}
		contents[record.OID] = nil
	}
	tables, err := s.tables()
	if err != nil {
		return nil, err
	}
	for _, table := range tables {
		if table.Kind != "large_objects" {
			continue
		}
		var copied bytes.Buffer
		if err := s.rows(table, &copied); err != nil {
			return nil, err
		}
		if err := s.placePages(copied.Bytes(), contents); err != nil {
			return nil, fmt.Errorf("table %d: %w", table.OID, err)
		}
	}
	return contents, nil
}

// placePages puts the pages of large objects in their places.
func (s *snapshot) placePages(rows []byte, contents map[uint32][]byte) error {
	if s.Database.BlockSize <= 0 || s.Database.BlockSize%4 != 0 {
		return damage("blocks of %d bytes", s.Database.BlockSize)
	}
	size := int(s.Database.BlockSize / 4)
	seen := make(map[[2]uint64]bool)
	for line := range bytes.Lines(rows) {
		columns := bytes.Split(bytes.TrimSuffix(line, []byte("\n")), []byte("\t"))
		if len(columns) != 3 || !bytes.HasPrefix(columns[2], []byte(`\\x`)) {
			return damage("a row of large objects")
		}
		oid, err := strconv.ParseUint(string(columns[0]), 10, 32)
		if err != nil {
			return damage("large object %q", columns[0])
		}
		number, err := strconv.ParseUint(string(columns[1]), 10, 31)
		if err != nil {
			return damage("page %q of large object %d", columns[1], oid)
		}
		data, err := hex.DecodeString(string(columns[2][3:]))
		if err != nil || len(data) > size {
			return damage("page %d of large object %d", number, oid)
		}
		content, ok := contents[uint32(oid)]
		if !ok || seen[[2]uint64{oid, number}] {
			return damage("page %d of large object %d has no record, or is there twice", number, oid)
		}
		seen[[2]uint64{oid, number}] = true
		begin := int(number) * size
		if len(content) < begin+len(data) {
			content = append(content, make([]byte, begin+len(data)-len(content))...)
		}
		copy(content[begin:], data)
		contents[uint32(oid)] = content
	}
	return nil
}
