package postgres

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrClosed is the cause of a Snapshot's context after Close.
var ErrClosed = errors.New("snapshot closed")

// SQLSTATEs that decisions here rest on (PostgreSQL manual, "PostgreSQL Error Codes").
const (
	stateInvalidSchema        = "3F000"
	stateUndefinedTable       = "42P01"
	stateWrongObjectType      = "42809"
	stateLockNotAvailable     = "55P03"
	stateProgramLimitExceeded = "54000"
	stateTransactionTimeout   = "25P04"
	stateDeadlock             = "40P01"
	stateInternalError        = "XX000"
	stateDataCorrupted        = "XX001"
	stateIndexCorrupted       = "XX002"
)

func hasState(err error, states ...string) bool {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return false
	}
	for _, state := range states {
		if server.Code == state {
			return true
		}
	}
	return false
}

// printable returns text fit for an error message: invalid UTF-8 is replaced and control characters are escaped, so
// that a table's name cannot forge a line of a log.
func printable[T ~string](text T) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(string(text), "\uFFFD") {
		switch {
		case r < 0x20 || r == 0x7F:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r >= 0x80 && r < 0xA0 || r == '\u2028' || r == '\u2029':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// ServerError returns err as an error whose text holds no customer's data: of an error that the server reported it
// prints the message and the SQLSTATE, never detail, context or statement, and not even the message where that quotes
// values (classes 22, data exception, and P0, raised by a customer's function). errors.As still finds the
// *pgconn.PgError. Errors of other kinds, and nil, are returned as they are.
func ServerError(err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return err
	}
	var done *serverError
	if errors.As(err, &done) {
		return err
	}
	return &serverError{server: server, cause: err}
}

type serverError struct {
	server *pgconn.PgError
	cause  error
}

func (e *serverError) Error() string {
	if strings.HasPrefix(e.server.Code, "22") || strings.HasPrefix(e.server.Code, "P0") {
		return fmt.Sprintf("the server reports SQLSTATE %s (its message is withheld: it may quote data)", e.server.Code)
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", printable(e.server.Message), e.server.Code)
}

func (e *serverError) Unwrap() error { return e.cause }

// LockTimeoutError says that a table could not be locked in time, and who stood in the way.
type LockTimeoutError struct {
	Database string
	// Table is the quoted name of the table; empty when the blocker was gone before it could be looked up.
	Table   string
	Timeout time.Duration
	// PID is 0 where the lock belongs to a prepared transaction, or the blocker was gone.
	PID         int
	Prepared    string // identifier of the prepared transaction
	User        string
	Application string
	State       string // of the session, for instance "idle in transaction"; empty when not visible
	// QuerySince is when the session's current or last query began; zero when not visible.
	QuerySince time.Time
	Err        error
}

func (e *LockTimeoutError) Error() string {
	prefix := fmt.Sprintf("lock tables of database %s: not granted within %s", printable(e.Database), e.Timeout)
	switch {
	case e.Table == "":
		return prefix + ": the session in the way has ended meanwhile; try again"
	case e.Prepared != "":
		return fmt.Sprintf("%s: %s is locked by the prepared transaction %s: finish it with COMMIT PREPARED or ROLLBACK PREPARED",
			prefix, printable(e.Table), printable(e.Prepared))
	}
	var session []string
	if e.User != "" {
		session = append(session, "user "+printable(e.User))
	}
	if e.Application != "" {
		session = append(session, "application "+printable(e.Application))
	}
	if e.State != "" {
		session = append(session, printable(e.State))
	}
	if !e.QuerySince.IsZero() {
		session = append(session, "query began "+e.QuerySince.UTC().Format(time.RFC3339))
	}
	who := fmt.Sprintf("process %d", e.PID)
	if len(session) > 0 {
		who += " (" + strings.Join(session, ", ") + ")"
	}
	return fmt.Sprintf("%s: %s is locked by %s: let it finish, or end it with SELECT pg_terminate_backend(%d)",
		prefix, printable(e.Table), who, e.PID)
}

func (e *LockTimeoutError) Unwrap() error { return e.Err }

// GaveWayError says that a snapshot was given up because another session waited for a lock that it held. The
// snapshot should be tried again later.
type GaveWayError struct {
	Database string
	// Table is the quoted name of the relation waited for; may be empty.
	Table string
	// PID is the session that waited, 0 when not known.
	PID         int
	User        string
	Application string
	// Waited is how long it had waited.
	Waited time.Duration
}

func (e *GaveWayError) Error() string {
	table := "a relation"
	if e.Table != "" {
		table = printable(e.Table)
	}
	if e.PID == 0 {
		return fmt.Sprintf("gave way in database %s: another session waits for an exclusive lock on %s; it will be tried again later",
			printable(e.Database), table)
	}
	return fmt.Sprintf("gave way in database %s: process %d (user %s, application %q) waited %s for an exclusive lock on %s; it will be tried again later",
		printable(e.Database), e.PID, printable(e.User), printable(e.Application), e.Waited.Round(time.Millisecond), table)
}

// LeaderLostError says that the connection that held the snapshot ended, and with it the snapshot.
type LeaderLostError struct {
	Database string
	Err      error
}

func (e *LeaderLostError) Error() string {
	return fmt.Sprintf("the connection that held the snapshot of database %s ended: %v", printable(e.Database), e.Err)
}

func (e *LeaderLostError) Unwrap() error { return e.Err }

// UnsettledError says that tables were created, dropped, emptied or rewritten in each attempt to open a snapshot, or
// that names or types changed while it was read. Trying later helps.
type UnsettledError struct {
	Database string
	// Change says what changed, for instance `"public"."t" was rewritten`.
	Change   string
	Attempts int // 0: it was seen after reading
}

func (e *UnsettledError) Error() string {
	if e.Attempts == 0 {
		return fmt.Sprintf("database %s changed while it was read: %s; take the snapshot again", printable(e.Database), printable(e.Change))
	}
	return fmt.Sprintf("database %s kept changing during %d attempts to open a snapshot: %s; try again when its tables are left alone for a moment",
		printable(e.Database), e.Attempts, printable(e.Change))
}

// LockSpaceError says that locking every table could exhaust the server's lock table, which would fail other sessions.
type LockSpaceError struct {
	Database string
	Tables   int
	// Needed, Capacity and Used are in locks; Used is what other sessions hold.
	Needed, Capacity, Used int
	// PerTransaction is max_locks_per_transaction now, and Suggested a value that suffices.
	PerTransaction, Suggested int
}

func (e *LockSpaceError) Error() string {
	return fmt.Sprintf("database %s has %d tables, a snapshot needs up to %d locks, and the server has room for %d of which %d are used: raise max_locks_per_transaction from %d to %d (needs a restart of the server)",
		printable(e.Database), e.Tables, e.Needed, e.Capacity, e.Used, e.PerTransaction, e.Suggested)
}

// PrivilegeError lists what the role may not read, and the statements that mend it.
type PrivilegeError struct {
	Database string
	Role     string
	// Schemas lack USAGE, Tables lack SELECT, and RowSecurity tables have policies that would hide rows. Quoted names.
	Schemas, Tables, RowSecurity []string
	Statements                   []string
}

func (e *PrivilegeError) Error() string {
	var parts []string
	for _, list := range []struct {
		what  string
		names []string
	}{
		{"USAGE on schema", e.Schemas},
		{"SELECT on table", e.Tables},
		{"the right to bypass row-level security of table", e.RowSecurity},
	} {
		if len(list.names) > 0 {
			parts = append(parts, "lacks "+list.what+" "+shortList(list.names))
		}
	}
	return fmt.Sprintf("role %s in database %s %s: run as superuser: %s",
		printable(e.Role), printable(e.Database), strings.Join(parts, " and "), printable(strings.Join(e.Statements, "; ")+";"))
}

func shortList(names []string) string {
	const shown = 10
	clean := make([]string, 0, shown)
	for _, name := range names[:min(len(names), shown)] {
		clean = append(clean, printable(name))
	}
	text := strings.Join(clean, ", ")
	if len(names) > shown {
		text += fmt.Sprintf(" and %d more", len(names)-shown)
	}
	return text
}

// OrderError says that rows did not arrive in the order of their ctids, or not from the blocks asked for. Rows read in
// such an order cannot be told apart by block; nothing of the range may be used.
type OrderError struct {
	Table   string
	CTID    string
	Problem string
	// From and To bound the range, To exclusive, OpenEnd for none.
	From, To uint32
}

func (e *OrderError) Error() string {
	to := "end"
	if e.To != OpenEnd {
		to = fmt.Sprint(e.To)
	}
	return fmt.Sprintf("read %s blocks %d to %s: row at %s %s: the server did not read by ctid; check its settings enable_tidscan and max_parallel_workers_per_gather",
		printable(e.Table), e.From, to, e.CTID, e.Problem)
}

// RowTooLargeError says that the server could not send a row, neither to hourvault nor to pg_dump: its text would exceed
// 1 GB, or, where Err is an internal error of the server (class XX), the row may be damaged instead: PostgreSQL reports an
// allocation that is too large in the same way.
type RowTooLargeError struct {
	Table string
	// CTID is where the row lies; empty when that could not be found out.
	CTID string
	// From and To bound the blocks that were being read.
	From, To uint32
	Err      error
}

func (e *RowTooLargeError) Error() string {
	where := fmt.Sprintf("a row in blocks %d to %d", e.From, e.To)
	if e.To == OpenEnd {
		where = fmt.Sprintf("a row in block %d or later", e.From)
	}
	if e.CTID != "" {
		where = "the row at ctid " + e.CTID
	}
	why := "its text is larger than 1 GB"
	if hasState(e.Err, stateInternalError, stateDataCorrupted, stateIndexCorrupted) {
		why = "its text is larger than 1 GB, or it is damaged"
	}
	return fmt.Sprintf("read %s: PostgreSQL cannot send %s, because %s: the database cannot be backed up until that row is mended: %v",
		printable(e.Table), where, why, e.Err)
}

func (e *RowTooLargeError) Unwrap() error { return e.Err }

// UnsupportedServerError says that a server is too old to be read safely.
type UnsupportedServerError struct {
	// Version is server_version_num.
	Version int
	// Needed is the version to upgrade to, for instance "15.8".
	Needed string
}

func (e *UnsupportedServerError) Error() string {
	version := fmt.Sprintf("%d.%d", e.Version/10000, e.Version%10000)
	if e.Version < 100000 {
		version = fmt.Sprintf("%d.%d.%d", e.Version/10000, e.Version/100%100, e.Version%100)
	}
	return fmt.Sprintf("PostgreSQL %s cannot keep a customer's views from running with hourvault's rights (it lacks restrict_nonsystem_relation_kind): upgrade to %s or later",
		version, e.Needed)
}

// ToolError says that one of PostgreSQL's client programs failed.
type ToolError struct {
	Tool     string // "pg_dump"
	Database string
	// Stderr is the end of what it wrote.
	Stderr string
	Err    error
}

func (e *ToolError) Error() string {
	text := fmt.Sprintf("%s of database %s: %v", e.Tool, printable(e.Database), e.Err)
	if e.Stderr != "" {
		text += ": " + printable(strings.Join(strings.Split(strings.TrimSpace(e.Stderr), "\n"), " | "))
	}
	return text
}

func (e *ToolError) Unwrap() error { return e.Err }
