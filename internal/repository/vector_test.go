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
	"github.com/hourvault/hourvault/internal/objectstore/faultstore"
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

// planVectorDirectory holds a repository with plans, as vectorDirectory one without: written once, and never again.
const planVectorDirectory = "testdata/vector-plan-v1"

// planVector is what must be found in it. Snapshots are those that are listed, the one that a plan names and that is still there included.
type planVector struct {
	Workspace WorkspaceID  `json:"workspace"`
	Snapshots []SnapshotID `json:"snapshots"`
	Plans     []Plan       `json:"plans"`
}

func readPlanVector(t *testing.T, workspace *Workspace) planVector {
	t.Helper()
	history, err := workspace.listPlans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plans, err := history.all(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := planVector{Workspace: workspace.id, Snapshots: idsOf(t, workspace)}
	for _, plan := range plans {
		got.Plans = append(got.Plans, plan.Plan)
	}
	if len(history.listed) != len(plans)+1 {
		t.Errorf("%d objects below plans/, %d of them plans, and one should be a void", len(history.listed), len(plans))
	}
	return got
}

func TestVectorOfPlansDecodesForEver(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(planVectorDirectory, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want planVector
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	directory, err := objectstore.OpenDirectory(filepath.Join(planVectorDirectory, "repository"), objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	repository := openIn(t, objectstore.ReadOnly(directory))
	workspace, err := repository.OpenWorkspace(t.Context(), want.Workspace)
	if err != nil {
		t.Fatal(err)
	}
	if got := readPlanVector(t, workspace); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if n := len(want.Plans); n != 2 || len(want.Plans[0].Explained.Manifests) == 0 || len(want.Plans[0].Supersedes) != 1 || len(want.Plans[1].Manifests) != 1 {
		t.Errorf("%d plans: %+v", n, want.Plans)
	}
	kinds := make(map[string]int)
	for _, notice := range mustBeSound(t, repository).Notices {
		kinds[notice.Kind] += notice.Count
	}
	if kinds[NoticePlanPending] != 1 || kinds[NoticePlannedPacks] == 0 || kinds[NoticeVoids] != 1 {
		t.Errorf("notices %v", kinds)
	}
}

func TestWritePlanVector(t *testing.T) {
	if !*writeVector {
		t.Skip("only by -write-vector, and never twice")
	}
	if _, err := os.Lstat(planVectorDirectory); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s is there already (%v): stored plans of this version look like it, so it is not replaced", planVectorDirectory, err)
	}
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	options := func(ids ...SnapshotID) PruneOptions { return PruneOptions{Writer: "vector", Condemn: condemn(ids...)} }
	taken, _ := series(t, workspace, 5)
	mustPrune(t, at(t, store, workspace, day), options(idOf(taken[1]), idOf(taken[2])))
	more, _ := series(t, workspace, 3)
	// The grace period of the first plan has passed, and the second stands for it.
	mustPrune(t, at(t, store, workspace, day), options(idOf(taken[3]), idOf(more[0])))
	// A prune that was given up, and one that died before it deleted what its plan names.
	void, err := workspace.listPlans(t.Context())
	if err == nil {
		err = workspace.settle(t.Context(), workspace.id.planKey(newPlanID(time.Now(), void.greatest())), "test", "lease expired")
	}
	if err != nil {
		t.Fatal(err)
	}
	faults := faultstore.New(store, faultstore.Fault{Method: faultstore.Delete, Err: errInjected})
	if _, err := at(t, faults, workspace, 2*time.Hour).Prune(t.Context(), options(idOf(more[1]))); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	mustBeSound(t, repository)
	text, err := json.MarshalIndent(readPlanVector(t, workspace), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keysOf(t, store, "") {
		path := filepath.Join(planVectorDirectory, "repository", filepath.FromSlash(key))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, contentOf(t, store, key), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(planVectorDirectory, "expected.json"), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
