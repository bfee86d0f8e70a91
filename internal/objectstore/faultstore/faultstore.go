// Package faultstore makes an object store fail as tests want it to: errors, delays, lost answers, streams that
// break off, listings that are behind. The store beneath is a real one; what is not made to fail reaches it unchanged.
//
// It is for tests only and knows nothing of the real stores' own retries: it fails above them.
package faultstore

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/hourvault/hourvault/internal/objectstore"
)

// Method names a method of objectstore.Store.
type Method string

// The methods that can be made to fail.
const (
	PutIfAbsent Method = "PutIfAbsent"
	PutIfMatch  Method = "PutIfMatch"
	Get         Method = "Get"
	GetRange    Method = "GetRange"
	Stat        Method = "Stat"
	List        Method = "List"
	Delete      Method = "Delete"
)

// Fault says which calls fail and how. Zero fields of the selection select everything, zero fields of the effect do
// nothing; the effects of one fault add up in the order written here.
type Fault struct {
	// Method selects calls of one method; "" all.
	Method Method
	// KeyContains selects calls whose key, or List's prefix, contains this.
	KeyContains string
	// From is the first selected call that the fault acts on, counted from 1; 0 means 1.
	From int
	// Times is how many calls from then on; 0 means all.
	Times int

	// Reached, if not nil, is sent one value when the fault begins to act on a call; it must have room or a receiver.
	Reached chan<- string // the key
	// Release, if not nil, is waited for before anything is done: close it, or send to it, to let a call go on. The
	// context's end lets the call fail with the context's error.
	Release <-chan struct{}
	// Err is what the call returns. Without LostAnswer nothing reaches the store.
	Err error
	// LostAnswer lets the call reach the store, and then returns Err all the same.
	LostAnswer bool
	// CutAfter breaks the reader of Get off with io.ErrUnexpectedEOF after so many bytes; 0 means not. -1 means at once.
	CutAfter int64
	// Hide makes List pass over keys for which it returns true, as a stale listing would.
	Hide func(key string) bool
}

// Store is an objectstore.Store with faults. All methods may be called concurrently.
type Store struct {
	objectstore.Store

	mutex  sync.Mutex
	faults []*armed
	calls  map[Method]int
}

type armed struct {
	Fault
	selected int // calls so far
}

// New wraps store. Without faults it behaves like it.
func New(store objectstore.Store, faults ...Fault) *Store {
	s := &Store{Store: store, calls: make(map[Method]int)}
	for _, fault := range faults {
		s.Add(fault)
	}
	return s
}

// Add arms a fault; its counting begins now. The first armed fault that acts on a call decides.
func (s *Store) Add(fault Fault) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.faults = append(s.faults, &armed{Fault: fault})
}

// Clear disarms all faults.
func (s *Store) Clear() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.faults = nil
}

// Calls returns how often a method was called, whether it failed or not.
func (s *Store) Calls(method Method) int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.calls[method]
}

// meet counts the call, returns the fault that acts on it (zero if none) after waiting as it says, and an error if
// the context ended meanwhile.
func (s *Store) meet(ctx context.Context, method Method, key string) (Fault, error) {
	fault := s.choose(method, key)
	if fault.Reached != nil {
		select {
		case fault.Reached <- key:
		case <-ctx.Done():
			return fault, fmt.Errorf("%s %s: %w", method, key, ctx.Err())
		}
	}
	if fault.Release != nil {
		select {
		case <-fault.Release:
		case <-ctx.Done():
			return fault, fmt.Errorf("%s %s: %w", method, key, ctx.Err())
		}
	}
	return fault, nil
}

func (s *Store) choose(method Method, key string) Fault {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.calls[method]++
	var chosen Fault
	found := false
	for _, fault := range s.faults {
		if (fault.Method != "" && fault.Method != method) || !strings.Contains(key, fault.KeyContains) {
			continue
		}
		fault.selected++
		first := max(fault.From, 1)
		acts := fault.selected >= first && (fault.Times == 0 || fault.selected < first+fault.Times)
		if acts && !found {
			chosen, found = fault.Fault, true
		}
	}
	return chosen
}

// around runs call as the fault says.
func around[T any](s *Store, ctx context.Context, method Method, key string, call func() (T, error)) (T, error) {
	var none T
	fault, err := s.meet(ctx, method, key)
	switch {
	case err != nil:
		return none, err
	case fault.Err == nil:
		return call()
	case fault.LostAnswer:
		_, _ = call()
	}
	return none, fmt.Errorf("%s %s: %w", method, key, fault.Err)
}

// PutIfAbsent implements objectstore.Store.
func (s *Store) PutIfAbsent(ctx context.Context, key string, content []byte) (objectstore.Info, error) {
	return around(s, ctx, PutIfAbsent, key, func() (objectstore.Info, error) { return s.Store.PutIfAbsent(ctx, key, content) })
}

// PutIfMatch implements objectstore.Store.
func (s *Store) PutIfMatch(ctx context.Context, key string, content []byte, etag string) (objectstore.Info, error) {
	return around(s, ctx, PutIfMatch, key, func() (objectstore.Info, error) {
		return s.Store.PutIfMatch(ctx, key, content, etag)
	})
}

// Get implements objectstore.Store.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, objectstore.Info, error) {
	fault, err := s.meet(ctx, Get, key)
	if err != nil {
		return nil, objectstore.Info{}, err
	}
	if fault.Err != nil {
		return nil, objectstore.Info{}, fmt.Errorf("%s %s: %w", Get, key, fault.Err)
	}
	reader, info, err := s.Store.Get(ctx, key)
	if err == nil && fault.CutAfter != 0 {
		reader = &cutReader{ReadCloser: reader, key: key, left: max(fault.CutAfter, 0)}
	}
	return reader, info, err
}

// GetRange implements objectstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	return around(s, ctx, GetRange, key, func() ([]byte, error) { return s.Store.GetRange(ctx, key, offset, length) })
}

// Stat implements objectstore.Store.
func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	return around(s, ctx, Stat, key, func() (objectstore.Info, error) { return s.Store.Stat(ctx, key) })
}

// Delete implements objectstore.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	_, err := around(s, ctx, Delete, key, func() (struct{}, error) { return struct{}{}, s.Store.Delete(ctx, key) })
	return err
}

// List implements objectstore.Store. Err comes before the first object.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		fault, err := s.meet(ctx, List, prefix)
		if err == nil && fault.Err != nil {
			err = fmt.Errorf("%s %s: %w", List, prefix, fault.Err)
		}
		if err != nil {
			yield(objectstore.Info{}, err)
			return
		}
		for info, err := range s.Store.List(ctx, prefix) {
			if err == nil && fault.Hide != nil && fault.Hide(info.Key) {
				continue
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

type cutReader struct {
	io.ReadCloser
	key  string
	left int64
}

func (r *cutReader) Read(into []byte) (int, error) {
	if r.left == 0 {
		return 0, &objectstore.ReadError{Key: r.key, Err: io.ErrUnexpectedEOF}
	}
	n, err := r.ReadCloser.Read(into[:min(int64(len(into)), r.left)])
	r.left -= int64(n)
	return n, err
}
