package repository

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// ErrPlanned says that a later version of hourvault deletes, or has deleted, by a plan that this version does not understand. This version
// must not choose a base that it condemns, nor delete anything beside it.
var ErrPlanned = errors.New("a later version of hourvault deletes snapshots here: use that version")

// Plan is the object by which snapshots and packs are deleted: it is stored before anything is, and explains afterwards what is missing
// (docs/format.md, "History and plans").
type Plan struct {
	Format int `json:"format"`
	// Features are required, as a manifest's are.
	Features  []string    `json:"features"`
	Plan      PlanID      `json:"plan"`
	Workspace WorkspaceID `json:"workspace"`
	Time      time.Time   `json:"time"` // on the writer's clock, for people
	Writer    string      `json:"writer"`
	Purpose   string      `json:"purpose"`
	// Manifests are deleted in the first pass, at once: ascending by snapshot.
	Manifests []PlannedManifest `json:"manifests"`
	// Packs are deleted in the second pass, when the plan is older than Grace: ascending by name.
	Packs []PlannedPack `json:"packs"`
	Grace string        `json:"grace"` // in Go's notation
	// Explained is what is taken over from superseded plans.
	Explained Explained `json:"explained"`
	// Supersedes are plans that are completed and need not be kept besides this one, ascending.
	Supersedes []PlanID `json:"supersedes"`
}

// PlannedManifest is a manifest that a plan deletes.
type PlannedManifest struct {
	ManifestRef
	Sequence uint64 `json:"sequence"`
}

// PlannedPack is a pack that a plan deletes; Size is the object's length in bytes.
type PlannedPack struct {
	Name PackName `json:"name"`
	Size uint64   `json:"size"`
}

// Explained is what plans that are no longer kept deleted, as far as anything that is left refers to it.
type Explained struct {
	// Manifests are those that a remaining manifest names, ascending by snapshot.
	Manifests []ManifestRef `json:"manifests"`
	// Sequences are the numbers of all that were deleted: ascending and apart from one another.
	Sequences []SequenceRange `json:"sequences"`
}

// SequenceRange is a range of sequence numbers, both ends included.
type SequenceRange struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// storedPlan is a plan that was read.
type storedPlan struct {
	Plan
	grace    time.Duration
	modified time.Time // when it became effective, on the store's clock
}

// names says whether the plan deletes that snapshot's manifest.
func (p *storedPlan) names(id SnapshotID) bool {
	_, found := slices.BinarySearchFunc(p.Manifests, id, func(m PlannedManifest, id SnapshotID) int { return compareIDs(m.Snapshot, id) })
	return found
}

// explains says whether the manifest was deleted by the plan, or by one that the plan superseded.
func (p *storedPlan) explains(ref ManifestRef) bool {
	same := func(known ManifestRef) bool {
		return known.Snapshot == ref.Snapshot && string(known.SHA256) == string(ref.SHA256)
	}
	return slices.ContainsFunc(p.Manifests, func(m PlannedManifest) bool { return same(m.ManifestRef) }) || slices.ContainsFunc(p.Explained.Manifests, same)
}

// due says whether the grace period had passed at the time now, on the store's clock. Where the store does not say when the plan was
// made it has not.
func (p *storedPlan) due(now time.Time) bool {
	return !p.modified.IsZero() && now.Sub(p.modified) >= p.grace
}

// openPlan reads and checks a plan. ErrVoid when the run was given up, objectstore.ErrNotFound when there is nothing, ErrDamaged when it was
// damaged or moved; ErrPlanned when it needs a newer version, together with *UnknownFeatureError or crypto.ErrNewerFormat
// where it says so by these.
func (w *Workspace) openPlan(ctx context.Context, id PlanID) (*storedPlan, error) {
	object := w.id.planKey(id)
	content, info, err := objectstore.ReadAll(ctx, w.repository.store, object, maxObjectSize)
	if tooLarge := (*objectstore.TooLargeError)(nil); errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("plan: %w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	plan, err := w.parsePlan(id, content)
	switch {
	case err == nil:
		plan.modified = info.Modified
		return plan, nil
	case errors.Is(err, ErrVoid):
		return nil, err
	case errors.Is(err, ErrPlanned):
		return nil, fmt.Errorf("plan %s: %w", object, err)
	case errors.Is(err, crypto.ErrNewerFormat), isUnknownFeature(err):
		return nil, fmt.Errorf("plan %s: %w: %w", object, ErrPlanned, err)
	}
	return nil, fmt.Errorf("plan %s: %w: %w", object, ErrDamaged, err)
}

func (w *Workspace) parsePlan(id PlanID, content []byte) (*storedPlan, error) {
	header, plain, err := w.open(w.id.planKey(id), content, crypto.KindPlan, crypto.KindVoid)
	if err != nil {
		return nil, err
	}
	if header.Kind == crypto.KindVoid {
		return nil, ErrVoid
	}
	// Format, features and purpose come first: an unknown one may change the meaning of anything else.
	var required struct {
		Format   int      `json:"format"`
		Features []string `json:"features"`
		Purpose  string   `json:"purpose"`
	}
	if err := json.Unmarshal(plain, &required); err != nil {
		return nil, err
	}
	if required.Format > crypto.FormatVersion {
		return nil, crypto.ErrNewerFormat
	}
	if err := checkFeatures(required.Features); err != nil {
		return nil, err
	}
	if required.Purpose != purposePrune {
		return nil, fmt.Errorf("is for a purpose that this version does not know, %s: %w", printable(required.Purpose), ErrPlanned)
	}
	plan := &storedPlan{}
	if err := json.Unmarshal(plain, &plan.Plan); err != nil {
		return nil, err
	}
	if plan.Plan.Plan != id || plan.Workspace != w.id {
		return nil, fmt.Errorf("names plan %s of workspace %s: %w", plan.Plan.Plan, plan.Workspace, crypto.ErrNotAuthentic)
	}
	if plan.grace, err = time.ParseDuration(plan.Grace); err != nil || plan.grace < 0 {
		return nil, fmt.Errorf("grace %s: %w", printable(plan.Grace), errMalformed)
	}
	ascending := slices.IsSortedFunc(plan.Manifests, func(a, b PlannedManifest) int { return compareIDs(a.Snapshot, b.Snapshot) })
	for i, sequences := range plan.Explained.Sequences {
		if sequences.From < 1 || sequences.To < sequences.From || i > 0 && sequences.From <= plan.Explained.Sequences[i-1].To {
			ascending = false
		}
	}
	if !ascending {
		return nil, fmt.Errorf("manifests or sequences out of order: %w", errMalformed)
	}
	return plan, nil
}

// planHistory is what lies below plans/, as one listing showed it; the plans are read when they are needed. It is not safe for
// concurrent use.
type planHistory struct {
	workspace *Workspace
	listed    []PlanID // plans and voids, ascending
	read      map[PlanID]*storedPlan
}

// listPlans lists the plans of a workspace. ErrPlanned when there is an object whose name is no plan's: only a later version puts one there.
func (w *Workspace) listPlans(ctx context.Context) (*planHistory, error) {
	history := &planHistory{workspace: w, read: make(map[PlanID]*storedPlan)}
	for info, err := range w.repository.store.List(ctx, w.id.plansPrefix()) {
		if err != nil {
			return nil, err
		}
		var id PlanID
		if id.UnmarshalText([]byte(strings.TrimPrefix(info.Key, w.id.plansPrefix()))) != nil {
			return nil, fmt.Errorf("%s is not the name of a plan: %w", info.Key, ErrPlanned)
		}
		history.listed = append(history.listed, id)
	}
	slices.SortFunc(history.listed, comparePlans)
	return history, nil
}

func comparePlans(a, b PlanID) int { return compareIDs(a.name, b.name) }

// greatest is the name that sorts last, of a plan or of a void; the zero PlanID when there is none.
func (h *planHistory) greatest() PlanID {
	if len(h.listed) == 0 {
		return PlanID{}
	}
	return h.listed[len(h.listed)-1]
}

// open returns a plan; nil for a void, and for one that was deleted since it was listed: only a later plan that superseded it did that.
func (h *planHistory) open(ctx context.Context, id PlanID) (*storedPlan, error) {
	if plan, known := h.read[id]; known {
		return plan, nil
	}
	plan, err := h.workspace.openPlan(ctx, id)
	if err != nil && !errors.Is(err, ErrVoid) && !errors.Is(err, objectstore.ErrNotFound) {
		return nil, err
	}
	h.read[id] = plan
	return plan, nil
}

// all returns all plans, ascending.
func (h *planHistory) all(ctx context.Context) ([]*storedPlan, error) {
	var plans []*storedPlan
	for _, id := range h.listed {
		plan, err := h.open(ctx, id)
		if err != nil {
			return nil, err
		}
		if plan != nil {
			plans = append(plans, plan)
		}
	}
	return plans, nil
}

// readable returns the plans that can be read, ascending. The newest must be; one before it was read by whoever made that.
func (h *planHistory) readable(ctx context.Context) ([]*storedPlan, error) {
	var plans []*storedPlan
	for _, id := range slices.Backward(h.listed) {
		plan, err := h.open(ctx, id)
		if err != nil && (len(plans) == 0 || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrPlanned)) {
			return nil, err
		}
		if plan != nil {
			plans = append(plans, plan)
		}
	}
	slices.Reverse(plans)
	return plans, nil
}

// explains says whether any plan explains why a manifest is gone. The newest are asked first: older ones are rarely needed.
func (h *planHistory) explains(ctx context.Context, ref ManifestRef) (bool, error) {
	for _, id := range slices.Backward(h.listed) {
		plan, err := h.open(ctx, id)
		if err != nil {
			return false, err
		}
		if plan != nil && plan.explains(ref) {
			return true, nil
		}
	}
	return false, nil
}

// completeFirstPass deletes the manifests that a plan names and that are among ids, and returns the other ids. Only under a lease taken before
// the plan and ids were listed does it say anything that what remains may serve as a base; the deletion itself is right at any time,
// because a plan is for ever.
func (w *Workspace) completeFirstPass(ctx context.Context, plan *storedPlan, ids []SnapshotID) ([]SnapshotID, error) {
	var remaining []SnapshotID
	for _, id := range ids {
		if !plan.names(id) {
			remaining = append(remaining, id)
			continue
		}
		if err := w.repository.store.Delete(ctx, w.id.manifestKey(id)); err != nil {
			return nil, fmt.Errorf("complete plan %s: %w", plan.Plan.Plan, err)
		}
	}
	return remaining, nil
}

// addSequences returns ranges with further numbers in them, ascending and joined where they touch.
func addSequences(ranges []SequenceRange, more ...SequenceRange) []SequenceRange {
	all := append(slices.Clone(ranges), more...)
	slices.SortFunc(all, func(a, b SequenceRange) int { return cmp.Compare(a.From, b.From) })
	joined := []SequenceRange{}
	for _, next := range all {
		if n := len(joined); n > 0 && next.From <= joined[n-1].To+1 {
			joined[n-1].To = max(joined[n-1].To, next.To)
			continue
		}
		joined = append(joined, next)
	}
	return joined
}

// countSequences counts the numbers from from to to, both included, that lie in ascending ranges apart from one another.
func countSequences(ranges []SequenceRange, from, to uint64) uint64 {
	var count uint64
	for _, r := range ranges {
		if first, last := max(r.From, from), min(r.To, to); first <= last {
			count += last - first + 1
		}
	}
	return count
}
