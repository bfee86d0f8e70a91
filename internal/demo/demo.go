// Package demo tells the whole story of a backup on throw-away parts: a PostgreSQL cluster, a repository and a root key of
// its own, three workspaces of a made-up product, snapshots, damage, and the restore of one workspace beside the live
// one. It then proves with PostgreSQL's own programs, and none of hourvault's code, that what came back is equal.
//
// It needs no configuration, no network and no right but to write temporary files; it leaves nothing behind unless
// asked to. It prints nothing: what happens is told to an [Observer].
package demo

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/postgres/throwaway"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/internal/serverprocess"
	"github.com/hourvault/hourvault/restore"
	"github.com/hourvault/hourvault/scheduler"
)

//go:embed sql
var scripts embed.FS

// Options say how the demonstration is made. The zero value is usable.
type Options struct {
	// BinDir holds the programs of the PostgreSQL version to use: initdb, postgres, psql, pg_dump, pg_restore. Empty means
	// the newest version that is found.
	BinDir string
	// Version is that of hourvault, recorded in snapshots.
	Version string
	// Keep leaves cluster, repository and root key on disk; Report.Kept says where. The server is stopped all the same.
	Keep bool
	// Observer, when set, is told what happens. Its calls do not overlap.
	Observer Observer

	// small makes workspaces that are too small to impress anyone, for tests.
	small bool
	// beforeComparison, when set, may change the restored copy: so tests see a proof fail.
	beforeComparison func(ctx context.Context, d *demo) error
	// tempDir is where everything is written, instead of the system's directory for temporary files.
	tempDir string
}

// Observer follows a demonstration.
type Observer interface {
	// Begin is called before a step.
	Begin(step Step)
	// End is called after a step that did not fail; Step.Duration is known, and so is what the step adds to the report.
	End(step Step, report *Report)
}

// Stage names a step: stable words.
type Stage string

// The steps, in order.
const (
	StageServer     Stage = "server"
	StageRepository Stage = "repository"
	StageWorkspaces Stage = "workspaces"
	StageFirst      Stage = "first_snapshots"
	StageHour       Stage = "an_hour_of_work"
	StageSecond     Stage = "second_snapshots"
	StageWitness    Stage = "witness"
	StageDamage     Stage = "damage"
	StageThird      Stage = "third_snapshots"
	StageRestore    Stage = "restore"
	StageCompare    Stage = "compare"
	StageUntouched  Stage = "untouched"
	StageVerify     Stage = "verify"
)

// Damaged is the workspace that is damaged and restored, and Restored the database it is restored into.
const (
	Damaged  = "acme"
	Restored = "acme_restored"
)

// serverName is the server's name in the repository.
const serverName = "demo"

// workspace is a database to make and its size, in rows.
type workspace struct {
	database                 string
	customers, events, files int
}

// workspaces are the databases that are made.
func (d *demo) workspaces() []workspace {
	if d.options.small {
		return []workspace{{Damaged, 80, 1000, 10}, {"globex", 60, 500, 5}, {`Möbel "Nord"`, 60, 500, 5}}
	}
	return []workspace{{Damaged, 2000, 60000, 100}, {"globex", 800, 25000, 60}, {`Möbel "Nord"`, 300, 10000, 30}}
}

// ErrNoServer says that the programs of a PostgreSQL server that could be used were not found.
var ErrNoServer = errors.New("no PostgreSQL server to show it with")

// ErrNotProven says that the demonstration came to its end and that a proof failed: the report says which.
var ErrNotProven = errors.New("the restored workspace could not be proven equal")

// Run makes the demonstration. Its errors may be ErrNoServer and ErrNotProven, or are the first step's that failed. The report is never nil; when the error is not nil it holds what was reached. Everything that
// was started is stopped and, without Options.Keep, everything written is removed before Run returns, also when ctx ends.
func Run(ctx context.Context, options Options) (report *Report, err error) {
	begin := time.Now()
	d := &demo{options: options, report: &Report{Steps: []Step{}, Workspaces: []Workspace{}, Rounds: []Round{}, Damage: []Damage{}, Tables: []Table{}, Proofs: []Proof{}}}
	defer func() {
		err = errors.Join(err, d.end())
		d.report.Duration = time.Since(begin)
	}()
	if d.options.tempDir == "" {
		d.options.tempDir = os.TempDir()
	}
	if d.tools, err = findServer(options.BinDir); err != nil {
		return d.report, err
	}
	for _, step := range []struct {
		stage Stage
		title string
		do    func(context.Context) error
	}{
		{StageServer, fmt.Sprintf("start a throw-away PostgreSQL %s", d.tools.Version), d.startServer},
		{StageRepository, "create a throw-away repository and root key", d.createRepository},
		{StageWorkspaces, "make three workspaces, one database each", d.makeWorkspaces},
		{StageFirst, "take a snapshot of each", func(ctx context.Context) error { return d.takeSnapshots(ctx, StageFirst) }},
		{StageHour, "an hour of ordinary work in each", d.work},
		{StageSecond, "take the next snapshots: only what changed is stored", func(ctx context.Context) error { return d.takeSnapshots(ctx, StageSecond) }},
		{StageWitness, "write down what is there, with pg_dump and COPY", d.witness},
		{StageDamage, "a script meant for a test database runs in " + Damaged, d.damage},
		{StageThird, "the next hour comes: snapshots are taken of the damage, too", func(ctx context.Context) error { return d.takeSnapshots(ctx, StageThird) }},
		{StageRestore, fmt.Sprintf("restore %s to the moment before, beside the live database", Damaged), d.restore},
		{StageCompare, "compare the restored database with what was written down", func(ctx context.Context) error { return d.compare(ctx, Restored) }},
		{StageUntouched, "compare what must not have been touched", d.untouched},
		{StageVerify, "verify the repository, reading all data", d.verify},
	} {
		if err := d.step(ctx, step.stage, step.title, step.do); err != nil {
			return d.report, err
		}
	}
	d.report.Proven = true
	for _, proof := range d.report.Proofs {
		d.report.Proven = d.report.Proven && proof.Holds
	}
	if !d.report.Proven {
		return d.report, ErrNotProven
	}
	return d.report, nil
}

// demo is one demonstration.
type demo struct {
	options Options
	report  *Report
	tools   postgres.Tools

	workDir    *serverprocess.WorkDir
	base       string // directory of all files
	identity   serverprocess.Identity
	cluster    *throwaway.Cluster
	store      *objectstore.Directory
	repository *repository.Repository
	// reader connects as the role that takes backups, writer as the superuser who restores.
	reader, writer *postgres.Server

	instant  time.Time            // the moment before the damage
	before   map[string]*contents // by database
	dump     []byte               // of the workspace that is damaged
	damaged  *contents            // of that workspace, after the damage
	restored restore.Result
}

// step does one step and records how long it took.
func (d *demo) step(ctx context.Context, stage Stage, title string, do func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	step := Step{Stage: stage, Number: len(d.report.Steps) + 1, Title: title}
	if d.options.Observer != nil {
		d.options.Observer.Begin(step)
	}
	begin := time.Now()
	if err := do(ctx); err != nil {
		if ctx.Err() != nil {
			// What the end of the context broke off says less than why it ended.
			err = context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w", title, err)
	}
	step.Duration = time.Since(begin)
	d.report.Steps = append(d.report.Steps, step)
	if d.options.Observer != nil {
		d.options.Observer.End(step, d.report)
	}
	return nil
}

func (d *demo) startServer(ctx context.Context) error {
	if err := serverprocess.RemoveAbandoned(d.options.tempDir); err != nil {
		return fmt.Errorf("remove what an earlier demonstration left: %w", err)
	}
	var err error
	if d.identity, err = serverprocess.Unprivileged(); err != nil {
		return err
	}
	if d.workDir, err = serverprocess.NewWorkDir(d.options.tempDir); err != nil {
		return err
	}
	dir, err := d.workDir.Subdirectory("postgres-*", d.identity)
	if err != nil {
		return err
	}
	d.base = filepath.Dir(dir)
	if d.cluster, err = throwaway.New(ctx, throwaway.Options{BinDir: d.tools.Dir, Dir: dir, As: d.identity}); err != nil {
		return err
	}
	d.report.PostgreSQL, d.report.BinDir = d.tools.Version, d.tools.Dir
	if err := d.script(ctx, "postgres", "cluster.sql"); err != nil {
		return err
	}
	open := func(user string) (*postgres.Server, error) {
		return postgres.NewServer(postgres.ServerConfig{Name: serverName, DSN: d.cluster.DSNFor(user, "postgres"), Connections: 4, BinDirs: []string{d.tools.Dir}})
	}
	if d.reader, err = open("hourvault"); err != nil {
		return err
	}
	d.writer, err = open(throwaway.Superuser)
	return err
}

func (d *demo) createRepository(ctx context.Context) error {
	key, err := crypto.CreateRootKeyFile(d.rootKeyFile())
	if err != nil {
		return err
	}
	if d.store, err = objectstore.OpenDirectory(d.repositoryDir(), objectstore.DirectoryOptions{Create: true}); err != nil {
		return err
	}
	d.repository, err = repository.Create(ctx, d.store, key, time.Now())
	return err
}

func (d *demo) rootKeyFile() string { return filepath.Join(d.base, "root.key") }

func (d *demo) repositoryDir() string { return filepath.Join(d.base, "repository") }

func (d *demo) makeWorkspaces(ctx context.Context) error {
	for i, workspace := range d.workspaces() {
		if _, err := d.psql(ctx, "postgres", "CREATE DATABASE "+postgres.QuoteIdentifier(catalog.Text(workspace.database))+" OWNER helpdesk_owner;"); err != nil {
			return err
		}
		if err := d.script(ctx, workspace.database, "workspace.sql", append(workspace.variables(), fmt.Sprintf("seed=%d", i+1))...); err != nil {
			return err
		}
	}
	entries, err := d.entries(ctx)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		now, err := d.content(ctx, string(entry.Name))
		if err != nil {
			return err
		}
		d.report.Workspaces = append(d.report.Workspaces, Workspace{Database: string(entry.Name), Tables: now.tables(), Rows: now.rows(), DiskBytes: entry.SizeBytes})
	}
	return nil
}

func (w workspace) variables() []string {
	return []string{fmt.Sprintf("customers=%d", w.customers), fmt.Sprintf("events=%d", w.events), fmt.Sprintf("files=%d", w.files)}
}

// entries are the workspaces' databases, in the order of workspaces.
func (d *demo) entries(ctx context.Context) ([]postgres.DatabaseEntry, error) {
	all, err := d.writer.Databases(ctx)
	if err != nil {
		return nil, err
	}
	var entries []postgres.DatabaseEntry
	for _, workspace := range d.workspaces() {
		for _, entry := range all {
			if string(entry.Name) == workspace.database {
				entries = append(entries, entry)
			}
		}
	}
	if len(entries) != len(d.workspaces()) {
		return nil, fmt.Errorf("%d of %d workspaces are on the server", len(entries), len(d.workspaces()))
	}
	return entries, nil
}

// takeSnapshots does what hourvault backup --all does.
func (d *demo) takeSnapshots(ctx context.Context, stage Stage) error {
	entries, err := d.entries(ctx)
	if err != nil {
		return err
	}
	results := make([]*backup.Result, len(entries))
	jobs := make([]scheduler.Job, len(entries))
	for i, entry := range entries {
		jobs[i] = scheduler.Job{Server: serverName, Run: func(ctx context.Context) (err error) {
			results[i], err = backup.Run(ctx, d.reader, entry, d.repository, backup.Options{Holder: "hourvault demo", Version: d.options.Version})
			return err
		}}
	}
	round := Round{Stage: stage, Snapshots: []Snapshot{}}
	for i, outcome := range scheduler.Run(ctx, jobs, scheduler.Limits{}) {
		if outcome.Err != nil {
			return fmt.Errorf("workspace %s: %w", entries[i].Name, outcome.Err)
		}
		manifest := results[i].Snapshot.Manifest()
		warnings := manifest.Warnings
		if warnings == nil {
			warnings = []catalog.Warning{}
		}
		round.Snapshots = append(round.Snapshots, Snapshot{
			Workspace: string(entries[i].Name), Snapshot: manifest.Snapshot.String(), Time: manifest.Time.UTC(), Rows: manifest.Statistics.Rows,
			ContentBytes: manifest.Statistics.ContentBytes, NewBytes: manifest.Statistics.NewBytes, StoredBytes: manifest.Statistics.StoredBytes,
			Warnings: warnings, Duration: results[i].Duration,
		})
	}
	d.report.Rounds = append(d.report.Rounds, round)
	return nil
}

func (d *demo) work(ctx context.Context) error {
	for _, workspace := range d.workspaces() {
		if err := d.script(ctx, workspace.database, "hour.sql", workspace.variables()...); err != nil {
			return err
		}
	}
	return nil
}

// witness writes down what the workspaces are, and the instant at which they are that.
func (d *demo) witness(ctx context.Context) (err error) {
	d.before = map[string]*contents{}
	for _, workspace := range d.workspaces() {
		if d.before[workspace.database], err = d.content(ctx, workspace.database); err != nil {
			return err
		}
	}
	if d.dump, err = d.pgDump(ctx, Damaged); err != nil {
		return err
	}
	d.instant = time.Now().UTC()
	d.report.Instant = d.instant
	return nil
}

func (d *demo) damage(ctx context.Context) error {
	script, err := scripts.ReadFile("sql/damage.sql")
	if err != nil {
		return err
	}
	said, err := d.psql(ctx, Damaged, string(script))
	if err != nil {
		return err
	}
	d.report.Damage = readDamage(string(said))
	d.damaged, err = d.content(ctx, Damaged)
	return err
}

// restore does what hourvault restore --at --into does.
func (d *demo) restore(ctx context.Context) error {
	all, err := d.repository.Workspaces(ctx)
	if err != nil {
		return err
	}
	for _, workspace := range all {
		if string(workspace.Record().Database) != Damaged {
			continue
		}
		snapshot, err := newestAt(ctx, workspace, d.instant)
		if err != nil {
			return err
		}
		begin := time.Now()
		if d.restored, err = restore.Run(ctx, d.writer, snapshot, restore.Options{Into: Restored}); err != nil {
			return err
		}
		if d.restored.Warnings == nil {
			d.restored.Warnings = []catalog.Warning{}
		}
		d.report.Restore = &Restore{
			Workspace: Damaged, Into: Restored, At: d.instant, Snapshot: snapshot.Manifest().Snapshot.String(), Time: snapshot.Manifest().Time.UTC(),
			Rows: d.restored.Rows, Bytes: d.restored.Bytes, LargeObjects: d.restored.LargeObjects, Sequences: d.restored.Sequences,
			Phases: d.restored.Phases, Warnings: d.restored.Warnings, Duration: time.Since(begin),
		}
		if d.options.beforeComparison != nil {
			return d.options.beforeComparison(ctx, d)
		}
		return nil
	}
	return fmt.Errorf("the repository has no workspace %s", Damaged)
}

// newestAt returns the newest snapshot at or before an instant.
func newestAt(ctx context.Context, workspace *repository.Workspace, at time.Time) (*repository.Snapshot, error) {
	ids, err := workspace.SnapshotIDs(ctx)
	if err != nil {
		return nil, err
	}
	for i := len(ids) - 1; i >= 0; i-- {
		snapshot, err := workspace.OpenSnapshot(ctx, ids[i])
		if err != nil {
			return nil, err
		}
		if !snapshot.Manifest().Time.After(at) {
			return snapshot, nil
		}
	}
	return nil, fmt.Errorf("no snapshot at or before %s", at.Format(time.RFC3339))
}

// compare holds a restored database against what was written down before the damage.
func (d *demo) compare(ctx context.Context, restored string) error {
	got, err := d.content(ctx, restored)
	if err != nil {
		return err
	}
	want := d.before[Damaged]
	d.report.Tables = compareTables(want, d.damaged, got)
	equal := 0
	for _, table := range d.report.Tables {
		if table.Equal {
			equal++
		}
	}
	d.prove("rows", equal == len(d.report.Tables) && equal > 0, fmt.Sprintf("%d of %d tables, sequences, materialized views and the large objects: equal SHA-256 of what COPY prints", equal, len(d.report.Tables)), want.difference(got))
	dump, err := d.pgDump(ctx, restored)
	if err != nil {
		return err
	}
	difference := dumpDifference(d.dump, dump)
	d.prove("pg_dump", difference == "" && len(d.dump) > 0, fmt.Sprintf("pg_dump of both prints the same %d lines", strings.Count(string(d.dump), "\n")), difference)
	// A comparison that cannot tell the damaged database from the one before proves nothing.
	d.prove("damage_seen", want.difference(d.damaged) != "", "the same comparison tells the damaged database apart", "it does not tell the damaged database apart")
	return nil
}

// untouched shows that snapshots and restore changed neither the other workspaces nor the live, damaged one.
func (d *demo) untouched(ctx context.Context) error {
	for _, workspace := range d.workspaces() {
		want := d.before[workspace.database]
		if workspace.database == Damaged {
			want = d.damaged
		}
		got, err := d.content(ctx, workspace.database)
		if err != nil {
			return err
		}
		difference := want.difference(got)
		what := "is what it was before the restore, every row"
		if workspace.database == Damaged {
			what = "is still as the damage left it: it was not written to"
		}
		d.prove("untouched:"+workspace.database, difference == "", workspace.database+" "+what, workspace.database+": "+difference)
	}
	return nil
}

func (d *demo) verify(ctx context.Context) error {
	report, err := d.repository.Verify(ctx, repository.VerifyOptions{ReadData: true})
	if err != nil {
		return err
	}
	verified := &Verified{Problems: []string{}}
	for _, workspace := range report.Workspaces {
		verified.Workspaces++
		verified.Snapshots += workspace.Snapshots
		verified.Packs += workspace.Packs
		verified.ReadBytes += workspace.BytesRead
	}
	for _, problem := range report.Problems {
		verified.Problems = append(verified.Problems, problem.String())
	}
	for object, err := range d.store.List(ctx, "") {
		if err != nil {
			return err
		}
		verified.Objects++
		verified.RepositoryBytes += object.Size
	}
	d.report.Verify = verified
	snapshots := len(d.report.Rounds) * len(d.workspaces())
	d.prove("verify", len(verified.Problems) == 0 && verified.Snapshots == snapshots, fmt.Sprintf("verify read %d snapshots and found no problem", verified.Snapshots),
		fmt.Sprintf("verify found %d of %d snapshots and %d problems", verified.Snapshots, snapshots, len(verified.Problems)))
	return nil
}

// prove records a proof: what it shows when it holds, what is wrong when it does not.
func (d *demo) prove(name string, holds bool, shows, wrong string) {
	proof := Proof{Name: name, Holds: holds, Text: shows}
	if !holds {
		proof.Text = wrong
	}
	d.report.Proofs = append(d.report.Proofs, proof)
}

// end stops the server and removes, or keeps, the files.
func (d *demo) end() error {
	var errs []error
	if d.repository != nil {
		d.repository.Close()
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.cluster != nil {
		signal := syscall.SIGQUIT
		if d.options.Keep {
			signal = syscall.SIGINT // in good order: someone will start it again
		}
		errs = append(errs, d.cluster.Stop(signal))
	}
	if d.workDir == nil {
		return errors.Join(errs...)
	}
	if d.options.Keep && d.cluster != nil && d.store != nil {
		errs = append(errs, d.keep())
	}
	return errors.Join(append(errs, d.workDir.Remove())...)
}

// keep moves the files out of the work directory, which is removed with the process that owns it.
func (d *demo) keep() error {
	dir, err := os.MkdirTemp(filepath.Dir(d.base), "hourvault-demo-kept-*")
	if err != nil {
		return fmt.Errorf("keep the files: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the server's user must pass through
		return fmt.Errorf("keep the files: %w", err)
	}
	kept := &Kept{Directory: dir, Cluster: filepath.Join(dir, "postgres"), Repository: filepath.Join(dir, "repository"), RootKey: filepath.Join(dir, "root.key")}
	for from, to := range map[string]string{d.cluster.SocketDir(): kept.Cluster, d.repositoryDir(): kept.Repository, d.rootKeyFile(): kept.RootKey} {
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("keep the files: %w", err)
		}
	}
	kept.Start = fmt.Sprintf("%s -D %s -o '-p %d -k %s' -l %s start", filepath.Join(d.tools.Dir, "pg_ctl"), filepath.Join(kept.Cluster, "data"), d.cluster.Port(), kept.Cluster, filepath.Join(kept.Cluster, "server.log"))
	d.report.Kept = kept
	return nil
}
