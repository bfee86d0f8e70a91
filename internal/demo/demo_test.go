package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/serverprocess"
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

// tempDir returns a directory that only this test uses, open to the user that servers run as, and with a name short
// enough for sockets.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// demandEmpty fails the test when something is left in the directory.
func demandEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

func TestDemonstrationProvesTheRestoreOnEachVersion(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			temp := tempDir(t)
			report, err := Run(t.Context(), Options{BinDir: binDir(t, major), Version: "test", small: true, tempDir: temp})
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
				if second.NewBytes == 0 || second.NewBytes >= first.NewBytes {
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
			demandEmpty(t, temp)
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
	change := func(ctx context.Context, d *demo, database, sql string) error {
		conn, err := pgx.Connect(ctx, d.cluster.DSN(database))
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, sql)
		return errors.Join(err, conn.Close(ctx))
	}
	report, err := Run(t.Context(), Options{BinDir: binDir(t, testenv.Majors()[0]), small: true, tempDir: tempDir(t), beforeComparison: func(ctx context.Context, d *demo) error {
		for i, test := range []struct {
			name, sql  string
			rows, dump string // what the proofs say; empty where they hold
		}{
			{"nothing", "", "", ""},
			{"a character of one row", `UPDATE app.teams SET name = name || '!' WHERE id = 3`, "app.teams has 3 rows, not all of them the same", "differs first in line"},
			{"a row without columns", `DELETE FROM app."nothing but rows" WHERE ctid = '(0,1)'`, `app."nothing but rows" has 1 rows instead of 2`, "differs first in line"},
			{"a sequence", `SELECT nextval('billing.never_called')`, "billing.never_called has 1 rows, not all", "differs first in line"},
			{"a stale materialized view", `UPDATE billing.invoices SET net = net; REFRESH MATERIALIZED VIEW billing.revenue_total WITH NO DATA`, "billing.", "differs first in line"},
			{"a comment", `COMMENT ON TABLE app.tickets IS 'something else'`, "", "differs first in line"},
			{"a grant on a large object", `DO $$ DECLARE o oid; BEGIN SELECT min(oid) INTO o FROM pg_largeobject_metadata; EXECUTE format('REVOKE ALL ON LARGE OBJECT %s FROM helpdesk_reports', o); END $$`, "", "differs first in line"},
		} {
			database := fmt.Sprintf("copy_%d", i)
			if err := change(ctx, d, "postgres", fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", database, Restored)); err != nil {
				return err
			}
			if test.sql != "" {
				if err := change(ctx, d, database, test.sql); err != nil {
					return err
				}
			}
			if err := d.compare(ctx, database); err != nil {
				return err
			}
			for _, proof := range d.report.Proofs {
				want, known := map[string]string{"rows": test.rows, "pg_dump": test.dump}[proof.Name]
				if known && (proof.Holds != (want == "") || !strings.Contains(proof.Text, want)) {
					t.Errorf("%s: proof %s holds %t, says %q: want %q", test.name, proof.Name, proof.Holds, proof.Text, want)
				}
			}
			d.report.Proofs = nil
		}
		return change(ctx, d, Restored, `DELETE FROM app.notes`)
	}})
	if !errors.Is(err, ErrNotProven) || report.Proven {
		t.Fatalf("error %v, proven %t: want %v", err, report.Proven, ErrNotProven)
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
	for _, stage := range []Stage{StageServer, StageFirst, StageRestore} {
		t.Run(string(stage), func(t *testing.T) {
			temp := tempDir(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			_, err := Run(ctx, Options{BinDir: dir, small: true, tempDir: temp, Observer: stopAt{stage, cancel}})
			if !errors.Is(err, errStopped) {
				t.Errorf("error %v: want %v", err, errStopped)
			}
			demandEmpty(t, temp)
		})
	}
}

func TestKeptFilesHoldAClusterThatStarts(t *testing.T) {
	dir := binDir(t, testenv.Majors()[0])
	temp := tempDir(t)
	report, err := Run(t.Context(), Options{BinDir: dir, small: true, Keep: true, tempDir: temp})
	if err != nil {
		t.Fatal(err)
	}
	if err := serverprocess.RemoveAbandoned(temp); err != nil {
		t.Fatal(err)
	}
	key, err := crypto.ReadRootKeyFile(report.Kept.RootKey)
	if err != nil {
		t.Fatal(err)
	}
	store, err := objectstore.OpenDirectory(report.Kept.Repository, objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	opened, err := repository.Open(t.Context(), store, key)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if all, err := opened.Workspaces(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%d workspaces in the kept repository, error %v: want 3", len(all), err)
	}
	as, err := serverprocess.Unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{{report.Kept.Start}, {dir + "/pg_ctl -m immediate stop -D " + report.Kept.Cluster + "/data"}} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c"}, arguments...)...)
		cmd.Dir, cmd.Env, cmd.SysProcAttr = report.Kept.Cluster, []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}, as.Attributes(0)
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v", arguments[0], err)
		}
	}
}

func TestServerIsTheNewestThatIsComplete(t *testing.T) {
	make := func(major int, programs ...string) postgres.Tools {
		dir := t.TempDir()
		for _, name := range programs {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return postgres.Tools{Major: major, Dir: dir}
	}
	old, fit, newer, client := make(13, "initdb", "postgres", "psql"), make(15, "initdb", "postgres", "psql"), make(17, "initdb", "postgres", "psql"), make(18, "psql")
	for _, test := range []struct {
		name   string
		found  []postgres.Tools
		binDir string
		want   string
		says   string
	}{
		{"newest", []postgres.Tools{old, fit, newer, client}, "", newer.Dir, ""},
		{"the one that is named", []postgres.Tools{fit, newer}, fit.Dir, fit.Dir, ""},
		{"named without a server", []postgres.Tools{client, newer}, client.Dir, "", "does not hold all programs"},
		{"too old", []postgres.Tools{old}, "", "", "apt-get install postgresql"},
		{"none", nil, "", "", "apt-get install postgresql"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := chooseServer(test.found, test.binDir)
			if got.Dir != test.want || (err == nil) != (test.says == "") || err != nil && (!errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %q, error %v: want %q, %q", got.Dir, err, test.want, test.says)
			}
		})
	}
}
