package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/testenv"
)

// victim is a small repository of several workspaces with several snapshots each, held in memory, and what must be read of it.
type victim struct {
	held
	workspaces []*Workspace
	snapshots  [][]*Snapshot
	readings   []reading
	leases     map[string][][]byte // all versions of each lease that were ever stored, oldest first
}

// reading is what a restore reads of one snapshot.
type reading struct {
	workspace WorkspaceID
	identity  Identity
	snapshot  SnapshotID
	content   string
	touched   map[string][]span // which bytes of which objects; whole where it has no spans
}

type span struct{ from, to int64 }

// depends says whether a restore of the snapshot reads any of those bytes of an object.
func (r *reading) depends(key string, changed span) bool {
	spans, read := r.touched[key]
	return read && (spans == nil || slices.ContainsFunc(spans, func(s span) bool { return s.from < changed.to && changed.from < s.to }))
}

// whole is every byte of an object, and all that could follow it.
var whole = span{0, 1 << 62}

// read does what package restore does with the repository: it opens the workspace of a database, the snapshot, and reads everything that
// the snapshot holds.
func (r *reading) read(ctx context.Context, repository *Repository) (string, error) {
	workspace, err := repository.FindWorkspace(ctx, r.identity)
	if err != nil {
		return "", err
	}
	snapshot, err := workspace.OpenSnapshot(ctx, r.snapshot)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	note := func(record any) error {
		text, err := json.Marshal(record)
		out.Write(append(text, '\n'))
		return err
	}
	if err := errors.Join(note(snapshot.Database()), note(snapshot.MaterializedViews()), snapshot.SchemaArchive(ctx, &out)); err != nil {
		return "", err
	}
	for sequence, err := range snapshot.Sequences(ctx) {
		if err := errors.Join(err, note(sequence)); err != nil {
			return "", err
		}
	}
	for object, err := range snapshot.LargeObjects(ctx) {
		if err := errors.Join(err, note(object)); err != nil {
			return "", err
		}
	}
	for table, err := range snapshot.Tables(ctx) {
		if err := errors.Join(err, note(table)); err != nil {
			return "", err
		}
		if err := snapshot.Rows(ctx, table, &out); err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

// touching records what is read of a store.
type touching struct {
	objectstore.Store
	mu      sync.Mutex
	touched map[string][]span
}

func (s *touching) Get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	s.mu.Lock()
	s.touched[key] = nil
	s.mu.Unlock()
	return s.Store.Get(ctx, key)
}

func (s *touching) GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	s.mu.Lock()
	s.touched[key] = append(s.touched[key], span{offset, offset + length})
	s.mu.Unlock()
	return s.Store.GetRange(ctx, key, offset, length)
}

// leaseKeeper remembers all versions of all leases.
type leaseKeeper struct {
	objectstore.Store
	mu     sync.Mutex
	leases map[string][][]byte
}

func (s *leaseKeeper) keep(key string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasSuffix(key, "/lease") {
		s.leases[key] = append(s.leases[key], bytes.Clone(content))
	}
}

func (s *leaseKeeper) PutIfAbsent(ctx context.Context, key string, content []byte) (objectstore.Info, error) {
	s.keep(key, content)
	return s.Store.PutIfAbsent(ctx, key, content)
}

func (s *leaseKeeper) PutIfMatch(ctx context.Context, key string, content []byte, etag string) (objectstore.Info, error) {
	s.keep(key, content)
	return s.Store.PutIfMatch(ctx, key, content, etag)
}

// newVictimOf makes a repository of so many workspaces, each with the snapshots that fill takes.
func newVictimOf(t testing.TB, workspaces int, fill func(*Repository, *Workspace) []*Snapshot) *victim {
	t.Helper()
	store := newDirectory(t)
	keeper := &leaseKeeper{Store: store, leases: make(map[string][][]byte)}
	repository := createIn(t, keeper)
	v := &victim{leases: keeper.leases}
	for i := range workspaces {
		workspace := ensure(t, repository, WorkspaceRecord{Server: "s", Database: catalog.Text(fmt.Sprintf("d%d", i)), Identity: testIdentity(catalog.OID(5 + i))})
		v.workspaces, v.snapshots = append(v.workspaces, workspace), append(v.snapshots, fill(repository, workspace))
	}
	v.held = hold(t, store)
	mustBeSound(t, openIn(t, v.with(nil)))
	for i, snapshots := range v.snapshots {
		for _, snapshot := range snapshots {
			r := reading{workspace: v.workspaces[i].id, identity: testIdentity(catalog.OID(5 + i)), snapshot: snapshot.Manifest().Snapshot}
			touched := &touching{Store: v.with(nil), touched: make(map[string][]span)}
			var err error
			if r.content, err = r.read(t.Context(), openIn(t, touched)); err != nil {
				t.Fatal(err)
			}
			if r.touched = touched.touched; r.content == "" || len(r.touched) < 4 {
				t.Fatalf("a restore of %s reads %q, from %v", r.snapshot, r.content, r.touched)
			}
			v.readings = append(v.readings, r)
		}
	}
	return v
}

// newVictim is a repository of two workspaces with two snapshots each.
func newVictim(t testing.TB) *victim {
	t.Helper()
	return newVictimOf(t, 2, func(_ *Repository, workspace *Workspace) []*Snapshot {
		tables := []testTable{table(100, 2, 5), table(200, 300, 5)}
		first := mustSnapshot(t, workspace, tables...)
		tables[1].rows[7] = "changed\n"
		return []*Snapshot{first, mustSnapshot(t, workspace, tables...)}
	})
}

// newSmallVictim is as small as a repository with two objects of each kind, and a part of each kind, can be: for trying every byte.
func newSmallVictim(t testing.TB) *victim {
	t.Helper()
	return newVictimOf(t, 1, func(_ *Repository, workspace *Workspace) []*Snapshot {
		tables := []testTable{{oid: 100, blocks: 1, rows: heap{0: "a\n"}}, {oid: 200, blocks: ListingSpan + 1, rows: heap{0: "b\n", ListingSpan: "c\n"}}}
		gone := mustSnapshot(t, workspace, tables...)
		first := mustSnapshot(t, workspace, tables...)
		tables[0].rows[0] = "d\n"
		second := mustSnapshot(t, workspace, tables...)
		settleUnused(t, workspace)
		deleteByPlan(t, workspace, gone)
		return []*Snapshot{first, second}
	})
}

// newLargeVictim has, in two workspaces, several objects of each kind that there is.
func newLargeVictim(t testing.TB) *victim {
	t.Helper()
	return newVictimOf(t, 2, func(repository *Repository, workspace *Workspace) []*Snapshot {
		tables := []testTable{table(100, 2, 5), table(200, ListingSpan+3, 5), {oid: 300, blocks: 1, rows: heap{0: randomRow(1000)}, stream: true}}
		gone := []*Snapshot{mustSnapshot(t, workspace, tables...), mustSnapshot(t, workspace, tables...)}
		first := mustSnapshot(t, workspace, tables...)
		settleUnused(t, workspace)
		tables[1].rows[7] = "changed\n"
		second := mustSnapshot(t, workspace, tables...)
		settleUnused(t, workspace)
		deleteByPlan(t, workspace, gone[0])
		deleteByPlan(t, workspace, gone[1])
		// A second key, and a second version of the record.
		place := crypto.WrapPlace{Repository: repository.id, Workspace: crypto.ID(workspace.id), KeyNumber: 2}
		if err := putWrap(t.Context(), repository.store, repository.root, crypto.NewKey(), place, workspace.id.keysPrefix()+"2/"+repository.root.ID()); err != nil {
			t.Fatal(err)
		}
		record := workspace.Record()
		record.Database += "_renamed"
		renamed := ensure(t, repository, record)
		tables[0].rows[1] = "changed\n"
		return []*Snapshot{first, second, mustSnapshot(t, renamed, tables...)}
	})
}

// deleteByPlan deletes a snapshot by a plan.
func deleteByPlan(t testing.TB, workspace *Workspace, snapshot *Snapshot) {
	t.Helper()
	report, err := workspace.Prune(t.Context(), PruneOptions{Holder: "test", minimumAge: -1, Condemn: func([]*Snapshot) []SnapshotID { return []SnapshotID{snapshot.Manifest().Snapshot} }})
	if err != nil || len(report.Kept) > 0 {
		t.Fatalf("delete a snapshot: %+v, %v", report, err)
	}
}

// settleUnused puts a void at a key of which nothing else is known.
func settleUnused(t testing.TB, workspace *Workspace) {
	t.Helper()
	newest, err := workspace.newestID(t.Context())
	if err == nil {
		err = workspace.settle(t.Context(), workspace.id.manifestKey(newSnapshotID(time.Now(), newest)), "test", "test")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readsAtOpening says whether an object is read when a repository is opened, and not later.
func readsAtOpening(key string) bool {
	return key == descriptionKey || strings.HasPrefix(key, repositoryKeyPrefix(repositoryKeyNumber))
}

// openChanged opens the repository in a changed store. Where opening does not read what was changed, that is the one that is open
// already with another store beneath: opening takes longer than all the rest.
func (v *victim) openChanged(t testing.TB, store objectstore.Store, changed ...string) (*Repository, error) {
	t.Helper()
	if slices.ContainsFunc(changed, readsAtOpening) {
		return Open(t.Context(), store, testRoot(t, 7))
	}
	opened := *v.workspaces[0].repository
	opened.store = store
	return &opened, nil
}

// verify says by what verify --read-data finds out a changed repository: what it reports, or the error of opening.
func (v *victim) verify(t testing.TB, store objectstore.Store, changed ...string) (string, VerifyReport) {
	t.Helper()
	repository, err := v.openChanged(t, store, changed...)
	if err != nil {
		return err.Error(), VerifyReport{}
	}
	if repository.codec != v.workspaces[0].repository.codec {
		defer repository.Close()
	}
	report, err := repository.Verify(t.Context(), VerifyOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	var found strings.Builder
	for _, problem := range report.Problems {
		fmt.Fprintln(&found, problem)
	}
	return found.String(), report
}

// restore reads all snapshots of a changed repository. What comes back is what was written. damaged says which changed objects, if any, a
// snapshot cannot be read without: then there is an error, and it names one of them.
func (v *victim) restore(t testing.TB, what string, store objectstore.Store, damaged func(*reading) []string, changed ...string) {
	t.Helper()
	repository, openError := v.openChanged(t, store, changed...)
	if openError == nil && repository.codec != v.workspaces[0].repository.codec {
		defer repository.Close()
	}
	for i := range v.readings {
		r := &v.readings[i]
		var got string
		err := openError
		if err == nil {
			got, err = r.read(t.Context(), repository)
		}
		objects := damaged(r)
		switch {
		case err == nil && got != r.content:
			t.Errorf("%s: snapshot %s came back with another content", what, r.snapshot)
		case len(objects) > 0 && err == nil:
			t.Errorf("%s: snapshot %s was read although it needs %s", what, r.snapshot, objects)
		case len(objects) > 0 && !slices.ContainsFunc(objects, func(object string) bool { return strings.Contains(err.Error(), object) }):
			t.Errorf("%s: the error of reading snapshot %s does not name any of %s: %v", what, r.snapshot, objects, err)
		case len(objects) == 0 && err != nil:
			t.Errorf("%s: snapshot %s could not be read, and needs nothing that was changed: %v", what, r.snapshot, err)
		}
	}
}

// inTheClear says whether an object is JSON that nobody sealed: repository.json and wraps.
func inTheClear(key string) bool { return key == descriptionKey || strings.Contains(key, "keys/") }

// harmless are the members of objects in the clear in which a changed byte may go unnoticed, with the reason. "name" stands for their names.
var harmless = map[string]string{
	"name":    "encoding/json takes a member's name in any case; of those that are then unknown, created and an empty features may be left out",
	"created": "a date for people that nothing is decided by",
	"wrapped": "base64 has up to four bits at its end that are not part of the bytes",
}

// member says in which member's value of a JSON object a byte lies; "name" for names, and "" for what is between them.
func member(t testing.TB, content []byte, at int) string {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(content))
	depth, name, begin := 0, "", int64(0)
	for {
		token, err := decoder.Token()
		if err != nil {
			return ""
		}
		end := decoder.InputOffset()
		inside := int64(at) >= begin && int64(at) < end
		begin = end
		switch delimiter, is := token.(json.Delim); {
		case is && (delimiter == '{' || delimiter == '['):
			depth++
			if depth == 2 && inside {
				return name
			}
			continue
		case is:
			if depth == 2 && inside {
				return name
			}
			if depth--; depth == 1 {
				name = ""
			}
			continue
		}
		switch {
		case depth == 1 && name == "":
			if inside {
				return "name"
			}
			name, _ = token.(string)
		case depth == 1:
			if inside {
				return name
			}
			name = ""
		}
	}
}

// checkClear is for a changed byte of an object in the clear: either it is found and named, or it is one that is harmless, and then nothing
// at all is wrong.
func (v *victim) checkClear(t testing.TB, what, key string, store objectstore.Store, content []byte, at int, exempt *atomic.Int64) {
	t.Helper()
	found, _ := v.verify(t, store, key)
	switch {
	case found == "":
		exempt.Add(1)
		if in := member(t, content, at); harmless[in] == "" {
			t.Errorf("%s, in %q: not found, and nothing says why that is harmless", what, in)
		}
		v.restore(t, what, store, func(*reading) []string { return nil }, key)
		return
	case !strings.Contains(found, key):
		t.Errorf("%s: %q", what, found)
	}
	// What a wrap says of itself beside the wrapped key is checked by verify alone: a restore does without.
	repository, err := v.openChanged(t, store, key)
	if err == nil && repository.codec != v.workspaces[0].repository.codec {
		defer repository.Close()
	}
	for i := range v.readings {
		r := &v.readings[i]
		var got string
		readError := err
		if readError == nil {
			got, readError = r.read(t.Context(), repository)
		}
		if readError == nil && got != r.content || readError != nil && !strings.Contains(readError.Error(), key) {
			t.Errorf("%s: snapshot %s read as %d bytes, %v", what, r.snapshot, len(got), readError)
		}
	}
}

// opened opens a changed repository anew and verifies it; all that can still be read is what was written.
func (v *victim) opened(t testing.TB, store objectstore.Store) (string, VerifyReport) {
	t.Helper()
	found, report := v.verify(t, store, descriptionKey)
	repository, err := Open(t.Context(), store, testRoot(t, 7))
	if err != nil {
		return found, report
	}
	defer repository.Close()
	for i := range v.readings {
		if got, err := v.readings[i].read(t.Context(), repository); err == nil && got != v.readings[i].content {
			t.Errorf("snapshot %s came back with another content", v.readings[i].snapshot)
		}
	}
	return found, report
}

func TestEveryFlippedByteIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	v := newSmallVictim(t)
	var tried, exempt atomic.Int64
	v.eachObject(t, func(key string, content []byte) {
		changed := bytes.Clone(content)
		store := v.with(map[string][]byte{key: changed})
		begin, step := every(key)
		for i := begin; i < len(content); i += step {
			for _, bit := range bits(i) {
				changed[i] = content[i] ^ 1<<bit
				tried.Add(1)
				what := fmt.Sprintf("bit %d of byte %d of %s flipped", bit, i, key)
				if inTheClear(key) {
					v.checkClear(t, what, key, store, content, i, &exempt)
					continue
				}
				if found, _ := v.verify(t, store, key); !strings.Contains(found, key) {
					t.Errorf("%s: verify: %q", what, found)
				}
				v.restore(t, what, store, func(r *reading) []string { return ifSo(r.depends(key, span{int64(i), int64(i) + 1}), key) }, key)
			}
			changed[i] = content[i]
		}
	})
	t.Logf("%d flipped bits; %d of them in objects in the clear changed nothing", tried.Load(), exempt.Load())
}

func TestEveryTruncationIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	v := newSmallVictim(t)
	var tried atomic.Int64
	v.eachObject(t, func(key string, content []byte) {
		try := func(what string, changed []byte) {
			tried.Add(1)
			store := v.with(map[string][]byte{key: changed})
			if found, _ := v.verify(t, store, key); !strings.Contains(found, key) {
				t.Errorf("%s: verify: %q", what, found)
			}
			// A pack that goes on after its end is read by its parts as before.
			gone := whole
			if strings.Contains(key, "/packs/") {
				gone = span{int64(len(changed)), int64(max(len(content), len(changed)))}
			}
			v.restore(t, what, store, func(r *reading) []string { return ifSo(r.depends(key, gone), key) }, key)
		}
		begin, step := every(key)
		for n := begin; n < len(content); n += step {
			try(fmt.Sprintf("%s cut to %d of %d bytes", key, n, len(content)), content[:n:n])
		}
		for _, more := range [][]byte{{0}, {content[len(content)-1]}, make([]byte, 100), content} {
			try(fmt.Sprintf("%s with %d bytes more", key, len(more)), append(bytes.Clone(content), more...))
		}
	})
	t.Logf("%d lengths", tried.Load())
}

func ifSo(so bool, key string) []string {
	if so {
		return []string{key}
	}
	return nil
}

// bits says which bits of byte i are flipped, one after the other: one, or in the long variant each.
func bits(i int) []int {
	if testenv.Long() {
		return []int{0, 1, 2, 3, 4, 5, 6, 7}
	}
	return []int{i % 8}
}

// every says which bytes of an object are tried: in the long variant, and of objects in the clear, all. Of the others some, other ones in each run; and
// fewer of all under the race detector, which makes it slow.
func every(key string) (begin, step int) {
	switch {
	case testenv.Long():
		step = 1
	case inTheClear(key):
		step = 1 + 3*slowdown
	default:
		step = 3 + 13*slowdown
	}
	return rand.IntN(step), step
}

// slowdown is 1 under the race detector, else 0.
var slowdown = map[bool]int{true: 1}[raceDetector]

// eachObject calls each for all objects, several at once.
func (v *victim) eachObject(t *testing.T, each func(key string, content []byte)) {
	t.Helper()
	var group sync.WaitGroup
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	total := 0
	for key, content := range v.objects {
		total += len(content)
		group.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			each(key, content)
		})
	}
	group.Wait()
	t.Logf("%d objects of %d bytes", len(v.objects), total)
	// repository.json, two keys, claim, record, lease, two manifests, a void, a plan, two packs
	if len(v.objects) != 12 {
		t.Errorf("objects: %v", slices.Sorted(maps.Keys(v.objects)))
	}
}

// kindOf groups the objects that could be taken for one another.
func kindOf(key string) string {
	switch {
	case strings.HasPrefix(key, claimsPrefix):
		return "claim"
	case strings.Contains(key, "keys/"):
		return "wrap"
	case strings.Contains(key, "/workspace/"):
		return "record"
	case strings.Contains(key, "/snapshots/"):
		return "manifest or void"
	case strings.Contains(key, "/packs/"):
		return "pack"
	case strings.Contains(key, "/plans/"):
		return "plan"
	case strings.HasSuffix(key, "/lease"):
		return "lease"
	}
	return key
}

// Of all objects of one kind, in the same workspace, of another snapshot or in another workspace, each is put in the place of each other, and
// each two are exchanged. Among these are older versions in the place of newer ones.
func TestObjectsInThePlaceOfAnyOtherOfTheirKindAreRefusedAndNamed(t *testing.T) {
	t.Parallel()
	v := newLargeVictim(t)
	byKind := make(map[string][]string)
	for key := range v.objects {
		byKind[kindOf(key)] = append(byKind[kindOf(key)], key)
	}
	counts := make(map[string]int)
	try := func(kind, what string, changes map[string][]byte) {
		counts[kind]++
		if rand.IntN(1+2*slowdown) > 0 {
			return
		}
		store := v.with(changes)
		changed := slices.Collect(maps.Keys(changes))
		found, _ := v.verify(t, store, changed...)
		opens := !strings.HasPrefix(found, "open repository")
		for key := range changes {
			// When the repository does not open, what keeps it from that is all that is known.
			if !strings.Contains(found, key) && (opens || readsAtOpening(key)) {
				t.Errorf("%s: verify does not name %s: %q", what, key, found)
			}
		}
		v.restore(t, what, store, func(r *reading) (needed []string) {
			for key := range changes {
				if r.depends(key, whole) {
					needed = append(needed, key)
				}
			}
			return needed
		}, changed...)
	}
	for kind, keys := range byKind {
		slices.Sort(keys)
		for i, to := range keys {
			for j, from := range keys {
				if i != j {
					try(kind, fmt.Sprintf("%s in the place of %s", from, to), map[string][]byte{to: v.objects[from]})
				}
				if i < j {
					try(kind, fmt.Sprintf("%s and %s exchanged", from, to), map[string][]byte{to: v.objects[from], from: v.objects[to]})
				}
			}
		}
	}
	t.Logf("tried: %v", counts)
	for kind, least := range map[string]int{"claim": 3, "wrap": 30, "record": 18, "manifest or void": 135, "pack": 45, "lease": 3, "plan": 3} {
		if counts[kind] < least {
			t.Errorf("%d cases of %s, want %d", counts[kind], kind, least)
		}
	}
}

// Everything of one workspace is copied, and moved, to the same place in another one, over what is there or as something new.
func TestObjectsOfAnotherWorkspaceAreRefusedAndNamed(t *testing.T) {
	t.Parallel()
	v := newLargeVictim(t)
	repository := v.workspaces[0].repository
	tried := 0
	for w, from := range v.workspaces {
		to := v.workspaces[1-w]
		for key, content := range v.objects {
			rest, below := strings.CutPrefix(key, from.id.prefix())
			if !below {
				continue
			}
			target := to.id.prefix() + rest
			_, replaced := v.objects[target]
			for what, changes := range map[string]map[string][]byte{"copied": {target: content}, "moved": {target: content, key: nil}} {
				tried++
				what = fmt.Sprintf("%s %s to %s", key, what, target)
				store := v.with(changes)
				found, report := v.verify(t, store, target)
				leftover := slices.ContainsFunc(report.Notices, func(n Notice) bool { return n.Kind == NoticeLeftoverPacks && n.Workspace == to.id })
				switch {
				case kindOf(key) == "pack":
					// A pack that no manifest names is not read by anybody.
					if !leftover {
						t.Errorf("%s: verify notices nothing: %q", what, found)
					}
				case !strings.Contains(found, target):
					t.Errorf("%s: verify: %q", what, found)
				}
				_, moved := changes[key]
				if moved && kindOf(key) == "pack" && !strings.Contains(found, key) {
					t.Errorf("%s: verify does not miss it: %q", what, found)
				}
				v.restore(t, what, store, func(r *reading) []string {
					kind := kindOf(key)
					switch {
					case r.workspace == to.id && (kind == "wrap" || kind == "record"):
						// All wraps are read, and the newest record.
						return ifSo(kind == "wrap" || !replaced || r.depends(target, whole), target)
					case r.workspace == from.id && moved && r.depends(key, whole):
						// Without its newest record a workspace has the name that it had before: nothing that is restored depends on it.
						return ifSo(kind != "record", strings.TrimSuffix(key, "/"+repository.root.ID()))
					}
					return nil
				}, target)
			}
		}
	}
	t.Logf("%d objects copied or moved", tried)
	if tried < 2*2*11 {
		t.Errorf("only %d cases", tried)
	}
}

// The lease is the one object of which an older version is authentic at its place. It decides nothing about what is stored: verify and restore do
// without, and the next run settles what it says, which is settled.
func TestAnOlderLeaseHarmsNothing(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	id := v.workspaces[0].id
	versions := v.leases[id.leaseKey()]
	if len(versions) < 4 || !bytes.Equal(versions[len(versions)-1], v.objects[id.leaseKey()]) {
		t.Fatalf("%d versions of the lease", len(versions))
	}
	for i, version := range versions {
		what := fmt.Sprintf("version %d of %d of the lease", i+1, len(versions))
		store := v.with(map[string][]byte{id.leaseKey(): version})
		if found, _ := v.verify(t, store, id.leaseKey()); found != "" {
			t.Errorf("%s: %s", what, found)
		}
		v.restore(t, what, store, func(*reading) []string { return nil }, id.leaseKey())
	}
}

// Everything that is authentic at one place must be refused at every other.
func TestObjectsPutAtOtherPlacesAreRefusedAndNamed(t *testing.T) {
	v := newVictim(t)
	a, b := v.workspaces[0].id, v.workspaces[1].id
	manifest := func(w, n int) string { return v.workspaces[w].id.manifestKey(v.snapshots[w][n].Manifest().Snapshot) }
	pack := func(w, n int) string {
		name := v.snapshots[w][n].Manifest().Snapshot
		for key := range v.objects {
			if strings.HasPrefix(key, v.workspaces[w].id.packsPrefix()+name.String()) {
				return key
			}
		}
		t.Fatal("no pack")
		return ""
	}
	later := a.manifestKey(newSnapshotID(time.Now().Add(time.Hour), SnapshotID{}))
	claims := make(map[WorkspaceID]string)
	for i, workspace := range v.workspaces {
		claims[workspace.id] = workspace.repository.claimKey(testIdentity(catalog.OID(5 + i)))
	}
	root := testRoot(t, 7).ID()
	wrapKey := func(id WorkspaceID, n int) string { return fmt.Sprintf("%s%d/%s", id.keysPrefix(), n, root) }
	relabelled := func(key string, number uint32) []byte {
		var stored wrap
		if err := json.Unmarshal(v.objects[key], &stored); err != nil {
			t.Fatal(err)
		}
		stored.Key = number
		content, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	for _, test := range []struct {
		name, to string
		content  []byte
		also     map[string][]byte
		kind     string
	}{
		{name: "an old manifest under a later time", to: later, content: v.objects[manifest(0, 0)], kind: ProblemManifestDamaged},
		{name: "an older manifest in place of the newest", to: manifest(0, 1), content: v.objects[manifest(0, 0)], kind: ProblemManifestDamaged},
		{name: "another workspace's manifest", to: manifest(0, 1), content: v.objects[manifest(1, 1)], kind: ProblemManifestDamaged},
		{name: "another pack of the workspace", to: pack(0, 0), content: v.objects[pack(0, 1)], kind: ProblemPackDamaged},
		{name: "another workspace's pack", to: pack(0, 0), content: v.objects[pack(1, 0)], kind: ProblemPackDamaged},
		{name: "another database's claim", to: claims[a], content: v.objects[claims[b]], kind: ProblemClaimDamaged},
		{name: "a retired key as a newer one", to: wrapKey(a, 2), content: relabelled(wrapKey(a, 1), 2), kind: ProblemKeyDamaged},
		{name: "a retired key as a newer one, as it was", to: wrapKey(a, 2), content: v.objects[wrapKey(a, 1)], kind: ProblemKeyDamaged},
		{name: "another workspace's key", to: wrapKey(a, 1), content: v.objects[wrapKey(b, 1)], kind: ProblemKeyDamaged},
		{name: "another workspace's record", to: a.recordsPrefix() + "0000000001", content: v.objects[b.recordsPrefix()+"0000000001"], kind: ProblemRecordDamaged},
		{name: "an old record as a newer one", to: a.recordsPrefix() + "0000000002", content: v.objects[a.recordsPrefix()+"0000000001"], kind: ProblemRecordDamaged},
		{name: "another workspace's lease", to: a.leaseKey(), content: v.objects[b.leaseKey()], kind: ProblemLeaseDamaged},
		{name: "a lease as a manifest", to: manifest(0, 1), content: v.objects[a.leaseKey()], kind: ProblemManifestDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.content == nil {
				t.Fatal("nothing to put there")
			}
			found, report := v.opened(t, v.with(map[string][]byte{test.to: test.content}))
			mustReport(t, report, test.kind, test.to)
			if found == "" {
				t.Error("nothing found")
			}
		})
	}
	t.Run("all of one workspace under another's name", func(t *testing.T) {
		changes := make(map[string][]byte)
		for key, content := range v.objects {
			if rest, below := strings.CutPrefix(key, b.prefix()); below {
				changes[a.prefix()+rest] = content
			} else if strings.HasPrefix(key, a.prefix()) {
				if _, both := v.objects[b.prefix()+strings.TrimPrefix(key, a.prefix())]; !both {
					changes[key] = nil
				}
			}
		}
		_, report := v.opened(t, v.with(changes))
		mustReport(t, report, ProblemKeyDamaged, wrapKey(a, 1))
	})
}

// Parts of one pack trade places, with the listing page's text left as it is.
func TestSwappedPartsAreRefused(t *testing.T) {
	v := newVictim(t)
	snapshot := v.snapshots[0][0]
	name := snapshot.Manifest().Archive.Pages[0].Pack
	key := v.workspaces[0].id.packKey(name)
	content := v.objects[key]
	// Two parts of equal length are needed: find the parts by the directory and cut the pack anew with two of them swapped.
	entries, at := packParts(t, v.workspaces[0], snapshot, key, content)
	if len(entries) < 3 {
		t.Fatalf("only %d parts", len(entries))
	}
	var parts [][]byte
	offset := crypto.HeaderSize
	for _, entry := range entries {
		parts = append(parts, content[offset:offset+int(entry.stored)])
		offset += int(entry.stored)
	}
	parts[0], parts[1] = parts[1], parts[0]
	swapped := bytes.Clone(content[:crypto.HeaderSize])
	for _, part := range parts {
		swapped = append(swapped, part...)
	}
	swapped = append(swapped, content[at:]...)
	_, report := v.opened(t, v.with(map[string][]byte{key: swapped}))
	mustReport(t, report, ProblemPackDamaged, key)
}

func packParts(t *testing.T, workspace *Workspace, snapshot *Snapshot, key string, content []byte) ([]directoryEntry, int64) {
	t.Helper()
	w := newWorkspaceVerifier(&verifier{repository: workspace.repository}, workspace.id)
	w.workspace = workspace
	for _, info := range snapshot.Manifest().Packs {
		if workspace.id.packKey(info.Name) != key {
			continue
		}
		sealer, err := snapshot.parts.sealer(info.Name, partKinds...)
		if err != nil {
			t.Fatal(err)
		}
		section := func(offset, length int64) ([]byte, error) { return content[offset : offset+length], nil }
		entries, at, err := w.packDirectory(section, sealer, info, int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		return entries, at
	}
	t.Fatalf("%s is not in the manifest", key)
	return nil, 0
}

func TestHiddenAndDeletedObjectsAreMissed(t *testing.T) {
	v := newVictim(t)
	a := v.workspaces[0].id
	first, second := a.manifestKey(v.snapshots[0][0].Manifest().Snapshot), a.manifestKey(v.snapshots[0][1].Manifest().Snapshot)
	t.Run("the first manifest", func(t *testing.T) {
		_, report := v.opened(t, v.with(map[string][]byte{first: nil}))
		mustReport(t, report, ProblemManifestMissing, first)
	})
	t.Run("the newest manifest, with a witness", func(t *testing.T) {
		repository := openIn(t, v.with(nil))
		var witnesses []Witness
		for _, workspace := range mustBeSound(t, repository).Workspaces {
			witnesses = append(witnesses, *workspace.Newest)
		}
		if report := verify(t, repository, VerifyOptions{Witness: witnesses}); len(report.Problems) > 0 {
			t.Errorf("problems with the newest there: %v", report.Problems)
		}
		rolledBack := openIn(t, v.with(map[string][]byte{second: nil}))
		if report := verify(t, rolledBack, VerifyOptions{}); len(report.Problems) > 0 {
			t.Errorf("nothing in the repository can show this, but: %v", report.Problems)
		}
		mustReport(t, verify(t, rolledBack, VerifyOptions{Witness: witnesses}), ProblemRolledBack, a.snapshotsPrefix())
	})
	t.Run("a history written a second time", func(t *testing.T) {
		report := verify(t, openIn(t, v.with(nil)), VerifyOptions{Witness: []Witness{{Workspace: a, Sequence: 1, SHA256: make(HexBytes, 32)}}})
		mustReport(t, report, ProblemRolledBack, first)
	})
	t.Run("a workspace with its claim, with a witness", func(t *testing.T) {
		changes := make(map[string][]byte)
		for key := range v.objects {
			if strings.HasPrefix(key, a.prefix()) || key == v.workspaces[0].repository.claimKey(testIdentity(5)) {
				changes[key] = nil
			}
		}
		report := verify(t, openIn(t, v.with(changes)), VerifyOptions{Witness: []Witness{{Workspace: a, Sequence: 1}}})
		mustReport(t, report, ProblemRolledBack, "")
	})
	t.Run("a claim", func(t *testing.T) {
		_, report := v.opened(t, v.with(map[string][]byte{v.workspaces[0].repository.claimKey(testIdentity(5)): nil}))
		mustReport(t, report, ProblemClaimMissing, a.prefix())
	})
	t.Run("all objects of a workspace", func(t *testing.T) {
		changes := make(map[string][]byte)
		for key := range v.objects {
			if strings.HasPrefix(key, a.prefix()) {
				changes[key] = nil
			}
		}
		_, report := v.opened(t, v.with(changes))
		mustReport(t, report, ProblemWorkspaceMissing, a.keysPrefix())
	})
	t.Run("the keys", func(t *testing.T) {
		_, report := v.opened(t, v.with(map[string][]byte{a.keysPrefix() + "1/" + testRoot(t, 7).ID(): nil}))
		mustReport(t, report, ProblemKeyMissing, a.keysPrefix())
	})
	t.Run("each pack", func(t *testing.T) {
		packs := 0
		for key := range v.objects {
			if !strings.HasPrefix(key, a.packsPrefix()) {
				continue
			}
			packs++
			for _, options := range []VerifyOptions{{}, {ReadData: true}} {
				report := verify(t, openIn(t, v.with(map[string][]byte{key: nil})), options)
				mustReport(t, report, ProblemPackMissing, key)
				if len(report.Problems) != 1 {
					t.Errorf("one lost pack is reported as %v", report.Problems)
				}
				for _, workspace := range report.Workspaces {
					if workspace.Workspace == a && !slices.Contains(workspace.Damaged, v.snapshots[0][1].Manifest().Snapshot) {
						t.Errorf("the newest snapshot needs the pack and is not called damaged: %v", workspace.Damaged)
					}
				}
			}
		}
		if packs != 2 {
			t.Errorf("%d packs", packs)
		}
	})
}

func TestVerifyReportsManyProblemsAtOnce(t *testing.T) {
	v := newVictim(t)
	changes := make(map[string][]byte)
	for key, content := range v.objects {
		if strings.HasPrefix(key, v.workspaces[0].id.packsPrefix()) || strings.HasPrefix(key, v.workspaces[1].id.leaseKey()) {
			changes[key] = append(bytes.Clone(content[:len(content)-1]), content[len(content)-1]^1)
		}
	}
	changes[v.workspaces[1].id.snapshotsPrefix()+"not-a-snapshot"] = []byte("x")
	changes[v.workspaces[1].id.packsPrefix()+"not-a-pack"] = []byte("x")
	var progress VerifyProgress
	report := verify(t, openIn(t, v.with(changes)), VerifyOptions{ReadData: true, Progress: func(p VerifyProgress) { progress = p }})
	for key := range changes {
		if strings.Contains(key, "not-a-pack") {
			continue
		}
		if !slices.ContainsFunc(report.Problems, func(p Problem) bool { return p.Object == key && p.Name != "" }) {
			t.Errorf("%s is not among the problems %v", key, report.Problems)
		}
	}
	if progress.Workspaces != 2 || progress.Snapshots != 4 || progress.Packs != progress.PacksTotal || progress.PackBytes != progress.PackBytesTotal {
		t.Errorf("progress at the end: %+v", progress)
	}
	only := verify(t, openIn(t, v.with(changes)), VerifyOptions{Workspaces: []WorkspaceID{v.workspaces[1].id}})
	if len(only.Workspaces) != 1 || slices.ContainsFunc(only.Problems, func(p Problem) bool { return p.Workspace == v.workspaces[0].id }) {
		t.Errorf("asked for one workspace: %+v", only)
	}
	if _, err := openIn(t, v.with(nil)).Verify(t.Context(), VerifyOptions{Workspaces: []WorkspaceID{{1}}}); err == nil {
		t.Error("an unknown workspace was verified")
	}
}

func TestLaterFormatsAndFeaturesAreRefusedByName(t *testing.T) {
	v := newVictim(t)
	a := v.workspaces[0]
	describe := func(change func(*description)) map[string][]byte {
		var about description
		if err := json.Unmarshal(v.objects[descriptionKey], &about); err != nil {
			t.Fatal(err)
		}
		change(&about)
		content, err := json.Marshal(about)
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{descriptionKey: content}
	}
	open := func(changes map[string][]byte) error {
		repository, err := Open(t.Context(), v.with(changes), testRoot(t, 7))
		if err == nil {
			repository.Close()
		}
		return err
	}
	var unknown *UnknownFeatureError
	if err := open(describe(func(d *description) { d.Format = 2 })); !errors.Is(err, crypto.ErrNewerFormat) {
		t.Errorf("format 2: %v", err)
	}
	if err := open(describe(func(d *description) { d.Features = []string{"pack-pages"} })); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "pack-pages") {
		t.Errorf("unknown feature: %v", err)
	}
	if err := open(describe(func(d *description) { d.Format = 0 })); err == nil {
		t.Error("format 0 was opened")
	}
	if err := open(describe(func(d *description) { d.ID = strings.Repeat("0", 32) })); err == nil {
		t.Error("another id was opened")
	}
	if err := open(map[string][]byte{descriptionKey: nil}); !errors.Is(err, ErrNoRepository) {
		t.Errorf("no repository: %v", err)
	}
	if _, err := Open(t.Context(), v.with(nil), testRoot(t, 8)); !errors.Is(err, ErrWrongRootKey) || !strings.Contains(err.Error(), testRoot(t, 7).ID()) || !strings.Contains(err.Error(), testRoot(t, 8).ID()) {
		t.Errorf("wrong root key: %v", err)
	}

	manifest := *v.snapshots[0][1].Manifest()
	object := a.id.manifestKey(manifest.Snapshot)
	for name, change := range map[string]func(*Manifest){
		"later format":    func(m *Manifest) { m.Format = 2 },
		"unknown feature": func(m *Manifest) { m.Features = []string{"packs-in-pages"} },
	} {
		changed := manifest
		change(&changed)
		content, err := a.sealJSON(crypto.KindManifest, object, changed)
		if err != nil {
			t.Fatal(err)
		}
		repository := openIn(t, v.with(map[string][]byte{object: content}))
		workspace, err := repository.OpenWorkspace(t.Context(), a.id)
		if err != nil {
			t.Fatal(err)
		}
		_, err = workspace.OpenSnapshot(t.Context(), manifest.Snapshot)
		kind := ProblemNewerFormat
		if name == "unknown feature" {
			kind = ProblemUnknownFeature
			if !errors.As(err, &unknown) || !strings.Contains(err.Error(), "packs-in-pages") {
				t.Errorf("%s: %v", name, err)
			}
		} else if !errors.Is(err, crypto.ErrNewerFormat) {
			t.Errorf("%s: %v", name, err)
		}
		mustReport(t, verify(t, repository, VerifyOptions{}), kind, object)
	}
	header := bytes.Clone(v.objects[object])
	header[5] = 2
	_, report := v.opened(t, v.with(map[string][]byte{object: header}))
	mustReport(t, report, ProblemNewerFormat, object)
}

// The seals of listing and chunk are both whole, and the listing says of a block what is not there: only the fingerprint ties them together.
func TestBlocksThatAreNotWhatTheListingSaysAreRefused(t *testing.T) {
	repository := newTestRepository(t)
	workspace := newTestWorkspace(t, repository)
	snapshot := mustSnapshot(t, workspace, testTable{oid: 100, blocks: 2, rows: heap{0: "one\n", 1: "two\n"}})
	for name, change := range map[string]func(*listingPage){
		"another fingerprint": func(p *listingPage) { p.blocks[1].fingerprint[7] ^= 1 },
		"two blocks of one length swapped": func(p *listingPage) {
			p.blocks[0].offset, p.blocks[1].offset = p.blocks[1].offset, p.blocks[0].offset
		},
	} {
		for entry, err := range snapshot.Entries(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			page, err := parseListingPage(entry.Listing.Inline)
			if err != nil {
				t.Fatal(err)
			}
			change(page)
			entry.Listing.Inline = page.encode()
			var got bytes.Buffer
			if err := snapshot.EntryRows(t.Context(), entry, &got); !errors.Is(err, crypto.ErrNotAuthentic) {
				t.Errorf("%s: read %q, %v", name, got.String(), err)
			}
			w := newWorkspaceVerifier(&verifier{repository: repository, options: VerifyOptions{ReadData: true}, cache: newChunkCache(1 << 20)}, workspace.id)
			w.workspace.keyring, w.snapshots = workspace.keyring, []*Snapshot{snapshot}
			w.checkPacks(t.Context())
			w.checkTable(t.Context(), []*tableVersion{{entry: &entry, snapshots: w.snapshots}})
			if len(w.problems) != 1 || w.problems[0].Kind != ProblemRowsDamaged {
				t.Errorf("%s: verify reports %v", name, w.problems)
			}
		}
	}
}
