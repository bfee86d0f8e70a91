package restore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// stage is a part of the schema archive that one run of pg_restore puts back.
type stage int

const (
	// stageDefinitions is what must exist before rows can be loaded: the pre-data section, and the privileges of
	// schemas, without which owners could not load their tables.
	stageDefinitions stage = iota
	// stageChecks are CHECK constraints that pg_dump made separate. Adding one evaluates it for every row: it is added
	// as the table's owner.
	stageChecks
	// stageIndexes is the rest: privileges (only now, because an owner may have revoked its own INSERT), indexes, keys,
	// triggers, rules, policies, publications, subscriptions.
	stageIndexes
	// stageEventTriggers comes last, so that none fires for statements of the restore.
	stageEventTriggers
	stages = 4
)

// archive is a schema archive in memory, with its table of contents sorted into stages.
type archive struct {
	file    *os.File
	tools   postgres.Tools
	entries [stages][]string // lines of the table of contents, in the archive's order
	// ignoreTransactionTimeout is set where pg_restore sends a setting that the server does not know.
	ignoreTransactionTimeout bool
}

// openArchive takes the schema archive of source into memory and reads its table of contents with the first of
// candidates that can.
func openArchive(ctx context.Context, source Source, candidates []postgres.Tools) (*archive, error) {
	file, err := newMemoryFile("hourvault-schema")
	if err != nil {
		return nil, err
	}
	a := &archive{file: file}
	if err := source.SchemaArchive(ctx, file); err != nil {
		a.Close()
		return nil, fmt.Errorf("read the schema archive: %w", err)
	}
	for _, tools := range candidates {
		a.tools = tools
		if err = a.readContents(ctx); err == nil {
			return a, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	a.Close()
	return nil, err
}

// Close frees the memory.
func (a *archive) Close() { _ = a.file.Close() }

// readContents lists the archive and assigns every entry to one stage. What an entry is, is not guessed from its line,
// where kinds and names are not separated: pg_restore itself is asked, by listing with and without privileges and
// sections.
func (a *archive) readContents(ctx context.Context) error {
	all, err := a.list(ctx)
	if err != nil {
		return err
	}
	withoutPrivileges, err := a.list(ctx, "--no-privileges")
	if err != nil {
		return err
	}
	preData, err := a.list(ctx, "--no-privileges", "--section=pre-data")
	if err != nil {
		return err
	}
	a.entries = [stages][]string{}
	for _, entry := range all.order {
		line := all.line[entry]
		_, isOther := withoutPrivileges.line[entry]
		_, isPreData := preData.line[entry]
		kind := afterOIDs(line)
		into := stageIndexes
		switch {
		case !isOther: // a privilege
			if strings.HasPrefix(kind, "ACL - SCHEMA ") {
				into = stageDefinitions
			}
		case isPreData:
			into = stageDefinitions
		case strings.HasPrefix(kind, "EVENT TRIGGER "), strings.HasPrefix(kind, "COMMENT - EVENT TRIGGER "),
			strings.HasPrefix(kind, "SECURITY LABEL - EVENT TRIGGER "):
			into = stageEventTriggers
		case strings.HasPrefix(kind, "CHECK CONSTRAINT "):
			into = stageChecks
		}
		a.entries[into] = append(a.entries[into], line)
	}
	return nil
}

// afterOIDs cuts a line of the contents, "id; tableoid oid KIND schema name owner", to what follows the oids.
func afterOIDs(line string) string {
	parts := strings.SplitN(line, " ", 4)
	if len(parts) < 4 {
		return ""
	}
	return parts[3]
}

// contents are lines of an archive's table of contents by dump id.
type contents struct {
	order []int
	line  map[int]string
}

// listError says that pg_restore could not read an archive.
type listError struct {
	version, stderr string
	err             error
}

func (e *listError) Error() string {
	return fmt.Sprintf("list the schema archive with pg_restore %s: %v: %s", e.version, e.err, e.stderr)
}

func (e *listError) Unwrap() error { return e.err }

func (a *archive) list(ctx context.Context, arguments ...string) (contents, error) {
	cmd := exec.CommandContext(ctx, a.tools.RestorePath(), append([]string{"--list", "/dev/fd/3"}, arguments...)...) //nolint:gosec // found by package postgres
	cmd.Env = []string{"LC_ALL=C"}
	cmd.ExtraFiles = []*os.File{a.file}
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return contents{}, context.Cause(ctx)
		}
		return contents{}, &listError{version: a.tools.Version, stderr: strings.TrimSpace(stderr.String()), err: err}
	}
	found := contents{line: make(map[int]string)}
	scanner := bufio.NewScanner(&stdout)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		line := scanner.Text()
		number, _, isEntry := strings.Cut(line, ";")
		if id, err := strconv.Atoi(number); isEntry && err == nil {
			found.order = append(found.order, id)
			found.line[id] = line
		}
	}
	if len(found.order) != len(found.line) {
		return contents{}, errors.New("list the schema archive: an entry is listed twice")
	}
	return found, scanner.Err()
}

// restore runs pg_restore for the entries of one stage. Anything it cannot restore is an error, with what it wrote to
// stderr but for lines that quote rows.
func (a *archive) restore(ctx context.Context, r *run, which stage) error {
	if len(a.entries[which]) == 0 {
		return nil
	}
	list, err := newMemoryFile("hourvault-list")
	if err != nil {
		return err
	}
	defer list.Close()
	if _, err := list.WriteString(strings.Join(a.entries[which], "\n") + "\n"); err != nil {
		return fmt.Errorf("list what to restore: %w", err)
	}
	arguments := []string{"--use-list=/dev/fd/4"}
	if !a.ignoreTransactionTimeout {
		arguments = append(arguments, "--exit-on-error")
	}
	if r.options.NoTablespaces {
		arguments = append(arguments, "--no-tablespaces")
	}
	jobs := 1
	switch which {
	case stageIndexes:
		jobs = r.options.Jobs
	case stageChecks:
		if r.plan.Superuser {
			arguments = append(arguments, "--use-set-session-authorization")
		}
	}
	connections, release, err := r.acquire(ctx, jobs)
	if err != nil {
		return err
	}
	defer release()
	if connections > 1 {
		arguments = append(arguments, "--jobs="+strconv.Itoa(connections))
	}
	cmd, err := r.target.CommandContext(ctx, a.tools.RestorePath(), r.name, append(arguments, "/dev/fd/3")...)
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{a.file, list}
	stderr := &limitedBuffer{limit: 64 << 10}
	cmd.Stderr = stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && a.ignoreTransactionTimeout && onlyUnknownTransactionTimeout(stderr.String()) {
		return nil
	}
	if err != nil {
		return &postgres.ToolError{Tool: "pg_restore", Database: r.name, Stderr: withoutRowData(stderr.String()), Err: err}
	}
	if text := strings.TrimSpace(withoutRowData(stderr.String())); text != "" {
		r.warn("pg_restore", "", text)
	}
	return nil
}

// acquire takes up to wanted places in the server's budget of connections: it waits for the first, and takes of the
// others what is free within a moment, because waiting for many while holding some is how restores stop each other.
func (r *run) acquire(ctx context.Context, wanted int) (int, func(), error) {
	first, err := r.target.AcquireConnection(ctx)
	if err != nil {
		return 0, nil, err
	}
	releases := []func(){first}
	moment, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	for len(releases) < wanted {
		release, err := r.target.AcquireConnection(moment)
		if err != nil {
			break
		}
		releases = append(releases, release)
	}
	return len(releases), func() {
		for _, release := range releases {
			release()
		}
	}, nil
}

// onlyUnknownTransactionTimeout tells whether all errors in stderr are about transaction_timeout: pg_restore sets it
// from version 17 on without asking whether the server, when older, knows it.
func onlyUnknownTransactionTimeout(stderr string) bool {
	problems, known := 0, 0
	for line := range strings.Lines(stderr) {
		switch {
		case strings.Contains(line, "errors ignored on restore:"):
		case strings.HasPrefix(line, "pg_restore: error:"):
			problems++
			if strings.Contains(line, `unrecognized configuration parameter "transaction_timeout"`) {
				known++
			}
		}
	}
	return known > 0 && problems == known
}

// withoutRowData drops the lines of a server's error that may quote a customer's rows, with their continuations.
func withoutRowData(stderr string) string {
	var kept []string
	dropping := false
	for line := range strings.Lines(stderr) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "DETAIL:"), strings.HasPrefix(line, "CONTEXT:"):
			dropping = true
		case strings.HasPrefix(line, "pg_restore:"), strings.HasPrefix(line, "HINT:"), strings.HasPrefix(line, "Command was:"):
			dropping = false
		}
		if !dropping {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// limitedBuffer keeps the first bytes written to it.
type limitedBuffer struct {
	kept  bytes.Buffer
	limit int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.kept.Write(p[:min(len(p), max(b.limit-b.kept.Len(), 0))])
	return len(p), nil
}

func (b *limitedBuffer) String() string { return b.kept.String() }

// toolCandidates returns the client programs to try, best first: those of the target's own version, then newer ones.
func toolCandidates(chosen postgres.Tools, found []postgres.Tools) []postgres.Tools {
	candidates := []postgres.Tools{chosen}
	newer := slices.Clone(found)
	slices.SortStableFunc(newer, func(a, b postgres.Tools) int { return a.Major - b.Major })
	for _, tools := range newer {
		if tools.Major > candidates[len(candidates)-1].Major {
			candidates = append(candidates, tools)
		}
	}
	return candidates
}

// subscriptionsRestored warns of subscriptions in the archive: they come back disabled, and name the slot of the original.
func (a *archive) subscriptionsRestored() (warnings []catalog.Warning) {
	for _, line := range a.entries[stageIndexes] {
		if rest, found := strings.CutPrefix(afterOIDs(line), "SUBSCRIPTION - "); found {
			warnings = append(warnings, catalog.Warning{
				Code: "subscription_disabled", Object: catalog.Text(rest),
				Message: "subscription is restored disabled and still names the original's replication slot: enable it only when " +
					"the original is gone, and before dropping it set its slot_name to NONE, or the original loses its slot",
			})
		}
	}
	return warnings
}
