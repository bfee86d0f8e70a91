package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

type timestamp = time.Time

// DefaultAttempts is how often a snapshot is begun when tables change meanwhile.
const DefaultAttempts = 5

// SnapshotOptions may be left at its zero value.
type SnapshotOptions struct {
	// Attempts bounds how often the snapshot is begun again because tables were created, dropped, emptied or rewritten
	// while it was opened; 0 is DefaultAttempts.
	Attempts int

	// listed is called by tests between listing the tables and locking them.
	listed func(attempt int)
	// poll is the interval of looking for waiting sessions; 0 is pollInterval.
	poll time.Duration
}

// Snapshot is an exported snapshot of one database, held by a connection of its own, the leader, with every table
// locked in ACCESS SHARE mode. It watches for sessions that wait behind its locks, and gives itself up when they wait
// too long: then its context ends, and its locks are released without the caller's doing.
//
// Methods may be called concurrently. The caller closes it.
type Snapshot struct {
	server      *Server
	database    string
	oid         catalog.OID
	id          string
	time        time.Time
	application string
	identity    Identity
	encoding    string
	started     time.Time // of the postmaster
	snapshot    string    // pg_current_snapshot()
	warnings    []catalog.Warning
	relations   []relation // all that are locked, ascending by oid
	read        []relation // those whose rows are read, ascending by oid
	through     map[catalog.OID]catalog.OID
	reading     catalog.Reading // what is known since opening
	mayCheck    bool            // the role may issue CHECKPOINT

	ctx    context.Context
	cancel context.CancelCauseFunc

	leader *pgx.Conn
	turn   chan struct{} // holds the right to use leader
	spare  chan struct{} // the second place in the budget, which belongs to this snapshot

	watching chan struct{} // closed when the watcher has ended
	mutex    sync.Mutex
	readers  map[*Reader]bool
	released func()
}

// OpenSnapshot locks every table of a database and exports a snapshot of it (docs/adr/0005). It takes two places in the
// budget of connections at once and waits until they are free.
//
// Errors that callers may want to tell apart: *LockTimeoutError, *LockSpaceError, *PrivilegeError, *UnsettledError,
// *UnsupportedServerError. The snapshot's context derives from ctx.
func (s *Server) OpenSnapshot(ctx context.Context, database string, options SnapshotOptions) (*Snapshot, error) {
	leader, err := s.acquirePair(ctx)
	if err != nil {
		return nil, err
	}
	snapshot := &Snapshot{
		server: s, database: database, application: "hourvault " + rand.Text()[:10],
		turn: make(chan struct{}, 1), spare: make(chan struct{}, 1),
		watching: make(chan struct{}), readers: map[*Reader]bool{},
	}
	snapshot.released = func() { s.tokens <- struct{}{} }
	snapshot.turn <- struct{}{}
	conn, err := s.connect(ctx, database, Reading, snapshot.application, leader)
	if err != nil {
		snapshot.released()
		return nil, err
	}
	snapshot.leader = conn
	if err := snapshot.open(ctx, options); err != nil {
		closeConn(ctx, conn)
		snapshot.released()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("open a snapshot of database %s on server %s: %w", printable(database), printable(s.name), err)
	}
	snapshot.spare <- struct{}{}
	snapshot.ctx, snapshot.cancel = context.WithCancelCause(ctx)
	interval := options.poll
	if interval == 0 {
		interval = pollInterval
	}
	go snapshot.watch(interval)
	return snapshot, nil
}

// acquirePair takes two places in the budget; the function returned gives back one. Whoever waits for the second holds
// the pair, so that two snapshots can never wait for each other with one place each.
func (s *Server) acquirePair(ctx context.Context) (release func(), err error) {
	select {
	case <-s.pair:
		defer func() { s.pair <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	release, err = s.acquire(ctx, nil)
	if err != nil {
		return nil, err
	}
	if _, err := s.acquire(ctx, nil); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (s *Snapshot) open(ctx context.Context, options SnapshotOptions) error {
	var err error
	if s.identity, err = identify(ctx, s.leader); err != nil {
		return err
	}
	attempts := options.Attempts
	if attempts <= 0 {
		attempts = DefaultAttempts
	}
	patience, err := s.lockPatience(ctx)
	if err != nil {
		return err
	}
	var change string
	var refused time.Time // when the first of several attempts in a row began that were refused a lock
	for attempt := 0; attempt < attempts; {
		if refused.IsZero() {
			refused = time.Now()
		}
		until := refused.Add(s.server.lockTimeout)
		again := lockPause
		var locked bool
		change, locked, err = s.try(ctx, attempt, options, max(time.Millisecond, min(patience, time.Until(until))), until)
		switch {
		case err != nil:
			return err
		case locked && change == "":
			return nil
		case locked:
			attempt++
			again = time.Duration(attempt) * 200 * time.Millisecond
			refused = time.Time{}
		}
		if err := execute(ctx, s.leader, "ROLLBACK"); err != nil {
			return fmt.Errorf("roll back: %w", ServerError(err))
		}
		if attempt == attempts {
			break
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return &UnsettledError{Database: s.database, Change: change, Attempts: attempts}
}

// lockPause is how long an attempt that was refused a lock leaves all tables to others.
const lockPause = 100 * time.Millisecond

// try is one attempt. A change that calls for another is returned, with a transaction to roll back; so is, as not locked,
// that a table was refused before the time given. After it that is a *LockTimeoutError.
func (s *Snapshot) try(ctx context.Context, attempt int, options SnapshotOptions, patience time.Duration, until time.Time) (change string, locked bool, err error) {
	// Marks are read before the snapshot is opened: each is a checkpoint that was complete by then.
	if err := s.readMarks(ctx); err != nil {
		return "", false, err
	}
	listed, err := listRelations(ctx, s.leader)
	if err != nil {
		return "", false, err
	}
	if err := checkPrivileges(ctx, s.leader, s.database, listed); err != nil {
		return "", false, err
	}
	if err := checkLockSpace(ctx, s.leader, s.database, len(listed)); err != nil {
		return "", false, err
	}
	if options.listed != nil {
		options.listed(attempt)
	}
	if err := execute(ctx, s.leader, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY, NOT DEFERRABLE"); err != nil {
		return "", false, fmt.Errorf("begin: %w", ServerError(err))
	}
	if table, err := lockTables(ctx, s.leader, listed, patience, s.server.lockTimeout); err != nil {
		switch {
		case table != nil && time.Now().Add(lockPause).Before(until):
			return "", false, nil
		case table != nil:
			return "", false, s.lockTimeout(ctx, *table, err)
		case hasState(err, stateUndefinedTable, stateWrongObjectType, stateInvalidSchema, stateDeadlock):
			return fmt.Sprintf("a table was dropped, renamed, replaced or being changed: %v", ServerError(err)), true, nil
		}
		return "", false, fmt.Errorf("lock tables: %w", ServerError(err))
	}
	if err := s.fix(ctx); err != nil {
		return "", false, err
	}
	now, err := listRelations(ctx, s.leader)
	if err != nil {
		return "", false, err
	}
	if change := difference(listed, now); change != "" {
		return change, true, nil
	}
	s.relations, s.read, s.warnings = now, nil, nil
	for _, r := range now {
		if r.read() {
			s.read = append(s.read, r)
		}
	}
	if err := s.warn(ctx); err != nil {
		return "", false, err
	}
	if s.through, err = loadThrough(ctx, s.leader); err != nil {
		return "", false, err
	}
	return "", true, nil
}

// fix runs the first query of the transaction, which fixes its snapshot, and exports it.
func (s *Snapshot) fix(ctx context.Context) error {
	var xmin, xmax string
	err := s.leader.QueryRow(ctx, `
select pg_catalog.pg_export_snapshot(), statement_timestamp(), pg_catalog.pg_current_snapshot()::text,
       pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text, pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text,
       pg_catalog.pg_postmaster_start_time(), current_setting('server_encoding'),
       (select oid from pg_catalog.pg_database where datname = current_database())`).
		Scan(&s.id, &s.time, &s.snapshot, &xmin, &xmax, &s.started, &s.encoding, &s.oid)
	if err != nil {
		return fmt.Errorf("export a snapshot: %w", ServerError(err))
	}
	s.time = s.time.UTC()
	s.reading.SettingsVersion = PinnedSettingsVersion
	if err := s.reading.XMin.UnmarshalText([]byte(xmin)); err != nil {
		return fmt.Errorf("read the snapshot's xmin: %w", err)
	}
	if err := s.reading.XMax.UnmarshalText([]byte(xmax)); err != nil {
		return fmt.Errorf("read the snapshot's xmax: %w", err)
	}
	return s.readEnd(ctx)
}

func (s *Snapshot) lockTimeout(ctx context.Context, table relation, cause error) error {
	found := &LockTimeoutError{Database: s.database, Timeout: s.server.lockTimeout, Err: ServerError(cause)}
	if err := findBlocker(ctx, s.leader, table, found); err != nil {
		return fmt.Errorf("find out who holds a lock: %w", err)
	}
	return found
}

// warn names the tables with rows that a snapshot does not hold.
func (s *Snapshot) warn(ctx context.Context) error {
	for _, r := range s.relations {
		if r.kind != 'r' || r.read() {
			continue
		}
		var rows bool
		if err := s.leader.QueryRow(ctx, "select exists (select from only "+r.String()+")").Scan(&rows); err != nil {
			return fmt.Errorf("look into %s: %w", printable(r.String()), ServerError(err))
		}
		if !rows {
			continue
		}
		warning := catalog.Warning{Code: "extension_table_not_configured", Object: catalog.Text(r.String()),
			Message: "the table belongs to extension " + r.extension + ", which did not mark it as configuration: its rows are not part of the snapshot"}
		if r.extension == "" {
			warning.Code = "table_in_system_schema"
			warning.Message = "pg_dump does not define tables in a system schema: the table is not part of the snapshot"
		}
		s.warnings = append(s.warnings, warning)
	}
	return nil
}

// ID returns the exported snapshot's identifier.
func (s *Snapshot) ID() string { return s.id }

// Time returns the server's clock at the moment the snapshot was fixed, in UTC.
func (s *Snapshot) Time() time.Time { return s.time }

// Database returns the database's name.
func (s *Snapshot) Database() string { return s.database }

// OID returns the database's oid.
func (s *Snapshot) OID() catalog.OID { return s.oid }

// Identity returns what the leader's server said of itself.
func (s *Snapshot) Identity() Identity { return s.identity }

// Encoding returns the name of the server encoding, which all text of the snapshot is in.
func (s *Snapshot) Encoding() string { return s.encoding }

// Warnings returns what opening the snapshot found that it will not hold.
func (s *Snapshot) Warnings() []catalog.Warning { return s.warnings }

// Context ends when the snapshot must not be used any more. Its cause is then a *GaveWayError, a *LeaderLostError,
// ErrClosed, or that of the context given to OpenSnapshot.
func (s *Snapshot) Context() context.Context { return s.ctx }

// Query runs a query on the leader. The rows must be closed before anything else runs there, the snapshot's own methods
// included. A ctx that ends while the query runs ends the snapshot, because the connection is lost with it.
func (s *Snapshot) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, done, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.leader.Query(ctx, sql, args...)
	if err != nil {
		err = s.explain(err)
		done()
		return nil, err
	}
	return &leaderRows{Rows: rows, done: sync.OnceFunc(done), snapshot: s}, nil
}

// leaderRows gives the leader back when the rows are at their end.
type leaderRows struct {
	pgx.Rows
	done     func()
	snapshot *Snapshot
}

func (r *leaderRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.done()
	return false
}

func (r *leaderRows) Close() {
	r.Rows.Close()
	r.done()
}

func (r *leaderRows) Err() error { return r.snapshot.explain(r.Rows.Err()) }

// take waits for the leader. The context returned also ends with the snapshot; done gives the leader back.
func (s *Snapshot) take(ctx context.Context) (_ context.Context, done func(), _ error) {
	select {
	case <-s.turn:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, nil, context.Cause(s.ctx)
	}
	if s.ctx.Err() != nil {
		s.turn <- struct{}{}
		return nil, nil, context.Cause(s.ctx)
	}
	joined, release := s.join(ctx)
	return joined, func() {
		release()
		if s.leader.IsClosed() {
			s.cancel(&LeaderLostError{Database: s.database, Err: errors.New("the connection was closed")})
		}
		s.turn <- struct{}{}
	}, nil
}

// join returns a context that ends with ctx and with the snapshot.
func (s *Snapshot) join(ctx context.Context) (context.Context, func()) {
	joined, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return joined, func() {
		stop()
		cancel(nil)
	}
}

// explain replaces an error by the reason why the snapshot ended, when it has, and otherwise keeps data out of it. An
// error that shows that the leader is gone ends the snapshot.
func (s *Snapshot) explain(err error) error {
	if err == nil {
		return nil
	}
	if s.leader.IsClosed() {
		s.cancel(&LeaderLostError{Database: s.database, Err: ServerError(err)}) // the first cause stays
	}
	return s.reason(err)
}

func (s *Snapshot) reason(err error) error {
	if err != nil && s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return ServerError(err)
}

// Close rolls back, closes every connection of the snapshot and waits until they are closed. Readers may be closed
// before or after, and Close may be called again. It does not wait for a sink that blocks inside a read: that read's
// connection is closed, and the read fails when its sink returns.
func (s *Snapshot) Close(ctx context.Context) error {
	s.cancel(ErrClosed)
	<-s.watching
	return nil
}

// release gives up everything that the snapshot holds. The watcher calls it when the context has ended: so the locks
// are gone soon after, even while the caller is busy elsewhere.
func (s *Snapshot) release() {
	s.mutex.Lock()
	readers := make([]*Reader, 0, len(s.readers))
	for reader := range s.readers {
		readers = append(readers, reader)
	}
	s.mutex.Unlock()
	var group sync.WaitGroup
	for _, reader := range readers {
		group.Go(func() { s.shutReader(reader) })
	}
	// Whoever has the leader lets go of it, because the context ended. Rows that were neither read to their end nor closed
	// must not keep the locks: then the connection is cut below them, and is nobody's from then on.
	select {
	case <-s.turn:
		closeConn(s.ctx, s.leader)
		s.turn <- struct{}{}
	case <-time.After(closeWait):
		s.leader.PgConn().Conn().(*serverConn).cut()
	}
	group.Wait()
	// The spare place goes back to the server when it is free: readers and pg_dump give it back on ending.
	<-s.spare
	s.released()
}

// readerWait is how long release waits for a reader's call to return before it cuts the connection below it.
const readerWait = 500 * time.Millisecond

// shutReader closes a reader's session. A call in the middle of a read returns soon because the context ended, unless
// its sink blocks: an upload that stalls must not keep the locks, so then the connection is cut below the call.
func (s *Snapshot) shutReader(reader *Reader) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	patience := time.NewTimer(readerWait)
	defer patience.Stop()
	for !reader.turn.TryLock() {
		select {
		case <-ticker.C:
		case <-patience.C:
			reader.conn.PgConn().Conn().(*serverConn).cut()
			return
		}
	}
	reader.turn.Unlock()
	reader.shut(s.ctx) // whoever takes a turn in between finds the context ended
}
