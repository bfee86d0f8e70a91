package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ServerEnv returns, as NAME=value, the environment variables that name every server program found on this machine, for
// a program that a test starts and that looks for them in turn: HOURVAULT_TEST_PG15_BIN and so on,
// HOURVAULT_TEST_VERSITYGW, HOURVAULT_TEST_MINIO. What is not installed is left out.
func ServerEnv() []string {
	var variables []string
	for _, major := range Majors() {
		if dir, err := PostgresBinDir(major); err == nil {
			variables = append(variables, postgresVariable(major)+"="+dir)
		}
	}
	for _, name := range []string{versityName, minioName} {
		if program, err := toolPath(name); err == nil {
			variables = append(variables, toolVariable(name)+"="+program)
		}
	}
	return variables
}

// PostgresBinDir returns the directory that holds initdb, postgres, pg_dump and so on of a major version: the one named
// by the environment variable HOURVAULT_TEST_PG<major>_BIN, else Debian's, else the one .ci/postgres.sh made in the
// cache. The error of a version that is nowhere says how to install it.
func PostgresBinDir(major int) (string, error) {
	if named := os.Getenv(postgresVariable(major)); named != "" {
		if !isProgram(filepath.Join(named, "postgres")) {
			return "", fmt.Errorf("PostgreSQL %d: %s=%s holds no program postgres", major, postgresVariable(major), named)
		}
		return named, nil
	}
	installed := fmt.Sprintf("usr/lib/postgresql/%d/bin", major)
	candidates := []string{"/" + installed}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	candidates = append(candidates, filepath.Join(cache, "postgresql", strconv.Itoa(major), installed))
	for _, dir := range candidates {
		if isProgram(filepath.Join(dir, "postgres")) && isProgram(filepath.Join(dir, "initdb")) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("PostgreSQL %d is not installed: run .ci/postgres.sh %d", major, major)
}

// CacheDir returns the directory into which the scripts of .ci install servers and tools: the same that .ci/cache-dir.sh
// prints. It need not exist.
func CacheDir() (string, error) {
	if dir := os.Getenv("HOURVAULT_CACHE"); dir != "" {
		if !filepath.IsAbs(dir) {
			return "", errors.New("HOURVAULT_CACHE must be an absolute path, not " + dir)
		}
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return "/var/cache/hourvault", nil
	}
	if home := os.Getenv("HOME"); home != "" {
		dir := filepath.Join(home, ".cache", "hourvault")
		if usable(dir) {
			return dir, nil
		}
	}
	return fmt.Sprintf("/var/tmp/hourvault-%d", os.Getuid()), nil
}

// toolPath returns the program of a tool that .ci/tools.sh builds: the one named by the environment variable
// HOURVAULT_TEST_<NAME>, else the one in the cache.
func toolPath(name string) (string, error) {
	if program := os.Getenv(toolVariable(name)); program != "" {
		if !isProgram(program) {
			return "", fmt.Errorf("%s: %s=%s is not a program", name, toolVariable(name), program)
		}
		return program, nil
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	program := filepath.Join(cache, "bin", name)
	if !isProgram(program) {
		return "", fmt.Errorf("%s is not built: run .ci/tools.sh %s", name, name)
	}
	// The link may be moved to a newer version while tests run.
	return filepath.EvalSymlinks(program)
}

func postgresVariable(major int) string {
	return fmt.Sprintf("HOURVAULT_TEST_PG%d_BIN", major)
}

func toolVariable(name string) string {
	return "HOURVAULT_TEST_" + strings.ToUpper(name)
}

// isProgram reports whether path is a file that may be executed.
func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// usable reports whether dir exists as a directory of this user that can be written to, or could be created: as
// .ci/cache-dir.sh decides.
func usable(dir string) bool {
	for at := dir; ; at = filepath.Dir(at) {
		var status unix.Stat_t
		err := unix.Stat(at, &status)
		if errors.Is(err, unix.ENOENT) && at != "/" {
			continue
		}
		if err != nil || status.Mode&unix.S_IFMT != unix.S_IFDIR || unix.Access(at, unix.W_OK) != nil {
			return false
		}
		return at != dir || int(status.Uid) == os.Geteuid()
	}
}
