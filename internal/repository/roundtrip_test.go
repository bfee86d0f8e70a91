package repository

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
)

// heap is a table as the tests see it: the content of its blocks by number.
type heap map[uint32]string

func (h heap) content(blocks uint32) (text string, rows int) {
	var all strings.Builder
	for number := range blocks {
		all.WriteString(h[number])
	}
	return all.String(), strings.Count(all.String(), "\n")
}

func newTestRepository(t *testing.T) *Repository {
	t.Helper()
	return createIn(t, newDirectory(t))
}

func newTestWorkspace(t *testing.T, repository *Repository) *Workspace {
	t.Helper()
	workspace, _, err := repository.EnsureWorkspace(t.Context(), WorkspaceRecord{Server: "s", Database: "d", Identity: Identity{SystemIdentifier: "7", Database: 5}})
	if err != nil {
		t.Fatal(err)
	}
	return workspace
}

// snapshotOf writes a snapshot of the tables through one BlockWriter, as a reader of a database would.
func snapshotOf(t *testing.T, workspace *Workspace, tables []heap, blocks []uint32) *Snapshot {
	t.Helper()
	ctx := t.Context()
	writer, err := workspace.BeginSnapshot(ctx, SnapshotOptions{Holder: "test", Writer: "test"})
	if err != nil {
		t.Fatal(err)
	}
	block := writer.NewBlockWriter()
	fmt.Fprint(writer.SchemaArchive(), "schema")
	for i, table := range tables {
		table := table
		writeTable(t, ctx, writer, block, catalog.Table{OID: catalog.OID(100 + i), Name: "t", Schema: "public", Kind: catalog.KindTable, AccessMethod: "heap", Blocks: blocks[i]}, table)
	}
	if err := block.Close(); err != nil {
		t.Fatal(err)
	}
	snapshot, err := writer.Commit(ctx, Ending{Time: time.Now(), Server: "s"})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func writeTable(t *testing.T, ctx context.Context, writer *SnapshotWriter, block *BlockWriter, table catalog.Table, content heap) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tw, err := writer.OpenTable(ctx, table)
	must(err)
	read := func(from, to uint32, first bool) {
		for number := from; number < to; number++ {
			if text := content[number]; text != "" {
				must(block.Block(number))
				for len(text) > 0 {
					n := min(len(text), 1+rand.IntN(100000))
					_, err := block.Write([]byte(text[:n]))
					must(err)
					text = text[n:]
				}
				if first {
					tw.AddRows(int64(bytes.Count([]byte(content[number]), []byte{'\n'})))
				}
			}
		}
	}
	for from := uint32(0); from < table.Blocks; from += 2 * ListingSpan {
		to := min(from+2*ListingSpan, table.Blocks)
		must(block.BeginRange(ctx, tw, from, to))
		read(from, to, true)
		runs, err := block.EndPass()
		must(err)
		for _, run := range runs {
			read(run.From, run.To, false)
		}
		must(block.EndRange())
	}
	must(tw.CloseTable())
}

// checkContent reads a snapshot back and compares it.
func checkContent(t *testing.T, snapshot *Snapshot, tables []heap, blocks []uint32) {
	t.Helper()
	i := 0
	for entry, err := range snapshot.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := snapshot.EntryRows(t.Context(), entry, &got); err != nil {
			t.Fatal(err)
		}
		want, rows := tables[i].content(blocks[i])
		if got.String() != want || entry.Rows != int64(rows) {
			t.Fatalf("table %d: got %d bytes, want %d (rows %d, want %d)", i, got.Len(), len(want), entry.Rows, rows)
		}
		i++
	}
	if i != len(tables) {
		t.Fatalf("%d tables, want %d", i, len(tables))
	}
}

func randomRow(length int) string {
	row := make([]byte, length, length+1)
	for i := 0; i < length; i += 8 {
		for k, bits := i, rand.Uint64(); k < min(i+8, length); k, bits = k+1, bits>>8 {
			row[k] = 'A' + byte(bits&31)
		}
	}
	return string(append(row, '\n'))
}

func TestSnapshotsReadBackWhatWasWrittenThroughRandomChanges(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	repository := newTestRepository(t)
	workspace := newTestWorkspace(t, repository)
	blocks := []uint32{3000, 1, 0, 5, 1025, 66 * ListingSpan}
	tables := make([]heap, len(blocks))
	for i := range tables {
		tables[i] = make(heap)
		for number := range min(blocks[i], 5000) {
			if random.IntN(10) > 0 {
				tables[i][number] = randomRow(random.IntN(300))
			}
		}
	}
	tables[5][66*ListingSpan-1] = randomRow(10)
	tables[3][2] = randomRow(5_000_000) // a long block
	tables[0][1500] = randomRow(chunkTarget) + randomRow(chunkTarget-3)
	var previous *Snapshot
	rounds := 12
	if raceDetector {
		rounds = 9
	}
	for round := range rounds {
		snapshot := snapshotOf(t, workspace, tables, blocks)
		checkContent(t, snapshot, tables, blocks)
		reopened, err := workspace.OpenSnapshot(t.Context(), snapshot.Manifest().Snapshot)
		if err != nil {
			t.Fatal(err)
		}
		checkContent(t, reopened, tables, blocks)
		stats := snapshot.Manifest().Statistics
		t.Logf("round %d: %+v", round, stats)
		if round == 1 && (stats.NewBlocks != 0 || stats.StoredBytes != 0) {
			t.Errorf("an unchanged workspace stored %d blocks in %d bytes", stats.NewBlocks, stats.StoredBytes)
		}
		if previous != nil && snapshot.Manifest().Sequence != previous.Manifest().Sequence+1 {
			t.Errorf("sequence %d after %d", snapshot.Manifest().Sequence, previous.Manifest().Sequence)
		}
		previous = snapshot
		if round == 0 {
			continue
		}
		for i := range tables {
			for number := range tables[i] {
				if i == 3 && number == 2 {
					continue // the long block has changes of its own
				}
				if random.IntN(20) == 0 && number < blocks[i] {
					tables[i][number] = randomRow(random.IntN(300))
				}
				if random.IntN(100) == 0 {
					delete(tables[i], number)
				}
			}
		}
		if round == 5 {
			tables[3][2] = randomRow(5_000_000)
		}
		if round == 7 {
			tables[3][2] = tables[3][2][:4_000_000] + "\n"
		}
	}
}
