package serverprocess

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// workDirPattern names the directories of this package below the temporary directory.
	workDirPattern = "hourvault-*"
	// lockName is the file in a work directory that its process holds locked while it lives.
	lockName = "lock"
	// longestSocketDir is how long a directory may be in which PostgreSQL makes its socket, in bytes: sun_path holds 107
	// and a final zero (unix(7)), and ".s.PGSQL.65535" and two slashes come after it. Directories of clusters below the
	// work directory take up to 24 more.
	longestSocketDir = 107 - len("/.s.PGSQL.65535") - 24
)

// WorkDir is a temporary directory of this process, open to the unprivileged user that servers run as. A lock on a file
// in it, which the kernel drops with the process, tells a later process whether it is still used.
type WorkDir struct {
	path string
	lock *os.File
}

// NewWorkDir makes a work directory below base, or below /tmp when base is too long for sockets or closed to the user
// that servers run as.
func NewWorkDir(base string) (*WorkDir, error) {
	if len(base)+len("/")+len(workDirPattern)+10 > longestSocketDir || !reachable(base) {
		base = "/tmp"
	}
	path, err := os.MkdirTemp(base, workDirPattern)
	if err != nil {
		return nil, fmt.Errorf("make a directory for servers: %w", err)
	}
	lock, err := lockWorkDir(path)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	if err := os.Chmod(path, 0o755); err != nil { // the servers' user must pass through
		return nil, errors.Join(fmt.Errorf("open the directory for servers: %w", err), lock.Close(), os.RemoveAll(path))
	}
	return &WorkDir{path: path, lock: lock}, nil
}

// errInUse says that a living process holds a work directory.
var errInUse = errors.New("in use by another process")

// lockWorkDir takes the lock of the work directory at path, without waiting; errInUse when it is taken.
func lockWorkDir(path string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the directory for servers: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), lock.Close())
	}
	return lock, nil
}

// Remove deletes the directory and all in it, and gives up its lock.
func (d *WorkDir) Remove() error {
	if err := os.RemoveAll(d.path); err != nil {
		return errors.Join(fmt.Errorf("remove the files of servers: %w", err), d.lock.Close())
	}
	return d.lock.Close()
}

// Subdirectory makes a directory for one server, owned by the user it runs as.
func (d *WorkDir) Subdirectory(pattern string, as Identity) (string, error) {
	path, err := os.MkdirTemp(d.path, pattern)
	if err != nil {
		return "", fmt.Errorf("make a directory for a server: %w", err)
	}
	if err := as.Own(path); err != nil {
		return "", errors.Join(err, os.RemoveAll(path))
	}
	return path, nil
}

// RemoveAbandoned deletes the work directories below base whose process is gone: it was killed, or ended by a timeout.
func RemoveAbandoned(base string) error {
	paths, err := filepath.Glob(filepath.Join(base, workDirPattern))
	if err != nil {
		return fmt.Errorf("look for abandoned directories in %s: %w", base, err)
	}
	var errs []error
	for _, path := range paths {
		// One without a lock file is about to get one, or is not ours.
		if _, err := os.Stat(filepath.Join(path, lockName)); err != nil {
			continue
		}
		lock, err := lockWorkDir(path)
		if errors.Is(err, errInUse) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			continue // alive, of another user, or being removed
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.RemoveAll(path), lock.Close())
	}
	return errors.Join(errs...)
}

// reachable reports whether any user can pass through dir and all directories above it.
func reachable(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == "/" {
			return true
		}
	}
}
