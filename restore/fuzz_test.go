package restore

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv/allocation"
)

// FuzzLargeObjectRows gives the writer of large objects hostile rows, cut anywhere: it never panics, holds a bounded
// amount, and takes the same rows wherever they are cut.
func FuzzLargeObjectRows(f *testing.F) {
	f.Add([]byte("16400\t0\t\\\\x00ff\n16400\t1\t\\\\x\n"), uint64(1))
	f.Add([]byte("4294967295\t2147483647\t\\\\x"+strings.Repeat("ab", largeObjectPage)+"\n"), uint64(2))
	f.Add([]byte("1\t0\t\\\\x0\n"), uint64(3))
	f.Fuzz(func(t *testing.T, rows []byte, seed uint64) {
		if bytes.Count(rows, []byte{'\n'}) >= batchCount {
			return // would be sent
		}
		write := func(cut func(rest int) int) (*largeObjectWriter, error) {
			writer := &largeObjectWriter{ctx: t.Context(), run: &run{}}
			for rest := rows; len(rest) > 0; {
				n := cut(len(rest))
				if _, err := writer.Write(bytes.Clone(rest[:n])); err != nil {
					return writer, err
				}
				rest = rest[n:]
			}
			return writer, nil
		}
		var whole *largeObjectWriter
		var err error
		allocation.Bound(t, putBytes+32*uint64(len(rows)), func() { whole, err = write(func(rest int) int { return rest }) })
		random := rand.New(rand.NewPCG(seed, 1))
		pieces, errPieces := write(func(rest int) int { return min(rest, 1+random.IntN(9)) })
		if (err == nil) != (errPieces == nil) {
			// A row that never ends is refused at the end of the piece in which it has become too long.
			if len(rows) <= maxLargeObjectRow {
				t.Fatalf("%q: %v, and in pieces %v", rows, err, errPieces)
			}
			return
		}
		if err != nil {
			return
		}
		if whole.pages != pieces.pages || whole.object != pieces.object || whole.offset != pieces.offset ||
			!bytes.Equal(whole.data, pieces.data) || !bytes.Equal(whole.line, pieces.line) {
			t.Errorf("%q: %d pages and %x, in pieces %d and %x", rows, whole.pages, whole.data, pieces.pages, pieces.data)
		}
		if len(whole.data) > putBytes {
			t.Errorf("%d bytes are held", len(whole.data))
		}
		if lines := bytes.SplitAfter(rows, []byte{'\n'}); len(lines) == 2 && len(lines[1]) == 0 && len(whole.data) > 0 {
			want := fmt.Sprintf("%d\t%d\t\\\\x%s\n", whole.object, whole.offset/largeObjectPage, hex.EncodeToString(whole.data))
			if got := strings.ToLower(string(rows)); strings.TrimLeft(got, "0") != strings.TrimLeft(want, "0") && !strings.Contains(got, "\t0") {
				t.Errorf("%q was read as %q", rows, want)
			}
		}
	})
}

// FuzzSettingList holds that a list of names that was quoted as the server does it comes back, and that any text is taken apart.
func FuzzSettingList(f *testing.F) {
	f.Add(`"$user", public`)
	f.Add(`a,"b""c" , d`)
	f.Add(`"open`)
	f.Fuzz(func(t *testing.T, value string) {
		var names []string
		allocation.Bound(t, 64*uint64(len(value)), func() { names = splitSettingList(value) })
		var quoted []string
		for _, name := range names {
			quoted = append(quoted, `"`+strings.ReplaceAll(name, `"`, `""`)+`"`)
		}
		if again := splitSettingList(strings.Join(quoted, ", ")); !slices.Equal(again, names) {
			t.Errorf("%q is %q, and again %q", value, names, again)
		}
	})
}

// FuzzToolOutput holds that no line of a server's error that may quote rows is shown.
func FuzzToolOutput(f *testing.F) {
	f.Add("pg_restore: error: could not execute query: ERROR:  x\nDETAIL:  Key (a)=(secret) exists.\nmore secret\nHINT:  h\nCommand was: c\n")
	f.Fuzz(func(t *testing.T, stderr string) {
		kept := withoutRowData(stderr)
		for line := range strings.Lines(kept) {
			if strings.HasPrefix(line, "DETAIL:") || strings.HasPrefix(line, "CONTEXT:") {
				t.Errorf("%q is kept as %q", stderr, kept)
			}
		}
		_ = onlyUnknownTransactionTimeout(stderr)
		_ = afterOIDs(stderr)
	})
}
