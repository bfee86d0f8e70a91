//go:build !linux

package restore

import (
	"fmt"
	"os"
)

// newMemoryFile returns an empty file without a name. Systems other than Linux know no file that lives in memory only;
// hourvault runs on them for development.
func newMemoryFile(name string) (*os.File, error) {
	file, err := os.CreateTemp("", name+"-*")
	if err != nil {
		return nil, fmt.Errorf("create an unnamed file: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, fmt.Errorf("create an unnamed file: %w", err)
	}
	return file, nil
}
