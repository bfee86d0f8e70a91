package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hourvault/hourvault/internal/serverprocess"
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
	defer cancel(nil)
	reason := errors.New("enough")
	told := filepath.Join(t.TempDir(), "child")
	if err := unix.Mkfifo(told, 0o600); err != nil {
		t.Fatal(err)
	}
	child := make(chan int, 1)
	go func() {
		content, err := os.ReadFile(told) // waits for the program
		pid, parseErr := strconv.Atoi(strings.TrimSpace(string(content)))
		if err := errors.Join(err, parseErr); err != nil {
			t.Errorf("the program told no process id: %v", err)
		}
		child <- pid
		cancel(reason)
	}()
	_, _, err := newMeter(t).run(ctx, shell("true"), shell("sleep 1000 & echo $! >"+told+"; wait"))
	if !errors.Is(err, reason) {
		t.Errorf("error is %v, want the reason for stopping", err)
	}
	gone, done := context.WithTimeout(t.Context(), 10*time.Second)
	defer done()
	if pid := <-child; pid != 0 {
		if err := serverprocess.AwaitGone(gone, pid); err != nil {
			t.Errorf("a child of the program outlived it: %v", err)
		}
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
