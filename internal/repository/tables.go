package repository

import (
	"context"
	"fmt"
	"sync"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
)

// Numbers that a writer chooses; a reader takes what it finds.
const (
	// inlineListing is the longest listing page, in bytes, that stands in its table's record.
	inlineListing = 2 << 10
	// directPages is how many listing pages a table's record refers to without index pages.
	directPages = 64
)

// TableWriter collects where the blocks of one table are. Ranges of it are written by BlockWriters, several at once.
type TableWriter struct {
	sw       *SnapshotWriter
	entry    TableEntry
	base     TableEntry // its listing is empty where the base does not have the table
	baseRefs []*PartRef

	mu       sync.Mutex
	pages    []*PartRef // by number
	inline   []byte     // text of page 0, when it is short
	open     int        // pages begun and not yet stored
	complete bool       // guarded by the queue
}

// OpenTable begins a table. Tables are opened ascending by oid, from one goroutine; their ranges may be written in any order.
// Each is closed with CloseTable once all its ranges were begun.
func (sw *SnapshotWriter) OpenTable(ctx context.Context, table catalog.Table) (*TableWriter, error) {
	layout := LayoutBlocks
	if !table.HasBlocks() {
		layout = LayoutStream
	}
	writer := &TableWriter{sw: sw, entry: TableEntry{StoredTable: catalog.StoredTable{Table: table}, Layout: layout}}
	base, found, err := sw.baseTables.seek(table.OID)
	if err == nil && found && base.Layout == layout {
		if writer.baseRefs, err = sw.base.listingRefs(ctx, base.Listing); err == nil {
			writer.base = base
		}
	}
	if err = sw.baseError(err); err != nil {
		return nil, sw.fail(fmt.Errorf("listing of %q.%q in the last snapshot: %w", table.Schema, table.Name, err))
	}
	writer.open = 1 // until CloseTable
	sw.queue.push(writer)
	return writer, nil
}

// Table returns the table that is being written.
func (t *TableWriter) Table() *catalog.Table { return &t.entry.Table }

// AddRows counts rows that were read.
func (t *TableWriter) AddRows(rows int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entry.Rows += rows
}

// Hold keeps the table open for a range that is still to be begun; each call is balanced by one of Release.
func (t *TableWriter) Hold() { t.beginPages(1) }

// Release gives up a Hold, after EndRange of its range.
func (t *TableWriter) Release() error { return t.pageDone(func() {}) }

// CloseTable says that all ranges of the table are held or begun. The table is complete when all have ended.
func (t *TableWriter) CloseTable() error { return t.Release() }

// basePage reads the base's listing page with that number; nil when the base has no rows there.
func (t *TableWriter) basePage(ctx context.Context, n int) (*listingPage, error) {
	if t.sw.base == nil {
		return nil, nil
	}
	if n < len(t.baseRefs) && t.baseRefs[n] != nil && t.sw.isLost(t.baseRefs[n].Pack) {
		return nil, nil
	}
	page, err := t.sw.base.listingPage(ctx, t.base.Listing, t.baseRefs, n)
	if err != nil {
		return nil, t.sw.baseError(err)
	}
	t.sw.leaveOutLost(page)
	return page, nil
}

func (t *TableWriter) beginPages(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open += n
}

// setPage records where a listing page lies.
func (t *TableWriter) setPage(n int, ref *PartRef, inline []byte, contentBytes uint64) error {
	return t.pageDone(func() {
		for len(t.pages) <= n {
			t.pages = append(t.pages, nil)
		}
		t.pages[n] = ref
		if inline != nil {
			t.inline = inline
		}
		t.entry.Bytes += int64(contentBytes)
	})
}

func (t *TableWriter) pageDone(update func()) error {
	t.mu.Lock()
	update()
	t.open--
	complete := t.open == 0
	t.mu.Unlock()
	if !complete {
		return nil
	}
	if err := t.finish(); err != nil {
		return t.sw.fail(err)
	}
	return t.sw.fail(t.sw.queue.completed(t))
}

// finish makes the table's record when all its pages are known. Nobody else uses t any more.
func (t *TableWriter) finish() error {
	for len(t.pages) > 0 && t.pages[len(t.pages)-1] == nil && (len(t.pages) > 1 || t.inline == nil) {
		t.pages = t.pages[:len(t.pages)-1]
	}
	stats := func(s *Statistics) {
		s.Rows += uint64(t.entry.Rows)
		s.ContentBytes += uint64(t.entry.Bytes)
	}
	t.sw.count(stats)
	if len(t.pages) <= 1 && t.inline != nil {
		t.entry.Listing.Inline = t.inline
		return nil
	}
	if t.inline != nil {
		// The table has grown beyond one page: its first page goes into a pack like the others.
		ref, err := t.sw.packer.add(crypto.KindListing, t.inline)
		if err != nil {
			return err
		}
		t.sw.need(ref.Pack)
		t.pages[0] = &ref
	}
	if len(t.pages) <= directPages {
		t.entry.Listing.Pages = t.pages
		return nil
	}
	return t.writeIndex()
}

// writeIndex stores the references of the listing pages in index pages. Where all references of an index page are those of the base, its index
// page is taken over.
func (t *TableWriter) writeIndex() error {
	for n := 0; n*indexSpan < len(t.pages); n++ {
		refs := t.pages[n*indexSpan : min((n+1)*indexSpan, len(t.pages))]
		if n < len(t.base.Listing.Index) && !t.sw.isLost(t.base.Listing.Index[n].Pack) && t.sameAsBase(n, refs) {
			t.entry.Listing.Index = append(t.entry.Listing.Index, t.base.Listing.Index[n])
			t.sw.need(t.base.Listing.Index[n].Pack)
			continue
		}
		ref, err := t.sw.packer.add(crypto.KindIndex, encodeIndex(refs))
		if err != nil {
			return err
		}
		t.sw.need(ref.Pack)
		t.entry.Listing.Index = append(t.entry.Listing.Index, ref)
	}
	return nil
}

func (t *TableWriter) sameAsBase(n int, refs []*PartRef) bool {
	base := t.baseRefs[n*indexSpan : min((n+1)*indexSpan, len(t.baseRefs))]
	if len(base) != len(refs) {
		return false
	}
	for i, ref := range refs {
		if (ref == nil) != (base[i] == nil) || ref != nil && *ref != *base[i] {
			return false
		}
	}
	return true
}
