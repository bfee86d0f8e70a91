package crypto

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrWrongRootKey says that a wrapped key was not wrapped with this root key for this place, or was damaged.
var ErrWrongRootKey = errors.New("wrapped under another root key, for another place, or damaged")

// RootKey wraps the keys of workspaces. A provider may keep the root key in a file, or never reveal it (AWS KMS, Vault):
// so both directions take associated data, may block, and may fail for reasons of their own.
type RootKey interface {
	// ID names the root key: 1 to 64 characters of a-z, 0-9 and '-', the same for the key's whole life, derived from
	// the key or its address without revealing it. It becomes part of object keys.
	ID() string
	// Wrap encrypts and authenticates secret together with associatedData.
	Wrap(ctx context.Context, secret, associatedData []byte) ([]byte, error)
	// Unwrap is the inverse. ErrWrongRootKey when wrapped and associatedData do not belong together under this key.
	Unwrap(ctx context.Context, wrapped, associatedData []byte) ([]byte, error)
}

// WrapPlace says which key a wrap holds; it is authenticated with the wrap.
type WrapPlace struct {
	Repository ID
	// Workspace is zero for the repository's own key.
	Workspace ID
	KeyNumber uint32
}

// associatedData binds a wrap to its place and to the root key (docs/format.md, "Wrapped keys").
func (p WrapPlace) associatedData(rootKeyID string) []byte {
	data := []byte(labelPrefix + "wrap")
	data = append(data, p.Repository[:]...)
	data = append(data, p.Workspace[:]...)
	data = binary.BigEndian.AppendUint32(data, p.KeyNumber)
	return append(data, rootKeyID...)
}

// WrapKey wraps key for its place.
func WrapKey(ctx context.Context, root RootKey, key *Key, place WrapPlace) ([]byte, error) {
	return root.Wrap(ctx, key.secret[:], place.associatedData(root.ID()))
}

// UnwrapKey opens a wrap made by WrapKey for the same place. ErrWrongRootKey when it was not.
func UnwrapKey(ctx context.Context, root RootKey, wrapped []byte, place WrapPlace) (*Key, error) {
	secret, err := root.Unwrap(ctx, wrapped, place.associatedData(root.ID()))
	if err != nil {
		return nil, err
	}
	return KeyFromBytes(secret)
}

// LocalRootKey is a root key held in this process: from a file, a systemd credential or an environment variable.
type LocalRootKey struct {
	id   string
	aead cipher.AEAD
}

// ParseLocalRootKey reads a root key's material: either 32 bytes, or 32 bytes in standard base64 with at most one
// newline after it. source names where it came from, for errors. The material is cleared.
func ParseLocalRootKey(material []byte, source string) (*LocalRootKey, error) {
	defer clear(material)
	key := new(Key)
	defer key.Wipe()
	switch text := strings.TrimSuffix(string(material), "\n"); {
	case len(material) == KeySize:
		copy(key.secret[:], material)
	case len(text) == base64.StdEncoding.EncodedLen(KeySize):
		secret, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || len(secret) != KeySize {
			return nil, fmt.Errorf("root key %s: not 32 bytes in base64", source)
		}
		copy(key.secret[:], secret)
		clear(secret)
	default:
		return nil, fmt.Errorf("root key %s: has %d bytes; a root key is 32 random bytes, plain or in base64 (hourvault init makes one)", source, len(material))
	}
	block, err := aes.NewCipher(key.derive(nil, "root wrap"))
	if err != nil {
		panic("crypto: internal error: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("crypto: internal error: " + err.Error())
	}
	return &LocalRootKey{id: "local-" + hex.EncodeToString(key.derive(nil, "root key id")[:8]), aead: aead}, nil
}

// ID implements RootKey: "local-" and 16 hexadecimal digits.
func (r *LocalRootKey) ID() string { return r.id }

// Wrap implements RootKey with AES-256-GCM and a random nonce.
func (r *LocalRootKey) Wrap(_ context.Context, secret, associatedData []byte) ([]byte, error) {
	return r.aead.Seal(nil, nil, secret, associatedData), nil
}

// Unwrap implements RootKey.
func (r *LocalRootKey) Unwrap(_ context.Context, wrapped, associatedData []byte) ([]byte, error) {
	if len(wrapped) < Overhead {
		return nil, ErrWrongRootKey
	}
	secret, err := r.aead.Open(nil, nil, wrapped, associatedData)
	if err != nil {
		return nil, ErrWrongRootKey
	}
	return secret, nil
}

// maxRootKeyFile bounds what is read of a root key file, in bytes.
const maxRootKeyFile = 4096

// ReadRootKeyFile reads a root key from a regular file that nobody but its owner can read or write (mode 0600 or
// narrower); a wider one is refused, because whoever read it can open every backup.
func ReadRootKeyFile(path string) (*LocalRootKey, error) {
	// Without O_NONBLOCK opening a pipe would wait for somebody who writes to it.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("root key %s: %w; hourvault init makes one, and existing backups need the one they were made with", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("root key %s: %w", path, errors.Unwrap(err))
	}
	defer file.Close()
	// The opened file is looked at, not the name: the name may point elsewhere a moment later.
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("root key %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("root key %s: not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("root key %s: mode %04o lets others read it; run: chmod 600 %s", path, mode, path)
	}
	if info.Size() > maxRootKeyFile {
		return nil, fmt.Errorf("root key %s: has %d bytes; a root key is 32 random bytes, plain or in base64", path, info.Size())
	}
	material := make([]byte, info.Size()+1)
	n, err := io.ReadFull(file, material)
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) { // the end must come before the last byte of material
		clear(material)
		if err == nil {
			err = errors.New("grew while it was read")
		}
		return nil, fmt.Errorf("root key %s: %w", path, err)
	}
	return ParseLocalRootKey(material[:n], path)
}

// CreateRootKeyFile draws a root key and writes it in base64 to a new file of mode 0600, durably. fs.ErrExist when
// there is a file already: a root key is never overwritten.
func CreateRootKeyFile(path string) (*LocalRootKey, error) {
	secret := make([]byte, KeySize)
	rand.Read(secret)
	line := []byte(base64.StdEncoding.EncodeToString(secret) + "\n")
	clear(secret)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("root key %s: %w", path, errors.Unwrap(err))
	}
	_, err = file.Write(line)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("root key %s: %w", path, err)
	}
	return ParseLocalRootKey(line, path)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}
