package demo

import (
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/restore"
)

// Report is what a demonstration did and what it found. Its JSON is what hourvault demo --json prints: fields are only
// ever added.
type Report struct {
	// PostgreSQL is the server's version, for instance "17.6", and BinDir the directory of its programs.
	PostgreSQL string `json:"postgresql_version"`
	BinDir     string `json:"bin_dir"`
	// Steps that were finished, in order.
	Steps      []Step      `json:"steps"`
	Workspaces []Workspace `json:"workspaces"`
	// Rounds of snapshots: before and after an hour of work, and after the damage.
	Rounds []Round `json:"rounds"`
	// Instant is the moment before the damage that the restore asked for.
	Instant time.Time `json:"instant,omitzero"`
	Damage  []Damage  `json:"damage"`
	Restore *Restore  `json:"restore,omitempty"`
	// Tables compares the damaged workspace with its restored copy.
	Tables []Table   `json:"tables"`
	Verify *Verified `json:"verify,omitempty"`
	Proofs []Proof   `json:"proofs"`
	// Proven says that the demonstration came to its end and that every proof holds.
	Proven bool `json:"proven"`
	// Kept is there when files were kept.
	Kept     *Kept         `json:"kept,omitempty"`
	Duration time.Duration `json:"duration_ns"`
	// Error is set by whoever prints the report.
	Error string `json:"error,omitempty"`
}

// Step is one step of the story.
type Step struct {
	Stage    Stage         `json:"stage"`
	Number   int           `json:"number"`
	Title    string        `json:"title"`
	Duration time.Duration `json:"duration_ns"`
}

// Workspace is a database that was made. Rows are those of its tables.
type Workspace struct {
	Database  string `json:"database"`
	Tables    int    `json:"tables"`
	Rows      int64  `json:"rows"`
	DiskBytes int64  `json:"disk_bytes"`
}

// Round is one snapshot of each workspace.
type Round struct {
	Stage     Stage      `json:"stage"`
	Snapshots []Snapshot `json:"snapshots"`
}

// Snapshot is one that was taken. ContentBytes are those of the rows' text, NewBytes of what the snapshot before did not
// have, StoredBytes of what was written to the repository in packs.
type Snapshot struct {
	Workspace    string            `json:"workspace"`
	Snapshot     string            `json:"snapshot"`
	Time         time.Time         `json:"time"`
	Rows         uint64            `json:"rows"`
	ContentBytes uint64            `json:"content_bytes"`
	NewBytes     uint64            `json:"new_bytes"`
	StoredBytes  uint64            `json:"stored_bytes"`
	Warnings     []catalog.Warning `json:"warnings"`
	Duration     time.Duration     `json:"duration_ns"`
}

// Damage is one statement of the damage. Rows is -1 where PostgreSQL does not say how many.
type Damage struct {
	What string `json:"what"`
	Rows int64  `json:"rows"`
}

// Restore is the restore that was made. Rows and Bytes include large objects.
type Restore struct {
	Workspace    string                  `json:"workspace"`
	Into         string                  `json:"into"`
	At           time.Time               `json:"at"`
	Snapshot     string                  `json:"snapshot"`
	Time         time.Time               `json:"time"`
	Rows         int64                   `json:"rows"`
	Bytes        int64                   `json:"bytes"`
	LargeObjects int64                   `json:"large_objects"`
	Sequences    int                     `json:"sequences"`
	Phases       []restore.PhaseDuration `json:"phases"`
	Warnings     []catalog.Warning       `json:"warnings"`
	Duration     time.Duration           `json:"duration_ns"`
}

// Kinds of what is compared.
const (
	KindTable            = "table"
	KindMaterializedView = "materialized_view"
	KindSequence         = "sequence"
	KindLargeObjects     = "large_objects"
)

// Table compares a table, or something like one: how many rows before the damage, after it, and restored; -1 where it did
// not exist. Equal says that the digest of the restored rows is that of the rows before the damage.
type Table struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Root is the partitioned table that it is a partition of, at whatever depth.
	Root     string `json:"root,omitempty"`
	Before   int64  `json:"rows_before"`
	Damaged  int64  `json:"rows_damaged"`
	Restored int64  `json:"rows_restored"`
	Equal    bool   `json:"equal"`
}

// Verified is what was found by verifying the whole repository.
type Verified struct {
	Workspaces      int      `json:"workspaces"`
	Snapshots       int      `json:"snapshots"`
	Packs           int      `json:"packs"`
	ReadBytes       uint64   `json:"read_bytes"`
	Objects         int      `json:"objects"`
	RepositoryBytes int64    `json:"repository_bytes"`
	Problems        []string `json:"problems"`
}

// Proof is something that was shown, or failed to be. Text says what, or what is wrong.
type Proof struct {
	Name  string `json:"name"`
	Holds bool   `json:"holds"`
	Text  string `json:"text"`
}

// Kept says where the files are. Start is the command that starts the server again, as the user that owns its files.
type Kept struct {
	Directory  string `json:"directory"`
	Cluster    string `json:"cluster"`
	Repository string `json:"repository"`
	RootKey    string `json:"root_key"`
	Start      string `json:"start"`
}
