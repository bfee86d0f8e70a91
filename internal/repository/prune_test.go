package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/objectstore/faultstore"
	"github.com/hourvault/hourvault/internal/testenv"
)

// older shows a store's objects as written a while ago, the lease apart, as if that time had passed: tests need not wait for it.
type older struct {
	objectstore.Store
	by time.Duration
}

func (o *older) age(info objectstore.Info) objectstore.Info {
	if !strings.HasSuffix(info.Key, "/lease") {
		info.Modified = info.Modified.Add(-o.by)
	}
	return info
}

func (o *older) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	info, err := o.Store.Stat(ctx, key)
	return o.age(info), err
}

func (o *older) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		for info, err := range o.Store.List(ctx, prefix) {
			if !yield(o.age(info), err) {
				return
			}
		}
	}
}

func (o *older) Get(ctx context.Context, key string) (reader io.ReadCloser, info objectstore.Info, err error) {
	reader, info, err = o.Store.Get(ctx, key)
	return reader, o.age(info), err
}

// at opens a workspace through a store in which all objects are older.
func at(t testing.TB, store objectstore.Store, workspace *Workspace, later time.Duration) *Workspace {
	t.Helper()
	opened, err := openIn(t, &older{Store: store, by: later}).OpenWorkspace(t.Context(), workspace.id)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// condemn condemns snapshots by name.
func condemn(ids ...SnapshotID) func([]*Snapshot) []SnapshotID {
	return func(snapshots []*Snapshot) []SnapshotID {
		var there []SnapshotID
		for _, snapshot := range snapshots {
			if id := snapshot.manifest.Snapshot; slices.Contains(ids, id) {
				there = append(there, id)
			}
		}
		return there
	}
}

// condemnAll condemns all that there are.
func condemnAll(snapshots []*Snapshot) (ids []SnapshotID) {
	for _, snapshot := range snapshots {
		ids = append(ids, snapshot.manifest.Snapshot)
	}
	return ids
}

func mustPrune(t testing.TB, workspace *Workspace, options PruneOptions) PruneReport {
	t.Helper()
	options.Holder = "test"
	report, err := workspace.Prune(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func idOf(snapshot *Snapshot) SnapshotID { return snapshot.manifest.Snapshot }

func idsOf(t testing.TB, workspace *Workspace) []SnapshotID {
	t.Helper()
	ids, err := workspace.SnapshotIDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// series takes snapshots of a table of one block that changes every time beside one that stays.
func series(t testing.TB, workspace *Workspace, n int) (snapshots []*Snapshot, tables []testTable) {
	t.Helper()
	tables = []testTable{table(1, 5, 1000), table(2, 1, 3000)}
	for range n {
		tables[1].rows[0] = randomRow(3000)
		snapshots = append(snapshots, mustSnapshot(t, workspace, tables...))
	}
	return snapshots, tables
}

const day = 25 * time.Hour

// The two passes, seen from outside: manifests at once, packs that nobody needs after the grace period, and never one that is needed.
func TestPruneDeletesManifestsAtOnceAndPacksAfterTheGracePeriod(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, tables := series(t, workspace, 4)
	abandoned, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{})
	if err == nil {
		err = errors.Join(fillSnapshot(t.Context(), abandoned, table(3, 3, 3000)), abandoned.Abandon(t.Context()))
	}
	if err != nil {
		t.Fatal(err)
	}
	packs := keysOf(t, store, workspace.id.packsPrefix())
	aged := at(t, store, workspace, 2*time.Hour)
	report := mustPrune(t, aged, PruneOptions{Condemn: condemn(idOf(taken[0]), idOf(taken[1]))})
	if len(report.Deleted) != 2 || report.Deleted[0].Snapshot != idOf(taken[0]) || report.Deleted[1].Sequence != 2 || report.PacksDeleted.Count != 0 || report.PacksPlanned.Count == 0 || len(report.Waiting) != 1 {
		t.Errorf("first prune: %+v", report)
	}
	if ids := idsOf(t, workspace); !slices.Equal(ids, []SnapshotID{idOf(taken[2]), idOf(taken[3])}) {
		t.Errorf("listed: %v", ids)
	}
	if now := keysOf(t, store, workspace.id.packsPrefix()); !slices.Equal(now, packs) {
		t.Errorf("%d packs instead of %d within the grace period", len(now), len(packs))
	}
	sound := mustBeSound(t, repository)
	if !slices.ContainsFunc(sound.Notices, func(n Notice) bool {
		return n.Kind == NoticePlannedPacks && n.Object == workspace.id.planKey(report.Plan) && n.Count == report.PacksPlanned.Count && n.Bytes == report.PacksPlanned.Bytes
	}) || slices.ContainsFunc(sound.Notices, func(n Notice) bool { return n.Kind == NoticeLeftoverPacks }) {
		t.Errorf("notices %+v", sound.Notices)
	}
	// Nothing more to do until the grace period has passed.
	if again := mustPrune(t, aged, PruneOptions{}); !again.Plan.IsZero() || again.PacksDeleted.Count != 0 || len(again.Waiting) != 1 {
		t.Errorf("second prune: %+v", again)
	}
	last := mustPrune(t, at(t, store, workspace, day), PruneOptions{})
	if !last.Plan.IsZero() || last.PacksDeleted != report.PacksPlanned || len(last.Waiting) != 0 {
		t.Errorf("after the grace period: %+v, planned were %+v", last, report.PacksPlanned)
	}
	if now := keysOf(t, store, workspace.id.packsPrefix()); len(now) != len(packs)-report.PacksPlanned.Count {
		t.Errorf("%d packs of %d", len(now), len(packs))
	}
	mustHold(t, mustSnapshot(t, workspace, tables...), tables...)
	mustBeSound(t, repository)
}

func TestPruneKeepsTheNewestAndTheYoung(t *testing.T) {
	store := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, store))
	taken, _ := series(t, workspace, 3)
	report := mustPrune(t, at(t, store, workspace, 59*time.Minute), PruneOptions{Condemn: condemnAll})
	if want := []KeptSnapshot{{idOf(taken[0]), KeptYoung}, {idOf(taken[1]), KeptYoung}, {idOf(taken[2]), KeptNewest}}; !slices.Equal(report.Kept, want) || len(report.Deleted) != 0 || !report.Plan.IsZero() {
		t.Errorf("%+v", report)
	}
	report = mustPrune(t, at(t, store, workspace, 61*time.Minute), PruneOptions{Condemn: condemnAll})
	if want := []KeptSnapshot{{idOf(taken[2]), KeptNewest}}; !slices.Equal(report.Kept, want) || len(report.Deleted) != 2 {
		t.Errorf("%+v", report)
	}
	// A store that does not say when something was written, or whose clock was set back.
	series(t, workspace, 1)
	report = mustPrune(t, at(t, store, workspace, -2*time.Hour), PruneOptions{Condemn: condemnAll})
	if len(report.Kept) != 2 || len(report.Deleted) != 0 {
		t.Errorf("written in the future: %+v", report)
	}
}

// A manifest that cannot be read may need any pack, whatever the reason.
func TestUnreadableManifestsStopAPrune(t *testing.T) {
	for _, test := range []struct {
		name  string
		where func(*Workspace) (key string, content []byte)
		is    func(error) bool
	}{
		{"damaged", func(w *Workspace) (string, []byte) {
			return w.id.manifestKey(newSnapshotID(time.Now().Add(-time.Hour), SnapshotID{})), []byte("x")
		}, func(err error) bool { return errors.Is(err, ErrDamaged) }},
		{"unknown feature", func(w *Workspace) (string, []byte) {
			id := newSnapshotID(time.Now().Add(-time.Hour), SnapshotID{})
			content, err := w.sealJSON(crypto.KindManifest, w.id.manifestKey(id), Manifest{Format: 1, Features: []string{"later"}, Snapshot: id, Workspace: w.id})
			if err != nil {
				t.Fatal(err)
			}
			return w.id.manifestKey(id), content
		}, isUnknownFeature},
		{"not the name of a snapshot", func(w *Workspace) (string, []byte) { return w.id.snapshotsPrefix() + "other", []byte("x") }, func(err error) bool { return errors.Is(err, ErrDamaged) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := newDirectory(t)
			workspace := newTestWorkspace(t, createIn(t, store))
			series(t, workspace, 4)
			aged := at(t, store, workspace, day)
			mustPrune(t, aged, PruneOptions{Condemn: func(all []*Snapshot) []SnapshotID { return condemnAll(all)[:2] }})
			key, content := test.where(workspace)
			if _, err := store.PutIfAbsent(t.Context(), key, content); err != nil {
				t.Fatal(err)
			}
			before := keysOf(t, store, "")
			report, err := aged.Prune(t.Context(), PruneOptions{Condemn: condemnAll, LeaseLifetime: time.Hour})
			if !test.is(err) || !strings.Contains(err.Error(), key) {
				t.Errorf("%+v, %v", report, err)
			}
			if after := keysOf(t, store, ""); !slices.Equal(after, before) {
				t.Errorf("before %q, after %q", before, after)
			}
			if err := store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			if report := mustPrune(t, aged, PruneOptions{Condemn: condemnAll}); len(report.Deleted) != 1 || report.PacksDeleted.Count == 0 {
				t.Errorf("after its removal: %+v", report)
			}
		})
	}
}

// Without any snapshot the packs that are there may be those of manifests that somebody deleted.
func TestPruneDeletesNothingWhereThereIsNoSnapshot(t *testing.T) {
	store := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, store))
	taken, _ := series(t, workspace, 1)
	if err := store.Delete(t.Context(), workspace.id.manifestKey(idOf(taken[0]))); err != nil {
		t.Fatal(err)
	}
	if report := mustPrune(t, at(t, store, workspace, day), PruneOptions{}); !report.Plan.IsZero() {
		t.Errorf("%+v", report)
	}
	// Nor what an earlier plan names.
	taken, _ = series(t, workspace, 2)
	if report := mustPrune(t, at(t, store, workspace, day), PruneOptions{Condemn: condemn(idOf(taken[0]))}); report.PacksPlanned.Count == 0 {
		t.Fatalf("%+v", report)
	}
	if err := store.Delete(t.Context(), workspace.id.manifestKey(idOf(taken[1]))); err != nil {
		t.Fatal(err)
	}
	if report := mustPrune(t, at(t, store, workspace, 2*day), PruneOptions{}); report.PacksDeleted.Count != 0 {
		t.Errorf("%+v", report)
	}
}

// A manifest that a listing left out may be the only one that needs its packs.
func TestPruneStopsAtAManifestThatTheListingHides(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, tables := series(t, workspace, 3)
	key := workspace.id.manifestKey(idOf(taken[2])) // which nobody names
	faults := faultstore.New(store, faultstore.Fault{Method: faultstore.List, KeyContains: "/snapshots/", Hide: func(k string) bool { return k == key }})
	report, err := at(t, faults, workspace, day).Prune(t.Context(), PruneOptions{Condemn: condemn(idOf(taken[0]))})
	var hidden *HiddenSnapshotError
	if !errors.As(err, &hidden) || hidden.Object != key || !report.Plan.IsZero() {
		t.Errorf("%+v, %v", report, err)
	}
	if report := mustPrune(t, at(t, store, workspace, day), PruneOptions{Condemn: condemn(idOf(taken[0]))}); len(report.Deleted) != 1 {
		t.Errorf("%+v", report)
	}
	mustHold(t, taken[2], tables...)
	mustBeSound(t, repository)
}

// Where a snapshot was removed by somebody else its packs stay, so that it can be put back; other snapshots may go.
func TestPacksStayWhileASnapshotIsGoneUnexplained(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, _ := series(t, workspace, 4)
	key := workspace.id.manifestKey(idOf(taken[1]))
	content := contentOf(t, store, key)
	if err := store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	report, err := at(t, store, workspace, day).Prune(t.Context(), PruneOptions{Condemn: condemn(idOf(taken[2]))})
	var missing *UnexplainedError
	if !errors.As(err, &missing) || missing.Snapshot != idOf(taken[1]) || len(report.Deleted) != 1 || report.PacksPlanned.Count != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := store.PutIfAbsent(t.Context(), key, content); err != nil {
		t.Fatal(err)
	}
	if report := mustPrune(t, at(t, store, workspace, day), PruneOptions{}); report.PacksPlanned.Count == 0 {
		t.Errorf("put back: %+v", report)
	}
	mustBeSound(t, repository)
}

// The lease of a run was deleted, so nobody settled it: the prune does, before its packs go, and the run cannot become a snapshot without them.
func TestPruneSettlesTheRunsOfLeftOverPacks(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	series(t, workspace, 2)
	faults, reached, release := stopAt(store, faultstore.PutIfAbsent, "/snapshots/")
	slow, err := openIn(t, faults).OpenWorkspace(t.Context(), workspace.id)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := writeSnapshot(t.Context(), slow, SnapshotOptions{LeaseLifetime: time.Hour}, table(3, 3, 3000))
		done <- err
	}()
	var key string
	select {
	case key = <-reached:
	case err := <-done:
		t.Fatalf("the snapshot ended before its manifest: %v", err)
	}
	if err := store.Delete(t.Context(), workspace.id.leaseKey()); err != nil {
		t.Fatal(err)
	}
	report := mustPrune(t, at(t, store, workspace, day), PruneOptions{})
	if report.PacksPlanned.Count == 0 {
		t.Errorf("%+v", report)
	}
	close(release)
	if err := <-done; !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the late snapshot: %v", err)
	}
	if id, err := ParseSnapshotID(strings.TrimPrefix(key, workspace.id.snapshotsPrefix())); err != nil {
		t.Error(err)
	} else if _, err := workspace.OpenSnapshot(t.Context(), id); !errors.Is(err, ErrVoid) {
		t.Errorf("at its key: %v", err)
	}
	mustBeSound(t, repository)
}

// A manifest that a plan deleted lies there again, when the plan was superseded long ago: verify names it. And every plan keeps a snapshot that
// is newer than what it deletes.
func TestVerifyKnowsWhatPlansDeletedAndKept(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, _ := series(t, workspace, 4)
	key := workspace.id.manifestKey(idOf(taken[0]))
	content := contentOf(t, store, key)
	mustPrune(t, at(t, store, workspace, day), PruneOptions{Condemn: condemn(idOf(taken[0]))})
	last := mustPrune(t, at(t, store, workspace, 2*day), PruneOptions{Condemn: condemn(idOf(taken[1]), idOf(taken[2]))})
	if len(last.Superseded) != 1 {
		t.Fatalf("%+v", last)
	}
	mustBeSound(t, repository)
	mustReport(t, verify(t, openIn(t, overlay{Store: store, objects: map[string][]byte{key: content}}), VerifyOptions{}), ProblemHistoryBroken, key)
	newest := workspace.id.manifestKey(idOf(taken[3]))
	mustReport(t, verify(t, openIn(t, overlay{Store: store, objects: map[string][]byte{newest: nil}}), VerifyOptions{}), ProblemManifestMissing, workspace.id.snapshotsPrefix())
	damaged := verify(t, openIn(t, overlay{Store: store, objects: map[string][]byte{newest: []byte("x")}}), VerifyOptions{})
	mustReport(t, damaged, ProblemManifestDamaged, newest)
	if len(damaged.Problems) != 1 {
		t.Errorf("%v", damaged.Problems)
	}
}

// stop is a store whose n-th call that changes something of a kind waits, and tells so.
func stopAt(store objectstore.Store, method faultstore.Method, contains string) (faults *faultstore.Store, reached chan string, release chan struct{}) {
	reached, release = make(chan string, 1), make(chan struct{})
	return faultstore.New(store, faultstore.Fault{Method: method, KeyContains: contains, Times: 1, Reached: reached, Release: release}), reached, release
}

// A prune that is suspended between deciding and storing its plan finds a void when another run has taken over.
func TestSuspendedPruneCannotDeleteAfterATakeover(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, tables := series(t, workspace, 3)
	faults, reached, release := stopAt(store, faultstore.PutIfAbsent, "/plans/")
	faults.Add(faultstore.Fault{Method: faultstore.PutIfMatch, KeyContains: "/lease", From: 2, Err: errInjected}) // it renews no more
	suspended := at(t, faults, workspace, day)
	done := make(chan error, 1)
	go func() {
		_, err := suspended.Prune(t.Context(), PruneOptions{Holder: "suspended", LeaseLifetime: shortLease, Condemn: condemn(idOf(taken[0]))})
		done <- err
	}()
	var key string
	select {
	case key = <-reached:
	case err := <-done:
		t.Fatalf("the prune ended before its plan: %v", err)
	}
	fourth := mustSnapshot(t, workspace, tables...)
	close(release)
	if err := <-done; !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the late prune: %v", err)
	}
	if _, err := workspace.OpenSnapshot(t.Context(), idOf(taken[0])); err != nil {
		t.Errorf("a plan that never came into effect deleted: %v", err)
	}
	if len(fourth.manifest.Alive) != 3 {
		t.Errorf("alive %v", fourth.manifest.Alive)
	}
	report := mustBeSound(t, repository)
	if !slices.ContainsFunc(report.Notices, func(n Notice) bool { return n.Kind == NoticeVoids && n.Object == workspace.id.plansPrefix() }) || !strings.HasPrefix(key, workspace.id.plansPrefix()) {
		t.Errorf("notices %+v", report.Notices)
	}
}

// A plan is in effect and its run died before it deleted anything: whoever comes next deletes first, and takes nothing over from what is
// condemned.
func TestNextRunCompletesAPlanBeforeAnythingElse(t *testing.T) {
	for _, next := range []string{"snapshot", "prune"} {
		t.Run(next, func(t *testing.T) {
			store := newDirectory(t)
			repository := createIn(t, store)
			workspace := newTestWorkspace(t, repository)
			taken, tables := series(t, workspace, 4)
			faults := faultstore.New(store, faultstore.Fault{Method: faultstore.Delete, Err: errInjected})
			report, err := at(t, faults, workspace, day).Prune(t.Context(), PruneOptions{Condemn: condemn(idOf(taken[0]), idOf(taken[2]))})
			if !errors.Is(err, errInjected) || report.Plan.IsZero() || len(report.Deleted) != 2 {
				t.Fatalf("%+v, %v", report, err)
			}
			sound := mustBeSound(t, repository)
			if !slices.ContainsFunc(sound.Notices, func(n Notice) bool { return n.Kind == NoticePlanPending && n.Count == 2 }) {
				t.Errorf("notices %+v", sound.Notices)
			}
			if next == "prune" {
				if report := mustPrune(t, workspace, PruneOptions{}); report.Completed != 2 || !report.Plan.IsZero() || len(idsOf(t, workspace)) != 2 {
					t.Errorf("%+v, listed %v", report, idsOf(t, workspace))
				}
			}
			fifth := mustSnapshot(t, workspace, tables...)
			if ids := idsOf(t, workspace); !slices.Equal(ids, []SnapshotID{idOf(taken[1]), idOf(taken[3]), idOf(fifth)}) {
				t.Errorf("listed %v", ids)
			}
			alive := []SnapshotID{}
			for _, ref := range fifth.manifest.Alive {
				alive = append(alive, ref.Snapshot)
			}
			if !slices.Equal(alive, []SnapshotID{idOf(taken[1]), idOf(taken[3])}) || len(fifth.manifest.Warnings) != 0 {
				t.Errorf("alive %v, warnings %+v", alive, fifth.manifest.Warnings)
			}
			mustBeSound(t, repository)
		})
	}
}

// Another prune ends while one waits for the lease: plans must sort in the order in which they came into effect, because snapshots look at the
// newest only.
func TestPlansRiseWhenPrunesMeet(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, tables := series(t, workspace, 4)
	faults, reached, release := stopAt(store, faultstore.PutIfMatch, "/lease")
	waiting := at(t, faults, workspace, day)
	type outcome struct {
		report PruneReport
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		report, err := waiting.Prune(t.Context(), PruneOptions{Condemn: condemn(idOf(taken[1]))})
		done <- outcome{report, err}
	}()
	select {
	case <-reached:
	case ended := <-done:
		t.Fatalf("the prune ended before it took the lease: %v", ended.err)
	}
	first := mustPrune(t, at(t, store, workspace, day), PruneOptions{Condemn: condemn(idOf(taken[0]))})
	second := mustPrune(t, at(t, store, workspace, day), PruneOptions{Condemn: condemn(idOf(taken[2]))})
	close(release)
	third := <-done
	if third.err != nil || comparePlans(first.Plan, second.Plan) >= 0 || comparePlans(second.Plan, third.report.Plan) >= 0 {
		t.Errorf("%s, %s, then %s: %v", first.Plan, second.Plan, third.report.Plan, third.err)
	}
	mustHold(t, mustSnapshot(t, workspace, tables...), tables...)
	mustBeSound(t, repository)
}

// The plan names the newest of those that are left when its holder died: a snapshot must not take it for its base, even where nothing
// newer can be read.
func TestCondemnedManifestIsNeverABase(t *testing.T) {
	store := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, store))
	taken, tables := series(t, workspace, 3)
	faults := faultstore.New(store, faultstore.Fault{Method: faultstore.Delete, Err: errInjected})
	if _, err := at(t, faults, workspace, day).Prune(t.Context(), PruneOptions{Condemn: condemn(idOf(taken[1]))}); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	damaged := workspace.id.manifestKey(idOf(taken[2]))
	if err := store.Delete(t.Context(), damaged); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutIfAbsent(t.Context(), damaged, []byte("x")); err != nil {
		t.Fatal(err)
	}
	next := mustSnapshot(t, workspace, tables...)
	if next.manifest.Previous.Snapshot != idOf(taken[0]) {
		t.Errorf("base is %s", next.manifest.Previous.Snapshot)
	}
	if _, err := workspace.OpenSnapshot(t.Context(), idOf(taken[1])); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("the condemned manifest: %v", err)
	}
}

// A plan's write is answered with an error, before or after it happened.
func TestUnclearPlanWriteIsSettled(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer lost %v", lost), func(t *testing.T) {
			store := newDirectory(t)
			repository := createIn(t, store)
			workspace := newTestWorkspace(t, repository)
			taken, tables := series(t, workspace, 3)
			faults := faultstore.New(store, faultstore.Fault{Method: faultstore.PutIfAbsent, KeyContains: "/plans/", Times: 1, Err: errInjected, LostAnswer: lost})
			report, err := at(t, faults, workspace, day).Prune(t.Context(), PruneOptions{LeaseLifetime: time.Hour, Condemn: condemn(idOf(taken[0]))})
			if lost != (err == nil) || lost != (len(report.Deleted) == 1) || lost != (len(idsOf(t, workspace)) == 2) {
				t.Errorf("%+v, %v", report, err)
			}
			mustSnapshot(t, workspace, tables...) // at once: the lease was given back
			mustBeSound(t, repository)
		})
	}
}

// The second net: should a pack on a plan be needed all the same, it stays, loudly.
func TestPackThatIsNeededStaysWhateverAPlanSays(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, tables := series(t, workspace, 2)
	pack := taken[1].manifest.Packs[slices.IndexFunc(taken[1].manifest.Packs, func(p PackInfo) bool { return p.Name.Snapshot == idOf(taken[0]) })]
	plan := Plan{Format: 1, Plan: newPlanID(time.Now(), PlanID{}), Workspace: workspace.id, Purpose: purposePrune, Grace: "1h", Packs: []PlannedPack{{Name: pack.Name, Size: pack.Size}}}
	content, err := workspace.sealJSON(crypto.KindPlan, workspace.id.planKey(plan.Plan), plan)
	if err == nil {
		_, err = store.PutIfAbsent(t.Context(), workspace.id.planKey(plan.Plan), content)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = at(t, store, workspace, day).Prune(t.Context(), PruneOptions{Condemn: condemnAll})
	var needed *PlannedPackError
	if !errors.As(err, &needed) || needed.Pack != pack.Name || needed.Plan != plan.Plan {
		t.Errorf("%v", err)
	}
	mustHold(t, taken[1], tables...)
	mustReport(t, verify(t, repository, VerifyOptions{}), ProblemPackPlanned, workspace.id.packKey(pack.Name))
	// The next snapshot does not rely on it, so that the one that does can go.
	next := mustSnapshot(t, workspace, tables...)
	if slices.ContainsFunc(next.manifest.Packs, func(p PackInfo) bool { return p.Name == pack.Name }) {
		t.Error("a new snapshot takes a pack over that a plan names")
	}
	report, err := at(t, store, workspace, day).Prune(t.Context(), PruneOptions{Condemn: condemnAll})
	if !errors.As(err, &needed) || len(report.Deleted) != 1 || report.Deleted[0].Snapshot != idOf(taken[1]) {
		t.Errorf("%+v, %v", report, err)
	}
	if report := mustPrune(t, at(t, store, workspace, 3*day), PruneOptions{}); report.PacksDeleted.Count == 0 {
		t.Errorf("%+v", report)
	}
	if slices.Contains(keysOf(t, store, workspace.id.packsPrefix()), workspace.id.packKey(pack.Name)) {
		t.Error("the planned pack is still there")
	}
	mustHold(t, next, tables...)
	mustBeSound(t, repository)
}

func TestVerifyNamesPlansThatDoNotOpen(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, _ := series(t, workspace, 3)
	report := mustPrune(t, at(t, store, workspace, day), PruneOptions{Condemn: condemn(idOf(taken[0]))})
	key := workspace.id.planKey(report.Plan)
	content := contentOf(t, store, key)
	content[len(content)-1] ^= 1
	broken := overlay{Store: store, objects: map[string][]byte{key: content}}
	found := verify(t, openIn(t, broken), VerifyOptions{})
	mustReport(t, found, ProblemPlanDamaged, key)
	mustReport(t, found, ProblemManifestMissing, workspace.id.manifestKey(idOf(taken[0])))
	// And a manifest that no plan explains is missed as before.
	hidden := overlay{Store: store, objects: map[string][]byte{workspace.id.manifestKey(idOf(taken[1])): nil}}
	mustReport(t, verify(t, openIn(t, hidden), VerifyOptions{}), ProblemManifestMissing, workspace.id.manifestKey(idOf(taken[1])))
}

// What is left out of a full plan comes into the next.
func TestPlansAreBounded(t *testing.T) {
	store := newDirectory(t)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	series(t, workspace, 8)
	total := 0
	for round := 0; ; round++ {
		report := mustPrune(t, at(t, store, workspace, time.Duration(round+1)*day), PruneOptions{Condemn: condemnAll, entries: 2})
		if n := len(report.Deleted) + report.PacksPlanned.Count; n > 2 {
			t.Errorf("a plan of %d entries: %+v", n, report)
		}
		total += len(report.Deleted)
		if report.Plan.IsZero() {
			break
		}
		mustBeSound(t, repository)
	}
	if total != 7 || len(idsOf(t, workspace)) != 1 {
		t.Errorf("%d were deleted", total)
	}
	mustBeSound(t, repository)
	if leftover := len(keysOf(t, store, workspace.id.packsPrefix())); leftover > len(idsOf(t, workspace))*4 {
		t.Errorf("%d packs are left", leftover)
	}
}

// randomSeed is a seed to draw cases by: a new one, or that of PRUNE_SEED to run a failure again.
func randomSeed(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("HOURVAULT_TEST_PRUNE_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("HOURVAULT_TEST_PRUNE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// Random prunes and snapshots, some of which end early, while days pass: what is left can always be read, everything that is gone is
// explained, and plans do not pile up.
func TestRandomPrunesAndSnapshotsStayExplained(t *testing.T) {
	rounds, steps := 2, 25
	if testenv.Long() {
		rounds, steps = 20, 100
	}
	for range rounds {
		random := randomSeed(t)
		store := newDirectory(t)
		repository := createIn(t, store)
		workspace := newTestWorkspace(t, repository)
		content := make(map[SnapshotID]string)
		tables := []testTable{table(1, 30, 500), table(2, 5, 500)}
		plans := 0
		var passed time.Duration
		for step := range steps {
			passed += time.Duration(random.IntN(20)) * time.Hour
			for range 1 + random.IntN(3) {
				for range random.IntN(10) {
					tables[random.IntN(2)].rows[uint32(random.IntN(5))] = randomRow(500)
				}
				snapshot := mustSnapshot(t, workspace, tables...)
				for _, warning := range snapshot.manifest.Warnings {
					t.Errorf("step %d: warning %+v", step, warning)
				}
				content[idOf(snapshot)] = tables[0].text() + tables[1].text()
			}
			aged := older{Store: store, by: passed}
			faults := faultstore.New(&aged)
			pruning, err := openIn(t, faults).OpenWorkspace(t.Context(), workspace.id)
			if err != nil {
				t.Fatal(err)
			}
			if random.IntN(3) == 0 {
				faults.Add(faultstore.Fault{From: 1 + random.IntN(40), Err: errInjected, LostAnswer: random.IntN(2) == 0})
			}
			newest := idsOf(t, workspace)
			report, err := pruning.Prune(t.Context(), PruneOptions{LeaseLifetime: 20 * time.Millisecond, settleTimeout: time.Second, Condemn: func(all []*Snapshot) (ids []SnapshotID) {
				for _, snapshot := range all {
					if random.IntN(3) == 0 {
						ids = append(ids, idOf(snapshot))
					}
				}
				return ids
			}})
			if err != nil && !errors.Is(err, errInjected) {
				t.Fatalf("step %d: %v", step, err)
			}
			for _, deleted := range report.Deleted {
				delete(content, deleted.Snapshot)
				if deleted.Snapshot == newest[len(newest)-1] {
					t.Fatalf("step %d: the newest was deleted", step)
				}
			}
			found, verifyError := openIn(t, &aged).Verify(t.Context(), VerifyOptions{ReadData: true})
			if verifyError != nil || len(found.Problems) > 0 {
				t.Fatalf("step %d, after a prune that said %v: %v, %v", step, err, found.Problems, verifyError)
			}
			plans = max(plans, len(keysOf(t, store, workspace.id.plansPrefix())))
			if err == nil {
				history, err := workspace.listPlans(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				effective, err := history.all(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, plan := range effective {
					for _, old := range plan.Supersedes {
						if slices.Contains(history.listed, old) {
							t.Errorf("step %d: plan %s stands for %s, which is still there", step, plan.Plan.Plan, old)
						}
					}
				}
			}
		}
		report := mustPrune(t, workspace, PruneOptions{}) // completes what a plan without its report began
		for _, id := range idsOf(t, workspace) {
			snapshot, err := workspace.OpenSnapshot(t.Context(), id)
			if errors.Is(err, ErrVoid) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := readTables(t.Context(), snapshot)
			if err != nil || got[1]+got[2] != content[id] {
				t.Errorf("%s: other rows than were stored, %v", id, err)
			}
		}
		t.Logf("%d snapshots left, at most %d objects below plans/, at the end %+v", len(idsOf(t, workspace)), plans, report)
	}
}

// For every n the n-th call of a prune and all later ones fail, as if it was killed there, once with nothing done and once with the answer lost:
// the next runs of both kinds succeed and nothing is unexplained.
func TestPruneKilledAtEveryCallIsCompletedByTheNextRuns(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer lost %v", lost), func(t *testing.T) {
			t.Parallel()
			half := func(all []*Snapshot) []SnapshotID { return condemnAll(all)[:len(all)/2] }
			step := 1
			if lost && !testenv.Long() {
				step = 3
			}
			for n := 1; ; n += step {
				if n > 200 {
					t.Fatal("a prune never ends without the fault")
				}
				store := newDirectory(t)
				repository := createIn(t, store)
				workspace := newTestWorkspace(t, repository)
				for days := range time.Duration(2) {
					series(t, workspace, 3)
					mustPrune(t, at(t, store, workspace, days*day+day), PruneOptions{Condemn: half})
				}
				_, tables := series(t, workspace, 2)
				reached := make(chan string, 1000)
				faults := faultstore.New(&older{Store: store, by: 3 * day})
				killed, err := openIn(t, faults).OpenWorkspace(t.Context(), workspace.id)
				if err != nil {
					t.Fatal(err)
				}
				faults.Add(faultstore.Fault{From: n, Err: errInjected, LostAnswer: lost, Reached: reached})
				report, err := killed.Prune(t.Context(), PruneOptions{LeaseLifetime: shortLease, settleTimeout: 10 * time.Second, Condemn: half, requests: 1})
				faults.Clear()
				if err == nil && (report.Plan.IsZero() || report.PacksDeleted.Count == 0 || len(report.Superseded) == 0) {
					t.Errorf("call %d failed, and the prune ended well: %+v", n, report)
				}
				mustBeSound(t, repository)
				mustHold(t, mustSnapshot(t, workspace, tables...), tables...)
				mustPrune(t, at(t, store, workspace, 4*day), PruneOptions{Condemn: half})
				for _, notice := range mustBeSound(t, repository).Notices {
					if notice.Kind == NoticePlanPending || notice.Kind == NoticeLeftoverPacks {
						t.Errorf("call %d: %+v", n, notice)
					}
				}
				if len(reached) == 0 {
					t.Logf("a prune makes %d calls", n-1)
					break
				}
			}
		})
	}
}

// Ages are those of the store's clock: what S3 says of objects and of the lease.
func TestPruneJudgesAgesByTheClockOfARealStore(t *testing.T) {
	server := testenv.VersityGW(t)
	store := openServer(t, server)
	repository := createIn(t, store)
	workspace := newTestWorkspace(t, repository)
	taken, tables := series(t, workspace, 4)
	if report := mustPrune(t, workspace, PruneOptions{Condemn: condemnAll}); len(report.Kept) != 4 || !report.Plan.IsZero() {
		t.Errorf("younger than an hour: %+v", report)
	}
	report := mustPrune(t, workspace, PruneOptions{Condemn: condemn(idOf(taken[1])), minimumAge: -1})
	if len(report.Deleted) != 1 || len(report.Waiting) != 1 || time.Until(report.Waiting[0].Due).Round(time.Hour) != DefaultGrace {
		t.Errorf("%+v", report)
	}
	if report := mustPrune(t, workspace, PruneOptions{}); report.PacksDeleted.Count != 0 || len(report.Waiting) != 1 {
		t.Errorf("within the grace period: %+v", report)
	}
	report = mustPrune(t, workspace, PruneOptions{Condemn: condemn(idOf(taken[2])), minimumAge: -1, Grace: -1})
	if report.PacksPlanned.Count == 0 {
		t.Errorf("%+v", report)
	}
	if report := mustPrune(t, workspace, PruneOptions{}); report.PacksDeleted.Count == 0 || len(report.Waiting) != 1 {
		t.Errorf("without a grace period: %+v", report)
	}
	mustHold(t, mustSnapshot(t, workspace, tables...), tables...)
	mustBeSound(t, repository)
}

func openServer(t testing.TB, server *testenv.S3Server) objectstore.Store {
	t.Helper()
	store, err := objectstore.OpenS3(t.Context(), objectstore.S3Options{Bucket: server.NewBucket(t), Region: server.Region, Endpoint: server.Endpoint, PathStyle: true, SSE: objectstore.SSENone,
		AccessKeyID: server.AccessKey, SecretAccessKey: objectstore.NewSecret(server.SecretKey)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}
