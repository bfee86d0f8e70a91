package repository

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
)

// streamOf takes a snapshot of one table that is read as a stream.
func streamOf(t *testing.T, workspace *Workspace, content string) *Snapshot {
	t.Helper()
	writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "test"})
	if err != nil {
		t.Fatal(err)
	}
	table, err := writer.OpenTable(t.Context(), catalog.Table{OID: 9, Kind: catalog.KindTable, AccessMethod: catalog.HeapAccessMethod, ReadWhole: true})
	if err != nil {
		t.Fatal(err)
	}
	table.Hold()
	if err := table.CloseTable(); err != nil {
		t.Fatal(err)
	}
	blocks := writer.NewBlockWriter()
	stream := blocks.BeginStream(table)
	for rest := []byte(content); len(rest) > 0; {
		n := min(len(rest), 70001)
		if _, err := stream.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if runs, err := blocks.EndPass(); err != nil || len(runs) > 0 {
		t.Fatalf("a stream is to be read again: %v, %v", runs, err)
	}
	table.AddRows(int64(strings.Count(content, "\n")))
	for _, end := range []func() error{blocks.EndRange, table.Release, blocks.Close} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	snapshot, err := writer.Commit(t.Context(), Ending{Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func TestUnchangedPiecesOfAStreamAreNotStoredAgain(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	var content strings.Builder
	for range 3000 {
		content.WriteString(randomRow(1500))
	}
	content.WriteString(randomRow(3 * blockLimit)) // too long to be held
	content.WriteString(randomRow(10))
	check := func(snapshot *Snapshot, content string) {
		t.Helper()
		for table, err := range snapshot.Tables(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := snapshot.Rows(t.Context(), table, &got); err != nil {
				t.Fatal(err)
			}
			if got.String() != content {
				t.Fatalf("got %d bytes, want %d", got.Len(), len(content))
			}
		}
	}
	first := streamOf(t, workspace, content.String())
	check(first, content.String())
	again := streamOf(t, workspace, content.String())
	check(again, content.String())
	if stats := again.Manifest().Statistics; stats.NewBlocks > 1 {
		t.Errorf("%d pieces of an unchanged stream were stored again, want only the one that is too long to be compared", stats.NewBlocks)
	}
	changed := content.String() + randomRow(10)
	check(streamOf(t, workspace, changed), changed)
}
