package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// OpenEnd as the end of a range of blocks means: to the end of the table.
const OpenEnd = ^uint32(0)

// Reader is a further connection that sees what its snapshot sees. Its methods take turns when called concurrently;
// the caller closes it. It is useless once its snapshot's context has ended.
type Reader struct {
	snapshot *Snapshot
	conn     *pgx.Conn
	turn     sync.Mutex // the right to use conn
	locked   map[catalog.OID]bool
}

// NewReader opens a connection and imports the snapshot. It waits for a place in the budget of connections; one place
// belongs to the snapshot, so that the first reader, or SchemaArchive, always gets one.
func (s *Snapshot) NewReader(ctx context.Context) (*Reader, error) {
	joined, done := s.join(ctx)
	defer done()
	release, err := s.server.acquire(joined, s.spare)
	if err != nil {
		return nil, s.reason(err)
	}
	conn, err := s.server.connect(joined, s.database, Reading, s.application, release)
	if err != nil {
		return nil, s.reason(err)
	}
	reader := &Reader{snapshot: s, conn: conn, locked: map[catalog.OID]bool{}}
	if err := reader.begin(joined); err != nil {
		closeConn(joined, conn)
		return nil, fmt.Errorf("import the snapshot of database %s: %w", printable(s.database), s.reason(err))
	}
	s.mutex.Lock()
	s.readers[reader] = true
	s.mutex.Unlock()
	if s.ctx.Err() != nil {
		// The snapshot may have looked for its readers before this one was among them.
		reader.shut(ctx)
		return nil, context.Cause(s.ctx)
	}
	return reader, nil
}

func (r *Reader) begin(ctx context.Context) error {
	err := execute(ctx, r.conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY, NOT DEFERRABLE; SET TRANSACTION SNAPSHOT "+QuoteLiteral(catalog.Text(r.snapshot.id)))
	if err != nil {
		return err
	}
	// The identifiers of exported snapshots are alike on every server: behind one name there may be several.
	var started time.Time
	var snapshot string
	if err := r.conn.QueryRow(ctx, "select pg_catalog.pg_postmaster_start_time(), pg_catalog.pg_current_snapshot()::text").Scan(&started, &snapshot); err != nil {
		return err
	}
	if !started.Equal(r.snapshot.started) || snapshot != r.snapshot.snapshot {
		return errors.New("the connection reached another server than the one that holds the snapshot: name one server in the dsn, and no pooler")
	}
	return nil
}

// ReadBlocks reads the rows of table in the blocks from..to-1 (OpenEnd: to the end of the table) and passes them to
// sink. It returns their number. A table of KindExtensionConfig is read whole, whatever the range, by its condition;
// one without heap blocks is to be read by ReadStream.
//
// The first read of a table takes its lock without waiting; refusal means that someone waits for an exclusive lock
// behind the leader's, and ends the whole snapshot with a *GaveWayError. Other errors to tell apart: *OrderError,
// *RowTooLargeError, and the cause of the snapshot's context; errors of the sink are returned as they are. After an
// error the sink has seen a part of the rows, which must not be used. Memory does not depend on the size of rows.
func (r *Reader) ReadBlocks(ctx context.Context, table *catalog.Table, from, to uint32, sink RowSink) (int64, error) {
	if !table.HasBlocks() {
		return 0, fmt.Errorf("read %s: its rows must be read as a stream", printable(name(table)))
	}
	if from >= to {
		return 0, nil
	}
	query := fmt.Sprintf("select ctid%s from only %s where ctid >= '(%d,0)'", columnList(table, ", "), name(table), from)
	if to != OpenEnd {
		query += fmt.Sprintf(" and ctid < '(%d,0)'", to)
	}
	if table.Kind == catalog.KindExtensionConfig {
		// An extension's condition may make the planner use an index: then rows come in its order.
		query = fmt.Sprintf("select * from (select ctid%s from only %s %s) as configuration order by 1", columnList(table, ", "), name(table), table.Condition)
		from, to = 0, OpenEnd
	}
	splitter := newRowSplitter(table, from, to, sink)
	err := r.copy(ctx, table, "("+query+")", splitter, splitter.finish, func(ctx context.Context, cause error) error {
		return r.tooLarge(ctx, table, splitter, cause)
	})
	return splitter.rows, err
}

// ReadStream reads all rows of table, which may have any access method, and passes them to sink as block 0, announced
// once before the first row. It returns their number. Errors are those of ReadBlocks.
func (r *Reader) ReadStream(ctx context.Context, table *catalog.Table, sink RowSink) (int64, error) {
	// A plain COPY of a table plans nothing, so that no expression of an index is evaluated; it reads no child tables either.
	source := name(table)
	if len(table.Columns) > 0 {
		source += " (" + columnList(table, "") + ")"
	}
	if table.Kind == catalog.KindExtensionConfig && table.Condition != "" {
		source = "(select" + columnList(table, " ") + " from only " + name(table) + " " + string(table.Condition) + ")"
	}
	splitter := &streamSplitter{table: table, sink: sink}
	err := r.copy(ctx, table, source, splitter, splitter.finish, func(_ context.Context, cause error) error {
		return &RowTooLargeError{Table: name(table), To: OpenEnd, Err: ServerError(cause)}
	})
	return splitter.rows, err
}

// copy runs COPY source TO STDOUT into w. tooLarge makes the error for a row that the server cannot send.
func (r *Reader) copy(ctx context.Context, table *catalog.Table, source string, w io.Writer, finish func() error, tooLarge func(context.Context, error) error) error {
	joined, done := r.snapshot.join(ctx)
	defer done()
	r.turn.Lock()
	defer r.turn.Unlock()
	if err := r.lock(joined, table); err != nil {
		return err
	}
	sink := &keepError{w: w}
	restore := r.conn.PgConn().Conn().(*serverConn).divert(sink)
	_, err := r.conn.PgConn().CopyTo(joined, io.Discard, "COPY "+source+" TO STDOUT")
	restore()
	switch {
	case err == nil:
		return finish()
	case sink.err != nil:
		return sink.err // the connection is closed now; the caller's error, or an *OrderError
	case r.snapshot.ctx.Err() == nil && hasState(err, stateProgramLimitExceeded, stateInternalError, stateDataCorrupted, stateIndexCorrupted):
		return tooLarge(joined, err)
	}
	return fmt.Errorf("read %s: %w", printable(name(table)), r.snapshot.reason(err))
}

// keepError remembers that an error came from the writer and not from the server.
type keepError struct {
	w   io.Writer
	err error
}

func (k *keepError) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	if err != nil {
		k.err = err
	}
	return n, err
}

// lock takes the table's lock once, without waiting: the leader holds it already, so nothing but a waiting exclusive lock
// can be in the way, and waiting behind that one would never end.
func (r *Reader) lock(ctx context.Context, table *catalog.Table) error {
	if r.locked[table.OID] {
		return nil
	}
	err := execute(ctx, r.conn, "LOCK TABLE ONLY "+name(table)+" IN ACCESS SHARE MODE NOWAIT")
	if hasState(err, stateLockNotAvailable) {
		return r.snapshot.giveWayNow(ctx, name(table))
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", printable(name(table)), r.snapshot.reason(err))
	}
	r.locked[table.OID] = true
	return nil
}

// tooLarge finds the row that the server could not send: rows arrive in order, so it is the next one after the last
// that did. The transaction is begun again for that, under the same snapshot; the reader remains usable.
func (r *Reader) tooLarge(ctx context.Context, table *catalog.Table, s *rowSplitter, cause error) error {
	large := &RowTooLargeError{Table: name(table), From: s.from, To: s.to, Err: ServerError(cause)}
	clear(r.locked)
	if execute(ctx, r.conn, "ROLLBACK") != nil || r.begin(ctx) != nil || r.lock(ctx, table) != nil {
		return large
	}
	last := position{block: s.from}
	if s.any {
		last = s.last
	}
	if table.Kind == catalog.KindExtensionConfig {
		return large // the condition decides which row is next
	}
	query := fmt.Sprintf("select ctid::text from only %s where ctid > '%s' order by ctid limit 1", name(table), last)
	_ = r.conn.QueryRow(ctx, query).Scan(&large.CTID) // without it the range is all that is known
	return large
}

// Close ends the reader's session and waits until it has ended. It may be called again, and after the snapshot's Close.
func (r *Reader) Close(ctx context.Context) error {
	r.shut(ctx)
	return nil
}

func (r *Reader) shut(ctx context.Context) {
	r.turn.Lock()
	defer r.turn.Unlock()
	closeConn(ctx, r.conn)
	r.snapshot.mutex.Lock()
	delete(r.snapshot.readers, r)
	r.snapshot.mutex.Unlock()
}

func name(table *catalog.Table) string { return QualifiedName(table.Schema, table.Name) }

// columnList returns the table's columns quoted, each one but the first after a comma, and the first after lead.
func columnList(table *catalog.Table, lead string) string {
	var b strings.Builder
	for i, column := range table.Columns {
		if i == 0 {
			b.WriteString(lead)
		} else {
			b.WriteString(", ")
		}
		b.WriteString(QuoteIdentifier(column))
	}
	return b.String()
}
