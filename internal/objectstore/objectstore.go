// Package objectstore keeps named, immutable byte strings: in an S3 bucket or in a local directory.
//
// It knows nothing of what the objects mean, of encryption by the client, or of the rest of hourvault. What all
// implementations promise is written at Store; one conformance suite (package storetest) holds each of them to it.
package objectstore

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that callers tell apart with errors.Is. Implementations wrap them with the key and the cause.
var (
	// ErrNotFound says that no object has that key.
	ErrNotFound = errors.New("no such object")
	// ErrExists says that PutIfAbsent found another object at that key.
	ErrExists = errors.New("object exists already")
	// ErrChanged says that PutIfMatch found another version of the object than the one named, or none.
	ErrChanged = errors.New("object was changed by somebody else")
	// ErrDenied says that the store knows who asks and refuses.
	ErrDenied = errors.New("permission denied")
	// ErrNoBucket says that the bucket or root directory does not exist.
	ErrNoBucket = errors.New("no such bucket")
	// ErrNotEncrypted says that the store answered a write without confirming the encryption that was asked for.
	ErrNotEncrypted = errors.New("store did not confirm the encryption that was asked for")
	// ErrClockSkew says that the store refused a request because this machine's clock is wrong.
	ErrClockSkew = errors.New("clock differs too much from the store's")
	// ErrUnavailable says that the store could not be reached, broke off, or answered that it cannot at the moment, each time
	// that it was tried. Whether a write took effect is not known.
	ErrUnavailable = errors.New("store is not available")
)

// Info describes one stored object.
type Info struct {
	// Key is the object's key below the store's prefix, in the form that CheckKey states.
	Key string
	// Size is the length of the content in bytes.
	Size int64
	// ETag names this version of the object; two versions with different content never share one. List may leave it
	// empty, where it would have to read the object to know it.
	ETag string
	// Modified is when the store says that the object was written; on the store's clock.
	Modified time.Time
}

// Store is the port behind which all objects live. Every implementation guarantees:
//
//   - A write is atomic and durable: once a Put method returns nil the whole content is readable by everybody, and
//     before that nobody sees a part of it.
//   - Reads and lists that begin after a write returned see it.
//   - PutIfAbsent and PutIfMatch are decided by the store itself: of many callers at once exactly one wins.
//   - An answer that was lost is settled inside: when the store says that the condition failed, but what is stored
//     are the very bytes of this call, the call succeeded. (Callers therefore never put two meanings into equal bytes.)
//   - If encryption at rest was configured, each write's answer confirmed it (ErrNotEncrypted otherwise).
//   - Transient failures were retried before an error is returned; every error names the key.
//   - A key that CheckKey refuses is a *KeyError, and nothing was sent. No key may lie below another one ("a", "a/b").
//
// All methods may be called concurrently, and return the context's error when it ends first.
type Store interface {
	// PutIfAbsent creates the object. ErrExists when the key is taken by other content.
	PutIfAbsent(ctx context.Context, key string, content []byte) (Info, error)
	// PutIfMatch replaces the version named by etag. ErrChanged when that is not the current one.
	PutIfMatch(ctx context.Context, key string, content []byte, etag string) (Info, error)
	// Get reads the object whole; the caller closes the reader. An object larger than Info says, or shorter, is a read
	// error, never a silent end. ErrNotFound when there is none.
	Get(ctx context.Context, key string) (io.ReadCloser, Info, error)
	// GetRange reads length bytes from offset on; the result has exactly length bytes. length is at least 1. A range
	// that the object does not have is a *RangeError. ErrNotFound when there is no object.
	GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error)
	// Stat describes the object without reading it. ErrNotFound when there is none.
	Stat(ctx context.Context, key string) (Info, error)
	// List yields the objects whose key starts with prefix (plain string prefix, not only whole segments), ascending
	// by the key's bytes. It ends after the first error it yields.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes the object; that there is none is no error.
	Delete(ctx context.Context, key string) error
	// Location says where this is, for messages: a URL without secrets.
	Location() string
}

// ReadAll reads the object at key whole into memory and refuses one larger than limit bytes before reading it.
func ReadAll(ctx context.Context, store Store, key string, limit int64) ([]byte, Info, error) {
	reader, info, err := store.Get(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	defer reader.Close()
	if info.Size > limit {
		return nil, info, &TooLargeError{Key: key, Size: info.Size, Limit: limit}
	}
	content := make([]byte, info.Size)
	if _, err := io.ReadFull(reader, content); err != nil {
		return nil, info, &ReadError{Key: key, Err: err}
	}
	// The store promises to report content beyond Info.Size as an error; reading on finds it.
	if n, err := reader.Read(make([]byte, 1)); n != 0 || (err != nil && !errors.Is(err, io.EOF)) {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("more bytes than announced")
		}
		return nil, info, &ReadError{Key: key, Err: err}
	}
	return content, info, nil
}
