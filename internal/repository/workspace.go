package repository

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// Identity is what makes a database the same one over time: the cluster and the database's oid in it. Names change.
type Identity struct {
	SystemIdentifier string      `json:"system_identifier"`
	Database         catalog.OID `json:"database_oid"`
}

func (i Identity) String() string {
	return i.SystemIdentifier + "/" + strconv.FormatUint(uint64(i.Database), 10)
}

// WorkspaceRecord is what people call a workspace. A change writes a new version; the newest counts.
type WorkspaceRecord struct {
	Server   string       `json:"server"`
	Database catalog.Text `json:"database"`
	Identity
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
}

// claim says which workspace holds a database's snapshots.
type claim struct {
	Workspace WorkspaceID `json:"workspace"`
	Identity
}

// Workspace is one database's place in the repository. It is safe for concurrent use.
type Workspace struct {
	repository *Repository
	id         WorkspaceID

	mu       sync.Mutex
	record   WorkspaceRecord
	recordNo uint64
	keyring  map[uint32]*crypto.Key
	current  uint32 // the highest key number: new objects are sealed under it
}

// ID returns the workspace's random name in object keys.
func (w *Workspace) ID() WorkspaceID { return w.id }

// Record returns the newest version of the workspace's record.
func (w *Workspace) Record() WorkspaceRecord {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record
}

// EnsureWorkspace returns the workspace of the database that record identifies, and makes it when there is none yet. Of many
// callers at once, on any machines, all get the same one. When the server's or the database's name differs from what
// was recorded, a new version of the record is written.
func (r *Repository) EnsureWorkspace(ctx context.Context, record WorkspaceRecord) (workspace *Workspace, created bool, err error) {
	claimKey := r.claimKey(record.Identity)
	id, err := r.readClaim(ctx, claimKey, record.Identity)
	if errors.Is(err, objectstore.ErrNotFound) {
		id, created, err = r.createWorkspace(ctx, claimKey, record)
	}
	if err != nil {
		return nil, false, fmt.Errorf("workspace of database %s on %s: %w", record.Identity, record.Server, err)
	}
	workspace, err = r.openClaimed(ctx, id, record.Identity)
	if err != nil {
		return nil, false, err
	}
	known := workspace.Record()
	if known.Server != record.Server || known.Database != record.Database {
		known.Server, known.Database = record.Server, record.Database
		if err := workspace.writeRecord(ctx, known); err != nil {
			return nil, false, err
		}
	}
	return workspace, created, nil
}

// createWorkspace makes key and record first and the claim last: a workspace exists when its claim does. What a lost race or a
// crash leaves behind is a key that nothing was ever sealed under but its own record.
func (r *Repository) createWorkspace(ctx context.Context, claimKey string, record WorkspaceRecord) (WorkspaceID, bool, error) {
	var id WorkspaceID
	rand.Read(id[:])
	const firstKey = 1
	key := crypto.NewKey()
	defer key.Wipe()
	place := crypto.WrapPlace{Repository: r.id, Workspace: crypto.ID(id), KeyNumber: firstKey}
	if err := putWrap(ctx, r.store, r.root, key, place, fmt.Sprintf("%s%d/%s", id.keysPrefix(), firstKey, r.root.ID())); err != nil {
		return id, false, err
	}
	workspace := &Workspace{repository: r, id: id, keyring: map[uint32]*crypto.Key{firstKey: key}, current: firstKey}
	if err := workspace.writeRecord(ctx, record); err != nil {
		return id, false, err
	}
	object, err := r.codec.sealJSON(r.key, repositoryKeyNumber, crypto.KindClaim, r.place(WorkspaceID{}, claimKey), claim{Workspace: id, Identity: record.Identity})
	if err != nil {
		return id, false, err
	}
	_, err = r.store.PutIfAbsent(ctx, claimKey, object)
	if errors.Is(err, objectstore.ErrExists) {
		winner, err := r.readClaim(ctx, claimKey, record.Identity)
		return winner, false, err
	}
	return id, err == nil, err
}

func (r *Repository) claimKey(identity Identity) string {
	return claimsPrefix + hex.EncodeToString(r.key.ClaimName([]byte(identity.String())))
}

func (r *Repository) readClaim(ctx context.Context, key string, identity Identity) (WorkspaceID, error) {
	stored, err := r.openClaim(ctx, key)
	if err == nil && stored.Identity != identity {
		err = fmt.Errorf("%s is for database %s: %w", key, stored.Identity, crypto.ErrNotAuthentic)
	}
	return stored.Workspace, err
}

func (r *Repository) openClaim(ctx context.Context, key string) (claim, error) {
	var stored claim
	object, _, err := objectstore.ReadAll(ctx, r.store, key, maxSmallObject)
	if err != nil {
		return stored, err
	}
	_, plain, err := r.codec.openObject(r.keys, r.place(WorkspaceID{}, key), object, crypto.KindClaim)
	if err == nil {
		err = json.Unmarshal(plain, &stored)
	}
	if err != nil {
		return stored, fmt.Errorf("%s: %w", key, err)
	}
	return stored, nil
}

// FindWorkspace returns the workspace of a database. objectstore.ErrNotFound when it has none.
func (r *Repository) FindWorkspace(ctx context.Context, identity Identity) (*Workspace, error) {
	id, err := r.readClaim(ctx, r.claimKey(identity), identity)
	if err != nil {
		return nil, err
	}
	return r.openClaimed(ctx, id, identity)
}

// ErrGivenAway says that a database's claim does not count any more: the workspace's newest record names another database.
var ErrGivenAway = errors.New("the workspace was given to another database by a later version of hourvault: use that version")

// openClaimed opens the workspace that a claim names, and checks that the claim counts.
func (r *Repository) openClaimed(ctx context.Context, id WorkspaceID, identity Identity) (*Workspace, error) {
	workspace, err := r.OpenWorkspace(ctx, id)
	if err != nil {
		return nil, err
	}
	if now := workspace.Record().Identity; now != identity {
		return nil, fmt.Errorf("workspace %s of database %s belongs to database %s: %w", id, identity, now, ErrGivenAway)
	}
	return workspace, nil
}

// Workspaces opens all workspaces, each once, in no particular order. A claim or a workspace that cannot be opened is
// reported in the error, joined over all; the others are returned nevertheless.
func (r *Repository) Workspaces(ctx context.Context) ([]*Workspace, error) {
	var (
		mu         sync.Mutex
		workspaces []*Workspace
		problems   []error
		group      errgroup.Group
	)
	group.SetLimit(16)
	for info, err := range r.store.List(ctx, claimsPrefix) {
		if err != nil {
			problems = append(problems, err)
			break
		}
		group.Go(func() error {
			stored, err := r.openClaim(ctx, info.Key)
			var workspace *Workspace
			if err == nil {
				workspace, err = r.openClaimed(ctx, stored.Workspace, stored.Identity)
			}
			if errors.Is(err, ErrGivenAway) {
				return nil // of several claims of one workspace one counts: that of the database in its newest record
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				problems = append(problems, err)
			} else {
				workspaces = append(workspaces, workspace)
			}
			return nil
		})
	}
	_ = group.Wait() // problems were collected; no function returns an error
	return workspaces, errors.Join(problems...)
}

// OpenWorkspace reads the keys and the newest record of a workspace.
func (r *Repository) OpenWorkspace(ctx context.Context, id WorkspaceID) (*Workspace, error) {
	workspace := &Workspace{repository: r, id: id, keyring: make(map[uint32]*crypto.Key)}
	if err := workspace.loadKeys(ctx); err != nil {
		return nil, fmt.Errorf("workspace %s: %w", id, err)
	}
	if err := workspace.loadRecord(ctx); err != nil {
		return nil, fmt.Errorf("workspace %s: %w", id, err)
	}
	return workspace, nil
}

func (w *Workspace) loadKeys(ctx context.Context) error {
	numbers := make(map[uint32]bool)
	for info, err := range w.repository.store.List(ctx, w.id.keysPrefix()) {
		if err != nil {
			return err
		}
		// A name that is no key's is not this version's, and nothing is stopped by it.
		digits, wrap, _ := strings.Cut(strings.TrimPrefix(info.Key, w.id.keysPrefix()), "/")
		number, err := strconv.ParseUint(digits, 10, 32)
		if err == nil && number > 0 && strconv.FormatUint(number, 10) == digits && wrap != "" && !strings.Contains(wrap, "/") {
			numbers[uint32(number)] = true
		}
	}
	if len(numbers) == 0 {
		return fmt.Errorf("%s: no key; erased, or deleted by somebody: %w", w.id.keysPrefix(), objectstore.ErrNotFound)
	}
	for number := range numbers {
		place := crypto.WrapPlace{Repository: w.repository.id, Workspace: crypto.ID(w.id), KeyNumber: number}
		key, err := getWrap(ctx, w.repository.store, w.repository.root, place, fmt.Sprintf("%s%d/", w.id.keysPrefix(), number))
		if err != nil {
			return err
		}
		w.keyring[number] = key
		w.current = max(w.current, number)
	}
	return nil
}

// key returns one of the workspace's keys.
func (w *Workspace) key(number uint32) (*crypto.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key, known := w.keyring[number]
	if !known {
		return nil, fmt.Errorf("%s%d: the key is missing: %w", w.id.keysPrefix(), number, crypto.ErrNotAuthentic)
	}
	return key, nil
}

func (w *Workspace) loadRecord(ctx context.Context) error {
	var newest string
	for info, err := range w.repository.store.List(ctx, w.id.recordsPrefix()) {
		if err != nil {
			return err
		}
		newest = info.Key
	}
	if newest == "" {
		return fmt.Errorf("%s: no record: %w", w.id.recordsPrefix(), objectstore.ErrNotFound)
	}
	number, err := strconv.ParseUint(path.Base(newest), 10, 64)
	if err != nil {
		return fmt.Errorf("%s: not the name of a workspace record", newest)
	}
	var record WorkspaceRecord
	if err := w.readJSON(ctx, newest, &record, crypto.KindWorkspace); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record, w.recordNo = record, number
	return nil
}

// writeRecord stores the next version of the record. When somebody else wrote that version first, theirs counts.
func (w *Workspace) writeRecord(ctx context.Context, record WorkspaceRecord) error {
	w.mu.Lock()
	next := w.recordNo + 1
	w.mu.Unlock()
	object := fmt.Sprintf("%s%010d", w.id.recordsPrefix(), next)
	content, err := w.sealJSON(crypto.KindWorkspace, object, record)
	if err != nil {
		return err
	}
	if _, err := w.repository.store.PutIfAbsent(ctx, object, content); errors.Is(err, objectstore.ErrExists) {
		return w.loadRecord(ctx)
	} else if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record, w.recordNo = record, next
	return nil
}

// sealJSON seals a record of this workspace under its current key, for the object with that key.
func (w *Workspace) sealJSON(kind crypto.Kind, object string, record any) ([]byte, error) {
	key, err := w.key(w.current)
	if err != nil {
		return nil, err
	}
	return w.repository.codec.sealJSON(key, w.current, kind, w.repository.place(w.id, object), record)
}

// readJSON reads and opens an object of this workspace.
func (w *Workspace) readJSON(ctx context.Context, object string, record any, kind crypto.Kind) error {
	content, _, err := objectstore.ReadAll(ctx, w.repository.store, object, maxObjectSize)
	if err != nil {
		return err
	}
	_, plain, err := w.open(object, content, kind)
	if err == nil {
		err = json.Unmarshal(plain, record)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", object, err)
	}
	return nil
}

func (w *Workspace) open(object string, content []byte, kinds ...crypto.Kind) (crypto.Header, []byte, error) {
	return w.repository.codec.openObject(w.key, w.repository.place(w.id, object), content, kinds...)
}

// SnapshotIDs lists the names at which manifests, or voids, are stored: ascending by the time at which their runs began.
func (w *Workspace) SnapshotIDs(ctx context.Context) ([]SnapshotID, error) {
	var ids []SnapshotID
	for info, err := range w.repository.store.List(ctx, w.id.snapshotsPrefix()) {
		if err != nil {
			return nil, err
		}
		// A name that is no snapshot's is not this version's: verify reports it, and nothing else is stopped by it.
		if id, err := ParseSnapshotID(strings.TrimPrefix(info.Key, w.id.snapshotsPrefix())); err == nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b SnapshotID) int { return strings.Compare(a.String(), b.String()) })
	return ids, nil
}

// newestID returns the name that sorts last of those at which manifests or voids are stored; the zero SnapshotID when there is none.
func (w *Workspace) newestID(ctx context.Context) (SnapshotID, error) {
	ids, err := w.SnapshotIDs(ctx)
	if err != nil || len(ids) == 0 {
		return SnapshotID{}, err
	}
	return ids[len(ids)-1], nil
}
