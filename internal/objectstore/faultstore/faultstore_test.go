package faultstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/objectstore/faultstore"
	"github.com/hourvault/hourvault/internal/objectstore/storetest"
)

var errInjected = errors.New("injected")

func newDirectory(t testing.TB) *objectstore.Directory {
	t.Helper()
	directory, err := objectstore.OpenDirectory(t.TempDir(), objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := directory.Close(); err != nil {
			t.Error(err)
		}
	})
	return directory
}

func keys(t *testing.T, store objectstore.Store) []string {
	t.Helper()
	var found []string
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, info.Key)
	}
	return found
}

func TestStoreWithoutFaultsConforms(t *testing.T) {
	storetest.Run(t, func(t testing.TB) objectstore.Store { return faultstore.New(newDirectory(t)) })
}

// calls are one call of each method, for a key that exists, and one that does not for PutIfAbsent.
func calls(ctx context.Context, store objectstore.Store, etag string) map[faultstore.Method]func() error {
	return map[faultstore.Method]func() error{
		faultstore.PutIfAbsent: func() error { _, err := store.PutIfAbsent(ctx, "new", []byte("n")); return err },
		faultstore.PutIfMatch:  func() error { _, err := store.PutIfMatch(ctx, "there", []byte("changed"), etag); return err },
		faultstore.Get: func() error {
			reader, _, err := store.Get(ctx, "there")
			if err == nil {
				err = reader.Close()
			}
			return err
		},
		faultstore.GetRange: func() error { _, err := store.GetRange(ctx, "there", 0, 1); return err },
		faultstore.Stat:     func() error { _, err := store.Stat(ctx, "there"); return err },
		faultstore.Delete:   func() error { return store.Delete(ctx, "there") },
		faultstore.List: func() error {
			for _, err := range store.List(ctx, "") {
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func TestFaultStrikesTheChosenCallsOfEveryMethod(t *testing.T) {
	for _, method := range []faultstore.Method{faultstore.PutIfAbsent, faultstore.PutIfMatch, faultstore.Get, faultstore.GetRange, faultstore.Stat, faultstore.Delete, faultstore.List} {
		t.Run(string(method), func(t *testing.T) {
			directory := newDirectory(t)
			there, err := directory.PutIfAbsent(t.Context(), "there", []byte("content"))
			if err != nil {
				t.Fatal(err)
			}
			store := faultstore.New(directory, faultstore.Fault{Method: method, Times: 1, Err: errInjected})
			for other, call := range calls(t.Context(), store, there.ETag) {
				if other == method || other == faultstore.Delete || other == faultstore.PutIfAbsent || other == faultstore.PutIfMatch {
					continue
				}
				if err := call(); err != nil {
					t.Errorf("%s failed: %v", other, err)
				}
			}
			call := calls(t.Context(), store, there.ETag)[method]
			if err := call(); !errors.Is(err, errInjected) || !strings.Contains(err.Error(), string(method)) {
				t.Errorf("first call: got %v", err)
			}
			if got := keys(t, directory); !slices.Equal(got, []string{"there"}) {
				t.Errorf("a call that failed changed the store: %q", got)
			}
			if content, _, err := objectstore.ReadAll(t.Context(), directory, "there", 100); err != nil || string(content) != "content" {
				t.Errorf("a call that failed changed the object: %q, %v", content, err)
			}
			if err := call(); err != nil {
				t.Errorf("second call: %v", err)
			}
			if got := store.Calls(method); got != 2 {
				t.Errorf("%d calls counted, want 2", got)
			}
		})
	}
}

func TestFaultCountsOnlyTheCallsItSelects(t *testing.T) {
	store := faultstore.New(newDirectory(t))
	store.Add(faultstore.Fault{Method: faultstore.PutIfAbsent, KeyContains: "packs/", From: 2, Times: 2, Err: errInjected})
	store.Add(faultstore.Fault{Method: faultstore.PutIfAbsent, Err: io.ErrClosedPipe, From: 6})
	for i, test := range []struct {
		key  string
		want error
	}{
		{"packs/1", nil}, {"lease", nil}, {"packs/2", errInjected}, {"packs/3", errInjected}, {"packs/4", nil}, {"packs/5", io.ErrClosedPipe}, {"other", io.ErrClosedPipe},
	} {
		if _, err := store.PutIfAbsent(t.Context(), test.key, []byte{byte(i)}); !errors.Is(err, test.want) {
			t.Errorf("call %d, %s: got %v, want %v", i+1, test.key, err, test.want)
		}
	}
	store.Clear()
	if _, err := store.PutIfAbsent(t.Context(), "cleared", nil); err != nil {
		t.Error(err)
	}
}

func TestLostAnswerReachesTheStore(t *testing.T) {
	directory := newDirectory(t)
	store := faultstore.New(directory, faultstore.Fault{Times: 1, Err: errInjected, LostAnswer: true})
	if _, err := store.PutIfAbsent(t.Context(), "landed", []byte("x")); !errors.Is(err, errInjected) {
		t.Errorf("got %v", err)
	}
	if got := keys(t, directory); !slices.Equal(got, []string{"landed"}) {
		t.Errorf("the store holds %q", got)
	}
}

func TestCutReaderNeverEndsAsIfItWereWhole(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10)
	directory := newDirectory(t)
	if _, err := directory.PutIfAbsent(t.Context(), "x", content); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		after int64
		want  int
	}{{-1, 0}, {1, 1}, {99, 99}, {100, 100}} {
		store := faultstore.New(directory, faultstore.Fault{Method: faultstore.Get, CutAfter: test.after})
		reader, _, err := store.Get(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(reader)
		if len(got) != test.want || !bytes.Equal(got, content[:test.want]) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d: got %d bytes, %v", test.after, len(got), err)
		}
		if err := reader.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestHiddenKeysAreNotListedAndStillThere(t *testing.T) {
	store := faultstore.New(newDirectory(t), faultstore.Fault{Method: faultstore.List, Times: 1, Hide: func(key string) bool { return strings.HasSuffix(key, "2") }})
	for _, key := range []string{"k1", "k2", "k3"} {
		if _, err := store.PutIfAbsent(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	if got := keys(t, store); !slices.Equal(got, []string{"k1", "k3"}) {
		t.Errorf("got %q", got)
	}
	if _, err := store.Stat(t.Context(), "k2"); err != nil {
		t.Error(err)
	}
	if got := keys(t, store); !slices.Equal(got, []string{"k1", "k2", "k3"}) {
		t.Errorf("later: got %q", got)
	}
}

func TestHeldCallWaitsForItsReleaseOrItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := newDirectory(t)
		reached, release := make(chan string, 1), make(chan struct{})
		store := faultstore.New(directory, faultstore.Fault{Method: faultstore.PutIfAbsent, KeyContains: "held", Reached: reached, Release: release})
		done := make(chan error, 1)
		go func() {
			_, err := store.PutIfAbsent(t.Context(), "held", []byte("x"))
			done <- err
		}()
		if key := <-reached; key != "held" {
			t.Errorf("reached %q", key)
		}
		synctest.Wait()
		if len(done) != 0 || len(keys(t, directory)) != 0 {
			t.Error("the call went on before it was released")
		}
		close(release)
		if err := <-done; err != nil || len(keys(t, directory)) != 1 {
			t.Errorf("after the release: %v", err)
		}

		store.Clear()
		store.Add(faultstore.Fault{Release: make(chan struct{})})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := store.Stat(ctx, "held")
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
