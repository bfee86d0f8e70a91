package postgres

import (
	"bytes"
	"fmt"

	"github.com/hourvault/hourvault/internal/catalog"
)

// RowSink takes the rows of one table as they are read. Neither method is called concurrently.
type RowSink interface {
	// Block says that the rows that follow lie in heap block number. Numbers rise strictly within one call of
	// ReadBlocks; blocks without visible rows are not mentioned.
	Block(number uint32) error
	// Write takes content of the current block: rows of COPY's text format without the ctid, each ended by a newline
	// (a row of a table without columns is a newline alone). Pieces may be of any size and cut rows anywhere. The
	// bytes are the sink's only until it returns.
	Write(p []byte) (int, error)
}

// ctidBytes bounds the text of a ctid: "(4294967294,65535)".
const ctidBytes = 18

// position is a place in a heap: block number and line pointer, the latter counted from 1.
type position struct {
	block  uint32
	offset uint16
}

func (p position) String() string { return fmt.Sprintf("(%d,%d)", p.block, p.offset) }

func (p position) after(q position) bool {
	return p.block > q.block || p.block == q.block && p.offset > q.offset
}

// rowSplitter takes COPY's text rows that begin with a ctid, cut anywhere, strips the ctids and passes the rows on to a
// sink, block by block. It refuses ctids that do not rise strictly or that lie outside the range asked for: the plan
// that makes them rise is pinned, but not promised by the server. A splitter whose Write failed must not be used on.
type rowSplitter struct {
	table    *catalog.Table
	sink     RowSink
	from, to uint32 // to exclusive; OpenEnd: none

	rows    int64
	any     bool
	last    position // of the newest row begun
	inRow   bool     // the ctid of the current row has been read
	ctid    [ctidBytes + 1]byte
	ctidLen int
	pending []byte // content of the current block not yet given to the sink
}

// gather is how much content of small rows is gathered before the sink is called, in bytes.
const gather = 32 << 10

func newRowSplitter(table *catalog.Table, from, to uint32, sink RowSink) *rowSplitter {
	return &rowSplitter{table: table, sink: sink, from: from, to: to, pending: make([]byte, 0, gather)}
}

// Write implements io.Writer.
func (s *rowSplitter) Write(p []byte) (int, error) {
	size := len(p)
	for len(p) > 0 {
		if !s.inRow {
			rest, err := s.readCTID(p)
			if err != nil {
				return size - len(p), err
			}
			p = rest
			continue
		}
		end := bytes.IndexByte(p, '\n')
		piece := p
		if end >= 0 {
			piece = p[:end+1]
			s.inRow = false
			s.rows++
		}
		p = p[len(piece):]
		if err := s.content(piece); err != nil {
			return size - len(p), err
		}
	}
	return size, nil
}

// readCTID takes bytes of a ctid from p and returns the rest. The tab after the ctid is dropped; a newline in its place
// is the whole row of a table without columns.
func (s *rowSplitter) readCTID(p []byte) ([]byte, error) {
	text := p
	if s.ctidLen > 0 || len(p) <= ctidBytes {
		// It may be cut: it is put together first.
		n := copy(s.ctid[s.ctidLen:], p)
		text = s.ctid[:s.ctidLen+n]
	}
	at, size, ok := scanCTID(text)
	switch {
	case ok && size == len(text), !ok && size == len(text) && size <= ctidBytes:
		// What ends it has not come yet.
		s.ctidLen = copy(s.ctid[:], text)
		return nil, nil
	case !ok, text[size] != '\t' && text[size] != '\n':
		return nil, s.damaged("a row does not begin with a ctid")
	}
	if err := s.enter(at); err != nil {
		return nil, err
	}
	rest := p[size-s.ctidLen:]
	s.ctidLen = 0
	s.inRow = true
	if rest[0] == '\n' {
		return rest, nil
	}
	return rest[1:], nil
}

// scanCTID reads the ctid that text begins with, for instance "(17,3)", without sign, blanks or leading zeros. size is its length, and
// where there is none the length up to the byte that is wrong: len(text) when none is.
func scanCTID(text []byte) (at position, size int, ok bool) {
	size, ok = expect(text, 0, '(')
	if !ok {
		return at, size, false
	}
	block, size, ok := scanDecimal(text, size, 1<<32-1)
	if !ok {
		return at, size, false
	}
	if size, ok = expect(text, size, ','); !ok {
		return at, size, false
	}
	offset, size, ok := scanDecimal(text, size, 1<<16-1)
	if !ok {
		return at, size, false
	}
	size, ok = expect(text, size, ')')
	return position{block: uint32(block), offset: uint16(offset)}, size, ok
}

func expect(text []byte, at int, c byte) (int, bool) {
	if at < len(text) && text[at] == c {
		return at + 1, true
	}
	return at, false
}

// scanDecimal reads the number that begins at from, and returns where it ends.
func scanDecimal(text []byte, from int, limit uint64) (value uint64, end int, ok bool) {
	for end = from; end < len(text); end++ {
		c := text[end] - '0'
		if c > 9 {
			break
		}
		if value = value*10 + uint64(c); value > limit || end > from && text[from] == '0' {
			return 0, end, false
		}
	}
	return value, end, end > from
}

func (s *rowSplitter) enter(at position) error {
	if s.any && !at.after(s.last) {
		return s.order(at, "does not come after "+s.last.String())
	}
	if at.block < s.from || s.to != OpenEnd && at.block >= s.to {
		return s.order(at, "lies outside the range asked for")
	}
	if !s.any || at.block != s.last.block {
		if err := s.flush(); err != nil {
			return err
		}
		if err := s.sink.Block(at.block); err != nil {
			return err
		}
	}
	s.any, s.last = true, at
	return nil
}

func (s *rowSplitter) content(piece []byte) error {
	if len(s.pending)+len(piece) > gather {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if len(piece) > gather {
		_, err := s.sink.Write(piece)
		return err
	}
	s.pending = append(s.pending, piece...)
	return nil
}

func (s *rowSplitter) flush() error {
	if len(s.pending) == 0 {
		return nil
	}
	_, err := s.sink.Write(s.pending)
	s.pending = s.pending[:0]
	return err
}

// finish passes on what is left. A row without its end is an error: the stream was cut.
func (s *rowSplitter) finish() error {
	if s.inRow || s.ctidLen > 0 {
		return s.damaged("the rows end in the middle of one")
	}
	return s.flush()
}

func (s *rowSplitter) order(at position, problem string) error {
	return &OrderError{Table: QualifiedName(s.table.Schema, s.table.Name), CTID: at.String(), Problem: problem, From: s.from, To: s.to}
}

func (s *rowSplitter) damaged(problem string) error {
	return fmt.Errorf("read %s: %s", printable(QualifiedName(s.table.Schema, s.table.Name)), problem)
}

// streamSplitter passes rows that carry no ctid as block 0.
type streamSplitter struct {
	table *catalog.Table
	sink  RowSink
	rows  int64
	any   bool
	inRow bool
}

// Write implements io.Writer.
func (s *streamSplitter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !s.any {
		s.any = true
		if err := s.sink.Block(0); err != nil {
			return 0, err
		}
	}
	s.rows += int64(bytes.Count(p, []byte{'\n'}))
	s.inRow = p[len(p)-1] != '\n'
	return s.sink.Write(p)
}

func (s *streamSplitter) finish() error {
	if s.inRow {
		return fmt.Errorf("read %s: the rows end in the middle of one", printable(QualifiedName(s.table.Schema, s.table.Name)))
	}
	return nil
}
