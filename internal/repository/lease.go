package repository

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// DefaultLeaseLifetime is how long a lease counts after its last renewal was seen, unless a run asks for another.
const DefaultLeaseLifetime = 60 * time.Second

// Purposes of the runs that this version knows, and may take over.
const (
	purposeSnapshot = "snapshot"
	purposePrune    = "prune"
)

// LeaseHeldError says that somebody else is at work on the workspace.
type LeaseHeldError struct {
	Holder  string    // host and process
	Purpose string    // "snapshot", "prune" or "erasure"
	Since   time.Time // on the holder's clock
}

func (e *LeaseHeldError) Error() string {
	return fmt.Sprintf("a %s by %s has been running since %s; try again when it has finished", e.Purpose, e.Holder, e.Since.UTC().Format(time.RFC3339))
}

// ErrLeaseLost is the cancel cause of a run whose lease was taken over: it can no longer become effective.
var ErrLeaseLost = errors.New("the lease was taken over by another run")

// leaseRecord is the lease object's text. Token is drawn anew for each write, so that no two writes have equal bytes.
type leaseRecord struct {
	Epoch    uint64    `json:"epoch"`
	Purpose  string    `json:"purpose"`
	Holder   string    `json:"holder"`
	Since    time.Time `json:"since"`
	Lifetime string    `json:"lifetime"`
	// RunKey is the one key whose creation makes the run effective: the manifest's for a snapshot, the plan's for a
	// prune or an erasure.
	RunKey string `json:"run_key"`
	// Released says that the run is settled: it became effective or can never become so.
	Released bool   `json:"released"`
	Token    string `json:"token"`
}

// voidRecord is the text of a void object: the run whose key this is can never become effective.
type voidRecord struct {
	Void   bool      `json:"void"`
	By     string    `json:"by"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
	Token  string    `json:"token"`
}

// lease is held by one run at a time. Losing it is not what makes a run harmless: the void at its run key is.
type lease struct {
	workspace *Workspace
	record    leaseRecord
	etag      string
	renamed   string // the run key that a rename has written, or tried to write
	lifetime  time.Duration
	cancel    context.CancelCauseFunc

	mu   sync.Mutex // guards record and etag against the renewer
	stop chan struct{}
	done chan struct{}
}

// LeaseWait says what a run waits for before it can begin: whether a run that did not give its lease back is still alive.
type LeaseWait struct {
	Holder  string    // host and process
	Purpose string    // "snapshot"
	Since   time.Time // on the holder's clock
	// AtMost is how long it takes to be sure that the other is dead; one that is alive shows sooner.
	AtMost time.Duration
}

// A run looks leaseRounds times at most whether it can take the lease: the first few times at once, then after leasePause, doubled each time:
// 6 s together.
const (
	leaseRounds = 10
	leasePause  = 100 * time.Millisecond
)

// minimumRenewal is how long a renewal may take at least.
const minimumRenewal = 5 * time.Second

// acquireLease takes the workspace's lease for a run that will become effective by creating runKey, after settling the run
// before it. *LeaseHeldError when another run is alive; waiting, if not nil, is told before that is waited for. The context returned ends with cause ErrLeaseLost when the lease
// was taken over.
func (w *Workspace) acquireLease(ctx context.Context, purpose, holder, runKey string, lifetime time.Duration, waiting func(LeaseWait)) (*lease, context.Context, error) {
	store, object := w.repository.store, w.id.leaseKey()
	mine := leaseRecord{Epoch: 1, Purpose: purpose, Holder: holder, Since: time.Now().UTC().Truncate(time.Second), Lifetime: lifetime.String(), RunKey: runKey}
	var pause time.Duration
	for round := 1; ; round++ {
		theirs, info, err := w.readLease(ctx)
		if errors.Is(err, objectstore.ErrNotFound) {
			info, err = w.putLease(ctx, &mine, "")
		} else if err == nil {
			if !theirs.Released && theirs.Purpose != purposeSnapshot && theirs.Purpose != purposePrune {
				// Taking over means going on from what the run may have done, which this version cannot for runs that it does not know.
				return nil, nil, fmt.Errorf("a %s by %s has not ended: %w", theirs.Purpose, theirs.Holder, ErrPlanned)
			}
			if !theirs.Released {
				if err := w.outwait(ctx, theirs, info.ETag, waiting); err != nil {
					return nil, nil, err
				}
				// Void first, lease second: if this process dies in between, the run is settled all the same.
				if err := w.settle(ctx, theirs.RunKey, holder, "lease expired"); err != nil {
					return nil, nil, fmt.Errorf("settle the run before this one: %w", err)
				}
			}
			mine.Epoch = theirs.Epoch + 1
			info, err = w.putLease(ctx, &mine, info.ETag)
		}
		if errors.Is(err, objectstore.ErrExists) || errors.Is(err, objectstore.ErrChanged) {
			// Somebody was faster: look again, unless it is the store that shows one thing and compares with another.
			if round == leaseRounds {
				return nil, nil, fmt.Errorf("take lease %s in %s: another was there %d times, and each time the store showed none or one that was released: try again later, and see whether something stands between this machine and the store: %w", object, store.Location(), round, err)
			}
			select {
			case <-ctx.Done():
				return nil, nil, context.Cause(ctx)
			case <-time.After(pause):
			}
			if round >= leaseRounds/3 {
				pause = max(2*pause, leasePause)
			}
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("take lease %s in %s: %w", object, store.Location(), err)
		}
		leased, cancel := context.WithCancelCause(ctx)
		held := &lease{workspace: w, record: mine, etag: info.ETag, lifetime: lifetime, cancel: cancel, stop: make(chan struct{}), done: make(chan struct{})}
		go held.renew(leased)
		return held, leased, nil
	}
}

// outwait returns nil when the lease with that ETag was not renewed for its whole lifetime, measured on this machine's monotonic
// clock from now on; clocks of two machines are never compared.
func (w *Workspace) outwait(ctx context.Context, theirs leaseRecord, etag string, waiting func(LeaseWait)) error {
	lifetime, err := time.ParseDuration(theirs.Lifetime)
	if err != nil || lifetime <= 0 {
		return fmt.Errorf("%s: lifetime %q: %w", w.id.leaseKey(), theirs.Lifetime, crypto.ErrNotAuthentic)
	}
	if waiting != nil {
		waiting(LeaseWait{Holder: theirs.Holder, Purpose: theirs.Purpose, Since: theirs.Since, AtMost: lifetime})
	}
	begin := time.Now()
	ticker := time.NewTicker(max(lifetime/10, time.Millisecond))
	defer ticker.Stop()
	for time.Since(begin) <= lifetime {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		info, err := w.repository.store.Stat(ctx, w.id.leaseKey())
		if err != nil {
			return err
		}
		if info.ETag != etag {
			return &LeaseHeldError{Holder: theirs.Holder, Purpose: theirs.Purpose, Since: theirs.Since}
		}
	}
	return nil
}

// settle makes sure that the run with that key either has become effective already or never can.
func (w *Workspace) settle(ctx context.Context, runKey, by, reason string) error {
	err := w.putVoid(ctx, runKey, by, reason)
	if errors.Is(err, objectstore.ErrExists) {
		return nil // it became effective, or was settled before: the reader of that key will see which
	}
	return err
}

// putVoid creates a void at a run key. objectstore.ErrExists when something is there.
func (w *Workspace) putVoid(ctx context.Context, runKey, by, reason string) error {
	void := voidRecord{Void: true, By: by, Time: time.Now().UTC().Truncate(time.Second), Reason: reason, Token: newToken()}
	content, err := w.sealJSON(crypto.KindVoid, runKey, void)
	if err != nil {
		return err
	}
	_, err = w.repository.store.PutIfAbsent(ctx, runKey, content)
	return err
}

func (w *Workspace) readLease(ctx context.Context) (leaseRecord, objectstore.Info, error) {
	var record leaseRecord
	content, info, err := objectstore.ReadAll(ctx, w.repository.store, w.id.leaseKey(), maxSmallObject)
	if err != nil {
		return record, info, err
	}
	_, plain, err := w.open(w.id.leaseKey(), content, crypto.KindLease)
	if err == nil {
		err = json.Unmarshal(plain, &record)
	}
	if err != nil {
		return record, info, fmt.Errorf("%s: %w", w.id.leaseKey(), err)
	}
	return record, info, nil
}

// putLease writes the lease with a fresh token: a new one where etag is empty, else in place of that version.
func (w *Workspace) putLease(ctx context.Context, record *leaseRecord, etag string) (objectstore.Info, error) {
	record.Token = newToken()
	content, err := w.sealJSON(crypto.KindLease, w.id.leaseKey(), record)
	if err != nil {
		return objectstore.Info{}, err
	}
	if etag == "" {
		return w.repository.store.PutIfAbsent(ctx, w.id.leaseKey(), content)
	}
	return w.repository.store.PutIfMatch(ctx, w.id.leaseKey(), content, etag)
}

// renew writes the lease again four times in its lifetime, until stopped. Failures are tried again at the next tick: whether
// the run may become effective is decided at its run key, not here.
func (l *lease) renew(ctx context.Context) {
	defer close(l.done)
	ticker := time.NewTicker(max(l.lifetime/4, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// One connection that stalls must not use the lifetime up. What became of that renewal the next one finds out.
		putCtx, cancel := context.WithTimeout(ctx, max(l.lifetime/4, minimumRenewal))
		err := l.confirm(putCtx)
		cancel()
		if errors.Is(err, ErrLeaseLost) {
			l.cancel(ErrLeaseLost)
			return
		}
	}
}

// confirm renews the lease. ErrLeaseLost when another run has taken over.
func (l *lease) confirm(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	record := l.record
	return l.put(ctx, &record)
}

// rename makes another key the one whose creation makes the run effective. The run has not tried to create the old one, and
// never will.
func (l *lease) rename(ctx context.Context, runKey string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	record := l.record
	record.RunKey = runKey
	l.renamed = runKey
	if err := l.put(ctx, &record); err != nil {
		return err
	}
	l.record.RunKey = runKey
	return nil
}

// put writes the lease anew; the lock is held, or nobody else runs. ErrLeaseLost when another run has taken over.
func (l *lease) put(ctx context.Context, record *leaseRecord) error {
	info, err := l.workspace.putLease(ctx, record, l.etag)
	if errors.Is(err, objectstore.ErrChanged) {
		// It may have been this lease's own write whose answer was lost. An epoch has one holder.
		theirs, now, readError := l.workspace.readLease(ctx)
		switch {
		case errors.Is(readError, objectstore.ErrNotFound):
			return ErrLeaseLost
		case readError != nil:
			return readError
		case theirs.Epoch != l.record.Epoch, theirs.Holder != l.record.Holder, theirs.RunKey != l.record.RunKey && theirs.RunKey != l.renamed:
			return ErrLeaseLost
		}
		info, err = l.workspace.putLease(ctx, record, now.ETag)
		if errors.Is(err, objectstore.ErrChanged) {
			return ErrLeaseLost
		}
	}
	if err == nil {
		l.etag = info.ETag
	}
	return err
}

// release ends the lease of a settled run, so that the next need not wait for it to expire. A failure only costs that wait.
func (l *lease) release(ctx context.Context) error {
	l.end(ctx)
	defer l.cancel(context.Canceled)
	record := l.record
	record.Released = true
	return l.put(ctx, &record)
}

// end stops the renewer. One that waits for a store that does not answer is waited for until ctx ends, and then stopped too.
func (l *lease) end(ctx context.Context) {
	close(l.stop)
	select {
	case <-l.done:
	case <-ctx.Done():
		l.cancel(context.Cause(ctx))
		<-l.done
	}
}

// abandon stops renewing without releasing: for a run whose end is unclear and could not be settled.
func (l *lease) abandon() {
	l.cancel(context.Canceled)
	close(l.stop)
	<-l.done
}

func newToken() string {
	token := make([]byte, 16)
	rand.Read(token)
	return hex.EncodeToString(token)
}
