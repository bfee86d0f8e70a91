package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/witness"
	"github.com/hourvault/hourvault/restore"
	"github.com/hourvault/hourvault/scheduler"
)

// backupOptions are the flags of hourvault backup.
type backupOptions struct {
	workspaces []string
	all        bool
	jobs       int

	leaseLifetime time.Duration // from the configuration
}

// backupDocument is what hourvault backup --json prints.
type backupDocument struct {
	RepositoryID string         `json:"repository_id"`
	Workspaces   []backupResult `json:"workspaces"`
	// Servers are those that could not be asked for their databases: none of their workspaces was tried.
	Servers []serverProblem `json:"servers"`
	Done    int             `json:"done"`
	Failed  int             `json:"failed"`
	// Warnings are about the repository and this machine; a snapshot has its own.
	Warnings []catalog.Warning `json:"warnings"`
}

// Statuses of a backupResult.
const (
	statusDone     = "done"
	statusFailed   = "failed"
	statusNotBegun = "not_begun"
)

type backupResult struct {
	workspaceDocument
	Status string `json:"status"`
	// Snapshot is there when Status is done.
	Snapshot *snapshotDocument `json:"snapshot,omitempty"`
	// NewWorkspace says that this is the workspace's first snapshot.
	NewWorkspace bool `json:"new_workspace"`
	// EarlierWorkspaces are, for a new one, the ids of those that hold snapshots of earlier databases of the same name.
	EarlierWorkspaces []string `json:"earlier_workspaces"`
	// ReadBytes are those of heap blocks.
	ReadBytes  int64         `json:"read_bytes"`
	DurationNS time.Duration `json:"duration_ns"`
	Error      string        `json:"error,omitempty"`
	// Next is what to do about Error, where that is known.
	Next string `json:"next,omitempty"`
	// TryAgain says that the failure is a passing one: others were at work on the workspace, and came first.
	TryAgain bool `json:"try_again"`

	err error
}

type serverProblem struct {
	Server string `json:"server"`
	Error  string `json:"error"`

	err error
}

func newBackupCommand(a *app) *cobra.Command {
	var opts backupOptions
	command := &cobra.Command{
		Use:   "backup WORKSPACE... | --all",
		Short: "Take snapshots now",
		Long: `Take a snapshot of each workspace named, or of all. A workspace is a database of a configured server that fits
its include and exclude patterns. It is named by the database, or by server/database where several servers have
one of that name.

Servers are worked on side by side, the workspaces of one server one at a time (--jobs). A workspace that fails
does not stop the others. A snapshot gives way when a statement that changes a table has to wait for it.

Sequence and manifest hash of each snapshot are a witness: kept outside the repository, they show when the
newest snapshots were removed. With witness_file in the configuration they are written down there, and a
repository that is older than the file knows is an alert on standard error; the snapshot is taken all the same.
The log (--log-format json) and --json hold them too: hourvault verify --witness reads either.

Exit codes: 0 done; 1 failed for all; 2 wrong usage or configuration, or an unknown workspace; 3 done for some
workspaces, failed for others.`,
		Example: `  hourvault backup --all
  hourvault backup acme globex
  hourvault backup eu-1/acme --json`,
		ValidArgsFunction: a.completeWorkspaces(0),
		RunE: func(command *cobra.Command, args []string) error {
			opts.workspaces = args
			return runBackup(command.Context(), a, opts)
		},
	}
	command.Flags().BoolVar(&opts.all, "all", false, "all workspaces of all servers")
	command.Flags().IntVar(&opts.jobs, "jobs", scheduler.DefaultPerServer, "snapshots of one server taken at the same time")
	return command
}

func (o *backupOptions) check() error {
	switch {
	case o.all && len(o.workspaces) > 0:
		return usagef("--all and names of workspaces exclude each other: give one of them")
	case !o.all && len(o.workspaces) == 0:
		return usagef("say what to back up: names of workspaces, or --all")
	case o.jobs < 1:
		return usagef("--jobs is %d: it must be at least 1", o.jobs)
	}
	return nil
}

// liveWorkspace is a workspace as it is found on a server.
type liveWorkspace struct {
	server   *postgres.Server
	database postgres.DatabaseEntry
	name     string
}

func (w liveWorkspace) qualified() string { return w.server.Name() + "/" + string(w.database.Name) }

func runBackup(ctx context.Context, a *app, opts backupOptions) error {
	if err := opts.check(); err != nil {
		return err
	}
	loaded, err := a.loadConfig()
	if err != nil {
		return err
	}
	if len(loaded.Servers) == 0 {
		return usagef("%s names no servers: add one to back up", loaded.File)
	}
	repo, done, err := a.openRepository(ctx, loaded, readWrite)
	if err != nil {
		return err
	}
	defer done()
	found, err := a.discover(ctx, loaded)
	if err != nil {
		return err
	}
	picked, err := found.pick(loaded, opts.workspaces)
	if err != nil {
		return err
	}

	keeper := newWitnessKeeper(a, loaded.WitnessFile, repo)
	result := backupDocument{RepositoryID: repo.ID(), Workspaces: make([]backupResult, len(picked)), Servers: []serverProblem{}}
	if opts.all {
		for _, problem := range found.problems {
			result.Servers = append(result.Servers, problem)
			result.Failed++
		}
	}
	opts.leaseLifetime = loaded.Repository.LeaseLifetime
	a.takeSnapshots(ctx, repo, keeper, picked, opts, result.Workspaces)
	result.Warnings = keeper.warnings
	for _, one := range result.Workspaces {
		if one.Status == statusDone {
			result.Done++
		} else {
			result.Failed++
		}
	}
	if a.global.json {
		err = a.answer(result)
	} else {
		err = a.printBackup(result)
	}
	keeper.print()
	switch {
	case err != nil:
		return err
	case result.Failed == 0:
		return nil
	}
	return result.failure(ctx)
}

// failure says in one line what the results mean together.
func (d *backupDocument) failure(ctx context.Context) error {
	stop := stopped(ctx)
	if len(d.Workspaces) == 1 && len(d.Servers) == 0 {
		none := fmt.Sprintf("no snapshot of %s was taken", console.Printable(d.Workspaces[0].Workspace))
		if stop != nil {
			return fmt.Errorf("%w: %s", stop, none)
		}
		return fmt.Errorf("%s: %w", none, d.Workspaces[0].err)
	}
	var parts []string
	if failed := d.Failed - len(d.Servers); failed > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s failed", failed, count(len(d.Workspaces), "workspace")))
	}
	if len(d.Servers) > 0 {
		parts = append(parts, count(len(d.Servers), "server")+" did not list databases")
	}
	causes := make([]error, 0, len(d.Workspaces)+len(d.Servers))
	for _, one := range d.Workspaces {
		causes = append(causes, one.err)
	}
	for _, one := range d.Servers {
		causes = append(causes, one.err)
	}
	err := error(&severalError{text: strings.Join(parts, ", and ") + ", see above", causes: causes})
	if stop != nil {
		err = fmt.Errorf("%w: %w", stop, err)
	}
	if d.Done > 0 {
		return &partialError{err}
	}
	return err
}

// discovery is what the servers say about their databases.
type discovery struct {
	// workspaces are the selected databases, by the order of servers in the configuration, then by name.
	workspaces []liveWorkspace
	// others are the databases that are not selected.
	others   []liveWorkspace
	problems []serverProblem
}

// discover asks all servers for their databases. A server that does not answer, or whose password is not there, is a
// problem of its own and does not keep the others from being backed up.
func (a *app) discover(ctx context.Context, loaded *config.Config) (*discovery, error) {
	servers := make([]*postgres.Server, len(loaded.Servers))
	lists := make([][]postgres.DatabaseEntry, len(loaded.Servers))
	failures := make([]error, len(loaded.Servers))
	unusable := 0
	var group errgroup.Group
	for i := range loaded.Servers {
		if servers[i], failures[i] = a.openServer(&loaded.Servers[i]); failures[i] != nil {
			unusable++
			continue
		}
		group.Go(func() error {
			lists[i], failures[i] = servers[i].Databases(ctx)
			return nil
		})
	}
	_ = group.Wait()
	if unusable == len(servers) {
		return nil, failures[0]
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	found := &discovery{}
	names := map[catalog.Text]int{}
	for i, server := range servers {
		if failures[i] != nil {
			found.problems = append(found.problems, serverProblem{Server: loaded.Servers[i].Name, Error: safe(failures[i].Error()), err: failures[i]})
		}
		for _, database := range lists[i] {
			live := liveWorkspace{server: server, database: database}
			if !isCandidate(database) || !loaded.Servers[i].Workspaces.Selects(string(database.Name)) {
				found.others = append(found.others, live)
				continue
			}
			found.workspaces = append(found.workspaces, live)
			names[database.Name]++
		}
	}
	for i := range found.workspaces {
		w := &found.workspaces[i]
		w.name = string(w.database.Name)
		if names[w.database.Name] > 1 {
			w.name = w.qualified()
		}
	}
	return found, nil
}

// isCandidate says whether a database can be a workspace at all: PostgreSQL's own templates hold nobody's data, and
// what a restore has not finished is no database yet.
func isCandidate(database postgres.DatabaseEntry) bool {
	return database.Name != "template0" && database.Name != "template1" && !strings.HasPrefix(string(database.Name), restore.TemporaryPrefix)
}

// pick returns the workspaces that names mean, each once, or all when there are none.
func (d *discovery) pick(loaded *config.Config, names []string) ([]liveWorkspace, error) {
	if len(names) == 0 {
		if len(d.workspaces) == 0 && len(d.problems) == 0 {
			return nil, usagef("no database of any server fits the patterns under servers: workspaces: include in %s", loaded.File)
		}
		return d.workspaces, nil
	}
	var picked []liveWorkspace
	for _, name := range names {
		means := func(w liveWorkspace) bool { return name == string(w.database.Name) || name == w.qualified() }
		var fits []liveWorkspace
		for _, live := range d.workspaces {
			if means(live) {
				fits = append(fits, live)
			}
		}
		switch {
		case len(fits) > 1:
			var list []string
			for _, live := range fits {
				list = append(list, console.Printable(live.qualified()))
			}
			return nil, usagef("%s means several workspaces: write one of %s", console.Printable(name), strings.Join(list, ", "))
		case len(fits) == 0:
			return nil, d.notFound(name, means)
		}
		if !slices.ContainsFunc(picked, func(w liveWorkspace) bool { return w.qualified() == fits[0].qualified() }) {
			picked = append(picked, fits[0])
		}
	}
	return picked, nil
}

// notFound says why there is no such workspace. A server that does not answer comes first: whether it has the workspace is
// not known, and another configured server may see the same database, under another role, without backing it up.
func (d *discovery) notFound(name string, means func(liveWorkspace) bool) error {
	i := slices.IndexFunc(d.others, means)
	if len(d.problems) > 0 && (i < 0 || name != d.others[i].qualified()) {
		problem := d.problems[0]
		for _, one := range d.problems {
			if strings.HasPrefix(name, one.Server+"/") {
				problem = one
				break
			}
		}
		return fmt.Errorf("no workspace %s on the servers that answer; server %s does not: %s", console.Printable(name), problem.Server, problem.Error)
	}
	if i >= 0 {
		return usagef("database %s on server %s is no workspace: the server's include and exclude patterns leave it out", console.Printable(string(d.others[i].database.Name)), d.others[i].server.Name())
	}
	return usagef("no server has a workspace %s: hourvault doctor lists the databases of each", console.Printable(name))
}

// takeSnapshots fills results, one for each workspace.
func (a *app) takeSnapshots(ctx context.Context, repo *repository.Repository, keeper *witnessKeeper, picked []liveWorkspace, opts backupOptions, results []backupResult) {
	bar := newBackupBar(a, picked)
	// Whoever is new, or has the name of another in the witness file, is compared with what the repository held when the first
	// of these came: in most rounds none does. With an error the list may lack some.
	known := sync.OnceValues(func() ([]*repository.Workspace, error) { return repo.Workspaces(ctx) })
	jobs := make([]scheduler.Job, len(picked))
	for i, live := range picked {
		result := &results[i]
		result.workspaceDocument = workspaceDocument{Workspace: live.name, Server: live.server.Name(), Database: live.database.Name}
		result.EarlierWorkspaces = []string{}
		jobs[i] = scheduler.Job{Server: live.server.Name(), Run: func(ctx context.Context) error {
			taken, err := backup.Run(ctx, live.server, live.database, repo, backup.Options{
				Holder: holder(), Version: buildVersion().Version, LeaseLifetime: opts.leaseLifetime,
				Waiting:  func(wait repository.LeaseWait) { bar.say("hourvault: " + waitingLine(live.name, wait)) },
				Progress: func(p backup.Progress) { bar.report(i, p.Bytes, p.BytesTotal) },
			})
			result.ReadBytes = bar.end(i)
			if err != nil {
				if len(picked) > 1 { // the error of a single one ends the command, and is printed there
					bar.note(fmt.Sprintf("hourvault: %s: %v", console.Printable(live.name), err))
				}
				return err
			}
			result.WorkspaceID, result.NewWorkspace = taken.Workspace.ID().String(), taken.NewWorkspace
			result.Snapshot = describeSnapshot(taken.Snapshot)
			if taken.NewWorkspace {
				all, _ := known() // one that cannot be opened is for verify to report
				result.EarlierWorkspaces = earlierWorkspaces(all, taken.Workspace)
			}
			keeper.taken(ctx, live, taken, known)
			return nil
		}}
	}
	outcomes := scheduler.Run(ctx, jobs, scheduler.Limits{PerServer: opts.jobs})
	var failed error
	for i, outcome := range outcomes {
		result := &results[i]
		result.DurationNS = outcome.Duration
		result.Status = statusDone
		if outcome.Err != nil {
			if failed == nil {
				failed = outcome.Err
			}
			result.Status, result.Error, result.Next, result.TryAgain = statusFailed, safe(outcome.Err.Error()), safe(advice(outcome.Err)), passes(outcome.Err)
			result.err = outcome.Err
			if errors.Is(outcome.Err, scheduler.ErrNotBegun) {
				result.Status, result.TryAgain = statusNotBegun, true
			}
		}
		a.logBackup(repo.ID(), result, outcome.Err)
	}
	bar.finish(failed)
}

// earlierWorkspaces returns the ids of the workspaces that are called as a new one is, and are of another database: one that
// was dropped and made anew, was replaced by renaming, or was moved to another cluster.
func earlierWorkspaces(all []*repository.Workspace, created *repository.Workspace) []string {
	ids := []string{}
	is := created.Record()
	for _, workspace := range all {
		was := workspace.Record()
		if workspace.ID() != created.ID() && was.Database == is.Database && (was.Server == is.Server || was.SystemIdentifier == is.SystemIdentifier) {
			ids = append(ids, workspace.ID().String())
		}
	}
	return ids
}

// newUnderOldName says what it means that a workspace is new and its name is not; empty where that is not so.
func (r *backupResult) newUnderOldName() string {
	if len(r.EarlierWorkspaces) == 0 {
		return ""
	}
	return "another database than the one of that name before: a new workspace, with a key of its own; the snapshots of the earlier database are kept as workspace " +
		strings.Join(r.EarlierWorkspaces, ", ")
}

// waitingLine says what a run waits for that has found the lease of another.
func waitingLine(workspace string, wait repository.LeaseWait) string {
	return fmt.Sprintf("%s: a %s by %s, begun %s, did not say that it has ended: waiting up to %s to see whether it is still at work",
		console.Printable(workspace), wait.Purpose, wait.Holder, wait.Since.UTC().Format(time.RFC3339), wait.AtMost)
}

// passes says whether a failure is of a kind that goes away by itself.
func passes(err error) bool {
	var (
		gaveWay   *postgres.GaveWayError
		timeout   *postgres.LockTimeoutError
		unsettled *postgres.UnsettledError
		lease     *repository.LeaseHeldError
		stop      *stopError
	)
	return errors.As(err, &gaveWay) || errors.As(err, &timeout) || errors.As(err, &unsettled) || errors.As(err, &lease) || errors.As(err, &stop)
}

func (a *app) logBackup(repositoryID string, result *backupResult, err error) {
	logger := a.logger.With(zap.String("workspace", safe(result.Workspace)), zap.String("server", result.Server), zap.Duration("duration", result.DurationNS))
	if err != nil {
		if !a.peopleWatch() { // people have read it already
			logger.Error("snapshot failed", zap.Bool("try_again", result.TryAgain), zap.Error(err))
		}
		return
	}
	s := result.Snapshot
	logger.Info(witness.LogMessage, zap.String("repository_id", repositoryID), zap.String("workspace_id", result.WorkspaceID), zap.String("snapshot", s.Snapshot), zap.Time("snapshot_time", s.Time), zap.Uint64("sequence", s.Sequence),
		zap.String("manifest_sha256", s.ManifestSHA256), zap.Uint64("rows", s.Rows), zap.Int64("read_bytes", result.ReadBytes),
		zap.Uint64("new_bytes", s.NewBytes), zap.Uint64("stored_bytes", s.StoredBytes), zap.Int("warnings", len(s.Warnings)))
	if !a.peopleWatch() {
		if len(result.EarlierWorkspaces) > 0 {
			logger.Warn("new workspace under a known name", zap.String("workspace_id", result.WorkspaceID), zap.Strings("earlier_workspaces", result.EarlierWorkspaces))
		}
		for _, warning := range s.Warnings {
			logger.Warn("snapshot warning", zap.String("snapshot", s.Snapshot), zap.String("code", warning.Code),
				zap.String("object", safe(string(warning.Object))), zap.String("message", safe(string(warning.Message))))
		}
	}
}

func (a *app) printBackup(result backupDocument) error {
	for _, problem := range result.Servers {
		a.say("hourvault: server %s: %s", problem.Server, problem.Error)
	}
	table := console.NewTable(a.streams.Out, "WORKSPACE", "SNAPSHOT", "TIME", "ROWS", "READ", "NEW", "STORED", "DURATION", "SEQ", "MANIFEST SHA-256")
	for _, one := range result.Workspaces {
		if one.Status != statusDone {
			if one.Status == statusNotBegun && len(result.Workspaces) > 1 && a.peopleWatch() { // else it is logged
				a.say("hourvault: %s: %s", console.Printable(one.Workspace), one.Error)
			}
			continue
		}
		s := one.Snapshot
		if a.peopleWatch() { // else they are logged
			if text := one.newUnderOldName(); text != "" {
				a.say("hourvault: %s: warning: %s", console.Printable(one.Workspace), text)
			}
			for _, warning := range s.Warnings {
				a.say("hourvault: %s: warning: %s", console.Printable(one.Workspace), warningLine(warning))
			}
		}
		table.Row(one.Workspace, s.Snapshot, a.formatTime(s.Time), strconv.FormatUint(s.Rows, 10), console.FormatSize(one.ReadBytes), size(s.NewBytes),
			size(s.StoredBytes), console.FormatDuration(one.DurationNS), strconv.FormatUint(s.Sequence, 10), s.ManifestSHA256)
	}
	if result.Done == 0 {
		return nil
	}
	return table.Flush()
}

// backupBar shows the progress of several snapshots as one. It begins when the first rows were read: what fails before is
// told in one line.
type backupBar struct {
	app   *app
	title string

	mutex  sync.Mutex
	bar    *console.Progress
	done   []int64
	totals []int64
}

// newBackupBar prepares a bar. It counts heap blocks, and says so: what PostgreSQL keeps out of line (TOAST) is read with
// them and not counted. What is not begun yet counts with the database's size on disk.
func newBackupBar(a *app, picked []liveWorkspace) *backupBar {
	b := &backupBar{app: a, title: "backup of " + count(len(picked), "workspace") + ", heap", done: make([]int64, len(picked)), totals: make([]int64, len(picked))}
	if len(picked) == 1 {
		b.title = "backup " + picked[0].name + ", heap"
	}
	for i, live := range picked {
		b.totals[i] = max(0, live.database.SizeBytes)
	}
	return b
}

// report says how much of a workspace was read. Reports may come late and out of order.
func (b *backupBar) report(i int, done, total int64) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.bar == nil {
		b.bar = b.app.progress(b.title, console.Bytes, 0)
	}
	if done > b.done[i] {
		b.bar.Add(done - b.done[i])
		b.done[i] = done
	}
	b.totals[i] = max(total, b.done[i])
	b.retotal()
}

// end says that nothing more of a workspace will be read, and how much was.
func (b *backupBar) end(i int) (read int64) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.totals[i] = b.done[i]
	b.retotal()
	return b.done[i]
}

func (b *backupBar) retotal() {
	if b.bar == nil {
		return
	}
	var sum int64
	for _, total := range b.totals {
		sum += total
	}
	b.bar.SetTotal(sum)
}

// note tells people what is logged elsewhere.
func (b *backupBar) note(line string) {
	if b.app.peopleWatch() {
		b.say(line)
	}
}

// say is app.say for as long as a bar may be drawn.
func (b *backupBar) say(line string) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	switch {
	case b.bar == nil, !b.app.peopleWatch():
		b.app.say("%s", line)
	default:
		b.bar.Note(line)
	}
}

func (b *backupBar) finish(err error) {
	if b.bar != nil {
		b.bar.Finish(err)
	}
}
