package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/witness"
)

// Codes of a backup's own warnings, which are not about what a snapshot holds.
const (
	warningRolledBack       = repository.ProblemRolledBack
	warningWitnessMissing   = "witness_missing"
	warningWitnessUnusable  = "witness_unusable"
	warningWitnessUndecided = "witness_undecided"
)

// witnessTimeout bounds how long a backup waits for its turn to write the witness file.
const witnessTimeout = 10 * time.Second

// rollbackHint is what to do about a repository that became older.
const rollbackHint = "newer snapshots were deleted or hidden, or the store was set back to an older state: find out by whom (access log and versions of the bucket), and bring them back"

// witnessKeeper holds a round of backups against the witness file, and writes down what it took. Nothing that is wrong with
// the file stops a backup.
type witnessKeeper struct {
	app        *app
	path       string // empty: no file is configured, and nothing is done
	repository string
	before     map[repository.WorkspaceID]witness.Sighting // when the round began: what it was to find in the repository
	damaged    bool

	mu       sync.Mutex
	warnings []catalog.Warning
}

// newWitnessKeeper reads the file. That must come before the first snapshot is begun.
func newWitnessKeeper(a *app, path string, repo *repository.Repository) *witnessKeeper {
	k := &witnessKeeper{app: a, path: path, repository: repo.ID(), before: map[repository.WorkspaceID]witness.Sighting{}, warnings: []catalog.Warning{}}
	if path == "" {
		return k
	}
	seen, err := witness.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.warn(warningWitnessMissing, "", fmt.Sprintf("there is no witness file %s: it is begun anew, and whether the repository became older before now is not known", path))
	case err != nil:
		k.damaged = true
		k.warn(warningWitnessUnusable, "", fmt.Sprintf("%v; whether the repository became older is not known, and nothing is written down: %s", err, mendWitness(err, path, "put the file right, or remove it so that it is begun anew")))
	}
	for _, sighting := range seen {
		if sighting.Repository == k.repository {
			k.before[sighting.Workspace] = sighting
		}
	}
	return k
}

// mendWitness says what to do about a witness file that err keeps from being used. One that belongs to another user, which a single run
// as root makes of it, must not be removed: it is whole, and what it knows would be given away.
func mendWitness(err error, path, otherwise string) string {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf("give %s and %s.lock to this user, and let it write to their directory", path, path)
	}
	return otherwise
}

// warn records a warning once, and tells people and logs at once.
func (k *witnessKeeper) warn(code, workspace, message string, fields ...zap.Field) {
	warning := catalog.Warning{Code: code, Object: catalog.Text(safe(workspace)), Message: catalog.Text(safe(message))}
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.Contains(k.warnings, warning) {
		return
	}
	k.warnings = append(k.warnings, warning)
	if !k.app.peopleWatch() {
		fields = append(fields, zap.String("code", code), zap.String("workspace", string(warning.Object)), zap.String("message", string(warning.Message)))
		if code == warningRolledBack {
			k.app.logger.Error("repository rolled back", fields...)
		} else {
			k.app.logger.Warn("witness warning", fields...)
		}
	}
}

// print repeats the warnings to people, behind what came in between.
func (k *witnessKeeper) print() {
	if !k.app.peopleWatch() {
		return // they are logged
	}
	for _, warning := range k.warnings {
		if warning.Code == warningRolledBack {
			k.app.say("hourvault: ALERT: %s", warningLine(warning))
			continue
		}
		k.app.say("hourvault: warning: %s", warningLine(warning))
	}
}

// taken compares a new snapshot with what was known before the round, and writes it down. A repository that became older is not written down: the
// entry that knows better stays until somebody removes it. others lists the repository's workspaces.
func (k *witnessKeeper) taken(ctx context.Context, live liveWorkspace, taken *backup.Result, others func() ([]*repository.Workspace, error)) {
	if k.path == "" || k.damaged {
		return
	}
	k.lookForLost(live, taken.Workspace.ID(), others)
	manifest := taken.Snapshot.Manifest()
	now := witness.Sighting{
		Repository: k.repository, Workspace: taken.Workspace.ID(), Name: live.qualified(), Snapshot: manifest.Snapshot, Sequence: manifest.Sequence, SHA256: taken.Snapshot.Ref().SHA256,
	}
	if known, found := k.before[now.Workspace]; found {
		contradiction, err := known.Contradiction(ctx, taken.Workspace, taken.Snapshot)
		switch {
		case err != nil:
			k.warn(warningWitnessUndecided, live.qualified(), fmt.Sprintf("the history could not be compared with the witness file, whose entry stays: %v: run hourvault verify", err))
			return
		case contradiction != "":
			k.rolledBack(live, known, contradiction)
			return
		}
	}
	// The snapshot is there whatever happens to the command, so a stop does not keep it from being written down.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), witnessTimeout)
	defer cancel()
	if err := witness.Raise(ctx, k.path, now); err != nil {
		k.warn(warningWitnessUnusable, "", fmt.Sprintf("write down the newest snapshots in %s: %v: %s", k.path, err, mendWitness(err, k.path, "its directory must be there and writable for this user")))
	}
}

// lookForLost warns of workspaces that had the name of live and that the repository has lost: then its database began anew, as
// workspace current, not because it was made anew. They stay known, so each later round warns again. Where the repository could not be
// listed completely, one that is not in the list is not taken for lost.
func (k *witnessKeeper) lookForLost(live liveWorkspace, current repository.WorkspaceID, others func() ([]*repository.Workspace, error)) {
	for _, known := range k.before {
		if known.Name != live.qualified() || known.Workspace == current {
			continue
		}
		all, err := others()
		switch {
		case slices.ContainsFunc(all, func(w *repository.Workspace) bool { return w.ID() == known.Workspace }):
		case err != nil:
			k.warn(warningWitnessUndecided, live.qualified(), fmt.Sprintf("whether the repository still has workspace %s, of which the witness file knows snapshot %d, could not be found out: %v: run hourvault verify", known.Workspace, known.Sequence, err))
		default:
			k.rolledBack(live, known, fmt.Sprintf("the repository does not know workspace %s any more, and snapshot %d of it was seen before", known.Workspace, known.Sequence))
		}
	}
}

func (k *witnessKeeper) rolledBack(live liveWorkspace, known witness.Sighting, what string) {
	k.warn(warningRolledBack, live.qualified(),
		fmt.Sprintf("the repository is older than it was: %s. The new snapshot was taken all the same. %s. The witness stays as it is; if all is as it should be, remove the line of workspace %s from %s", what, upperFirst(rollbackHint), known.Workspace, k.path),
		zap.String("workspace_id", known.Workspace.String()), zap.Uint64("witness_sequence", known.Sequence))
}

func upperFirst(text string) string { return string(text[0]-'a'+'A') + text[1:] }

// witnesses is what is known outside of the repository, for a check of it.
type witnesses struct {
	path  string // of the configured file, or empty
	files []witnessSource

	// What read found of the repository that is checked.
	known    map[repository.WorkspaceID][]witness.Sighting
	problems []verifyProblem
	notices  []verifyNotice
}

// witnessSource is a file of --witness.
type witnessSource struct {
	name string
	seen []witness.Sighting
}

// readWitnesses reads the files of --witness, of which - is standard input.
func readWitnesses(names []string, stdin io.Reader, configured string) (*witnesses, error) {
	w := &witnesses{path: configured, known: map[repository.WorkspaceID][]witness.Sighting{}}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, usagef("--witness %s is given twice", console.Printable(name))
		}
		source := witnessSource{name: name}
		in := stdin
		if name == "-" {
			source.name = "standard input"
		} else {
			file, err := os.Open(name)
			if err != nil {
				return nil, usagef("--witness: %w", err)
			}
			defer file.Close()
			in = file
		}
		var err error
		if source.seen, err = witness.Parse(in); err != nil {
			return nil, usagef("--witness: %s: %w", console.Printable(source.name), err)
		}
		w.files = append(w.files, source)
	}
	return w, nil
}

// of picks what is known of one repository, and reads the configured file. It must come before the repository is listed.
func (w *witnesses) of(id string) error {
	add := func(seen []witness.Sighting) (count int) {
		for _, sighting := range seen {
			if sighting.Repository == "" || sighting.Repository == id {
				w.known[sighting.Workspace] = append(w.known[sighting.Workspace], sighting)
				count++
			}
		}
		return count
	}
	for _, source := range w.files {
		if add(source.seen) == 0 {
			return usagef("--witness: %s knows snapshots of other repositories only, and this is %s", console.Printable(source.name), id)
		}
	}
	if w.path == "" {
		return nil
	}
	seen, err := witness.ReadFile(w.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w.notices = append(w.notices, verifyNotice{Kind: "witness_missing", Message: fmt.Sprintf("there is no witness file %s; the next backup begins it", w.path)})
	case err != nil:
		w.problems = append(w.problems, verifyProblem{Kind: "witness_unusable", Message: safe(fmt.Sprintf("%v: whether the repository became older was not compared with it; %s", err, mendWitness(err, w.path, "put the file right, or remove it so that the next backup begins it anew")))})
	}
	add(seen)
	return nil
}

// options returns all that is known, for the check.
func (w *witnesses) options() (all []repository.Witness) {
	for _, seen := range w.known {
		for _, sighting := range seen {
			all = append(all, sighting.Witness())
		}
	}
	return all
}

// newest returns the highest sequence that was seen of a workspace; 0 when it is not known.
func (w *witnesses) newest(id repository.WorkspaceID) (sequence uint64) {
	for _, sighting := range w.known[id] {
		sequence = max(sequence, sighting.Sequence)
	}
	return sequence
}

// name returns what a workspace was called, also one that the repository has lost.
func (w *witnesses) name(id repository.WorkspaceID) string {
	for _, sighting := range w.known[id] {
		if sighting.Name != "" {
			return safe(sighting.Name)
		}
	}
	return ""
}

// describe adds what the comparison means to the document of a check.
func (w *witnesses) describe(report repository.VerifyReport, document *verifyDocument) {
	for i, problem := range report.Problems {
		if problem.Kind != repository.ProblemRolledBack {
			continue
		}
		described := &document.Problems[i]
		if described.Workspace == "" {
			described.Workspace = w.name(problem.Workspace)
		}
		keep := "leave what says so out of --witness"
		if w.path != "" {
			keep = fmt.Sprintf("remove the line of workspace %s from %s, or leave what says so out of --witness", problem.Workspace, w.path)
		}
		described.Message += safe(fmt.Sprintf(": %s; if all is as it should be, %s", rollbackHint, keep))
	}
	document.Problems = append(document.Problems, w.problems...)
	document.Notices = append(document.Notices, w.notices...)
	unknown := 0
	for i, workspace := range report.Workspaces {
		document.Workspaces[i].WitnessSequence = w.newest(workspace.Workspace)
		if document.Workspaces[i].WitnessSequence == 0 && workspace.Newest != nil {
			unknown++
		}
	}
	if unknown > 0 {
		document.Notices = append(document.Notices, verifyNotice{Kind: "no_witness", Count: unknown,
			Message: fmt.Sprintf("whether newest snapshots were deleted or hidden cannot be known for %s: nothing in a repository shows it, and there is no witness outside; give --witness a log of backups, or set witness_file",
				count(unknown, "workspace"))})
	}
}
