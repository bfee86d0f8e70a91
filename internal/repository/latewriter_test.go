package repository

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/objectstore/faultstore"
)

// pruneNow deletes all that may be deleted, without any waiting.
func pruneNow(holder string) PruneOptions {
	options := pruneAll(holder)
	options.LeaseLifetime, options.Grace, options.minimumAge = shortLease, -1, -1
	return options
}

// machine is the workspace as another machine sees it, through faults.
func machine(t *testing.T, store objectstore.Store, id WorkspaceID, faults ...faultstore.Fault) *Workspace {
	t.Helper()
	workspace, err := openIn(t, faultstore.New(store, faults...)).OpenWorkspace(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return workspace
}

func TestSnapshotSuspendedWhileAnotherMachineSnapshotsAndDeletes(t *testing.T) {
	directory := newDirectory(t)
	repository := createIn(t, directory)
	workspace := newTestWorkspace(t, repository)
	mustSnapshot(t, workspace, table(1, 3, 10))

	// The machine is suspended when all its packs are stored and its manifest is about to be.
	reached, resume := make(chan string, 1), make(chan struct{})
	suspended := stuck(t, machine(t, directory, workspace.id, faultstore.Fault{Method: faultstore.PutIfAbsent, KeyContains: "/snapshots/", Times: 1, Reached: reached, Release: resume}))
	if suspended.Base() == nil {
		t.Fatal("the suspended snapshot takes nothing over")
	}
	if err := fillSnapshot(t.Context(), suspended, table(1, 3, 10), table(2, 3, 10)); err != nil {
		t.Fatal(err)
	}
	committed := make(chan error)
	go func() {
		_, err := suspended.Commit(t.Context(), Ending{Time: time.Now()})
		committed <- err
	}()
	<-reached

	// Another one takes a snapshot that needs nothing of the base, and deletes the base and all packs that only it and the suspended run need.
	content := table(3, 2, 10)
	next, err := writeSnapshot(t.Context(), workspace, SnapshotOptions{Holder: "taker"}, content)
	if err != nil {
		t.Fatal(err)
	}
	var deleted PackTotals
	for range 2 { // the plan, then its packs
		report, err := workspace.Prune(t.Context(), pruneNow("taker"))
		if err != nil {
			t.Fatal(err)
		}
		deleted.Count += report.PacksDeleted.Count
	}
	if left := keysOf(t, directory, workspace.id.packsPrefix()); deleted.Count == 0 || len(left) != len(next.Manifest().Packs) {
		t.Fatalf("%d packs deleted, %d left, and the snapshot needs %d", deleted.Count, len(left), len(next.Manifest().Packs))
	}

	close(resume)
	if err := <-committed; !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the suspended run's commit: %v", err)
	}
	mustBeSound(t, repository)
	mustHold(t, next, content)
	mustSnapshot(t, workspace, content)
	mustBeSound(t, repository)
}

func TestPruneSuspendedBetweenDecidingAndDeleting(t *testing.T) {
	for _, test := range []struct {
		name   string
		before faultstore.Fault
		effect bool
	}{
		{"before its plan exists", faultstore.Fault{Method: faultstore.PutIfAbsent, KeyContains: "/plans/"}, false},
		{"when its plan exists", faultstore.Fault{Method: faultstore.Delete, KeyContains: "/snapshots/"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			directory := newDirectory(t)
			repository := createIn(t, directory)
			workspace := newTestWorkspace(t, repository)
			mustSnapshot(t, workspace, table(1, 3, 10))
			content := table(2, 3, 10)
			second := mustSnapshot(t, workspace, content)

			reached, resume := make(chan string, 1), make(chan struct{})
			test.before.Times, test.before.Reached, test.before.Release = 1, reached, resume
			// A machine that is suspended renews nothing. The first replacement is the one that takes the lease.
			unrenewed := faultstore.Fault{Method: faultstore.PutIfMatch, From: 2, Err: errInjected}
			suspended := machine(t, directory, workspace.id, test.before, unrenewed)
			pruned := make(chan error)
			go func() {
				_, err := suspended.Prune(t.Context(), pruneNow("suspended"))
				pruned <- err
			}()
			<-reached

			next, err := writeSnapshot(t.Context(), workspace, SnapshotOptions{Holder: "taker"}, content)
			if err != nil {
				t.Fatal(err)
			}
			if base := next.Manifest().Previous; base == nil || base.Snapshot != second.Ref().Snapshot {
				t.Errorf("the next snapshot's base is %v", base)
			}
			before := keysOf(t, directory, workspace.id.prefix())
			close(resume)
			err = <-pruned
			after := keysOf(t, directory, workspace.id.prefix())
			if test.effect && err != nil || !test.effect && !errors.Is(err, ErrLeaseLost) {
				t.Errorf("the suspended prune: %v", err)
			}
			if !slices.Equal(before, after) {
				t.Errorf("the suspended prune changed what the other machine had left: %q, then %q", before, after)
			}
			ids, err := workspace.SnapshotIDs(t.Context())
			if want := map[bool]int{false: 3, true: 2}[test.effect]; err != nil || len(ids) != want {
				t.Errorf("%d snapshots, want %d (%v)", len(ids), want, err)
			}
			mustHold(t, next, content)
			mustBeSound(t, repository)
			for range 2 {
				if _, err := workspace.Prune(t.Context(), pruneNow("taker")); err != nil {
					t.Errorf("the next prune: %v", err)
				}
			}
			mustHold(t, mustSnapshot(t, workspace, content), content)
			mustBeSound(t, repository)
		})
	}
}

// delayed is a store that answers the first manifest's write with an error, once or never, and keeps it to let it arrive later.
type delayed struct {
	objectstore.Store
	retried bool // the store's client sends it again, and that succeeds
	arrive  func() error
}

func (d *delayed) PutIfAbsent(ctx context.Context, key string, content []byte) (objectstore.Info, error) {
	if _, err := ParseSnapshotID(key[max(0, len(key)-33):]); err != nil || d.arrive != nil {
		return d.Store.PutIfAbsent(ctx, key, content)
	}
	kept := slices.Clone(content)
	d.arrive = func() error {
		_, err := d.Store.PutIfAbsent(context.WithoutCancel(ctx), key, kept)
		return err
	}
	if d.retried {
		return d.Store.PutIfAbsent(ctx, key, content)
	}
	return objectstore.Info{}, errInjected
}

func TestManifestWhoseWriteTimesOutLandsAfterItsPacksWereDeleted(t *testing.T) {
	directory := newDirectory(t)
	repository := createIn(t, directory)
	workspace := newTestWorkspace(t, repository)
	content := table(1, 3, 10)
	first := mustSnapshot(t, workspace, content)
	late := &delayed{Store: directory}
	if _, err := writeSnapshot(t.Context(), machine(t, late, workspace.id), SnapshotOptions{}, table(2, 3, 10)); !errors.Is(err, errInjected) {
		t.Fatalf("commit: %v", err)
	}
	for range 2 {
		if _, err := workspace.Prune(t.Context(), pruneNow("other")); err != nil {
			t.Fatal(err)
		}
	}
	if left := keysOf(t, directory, workspace.id.packsPrefix()); len(left) != len(first.Manifest().Packs) {
		t.Fatalf("%d packs are left", len(left))
	}
	if err := late.arrive(); !errors.Is(err, objectstore.ErrExists) {
		t.Errorf("the late manifest: %v", err)
	}
	mustBeSound(t, repository)
	mustHold(t, mustSnapshot(t, workspace, content), content)
}

func TestDuplicateOfAManifestLandsAfterItsRetrySucceeded(t *testing.T) {
	directory := newDirectory(t)
	repository := createIn(t, directory)
	workspace := newTestWorkspace(t, repository)
	content := table(1, 3, 10)
	late := &delayed{Store: directory, retried: true}
	twice, err := writeSnapshot(t.Context(), machine(t, late, workspace.id), SnapshotOptions{}, table(2, 3, 10))
	if err != nil {
		t.Fatal(err)
	}
	mustSnapshot(t, workspace, content)
	// As long as a duplicate may be under way the snapshot is not deleted, whatever is asked for.
	options := pruneNow("other")
	options.minimumAge = 0 // the usual
	for range 2 {
		report, err := workspace.Prune(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(report.Kept, KeptSnapshot{Snapshot: twice.Ref().Snapshot, Reason: KeptYoung}) {
			t.Errorf("kept %v", report.Kept)
		}
	}
	if err := late.arrive(); err != nil {
		t.Errorf("the duplicate: %v", err)
	}
	mustBeSound(t, repository)
	mustHold(t, mustSnapshot(t, workspace, content), content)
}
