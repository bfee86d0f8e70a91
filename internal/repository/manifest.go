package repository

import (
	"encoding/hex"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
)

// Manifest is the object that makes a snapshot exist. It is written last, and names all that belongs to the snapshot.
type Manifest struct {
	Format int `json:"format"`
	// Features are required: a reader that does not know one of them refuses the manifest by its name.
	Features  []string    `json:"features"`
	Snapshot  SnapshotID  `json:"snapshot"`
	Workspace WorkspaceID `json:"workspace"`
	// Time is the instant of the content: the server's clock when the database snapshot was opened.
	Time     time.Time `json:"time"`
	Finished time.Time `json:"finished"`
	Writer   string    `json:"writer"` // version of hourvault

	// Sequence counts the workspace's manifests from 1. Previous is the one before, Alive are all that existed when this
	// one was written: so one that was removed or hidden is missed, unless a plan explains it.
	Sequence uint64        `json:"sequence"`
	Previous *ManifestRef  `json:"previous,omitempty"`
	Alive    []ManifestRef `json:"alive"`

	Server   string           `json:"server"`
	Database catalog.Database `json:"database"`
	Reading  catalog.Reading  `json:"reading"`

	// FingerprintKey is the number of the workspace key whose fingerprint key all listings use.
	FingerprintKey uint32 `json:"fingerprint_key"`

	Archive           Archive                    `json:"archive"`
	Tables            Records                    `json:"tables"`
	Sequences         Records                    `json:"sequences"`
	LargeObjects      Records                    `json:"large_objects"`
	MaterializedViews []catalog.MaterializedView `json:"materialized_views"`

	// Rewrite names chunks of which this snapshot refers to less than half: the next one stores their live blocks anew. A
	// hint for writers; a reader ignores it.
	Rewrite []ChunkName `json:"rewrite"`

	// Packs are all packs that the snapshot needs, ascending by name.
	Packs      []PackInfo        `json:"packs"`
	Statistics Statistics        `json:"statistics"`
	Warnings   []catalog.Warning `json:"warnings"`
}

// ManifestRef names a manifest, and the SHA-256 of the object as stored.
type ManifestRef struct {
	Snapshot SnapshotID `json:"snapshot"`
	SHA256   HexBytes   `json:"sha256"`
}

// Archive is the schema archive: pg_dump's custom format, cut into pages of 1 MiB, with its creation time set to a constant
// where that part of the format is known, so that an unchanged schema gives equal pages.
type Archive struct {
	Pages []Page `json:"pages"`
	Size  uint64 `json:"size"` // in bytes
	// DumpVersion is what pg_dump --version says.
	DumpVersion string `json:"dump_version"`
}

// Records are JSON records, one a line, in pages.
type Records struct {
	Count uint64 `json:"count"`
	Pages []Page `json:"pages"`
}

// Page is a part with a keyed digest of its text: within one workspace equal digests mean equal texts, so an unchanged page is
// not written again.
type Page struct {
	PartRef
	Digest HexBytes `json:"digest"`
}

// ChunkName names a chunk.
type ChunkName struct {
	Pack PackName `json:"pack"`
	Part uint32   `json:"part"`
}

// Statistics are counts for people and for alerts; a reader must not rely on them.
type Statistics struct {
	Tables       uint64 `json:"tables"`
	Rows         uint64 `json:"rows"`
	ContentBytes uint64 `json:"content_bytes"` // row text of the whole snapshot
	Blocks       uint64 `json:"blocks"`        // with rows
	NewBlocks    uint64 `json:"new_blocks"`    // stored by this snapshot
	NewBytes     uint64 `json:"new_bytes"`     // their content
	StoredBytes  uint64 `json:"stored_bytes"`  // uploaded in packs by this snapshot
}

// TableEntry is a record of Tables: a table and where its rows are.
type TableEntry struct {
	catalog.StoredTable
	// Layout is LayoutBlocks or LayoutStream.
	Layout  string  `json:"layout"`
	Listing Listing `json:"listing"`
}

// Layouts of a table's content: numbers of blocks are those of heap blocks, or only count pieces of a whole.
const (
	LayoutBlocks = "blocks"
	LayoutStream = "stream"
)

// HexBytes is a byte string that JSON holds as lower-case hexadecimal digits.
type HexBytes []byte

// MarshalText implements encoding.TextMarshaler.
func (h HexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *HexBytes) UnmarshalText(text []byte) error {
	*h = make(HexBytes, len(text)/2)
	return decodeHex(*h, string(text))
}
