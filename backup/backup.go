// Package backup takes a snapshot of one workspace: it reads a database under an exported snapshot through package
// postgres and writes it through package repository. It decides what is read by which connection, and when all of it
// is known to have gone well; it knows neither the stored format nor the configuration file.
package backup

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
)

// Options say how a snapshot is taken. The zero value is usable.
type Options struct {
	// Readers is how many connections read rows at once; 0 means DefaultReaders. The server's own budget of connections
	// is kept whatever it says.
	Readers int
	// Holder names host and process for whoever finds the workspace's lease held; Version is that of hourvault.
	Holder, Version string
	// LeaseLifetime is how long a run that died keeps others waiting; 0 means repository.DefaultLeaseLifetime.
	LeaseLifetime time.Duration
	// Waiting, when set, is told once that the lease of another run is waited for. It must return quickly.
	Waiting func(repository.LeaseWait)
	// Progress, when set, is told about each range of blocks that was read. It may be called concurrently, and must
	// return quickly.
	Progress func(Progress)
}

// DefaultReaders is used where Options.Readers is 0.
const DefaultReaders = 3

// Progress is what was read of a database so far. Bytes are those of heap blocks; blocks that are found while reading
// raise the total.
type Progress struct {
	Bytes, BytesTotal int64
	Rows              int64
}

// Result is a snapshot that exists.
type Result struct {
	Snapshot  *repository.Snapshot
	Workspace *repository.Workspace
	// NewWorkspace says that this is the workspace's first snapshot.
	NewWorkspace bool
	Duration     time.Duration
}

// blockSize is the length of a heap block in bytes; servers built with another are refused nowhere, because it is only used
// for progress.
const blockSize = 8192

// unitBlocks is how many blocks one connection reads at a time: a multiple of what a listing page covers.
const unitBlocks = 4 * repository.ListingSpan

// Run takes a snapshot of a database. When it returns an error no snapshot exists, unless the error says that this could not be
// found out; packs that were stored until then are left over, and verify reports them as such.
//
// Every error but that of a database that allows no connections is, or wraps, a *StepError, or the cause of ctx. Causes that callers may want to tell apart: *repository.LeaseHeldError (another run is alive), those of
// postgres.Server.OpenSnapshot, *postgres.GaveWayError (production came first: try again later), and what
// package objectstore declares.
func Run(ctx context.Context, server *postgres.Server, database postgres.DatabaseEntry, repo *repository.Repository, options Options) (*Result, error) {
	begin := time.Now()
	if options.Readers <= 0 {
		options.Readers = DefaultReaders
	}
	if !database.AllowConnections {
		return nil, errors.New("the database does not allow connections (pg_database.datallowconn is false): allow them, or exclude it")
	}
	identity, err := server.Identity(ctx)
	if err != nil {
		return nil, at(StepConnect, err)
	}
	workspace, created, err := repo.EnsureWorkspace(ctx, repository.WorkspaceRecord{
		Server: server.Name(), Database: database.Name, Created: begin.UTC().Truncate(time.Second),
		Identity: repository.Identity{SystemIdentifier: identity.SystemIdentifier, Database: database.OID},
	})
	if err != nil {
		return nil, at(StepWorkspace, err)
	}
	writer, err := workspace.BeginSnapshot(ctx, repository.SnapshotOptions{
		Holder: options.Holder, Writer: options.Version, LeaseLifetime: options.LeaseLifetime, Waiting: options.Waiting,
	})
	if err != nil {
		return nil, ended(StepLease, err, nil)
	}
	run := &run{server: server, database: database, system: identity.SystemIdentifier, writer: writer, options: options}
	ending, err := run.read(ctx)
	if err != nil {
		return nil, ended(StepHold, err, writer.Abandon(ctx))
	}
	snapshot, err := writer.Commit(ctx, *ending)
	if err != nil {
		return nil, ended(StepCommit, err, nil)
	}
	return &Result{Snapshot: snapshot, Workspace: workspace, NewWorkspace: created, Duration: time.Since(begin)}, nil
}

// run is one snapshot in the making.
type run struct {
	server   *postgres.Server
	database postgres.DatabaseEntry
	system   string // identifier of the server whose workspace this is
	writer   *repository.SnapshotWriter
	options  Options

	snapshot *postgres.Snapshot
	bytes    atomic.Int64
	total    atomic.Int64
	rows     atomic.Int64
}

// unit is a range of blocks of one table, or a whole table that is read as one stream.
type unit struct {
	table    *repository.TableWriter
	from, to uint32
}

// read reads the whole database into the writer and returns what else the manifest says.
func (r *run) read(caller context.Context) (_ *repository.Ending, err error) {
	ctx := r.writer.Context()
	r.snapshot, err = r.server.OpenSnapshot(ctx, string(r.database.Name), postgres.SnapshotOptions{})
	if err != nil {
		if errors.Is(context.Cause(ctx), repository.ErrLeaseLost) {
			return nil, at(StepLease, context.Cause(ctx))
		}
		return nil, at(StepOpen, err)
	}
	defer func() { err = errors.Join(err, r.snapshot.Close(context.WithoutCancel(ctx))) }()
	ctx = r.snapshot.Context()
	if r.snapshot.OID() != r.database.OID {
		return nil, at(StepOpen, fmt.Errorf("database %q was dropped and made anew, or renamed, just now (oid %d, then %d): try again", r.database.Name, r.database.OID, r.snapshot.OID()))
	}
	if now := r.snapshot.Identity().SystemIdentifier; now != r.system {
		return nil, at(StepOpen, fmt.Errorf("the connection that holds the snapshot reached another server (system identifier %s) than the one asked for its identity (%s): name one server in the dsn, and no pooler", now, r.system))
	}
	ending := &repository.Ending{Time: r.snapshot.Time(), Server: r.server.Name()}
	tools, err := r.server.Tools(ctx)
	if err != nil {
		return nil, at(StepDefinitions, err)
	}
	ending.DumpVersion = tools.Version

	var dumpWarnings, captureWarnings []catalog.Warning
	units := make(chan unit)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		dumpWarnings, err = r.snapshot.SchemaArchive(ctx, r.writer.SchemaArchive())
		return at(StepDefinitions, err)
	})
	group.Go(func() error {
		defer close(units)
		return at(StepTables, r.plan(ctx, units))
	})
	for range r.options.Readers {
		group.Go(func() error { return r.readUnits(ctx, units) })
	}
	group.Go(func() (err error) {
		captureWarnings, err = r.capture(ctx, ending)
		return at(StepProperties, err)
	})
	if err := group.Wait(); err != nil {
		if cause := r.interrupted(caller); cause != nil {
			return nil, cause
		}
		return nil, at(StepHold, err) // without a step where the snapshot ended under all of them
	}
	// Only now is every row known to have been read, and every name is looked at once more.
	if ending.Reading, err = r.snapshot.Reading(r.snapshot.Context()); err != nil {
		if cause := r.interrupted(caller); cause != nil {
			return nil, cause
		}
		return nil, at(StepRecheck, err)
	}
	ending.Warnings = append(append(append(ending.Warnings, r.snapshot.Warnings()...), dumpWarnings...), captureWarnings...)
	return ending, nil
}

// plan opens the tables in the order of their oids and hands out their ranges.
func (r *run) plan(ctx context.Context, units chan<- unit) error {
	hand := func(u unit) error {
		select {
		case units <- u:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for table, err := range r.snapshot.Tables(ctx) {
		if err != nil {
			return err
		}
		writer, err := r.writer.OpenTable(ctx, table)
		if err != nil {
			return err
		}
		r.total.Add(int64(table.Blocks) * blockSize)
		step := uint32(unitBlocks)
		if table.Kind == catalog.KindExtensionConfig {
			// The extension's condition makes one statement of the whole table.
			step = max(table.Blocks, 1)
		}
		var handed []unit
		if !table.HasBlocks() {
			// Where its rows are, and whether in blocks at all, is the access method's own affair.
			handed = append(handed, unit{table: writer, to: table.Blocks})
		}
		for from := uint32(0); table.HasBlocks() && from < table.Blocks; {
			to := table.Blocks
			if to-from > step {
				to = from + step
			}
			handed = append(handed, unit{table: writer, from: from, to: to})
			from = to
		}
		for _, u := range handed {
			// Each range keeps the table open until it has ended.
			u.table.Hold()
			if err := hand(u); err != nil {
				return err
			}
		}
		if err := writer.CloseTable(); err != nil {
			return err
		}
	}
	return nil
}

// readUnits reads ranges over one connection until there are no more.
func (r *run) readUnits(ctx context.Context, units <-chan unit) (err error) {
	var reader *postgres.Reader
	blocks := r.writer.NewBlockWriter()
	defer func() {
		if reader != nil {
			err = errors.Join(err, reader.Close(context.WithoutCancel(ctx)))
		}
	}()
	for {
		var next unit
		var more bool
		select {
		case next, more = <-units:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !more {
			return at(StepStore, blocks.Close())
		}
		table := postgres.QualifiedName(next.table.Table().Schema, next.table.Table().Name)
		if reader == nil {
			if reader, err = r.snapshot.NewReader(ctx); err != nil {
				return &StepError{Step: StepRead, Table: table, Err: err}
			}
		}
		if err := r.readUnit(ctx, reader, blocks, next); err != nil {
			return &StepError{Step: StepRead, Table: table, Err: err}
		}
	}
}

// readUnit reads one range and then, once more, what of it must be stored although it was not gathered the first time.
func (r *run) readUnit(ctx context.Context, reader *postgres.Reader, blocks *repository.BlockWriter, u unit) error {
	table := u.table.Table()
	var rows int64
	var err error
	if !table.HasBlocks() {
		rows, err = reader.ReadStream(ctx, table, blocks.BeginStream(u.table))
	} else {
		if err := blocks.BeginRange(ctx, u.table, u.from, u.to); err != nil {
			return err
		}
		rows, err = reader.ReadBlocks(ctx, table, u.from, u.to, blocks)
	}
	if err != nil {
		return err
	}
	again, err := blocks.EndPass()
	if err != nil {
		return err
	}
	if table.Kind == catalog.KindExtensionConfig && len(again) > 0 {
		again = []repository.Run{{From: u.from, To: u.to}} // it is always read whole
	}
	for _, run := range again {
		if _, err := reader.ReadBlocks(ctx, table, run.From, run.To, blocks); err != nil {
			return err
		}
	}
	u.table.AddRows(rows)
	if err := blocks.EndRange(); err != nil {
		return err
	}
	if err := u.table.Release(); err != nil {
		return err
	}
	r.rows.Add(rows)
	done := r.bytes.Add(int64(u.to-u.from) * blockSize)
	if r.options.Progress != nil {
		r.options.Progress(Progress{Bytes: done, BytesTotal: r.total.Load(), Rows: r.rows.Load()})
	}
	return nil
}

// capture records what pg_dump leaves out. It uses the leader, which is otherwise idle.
func (r *run) capture(ctx context.Context, ending *repository.Ending) ([]catalog.Warning, error) {
	opened := make(map[catalog.OID]catalog.Sequence)
	for sequence, err := range postgres.CaptureSequences(ctx, r.snapshot) {
		if err != nil {
			return nil, err
		}
		opened[sequence.OID] = sequence
	}
	database, warnings, err := postgres.CaptureDatabase(ctx, r.snapshot)
	if err != nil {
		return nil, err
	}
	ending.Database = database
	if ending.MaterializedViews, err = postgres.CaptureMaterializedViews(ctx, r.snapshot); err != nil {
		return nil, err
	}
	for object, err := range postgres.CaptureLargeObjects(ctx, r.snapshot) {
		if err == nil {
			err = r.writer.AddLargeObject(object)
		}
		if err != nil {
			return nil, err
		}
	}
	// Sequences come last: they move outside of transactions, and must never be behind the rows. One that was set back meanwhile
	// is, so it is recorded as it was when the snapshot was opened.
	for sequence, err := range postgres.CaptureSequences(ctx, r.snapshot) {
		if first, known := opened[sequence.OID]; known && sequence.Behind(first) {
			warnings = append(warnings, catalog.Warning{Code: "sequence_set_back", Object: catalog.Text(postgres.QualifiedName(sequence.Schema, sequence.Name)),
				Message: "the sequence was set back while the snapshot was open: it is recorded as it was before"})
			sequence = first
		}
		if err == nil {
			err = r.writer.AddSequence(sequence)
		}
		if err != nil {
			return nil, err
		}
	}
	return warnings, nil
}
