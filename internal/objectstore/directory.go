package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Names in the root that are not objects: no segment of a key begins with '.'.
const (
	directoryTemporary = ".tmp"  // content being written, before it has its name
	directoryLock      = ".lock" // held exclusively by PutIfMatch and Delete
)

// leftoverAge is how old a temporary file is when it can belong to no running write any more.
const leftoverAge = 24 * time.Hour

// DirectoryOptions configures OpenDirectory; its zero value opens a directory that exists.
type DirectoryOptions struct {
	// Create makes the directory, and its parents, mode 0700, when there is none. Otherwise that is ErrNoBucket.
	Create bool
}

// Directory is a Store in a directory of the local machine (or a network file system with hard links and flock): one
// file per object, named as its key, mode 0600 in directories of mode 0700.
//
// A write is made in a file of its own below ".tmp", synced, and then given its name by link(2), which fails when the
// name is taken: so exactly one of several processes creates an object. Before a write returns, every directory from
// the object up to the root was synced too. Replacing and deleting hold flock(2) on ".lock". The directory is entered
// through os.Root: a symbolic link that leads out of it is an error, never followed.
//
// ETag is the SHA-256 of the content in hexadecimal; List leaves it empty, because it would have to read every
// object. A key cannot lie below another object's key ("a" and "a/b"). It does not encrypt: the file system's owner
// sees what hourvault writes, which is sealed.
type Directory struct {
	root    *os.Root
	path    string        // absolute
	writers chan struct{} // holds one token: who has it may wait for the lock file
}

// OpenDirectory opens the store at path and removes what writes that died more than a day ago left behind.
// ErrNoBucket when there is no such directory, ErrDenied when it may not be used. Close it after use.
func OpenDirectory(directory string, options DirectoryOptions) (*Directory, error) {
	absolute, err := filepath.Abs(directory)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", directory, err)
	}
	if options.Create {
		if err := createDirectory(absolute); err != nil {
			return nil, directoryError("create directory", absolute, err)
		}
	}
	root, err := os.OpenRoot(absolute)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open directory %s: %w: create it, or correct the path", absolute, ErrNoBucket)
		}
		return nil, directoryError("open directory", absolute, err)
	}
	d := &Directory{root: root, path: absolute, writers: make(chan struct{}, 1)}
	d.removeLeftovers()
	return d, nil
}

// Close releases the directory. No method may be called afterwards.
func (d *Directory) Close() error { return d.root.Close() }

// Location returns the directory as a file URL.
func (d *Directory) Location() string { return "file://" + d.path }

// PutIfAbsent implements Store.
func (d *Directory) PutIfAbsent(ctx context.Context, key string, content []byte) (Info, error) {
	const step = "put"
	if err := beforeUse(ctx, step, key); err != nil {
		return Info{}, err
	}
	temporary, modified, err := d.writeTemporary(content)
	if err != nil {
		return Info{}, d.writeError(step, key, err)
	}
	defer func() { _ = d.root.Remove(temporary) }() // one that stays is cleaned up by a later write

	// A Delete may remove an empty directory between making it and linking into it, hence the rounds.
	const rounds = 1000
	for round := 0; round == 0 || errors.Is(err, fs.ErrNotExist) && round < rounds; round++ {
		if ctx.Err() != nil {
			return Info{}, endedError(ctx, step, key)
		}
		if err = d.makeParents(key); err == nil {
			err = d.root.Link(temporary, key)
		}
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		// Equal content means that an earlier try of this call succeeded without learning it (over NFS, say).
		info, equal, err := d.compare(key, content)
		if err != nil {
			return Info{}, directoryError(step, key, err)
		}
		if !equal {
			return Info{}, fmt.Errorf("%s %s: %w", step, key, ErrExists)
		}
		modified = info.Modified
	case err != nil:
		return Info{}, d.writeError(step, key, err)
	}
	if err := d.syncUp(key); err != nil {
		return Info{}, directoryError(step, key, err)
	}
	return Info{Key: key, Size: int64(len(content)), ETag: contentETag(content), Modified: modified}, nil
}

// PutIfMatch implements Store.
func (d *Directory) PutIfMatch(ctx context.Context, key string, content []byte, etag string) (Info, error) {
	const step = "replace"
	if err := beforeUse(ctx, step, key); err != nil {
		return Info{}, err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return Info{}, directoryError(step, key, err)
	}
	defer unlock()

	file, current, err := d.open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, fmt.Errorf("%s %s: %w: there is none", step, key, ErrChanged)
	}
	if err != nil {
		return Info{}, directoryError(step, key, err)
	}
	defer file.Close()
	if current.ETag, err = fileETag(file); err != nil {
		return Info{}, directoryError(step, key, err)
	}
	wanted := contentETag(content)
	if current.ETag == wanted {
		return current, nil // written by this very call before, or nothing to change
	}
	if current.ETag != etag {
		return Info{}, fmt.Errorf("%s %s: %w", step, key, ErrChanged)
	}
	temporary, modified, err := d.writeTemporary(content)
	if err != nil {
		return Info{}, directoryError(step, key, err)
	}
	if err := d.root.Rename(temporary, key); err != nil {
		_ = d.root.Remove(temporary)
		return Info{}, directoryError(step, key, err)
	}
	if err := d.syncUp(key); err != nil {
		return Info{}, directoryError(step, key, err)
	}
	return Info{Key: key, Size: int64(len(content)), ETag: wanted, Modified: modified}, nil
}

// Get implements Store. To know the ETag it reads the object twice.
func (d *Directory) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	const step = "get"
	if err := beforeUse(ctx, step, key); err != nil {
		return nil, Info{}, err
	}
	file, info, err := d.open(key)
	if err != nil {
		return nil, Info{}, directoryError(step, key, err)
	}
	if info.ETag, err = fileETag(file); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = file.Close()
		return nil, Info{}, directoryError(step, key, err)
	}
	return &exactReader{ctx: ctx, key: key, source: file, left: info.Size}, info, nil
}

// GetRange implements Store.
func (d *Directory) GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	const step = "get range of"
	if err := beforeUse(ctx, step, key); err != nil {
		return nil, err
	}
	if err := checkRange(key, offset, length); err != nil {
		return nil, err
	}
	file, info, err := d.open(key)
	if err != nil {
		return nil, directoryError(step, key, err)
	}
	defer file.Close()
	if offset > info.Size || length > info.Size-offset {
		return nil, &RangeError{Key: key, Offset: offset, Length: length, Size: info.Size}
	}
	content := make([]byte, length)
	if _, err := io.ReadFull(io.NewSectionReader(file, offset, length), content); err != nil {
		return nil, &ReadError{Key: key, Err: err}
	}
	return content, nil
}

// Stat implements Store. To know the ETag it reads the object.
func (d *Directory) Stat(ctx context.Context, key string) (Info, error) {
	const step = "stat"
	if err := beforeUse(ctx, step, key); err != nil {
		return Info{}, err
	}
	file, info, err := d.open(key)
	if err != nil {
		return Info{}, directoryError(step, key, err)
	}
	defer file.Close()
	if info.ETag, err = fileETag(file); err != nil {
		return Info{}, directoryError(step, key, err)
	}
	return info, nil
}

// List implements Store. It holds the names of the directories on the way to the current object in memory, not those
// of the whole tree. Names that cannot be part of a key (lost+found, hidden files) are passed over; what has an
// object's name but is neither file nor directory is an error.
func (d *Directory) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkListPrefix(prefix); err != nil {
			yield(Info{}, err)
			return
		}
		directory, start := path.Split(prefix)
		if directory == "" {
			directory = "."
		}
		d.list(ctx, path.Clean(directory), start, yield)
	}
}

// list yields the objects below directory whose first segment there starts with start; false means stop.
func (d *Directory) list(ctx context.Context, directory, start string, yield func(Info, error) bool) bool {
	const step = "list"
	names, err := d.entries(directory)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return true // removed meanwhile, or no object has such a prefix
	}
	if err != nil {
		yield(Info{}, directoryError(step, directory, err))
		return false
	}
	for _, name := range names {
		if ctx.Err() != nil {
			yield(Info{}, endedError(ctx, step, directory))
			return false
		}
		base, isDirectory := strings.CutSuffix(name, "/")
		if !strings.HasPrefix(base, start) || segmentFault(base) != "" {
			continue
		}
		key := path.Join(directory, base)
		if isDirectory {
			if !d.list(ctx, key, "", yield) {
				return false
			}
			continue
		}
		entry, err := d.root.Lstat(key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err == nil && !entry.Mode().IsRegular():
			err = notRegularError(entry)
		}
		if err != nil {
			yield(Info{}, directoryError(step, key, err))
			return false
		}
		if !yield(Info{Key: key, Size: entry.Size(), Modified: entry.ModTime().UTC()}, nil) {
			return false
		}
	}
	return true
}

// entries returns the names in directory in the order of the keys they lead to: a directory's name ends with '/' and
// is compared with it, so "a.b" comes before what lies in "a/", and "a0" after.
func (d *Directory) entries(directory string) ([]string, error) {
	handle, err := d.root.Open(directory)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	entries, err := handle.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
		if entry.IsDir() {
			names[i] += "/"
		}
	}
	slices.Sort(names)
	return names, nil
}

// Delete implements Store. Directories left empty go too.
func (d *Directory) Delete(ctx context.Context, key string) error {
	const step = "delete"
	if err := beforeUse(ctx, step, key); err != nil {
		return err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return directoryError(step, key, err)
	}
	defer unlock()
	entry, err := d.root.Lstat(key)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), err == nil && entry.IsDir():
		return nil
	case err == nil && !entry.Mode().IsRegular():
		err = notRegularError(entry)
	}
	if err != nil {
		return directoryError(step, key, err)
	}
	if err := d.root.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return directoryError(step, key, err)
	}
	for parent := path.Dir(key); parent != "." && d.root.Remove(parent) == nil; {
		parent = path.Dir(parent)
	}
	if err := d.syncUp(key); err != nil {
		return directoryError(step, key, err)
	}
	return nil
}

// CheckBucket says whether the directory is there and may be listed: ErrNoBucket, ErrDenied. For doctor.
func (d *Directory) CheckBucket(context.Context) error {
	// The path is looked up anew: the open handle survives the removal of the directory and a change of mounts.
	now, err := os.Stat(d.path)
	if err == nil {
		var opened fs.FileInfo
		if opened, err = d.root.Stat("."); err == nil && !os.SameFile(now, opened) {
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("check directory %s: %w: it was removed or replaced after it was opened", d.path, ErrNoBucket)
	}
	if err == nil {
		_, err = d.entries(".")
	}
	if err != nil {
		return directoryError("check directory", d.path, err)
	}
	return nil
}

// open opens the object's file for reading. fs.ErrNotExist when there is no object of that key.
func (d *Directory) open(key string) (*os.File, Info, error) {
	entry, err := d.root.Lstat(key)
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, Info{}, err
	}
	if entry.IsDir() {
		return nil, Info{}, fs.ErrNotExist
	}
	if !entry.Mode().IsRegular() { // before opening: opening a FIFO would wait for ever
		return nil, Info{}, notRegularError(entry)
	}
	file, err := d.root.Open(key)
	if err != nil {
		return nil, Info{}, err
	}
	// The size must be that of the file opened, which another may have put in the place of the one looked at.
	if entry, err = file.Stat(); err == nil && !entry.Mode().IsRegular() {
		err = notRegularError(entry)
	}
	if err != nil {
		_ = file.Close()
		return nil, Info{}, err
	}
	return file, Info{Key: key, Size: entry.Size(), Modified: entry.ModTime().UTC()}, nil
}

// compare says whether the object at key has exactly this content.
func (d *Directory) compare(key string, content []byte) (Info, bool, error) {
	file, info, err := d.open(key)
	if err != nil {
		return Info{}, false, err
	}
	defer file.Close()
	if info.Size != int64(len(content)) {
		return info, false, nil
	}
	stored, err := io.ReadAll(io.LimitReader(file, info.Size+1))
	return info, err == nil && bytes.Equal(stored, content), err
}

// writeTemporary writes and syncs content under a name of its own, which the caller links or renames away.
func (d *Directory) writeTemporary(content []byte) (name string, modified time.Time, err error) {
	if err := d.makeDirectory(directoryTemporary); err != nil {
		return "", time.Time{}, err
	}
	name = directoryTemporary + "/" + rand.Text()
	file, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", time.Time{}, err
	}
	if _, err = file.Write(content); err == nil {
		err = file.Sync()
	}
	if err == nil {
		var entry fs.FileInfo
		if entry, err = file.Stat(); err == nil {
			modified = entry.ModTime().UTC()
		}
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = d.root.Remove(name)
		return "", time.Time{}, err
	}
	return name, modified, nil
}

// makeParents makes the directories that lead to key. syncUp makes them durable.
func (d *Directory) makeParents(key string) error {
	for i := range len(key) {
		if key[i] == '/' {
			if err := d.makeDirectory(key[:i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Directory) makeDirectory(name string) error {
	err := d.root.Mkdir(name, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	entry, err := d.root.Stat(name)
	if err == nil && !entry.IsDir() {
		return fmt.Errorf("%s is an object, no key can lie below it", name)
	}
	return err
}

// syncUp syncs the directories from key's own up to the root. All of them, not only those this call made: another
// process may have made one and not synced it yet.
func (d *Directory) syncUp(key string) error {
	for directory := path.Dir(key); ; directory = path.Dir(directory) {
		// One that is gone was empty, so the object is gone too; there is nothing left to keep in it.
		if err := d.syncDirectory(directory); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if directory == "." {
			return nil
		}
	}
}

func (d *Directory) syncDirectory(name string) error {
	handle, err := d.root.Open(name)
	if err != nil {
		return err
	}
	err = handle.Sync()
	if closeErr := handle.Close(); err == nil {
		err = closeErr
	}
	return err
}

// removeLeftovers removes old temporary files. What it cannot remove does no harm: nothing ever reads it.
func (d *Directory) removeLeftovers() {
	names, err := d.entries(directoryTemporary)
	if err != nil {
		return
	}
	for _, name := range names {
		name = directoryTemporary + "/" + name
		if entry, err := d.root.Lstat(name); err == nil && entry.Mode().IsRegular() && time.Since(entry.ModTime()) > leftoverAge {
			_ = d.root.Remove(name)
		}
	}
}

// createDirectory makes directory and the parents it lacks, and makes each durable.
func createDirectory(directory string) error {
	err := os.Mkdir(directory, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(directory) != directory {
		if err := createDirectory(filepath.Dir(directory)); err != nil {
			return err
		}
		err = os.Mkdir(directory, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(directory))
	if err != nil {
		return err
	}
	err = parent.Sync()
	if closeErr := parent.Close(); err == nil {
		err = closeErr
	}
	return err
}

// writeError is directoryError for a step that makes what is missing: what it still misses is the directory itself.
func (d *Directory) writeError(step, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %s: %w: %s was removed", step, key, ErrNoBucket, d.path)
	}
	return directoryError(step, key, err)
}

// directoryError names the step and the key and maps the file system's errors to this package's.
func directoryError(step, key string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %s: %w", step, key, ErrNotFound)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %s: %w (%w): the directory and all in it must belong to the user this runs as", step, key, ErrDenied, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s: %w: make room in the repository's file system", step, key, err)
	case errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("%s %s: %w: the directory must be one file system that has hard links", step, key, err)
	default:
		return fmt.Errorf("%s %s: %w", step, key, err)
	}
}

func notRegularError(entry fs.FileInfo) error {
	if entry.Mode()&fs.ModeSymlink != 0 {
		return errors.New("is a symbolic link, which a repository does not contain: remove it")
	}
	return fmt.Errorf("is not a regular file (%v), which a repository does not contain: remove it", entry.Mode().Type())
}

func contentETag(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}

func fileETag(file *os.File) (string, error) {
	digest := sha256.New()
	if _, err := io.Copy(digest, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}
