package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// keptMarks is how many checkpoints a Server remembers: on a busy server the newest is rarely old enough to be of use.
const keptMarks = 8

// markHistory holds the checkpoints seen since the server was started last, newest first. A restart may mean that its
// storage was rolled back, and then the older ones belong to a history that is no more.
type markHistory struct {
	system  string
	started time.Time
	marks   []catalog.Mark
}

func (h *markHistory) add(system string, started time.Time, mark catalog.Mark) []catalog.Mark {
	if h.system != system || !h.started.Equal(started) || len(h.marks) > 0 && h.marks[0].Redo > mark.Redo {
		*h = markHistory{system: system, started: started}
	}
	if len(h.marks) == 0 || h.marks[0] != mark {
		h.marks = append([]catalog.Mark{mark}, h.marks...)
		h.marks = h.marks[:min(len(h.marks), keptMarks)]
	}
	return append([]catalog.Mark(nil), h.marks...)
}

// readMark reads the newest completed checkpoint from the control file. The redo pointer of a checkpoint is fixed
// before its next transaction id is read (CreateCheckPoint in PostgreSQL's xlog.c).
func readMark(ctx context.Context, conn *pgx.Conn) (catalog.Mark, error) {
	var mark catalog.Mark
	var redo, next string
	var timeline int64
	err := conn.QueryRow(ctx, "select redo_lsn::text, next_xid, timeline_id::int8 from pg_catalog.pg_control_checkpoint()").Scan(&redo, &next, &timeline)
	if err != nil {
		return catalog.Mark{}, fmt.Errorf("read the newest checkpoint: %w", ServerError(err))
	}
	if mark.Redo, err = catalog.ParseLSN(redo); err != nil {
		return catalog.Mark{}, fmt.Errorf("read the newest checkpoint: %w", err)
	}
	if mark.NextXID, err = parseEpochXID(next); err != nil {
		return catalog.Mark{}, fmt.Errorf("read the newest checkpoint: %w", err)
	}
	mark.Timeline = uint32(timeline)
	return mark, nil
}

// parseEpochXID reads "epoch:xid", the form of pg_control_checkpoint().
func parseEpochXID(text string) (catalog.XID, error) {
	epoch, xid, found := strings.Cut(text, ":")
	high, errHigh := strconv.ParseUint(epoch, 10, 32)
	low, errLow := strconv.ParseUint(xid, 10, 32)
	if !found || errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("%q is not a transaction id with its epoch", printable(text))
	}
	return catalog.XID(high<<32 | low), nil
}

// readMarks notes the checkpoints known before the snapshot is opened. A standby's are its primary's business.
func (s *Snapshot) readMarks(ctx context.Context) error {
	s.reading.Marks = nil
	if s.identity.InRecovery {
		return nil
	}
	mark, err := readMark(ctx, s.leader)
	if err != nil {
		return err
	}
	var started time.Time
	if err := s.leader.QueryRow(ctx, "select pg_catalog.pg_postmaster_start_time()").Scan(&started); err != nil {
		return fmt.Errorf("read when the server was started: %w", ServerError(err))
	}
	s.server.mutex.Lock()
	s.reading.Marks = s.server.marks.add(s.identity.SystemIdentifier, started, mark)
	s.server.mutex.Unlock()
	return nil
}

// readEnd notes the WAL position and the timeline after the snapshot was fixed, and whether the role may ask for a
// checkpoint: trying it without the right would abort the transaction.
func (s *Snapshot) readEnd(ctx context.Context) error {
	s.reading.End, s.reading.Timeline, s.mayCheck = nil, 0, false
	if s.identity.InRecovery {
		return nil
	}
	end, timeline, err := readPosition(ctx, s.leader)
	if err != nil {
		return err
	}
	s.reading.End, s.reading.Timeline = &end, timeline
	err = s.leader.QueryRow(ctx, `
select coalesce((select rolsuper from pg_catalog.pg_roles where rolname = current_user), false)
    or coalesce((select pg_catalog.pg_has_role(oid, 'USAGE') from pg_catalog.pg_roles where rolname = 'pg_checkpoint'), false)`).Scan(&s.mayCheck)
	if err != nil {
		return fmt.Errorf("ask for the right to issue CHECKPOINT: %w", ServerError(err))
	}
	return nil
}

// readPosition returns where WAL is being inserted, and its timeline, which the control file learns only with the
// first checkpoint after a promotion.
func readPosition(ctx context.Context, conn *pgx.Conn) (catalog.LSN, uint32, error) {
	var text, file string
	err := conn.QueryRow(ctx, "select l::text, pg_catalog.pg_walfile_name(l) from pg_catalog.pg_current_wal_insert_lsn() l").Scan(&text, &file)
	if err != nil {
		return 0, 0, fmt.Errorf("read the WAL position: %w", ServerError(err))
	}
	lsn, err := catalog.ParseLSN(text)
	if err != nil {
		return 0, 0, fmt.Errorf("read the WAL position: %w", err)
	}
	if len(file) < 8 {
		return 0, 0, fmt.Errorf("read the WAL position: %q is not a WAL file's name", printable(file))
	}
	timeline, err := strconv.ParseUint(file[:8], 16, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("read the WAL position: %w", err)
	}
	return lsn, uint32(timeline), nil
}

// Reading ends the reading: it checks with Recheck that names and types are still those of the snapshot, and says how the
// rows were read and whether the snapshot can be a base. Call it when every row, the schema archive and everything else
// was read, and before Close: the proof rests on the connection that still holds the snapshot. With
// ServerConfig.RequestCheckpoint it issues CHECKPOINT unless one that began after opening has completed meanwhile.
func (s *Snapshot) Reading(ctx context.Context) (catalog.Reading, error) {
	if err := s.Recheck(ctx); err != nil {
		return catalog.Reading{}, err
	}
	reading := s.reading
	if s.identity.InRecovery {
		reading.NotBase = "the server was in recovery (a standby)"
		return reading, s.alive(ctx)
	}
	proof, err := s.newestMark(ctx)
	if err != nil {
		return catalog.Reading{}, err
	}
	if proof.Redo < *reading.End {
		switch {
		case !s.server.checkpoint:
			reading.NotBase = "no checkpoint began and completed while the snapshot was open, and asking for one is not configured"
		case !s.mayCheck:
			reading.NotBase = "no checkpoint began and completed while the snapshot was open, and the role may not ask for one (GRANT pg_checkpoint TO " +
				printable(QuoteIdentifier(s.identity.Role)) + ")"
		default:
			if proof, err = s.requestCheckpoint(ctx); err != nil {
				return catalog.Reading{}, err
			}
			if proof.Redo < *reading.End {
				return catalog.Reading{}, fmt.Errorf("after CHECKPOINT the control file names redo %s, before the snapshot's position %s: the server's storage lies", proof.Redo, *reading.End)
			}
		}
		if reading.NotBase != "" {
			return reading, s.alive(ctx)
		}
	}
	ctx, done, err := s.take(ctx)
	if err != nil {
		return catalog.Reading{}, err
	}
	defer done()
	_, timeline, err := readPosition(ctx, s.leader)
	if err != nil {
		return catalog.Reading{}, s.explain(err)
	}
	if timeline != reading.Timeline || proof.Timeline != timeline {
		reading.NotBase = fmt.Sprintf("the timeline changed from %d to %d while the snapshot was open", reading.Timeline, timeline)
		return reading, nil
	}
	reading.Proof = &proof
	return reading, nil
}

// alive makes sure that the leader's connection, and so the snapshot's locks, lasted until now.
func (s *Snapshot) alive(ctx context.Context) error {
	ctx, done, err := s.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, err = s.leader.Exec(ctx, "select 1")
	return s.explain(err)
}

func (s *Snapshot) newestMark(ctx context.Context) (catalog.Mark, error) {
	ctx, done, err := s.take(ctx)
	if err != nil {
		return catalog.Mark{}, err
	}
	defer done()
	mark, err := readMark(ctx, s.leader)
	return mark, s.explain(err)
}

// requestCheckpoint issues CHECKPOINT on the leader. Snapshots of one server that want one at the same time share it.
func (s *Snapshot) requestCheckpoint(ctx context.Context) (catalog.Mark, error) {
	select {
	case <-s.server.checkpointing:
		defer func() { s.server.checkpointing <- struct{}{} }()
	case <-ctx.Done():
		return catalog.Mark{}, context.Cause(ctx)
	case <-s.ctx.Done():
		return catalog.Mark{}, context.Cause(s.ctx)
	}
	if mark, err := s.newestMark(ctx); err != nil || mark.Redo >= *s.reading.End {
		return mark, err
	}
	joined, done, err := s.take(ctx)
	if err != nil {
		return catalog.Mark{}, err
	}
	err = execute(joined, s.leader, "CHECKPOINT")
	if err != nil {
		err = fmt.Errorf("ask for a checkpoint: %w", s.explain(err))
	}
	done()
	if err != nil {
		return catalog.Mark{}, err
	}
	return s.newestMark(ctx)
}

// recheckBatch is how many rows Recheck compares at a time.
const recheckBatch = 1000

// Recheck compares what the locks do not protect with its state under the snapshot: tables' names (renaming a schema
// locks no table), the labels of enums and the attributes of composite types, which decide what row text says, and, when
// a column reaches a reg* type or aclitem, the names of all that these print. Readers see all of it as it is now, not as
// it was. What was renamed and renamed back counts as changed: rows are compared by xmin, the transaction that wrote
// them, so that a GRANT on a schema counts too. It uses a connection of the budget for a moment. A difference is an
// *UnsettledError: what was read must not be used.
func (s *Snapshot) Recheck(ctx context.Context) error {
	joined, done := s.join(ctx)
	defer done()
	release, err := s.server.acquire(joined, s.spare)
	if err != nil {
		return s.reason(err)
	}
	conn, err := s.server.connect(joined, s.database, Reading, s.application, release)
	if err != nil {
		return s.reason(err)
	}
	defer closeConn(ctx, conn)
	if err := s.recheckNames(joined, conn); err != nil {
		return s.recheckError(err)
	}
	checks := recheckAlways()
	prints, err := s.printsNames(joined)
	if err != nil {
		return s.recheckError(err)
	}
	if prints {
		checks = append(checks, recheckPrinted()...)
	}
	for _, check := range checks {
		if err := s.recheckCatalog(joined, conn, check.what, check.snapshot, check.now); err != nil {
			return s.recheckError(err)
		}
	}
	return nil
}

// catalogCheck is a comparison made by recheckCatalog.
type catalogCheck struct {
	what string
	// snapshot yields (oid, text) after oid $1, at most $2 rows, ascending by oid.
	snapshot string
	// now yields what to call one of the oids $1 whose text is not that of $2 any more, and no row when there is none.
	now string
}

// recheckAlways compares what every row's text, or the way to it, depends on.
func recheckAlways() []catalogCheck {
	return []catalogCheck{
		{"a schema (it was renamed, or its privileges were changed)", `
select n.oid, n.nspname || ' ' || n.xmin::text from pg_catalog.pg_namespace n where n.oid > $1
  and exists (select from pg_catalog.pg_class c where c.relnamespace = n.oid and c.relkind in ('r', 'p') and c.relpersistence <> 't')
order by n.oid limit $2`, `
select coalesce(n.oid::regnamespace::text, '?') from unnest($1::oid[], $2::text[]) u (oid, label)
  left join pg_catalog.pg_namespace n on n.oid = u.oid where n.nspname || ' ' || n.xmin::text is distinct from u.label limit 1`},
		{"the labels of an enum type", `
select oid, enumlabel || ' ' || xmin::text from pg_catalog.pg_enum where oid > $1 order by oid limit $2`, `
select e.oid::regtype::text from (select t.enumtypid as oid from unnest($1::oid[], $2::text[]) u (oid, label)
  left join pg_catalog.pg_enum t on t.oid = u.oid where t.enumlabel || ' ' || t.xmin::text is distinct from u.label limit 1) e`},
		{"the attributes of a composite type", `
select c.oid, (select string_agg(concat_ws(' ', a.attnum, a.atttypid, a.atttypmod, a.attisdropped, a.xmin, a.attname), ',' order by a.attnum)
  from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0)
from pg_catalog.pg_class c where c.relkind = 'c' and c.oid > $1 order by c.oid limit $2`, `
select coalesce(e.oid::regclass::text, '?') from (select u.oid from unnest($1::oid[], $2::text[]) u (oid, attributes)
  where (select string_agg(concat_ws(' ', a.attnum, a.atttypid, a.atttypmod, a.attisdropped, a.xmin, a.attname), ',' order by a.attnum)
  from pg_catalog.pg_attribute a where a.attrelid = u.oid and a.attnum > 0) is distinct from u.attributes limit 1) e`},
	}
}

// recheckPrinted compares the names that reg* types and aclitem print. Objects of the server itself (below 16384) are left
// out where nobody can rename them by right; so are those of temporary schemas, which come and go. Relations are compared
// by name alone, because their rows are written for many other reasons, and roles too, whose rows may not be read.
func recheckPrinted() []catalogCheck {
	checks := make([]catalogCheck, 0, 9)
	for _, c := range []struct {
		what, table, name, schema, version string
		least                              int
	}{
		{"a schema", "pg_namespace", "nspname", "0", "t.xmin::text", 0},
		{"a role's name", "pg_roles", "rolname", "0", "'-'", 0},
		{"a relation's name", "pg_class", "relname", "t.relnamespace", "'-'", 16384},
		{"a function", "pg_proc", "proname", "t.pronamespace", "t.xmin::text", 16384},
		{"a type", "pg_type", "typname", "t.typnamespace", "t.xmin::text", 16384},
		{"an operator", "pg_operator", "oprname", "t.oprnamespace", "t.xmin::text", 16384},
		{"a collation", "pg_collation", "collname", "t.collnamespace", "t.xmin::text", 16384},
		{"a text search configuration", "pg_ts_config", "cfgname", "t.cfgnamespace", "t.xmin::text", 16384},
		{"a text search dictionary", "pg_ts_dict", "dictname", "t.dictnamespace", "t.xmin::text", 16384},
	} {
		label := fmt.Sprintf("%s::text || ' ' || %s || ' ' || t.%s", c.schema, c.version, c.name)
		checks = append(checks, catalogCheck{what: c.what + ", which a column of type reg* or aclitem may print,",
			snapshot: fmt.Sprintf(`
select t.oid, %s from pg_catalog.%s t where t.oid > $1 and t.oid >= %d
  and not exists (select from pg_catalog.pg_namespace n where n.oid = %s and n.nspname ~ '^pg_(toast_)?temp_')
order by t.oid limit $2`, label, c.table, c.least, c.schema),
			now: fmt.Sprintf(`
select substring(u.label from '^[^ ]+ [^ ]+ (.*)$') from unnest($1::oid[], $2::text[]) u (oid, label)
  left join pg_catalog.%s t on t.oid = u.oid where %s is distinct from u.label limit 1`, c.table, label)})
	}
	return checks
}

// printsNames says whether a column of a table that is read reaches, at any depth, a type whose text other catalogs
// decide (Shape.Unstable).
func (s *Snapshot) printsNames(ctx context.Context) (bool, error) {
	for start := 0; start < len(s.read); start += recheckBatch {
		batch := s.read[start:min(start+recheckBatch, len(s.read))]
		oids := make([]uint32, len(batch))
		for i, r := range batch {
			oids[i] = uint32(r.oid)
		}
		leader, done, err := s.take(ctx)
		if err != nil {
			return false, err
		}
		var prints bool
		err = s.explain(s.leader.QueryRow(leader, `
with recursive reached as (
  select a.atttypid as oid from pg_catalog.pg_attribute a where a.attrelid = any ($1::oid[]) and a.attnum > 0 and not a.attisdropped
  union
  select n.next from reached join pg_catalog.pg_type t on t.oid = reached.oid cross join lateral (
    select case t.typtype when 'd' then t.typbasetype else t.typelem end
    union all select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid
    union all select r.rngtypid from pg_catalog.pg_range r where r.rngmultitypid = t.oid
    union all select a.atttypid from pg_catalog.pg_attribute a
      where t.typrelid <> 0 and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) n (next)
  where n.next <> 0)
select exists (select from reached join pg_catalog.pg_type t on t.oid = reached.oid
  where t.typnamespace = 'pg_catalog'::regnamespace and (t.typname = 'aclitem' or t.typname like 'reg%'))`, oids).Scan(&prints))
		done()
		if err != nil || prints {
			return prints, err
		}
	}
	return false, nil
}

func (s *Snapshot) recheckError(err error) error {
	var unsettled *UnsettledError
	if errors.As(err, &unsettled) {
		return err
	}
	return fmt.Errorf("check database %s again after reading: %w", printable(s.database), s.reason(err))
}

func (s *Snapshot) recheckNames(ctx context.Context, conn *pgx.Conn) error {
	for start := 0; start < len(s.relations); start += recheckBatch {
		batch := s.relations[start:min(start+recheckBatch, len(s.relations))]
		oids := make([]uint32, len(batch))
		schemas, names := make([]string, len(batch)), make([]string, len(batch))
		for i, r := range batch {
			oids[i], schemas[i], names[i] = uint32(r.oid), string(r.schema), string(r.name)
		}
		var schema, table catalog.Text
		err := conn.QueryRow(ctx, `
select u.schema, u.name from unnest($1::oid[], $2::text[], $3::text[]) u (oid, schema, name)
where not exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                  where c.oid = u.oid and c.relname = u.name and n.nspname = u.schema)
limit 1`, oids, schemas, names).Scan(&schema, &table)
		if err == nil {
			return &UnsettledError{Database: s.database, Change: QualifiedName(schema, table) + " has another name or schema now"}
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
	}
	return nil
}

// recheckCatalog reads (oid, text) under the snapshot and lets the other connection look for a difference. A row that is
// only there now does no harm: nothing that the snapshot sees refers to it.
func (s *Snapshot) recheckCatalog(ctx context.Context, conn *pgx.Conn, what, snapshot, now string) error {
	last := uint32(0)
	for {
		var oids []uint32
		var texts []*string
		leader, done, err := s.take(ctx)
		if err != nil {
			return err
		}
		rows, err := s.leader.Query(leader, snapshot, last, recheckBatch)
		if err == nil {
			var oid uint32
			var text *string
			_, err = pgx.ForEachRow(rows, []any{&oid, &text}, func() error {
				oids, texts = append(oids, oid), append(texts, text)
				return nil
			})
		}
		err = s.explain(err)
		done()
		if err != nil || len(oids) == 0 {
			return err
		}
		last = oids[len(oids)-1]
		var changed *string
		err = conn.QueryRow(ctx, now, oids, texts).Scan(&changed)
		if err == nil {
			where := ""
			if changed != nil {
				where = ": " + *changed
			}
			return &UnsettledError{Database: s.database, Change: what + " changed" + where}
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if len(oids) < recheckBatch {
			return nil
		}
	}
}
