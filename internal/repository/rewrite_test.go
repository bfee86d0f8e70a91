package repository

import (
	"testing"
)

// downloadRatio is how many bytes of chunks a restore opens for each byte of content that it loads.
func downloadRatio(t *testing.T, snapshot *Snapshot) float64 {
	t.Helper()
	chunks := make(map[chunkID]uint64)
	var content uint64
	for entry, err := range snapshot.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		refs, err := snapshot.listingRefs(t.Context(), entry.Listing)
		if err != nil {
			t.Fatal(err)
		}
		for n := range max(len(refs), 1) {
			page, err := snapshot.listingPage(t.Context(), entry.Listing, refs, n)
			if err != nil {
				t.Fatal(err)
			}
			if page == nil {
				continue
			}
			for _, chunk := range page.chunks {
				chunks[chunkID{pack: chunk.Pack, part: chunk.Part}] = uint64(chunk.Plain)
			}
		}
		content += uint64(entry.Bytes)
	}
	var opened uint64
	for _, plain := range chunks {
		opened += plain
	}
	return float64(opened) / float64(content)
}

// Every hour touches the same few blocks of each listing page and one more that stays as it is afterwards: so each hour
// leaves a chunk of which every page keeps one block. No page alone sees that the chunk is mostly dead.
func TestRestoreDownloadsAtMostTwiceItsContentWhenManyPagesShareChunks(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	const pages, hot = 24, 8
	blocks := []uint32{pages * ListingSpan}
	table := make(heap)
	for page := range uint32(pages) {
		for block := range uint32(40) {
			table[page*ListingSpan+block] = randomRow(1500)
		}
	}
	worst := 0.0
	for round := range uint32(30) {
		snapshot := snapshotOf(t, workspace, []heap{table}, blocks)
		checkContent(t, snapshot, []heap{table}, blocks)
		worst = max(worst, downloadRatio(t, snapshot))
		for page := range uint32(pages) {
			for block := range uint32(hot) {
				table[page*ListingSpan+block] = randomRow(1500)
			}
			table[page*ListingSpan+hot+round] = randomRow(1500)
		}
	}
	t.Logf("worst ratio %.2f", worst)
	if worst > 2 {
		t.Errorf("a restore opens %.2f times what it loads, more than 2", worst)
	}
}
