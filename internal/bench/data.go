package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// database is what is backed up, and restored the one that restores make.
const (
	database = "bench"
	restored = "bench_restored"
)

//go:embed sql
var scripts embed.FS

// rowCounts are the rows of the generated tables, and the pieces of text that they are made from, for a wanted size of all tables in bytes, TOAST included, indexes not.
func rowCounts(size int64) map[string]int64 {
	// Bytes per row as PostgreSQL 15 stores them, measured on this data; shares of the whole: 72 % events, 14 % documents,
	// 11 % orders with their items, 3 % the rest.
	return map[string]int64{
		"events":    max(1000, size*72/100/eventBytes),
		"documents": max(20, size*14/100/documentBytes),
		"orders":    max(100, size*11/100/orderBytes),
		"customers": max(100, size*2/100/customerBytes),
		"products":  max(50, size*1/100/productBytes),
		// Of text: 120,000 for all sizes but those of tests.
		"pieces": min(120000, max(2000, size>>10)),
	}
}

const (
	eventBytes    = 564
	documentBytes = 7684
	orderBytes    = 444 // with four items
	customerBytes = 235
	productBytes  = 529
)

// makeDatabase creates the database and fills it. The same size gives the same rows in the same places on every machine.
func (c *cluster) makeDatabase(ctx context.Context, size int64) error {
	if err := c.execute(ctx, "postgres", "CREATE DATABASE "+database); err != nil {
		return err
	}
	var settings strings.Builder
	counts := rowCounts(size)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&settings, "SET bench.%s = %d;\n", name, counts[name])
	}
	settings.WriteString("SET work_mem = '256MB'; SET max_parallel_workers_per_gather = 0; SET jit = off; SET timezone = 'UTC';\n")
	run := func(ctx context.Context, name string) error {
		script, err := scripts.ReadFile("sql/" + name + ".sql")
		if err != nil {
			return fmt.Errorf("read a script: %w", err)
		}
		return c.execute(ctx, database, settings.String()+string(script))
	}
	if err := run(ctx, "schema"); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return run(groupCtx, "events") })
	group.Go(func() error {
		if err := run(groupCtx, "others"); err != nil {
			return err
		}
		return run(groupCtx, "documents")
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := run(ctx, "finish"); err != nil {
		return err
	}
	// So no later read has to set hint bits, and an autovacuum has nothing left to do.
	return c.execute(ctx, database, "VACUUM (ANALYZE)")
}

// updateRows changes one row of a hundred, scattered.
func (c *cluster) updateRows(ctx context.Context) error {
	script, err := scripts.ReadFile("sql/update.sql")
	if err != nil {
		return fmt.Errorf("read a script: %w", err)
	}
	return c.execute(ctx, database, string(script))
}

// databaseSize is what a database is made of.
type databaseSize struct {
	TableBytes int64 `json:"table_bytes"` // heap and TOAST
	IndexBytes int64 `json:"index_bytes"`
	Rows       int64 `json:"rows"`
}

func (c *cluster) size(ctx context.Context) (size databaseSize, err error) {
	err = c.query(ctx, database, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT coalesce(sum(pg_table_size(c.oid)), 0)::bigint, coalesce(sum(pg_indexes_size(c.oid)), 0)::bigint, coalesce(sum(c.reltuples), 0)::bigint
			FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = 'public'`).
			Scan(&size.TableBytes, &size.IndexBytes, &size.Rows)
	})
	return size, err
}

// query works on a connection to a database and closes it.
func (c *cluster) query(ctx context.Context, database string, work func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, c.dsn(database))
	if err != nil {
		return fmt.Errorf("connect to the server: %w", err)
	}
	err = work(conn)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// digest is what a table's content comes down to: equal for equal rows in whatever order.
type digest struct {
	rows int64
	sum  string
}

// digests reads every table. A materialized view is as old as its last refresh, which a restore is.
func (c *cluster) digests(ctx context.Context, database string) (map[string]digest, error) {
	found := map[string]digest{}
	err := c.query(ctx, database, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname")
		if err != nil {
			return err
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if len(tables) == 0 {
			return errors.New("the database has no tables")
		}
		for _, table := range tables {
			var one digest
			if err := conn.QueryRow(ctx, "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM public."+pgx.Identifier{table}.Sanitize()+" AS t").Scan(&one.rows, &one.sum); err != nil {
				return err
			}
			found[table] = one
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the content of database %s: %w", database, err)
	}
	return found, nil
}

// compareDigests says which table of a restored database is not what it was.
func compareDigests(want, got map[string]digest) error {
	for _, table := range slices.Sorted(maps.Keys(want)) {
		if got[table] != want[table] {
			return fmt.Errorf("table %s has %d rows with digest %s after the restore, and had %d with %s", table, got[table].rows, got[table].sum, want[table].rows, want[table].sum)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d tables after the restore, %d before", len(got), len(want))
	}
	return nil
}
