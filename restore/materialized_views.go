package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// refreshMaterializedViews fills the views that held rows, each after those it reads, also where it reads them through
// plain views. PostgreSQL does not know what a function reads: a view that finds another one still empty is tried again
// after the rest. A view that cannot be filled (because a foreign server does not answer, say) stays empty, which every
// query of it reports; it is a warning and no failure, since its rows follow from what was restored.
func (r *run) refreshMaterializedViews(ctx context.Context) error {
	populated := make(map[relationName]bool)
	for _, view := range r.source.MaterializedViews() {
		if view.Populated {
			populated[relationName{view.Schema, view.Name}] = true
		}
	}
	if len(populated) == 0 {
		return nil
	}
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		pending, err := refreshOrder(ctx, conn, populated)
		if err != nil {
			return err
		}
		for len(pending) > 0 {
			var later []relation
			for _, view := range pending {
				name := postgres.QualifiedName(view.schema, view.name)
				statements := []string{"REFRESH MATERIALIZED VIEW " + name}
				if !r.plan.Superuser {
					statements = transaction([]string{r.become(view.owner), statements[0]})
				}
				err := execute(ctx, conn, statements...)
				switch {
				case err == nil:
				case sqlState(err) == "", conn.IsClosed(): // the view is not to blame
					return fmt.Errorf("refresh materialized view %s: %w", name, err)
				default:
					if !r.plan.Superuser {
						if err := execute(ctx, conn, "ROLLBACK"); err != nil {
							return err
						}
					}
					if sqlState(err) == stateNotInPrerequisiteState {
						later = append(later, view)
						continue
					}
					r.warn("materialized_view_not_refreshed", catalog.Text(name), "materialized view is left empty: "+err.Error())
				}
			}
			if len(later) == len(pending) {
				for _, view := range later {
					r.warn("materialized_view_not_refreshed", catalog.Text(postgres.QualifiedName(view.schema, view.name)),
						"materialized view is left empty: it reads another one that is empty")
				}
				return nil
			}
			pending = later
		}
		return nil
	})
}

// refreshOrder returns the wanted materialized views of the target so that each comes after those it depends on.
func refreshOrder(ctx context.Context, conn *pgx.Conn, wanted map[relationName]bool) ([]relation, error) {
	views, err := collect(ctx, conn, "materialized views", `
		SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'm' ORDER BY 2, 3`,
		func(row pgx.CollectableRow) (v relation, err error) {
			err = row.Scan(&v.oid, &v.schema, &v.name, &v.owner)
			return v, err
		})
	if err != nil {
		return nil, err
	}
	type edge struct{ from, to catalog.OID }
	edges, err := collect(ctx, conn, "dependencies of views", `
		SELECT DISTINCT w.ev_class, d.refobjid
		FROM pg_catalog.pg_rewrite w
			JOIN pg_catalog.pg_depend d ON d.objid = w.oid AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
				AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> w.ev_class
			JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND c.relkind IN ('v', 'm')
			JOIN pg_catalog.pg_class t ON t.oid = d.refobjid AND t.relkind IN ('v', 'm')`,
		func(row pgx.CollectableRow) (e edge, err error) {
			err = row.Scan(&e.from, &e.to)
			return e, err
		})
	if err != nil {
		return nil, err
	}
	dependsOn := make(map[catalog.OID][]catalog.OID)
	for _, e := range edges {
		dependsOn[e.from] = append(dependsOn[e.from], e.to)
	}
	byOID := make(map[catalog.OID]relation)
	var oids []catalog.OID
	for _, view := range views {
		if wanted[relationName{view.schema, view.name}] {
			byOID[view.oid] = view
			oids = append(oids, view.oid)
		}
	}
	if len(byOID) != len(wanted) {
		return nil, fmt.Errorf("of %d materialized views in the snapshot only %d are defined by its schema archive", len(wanted), len(byOID))
	}
	order := make([]relation, 0, len(oids))
	for _, oid := range dependencyOrder(oids, dependsOn) {
		if view, isWanted := byOID[oid]; isWanted {
			order = append(order, view)
		}
	}
	return order, nil
}
