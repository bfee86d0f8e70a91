package repository

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// SnapshotOptions say who takes a snapshot. The zero value of a duration means its default.
type SnapshotOptions struct {
	Holder        string // host and process, for whoever finds the lease held
	Writer        string // version of hourvault
	LeaseLifetime time.Duration
	// Waiting, when set, is told once for each run whose lease has to be outwaited.
	Waiting func(LeaseWait)

	settleTimeout time.Duration
}

// SnapshotWriter writes one snapshot of a workspace. Nothing of it exists for anybody else until Commit returns nil.
// Every writer ends with Commit or Abandon.
type SnapshotWriter struct {
	workspace *Workspace
	id        SnapshotID
	options   SnapshotOptions
	lease     *lease
	ctx       context.Context // ends when the lease was lost or a part failed
	cancel    context.CancelCauseFunc

	base           *Snapshot // nil: none
	alive          []ManifestRef
	previous       *ManifestRef
	sequence       uint64
	fingerprintKey uint32
	key            *crypto.Key // of fingerprintKey

	packer  *packer
	buffers chan []byte    // of chunks, to be used again
	sealing errgroup.Group // chunks being sealed
	listing errgroup.Group // listing pages that wait for their chunks; wait only for what sealing has begun

	mu       sync.Mutex
	needed   map[PackName]struct{}
	warnings []catalog.Warning
	stats    Statistics
	live     map[chunkID]chunkUse // of chunks that several pages refer to, or refer to in part
	rewrite  map[chunkID]bool     // chunks that the base found mostly dead
	lost     map[PackName]bool    // packs of the base that are gone or damaged: what lies there is stored again

	tables       *recordWriter
	sequences    *recordWriter
	largeObjects *recordWriter
	archive      *archiveWriter
	queue        tableQueue
	baseTables   *baseCursor
}

// BeginSnapshot takes the workspace's lease, settles the run before, completes the first pass of plans, and chooses the newest
// readable snapshot as the base whose unchanged blocks are not stored again. *LeaseHeldError when another run is alive, ErrPlanned when a
// later version works on the workspace.
func (w *Workspace) BeginSnapshot(ctx context.Context, options SnapshotOptions) (*SnapshotWriter, error) {
	if options.LeaseLifetime <= 0 {
		options.LeaseLifetime = DefaultLeaseLifetime
	}
	newest, err := w.newestID(ctx)
	if err != nil {
		return nil, err
	}
	if ahead := time.Until(newest.Begun()); !newest.IsZero() && ahead > maxAhead {
		return nil, fmt.Errorf("%s is named %s ahead of this machine's clock: set the clock right, or remove that object if it is not a snapshot of yours", w.id.manifestKey(newest), ahead.Round(time.Second))
	}
	sw := &SnapshotWriter{workspace: w, id: newSnapshotID(time.Now(), newest), options: options,
		needed: make(map[PackName]struct{}), live: make(map[chunkID]chunkUse), rewrite: make(map[chunkID]bool), lost: make(map[PackName]bool)}
	if sw.options.settleTimeout <= 0 {
		sw.options.settleTimeout = settleTimeout
	}
	lease, leased, err := w.acquireLease(ctx, purposeSnapshot, options.Holder, w.id.manifestKey(sw.id), options.LeaseLifetime, options.Waiting)
	if err != nil {
		return nil, err
	}
	sw.lease = lease
	sw.ctx, sw.cancel = context.WithCancelCause(leased)
	if err = sw.chooseBase(sw.ctx); err == nil {
		sw.packer, err = newPacker(sw.ctx, w, sw.id)
	}
	if err != nil {
		sw.cancel(err)
		releaseCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sw.options.settleTimeout)
		defer cancel()
		return nil, errors.Join(err, ignoreLost(lease.release(releaseCtx)))
	}
	sw.sealing.SetLimit(compressors() + 1)
	sw.listing.SetLimit(2 * compressors())
	sw.buffers = make(chan []byte, compressors()+4)
	sw.tables = sw.newRecordWriter(crypto.KindTables)
	sw.sequences = sw.newRecordWriter(crypto.KindSequences)
	sw.largeObjects = sw.newRecordWriter(crypto.KindLargeObjs)
	sw.archive = sw.newArchiveWriter()
	sw.queue.write = func(entry TableEntry) error {
		return sw.tables.add(uint32(entry.OID), entry)
	}
	sw.baseTables = newBaseCursor(sw.ctx, sw.base)
	return sw, nil
}

// maxAhead is how far the newest name may lie ahead of this machine's clock: new names must come after it.
const maxAhead = 24 * time.Hour

// chooseBase reads the history. A manifest that cannot be read is a warning, not an end: the workspace must be backed up all
// the same, and verify reports it.
func (sw *SnapshotWriter) chooseBase(ctx context.Context) error {
	plans, err := sw.workspace.listPlans(ctx)
	if err != nil {
		return err
	}
	effective, err := plans.readable(ctx)
	if err != nil {
		return err
	}
	ids, err := sw.workspace.SnapshotIDs(ctx)
	if err != nil {
		return err
	}
	if len(ids) > 0 && ids[len(ids)-1].String() >= sw.id.String() {
		// Another run ended between drawing the name and taking the lease: names must rise, so a new one is drawn.
		sw.id = newSnapshotID(time.Now(), ids[len(ids)-1])
		if err := sw.lease.rename(ctx, sw.workspace.id.manifestKey(sw.id)); err != nil {
			return err
		}
	}
	// Only the newest plan can be unfinished: no run makes one before it has completed those before it. What earlier ones name may have
	// been put back.
	for _, plan := range effective {
		if ids, err = sw.workspace.completeFirstPass(ctx, plan, ids); err != nil {
			return err
		}
	}
	listed := make(map[SnapshotID]bool, len(ids))
	for _, id := range ids {
		listed[id] = true
	}
	for _, id := range slices.Backward(ids) {
		snapshot, err := sw.workspace.OpenSnapshot(ctx, id)
		switch {
		case err == nil:
			sw.base = snapshot
		case errors.Is(err, ErrVoid):
			continue
		case errors.Is(err, crypto.ErrNewerFormat), isUnknownFeature(err):
			// A newer version works on this workspace; writing beside it could break what it relies on.
			return err
		case errors.Is(err, ErrDamaged):
			sw.warn("manifest_unreadable", id.String(), "not used as base, run hourvault verify: "+err.Error())
			sw.sequence++
			continue
		default:
			return err
		}
		break
	}
	sw.fingerprintKey = sw.workspace.current
	if sw.base != nil {
		sw.fingerprintKey = sw.base.manifest.FingerprintKey
		ref := sw.base.Ref()
		sw.previous = &ref
		for _, known := range sw.base.manifest.Alive {
			if !listed[known.Snapshot] {
				explained, err := plans.explains(ctx, known)
				if err != nil {
					return err
				}
				if explained {
					continue
				}
				// No run deleted it, so somebody else did, or hides it.
				sw.warn("manifest_missing", known.Snapshot.String(), "snapshot "+known.Snapshot.String()+" was there when the last one was taken and is not listed any more: run hourvault verify")
				continue
			}
			sw.alive = append(sw.alive, known)
		}
		sw.alive = append(sw.alive, ref)
		for _, chunk := range sw.base.manifest.Rewrite {
			sw.rewrite[chunkID{pack: chunk.Pack, part: chunk.Part}] = true
		}
		sw.sequence += sw.base.manifest.Sequence
		if err := sw.findLostPacks(ctx, effective); err != nil {
			return err
		}
	}
	sw.sequence++
	sw.key, err = sw.workspace.key(sw.fingerprintKey)
	return err
}

// findLostPacks compares the packs that the base needs with those that are stored, by one listing: what somebody deleted (a
// lifecycle rule of the bucket, say) would otherwise be missing in all later snapshots too. Packs that a plan names are as good as gone; no
// plan names one of a base while listings are complete.
func (sw *SnapshotWriter) findLostPacks(ctx context.Context, plans []*storedPlan) error {
	absent := make(map[PackName]uint64, len(sw.base.manifest.Packs)) // to the size that they should have
	for _, pack := range sw.base.manifest.Packs {
		absent[pack.Name] = pack.Size
	}
	for info, err := range sw.workspace.repository.store.List(ctx, sw.workspace.id.packsPrefix()) {
		if err != nil {
			return err
		}
		var name PackName
		if name.UnmarshalText([]byte(strings.TrimPrefix(info.Key, sw.workspace.id.packsPrefix()))) != nil {
			continue
		}
		if size, needed := absent[name]; needed && size == uint64(info.Size) {
			delete(absent, name)
		}
	}
	for name := range absent {
		sw.lose(name, "is gone or has another length")
	}
	needed := make(map[PackName]bool, len(sw.base.manifest.Packs))
	for _, pack := range sw.base.manifest.Packs {
		needed[pack.Name] = true
	}
	for _, plan := range plans {
		for _, pack := range plan.Packs {
			if needed[pack.Name] {
				sw.lose(pack.Name, "is about to be deleted by plan "+plan.Plan.Plan.String())
			}
		}
	}
	return nil
}

// lose records that nothing in a pack of the base can be relied on.
func (sw *SnapshotWriter) lose(name PackName, reason string) {
	sw.mu.Lock()
	known := sw.lost[name]
	sw.lost[name] = true
	sw.mu.Unlock()
	if !known {
		sw.warn("pack_lost", name.String(), "pack "+name.String()+" of earlier snapshots "+reason+": what this snapshot needs of it is stored again; run hourvault verify")
	}
}

func (sw *SnapshotWriter) isLost(name PackName) bool {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	return sw.lost[name]
}

// baseError turns an error of reading the base into a warning when the base is damaged: its content is stored again then, since a
// workspace must be backed up all the same. Other errors, such as that the store cannot be reached, stay.
func (sw *SnapshotWriter) baseError(err error) error {
	var part *PartError
	if err == nil || !errors.As(err, &part) || !isDamage(err) && !errors.Is(err, objectstore.ErrNotFound) {
		return err
	}
	var name PackName
	if name.UnmarshalText([]byte(strings.TrimPrefix(part.Object, sw.workspace.id.packsPrefix()))) != nil {
		return err
	}
	sw.lose(name, "cannot be read ("+part.Err.Error()+")")
	return nil
}

// leaveOutLost makes a page of the base forget the blocks whose content lies in lost packs.
func (sw *SnapshotWriter) leaveOutLost(page *listingPage) {
	if page == nil {
		return
	}
	sw.mu.Lock()
	defer sw.mu.Unlock()
	if !slices.ContainsFunc(page.chunks, func(chunk chunkRef) bool { return sw.lost[chunk.Pack] }) {
		return
	}
	page.lossy = true
	for i := range page.blocks {
		block := &page.blocks[i]
		if block.length == 0 {
			continue
		}
		for n := range page.span(block) {
			if sw.lost[page.chunks[block.chunk+n].Pack] {
				*block = blockEntry{}
				break
			}
		}
	}
}

func isUnknownFeature(err error) bool {
	var unknown *UnknownFeatureError
	return errors.As(err, &unknown)
}

// ID names the snapshot that is being written.
func (sw *SnapshotWriter) ID() SnapshotID { return sw.id }

// Base is the snapshot whose unchanged blocks are taken over; nil when there is none.
func (sw *SnapshotWriter) Base() *Snapshot { return sw.base }

// Context ends, with a cause, when the run can no longer become effective: reading should stop then.
func (sw *SnapshotWriter) Context() context.Context { return sw.ctx }

// fail ends the run's context with the first error.
func (sw *SnapshotWriter) fail(err error) error {
	if err != nil {
		sw.cancel(err)
	}
	return err
}

func (sw *SnapshotWriter) warn(code, object, message string) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	sw.warnings = append(sw.warnings, catalog.Warning{Code: code, Object: catalog.Text(object), Message: catalog.Text(message)})
}

// need records that the snapshot refers to a pack.
func (sw *SnapshotWriter) need(name PackName) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	sw.needed[name] = struct{}{}
}

// chunkUse is how much of a chunk the snapshot's pages refer to, in bytes of its text.
type chunkUse struct{ live, plain uint64 }

// use counts what one page refers to. Chunks that it refers to completely belong to it alone and need no counting.
func (sw *SnapshotWriter) use(page *listingPage) {
	live := page.live()
	sw.mu.Lock()
	defer sw.mu.Unlock()
	for i, chunk := range page.chunks {
		if live[i] < uint64(chunk.Plain) {
			id := chunkID{pack: chunk.Pack, part: chunk.Part}
			use := sw.live[id]
			sw.live[id] = chunkUse{live: use.live + live[i], plain: uint64(chunk.Plain)}
		}
	}
}

// rewriteLimit bounds how many chunks a snapshot asks its successor to write anew.
const rewriteLimit = 10000

// mostlyDead returns chunks of which the snapshot refers to less than half. A page finds out by itself about its own share of a chunk; only
// the whole snapshot knows about the sum of all shares.
func (sw *SnapshotWriter) mostlyDead() []ChunkName {
	dead := []ChunkName{}
	for id, use := range sw.live {
		if use.live*2 < use.plain && len(dead) < rewriteLimit {
			dead = append(dead, ChunkName{Pack: id.pack, Part: id.part})
		}
	}
	slices.SortFunc(dead, func(a, b ChunkName) int {
		return cmp.Or(strings.Compare(a.Pack.String(), b.Pack.String()), cmp.Compare(a.Part, b.Part))
	})
	return dead
}

// count updates the statistics.
func (sw *SnapshotWriter) count(update func(*Statistics)) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	update(&sw.stats)
}

// AddSequence records a sequence; not to be called concurrently.
func (sw *SnapshotWriter) AddSequence(sequence catalog.Sequence) error {
	return sw.fail(sw.sequences.add(uint32(sequence.OID), sequence))
}

// AddLargeObject records a large object's metadata; not to be called concurrently.
func (sw *SnapshotWriter) AddLargeObject(object catalog.LargeObject) error {
	return sw.fail(sw.largeObjects.add(uint32(object.OID), object))
}

// SchemaArchive takes pg_dump's custom format. It is written from one goroutine, and need not be closed.
func (sw *SnapshotWriter) SchemaArchive() interface{ Write([]byte) (int, error) } { return sw.archive }

// Ending is what a snapshot's manifest records besides what was written before.
type Ending struct {
	Time              time.Time // the instant of the content, on the server's clock
	Server            string
	Database          catalog.Database
	Reading           catalog.Reading
	MaterializedViews []catalog.MaterializedView
	Warnings          []catalog.Warning
	DumpVersion       string
}

// Commit finishes all packs and then writes the manifest, which makes the snapshot exist. All tables' writers must have been
// closed. When it fails nothing of the snapshot exists, or the error says that this could not be settled; either way the writer
// has ended.
func (sw *SnapshotWriter) Commit(ctx context.Context, ending Ending) (*Snapshot, error) {
	content, err := sw.finish(ending)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot %s: %w", sw.id, err), sw.Abandon(ctx))
	}
	// From here on the manifest may exist, whatever errors come: who gives up must settle that first.
	runKey := sw.workspace.id.manifestKey(sw.id)
	_, err = sw.workspace.repository.store.PutIfAbsent(sw.ctx, runKey, content)
	if err != nil {
		if err = sw.settleCommit(ctx, content, err); err != nil {
			return nil, err
		}
	}
	snapshot, err := sw.workspace.parseSnapshot(sw.id, content)
	sw.cancel(context.Canceled)
	// The snapshot exists; that the lease could not be given back only makes the next run wait for it to expire.
	releaseCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sw.options.settleTimeout)
	defer cancel()
	_ = sw.lease.release(releaseCtx)
	return snapshot, err
}

// settleTimeout bounds what is done after the run's own context may have ended.
const settleTimeout = 30 * time.Second

// settleCommit finds out what became of a manifest whose creation was answered with an error. nil when it exists after all.
func (sw *SnapshotWriter) settleCommit(ctx context.Context, content []byte, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sw.options.settleTimeout)
	defer cancel()
	runKey := sw.workspace.id.manifestKey(sw.id)
	if err := sw.workspace.settle(ctx, runKey, sw.options.Holder, "the manifest's write was answered with an error"); err != nil {
		sw.cancel(cause)
		sw.lease.abandon()
		return fmt.Errorf("snapshot %s: %w; whether it exists is not known, because the store cannot be reached (%v): the next run settles it", sw.id, cause, err)
	}
	if errors.Is(cause, objectstore.ErrNotEncrypted) {
		// It may be there; but a store that does not encrypt as it was asked is never taken for one that does.
		sw.cancel(cause)
		return errors.Join(fmt.Errorf("snapshot %s: %w; run hourvault verify and delete its manifest if it is listed", sw.id, cause), ignoreLost(sw.lease.release(ctx)))
	}
	stored, _, err := objectstore.ReadAll(ctx, sw.workspace.repository.store, runKey, maxObjectSize)
	if err == nil && bytes.Equal(stored, content) {
		return nil
	}
	if err != nil {
		// The run is settled, so the lease may be given back; only this process cannot tell how it ended.
		err = fmt.Errorf("%w; whether it exists is not known, because its manifest cannot be read (%v)", cause, err)
	} else if err = cause; errors.Is(cause, objectstore.ErrExists) {
		err = ErrLeaseLost // somebody who took over made it void
	}
	sw.cancel(err)
	return errors.Join(fmt.Errorf("snapshot %s: %w", sw.id, err), ignoreLost(sw.lease.release(ctx)))
}

func ignoreLost(err error) error {
	if errors.Is(err, ErrLeaseLost) {
		return nil
	}
	return err
}

// Abandon ends a run that did not come as far as Commit. Packs already written stay until they are pruned; verify reports them.
func (sw *SnapshotWriter) Abandon(ctx context.Context) error {
	sw.cancel(context.Canceled)
	// The run was given up, whatever became of these.
	_ = sw.sealing.Wait()
	_ = sw.listing.Wait()
	sw.baseTables.close()
	sw.packer.discard()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sw.options.settleTimeout)
	defer cancel()
	// The run never tried to create its manifest, so there is nothing to settle before the lease is given back.
	return ignoreLost(sw.lease.release(ctx))
}

// finish writes what is still open and returns the sealed manifest.
func (sw *SnapshotWriter) finish(ending Ending) ([]byte, error) {
	err := errors.Join(sw.sealing.Wait(), sw.listing.Wait())
	sw.baseTables.close()
	if err == nil {
		err = sw.queue.done()
	}
	if err == nil {
		err = errors.Join(sw.archive.flush(), sw.tables.flush(), sw.sequences.flush(), sw.largeObjects.flush())
	}
	if err != nil {
		return nil, err
	}
	finished, uploaded, err := sw.packer.finish()
	if err != nil {
		return nil, err
	}
	if sw.ctx.Err() != nil {
		return nil, context.Cause(sw.ctx)
	}
	packs := slices.Collect(maps.Values(finished))
	inherited := make(map[PackName]PackInfo)
	if sw.base != nil {
		for _, pack := range sw.base.manifest.Packs {
			inherited[pack.Name] = pack
		}
	}
	for name := range sw.needed {
		if _, mine := finished[name]; mine {
			continue
		}
		pack, known := inherited[name]
		if !known {
			return nil, fmt.Errorf("internal error: pack %s is referred to but neither written nor in the base", name)
		}
		packs = append(packs, pack)
	}
	slices.SortFunc(packs, func(a, b PackInfo) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	sw.stats.StoredBytes = uploaded
	sw.stats.Tables = sw.tables.count
	manifest := Manifest{
		Format: crypto.FormatVersion, Features: []string{}, Snapshot: sw.id, Workspace: sw.workspace.id,
		Time: ending.Time.UTC(), Finished: time.Now().UTC().Truncate(time.Second), Writer: sw.options.Writer,
		Sequence: sw.sequence, Previous: sw.previous, Alive: slices.Clip(append([]ManifestRef{}, sw.alive...)),
		Server: ending.Server, Database: ending.Database, Reading: ending.Reading, FingerprintKey: sw.fingerprintKey,
		Archive: sw.archive.archive(ending.DumpVersion), Tables: sw.tables.records(), Sequences: sw.sequences.records(),
		LargeObjects: sw.largeObjects.records(), MaterializedViews: ending.MaterializedViews, Packs: packs,
		Rewrite: sw.mostlyDead(), Statistics: sw.stats, Warnings: append(append([]catalog.Warning{}, sw.warnings...), ending.Warnings...),
	}
	if manifest.MaterializedViews == nil {
		manifest.MaterializedViews = []catalog.MaterializedView{}
	}
	return sw.workspace.sealJSON(crypto.KindManifest, sw.workspace.id.manifestKey(sw.id), manifest)
}

// addPage stores a page of records or of the archive, unless the base holds an equal one.
func (sw *SnapshotWriter) addPage(kind crypto.Kind, plain []byte, mac hash.Hash, known map[string]Page) (Page, error) {
	digest := pageDigest(mac, kind, plain)
	page, unchanged := known[string(digest)]
	if !unchanged || sw.isLost(page.Pack) {
		ref, err := sw.packer.add(kind, plain)
		if err != nil {
			return page, sw.fail(err)
		}
		page = Page{PartRef: ref, Digest: digest}
		known[string(digest)] = page
	}
	sw.need(page.Pack)
	return page, nil
}

func pagesByDigest(pages []Page) map[string]Page {
	known := make(map[string]Page, len(pages))
	for _, page := range pages {
		known[string(page.Digest)] = page
	}
	return known
}

// recordWriter gathers JSON records into pages. Pages end after records chosen by a hash of their oid, so that adding
// or removing one leaves the other pages as they were.
type recordWriter struct {
	sw    *SnapshotWriter
	kind  crypto.Kind
	mac   hash.Hash
	known map[string]Page
	text  []byte
	pages []Page
	count uint64
}

// A page of records ends after one record in recordsPerPage on average, and at recordPageLimit bytes at the latest.
const (
	recordsPerPage  = 32
	recordPageLimit = 1 << 20
)

func (sw *SnapshotWriter) newRecordWriter(kind crypto.Kind) *recordWriter {
	var pages []Page
	if sw.base != nil {
		switch kind {
		case crypto.KindTables:
			pages = sw.base.manifest.Tables.Pages
		case crypto.KindSequences:
			pages = sw.base.manifest.Sequences.Pages
		case crypto.KindLargeObjs:
			pages = sw.base.manifest.LargeObjects.Pages
		}
	}
	return &recordWriter{sw: sw, kind: kind, mac: sw.key.NewDigester(), known: pagesByDigest(pages), pages: []Page{}}
}

func (r *recordWriter) add(oid uint32, record any) error {
	line, err := json.Marshal(record)
	if err != nil {
		return err
	}
	r.text = append(append(r.text, line...), '\n')
	r.count++
	// Knuth's multiplicative hash spreads neighbouring oids.
	if (oid*2654435761)>>16%recordsPerPage == 0 || len(r.text) >= recordPageLimit {
		return r.flush()
	}
	return nil
}

func (r *recordWriter) flush() error {
	if len(r.text) == 0 {
		return nil
	}
	page, err := r.sw.addPage(r.kind, r.text, r.mac, r.known)
	if err != nil {
		return err
	}
	r.pages = append(r.pages, page)
	r.text = r.text[:0]
	return nil
}

func (r *recordWriter) records() Records { return Records{Count: r.count, Pages: r.pages} }

// archivePageSize is the length of all pages of a schema archive but the last, in bytes.
const archivePageSize = 1 << 20

// archiveWriter cuts the schema archive into pages.
type archiveWriter struct {
	sw    *SnapshotWriter
	mac   hash.Hash
	known map[string]Page
	text  []byte
	pages []Page
	size  uint64
}

func (sw *SnapshotWriter) newArchiveWriter() *archiveWriter {
	var pages []Page
	if sw.base != nil {
		pages = sw.base.manifest.Archive.Pages
	}
	return &archiveWriter{sw: sw, mac: sw.key.NewDigester(), known: pagesByDigest(pages), pages: []Page{}}
}

func (a *archiveWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), archivePageSize-len(a.text))
		a.text = append(a.text, p[:n]...)
		p, written = p[n:], written+n
		if len(a.text) == archivePageSize {
			if err := a.flush(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

func (a *archiveWriter) flush() error {
	if len(a.text) == 0 {
		return nil
	}
	if len(a.pages) == 0 {
		fixArchiveTime(a.text)
	}
	page, err := a.sw.addPage(crypto.KindArchive, a.text, a.mac, a.known)
	if err != nil {
		return err
	}
	a.pages = append(a.pages, page)
	a.size += uint64(len(a.text))
	a.text = a.text[:0]
	return nil
}

func (a *archiveWriter) archive(dumpVersion string) Archive {
	return Archive{Pages: a.pages, Size: a.size, DumpVersion: dumpVersion}
}

// tableQueue writes table entries in the order in which their tables were opened, whatever the order in which they are completed.
type tableQueue struct {
	mu    sync.Mutex
	open  []*TableWriter
	write func(TableEntry) error
	err   error
}

func (q *tableQueue) push(table *TableWriter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open = append(q.open, table)
}

// completed writes all entries that are complete and not behind one that is not.
func (q *tableQueue) completed(table *TableWriter) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	table.complete = true
	for len(q.open) > 0 && q.open[0].complete && q.err == nil {
		q.err = q.write(q.open[0].entry)
		q.open[0] = nil
		q.open = q.open[1:]
	}
	return q.err
}

func (q *tableQueue) done() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil && len(q.open) > 0 {
		return fmt.Errorf("internal error: %d tables were not finished, the first is %q.%q", len(q.open), q.open[0].entry.Schema, q.open[0].entry.Name)
	}
	return q.err
}

// baseCursor walks the base's tables along with the new snapshot's; both ascend by oid.
type baseCursor struct {
	next    func() (TableEntry, error, bool)
	stop    func()
	current TableEntry
	valid   bool
}

func newBaseCursor(ctx context.Context, base *Snapshot) *baseCursor {
	cursor := &baseCursor{next: func() (TableEntry, error, bool) { return TableEntry{}, nil, false }, stop: func() {}}
	if base != nil {
		cursor.next, cursor.stop = iter.Pull2(base.Entries(ctx))
	}
	return cursor
}

// seek returns the base's entry for a table; oids asked for ascend.
func (c *baseCursor) seek(oid catalog.OID) (TableEntry, bool, error) {
	for !c.valid || c.current.OID < oid {
		entry, err, more := c.next()
		if err != nil || !more {
			return TableEntry{}, false, err
		}
		c.current, c.valid = entry, true
	}
	return c.current, cmp.Compare(c.current.OID, oid) == 0, nil
}

func (c *baseCursor) close() { c.stop() }
