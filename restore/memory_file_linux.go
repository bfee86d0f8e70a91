package restore

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// newMemoryFile returns an empty file that lives in memory only: what is opened from a repository never touches a disk
// unencrypted. A child process that inherits it opens it anew by /dev/fd/<number>, as often as it likes.
func newMemoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
