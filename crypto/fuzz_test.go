package crypto

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv/allocation"
)

// FuzzOpen gives Open what was sealed nowhere, and what was sealed here: only the latter opens, and only where it was sealed.
func FuzzOpen(f *testing.F) {
	place := Place{Repository: ID{1}, Workspace: ID{2}, Object: "workspaces/x/lease"}
	header := Header{Kind: KindPack, KeyNumber: 1, Salt: [SaltSize]byte{3}}
	sealer := NewSealer(testKey(f, 2), header, place, KindChunk, KindDirectory)
	f.Add([]byte("text"), uint32(0), uint64(4))
	f.Add(sealer.Seal(nil, KindChunk, 1, 9, []byte("compressed")), uint32(1), uint64(9))
	f.Fuzz(func(t *testing.T, data []byte, part uint32, size uint64) {
		allocation.Bound(t, 2*uint64(len(data)), func() {
			if _, err := sealer.Open(nil, KindDirectory, part, size, data); !errors.Is(err, ErrNotAuthentic) {
				t.Errorf("%x opened as a directory: %v", data, err)
			}
		})
		sealed := sealer.Seal(nil, KindChunk, part, size, data)
		if text, err := sealer.Open(nil, KindChunk, part, size, sealed); err != nil || !bytes.Equal(text, data) {
			t.Errorf("%x came back as %x, %v", data, text, err)
		}
		if _, err := sealer.Open(nil, KindChunk, part+1, size, sealed); !errors.Is(err, ErrNotAuthentic) {
			t.Errorf("part %d opened as the next one: %v", part, err)
		}
		if _, err := sealer.Open(nil, KindChunk, part, size+1, sealed); !errors.Is(err, ErrNotAuthentic) {
			t.Errorf("a text of %d bytes opened as one of more: %v", size, err)
		}
	})
}

// FuzzLocalRootKey holds that material is a key only in the two forms that are documented, and that both forms of one key are
// the same key.
func FuzzLocalRootKey(f *testing.F) {
	f.Add(bytes.Repeat([]byte{7}, KeySize))
	f.Add([]byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, KeySize)) + "\n"))
	f.Add([]byte("short\n"))
	f.Fuzz(func(t *testing.T, material []byte) {
		original := bytes.Clone(material)
		key, err := ParseLocalRootKey(material, "fuzz")
		if !bytes.Equal(material, make([]byte, len(material))) {
			t.Errorf("the material was not cleared: %x", material)
		}
		if err != nil {
			if len(original) > 4 && bytes.Contains([]byte(err.Error()), original) {
				t.Errorf("the error shows the material: %v", err)
			}
			return
		}
		text := original
		if len(original) == KeySize {
			text = []byte(base64.StdEncoding.EncodeToString(original))
		}
		if again, err := ParseLocalRootKey(bytes.Clone(text), "fuzz"); err != nil || again.ID() != key.ID() {
			t.Errorf("%x is key %s, and in base64 another one: %v", original, key.ID(), err)
		}
	})
}
