package witness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hourvault/hourvault/internal/repository"
)

// DamagedError says that a witness file does not hold what this package writes. Nothing overwrites such a file.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("witness file %s is damaged: %v", e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

// fileFormat is the version of the witness file that is written and read.
const fileFormat = 1

// file is the witness file's text: JSON, one sighting a line.
type file struct {
	Format    int        `json:"format"`
	Witnesses []Sighting `json:"witnesses"`
}

// maxFileSize bounds the witness file, in bytes: enough for a hundred thousand workspaces.
const maxFileSize = 64 << 20

// ReadFile returns the sightings of a witness file: one for each repository and workspace. An error that is fs.ErrNotExist when there is no
// file, *DamagedError when it holds something else.
func ReadFile(path string) ([]Sighting, error) {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFileSize) {
		err = &DamagedError{Path: path, Err: errors.New("is no regular file, or far too large")}
	}
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	seen, err := parseFile(content)
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err}
	}
	return seen, nil
}

func parseFile(content []byte) ([]Sighting, error) {
	var stored file
	decoder := json.NewDecoder(bytes.NewReader(withoutLastComma(content)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&stored); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("something follows its end")
	}
	if stored.Format != fileFormat {
		return nil, fmt.Errorf("has format %d, and this version knows %d", stored.Format, fileFormat)
	}
	known := make(map[entryKey]bool, len(stored.Witnesses))
	for i, sighting := range stored.Witnesses {
		err := sighting.check()
		switch {
		case err != nil:
		case sighting.Repository == "":
			err = errors.New("has no repository_id")
		case sighting.Snapshot.IsZero():
			err = errors.New("has no snapshot")
		case known[sighting.key()]:
			err = errors.New("names a workspace for the second time")
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d %w", i+1, err)
		}
		known[sighting.key()] = true
	}
	return stored.Witnesses, nil
}

// withoutLastComma makes a witness file JSON again from which somebody removed the last line of several, as alerts advise: the
// line before it ends with a comma. Nothing is changed in place.
func withoutLastComma(content []byte) []byte {
	const space = " \t\r\n"
	text := bytes.TrimRight(content, space)
	for _, end := range []string{"}", "]"} {
		var found bool
		if text, found = bytes.CutSuffix(text, []byte(end)); !found {
			return content
		}
		text = bytes.TrimRight(text, space)
	}
	if text, found := bytes.CutSuffix(text, []byte(",")); found && bytes.HasSuffix(bytes.TrimRight(text, space), []byte("}")) {
		return slices.Concat(text, []byte("]}"))
	}
	return content
}

// entryKey is what a witness file holds one entry for.
type entryKey struct {
	repository string
	workspace  repository.WorkspaceID
}

func (s Sighting) key() entryKey { return entryKey{repository: s.Repository, workspace: s.Workspace} }

// Raise makes seen the entry of its repository and workspace in the witness file, unless one with the same or a higher sequence is there,
// which stays. The file is made when there is none, with mode 0600, and replaced atomically: a reader, or a crash, sees the old or the new one.
// Any number of goroutines and processes may do this at once; they take turns by a lock on the file beside it whose name ends in
// ".lock". *DamagedError when the file holds something else, which is left as it is.
func Raise(ctx context.Context, path string, seen Sighting) error {
	if err := seen.check(); err != nil {
		return fmt.Errorf("witness of workspace %s: %w", seen.Workspace, err)
	}
	unlock, err := lock(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	at := slices.IndexFunc(entries, func(entry Sighting) bool { return entry.key() == seen.key() })
	switch {
	case at < 0:
		entries = append(entries, seen)
	case entries[at].Sequence >= seen.Sequence:
		return nil
	default:
		entries[at] = seen
	}
	slices.SortFunc(entries, func(a, b Sighting) int {
		return strings.Compare(a.Repository+a.Workspace.String(), b.Repository+b.Workspace.String())
	})
	return replace(path, entries)
}

// replace writes one entry a line, so that people can remove one.
func replace(path string, entries []Sighting) (err error) {
	var text bytes.Buffer
	fmt.Fprintf(&text, "{\"format\":%d,\"witnesses\":[\n", fileFormat)
	for i, entry := range entries {
		line, err := json.Marshal(entry)
		if err != nil {
			return err
		}
		text.Write(line)
		if i < len(entries)-1 {
			text.WriteByte(',')
		}
		text.WriteByte('\n')
	}
	text.WriteString("]}\n")
	temporary := path + ".new" // the lock is held, so it is nobody else's
	defer func() {
		if err != nil {
			_ = os.Remove(temporary)
		}
	}()
	out, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(text.Bytes())
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	directory, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// lock takes the exclusive lock of a file, which the kernel releases when the process dies. It waits until ctx ends: others hold it for one
// small write.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	held, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// flock(2) cannot be interrupted by a context, so it is asked again and again. Each opening of the file has a lock of its own, so
	// goroutines keep each other out as processes do.
	const pause = 5 * time.Millisecond
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		err := unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = held.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = held.Close()
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			_ = held.Close()
			return nil, fmt.Errorf("lock %s: %w", path, context.Cause(ctx))
		}
	}
}
