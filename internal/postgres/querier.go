package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Querier runs one query and returns its rows, which the caller closes before it runs the next: a Snapshot serialises
// all use of its connection, and a second query while rows are open waits until they are closed. Text comes and goes
// in the database's own encoding (catalog.Text), unchecked.
//
// *Snapshot and *pgx.Conn are Queriers.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}
