package endtoend_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv"
)

// startCluster starts a cluster of the test's own from an installation that has the fixture's extension besides its own.
// An extension with configuration tables cannot be made by SQL alone, no contrib module has any, and the directory of
// extensions belongs to root. PostgreSQL finds its files relative to its own program, so a tree of links around hard
// links of the programs, or copies, is an installation of its own.
func startCluster(t *testing.T, major int) *testenv.Cluster {
	t.Helper()
	binDir, err := testenv.PostgresBinDir(major)
	if err != nil {
		return testenv.StartPostgres(t, major) // skips or fails, and says why
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("install the fixture's extension into PostgreSQL %d: %v", major, err)
		}
	}
	root, err := os.MkdirTemp("", "hv-install-*")
	must(err)
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	must(os.Chmod(root, 0o755)) // servers run as another user
	installed := filepath.Dir(binDir)
	home := filepath.Join(root, "usr/lib/postgresql", fmt.Sprint(major))
	bin := filepath.Join(home, "bin")
	must(os.MkdirAll(bin, 0o755))
	for _, program := range []string{"initdb", "postgres", "pg_dump", "pg_restore", "psql"} {
		must(linkOrCopy(filepath.Join(binDir, program), filepath.Join(bin, program)))
	}
	must(os.Symlink(filepath.Join(installed, "lib"), filepath.Join(home, "lib")))

	share := filepath.Join(installed, "../../../share/postgresql", fmt.Sprint(major))
	ownShare := filepath.Join(root, "usr/share/postgresql", fmt.Sprint(major))
	extensions := filepath.Join(ownShare, "extension")
	must(os.MkdirAll(extensions, 0o755))
	must(linkEntries(share, ownShare, "extension"))
	must(linkEntries(filepath.Join(share, "extension"), extensions, ""))
	files, err := filepath.Glob("testdata/extension/*")
	must(err)
	if len(files) < 2 {
		t.Fatalf("testdata/extension holds %d files", len(files))
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		must(err)
		must(os.WriteFile(filepath.Join(extensions, filepath.Base(file)), content, 0o644))
	}

	t.Setenv(fmt.Sprintf("HOURVAULT_TEST_PG%d_BIN", major), bin)
	return testenv.StartPostgres(t, major)
}

func linkOrCopy(from, to string) error {
	real, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	if os.Link(real, to) == nil {
		return nil
	}
	content, err := os.ReadFile(real)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

// linkEntries makes a link in the directory to for every entry of from but one.
func linkEntries(from, to, but string) error {
	return fs.WalkDir(os.DirFS(from), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if name != but {
			if err := os.Symlink(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
				return err
			}
		}
		if info, err := os.Stat(filepath.Join(from, name)); err == nil && info.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}
