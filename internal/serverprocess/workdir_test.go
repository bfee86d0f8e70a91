package serverprocess

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDirectoryOfALivingProcessIsNotRemoved(t *testing.T) {
	dir, err := NewWorkDir("/tmp")
	if err != nil {
		t.Fatal(err)
	}
	if err := RemoveAbandoned("/tmp"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir.path); err != nil {
		t.Errorf("the directory in use is gone: %v", err)
	}
	if err := dir.Remove(); err != nil {
		t.Error(err)
	}
}

func TestWorkDirAvoidsPlacesServersCannotUse(t *testing.T) {
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 80))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{closed, long} {
		dir, err := NewWorkDir(base)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Dir(dir.path) != "/tmp" {
			t.Errorf("below %s it is %s, want it in /tmp", base, dir.path)
		}
		if err := dir.Remove(); err != nil {
			t.Error(err)
		}
	}
}
