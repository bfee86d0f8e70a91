// Package storetest holds every implementation of objectstore.Store to what that interface promises.
//
// It tests behaviour that callers can see. What is particular to one store (encryption, clocks, lost answers on the
// wire, symbolic links) is tested beside it.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/internal/objectstore"
)

// Run tests the stores that open returns: each call must give an empty one of its own, and close it at t.Cleanup.
// Stores must stand 16 concurrent callers.
func Run(t *testing.T, open func(t testing.TB) objectstore.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, objectstore.Store)
	}{
		{"what is put is read back byte for byte", contentComesBack},
		{"every key that CheckKey accepts names an object of its own", keysAreDistinct},
		{"a key that CheckKey refuses is refused by every method", badKeysAreRefused},
		{"what is not there is not found", missingIsNotFound},
		{"an object is created once", createdOnce},
		{"creating with equal bytes again succeeds", createdAgainWithEqualBytes},
		{"of many creators at once exactly one wins", oneCreatorWins},
		{"equal bytes created by many at once succeed for all", equalCreatorsAllWin},
		{"only the current version is replaced", replacedByVersion},
		{"replacing with equal bytes again succeeds", replacedAgainWithEqualBytes},
		{"of many replacers at once exactly one wins", oneReplacerWins},
		{"a counter replaced by many loses no step", counterLosesNothing},
		{"a version's name changes with its content", etagsDiffer},
		{"a range has exactly the bytes asked for", rangesAreExact},
		{"a range that the object does not have is an error", rangesBeyondAreErrors},
		{"a list is complete and ascending over pages", listIsCompleteAndOrdered},
		{"a list's prefix is a plain string", listPrefixIsPlain},
		{"a list can be left early", listCanBeLeft},
		{"deleting twice is no error", deleteIsIdempotent},
		{"a deleted key can be created again", deletedCanBeCreated},
		{"readers never see a part of a write", readersSeeWholeVersions},
		{"an ended context ends every method", endedContextEnds},
		{"a read ends with its context", endedContextEndsReading},
		{"the location is a URL", locationIsURL},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

const callers = 16

func contentComesBack(t *testing.T, store objectstore.Store) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	contents := map[string][]byte{
		"empty":      {},
		"one":        {0},
		"every-byte": every,
		"newlines":   []byte("\r\n\r\n\n\r"),
		"5MiB":       random(5<<20, 1),
		"64KiB-1":    random(64<<10-1, 2),
		"64KiB+1":    random(64<<10+1, 3),
	}
	for name, content := range contents {
		key := "content/" + strings.ReplaceAll(name, "+", "_")
		before := time.Now()
		info := mustPut(t, store, key, content)
		if info.Key != key || info.Size != int64(len(content)) || info.ETag == "" {
			t.Errorf("%s: put answered %+v, want key %s, %d bytes and an ETag", name, info, key, len(content))
		}
		if far := info.Modified.Sub(before).Abs(); far > 5*time.Minute {
			t.Errorf("%s: put answered modified %v, written at %v", name, info.Modified, before)
		}
		got, read := mustRead(t, store, key)
		if !bytes.Equal(got, content) {
			t.Errorf("%s: read %d bytes, want the %d written", name, len(got), len(content))
		}
		stat, err := store.Stat(t.Context(), key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for step, got := range map[string]objectstore.Info{"get": read, "stat": stat} {
			if got.Key != key || got.Size != info.Size || got.ETag != info.ETag {
				t.Errorf("%s: %s answered %+v, put %+v", name, step, got, info)
			}
		}
	}
}

func keysAreDistinct(t *testing.T, store objectstore.Store) {
	keys := []string{
		"a",
		"A",
		"0",
		"-",
		"_",
		"=",
		"a.b",
		"a..b",
		"a-b/c_d/e=f/g.h",
		"20261122T140000Z",
		"snapshots/20261122T140000Z-0a1b",
		"packs/20261122T140000Z-0a1b/" + strings.Repeat("ab", 32),
		"deep/" + strings.Repeat("d/", 60) + "end",
		"long/" + strings.Repeat("x", 255),
		strings.Repeat(strings.Repeat("y", 99)+"/", 8) + "end",
	}
	for _, key := range keys {
		mustPut(t, store, key, []byte("content of "+key))
	}
	for _, key := range keys {
		if got, _ := mustRead(t, store, key); string(got) != "content of "+key {
			t.Errorf("%s: read %q", key, got)
		}
	}
	slices.Sort(keys)
	if got := mustList(t, store, ""); !slices.Equal(got, keys) {
		t.Errorf("listed\n%q\nwant\n%q", got, keys)
	}
}

func badKeysAreRefused(t *testing.T, store objectstore.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", ".hidden", "a/.b",
		"a\x00b", "a b", "a\nb", "a\\b", "ä", "a+b", "a%2Fb", "a?b", "a#b", strings.Repeat("k", 256), strings.Repeat("kk/", 300) + "k",
	} {
		for method, call := range methods(store, key) {
			var fault *objectstore.KeyError
			if err := call(t.Context()); !errors.As(err, &fault) {
				t.Errorf("%s of key %q: got %v, want a KeyError", method, key, err)
			}
		}
	}
	if got := mustList(t, store, ""); len(got) != 0 {
		t.Errorf("something was written: %q", got)
	}
}

func missingIsNotFound(t *testing.T, store objectstore.Store) {
	mustPut(t, store, "there/object", []byte("x"))
	for _, key := range []string{"missing", "there", "there/missing", "missing/deep/below"} {
		for method, call := range methods(store, key) {
			err := call(t.Context())
			switch method {
			case "Get", "GetRange", "Stat":
				if !errors.Is(err, objectstore.ErrNotFound) {
					t.Errorf("%s of %s: got %v, want ErrNotFound", method, key, err)
				} else if !strings.Contains(err.Error(), key) {
					t.Errorf("%s of %s: error does not name the key: %v", method, key, err)
				}
			case "PutIfMatch":
				if !errors.Is(err, objectstore.ErrChanged) {
					t.Errorf("%s of %s: got %v, want ErrChanged", method, key, err)
				}
			}
		}
	}
	if got := mustList(t, store, "missing"); len(got) != 0 {
		t.Errorf("list of what is missing: %q", got)
	}
	if got, _ := mustRead(t, store, "there/object"); string(got) != "x" {
		t.Errorf("the object there became %q", got)
	}
}

func createdOnce(t *testing.T, store objectstore.Store) {
	first := mustPut(t, store, "dir/key", []byte("first"))
	for _, content := range []string{"other", "first and more", "firs", ""} {
		_, err := store.PutIfAbsent(t.Context(), "dir/key", []byte(content))
		if !errors.Is(err, objectstore.ErrExists) {
			t.Errorf("create again with %q: got %v, want ErrExists", content, err)
		} else if !strings.Contains(err.Error(), "dir/key") {
			t.Errorf("error does not name the key: %v", err)
		}
	}
	got, info := mustRead(t, store, "dir/key")
	if string(got) != "first" || info.ETag != first.ETag {
		t.Errorf("read %q with ETag %s, want the first content with %s", got, info.ETag, first.ETag)
	}
}

func createdAgainWithEqualBytes(t *testing.T, store objectstore.Store) {
	for name, content := range map[string][]byte{"empty": {}, "small": []byte("x"), "large": random(3<<20, 4)} {
		first := mustPut(t, store, name, content)
		again, err := store.PutIfAbsent(t.Context(), name, bytes.Clone(content))
		if err != nil || again.ETag != first.ETag || again.Size != first.Size {
			t.Errorf("%s: again: %+v, %v; first: %+v", name, again, err, first)
		}
	}
}

func oneCreatorWins(t *testing.T, store objectstore.Store) {
	for round := range 5 {
		key := fmt.Sprintf("race/%d/deep/key", round)
		winners := together(t, func(caller int) error {
			_, err := store.PutIfAbsent(t.Context(), key, fmt.Appendf(nil, "caller %d", caller))
			return err
		}, objectstore.ErrExists)
		if len(winners) != 1 {
			t.Fatalf("%s: %d callers created it: %v", key, len(winners), winners)
		}
		if got, _ := mustRead(t, store, key); string(got) != fmt.Sprintf("caller %d", winners[0]) {
			t.Errorf("%s: holds %q, the winner was %d", key, got, winners[0])
		}
	}
}

func equalCreatorsAllWin(t *testing.T, store objectstore.Store) {
	winners := together(t, func(int) error {
		_, err := store.PutIfAbsent(t.Context(), "equal/key", []byte("the same"))
		return err
	}, nil)
	if len(winners) != callers {
		t.Errorf("%d of %d succeeded", len(winners), callers)
	}
}

func replacedByVersion(t *testing.T, store objectstore.Store) {
	first := mustPut(t, store, "lease", []byte("one"))
	second, err := store.PutIfMatch(t.Context(), "lease", []byte("two two"), first.ETag)
	if err != nil {
		t.Fatalf("replace the current version: %v", err)
	}
	if second.Key != "lease" || second.Size != 7 || second.ETag == "" || second.ETag == first.ETag {
		t.Errorf("replace answered %+v after %+v", second, first)
	}
	for name, etag := range map[string]string{"old": first.ETag, "none": "", "invented": strings.Repeat("0", 32)} {
		_, err := store.PutIfMatch(t.Context(), "lease", []byte("three"), etag)
		if !errors.Is(err, objectstore.ErrChanged) {
			t.Errorf("replace the %s version: got %v, want ErrChanged", name, err)
		} else if !strings.Contains(err.Error(), "lease") {
			t.Errorf("error does not name the key: %v", err)
		}
	}
	got, info := mustRead(t, store, "lease")
	if string(got) != "two two" || info.ETag != second.ETag {
		t.Errorf("read %q with ETag %s, want the second content with %s", got, info.ETag, second.ETag)
	}
	if third, err := store.PutIfMatch(t.Context(), "lease", []byte("three"), info.ETag); err != nil || third.ETag == info.ETag {
		t.Errorf("replace the version that Get named: %+v, %v", third, err)
	}
}

func replacedAgainWithEqualBytes(t *testing.T, store objectstore.Store) {
	first := mustPut(t, store, "lease", []byte("one"))
	second, err := store.PutIfMatch(t.Context(), "lease", []byte("two"), first.ETag)
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.PutIfMatch(t.Context(), "lease", []byte("two"), first.ETag)
	if err != nil || again.ETag != second.ETag {
		t.Errorf("the same again: %+v, %v; want the ETag %s", again, err, second.ETag)
	}
}

func oneReplacerWins(t *testing.T, store objectstore.Store) {
	current := mustPut(t, store, "lease", []byte("begin"))
	for round := range 5 {
		infos := make([]objectstore.Info, callers)
		winners := together(t, func(caller int) (err error) {
			infos[caller], err = store.PutIfMatch(t.Context(), "lease", fmt.Appendf(nil, "round %d caller %d", round, caller), current.ETag)
			return err
		}, objectstore.ErrChanged)
		if len(winners) != 1 {
			t.Fatalf("round %d: %d callers replaced the same version: %v", round, len(winners), winners)
		}
		current = infos[winners[0]]
		got, info := mustRead(t, store, "lease")
		if string(got) != fmt.Sprintf("round %d caller %d", round, winners[0]) || info.ETag != current.ETag {
			t.Errorf("round %d: holds %q, the winner was %d", round, got, winners[0])
		}
	}
}

func counterLosesNothing(t *testing.T, store objectstore.Store) {
	const each = 3
	mustPut(t, store, "counter", nil)
	group, ctx := errgroup.WithContext(t.Context())
	for caller := range 6 {
		group.Go(func() error {
			for step := range each {
				for {
					content, info, err := objectstore.ReadAll(ctx, store, "counter", 1<<20)
					if err != nil {
						return err
					}
					// The mark makes each content unlike all others, as callers of PutIfMatch must.
					_, err = store.PutIfMatch(ctx, "counter", fmt.Appendf(content, "%d.%d ", caller, step), info.ETag)
					if err == nil {
						break
					}
					if !errors.Is(err, objectstore.ErrChanged) {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	got, _ := mustRead(t, store, "counter")
	steps := strings.Fields(string(got))
	slices.Sort(steps)
	if len(slices.Compact(steps)) != 6*each {
		t.Errorf("of %d steps these are left: %q", 6*each, got)
	}
}

func etagsDiffer(t *testing.T, store objectstore.Store) {
	seen := make(map[string]string)
	info := mustPut(t, store, "key", []byte("0"))
	seen[info.ETag] = "0"
	for i := 1; i < 20; i++ {
		content := fmt.Sprint(i % 10) // equal length, written within the same instant of coarse clocks
		if i >= 10 {
			content = "x" + content
		}
		var err error
		if info, err = store.PutIfMatch(t.Context(), "key", []byte(content), info.ETag); err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[info.ETag]; ok {
			t.Errorf("ETag %s names %q and %q", info.ETag, before, content)
		}
		seen[info.ETag] = content
	}
}

func rangesAreExact(t *testing.T, store objectstore.Store) {
	content := random(300_000, 5)
	mustPut(t, store, "key", content)
	size := int64(len(content))
	for _, r := range [][2]int64{{0, 1}, {0, size}, {1, size - 1}, {size - 1, 1}, {12345, 100_001}, {size / 2, size - size/2}} {
		got, err := store.GetRange(t.Context(), "key", r[0], r[1])
		if err != nil || !bytes.Equal(got, content[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes at %d: got %d bytes, %v", r[1], r[0], len(got), err)
		}
	}
}

func rangesBeyondAreErrors(t *testing.T, store objectstore.Store) {
	mustPut(t, store, "key", []byte("0123456789"))
	mustPut(t, store, "empty", nil)
	for _, r := range []struct {
		key            string
		offset, length int64
	}{
		{"key", 0, 11}, {"key", 9, 2}, {"key", 10, 1}, {"key", 11, 1}, {"key", 1 << 40, 1}, {"key", 0, 1 << 62},
		{"key", -1, 1}, {"key", 0, 0}, {"key", 0, -1}, {"key", 1<<63 - 1, 1<<63 - 1}, {"empty", 0, 1},
	} {
		got, err := store.GetRange(t.Context(), r.key, r.offset, r.length)
		var fault *objectstore.RangeError
		if !errors.As(err, &fault) || got != nil {
			t.Errorf("%d bytes at %d of %s: got %q, %v; want a RangeError", r.length, r.offset, r.key, got, err)
		}
		if errors.Is(err, objectstore.ErrNotFound) {
			t.Errorf("%d bytes at %d of %s: is said to be not found: %v", r.length, r.offset, r.key, err)
		}
	}
}

func listIsCompleteAndOrdered(t *testing.T, store objectstore.Store) {
	// '-' and '.' come before '/', digits, '=' and letters after it: an order per directory is another one.
	want := []string{"w/a-b", "w/a.b", "w/a/1", "w/a/2/3", "w/a/2-3", "w/a0", "w/a=", "w/aZ", "w/a_", "w/aa/b", "w/A/a", "w", "w-"}
	want[slices.Index(want, "w")] = "v"
	for i := range 1100 {
		want = append(want, fmt.Sprintf("w/many/%d/%05d", i%3, i*7919%100_000))
	}
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(callers)
	for i, key := range want {
		group.Go(func() error {
			_, err := store.PutIfAbsent(ctx, key, make([]byte, i%5))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int64, len(want))
	for i, key := range want {
		sizes[key] = int64(i % 5)
	}
	slices.Sort(want)
	var got []string
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Key)
		if info.Size != sizes[info.Key] || info.Modified.IsZero() {
			t.Errorf("listed %+v, want %d bytes and a time", info, sizes[info.Key])
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("listed %d objects, want %d; first difference: %s", len(got), len(want), difference(got, want))
	}
	// Every prefix that can begin a key, cut anywhere.
	for _, prefix := range []string{"w", "w/", "w/a", "w/a/", "w/a/2", "w/a/2/", "w/a-", "w/a.", "w/a=", "w/many/1/0", "w/many/2/", "w/many", "x", "w/z/", "w/a.b/c"} {
		var below []string
		for _, key := range want {
			if strings.HasPrefix(key, prefix) {
				below = append(below, key)
			}
		}
		if got := mustList(t, store, prefix); !slices.Equal(got, below) {
			t.Errorf("prefix %q: listed %d objects, want %d; first difference: %s", prefix, len(got), len(below), difference(got, below))
		}
	}
}

func listPrefixIsPlain(t *testing.T, store objectstore.Store) {
	for _, key := range []string{"snap/1", "snap/10", "snap/2", "snapshots/1", "sna/x"} {
		mustPut(t, store, key, nil)
	}
	for prefix, want := range map[string][]string{
		"":          {"sna/x", "snap/1", "snap/10", "snap/2", "snapshots/1"},
		"snap":      {"snap/1", "snap/10", "snap/2", "snapshots/1"},
		"snap/":     {"snap/1", "snap/10", "snap/2"},
		"snap/1":    {"snap/1", "snap/10"},
		"snap/10":   {"snap/10"},
		"snap/1/":   nil,
		"snapshots": {"snapshots/1"},
		"nap":       nil,
	} {
		if got := mustList(t, store, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q: listed %q, want %q", prefix, got, want)
		}
	}
	for _, prefix := range []string{"/", "..", "../", "a//", ".tmp", "a b", "a/../b"} {
		count, failed := 0, false
		for _, err := range store.List(t.Context(), prefix) {
			count++
			failed = failed || err != nil
		}
		if !failed || count != 1 {
			t.Errorf("prefix %q, which cannot begin a key: %d results, error %v; want one error", prefix, count, failed)
		}
	}
}

func listCanBeLeft(t *testing.T, store objectstore.Store) {
	for i := range 5 {
		mustPut(t, store, fmt.Sprintf("d%d/x", i), nil)
	}
	count := 0
	for _, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if count++; count == 2 {
			break
		}
	}
	if count != 2 {
		t.Errorf("saw %d", count)
	}
}

func deleteIsIdempotent(t *testing.T, store objectstore.Store) {
	mustPut(t, store, "dir/one", []byte("1"))
	mustPut(t, store, "dir/two", []byte("2"))
	for range 2 {
		if err := store.Delete(t.Context(), "dir/one"); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"never/was/there", "dir", "dir/two/below"} {
		if err := store.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	if _, err := store.Stat(t.Context(), "dir/one"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("stat after delete: %v", err)
	}
	if got := mustList(t, store, ""); !slices.Equal(got, []string{"dir/two"}) {
		t.Errorf("left over: %q", got)
	}
}

func deletedCanBeCreated(t *testing.T, store objectstore.Store) {
	together(t, func(caller int) error {
		key := fmt.Sprintf("come%d/and/go", caller)
		for round := range 5 {
			if _, err := store.PutIfAbsent(t.Context(), key, fmt.Appendf(nil, "%d", round)); err != nil {
				return err
			}
			if err := store.Delete(t.Context(), key); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if got := mustList(t, store, ""); len(got) != 0 {
		t.Errorf("left over: %q", got)
	}
}

func readersSeeWholeVersions(t *testing.T, store objectstore.Store) {
	version := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 100_000+i) }
	info := mustPut(t, store, "key", version(0))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				content, _, err := objectstore.ReadAll(t.Context(), store, "key", 1<<20)
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				if !bytes.Equal(content, version(int(content[0]))) {
					t.Errorf("read %d bytes beginning with %d: not a version", len(content), content[0])
					return
				}
			}
		})
	}
	for i := 1; i <= 20; i++ {
		var err error
		if info, err = store.PutIfMatch(t.Context(), "key", version(i), info.ETag); err != nil {
			t.Errorf("replace: %v", err)
			break
		}
	}
	close(done)
	readers.Wait()
}

func endedContextEnds(t *testing.T, store objectstore.Store) {
	mustPut(t, store, "key", []byte("content"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := methods(store, "key")
	calls["List"] = func(ctx context.Context) error {
		for _, err := range store.List(ctx, "") {
			return err
		}
		return nil
	}
	for method, call := range calls {
		if err := call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want context.Canceled", method, err)
		}
	}
	if got, _ := mustRead(t, store, "key"); string(got) != "content" {
		t.Errorf("the object became %q", got)
	}
}

func endedContextEndsReading(t *testing.T, store objectstore.Store) {
	mustPut(t, store, "key", random(5<<20, 6))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, _, err := store.Get(ctx, "key")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := io.ReadFull(reader, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, reader); !errors.Is(err, context.Canceled) {
		t.Errorf("reading on: got %v, want context.Canceled", err)
	}
}

func locationIsURL(t *testing.T, store objectstore.Store) {
	if got := store.Location(); !strings.Contains(got, "://") || strings.Contains(got, "@") {
		t.Errorf("location %q", got)
	}
}

// methods returns a call of each method that takes a key, by name.
func methods(store objectstore.Store, key string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"PutIfMatch": func(ctx context.Context) error {
			_, err := store.PutIfMatch(ctx, key, []byte("replaced"), strings.Repeat("0", 32))
			return err
		},
		"PutIfAbsent": func(ctx context.Context) error {
			if key == "there" || strings.HasPrefix(key, "missing") || strings.HasSuffix(key, "/missing") {
				return nil // the caller asks about absence
			}
			_, err := store.PutIfAbsent(ctx, key, []byte("created"))
			return err
		},
		"Get": func(ctx context.Context) error {
			reader, _, err := store.Get(ctx, key)
			if err == nil {
				err = reader.Close()
			}
			return err
		},
		"GetRange": func(ctx context.Context) error {
			_, err := store.GetRange(ctx, key, 0, 1)
			return err
		},
		"Stat": func(ctx context.Context) error {
			_, err := store.Stat(ctx, key)
			return err
		},
		"Delete": func(ctx context.Context) error { return store.Delete(ctx, key) },
	}
}

// together runs call by many callers at once and returns those that succeeded, ascending; any error but loses fails
// the test.
func together(t *testing.T, call func(caller int) error, loses error) []int {
	t.Helper()
	var (
		start   = make(chan struct{})
		results [callers]error
		group   sync.WaitGroup
	)
	for caller := range callers {
		group.Go(func() {
			<-start
			results[caller] = call(caller)
		})
	}
	close(start)
	group.Wait()
	var winners []int
	for caller, err := range results {
		switch {
		case err == nil:
			winners = append(winners, caller)
		case loses == nil || !errors.Is(err, loses):
			t.Fatalf("caller %d: got %v, want success or %v", caller, err, loses)
		}
	}
	return winners
}

func mustPut(t *testing.T, store objectstore.Store, key string, content []byte) objectstore.Info {
	t.Helper()
	info, err := store.PutIfAbsent(t.Context(), key, content)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return info
}

func mustRead(t *testing.T, store objectstore.Store, key string) ([]byte, objectstore.Info) {
	t.Helper()
	content, info, err := objectstore.ReadAll(t.Context(), store, key, 1<<30)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return content, info
}

func mustList(t *testing.T, store objectstore.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range store.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func difference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("at %d got %q, want %q", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("at %d one ends", min(len(got), len(want)))
}

// random returns bytes that compress to nothing smaller, the same ones for the same seed.
func random(size int, seed uint64) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(content)
	return content
}
