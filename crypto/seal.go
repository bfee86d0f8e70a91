package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// FormatVersion is the version of the stored format that this package seals and opens. It is part of every header,
// of all associated data and of every HKDF label.
const FormatVersion = 1

// Sizes in bytes, as docs/format.md gives them.
const (
	HeaderSize = 48
	SaltSize   = 32
	IDSize     = 16
	// Overhead is what sealing adds to a text: 12 bytes of nonce before it and 16 bytes of tag after it.
	Overhead = 12 + 16
)

// magic starts every sealed object.
var magic = [4]byte{'H', 'V', 'L', 'T'}

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotAuthentic says that sealed bytes were changed, cut, moved to another place, or sealed under another key.
	ErrNotAuthentic = errors.New("not authentic: damaged, moved from another place, or sealed under another key")
	// ErrNotSealed says that the bytes do not begin like a sealed object.
	ErrNotSealed = errors.New("not an object sealed by hourvault")
	// ErrNewerFormat says that a later version of hourvault wrote this.
	ErrNewerFormat = errors.New("written by a later version of hourvault: use that version or a newer one")
)

// Kind says what sealed bytes are. The kind is authenticated, and each has an HKDF label of its own.
type Kind uint8

// Kinds of sealed objects and, from KindChunk on, of the parts of a pack. The numbers are part of the format.
const (
	KindClaim     Kind = 1
	KindWorkspace Kind = 2
	KindLease     Kind = 3
	KindManifest  Kind = 4
	KindVoid      Kind = 5
	KindPlan      Kind = 6
	KindReport    Kind = 7
	KindPack      Kind = 8
	KindChunk     Kind = 16
	KindArchive   Kind = 17
	KindListing   Kind = 18
	KindIndex     Kind = 19
	KindTables    Kind = 20
	KindSequences Kind = 21
	KindLargeObjs Kind = 22
	KindDirectory Kind = 23
)

// kindLabels are the HKDF labels; a kind without one does not exist.
var kindLabels = map[Kind]string{
	KindClaim: "claim", KindWorkspace: "workspace", KindLease: "lease", KindManifest: "manifest", KindVoid: "void",
	KindPlan: "plan", KindReport: "report", KindPack: "pack", KindChunk: "chunk", KindArchive: "archive",
	KindListing: "listing", KindIndex: "index", KindTables: "tables", KindSequences: "sequences",
	KindLargeObjs: "large objects", KindDirectory: "directory",
}

func (k Kind) String() string {
	if label, known := kindLabels[k]; known {
		return label
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// ID is a random identifier of 128 bits: of a repository, or of a workspace (all zero for objects of no workspace).
type ID [IDSize]byte

// Header is the clear beginning of every sealed object.
type Header struct {
	Kind Kind
	// KeyNumber says under which of the workspace's keys (or the repository's) the object is sealed.
	KeyNumber uint32
	// Salt is drawn at random for every object that is assembled; for a pack it is the pack id.
	Salt [SaltSize]byte
}

// Append writes the header's 48 bytes to the end of buffer.
func (h Header) Append(buffer []byte) []byte {
	buffer = append(buffer, magic[:]...)
	buffer = binary.BigEndian.AppendUint16(buffer, FormatVersion)
	buffer = append(buffer, byte(h.Kind), 0)
	buffer = binary.BigEndian.AppendUint32(buffer, h.KeyNumber)
	buffer = append(buffer, 0, 0, 0, 0)
	return append(buffer, h.Salt[:]...)
}

// ParseHeader reads the first 48 bytes of a sealed object. ErrNotSealed, or ErrNewerFormat.
func ParseHeader(object []byte) (Header, error) {
	var header Header
	if len(object) < HeaderSize || [4]byte(object[:4]) != magic {
		return header, ErrNotSealed
	}
	if version := binary.BigEndian.Uint16(object[4:]); version != FormatVersion {
		if version > FormatVersion {
			return header, fmt.Errorf("format version %d: %w", version, ErrNewerFormat)
		}
		return header, fmt.Errorf("format version %d: %w", version, ErrNotSealed)
	}
	if object[7] != 0 || binary.BigEndian.Uint32(object[12:]) != 0 {
		return header, fmt.Errorf("reserved bytes are set: %w", ErrNotSealed)
	}
	header.Kind = Kind(object[6])
	header.KeyNumber = binary.BigEndian.Uint32(object[8:])
	copy(header.Salt[:], object[16:HeaderSize])
	return header, nil
}

// Place is where a sealed object lies. It is authenticated with every text sealed there, so that nothing can be
// moved, renamed or copied to another place.
type Place struct {
	Repository ID
	// Workspace is zero for objects that belong to no workspace.
	Workspace ID
	// Object is the full key below the repository's prefix.
	Object string
}

// Sealer seals and opens the texts of one object. It is safe for concurrent use.
type Sealer struct {
	place  Place
	header Header
	keys   map[Kind]cipher.AEAD
}

// NewSealer derives the object's keys, one for each kind of text that it may hold, from key and the header's salt.
func NewSealer(key *Key, header Header, place Place, kinds ...Kind) *Sealer {
	sealer := &Sealer{place: place, header: header, keys: make(map[Kind]cipher.AEAD, len(kinds))}
	for _, kind := range kinds {
		label, known := kindLabels[kind]
		if !known {
			panic("crypto: internal error: no label for " + kind.String())
		}
		secret := key.derive(header.Salt[:], label)
		block, err := aes.NewCipher(secret)
		if err != nil {
			panic("crypto: internal error: " + err.Error())
		}
		clear(secret)
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			panic("crypto: internal error: " + err.Error())
		}
		sealer.keys[kind] = aead
	}
	return sealer
}

// Header returns the clear header that goes before the sealed texts.
func (s *Sealer) Header() Header { return s.header }

// associatedData is what is authenticated with a text besides itself (docs/format.md, "Associated data"). The only
// field of variable length is the last.
func (s *Sealer) associatedData(kind Kind, part uint32, plainSize uint64) []byte {
	data := make([]byte, 0, 64+len(s.place.Object))
	data = binary.BigEndian.AppendUint16(data, FormatVersion)
	data = append(data, byte(kind))
	data = append(data, s.place.Repository[:]...)
	data = append(data, s.place.Workspace[:]...)
	data = binary.BigEndian.AppendUint32(data, s.header.KeyNumber)
	data = binary.BigEndian.AppendUint32(data, part)
	data = binary.BigEndian.AppendUint64(data, plainSize)
	return append(data, s.place.Object...)
}

// Seal appends nonce, ciphertext and tag of text to the end of buffer. plainSize is the length in bytes that text has after
// decompression; part is the text's number in its object, 0 where there is only one.
func (s *Sealer) Seal(buffer []byte, kind Kind, part uint32, plainSize uint64, text []byte) []byte {
	return s.keys[kind].Seal(buffer, nil, text, s.associatedData(kind, part, plainSize))
}

// Open checks sealed bytes and appends their text to the end of buffer. ErrNotAuthentic unless they were sealed with exactly
// these arguments, at this place, under this key.
func (s *Sealer) Open(buffer []byte, kind Kind, part uint32, plainSize uint64, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, ErrNotAuthentic
	}
	text, err := s.keys[kind].Open(buffer, nil, sealed, s.associatedData(kind, part, plainSize))
	if err != nil {
		return nil, ErrNotAuthentic
	}
	return text, nil
}

func newHMAC(secret []byte) hash.Hash {
	mac := hmac.New(sha256.New, secret)
	clear(secret)
	return mac
}
