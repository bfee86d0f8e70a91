package repository

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"github.com/hourvault/hourvault/crypto"
)

// Bounds on what a reader accepts, in bytes: a sealed object says how large its text is, and nothing larger than these is
// ever allocated for it.
const (
	maxObjectSize = 512 << 20 // a single sealed object: a manifest that names very many packs
	maxTextSize   = 1 << 30   // its text
	maxPartSize   = 64 << 20  // the text of one part of a pack
)

// codec compresses and decompresses; both directions may be used concurrently.
type codec struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

// compressors is how many chunks are compressed, or decompressed, at once: as many as there are processors, but no more than four, which keep
// up with what a few connections read. Each takes some MiB, and memory must not grow with the size of the machine.
func compressors() int { return min(runtime.GOMAXPROCS(0), 4) }

func newCodec() (*codec, error) {
	// The fastest level is as good as the next one on rows, which are short and alike, and costs half. Left to
	// itself it stores literals as they are where nothing repeats: but random bytes of a bytea are hexadecimal digits in COPY's text, of
	// which entropy coding saves half. A window of 1 MiB covers a chunk; a larger one would only cost memory. The seal authenticates, so
	// no checksum.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithAllLitEntropyCompression(true),
		zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(compressors()))
	if err != nil {
		return nil, err
	}
	// Without the limit to what the caller made room for, a frame that says more than its seal would be unpacked before it is refused.
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(compressors()), zstd.WithDecoderMaxMemory(maxTextSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &codec{encoder: encoder, decoder: decoder}, nil
}

func (c *codec) close() { c.decoder.Close() }

func (c *codec) compress(plain []byte) []byte {
	return c.encoder.EncodeAll(plain, make([]byte, 0, len(plain)/2+64))
}

// decompress returns exactly plainSize bytes, or an error.
func (c *codec) decompress(text []byte, plainSize int) ([]byte, error) {
	return c.decompressInto(nil, text, plainSize)
}

// decompressInto is decompress into the memory of buffer, where that suffices.
func (c *codec) decompressInto(buffer, text []byte, plainSize int) ([]byte, error) {
	if cap(buffer) < plainSize {
		buffer = make([]byte, 0, plainSize)
	}
	plain, err := c.decoder.DecodeAll(text, buffer[:0:plainSize])
	if err != nil {
		return nil, fmt.Errorf("decompress: %w: %w", errMalformed, err)
	}
	if len(plain) != plainSize {
		return nil, fmt.Errorf("decompress: %d bytes instead of %d: %w", len(plain), plainSize, errMalformed)
	}
	return plain, nil
}

// sealObject makes a whole sealed object out of plain: header, length, sealed zstd frame (docs/format.md, "Sealed objects").
// It refuses what openObject would refuse to read.
func (c *codec) sealObject(key *crypto.Key, keyNumber uint32, kind crypto.Kind, place crypto.Place, plain []byte) ([]byte, error) {
	if len(plain) > maxTextSize {
		return nil, fmt.Errorf("a %s of %d bytes is larger than the format allows", kind, len(plain))
	}
	header := crypto.Header{Kind: kind, KeyNumber: keyNumber, Salt: newSalt()}
	sealer := crypto.NewSealer(key, header, place, kind)
	text := c.compress(plain)
	object := make([]byte, 0, crypto.HeaderSize+8+crypto.Overhead+len(text))
	object = header.Append(object)
	object = binary.BigEndian.AppendUint64(object, uint64(len(plain)))
	if object = sealer.Seal(object, kind, 0, uint64(len(plain)), text); len(object) > maxObjectSize {
		return nil, fmt.Errorf("a %s of %d stored bytes is larger than the format allows", kind, len(object))
	}
	return object, nil
}

// openObject is the inverse of sealObject. keys returns the key with the number that the header names. The object must
// be of one of the kinds given.
func (c *codec) openObject(keys func(number uint32) (*crypto.Key, error), place crypto.Place, object []byte, kinds ...crypto.Kind) (crypto.Header, []byte, error) {
	header, err := crypto.ParseHeader(object)
	if err != nil {
		return header, nil, err
	}
	expected := false
	for _, kind := range kinds {
		expected = expected || kind == header.Kind
	}
	if !expected {
		return header, nil, fmt.Errorf("is a %s, not a %s: %w", header.Kind, kinds[0], crypto.ErrNotAuthentic)
	}
	if len(object) < crypto.HeaderSize+8+crypto.Overhead {
		return header, nil, crypto.ErrNotAuthentic
	}
	key, err := keys(header.KeyNumber)
	if err != nil {
		return header, nil, err
	}
	plainSize := binary.BigEndian.Uint64(object[crypto.HeaderSize:])
	text, err := crypto.NewSealer(key, header, place, header.Kind).
		Open(nil, header.Kind, 0, plainSize, object[crypto.HeaderSize+8:])
	if err != nil {
		return header, nil, err
	}
	// Only now is the length believed, and even so bounded.
	if plainSize > maxTextSize {
		return header, nil, fmt.Errorf("text of %d bytes is larger than this version reads", plainSize)
	}
	plain, err := c.decompress(text, int(plainSize))
	return header, plain, err
}

// sealJSON seals a record's JSON.
func (c *codec) sealJSON(key *crypto.Key, keyNumber uint32, kind crypto.Kind, place crypto.Place, record any) ([]byte, error) {
	plain, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	return c.sealObject(key, keyNumber, kind, place, plain)
}
