package repository

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/objectstore/faultstore"
)

// shortLease is what takeovers in tests wait for.
const shortLease = 50 * time.Millisecond

// stuck is a run whose lease is no longer renewed, as that of a machine that was suspended.
func stuck(t *testing.T, workspace *Workspace) *SnapshotWriter {
	t.Helper()
	writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "suspended", LeaseLifetime: shortLease})
	if err != nil {
		t.Fatal(err)
	}
	close(writer.lease.stop)
	<-writer.lease.done
	writer.lease.stop = make(chan struct{})
	return writer
}

func TestLeaseOfALivingRunIsNotTaken(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "first", LeaseLifetime: 400 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, err = workspace.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "second"})
	var held *LeaseHeldError
	if !errors.As(err, &held) || held.Holder != "first" || held.Purpose != "snapshot" {
		t.Errorf("second run beside the first: %v", err)
	}
	if err := fillSnapshot(t.Context(), writer, table(1, 1, 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Commit(t.Context(), Ending{Time: time.Now()}); err != nil {
		t.Errorf("the first run did not become effective: %v", err)
	}
}

func TestReleasedLeaseIsTakenAtOnce(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	for range 3 {
		begin := time.Now()
		writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{LeaseLifetime: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Abandon(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustSnapshot(t, workspace, table(1, 1, 10))
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("waited %s for a lease that was given back", took)
		}
	}
}

// The run that was suspended is made void before anybody lists manifests: it can never become effective afterwards.
func TestSuspendedRunCannotCommitAfterATakeover(t *testing.T) {
	directory := newDirectory(t)
	repository := createIn(t, directory)
	workspace := newTestWorkspace(t, repository)
	content := table(1, 3, 10)
	suspended := stuck(t, workspace)
	if err := fillSnapshot(t.Context(), suspended, table(1, 3, 10)); err != nil {
		t.Fatal(err)
	}
	var order []string
	watched := &watch{Store: directory, seen: func(what string) { order = append(order, what) }}
	taker, err := openIn(t, watched).OpenWorkspace(t.Context(), workspace.id)
	if err != nil {
		t.Fatal(err)
	}
	order = nil
	next, err := writeSnapshot(t.Context(), taker, SnapshotOptions{Holder: "taker"}, content)
	if err != nil {
		t.Fatal(err)
	}
	void, lease, base := -1, -1, -1
	for i, what := range order {
		switch what {
		case "put " + workspace.id.manifestKey(suspended.id):
			void = i
		case "replace " + workspace.id.leaseKey():
			if lease < 0 {
				lease = i
			}
		case "list " + workspace.id.snapshotsPrefix():
			base = i // the last: the first draws the name
		}
	}
	if void < 0 || lease < void || base < lease {
		t.Errorf("void at %d, lease at %d, base chosen at %d of %q", void, lease, base, order)
	}
	if _, err := suspended.Commit(t.Context(), Ending{Time: time.Now()}); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the suspended run's commit: %v", err)
	}
	if _, err := workspace.OpenSnapshot(t.Context(), suspended.id); !errors.Is(err, ErrVoid) {
		t.Errorf("its manifest: %v", err)
	}
	mustHold(t, next, content)
	third := mustSnapshot(t, workspace, content)
	if third.Manifest().Sequence != 2 || third.Manifest().Previous.Snapshot != next.Manifest().Snapshot {
		t.Errorf("sequence %d after %v", third.Manifest().Sequence, third.Manifest().Previous)
	}
	report := mustBeSound(t, repository)
	notices := make(map[string]int)
	for _, notice := range report.Notices {
		notices[notice.Kind] += notice.Count
	}
	if notices[NoticeVoids] != 1 || notices[NoticeLeftoverPacks] != 1 {
		t.Errorf("notices %+v", report.Notices)
	}
}

// A run that became effective just before it was taken over is honoured: its snapshot is the base.
func TestTakeoverHonoursARunThatBecameEffective(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	content := table(1, 3, 10)
	first := stuck(t, workspace)
	if err := fillSnapshot(t.Context(), first, content); err != nil {
		t.Fatal(err)
	}
	sealed, err := first.finish(Ending{Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := workspace.repository.store.PutIfAbsent(t.Context(), workspace.id.manifestKey(first.id), sealed); err != nil {
		t.Fatal(err)
	}
	first.cancel(context.Canceled) // and the machine is gone before it could release the lease
	second := mustSnapshot(t, workspace, content)
	if previous := second.Manifest().Previous; previous == nil || previous.Snapshot != first.id || second.Manifest().Statistics.NewBlocks != 0 {
		t.Errorf("previous %v, stored %d blocks", previous, second.Manifest().Statistics.NewBlocks)
	}
	first.lease.abandon()
}

func TestRunNoticesThatItWasTakenOver(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "first", LeaseLifetime: 40 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	// Somebody takes over as if the lease had expired.
	for {
		_, info, err := workspace.readLease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err = workspace.putLease(t.Context(), &leaseRecord{Epoch: 2, Purpose: "prune", Holder: "other", Lifetime: "1h", RunKey: workspace.id.plansPrefix() + "x", Released: true}, info.ETag); err == nil {
			break
		} else if !errors.Is(err, objectstore.ErrChanged) {
			t.Fatal(err)
		}
	}
	<-writer.Context().Done()
	if cause := context.Cause(writer.Context()); !errors.Is(cause, ErrLeaseLost) {
		t.Errorf("cause %v", cause)
	}
	if err := writer.Abandon(t.Context()); err != nil {
		t.Errorf("abandon: %v", err)
	}
	if record, _, err := workspace.readLease(t.Context()); err != nil || record.Holder != "other" {
		t.Errorf("the other's lease was overwritten: %+v, %v", record, err)
	}
}

// The manifest's write is answered with an error, before or after it happened.
func TestUnclearManifestWriteIsSettled(t *testing.T) {
	for _, test := range []struct {
		name string
		lost bool
	}{{"nothing was written", false}, {"the answer was lost", true}} {
		t.Run(test.name, func(t *testing.T) {
			directory := newDirectory(t)
			repository := createIn(t, directory)
			workspace := newTestWorkspace(t, repository)
			faults := faultstore.New(directory, faultstore.Fault{Method: faultstore.PutIfAbsent, KeyContains: "/snapshots/", Times: 1, Err: errInjected, LostAnswer: test.lost})
			failing, err := openIn(t, faults).OpenWorkspace(t.Context(), workspace.id)
			if err != nil {
				t.Fatal(err)
			}
			content := table(1, 3, 10)
			snapshot, err := writeSnapshot(t.Context(), failing, SnapshotOptions{LeaseLifetime: time.Hour}, content)
			if test.lost {
				if err != nil {
					t.Fatalf("the snapshot exists, and Commit says: %v", err)
				}
				mustHold(t, snapshot, content)
			} else if !errors.Is(err, errInjected) {
				t.Fatalf("commit: %v", err)
			}
			ids, err := workspace.SnapshotIDs(t.Context())
			if err != nil || len(ids) != 1 {
				t.Fatalf("%v, %v", ids, err)
			}
			if _, err := workspace.OpenSnapshot(t.Context(), ids[0]); errors.Is(err, ErrVoid) == test.lost {
				t.Errorf("at the manifest's key: %v", err)
			}
			mustSnapshot(t, workspace, content) // at once: the lease was given back
			mustBeSound(t, repository)
		})
	}
}

// A manifest that arrives after the run was reported as failed must not make a snapshot: the void is there before.
func TestLateManifestFindsAVoid(t *testing.T) {
	directory := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, directory))
	late := &lateWrites{Store: directory}
	failing, err := openIn(t, late).OpenWorkspace(t.Context(), workspace.id)
	if err != nil {
		t.Fatal(err)
	}
	late.arm()
	if _, err := writeSnapshot(t.Context(), failing, SnapshotOptions{}, table(1, 3, 10)); !errors.Is(err, errInjected) {
		t.Fatalf("commit: %v", err)
	}
	if _, err := directory.PutIfAbsent(t.Context(), late.key, late.content); !errors.Is(err, objectstore.ErrExists) {
		t.Errorf("the late manifest was stored: %v", err)
	}
}

// A renewal whose answer was lost leaves another version of the lease than its holder knows: it is still the holder's.
func TestLostAnswerToARenewalDoesNotEndTheRun(t *testing.T) {
	directory := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, directory))
	reached := make(chan string, 4)
	faults := faultstore.New(directory, faultstore.Fault{Method: faultstore.PutIfMatch, Times: 1, Err: errInjected, LostAnswer: true, Reached: reached})
	faults.Add(faultstore.Fault{Method: faultstore.PutIfMatch, Reached: reached})
	failing, err := openIn(t, faults).OpenWorkspace(t.Context(), workspace.id)
	if err != nil {
		t.Fatal(err)
	}
	writer, err := failing.BeginSnapshot(t.Context(), SnapshotOptions{LeaseLifetime: 40 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		select {
		case <-reached:
		case <-writer.Context().Done():
			t.Fatalf("the run ended: %v", errors.Join(context.Cause(writer.Context()), writer.Abandon(t.Context())))
		}
	}
	go func() {
		for range reached {
		}
	}()
	if _, err := writer.Commit(t.Context(), Ending{Time: time.Now()}); err != nil {
		t.Errorf("commit: %v", err)
	}
	close(reached)
}

// through is a workspace as a run sees it whose requests go through another store.
func through(workspace *Workspace, store objectstore.Store) *Workspace {
	repository := *workspace.repository
	repository.store = store
	return &Workspace{repository: &repository, id: workspace.id, keyring: workspace.keyring, current: workspace.current}
}

// A store that shows no lease and says that there is one, as a cache in between would, ends a run with an error.
func TestLeaseThatCannotBeTakenEndsTheRun(t *testing.T) {
	directory := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, directory))
	mustSnapshot(t, workspace, table(1, 1, 100))
	synctest.Test(t, func(t *testing.T) {
		blind := through(workspace, faultstore.New(directory, faultstore.Fault{Method: faultstore.Get, KeyContains: "/lease", Err: objectstore.ErrNotFound}))
		if _, _, err := blind.acquireLease(t.Context(), purposeSnapshot, "", blind.id.manifestKey(newSnapshotID(time.Now(), SnapshotID{})), time.Minute, nil); !errors.Is(err, objectstore.ErrExists) {
			t.Errorf("%v", err)
		}
	})
}

// A renewal that the store does not answer ends before the lease's lifetime does.
func TestRenewalThatStallsIsTriedAgain(t *testing.T) {
	directory := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, directory))
	synctest.Test(t, func(t *testing.T) {
		stalled, never := make(chan string, 1), make(chan struct{})
		failing := through(workspace, faultstore.New(directory, faultstore.Fault{Method: faultstore.PutIfMatch, Times: 1, Reached: stalled, Release: never}))
		held, ctx, err := failing.acquireLease(t.Context(), purposeSnapshot, "", failing.id.manifestKey(newSnapshotID(time.Now(), SnapshotID{})), time.Minute, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, _, err := failing.readLease(ctx)
		if err != nil {
			t.Fatal(err)
		}
		<-stalled
		<-time.After(31 * time.Second) // on the bubble's clock
		if now, _, err := failing.readLease(ctx); err != nil || now.Token == first.Token {
			t.Errorf("not renewed: %v", err)
		}
		if err := held.release(ctx); err != nil {
			t.Error(err)
		}
	})
}

// A run whose lease names another run key, and who does not know it because the answer was lost, gives the lease back all the same.
func TestLeaseRenamedUnknowinglyIsReleased(t *testing.T) {
	directory := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, directory))
	failing := through(workspace, faultstore.New(directory, faultstore.Fault{Method: faultstore.PutIfMatch, Times: 1, Err: errInjected, LostAnswer: true}))
	first := newSnapshotID(time.Now(), SnapshotID{})
	held, ctx, err := failing.acquireLease(t.Context(), purposeSnapshot, "", failing.id.manifestKey(first), time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := held.rename(ctx, failing.id.manifestKey(newSnapshotID(time.Now(), first))); !errors.Is(err, errInjected) {
		t.Errorf("rename: %v", err)
	}
	if err := held.release(ctx); err != nil {
		t.Errorf("release: %v", err)
	}
	if record, _, err := workspace.readLease(t.Context()); err != nil || !record.Released {
		t.Errorf("%+v, %v", record, err)
	}
}

func TestNamesRiseWhateverTheClockSays(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	var last string
	for round := range uint64(4) {
		snapshot := mustSnapshot(t, workspace, table(1, 1, 10)) // all within a second
		if id := snapshot.Manifest().Snapshot.String(); id <= last || snapshot.Manifest().Sequence != round+1 {
			t.Errorf("%s, number %d, after %s", id, snapshot.Manifest().Sequence, last)
		} else {
			last = id
		}
	}
	ahead := newSnapshotID(time.Now().Add(100*24*time.Hour), SnapshotID{})
	if id := newSnapshotID(time.Now(), ahead); id.String() <= ahead.String() {
		t.Errorf("%s after %s", id, ahead)
	}
}

// Two daemons that see a new database at the same moment must not begin two histories.
func TestRacingDaemonsMakeOneWorkspace(t *testing.T) {
	directory := newDirectory(t)
	createIn(t, directory)
	record := WorkspaceRecord{Server: "s", Database: "d", Identity: testIdentity(5)}
	const daemons = 8
	ids := make([]WorkspaceID, daemons)
	makers := make([]bool, daemons)
	var group sync.WaitGroup
	start := make(chan struct{})
	for i := range daemons {
		repository := openIn(t, directory)
		group.Go(func() {
			<-start
			workspace, created, err := repository.EnsureWorkspace(t.Context(), record)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i], makers[i] = workspace.ID(), created
		})
	}
	close(start)
	group.Wait()
	made := 0
	for i := range ids {
		if ids[i] != ids[0] {
			t.Errorf("daemon %d got %s, daemon 0 got %s", i, ids[i], ids[0])
		}
		if makers[i] {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d daemons say that they made it", made)
	}
	repository := openIn(t, directory)
	report := mustBeSound(t, repository)
	if len(report.Workspaces) != 1 || report.Workspaces[0].Workspace != ids[0] {
		t.Errorf("workspaces %+v", report.Workspaces)
	}
}

func TestIdentityDecidesWhichWorkspaceADatabaseIs(t *testing.T) {
	repository := newTestRepository(t)
	first := ensure(t, repository, WorkspaceRecord{Server: "s", Database: "acme", Identity: testIdentity(5)})
	content := table(1, 3, 10)
	mustSnapshot(t, first, content)

	renamed := ensure(t, repository, WorkspaceRecord{Server: "s", Database: "acme_old", Identity: testIdentity(5)})
	if renamed.ID() != first.ID() || renamed.Record().Database != "acme_old" {
		t.Errorf("after renaming: %s named %s, was %s", renamed.ID(), renamed.Record().Database, first.ID())
	}
	if snapshot := mustSnapshot(t, renamed, content); snapshot.Manifest().Sequence != 2 {
		t.Errorf("the history broke off: sequence %d", snapshot.Manifest().Sequence)
	}
	other := ensure(t, repository, WorkspaceRecord{Server: "s", Database: "acme", Identity: testIdentity(6)})
	if other.ID() == first.ID() {
		t.Error("a new database of the same name continues the old one's history")
	}
	cluster := ensure(t, repository, WorkspaceRecord{Server: "s", Database: "acme", Identity: Identity{SystemIdentifier: "8", Database: 5}})
	if cluster.ID() == first.ID() {
		t.Error("another cluster's database continues the old one's history")
	}
	all, err := repository.Workspaces(t.Context())
	if err != nil || len(all) != 3 {
		t.Errorf("%d workspaces, %v", len(all), err)
	}
	if _, err := repository.FindWorkspace(t.Context(), testIdentity(9)); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("a database never seen: %v", err)
	}
	mustBeSound(t, repository)
}

// A plan that this version does not understand may condemn the base, or need what a prune would delete: both kinds of runs give the lease back.
func TestPlansOfALaterVersionEndTheRun(t *testing.T) {
	const name = "20261122T140000Z-0123456789abcdef"
	var unknown *UnknownFeatureError
	for _, test := range []struct {
		name   string
		object string
		change func(*Plan)
		want   func(error) bool
	}{
		{"unknown feature", name, func(plan *Plan) { plan.Features = []string{"later"} }, func(err error) bool { return errors.Is(err, ErrPlanned) && errors.As(err, &unknown) }},
		{"newer format", name, func(plan *Plan) { plan.Format = 2 }, func(err error) bool { return errors.Is(err, ErrPlanned) && errors.Is(err, crypto.ErrNewerFormat) }},
		{"erasure", name, func(plan *Plan) { plan.Purpose = "erasure" }, func(err error) bool { return errors.Is(err, ErrPlanned) && !errors.Is(err, ErrDamaged) }},
		{"not a plan's name", "archive/1", nil, func(err error) bool { return errors.Is(err, ErrPlanned) }},
		{"not an object of hourvault", name, nil, func(err error) bool { return errors.Is(err, ErrDamaged) && !errors.Is(err, ErrPlanned) }},
		{"another plan's content", name, func(plan *Plan) { plan.Plan = newPlanID(time.Now(), PlanID{}) }, func(err error) bool { return errors.Is(err, ErrDamaged) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			directory := newDirectory(t)
			workspace := newTestWorkspace(t, createIn(t, directory))
			mustSnapshot(t, workspace, table(1, 1, 10))
			key, content := workspace.id.plansPrefix()+test.object, []byte("x")
			if test.change != nil {
				plan := Plan{Format: 1, Workspace: workspace.id, Purpose: purposePrune, Grace: "1h"}
				if err := plan.Plan.UnmarshalText([]byte(name)); err != nil {
					t.Fatal(err)
				}
				test.change(&plan)
				var err error
				if content, err = workspace.sealJSON(crypto.KindPlan, key, plan); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := directory.PutIfAbsent(t.Context(), key, content); err != nil {
				t.Fatal(err)
			}
			for range 2 { // a second time at once: the lease was given back
				if _, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{LeaseLifetime: time.Hour}); !test.want(err) || !strings.Contains(err.Error(), key) {
					t.Errorf("snapshot: %v", err)
				}
				if _, err := workspace.Prune(t.Context(), PruneOptions{LeaseLifetime: time.Hour}); !test.want(err) || !strings.Contains(err.Error(), key) {
					t.Errorf("prune: %v", err)
				}
			}
		})
	}
}
