package formatreader

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// expectation is what a fixed vector says of one snapshot: expected.json beside its repository.
type expectation struct {
	Snapshot       snapshotID `json:"snapshot"`
	Workspace      string     `json:"workspace"`
	Server         string     `json:"server"`
	Database       text       `json:"database"`
	Sequence       int64      `json:"sequence"`
	ManifestSHA256 string     `json:"manifest_sha256"`
	ArchiveSHA256  string     `json:"archive_sha256"`
	Tables         map[string]struct {
		Name    text   `json:"name"`
		Layout  string `json:"layout"`
		Listing string `json:"listing"`
		Rows    int64  `json:"rows"`
		Bytes   int64  `json:"bytes"`
		SHA256  string `json:"sha256"`
	} `json:"tables"`
	Sequences    []sequenceRecord    `json:"sequences"`
	LargeObjects []largeObjectRecord `json:"large_objects"`
	Warnings     []warning           `json:"warnings"`
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// The vectors lie beside the code that wrote them once; they must be read for ever, under either of their root keys.
func TestReaderReadsTheFixedVectors(t *testing.T) {
	vectors, err := filepath.Glob("../repository/testdata/vector-v*")
	if err != nil || len(vectors) == 0 {
		t.Fatalf("no fixed vectors: %v", err)
	}
	for _, vector := range vectors {
		content, err := os.ReadFile(filepath.Join(vector, "expected.json"))
		if err != nil {
			t.Fatal(err)
		}
		var expected []expectation
		tree, err := parseJSON(content)
		if err == nil {
			err = decodeJSON(tree, &expected)
		}
		if err != nil || len(expected) == 0 {
			t.Fatalf("%s: %d snapshots expected, %v", vector, len(expected), err)
		}
		for _, key := range []byte{7, 99} {
			t.Run(fmt.Sprintf("%s under root key %d", filepath.Base(vector), key), func(t *testing.T) {
				checkVector(t, filepath.Join(vector, "repository"), bytes.Repeat([]byte{key}, 32), expected)
			})
		}
	}
}

func checkVector(t *testing.T, path string, key []byte, expected []expectation) {
	r, err := openRepository(path, key)
	if err != nil {
		t.Fatal(err)
	}
	workspaces, problems := r.workspaces()
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	found := 0
	for _, w := range workspaces {
		objects, err := w.snapshots()
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range objects {
			if errors.Is(object.err, errVoid) {
				continue
			}
			if object.err != nil {
				t.Error(object.err)
				continue
			}
			found++
			at := slices.IndexFunc(expected, func(e expectation) bool {
				return e.Snapshot == object.id && e.Workspace == fmt.Sprintf("%x", w.id)
			})
			if at < 0 {
				t.Errorf("snapshot %s is not expected", object.id)
				continue
			}
			checkExpectation(t, object.snapshot, expected[at])
		}
		if problems, planned, err := w.checkHistory(); err != nil || planned || len(problems) > 0 {
			t.Errorf("history of %x: %v, %v, %v", w.id, problems, planned, err)
		}
		if _, err := w.lease(); err != nil {
			t.Error(err)
		}
	}
	if found != len(expected) {
		t.Errorf("%d snapshots, want %d", found, len(expected))
	}
}

func checkExpectation(t *testing.T, s *snapshot, want expectation) {
	t.Helper()
	same := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("snapshot %s: %s: %v, want %v", s.id, what, got, want)
		}
	}
	s.checkFields(t)
	same("server", s.workspace.record.Server, want.Server)
	same("database", s.workspace.record.Database, want.Database)
	same("sequence", s.Sequence, want.Sequence)
	same("hash of the manifest", hex.EncodeToString(s.sha256[:]), want.ManifestSHA256)
	archive, err := s.archive()
	if err != nil {
		t.Error(err)
	}
	same("hash of the archive", digestOf(archive), want.ArchiveSHA256)
	sequences, err := s.sequences()
	if err != nil {
		t.Error(err)
	}
	same("sequences", sequences, want.Sequences)
	largeObjects, err := s.largeObjectRecords()
	if err != nil {
		t.Error(err)
	}
	same("large objects", largeObjects, want.LargeObjects)
	same("number of warnings", len(s.Warnings), len(want.Warnings))
	tables, err := s.tables()
	if err != nil {
		t.Error(err)
	}
	same("number of tables", len(tables), len(want.Tables))
	for _, table := range tables {
		expected, ok := want.Tables[fmt.Sprint(table.OID)]
		if !ok {
			t.Errorf("snapshot %s: table %d is not expected", s.id, table.OID)
			continue
		}
		var content bytes.Buffer
		if err := s.rows(table, &content); err != nil {
			t.Error(err)
		}
		form := table.Listing.form()
		if form == "empty" {
			form = "none"
		}
		same("table", []any{table.Name, table.Layout, form, table.Rows, table.Bytes, digestOf(content.Bytes())},
			[]any{expected.Name, expected.Layout, expected.Listing, expected.Rows, expected.Bytes, expected.SHA256})
	}
	for name := range s.packs {
		if err := s.checkPack(name); err != nil {
			t.Error(err)
		}
	}
}
