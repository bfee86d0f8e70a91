package repository

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// Sizes that a writer aims at, in bytes. They are not part of the format: a reader takes what it finds.
const (
	packTarget = 16 << 20
	// packsInMemory bounds how many packs are being filled or uploaded at once.
	packsInMemory = 3
)

// packTrailerSize is the length of what follows the directory: its sealed and its plain length.
const packTrailerSize = 8

// PartRef says where a part of a pack lies.
type PartRef struct {
	Pack PackName `json:"pack"`
	// Part is the part's number in the pack, from 0.
	Part uint32 `json:"part"`
	// Offset and Stored are the part's place in the pack object: nonce, ciphertext and tag, in bytes.
	Offset uint64 `json:"offset"`
	Stored uint32 `json:"stored"`
	// Plain is the part's length in bytes after opening and decompressing.
	Plain uint32 `json:"plain"`
}

// PackInfo is a manifest's entry for a pack that its snapshot needs.
type PackInfo struct {
	Name  PackName `json:"name"`
	Size  uint64   `json:"size"` // of the object, in bytes
	Parts uint32   `json:"parts"`
	Key   uint32   `json:"key"` // number of the workspace key that it is sealed under
}

// partKinds are the kinds of texts that a pack may hold.
var partKinds = []crypto.Kind{crypto.KindChunk, crypto.KindArchive, crypto.KindListing, crypto.KindIndex, crypto.KindTables,
	crypto.KindSequences, crypto.KindLargeObjs, crypto.KindDirectory}

// directoryEntry describes a part in its pack's own directory.
type directoryEntry struct {
	kind   crypto.Kind
	stored uint32
	plain  uint32
}

// openPack is a pack that is being filled. Its bytes are reserved under the packer's lock and sealed outside it, so that
// several parts are compressed and sealed at once.
type openPack struct {
	name    PackName
	sealer  *crypto.Sealer
	buffer  []byte // capacity is fixed: sealed parts are written into places reserved before
	parts   []directoryEntry
	sealing sync.WaitGroup
	pooled  bool
}

// packer fills packs and uploads them. add may be called concurrently.
type packer struct {
	workspace *Workspace
	snapshot  SnapshotID
	key       *crypto.Key
	keyNumber uint32
	ctx       context.Context
	uploads   *errgroup.Group
	buffers   chan []byte // those not in use; taking one waits for an upload to end

	mu      sync.Mutex // held while waiting for a buffer: uploads must not need it
	current *openPack

	finishedMu sync.Mutex
	finished   map[PackName]PackInfo
	uploaded   uint64 // bytes of packs finished
}

func newPacker(ctx context.Context, workspace *Workspace, snapshot SnapshotID) (*packer, error) {
	key, err := workspace.key(workspace.current)
	if err != nil {
		return nil, err
	}
	p := &packer{workspace: workspace, snapshot: snapshot, key: key, keyNumber: workspace.current, buffers: make(chan []byte, packsInMemory), finished: make(map[PackName]PackInfo)}
	p.uploads, p.ctx = errgroup.WithContext(ctx)
	for range packsInMemory {
		p.buffers <- nil // made when first needed: a small workspace needs only one
	}
	return p, nil
}

// add compresses and seals plain as the next part of a pack, and says where it will lie. The pack is uploaded later;
// finish tells whether that went well. plain is not kept.
func (p *packer) add(kind crypto.Kind, plain []byte) (PartRef, error) {
	if len(plain) > maxPartSize {
		return PartRef{}, fmt.Errorf("a %s of %d bytes is larger than a part may be", kind, len(plain))
	}
	text := p.workspace.repository.codec.compress(plain)
	stored := crypto.Overhead + len(text)

	p.mu.Lock()
	pack, err := p.reserve(stored)
	if err != nil {
		p.mu.Unlock()
		return PartRef{}, err
	}
	offset := len(pack.buffer)
	ref := PartRef{Pack: pack.name, Part: uint32(len(pack.parts)), Offset: uint64(offset), Stored: uint32(stored), Plain: uint32(len(plain))}
	pack.buffer = pack.buffer[:offset+stored]
	place := pack.buffer[offset : offset : offset+stored]
	pack.parts = append(pack.parts, directoryEntry{kind: kind, stored: ref.Stored, plain: ref.Plain})
	pack.sealing.Add(1)
	p.mu.Unlock()

	defer pack.sealing.Done()
	pack.sealer.Seal(place, kind, ref.Part, uint64(len(plain)), text)
	return ref, nil
}

// directoryReserve is what a pack leaves free for the directory and the trailer, for n parts.
func directoryReserve(n int) int { return 64 + 11*(n+1) + crypto.Overhead + packTrailerSize }

// reserve returns the current pack, with room for a part of stored bytes; the lock is held.
func (p *packer) reserve(stored int) (*openPack, error) {
	if p.ctx.Err() != nil { // an upload failed: reading on would be in vain
		return nil, context.Cause(p.ctx)
	}
	if pack := p.current; pack != nil {
		if len(pack.buffer)+stored+directoryReserve(len(pack.parts)+1) <= cap(pack.buffer) {
			return pack, nil
		}
		p.rotate()
	}
	var buffer []byte
	select {
	case buffer = <-p.buffers:
	case <-p.ctx.Done():
		return nil, context.Cause(p.ctx)
	}
	pack := &openPack{name: PackName{Snapshot: p.snapshot, ID: newSalt()}, pooled: true}
	if need := crypto.HeaderSize + stored + directoryReserve(1); need > packTarget {
		p.buffers <- buffer // the oversized pack has a buffer of its own, and goes out at once
		buffer, pack.pooled = make([]byte, 0, need), false
	} else if buffer == nil {
		buffer = make([]byte, 0, packTarget)
	}
	header := crypto.Header{Kind: crypto.KindPack, KeyNumber: p.keyNumber, Salt: pack.name.ID}
	place := p.workspace.repository.place(p.workspace.id, p.workspace.id.packKey(pack.name))
	pack.sealer = crypto.NewSealer(p.key, header, place, partKinds...)
	pack.buffer = header.Append(buffer[:0])
	p.current = pack
	return pack, nil
}

// rotate sends the current pack on its way; the lock is held.
func (p *packer) rotate() {
	pack := p.current
	p.current = nil
	p.uploads.Go(func() error {
		err := p.upload(pack)
		if pack.pooled {
			p.buffers <- pack.buffer
		}
		return err
	})
}

func (p *packer) upload(pack *openPack) error {
	pack.sealing.Wait()
	directory := binary.AppendUvarint(nil, uint64(len(pack.parts)))
	for _, part := range pack.parts {
		directory = append(directory, byte(part.kind))
		directory = binary.AppendUvarint(directory, uint64(part.stored))
		directory = binary.AppendUvarint(directory, uint64(part.plain))
	}
	text := p.workspace.repository.codec.compress(directory)
	pack.buffer = pack.sealer.Seal(pack.buffer, crypto.KindDirectory, uint32(len(pack.parts)), uint64(len(directory)), text)
	pack.buffer = binary.BigEndian.AppendUint32(pack.buffer, uint32(crypto.Overhead+len(text)))
	pack.buffer = binary.BigEndian.AppendUint32(pack.buffer, uint32(len(directory)))

	object := p.workspace.id.packKey(pack.name)
	info, err := p.workspace.repository.store.PutIfAbsent(p.ctx, object, pack.buffer)
	if err != nil {
		return fmt.Errorf("store pack: %w", err)
	}
	if info.Size != int64(len(pack.buffer)) {
		return fmt.Errorf("store pack %s: the store reports %d bytes instead of %d", object, info.Size, len(pack.buffer))
	}
	p.finishedMu.Lock()
	defer p.finishedMu.Unlock()
	p.finished[pack.name] = PackInfo{Name: pack.name, Size: uint64(len(pack.buffer)), Parts: uint32(len(pack.parts)), Key: p.keyNumber}
	p.uploaded += uint64(len(pack.buffer))
	return nil
}

// finish uploads the last pack and waits for all. It returns the packs written, or the first error of any.
func (p *packer) finish() (map[PackName]PackInfo, uint64, error) {
	p.mu.Lock()
	if p.current != nil {
		p.rotate()
	}
	p.mu.Unlock()
	if err := p.uploads.Wait(); err != nil {
		return nil, 0, err
	}
	return p.finished, p.uploaded, nil
}

// discard drops the pack that is being filled and waits for uploads under way.
func (p *packer) discard() {
	p.mu.Lock()
	p.current = nil
	p.mu.Unlock()
	_ = p.uploads.Wait() // the run was given up, whatever became of them
}

// partReader reads parts of a workspace's packs. It is safe for concurrent use.
type partReader struct {
	workspace *Workspace
	// keyNumbers says under which workspace key a pack is sealed; from the manifest.
	keyNumbers map[PackName]uint32
}

func (r *partReader) sealer(name PackName, kinds ...crypto.Kind) (*crypto.Sealer, error) {
	number, known := r.keyNumbers[name]
	if !known {
		return nil, fmt.Errorf("pack %s is not in the manifest's list: %w", name, crypto.ErrNotAuthentic)
	}
	key, err := r.workspace.key(number)
	if err != nil {
		return nil, err
	}
	header := crypto.Header{Kind: crypto.KindPack, KeyNumber: number, Salt: name.ID}
	place := r.workspace.repository.place(r.workspace.id, r.workspace.id.packKey(name))
	return crypto.NewSealer(key, header, place, kinds...), nil
}

// read fetches and opens one part.
func (r *partReader) read(ctx context.Context, kind crypto.Kind, ref PartRef) ([]byte, error) {
	plain, err := r.tryRead(ctx, kind, ref)
	if err != nil {
		return nil, &PartError{Object: r.workspace.id.packKey(ref.Pack), Part: ref.Part, Kind: kind, Err: err}
	}
	return plain, nil
}

func (r *partReader) tryRead(ctx context.Context, kind crypto.Kind, ref PartRef) ([]byte, error) {
	if ref.Plain > maxPartSize || ref.Stored > maxPartSize+1<<20 || ref.Stored < crypto.Overhead {
		return nil, fmt.Errorf("part of %d stored and %d plain bytes: %w", ref.Stored, ref.Plain, crypto.ErrNotAuthentic)
	}
	sealer, err := r.sealer(ref.Pack, kind)
	if err != nil {
		return nil, err
	}
	sealed, err := r.workspace.repository.store.GetRange(ctx, r.workspace.id.packKey(ref.Pack), int64(ref.Offset), int64(ref.Stored))
	if err != nil {
		return nil, err
	}
	text, err := sealer.Open(sealed[:0:0], kind, ref.Part, uint64(ref.Plain), sealed)
	if err != nil {
		return nil, err
	}
	return r.workspace.repository.codec.decompress(text, int(ref.Plain))
}

// PartError says which part of which pack could not be read.
type PartError struct {
	Object string // key of the pack below the repository's prefix
	Part   uint32
	Kind   crypto.Kind
	Err    error
}

func (e *PartError) Error() string {
	hint := ""
	if errors.Is(e.Err, objectstore.ErrNotFound) {
		hint = " (a snapshot that is still listed needs it)"
	}
	return fmt.Sprintf("read %s, part %d (%s): %v%s", e.Object, e.Part, e.Kind, e.Err, hint)
}

// Unwrap returns the cause.
func (e *PartError) Unwrap() error { return e.Err }

// parsePackDirectory reads a directory's text.
func parsePackDirectory(data []byte) ([]directoryEntry, error) {
	d := decoder{data: data}
	count := d.count(3)
	entries := make([]directoryEntry, 0, count)
	for range count {
		entries = append(entries, directoryEntry{kind: crypto.Kind(d.byte()), stored: d.uint32(), plain: d.uint32()})
	}
	return entries, d.end()
}
