package formatreader

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What callers tell apart. Every error of the reader that is about stored bytes wraps one of them.
var (
	errDamaged  = errors.New("damaged")                    // a must of docs/format.md is violated
	errNotFound = errors.New("not found")                  // no object at a key
	errNewer    = errors.New("written by a later version") // section 14: format version
	errUnknown  = errors.New("needs what this reader does not know")
	errNoWrap   = errors.New("no wrap under this root key") // section 4
)

// damage returns an error that wraps errDamaged.
func damage(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errDamaged)...)
}

// directory is a store: an object's key is its path below the root. Section 1.
type directory string

// get returns the object at key, at most limit bytes long; errNotFound when there is none.
func (d directory) get(key string, limit int64) ([]byte, error) {
	file, err := d.open(key)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(content)) > limit {
		return nil, damage("read %s: longer than %d bytes", key, limit)
	}
	return content, nil
}

// getRange returns length bytes of the object at key from offset on. A shorter object is damage.
func (d directory) getRange(key string, offset, length int64) ([]byte, error) {
	file, err := d.open(key)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content := make([]byte, length)
	if _, err := file.ReadAt(content, offset); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, damage("read %s: ends before %d+%d", key, offset, length)
		}
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return content, nil
}

func (d directory) open(key string) (*os.File, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	file, err := os.Open(filepath.Join(string(d), filepath.FromSlash(key)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", key, errNotFound)
	}
	return file, err
}

// list returns the keys of all objects below prefix, which ends with a slash, ascending and without the prefix. Names
// that cannot be keys (a segment that begins with a dot) are left out.
func (d directory) list(prefix string) ([]string, error) {
	var names []string
	root := filepath.Join(string(d), filepath.FromSlash(prefix))
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if path == root && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if path != root && strings.HasPrefix(entry.Name(), ".") {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !entry.IsDir() {
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	slices.Sort(names)
	return names, nil
}

// checkKey holds a key against section 3 and the bounds of section 15.
func checkKey(key string) error {
	if len(key) > 900 {
		return damage("key of %d bytes", len(key))
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment[0] == '.' || len(segment) > 255 {
			return damage("key %q: bad segment %q", key, segment)
		}
		for _, c := range []byte(segment) {
			if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '=') {
				return damage("key %q: bad character %q", key, c)
			}
		}
	}
	return nil
}
