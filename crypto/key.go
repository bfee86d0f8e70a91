// Package crypto holds all of hourvault's cryptography: root keys that wrap workspace keys, and the sealing of stored
// bytes under workspace keys. It uses the standard library's primitives only, and of those only what is approved in
// FIPS 140 mode: AES-256-GCM with random nonces, HKDF-SHA-256, HMAC-SHA-256.
//
// It knows nothing of stores, of PostgreSQL, or of what the sealed bytes mean. docs/format.md specifies every byte
// that it produces.
package crypto

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash"
)

// KeySize is the length of every secret key in bytes.
const KeySize = 32

// Key is a secret of 256 bits. Under every verb it prints as redacted, also where it was copied out of its pointer.
type Key struct {
	secret [KeySize]byte
}

// NewKey draws a random key. The operating system's generator does not fail: Go's ends the process if it does.
func NewKey() *Key {
	key := new(Key)
	rand.Read(key.secret[:])
	return key
}

// KeyFromBytes copies 32 bytes into a key and then clears them in secret.
func KeyFromBytes(secret []byte) (*Key, error) {
	if len(secret) != KeySize {
		return nil, fmt.Errorf("key has %d bytes instead of %d", len(secret), KeySize)
	}
	key := new(Key)
	copy(key.secret[:], secret)
	clear(secret)
	return key, nil
}

// Wipe overwrites the secret. The key must not be used afterwards.
func (k *Key) Wipe() { clear(k.secret[:]) }

// String hides the secret.
func (k Key) String() string { return "[redacted key]" }

// GoString hides the secret.
func (k Key) GoString() string { return k.String() }

// Format hides the secret under every verb.
func (k Key) Format(state fmt.State, _ rune) { fmt.Fprint(state, k.String()) }

// MarshalText hides the secret from encoders that would print it by reflection.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// derive returns 32 bytes for one purpose: HKDF-SHA-256 (RFC 5869) of the secret with the salt and the label as info.
func (k *Key) derive(salt []byte, label string) []byte {
	derived, err := hkdf.Key(sha256.New, k.secret[:], salt, labelPrefix+label, KeySize)
	if err != nil {
		// Only a too long output or a too short secret in FIPS mode can be refused; both are constants here.
		panic("crypto: internal error: " + err.Error())
	}
	return derived
}

// labelPrefix starts every HKDF label; it carries the format version, so that another version never derives the same.
const labelPrefix = "hourvault/1 "

// NewFingerprinter returns HMAC-SHA-256 under the fingerprint key that belongs to k (HKDF label "fingerprint"). It is
// meant to be reset and used again; it is not safe for concurrent use.
func (k *Key) NewFingerprinter() hash.Hash { return newHMAC(k.derive(nil, "fingerprint")) }

// NewDigester returns HMAC-SHA-256 under the key for digests of pages that belongs to k (HKDF label "page digest"). It is
// meant to be reset and used again; it is not safe for concurrent use.
func (k *Key) NewDigester() hash.Hash { return newHMAC(k.derive(nil, "page digest")) }

// ClaimName returns the keyed hash (HKDF label "claim name", HMAC-SHA-256) of what identifies a database.
func (k *Key) ClaimName(identity []byte) []byte {
	mac := newHMAC(k.derive(nil, "claim name"))
	mac.Write(identity)
	return mac.Sum(nil)
}
