package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ErrServerCrashed is the cause of a restore's failure when the server went down without a shutdown while the restore was at
// work, and may have lost what it had not yet written to its disk.
var ErrServerCrashed = errors.New("the server crashed while the restore was at work, and may have lost a part of what was restored")

// tune changes settings of the unfinished database, so that they hold for pg_restore as well; makeDurable takes them
// back. The schema of the mark has the database's temporary name. Commits do not wait for the disk; because a crash may then lose some that were reported as done, a mark is set
// first that no crash leaves alone: a row of an unlogged table, which crash recovery empties. It must run while the restoring
// role owns the database.
func (r *run) tune(ctx context.Context, conn *pgx.Conn) error {
	mark := r.identifier()
	memory, err := r.indexMemory(ctx, conn)
	if err != nil {
		return err
	}
	statements := []string{
		"CREATE SCHEMA " + mark,
		"CREATE UNLOGGED TABLE " + mark + ".not_crashed USING heap AS SELECT true AS so_far",
		"ALTER DATABASE " + r.identifier() + " SET synchronous_commit = off",
	}
	if memory > 0 {
		statements = append(statements, fmt.Sprintf("ALTER DATABASE %s SET maintenance_work_mem = '%dkB'", r.identifier(), memory))
	}
	if err := execute(ctx, conn, transaction(statements)...); err != nil {
		return fmt.Errorf("set what makes the restore fast: %w", err)
	}
	return nil
}

// Memory of all index builds together, in kilobytes: as much as half the server's shared buffers, within these bounds.
const (
	leastIndexMemory = 512 << 10
	mostIndexMemory  = 4 << 20
)

// indexMemory returns the maintenance_work_mem, in kilobytes, that each of Jobs index builds may use; 0 where the server's own
// is larger. The server's memory cannot be asked for, but its shared buffers were given to it with that in mind.
func (r *run) indexMemory(ctx context.Context, conn *pgx.Conn) (int64, error) {
	sizes, err := collect(ctx, conn, "memory settings", `
		SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting(name)) / 1024
		FROM pg_catalog.unnest('{maintenance_work_mem,shared_buffers}'::pg_catalog.text[]) WITH ORDINALITY s(name, n) ORDER BY n`, pgx.RowTo[int64])
	if err != nil {
		return 0, err
	}
	each := min(max(sizes[1]/2, leastIndexMemory), mostIndexMemory) / int64(r.options.Jobs)
	if each <= sizes[0] {
		return 0, nil
	}
	return each, nil
}

// makeDurable checks that the server did not crash since tune, takes the settings of tune back, and waits until everything up
// to here is on the server's disk: one commit that waits flushes all before it, and the session that made it saw the mark. It comes
// before event triggers, which the removal of the mark would fire.
func (r *run) makeDurable(ctx context.Context) error {
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		if err := execute(ctx, conn, waitForCommits); err != nil {
			return err
		}
		unharmed, err := conn.PgConn().Exec(ctx, "SELECT FROM "+r.identifier()+".not_crashed").ReadAll()
		if markIsLost(err) {
			return fmt.Errorf("%w: restore again", ErrServerCrashed)
		}
		if err != nil {
			return fmt.Errorf("look whether the server crashed meanwhile: %w", sessionError(conn, err))
		}
		if len(unharmed) != 1 || len(unharmed[0].Rows) != 1 {
			return fmt.Errorf("%w: restore again", ErrServerCrashed)
		}
		// What follows waits for each commit, and for no standby: the last step's commit does, where the server wants it, for all.
		err = execute(ctx, conn, transaction([]string{
			"DROP TABLE " + r.identifier() + ".not_crashed",
			"DROP SCHEMA " + r.identifier(),
			"ALTER DATABASE " + r.identifier() + " SET synchronous_commit = local",
			"ALTER DATABASE " + r.identifier() + " RESET maintenance_work_mem",
		})...)
		if err != nil {
			return fmt.Errorf("wait until everything is on the server's disk: %w", err)
		}
		return nil
	})
}

// markIsLost tells whether the mark could not be read because it does not exist: a crash takes the table, too, when its creation was
// not on disk.
func markIsLost(err error) bool {
	return sqlState(err) == stateUndefinedTable || sqlState(err) == stateInvalidSchemaName
}

// waitForCommits makes a session's commits wait for the server's own disk where they would not wait at all. It does not make
// them wait for a standby: in the unfinished database the server's own value is hidden by that of tune, and a standby that is
// gone would hold up for ever what the operator let pass. Outside of it, in the last step, a value that waits for more stays.
const waitForCommits = "SELECT pg_catalog.set_config('synchronous_commit', 'local', false) WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"

// untune takes the settings of tune back in a database that is kept unfinished. It works although ctx has ended.
func (r *run) untune(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	conn, err := r.connectToCleanUp(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	return execute(ctx, conn, "ALTER DATABASE "+r.identifier()+" RESET synchronous_commit", "ALTER DATABASE "+r.identifier()+" RESET maintenance_work_mem")
}
