package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
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

// messagesOf reads a stream of messages apart: the bodies of CopyData joined, and all other messages. It stops where the stream is none.
func messagesOf(stream []byte) (copied []byte, others []wireMessage) {
	for len(stream) >= headerBytes {
		length := int64(binary.BigEndian.Uint32(stream[1:])) - 4
		if length < 0 {
			break
		}
		kind, body := stream[0], stream[headerBytes:]
		body = body[:min(int64(len(body)), length)]
		stream = stream[headerBytes+len(body):]
		if kind == 'd' {
			copied = append(copied, body...)
		} else {
			others = append(others, wireMessage{kind, string(body)})
		}
	}
	return copied, others
}

// readAll reads a messageReader to its end in pieces of random length.
func readAll(t *testing.T, reader *messageReader, seed uint64) []byte {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 2))
	var out []byte
	space := make([]byte, 40000)
	for {
		buffer := space[:1+random.IntN(len(space))]
		n, err := reader.Read(buffer)
		out = append(out, buffer[:n]...)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCopyDataGoesToTheSinkAndNothingElseChanges(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	var stream []byte
	stream = append(stream, message('Z', []byte("I"))...)
	stream = append(stream, message('D', big)...)
	for _, size := range []int{0, 1, 5, 4096, 64<<10 - 1, 64 << 10, len(big)} {
		stream = append(stream, message('d', big[:size])...)
		stream = append(stream, message('d', []byte("next row\n"))...)
		stream = append(stream, message('N', nil)...)
	}
	stream = append(stream, message('c', nil)...)
	wantCopied, wantOthers := messagesOf(stream)
	for name, source := range map[string]func() io.Reader{
		"whole":       func() io.Reader { return bytes.NewReader(stream) },
		"byte wise":   func() io.Reader { return iotest.OneByteReader(bytes.NewReader(stream)) },
		"half":        func() io.Reader { return iotest.HalfReader(bytes.NewReader(stream)) },
		"end at once": func() io.Reader { return iotest.DataErrReader(bytes.NewReader(stream)) },
	} {
		var copied bytes.Buffer
		reader := &messageReader{source: source()}
		reader.setSink(&copied)
		rows, others := messagesOf(readAll(t, reader, 1))
		if !bytes.Equal(copied.Bytes(), wantCopied) {
			t.Errorf("%s: the sink got %d bytes, want %d, or others", name, copied.Len(), len(wantCopied))
		}
		if len(rows) != 0 || !slices.Equal(others, wantOthers) {
			t.Errorf("%s: %d bytes of rows and %d messages passed, want none and %d", name, len(rows), len(others), len(wantOthers))
		}

		reader = &messageReader{source: source()}
		if out := readAll(t, reader, 2); !bytes.Equal(out, stream) {
			t.Errorf("%s: without a sink %d bytes passed, want the %d that came", name, len(out), len(stream))
		}
	}
}

func TestErrorOfTheSinkBreaksTheConnection(t *testing.T) {
	full := errors.New("full")
	reader := &messageReader{source: bytes.NewReader(append(message('H', nil), message('d', []byte("row\n"))...))}
	reader.setSink(writerFunc(func([]byte) (int, error) { return 0, full }))
	if _, err := io.ReadAll(reader); !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestRowsOfACopyThatWasGivenUpReachNobody(t *testing.T) {
	stream := append(message('d', []byte("first row\nsecond row\n")), message('Z', []byte("I"))...)
	source, feed := io.Pipe()
	go func() {
		_, _ = feed.Write(stream[:headerBytes+10])
		_, _ = feed.Write(stream[headerBytes+10:])
		_ = feed.Close()
	}()
	var copied bytes.Buffer
	reader := &messageReader{source: source}
	reader.setSink(writerFunc(func(p []byte) (int, error) {
		defer reader.sinkIsGone() // as restore does, but within the call, where the lock is held
		return copied.Write(p)
	}))
	rows, others := messagesOf(readAll(t, reader, 3))
	if copied.String() != "first row\n" || len(rows) != 0 || len(others) != 1 {
		t.Errorf("got %q, %q and %d messages", copied.String(), rows, len(others))
	}
}

func (r *messageReader) sinkIsGone() { r.sink = nil }

func FuzzMessageReader(f *testing.F) {
	f.Add(append(message('d', []byte("0123456789")), message('c', nil)...), uint64(1))
	f.Add(message('D', []byte("0123456789abcdefghi")), uint64(2))
	f.Add([]byte{'d', 0, 0, 0, 3, 1}, uint64(3))
	f.Add([]byte{'d', 0xff, 0xff, 0xff, 0xff, 1, 2, 3}, uint64(4))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		var copied bytes.Buffer
		reader := &messageReader{source: iotest.HalfReader(bytes.NewReader(stream))}
		reader.setSink(&copied)
		rows, others := messagesOf(readAll(t, reader, seed))
		wantCopied, wantOthers := messagesOf(stream)
		if !bytes.Equal(copied.Bytes(), wantCopied) || len(rows) != 0 || !slices.Equal(others, wantOthers) {
			t.Fatalf("got %q, %q and %q, want %q, none and %q", copied.Bytes(), rows, others, wantCopied, wantOthers)
		}
	})
}
