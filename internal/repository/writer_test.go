package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/objectstore/faultstore"
)

// within fails the test, with all goroutines' stacks, when work does not end: a deadlock would otherwise only end with the whole run.
func within(t *testing.T, limit time.Duration, work func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		panic("does not end") // prints the stacks
	}
}

// A short block waits in a chunk that is still open while the long block behind it has chunks of its own that are finished: the page must
// wait for the open one, without keeping others from ending it.
func TestManySmallTablesWithLongRowsDoNotStandStill(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	var tables []testTable
	for i := range catalog.OID(40) {
		tables = append(tables, testTable{oid: 100 + i, blocks: 2, rows: heap{0: randomRow(10), 1: strings.Repeat("x", chunkTarget+100) + "\n"}})
	}
	within(t, time.Minute, func() { mustHold(t, mustSnapshot(t, workspace, tables...), tables...) })
}

func TestUnchangedSnapshotStoresNothing(t *testing.T) {
	store := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, store))
	tables := []testTable{table(1, 3000, 40), table(2, 1, 10), {oid: 3, blocks: 1, rows: heap{0: randomRow(3 * chunkTarget)}}}
	mustSnapshot(t, workspace, tables...)
	packs := len(keysOf(t, store, workspace.id.packsPrefix()))
	second := mustSnapshot(t, workspace, tables...)
	if stats := second.Manifest().Statistics; stats.NewBlocks != 0 || stats.StoredBytes != 0 {
		t.Errorf("stored %d blocks in %d bytes", stats.NewBlocks, stats.StoredBytes)
	}
	if now := len(keysOf(t, store, workspace.id.packsPrefix())); now != packs {
		t.Errorf("%d packs instead of %d", now, packs)
	}
	mustHold(t, second, tables...)
}

func TestScatteredUpdatesStoreOnlyChangedBlocks(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	wide := table(1, 3*ListingSpan, 2000)
	first := mustSnapshot(t, workspace, wide)
	for number := uint32(7); number < wide.blocks; number += 100 {
		wide.rows[number] = randomRow(2000)
	}
	second := mustSnapshot(t, workspace, wide)
	if stats := second.Manifest().Statistics; stats.NewBlocks != 31 || stats.StoredBytes > first.Manifest().Statistics.StoredBytes/20 {
		t.Errorf("31 changed blocks of %d stored %d blocks in %d bytes", wide.blocks, stats.NewBlocks, stats.StoredBytes)
	}
	mustHold(t, second, wide)
}

// A listing grows from the record into pages, from pages into index pages, and back.
func TestTablesGrowShrinkAndComeBack(t *testing.T) {
	repository := newTestRepository(t)
	workspace := newTestWorkspace(t, repository)
	other := table(50, 3, 20)
	grown := testTable{oid: 100, blocks: 1, rows: heap{0: randomRow(10)}}
	steps := []struct {
		name   string
		change func()
		form   string
	}{
		{"small", func() {}, "inline"},
		{"beyond the record", func() { grown = table(100, 900, 10) }, "pages"},
		{"two pages", func() { grown.blocks = ListingSpan + 1; grown.rows[ListingSpan] = randomRow(10) }, "pages"},
		{"index pages", func() {
			grown.blocks = 1100 * ListingSpan
			grown.rows[80*ListingSpan+5] = randomRow(10)
			grown.rows[1099*ListingSpan] = randomRow(10)
		}, "index"},
		{"unchanged", func() {}, "index"},
		{"one block changed", func() { grown.rows[80*ListingSpan+5] = randomRow(10) }, "index"},
		{"vacuumed", func() { grown.blocks = 70 * ListingSpan }, "pages"},
		{"last rows gone", func() { delete(grown.rows, ListingSpan) }, "pages"},
		{"truncated", func() { grown.blocks, grown.rows = 0, heap{} }, "none"},
		{"filled again", func() { grown = table(100, 5, 10) }, "inline"},
		{"all rows deleted", func() { grown.rows = heap{} }, "none"},
		{"another layout under the same oid", func() {
			grown = testTable{oid: 100, stream: true, blocks: 1, rows: heap{0: strings.Repeat(randomRow(99), 5000)}}
		}, "inline"},
		{"dropped", func() { grown.oid = 0 }, ""},
		{"the oid used again", func() { grown = table(100, 2, 10) }, "inline"},
	}
	for _, step := range steps {
		step.change()
		tables := []testTable{other, grown}
		if grown.oid == 0 {
			tables = tables[:1]
		}
		snapshot := mustSnapshot(t, workspace, tables...)
		mustHold(t, snapshot, tables...)
		for entry, err := range snapshot.Entries(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if entry.OID != 100 {
				continue
			}
			form := "none"
			switch {
			case len(entry.Listing.Index) > 0:
				form = "index"
			case len(entry.Listing.Pages) > 0:
				form = "pages"
			case entry.Listing.Inline != nil:
				form = "inline"
			}
			if form != step.form {
				t.Errorf("%s: listing is %s, want %s", step.name, form, step.form)
			}
		}
	}
	mustBeSound(t, repository)
}

func TestStreamsAreCutBehindRows(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	random := seeded(t)
	var text strings.Builder
	for text.Len() < 3*chunkTarget {
		text.WriteString(randomRow(random.IntN(60_000)))
	}
	text.WriteString(randomRow(2 * chunkTarget)) // longer than a piece and than a chunk
	stream := testTable{oid: 9, stream: true, blocks: 1, rows: heap{0: text.String()}}
	for range 2 {
		snapshot := mustSnapshot(t, workspace, stream)
		mustHold(t, snapshot, stream)
		for entry, err := range snapshot.Entries(t.Context()) {
			if err != nil || entry.Layout != LayoutStream {
				t.Errorf("layout %s, %v", entry.Layout, err)
			}
		}
	}
}

func TestTwentyThousandTablesReusePagesWhenOneChanges(t *testing.T) {
	count := catalog.OID(20_000)
	if raceDetector {
		count = 4_000
	}
	workspace := newTestWorkspace(t, newTestRepository(t))
	var tables []testTable
	for i := range count {
		tables = append(tables, testTable{oid: 16384 + 3*i, blocks: 1, rows: heap{0: fmt.Sprintf("%d\tx\n", i)}})
	}
	first := mustSnapshot(t, workspace, tables...)
	tables[2_345].rows = heap{0: "changed\n"}
	second := mustSnapshot(t, workspace, tables...)
	before, after := first.Manifest(), second.Manifest()
	if after.Statistics.NewBlocks != 1 || after.Statistics.StoredBytes > 50_000 {
		t.Errorf("one changed row stored %d blocks in %d bytes", after.Statistics.NewBlocks, after.Statistics.StoredBytes)
	}
	known := make(map[PartRef]bool)
	for _, page := range before.Tables.Pages {
		known[page.PartRef] = true
	}
	fresh := 0
	for _, page := range after.Tables.Pages {
		if !known[page.PartRef] {
			fresh++
		}
	}
	if fresh != 1 || len(after.Tables.Pages) < int(count)/64 {
		t.Errorf("%d of %d pages of records were written again", fresh, len(after.Tables.Pages))
	}
	got, err := readTables(t.Context(), second)
	if err != nil || len(got) != len(tables) || got[tables[2_345].oid] != "changed\n" {
		t.Errorf("read back %d tables, %v", len(got), err)
	}
}

// Several connections write ranges of several tables at once, as backup does.
func TestConcurrentWritersOfOneSnapshot(t *testing.T) {
	repository := newTestRepository(t)
	workspace := newTestWorkspace(t, repository)
	large := table(10, 8*ListingSpan, 300)
	small := table(20, 2*ListingSpan, 300)
	for range 2 {
		writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "test"})
		if err != nil {
			t.Fatal(err)
		}
		type job struct {
			table *TableWriter
			rows  heap
			from  uint32
		}
		var jobs []job
		for _, table := range []testTable{large, small} {
			tw, err := writer.OpenTable(t.Context(), table.catalog())
			if err != nil {
				t.Fatal(err)
			}
			tw.AddRows(int64(table.blocks))
			for from := uint32(0); from < table.blocks; from += ListingSpan {
				tw.Hold()
				jobs = append(jobs, job{tw, table.rows, from})
			}
			if err := tw.CloseTable(); err != nil {
				t.Fatal(err)
			}
		}
		queue := make(chan job, len(jobs))
		for _, job := range jobs {
			queue <- job
		}
		close(queue)
		failures := make(chan error, 4)
		for range cap(failures) {
			go func() {
				block := writer.NewBlockWriter()
				failures <- func() error {
					for job := range queue {
						if err := block.BeginRange(t.Context(), job.table, job.from, job.from+ListingSpan); err != nil {
							return err
						}
						for number := job.from; number < job.from+ListingSpan; number++ {
							if err := block.Block(number); err != nil {
								return err
							}
							if _, err := io.WriteString(block, job.rows[number]); err != nil {
								return err
							}
						}
						if _, err := block.EndPass(); err != nil {
							return err
						}
						if err := errors.Join(block.EndRange(), job.table.Release()); err != nil {
							return err
						}
					}
					return block.Close()
				}()
			}()
		}
		for range cap(failures) {
			if err := <-failures; err != nil {
				t.Fatal(err)
			}
		}
		snapshot, err := writer.Commit(t.Context(), Ending{Time: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, snapshot, large, small)
	}
	mustBeSound(t, repository)
}

var errInjected = errors.New("injected")

// failureCase is a repository with one snapshot whose content a second run changes.
func failureTables(round int) []testTable {
	rows := heap{0: fmt.Sprintf("row %d\n", round), 1: "constant\n", 2000: strings.Repeat("y", chunkTarget+round) + "\n"}
	return []testTable{{oid: 100, blocks: 2001, rows: rows}, {oid: 200, blocks: 1, rows: heap{0: fmt.Sprintf("%d\n", round)}}}
}

// For every n the n-th call to the store fails, once with nothing done and once with the answer lost: there is a complete snapshot or none,
// nothing stands still, and the next run succeeds.
func TestEveryFailingCallLeavesASnapshotOrNone(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer lost %v", lost), func(t *testing.T) {
			t.Parallel()
			directory := newDirectory(t)
			repository := createIn(t, directory)
			workspace := newTestWorkspace(t, repository)
			mustSnapshot(t, workspace, failureTables(0)...)
			faults := faultstore.New(directory)
			faulty := openIn(t, faults)
			failing, err := faulty.OpenWorkspace(t.Context(), workspace.id)
			if err != nil {
				t.Fatal(err)
			}
			options := SnapshotOptions{Holder: "test", LeaseLifetime: 40 * time.Millisecond}
			for n := 1; ; n++ {
				if n > 200 {
					t.Fatal("the run never succeeds")
				}
				tables := failureTables(n)
				reached := make(chan string, 1)
				faults.Add(faultstore.Fault{From: n, Times: 1, Err: errInjected, LostAnswer: lost, Reached: reached})
				var snapshot *Snapshot
				within(t, time.Minute, func() { snapshot, err = writeSnapshot(t.Context(), failing, options, tables...) })
				faults.Clear()
				ids, listError := workspace.SnapshotIDs(t.Context())
				if listError != nil {
					t.Fatal(listError)
				}
				if err == nil {
					mustHold(t, snapshot, tables...)
				}
				for _, id := range ids {
					stored, openError := workspace.OpenSnapshot(t.Context(), id)
					if errors.Is(openError, ErrVoid) {
						continue
					}
					if openError != nil {
						t.Fatalf("call %d: %v", n, openError)
					}
					if _, err := readTables(t.Context(), stored); err != nil {
						t.Fatalf("call %d left snapshot %s that cannot be read: %v", n, id, err)
					}
				}
				after := failureTables(n + 1000)
				next, nextError := writeSnapshot(t.Context(), workspace, options, after...)
				if nextError != nil {
					t.Fatalf("the run after the one whose call %d failed (%v): %v", n, err, nextError)
				}
				mustHold(t, next, after...)
				if len(reached) == 0 {
					break // the run makes fewer calls
				}
			}
			mustBeSound(t, repository)
		})
	}
}

// A store that does not answer must not keep an abandoned run for ever.
func TestAbandonEndsAlthoughTheStoreHangs(t *testing.T) {
	directory := newDirectory(t)
	workspace := newTestWorkspace(t, createIn(t, directory))
	faults := faultstore.New(directory)
	failing, err := openIn(t, faults).OpenWorkspace(t.Context(), workspace.id)
	if err != nil {
		t.Fatal(err)
	}
	writer, err := failing.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "test", LeaseLifetime: 20 * time.Millisecond, settleTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	reached, release := make(chan string, 100), make(chan struct{})
	faults.Add(faultstore.Fault{Method: faultstore.PutIfMatch, Reached: reached, Release: release})
	<-reached // the renewer hangs
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	within(t, time.Minute, func() { err = writer.Abandon(ctx) })
	if err == nil {
		t.Error("the lease could not be given back, and Abandon does not say so")
	}
	close(release)
}

// A base whose packs are gone or damaged must not end backups, nor be inherited.
func TestSnapshotStoresAgainWhatTheBaseHasLost(t *testing.T) {
	random := seeded(t)
	for _, damage := range []string{"deleted", "cut", "flipped"} {
		t.Run(damage, func(t *testing.T) {
			directory := newDirectory(t)
			repository := createIn(t, directory)
			workspace := newTestWorkspace(t, repository)
			tables := []testTable{table(100, 1500, 100), table(200, 2, 100)}
			mustSnapshot(t, workspace, tables...)
			for _, key := range keysOf(t, directory, workspace.id.packsPrefix()) {
				content := contentOf(t, directory, key)
				if err := directory.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				switch damage {
				case "cut":
					content = content[:len(content)/2]
				case "flipped":
					for i := 48; i < len(content); i += 50 {
						content[i] ^= byte(1 + random.IntN(255))
					}
				}
				if damage != "deleted" {
					if _, err := directory.PutIfAbsent(t.Context(), key, content); err != nil {
						t.Fatal(err)
					}
				}
			}
			second, err := writeSnapshot(t.Context(), workspace, SnapshotOptions{Holder: "test"}, tables...)
			if err != nil {
				t.Fatalf("a damaged base ends all backups: %v", err)
			}
			mustHold(t, second, tables...)
			if len(second.Manifest().Warnings) == 0 {
				t.Error("no warning says that the base is damaged")
			}
		})
	}
}

func TestRecordsLongerThanAPageComeBack(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{})
	if err != nil {
		t.Fatal(err)
	}
	schema := bytes.Repeat([]byte("0123456789abcdef"), 3*archivePageSize/16+1)
	for part := range bytesChunks(schema, 70_000) {
		if _, err := writer.SchemaArchive().Write(part); err != nil {
			t.Fatal(err)
		}
	}
	const sequences = 5000
	for i := range catalog.OID(sequences) {
		if err := writer.AddSequence(catalog.Sequence{OID: i, Name: catalog.Text(strings.Repeat("n", 63))}); err != nil {
			t.Fatal(err)
		}
	}
	comment := catalog.Text(strings.Repeat("c", 3*recordPageLimit))
	if err := writer.AddLargeObject(catalog.LargeObject{OID: 1, Note: &comment}); err != nil {
		t.Fatal(err)
	}
	snapshot, err := writer.Commit(t.Context(), Ending{Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := snapshot.SchemaArchive(t.Context(), &archive); err != nil || !bytes.Equal(archive.Bytes(), schema) {
		t.Errorf("archive: %d bytes, %v", archive.Len(), err)
	}
	count := 0
	for sequence, err := range snapshot.Sequences(t.Context()) {
		if err != nil || sequence.OID != catalog.OID(count) {
			t.Fatalf("sequence %d: %+v, %v", count, sequence, err)
		}
		count++
	}
	if count != sequences {
		t.Errorf("%d sequences", count)
	}
	for object, err := range snapshot.LargeObjects(t.Context()) {
		if err != nil || *object.Note != comment {
			t.Errorf("large object: %v", err)
		}
	}
}

func bytesChunks(data []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			n := min(size, len(data))
			if !yield(data[:n]) {
				return
			}
			data = data[n:]
		}
	}
}

var _ objectstore.Store = overlay{}

// The base's own pack is whole, and an older one, in which only rows and the archive lie, is gone: reading the base does not show that.
func TestSnapshotStoresAgainRowsWhoseOldPackIsGone(t *testing.T) {
	directory := newDirectory(t)
	repository := createIn(t, directory)
	workspace := newTestWorkspace(t, repository)
	content := table(100, 1500, 100)
	first := mustSnapshot(t, workspace, content)
	content.rows[3], content.rows[1400] = "changed\n", "changed\n"
	mustSnapshot(t, workspace, content)
	for _, pack := range first.Manifest().Packs {
		if err := directory.Delete(t.Context(), workspace.id.packKey(pack.Name)); err != nil {
			t.Fatal(err)
		}
	}
	third := mustSnapshot(t, workspace, content)
	mustHold(t, third, content)
	if err := third.SchemaArchive(t.Context(), io.Discard); err != nil {
		t.Error(err)
	}
	if warnings := third.Manifest().Warnings; len(warnings) != 1 || warnings[0].Code != "pack_lost" {
		t.Errorf("warnings %+v", warnings)
	}
	for _, workspace := range verify(t, repository, VerifyOptions{ReadData: true}).Workspaces {
		if slices.Contains(workspace.Damaged, third.Manifest().Snapshot) || len(workspace.Damaged) != 2 {
			t.Errorf("damaged: %v", workspace.Damaged)
		}
	}
}
