package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func message(kind byte, body []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(out, body...)
}

type wireMessage struct {
	kind byte
	body string
}

// messages reads a stream of messages, joining neighbouring CopyData; it stops where the stream is none.
func messages(stream []byte, joinCopy bool) (list []wireMessage, largest int) {
	for len(stream) >= headerBytes {
		length := int64(binary.BigEndian.Uint32(stream[1:])) - 4
		if length < 0 {
			break
		}
		kind, body := stream[0], stream[headerBytes:]
		body = body[:min(int64(len(body)), length)]
		stream = stream[headerBytes+len(body):]
		if kind == 'd' {
			largest = max(largest, int(length))
		}
		if last := len(list) - 1; joinCopy && kind == 'd' && last >= 0 && list[last].kind == 'd' {
			list[last].body += string(body)
			continue
		}
		list = append(list, wireMessage{kind, string(body)})
	}
	return list, largest
}

func splitCopy(t *testing.T, source io.Reader, limit int, seed uint64) []byte {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 2))
	splitter := &copySplitter{source: source, limit: limit}
	var out []byte
	space := make([]byte, 40000)
	for {
		buffer := space[:1+random.IntN(len(space))]
		n, err := splitter.Read(buffer)
		out = append(out, buffer[:n]...)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLargeCopyDataArrivesInPiecesAndNothingElseChanges(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	var stream []byte
	stream = append(stream, message('Z', []byte("I"))...)
	stream = append(stream, message('D', big)...) // a large message of another type passes whole
	for _, size := range []int{0, 1, maxCopyPiece - 1, maxCopyPiece, maxCopyPiece + 1, 2 * maxCopyPiece, len(big)} {
		stream = append(stream, message('d', big[:size])...)
		stream = append(stream, message('N', nil)...)
	}
	stream = append(stream, message('c', nil)...)
	want, _ := messages(stream, true)
	for name, source := range map[string]func() io.Reader{
		"whole":       func() io.Reader { return bytes.NewReader(stream) },
		"byte wise":   func() io.Reader { return iotest.OneByteReader(bytes.NewReader(stream)) },
		"half":        func() io.Reader { return iotest.HalfReader(bytes.NewReader(stream)) },
		"end at once": func() io.Reader { return iotest.DataErrReader(bytes.NewReader(stream)) },
	} {
		got, largest := messages(splitCopy(t, source(), maxCopyPiece, 1), true)
		if largest > maxCopyPiece {
			t.Errorf("%s: a piece has %d bytes", name, largest)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: got %d messages, want %d", name, len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: message %d is %c of %d bytes, want %c of %d", name, i, got[i].kind, len(got[i].body), want[i].kind, len(want[i].body))
			}
		}
	}
	unsplit, _ := messages(stream, false)
	pieces, _ := messages(splitCopy(t, bytes.NewReader(stream), maxCopyPiece, 1), false)
	if len(pieces) <= len(unsplit) {
		t.Errorf("no message was cut")
	}
}

func FuzzCopySplitter(f *testing.F) {
	f.Add(append(message('d', []byte("0123456789")), message('c', nil)...), uint64(1))
	f.Add(message('D', []byte("0123456789abcdefghi")), uint64(2))
	f.Add([]byte{'d', 0, 0, 0, 3, 1}, uint64(3))
	f.Add([]byte{'d', 0xff, 0xff, 0xff, 0xff, 1, 2, 3}, uint64(4))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		const limit = 8
		out := splitCopy(t, iotest.HalfReader(bytes.NewReader(stream)), limit, seed)
		want, _ := messages(stream, true)
		got, largest := messages(out, true)
		if largest > limit {
			t.Fatalf("a piece has %d bytes", largest)
		}
		if len(got) != len(want) {
			t.Fatalf("got %d messages, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("message %d: got %q, want %q", i, got[i], want[i])
			}
		}
	})
}
