package repository

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// victim is a small repository of two workspaces with two snapshots each, held in memory.
type victim struct {
	held
	workspaces []*Workspace
	snapshots  [][]*Snapshot
	tables     [][]testTable // of the last snapshot
}

func newVictim(t testing.TB) victim {
	t.Helper()
	store := newDirectory(t)
	repository := createIn(t, store)
	var v victim
	for i := range 2 {
		workspace := ensure(t, repository, WorkspaceRecord{Server: "s", Database: catalog.Text(fmt.Sprintf("d%d", i)), Identity: testIdentity(catalog.OID(5 + i))})
		tables := []testTable{table(100, 2, 5), table(200, 300, 5)}
		first := mustSnapshot(t, workspace, tables...)
		tables[1].rows[7] = "changed\n"
		second := mustSnapshot(t, workspace, tables...)
		v.workspaces, v.snapshots, v.tables = append(v.workspaces, workspace), append(v.snapshots, []*Snapshot{first, second}), append(v.tables, tables)
	}
	v.held = hold(t, store)
	return v
}

// newSmallVictim is as small as a repository with an object and a part of each kind can be: for trying every byte.
func newSmallVictim(t testing.TB) victim {
	t.Helper()
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := ensure(t, repository, WorkspaceRecord{Server: "s", Database: "d", Identity: testIdentity(5)})
	tables := []testTable{{oid: 100, blocks: 1, rows: heap{0: "a\n"}}, {oid: 200, blocks: ListingSpan + 1, rows: heap{0: "b\n", ListingSpan: "c\n"}}}
	snapshot := mustSnapshot(t, workspace, tables...)
	return victim{held: hold(t, store), workspaces: []*Workspace{workspace}, snapshots: [][]*Snapshot{{snapshot}}, tables: [][]testTable{tables}}
}

// check says how a changed repository is found out: by the error of opening it, or by what verify reports. Whatever can be
// read of workspace i must be what was written.
func (v victim) check(t testing.TB, store objectstore.Store) (string, VerifyReport) {
	t.Helper()
	repository, err := Open(t.Context(), store, testRoot(t, 7))
	if err != nil {
		return err.Error(), VerifyReport{}
	}
	defer repository.Close()
	return v.checkOpened(t, repository)
}

func (v victim) checkOpened(t testing.TB, repository *Repository) (string, VerifyReport) {
	t.Helper()
	report, err := repository.Verify(t.Context(), VerifyOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	var found strings.Builder
	for _, problem := range report.Problems {
		fmt.Fprintln(&found, problem)
	}
	for i, workspace := range v.workspaces {
		opened, err := repository.OpenWorkspace(t.Context(), workspace.id)
		if err != nil {
			continue
		}
		snapshot, err := opened.OpenSnapshot(t.Context(), v.snapshots[i][len(v.snapshots[i])-1].Manifest().Snapshot)
		if err != nil {
			continue
		}
		if got, err := readTables(t.Context(), snapshot); err == nil {
			for _, table := range v.tables[i] {
				if got[table.oid] != table.text() {
					t.Errorf("workspace %d came back with wrong rows", i)
				}
			}
		}
	}
	return found.String(), report
}

// unread says whether nothing depends on every byte of an object: repository.json and wraps are JSON in the clear, and of those only what is
// authenticated elsewhere is used.
func unread(key string) bool { return key == descriptionKey || strings.Contains(key, "keys/") }

// checkChanged is check for one changed object. Unless it is one that opening reads, the repository is one that is open already.
func (v victim) checkChanged(t testing.TB, key string, content []byte) string {
	t.Helper()
	store := v.with(map[string][]byte{key: content})
	if key == descriptionKey || strings.HasPrefix(key, repositoryKeyPrefix(repositoryKeyNumber)) {
		found, _ := v.check(t, store)
		return found
	}
	opened := *v.workspaces[0].repository
	opened.store = store
	if strings.Contains(key, "/packs/") || strings.Contains(key, "/snapshots/") {
		found, _ := v.checkOpened(t, &opened)
		return found
	}
	// Rows depend on nothing else.
	var found strings.Builder
	for _, problem := range verify(t, &opened, VerifyOptions{}).Problems {
		fmt.Fprintln(&found, problem)
	}
	return found.String()
}

func TestEveryFlippedByteIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	v := newSmallVictim(t)
	v.eachObject(t, func(key string, content []byte) {
		changed := bytes.Clone(content)
		begin, step := every()
		for i := begin; i < len(content); i += step {
			changed[i] ^= 1 << (i % 8)
			if found := v.checkChanged(t, key, changed); !strings.Contains(found, key) && !unread(key) {
				t.Errorf("byte %d of %s changed: %q", i, key, found)
			}
			changed[i] = content[i]
		}
	})
}

func TestEveryTruncationIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	v := newSmallVictim(t)
	v.eachObject(t, func(key string, content []byte) {
		begin, step := every()
		for n := begin; n < len(content); n += step {
			if found := v.checkChanged(t, key, content[:n:n]); !strings.Contains(found, key) {
				t.Errorf("%s cut to %d of %d bytes: %q", key, n, len(content), found)
			}
		}
		if found := v.checkChanged(t, key, append(bytes.Clone(content), 0)); !strings.Contains(found, key) && !unread(key) {
			t.Errorf("%s with a byte more: %q", key, found)
		}
	})
}

// every says which bytes are tried: all, and under the race detector, which makes it slow, another third in each run.
func every() (begin, step int) {
	if raceDetector {
		return rand.IntN(3), 3
	}
	return 0, 1
}

// eachObject calls each for all objects, several at once.
func (v victim) eachObject(t *testing.T, each func(key string, content []byte)) {
	t.Helper()
	var group sync.WaitGroup
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	for key, content := range v.objects {
		group.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			each(key, content)
		})
	}
	group.Wait()
	if len(v.objects) != 8 {
		t.Errorf("objects: %v", slices.Sorted(maps.Keys(v.objects)))
	}
}

// Everything that is authentic at one place must be refused at every other.
func TestObjectsPutAtOtherPlacesAreRefusedAndNamed(t *testing.T) {
	v := newVictim(t)
	a, b := v.workspaces[0].id, v.workspaces[1].id
	manifest := func(w, n int) string { return v.workspaces[w].id.manifestKey(v.snapshots[w][n].Manifest().Snapshot) }
	pack := func(w, n int) string {
		name := v.snapshots[w][n].Manifest().Snapshot
		for key := range v.objects {
			if strings.HasPrefix(key, v.workspaces[w].id.packsPrefix()+name.String()) {
				return key
			}
		}
		t.Fatal("no pack")
		return ""
	}
	later := a.manifestKey(newSnapshotID(time.Now().Add(time.Hour), SnapshotID{}))
	claims := make(map[WorkspaceID]string)
	for i, workspace := range v.workspaces {
		claims[workspace.id] = workspace.repository.claimKey(testIdentity(catalog.OID(5 + i)))
	}
	root := testRoot(t, 7).ID()
	wrapKey := func(id WorkspaceID, n int) string { return fmt.Sprintf("%s%d/%s", id.keysPrefix(), n, root) }
	relabelled := func(key string, number uint32) []byte {
		var stored wrap
		if err := json.Unmarshal(v.objects[key], &stored); err != nil {
			t.Fatal(err)
		}
		stored.Key = number
		content, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	for _, test := range []struct {
		name, to string
		content  []byte
		also     map[string][]byte
		kind     string
	}{
		{name: "an old manifest under a later time", to: later, content: v.objects[manifest(0, 0)], kind: ProblemManifestDamaged},
		{name: "an older manifest in place of the newest", to: manifest(0, 1), content: v.objects[manifest(0, 0)], kind: ProblemManifestDamaged},
		{name: "another workspace's manifest", to: manifest(0, 1), content: v.objects[manifest(1, 1)], kind: ProblemManifestDamaged},
		{name: "another pack of the workspace", to: pack(0, 0), content: v.objects[pack(0, 1)], kind: ProblemPackDamaged},
		{name: "another workspace's pack", to: pack(0, 0), content: v.objects[pack(1, 0)], kind: ProblemPackDamaged},
		{name: "another database's claim", to: claims[a], content: v.objects[claims[b]], kind: ProblemClaimDamaged},
		{name: "a retired key as a newer one", to: wrapKey(a, 2), content: relabelled(wrapKey(a, 1), 2), kind: ProblemKeyDamaged},
		{name: "a retired key as a newer one, as it was", to: wrapKey(a, 2), content: v.objects[wrapKey(a, 1)], kind: ProblemKeyDamaged},
		{name: "another workspace's key", to: wrapKey(a, 1), content: v.objects[wrapKey(b, 1)], kind: ProblemKeyDamaged},
		{name: "another workspace's record", to: a.recordsPrefix() + "0000000001", content: v.objects[b.recordsPrefix()+"0000000001"], kind: ProblemRecordDamaged},
		{name: "an old record as a newer one", to: a.recordsPrefix() + "0000000002", content: v.objects[a.recordsPrefix()+"0000000001"], kind: ProblemRecordDamaged},
		{name: "another workspace's lease", to: a.leaseKey(), content: v.objects[b.leaseKey()], kind: ProblemLeaseDamaged},
		{name: "a lease as a manifest", to: manifest(0, 1), content: v.objects[a.leaseKey()], kind: ProblemManifestDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.content == nil {
				t.Fatal("nothing to put there")
			}
			found, report := v.check(t, v.with(map[string][]byte{test.to: test.content}))
			mustReport(t, report, test.kind, test.to)
			if found == "" {
				t.Error("nothing found")
			}
		})
	}
	t.Run("all of one workspace under another's name", func(t *testing.T) {
		changes := make(map[string][]byte)
		for key, content := range v.objects {
			if rest, below := strings.CutPrefix(key, b.prefix()); below {
				changes[a.prefix()+rest] = content
			} else if strings.HasPrefix(key, a.prefix()) {
				if _, both := v.objects[b.prefix()+strings.TrimPrefix(key, a.prefix())]; !both {
					changes[key] = nil
				}
			}
		}
		_, report := v.check(t, v.with(changes))
		mustReport(t, report, ProblemKeyDamaged, wrapKey(a, 1))
	})
}

// Parts of one pack trade places, with the listing page's text left as it is.
func TestSwappedPartsAreRefused(t *testing.T) {
	v := newVictim(t)
	snapshot := v.snapshots[0][0]
	name := snapshot.Manifest().Archive.Pages[0].Pack
	key := v.workspaces[0].id.packKey(name)
	content := v.objects[key]
	// Two parts of equal length are needed: find the parts by the directory and cut the pack anew with two of them swapped.
	entries, at := packParts(t, v.workspaces[0], snapshot, key, content)
	if len(entries) < 3 {
		t.Fatalf("only %d parts", len(entries))
	}
	var parts [][]byte
	offset := crypto.HeaderSize
	for _, entry := range entries {
		parts = append(parts, content[offset:offset+int(entry.stored)])
		offset += int(entry.stored)
	}
	parts[0], parts[1] = parts[1], parts[0]
	swapped := bytes.Clone(content[:crypto.HeaderSize])
	for _, part := range parts {
		swapped = append(swapped, part...)
	}
	swapped = append(swapped, content[at:]...)
	_, report := v.check(t, v.with(map[string][]byte{key: swapped}))
	mustReport(t, report, ProblemPackDamaged, key)
}

func packParts(t *testing.T, workspace *Workspace, snapshot *Snapshot, key string, content []byte) ([]directoryEntry, int64) {
	t.Helper()
	w := newWorkspaceVerifier(&verifier{repository: workspace.repository}, workspace.id)
	w.workspace = workspace
	for _, info := range snapshot.Manifest().Packs {
		if workspace.id.packKey(info.Name) != key {
			continue
		}
		sealer, err := snapshot.parts.sealer(info.Name, partKinds...)
		if err != nil {
			t.Fatal(err)
		}
		section := func(offset, length int64) ([]byte, error) { return content[offset : offset+length], nil }
		entries, at, err := w.packDirectory(section, sealer, info, int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		return entries, at
	}
	t.Fatalf("%s is not in the manifest", key)
	return nil, 0
}

func TestHiddenAndDeletedObjectsAreMissed(t *testing.T) {
	v := newVictim(t)
	a := v.workspaces[0].id
	first, second := a.manifestKey(v.snapshots[0][0].Manifest().Snapshot), a.manifestKey(v.snapshots[0][1].Manifest().Snapshot)
	t.Run("the first manifest", func(t *testing.T) {
		_, report := v.check(t, v.with(map[string][]byte{first: nil}))
		mustReport(t, report, ProblemManifestMissing, first)
	})
	t.Run("the newest manifest, with a witness", func(t *testing.T) {
		repository := openIn(t, v.with(nil))
		var witnesses []Witness
		for _, workspace := range mustBeSound(t, repository).Workspaces {
			witnesses = append(witnesses, *workspace.Newest)
		}
		if report := verify(t, repository, VerifyOptions{Witness: witnesses}); len(report.Problems) > 0 {
			t.Errorf("problems with the newest there: %v", report.Problems)
		}
		rolledBack := openIn(t, v.with(map[string][]byte{second: nil}))
		if report := verify(t, rolledBack, VerifyOptions{}); len(report.Problems) > 0 {
			t.Errorf("nothing in the repository can show this, but: %v", report.Problems)
		}
		mustReport(t, verify(t, rolledBack, VerifyOptions{Witness: witnesses}), ProblemRolledBack, a.snapshotsPrefix())
	})
	t.Run("a history written a second time", func(t *testing.T) {
		report := verify(t, openIn(t, v.with(nil)), VerifyOptions{Witness: []Witness{{Workspace: a, Sequence: 1, SHA256: make(HexBytes, 32)}}})
		mustReport(t, report, ProblemRolledBack, first)
	})
	t.Run("a workspace with its claim, with a witness", func(t *testing.T) {
		changes := make(map[string][]byte)
		for key := range v.objects {
			if strings.HasPrefix(key, a.prefix()) || key == v.workspaces[0].repository.claimKey(testIdentity(5)) {
				changes[key] = nil
			}
		}
		report := verify(t, openIn(t, v.with(changes)), VerifyOptions{Witness: []Witness{{Workspace: a, Sequence: 1}}})
		mustReport(t, report, ProblemRolledBack, "")
	})
	t.Run("a claim", func(t *testing.T) {
		_, report := v.check(t, v.with(map[string][]byte{v.workspaces[0].repository.claimKey(testIdentity(5)): nil}))
		mustReport(t, report, ProblemClaimMissing, a.prefix())
	})
	t.Run("all objects of a workspace", func(t *testing.T) {
		changes := make(map[string][]byte)
		for key := range v.objects {
			if strings.HasPrefix(key, a.prefix()) {
				changes[key] = nil
			}
		}
		_, report := v.check(t, v.with(changes))
		mustReport(t, report, ProblemWorkspaceMissing, a.keysPrefix())
	})
	t.Run("the keys", func(t *testing.T) {
		_, report := v.check(t, v.with(map[string][]byte{a.keysPrefix() + "1/" + testRoot(t, 7).ID(): nil}))
		mustReport(t, report, ProblemKeyMissing, a.keysPrefix())
	})
	t.Run("each pack", func(t *testing.T) {
		packs := 0
		for key := range v.objects {
			if !strings.HasPrefix(key, a.packsPrefix()) {
				continue
			}
			packs++
			for _, options := range []VerifyOptions{{}, {ReadData: true}} {
				report := verify(t, openIn(t, v.with(map[string][]byte{key: nil})), options)
				mustReport(t, report, ProblemPackMissing, key)
				if len(report.Problems) != 1 {
					t.Errorf("one lost pack is reported as %v", report.Problems)
				}
				for _, workspace := range report.Workspaces {
					if workspace.Workspace == a && !slices.Contains(workspace.Damaged, v.snapshots[0][1].Manifest().Snapshot) {
						t.Errorf("the newest snapshot needs the pack and is not called damaged: %v", workspace.Damaged)
					}
				}
			}
		}
		if packs != 2 {
			t.Errorf("%d packs", packs)
		}
	})
}

func TestVerifyReportsManyProblemsAtOnce(t *testing.T) {
	v := newVictim(t)
	changes := make(map[string][]byte)
	for key, content := range v.objects {
		if strings.HasPrefix(key, v.workspaces[0].id.packsPrefix()) || strings.HasPrefix(key, v.workspaces[1].id.leaseKey()) {
			changes[key] = append(bytes.Clone(content[:len(content)-1]), content[len(content)-1]^1)
		}
	}
	changes[v.workspaces[1].id.snapshotsPrefix()+"not-a-snapshot"] = []byte("x")
	changes[v.workspaces[1].id.packsPrefix()+"not-a-pack"] = []byte("x")
	var progress VerifyProgress
	report := verify(t, openIn(t, v.with(changes)), VerifyOptions{ReadData: true, Progress: func(p VerifyProgress) { progress = p }})
	for key := range changes {
		if strings.Contains(key, "not-a-pack") {
			continue
		}
		if !slices.ContainsFunc(report.Problems, func(p Problem) bool { return p.Object == key && p.Name != "" }) {
			t.Errorf("%s is not among the problems %v", key, report.Problems)
		}
	}
	if progress.Workspaces != 2 || progress.Snapshots != 4 || progress.Packs != progress.PacksTotal || progress.PackBytes != progress.PackBytesTotal {
		t.Errorf("progress at the end: %+v", progress)
	}
	only := verify(t, openIn(t, v.with(changes)), VerifyOptions{Workspaces: []WorkspaceID{v.workspaces[1].id}})
	if len(only.Workspaces) != 1 || slices.ContainsFunc(only.Problems, func(p Problem) bool { return p.Workspace == v.workspaces[0].id }) {
		t.Errorf("asked for one workspace: %+v", only)
	}
	if _, err := openIn(t, v.with(nil)).Verify(t.Context(), VerifyOptions{Workspaces: []WorkspaceID{{1}}}); err == nil {
		t.Error("an unknown workspace was verified")
	}
}

func TestLaterFormatsAndFeaturesAreRefusedByName(t *testing.T) {
	v := newVictim(t)
	a := v.workspaces[0]
	describe := func(change func(*description)) map[string][]byte {
		var about description
		if err := json.Unmarshal(v.objects[descriptionKey], &about); err != nil {
			t.Fatal(err)
		}
		change(&about)
		content, err := json.Marshal(about)
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{descriptionKey: content}
	}
	open := func(changes map[string][]byte) error {
		repository, err := Open(t.Context(), v.with(changes), testRoot(t, 7))
		if err == nil {
			repository.Close()
		}
		return err
	}
	var unknown *UnknownFeatureError
	if err := open(describe(func(d *description) { d.Format = 2 })); !errors.Is(err, crypto.ErrNewerFormat) {
		t.Errorf("format 2: %v", err)
	}
	if err := open(describe(func(d *description) { d.Features = []string{"pack-pages"} })); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "pack-pages") {
		t.Errorf("unknown feature: %v", err)
	}
	if err := open(describe(func(d *description) { d.Format = 0 })); err == nil {
		t.Error("format 0 was opened")
	}
	if err := open(describe(func(d *description) { d.ID = strings.Repeat("0", 32) })); err == nil {
		t.Error("another id was opened")
	}
	if err := open(map[string][]byte{descriptionKey: nil}); !errors.Is(err, ErrNoRepository) {
		t.Errorf("no repository: %v", err)
	}
	if _, err := Open(t.Context(), v.with(nil), testRoot(t, 8)); !errors.Is(err, ErrWrongRootKey) || !strings.Contains(err.Error(), testRoot(t, 7).ID()) || !strings.Contains(err.Error(), testRoot(t, 8).ID()) {
		t.Errorf("wrong root key: %v", err)
	}

	manifest := *v.snapshots[0][1].Manifest()
	object := a.id.manifestKey(manifest.Snapshot)
	for name, change := range map[string]func(*Manifest){
		"later format":    func(m *Manifest) { m.Format = 2 },
		"unknown feature": func(m *Manifest) { m.Features = []string{"packs-in-pages"} },
	} {
		changed := manifest
		change(&changed)
		content, err := a.sealJSON(crypto.KindManifest, object, changed)
		if err != nil {
			t.Fatal(err)
		}
		repository := openIn(t, v.with(map[string][]byte{object: content}))
		workspace, err := repository.OpenWorkspace(t.Context(), a.id)
		if err != nil {
			t.Fatal(err)
		}
		_, err = workspace.OpenSnapshot(t.Context(), manifest.Snapshot)
		kind := ProblemNewerFormat
		if name == "unknown feature" {
			kind = ProblemUnknownFeature
			if !errors.As(err, &unknown) || !strings.Contains(err.Error(), "packs-in-pages") {
				t.Errorf("%s: %v", name, err)
			}
		} else if !errors.Is(err, crypto.ErrNewerFormat) {
			t.Errorf("%s: %v", name, err)
		}
		mustReport(t, verify(t, repository, VerifyOptions{}), kind, object)
	}
	header := bytes.Clone(v.objects[object])
	header[5] = 2
	_, report := v.check(t, v.with(map[string][]byte{object: header}))
	mustReport(t, report, ProblemNewerFormat, object)
}

// The seals of listing and chunk are both whole, and the listing says of a block what is not there: only the fingerprint ties them together.
func TestBlocksThatAreNotWhatTheListingSaysAreRefused(t *testing.T) {
	repository := newTestRepository(t)
	workspace := newTestWorkspace(t, repository)
	snapshot := mustSnapshot(t, workspace, testTable{oid: 100, blocks: 2, rows: heap{0: "one\n", 1: "two\n"}})
	for name, change := range map[string]func(*listingPage){
		"another fingerprint": func(p *listingPage) { p.blocks[1].fingerprint[7] ^= 1 },
		"two blocks of one length swapped": func(p *listingPage) {
			p.blocks[0].offset, p.blocks[1].offset = p.blocks[1].offset, p.blocks[0].offset
		},
	} {
		for entry, err := range snapshot.Entries(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			page, err := parseListingPage(entry.Listing.Inline)
			if err != nil {
				t.Fatal(err)
			}
			change(page)
			entry.Listing.Inline = page.encode()
			var got bytes.Buffer
			if err := snapshot.EntryRows(t.Context(), entry, &got); !errors.Is(err, crypto.ErrNotAuthentic) {
				t.Errorf("%s: read %q, %v", name, got.String(), err)
			}
			w := newWorkspaceVerifier(&verifier{repository: repository, options: VerifyOptions{ReadData: true}, cache: newChunkCache(1 << 20)}, workspace.id)
			w.workspace.keyring, w.snapshots = workspace.keyring, []*Snapshot{snapshot}
			w.checkPacks(t.Context())
			w.checkTable(t.Context(), []*tableVersion{{entry: &entry, snapshots: w.snapshots}})
			if len(w.problems) != 1 || w.problems[0].Kind != ProblemRowsDamaged {
				t.Errorf("%s: verify reports %v", name, w.problems)
			}
		}
	}
}
