package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// ProbeResult is the outcome of one thing that Probe tried.
type ProbeResult struct {
	// Name says what was tried: "reach", "clock", "write", "encryption", "checksum", "create once",
	// "replace by version", "read", "read range", "list" or "delete".
	Name string
	// OK says whether hourvault can rely on it.
	OK bool
	// Detail is what was seen: one line, also when all is well.
	Detail string
	// Hint says what to do; "" when OK, except where something works and could be better.
	Hint string
}

// probeTimeout bounds the removal of the object that Probe wrote.
const probeTimeout = 30 * time.Second

// Clocks that differ by more than clockTolerated are reported: S3 refuses from 15 minutes on, and snapshots are named
// by this machine's clock.
const clockTolerated = time.Minute

// Probe tries on a real object everything that hourvault relies on and reports each thing separately, in a fixed
// order; what makes no sense after a failure is left out. The object has a random name below "doctor/" and is
// removed at the end. Only the methods of Store are needed; what a store can tell beyond (CheckBucket, Skew,
// Encryption, ChecksumStored) is asked where it can.
func Probe(ctx context.Context, store Store) []ProbeResult {
	p := &probe{store: store, key: "doctor/" + rand.Text()}
	p.run(ctx)
	return p.results
}

type probe struct {
	store   Store
	key     string
	results []ProbeResult
}

func (p *probe) report(name string, err error, detail, hint string) bool {
	result := ProbeResult{Name: name, OK: err == nil, Detail: detail}
	if err != nil {
		result.Detail, result.Hint = err.Error(), hint
	}
	p.results = append(p.results, result)
	return result.OK
}

func (p *probe) run(ctx context.Context) {
	if store, ok := p.store.(interface {
		Skew(context.Context) (time.Duration, error)
	}); ok {
		skew, err := store.Skew(ctx)
		detail := fmt.Sprintf("this machine's clock and the store's differ by %v", skew.Abs())
		if err == nil && skew.Abs() > clockTolerated {
			err = fmt.Errorf("%w: %s", ErrClockSkew, describeSkew(skew, true))
		}
		p.report("clock", err, detail, "set the clock, by NTP for example")
	}
	if store, ok := p.store.(interface{ CheckBucket(context.Context) error }); ok {
		if !p.report("reach", store.CheckBucket(ctx), p.store.Location(), "correct address, credentials or permissions of the repository") {
			return
		}
	}
	first, second, third := []byte("first "+p.key), []byte("second "+p.key), []byte("third "+p.key)
	written, err := p.store.PutIfAbsent(ctx, p.key, first)
	if err == nil || !errors.Is(err, ErrDenied) {
		defer p.remove(ctx) // also after an unclear answer
	}
	writeHint := "allow writing (s3:PutObject, or the directory's owner); deploy/hourvault.example.yaml explains the settings of a store"
	if errors.Is(err, ErrNotEncrypted) {
		p.report("encryption", err, "", "use a store that encrypts at rest, or say sse: none")
		return
	}
	if !p.report("write", err, p.key, writeHint) {
		return
	}
	if store, ok := p.store.(interface{ Encryption() string }); ok {
		asked := store.Encryption()
		p.report("encryption", nil, "confirmed: "+asked, "")
		if asked == string(SSENone) {
			last := &p.results[len(p.results)-1]
			last.Detail = "none is asked for; objects are sealed before they are sent"
			last.Hint = "sse: AES256 adds the store's own encryption, if it has any"
		}
	}
	if store, ok := p.store.(interface {
		Checksums() Checksums
		ChecksumStored(context.Context, string) (bool, error)
	}); ok {
		p.checksum(ctx, store)
	}

	_, err = p.store.PutIfAbsent(ctx, p.key, second)
	current, currentContent := written, first
	if err == nil {
		err = errors.New("an object was created twice: the store ignores If-None-Match")
		currentContent = second
		if info, statErr := p.store.Stat(ctx, p.key); statErr == nil {
			current = info
		}
	} else if errors.Is(err, ErrExists) {
		err = nil
	}
	p.report("create once", err, "a second creation was refused", "hourvault cannot use a store without conditional writes")

	replaced, err := p.store.PutIfMatch(ctx, p.key, third, current.ETag)
	if err == nil {
		_, err = p.store.PutIfMatch(ctx, p.key, second, current.ETag)
		switch {
		case err == nil:
			err = errors.New("a replaced version was replaced again: the store ignores If-Match")
			currentContent = second
		case errors.Is(err, ErrChanged):
			err, currentContent, current = nil, third, replaced
		}
	}
	p.report("replace by version", err, "only the current version can be replaced", "hourvault cannot use a store without conditional writes")

	content, info, err := ReadAll(ctx, p.store, p.key, 1<<20)
	switch {
	case err == nil && !bytes.Equal(content, currentContent):
		err = errors.New("other content came back than was written")
	case err == nil && info.ETag != current.ETag && bytes.Equal(currentContent, third):
		err = fmt.Errorf("ETag %s was answered to the write, %s to the read of the same version", current.ETag, info.ETag)
	}
	p.report("read", err, fmt.Sprintf("%d bytes came back as written", len(content)), "allow reading (s3:GetObject)")

	part, err := p.store.GetRange(ctx, p.key, 1, 3)
	if err == nil && !bytes.Equal(part, currentContent[1:4]) {
		err = errors.New("other bytes came back than the range asked for")
	}
	p.report("read range", err, "the bytes asked for came back", "use a store that answers HTTP ranges, or the proxy before it")

	p.report("list", p.listed(ctx, true), "the object is listed", "allow listing (s3:ListBucket)")

	err = p.store.Delete(ctx, p.key)
	if err == nil {
		if _, err = p.store.Stat(ctx, p.key); err == nil {
			err = errors.New("the object is still there")
		} else if errors.Is(err, ErrNotFound) {
			err = p.listed(ctx, false)
		}
	}
	p.report("delete", err, "the object is gone", "allow deleting (s3:DeleteObject)")
}

func (p *probe) checksum(ctx context.Context, store interface {
	Checksums() Checksums
	ChecksumStored(context.Context, string) (bool, error)
}) {
	mode := store.Checksums()
	if mode != ChecksumsWhenSupported {
		p.report("checksum", nil, string(mode)+": content is covered by each request's signature", "")
		return
	}
	stored, err := store.ChecksumStored(ctx, p.key)
	detail := string(mode) + ": the store keeps the SHA-256 of each object"
	if !stored {
		detail = string(mode) + ": the store took the SHA-256 and does not give it back; content is covered by each request's signature"
	}
	p.report("checksum", err, detail, "allow reading (s3:GetObject)")
}

// listed says whether List shows the object as it should.
func (p *probe) listed(ctx context.Context, want bool) error {
	found := false
	for info, err := range p.store.List(ctx, p.key) {
		if err != nil {
			return err
		}
		found = found || info.Key == p.key
	}
	switch {
	case want && !found:
		return errors.New("the object just written is not listed")
	case !want && found:
		return errors.New("the object just deleted is still listed")
	}
	return nil
}

// remove makes sure that nothing stays behind, whatever happened and although ctx may have ended.
func (p *probe) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	_ = p.store.Delete(ctx, p.key)
}
