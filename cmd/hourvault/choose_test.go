package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/restore"
)

func TestExitCodes(t *testing.T) {
	exists := &restore.PreflightError{Problems: []restore.Problem{{Code: "database_exists"}}}
	more := &restore.PreflightError{Problems: []restore.Problem{{Code: "database_exists"}, {Code: "privilege"}}}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("server is gone"), 1},
		{usagef("no such workspace"), 2},
		{fmt.Errorf("wrapped: %w", usagef("no such workspace")), 2},
		{&config.Error{Problems: []config.Problem{{Message: "x"}}}, 2},
		{fmt.Errorf("open repository: %w", repository.ErrWrongRootKey), 2},
		{fmt.Errorf("open repository: %w", repository.ErrNoRepository), 1},
		{exists, 2},
		{more, 1},
		{&restore.PreflightError{}, 1},
		{&partialError{errors.New("1 of 2")}, 3},
		{&partialError{&stopError{os.Interrupt}}, 3},
		{&stopError{os.Interrupt}, 1},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("exit code of %v: got %d, want %d", c.err, got, c.want)
		}
	}
}

// TestRestoreNeverTakesAnOlderSnapshotForOneThatCannotBeRead holds that only the operator may choose another.
func TestRestoreNeverTakesAnOlderSnapshotForOneThatCannotBeRead(t *testing.T) {
	s := newSite(t, "")
	for range 2 {
		if code, _, stderr := s.run("backup", s.database); code != exitDone {
			t.Fatalf("backup: exit code %d\n%s", code, stderr)
		}
	}
	var manifests []string // ascending, as names are
	err := filepath.WalkDir(filepath.Join(filepath.Dir(s.file), "repository"), func(path string, entry fs.DirEntry, err error) error {
		if filepath.Base(filepath.Dir(path)) == "snapshots" {
			manifests = append(manifests, path)
		}
		return err
	})
	if err != nil || len(manifests) != 2 {
		t.Fatalf("manifests %v, %v", manifests, err)
	}
	if err := os.Truncate(manifests[1], 100); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := s.run("restore", s.database, "--into", s.database+"_x", "--dry-run")
	if code != exitFailed || !strings.Contains(stderr, "snapshot "+filepath.Base(manifests[1])+" of "+s.database+" may be the one asked for and cannot be read (choose another with --snapshot)") {
		t.Errorf("newest damaged: exit code %d\n%s", code, stderr)
	}
	older := filepath.Base(manifests[0])
	if code, stdout, stderr := s.run("restore", s.database, "--into", s.database+"_x", "--dry-run", "--snapshot", older); code != exitDone || !strings.Contains(stdout, older) {
		t.Errorf("older by id: exit code %d\n%s%s", code, stdout, stderr)
	}
	// The damaged one began after the time asked for, by less than clocks may differ: it may still be the one.
	begun, err := repository.ParseSnapshotID(older)
	if err != nil {
		t.Fatal(err)
	}
	at := begun.Begun().Add(-2 * clockSlack).Format(time.RFC3339)
	if code, _, stderr := s.run("restore", s.database, "--into", s.database+"_x", "--at", at); code != exitUsage || !strings.Contains(stderr, older) {
		t.Errorf("before the first: exit code %d\n%s", code, stderr)
	}
}

func TestLogFormatJSONKeepsTheWitness(t *testing.T) {
	s := newSite(t, "")
	code, stdout, stderr := s.run("backup", s.database, "--log-format", "json")
	if code != exitDone {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, `{"level":`) {
			t.Errorf("not a log entry: %s", line)
		}
	}
	fields := strings.Fields(stdout)
	hash := fields[len(fields)-1]
	if len(hash) != 64 || !strings.Contains(stderr, `"msg":"snapshot taken"`) || !strings.Contains(stderr, `"sequence":1,"manifest_sha256":"`+hash+`"`) {
		t.Errorf("no entry with sequence and hash %s in\n%s", hash, stderr)
	}
}
