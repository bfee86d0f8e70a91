// Package witness keeps outside of a repository what was seen in it: of each workspace the newest snapshot's sequence and the SHA-256
// of its manifest. Nothing in a bucket can show that its newest part was deleted or hidden; whoever remembers better can.
//
// A sighting is only ever used to find that a repository became older. It is never needed for reading or writing one, and
// nothing here stops a backup. The package compares; what to do about it is its callers' matter.
package witness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hourvault/hourvault/internal/repository"
)

// Sighting is a snapshot that was seen in a repository.
type Sighting struct {
	// Repository is the repository's identifier, 32 hexadecimal digits; empty where the source does not say it.
	Repository string                 `json:"repository_id,omitempty"`
	Workspace  repository.WorkspaceID `json:"workspace_id"`
	// Name is what people called the workspace, "server/database"; only for messages.
	Name     string                `json:"workspace,omitempty"`
	Snapshot repository.SnapshotID `json:"snapshot,omitzero"`
	Sequence uint64                `json:"sequence"`
	SHA256   repository.HexBytes   `json:"manifest_sha256"`
}

// hashSize is the length of a SHA-256 in bytes.
const hashSize = 32

func (s Sighting) check() error {
	switch {
	case s.Workspace == repository.WorkspaceID{}:
		return errors.New("has no workspace_id")
	case s.Sequence == 0:
		return errors.New("has no sequence")
	case len(s.SHA256) != hashSize:
		return fmt.Errorf("has a manifest_sha256 of %d bytes", len(s.SHA256))
	}
	return nil
}

// Witness is the sighting as a check of the repository takes it.
func (s Sighting) Witness() repository.Witness {
	return repository.Witness{Workspace: s.Workspace, Sequence: s.Sequence, SHA256: s.SHA256}
}

// Contradiction says in what way the history that ends with newest is not the one in which s was seen; empty when nothing speaks against
// it. s must have been known before the run that took newest began. That a snapshot in the middle is gone is no contradiction:
// its successors miss it, and a check of the repository reports it.
//
// In all but rare cases nothing is read. An error means that the question could not be answered.
func (s Sighting) Contradiction(ctx context.Context, workspace *repository.Workspace, newest *repository.Snapshot) (string, error) {
	manifest := newest.Manifest()
	if manifest.Sequence <= s.Sequence {
		return fmt.Sprintf("snapshot %d was seen before, and the newest one that a backup found was %d", s.Sequence, manifest.Sequence-1), nil
	}
	alive := slices.Clone(manifest.Alive)
	slices.SortFunc(alive, func(a, b repository.ManifestRef) int {
		return strings.Compare(a.Snapshot.String(), b.Snapshot.String())
	})
	for _, ref := range alive {
		if ref.Snapshot == s.Snapshot {
			if !slices.Equal(ref.SHA256, s.SHA256) {
				return fmt.Sprintf("snapshot %d (%s) had another content before: history was written a second time", s.Sequence, s.Snapshot), nil
			}
			return "", nil
		}
	}
	// The snapshot is gone, and there are later ones. Either it was deleted from the middle, or all from it on were, and its number
	// was given out a second time. Numbers rise with names.
	var failed error
	_, found := slices.BinarySearchFunc(alive, s.Sequence, func(ref repository.ManifestRef, wanted uint64) int {
		snapshot, err := workspace.OpenSnapshot(ctx, ref.Snapshot)
		if err != nil {
			failed = cmp.Or(failed, err)
			return 1
		}
		return cmp.Compare(snapshot.Manifest().Sequence, wanted)
	})
	if failed != nil {
		return "", failed
	}
	if found {
		return fmt.Sprintf("snapshot %d was seen before as %s, and another one has that number now: history was written a second time", s.Sequence, s.Snapshot), nil
	}
	return "", nil
}
