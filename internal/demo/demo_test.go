package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/postgres/throwaway"
	"github.com/hourvault/hourvault/internal/testenv"
)

// binDir returns the programs of a PostgreSQL version, or skips.
func binDir(t *testing.T, major int) string {
	t.Helper()
	testenv.Postgres(t, major) // skips, or fails where it is required
	dir, err := testenv.PostgresBinDir(major)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// workDirs lists what demonstrations and tests have in the temporary directory.
func workDirs(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.TempDir(), "hourvault-*", "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDemonstrationProvesTheRestoreOnEachVersion(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			report, err := Run(t.Context(), Options{BinDir: binDir(t, major), Version: "test"})
			if err != nil {
				t.Fatalf("%v\n%s", err, proofs(report))
			}
			if !report.Proven || len(report.Proofs) != 7 {
				t.Errorf("not proven:\n%s", proofs(report))
			}
			if !strings.HasPrefix(report.PostgreSQL, fmt.Sprint(major)) {
				t.Errorf("PostgreSQL %s instead of %d", report.PostgreSQL, major)
			}
			if len(report.Steps) != 13 || len(report.Workspaces) != 3 || len(report.Rounds) != 3 {
				t.Errorf("%d steps, %d workspaces, %d rounds instead of 13, 3, 3", len(report.Steps), len(report.Workspaces), len(report.Rounds))
			}
			for i, first := range report.Rounds[0].Snapshots {
				second := report.Rounds[1].Snapshots[i]
				if second.NewBytes == 0 || second.NewBytes*4 > first.NewBytes {
					t.Errorf("%s: after an hour of work %d bytes are new, of %d at first", first.Workspace, second.NewBytes, first.NewBytes)
				}
				for _, warning := range slices.Concat(first.Warnings, second.Warnings) {
					t.Errorf("%s: warning %s: %s", first.Workspace, warning.Code, warning.Message)
				}
			}
			if report.Restore.Snapshot != report.Rounds[1].Snapshots[0].Snapshot {
				t.Errorf("restored snapshot %s instead of %s, the last before the damage", report.Restore.Snapshot, report.Rounds[1].Snapshots[0].Snapshot)
			}
			for _, warning := range report.Restore.Warnings {
				t.Errorf("restore: warning %s: %s", warning.Code, warning.Message)
			}
			if len(report.Damage) != 5 {
				t.Errorf("damage %v: want 5 statements", report.Damage)
			}
			kinds, gone, fewer := map[string]int{}, 0, 0
			for _, table := range report.Tables {
				kinds[table.Kind]++
				if table.Damaged < 0 {
					gone++
				} else if table.Damaged < table.Before {
					fewer++
				}
			}
			if kinds[KindTable] < 15 || kinds[KindSequence] < 8 || kinds[KindMaterializedView] != 2 || kinds[KindLargeObjects] != 1 || gone == 0 || fewer == 0 {
				t.Errorf("compared %v, %d of them gone and %d with fewer rows after the damage", kinds, gone, fewer)
			}
			if left := workDirs(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if _, err := json.Marshal(report); err != nil {
				t.Error(err)
			}
		})
	}
}

func proofs(report *Report) string {
	var text strings.Builder
	for _, proof := range report.Proofs {
		fmt.Fprintf(&text, "%s %t: %s\n", proof.Name, proof.Holds, proof.Text)
	}
	return text.String()
}

func TestDemonstrationIsNotProvenWhenTheCopyDiffers(t *testing.T) {
	dir := binDir(t, testenv.Majors()[0])
	for _, test := range []struct{ name, sql, proof, says string }{
		{"a character of one row", `UPDATE app.notes SET note = note || '!' WHERE id = (SELECT min(id) FROM ONLY app.notes)`, "rows", "app.notes has 4 rows, not all of them the same"},
		{"a row", `DELETE FROM app."nothing but rows" WHERE ctid = '(0,1)'`, "rows", `app."nothing but rows" has 1 rows instead of 2`},
		{"a comment", `COMMENT ON TABLE app.tickets IS 'something else'`, "pg_dump", "pg_dump differs first in line"},
		{"a grant on a large object", `DO $$ DECLARE o oid; BEGIN SELECT min(oid) INTO o FROM pg_largeobject_metadata; EXECUTE format('REVOKE ALL ON LARGE OBJECT %s FROM helpdesk_reports', o); END $$`, "pg_dump", "pg_dump differs first in line"},
	} {
		t.Run(test.name, func(t *testing.T) {
			report, err := Run(t.Context(), Options{BinDir: dir, beforeComparison: func(ctx context.Context, cluster *throwaway.Cluster, database string) error {
				conn, err := pgx.Connect(ctx, cluster.DSN(database))
				if err != nil {
					return err
				}
				_, err = conn.Exec(ctx, test.sql)
				return errors.Join(err, conn.Close(ctx))
			}})
			if !errors.Is(err, ErrNotProven) || report.Proven {
				t.Fatalf("error %v, proven %t: want %v", err, report.Proven, ErrNotProven)
			}
			for _, proof := range report.Proofs {
				if proof.Name == test.proof && (proof.Holds || !strings.Contains(proof.Text, test.says)) {
					t.Errorf("proof %s holds %t, says %q: want %q", proof.Name, proof.Holds, proof.Text, test.says)
				}
			}
		})
	}
}

// stopAt ends a context when a step begins.
type stopAt struct {
	stage  Stage
	cancel context.CancelCauseFunc
}

var errStopped = errors.New("stopped by the test")

func (s stopAt) Begin(step Step) {
	if step.Stage == s.stage {
		s.cancel(errStopped)
	}
}

func (s stopAt) End(Step, *Report) {}

func TestStoppedDemonstrationLeavesNothing(t *testing.T) {
	dir := binDir(t, testenv.Majors()[0])
	for _, stage := range []Stage{StageServer, StageWorkspaces, StageFirst, StageRestore} {
		t.Run(string(stage), func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			_, err := Run(ctx, Options{BinDir: dir, Observer: stopAt{stage, cancel}})
			if !errors.Is(err, errStopped) {
				t.Errorf("error %v: want %v", err, errStopped)
			}
			if left := workDirs(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
