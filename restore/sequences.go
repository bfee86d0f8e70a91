package restore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// sequenceBatch is how many sequences one statement sets.
const sequenceBatch = 200

// setSequences sets every sequence to its recorded value. log_cnt, the values the server has logged ahead, cannot be
// set: it begins at zero, which changes nothing that a query of nextval could see.
func (r *run) setSequences(ctx context.Context) error {
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		var calls []string
		var last catalog.Sequence
		flush := func() error {
			if len(calls) == 0 {
				return nil
			}
			err := execute(ctx, conn, "SELECT "+strings.Join(calls, ", "))
			calls = calls[:0]
			if err != nil {
				return fmt.Errorf("set sequences up to %s: %w", postgres.QualifiedName(last.Schema, last.Name), err)
			}
			return nil
		}
		for sequence, err := range r.source.Sequences(ctx) {
			if err != nil {
				return fmt.Errorf("read the sequences of the snapshot: %w", err)
			}
			last = sequence
			calls = append(calls, fmt.Sprintf("pg_catalog.setval(%s::pg_catalog.regclass, %d, %t)",
				postgres.QuoteLiteral(catalog.Text(postgres.QualifiedName(sequence.Schema, sequence.Name))), sequence.LastValue, sequence.IsCalled))
			r.result.Sequences++
			if len(calls) == sequenceBatch {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return flush()
	})
}
