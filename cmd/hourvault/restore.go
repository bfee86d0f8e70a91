package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/timeexpr"
	"github.com/hourvault/hourvault/restore"
)

// restoreOptions are the flags of hourvault restore.
type restoreOptions struct {
	workspace     string
	at            string
	snapshot      string
	into          string
	server        string
	jobs          int
	keepPartial   bool
	createRoles   bool
	noTablespaces bool
	dryRun        bool
	inPlace       bool
}

// restoreDocument is what hourvault restore --json prints.
type restoreDocument struct {
	DryRun    bool              `json:"dry_run"`
	Workspace workspaceDocument `json:"workspace"`
	Snapshot  *snapshotDocument `json:"snapshot"`
	// Server is the target.
	Server string `json:"server"`
	Into   string `json:"into"`
	// Plan is there with --dry-run, Result without.
	Plan   *restore.Plan   `json:"plan,omitempty"`
	Result *restore.Result `json:"result,omitempty"`
	// DurationNS is the time of the whole restore.
	DurationNS time.Duration `json:"duration_ns"`
}

func newRestoreCommand(a *app) *cobra.Command {
	var opts restoreOptions
	command := &cobra.Command{
		Use:   "restore WORKSPACE --into DATABASE",
		Short: "Restore one workspace into a new database",
		Long: `Restore one workspace, as it was at a given time, into a new database. Nothing that exists is touched: the
database must not exist, and gets its name only when it is complete. A restore that fails removes what it made, unless
--keep-partial is set; what it cannot remove, and a complete database whose name somebody took meanwhile, it names
with the statements to run.

The newest snapshot is taken, with --at the newest at or before that time, with --snapshot that one. The
database is made on the server that the snapshot came from, or on the one named by --server. The repository is
only read.

Times: 2026-11-20T14:00:00+01:00, "2026-11-20 14:00" (this machine's zone, or --tz), 2026-11-20, "3h ago".

Exit codes: 0 done (with --dry-run: it would work); 1 failed, or the target lacks something; 2 wrong usage or
configuration, an unknown workspace or snapshot, a time before the first snapshot, or the database exists.`,
		Example: `  hourvault restore acme --at "2026-11-20 14:00" --into restored_acme
  hourvault restore acme --at "3h ago" --into restored_acme --dry-run
  hourvault restore eu-1/acme --snapshot 20261120T130000Z-0123456789abcdef --into acme --server eu-2`,
		Args:              exactlyOne("workspace"),
		ValidArgsFunction: a.completeWorkspaces(1),
		RunE: func(command *cobra.Command, args []string) error {
			opts.workspace = args[0]
			return runRestore(command.Context(), a, opts)
		},
	}
	flags := command.Flags()
	flags.StringVar(&opts.at, "at", "", "restore the newest snapshot at or before `TIME`")
	flags.StringVar(&opts.snapshot, "snapshot", "", "restore the snapshot called `ID`")
	flags.StringVar(&opts.into, "into", "", "`DATABASE` to make")
	flags.StringVar(&opts.server, "server", "", "`NAME` of the server to restore to (default: the one the snapshot came from)")
	flags.IntVar(&opts.jobs, "jobs", restore.DefaultJobs, "tables loaded and indexes built at the same time")
	flags.BoolVar(&opts.keepPartial, "keep-partial", false, "keep what was restored when it fails, under a temporary name")
	flags.BoolVar(&opts.createRoles, "create-roles", false, "make missing roles, without login and privileges")
	flags.BoolVar(&opts.noTablespaces, "no-tablespaces", false, "place everything in the default tablespace")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "check that it would work and say what would be done")
	flags.BoolVar(&opts.inPlace, "in-place", false, "not in this version")
	_ = flags.MarkHidden("in-place") // it was defined in the line above
	_ = command.RegisterFlagCompletionFunc("snapshot", a.completeSnapshots)
	return command
}

func (o *restoreOptions) check() error {
	switch {
	case o.inPlace:
		return usagef("--in-place is not in this version: restore with --into beside the live database, then swap the two by renaming")
	case o.into == "":
		return usagef("say into which new database to restore: --into DATABASE")
	case o.at != "" && o.snapshot != "":
		return usagef("--at and --snapshot both choose a snapshot: give one of them")
	case o.jobs < 1:
		return usagef("--jobs is %d: it must be at least 1", o.jobs)
	}
	return nil
}

func runRestore(ctx context.Context, a *app, opts restoreOptions) error {
	if err := opts.check(); err != nil {
		return err
	}
	begin := a.now()
	var at time.Time
	if opts.at != "" {
		var err error
		if at, err = timeexpr.ParseInstant(opts.at, begin, a.zone); err != nil {
			return usagef("--at: %w", err)
		}
		if at.After(begin) {
			a.say("hourvault: %s is in the future: the newest snapshot is taken", a.formatTime(at))
		}
	}
	loaded, err := a.loadConfig()
	if err != nil {
		return err
	}
	repo, done, err := a.openRepository(ctx, loaded, readOnly)
	if err != nil {
		return err
	}
	defer done()
	all, problem := repo.Workspaces(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	named := nameWorkspaces(all)
	workspace, err := a.pickWorkspace(ctx, named, opts.workspace, problem)
	if err != nil {
		return err
	}
	snapshot, err := a.chooseSnapshot(ctx, workspace, at, opts.snapshot)
	var early *tooEarlyError
	if errors.As(err, &early) {
		err = &usageError{fmt.Errorf("%w%s", err, a.formerly(ctx, named, workspace, at))}
	}
	if err != nil {
		return err
	}
	manifest := snapshot.Manifest()
	target, err := a.chooseTarget(loaded, opts.server, manifest.Server)
	if err != nil {
		return err
	}
	server, err := a.openServer(target)
	if err != nil {
		return err
	}

	older := ""
	if !at.IsZero() && !at.After(begin) {
		older = fmt.Sprintf(", %s before the time asked for", console.FormatDuration(at.Sub(manifest.Time)))
	}
	intent := fmt.Sprintf("%s as of %s (snapshot %s%s)", console.Printable(workspace.name), a.formatTime(manifest.Time), manifest.Snapshot, older)
	document := restoreDocument{DryRun: opts.dryRun, Workspace: workspace.document(), Snapshot: describeSnapshot(snapshot), Server: target.Name, Into: opts.into}
	options := restore.Options{
		Into: opts.into, Jobs: opts.jobs, KeepPartial: opts.keepPartial, CreateRoles: opts.createRoles, NoTablespaces: opts.noTablespaces,
	}
	if opts.dryRun {
		plan, err := restore.Preflight(ctx, server, snapshot, options)
		if err != nil {
			return explainRestore(err)
		}
		plan.Tables = withoutLargeObjects(plan.Tables)
		document.Plan, document.DurationNS = &plan, a.now().Sub(begin)
		plan.Warnings = notNil(plan.Warnings)
		if a.global.json {
			return a.answer(document)
		}
		return a.printPlan(intent, target.Name, plan)
	}

	// Nothing is shown before the checks are over: what they refuse is told in one line. Rows have a bar, whose time left
	// would be a lie about the phases after them.
	var bar *console.Progress
	var phase restore.Phase
	var shown int64
	options.Progress = func(p restore.Progress) { // calls do not overlap
		if p.Phase != phase {
			phase = p.Phase
			if bar != nil {
				bar.Finish(nil)
				bar = nil
			}
			switch phase {
			case restore.PhaseCheck:
			case restore.PhaseCreate:
				a.say("restoring %s to server %s", intent, target.Name)
			case restore.PhaseRows:
				bar = a.progress(string(phase), console.Bytes, p.BytesTotal)
			default:
				a.say("%s ...", phase)
			}
		}
		if bar != nil {
			bar.SetTotal(p.BytesTotal)
			bar.Add(p.Bytes - shown)
			shown = p.Bytes
		}
	}
	result, err := restore.Run(ctx, server, snapshot, options)
	if bar != nil {
		bar.Finish(err)
	}
	if err != nil {
		return explainRestore(err)
	}
	result.Tables = withoutLargeObjects(result.Tables)
	document.Result, document.DurationNS = &result, a.now().Sub(begin)
	result.Phases, result.Warnings = notNil(result.Phases), notNil(result.Warnings)
	a.logger.Info("workspace restored", zap.String("workspace", safe(workspace.name)), zap.String("snapshot", manifest.Snapshot.String()),
		zap.String("server", target.Name), zap.String("database", safe(opts.into)), zap.Int64("rows", result.Rows), zap.Duration("duration", document.DurationNS))
	if a.global.json {
		return a.answer(document)
	}
	return a.printRestored(workspace, target.Name, result, document.DurationNS)
}

// explainRestore adds the flags that mend what package restore reports.
func explainRestore(err error) error {
	if isDamage(err) {
		left := "nothing was left behind; "
		if failed := (*restore.Error)(nil); errors.As(err, &failed) && (failed.Kept != "" || len(failed.Remove) > 0) {
			left = ""
		}
		return fmt.Errorf("%w: %schoose another snapshot with --snapshot; hourvault verify --read-data says which are damaged", err, left)
	}
	var refused *restore.PreflightError
	if !errors.As(err, &refused) {
		return err
	}
	for _, problem := range refused.Problems {
		switch problem.Code {
		case "roles_missing":
			return fmt.Errorf("%w (--create-roles makes roles that are not superusers)", err)
		case "tablespace_missing":
			return fmt.Errorf("%w (--no-tablespaces does without)", err)
		}
	}
	return err
}

// isDamage says whether something of a snapshot is missing or not what was stored.
func isDamage(err error) bool {
	var beyond *objectstore.RangeError
	var large *objectstore.TooLargeError
	return errors.Is(err, repository.ErrDamaged) || errors.Is(err, objectstore.ErrNotFound) || errors.Is(err, crypto.ErrNotAuthentic) ||
		errors.Is(err, crypto.ErrNotSealed) || errors.As(err, &beyond) || errors.As(err, &large)
}

// clockSlack is how much the clocks of a database server and of the machine that took snapshots may differ before --at
// could miss a snapshot: a snapshot's name tells the time on one of them, its content's time is on the other.
const clockSlack = 24 * time.Hour

// chooseSnapshot opens the snapshot with that id or, without one, the newest at or before at; a zero at means the newest
// of all.
func (a *app) chooseSnapshot(ctx context.Context, workspace namedWorkspace, at time.Time, id string) (*repository.Snapshot, error) {
	name := console.Printable(workspace.name)
	if id != "" {
		wanted, err := repository.ParseSnapshotID(id)
		if err != nil {
			return nil, usagef("--snapshot: %w: hourvault snapshots %s lists those there are", err, name)
		}
		snapshot, err := workspace.OpenSnapshot(ctx, wanted)
		if isNotThere(err) {
			return nil, usagef("workspace %s has no snapshot %s: hourvault snapshots %s lists those there are", name, wanted, name)
		}
		return snapshot, err
	}
	ids, err := workspace.SnapshotIDs(ctx)
	if err != nil {
		return nil, fmt.Errorf("list snapshots of %s: %w", name, err)
	}
	for i := len(ids) - 1; i >= 0; i-- {
		if !at.IsZero() && ids[i].Begun().After(at.Add(clockSlack)) {
			continue
		}
		snapshot, err := workspace.OpenSnapshot(ctx, ids[i])
		if isNotThere(err) {
			continue
		}
		if err != nil {
			// An older one is not what was asked for: that is not for hourvault to decide.
			return nil, fmt.Errorf("snapshot %s of %s may be the one asked for and cannot be read (choose another with --snapshot): %w", ids[i], name, err)
		}
		if at.IsZero() || !snapshot.Manifest().Time.After(at) {
			return snapshot, nil
		}
	}
	for _, first := range ids {
		snapshot, err := workspace.OpenSnapshot(ctx, first)
		if isNotThere(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return nil, &tooEarlyError{fmt.Sprintf("workspace %s has no snapshot at or before %s: its first is of %s, %s", name, a.formatTime(at), a.formatTime(snapshot.Manifest().Time), first)}
	}
	return nil, usagef("workspace %s has no snapshots yet", name)
}

// tooEarlyError says that a workspace's first snapshot is later than the time asked for.
type tooEarlyError struct{ text string }

func (e *tooEarlyError) Error() string { return e.text }

// formerlyTimeout bounds looking for workspaces that had a name before: an error must not wait long for its hint.
const formerlyTimeout = 20 * time.Second

// formerly says, as the end of an error, which other workspaces had workspace's name and have a snapshot at or before at: a
// database that was replaced by renaming keeps its snapshots under the name that it has now. The newest such snapshot
// of each workspace is looked at.
func (a *app) formerly(ctx context.Context, named []namedWorkspace, workspace namedWorkspace, at time.Time) string {
	ctx, cancel := context.WithTimeout(ctx, formerlyTimeout)
	defer cancel()
	hints := make([]string, len(named))
	var group errgroup.Group
	group.SetLimit(manifestReaders)
	for i, other := range named {
		if other.ID() == workspace.ID() || other.record.Created.After(at.Add(clockSlack)) {
			continue
		}
		group.Go(func() error {
			snapshot, err := a.chooseSnapshot(ctx, other, at, "")
			if err != nil { // a hint only
				return nil
			}
			if then := snapshot.Manifest(); then.Server == workspace.record.Server && then.Database.Name == workspace.record.Database {
				hints[i] = fmt.Sprintf("%s, of %s", console.Printable(other.name), a.formatTime(then.Time))
			}
			return nil
		})
	}
	_ = group.Wait()
	hints = slices.DeleteFunc(hints, func(hint string) bool { return hint == "" })
	if len(hints) == 0 {
		return "; hourvault snapshots lists those of all workspaces, also of databases that had this name before"
	}
	return "; another database had that name then: restore " + strings.Join(hints, ", or ")
}

// chooseTarget returns the configuration of the server to restore to.
func (a *app) chooseTarget(loaded *config.Config, wanted, recorded string) (*config.Server, error) {
	if wanted != "" {
		return findServer(loaded, wanted)
	}
	if found, ok := loaded.Server(recorded); ok {
		return found, nil
	}
	return nil, usagef("the snapshot came from server %s, which is not in %s (%s): name a server with --server", console.Printable(recorded), loaded.File, configuredServers(loaded))
}

func (a *app) printPlan(intent, server string, plan restore.Plan) error {
	for _, warning := range plan.Warnings {
		a.say("hourvault: warning: %s", warningLine(warning))
	}
	_, err := fmt.Fprintf(a.streams.Out, "would restore %s into database %s on server %s (PostgreSQL %d, pg_restore %s)\n%s, %d rows, %s; nothing was changed\n",
		intent, console.Printable(plan.Into), server, plan.TargetVersion/10000, plan.PgRestore, count(plan.Tables, "table"), plan.Rows, console.FormatSize(plan.Bytes))
	for _, role := range plan.CreateRoles {
		if err == nil {
			_, err = fmt.Fprintf(a.streams.Out, "would make role %s\n", console.Printable(string(role.Name)))
		}
	}
	return err
}

func (a *app) printRestored(workspace namedWorkspace, server string, result restore.Result, took time.Duration) error {
	for _, warning := range result.Warnings {
		a.say("hourvault: warning: %s", warningLine(warning))
	}
	_, err := fmt.Fprintf(a.streams.Out, "restored %s into database %s on server %s in %s: %s, %d rows, %s, %s, %s\n",
		console.Printable(workspace.name), console.Printable(result.Database), server, console.FormatDuration(took), count(result.Tables, "table"), result.Rows,
		console.FormatSize(result.Bytes), count(int(result.LargeObjects), "large object"), count(result.Sequences, "sequence"))
	if err != nil {
		return err
	}
	out := &errWriter{out: a.streams.Out}
	for _, phase := range result.Phases {
		out.printf("  %-30s %s\n", phase.Phase, console.FormatDuration(phase.Duration))
	}
	for _, role := range result.CreatedRoles {
		out.printf("  made role %s\n", console.Printable(string(role)))
	}
	if out.err != nil {
		return out.err
	}
	a.say("%s", nextStep(workspace.record.Database, catalog.Text(result.Database)))
	return nil
}

// nextStep says what to do with a restored database.
func nextStep(live, restored catalog.Text) string {
	if live == restored {
		return "next: the database is complete and has the name the applications know: let them connect"
	}
	kept := live + "_before_restore"
	return fmt.Sprintf("next: look at it; to put it in the place of the live one, disconnect the applications and run, connected to another database:\n"+
		"  ALTER DATABASE %s RENAME TO %s; ALTER DATABASE %s RENAME TO %s;\n"+
		"the snapshots taken so far stay with the old database, which hourvault calls %s from its next backup on; the restored\n"+
		"one begins a history of its own, as %s: to go back to before the swap, restore %s",
		postgres.QuoteIdentifier(live), postgres.QuoteIdentifier(kept), postgres.QuoteIdentifier(restored), postgres.QuoteIdentifier(live),
		console.Printable(string(kept)), console.Printable(string(live)), console.Printable(string(kept)))
}
