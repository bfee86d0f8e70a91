package objectstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/objectstore/storetest"
	"github.com/hourvault/hourvault/internal/testenv"
)

// racerEnvironment makes this test binary a process that races others for objects, instead of running tests.
const racerEnvironment = "HOURVAULT_TEST_RACER"

func TestMain(m *testing.M) {
	if directory := os.Getenv(racerEnvironment); directory != "" {
		if err := race(directory); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is the body of TestMain
		}
		os.Exit(0) //nolint:forbidigo // this is the body of TestMain
	}
	testenv.Main(m)
}

func TestDirectoryKeepsThePromisesOfStore(t *testing.T) {
	storetest.Run(t, func(t testing.TB) objectstore.Store { return openDirectory(t, t.TempDir()) })
}

func TestReadOnlyStoreRefusesWritesAndReads(t *testing.T) {
	directory := openDirectory(t, t.TempDir())
	put(t, directory, "key", "content")
	store := objectstore.ReadOnly(directory)
	_, absent := store.PutIfAbsent(t.Context(), "new", nil)
	_, match := store.PutIfMatch(t.Context(), "key", nil, "x")
	for step, err := range map[string]error{"put": absent, "replace": match, "delete": store.Delete(t.Context(), "key")} {
		if !errors.Is(err, objectstore.ErrReadOnly) {
			t.Errorf("%s: got %v, want ErrReadOnly", step, err)
		}
	}
	if content, _, err := objectstore.ReadAll(t.Context(), store, "key", 100); err != nil || string(content) != "content" {
		t.Errorf("read %q, %v", content, err)
	}
	if keys := list(t, store, ""); !slices.Equal(keys, []string{"key"}) {
		t.Errorf("listed %q", keys)
	}
}

func TestDirectoryIsCreatedOnlyWhenAsked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	_, err := objectstore.OpenDirectory(path, objectstore.DirectoryOptions{})
	if !errors.Is(err, objectstore.ErrNoBucket) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrNoBucket with the path", err)
	}
	store, err := objectstore.OpenDirectory(path, objectstore.DirectoryOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if got, want := store.Location(), "file://"+path; got != want {
		t.Errorf("location %s, want %s", got, want)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := objectstore.OpenDirectory(file, objectstore.DirectoryOptions{Create: true}); err == nil {
		t.Error("a file was opened as a directory")
	}
}

func TestDirectoryIsPrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "store")
	store, err := objectstore.OpenDirectory(path, objectstore.DirectoryOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	info := put(t, store, "a/b/c", "1")
	if _, err := store.PutIfMatch(t.Context(), "a/b/c", []byte("2"), info.ETag); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		info, err := entry.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if entry.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
		return nil
	})
	if err != nil || seen < 5 {
		t.Fatalf("saw %d files and directories, %v", seen, err)
	}
}

func TestDirectoryDoesNotFollowSymbolicLinks(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := t.TempDir()
	store := openDirectory(t, path)
	put(t, store, "inside/object", "inside")
	for name, target := range map[string]string{
		"absolute":    outside,
		"relative":    "../" + filepath.Base(outside),
		"file":        filepath.Join(outside, "secret"),
		"dangling":    filepath.Join(outside, "not-there"),
		"inside/link": "object",
	} {
		if err := os.Symlink(target, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"absolute/secret", "relative/secret", "file", "dangling", "inside/link"} {
		content, _, err := objectstore.ReadAll(t.Context(), store, key, 100)
		if err == nil || errors.Is(err, objectstore.ErrNotFound) {
			t.Errorf("get %s: %q, %v; want an error that is not ErrNotFound", key, content, err)
		}
		if _, err := store.PutIfMatch(t.Context(), key, []byte("x"), "x"); err == nil {
			t.Errorf("replaced %s", key)
		}
		if err := store.Delete(t.Context(), key); err == nil {
			t.Errorf("deleted %s", key)
		}
	}
	for _, key := range []string{"absolute/new", "relative/new", "dangling", "dangling/new"} {
		if _, err := store.PutIfAbsent(t.Context(), key, []byte("x")); err == nil {
			t.Errorf("put %s", key)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside are now %v, %v", entries, err)
	}
	failed := false
	for info, err := range store.List(t.Context(), "") {
		failed = failed || err != nil
		if strings.HasPrefix(info.Key, "absolute/") || strings.HasPrefix(info.Key, "relative/") {
			t.Errorf("listed %s", info.Key)
		}
	}
	if !failed {
		t.Error("a list with symbolic links ended without an error")
	}
}

func TestDirectoryListsOnlyObjects(t *testing.T) {
	path := t.TempDir()
	store := openDirectory(t, path)
	put(t, store, "key", "content")
	for _, name := range []string{"lost+found", ".hidden", "dir/.hidden"} {
		if err := os.MkdirAll(filepath.Join(path, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, name, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if keys := list(t, store, ""); !slices.Equal(keys, []string{"key"}) {
		t.Errorf("listed %q", keys)
	}
	if err := unix.Mkfifo(filepath.Join(path, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Get(t.Context(), "fifo"); err == nil || errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("get of a FIFO: %v", err)
	}
}

func TestDirectoryRemovesWhatDeadWritesLeft(t *testing.T) {
	path := t.TempDir()
	if err := os.Mkdir(filepath.Join(path, ".tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": 23 * time.Hour} {
		file := filepath.Join(path, ".tmp", name)
		if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(file, then, then); err != nil {
			t.Fatal(err)
		}
	}
	store := openDirectory(t, path)
	put(t, store, "a/b", "1")
	if _, err := store.PutIfAbsent(t.Context(), "a/b", []byte("2")); !errors.Is(err, objectstore.ErrExists) {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(path, ".tmp"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "young" {
		t.Errorf("left in .tmp: %v, %v; want only what is younger than a day", entries, err)
	}
	if keys := list(t, store, ""); !slices.Equal(keys, []string{"a/b"}) {
		t.Errorf("listed %q", keys)
	}
}

func TestDirectoryRemovesEmptyDirectories(t *testing.T) {
	path := t.TempDir()
	store := openDirectory(t, path)
	put(t, store, "a/b/c/d", "1")
	put(t, store, "a/x", "1")
	if err := store.Delete(t.Context(), "a/b/c/d"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "a", "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty directory is still there: %v", err)
	}
	if _, err := store.Stat(t.Context(), "a/x"); err != nil {
		t.Error(err)
	}
}

func TestDirectoryWritesWhereOthersDelete(t *testing.T) {
	path := t.TempDir()
	// One more process, which does nothing but remove directories that are empty at the moment.
	done := make(chan struct{})
	var remover sync.WaitGroup
	remover.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, name := range []string{"come/and/go", "come/and", "come"} {
				_ = unix.Rmdir(filepath.Join(path, name))
			}
		}
	})
	var group errgroup.Group
	for writer := range 4 {
		store := openDirectory(t, path) // as another process would
		group.Go(func() error {
			key := fmt.Sprintf("come/and/go/%d", writer)
			for round := range 30 {
				if _, err := store.PutIfAbsent(t.Context(), key, fmt.Appendf(nil, "%d", round)); err != nil {
					return err
				}
				if err := store.Delete(t.Context(), key); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	close(done)
	remover.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "come")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty directories are still there: %v", err)
	}
}

func TestDirectoryRefusesAKeyBelowAnObject(t *testing.T) {
	store := openDirectory(t, t.TempDir())
	put(t, store, "a", "1")
	if _, err := store.PutIfAbsent(t.Context(), "a/b", []byte("2")); err == nil || errors.Is(err, objectstore.ErrExists) {
		t.Errorf("put a/b: %v", err)
	}
	put(t, store, "c/d", "1")
	if _, err := store.PutIfAbsent(t.Context(), "c", []byte("2")); err == nil {
		t.Error("put c succeeded over a directory")
	}
}

func TestDirectoryThatWasRemovedIsNoBucket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := openDirectory(t, path)
	put(t, store, "a/b", "1")
	if err := store.CheckBucket(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"c", "d/e"} {
		if _, err := store.PutIfAbsent(t.Context(), key, []byte("1")); !errors.Is(err, objectstore.ErrNoBucket) {
			t.Errorf("put %s: got %v, want ErrNoBucket", key, err)
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := store.CheckBucket(t.Context()); !errors.Is(err, objectstore.ErrNoBucket) {
		t.Errorf("check: got %v, want ErrNoBucket", err)
	}
}

func TestDirectoryOfAnotherUserIsDenied(t *testing.T) {
	if os.Geteuid() == 0 {
		runAsNobody(t)
		return
	}
	path := t.TempDir()
	store := openDirectory(t, path)
	put(t, store, "a/b", "1")
	if err := os.Chmod(filepath.Join(path, "a"), 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Chmod(filepath.Join(path, "a"), 0o700) }() // so that the directory can be removed
	_, getErr := store.Stat(t.Context(), "a/b")
	_, putErr := store.PutIfAbsent(t.Context(), "a/c", nil)
	for step, err := range map[string]error{"stat": getErr, "put": putErr, "delete": store.Delete(t.Context(), "a/b")} {
		if !errors.Is(err, objectstore.ErrDenied) {
			t.Errorf("%s: got %v, want ErrDenied", step, err)
		}
	}
}

// runAsNobody runs the calling test again as a user whom permissions bind.
func runAsNobody(t *testing.T) {
	t.Helper()
	directory, err := os.MkdirTemp("", "hourvault-nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	// The test binary lies where others may not look.
	binary := filepath.Join(directory, "test")
	content, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(binary, content, 0o755)
	}
	if err == nil {
		err = os.Chmod(directory, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), binary, "-test.run=^"+t.Name()+"$", "-test.v")
	command.Dir = directory
	command.Env = []string{"TMPDIR=" + directory, "PATH=" + os.Getenv("PATH")}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	output, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Fatalf("as nobody: %v\n%s", err, output)
	}
}

func TestDirectoryHasOneWinnerAcrossProcesses(t *testing.T) {
	const processes = 4
	path := t.TempDir()
	store := openDirectory(t, path)
	put(t, store, "counter", "")
	commands := make([]*exec.Cmd, processes)
	outputs := make([]strings.Builder, processes)
	for i := range commands {
		commands[i] = exec.CommandContext(t.Context(), os.Args[0])
		commands[i].Env = append(os.Environ(), racerEnvironment+"="+path)
		commands[i].Stdout, commands[i].Stderr = &outputs[i], os.Stderr
		if err := commands[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	won := make(map[string]int)
	for i, command := range commands {
		if err := command.Wait(); err != nil {
			t.Fatalf("process %d: %v", i, err)
		}
		for lines := bufio.NewScanner(strings.NewReader(outputs[i].String())); lines.Scan(); {
			won[lines.Text()]++
		}
	}
	for key := range raceKeys() {
		if won[key] != 1 {
			t.Errorf("%s: created by %d processes", key, won[key])
		}
	}
	content, _, err := objectstore.ReadAll(t.Context(), store, "counter", 1<<20)
	if err != nil || len(content) != processes*raceSteps {
		t.Errorf("the counter has %d of %d steps, %v", len(content), processes*raceSteps, err)
	}
}

const raceSteps = 50

func raceKeys() func(func(string) bool) {
	return func(yield func(string) bool) {
		for i := range 50 {
			if !yield(fmt.Sprintf("race/%d/key", i)) {
				return
			}
		}
	}
}

// race is what each racing process does: it prints the keys that it created and adds to a counter.
func race(directory string) error {
	store, err := objectstore.OpenDirectory(directory, objectstore.DirectoryOptions{})
	if err != nil {
		return err
	}
	defer store.Close()
	ctx := context.Background()
	for key := range raceKeys() {
		_, err := store.PutIfAbsent(ctx, key, fmt.Appendf(nil, "process %d", os.Getpid()))
		switch {
		case err == nil:
			fmt.Println(key)
		case !errors.Is(err, objectstore.ErrExists):
			return err
		}
	}
	for step := 0; step < raceSteps; {
		content, info, err := objectstore.ReadAll(ctx, store, "counter", 1<<20)
		if err != nil {
			return err
		}
		// Processes write unlike bytes, so that no write is taken for another's.
		content = append(content, byte(os.Getpid()))
		_, err = store.PutIfMatch(ctx, "counter", content, info.ETag)
		switch {
		case err == nil:
			step++
		case !errors.Is(err, objectstore.ErrChanged):
			return err
		}
	}
	return nil
}

func TestDirectoryWaitsForItsLockOnlyAsLongAsTheContext(t *testing.T) {
	path := t.TempDir()
	store := openDirectory(t, path)
	info := put(t, store, "key", "1")
	lock, err := os.OpenFile(filepath.Join(path, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := store.PutIfMatch(ctx, "key", []byte("2"), info.ETag); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("replace: got %v, want DeadlineExceeded", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutIfMatch(t.Context(), "key", []byte("2"), info.ETag); err != nil {
		t.Errorf("replace after the lock was free: %v", err)
	}
}

func openDirectory(t testing.TB, path string) *objectstore.Directory {
	t.Helper()
	store, err := objectstore.OpenDirectory(path, objectstore.DirectoryOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func put(t testing.TB, store objectstore.Store, key, content string) objectstore.Info {
	t.Helper()
	info, err := store.PutIfAbsent(t.Context(), key, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func list(t testing.TB, store objectstore.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range store.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}
