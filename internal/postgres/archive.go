package postgres

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
)

// Bounds of what is kept of a program's standard error, in lines and bytes.
const (
	maxToolLines = 1000
	maxToolLine  = 4 << 10
	toolTail     = 10
)

// SchemaArchive runs pg_dump under the snapshot and writes its archive of all definitions (custom format, not
// compressed) to w. It takes a place in the budget of connections while pg_dump runs. Every line that pg_dump writes to standard error
// is returned as a warning with the code "pg_dump".
//
// An exit status other than 0 is a *ToolError; what was written to w must not be used then. No pg_dump of the server's
// version or newer is a *ToolsError. When the snapshot ends, pg_dump is stopped and the error is the cause.
func (s *Snapshot) SchemaArchive(ctx context.Context, w io.Writer) ([]catalog.Warning, error) {
	joined, done := s.join(ctx)
	defer done()
	release, err := s.server.acquire(joined, s.spare)
	if err != nil {
		return nil, s.reason(err)
	}
	defer release()
	cmd, err := s.server.command(joined, "pg_dump", s.database, Reading, s.dumpApplication(), []string{
		"--format=custom", "--compress=0", "--schema-only", "--snapshot=" + s.id, "--encoding=" + s.encoding,
		"--lock-wait-timeout=" + strconv.FormatInt(s.server.lockTimeout.Milliseconds(), 10),
	})
	if err != nil {
		return nil, s.reason(err)
	}
	sink := &keepError{w: w}
	var said toolLines
	cmd.Stdout, cmd.Stderr = sink, &said
	err = cmd.Run()
	said.end()
	s.awaitEnd(ctx)
	switch {
	case s.ctx.Err() != nil:
		return nil, context.Cause(s.ctx)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case sink.err != nil:
		return nil, fmt.Errorf("write the schema archive: %w", sink.err)
	case err != nil:
		// pg_dump asks for locks that the leader holds: a refusal means that someone waits for an exclusive one.
		if joined, release, takeErr := s.take(ctx); takeErr == nil {
			waiting, waitErr := s.waiting(joined, 0)
			if waitErr == nil && waiting != nil {
				s.cancel(waiting)
			}
			release()
			if waiting != nil {
				return nil, context.Cause(s.ctx)
			}
		}
		return nil, &ToolError{Tool: "pg_dump", Database: s.database, Stderr: said.tail(), Err: err}
	}
	warnings := make([]catalog.Warning, 0, len(said.lines))
	for _, line := range said.lines {
		warnings = append(warnings, catalog.Warning{Code: "pg_dump", Message: catalog.Text(line)})
	}
	return warnings, nil
}

// dumpApplication is the application name of pg_dump's session, which the watcher counts among the snapshot's own.
func (s *Snapshot) dumpApplication() string { return s.application + " pg_dump" }

// awaitEnd waits until the server has ended pg_dump's session, which is a moment after the program ended, so that the
// budget is what the server sees. It gives up after closeWait.
func (s *Snapshot) awaitEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeWait)
	defer cancel()
	for {
		joined, done, err := s.take(s.ctx)
		if err != nil {
			return
		}
		var sessions int
		if _, err = s.leader.Exec(joined, "select pg_catalog.pg_stat_clear_snapshot()"); err == nil {
			err = s.leader.QueryRow(joined, "select count(*)::int from pg_catalog.pg_stat_activity where application_name = $1", s.dumpApplication()).Scan(&sessions)
		}
		done()
		if err != nil || sessions == 0 {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// toolLines gathers the lines of a program's standard error, within bounds.
type toolLines struct {
	lines   []string
	current []byte
	more    int
}

func (t *toolLines) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		if room := maxToolLine - len(t.current); room > 0 {
			t.current = append(t.current, line[:min(len(line), room)]...)
		}
		if ended {
			t.finish()
		}
		rest = after
	}
	return len(p), nil
}

func (t *toolLines) finish() {
	line := string(bytes.TrimRight(t.current, "\r"))
	t.current = t.current[:0]
	switch {
	case line == "":
	case len(t.lines) < maxToolLines:
		t.lines = append(t.lines, line)
	default:
		t.more++
	}
}

func (t *toolLines) end() {
	t.finish()
	if t.more > 0 {
		t.lines = append(t.lines, fmt.Sprintf("%d more lines", t.more))
	}
}

func (t *toolLines) tail() string {
	var b bytes.Buffer
	for _, line := range t.lines[max(0, len(t.lines)-toolTail):] {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}
