package formatreader

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// repository is an opened repository in a directory. It is not for concurrent use.
type repository struct {
	store         directory
	root          rootKey
	id            [16]byte
	repositoryKey []byte
	decoder       *zstd.Decoder
}

// openRepository opens the repository in a directory with the material of a local root key. Section 17, 1 to 3.
func openRepository(path string, material []byte) (*repository, error) {
	root, err := parseRootKey(material)
	if err != nil {
		return nil, err
	}
	r := &repository{store: directory(path), root: root}
	content, err := r.store.get("repository.json", 64<<10)
	if err != nil {
		return nil, err
	}
	tree, err := parseJSON(content)
	if err == nil {
		err = checkPreamble(tree)
	}
	var description struct {
		ID      string  `json:"id"`
		Created instant `json:"created"`
	}
	if err == nil {
		err = decodeJSON(tree, &description)
	}
	var id []byte
	if err == nil {
		id, err = decodeHex(description.ID, 16)
	}
	if err != nil {
		return nil, fmt.Errorf("open repository.json: %w", err)
	}
	r.id = [16]byte(id)
	r.repositoryKey, err = r.unwrap(fmt.Sprintf("keys/1/%x/%s", r.id, root.id), [16]byte{}, 1)
	if errors.Is(err, errNotFound) {
		return nil, fmt.Errorf("read keys/1/%x/: %w", r.id, errNoWrap)
	}
	return r, err
}

func (r *repository) claimKey(identity string) string {
	return "claims/" + hex.EncodeToString(keyedHash(derive(r.repositoryKey, nil, "claim name"), []byte(identity)))
}

// identity is that of a database, in claims and workspace records. Section 11.
type identity struct {
	SystemIdentifier string `json:"system_identifier"`
	DatabaseOID      uint32 `json:"database_oid"`
}

func (i identity) String() string { return fmt.Sprintf("%s/%d", i.SystemIdentifier, i.DatabaseOID) }

type claim struct {
	Workspace string `json:"workspace"`
	identity
}

type workspaceRecord struct {
	Server   string `json:"server"`
	Database text   `json:"database"`
	identity
	Labels  map[string]string `json:"labels"`
	Created instant           `json:"created"`
}

// workspace is one database's folder.
type workspace struct {
	repository *repository
	id         [16]byte
	record     workspaceRecord
	keys       map[uint32][]byte
}

// openClaim opens the claim with a name below claims/.
func (r *repository) openClaim(name string) (claim, error) {
	key := "claims/" + name
	if _, err := decodeHex(name, 32); err != nil {
		return claim{}, fmt.Errorf("name of %s: %w", key, err)
	}
	object, err := r.store.get(key, 64<<10)
	if err != nil {
		return claim{}, err
	}
	_, plain, err := r.openObject(key, object, [16]byte{}, func(number uint32) ([]byte, error) {
		if number != 1 {
			return nil, damage("key number %d of the repository", number)
		}
		return r.repositoryKey, nil
	}, kindClaim)
	if err != nil {
		return claim{}, err
	}
	var found claim
	tree, err := parseJSON(plain)
	if err == nil {
		err = decodeJSON(tree, &found)
	}
	if err == nil && r.claimKey(found.String()) != key {
		err = damage("the claim of %s does not belong here", found)
	}
	if err != nil {
		return claim{}, fmt.Errorf("open %s: %w", key, err)
	}
	return found, nil
}

// openWorkspace opens the newest record of a workspace.
func (r *repository) openWorkspace(wid string) (*workspace, error) {
	id, err := decodeHex(wid, 16)
	if err != nil {
		return nil, err
	}
	w := &workspace{repository: r, id: [16]byte(id), keys: make(map[uint32][]byte)}
	folder := "workspaces/" + wid + "/workspace/"
	names, err := r.store.list(folder)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("read %s: %w", folder, errNotFound)
	}
	for _, name := range names {
		if sequence, err := strconv.ParseUint(name, 10, 64); err != nil || len(name) != 10 || sequence == 0 || !decimalPattern.MatchString(name) {
			return nil, damage("name of %s%s", folder, name)
		}
	}
	key := folder + names[len(names)-1]
	object, err := r.store.get(key, 512<<20)
	if err != nil {
		return nil, err
	}
	_, plain, err := r.openObject(key, object, w.id, w.key, kindWorkspace)
	if err != nil {
		return nil, err
	}
	tree, err := parseJSON(plain)
	if err == nil {
		err = decodeJSON(tree, &w.record)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	return w, nil
}

// workspaces lists all workspaces, each once, by the order of their claims' names, and what is wrong with others. A
// workspace for which none of its claims counts is listed, and reported.
func (r *repository) workspaces() ([]*workspace, []error) {
	names, err := r.store.list("claims/")
	if err != nil {
		return nil, []error{err}
	}
	var all []*workspace
	var problems []error
	counts := make(map[[16]byte]bool)
	for _, name := range names {
		claim, err := r.openClaim(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		at := slices.IndexFunc(all, func(w *workspace) bool { return fmt.Sprintf("%x", w.id) == claim.Workspace })
		if at < 0 {
			w, err := r.openWorkspace(claim.Workspace)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			at, all = len(all), append(all, w)
		}
		if all[at].record.identity == claim.identity {
			counts[all[at].id] = true
		}
	}
	for _, w := range all {
		if !counts[w.id] {
			problems = append(problems, damage("workspace %x: none of its claims counts", w.id))
		}
	}
	return all, problems
}

// manifest is that of section 8, with all its fields.
type manifest struct {
	Snapshot       snapshotID     `json:"snapshot"`
	Workspace      string         `json:"workspace"`
	Time           instant        `json:"time"`
	Finished       instant        `json:"finished"`
	Writer         string         `json:"writer"`
	Sequence       int64          `json:"sequence"`
	Previous       *manifestRef   `json:"previous"`
	Alive          []manifestRef  `json:"alive"`
	Server         string         `json:"server"`
	Database       databaseRecord `json:"database"`
	Reading        reading        `json:"reading"`
	FingerprintKey uint32         `json:"fingerprint_key"`
	Archive        struct {
		Pages       []page `json:"pages"`
		Size        int64  `json:"size"`
		DumpVersion string `json:"dump_version"`
	} `json:"archive"`
	Tables            records `json:"tables"`
	Sequences         records `json:"sequences"`
	LargeObjects      records `json:"large_objects"`
	MaterializedViews []struct {
		OID       uint32 `json:"oid"`
		Schema    text   `json:"schema"`
		Name      text   `json:"name"`
		Populated bool   `json:"populated"`
	} `json:"materialized_views"`
	Packs      []packEntry `json:"packs"`
	Statistics struct {
		Tables       int64 `json:"tables"`
		Rows         int64 `json:"rows"`
		ContentBytes int64 `json:"content_bytes"`
		Blocks       int64 `json:"blocks"`
		NewBlocks    int64 `json:"new_blocks"`
		NewBytes     int64 `json:"new_bytes"`
		StoredBytes  int64 `json:"stored_bytes"`
	} `json:"statistics"`
	Warnings []warning `json:"warnings"`
}

type manifestRef struct {
	Snapshot snapshotID `json:"snapshot"`
	SHA256   hexBytes   `json:"sha256"`
}

type packEntry struct {
	Name  packName `json:"name"`
	Size  int64    `json:"size"`
	Parts uint32   `json:"parts"`
	Key   uint32   `json:"key"`
}

type warning struct {
	Code    string `json:"code"`
	Object  text   `json:"object"`
	Message text   `json:"message"`
}

type databaseRecord struct {
	SystemIdentifier string          `json:"system_identifier"`
	OID              uint32          `json:"oid"`
	Name             text            `json:"name"`
	ServerVersionNum int64           `json:"server_version_num"`
	BlockSize        int64           `json:"block_size"`
	Encoding         string          `json:"encoding"`
	LocaleProvider   string          `json:"locale_provider"`
	Collate          text            `json:"collate"`
	Ctype            text            `json:"ctype"`
	Locale           *text           `json:"locale"`
	ICURules         *text           `json:"icu_rules"`
	CollationVersion *text           `json:"collation_version"`
	Tablespace       text            `json:"tablespace"`
	Tablespaces      []text          `json:"tablespaces"`
	Owner            text            `json:"owner"`
	Grants           []grant         `json:"grants"` // nil: the default privileges
	Comment          *text           `json:"comment"`
	SecurityLabels   []securityLabel `json:"security_labels"`
	ConnectionLimit  int64           `json:"connection_limit"`
	AllowConnections bool            `json:"allow_connections"`
	IsTemplate       bool            `json:"is_template"`
	Settings         []struct {
		Role  *text `json:"role"`
		Name  text  `json:"name"`
		Value text  `json:"value"`
	} `json:"settings"`
	Extensions []struct {
		Name    text `json:"name"`
		Version text `json:"version"`
		Schema  text `json:"schema"`
	} `json:"extensions"`
	Roles []struct {
		Name            text   `json:"name"`
		Superuser       bool   `json:"superuser"`
		Inherit         bool   `json:"inherit"`
		CreateRole      bool   `json:"create_role"`
		CreateDatabase  bool   `json:"create_database"`
		Login           bool   `json:"login"`
		Replication     bool   `json:"replication"`
		BypassRLS       bool   `json:"bypass_rls"`
		ConnectionLimit int64  `json:"connection_limit"`
		ValidUntil      *text  `json:"valid_until"`
		MemberOf        []text `json:"member_of"`
	} `json:"roles"`
	UserMappings []struct {
		Server  text   `json:"server"`
		User    *text  `json:"user"`
		Options []text `json:"options"`
	} `json:"user_mappings"`
}

type grant struct {
	Grantor   text   `json:"grantor"`
	Grantee   *text  `json:"grantee"`
	Public    bool   `json:"public"`
	Privilege string `json:"privilege"`
	Grantable bool   `json:"grantable"`
}

type securityLabel struct {
	Provider text `json:"provider"`
	Label    text `json:"label"`
}

type reading struct {
	SettingsVersion int64  `json:"settings_version"`
	Xmin            xid    `json:"xmin"`
	Xmax            xid    `json:"xmax"`
	Timeline        int64  `json:"timeline"`
	EndLSN          lsn    `json:"end_lsn"`
	Marks           []mark `json:"marks"`
	Proof           *mark  `json:"proof"`
	NotBase         string `json:"not_base"`
}

type mark struct {
	RedoLSN  lsn   `json:"redo_lsn"`
	NextXID  xid   `json:"next_xid"`
	Timeline int64 `json:"timeline"`
}

// snapshot is an opened manifest.
type snapshot struct {
	manifest
	workspace      *workspace
	tree           any // the manifest as parsed, fields unknown to this reader included
	id             snapshotID
	sha256         [32]byte
	packs          map[packName]packEntry
	fingerprintKey []byte
	digestKey      []byte
}

// errVoid is what openSnapshot returns for a void.
var errVoid = errors.New("void")

// snapshotObject is one object below snapshots/: a snapshot, or the error that it does not open with. errVoid for a void.
type snapshotObject struct {
	id       snapshotID
	snapshot *snapshot
	err      error
}

// snapshots lists a workspace's snapshots, voids and damaged objects by ascending id. Foreign names are left out.
func (w *workspace) snapshots() ([]snapshotObject, error) {
	names, err := w.repository.store.list(fmt.Sprintf("workspaces/%x/snapshots/", w.id))
	if err != nil {
		return nil, err
	}
	var all []snapshotObject
	for _, name := range names {
		if id := snapshotID(name); id.valid() {
			opened, err := w.openSnapshot(id)
			all = append(all, snapshotObject{id: id, snapshot: opened, err: err})
		}
	}
	return all, nil
}

// snapshotAt returns the snapshot with the greatest id whose instant is not later than the given one; nil when there is
// none. Damaged objects on the way are passed over and returned.
func (w *workspace) snapshotAt(at time.Time) (*snapshot, []error, error) {
	all, err := w.snapshots()
	if err != nil {
		return nil, nil, err
	}
	var damaged []error
	for _, object := range slices.Backward(all) {
		switch {
		case errors.Is(object.err, errVoid):
		case object.err != nil:
			damaged = append(damaged, object.err)
		case !object.snapshot.Time.After(at):
			return object.snapshot, damaged, nil
		}
	}
	return nil, damaged, nil
}

// openSnapshot opens the manifest of a snapshot. Section 8.
func (w *workspace) openSnapshot(id snapshotID) (*snapshot, error) {
	key := fmt.Sprintf("workspaces/%x/snapshots/%s", w.id, id)
	object, err := w.repository.store.get(key, 512<<20)
	if err != nil {
		return nil, err
	}
	kind, plain, err := w.repository.openObject(key, object, w.id, w.key, kindManifest, kindVoid)
	if err != nil {
		return nil, err
	}
	if kind == kindVoid {
		return nil, fmt.Errorf("%s: %w", key, errVoid)
	}
	s := &snapshot{workspace: w, id: id, sha256: sha256.Sum256(object), packs: make(map[packName]packEntry)}
	tree, err := parseJSON(plain)
	if err == nil {
		err = checkPreamble(tree)
	}
	if err == nil {
		s.tree = tree
		err = decodeJSON(tree, &s.manifest)
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	secret, err := w.key(s.FingerprintKey)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	s.fingerprintKey, s.digestKey = derive(secret, nil, "fingerprint"), derive(secret, nil, "page digest")
	return s, nil
}

func (s *snapshot) check() error {
	if s.Snapshot != s.id || s.Workspace != fmt.Sprintf("%x", s.workspace.id) {
		return damage("manifest of snapshot %q of workspace %q", s.Snapshot, s.Workspace)
	}
	if s.Sequence < 1 {
		return damage("sequence %d", s.Sequence)
	}
	if !rising(s.Packs, func(p packEntry) packName { return p.Name }) {
		return damage("packs are not ascending")
	}
	for _, pack := range s.Packs {
		s.packs[pack.Name] = pack
	}
	if !rising(s.Alive, func(m manifestRef) snapshotID { return m.Snapshot }) {
		return damage("alive is not ascending")
	}
	for _, ref := range s.Alive {
		if len(ref.SHA256) != 32 || ref.Snapshot >= s.id {
			return damage("alive names %s", ref.Snapshot)
		}
	}
	if s.Previous == nil {
		if len(s.Alive) != 0 {
			return damage("alive without previous")
		}
	} else if len(s.Alive) == 0 || !sameRef(s.Alive[len(s.Alive)-1], *s.Previous) {
		return damage("alive does not end with previous")
	}
	return nil
}

func sameRef(a, b manifestRef) bool {
	return a.Snapshot == b.Snapshot && string(a.SHA256) == string(b.SHA256)
}

// archive returns the schema archive.
func (s *snapshot) archive() ([]byte, error) {
	var archive []byte
	err := s.pages(s.Archive.Pages, kindArchive, func(plain []byte) error {
		archive = append(archive, plain...)
		return nil
	})
	if err == nil && int64(len(archive)) != s.Archive.Size {
		err = damage("schema archive of %d bytes, not %d", len(archive), s.Archive.Size)
	}
	return archive, err
}

// sequenceRecord is that of section 8.4.
type sequenceRecord struct {
	OID       uint32  `json:"oid"`
	Schema    text    `json:"schema"`
	Name      text    `json:"name"`
	LastValue decimal `json:"last_value"`
	LogCount  int64   `json:"log_cnt"`
	IsCalled  bool    `json:"is_called"`
	Extension *text   `json:"extension"`
}

// decimal is a signed 64-bit number in a string.
type decimal int64

func (d *decimal) fromJSON(value any) error {
	digits, err := matched(value, regexp.MustCompile(`^-?[0-9]+$`))
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return damage("JSON: number %s", digits)
	}
	*d = decimal(number)
	return nil
}

func (s *snapshot) sequences() ([]sequenceRecord, error) {
	return readRecords[sequenceRecord](s, s.Sequences, kindSequences)
}

// largeObjectRecord is that of section 8.5.
type largeObjectRecord struct {
	OID            uint32          `json:"oid"`
	Owner          text            `json:"owner"`
	Grants         []grant         `json:"grants"`
	Comment        *text           `json:"comment"`
	SecurityLabels []securityLabel `json:"security_labels"`
}

func (s *snapshot) largeObjectRecords() ([]largeObjectRecord, error) {
	return readRecords[largeObjectRecord](s, s.LargeObjects, kindLargeObjects)
}

// lease is that of section 12.
type lease struct {
	Epoch    int64   `json:"epoch"`
	Purpose  string  `json:"purpose"`
	Holder   string  `json:"holder"`
	Since    instant `json:"since"`
	Lifetime string  `json:"lifetime"`
	RunKey   string  `json:"run_key"`
	Released bool    `json:"released"`
	Token    string  `json:"token"`
}

// lease reads who works on the workspace; errNotFound when nobody ever did.
func (w *workspace) lease() (lease, error) {
	key := fmt.Sprintf("workspaces/%x/lease", w.id)
	object, err := w.repository.store.get(key, 64<<10)
	if err != nil {
		return lease{}, err
	}
	_, plain, err := w.repository.openObject(key, object, w.id, w.key, kindLease)
	if err != nil {
		return lease{}, err
	}
	var found lease
	tree, err := parseJSON(plain)
	if err == nil {
		err = decodeJSON(tree, &found)
	}
	if err == nil {
		err = func() error {
			below, ok := strings.CutPrefix(found.RunKey, fmt.Sprintf("workspaces/%x/", w.id))
			if lifetime, err := time.ParseDuration(found.Lifetime); err != nil || lifetime <= 0 {
				return damage("lifetime %q", found.Lifetime)
			}
			if !ok || !strings.HasPrefix(below, "snapshots/") && !strings.HasPrefix(below, "plans/") || checkKey(found.RunKey) != nil {
				return damage("run key %q", found.RunKey)
			}
			if _, err := decodeHex(found.Token, 16); err != nil || found.Epoch < 1 {
				return damage("token or epoch")
			}
			return nil
		}()
	}
	if err != nil {
		return lease{}, fmt.Errorf("open %s: %w", key, err)
	}
	return found, nil
}

// checkHistory reports what section 13 calls missing or wrong. planned is true where plans lie that the reader knows nothing of.
func (w *workspace) checkHistory() (problems []error, planned bool, err error) {
	all, err := w.snapshots()
	if err != nil {
		return nil, false, err
	}
	plans, unknown, err := w.plans() // after the manifests
	if err != nil {
		return nil, false, err
	}
	some := func(holds func(*plan) bool) bool {
		return slices.ContainsFunc(plans, func(p plan) bool { return holds(&p) })
	}
	explained := func(ref manifestRef) bool { return some(func(p *plan) bool { return p.explains(ref) }) }
	listed := make(map[snapshotID]bool)
	present := make(map[snapshotID]*snapshot)
	missing := make(map[snapshotID]bool)
	sequences := make(map[int64]snapshotID)
	var newest, damaged int64
	for _, object := range all {
		condemned := some(func(p *plan) bool { return p.deletes(object.id) })
		if object.snapshot == nil || condemned {
			listed[object.id] = !errors.Is(object.err, errVoid)
			if object.err != nil && !condemned && !errors.Is(object.err, errVoid) {
				damaged++
				problems = append(problems, object.err)
			}
			continue
		}
		s := object.snapshot
		present[s.id], listed[s.id] = s, true
		if other, ok := sequences[s.Sequence]; ok {
			problems = append(problems, damage("snapshots %s and %s both have sequence %d", other, s.id, s.Sequence))
		}
		sequences[s.Sequence] = s.id
		newest = max(newest, s.Sequence)
		for _, ref := range s.Alive {
			other, ok := present[ref.Snapshot]
			switch {
			case !listed[ref.Snapshot] && !missing[ref.Snapshot] && !explained(ref):
				missing[ref.Snapshot] = true
				problems = append(problems, damage("snapshot %s is missing: %s names it", ref.Snapshot, s.id))
			case ok && string(other.sha256[:]) != string(ref.SHA256):
				problems = append(problems, damage("snapshot %s is not the one that %s names", ref.Snapshot, s.id))
			}
		}
		if s.Previous == nil {
			continue
		}
		if base, ok := present[s.Previous.Snapshot]; ok {
			problems = append(problems, checkSuccessor(base, s, explained)...)
		}
	}
	gap := int64(0)
	for number := int64(1); number < newest; number++ {
		if _, ok := sequences[number]; !ok && !some(func(p *plan) bool { return p.counts(number) }) {
			gap++
		}
	}
	if gap > int64(len(missing))+damaged {
		problems = append(problems, damage("%d numbers are missing below sequence %d, and only %d snapshots are known to be missing or damaged", gap, newest, int64(len(missing))+damaged))
	}
	for _, p := range plans {
		for _, pack := range p.Packs {
			for id, s := range present {
				if _, needs := s.packs[pack.Name]; needs {
					problems = append(problems, damage("plan %s deletes pack %s, which snapshot %s needs", p.Plan, pack.Name, id))
				}
			}
		}
	}
	return append(problems, unknown...), len(unknown) > 0, nil
}

// checkSuccessor holds a snapshot against its base.
func checkSuccessor(base, s *snapshot, explained func(manifestRef) bool) (problems []error) {
	if s.Sequence <= base.Sequence {
		problems = append(problems, damage("snapshot %s has sequence %d, its base %s has %d", s.id, s.Sequence, base.id, base.Sequence))
	}
	for _, ref := range base.Alive {
		kept := slices.ContainsFunc(s.Alive, func(kept manifestRef) bool { return sameRef(kept, ref) })
		said := slices.ContainsFunc(s.Warnings, func(w warning) bool {
			return w.Code == "manifest_missing" && string(w.Object) == string(ref.Snapshot)
		})
		if !kept && !said && !explained(ref) {
			problems = append(problems, damage("snapshot %s drops %s without saying so", s.id, ref.Snapshot))
		}
	}
	for _, ref := range s.Alive[:len(s.Alive)-1] {
		if !slices.ContainsFunc(base.Alive, func(known manifestRef) bool { return sameRef(known, ref) }) {
			problems = append(problems, damage("snapshot %s names %s, which its base does not", s.id, ref.Snapshot))
		}
	}
	return problems
}

// uvarintBytes is the shortest LEB128 spelling; for writers in tests.
func uvarintBytes(values ...uint64) []byte {
	var out []byte
	for _, value := range values {
		out = binary.AppendUvarint(out, value)
	}
	return out
}
