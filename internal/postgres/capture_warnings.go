package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// captureGap is a kind of thing that neither the schema archive nor the rest of a snapshot carries over: sql selects
// the names of those that exist, and each becomes a warning.
type captureGap struct{ code, message, sql string }

var captureGaps = []captureGap{
	{"subscription_not_captured",
		"subscription is not captured: pg_dump shows subscriptions to superusers only",
		`SELECT subname::pg_catalog.text FROM pg_catalog.pg_subscription
		WHERE subdbid = ` + thisDatabase + ` AND pg_catalog.current_setting('is_superuser') <> 'on' ORDER BY 1`},
	{"replication_slot_not_captured",
		"replication slot is not captured: its consumer needs a new one after a restore",
		`SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots
		WHERE database = pg_catalog.current_database() AND NOT temporary ORDER BY 1`},
	{"prepared_transaction_not_captured",
		"prepared transaction is not committed, so its changes are not in the snapshot; a restored database does not know it",
		`SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY 1`},
	{"foreign_table_rows_not_captured",
		"foreign table is captured as a definition: its rows lie on another server",
		`SELECT ` + qualifiedNameSQL + ` FROM pg_catalog.pg_class c
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'f' AND NOT ` + extensionMemberSQL + ` ORDER BY 1`},
	{"invalid_index_not_captured",
		"index is invalid (left by a failed CREATE INDEX CONCURRENTLY), and pg_dump leaves such out",
		`SELECT ` + qualifiedNameSQL + ` FROM pg_catalog.pg_index i
			JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
		WHERE NOT i.indisvalid AND t.relkind <> 'p' AND c.oid >= ` + firstNormalOID + `
			AND n.nspname NOT IN ('pg_toast') ORDER BY 1`},
	{"system_schema_object_not_captured",
		"object lies in a system schema, where pg_dump looks for none: move it to a schema of its own",
		`SELECT ` + qualifiedNameSQL + ` FROM pg_catalog.pg_class c
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.oid >= ` + firstNormalOID + `
			AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND NOT ` + extensionMemberSQL + `
		UNION ALL
		SELECT n.nspname::pg_catalog.text || '.' || p.proname::pg_catalog.text || '()' FROM pg_catalog.pg_proc p
			JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname IN ('pg_catalog', 'information_schema') AND p.oid >= ` + firstNormalOID + `
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.objid = p.oid AND e.deptype = 'e'
				AND e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
		ORDER BY 1`},
	{"role_label_not_captured",
		"security label of a role belongs to the server, not to the database",
		referredRoles + ` SELECT r.rolname::pg_catalog.text FROM pg_catalog.pg_roles r
		WHERE r.oid IN (SELECT role FROM referred) AND EXISTS (SELECT FROM pg_catalog.pg_shseclabel l
			WHERE l.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND l.objoid = r.oid) ORDER BY 1`},
}

// qualifiedNameSQL is the printable name of pg_class c in pg_namespace n; extensionMemberSQL is true for a c that an
// extension owns.
const (
	qualifiedNameSQL   = `n.nspname::pg_catalog.text || '.' || c.relname::pg_catalog.text`
	extensionMemberSQL = `EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e'
		AND e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass)`
)

func captureWarnings(ctx context.Context, q Querier) ([]catalog.Warning, error) {
	var warnings []catalog.Warning
	for _, gap := range captureGaps {
		found, err := captureAll(ctx, q, "what cannot be captured", gap.sql, pgx.RowTo[catalog.Text])
		if err != nil {
			return nil, err
		}
		for _, object := range found {
			warnings = append(warnings, catalog.Warning{Code: gap.code, Object: object, Message: catalog.Text(gap.message)})
		}
	}
	members, err := captureExtensionTables(ctx, q)
	return append(warnings, members...), err
}

// captureExtensionTables warns of tables that belong to an extension, hold rows, and were not marked by
// pg_extension_config_dump: CREATE EXTENSION makes them anew, and what was put into them since is nowhere.
func captureExtensionTables(ctx context.Context, q Querier) ([]catalog.Warning, error) {
	type member struct {
		schema, name, extension catalog.Text
		readable                bool
	}
	members, err := captureAll(ctx, q, "tables of extensions", `
		SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, x.extname::pg_catalog.text,
			pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
		FROM pg_catalog.pg_extension x
			JOIN pg_catalog.pg_depend e ON e.refobjid = x.oid AND e.deptype = 'e'
				AND e.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
				AND e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
			JOIN pg_catalog.pg_class c ON c.oid = e.objid AND c.relkind = 'r'
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE NOT c.oid = ANY (COALESCE(x.extconfig, '{}')) ORDER BY 1, 2`,
		func(row pgx.CollectableRow) (m member, err error) {
			err = row.Scan(&m.schema, &m.name, &m.extension, &m.readable)
			return m, err
		})
	if err != nil {
		return nil, err
	}
	var warnings []catalog.Warning
	for _, m := range members {
		message := "may hold rows of its own: the backup role may not read it"
		if m.readable {
			filled, err := captureOne(ctx, q, fmt.Sprintf("table %s.%s of extension %s", m.schema, m.name, m.extension),
				"SELECT EXISTS (SELECT FROM ONLY "+QualifiedName(m.schema, m.name)+")", pgx.RowTo[bool])
			if err != nil {
				return nil, err
			}
			if !filled {
				continue
			}
			message = "holds rows that are not captured"
		}
		warnings = append(warnings, catalog.Warning{
			Code: "extension_table_not_captured", Object: m.schema + "." + m.name,
			Message: "table belongs to extension " + m.extension + " and is not marked as its configuration: it " +
				catalog.Text(message),
		})
	}
	return warnings, nil
}
