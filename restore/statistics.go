package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// analyze collects planner statistics of every table and materialized view, up to Jobs at the same time; a partitioned
// table's takes its partitions along. A table that cannot be analyzed is a warning: its rows are there.
//
// ANALYZE of a table above a foreign one reads the foreign server, which is none of a restore's business: such tables
// are left out with a warning, and their other partitions are analyzed one by one.
func (r *run) analyze(ctx context.Context) error {
	var tables []relation
	err := r.inSession(ctx, func(conn *pgx.Conn) (err error) {
		all, err := collect(ctx, conn, "tables", `
			WITH RECURSIVE above_foreign(oid) AS (
				SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class f ON f.oid = i.inhrelid WHERE f.relkind = 'f'
				UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN above_foreign a ON a.oid = i.inhrelid
			)
			SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
				c.oid IN (SELECT oid FROM above_foreign)
			FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
				AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', pg_catalog.current_database())
				AND (NOT c.relispartition OR EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN above_foreign a ON a.oid = i.inhparent WHERE i.inhrelid = c.oid))
			ORDER BY c.relpages DESC, c.oid`,
			func(row pgx.CollectableRow) (t relation, err error) {
				err = row.Scan(&t.schema, &t.name, &t.owner, &t.foreignLeaf)
				return t, err
			})
		for _, table := range all {
			if !table.foreignLeaf {
				tables = append(tables, table)
				continue
			}
			r.warn("table_not_analyzed", catalog.Text(postgres.QualifiedName(table.schema, table.name)),
				"planner statistics are not collected: that would read the foreign server of one of its partitions or children; run ANALYZE when that server may be asked")
		}
		return err
	})
	if err != nil {
		return err
	}
	queue := make(chan relation, len(tables))
	for _, table := range tables {
		queue <- table
	}
	close(queue)
	group, ctx := errgroup.WithContext(ctx)
	for range min(r.options.Jobs, len(tables)) {
		group.Go(func() error {
			return r.inSession(ctx, func(conn *pgx.Conn) error {
				for table := range queue {
					if err := r.analyzeTable(ctx, conn, table); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return group.Wait()
}

func (r *run) analyzeTable(ctx context.Context, conn *pgx.Conn, table relation) error {
	name := postgres.QualifiedName(table.schema, table.name)
	statements := []string{"ANALYZE " + name}
	if !r.plan.Superuser {
		statements = transaction([]string{r.become(table.owner), statements[0]})
	}
	err := execute(ctx, conn, statements...)
	if err == nil {
		return nil
	}
	if sqlState(err) == "" || conn.IsClosed() { // the table is not to blame
		return fmt.Errorf("analyze table %s: %w", name, err)
	}
	r.warn("table_not_analyzed", catalog.Text(name), "planner statistics could not be collected: "+err.Error())
	if !r.plan.Superuser {
		return execute(ctx, conn, "ROLLBACK")
	}
	return nil
}
