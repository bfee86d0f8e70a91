package repository

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
)

// Bounds on reading ahead of what is written out, for one table at a time.
const (
	// chunksAhead is how many chunks are read and opened at once.
	chunksAhead = 4
	// bytesAhead is how many plain bytes of chunks are read before they are wanted, but for the chunk that exceeds it. What was
	// read waits in the snapshot's cache, which holds several times as much.
	bytesAhead = 8 << 20
)

// readAhead reads a table's listing pages, and brings the chunks of their blocks into the snapshot's cache in the order in which
// the blocks want them, so that whoever writes the rows out rarely waits for one. Whoever does not wait for it reads the
// same chunks without it: it is about speed alone, and its errors in reading chunks are met again there.
type readAhead struct {
	pages  chan listedPage
	cancel context.CancelFunc
	group  *errgroup.Group

	mutex   sync.Mutex
	written uint64        // plain bytes of the chunks that were wanted, in order, before the one that is being written
	moved   chan struct{} // closed and replaced when written rises
}

// listedPage is a listing page with rows, or the error of reading it, which is the last.
type listedPage struct {
	*listingPage
	err error
}

// startAhead begins reading. The caller takes pages until they end, says what it has written, and calls stop.
func (s *Snapshot) startAhead(ctx context.Context, listing Listing, refs []*PartRef, pages int) *readAhead {
	ctx, cancel := context.WithCancel(ctx)
	ahead := &readAhead{pages: make(chan listedPage, 1), cancel: cancel, moved: make(chan struct{}), group: &errgroup.Group{}}
	ahead.group.SetLimit(chunksAhead + 1)
	ahead.group.Go(func() error {
		defer close(ahead.pages)
		var position chunkPosition
		for n := range pages {
			page, err := s.listingPage(ctx, listing, refs, n)
			if page == nil && err == nil {
				continue
			}
			select {
			case ahead.pages <- listedPage{page, err}:
			case <-ctx.Done():
				return nil
			}
			if err != nil {
				return nil
			}
			position.enter(page)
			for i := range page.blocks {
				for chunk := range position.pass(&page.blocks[i]) {
					if !ahead.wait(ctx, position.before) {
						return nil
					}
					ahead.group.Go(func() error {
						_, _ = s.cache.get(ctx, s.parts, crypto.KindChunk, page.chunks[chunk].PartRef)
						return nil
					})
				}
			}
		}
		return nil
	})
	return ahead
}

// wait waits until all but bytesAhead of the first n bytes were written, and says whether they were.
func (a *readAhead) wait(ctx context.Context, n uint64) bool {
	for {
		a.mutex.Lock()
		written, moved := a.written, a.moved
		a.mutex.Unlock()
		if n <= written+bytesAhead {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// wrote says that the chunks before n plain bytes are not wanted any more.
func (a *readAhead) wrote(n uint64) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if n > a.written {
		a.written = n
		close(a.moved)
		a.moved = make(chan struct{})
	}
}

// stop ends the reading and waits for its end.
func (a *readAhead) stop() {
	a.cancel()
	_ = a.group.Wait() // always nil
}

// chunkPosition follows the chunks that a table's blocks want, in the order in which they want them. Reader and writer follow
// the same blocks, and so agree on it.
type chunkPosition struct {
	page    *listingPage
	current int    // chunk of page, -1 before the first
	before  uint64 // plain bytes of the chunks before the current one
}

// enter begins the next page.
func (c *chunkPosition) enter(page *listingPage) {
	c.leave()
	c.page, c.current = page, -1
}

func (c *chunkPosition) leave() {
	if c.page != nil && c.current >= 0 {
		c.before += uint64(c.page.chunks[c.current].Plain)
	}
}

// pass goes through the chunks of a block and yields each that is not the current one, after it became so.
func (c *chunkPosition) pass(block *blockEntry) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		if block.length == 0 {
			return
		}
		for chunk := range c.page.span(block) {
			if chunk += block.chunk; chunk == c.current {
				continue
			}
			c.leave()
			c.current = chunk
			if !yield(chunk) {
				return
			}
		}
	}
}
