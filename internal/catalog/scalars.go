// Package catalog holds what hourvault records of a database besides its rows: plain data, read from PostgreSQL by
// package postgres, sealed and stored by package repository, applied again by package restore.
//
// The JSON of these types is part of the stored format (docs/format.md, "Records"): fields are only ever added, and
// a reader ignores those it does not know. The package knows neither PostgreSQL connections nor the store.
package catalog

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text is a byte string as the server sent it, in the database's own encoding: names, comments, settings. In JSON it
// is a string when its bytes are valid UTF-8, and otherwise an object {"base64": "..."} with the standard padded
// alphabet: a name in a LATIN1 or SQL_ASCII database need not be UTF-8, and must come back byte for byte.
type Text string

type encodedText struct {
	Base64 string `json:"base64"`
}

// MarshalJSON implements json.Marshaler.
func (t Text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(encodedText{Base64: base64.StdEncoding.EncodeToString([]byte(t))})
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Text) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var encoded encodedText
		if err := json.Unmarshal(data, &encoded); err != nil {
			return err
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(encoded.Base64)
		if err != nil {
			return fmt.Errorf("text in base64: %w", err)
		}
		*t = Text(raw)
		return nil
	}
	var plain string
	if err := json.Unmarshal(data, &plain); err != nil {
		return err
	}
	*t = Text(plain)
	return nil
}

// OID is a PostgreSQL object identifier; 0 is none.
type OID uint32

// LSN is a position in a server's WAL, in bytes. In JSON and in print it has PostgreSQL's form "16/B374D848".
type LSN uint64

// ParseLSN reads PostgreSQL's form of an LSN.
func ParseLSN(text string) (LSN, error) {
	high, low, found := strings.Cut(text, "/")
	if found {
		h, errHigh := strconv.ParseUint(high, 16, 32)
		l, errLow := strconv.ParseUint(low, 16, 32)
		if errHigh == nil && errLow == nil {
			return LSN(h<<32 | l), nil
		}
	}
	return 0, fmt.Errorf("%q is not an LSN", text)
}

func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText implements encoding.TextMarshaler.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LSN) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLSN(string(text))
	return err
}

// XID is a transaction id with its epoch (64 bits, as xid8). In JSON it is a decimal string, because JSON numbers
// lose precision above 2^53 in many readers.
type XID uint64

// MarshalText implements encoding.TextMarshaler.
func (x XID) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(x), 10), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (x *XID) UnmarshalText(text []byte) error {
	value, err := strconv.ParseUint(string(text), 10, 64)
	*x = XID(value)
	return err
}
