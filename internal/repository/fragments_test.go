package repository

import (
	"io"
	"testing"

	"github.com/hourvault/hourvault/internal/catalog"
)

// After many hours of random updates, even ones and ones that prefer some blocks, a restore downloads at most twice what it loads, and no
// page refers to a chunk of which less than half of its share is live.
func TestRestoreStaysWithinTwiceItsContentThroughRandomUpdates(t *testing.T) {
	random := seeded(t)
	directory := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, directory))
	store := &counted{Store: directory}
	reader := openIn(t, store)
	tables := []testTable{table(100, 4*ListingSpan, 800), table(200, ListingSpan/2, 400), table(300, 200, 60)}
	rounds := 20
	if raceDetector {
		rounds = 8
	}
	for range rounds {
		for i, table := range tables {
			preferred := uint32(random.IntN(int(table.blocks)))
			for number := range table.blocks {
				odds := 40
				if (number-preferred)%table.blocks < table.blocks/8 {
					odds = 3
				}
				if random.IntN(odds) == 0 {
					tables[i].rows[number] = randomRow(len(table.rows[number]) - 1)
				}
			}
		}
		snapshot := mustSnapshot(t, workspace, tables...)
		checkShares(t, snapshot)
		opened, err := reader.OpenWorkspace(t.Context(), workspace.id)
		if err != nil {
			t.Fatal(err)
		}
		again, err := opened.OpenSnapshot(t.Context(), snapshot.Manifest().Snapshot)
		if err != nil {
			t.Fatal(err)
		}
		content := snapshot.Manifest().Statistics.ContentBytes
		if ratio := downloadRatio(t, again); ratio > 2 {
			t.Fatalf("chunks of %.2f times the content", ratio)
		}
		store.bytes.Store(0)
		for entry, err := range again.Entries(t.Context()) {
			if err == nil {
				err = again.EntryRows(t.Context(), entry, io.Discard)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if read := uint64(store.bytes.Load()); read > 2*content {
			t.Fatalf("a restore of %d bytes read %d", content, read)
		}
	}
}

// checkShares holds that each page still refers to half of its share of every chunk.
func checkShares(t *testing.T, snapshot *Snapshot) {
	t.Helper()
	for entry, err := range snapshot.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		refs, err := snapshot.listingRefs(t.Context(), entry.Listing)
		if err != nil {
			t.Fatal(err)
		}
		for n := range max(1, len(refs)) {
			page, err := snapshot.listingPage(t.Context(), entry.Listing, refs, n)
			if err != nil {
				t.Fatal(err)
			}
			if page == nil {
				continue
			}
			for i, live := range page.live() {
				if live*2 < page.chunks[i].share {
					t.Fatalf("table %d, page %d refers to %d bytes of its %d in chunk %d", entry.OID, n, live, page.chunks[i].share, i)
				}
			}
		}
	}
}

// A check reads each pack once and each chunk about once more, however many snapshots share it.
func TestVerifyDoesNotReadWhatSnapshotsShareForEachOfThem(t *testing.T) {
	directory := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, directory))
	tables := []testTable{table(100, 3*ListingSpan, 500)}
	for i := range 300 {
		tables = append(tables, testTable{oid: 200 + catalog.OID(i), blocks: 1, rows: heap{0: randomRow(20)}})
	}
	for round := range uint32(10) {
		tables[0].rows[round] = randomRow(500)
		mustSnapshot(t, workspace, tables...)
	}
	store := &counted{Store: directory}
	report := verify(t, openIn(t, store), VerifyOptions{ReadData: true})
	if len(report.Problems) > 0 || len(report.Workspaces) != 1 || report.Workspaces[0].Snapshots != 10 || report.Workspaces[0].Tables != 301 {
		t.Fatalf("%+v", report)
	}
	for part, times := range store.ranges {
		if times > 2 {
			t.Errorf("%s was read %d times", part, times)
		}
	}
	if report.Workspaces[0].BytesRead != report.Workspaces[0].PackBytes {
		t.Errorf("read %d of %d bytes of packs", report.Workspaces[0].BytesRead, report.Workspaces[0].PackBytes)
	}
}
