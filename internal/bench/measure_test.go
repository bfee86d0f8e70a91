package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

func newMeter(t *testing.T) *meter {
	t.Helper()
	dir := t.TempDir()
	none := func() int { return 0 }
	return &meter{dir: dir, home: dir, postgres: none, s3: none}
}

func shell(script string) program { return program{path: "/bin/sh", arguments: []string{"-c", script}} }

func TestPipelinePassesOutputOnAndCountsEveryProcess(t *testing.T) {
	// The CPU time is spent by a child of the first program.
	busy := shell(`sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo one; echo two`)
	used, output, err := newMeter(t).run(t.Context(), busy, shell("cat"), shell("wc -l"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(output)); got != "2" {
		t.Errorf("the pipeline printed %q, want 2", got)
	}
	if used.User+used.System <= 0 || used.Wall <= 0 || used.PeakBytes <= 0 || used.TreeBytes <= 0 {
		t.Errorf("the pipeline took %+v: something was not counted", used)
	}
}

func TestFailureOfAnyProgramOfAPipelineIsAnErrorWithWhatItSaid(t *testing.T) {
	_, _, err := newMeter(t).run(t.Context(), shell("echo no database >&2; exit 3"), shell("cat"))
	if err == nil || !strings.Contains(err.Error(), "no database") {
		t.Errorf("error is %v, want what the first program said", err)
	}
	if _, _, err := newMeter(t).run(t.Context(), shell("true"), program{path: "/does/not/exist"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error of a missing program is %v, want that it does not exist", err)
	}
	tolerated := shell("echo harmless >&2; exit 1")
	tolerated.tolerate = func(stderr string) bool { return stderr == "harmless\n" }
	if _, _, err := newMeter(t).run(t.Context(), tolerated); err != nil {
		t.Errorf("a tolerated failure is %v", err)
	}
}

func TestEndOfContextStopsThePipelineAndItsChildren(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	m := newMeter(t)
	m.s3 = func() int { // asked when the first CPU times are read, just before the programs start
		go cancel(reason)
		return 0
	}
	// The child holds the output open: the pipeline only ends when it does, too.
	_, _, err := m.run(ctx, shell("sleep 1000 & wait"), shell("cat"))
	if !errors.Is(err, reason) {
		t.Errorf("error is %v, want the reason for stopping", err)
	}
}

func TestOnlyTheOneComplaintOfANewerPgRestoreIsForgiven(t *testing.T) {
	const known = `pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"` + "\nCommand was: SET transaction_timeout = 0;\n"
	for stderr, want := range map[string]bool{
		known + known + "pg_restore: warning: errors ignored on restore: 2\n":       true,
		known + "pg_restore: error: could not execute query: ERROR:  out of disk\n": false,
		"": false,
	} {
		if got := isComplaintOf17(stderr); got != want {
			t.Errorf("forgiven is %t, want %t, for %q", got, want, stderr)
		}
	}
}
