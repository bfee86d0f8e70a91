package repository

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/testenv/allocation"
)

// seeds returns all texts of one kind of part in the vector, and fails when it finds none.
func seeds(f *testing.F, kind crypto.Kind) [][]byte {
	f.Helper()
	directory, err := objectstore.OpenDirectory(filepath.Join(vectorDirectory, "repository"), objectstore.DirectoryOptions{})
	if err != nil {
		f.Fatal(err)
	}
	defer directory.Close()
	repository, err := Open(f.Context(), objectstore.ReadOnly(directory), testRoot(f, 7))
	if err != nil {
		f.Fatal(err)
	}
	defer repository.Close()
	workspaces, err := repository.Workspaces(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	var texts [][]byte
	for _, workspace := range workspaces {
		ids, err := workspace.SnapshotIDs(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		for _, id := range ids {
			snapshot, err := workspace.OpenSnapshot(f.Context(), id)
			if err != nil {
				continue // a void
			}
			if kind == crypto.KindManifest {
				_, plain, err := workspace.open(workspace.id.manifestKey(id), contentOf(f, directory, workspace.id.manifestKey(id)), kind)
				if err != nil {
					f.Fatal(err)
				}
				texts = append(texts, plain)
			}
			for entry, err := range snapshot.Entries(f.Context()) {
				if err != nil {
					f.Fatal(err)
				}
				if kind == crypto.KindListing && entry.Listing.Inline != nil {
					texts = append(texts, entry.Listing.Inline)
				}
				for _, ref := range entry.Listing.Index {
					if kind == crypto.KindIndex {
						plain, err := snapshot.parts.read(f.Context(), kind, ref)
						if err != nil {
							f.Fatal(err)
						}
						texts = append(texts, plain)
					}
				}
				for _, ref := range entry.Listing.Pages {
					if kind == crypto.KindListing && ref != nil {
						plain, err := snapshot.parts.read(f.Context(), kind, *ref)
						if err != nil {
							f.Fatal(err)
						}
						texts = append(texts, plain)
					}
				}
			}
		}
	}
	if len(texts) == 0 {
		f.Fatalf("the vector has no %s", kind)
	}
	return texts
}

// pageFactor is how many bytes reading a binary text may allocate for each byte of it: a block of one byte becomes an entry of 40.
const pageFactor = 100

func FuzzListingPage(f *testing.F) {
	for _, seed := range seeds(f, crypto.KindListing) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var page *listingPage
		var err error
		allocation.Bound(t, pageFactor*uint64(len(data)), func() { page, err = parseListingPage(data) })
		if err != nil {
			return
		}
		page.live()
		for i := range page.blocks {
			if page.blocks[i].length > 0 {
				page.span(&page.blocks[i])
			}
		}
		again, err := parseListingPage(page.encode())
		if err != nil || !reflect.DeepEqual(again, page) {
			t.Errorf("%+v comes back as %+v, %v", page, again, err)
		}
	})
}

func FuzzIndexPage(f *testing.F) {
	for _, seed := range seeds(f, crypto.KindIndex) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var refs []*PartRef
		var err error
		allocation.Bound(t, pageFactor*uint64(len(data)), func() { refs, err = parseIndex(data) })
		if err != nil {
			return
		}
		again, err := parseIndex(encodeIndex(refs))
		if err != nil || !reflect.DeepEqual(again, refs) {
			t.Errorf("%v comes back as %v, %v", refs, again, err)
		}
	})
}

func FuzzPackDirectory(f *testing.F) {
	f.Add([]byte{2, 16, 45, 8, 18, 0x80, 1, 3})
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, data []byte) {
		allocation.Bound(t, pageFactor*uint64(len(data)), func() { _, _ = parsePackDirectory(data) })
	})
}

func FuzzManifest(f *testing.F) {
	repository := createIn(f, newDirectory(f))
	workspace := ensure(f, repository, WorkspaceRecord{Identity: testIdentity(5)})
	for _, seed := range seeds(f, crypto.KindManifest) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var manifest Manifest
		id := SnapshotID{seconds: 1}
		if json.Unmarshal(data, &manifest) == nil && !manifest.Snapshot.IsZero() {
			id = manifest.Snapshot
		}
		object, err := repository.codec.sealObject(workspace.keyring[1], 1, crypto.KindManifest, repository.place(workspace.id, workspace.id.manifestKey(id)), data)
		if err != nil || len(data) == 0 {
			return
		}
		allocation.Bound(t, jsonFactor*uint64(len(data)), func() { _, _ = workspace.parseSnapshot(id, object) })
	})
}

func FuzzOpenObject(f *testing.F) {
	repository := createIn(f, newDirectory(f))
	workspace := ensure(f, repository, WorkspaceRecord{Identity: testIdentity(5)})
	for _, key := range keysOf(f, repository.store, workspace.id.recordsPrefix()) {
		f.Add(contentOf(f, repository.store, key))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		allocation.Bound(t, pageFactor*uint64(len(data)), func() {
			_, _, _ = workspace.open(workspace.id.recordsPrefix()+"0000000009", data, crypto.KindWorkspace)
		})
	})
}

func FuzzWrap(f *testing.F) {
	for _, path := range wrapsOfVector(f) {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	root := testRoot(f, 7)
	f.Fuzz(func(t *testing.T, data []byte) {
		store := overlay{Store: empty{}, objects: map[string][]byte{"keys/1/" + root.ID(): bytes.Clone(data)}}
		if data == nil {
			return
		}
		if _, err := getWrap(t.Context(), store, root, crypto.WrapPlace{KeyNumber: 1}, "keys/1/"); err == nil {
			t.Errorf("%q is a wrap that nobody made", data)
		}
	})
}

func wrapsOfVector(f *testing.F) []string {
	f.Helper()
	paths, err := filepath.Glob(filepath.Join(vectorDirectory, "repository", "workspaces", "*", "keys", "*", "*"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no wraps in the vector: %v", err)
	}
	return paths
}
