package repository

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/hourvault/hourvault/crypto"
)

// WorkspaceID is the random name under which everything of one workspace lies: 32 hexadecimal digits in object keys.
type WorkspaceID crypto.ID

func (w WorkspaceID) String() string { return hex.EncodeToString(w[:]) }

// MarshalText implements encoding.TextMarshaler.
func (w WorkspaceID) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *WorkspaceID) UnmarshalText(text []byte) error { return decodeHex(w[:], string(text)) }

// SnapshotID names a snapshot: the second at which its run began, or the one after its predecessor's where that is not later, so that
// names sort in the order of snapshots, and 8 random bytes. In print
// and in object keys it is "20261122T140000Z-0123456789abcdef".
type SnapshotID struct {
	seconds int64 // since 1970, UTC
	random  [8]byte
}

const snapshotTimeLayout = "20060102T150405Z"

// newSnapshotID draws a name that sorts behind after, whatever this machine's clock says: the order of names is the order
// of snapshots. The zero SnapshotID comes before all.
func newSnapshotID(begin time.Time, after SnapshotID) SnapshotID {
	id := SnapshotID{seconds: begin.Unix()}
	if !after.IsZero() {
		id.seconds = max(id.seconds, after.seconds+1)
	}
	rand.Read(id.random[:])
	return id
}

// Begun is the time at which the snapshot's run began, on the clock of the machine that took it.
func (s SnapshotID) Begun() time.Time { return time.Unix(s.seconds, 0).UTC() }

// IsZero says whether s names no snapshot.
func (s SnapshotID) IsZero() bool { return s == SnapshotID{} }

func (s SnapshotID) String() string {
	return s.Begun().Format(snapshotTimeLayout) + "-" + hex.EncodeToString(s.random[:])
}

// MarshalText implements encoding.TextMarshaler.
func (s SnapshotID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *SnapshotID) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSnapshotID(string(text))
	return err
}

// ParseSnapshotID reads what String prints, and nothing else.
func ParseSnapshotID(text string) (SnapshotID, error) {
	var id SnapshotID
	begun, random, found := strings.Cut(text, "-")
	begin, err := time.Parse(snapshotTimeLayout, begun)
	if !found || err != nil || decodeHex(id.random[:], random) != nil {
		return SnapshotID{}, fmt.Errorf("%q is not a snapshot id like 20261122T140000Z-0123456789abcdef", text)
	}
	id.seconds = begin.Unix()
	if id.String() != text {
		// time.Parse accepts more than one way to write the same second.
		return SnapshotID{}, fmt.Errorf("%q is not a snapshot id like 20261122T140000Z-0123456789abcdef", text)
	}
	return id, nil
}

// PlanID names a plan: like a SnapshotID, the second at which its run began, or the one after the plan's before where that is not later, and 8
// random bytes. So plans sort in the order in which they became effective.
type PlanID struct{ name SnapshotID }

// newPlanID draws a name that sorts behind after; the zero PlanID comes before all.
func newPlanID(begin time.Time, after PlanID) PlanID {
	return PlanID{newSnapshotID(begin, after.name)}
}

// Begun is the time at which the plan's run began, on the clock of the machine that made it.
func (p PlanID) Begun() time.Time { return p.name.Begun() }

// IsZero says whether p names no plan.
func (p PlanID) IsZero() bool { return p.name.IsZero() }

func (p PlanID) String() string { return p.name.String() }

// MarshalText implements encoding.TextMarshaler.
func (p PlanID) MarshalText() ([]byte, error) { return p.name.MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PlanID) UnmarshalText(text []byte) error {
	if p.name.UnmarshalText(text) != nil {
		return fmt.Errorf("%q is not a plan id like 20261122T140000Z-0123456789abcdef", text)
	}
	return nil
}

// PackName names a pack within its workspace: the snapshot whose run wrote it, and the pack id, which is also the salt of its
// keys. In print it is "<snapshot>/<64 hexadecimal digits>".
type PackName struct {
	Snapshot SnapshotID
	ID       [crypto.SaltSize]byte
}

// packNameSize is a pack name's length in listings, in bytes.
const packNameSize = 8 + 8 + crypto.SaltSize

func (p PackName) String() string { return p.Snapshot.String() + "/" + hex.EncodeToString(p.ID[:]) }

// MarshalText implements encoding.TextMarshaler.
func (p PackName) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PackName) UnmarshalText(text []byte) error {
	snapshot, id, found := strings.Cut(string(text), "/")
	parsed, err := ParseSnapshotID(snapshot)
	if !found || err != nil || decodeHex(p.ID[:], id) != nil {
		return fmt.Errorf("%q is not a pack's name", text)
	}
	p.Snapshot = parsed
	return nil
}

func (p PackName) appendBinary(buffer []byte) []byte {
	buffer = binary.BigEndian.AppendUint64(buffer, uint64(p.Snapshot.seconds))
	buffer = append(buffer, p.Snapshot.random[:]...)
	return append(buffer, p.ID[:]...)
}

func packNameFromBinary(data []byte) PackName {
	var name PackName
	name.Snapshot.seconds = int64(binary.BigEndian.Uint64(data))
	copy(name.Snapshot.random[:], data[8:])
	copy(name.ID[:], data[16:])
	return name
}

func newSalt() (salt [crypto.SaltSize]byte) {
	rand.Read(salt[:])
	return salt
}

// decodeHex fills target from exactly as many lower-case hexadecimal digits as it needs.
func decodeHex(target []byte, text string) error {
	if len(text) != hex.EncodedLen(len(target)) || strings.ToLower(text) != text {
		return fmt.Errorf("%q is not %d lower-case hexadecimal digits", text, hex.EncodedLen(len(target)))
	}
	_, err := hex.Decode(target, []byte(text))
	return err
}

// Object keys below the repository's prefix (docs/format.md, "Objects").
const (
	descriptionKey = "repository.json"
	claimsPrefix   = "claims/"
	allWorkspaces  = "workspaces/"
)

func repositoryKeyPrefix(number uint32) string { return fmt.Sprintf("keys/%d/", number) }

func (w WorkspaceID) prefix() string          { return allWorkspaces + w.String() + "/" }
func (w WorkspaceID) recordsPrefix() string   { return w.prefix() + "workspace/" }
func (w WorkspaceID) keysPrefix() string      { return w.prefix() + "keys/" }
func (w WorkspaceID) snapshotsPrefix() string { return w.prefix() + "snapshots/" }
func (w WorkspaceID) packsPrefix() string     { return w.prefix() + "packs/" }
func (w WorkspaceID) plansPrefix() string     { return w.prefix() + "plans/" }
func (w WorkspaceID) leaseKey() string        { return w.prefix() + "lease" }

func (w WorkspaceID) manifestKey(id SnapshotID) string { return w.snapshotsPrefix() + id.String() }
func (w WorkspaceID) planKey(id PlanID) string         { return w.plansPrefix() + id.String() }
func (w WorkspaceID) packKey(name PackName) string     { return w.packsPrefix() + name.String() }
