package witness_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/witness"
)

// childVariable makes the test binary one of the processes that write one file: "PATH FROM TO".
const childVariable = "HOURVAULT_TEST_WITNESS_CHILD"

// TestRaiseManyInAProcessOfItsOwn is what those processes run.
func TestRaiseManyInAProcessOfItsOwn(t *testing.T) {
	var path string
	var from, to uint64
	if _, err := fmt.Sscan(os.Getenv(childVariable), &path, &from, &to); err != nil {
		t.Skip("is run by another test")
	}
	for sequence := from; sequence < to; sequence++ {
		for _, workspace := range []byte{byte(from), 99} { // one of its own, and one that all raise
			if err := witness.Raise(t.Context(), path, sighting(1, workspace, sequence)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func sighting(repo, workspace byte, sequence uint64) witness.Sighting {
	snapshot, err := repository.ParseSnapshotID("20261122T140000Z-0123456789abcdef")
	if err != nil {
		panic(err)
	}
	return witness.Sighting{
		Repository: fmt.Sprintf("%032x", repo), Workspace: repository.WorkspaceID{workspace}, Name: fmt.Sprintf("eu-1/w%d", workspace), Snapshot: snapshot,
		Sequence: sequence, SHA256: bytes.Repeat([]byte{byte(sequence)}, 32),
	}
}

func mustRead(t *testing.T, path string) []witness.Sighting {
	t.Helper()
	seen, err := witness.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestTheFileKeepsTheHighestOfEachRepositoryAndWorkspace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness.json")
	if _, err := witness.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, one := range []witness.Sighting{sighting(1, 1, 5), sighting(2, 1, 3), sighting(1, 2, 9), sighting(1, 1, 4), sighting(1, 2, 10)} {
		if err := witness.Raise(t.Context(), path, one); err != nil {
			t.Fatal(err)
		}
	}
	// The same number with another hash: what was first seen stays.
	again := sighting(1, 1, 5)
	again.SHA256 = bytes.Repeat([]byte{0xee}, 32)
	if err := witness.Raise(t.Context(), path, again); err != nil {
		t.Fatal(err)
	}
	got := mustRead(t, path)
	want := []witness.Sighting{sighting(1, 1, 5), sighting(1, 2, 10), sighting(2, 1, 3)}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestOnlyWhatHourvaultWroteCountsAsAWitnessFileAndNothingElseIsOverwritten(t *testing.T) {
	good := `{"format":1,"witnesses":[` + line(t, sighting(1, 1, 5)) + `]}`
	cases := map[string]string{
		"empty":             "",
		"cut":               good[:len(good)/2],
		"continued":         good + "{}",
		"of a later format": strings.Replace(good, `"format":1`, `"format":2`, 1),
		"unknown field":     strings.Replace(good, `"sequence"`, `"sequel"`, 1),
		"no hash":           strings.Replace(good, `"manifest_sha256":"05`, `"manifest_sha256":"`, 1),
		"no repository":     strings.Replace(good, `"repository_id"`, `"workspace"`, 1),
		"twice the same":    `{"format":1,"witnesses":[` + line(t, sighting(1, 1, 5)) + "," + line(t, sighting(1, 1, 6)) + `]}`,
	}
	for name, content := range cases {
		path := filepath.Join(t.TempDir(), "witness.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var damaged *witness.DamagedError
		if seen, err := witness.ReadFile(path); !errors.As(err, &damaged) {
			t.Errorf("%s: read %v, %v", name, seen, err)
		}
		if err := witness.Raise(t.Context(), path, sighting(1, 1, 7)); !errors.As(err, &damaged) {
			t.Errorf("%s: raised, %v", name, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != content {
			t.Errorf("%s: the file was changed: %q, %v", name, now, err)
		}
	}
	path := filepath.Join(t.TempDir(), "witness.json")
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRead(t, path)
}

func TestAnyLineOfAnEntryMayBeRemovedFromTheFile(t *testing.T) {
	const entries = 3
	for removed := range entries {
		path := filepath.Join(t.TempDir(), "witness.json")
		var want []witness.Sighting
		for n := range entries {
			one := sighting(1, byte(n+1), 5)
			if err := witness.Raise(t.Context(), path, one); err != nil {
				t.Fatal(err)
			}
			if n != removed {
				want = append(want, one)
			}
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(content), "\n")
		edited := strings.Join(slices.Delete(lines, 1+removed, 2+removed), "")
		for _, text := range []string{edited, strings.TrimSuffix(edited, "\n"), strings.ReplaceAll(edited, "\n", "\r\n")} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := mustRead(t, path); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("without entry %d: got %v, want %v", removed+1, got, want)
			}
			if got, err := witness.Parse(strings.NewReader(text)); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("without entry %d, given to a check: got %v, %v, want %v", removed+1, got, err, want)
			}
		}
		if err := witness.Raise(t.Context(), path, sighting(1, 9, 1)); err != nil {
			t.Errorf("without entry %d: %v", removed+1, err)
		}
	}
}

func TestTheTemporaryFileIsNotWrittenThroughALink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness.json")
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path+".new"); err != nil {
		t.Fatal(err)
	}
	err := witness.Raise(t.Context(), path, sighting(1, 1, 1))
	if now, readErr := os.ReadFile(victim); readErr != nil || string(now) != "kept" {
		t.Errorf("the file behind the link holds %q, %v (%v)", now, readErr, err)
	}
}

func line(t *testing.T, one witness.Sighting) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "w")
	if err := witness.Raise(t.Context(), path, one); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(content), "\n")[1]
}

// Four processes of two workspaces each, and four goroutines beside them, raise one file, while it is read all the time: it is
// whole at every moment, nothing is ever lowered, and nobody's entry is lost.
func TestProcessesAndGoroutinesRaiseOneFileAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness.json")
	const each = 25
	var writers, readers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			child := exec.Command(os.Args[0], "-test.run=^TestRaiseManyInAProcessOfItsOwn$")
			child.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", childVariable, path, n*each+1, (n+1)*each+1))
			if out, err := child.CombinedOutput(); err != nil {
				t.Errorf("process %d: %v\n%s", n, err, out)
			}
		})
		writers.Go(func() {
			for sequence := uint64(1); sequence <= each; sequence++ {
				if err := witness.Raise(t.Context(), path, sighting(1, byte(200+n), sequence)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	readers.Go(func() {
		last := make(map[repository.WorkspaceID]uint64)
		for {
			seen, err := witness.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
				return
			}
			for _, one := range seen {
				if one.Sequence < last[one.Workspace] {
					t.Errorf("workspace %s went from %d to %d", one.Name, last[one.Workspace], one.Sequence)
				}
				last[one.Workspace] = one.Sequence
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	writers.Wait()
	close(done)
	readers.Wait()
	got := make(map[repository.WorkspaceID]uint64)
	for _, one := range mustRead(t, path) {
		got[one.Workspace] = one.Sequence
	}
	want := map[repository.WorkspaceID]uint64{{99}: 4 * each}
	for n := range uint64(4) {
		want[repository.WorkspaceID{byte(n*each + 1)}] = (n + 1) * each
		want[repository.WorkspaceID{byte(200 + n)}] = each
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhoeverHoldsTheLockIsWaitedForUntilTheContextEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness.json")
	hold := exec.Command("flock", path+".lock", "sh", "-c", "echo held; cat")
	stdin, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Start(); err != nil {
		t.Skipf("flock(1): %v", err)
	}
	if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := witness.Raise(ctx, path, sighting(1, 1, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("raised although another process has the lock: %v", err)
	}
	stdin.Close()
	if err := hold.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := witness.Raise(t.Context(), path, sighting(1, 1, 1)); err != nil {
		t.Error(err)
	}
}

func TestWhatHourvaultPrintsIsFoundAmongOtherLines(t *testing.T) {
	const id, hash = "0123456789abcdef0123456789abcdef", "09a0a00c80dc54270000000000000000000000000000000000000000000000ff"
	entry := `{"level":"info","time":"2026-11-22T14:00:00Z","msg":"snapshot taken","workspace":"acme","server":"eu-1","duration":1.5,"repository_id":"` + id + `","workspace_id":"` + id +
		`","snapshot":"20261122T140000Z-0123456789abcdef","snapshot_time":"2026-11-22T14:00:00Z","sequence":7,"manifest_sha256":"` + hash + `","rows":1}`
	document := "{\n  \"repository_id\": \"" + id + "\",\n  \"workspaces\": [\n    {\n      \"workspace_id\": \"" + id + "\",\n      \"server\": \"eu-1\",\n      \"database\": \"acme\",\n" +
		"      \"snapshot\": {\n        \"snapshot\": \"20261122T140000Z-0123456789abcdef\",\n        \"sequence\": 7,\n        \"manifest_sha256\": \"" + hash + "\"\n      }\n    },\n" +
		"    {\n      \"workspace_id\": \"\",\n      \"status\": \"failed\"\n    }\n  ]\n}\n"
	verified := "{\n  \"repository_id\": \"" + id + "\",\n  \"workspaces\": [\n    {\n      \"workspace_id\": \"" + id + "\",\n      \"database\": {\"base64\": \"/w==\"},\n      \"sequence\": 7,\n      \"manifest_sha256\": \"" + hash +
		"\"\n    },\n    {\n      \"workspace_id\": \"" + id + "\",\n      \"sequence\": 0,\n      \"manifest_sha256\": \"\"\n    }\n  ]\n}\n"
	for name, text := range map[string]string{
		"log":                   "nothing\n{\"msg\":\"other\",\"manifest_sha256\":\"x\"}\n" + entry + "\n" + entry + "\nmanifest_sha256\n",
		"log with prefix":       "Nov 22 14:00:00 host hourvault[7]: " + entry + "\r\n",
		"document":              "hourvault: some words\n" + document,
		"document in one line":  strings.ReplaceAll(document, "\n", "") + "\n",
		"two documents":         document + document,
		"verified":              verified,
		"witness file":          "{\"format\":1,\"witnesses\":[\n{\"repository_id\":\"" + id + "\",\"workspace_id\":\"" + id + "\",\"sequence\":7,\"manifest_sha256\":\"" + hash + "\"}\n]}\n",
		"behind an open brace":  "{\nno JSON\n}\n" + entry + "\n",
		"in front of cut lines": entry + "\n{\nno end\n",
		"behind cut lines":      "{\nno end\n" + document,
	} {
		seen, err := witness.Parse(strings.NewReader(text))
		if err != nil || len(seen) != 1 || seen[0].Sequence != 7 || hex.EncodeToString(seen[0].SHA256) != hash || seen[0].Workspace.String() != id || seen[0].Repository != id {
			t.Errorf("%s: %+v, %v", name, seen, err)
		}
	}
	for name, text := range map[string]string{"empty": "", "other text": "sequence 7\n{}\n", "other JSON": "{\"manifest_sha256\":\"" + hash + "\"}\n"} {
		if seen, err := witness.Parse(strings.NewReader(text)); !errors.Is(err, witness.ErrNothing) {
			t.Errorf("%s: %v, %v", name, seen, err)
		}
	}
	for name, text := range map[string]string{
		"short hash":            strings.Replace(entry, hash, hash[2:], 1),
		"no workspace":          strings.Replace(entry, "workspace_id", "id", 1),
		"no sequence":           strings.Replace(entry, `"sequence":7`, `"sequence":0`, 1),
		"sequence out of range": strings.Replace(entry, `"sequence":7`, `"sequence":-7`, 1),
		"cut document":          document[:len(document)-2],
		"cut before another":    document[:len(document)-20] + "\n" + document,
		"cut entry":             entry[:len(entry)-2] + "\n",
		"two commas":            "{\"format\":1,\"witnesses\":[\n{\"repository_id\":\"" + id + "\",\"workspace_id\":\"" + id + "\",\"sequence\":7,\"manifest_sha256\":\"" + hash + "\"},,\n]}\n",
		"bad id in a document":  strings.Replace(document, `"workspace_id": "0`, `"workspace_id": "`, 1),
	} {
		if seen, err := witness.Parse(strings.NewReader(entry + "\n" + text)); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: %v, %v", name, seen, err)
		}
	}
}

// history is a workspace in a directory, whose manifests tests take away and put back.
type history struct {
	store     *objectstore.Directory
	root      *crypto.LocalRootKey
	taken     []witness.Sighting
	manifests []string
}

func (h *history) open(t *testing.T) *repository.Workspace {
	t.Helper()
	repo, err := repository.Open(t.Context(), h.store, h.root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(repo.Close)
	workspace, _, err := repo.EnsureWorkspace(t.Context(), repository.WorkspaceRecord{Server: "s", Database: "d", Identity: repository.Identity{SystemIdentifier: "7", Database: 5}})
	if err != nil {
		t.Fatal(err)
	}
	return workspace
}

// take adds a snapshot and returns it.
func (h *history) take(t *testing.T) (*repository.Workspace, *repository.Snapshot) {
	t.Helper()
	workspace := h.open(t)
	writer, err := workspace.BeginSnapshot(t.Context(), repository.SnapshotOptions{Holder: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(writer.SchemaArchive(), "schema"); err != nil {
		t.Fatal(err)
	}
	snapshot, err := writer.Commit(t.Context(), repository.Ending{Time: time.Now(), Server: "s"})
	if err != nil {
		t.Fatal(err)
	}
	manifest := snapshot.Manifest()
	h.taken = append(h.taken, witness.Sighting{Repository: "r", Workspace: workspace.ID(), Snapshot: manifest.Snapshot, Sequence: manifest.Sequence, SHA256: snapshot.Ref().SHA256})
	h.manifests = append(h.manifests, fmt.Sprintf("workspaces/%s/snapshots/%s", workspace.ID(), manifest.Snapshot))
	return workspace, snapshot
}

func (h *history) remove(t *testing.T, n int) {
	t.Helper()
	if err := h.store.Delete(t.Context(), h.manifests[n]); err != nil {
		t.Fatal(err)
	}
}

func newHistory(t *testing.T, length int) *history {
	t.Helper()
	store, err := objectstore.OpenDirectory(t.TempDir(), objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	root, err := crypto.ParseLocalRootKey(bytes.Repeat([]byte{7}, 32), "test")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := repository.Create(t.Context(), store, root, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	repo.Close()
	h := &history{store: store, root: root}
	for range length {
		h.take(t)
	}
	return h
}

func TestAHistoryThatWasSetBackContradictsTheWitness(t *testing.T) {
	for _, test := range []struct {
		name   string
		remove []int // of snapshots 1 to 5, from 0
		take   int   // and then so many new ones
		known  int   // what the witness saw
		want   string
	}{
		{name: "nothing happened", take: 1, known: 4},
		{name: "an old witness", take: 1, known: 0},
		{name: "the newest was removed", remove: []int{4}, take: 1, known: 4, want: "snapshot 5 was seen before, and the newest one that a backup found was 4"},
		{name: "and the number was overtaken", remove: []int{4}, take: 2, known: 4, want: "another one has that number now"},
		{name: "the three newest", remove: []int{2, 3, 4}, take: 1, known: 4, want: "snapshot 5 was seen before, and the newest one that a backup found was 2"},
		{name: "all", remove: []int{0, 1, 2, 3, 4}, take: 1, known: 4, want: "snapshot 5 was seen before, and the newest one that a backup found was 0"},
		{name: "overtaken by far", remove: []int{2, 3, 4}, take: 6, known: 4, want: "another one has that number now"},
		{name: "the witness is older than what was removed", remove: []int{3, 4}, take: 1, known: 2},
		{name: "only a middle one is missing", remove: []int{2}, take: 2, known: 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHistory(t, 5)
			for _, n := range test.remove {
				h.remove(t, n)
			}
			var workspace *repository.Workspace
			var newest *repository.Snapshot
			for range test.take {
				workspace, newest = h.take(t)
			}
			got, err := h.taken[test.known].Contradiction(t.Context(), workspace, newest)
			if err != nil || (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
	t.Run("another content", func(t *testing.T) {
		h := newHistory(t, 2)
		workspace, newest := h.take(t)
		known := h.taken[1]
		known.SHA256 = slices.Clone(known.SHA256)
		known.SHA256[0] ^= 1
		if got, err := known.Contradiction(t.Context(), workspace, newest); err != nil || !strings.Contains(got, "another content") {
			t.Errorf("got %q, %v", got, err)
		}
	})
}
