package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourvault/hourvault/internal/postgres"
)

// oldestMajor is the oldest PostgreSQL version that hourvault reads.
const oldestMajor = 14

// findServer looks for the programs of a PostgreSQL server, in binDir or, when that is empty, wherever distributions
// install them and in PATH: of several the newest version.
func findServer(binDir string) (postgres.Tools, error) {
	var binDirs []string
	if binDir != "" {
		binDirs = []string{binDir}
	}
	found, err := postgres.FindTools(binDirs)
	if err != nil {
		return postgres.Tools{}, fmt.Errorf("%w: %w", ErrNoServer, err)
	}
	return chooseServer(found, binDir)
}

// chooseServer returns the newest version in found that has all programs; with binDir only from there.
func chooseServer(found []postgres.Tools, binDir string) (postgres.Tools, error) {
	var complete []postgres.Tools
	for _, tools := range found {
		if (binDir == "" || tools.Dir == binDir) && tools.Major >= oldestMajor && hasServer(tools) {
			complete = append(complete, tools)
		}
	}
	switch {
	case len(complete) > 0:
		return slices.MaxFunc(complete, func(x, y postgres.Tools) int { return x.Major - y.Major }), nil
	case binDir != "":
		return postgres.Tools{}, fmt.Errorf("%w: %s does not hold all programs (initdb, postgres, psql, pg_dump, pg_restore) of version %d or later", ErrNoServer, binDir, oldestMajor)
	default:
		return postgres.Tools{}, fmt.Errorf("%w: none of version %d or later is in /usr/lib/postgresql, /usr/pgsql-* or PATH: on Debian and Ubuntu, apt-get install postgresql; or name the directory of initdb and postgres with --pg-bin-dir", ErrNoServer, oldestMajor)
	}
}

// hasServer says whether the programs that a demonstration needs besides pg_dump and pg_restore are there.
func hasServer(tools postgres.Tools) bool {
	for _, name := range []string{"initdb", "postgres", "psql"} {
		if _, err := exec.LookPath(filepath.Join(tools.Dir, name)); err != nil {
			return false
		}
	}
	return true
}

// script runs one of the package's scripts in a database as superuser. Variables are name=value.
func (d *demo) script(ctx context.Context, database, name string, variables ...string) error {
	text, err := scripts.ReadFile("sql/" + name)
	if err != nil {
		return err
	}
	_, err = d.psql(ctx, database, string(text), variables...)
	return err
}

// psql runs SQL in a database as superuser and returns what it prints, unaligned and without headers.
func (d *demo) psql(ctx context.Context, database, sql string, variables ...string) ([]byte, error) {
	arguments := []string{"--no-psqlrc", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--dbname=" + d.cluster.DSN(database), "--file=-"}
	for _, variable := range variables {
		arguments = append(arguments, "--set="+variable)
	}
	return d.program(ctx, "psql", strings.NewReader("\\set QUIET on\nSET client_min_messages = warning;\n"+sql), arguments...)
}

// pgDump returns what pg_dump says of a database, rows included, without the lines that differ between any two dumps.
func (d *demo) pgDump(ctx context.Context, database string) ([]byte, error) {
	dump, err := d.program(ctx, "pg_dump", nil, "--format=plain", "--dbname="+d.cluster.DSN(database))
	if err != nil {
		return nil, err
	}
	return withoutTokens(dump), nil
}

// withoutTokens drops the lines that hold a random token: newer releases of pg_dump enclose a dump in them.
func withoutTokens(dump []byte) []byte {
	kept := make([]byte, 0, len(dump))
	for line := range bytes.Lines(dump) {
		if !bytes.HasPrefix(line, []byte(`\restrict `)) && !bytes.HasPrefix(line, []byte(`\unrestrict `)) {
			kept = append(kept, line...)
		}
	}
	return kept
}

// program runs one of PostgreSQL's client programs and returns its standard output.
func (d *demo) program(ctx context.Context, name string, stdin *strings.Reader, arguments ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(d.tools.Dir, name), arguments...)
	cmd.Dir = d.base
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "PGCLIENTENCODING=UTF8"}
	cmd.WaitDelay = 5 * time.Second
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, errors.Join(err, errors.New(strings.TrimSpace(stderr.String()))))
	}
	return stdout.Bytes(), nil
}

// readDamage reads what psql prints of the script: a line that says what is done, then one that says how much.
func readDamage(said string) []Damage {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	damage := []Damage{}
	for i, line := range lines {
		if i%2 == 1 || i+1 >= len(lines) {
			continue
		}
		one := Damage{What: line, Rows: -1}
		if fields := strings.Fields(lines[i+1]); len(fields) > 0 {
			if rows, err := strconv.ParseInt(fields[len(fields)-1], 10, 64); err == nil {
				one.Rows = rows
			}
		}
		damage = append(damage, one)
	}
	return damage
}
