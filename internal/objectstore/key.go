package objectstore

import (
	"errors"
	"fmt"
	"strings"
)

// maxKeyBytes and maxSegmentBytes are what every store can hold: S3 keys have at most 1024 bytes (Amazon S3 User
// Guide, "Naming Amazon S3 objects"), of which a prefix may take some, and a file name on Linux has at most 255.
const (
	maxKeyBytes     = 900
	maxSegmentBytes = 255
)

// KeyError says that a string cannot be an object's key, whatever the store. It is a fault of the caller.
type KeyError struct {
	Key    string
	Reason string
}

func (e *KeyError) Error() string { return fmt.Sprintf("object key %q: %s", e.Key, e.Reason) }

// CheckKey returns a *KeyError unless key can be used with every store: segments of 1 to 255 bytes separated by '/',
// together at most 900 bytes; a segment holds ASCII letters, digits, '-', '_', '.' and '=' and does not begin with
// '.', so neither "." nor ".." nor a hidden file name can be one. All methods of both stores apply it.
func CheckKey(key string) error {
	if key == "" {
		return &KeyError{Key: key, Reason: "is empty"}
	}
	if len(key) > maxKeyBytes {
		return &KeyError{Key: key, Reason: fmt.Sprintf("has %d bytes, more than %d", len(key), maxKeyBytes)}
	}
	for segment := range strings.SplitSeq(key, "/") {
		if reason := segmentFault(segment); reason != "" {
			return &KeyError{Key: key, Reason: reason}
		}
	}
	return nil
}

// checkListPrefix is CheckKey for the argument of List: it may be empty and may end anywhere inside a key.
func checkListPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	whole := strings.TrimSuffix(prefix, "/")
	if fault := (*KeyError)(nil); errors.As(CheckKey(whole), &fault) {
		return &KeyError{Key: prefix, Reason: "cannot begin a key: " + fault.Reason}
	}
	return nil
}

// segmentFault says what keeps a string from being a segment of a key; "" when nothing does.
func segmentFault(segment string) string {
	switch {
	case segment == "":
		return "has an empty segment"
	case segment[0] == '.':
		return "has a segment that begins with '.'"
	case len(segment) > maxSegmentBytes:
		return fmt.Sprintf("has a segment of %d bytes, more than %d", len(segment), maxSegmentBytes)
	}
	for i := range len(segment) {
		c := segment[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-', c == '_', c == '.', c == '=':
		default:
			return fmt.Sprintf("has the byte %q, which keys do not use", c)
		}
	}
	return ""
}
