// Package restore puts a snapshot back into a new database of a PostgreSQL server: definitions by pg_restore, rows by
// COPY, and everything that pg_dump leaves out by statements of its own (docs/adr/0006-restoring.md).
//
// A restore works on a database with a temporary name that begins with [TemporaryPrefix]; giving it the wanted name is
// its very last step. So a database that has the wanted name is complete, whatever interrupted a restore.
//
// The package does not choose a snapshot, knows neither the stored format nor the configuration file, and never
// touches an existing database.
package restore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// Source is a snapshot to be restored. Its methods are called concurrently. Their errors must not quote row data.
type Source interface {
	// Database returns the properties recorded with the snapshot.
	Database() catalog.Database
	// SchemaArchive writes the archive that pg_dump --format=custom --schema-only made. Called once per restore.
	SchemaArchive(ctx context.Context, w io.Writer) error
	// Tables yields every table whose rows the snapshot holds, in any order; an error is yielded once, last.
	Tables(ctx context.Context) iter.Seq2[catalog.StoredTable, error]
	// Rows writes the rows of one table as COPY text, in stored order, exactly table.Bytes bytes, after having verified
	// them. It returns an error when w does. Called by several goroutines, for different tables.
	Rows(ctx context.Context, table catalog.StoredTable, w io.Writer) error
	// Sequences yields the state of every sequence; an error is yielded once, last.
	Sequences(ctx context.Context) iter.Seq2[catalog.Sequence, error]
	MaterializedViews() []catalog.MaterializedView
	// LargeObjects yields the metadata of every large object, ascending by oid; an error is yielded once, last. Called
	// twice.
	LargeObjects(ctx context.Context) iter.Seq2[catalog.LargeObject, error]
}

// Options say how a restore is done. Into is required; the zero value of everything else is a sensible default.
type Options struct {
	// Into is the name of the database to make. No database may have it.
	Into string
	// Jobs is how many tables are loaded, and indexes built, at the same time; 0 is DefaultJobs. The server's own
	// budget of connections is kept whatever it says.
	Jobs int
	// KeepPartial keeps what was restored when a restore fails, under its temporary name.
	KeepPartial bool
	// CreateRoles makes roles that the snapshot names and the server lacks, without login and without privileges.
	CreateRoles bool
	// NoTablespaces places everything in the server's default tablespace.
	NoTablespaces bool
	// Progress, when set, is told how far a restore is: when a phase begins, when a table is done, and about ten times
	// a second between. Calls do not overlap; it must return quickly.
	Progress func(Progress)
}

// DefaultJobs is used where Options.Jobs is 0.
const DefaultJobs = 4

// Phase is a step of a restore.
type Phase string

// The phases of a restore, in order.
const (
	PhaseCheck             Phase = "check"
	PhaseCreate            Phase = "create database"
	PhaseDefinitions       Phase = "restore definitions"
	PhaseRows              Phase = "load rows"
	PhaseSequences         Phase = "set sequences"
	PhaseIndexes           Phase = "build indexes and constraints"
	PhaseMaterializedViews Phase = "refresh materialized views"
	PhaseStatistics        Phase = "collect statistics"
	PhaseProperties        Phase = "set properties"
	PhaseFinish            Phase = "give the database its name"
)

// Progress is how far a restore is. Bytes are those of COPY text.
type Progress struct {
	Phase               Phase
	Tables, TablesTotal int
	Rows, RowsTotal     int64
	Bytes, BytesTotal   int64
}

// Result is what a restore did.
type Result struct {
	Database string          `json:"database"`
	Phases   []PhaseDuration `json:"phases"`
	Tables   int             `json:"tables"`
	// Rows includes pages of large objects; Bytes are those of COPY text.
	Rows         int64             `json:"rows"`
	Bytes        int64             `json:"bytes"`
	LargeObjects int64             `json:"large_objects"`
	Sequences    int               `json:"sequences"`
	CreatedRoles []catalog.Text    `json:"created_roles,omitempty"`
	Warnings     []catalog.Warning `json:"warnings,omitempty"`
}

// PhaseDuration is how long a phase took.
type PhaseDuration struct {
	Phase    Phase         `json:"phase"`
	Duration time.Duration `json:"duration_ns"`
}

// TemporaryPrefix begins the name of every database that is being restored. A database with such a name is never
// finished: a restore is at work on it, failed and was asked to keep it, or was killed. It is no workspace.
const TemporaryPrefix = "hourvault restoring "

// loaderPrefix begins the name of the role that loads rows which their owner may not, or must not, load.
const loaderPrefix = "hourvault loader "

// cleanUpTimeout bounds dropping what a failed restore made.
const cleanUpTimeout = time.Minute

// downTimeout is how long cleaning up waits for a server that does not answer at all.
const downTimeout = 5 * time.Second

// Error says in which phase a restore failed, and what it left behind. The cause is testable through it.
type Error struct {
	Phase Phase
	// Kept is the name of the database left behind on request, because it could not be dropped (DropErr says why), or because it is
	// complete and only its name was taken (Finish); empty when nothing is left. It is never the name that the restored
	// database was to have.
	Kept    string
	DropErr error
	// RolesErr says why roles that the restore made could not be dropped.
	RolesErr error
	// Finish are statements that give a database that is complete the name it was to have, once that is free, to be run in this order
	// in the maintenance database by the restoring role; empty when it is not complete.
	Finish []string
	// RemoveInside are statements to be run in the database Kept by the restoring role before those of Remove: a database with
	// subscriptions cannot be dropped, and these name slots of the original.
	RemoveInside []string
	// Remove are the statements that remove what is left behind, in this order, each on its own (DROP DATABASE bears no
	// transaction), to be run in the maintenance database by the restoring role; empty when nothing is left.
	Remove []string
	Err    error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %v", e.Phase, e.Err)
	switch {
	case len(e.Finish) > 0:
		text += fmt.Sprintf(" (the restored database is complete, and kept as %q: to give it its name once that is free, run in psql, connected to another database: %s)",
			e.Kept, strings.Join(e.Finish, " "))
	case errors.Is(e.Err, errLastStepUnknown):
		text += fmt.Sprintf(" (it is complete if it has its name, and unfinished as long as it is called %q)", e.Kept)
	case e.Kept != "" && e.DropErr != nil:
		text += fmt.Sprintf(" (and the unfinished database %q could not be dropped: %v)", e.Kept, e.DropErr)
	case e.Kept != "":
		text += fmt.Sprintf(" (what was restored until then is kept as database %q)", e.Kept)
	}
	if e.RolesErr != nil {
		text += fmt.Sprintf(" (and roles of the restore could not be dropped: %v)", e.RolesErr)
	}
	if len(e.Remove) > 0 {
		text += "; to remove what is left, "
		if len(e.RemoveInside) > 0 {
			text += fmt.Sprintf("run first in psql, connected to database %q as the restoring role (others may not connect): %s and then, ",
				e.Kept, strings.Join(e.RemoveInside, " "))
		}
		text += "run in psql, connected to another database: " + strings.Join(e.Remove, " ")
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Run restores source into a new database of target named options.Into, after the checks of Preflight. Errors are a
// *PreflightError when nothing was begun, and an *Error afterwards; then the unfinished database was dropped, and the
// roles that were made for it, unless options.KeepPartial is set, or it is complete and somebody took its name meanwhile.
// When ctx ends the restore stops and cleans up behind itself, within a minute; once its last step is begun, it finishes.
func Run(ctx context.Context, target *postgres.Server, source Source, options Options) (Result, error) {
	run := &run{target: target, source: source, options: options, database: source.Database()}
	run.options.Jobs = cmp.Or(max(options.Jobs, 0), DefaultJobs)
	var checked *checked
	err := run.phase(PhaseCheck, func() (err error) {
		checked, err = preflight(ctx, target, source, run.options)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	defer checked.archive.Close()
	run.plan, run.archive = checked.plan, checked.archive
	run.result.Warnings = checked.plan.Warnings
	suffix := make([]byte, 8)
	_, _ = rand.Read(suffix) // never fails
	run.name = TemporaryPrefix + hex.EncodeToString(suffix)
	run.loader = catalog.Text(loaderPrefix + hex.EncodeToString(suffix))

	if err = run.steps(ctx); err != nil {
		return Result{}, run.failed(ctx, err)
	}
	if cleanUp := run.dropLoader(ctx); cleanUp != nil {
		run.warn("loader_role_left", run.loader, fmt.Sprintf("temporary role could not be dropped (%v): run %s", cleanUp, dropRoleSQL(run.loader)))
	}
	run.result.Database = options.Into
	return run.result, nil
}

// failed cleans up behind a restore that failed and returns its error.
func (r *run) failed(ctx context.Context, err error) error {
	failed := &Error{Phase: r.current, Err: err}
	// Complete, but for its name: then its roles are no leftovers either.
	complete := r.current == PhaseFinish && (errors.Is(err, ErrDatabaseExists) || errors.Is(err, errLastStepUnknown))
	kept := complete || r.options.KeepPartial
	switch {
	case !r.created:
	case errors.Is(err, errLastStepUnknown):
		failed.Kept = r.name
	case complete:
		failed.Kept = r.name
		for _, statement := range transaction(r.finishStatements()) {
			failed.Finish = append(failed.Finish, statement+";")
		}
	case kept:
		failed.Kept = r.name
		_ = r.untune(ctx) // the database is unfinished, with or without
		if len(r.archive.subscriptionsRestored()) > 0 {
			_ = r.releaseSlots(ctx, false) // RemoveInside does it, too
		}
	default:
		if failed.DropErr = r.drop(ctx); failed.DropErr != nil {
			failed.Kept = r.name
		}
	}
	if failed.Kept != "" {
		if len(r.archive.subscriptionsRestored()) > 0 {
			failed.RemoveInside = append(failed.RemoveInside, removeSubscriptionsSQL)
		}
		failed.Remove = append(failed.Remove, dropDatabaseSQL(r.name))
	}
	// Nothing depends on the roles once the database is gone; while it is there, those that own something in it cannot go.
	if failed.Kept == "" || kept {
		failed.RolesErr = r.dropLoader(ctx)
	}
	if r.loaderCreated {
		failed.Remove = append(failed.Remove, dropRoleSQL(r.loader))
	}
	if failed.Kept == "" {
		if rolesErr := r.dropCreatedRoles(ctx); rolesErr != nil {
			failed.RolesErr = cmp.Or(failed.RolesErr, rolesErr)
		}
	}
	if r.rolesCreated && !kept {
		for _, role := range r.plan.CreateRoles {
			failed.Remove = append(failed.Remove, dropRoleSQL(role.Name))
		}
	}
	return failed
}

// run is one restore.
type run struct {
	target   *postgres.Server
	source   Source
	options  Options
	database catalog.Database // as recorded
	plan     Plan
	archive  *archive

	name          string       // temporary name of the database
	oid           catalog.OID  // of the database, once it was created
	loader        catalog.Text // role, see loaderPrefix
	created       bool         // the database exists
	renaming      bool         // the last step was begun
	rolesCreated  bool
	loaderCreated bool
	current       Phase

	mutex    sync.Mutex
	result   Result
	progress Progress
	told     time.Time // when Progress was last called
}

// steps does everything after the checks. The order of the phases is the subject of docs/adr/0006-restoring.md.
func (r *run) steps(ctx context.Context) error {
	for _, step := range []struct {
		phase Phase
		do    func(context.Context) error
	}{
		{PhaseCreate, r.create},
		{PhaseDefinitions, func(ctx context.Context) error { return r.archive.restore(ctx, r, stageDefinitions) }},
		{PhaseRows, r.loadRows},
		{PhaseSequences, r.setSequences},
		{PhaseIndexes, func(ctx context.Context) error {
			if err := r.archive.restore(ctx, r, stageChecks); err != nil {
				return err
			}
			if err := r.archive.restore(ctx, r, stageIndexes); err != nil {
				return err
			}
			return r.setUserMappings(ctx)
		}},
		{PhaseMaterializedViews, r.refreshMaterializedViews},
		{PhaseStatistics, r.analyze},
		{PhaseProperties, func(ctx context.Context) error {
			if err := r.makeDurable(ctx); err != nil {
				return err
			}
			if err := r.archive.restore(ctx, r, stageEventTriggers); err != nil {
				return err
			}
			return r.setProperties(ctx)
		}},
		{PhaseFinish, r.rename},
	} {
		if err := r.phase(step.phase, func() error { return step.do(ctx) }); err != nil {
			// The last step does not end with ctx.
			if ctx.Err() != nil && !r.renaming && !errors.Is(err, context.Cause(ctx)) {
				err = fmt.Errorf("%w: %v", context.Cause(ctx), err)
			}
			return err
		}
	}
	return nil
}

// phase does one phase and records how long it took.
func (r *run) phase(phase Phase, do func() error) error {
	r.current = phase
	r.report(true, func(p *Progress) { p.Phase = phase })
	begin := time.Now()
	if err := do(); err != nil {
		return err
	}
	r.result.Phases = append(r.result.Phases, PhaseDuration{Phase: phase, Duration: time.Since(begin)})
	return nil
}

// report changes the progress and tells it, at once or when the last time was long enough ago.
func (r *run) report(now bool, change func(*Progress)) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	change(&r.progress)
	if r.options.Progress == nil {
		return
	}
	if at := time.Now(); now || at.Sub(r.told) >= 100*time.Millisecond {
		r.told = at
		r.options.Progress(r.progress)
	}
}

func (r *run) warn(code string, object catalog.Text, message string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.result.Warnings = append(r.result.Warnings, catalog.Warning{Code: code, Object: object, Message: catalog.Text(message)})
}
