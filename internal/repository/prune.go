package repository

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// DefaultGrace is how long packs stay after the plan that deletes them, unless a run asks for another time: it protects restores and
// drills, which hold no lease.
const DefaultGrace = 24 * time.Hour

// defaultMinimumAge is how old a manifest or a plan must be before it may be deleted, by the store's clock. A duplicate of the request that
// created it may still be under way; S3 refuses requests that were signed more than 15 minutes ago, so later none can create it again.
const defaultMinimumAge = time.Hour

// maxPlanEntries bounds what one plan names, all its lists together; an entry takes about 130 bytes of its text. What does not fit is left
// to the next plan.
const maxPlanEntries = 50_000

// pruneRequests is how many objects of a workspace a prune reads or deletes at once.
const pruneRequests = 8

// PruneOptions say who prunes, and what. The zero value of a duration means its default.
type PruneOptions struct {
	Holder        string // host and process, for whoever finds the lease held
	Writer        string // version of hourvault
	LeaseLifetime time.Duration
	// Grace is how long the packs of this run's plan stay; DefaultGrace if zero, none if negative. Packs of earlier plans stay as long
	// as those said.
	Grace time.Duration
	// Condemn is asked once which snapshots go, given all, ascending; nil condemns none. What must stay stays whatever it says:
	// PruneReport.Kept tells. The snapshots are valid only during the call.
	Condemn func(snapshots []*Snapshot) []SnapshotID
	// Progress, if not nil, is told how far the run is, by one goroutine at a time. It must not block.
	Progress func(PruneProgress)
	// Waiting, if not nil, is told once for each run whose lease has to be outwaited.
	Waiting func(LeaseWait)

	minimumAge    time.Duration // of manifests and plans to be deleted; negative: none
	entries       int           // of one plan
	requests      int           // at once
	settleTimeout time.Duration
}

// PruneProgress says how far a run is. Totals grow as the run finds out what there is to do.
type PruneProgress struct {
	Snapshots, SnapshotsTotal int // read
	Manifests, ManifestsTotal int // deleted
	Packs, PacksTotal         int // deleted
}

// Reasons why a snapshot stays although it was condemned: stable words.
const (
	KeptNewest = "newest" // a workspace always keeps its newest snapshot
	KeptYoung  = "young"  // stored less than an hour ago: the next run may delete it
	KeptLimit  = "limit"  // the plan is full: the next run deletes it
)

// PruneReport says what a run did. Lists are ascending.
type PruneReport struct {
	// Plan is the plan that the run made; zero when there was nothing to delete.
	Plan PlanID `json:"plan,omitzero"`
	// Deleted are the snapshots that Plan deletes. They are gone from the moment at which the plan exists; where Prune returned an
	// error besides, manifests may still be listed until the next run.
	Deleted []PlannedManifest `json:"deleted"`
	// Completed counts manifests that earlier plans name and that were still listed: the runs before ended early.
	Completed int `json:"completed,omitempty"`
	// Kept are snapshots that were condemned and stay.
	Kept []KeptSnapshot `json:"kept"`
	// PacksPlanned are those that Plan names; they are deleted after its grace period.
	PacksPlanned PackTotals `json:"packs_planned"`
	// PacksDeleted are those that this run deleted, by plans whose grace period has passed.
	PacksDeleted PackTotals `json:"packs_deleted"`
	// Waiting are plans, this run's included, of whose packs some are still stored.
	Waiting []WaitingPlan `json:"waiting"`
	// Superseded are plans that Plan stands for and that were deleted.
	Superseded []PlanID `json:"superseded,omitempty"`
}

// KeptSnapshot is a snapshot that was condemned and stays; Reason is one of KeptNewest, KeptYoung and KeptLimit.
type KeptSnapshot struct {
	Snapshot SnapshotID `json:"snapshot"`
	Reason   string     `json:"reason"`
}

// PackTotals counts packs, and their bytes.
type PackTotals struct {
	Count int    `json:"count"`
	Bytes uint64 `json:"bytes"`
}

func (t *PackTotals) add(size uint64) {
	t.Count++
	t.Bytes += size
}

// WaitingPlan is a plan some of whose packs are still stored.
type WaitingPlan struct {
	Plan  PlanID     `json:"plan"`
	Packs PackTotals `json:"packs"`
	// Due is when a prune may delete them, on the store's clock; zero when the store does not say when the plan was made.
	Due time.Time `json:"due,omitzero"`
}

// PlannedPackError says that a pack which a plan is about to delete is needed by a snapshot. That cannot happen while all writers keep to
// the format; the pack stays.
type PlannedPackError struct {
	Plan     PlanID
	Pack     PackName
	Snapshot SnapshotID
}

func (e *PlannedPackError) Error() string {
	return fmt.Sprintf("plan %s deletes pack %s, and snapshot %s needs it: the pack was left where it is; run hourvault verify and report this", e.Plan, e.Pack, e.Snapshot)
}

// HiddenSnapshotError says that there is a manifest, or something in its place, that the listing did not show: what can be deleted is not known.
type HiddenSnapshotError struct{ Object string }

func (e *HiddenSnapshotError) Error() string {
	return fmt.Sprintf("%s is there, and the store's listing did not show it: nothing is deleted, because it may need any pack; run hourvault verify", e.Object)
}

// UnexplainedError says that a snapshot is gone that another names, and that no plan deleted it. Packs that only it needs look left over:
// none is deleted until it was put back, or until no snapshot names it any more.
type UnexplainedError struct {
	Snapshot SnapshotID
	By       SnapshotID // names it
}

func (e *UnexplainedError) Error() string {
	return fmt.Sprintf("snapshot %s is not listed, snapshot %s names it, and no plan explains why it is gone: no further packs are deleted, so that it can be put back; run hourvault verify", e.Snapshot, e.By)
}

// Prune deletes the snapshots that options.Condemn names, and packs that no snapshot needs, by the rules of docs/format.md, "History and
// plans". It takes the workspace's lease, completes what earlier plans have left, stores a plan, and deletes the plan's manifests at once; its packs
// are deleted by the first Prune after the grace period. It may be repeated at any time, and interrupted anywhere: the next run of either
// kind goes on.
//
// *LeaseHeldError when another run is alive, ErrPlanned when a later version works on the workspace, ErrDamaged, with the objects' keys,
// when anything among the manifests or plans cannot be read, *HiddenSnapshotError when the store's listing is not complete: then nothing
// further is deleted. After *PlannedPackError and *UnexplainedError the run went on, without the packs in question. The report holds what
// was done even when there is an error.
func (w *Workspace) Prune(ctx context.Context, options PruneOptions) (PruneReport, error) {
	p := &pruner{workspace: w, store: w.repository.store, options: options.withDefaults(), found: make(map[PlanID]bool), known: make(map[SnapshotID]bool)}
	p.report = PruneReport{Deleted: []PlannedManifest{}, Kept: []KeptSnapshot{}, Waiting: []WaitingPlan{}}
	err := p.run(ctx)
	if err != nil {
		err = fmt.Errorf("prune workspace %s: %w", w.id, err)
	}
	return p.report, err
}

func (o PruneOptions) withDefaults() PruneOptions {
	if o.LeaseLifetime <= 0 {
		o.LeaseLifetime = DefaultLeaseLifetime
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	o.Grace = max(o.Grace, 0)
	if o.minimumAge == 0 {
		o.minimumAge = defaultMinimumAge
	}
	if o.entries == 0 {
		o.entries = maxPlanEntries
	}
	if o.requests == 0 {
		o.requests = pruneRequests
	}
	if o.settleTimeout <= 0 {
		o.settleTimeout = settleTimeout
	}
	if o.Condemn == nil {
		o.Condemn = func([]*Snapshot) []SnapshotID { return nil }
	}
	return o
}

// pruner is one run of Prune.
type pruner struct {
	workspace *Workspace
	store     objectstore.Store
	options   PruneOptions
	id        PlanID
	lease     *lease
	now       time.Time // on the store's clock: not later than any moment after the lease was taken
	report    PruneReport

	plans     []*storedPlan   // in effect, ascending
	spent     []*storedPlan   // of plans: no pack of them is stored any more
	found     map[PlanID]bool // plans whose manifests were still listed
	snapshots []*prunedSnapshot
	known     map[SnapshotID]bool // settled: listed, or named by a plan
	packs     map[PackName]uint64 // stored, with their sizes
	problems  []error             // that do not end the run

	mu       sync.Mutex
	progress PruneProgress
}

// prunedSnapshot is a manifest that is listed.
type prunedSnapshot struct {
	id        SnapshotID
	modified  time.Time // on the store's clock
	snapshot  *Snapshot // nil: a void
	condemned bool
}

func (p *pruner) run(ctx context.Context) error {
	listed, err := p.workspace.listPlans(ctx)
	if err != nil {
		return err
	}
	if greatest := listed.greatest(); !greatest.IsZero() && time.Until(greatest.Begun()) > maxAhead {
		return fmt.Errorf("%s is named %s ahead of this machine's clock: set the clock right, or remove that object if it is not a plan of yours", p.workspace.id.planKey(greatest), time.Until(greatest.Begun()).Round(time.Second))
	}
	p.id = newPlanID(time.Now(), listed.greatest())
	lease, leased, err := p.workspace.acquireLease(ctx, purposePrune, p.options.Holder, p.workspace.id.planKey(p.id), p.options.LeaseLifetime, p.options.Waiting)
	if err != nil {
		return err
	}
	p.lease = lease
	settled, err := p.work(leased)
	if cause := context.Cause(leased); err != nil && errors.Is(cause, ErrLeaseLost) && !errors.Is(err, ErrLeaseLost) {
		err = fmt.Errorf("%w: %w", ErrLeaseLost, err)
	}
	if !settled {
		lease.abandon()
		return err
	}
	// What was done is done; that the lease could not be given back only makes the next run wait for it to expire.
	releaseCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.options.settleTimeout)
	defer cancel()
	_ = lease.release(releaseCtx)
	return err
}

// work does what is done under the lease. settled is false when it is not known whether the plan exists.
func (p *pruner) work(ctx context.Context) (settled bool, err error) {
	defer func() {
		if len(p.problems) > 0 {
			err = errors.Join(append(p.problems, err)...)
		}
	}()
	for _, step := range []func(context.Context) error{p.readPlans, p.readClock, p.listSnapshots, p.completePlans, p.openSnapshots} {
		if err := step(ctx); err != nil {
			return true, err
		}
	}
	if len(p.snapshots) == 0 {
		return true, nil // without any snapshot nothing tells what is left over from what lost its manifest
	}
	for _, step := range []func(context.Context) error{p.listPacks, p.deletePacks} {
		if err := step(ctx); err != nil {
			return true, err
		}
	}
	plan, err := p.decide(ctx)
	if err != nil || plan == nil {
		p.wait(nil)
		return true, err
	}
	if settled, err := p.create(ctx, plan); err != nil {
		return settled, err
	}
	p.report.Plan, p.report.Deleted = plan.Plan, plan.Manifests
	for _, pack := range plan.Packs {
		p.report.PacksPlanned.add(pack.Size)
	}
	p.wait(plan)
	var manifests []SnapshotID
	for _, manifest := range plan.Manifests {
		manifests = append(manifests, manifest.Snapshot)
	}
	if err := p.deleteManifests(ctx, manifests); err != nil {
		return true, fmt.Errorf("plan %s is in effect, and the next run completes it: %w", plan.Plan, err)
	}
	if err := p.deletePlans(ctx, plan.Supersedes); err != nil {
		return true, err
	}
	return true, nil
}

// readPlans reads all plans, and makes sure that the run's own name comes after theirs.
func (p *pruner) readPlans(ctx context.Context) error {
	listed, err := p.workspace.listPlans(ctx)
	if err != nil {
		return err
	}
	if p.plans, err = listed.all(ctx); err != nil {
		return err
	}
	if greatest := listed.greatest(); comparePlans(greatest, p.id) >= 0 {
		// Another run ended between drawing the name and taking the lease.
		p.id = newPlanID(time.Now(), greatest)
		return p.lease.rename(ctx, p.workspace.id.planKey(p.id))
	}
	return nil
}

// readClock reads the store's clock: the time of the lease, which was just written.
func (p *pruner) readClock(ctx context.Context) error {
	info, err := p.store.Stat(ctx, p.workspace.id.leaseKey())
	p.now = info.Modified
	return err
}

// listSnapshots lists what lies below snapshots/. An object whose name is no snapshot's is not guessed at: a later version may have put it
// there, and may need packs by it.
func (p *pruner) listSnapshots(ctx context.Context) error {
	prefix := p.workspace.id.snapshotsPrefix()
	for info, err := range p.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		id, err := ParseSnapshotID(strings.TrimPrefix(info.Key, prefix))
		if err != nil {
			return fmt.Errorf("%s is not the name of a snapshot, and nothing is deleted while it is there: %w", info.Key, ErrDamaged)
		}
		p.snapshots = append(p.snapshots, &prunedSnapshot{id: id, modified: info.Modified})
		p.known[id] = true
	}
	slices.SortFunc(p.snapshots, func(a, b *prunedSnapshot) int { return compareIDs(a.id, b.id) })
	return nil
}

// completePlans deletes the manifests that earlier plans name, and the plans that later ones stand for.
func (p *pruner) completePlans(ctx context.Context) error {
	var left []SnapshotID
	superseded := make(map[PlanID]bool)
	for _, plan := range p.plans {
		p.snapshots = slices.DeleteFunc(p.snapshots, func(s *prunedSnapshot) bool {
			if plan.names(s.id) {
				left = append(left, s.id)
				p.found[plan.Plan.Plan] = true
				return true
			}
			return false
		})
		for _, manifest := range plan.Manifests {
			p.known[manifest.Snapshot] = true
		}
		for _, ref := range plan.Explained.Manifests {
			p.known[ref.Snapshot] = true
		}
		for _, id := range plan.Supersedes {
			superseded[id] = true
		}
	}
	if err := p.deleteManifests(ctx, left); err != nil {
		return err
	}
	p.report.Completed = len(left)
	var old []PlanID
	p.plans = slices.DeleteFunc(p.plans, func(plan *storedPlan) bool {
		if superseded[plan.Plan.Plan] {
			old = append(old, plan.Plan.Plan)
		}
		return superseded[plan.Plan.Plan]
	})
	return p.deletePlans(ctx, old)
}

// openSnapshots opens all manifests. When any cannot be read, nothing more is deleted: it may be whole and need packs, for another version or
// with another key.
func (p *pruner) openSnapshots(ctx context.Context) error {
	p.advance(func(progress *PruneProgress) { progress.SnapshotsTotal = len(p.snapshots) })
	unreadable := make([]error, len(p.snapshots))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.requests)
	for i, listed := range p.snapshots {
		group.Go(func() error {
			snapshot, err := p.workspace.OpenSnapshot(groupCtx, listed.id)
			p.advance(func(progress *PruneProgress) { progress.Snapshots++ })
			switch {
			case err == nil:
				listed.snapshot = snapshot
			case errors.Is(err, ErrVoid):
			case errors.Is(err, ErrDamaged), errors.Is(err, crypto.ErrNewerFormat), isUnknownFeature(err):
				unreadable[i] = err
			default:
				return fmt.Errorf("read manifest %s: %w", listed.id, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	p.snapshots = slices.DeleteFunc(p.snapshots, func(s *prunedSnapshot) bool { return s.snapshot == nil })
	if err := errors.Join(unreadable...); err != nil {
		return fmt.Errorf("nothing is deleted while a manifest cannot be read, because it may need any pack: %w", err)
	}
	return nil
}

// listPacks lists the packs that are stored.
func (p *pruner) listPacks(ctx context.Context) error {
	p.packs = make(map[PackName]uint64)
	prefix := p.workspace.id.packsPrefix()
	for info, err := range p.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		var name PackName
		if name.UnmarshalText([]byte(strings.TrimPrefix(info.Key, prefix))) == nil {
			p.packs[name] = uint64(info.Size)
		}
	}
	return nil
}

// needed returns the packs that snapshots need, each with one of those.
func needed(snapshots []*prunedSnapshot) map[PackName]SnapshotID {
	packs := make(map[PackName]SnapshotID)
	for _, snapshot := range snapshots {
		for _, pack := range snapshot.snapshot.manifest.Packs {
			packs[pack.Name] = snapshot.id
		}
	}
	return packs
}

// deletePacks is the second pass: it deletes the packs of plans whose grace period has passed. No manifest can need them, because a run takes
// packs over only from its base, and the base was there when the plan was made, or came after it. That is looked at once more all the same:
// a pack that is needed stays, and is reported at the end.
func (p *pruner) deletePacks(ctx context.Context) error {
	named := needed(p.snapshots)
	var due []PackName
	for _, plan := range p.plans {
		for _, pack := range plan.Packs {
			if _, stored := p.packs[pack.Name]; !stored {
				continue
			}
			if snapshot, needed := named[pack.Name]; needed {
				p.problems = append(p.problems, &PlannedPackError{Plan: plan.Plan.Plan, Pack: pack.Name, Snapshot: snapshot})
			} else if plan.due(p.now) && !p.found[plan.Plan.Plan] {
				// Where a manifest was still listed a restore may have begun with it: the next run is early enough.
				due = append(due, pack.Name)
			}
		}
	}
	p.advance(func(progress *PruneProgress) { progress.PacksTotal += len(due) })
	deleted := make([]bool, len(due))
	err := p.each(ctx, len(due), func(ctx context.Context, i int) error {
		err := p.store.Delete(ctx, p.workspace.id.packKey(due[i]))
		deleted[i] = err == nil
		p.advance(func(progress *PruneProgress) { progress.Packs++ })
		return err
	})
	for i, name := range due {
		if deleted[i] {
			p.report.PacksDeleted.add(p.packs[name])
			delete(p.packs, name)
		}
	}
	if err != nil {
		p.wait(nil)
		return err
	}
	for _, plan := range p.plans {
		if !slices.ContainsFunc(plan.Packs, func(pack PlannedPack) bool { _, stored := p.packs[pack.Name]; return stored }) {
			p.spent = append(p.spent, plan)
		}
	}
	return nil
}

// old says whether an object was written so long ago that no duplicate of the request that created it can be under way.
func (p *pruner) old(modified time.Time) bool {
	return !modified.IsZero() && p.now.Sub(modified) >= p.options.minimumAge
}

// decide makes the plan; nil when there is nothing to delete.
func (p *pruner) decide(ctx context.Context) (*Plan, error) {
	if err := p.condemn(); err != nil {
		return nil, err
	}
	plan := &Plan{Format: crypto.FormatVersion, Features: []string{}, Plan: p.id, Workspace: p.workspace.id, Time: time.Now().UTC().Truncate(time.Second),
		Writer: p.options.Writer, Purpose: purposePrune, Manifests: []PlannedManifest{}, Packs: []PlannedPack{}, Grace: p.options.Grace.String(),
		Explained: Explained{Manifests: []ManifestRef{}, Sequences: []SequenceRange{}}, Supersedes: []PlanID{}}
	var kept []*prunedSnapshot
	for _, snapshot := range p.snapshots {
		if !snapshot.condemned {
			kept = append(kept, snapshot)
			continue
		}
		plan.Manifests = append(plan.Manifests, PlannedManifest{ManifestRef: snapshot.snapshot.Ref(), Sequence: snapshot.snapshot.manifest.Sequence})
	}
	stays := needed(kept)
	for _, earlier := range p.plans {
		for _, pack := range earlier.Packs {
			stays[pack.Name] = SnapshotID{}
		}
	}
	if missing := p.unexplained(); missing != nil {
		p.problems = append(p.problems, missing)
	} else {
		var unneeded []PackName
		for name := range p.packs {
			// A void far ahead of the clock would keep all runs from beginning, so what is named like that is left alone.
			if _, stays := stays[name]; !stays && time.Until(name.Snapshot.Begun()) <= maxAhead {
				unneeded = append(unneeded, name)
			}
		}
		slices.SortFunc(unneeded, comparePacks)
		unneeded = unneeded[:min(len(unneeded), p.options.entries-len(plan.Manifests))]
		if err := p.settleRuns(ctx, unneeded); err != nil {
			return nil, err
		}
		for _, name := range unneeded {
			plan.Packs = append(plan.Packs, PlannedPack{Name: name, Size: p.packs[name]})
		}
	}
	if len(plan.Manifests) == 0 && len(plan.Packs) == 0 {
		return nil, nil
	}
	p.supersede(plan, kept)
	return plan, nil
}

// comparePacks orders packs as their names in print are.
func comparePacks(a, b PackName) int {
	return cmp.Or(compareIDs(a.Snapshot, b.Snapshot), bytes.Compare(a.ID[:], b.ID[:]))
}

// unexplained finds a snapshot that another names, and that neither is there nor was deleted by a plan; nil when there is none.
func (p *pruner) unexplained() error {
	there := make(map[SnapshotID]bool, len(p.snapshots))
	for _, snapshot := range p.snapshots {
		there[snapshot.id] = true
	}
	explained := make(map[SnapshotID][]ManifestRef)
	for _, plan := range p.plans {
		for _, manifest := range plan.Manifests {
			explained[manifest.Snapshot] = append(explained[manifest.Snapshot], manifest.ManifestRef)
		}
		for _, ref := range plan.Explained.Manifests {
			explained[ref.Snapshot] = append(explained[ref.Snapshot], ref)
		}
	}
	for _, snapshot := range p.snapshots {
		for _, ref := range snapshot.snapshot.manifest.references() {
			if !there[ref.Snapshot] && !slices.ContainsFunc(explained[ref.Snapshot], func(known ManifestRef) bool { return bytes.Equal(known.SHA256, ref.SHA256) }) {
				return &UnexplainedError{Snapshot: ref.Snapshot, By: snapshot.id}
			}
		}
	}
	return nil
}

// settleRuns makes sure that no manifest can need the packs: that the runs which wrote them either became effective and are known, or never
// can. The lease alone does not say so, because it may have been deleted or put back, and a listing may leave a manifest out.
func (p *pruner) settleRuns(ctx context.Context, packs []PackName) error {
	effective := make(map[SnapshotID]bool) // others took packs over from them
	for _, snapshot := range p.snapshots {
		for _, pack := range snapshot.snapshot.manifest.Packs {
			effective[pack.Name.Snapshot] = true
		}
	}
	var runs []SnapshotID
	renew := false
	for _, pack := range packs {
		if run := pack.Snapshot; !p.known[run] {
			p.known[run] = true
			runs = append(runs, run)
			renew = renew || !effective[run]
		}
	}
	if renew {
		// Whoever took over meanwhile is not to find its own run given up.
		if err := p.lease.confirm(ctx); err != nil {
			return err
		}
	}
	return p.each(ctx, len(runs), func(ctx context.Context, i int) error {
		key := p.workspace.id.manifestKey(runs[i])
		var err error
		if effective[runs[i]] {
			// It needs no void: its key was taken once, and no key is used twice.
			if _, err = p.store.Stat(ctx, key); errors.Is(err, objectstore.ErrNotFound) {
				return nil
			}
		} else if err = p.workspace.putVoid(ctx, key, p.options.Holder, "its packs are left over"); err == nil {
			return nil
		}
		if err != nil && !errors.Is(err, objectstore.ErrExists) {
			return fmt.Errorf("settle the run of left-over packs: %w", err)
		}
		_, err = p.workspace.OpenSnapshot(ctx, runs[i])
		switch {
		case errors.Is(err, ErrVoid):
			return nil
		case err == nil, errors.Is(err, ErrDamaged), errors.Is(err, crypto.ErrNewerFormat), isUnknownFeature(err):
			return &HiddenSnapshotError{Object: key}
		}
		return fmt.Errorf("read manifest %s: %w", runs[i], err)
	})
}

// condemn asks which snapshots go and marks those that may.
func (p *pruner) condemn() error {
	all := make([]*Snapshot, len(p.snapshots))
	byID := make(map[SnapshotID]*prunedSnapshot, len(p.snapshots))
	for i, snapshot := range p.snapshots {
		all[i], byID[snapshot.id] = snapshot.snapshot, snapshot
	}
	wanted := p.options.Condemn(all)
	slices.SortFunc(wanted, compareIDs)
	newest := p.snapshots[len(p.snapshots)-1]
	condemned := 0
	for _, id := range slices.Compact(wanted) {
		snapshot := byID[id]
		switch {
		case snapshot == nil:
			return fmt.Errorf("internal error: snapshot %s is condemned, and there is none of that name", id)
		case snapshot == newest:
			p.report.Kept = append(p.report.Kept, KeptSnapshot{Snapshot: id, Reason: KeptNewest})
		case !p.old(snapshot.modified):
			p.report.Kept = append(p.report.Kept, KeptSnapshot{Snapshot: id, Reason: KeptYoung})
		case condemned >= p.options.entries:
			p.report.Kept = append(p.report.Kept, KeptSnapshot{Snapshot: id, Reason: KeptLimit})
		default:
			snapshot.condemned = true
			condemned++
		}
	}
	return nil
}

// supersede makes the plan stand for earlier ones that are completed: it takes over what they explain, as far as a manifest that stays refers
// to it.
func (p *pruner) supersede(plan *Plan, kept []*prunedSnapshot) {
	referred := make(map[SnapshotID]bool)
	for _, snapshot := range kept {
		for _, ref := range snapshot.snapshot.manifest.references() {
			referred[ref.Snapshot] = true
		}
	}
	manifests := make(map[SnapshotID]ManifestRef)
	sequences := []SequenceRange{}
	for _, earlier := range p.spent {
		if !p.old(earlier.modified) {
			continue
		}
		more := maps.Clone(manifests)
		ranges := slices.Clone(earlier.Explained.Sequences)
		for _, ref := range earlier.Explained.Manifests {
			if referred[ref.Snapshot] {
				more[ref.Snapshot] = ref
			}
		}
		for _, manifest := range earlier.Manifests {
			if referred[manifest.Snapshot] {
				more[manifest.Snapshot] = manifest.ManifestRef
			}
			ranges = append(ranges, SequenceRange{From: manifest.Sequence, To: manifest.Sequence})
		}
		joined := addSequences(sequences, ranges...)
		if len(plan.Manifests)+len(plan.Packs)+len(more)+len(joined)+len(plan.Supersedes) >= p.options.entries {
			break // the next plan may have room
		}
		manifests, sequences = more, joined
		plan.Supersedes = append(plan.Supersedes, earlier.Plan.Plan)
	}
	for _, id := range slices.SortedFunc(maps.Keys(manifests), compareIDs) {
		plan.Explained.Manifests = append(plan.Explained.Manifests, manifests[id])
	}
	plan.Explained.Sequences = sequences
}

// references are the snapshots that the manifest names as earlier.
func (m *Manifest) references() []ManifestRef {
	if m.Previous == nil {
		return m.Alive
	}
	return append(slices.Clip(m.Alive), *m.Previous)
}

// create stores the plan, which puts it into effect. When it returns an error without settled, the plan may or may not exist, and the next
// run finds out.
func (p *pruner) create(ctx context.Context, plan *Plan) (settled bool, err error) {
	key := p.workspace.id.planKey(plan.Plan)
	content, err := p.workspace.sealJSON(crypto.KindPlan, key, plan)
	if err != nil {
		return true, err
	}
	if ctx.Err() != nil {
		return true, context.Cause(ctx)
	}
	_, cause := p.store.PutIfAbsent(ctx, key, content)
	if cause == nil {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.options.settleTimeout)
	defer cancel()
	if err := p.workspace.settle(ctx, key, p.options.Holder, "the plan's write was answered with an error"); err != nil {
		return false, fmt.Errorf("plan %s: %w; whether it exists is not known, because the store cannot be reached (%v): the next run settles it", plan.Plan, cause, err)
	}
	stored, _, err := objectstore.ReadAll(ctx, p.store, key, maxObjectSize)
	switch {
	case err != nil:
		return true, fmt.Errorf("plan %s: %w; whether it exists is not known, because it cannot be read (%v): the next run completes it if it does", plan.Plan, cause, err)
	case errors.Is(cause, objectstore.ErrNotEncrypted):
		// It may be in effect, and then stays so; but this run goes no further with a store that does not encrypt as it was asked.
		return true, fmt.Errorf("plan %s: %w", plan.Plan, cause)
	case bytes.Equal(stored, content):
		return true, nil
	case errors.Is(cause, objectstore.ErrExists):
		cause = ErrLeaseLost // somebody who took over made it void
	}
	return true, fmt.Errorf("plan %s: %w", plan.Plan, cause)
}

// wait reports the plans some of whose packs are still stored; made is this run's own, or nil.
func (p *pruner) wait(made *Plan) {
	for _, plan := range p.plans {
		waiting := WaitingPlan{Plan: plan.Plan.Plan}
		if !plan.modified.IsZero() {
			waiting.Due = plan.modified.Add(plan.grace)
		}
		for _, pack := range plan.Packs {
			if size, stored := p.packs[pack.Name]; stored {
				waiting.Packs.add(size)
			}
		}
		if waiting.Packs.Count > 0 {
			p.report.Waiting = append(p.report.Waiting, waiting)
		}
	}
	if made != nil && len(made.Packs) > 0 {
		// The plan was made after the lease was written, so this is at most the length of the run too early.
		p.report.Waiting = append(p.report.Waiting, WaitingPlan{Plan: made.Plan, Packs: p.report.PacksPlanned, Due: p.now.Add(p.options.Grace)})
	}
}

func (p *pruner) deleteManifests(ctx context.Context, ids []SnapshotID) error {
	p.advance(func(progress *PruneProgress) { progress.ManifestsTotal += len(ids) })
	return p.each(ctx, len(ids), func(ctx context.Context, i int) error {
		err := p.store.Delete(ctx, p.workspace.id.manifestKey(ids[i]))
		p.advance(func(progress *PruneProgress) { progress.Manifests++ })
		return err
	})
}

// deletePlans deletes plans that a later one in effect stands for.
func (p *pruner) deletePlans(ctx context.Context, ids []PlanID) error {
	err := p.each(ctx, len(ids), func(ctx context.Context, i int) error { return p.store.Delete(ctx, p.workspace.id.planKey(ids[i])) })
	if err == nil {
		p.report.Superseded = append(p.report.Superseded, ids...)
	}
	return err
}

// each calls work with 0 to n-1, several at once, until one fails.
func (p *pruner) each(ctx context.Context, n int, work func(context.Context, int) error) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.requests)
	for i := range n {
		if groupCtx.Err() != nil {
			break
		}
		group.Go(func() error { return work(groupCtx, i) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (p *pruner) advance(update func(*PruneProgress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	update(&p.progress)
	if p.options.Progress != nil {
		p.options.Progress(p.progress)
	}
}
