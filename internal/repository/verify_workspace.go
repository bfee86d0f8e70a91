package repository

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// verifyReads is how many objects of a workspace a check reads at once.
const verifyReads = 8

// workspaceVerifier checks one workspace.
type workspaceVerifier struct {
	v         *verifier
	workspace *Workspace
	parts     *partReader // of all packs that any manifest names

	snapshots []*Snapshot // those that open and that no plan names, ascending by id
	listed    map[SnapshotID]objectState
	packs     map[PackName]*verifiedPack
	plans     []*storedPlan         // in effect, ascending
	condemned map[SnapshotID]PlanID // manifests that plans name
	planless  bool                  // some plans could not be read

	mu       sync.Mutex
	result   VerifiedWorkspace
	problems []Problem
	reported map[Problem]bool // by kind, object and message, without the snapshot
	damaged  map[SnapshotID]bool
}

// objectState is what lies at a manifest's key.
type objectState int

const (
	stateUnreadable objectState = iota
	stateVoid
	stateManifest
)

// verifiedPack is a pack that manifests name.
type verifiedPack struct{ info PackInfo }

func newWorkspaceVerifier(v *verifier, id WorkspaceID) *workspaceVerifier {
	workspace := &Workspace{repository: v.repository, id: id, keyring: make(map[uint32]*crypto.Key)}
	return &workspaceVerifier{
		v: v, workspace: workspace, listed: make(map[SnapshotID]objectState), packs: make(map[PackName]*verifiedPack),
		parts:    &partReader{workspace: workspace, keyNumbers: make(map[PackName]uint32)},
		result:   VerifiedWorkspace{Workspace: id, Damaged: []SnapshotID{}},
		reported: make(map[Problem]bool), damaged: make(map[SnapshotID]bool),
	}
}

func (w *workspaceVerifier) id() WorkspaceID { return w.workspace.id }

// report records a problem once, however many snapshots it shows in, and marks those as damaged.
func (w *workspaceVerifier) report(problem Problem, damaged ...SnapshotID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range damaged {
		w.damaged[id] = true
	}
	key := Problem{Kind: problem.Kind, Object: problem.Object, Message: problem.Message}
	if problem.Kind == ProblemPackMissing {
		key.Message = "" // once, however much refers to it
	}
	if w.reported[key] {
		return
	}
	w.reported[key] = true
	if problem.Snapshot.IsZero() && len(damaged) > 0 {
		problem.Snapshot = damaged[0]
	}
	problem.Workspace = w.id()
	w.problems = append(w.problems, problem)
}

func (w *workspaceVerifier) notice(notice Notice) {
	w.mu.Lock()
	notice.Workspace, notice.Name = w.id(), w.name()
	w.mu.Unlock()
	w.v.notice(notice)
}

// name is the workspace's name as far as it is known; the lock is held, or nobody else runs.
func (w *workspaceVerifier) name() string {
	if w.result.Server == "" && w.result.Database == "" {
		return ""
	}
	return w.result.Server + "/" + string(w.result.Database)
}

func (w *workspaceVerifier) run(ctx context.Context) {
	defer w.finish()
	if !w.checkKeys(ctx) {
		return
	}
	w.checkRecords(ctx)
	w.checkLease(ctx)
	// Manifests are listed before packs: all packs of a manifest that was seen were stored before it.
	w.openManifests(ctx)
	// Plans are listed after manifests: whatever deleted one of those was there before.
	w.readPlans(ctx)
	w.checkHistory(ctx)
	w.checkWitnesses()
	w.checkPacks(ctx)
	w.checkContent(ctx)
	w.dropDeleted(ctx)
}

// finish hands the outcome over.
func (w *workspaceVerifier) finish() {
	w.result.Damaged = append(w.result.Damaged, slices.SortedFunc(maps.Keys(w.damaged), compareIDs)...)
	for _, problem := range w.problems {
		problem.Name = w.name()
		w.v.problem(problem)
	}
	w.v.mu.Lock()
	defer w.v.mu.Unlock()
	w.v.report.Workspaces = append(w.v.report.Workspaces, w.result)
	for i := range w.v.report.Notices {
		if notice := &w.v.report.Notices[i]; notice.Workspace == w.id() {
			notice.Name = w.name()
		}
	}
}

func compareIDs(a, b SnapshotID) int { return strings.Compare(a.String(), b.String()) }

// list yields the infos below prefix, and reports when the listing fails.
func (w *workspaceVerifier) list(ctx context.Context, prefix string, each func(objectstore.Info)) bool {
	for info, err := range w.v.repository.store.List(ctx, prefix) {
		if err != nil {
			w.report(Problem{Kind: ProblemUnreadable, Object: prefix, Message: err.Error()})
			return false
		}
		each(info)
	}
	return true
}

// checkKeys opens all wraps under the configured root key. Without any key nothing else can be checked.
func (w *workspaceVerifier) checkKeys(ctx context.Context) bool {
	root := w.v.repository.root
	numbers := make(map[uint32][]string) // ids of root keys
	count := 0
	complete := w.list(ctx, w.id().keysPrefix(), func(info objectstore.Info) {
		count++
		number, rootID, nested := strings.Cut(strings.TrimPrefix(info.Key, w.id().keysPrefix()), "/")
		n, err := strconv.ParseUint(number, 10, 32)
		if !nested || err != nil || n == 0 || strconv.FormatUint(n, 10) != number {
			w.notice(Notice{Kind: NoticeUnexpected, Object: info.Key, Message: "not the name of a wrapped key"})
			return
		}
		numbers[uint32(n)] = append(numbers[uint32(n)], rootID)
	})
	if complete && len(numbers) == 0 {
		kind, message := ProblemKeyMissing, "no key: erased, or deleted by somebody"
		empty := true
		w.list(ctx, w.id().prefix(), func(objectstore.Info) { empty = false })
		if empty {
			kind, message = ProblemWorkspaceMissing, "a claim names this workspace, and nothing of it is there"
		}
		w.report(Problem{Kind: kind, Object: w.id().keysPrefix(), Message: message})
	}
	for number, roots := range numbers {
		mine := false
		for _, rootID := range roots {
			object := fmt.Sprintf("%s%d/%s", w.id().keysPrefix(), number, rootID)
			stored, err := w.v.readWrap(ctx, object, number, rootID)
			if rootID == root.ID() {
				mine = true
				if err == nil || len(stored.Wrapped) > 0 {
					place := crypto.WrapPlace{Repository: w.v.repository.id, Workspace: crypto.ID(w.id()), KeyNumber: number}
					key, unwrapError := crypto.UnwrapKey(ctx, root, stored.Wrapped, place)
					if unwrapError == nil {
						w.workspace.keyring[number] = key
						w.workspace.current = max(w.workspace.current, number)
					}
					err = errors.Join(err, unwrapError)
				}
			}
			if err != nil {
				w.report(Problem{Kind: problemKind(err, ProblemKeyDamaged, ProblemKeyMissing), Object: object, Message: err.Error()})
			}
		}
		if !mine {
			w.report(Problem{Kind: ProblemWrongRootKey, Object: fmt.Sprintf("%s%d/", w.id().keysPrefix(), number),
				Message: fmt.Sprintf("wrapped under %s only, and the configured root key is %s", strings.Join(roots, ", "), root.ID())})
		}
	}
	return len(w.workspace.keyring) > 0
}

// readWrap reads a key object and holds what it says of itself in the clear against its name. Nothing else depends on that.
func (v *verifier) readWrap(ctx context.Context, object string, number uint32, rootID string) (stored wrap, err error) {
	content, _, err := objectstore.ReadAll(ctx, v.repository.store, object, maxSmallObject)
	if err != nil {
		return stored, err
	}
	if err := json.Unmarshal(content, &stored); err != nil {
		return stored, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case stored.Format > crypto.FormatVersion:
		return stored, crypto.ErrNewerFormat
	case stored.Format < 1 || stored.Key != number || stored.RootKey != rootID:
		return stored, fmt.Errorf("%w: says that it is key %d under root key %s", ErrDamaged, stored.Key, printable(stored.RootKey))
	}
	return stored, nil
}

// checkRepositoryKey checks the wraps of the repository's own key: one of them was opened to come this far, and may have been changed since.
func (v *verifier) checkRepositoryKey(ctx context.Context) error {
	prefix := repositoryKeyPrefix(repositoryKeyNumber) + v.repository.ID() + "/"
	mine := false
	for info, err := range v.repository.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		rootID := strings.TrimPrefix(info.Key, prefix)
		stored, err := v.readWrap(ctx, info.Key, repositoryKeyNumber, rootID)
		if rootID == v.repository.root.ID() {
			mine = true
			if err == nil || len(stored.Wrapped) > 0 {
				key, unwrapError := crypto.UnwrapKey(ctx, v.repository.root, stored.Wrapped, crypto.WrapPlace{Repository: v.repository.id, KeyNumber: repositoryKeyNumber})
				if unwrapError == nil {
					key.Wipe()
				}
				err = errors.Join(err, unwrapError)
			}
		}
		if err != nil {
			v.problem(Problem{Kind: problemKind(err, ProblemKeyDamaged, ProblemKeyMissing), Object: info.Key, Message: err.Error()})
		}
	}
	if !mine {
		v.problem(Problem{Kind: ProblemKeyMissing, Object: prefix + v.repository.root.ID(), Message: "the repository's own key is gone: nothing could be opened any more"})
	}
	return nil
}

// printable shortens and quotes text that nothing authenticates.
func printable(text string) string {
	return strconv.QuoteToASCII(text[:min(len(text), 64)])
}

// checkRecords opens all versions of the workspace's record.
func (w *workspaceVerifier) checkRecords(ctx context.Context) {
	var records []string
	if !w.list(ctx, w.id().recordsPrefix(), func(info objectstore.Info) { records = append(records, info.Key) }) {
		return
	}
	if len(records) == 0 {
		w.report(Problem{Kind: ProblemRecordDamaged, Object: w.id().recordsPrefix(), Message: "no record: the workspace's name is not known"})
	}
	for _, object := range records {
		if _, err := strconv.ParseUint(path.Base(object), 10, 64); err != nil {
			w.report(Problem{Kind: ProblemUnexpected, Object: object, Message: "not the name of a workspace record: the workspace cannot be opened until it is removed"})
			continue
		}
		var record WorkspaceRecord
		if err := w.workspace.readJSON(ctx, object, &record, crypto.KindWorkspace); err != nil {
			w.report(Problem{Kind: problemKind(err, ProblemRecordDamaged, ProblemRecordDamaged), Object: object, Message: err.Error()})
			continue
		}
		w.mu.Lock()
		w.result.Server, w.result.Database = record.Server, record.Database
		w.mu.Unlock()
	}
}

// checkLease opens the lease, if there is one: a damaged one keeps all further runs from beginning.
func (w *workspaceVerifier) checkLease(ctx context.Context) {
	record, _, err := w.workspace.readLease(ctx)
	if errors.Is(err, objectstore.ErrNotFound) {
		return
	}
	if err == nil {
		if lifetime, parseError := time.ParseDuration(record.Lifetime); parseError != nil || lifetime <= 0 {
			err = fmt.Errorf("%w: lifetime %q", ErrDamaged, record.Lifetime)
		}
	}
	if err != nil {
		w.report(Problem{Kind: problemKind(err, ProblemLeaseDamaged, ProblemLeaseDamaged), Object: w.id().leaseKey(), Message: err.Error()})
	}
}

// openManifests opens all manifests.
func (w *workspaceVerifier) openManifests(ctx context.Context) {
	var ids []SnapshotID
	w.list(ctx, w.id().snapshotsPrefix(), func(info objectstore.Info) {
		id, err := ParseSnapshotID(strings.TrimPrefix(info.Key, w.id().snapshotsPrefix()))
		if err != nil {
			w.report(Problem{Kind: ProblemUnexpected, Object: info.Key, Message: "not the name of a snapshot"})
			return
		}
		ids = append(ids, id)
	})
	var group errgroup.Group
	group.SetLimit(verifyReads)
	voids := 0
	for _, id := range ids {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			snapshot, err := w.workspace.OpenSnapshot(ctx, id)
			switch {
			case err == nil:
				w.mu.Lock()
				w.snapshots = append(w.snapshots, snapshot)
				w.listed[id] = stateManifest
				w.mu.Unlock()
				w.v.advance(func(p *VerifyProgress) { p.Snapshots++ })
				return nil
			case errors.Is(err, ErrVoid):
				w.mu.Lock()
				w.listed[id] = stateVoid
				voids++
				w.mu.Unlock()
				return nil
			case errors.Is(err, objectstore.ErrNotFound):
				return nil // deleted since it was listed; others that name it tell whether that is a problem
			}
			w.mu.Lock()
			w.listed[id] = stateUnreadable
			w.mu.Unlock()
			w.report(Problem{Kind: problemKind(err, ProblemManifestDamaged, ProblemManifestMissing), Object: w.id().manifestKey(id), Message: err.Error()}, id)
			return nil
		})
	}
	_ = group.Wait() // problems were collected; no function returns an error
	slices.SortFunc(w.snapshots, func(a, b *Snapshot) int { return compareIDs(a.manifest.Snapshot, b.manifest.Snapshot) })
	if voids > 0 {
		w.notice(Notice{Kind: NoticeVoids, Object: w.id().snapshotsPrefix(), Count: voids, Message: "runs that were given up before they became snapshots"})
	}
}

// planListings is how often plans are listed anew because one went away meanwhile: the plan that stands for it may not have been listed.
const planListings = 5

// readPlans opens all plans, and sets those manifests apart that they name: nobody promises that what those need is still there.
func (w *workspaceVerifier) readPlans(ctx context.Context) {
	for listing := 1; ; listing++ {
		var unreadable []Problem
		voids, gone := 0, false
		w.plans = nil
		complete := w.list(ctx, w.id().plansPrefix(), func(info objectstore.Info) {
			var id PlanID
			if id.UnmarshalText([]byte(strings.TrimPrefix(info.Key, w.id().plansPrefix()))) != nil {
				unreadable = append(unreadable, Problem{Kind: ProblemUnexpected, Object: info.Key, Message: "not the name of a plan: of a later version, and this one can neither take snapshots nor prune while it is there"})
				return
			}
			plan, err := w.workspace.openPlan(ctx, id)
			switch kind := problemKind(err, ProblemPlanDamaged, ""); {
			case err == nil:
				w.plans = append(w.plans, plan)
			case errors.Is(err, ErrVoid):
				voids++
			case errors.Is(err, objectstore.ErrNotFound):
				gone = true
			case kind == ProblemUnreadable && errors.Is(err, ErrPlanned):
				unreadable = append(unreadable, Problem{Kind: ProblemUnknownFeature, Object: info.Key, Message: err.Error()})
			default:
				unreadable = append(unreadable, Problem{Kind: kind, Object: info.Key, Message: err.Error()})
			}
		})
		if gone && listing < planListings {
			continue
		}
		for _, problem := range unreadable {
			w.report(problem)
		}
		w.planless = !complete || len(unreadable) > 0
		if voids > 0 {
			w.notice(Notice{Kind: NoticeVoids, Object: w.id().plansPrefix(), Count: voids, Message: "prunes that were given up before they decided what to delete"})
		}
		break
	}
	slices.SortFunc(w.plans, func(a, b *storedPlan) int { return comparePlans(a.Plan.Plan, b.Plan.Plan) })
	w.condemned = make(map[SnapshotID]PlanID)
	for _, plan := range w.plans {
		listed := 0
		for _, manifest := range plan.Manifests {
			w.condemned[manifest.Snapshot] = plan.Plan.Plan
			if state, present := w.listed[manifest.Snapshot]; present && state != stateVoid {
				listed++
			}
		}
		if listed > 0 {
			w.notice(Notice{Kind: NoticePlanPending, Object: w.id().planKey(plan.Plan.Plan), Count: listed, Message: "snapshots that this plan deletes are still listed: it is being carried out, or the next run completes it"})
		}
	}
	w.snapshots = slices.DeleteFunc(w.snapshots, func(s *Snapshot) bool { _, condemned := w.condemned[s.manifest.Snapshot]; return condemned })
	w.result.Snapshots = len(w.snapshots)
}

// dropDeleted takes back what was reported of snapshots that a plan deleted while the check was under way.
func (w *workspaceVerifier) dropDeleted(ctx context.Context) {
	if !slices.ContainsFunc(w.problems, func(p Problem) bool { return p.Kind == ProblemPackMissing }) {
		return
	}
	plans, err := w.workspace.listPlans(ctx)
	if err != nil {
		return // reported when they were listed before
	}
	deleted := make(map[SnapshotID]bool)
	for _, id := range plans.listed {
		if plan, err := plans.open(ctx, id); err == nil && plan != nil {
			for _, manifest := range plan.Manifests {
				deleted[manifest.Snapshot] = true
				delete(w.damaged, manifest.Snapshot)
			}
		}
	}
	needed := make(map[string]bool)
	for _, snapshot := range w.snapshots {
		if !deleted[snapshot.manifest.Snapshot] {
			for _, pack := range snapshot.manifest.Packs {
				needed[w.id().packKey(pack.Name)] = true
			}
		}
	}
	w.problems = slices.DeleteFunc(w.problems, func(p Problem) bool { return p.Kind == ProblemPackMissing && !needed[p.Object] })
}

// checkHistory holds the manifests against what they say of one another.
func (w *workspaceVerifier) checkHistory(ctx context.Context) {
	byID := make(map[SnapshotID]*Snapshot, len(w.snapshots))
	for _, snapshot := range w.snapshots {
		byID[snapshot.manifest.Snapshot] = snapshot
	}
	missing := make(map[SnapshotID]bool)
	deleted := make(map[string]bool) // by plans: id and hash
	var sequences []SequenceRange
	for _, plan := range w.plans {
		for _, manifest := range plan.Manifests {
			deleted[manifest.Snapshot.String()+string(manifest.SHA256)] = true
			sequences = append(sequences, SequenceRange{From: manifest.Sequence, To: manifest.Sequence})
		}
		for _, ref := range plan.Explained.Manifests {
			deleted[ref.Snapshot.String()+string(ref.SHA256)] = true
		}
		sequences = append(sequences, plan.Explained.Sequences...)
	}
	sequences = addSequences(nil, sequences...)
	unexplained := "a later snapshot names this one, and no plan explains why it is gone: it was deleted or hidden by somebody else"
	if w.planless {
		unexplained = "a later snapshot names this one, and no plan that can be read explains why it is gone"
	}
	for _, snapshot := range w.snapshots {
		manifest := &snapshot.manifest
		for _, ref := range manifest.references() {
			object := w.id().manifestKey(ref.Snapshot)
			state, present := w.listed[ref.Snapshot]
			known := byID[ref.Snapshot]
			switch {
			case !present || state == stateVoid:
				if !deleted[ref.Snapshot.String()+string(ref.SHA256)] {
					missing[ref.Snapshot] = true
					w.report(Problem{Kind: ProblemManifestMissing, Object: object, Snapshot: ref.Snapshot, Message: unexplained})
				}
			case known != nil && !bytes.Equal(known.sha256, ref.SHA256):
				w.report(Problem{Kind: ProblemManifestChanged, Object: object, Snapshot: ref.Snapshot,
					Message: fmt.Sprintf("has SHA-256 %x, and a later snapshot recorded %x", known.sha256, []byte(ref.SHA256))})
			}
			if compareIDs(ref.Snapshot, manifest.Snapshot) >= 0 {
				w.report(Problem{Kind: ProblemHistoryBroken, Object: w.id().manifestKey(manifest.Snapshot), Snapshot: manifest.Snapshot, Message: "names a snapshot as earlier that is not: " + ref.Snapshot.String()})
			}
		}
		if manifest.Previous != nil {
			if before := byID[manifest.Previous.Snapshot]; before != nil && before.manifest.Sequence >= manifest.Sequence {
				w.report(Problem{Kind: ProblemHistoryBroken, Object: w.id().manifestKey(manifest.Snapshot), Snapshot: manifest.Snapshot,
					Message: fmt.Sprintf("has sequence %d, and the one before has %d", manifest.Sequence, before.manifest.Sequence)})
			}
		}
	}
	// Each run writes the number after the last, and one more for each later manifest that it could not read: so what lies between
	// two numbers must be known in another way.
	bySequence := slices.SortedFunc(slices.Values(w.snapshots), func(a, b *Snapshot) int {
		return cmp.Or(cmp.Compare(a.manifest.Sequence, b.manifest.Sequence), compareIDs(a.manifest.Snapshot, b.manifest.Snapshot))
	})
	explained := uint64(len(missing))
	for id, state := range w.listed {
		if _, condemned := w.condemned[id]; state == stateUnreadable && !condemned {
			explained++
		}
	}
	var absent, last uint64
	for i, snapshot := range bySequence {
		manifest := &snapshot.manifest
		if i > 0 && manifest.Sequence == last {
			w.report(Problem{Kind: ProblemHistoryBroken, Object: w.id().manifestKey(manifest.Snapshot), Snapshot: manifest.Snapshot,
				Message: fmt.Sprintf("has sequence %d, like snapshot %s", last, bySequence[i-1].manifest.Snapshot)})
		}
		if manifest.Sequence > last {
			absent += manifest.Sequence - last - 1 - countSequences(sequences, last+1, manifest.Sequence-1)
		}
		last = manifest.Sequence
	}
	if absent > explained {
		w.report(Problem{Kind: ProblemManifestMissing, Object: w.id().snapshotsPrefix(),
			Message: fmt.Sprintf("the newest snapshot counts %d before it, of which %d are gone without an explanation", last-1, absent-explained)})
	}
	for _, snapshot := range w.snapshots {
		if number := snapshot.manifest.Sequence; countSequences(sequences, number, number) > 0 {
			w.report(Problem{Kind: ProblemHistoryBroken, Object: w.id().manifestKey(snapshot.manifest.Snapshot), Snapshot: snapshot.manifest.Snapshot,
				Message: fmt.Sprintf("has sequence %d, and a plan has deleted the snapshot of that number: it was put back or stored late, and its packs may be gone, or history was written a second time", number)})
		}
	}
	w.checkNewest(ctx, sequences, last)
	if n := len(bySequence); n > 0 {
		newest := bySequence[n-1]
		w.result.Newest = &Witness{Workspace: w.id(), Sequence: newest.manifest.Sequence, SHA256: newest.sha256}
	}
}

// checkNewest looks for what plans have kept: every plan keeps a snapshot that is newer than all that it deletes. sequences are the numbers
// that plans deleted, and last is the greatest that is there.
func (w *workspaceVerifier) checkNewest(ctx context.Context, sequences []SequenceRange, last uint64) {
	if len(sequences) == 0 || last > sequences[len(sequences)-1].To {
		return
	}
	var newest SnapshotID
	if n := len(w.snapshots); n > 0 {
		newest = w.snapshots[n-1].manifest.Snapshot
	}
	for id, state := range w.listed {
		if _, condemned := w.condemned[id]; state == stateUnreadable && !condemned && compareIDs(id, newest) > 0 {
			return // it may be the one
		}
	}
	// Snapshots may have been taken, and others deleted, since the manifests were listed.
	later := false
	complete := w.list(ctx, w.id().snapshotsPrefix(), func(info objectstore.Info) {
		id, err := ParseSnapshotID(strings.TrimPrefix(info.Key, w.id().snapshotsPrefix()))
		if err != nil {
			return
		}
		_, listed := w.listed[id]
		_, condemned := w.condemned[id]
		later = later || !listed && !condemned
	})
	if complete && !later {
		w.report(Problem{Kind: ProblemManifestMissing, Object: w.id().snapshotsPrefix(),
			Message: fmt.Sprintf("plans deleted snapshots up to number %d and kept a newer one, and the newest that is there is %d: it was deleted or hidden by somebody else", sequences[len(sequences)-1].To, last)})
	}
}

// checkWitnesses compares the history with what was known of it outside. Of all that was seen and is later than the newest snapshot, the
// latest is reported.
func (w *workspaceVerifier) checkWitnesses() {
	var newest, seen uint64
	if w.result.Newest != nil {
		newest = w.result.Newest.Sequence
	}
	bySequence := make(map[uint64]*Snapshot, len(w.snapshots))
	for _, snapshot := range w.snapshots {
		bySequence[snapshot.manifest.Sequence] = snapshot
	}
	for _, witness := range w.v.witnesses[w.id()] {
		seen = max(seen, witness.Sequence)
		if snapshot := bySequence[witness.Sequence]; snapshot != nil && !bytes.Equal(snapshot.sha256, witness.SHA256) {
			w.report(Problem{Kind: ProblemRolledBack, Object: w.id().manifestKey(snapshot.manifest.Snapshot), Snapshot: snapshot.manifest.Snapshot,
				Message: fmt.Sprintf("has sequence %d and SHA-256 %x; before, that number had %x: history was written a second time", witness.Sequence, snapshot.sha256, []byte(witness.SHA256))})
		}
	}
	if seen > newest {
		w.report(Problem{Kind: ProblemRolledBack, Object: w.id().snapshotsPrefix(),
			Message: fmt.Sprintf("snapshot %d was seen before, and the newest one that can be read is %d", seen, newest)})
	}
}

// checkPacks compares the packs that are stored with those that manifests name, and with ReadData opens them.
func (w *workspaceVerifier) checkPacks(ctx context.Context) {
	naming := func(name PackName) (ids []SnapshotID) {
		for _, snapshot := range w.snapshots {
			if _, named := snapshot.parts.keyNumbers[name]; named {
				ids = append(ids, snapshot.manifest.Snapshot)
			}
		}
		return ids
	}
	for _, snapshot := range w.snapshots {
		for _, info := range snapshot.manifest.Packs {
			known := w.packs[info.Name]
			if known == nil {
				w.packs[info.Name] = &verifiedPack{info: info}
				w.parts.keyNumbers[info.Name] = info.Key
				w.result.PackBytes += info.Size
			} else if known.info != info {
				w.report(Problem{Kind: ProblemHistoryBroken, Object: w.id().packKey(info.Name), Message: "two manifests say different things of this pack"}, snapshot.manifest.Snapshot)
			}
		}
	}
	w.result.Packs = len(w.packs)
	w.v.advance(func(p *VerifyProgress) { p.PacksTotal += len(w.packs); p.PackBytesTotal += w.result.PackBytes })

	sizes := make(map[PackName]int64, len(w.packs))
	planned := make(map[PackName]*Notice)
	var waits []*Notice
	for _, plan := range w.plans {
		waiting := &Notice{Kind: NoticePlannedPacks, Object: w.id().planKey(plan.Plan.Plan), Message: "packs that no snapshot needs: the first prune after " + plan.modified.Add(plan.grace).UTC().Format(time.RFC3339) + " deletes them"}
		if plan.modified.IsZero() {
			waiting.Message = "packs that no snapshot needs: a prune deletes them, but the store does not say how old the plan is"
		}
		waits = append(waits, waiting)
		for _, pack := range plan.Packs {
			planned[pack.Name] = waiting
			if w.packs[pack.Name] != nil {
				w.report(Problem{Kind: ProblemPackPlanned, Object: w.id().packKey(pack.Name), Message: fmt.Sprintf("snapshots need this pack, and plan %s is about to delete it", plan.Plan.Plan)}, naming(pack.Name)...)
			}
		}
	}
	var leftovers Notice
	complete := w.list(ctx, w.id().packsPrefix(), func(info objectstore.Info) {
		var name PackName
		if err := name.UnmarshalText([]byte(strings.TrimPrefix(info.Key, w.id().packsPrefix()))); err != nil {
			w.notice(Notice{Kind: NoticeUnexpected, Object: info.Key, Message: "not the name of a pack"})
			return
		}
		if w.packs[name] != nil {
			sizes[name] = info.Size
			return
		}
		unnamed := planned[name]
		if unnamed == nil {
			unnamed = &leftovers
		}
		unnamed.Count++
		unnamed.Bytes += uint64(info.Size)
	})
	for _, waiting := range waits {
		if waiting.Count > 0 {
			w.notice(*waiting)
		}
	}
	if leftovers.Count > 0 {
		leftovers.Kind, leftovers.Object = NoticeLeftoverPacks, w.id().packsPrefix()
		leftovers.Message = "packs that neither a readable manifest nor a plan names: of runs that ended before they became snapshots, or still run"
		w.notice(leftovers)
	}
	names := slices.SortedFunc(maps.Keys(w.packs), func(a, b PackName) int { return strings.Compare(a.String(), b.String()) })
	var group errgroup.Group
	group.SetLimit(packsInMemory)
	for _, name := range names {
		if ctx.Err() != nil {
			break
		}
		pack, object := w.packs[name], w.id().packKey(name)
		size, present := sizes[name]
		if !present {
			if !complete {
				continue
			}
			// A listing may be behind: the object itself decides.
			info, err := w.v.repository.store.Stat(ctx, object)
			if err != nil {
				w.report(Problem{Kind: problemKind(err, ProblemPackDamaged, ProblemPackMissing), Object: object, Message: "snapshots need this pack: " + err.Error()}, naming(name)...)
				continue
			}
			size = info.Size
		}
		if size != int64(pack.info.Size) {
			w.report(Problem{Kind: ProblemPackSize, Object: object, Message: fmt.Sprintf("has %d bytes, and manifests say %d", size, pack.info.Size)}, naming(name)...)
		}
		group.Go(func() error {
			if w.v.options.ReadData {
				for _, problem := range w.checkPack(ctx, pack.info, size) {
					w.report(problem, naming(name)...)
				}
				w.mu.Lock()
				w.result.BytesRead += uint64(size)
				w.mu.Unlock()
			}
			w.v.advance(func(p *VerifyProgress) { p.Packs++; p.PackBytes += uint64(size) })
			return nil
		})
	}
	_ = group.Wait() // problems were collected; no function returns an error
}
