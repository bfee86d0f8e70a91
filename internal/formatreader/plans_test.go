package formatreader

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	product "github.com/hourvault/hourvault/internal/repository"
)

// backdate lets the files below a prefix look as if they were written earlier.
func backdate(t *testing.T, path string, by time.Duration) {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) == 0 {
		t.Fatalf("nothing in %s: %v", path, err)
	}
	for _, entry := range entries {
		name := filepath.Join(path, entry.Name())
		info, err := entry.Info()
		if err == nil {
			err = os.Chtimes(name, info.ModTime(), info.ModTime().Add(-by))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The reader, which knows plans from the page alone, is held against what the product writes.
func TestReaderExplainsWhatTheProductDeleted(t *testing.T) {
	path := t.TempDir()
	store, err := objectstore.OpenDirectory(path, objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	root, err := crypto.ParseLocalRootKey(bytes.Clone(material), "test")
	if err != nil {
		t.Fatal(err)
	}
	made, err := product.Create(t.Context(), store, root, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	written, _, err := made.EnsureWorkspace(t.Context(), product.WorkspaceRecord{Server: "s", Database: "d", Identity: product.Identity{SystemIdentifier: "7", Database: 5}})
	if err != nil {
		t.Fatal(err)
	}
	var taken []*product.Snapshot
	take := func(n int) {
		for range n {
			writer, err := written.BeginSnapshot(t.Context(), product.SnapshotOptions{Holder: "test"})
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.WriteString(writer.SchemaArchive(), fmt.Sprintf("schema %d", len(taken)))
			if err != nil {
				t.Fatal(err)
			}
			snapshot, err := writer.Commit(t.Context(), product.Ending{Time: time.Now(), Server: "s"})
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, snapshot)
		}
	}
	below := filepath.Join(path, "workspaces", written.ID().String())
	prune := func(condemned ...int) product.PruneReport {
		t.Helper()
		report, err := written.Prune(t.Context(), product.PruneOptions{Holder: "test", Writer: "1.2.3", Condemn: func([]*product.Snapshot) (ids []product.SnapshotID) {
			for _, i := range condemned {
				ids = append(ids, taken[i].Manifest().Snapshot)
			}
			return ids
		}})
		if err != nil || len(report.Deleted) != len(condemned) {
			t.Fatalf("%+v, %v", report, err)
		}
		return report
	}
	read := func() *workspace {
		r, err := openRepository(path, material)
		if err != nil {
			t.Fatal(err)
		}
		workspaces, problems := r.workspaces()
		if len(problems) > 0 || len(workspaces) != 1 {
			t.Fatalf("%d workspaces, %v", len(workspaces), problems)
		}
		return workspaces[0]
	}
	sound := func() []plan {
		t.Helper()
		w := read()
		if problems, unknown, err := w.checkHistory(); err != nil || unknown || len(problems) > 0 {
			t.Errorf("history: %v, %v, %v", problems, unknown, err)
		}
		plans, problems, err := w.plans()
		if err != nil || len(problems) > 0 {
			t.Fatal(problems, err)
		}
		return plans
	}
	matches := func(p plan, report product.PruneReport, superseded ...product.PlanID) {
		t.Helper()
		same := len(p.Manifests) == len(report.Deleted) && string(p.Plan) == report.Plan.String() && len(p.Packs) == report.PacksPlanned.Count &&
			p.Grace == "24h0m0s" && p.Writer == "1.2.3" && len(p.Supersedes) == len(superseded)
		for i := range p.Manifests {
			d := report.Deleted[i]
			same = same && string(p.Manifests[i].Snapshot) == d.Snapshot.String() && bytes.Equal(p.Manifests[i].SHA256, d.SHA256) && p.Manifests[i].Sequence == int64(d.Sequence)
		}
		for i := range superseded {
			same = same && string(p.Supersedes[i]) == superseded[i].String()
		}
		if !same {
			t.Errorf("plan %+v, the product says %+v", p, report)
		}
	}

	take(5)
	backdate(t, filepath.Join(below, "snapshots"), 2*time.Hour)
	first := prune(1, 2)
	plans := sound()
	if len(plans) != 1 {
		t.Fatalf("%d plans", len(plans))
	}
	matches(plans[0], first)
	name := filepath.Join(below, "plans", first.Plan.String())
	if err := os.Rename(name, path+"/hidden"); err != nil {
		t.Fatal(err)
	}
	missing := 0
	unexplained, _, err := read().checkHistory()
	for _, problem := range unexplained {
		if strings.Contains(problem.Error(), "is missing") {
			missing++
		}
	}
	if missing != 2 || err != nil {
		t.Errorf("without the plan: %v, %v", unexplained, err)
	}
	if err := os.Rename(path+"/hidden", name); err != nil {
		t.Fatal(err)
	}

	take(2)
	sound()
	backdate(t, filepath.Join(below, "plans"), 25*time.Hour)
	backdate(t, filepath.Join(below, "snapshots"), 2*time.Hour)
	second := prune(0, 3)
	if second.PacksDeleted != first.PacksPlanned || first.PacksPlanned.Count == 0 {
		t.Errorf("%+v after %+v", second, first)
	}
	plans = sound()
	if len(plans) != 1 {
		t.Fatalf("%d plans", len(plans))
	}
	matches(plans[0], second, first.Plan)
	if explained := plans[0].Explained; len(explained.Manifests) != 2 || len(explained.Sequences) != 1 || explained.Sequences[0].From != 2 || explained.Sequences[0].To != 3 {
		t.Errorf("explained: %+v", explained)
	}
	take(1)
	sound()
}

// The vector of plans lies beside the code that wrote it once.
func TestReaderReadsTheFixedVectorOfPlans(t *testing.T) {
	const vector = "../repository/testdata/vector-plan-v1"
	content, err := os.ReadFile(filepath.Join(vector, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expected struct {
		Workspace string       `json:"workspace"`
		Snapshots []snapshotID `json:"snapshots"`
		Plans     []plan       `json:"plans"`
	}
	tree, err := parseJSON(content)
	if err == nil {
		err = decodeJSON(tree, &expected)
	}
	if err != nil || len(expected.Plans) != 2 || len(expected.Snapshots) == 0 {
		t.Fatalf("%+v, %v", expected, err)
	}
	r, err := openRepository(filepath.Join(vector, "repository"), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	workspaces, problems := r.workspaces()
	if len(problems) > 0 || len(workspaces) != 1 || hex.EncodeToString(workspaces[0].id[:]) != expected.Workspace {
		t.Fatalf("%d workspaces, %v", len(workspaces), problems)
	}
	w := workspaces[0]
	plans, problems, err := w.plans()
	if err != nil || len(problems) > 0 || !reflect.DeepEqual(plans, expected.Plans) {
		t.Errorf("plans %+v, want %+v; %v, %v", plans, expected.Plans, problems, err)
	}
	if problems, unknown, err := w.checkHistory(); err != nil || unknown || len(problems) > 0 {
		t.Errorf("history: %v, %v, %v", problems, unknown, err)
	}
	objects, err := w.snapshots()
	if err != nil {
		t.Fatal(err)
	}
	var there []snapshotID
	for _, object := range objects {
		there = append(there, object.id)
	}
	if !slices.Equal(there, expected.Snapshots) {
		t.Errorf("snapshots %v, want %v", there, expected.Snapshots)
	}
}
