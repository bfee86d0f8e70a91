package repository

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// rewrap stores wraps of the workspace's key and of the repository's key under another root key, beside those that are there.
func rewrap(t *testing.T, repository *Repository, workspace *Workspace, root crypto.RootKey) {
	t.Helper()
	place := crypto.WrapPlace{Repository: repository.id, KeyNumber: repositoryKeyNumber}
	if err := putWrap(t.Context(), repository.store, root, repository.key, place, repositoryKeyPrefix(repositoryKeyNumber)+repository.ID()+"/"+root.ID()); err != nil {
		t.Fatal(err)
	}
	for number, key := range workspace.keyring {
		place := crypto.WrapPlace{Repository: repository.id, Workspace: crypto.ID(workspace.id), KeyNumber: number}
		if err := putWrap(t.Context(), repository.store, root, key, place, fmt.Sprintf("%s%d/%s", workspace.id.keysPrefix(), number, root.ID())); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWrapsUnderTwoRootKeysStandSideBySide(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	content := table(100, 3, 10)
	snapshot := mustSnapshot(t, workspace, content)
	recovery := testRoot(t, 99)
	if _, err := Open(t.Context(), store, recovery); !errors.Is(err, ErrWrongRootKey) {
		t.Errorf("before: %v", err)
	}
	rewrap(t, repository, workspace, recovery)
	opened, err := Open(t.Context(), store, recovery)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	found, err := opened.FindWorkspace(t.Context(), testIdentity(5))
	if err != nil {
		t.Fatal(err)
	}
	again, err := found.OpenSnapshot(t.Context(), snapshot.Manifest().Snapshot)
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, again, content)
	mustBeSound(t, opened)
	mustBeSound(t, repository)
}

// After a rotation new objects are sealed under the new key, fingerprints stay under the base's, and nothing is stored again.
func TestRotationKeepsFingerprintsAndOldPacks(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	content := table(100, 1200, 50)
	first := mustSnapshot(t, workspace, content)
	before := testTable{oid: content.oid, blocks: content.blocks, rows: maps.Clone(content.rows)}
	second := crypto.NewKey()
	place := crypto.WrapPlace{Repository: repository.id, Workspace: crypto.ID(workspace.id), KeyNumber: 2}
	if err := putWrap(t.Context(), store, repository.root, second, place, workspace.id.keysPrefix()+"2/"+repository.root.ID()); err != nil {
		t.Fatal(err)
	}
	rotated, err := repository.OpenWorkspace(t.Context(), workspace.id)
	if err != nil {
		t.Fatal(err)
	}
	content.rows[5] = "changed\n"
	snapshot := mustSnapshot(t, rotated, content)
	mustHold(t, snapshot, content)
	manifest := snapshot.Manifest()
	if manifest.FingerprintKey != 1 || manifest.Statistics.NewBlocks != 1 {
		t.Errorf("fingerprint key %d, %d blocks stored", manifest.FingerprintKey, manifest.Statistics.NewBlocks)
	}
	keys := make(map[uint32]int)
	for _, pack := range manifest.Packs {
		keys[pack.Key]++
		header, err := crypto.ParseHeader(contentOf(t, store, workspace.id.packKey(pack.Name)))
		if err != nil || header.KeyNumber != pack.Key {
			t.Errorf("pack %s: header says key %d, manifest %d, %v", pack.Name, header.KeyNumber, pack.Key, err)
		}
	}
	if keys[1] == 0 || keys[2] == 0 {
		t.Errorf("packs by key: %v", keys)
	}
	header, err := crypto.ParseHeader(contentOf(t, store, workspace.id.manifestKey(manifest.Snapshot)))
	if err != nil || header.KeyNumber != 2 {
		t.Errorf("manifest under key %d, %v", header.KeyNumber, err)
	}
	mustHold(t, first, before)
	mustBeSound(t, repository)

	// With the first key gone what was sealed under it is gone too, and said to be.
	if err := store.Delete(t.Context(), workspace.id.keysPrefix()+"1/"+repository.root.ID()); err != nil {
		t.Fatal(err)
	}
	report := verify(t, repository, VerifyOptions{})
	mustReport(t, report, ProblemManifestDamaged, workspace.id.manifestKey(first.Manifest().Snapshot))
}

// A pack assembled again, whatever it holds, has another id: so no key ever seals two texts with the same part number.
func TestPackIDsAreNeverUsedAgain(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	seen := make(map[[crypto.SaltSize]byte]bool)
	salt := func(content []byte) {
		header, err := crypto.ParseHeader(content)
		if err != nil {
			t.Fatal(err)
		}
		if seen[header.Salt] {
			t.Errorf("salt %x came twice", header.Salt)
		}
		seen[header.Salt] = true
	}
	workspace := newTestWorkspace(t, repository)
	for range 5 {
		writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := fillSnapshot(t.Context(), writer, table(1, 2, 10)); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.finish(Ending{Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if err := writer.Abandon(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mustSnapshot(t, workspace, table(1, 2, 10))
	packs := keysOf(t, store, workspace.id.packsPrefix())
	if len(packs) != 6 {
		t.Errorf("%d packs", len(packs))
	}
	for _, key := range keysOf(t, store, workspace.id.prefix()) {
		if content := contentOf(t, store, key); !inTheClear(key) {
			salt(content)
		}
	}
	report := mustBeSound(t, repository)
	for _, notice := range report.Notices {
		if notice.Kind == NoticeLeftoverPacks && notice.Count == 5 && notice.Bytes > 0 {
			return
		}
	}
	t.Errorf("five left-over packs are not noticed: %+v", report.Notices)
}

func TestCreateRefusesASecondRepository(t *testing.T) {
	store := newDirectory(t)
	createIn(t, store)
	before := contentOf(t, store, descriptionKey)
	if _, err := Create(t.Context(), store, testRoot(t, 8), time.Now()); !errors.Is(err, ErrRepositoryExists) {
		t.Errorf("created again: %v", err)
	}
	if string(contentOf(t, store, descriptionKey)) != string(before) {
		t.Error("the repository was replaced")
	}
	if _, err := Open(t.Context(), newDirectory(t), testRoot(t, 7)); !errors.Is(err, ErrNoRepository) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := openIn(t, store).OpenWorkspace(t.Context(), WorkspaceID{1}); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("an unknown workspace: %v", err)
	}
}
