package repository

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// VerifyOptions say how thoroughly Verify looks. Its zero value checks all workspaces without reading rows.
type VerifyOptions struct {
	// ReadData makes Verify read every pack whole and open every part, and check the rows of every table of every snapshot.
	// Each pack is downloaded about twice then: once whole, once in the chunks that tables refer to.
	ReadData bool
	// Workspaces are those to check; empty means all. Claims are checked in either case.
	Workspaces []WorkspaceID
	// Witness is what was known of workspaces outside of the repository, for instance from logs: Verify reports what has become older.
	Witness []Witness
	// Progress, if not nil, is told how far the check is, by one goroutine at a time. It must not block.
	Progress func(VerifyProgress)
}

// Witness is the newest snapshot of a workspace that was known at some time, kept outside of the repository: nothing in a bucket
// can show that its newest part is missing.
type Witness struct {
	Workspace WorkspaceID `json:"workspace"`
	Sequence  uint64      `json:"sequence"`
	SHA256    HexBytes    `json:"sha256"` // of the manifest object
}

// VerifyProgress says how far a check is. Totals grow while workspaces are opened.
type VerifyProgress struct {
	Workspaces, WorkspacesTotal int
	Snapshots                   int
	// Packs and PackBytes count those that were checked, of which PacksTotal and PackBytesTotal are known by now.
	Packs, PacksTotal         int
	PackBytes, PackBytesTotal uint64
}

// Kinds of problems: stable words.
const (
	ProblemClaimDamaged     = "claim_damaged"     // does not open: its database would get a second history
	ProblemClaimMissing     = "claim_missing"     // a workspace has snapshots and no claim names it
	ProblemWorkspaceMissing = "workspace_missing" // a claim names a workspace that has no objects
	ProblemKeyMissing       = "key_missing"       // a workspace without key, or a number that objects name
	ProblemKeyDamaged       = "key_damaged"
	ProblemWrongRootKey     = "wrong_root_key" // a workspace's keys are wrapped under other root keys only
	ProblemRecordDamaged    = "record_damaged"
	ProblemLeaseDamaged     = "lease_damaged"
	ProblemUnexpected       = "unexpected_object" // stands where it keeps hourvault from working
	ProblemManifestDamaged  = "manifest_damaged"
	ProblemManifestMissing  = "manifest_missing" // a later manifest names it and no plan explains its absence
	ProblemManifestChanged  = "manifest_changed" // a later manifest recorded another SHA-256
	ProblemHistoryBroken    = "history_broken"   // sequences and order of snapshots contradict one another
	ProblemNewerFormat      = "newer_format"
	ProblemUnknownFeature   = "unknown_feature"
	ProblemPackMissing      = "pack_missing"
	ProblemPackSize         = "pack_size" // another length than the manifest says
	ProblemPackDamaged      = "pack_damaged"
	ProblemPackPlanned      = "pack_planned" // a plan is about to delete it, and snapshots need it
	ProblemPlanDamaged      = "plan_damaged" // keeps hourvault from working, and absences may be explained by it
	ProblemPageDamaged      = "page_damaged" // a part that says where rows are, or holds definitions, does not open or makes no sense
	ProblemRowsDamaged      = "rows_damaged"
	ProblemUnreadable       = "unreadable"             // the store could not deliver it
	ProblemRolledBack       = "repository_rolled_back" // older than a witness knows it
)

// Kinds of notices: stable words.
const (
	NoticeLeftoverPacks      = "leftover_packs"
	NoticeVoids              = "voids"
	NoticeUnclaimedWorkspace = "unclaimed_workspace"
	NoticePlannedPacks       = "planned_packs" // wait for the end of a plan's grace period
	NoticePlanPending        = "plan_pending"  // a plan names snapshots that are still listed: it is under way, or the next run completes it
	NoticeUnexpected         = "unexpected_object"
)

// Problem is something in the repository that is not as it must be.
type Problem struct {
	Kind      string      `json:"kind"`
	Workspace WorkspaceID `json:"workspace,omitzero"`
	// Name is the workspace's server and database, "server/database", as far as they could be read.
	Name string `json:"name,omitempty"`
	// Object is the key of the object concerned, below the repository's prefix; empty when there is no single one.
	Object string `json:"object,omitempty"`
	// Snapshot is the snapshot concerned, or one of several.
	Snapshot SnapshotID `json:"snapshot,omitzero"`
	Message  string     `json:"message"`
}

func (p Problem) String() string {
	parts := []string{p.Kind}
	if p.Name != "" {
		parts = append(parts, "workspace "+p.Name)
	}
	if p.Object != "" {
		parts = append(parts, p.Object)
	}
	return strings.Join(append(parts, p.Message), ": ")
}

// Notice is something worth knowing that needs no action.
type Notice struct {
	Kind      string      `json:"kind"`
	Workspace WorkspaceID `json:"workspace,omitzero"`
	Name      string      `json:"name,omitempty"`
	Object    string      `json:"object,omitempty"`
	Message   string      `json:"message"`
	Count     int         `json:"count,omitempty"`
	Bytes     uint64      `json:"bytes,omitempty"`
}

// VerifiedWorkspace says what of a workspace was checked.
type VerifiedWorkspace struct {
	Workspace WorkspaceID  `json:"workspace"`
	Server    string       `json:"server"`
	Database  catalog.Text `json:"database"`
	Snapshots int          `json:"snapshots"` // manifests that open
	Tables    int          `json:"tables"`    // of all snapshots together; a table is counted once however many hold it
	Packs     int          `json:"packs"`     // that manifests name
	PackBytes uint64       `json:"pack_bytes"`
	BytesRead uint64       `json:"bytes_read"` // of packs read whole
	// Newest is the newest snapshot, for keeping as a witness elsewhere; nil when there is none.
	Newest *Witness `json:"newest,omitempty"`
	// Damaged are the snapshots that cannot be restored completely, as far as the check can tell, ascending.
	Damaged []SnapshotID `json:"damaged"`
}

// VerifyReport is the outcome of Verify. The repository is sound, as far as was looked, when there are no problems.
type VerifyReport struct {
	Repository string              `json:"repository"`
	ReadData   bool                `json:"read_data"`
	Workspaces []VerifiedWorkspace `json:"workspaces"` // by server and database
	Problems   []Problem           `json:"problems"`
	Notices    []Notice            `json:"notices"`
}

// Verify checks that everything in the repository is there, authentic and consistent, and never stops at the first problem: an
// error means that the check itself did not come to its end (the context ended, the store cannot be listed, a workspace asked for
// is unknown); the report then holds what was found until then. It only reads, takes no lease, and may run beside snapshots.
func (r *Repository) Verify(ctx context.Context, options VerifyOptions) (VerifyReport, error) {
	v := &verifier{repository: r, options: options, cache: newChunkCache(verifyCacheSize), witnesses: make(map[WorkspaceID][]Witness)}
	for _, witness := range options.Witness {
		v.witnesses[witness.Workspace] = append(v.witnesses[witness.Workspace], witness)
	}
	v.report = VerifyReport{Repository: r.ID(), ReadData: options.ReadData, Workspaces: []VerifiedWorkspace{}, Problems: []Problem{}, Notices: []Notice{}}
	err := v.run(ctx)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("verify %s: %w", r.store.Location(), err)
	}
	return v.report, err
}

// verifyCacheSize bounds the opened parts that a check keeps, in bytes.
const verifyCacheSize = 64 << 20

// verifier is one run of Verify.
type verifier struct {
	repository *Repository
	options    VerifyOptions
	cache      *chunkCache
	witnesses  map[WorkspaceID][]Witness

	mu       sync.Mutex
	report   VerifyReport
	progress VerifyProgress
}

// foundPrefix is what a listing shows of one workspace's folder.
type foundPrefix struct {
	objects   int
	bytes     uint64
	snapshots bool
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.checkRepositoryKey(ctx); err != nil {
		return err
	}
	// Folders are listed before claims, because a workspace's claim is stored last: the other way round one that is being made
	// would seem to have lost it.
	found := make(map[WorkspaceID]*foundPrefix)
	if len(v.options.Workspaces) == 0 {
		if err := v.listPrefixes(ctx, found); err != nil {
			return err
		}
	}
	claimed, err := v.checkClaims(ctx)
	if err != nil {
		return err
	}
	selected := v.options.Workspaces
	for _, id := range selected {
		if !claimed[id] {
			return fmt.Errorf("workspace %s: no claim names it", id)
		}
	}
	if len(selected) == 0 {
		for id := range claimed {
			selected = append(selected, id)
		}
		for id, prefix := range found {
			if claimed[id] {
				continue
			}
			if prefix.snapshots {
				v.problem(Problem{Kind: ProblemClaimMissing, Workspace: id, Object: id.prefix(), Message: "holds snapshots and no readable claim names it: backups of its database would begin a second history"})
				selected = append(selected, id)
				continue
			}
			v.notice(Notice{Kind: NoticeUnclaimedWorkspace, Workspace: id, Object: id.prefix(), Count: prefix.objects, Bytes: prefix.bytes,
				Message: "no claim names it and it holds no snapshot: left over from a first backup that was interrupted, or still under way"})
		}
	}
	slices.SortFunc(selected, func(a, b WorkspaceID) int { return bytes.Compare(a[:], b[:]) })
	selected = slices.Compact(selected)
	v.advance(func(p *VerifyProgress) { p.WorkspacesTotal = len(selected) })

	var group errgroup.Group
	group.SetLimit(4)
	if v.options.ReadData {
		group.SetLimit(1) // packs are held in memory
	}
	for _, id := range selected {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			newWorkspaceVerifier(v, id).run(ctx)
			v.advance(func(p *VerifyProgress) { p.Workspaces++ })
			return nil
		})
	}
	_ = group.Wait() // problems were collected; no function returns an error
	v.checkWitnesses(claimed)
	v.sort()
	return nil
}

func (v *verifier) sort() {
	slices.SortFunc(v.report.Workspaces, func(a, b VerifiedWorkspace) int {
		return cmp.Or(strings.Compare(a.Server, b.Server), cmp.Compare(a.Database, b.Database), bytes.Compare(a.Workspace[:], b.Workspace[:]))
	})
	slices.SortStableFunc(v.report.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), bytes.Compare(a.Workspace[:], b.Workspace[:]), strings.Compare(a.Object, b.Object), strings.Compare(a.Message, b.Message))
	})
	slices.SortStableFunc(v.report.Notices, func(a, b Notice) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), bytes.Compare(a.Workspace[:], b.Workspace[:]), strings.Compare(a.Kind, b.Kind))
	})
}

func (v *verifier) problem(problem Problem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Problems = append(v.report.Problems, problem)
}

func (v *verifier) notice(notice Notice) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Notices = append(v.report.Notices, notice)
}

func (v *verifier) advance(update func(*VerifyProgress)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	update(&v.progress)
	if v.options.Progress != nil {
		v.options.Progress(v.progress)
	}
}

// listPrefixes finds all folders of workspaces, claimed or not.
func (v *verifier) listPrefixes(ctx context.Context, found map[WorkspaceID]*foundPrefix) error {
	for info, err := range v.repository.store.List(ctx, allWorkspaces) {
		if err != nil {
			return err
		}
		name, rest, nested := strings.Cut(strings.TrimPrefix(info.Key, allWorkspaces), "/")
		var id WorkspaceID
		if !nested || id.UnmarshalText([]byte(name)) != nil {
			v.notice(Notice{Kind: NoticeUnexpected, Object: info.Key, Message: "not an object of hourvault"})
			continue
		}
		prefix := found[id]
		if prefix == nil {
			prefix = &foundPrefix{}
			found[id] = prefix
		}
		prefix.objects++
		prefix.bytes += uint64(info.Size)
		prefix.snapshots = prefix.snapshots || strings.HasPrefix(rest, "snapshots/")
	}
	return nil
}

// checkClaims opens all claims and returns the workspaces that they name.
func (v *verifier) checkClaims(ctx context.Context) (map[WorkspaceID]bool, error) {
	claimed := make(map[WorkspaceID]bool)
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(16)
	var listError error
	for info, err := range v.repository.store.List(ctx, claimsPrefix) {
		if err != nil {
			listError = err
			break
		}
		group.Go(func() error {
			stored, err := v.repository.openClaim(ctx, info.Key)
			if err == nil && v.repository.claimKey(stored.Identity) != info.Key {
				err = fmt.Errorf("is for database %s, whose claim has another name: %w", stored.Identity, crypto.ErrNotAuthentic)
			}
			if err != nil {
				v.problem(Problem{Kind: problemKind(err, ProblemClaimDamaged, ProblemClaimMissing), Object: info.Key, Message: err.Error()})
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			claimed[stored.Workspace] = true
			return nil
		})
	}
	_ = group.Wait() // problems were collected; no function returns an error
	return claimed, listError
}

// checkWitnesses reports the workspaces that were known outside and that the repository does not know.
func (v *verifier) checkWitnesses(claimed map[WorkspaceID]bool) {
	for id, known := range v.witnesses {
		if claimed[id] || len(v.options.Workspaces) > 0 && !slices.Contains(v.options.Workspaces, id) {
			continue
		}
		newest := slices.MaxFunc(known, func(a, b Witness) int { return cmp.Compare(a.Sequence, b.Sequence) })
		v.problem(Problem{Kind: ProblemRolledBack, Workspace: id,
			Message: fmt.Sprintf("the repository does not know this workspace, of which snapshot %d was seen before", newest.Sequence)})
	}
}

// problemKind names what an error of reading an object means: damaged or missing are the words to use in those cases.
func problemKind(err error, damaged, missing string) string {
	var unknown *UnknownFeatureError
	var transient *objectstore.ReadError
	switch {
	case errors.Is(err, objectstore.ErrNotFound):
		return missing
	case errors.Is(err, crypto.ErrNewerFormat):
		return ProblemNewerFormat
	case errors.As(err, &unknown):
		return ProblemUnknownFeature
	case errors.As(err, &transient), errors.Is(err, objectstore.ErrDenied), errors.Is(err, objectstore.ErrNoBucket), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ProblemUnreadable
	case isDamage(err):
		return damaged
	}
	return ProblemUnreadable
}

// isDamage says whether an error comes from the bytes that are stored, and not from a failure to get them.
func isDamage(err error) bool {
	var beyond *objectstore.RangeError
	var large *objectstore.TooLargeError
	return errors.Is(err, ErrDamaged) || errors.Is(err, crypto.ErrNotAuthentic) || errors.Is(err, crypto.ErrNotSealed) || errors.Is(err, crypto.ErrWrongRootKey) || errors.Is(err, errMalformed) ||
		errors.As(err, &beyond) || errors.As(err, &large)
}
