package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// largeObjectTable is pg_catalog.pg_largeobject's oid, the same in every database.
const largeObjectTable = 2613

// relation is a table as the listing found it.
type relation struct {
	oid          catalog.OID
	schema, name catalog.Text
	kind         byte // relkind: r or p
	persistence  byte // p or u
	rewritten    bool // pg_class names another file than the one in use
	extension    catalog.Text
	configured   bool // marked by pg_extension_config_dump
	condition    catalog.Text
	system       bool // in pg_catalog or information_schema, and not pg_largeobject
}

func (r relation) String() string { return QualifiedName(r.schema, r.name) }

// read says whether the relation's rows belong to the snapshot. Partitioned tables have none of their own; members of an
// extension come back with CREATE EXTENSION, configuration tables apart; pg_dump does not define tables in system schemas.
func (r relation) read() bool {
	if r.kind != 'r' {
		return false
	}
	if r.extension != "" {
		return r.configured
	}
	return !r.system
}

func (r relation) tableKind() catalog.TableKind {
	switch {
	case r.oid == largeObjectTable:
		return catalog.KindLargeObjects
	case r.extension != "":
		return catalog.KindExtensionConfig
	}
	return catalog.KindTable
}

// listRelations returns the tables and partitioned tables to lock, ascending by oid. Temporary ones belong to other
// sessions, and system catalogs are the server's own (below 16384, FirstNormalObjectId), pg_largeobject apart.
//
// pg_relation_filenode() sees the file in use now, pg_class the one that the transaction's snapshot knows: after a
// TRUNCATE or a rewrite that the snapshot does not see, they differ.
func listRelations(ctx context.Context, conn *pgx.Conn) ([]relation, error) {
	rows, err := conn.Query(ctx, `
select c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text,
       c.relkind = 'r' and c.relfilenode is distinct from pg_catalog.pg_relation_filenode(c.oid),
       coalesce(e.extname, ''), coalesce(k.position is not null, false), coalesce(e.extcondition[k.position], ''),
       n.nspname in ('pg_catalog', 'information_schema') and c.oid <> 2613
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.objsubid = 0
     and d.refclassid = 'pg_catalog.pg_extension'::regclass and d.deptype = 'e'
left join pg_catalog.pg_extension e on e.oid = d.refobjid
left join lateral (select pg_catalog.array_position(e.extconfig, c.oid) as position) k on true
where c.relkind in ('r', 'p') and c.relpersistence <> 't' and n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
  and (c.oid >= 16384 or c.oid = 2613)
order by c.oid`)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", ServerError(err))
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (relation, error) {
		var r relation
		var kind, persistence string
		err := row.Scan(&r.oid, &r.schema, &r.name, &kind, &persistence, &r.rewritten, &r.extension, &r.configured, &r.condition, &r.system)
		if err == nil {
			r.kind, r.persistence = kind[0], persistence[0]
		}
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", ServerError(err))
	}
	return list, nil
}

// difference names the first thing that makes a listing under the snapshot unequal to the one that was locked, or a
// table that was emptied or rewritten; it is empty when there is none.
func difference(locked, now []relation) string {
	for i := range min(len(locked), len(now)) {
		before, after := locked[i], now[i]
		switch {
		case before.oid < after.oid:
			return before.String() + " was dropped, or is no table any more"
		case before.oid > after.oid:
			return after.String() + " was created"
		case after.rewritten:
			return after.String() + " was emptied or rewritten"
		}
		before.rewritten = after.rewritten
		if before != after {
			return before.String() + " was changed"
		}
	}
	switch {
	case len(locked) > len(now):
		return locked[len(now)].String() + " was dropped, or is no table any more"
	case len(now) > len(locked):
		return now[len(locked)].String() + " was created"
	}
	return ""
}

// checkPrivileges returns a *PrivilegeError that lists everything in the way of reading the whole database.
func checkPrivileges(ctx context.Context, conn *pgx.Conn, database string, list []relation) error {
	missing := &PrivilegeError{Database: database}
	oids := make([]uint32, len(list))
	for i, r := range list {
		oids[i] = uint32(r.oid)
	}
	rows, err := conn.Query(ctx, `
select current_user::text, n.nspname, c.relname, not pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       not pg_catalog.has_table_privilege(c.oid, 'SELECT'), pg_catalog.row_security_active(c.oid)
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.oid = any ($1::oid[])
  and (not pg_catalog.has_schema_privilege(n.oid, 'USAGE') or not pg_catalog.has_table_privilege(c.oid, 'SELECT')
       or pg_catalog.row_security_active(c.oid))
order by n.nspname, c.relname`, oids)
	if err != nil {
		return fmt.Errorf("check privileges: %w", ServerError(err))
	}
	var schema, name catalog.Text
	var noUsage, noSelect, policies bool
	_, err = pgx.ForEachRow(rows, []any{&missing.Role, &schema, &name, &noUsage, &noSelect, &policies}, func() error {
		quoted := QuoteIdentifier(schema)
		if noUsage && (len(missing.Schemas) == 0 || missing.Schemas[len(missing.Schemas)-1] != quoted) {
			missing.Schemas = append(missing.Schemas, quoted)
		}
		if noSelect {
			missing.Tables = append(missing.Tables, QualifiedName(schema, name))
		}
		if policies {
			missing.RowSecurity = append(missing.RowSecurity, QualifiedName(schema, name))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("check privileges: %w", ServerError(err))
	}
	role := QuoteIdentifier(catalog.Text(missing.Role))
	if len(missing.Schemas)+len(missing.Tables) > 0 {
		missing.Statements = append(missing.Statements, "GRANT pg_read_all_data TO "+role)
	}
	if len(missing.RowSecurity) > 0 {
		missing.Statements = append(missing.Statements, "ALTER ROLE "+role+" BYPASSRLS")
	}
	if len(missing.Statements) > 0 {
		return missing
	}
	return nil
}

// lockReserve is the share of the server's lock table, one in lockReserve, that a snapshot leaves to other sessions.
const lockReserve = 10

// checkLockSpace makes sure that the leader and pg_dump can each lock every table. The size of the lock table is that of
// the PostgreSQL manual ("Lock Management", max_locks_per_transaction).
func checkLockSpace(ctx context.Context, conn *pgx.Conn, database string, tables int) error {
	var perTransaction, sessions, used int
	err := conn.QueryRow(ctx, `
select current_setting('max_locks_per_transaction')::int,
       current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int,
       (select count(*)::int from pg_catalog.pg_locks where not fastpath)`).Scan(&perTransaction, &sessions, &used)
	if err != nil {
		return fmt.Errorf("check the space for locks: %w", ServerError(err))
	}
	return lockSpace(database, tables, perTransaction, sessions, used)
}

func lockSpace(database string, tables, perTransaction, sessions, used int) error {
	needed, capacity := 2*tables, perTransaction*sessions
	if needed+used+capacity/lockReserve <= capacity {
		return nil
	}
	suggested := (needed+used)*lockReserve/(lockReserve-1)/sessions + 1
	return &LockSpaceError{Database: database, Tables: tables, Needed: needed, Capacity: capacity, Used: used,
		PerTransaction: perTransaction, Suggested: max(suggested, perTransaction+1)}
}

// lockBatch is how many tables one LOCK statement names.
const lockBatch = 500

// maxLockPatience bounds how long locking waits in all, counted from the first lock. While it waits it holds locks already,
// and a migration that needs one of those may itself hold the one waited for: PostgreSQL would end whichever session looks
// first after its deadlock_timeout (1 s unless configured), and that may be the migration. So locking ends well before.
const maxLockPatience = 500 * time.Millisecond

// lockPatience returns the time that one attempt at locking may take while it waits: at most half of the server's
// deadlock_timeout.
func (s *Snapshot) lockPatience(ctx context.Context) (time.Duration, error) {
	var deadlockMillis int64
	err := s.leader.QueryRow(ctx, "select setting::int8 from pg_catalog.pg_settings where name = 'deadlock_timeout'").Scan(&deadlockMillis)
	if err != nil {
		return 0, fmt.Errorf("read deadlock_timeout: %w", ServerError(err))
	}
	return max(time.Millisecond, min(maxLockPatience, s.server.lockTimeout, time.Duration(deadlockMillis)*time.Millisecond/2)), nil
}

// lockTables locks in ACCESS SHARE mode, in the current transaction, which must not have run a query yet: LOCK alone
// does not fix the snapshot of a repeatable read transaction. The simple protocol keeps it so. It waits for at most
// patience, counted from the beginning and over all tables; usual is the session's lock_timeout otherwise. Beside an error of state 55P03 it returns the table that was
// refused; the transaction then still holds what it got, and is fit for queries until it is rolled back.
func lockTables(ctx context.Context, conn *pgx.Conn, list []relation, patience, usual time.Duration) (*relation, error) {
	until := time.Now().Add(patience)
	for len(list) > 0 {
		batch := list[:min(len(list), lockBatch)]
		list = list[len(batch):]
		// Without waiting all of them at once: mostly nobody is in the way.
		err := lockNow(ctx, conn, batch)
		if err == nil {
			continue
		}
		if !hasState(err, stateLockNotAvailable) {
			return nil, err
		}
		if err := execute(ctx, conn, "ROLLBACK TO SAVEPOINT tables; RELEASE SAVEPOINT tables"); err != nil {
			return nil, err
		}
		for i := range batch {
			if err := lockWithin(ctx, conn, batch[i], until, usual); err != nil {
				if !hasState(err, stateLockNotAvailable) {
					return nil, err
				}
				if err := execute(ctx, conn, "ROLLBACK TO SAVEPOINT tables; RELEASE SAVEPOINT tables"); err != nil {
					return nil, err
				}
				return &batch[i], err
			}
		}
	}
	return nil, nil
}

func lockNow(ctx context.Context, conn *pgx.Conn, tables []relation) error {
	var names strings.Builder
	for i, r := range tables {
		if i > 0 {
			names.WriteString(", ")
		}
		names.WriteString("ONLY " + r.String())
	}
	return execute(ctx, conn, "SAVEPOINT tables; LOCK TABLE "+names.String()+" IN ACCESS SHARE MODE NOWAIT; RELEASE SAVEPOINT tables")
}

// lockWithin locks one table, and waits for that until the time given.
func lockWithin(ctx context.Context, conn *pgx.Conn, table relation, until time.Time, usual time.Duration) error {
	err := lockNow(ctx, conn, []relation{table})
	left := time.Until(until).Milliseconds()
	if left <= 0 || !hasState(err, stateLockNotAvailable) {
		return err
	}
	// DEFAULT would not be the session's value but that of the database or the role.
	return execute(ctx, conn, fmt.Sprintf(`ROLLBACK TO SAVEPOINT tables; SET LOCAL lock_timeout = %d;
LOCK TABLE ONLY %s IN ACCESS SHARE MODE; SET LOCAL lock_timeout = %d; RELEASE SAVEPOINT tables`, left, table.String(), usual.Milliseconds()))
}

// execute runs statements by the simple protocol, which takes no snapshot for those that need none.
func execute(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// findBlocker fills in who holds, or waits first for, an exclusive lock on the table. It runs in the transaction that was
// refused the table, before that is rolled back: afterwards sessions that only waited for hourvault hold locks too.
func findBlocker(ctx context.Context, conn *pgx.Conn, table relation, found *LockTimeoutError) error {
	rows, err := conn.Query(ctx, `
select coalesce(l.pid, 0), coalesce(x.gid, ''), coalesce(a.usename::text, ''), coalesce(a.application_name, ''),
       coalesce(a.state, ''), a.query_start
from pg_catalog.pg_locks l
left join pg_catalog.pg_stat_activity a on a.pid = l.pid
left join pg_catalog.pg_locks t on l.pid is null and t.pid is null and t.locktype = 'transactionid' and t.virtualtransaction = l.virtualtransaction
left join pg_catalog.pg_prepared_xacts x on x.transaction = t.transactionid
where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.relation = $1
  and l.database in (0, (select oid from pg_catalog.pg_database where datname = current_database()))
order by l.granted desc, l.waitstart limit 1`, uint32(table.oid))
	if err != nil {
		return ServerError(err)
	}
	var since *timestamp
	_, err = pgx.ForEachRow(rows, []any{&found.PID, &found.Prepared, &found.User, &found.Application, &found.State, &since}, func() error {
		found.Table = table.String()
		if since != nil {
			found.QuerySince = *since
		}
		return nil
	})
	return ServerError(err)
}
