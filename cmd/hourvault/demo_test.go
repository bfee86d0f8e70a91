package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/demo"
	"github.com/hourvault/hourvault/internal/testenv"
)

// runForTest runs the command line and returns its exit code and what it wrote.
func runForTest(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = execute(t.Context(), args, newApp(&console.Streams{Out: &out, Err: &err}, config.System()))
	return code, out.String(), err.String()
}

func TestDemoPrintsOneDocumentAndTellsPeopleInASCII(t *testing.T) {
	testenv.Postgres(t, 15) // skips, or fails where it is required
	dir, err := testenv.PostgresBinDir(15)
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runForTest(t, "demo", "--json", "--pg-bin-dir", dir)
	if code != exitDone {
		t.Fatalf("exit code %d:\n%s", code, stderr)
	}
	var document struct {
		Proven bool `json:"proven"`
		Steps  []struct {
			Duration int64 `json:"duration_ns"`
		} `json:"steps"`
		Rounds []struct {
			Snapshots []struct {
				NewBytes int64 `json:"new_bytes"`
			} `json:"snapshots"`
		} `json:"rounds"`
		Tables []struct {
			Name  string `json:"name"`
			Equal bool   `json:"equal"`
		} `json:"tables"`
	}
	decoder := json.NewDecoder(strings.NewReader(stdout))
	if err := decoder.Decode(&document); err != nil || decoder.More() {
		t.Fatalf("standard output is not one JSON document (%v):\n%s", err, stdout)
	}
	if !document.Proven || len(document.Steps) != 13 || len(document.Tables) < 20 {
		t.Errorf("proven %t, %d steps, %d tables", document.Proven, len(document.Steps), len(document.Tables))
	}
	for i, first := range document.Rounds[0].Snapshots {
		if second := document.Rounds[1].Snapshots[i]; second.NewBytes == 0 || second.NewBytes*10 > first.NewBytes {
			t.Errorf("after an hour of work %d bytes are new, of %d at first", second.NewBytes, first.NewBytes)
		}
	}
	for _, table := range document.Tables {
		if !table.Equal || !strings.Contains(stderr, "equal") {
			t.Errorf("table %s is not equal", table.Name)
		}
	}
	for _, want := range []string{"app.documents", "gone", "13  verify the repository", "proven: acme is back", "hourvault init"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("people are not told %q:\n%s", want, stderr)
		}
	}
	for i, c := range []byte(stderr) {
		if c >= 0x80 || c < ' ' && c != '\n' {
			t.Fatalf("byte %#x at %d is not ASCII: %q", c, i, stderr[max(0, i-40):i+1])
		}
	}
}

func TestDemoMarksWhatDiffers(t *testing.T) {
	var stderr bytes.Buffer
	told := &demoTeller{app: newApp(&console.Streams{Out: &stderr, Err: &stderr}, config.System())}
	told.End(demo.Step{Stage: demo.StageCompare}, &demo.Report{
		Tables: []demo.Table{
			{Name: "app.a", Kind: demo.KindTable, Root: "app.r", Before: 5, Damaged: 5, Restored: 5, Equal: true},
			{Name: "app.b", Kind: demo.KindTable, Root: "app.r", Before: 5, Damaged: -1, Restored: 4},
			{Name: "app.s", Kind: demo.KindSequence, Before: 1, Damaged: 1, Restored: 1},
		},
		Proofs: []demo.Proof{{Name: "rows", Text: "something differs"}},
	})
	for _, want := range []string{"app.r (2 partitions)", "app.s ", "FAILED: something differs"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("no %q in\n%s", want, stderr.String())
		}
	}
	if got := strings.Count(stderr.String(), "DIFFERENT"); got != 2 {
		t.Errorf("%d lines are marked DIFFERENT instead of 2:\n%s", got, stderr.String())
	}
}

func TestDemoWithoutAServerSaysSoInOneLine(t *testing.T) {
	code, stdout, stderr := runForTest(t, "demo", "--pg-bin-dir", t.TempDir())
	if last := strings.TrimSpace(stderr[strings.LastIndex(strings.TrimSpace(stderr), "\n")+1:]); code != exitUsage || stdout != "" || !strings.HasPrefix(last, "hourvault: --pg-bin-dir: ") {
		t.Errorf("exit code %d, standard output %q, last line %q", code, stdout, last)
	}
	if code, _, stderr := runForTest(t, "demo", "--json", "--pg-bin-dir", fmt.Sprintf("%s/none", t.TempDir())); code != exitUsage {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
}
