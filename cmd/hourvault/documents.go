package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/repository"
)

// Parts of the JSON documents that several commands print. docs/cli-json.md promises them: fields are only ever added.

// workspaceDocument names a workspace.
type workspaceDocument struct {
	// Workspace is the name to write on the command line; bytes that are not UTF-8 come out as U+FFFD.
	Workspace string `json:"workspace"`
	Server    string `json:"server"`
	// Database is a string, or {"base64": ...} where the name is not UTF-8.
	Database catalog.Text `json:"database"`
	// WorkspaceID is empty where it is not known.
	WorkspaceID string `json:"workspace_id,omitempty"`
}

func (w namedWorkspace) document() workspaceDocument {
	return workspaceDocument{Workspace: w.name, Server: w.record.Server, Database: w.record.Database, WorkspaceID: w.ID().String()}
}

// snapshotDocument describes a snapshot.
type snapshotDocument struct {
	Snapshot string `json:"snapshot"`
	// Time is the instant of the content, on the database server's clock.
	Time time.Time `json:"time"`
	// Finished is when the snapshot was complete, on the clock of the machine that took it.
	Finished       time.Time `json:"finished"`
	Sequence       uint64    `json:"sequence"`
	ManifestSHA256 string    `json:"manifest_sha256"`
	// Tables are the customer's: pg_largeobject is not counted. Rows include its rows, the pages of large objects.
	Tables uint64 `json:"tables"`
	Rows   uint64 `json:"rows"`
	// ContentBytes are those of the rows' text, NewBytes of what the snapshot before did not have, StoredBytes of what was
	// uploaded for it.
	ContentBytes uint64            `json:"content_bytes"`
	NewBytes     uint64            `json:"new_bytes"`
	StoredBytes  uint64            `json:"stored_bytes"`
	Warnings     []catalog.Warning `json:"warnings"`
}

func describeSnapshot(snapshot *repository.Snapshot) *snapshotDocument {
	manifest := snapshot.Manifest()
	return &snapshotDocument{
		Snapshot: manifest.Snapshot.String(), Time: manifest.Time.UTC(), Finished: manifest.Finished.UTC(),
		Sequence: manifest.Sequence, ManifestSHA256: hex.EncodeToString(snapshot.Ref().SHA256),
		Tables: withoutLargeObjects(manifest.Statistics.Tables), Rows: manifest.Statistics.Rows, ContentBytes: manifest.Statistics.ContentBytes,
		NewBytes: manifest.Statistics.NewBytes, StoredBytes: manifest.Statistics.StoredBytes, Warnings: notNil(manifest.Warnings),
	}
}

// withoutLargeObjects takes pg_largeobject out of a number of tables: every snapshot holds it, also of a database without
// large objects, and people who count their tables do not.
func withoutLargeObjects[N int | uint64](tables N) N { return max(tables, 1) - 1 }

// notNil makes an empty list print as [] and not as null.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// warningLine prints a warning in one line.
func warningLine(warning catalog.Warning) string {
	text := string(warning.Message)
	if warning.Object != "" {
		text = console.Printable(string(warning.Object)) + ": " + text
	}
	return console.Text(text) + " (" + warning.Code + ")"
}

func size(bytes uint64) string { return console.FormatSize(int64(bytes)) }

// errWriter keeps the first error of writing a result.
type errWriter struct {
	out io.Writer
	err error
}

func (w *errWriter) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.out, format, args...)
	}
}
