package repository

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// vectorDirectory holds a repository that was written once, and what must come out of it for ever. It is never written again to make
// a test pass: a version that cannot read it cannot read what people have stored.
const vectorDirectory = "testdata/vector-v1"

var writeVector = flag.Bool("write-vector", false, "write "+vectorDirectory+", which must not exist")

// vectorSnapshot is what must come out of one snapshot; hashes are SHA-256.
type vectorSnapshot struct {
	Snapshot     SnapshotID                  `json:"snapshot"`
	Workspace    WorkspaceID                 `json:"workspace"`
	Server       string                      `json:"server"`
	Database     catalog.Text                `json:"database"`
	Sequence     uint64                      `json:"sequence"`
	Manifest     HexBytes                    `json:"manifest_sha256"`
	Archive      HexBytes                    `json:"archive_sha256"`
	Tables       map[catalog.OID]vectorTable `json:"tables"`
	Sequences    []catalog.Sequence          `json:"sequences"`
	LargeObjects []catalog.LargeObject       `json:"large_objects"`
	Warnings     []catalog.Warning           `json:"warnings"`
}

type vectorTable struct {
	Name    catalog.Text `json:"name"`
	Layout  string       `json:"layout"`
	Listing string       `json:"listing"` // its form
	Rows    int64        `json:"rows"`
	Bytes   int64        `json:"bytes"`
	SHA256  HexBytes     `json:"sha256"`
}

func readVector(t *testing.T, workspace *Workspace, id SnapshotID) vectorSnapshot {
	t.Helper()
	ctx := t.Context()
	snapshot, err := workspace.OpenSnapshot(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	hash := func(content []byte) HexBytes {
		sum := sha256.Sum256(content)
		return sum[:]
	}
	record := workspace.Record()
	got := vectorSnapshot{Snapshot: id, Workspace: workspace.ID(), Server: record.Server, Database: record.Database, Sequence: snapshot.Manifest().Sequence,
		Manifest: snapshot.Ref().SHA256, Tables: make(map[catalog.OID]vectorTable), Warnings: snapshot.Manifest().Warnings}
	var archive bytes.Buffer
	if err := snapshot.SchemaArchive(ctx, &archive); err != nil {
		t.Fatal(err)
	}
	got.Archive = hash(archive.Bytes())
	for entry, err := range snapshot.Entries(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		var rows bytes.Buffer
		if err := snapshot.EntryRows(ctx, entry, &rows); err != nil {
			t.Fatal(err)
		}
		form := "none"
		switch {
		case len(entry.Listing.Index) > 0:
			form = "index"
		case len(entry.Listing.Pages) > 0:
			form = "pages"
		case entry.Listing.Inline != nil:
			form = "inline"
		}
		got.Tables[entry.OID] = vectorTable{Name: entry.Name, Layout: entry.Layout, Listing: form, Rows: entry.Rows, Bytes: entry.Bytes, SHA256: hash(rows.Bytes())}
	}
	for sequence, err := range snapshot.Sequences(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got.Sequences = append(got.Sequences, sequence)
	}
	for object, err := range snapshot.LargeObjects(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got.LargeObjects = append(got.LargeObjects, object)
	}
	return got
}

func TestVectorOfFormatVersion1DecodesForEver(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(vectorDirectory, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expected []vectorSnapshot
	if err := json.Unmarshal(text, &expected); err != nil {
		t.Fatal(err)
	}
	directory, err := objectstore.OpenDirectory(filepath.Join(vectorDirectory, "repository"), objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	for _, root := range []byte{7, 99} {
		repository, err := Open(t.Context(), objectstore.ReadOnly(directory), testRoot(t, root))
		if err != nil {
			t.Fatal(err)
		}
		defer repository.Close()
		forms := make(map[string]bool)
		for _, want := range expected {
			workspace, err := repository.OpenWorkspace(t.Context(), want.Workspace)
			if err != nil {
				t.Fatal(err)
			}
			if got := readVector(t, workspace, want.Snapshot); !reflect.DeepEqual(got, want) {
				t.Errorf("snapshot %s: got %+v, want %+v", want.Snapshot, got, want)
			}
			for _, table := range want.Tables {
				forms[table.Layout+" "+table.Listing] = true
			}
		}
		for _, form := range []string{"blocks none", "blocks inline", "blocks pages", "blocks index", "stream inline"} {
			if !forms[form] {
				t.Errorf("no table is %s", form)
			}
		}
		if len(expected) != 3 {
			t.Errorf("%d snapshots", len(expected))
		}
		report := mustBeSound(t, repository)
		if !slices.ContainsFunc(report.Notices, func(n Notice) bool { return n.Kind == NoticeVoids }) {
			t.Errorf("no void: %+v", report.Notices)
		}
	}
}

func TestWriteVector(t *testing.T) {
	if !*writeVector {
		t.Skip("only by -write-vector, and never twice")
	}
	if _, err := os.Lstat(vectorDirectory); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s is there already (%v): stored repositories of this version look like it, so it is not replaced", vectorDirectory, err)
	}
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := ensure(t, repository, WorkspaceRecord{Server: "eu-1", Database: "ws_acme", Identity: testIdentity(16384), Labels: map[string]string{"tier": "gold"}, Created: time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)})
	rows := func(prefix string, blocks ...uint32) heap {
		content := make(heap)
		for _, number := range blocks {
			content[number] = fmt.Sprintf("%s\t%d\t\\N\n%s\tz\\tz\n", prefix, number, prefix)
		}
		return content
	}
	many := make(heap)
	for number := range uint32(1500) {
		many[number] = fmt.Sprintf("%d\n", number)
	}
	tables := []testTable{
		{oid: 100, blocks: 3, rows: rows("inline", 0, 2)},
		{oid: 110, blocks: 0, rows: heap{}},
		{oid: 120, blocks: 1500, rows: many},
		{oid: 130, blocks: 1025 * ListingSpan, rows: rows("index", 0, 70*ListingSpan+3, 1024*ListingSpan)},
		{oid: 140, blocks: 4, rows: heap{0: "short\n", 1: strings.Repeat("long", 300_000) + "\n", 3: "after\n"}},
		{oid: 150, stream: true, blocks: 1, rows: heap{0: strings.Repeat("stream\t1\n", 60_000)}},
	}
	first := mustSnapshot(t, workspace, tables...)
	abandoned := stuck(t, workspace)
	abandoned.cancel(errInjected)
	// A takeover, a rotation, a changed block in each form of listing.
	place := crypto.WrapPlace{Repository: repository.id, Workspace: crypto.ID(workspace.id), KeyNumber: 2}
	if err := putWrap(t.Context(), store, repository.root, crypto.NewKey(), place, workspace.id.keysPrefix()+"2/"+repository.root.ID()); err != nil {
		t.Fatal(err)
	}
	rotated := ensure(t, repository, WorkspaceRecord{Server: "eu-1", Database: "ws_acme_renamed", Identity: testIdentity(16384)})
	tables[0].rows[1] = "new\n"
	tables[2].rows[700] = "changed\n"
	tables[3].rows[70*ListingSpan+3] = "changed\n"
	second := mustSnapshot(t, rotated, tables...)
	latin := ensure(t, repository, WorkspaceRecord{Server: "eu-1", Database: "caf\xe9", Identity: testIdentity(16385)})
	third := mustSnapshot(t, latin, testTable{oid: 100, blocks: 1, rows: heap{0: "caf\xe9\n"}})
	rewrap(t, repository, rotated, testRoot(t, 99))
	place = crypto.WrapPlace{Repository: repository.id, Workspace: crypto.ID(latin.id), KeyNumber: 1}
	if err := putWrap(t.Context(), store, testRoot(t, 99), latin.keyring[1], place, latin.id.keysPrefix()+"1/"+testRoot(t, 99).ID()); err != nil {
		t.Fatal(err)
	}
	mustBeSound(t, repository)
	expected := []vectorSnapshot{readVector(t, rotated, first.Manifest().Snapshot), readVector(t, rotated, second.Manifest().Snapshot), readVector(t, latin, third.Manifest().Snapshot)}
	text, err := json.MarshalIndent(expected, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keysOf(t, store, "") {
		path := filepath.Join(vectorDirectory, "repository", filepath.FromSlash(key))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, contentOf(t, store, key), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(vectorDirectory, "expected.json"), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	abandoned.baseTables.close()
	abandoned.lease.abandon()
}
