package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// pollInterval is how often a snapshot looks for sessions that wait behind its locks. It looks less often where looking
// takes long, so that at most one part in pollShare of the leader's time goes into it.
const (
	pollInterval = 500 * time.Millisecond
	pollShare    = 20
)

// watch looks for waiting sessions until the snapshot's context ends, and then releases what the snapshot holds. It is
// the one goroutine of a Snapshot; Close waits for it.
func (s *Snapshot) watch(interval time.Duration) {
	defer close(s.watching)
	defer s.release()
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
		ctx, done, err := s.take(s.ctx)
		if err != nil {
			return
		}
		began := time.Now()
		waiting, err := s.waiting(ctx, s.server.yieldToDDL)
		if err != nil {
			err = s.explain(err)
			s.cancel(fmt.Errorf("look for sessions that wait: %w", err)) // no effect when there is a cause already
		} else if waiting != nil {
			s.cancel(waiting)
		}
		done()
		timer.Reset(max(interval, pollShare*time.Since(began)))
	}
}

// waiting returns the session that has waited longest, and at least as long as given, behind a lock of one of the
// snapshot's sessions; nil when there is none. The caller has the leader.
//
// Sessions of the snapshot are known by their application name, pg_dump's among them. Autovacuum is no client: it gives
// way by itself.
func (s *Snapshot) waiting(ctx context.Context, least time.Duration) (*GaveWayError, error) {
	// Inside a transaction pg_stat_activity stays as it was first seen.
	if _, err := s.leader.Exec(ctx, "select pg_catalog.pg_stat_clear_snapshot()"); err != nil {
		return nil, err
	}
	rows, err := s.leader.Query(ctx, `
with ours as materialized (
  select array_agg(pid) as pids from pg_catalog.pg_stat_activity where application_name in ($1, $4) and usename = current_user),
late as materialized (
  select l.pid, l.relation, l.database, clock_timestamp() - l.waitstart as waited
  from pg_catalog.pg_locks l where not l.granted and l.waitstart <= clock_timestamp() - $2::interval)
select w.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), extract(epoch from w.waited)::float8,
       coalesce(n.nspname, ''), coalesce(c.relname, '')
from late w cross join ours
left join pg_catalog.pg_stat_activity a on a.pid = w.pid
left join pg_catalog.pg_class c on c.oid = w.relation and w.database in (0, $3)
left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where w.pid <> all (ours.pids) and a.backend_type is distinct from 'autovacuum worker'
  and pg_catalog.pg_blocking_pids(w.pid) && ours.pids
order by w.waited desc limit 1`, s.application, least, uint32(s.oid), s.dumpApplication())
	if err != nil {
		return nil, err
	}
	var found *GaveWayError
	var pid int
	var user, application string
	var seconds float64
	var schema, name catalog.Text
	_, err = pgx.ForEachRow(rows, []any{&pid, &user, &application, &seconds, &schema, &name}, func() error {
		found = &GaveWayError{Database: s.database, PID: pid, User: user, Application: application, Waited: time.Duration(seconds * float64(time.Second))}
		if name != "" {
			found.Table = QualifiedName(schema, name)
		}
		return nil
	})
	return found, err
}

// giveWayNow ends the snapshot because a lock was refused to one of its sessions: behind the leader's own lock that
// means that someone waits for an exclusive one. It returns the cause.
func (s *Snapshot) giveWayNow(ctx context.Context, table string) error {
	cause := &GaveWayError{Database: s.database, Table: table}
	if joined, done, err := s.take(ctx); err == nil {
		if waiting, err := s.waiting(joined, 0); err == nil && waiting != nil {
			cause = waiting
		}
		s.cancel(cause)
		done()
	}
	s.cancel(cause)
	return context.Cause(s.ctx)
}
