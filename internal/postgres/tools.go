package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Tools are PostgreSQL's client programs of one version in one directory.
type Tools struct {
	Major int
	// Version is as pg_dump prints it, for instance "15.14".
	Version string
	Dir     string
}

// DumpPath returns the path of pg_dump.
func (t Tools) DumpPath() string { return filepath.Join(t.Dir, "pg_dump") }

// RestorePath returns the path of pg_restore.
func (t Tools) RestorePath() string { return filepath.Join(t.Dir, "pg_restore") }

// ToolsError says that no pg_dump is new enough for a server.
type ToolsError struct {
	ServerMajor int
	Found       []Tools
	// Searched are the directories looked into; empty when not known.
	Searched []string
}

func (e *ToolsError) Error() string {
	found := "none was found"
	if len(e.Found) > 0 {
		var list []string
		for _, tools := range e.Found {
			list = append(list, fmt.Sprintf("%s in %s", tools.Version, printable(tools.Dir)))
		}
		found = "found " + strings.Join(list, ", ")
	}
	searched := ""
	if len(e.Searched) > 0 {
		searched = " (looked in " + printable(strings.Join(e.Searched, ", ")) + ")"
	}
	return fmt.Sprintf("no pg_dump that can read a PostgreSQL %d server: %s%s: install the package postgresql-client-%d, or name its directory in pg_bin_dirs",
		e.ServerMajor, found, searched, e.ServerMajor)
}

// FindTools looks for pg_dump and pg_restore in binDirs, then in the places where distributions install them, then in
// PATH. The result is in the order found; Debian's wrapper script, which chooses a version by itself, is passed over.
// A program that cannot be run is passed over as well, except in binDirs, where it is an error.
func FindTools(binDirs []string) ([]Tools, error) {
	var found []Tools
	seen := map[string]bool{}
	for i, dir := range searchDirs(binDirs) {
		resolved, err := filepath.EvalSymlinks(filepath.Join(dir, "pg_dump"))
		if err != nil {
			if i < len(binDirs) {
				return nil, fmt.Errorf("look for pg_dump in %s: %w", printable(dir), errors.Unwrap(err))
			}
			continue
		}
		if filepath.Base(resolved) != "pg_dump" || seen[resolved] {
			continue
		}
		seen[resolved] = true
		tools, err := askVersion(dir)
		if err != nil {
			if i < len(binDirs) {
				return nil, err
			}
			continue
		}
		found = append(found, tools)
	}
	return found, nil
}

// searchDirs returns the directories that FindTools looks into, in order.
func searchDirs(binDirs []string) []string {
	dirs := append([]string(nil), binDirs...)
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"} {
		matches, _ := filepath.Glob(pattern) // the only error is a bad pattern
		dirs = append(dirs, matches...)
	}
	return append(dirs, filepath.SplitList(os.Getenv("PATH"))...) //nolint:forbidigo // programs are looked for as every program looks for them
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (([0-9]+)[^ \n]*)`)

func askVersion(dir string) (Tools, error) {
	tools := Tools{Dir: dir}
	if _, err := exec.LookPath(tools.RestorePath()); err != nil {
		return Tools{}, fmt.Errorf("look for pg_restore beside pg_dump: %w", err)
	}
	cmd := exec.Command(tools.DumpPath(), "--version")
	cmd.Env = []string{"LC_ALL=C"}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		return Tools{}, fmt.Errorf("ask %s for its version: %w", printable(tools.DumpPath()), err)
	}
	timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return Tools{}, fmt.Errorf("ask %s for its version: %w", printable(tools.DumpPath()), err)
	}
	match := versionPattern.FindStringSubmatch(stdout.String())
	if match == nil {
		return Tools{}, fmt.Errorf("ask %s for its version: %q is not understood", printable(tools.DumpPath()), printable(stdout.String()))
	}
	tools.Version = match[1]
	tools.Major, _ = strconv.Atoi(match[2])
	return tools, nil
}

// ChooseTools returns the tools of the server's major version, or else of the next newer one: pg_dump reads older
// servers, never newer ones. Of several of one version the first counts. Without any it returns a *ToolsError.
func ChooseTools(tools []Tools, serverMajor int) (Tools, error) {
	var fit []Tools
	for _, candidate := range tools {
		if candidate.Major >= serverMajor {
			fit = append(fit, candidate)
		}
	}
	if len(fit) == 0 {
		return Tools{}, &ToolsError{ServerMajor: serverMajor, Found: tools}
	}
	sort.SliceStable(fit, func(i, j int) bool { return fit[i].Major < fit[j].Major })
	return fit[0], nil
}

// Tools returns the client programs for this server, by the version that it last reported.
func (s *Server) Tools(ctx context.Context) (Tools, error) {
	s.mutex.Lock()
	version := s.version
	s.mutex.Unlock()
	if version == 0 {
		identity, err := s.Identity(ctx)
		if err != nil {
			return Tools{}, err
		}
		version = identity.ServerVersion
	}
	major := version / 10000
	s.mutex.Lock()
	chosen, known := s.tools[major]
	s.mutex.Unlock()
	if known {
		return chosen, nil
	}
	found, err := FindTools(s.binDirs)
	if err != nil {
		return Tools{}, err
	}
	chosen, err = ChooseTools(found, major)
	if err != nil {
		var none *ToolsError
		if errors.As(err, &none) {
			none.Searched = searchDirs(s.binDirs)
		}
		return Tools{}, fmt.Errorf("server %s: %w", printable(s.name), err)
	}
	s.mutex.Lock()
	s.tools[major] = chosen
	s.mutex.Unlock()
	return chosen, nil
}

// CommandContext prepares one of PostgreSQL's client programs ("pg_dump", "pg_restore", ...; or a path) to work on a
// database of this server under the pinned settings for restoring. The connection's parameters are added as --dbname
// after args; the password travels in the environment only. The program is asked to stop when ctx ends, and killed five seconds
// later. The caller counts its connections: AcquireConnection. Standard streams are the caller's to set.
func (s *Server) CommandContext(ctx context.Context, tool, database string, args ...string) (*exec.Cmd, error) {
	return s.command(ctx, tool, database, Restoring, "hourvault "+filepath.Base(tool), args)
}

// AcquireConnection takes a place in the server's budget of connections for a program that opens one itself. The
// function returned gives it back, and must be called once.
func (s *Server) AcquireConnection(ctx context.Context) (release func(), err error) {
	return s.acquire(ctx, nil)
}

func (s *Server) command(ctx context.Context, tool, database string, purpose Purpose, application string, args []string) (*exec.Cmd, error) {
	path := tool
	chosen, err := s.Tools(ctx)
	if err != nil {
		return nil, err
	}
	if !strings.ContainsRune(tool, os.PathSeparator) {
		path = filepath.Join(chosen.Dir, tool)
	}
	s.mutex.Lock()
	version := s.version
	s.mutex.Unlock()
	list, err := PinnedSettings(version, purpose)
	if err != nil {
		return nil, err
	}
	// The programs set row text's settings themselves and must be free to set search_path. What they do not set, and a
	// database or a role could bring along, goes into the connection's options.
	var options []string
	for _, setting := range list {
		switch setting.Name {
		case "client_encoding", "search_path", "lock_timeout":
			continue
		case "default_transaction_read_only":
			if purpose == Reading {
				continue // pg_dump begins READ ONLY itself
			}
		}
		options = append(options, "-c "+setting.Name+"="+escapeOption(setting.Value))
	}
	options = append(options, "-c role=none")
	var conninfo []string
	for _, p := range s.toolParams {
		conninfo = append(conninfo, p.key+"="+quoteParam(p.value))
	}
	conninfo = append(conninfo, "dbname="+quoteParam(database), "application_name="+quoteParam(application),
		"options="+quoteParam(strings.Join(options, " ")))
	cmd := exec.CommandContext(ctx, path, append(append([]string(nil), args...), "--no-password", "--dbname="+strings.Join(conninfo, " "))...)
	cmd.Env = toolEnvironment(os.Environ()) //nolint:forbidigo // PostgreSQL's tools get what they would get from a shell, less what is pinned
	if s.password != "" {
		cmd.Env = append(cmd.Env, "PGPASSWORD="+string(s.password))
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// toolEnvironment leaves out what would change a program's output or session. What says where and how to connect stays,
// because pgx reads it too.
func toolEnvironment(environment []string) []string {
	dropped := map[string]bool{
		"PGDATABASE": true, "PGOPTIONS": true, "PGCLIENTENCODING": true, "PGAPPNAME": true, "PGDATESTYLE": true, "PGTZ": true,
		"PGGEQO": true, "PG_COLOR": true, "LC_ALL": true, "LC_MESSAGES": true, "LANGUAGE": true, "LANG": true,
	}
	kept := []string{"LC_ALL=C"}
	for _, variable := range environment {
		name, _, _ := strings.Cut(variable, "=")
		if !dropped[name] {
			kept = append(kept, variable)
		}
	}
	return kept
}

// escapeOption escapes a value in the connection parameter "options", which is split at blanks.
func escapeOption(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if c == ' ' || c == '\\' || c == '\t' {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
