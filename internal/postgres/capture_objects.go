package postgres

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// sequenceBatch is how many sequences one statement reads. Each costs a lock and a few hundred bytes of statement.
const sequenceBatch = 200

// CaptureSequences yields the state of every sequence that a schema archive defines, those of identity columns
// included, and of the sequences that an extension marked as its configuration; ordered by schema and name. The state
// is read as it is now, not as of the snapshot: never behind the rows, since sequences are not MVCC.
//
// The session is as for CaptureDatabase, and is free between two yields. The first error ends the sequence and is
// yielded once; a sequence that was dropped since the snapshot began is one.
func CaptureSequences(ctx context.Context, q Querier) iter.Seq2[catalog.Sequence, error] {
	return func(yield func(catalog.Sequence, error) bool) {
		sequences, err := captureAll(ctx, q, "sequences", `
			SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
				COALESCE(x.extname::pg_catalog.text, ''), q.seqincrement
			FROM pg_catalog.pg_class c
				JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
				JOIN pg_catalog.pg_sequence q ON q.seqrelid = c.oid
				LEFT JOIN pg_catalog.pg_depend e ON e.objid = c.oid AND e.deptype = 'e'
					AND e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
					AND e.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
				LEFT JOIN pg_catalog.pg_extension x ON x.oid = e.refobjid
			WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND c.oid >= `+firstNormalOID+`
				AND n.nspname NOT IN ('pg_catalog', 'information_schema')
				AND (x.oid IS NULL OR c.oid = ANY (COALESCE(x.extconfig, '{}')))
			ORDER BY n.nspname, c.relname`,
			func(row pgx.CollectableRow) (s catalog.Sequence, err error) {
				err = row.Scan(&s.OID, &s.Schema, &s.Name, &s.Extension, &s.Increment)
				return s, err
			})
		if err != nil {
			yield(catalog.Sequence{}, err)
			return
		}
		for len(sequences) > 0 {
			batch := sequences[:min(sequenceBatch, len(sequences))]
			sequences = sequences[len(batch):]
			if err := captureSequenceStates(ctx, q, batch); err != nil {
				yield(catalog.Sequence{}, err)
				return
			}
			for _, sequence := range batch {
				if !yield(sequence, nil) {
					return
				}
			}
		}
	}
}

// captureSequenceStates fills in last value, log count and called flag of batch, by one statement. pg_get_sequence_data
// of PostgreSQL 18 would be shorter, but does not tell log_cnt.
func captureSequenceStates(ctx context.Context, q Querier, batch []catalog.Sequence) error {
	var sql strings.Builder
	for i, sequence := range batch {
		if i > 0 {
			sql.WriteString(" UNION ALL ")
		}
		fmt.Fprintf(&sql, "SELECT %d, last_value, log_cnt, is_called FROM %s", i, QualifiedName(sequence.Schema, sequence.Name))
	}
	what := fmt.Sprintf("sequences %s.%s to %s.%s", batch[0].Schema, batch[0].Name,
		batch[len(batch)-1].Schema, batch[len(batch)-1].Name)
	seen, err := captureAll(ctx, q, what, sql.String(), func(row pgx.CollectableRow) (i int, err error) {
		var state catalog.Sequence
		if err = row.Scan(&i, &state.LastValue, &state.LogCount, &state.IsCalled); err == nil {
			batch[i].LastValue, batch[i].LogCount, batch[i].IsCalled = state.LastValue, state.LogCount, state.IsCalled
		}
		return i, err
	})
	if err == nil && len(seen) != len(batch) {
		err = fmt.Errorf("read %s: %d rows for %d sequences", what, len(seen), len(batch))
	}
	return err
}

// CaptureMaterializedViews returns every materialized view that a schema archive defines, ordered by schema and name,
// with whether it held rows. The session is as for CaptureDatabase.
func CaptureMaterializedViews(ctx context.Context, q Querier) ([]catalog.MaterializedView, error) {
	return captureAll(ctx, q, "materialized views", `
		SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relispopulated
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'm' AND NOT `+extensionMemberSQL+`
		ORDER BY n.nspname, c.relname`,
		func(row pgx.CollectableRow) (view catalog.MaterializedView, err error) {
			err = row.Scan(&view.OID, &view.Schema, &view.Name, &view.Populated)
			return view, err
		})
}

// largeObjectBatch is how many large objects' metadata one statement reads.
const largeObjectBatch = 2000

// CaptureLargeObjects yields the metadata of every large object, ascending by oid; the pages are rows of pg_largeobject
// and read as those of a table. Owner, privileges, comment and labels come from catalogs that every role may read.
// The session is as for CaptureDatabase, and is free between two yields; memory is bounded whatever the number of
// objects. The first error ends the sequence and is yielded once.
func CaptureLargeObjects(ctx context.Context, q Querier) iter.Seq2[catalog.LargeObject, error] {
	return func(yield func(catalog.LargeObject, error) bool) {
		after := catalog.OID(0)
		for {
			batch, err := captureLargeObjectBatch(ctx, q, after)
			if err != nil {
				yield(catalog.LargeObject{}, err)
				return
			}
			for _, object := range batch {
				if !yield(object, nil) {
					return
				}
				after = object.OID
			}
			if len(batch) < largeObjectBatch {
				return
			}
		}
	}
}

func captureLargeObjectBatch(ctx context.Context, q Querier, after catalog.OID) ([]catalog.LargeObject, error) {
	index := make(map[catalog.OID]int)
	var withGrants bool
	batch, err := captureAll(ctx, q, "large objects", fmt.Sprintf(`
		SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner)::pg_catalog.text, m.lomacl IS NOT NULL,
			pg_catalog.obj_description(m.oid, 'pg_largeobject')
		FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid > %d ORDER BY m.oid LIMIT %d`, after, largeObjectBatch),
		func(row pgx.CollectableRow) (object catalog.LargeObject, err error) {
			var granted bool
			if err = row.Scan(&object.OID, &object.Owner, &granted, &object.Note); granted {
				object.Grants, withGrants = []catalog.Grant{}, true
			}
			return object, err
		})
	if err != nil || len(batch) == 0 {
		return nil, err
	}
	for i, object := range batch {
		index[object.OID] = i
	}
	between := fmt.Sprintf("BETWEEN %d AND %d", batch[0].OID, batch[len(batch)-1].OID)
	if withGrants {
		_, err = captureAll(ctx, q, "privileges of large objects", `
			SELECT m.oid, `+grantColumns+` FROM pg_catalog.pg_largeobject_metadata m,
				pg_catalog.aclexplode(m.lomacl) WITH ORDINALITY AS a(grantor, grantee, privilege_type, is_grantable, n)
			WHERE m.oid `+between+` ORDER BY m.oid, a.n`,
			func(row pgx.CollectableRow) (struct{}, error) {
				var oid catalog.OID
				var grant catalog.Grant
				err := row.Scan(&oid, &grant.Grantor, &grant.Grantee, &grant.Public, &grant.Privilege, &grant.Grantable)
				if i, known := index[oid]; known {
					batch[i].Grants = append(batch[i].Grants, grant)
				}
				return struct{}{}, err
			})
		if err != nil {
			return nil, err
		}
	}
	_, err = captureAll(ctx, q, "security labels of large objects", `
		SELECT objoid, provider, label FROM pg_catalog.pg_seclabel
		WHERE classoid = 'pg_catalog.pg_largeobject'::pg_catalog.regclass AND objsubid = 0
			AND objoid `+between+` ORDER BY 1, 2`,
		func(row pgx.CollectableRow) (struct{}, error) {
			var oid catalog.OID
			var label catalog.SecurityLabel
			err := row.Scan(&oid, &label.Provider, &label.Label)
			if i, known := index[oid]; known {
				batch[i].Labels = append(batch[i].Labels, label)
			}
			return struct{}{}, err
		})
	return batch, err
}
