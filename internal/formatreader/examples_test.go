package formatreader

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// formatPage returns docs/format.md.
func formatPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

func TestReaderReproducesTheCheckValuesOfThePage(t *testing.T) {
	page := formatPage(t)
	key := bytes.Repeat([]byte{7}, 32)
	root, err := parseRootKey(key)
	if err != nil {
		t.Fatal(err)
	}
	manifest := "workspaces/22222222222222222222222222222222/snapshots/20261122T140000Z-0123456789abcdef"
	associated := associatedData(kindManifest, [16]byte(bytes.Repeat([]byte{0x11}, 16)), [16]byte(bytes.Repeat([]byte{0x22}, 16)), 1, 0, 300, manifest)
	for what, value := range map[string]string{
		"id of the local root key":                        root.id,
		"its wrapping key":                                hex.EncodeToString(root.wrapping),
		"claim name key":                                  hex.EncodeToString(derive(key, nil, "claim name")),
		"claim of `7123456789012345678/16384`":            (&repository{repositoryKey: key}).claimKey("7123456789012345678/16384"),
		"fingerprint key":                                 hex.EncodeToString(derive(key, nil, "fingerprint")),
		"fingerprint of `1` tab `a` line feed":            hex.EncodeToString(keyedHash(derive(key, nil, "fingerprint"), []byte("1\ta\n"))[:8]),
		"page digest key":                                 hex.EncodeToString(derive(key, nil, "page digest")),
		"digest of a page of kind 17 with plain `schema`": hex.EncodeToString(keyedHash(derive(key, nil, "page digest"), []byte{17}, []byte("schema"))[:16]),
		"manifest key, salt zeros":                        hex.EncodeToString(derive(key, make([]byte, 32), "manifest")),
	} {
		if row := "| " + what + " | `" + value + "` |"; !strings.Contains(page, row) {
			t.Errorf("the page has no row %s", row)
		}
	}
	want := "0001" + "04" + strings.Repeat("11", 16) + strings.Repeat("22", 16) + "00000001" + "00000000" + "000000000000012c" + hex.EncodeToString([]byte(manifest))
	if got := hex.EncodeToString(associated); got != want || len(manifest) != 87 {
		t.Errorf("associated data %s, want %s", got, want)
	}
	head, err := hex.DecodeString("48564c54" + "0001" + "04" + "00" + "00000001" + "00000000" + strings.Repeat("00", 32))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseHeader(head); err != nil || got.kind != kindManifest || got.key != 1 {
		t.Errorf("header %x: %+v, %v", head, got, err)
	}
	if got := uvarintBytes(300); !bytes.Equal(got, []byte{0xac, 0x02}) {
		t.Errorf("uvarint of 300: %x", got)
	}
}

// examplePage returns the bytes of the listing page in section 18.
func examplePage(t *testing.T) []byte {
	t.Helper()
	_, rest, ok := strings.Cut(formatPage(t), "A listing page of four blocks")
	if !ok {
		t.Fatal("the page has no example of a listing page")
	}
	_, rest, _ = strings.Cut(rest, "```\n")
	block, _, _ := strings.Cut(rest, "```")
	digits := regexp.MustCompile(`^[0-9a-f]{2,}$`)
	var example []byte
	for line := range strings.Lines(block) {
		for _, word := range strings.Fields(line) {
			if !digits.MatchString(word) || len(word)%2 != 0 {
				break // from here on it is explanation
			}
			raw, err := hex.DecodeString(word)
			if err != nil {
				t.Fatal(err)
			}
			example = append(example, raw...)
		}
	}
	return example
}

func TestReaderParsesTheListingPageOfThePage(t *testing.T) {
	page, err := parseListingPage(examplePage(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	first := packName("20261122T053622Z-6504d0db828ca04e/1a4fa212fd7ff86dc48c07e9094a87b0c9de7200baf106cc62f04a534eedd6d3")
	second := packName("20261122T053622Z-0bf9316db30a60bb/03f611976631e8fe9c03459f26814ed7995d72c3c6b44e85ceb48696eecdb70c")
	got := fmt.Sprint(page.first, page.lengths, page.extents, page.chunks)
	want := fmt.Sprint(0, []int{4, 0, 3145729, 4}, []extent{{1, 0, 0}, {1, 1, 0}, {1, 0, 4}}, []reference{
		{first, 0, 48, 45, 8}, {second, 0, 48, 139, 1 << 20}, {second, 1, 187, 139, 1 << 20}, {second, 3, 364, 139, 1 << 20}, {second, 2, 326, 38, 1},
	})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := fmt.Sprintf("%x", page.fingerprints); got != "[305411140293f7cf 62995765ef8f31bd a5b2a1a08f64971c]" {
		t.Errorf("fingerprints %s", got)
	}
}

func TestReaderRefusesEveryTruncationOfAListingPage(t *testing.T) {
	example := examplePage(t)
	for n := range example {
		if _, err := parseListingPage(example[:n], 0); !isDamage(err) {
			t.Errorf("%d of %d bytes: %v", n, len(example), err)
		}
	}
	if _, err := parseListingPage(append(bytes.Clone(example), 0), 0); !isDamage(err) {
		t.Errorf("a byte more: %v", err)
	}
	if _, err := parseListingPage(example, 1); !isDamage(err) {
		t.Errorf("in the place of page 1: %v", err)
	}
}

func TestReaderJudgesJSONAsThePageSays(t *testing.T) {
	var record struct {
		Name   text       `json:"name"`
		OID    uint32     `json:"oid"`
		Count  int64      `json:"count"`
		Grants []grant    `json:"grants"`
		ID     snapshotID `json:"id"`
		At     instant    `json:"at"`
		LSN    lsn        `json:"lsn"`
		Hash   hexBytes   `json:"hash"`
	}
	for document, good := range map[string]bool{
		`{"name": "\u00e9\ud83d\ude00 \\ud800"}`:      true,
		`{"name": {"base64": "/w=="}}`:                true,
		`{"name": null, "unknown": {"a": [1, {}]}}`:   true,
		`{"grants": []}`:                              true,
		`{"at": "2026-11-22T14:00:00.12Z"}`:           true,
		`{"id": "20240229T235959Z-0123456789abcdef"}`: true,
		`{"lsn": "0/1A"}`:                             true,
		`{"Name": 7, "NAME": 8}`:                      true, // not ours: names are compared exactly
		`{"name": "a", "name": "a"}`:                  false,
		`{"other": {"a": 1, "a": 1}}`:                 false,
		"{\"name\": \"\xff\"}":                        false,
		`{"name": "\ud83d"}`:                          false,
		`{"name": "\ude00\ud83d"}`:                    false,
		`{"name": {"base64": "/w"}}`:                  false,
		`{"name": {"base64": "/x=="}}`:                false,
		`{"name": 1}`:                                 false,
		`{"oid": 4294967296}`:                         false,
		`{"oid": -1}`:                                 false,
		`{"count": 9223372036854775808}`:              false,
		`{"count": 1.5}`:                              false,
		`{"at": "2026-11-22T14:00:00.120Z"}`:          false,
		`{"at": "2026-11-22T14:00:00+00:00"}`:         false,
		`{"id": "20230229T235959Z-0123456789abcdef"}`: false,
		`{"id": "20240229T235959Z-0123456789ABCDEF"}`: false,
		`{"lsn": "0/1a"}`:                             false,
		`{"hash": "AB"}`:                              false,
		`{} {}`:                                       false,
		`[]`:                                          false,
	} {
		tree, err := parseJSON([]byte(document))
		if err == nil {
			err = decodeJSON(tree, &record)
		}
		if good != (err == nil) || err != nil && !isDamage(err) {
			t.Errorf("%s: %v", document, err)
		}
	}
}

func TestReaderReadsRootKeysInBothForms(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, 32)
	encoded := "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
	for material, good := range map[string]bool{string(raw): true, encoded: true, encoded + "\n": true, encoded + "\n\n": false, encoded[:43]: false, string(raw) + "\n": false, "": false} {
		root, err := parseRootKey([]byte(material))
		if good != (err == nil) || good && root.id != "local-1fb5630f982b8eb2" {
			t.Errorf("%q: %+v, %v", material, root, err)
		}
	}
}

// The reader proves that the page is sufficient only while it stands on its own.
func TestReaderImportsNothingOfHourvault(t *testing.T) {
	files, err := filepath.Glob("read_*_test.go")
	if err != nil || len(files) < 5 {
		t.Fatalf("found %d files of the reader: %v", len(files), err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range file.Imports {
			path, err := strconv.Unquote(imported.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(path, ".") && path != "github.com/klauspost/compress/zstd" {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}
