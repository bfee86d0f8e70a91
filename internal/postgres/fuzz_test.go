package postgres

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv/allocation"
)

// inPieces writes text to write in pieces whose lengths come from seed.
func inPieces(text []byte, seed uint64, write func([]byte) error) error {
	random := rand.New(rand.NewPCG(seed, 1))
	for len(text) > 0 {
		n := min(len(text), 1+random.IntN(1<<random.IntN(8)))
		if err := write(bytes.Clone(text[:n])); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// discard is a sink that keeps nothing.
type discard struct{}

func (discard) Block(uint32) error          { return nil }
func (discard) Write(p []byte) (int, error) { return len(p), nil }

// FuzzRowsOfBlocks compares the splitter with a naive one that sees all rows at once: what is accepted comes out byte for byte, block by
// block, wherever it is cut, and what the naive one refuses is refused.
func FuzzRowsOfBlocks(f *testing.F) {
	f.Add([]byte("(0,1)\ta\tb\n(0,2)\t\n(7,1)\n(7,2)\t(7,3)\n"), uint64(1), uint32(0), OpenEnd)
	f.Add([]byte("(4294967294,65535)\t\\N\n"), uint64(2), uint32(9), OpenEnd)
	f.Add([]byte("(3,1)\ta\n(4,1)\tb\n"), uint64(3), uint32(3), uint32(4))
	f.Fuzz(func(t *testing.T, rows []byte, seed uint64, from, to uint32) {
		want, blocks, count, ok := naiveSplit(string(rows), from, to)
		var sink memorySink
		splitter := newRowSplitter(testTable, from, to, &sink)
		err := inPieces(rows, seed, func(piece []byte) error {
			n, err := splitter.Write(piece)
			if err == nil && n != len(piece) {
				t.Fatalf("%d bytes of %d were taken without an error", n, len(piece))
			}
			return err
		})
		if err == nil {
			err = splitter.finish()
		}
		if ok != (err == nil) {
			t.Fatalf("%q in %d..%d: %v, and one after the other says %t", rows, from, to, err, ok)
		}
		if ok && (splitter.rows != count || !slices.Equal(sink.order, blocks) || !maps.Equal(sink.blocks, want)) {
			t.Errorf("%q: got %v %v, want %v %v", rows, sink.order, sink.blocks, blocks, want)
		}
		allocation.Bound(t, gather+8*uint64(len(rows)), func() {
			splitter := newRowSplitter(testTable, from, to, discard{})
			if _, err := splitter.Write(rows); err == nil {
				_ = splitter.finish()
			}
		})
	})
}

// naiveSplit says what rows with ctids are, by block.
func naiveSplit(text string, from, to uint32) (content map[uint32]string, order []uint32, count int64, ok bool) {
	last := int64(-1)
	for line := range strings.Lines(text) {
		row, ended := strings.CutSuffix(line, "\n")
		ctid, columns, has := strings.Cut(row, "\t")
		var block, offset int64
		if _, err := fmt.Sscanf(ctid, "(%d,%d)", &block, &offset); err != nil || fmt.Sprintf("(%d,%d)", block, offset) != ctid {
			return nil, nil, 0, false
		}
		at := block<<16 | offset
		if !ended || block < int64(from) || to != OpenEnd && block >= int64(to) || block > 1<<32-1 || offset > 1<<16-1 || offset < 0 || block < 0 || at <= last {
			return nil, nil, 0, false
		}
		last = at
		if content == nil {
			content = make(map[uint32]string)
		}
		if n := len(order); n == 0 || order[n-1] != uint32(block) {
			order = append(order, uint32(block))
		}
		if has {
			content[uint32(block)] += columns
		}
		content[uint32(block)] += "\n"
		count++
	}
	return content, order, count, true
}

// FuzzRowsOfStreams holds that rows without ctids pass unchanged, wherever they are cut.
func FuzzRowsOfStreams(f *testing.F) {
	f.Add([]byte("a\tb\n\n\\N\n"), uint64(1))
	f.Add([]byte("cut"), uint64(2))
	f.Fuzz(func(t *testing.T, rows []byte, seed uint64) {
		var sink memorySink
		splitter := &streamSplitter{table: testTable, sink: &sink}
		if err := inPieces(rows, seed, func(piece []byte) error { _, err := splitter.Write(piece); return err }); err != nil {
			t.Fatal(err)
		}
		whole := len(rows) == 0 || rows[len(rows)-1] == '\n'
		if err := splitter.finish(); (err == nil) != whole {
			t.Fatalf("%q: %v", rows, err)
		}
		if splitter.rows != int64(bytes.Count(rows, []byte{'\n'})) || sink.blocks[0] != string(rows) {
			t.Errorf("%q came out as %d rows, %v", rows, splitter.rows, sink.blocks)
		}
	})
}

func FuzzCTID(f *testing.F) {
	f.Add([]byte("(0,1)"))
	f.Add([]byte("(4294967295,65535)"))
	f.Add([]byte("(00,1)"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if at, size, ok := scanCTID(text); ok && at.String() != string(text[:size]) {
			t.Errorf("%q reads as %s", text, at)
		}
	})
}

// FuzzToolOutput holds that what a program wrote is kept in bounded lines, however it is cut.
func FuzzToolOutput(f *testing.F) {
	f.Add([]byte("pg_dump: warning: a\r\n\npg_dump: hint"), uint64(1))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		var whole, pieces toolLines
		allocation.Bound(t, 64*uint64(len(text)), func() { _, _ = whole.Write(text) })
		whole.end()
		_ = inPieces(text, seed, func(piece []byte) error { _, err := pieces.Write(piece); return err })
		pieces.end()
		if !slices.Equal(whole.lines, pieces.lines) || len(whole.lines) > maxToolLines+1 {
			t.Errorf("%q is %q, and cut in another way %q", text, whole.lines, pieces.lines)
		}
		for _, line := range whole.lines {
			if len(line) > maxToolLine || strings.Contains(line, "\n") {
				t.Errorf("a line of %d bytes", len(line))
			}
		}
	})
}
