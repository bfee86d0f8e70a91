package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/catalog"
)

var testTable = &catalog.Table{Schema: "s", Name: "t"}

// split feeds rows to a splitter in pieces that end at the given places, and returns what came out.
func split(rows string, from, to uint32, cuts []int) (*memorySink, int64, error) {
	var sink memorySink
	splitter := newRowSplitter(testTable, from, to, &sink)
	start := 0
	for _, cut := range append(cuts, len(rows)) {
		if cut < start || cut > len(rows) {
			continue
		}
		if _, err := splitter.Write([]byte(rows[start:cut])); err != nil {
			return &sink, splitter.rows, err
		}
		start = cut
	}
	return &sink, splitter.rows, splitter.finish()
}

func TestRowsAreToldApartByBlockWhereverTheyAreCut(t *testing.T) {
	rows := "(0,1)\ta\tb\n(0,65535)\t\n(7,1)\n(7,2)\t(9,9)\\n\n(4294967294,3)\t" + strings.Repeat("x", 3*gather) + "\n"
	want := map[uint32]string{0: "a\tb\n\n", 7: "\n(9,9)\\n\n", 4294967294: strings.Repeat("x", 3*gather) + "\n"}
	check := func(cuts []int) {
		t.Helper()
		sink, count, err := split(rows, 0, OpenEnd, cuts)
		if err != nil || count != 5 || !slices.Equal(sink.order, []uint32{0, 7, 4294967294}) {
			t.Fatalf("cut at %v: got blocks %v, %d rows, error %v", cuts, sink.order, count, err)
		}
		for block, content := range want {
			if sink.blocks[block] != content {
				t.Fatalf("cut at %v: block %d: got %.60q, want %.60q", cuts, block, sink.blocks[block], content)
			}
		}
	}
	for cut := range 70 {
		check([]int{cut})
	}
	every := make([]int, len(rows))
	for i := range every {
		every[i] = i
	}
	check(every)
}

func TestRowsOutOfOrderOrRangeAreRefused(t *testing.T) {
	for _, test := range []struct {
		rows     string
		from, to uint32
	}{
		{"(1,1)\ta\n(1,1)\tb\n", 0, 9},
		{"(1,2)\ta\n(1,1)\tb\n", 0, 9},
		{"(2,1)\ta\n(1,2)\tb\n", 0, 9},
		{"(5,1)\ta\n(6,1)\tb\n(5,2)\tc\n", 0, OpenEnd},
		{"(1,1)\ta\n", 2, 9},
		{"(9,1)\ta\n", 2, 9},
	} {
		_, _, err := split(test.rows, test.from, test.to, nil)
		var order *OrderError
		if !errors.As(err, &order) || order.From != test.from || !strings.Contains(err.Error(), "enable_tidscan") {
			t.Errorf("%q in %d..%d: got %v, want an OrderError", test.rows, test.from, test.to, err)
		}
	}
}

func TestRowsThatAreNoRowsAreRefused(t *testing.T) {
	for _, rows := range []string{
		"(1,1)\ta", "(1,1", "(1,1)", "x\ta\n", "(1,1\ta\n", "1,1)\ta\n", "(01,1)\ta\n", "(-1,1)\ta\n", "(1,70000)\ta\n", "(4294967296,1)\ta\n",
		"\n", "\ta\n", "(1;1)\ta\n", strings.Repeat("(", 100), "(1,1)\ta\n\n", "( 1,1)\ta\n", "(,1)\t\n", "(1,)\t\n", "(11,1,1)\t\n",
	} {
		if _, _, err := split(rows, 0, OpenEnd, nil); err == nil {
			t.Errorf("%q was accepted", rows)
		}
	}
}

func TestSinkErrorStopsTheReading(t *testing.T) {
	broken := errors.New("sink broken")
	splitter := newRowSplitter(testTable, 0, OpenEnd, failingSink{broken})
	if _, err := splitter.Write([]byte("(0,1)\t" + strings.Repeat("x", 2*gather) + "\n")); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failingSink struct{ err error }

func (failingSink) Block(uint32) error          { return nil }
func (f failingSink) Write([]byte) (int, error) { return 0, f.err }

func FuzzRowSplitter(f *testing.F) {
	f.Add([]byte("(0,1)\ta\tb\n(0,2)\t\n(7,1)\n"), uint64(1))
	f.Add([]byte("(4294967294,65535)\t\\N\n"), uint64(2))
	f.Add([]byte("(1,1)\ta\n(1,1)\tb\n"), uint64(3))
	f.Add([]byte("(12,3"), uint64(4))
	f.Fuzz(func(t *testing.T, rows []byte, seed uint64) {
		whole, wholeCount, wholeErr := split(string(rows), 0, OpenEnd, nil)
		random := rand.New(rand.NewPCG(seed, 1))
		var cuts []int
		for at := 0; at < len(rows); at += 1 + random.IntN(7) {
			cuts = append(cuts, at)
		}
		pieces, count, err := split(string(rows), 0, OpenEnd, cuts)
		if (err == nil) != (wholeErr == nil) {
			t.Fatalf("whole: %v; in pieces: %v", wholeErr, err)
		}
		if err != nil {
			return
		}
		if count != wholeCount || fmt.Sprint(pieces.order) != fmt.Sprint(whole.order) || pieces.all() != whole.all() {
			t.Fatalf("whole: %d rows %q; in pieces: %d rows %q", wholeCount, whole.all(), count, pieces.all())
		}
		// An accepted stream is exactly ctids and rows: put together again it is the input.
		if int64(bytes.Count(rows, []byte{'\n'})) != count {
			t.Fatalf("%d rows of %q", count, rows)
		}
		var size int
		for _, line := range bytes.SplitAfter(rows, []byte{'\n'}) {
			if _, row, found := bytes.Cut(line, []byte{'\t'}); found {
				size += len(row)
			} else if len(line) > 0 {
				size++
			}
		}
		if size != len(whole.all()) {
			t.Fatalf("%d bytes of %q came out as %q", size, rows, whole.all())
		}
	})
}

func TestLiteralsAndIdentifiersAreQuoted(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{QuoteIdentifier(`a"b`), `"a""b"`},
		{QualifiedName("S", "t\xff"), "\"S\".\"t\xff\""},
		{QuoteLiteral("it's"), "'it''s'"},
		{QuoteLiteral(`a\'b`), ` E'a\\''b'`},
	} {
		if test.got != test.want {
			t.Errorf("got %s, want %s", test.got, test.want)
		}
	}
}
