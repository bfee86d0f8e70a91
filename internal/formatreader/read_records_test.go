package formatreader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"
)

// parseJSON parses one JSON value as section 7 has it: UTF-8, no name twice in an object, nothing behind it. Objects
// are map[string]any, numbers json.Number.
func parseJSON(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, damage("JSON is not UTF-8")
	}
	if !json.Valid(data) {
		return nil, damage("not JSON")
	}
	if err := checkSurrogates(data); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	tree, err := parseValue(decoder)
	if err != nil {
		if isDamage(err) {
			return nil, err
		}
		return nil, damage("JSON: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, damage("JSON: something behind the value")
	}
	return tree, nil
}

func parseValue(decoder *json.Decoder) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := make(map[string]any)
		for decoder.More() {
			name, err := decoder.Token()
			if err != nil {
				return nil, err
			}
			if _, twice := object[name.(string)]; twice {
				return nil, damage("JSON: %q stands twice in one object", name)
			}
			if object[name.(string)], err = parseValue(decoder); err != nil {
				return nil, err
			}
		}
		_, err := decoder.Token()
		return object, err
	case json.Delim('['):
		array := []any{}
		for decoder.More() {
			element, err := parseValue(decoder)
			if err != nil {
				return nil, err
			}
			array = append(array, element)
		}
		_, err := decoder.Token()
		return array, err
	}
	return token, nil
}

// checkSurrogates refuses escapes of half a surrogate pair: they stand for no UTF-8 bytes, and encoding/json would put
// something else in their place.
func checkSurrogates(data []byte) error {
	unit := func(at int) (uint64, bool) {
		if at+6 > len(data) || data[at] != '\\' || data[at+1] != 'u' {
			return 0, false
		}
		value, err := strconv.ParseUint(string(data[at+2:at+6]), 16, 16)
		return value, err == nil
	}
	for at := 0; at < len(data); at++ {
		if data[at] != '\\' {
			continue
		}
		value, ok := unit(at)
		switch {
		case !ok:
			at++ // the escaped character, which may be a backslash
		case value < 0xd800 || value > 0xdfff:
			at += 5
		default:
			low, ok := unit(at + 6)
			if value > 0xdbff || !ok || low < 0xdc00 || low > 0xdfff {
				return damage("JSON: half a surrogate pair")
			}
			at += 11
		}
	}
	return nil
}

// fromJSON is implemented by types that are not spelled as their Go kind.
type fromJSON interface{ fromJSON(value any) error }

// decodeJSON puts a parsed value into what into points to. Fields are found by the exact name in their json tag; other
// names are ignored; null and absent fields keep the zero value, a nil slice among them.
func decodeJSON(value any, into any) error { return decodeInto(value, reflect.ValueOf(into).Elem()) }

func decodeInto(value any, into reflect.Value) error {
	if value == nil {
		return nil
	}
	if special, ok := into.Addr().Interface().(fromJSON); ok {
		return special.fromJSON(value)
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		return decodeInto(value, into.Elem())
	case reflect.Interface:
		into.Set(reflect.ValueOf(value))
		return nil
	case reflect.Struct:
		object, ok := value.(map[string]any)
		if !ok {
			return damage("JSON: %T instead of an object", value)
		}
		return decodeFields(object, into)
	case reflect.Map: // object of strings
		object, ok := value.(map[string]any)
		if !ok {
			return damage("JSON: %T instead of an object", value)
		}
		into.Set(reflect.MakeMap(into.Type()))
		for name, value := range object {
			element := reflect.New(into.Type().Elem()).Elem()
			if err := decodeInto(value, element); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			into.SetMapIndex(reflect.ValueOf(name), element)
		}
		return nil
	case reflect.Slice:
		array, ok := value.([]any)
		if !ok {
			return damage("JSON: %T instead of an array", value)
		}
		into.Set(reflect.MakeSlice(into.Type(), len(array), len(array)))
		for i, element := range array {
			if err := decodeInto(element, into.Index(i)); err != nil {
				return fmt.Errorf("%d: %w", i, err)
			}
		}
		return nil
	case reflect.String:
		if text, ok := value.(string); ok {
			into.SetString(text)
			return nil
		}
	case reflect.Bool:
		if truth, ok := value.(bool); ok {
			into.SetBool(truth)
			return nil
		}
	case reflect.Int64:
		if number, ok := value.(json.Number); ok {
			if integer, err := strconv.ParseInt(string(number), 10, 64); err == nil {
				into.SetInt(integer)
				return nil
			}
		}
	case reflect.Uint32, reflect.Uint64:
		if number, ok := value.(json.Number); ok {
			if integer, err := strconv.ParseUint(string(number), 10, into.Type().Bits()); err == nil {
				into.SetUint(integer)
				return nil
			}
		}
	}
	return damage("JSON: %v is no %s", value, into.Type())
}

// decodeFields fills a struct; anonymous structs take part as if their fields were its own.
func decodeFields(object map[string]any, into reflect.Value) error {
	for i := range into.NumField() {
		field := into.Type().Field(i)
		if field.Anonymous {
			if err := decodeFields(object, into.Field(i)); err != nil {
				return err
			}
			continue
		}
		name := field.Tag.Get("json")
		if err := decodeInto(object[name], into.Field(i)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// text is bytes in the database's encoding: Text of section 7.
type text []byte

func (t *text) fromJSON(value any) error {
	switch value := value.(type) {
	case string:
		*t = text(value)
		return nil
	case map[string]any:
		if encoded, ok := value["base64"].(string); ok {
			decoded, err := decodeBase64(encoded)
			*t = decoded
			return err
		}
	}
	return damage("JSON: %v is no Text", value)
}

func matched(value any, pattern *regexp.Regexp) (string, error) {
	text, ok := value.(string)
	if !ok || !pattern.MatchString(text) {
		return "", damage("JSON: %v is not of the form %s", value, pattern)
	}
	return text, nil
}

var (
	decimalPattern = regexp.MustCompile(`^[0-9]+$`)
	lsnPattern     = regexp.MustCompile(`^[0-9A-F]{1,8}/[0-9A-F]{1,8}$`)
	hexPattern     = regexp.MustCompile(`^([0-9a-f]{2})*$`)
	packPattern    = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}/[0-9a-f]{64}$`)
	snapshotForm   = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}$`)
)

// xid is a 64-bit transaction id.
type xid uint64

func (x *xid) fromJSON(value any) error {
	digits, err := matched(value, decimalPattern)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return damage("JSON: XID %s", digits)
	}
	*x = xid(number)
	return nil
}

// lsn is a WAL position.
type lsn string

func (l *lsn) fromJSON(value any) error {
	position, err := matched(value, lsnPattern)
	*l = lsn(position)
	return err
}

// hexBytes is Hex.
type hexBytes []byte

func (h *hexBytes) fromJSON(value any) error {
	digits, err := matched(value, hexPattern)
	if err != nil {
		return err
	}
	*h, err = hex.DecodeString(digits)
	return err
}

// instant is a time.
type instant struct{ time.Time }

func (i *instant) fromJSON(value any) error {
	written, ok := value.(string)
	if !ok {
		return damage("JSON: %v is no time", value)
	}
	parsed, err := time.Parse(time.RFC3339Nano, written)
	if err != nil || parsed.UTC().Format(time.RFC3339Nano) != written {
		return damage("JSON: %q is no time in UTC as it should be written", written)
	}
	i.Time = parsed.UTC()
	return nil
}

// snapshotID is a <snapshot> of section 3.
type snapshotID string

func (s snapshotID) valid() bool {
	if !snapshotForm.MatchString(string(s)) {
		return false
	}
	parsed, err := time.Parse("20060102T150405Z", string(s[:16]))
	return err == nil && parsed.Format("20060102T150405Z") == string(s[:16])
}

func (s *snapshotID) fromJSON(value any) error {
	written, _ := value.(string)
	if *s = snapshotID(written); !s.valid() {
		return damage("JSON: %v is no snapshot id", value)
	}
	return nil
}

// packName is <snapshot>/<pack>.
type packName string

func (p *packName) fromJSON(value any) error {
	written, err := matched(value, packPattern)
	if err != nil {
		return err
	}
	if !snapshotID(written[:33]).valid() {
		return damage("JSON: %q is no name of a pack", written)
	}
	*p = packName(written)
	return nil
}

// id returns the pack id, 32 bytes.
func (p packName) id() []byte {
	id, err := hex.DecodeString(string(p[34:]))
	if err != nil {
		panic("formatreader: internal error: a pack's name was not checked")
	}
	return id
}

// binaryPackName makes a pack's name of its 48 bytes in tables of references.
func binaryPackName(raw []byte) (packName, error) {
	instant := time.Unix(int64(binary.BigEndian.Uint64(raw)), 0).UTC()
	if instant.Year() < 0 || instant.Year() > 9999 {
		return "", damage("pack name of the year %d", instant.Year())
	}
	return packName(fmt.Sprintf("%s-%x/%x", instant.Format("20060102T150405Z"), raw[8:16], raw[16:48])), nil
}

// checkFormat judges the format of a clear or sealed JSON object.
func checkFormat(format int64) error {
	switch {
	case format > 1:
		return fmt.Errorf("format %d: %w", format, errNewer)
	case format < 1:
		return damage("format %d", format)
	}
	return nil
}

// checkFeatures refuses every feature by its name: version 1 defines none.
func checkFeatures(features []string) error {
	if len(features) > 0 {
		return fmt.Errorf("feature %q: %w", features[0], errUnknown)
	}
	return nil
}

// checkPreamble looks at format and features of an object, before anything else of it is.
func checkPreamble(tree any) error {
	var preamble struct {
		Format   int64    `json:"format"`
		Features []string `json:"features"`
	}
	if err := decodeJSON(tree, &preamble); err != nil {
		return err
	}
	if err := checkFormat(preamble.Format); err != nil {
		return err
	}
	return checkFeatures(preamble.Features)
}

// page is a reference with the digest of the plain. Section 9.
type page struct {
	reference
	Digest hexBytes `json:"digest"`
}

// pages opens pages of one kind and hands their plains to each, in order.
func (s *snapshot) pages(pages []page, kind byte, each func([]byte) error) error {
	for i, page := range pages {
		plain, err := s.part(page.reference, kind)
		if err != nil {
			return fmt.Errorf("%s page %d: %w", kindLabel(kind), i, err)
		}
		if digest := keyedHash(s.digestKey, []byte{kind}, plain)[:16]; !bytes.Equal(digest, page.Digest) {
			return damage("%s page %d: digest", kindLabel(kind), i)
		}
		if err := each(plain); err != nil {
			return fmt.Errorf("%s page %d: %w", kindLabel(kind), i, err)
		}
	}
	return nil
}

// records is a list of records in pages. Section 9.1.
type records struct {
	Count int64  `json:"count"`
	Pages []page `json:"pages"`
}

// readRecords opens all records of a list.
func readRecords[T any](s *snapshot, list records, kind byte) ([]T, error) {
	var all []T
	err := s.pages(list.Pages, kind, func(plain []byte) error {
		if plain[len(plain)-1] != '\n' {
			return damage("the last record is cut off")
		}
		for line := range bytes.SplitSeq(plain[:len(plain)-1], []byte("\n")) {
			tree, err := parseJSON(line)
			if err != nil {
				return err
			}
			var record T
			if err := decodeJSON(tree, &record); err != nil {
				return err
			}
			all = append(all, record)
		}
		return nil
	})
	if err == nil && int64(len(all)) != list.Count {
		err = damage("%s: %d records instead of %d", kindLabel(kind), len(all), list.Count)
	}
	return all, err
}

// rising tells whether keys rise, each once.
func rising[T any, K ~string | ~uint32](list []T, key func(T) K) bool {
	for i := 1; i < len(list); i++ {
		if key(list[i]) <= key(list[i-1]) {
			return false
		}
	}
	return true
}
