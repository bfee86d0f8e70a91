package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// CaptureDatabase reads what is recorded once per snapshot and what pg_dump --schema-only leaves out or hands only to
// superusers: the database's own properties, settings, grants, extensions with their versions, the roles that the
// database refers to, and the options of user mappings. Whatever exists and cannot be captured is named by a warning.
//
// The session of q has the database open under the snapshot's transaction, with client_encoding equal to the server
// encoding and an empty search_path; it needs no more than pg_read_all_data, and sees more as a superuser. Servers
// from PostgreSQL 14 on are understood. Roles and settings are shared catalogs: they are read under the same snapshot.
// Errors are those of the server, wrapped with what was being read.
func CaptureDatabase(ctx context.Context, q Querier) (catalog.Database, []catalog.Warning, error) {
	var database catalog.Database
	version, err := captureOne(ctx, q, "server version",
		`SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4`, pgx.RowTo[int])
	if err != nil {
		return database, nil, err
	}
	if database, err = captureProperties(ctx, q, version); err != nil {
		return database, nil, err
	}
	if database.Settings, err = captureSettings(ctx, q); err != nil {
		return database, nil, err
	}
	if database.Extensions, err = captureExtensions(ctx, q); err != nil {
		return database, nil, err
	}
	if database.Tablespaces, err = captureTablespaces(ctx, q); err != nil {
		return database, nil, err
	}
	if database.Roles, err = captureRoles(ctx, q); err != nil {
		return database, nil, err
	}
	mappings, mappingWarnings, err := captureUserMappings(ctx, q)
	if err != nil {
		return database, nil, err
	}
	database.UserMappings = mappings
	warnings, err := captureWarnings(ctx, q)
	if err != nil {
		return database, nil, err
	}
	return database, append(mappingWarnings, warnings...), nil
}

// thisDatabase is a subquery for the oid of the database the session has open.
const thisDatabase = `(SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`

// localeColumns are the expressions for provider, locale, ICU rules and recorded collation version in pg_database d,
// which PostgreSQL 15, 16 and 17 each changed.
func localeColumns(version int) string {
	const provider = `CASE d.datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin'
		ELSE d.datlocprovider::pg_catalog.text END`
	const collationVersion = `COALESCE(d.datcollversion, '')`
	switch {
	case version >= 170000:
		return provider + `, COALESCE(d.datlocale, ''), COALESCE(d.daticurules, ''), ` + collationVersion
	case version >= 160000:
		return provider + `, COALESCE(d.daticulocale, ''), COALESCE(d.daticurules, ''), ` + collationVersion
	case version >= 150000:
		return provider + `, COALESCE(d.daticulocale, ''), '', ` + collationVersion
	default:
		return `'libc', '', '', ''`
	}
}

func captureProperties(ctx context.Context, q Querier, version int) (catalog.Database, error) {
	database := catalog.Database{ServerVersion: version}
	var defaultGrants bool
	_, err := captureOne(ctx, q, "database properties", `
		SELECT (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()),
			pg_catalog.current_setting('block_size')::pg_catalog.int4,
			d.oid, d.datname::pg_catalog.text, pg_catalog.pg_encoding_to_char(d.encoding)::pg_catalog.text,
			d.datcollate::pg_catalog.text, d.datctype::pg_catalog.text, `+localeColumns(version)+`,
			t.spcname::pg_catalog.text, pg_catalog.pg_get_userbyid(d.datdba)::pg_catalog.text,
			d.datacl IS NULL, pg_catalog.shobj_description(d.oid, 'pg_database'),
			d.datconnlimit, d.datallowconn, d.datistemplate
		FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
		WHERE d.datname = pg_catalog.current_database()`,
		func(row pgx.CollectableRow) (struct{}, error) {
			return struct{}{}, row.Scan(&database.SystemIdentifier, &database.BlockSize, &database.OID, &database.Name, &database.Encoding,
				&database.Collate, &database.CType, &database.LocaleProvider, &database.Locale, &database.ICURules,
				&database.CollationVersion, &database.Tablespace, &database.Owner, &defaultGrants, &database.Comment,
				&database.ConnectionLimit, &database.AllowConnections, &database.IsTemplate)
		})
	if err != nil {
		return database, err
	}
	if !defaultGrants {
		database.Grants, err = captureAll(ctx, q, "database privileges", `
			SELECT `+grantColumns+` FROM pg_catalog.pg_database d,
				pg_catalog.aclexplode(d.datacl) WITH ORDINALITY AS a(grantor, grantee, privilege_type, is_grantable, n)
			WHERE d.datname = pg_catalog.current_database() ORDER BY a.n`, scanGrant)
		if err != nil {
			return database, err
		}
	}
	database.SecurityLabels, err = captureAll(ctx, q, "database security labels", `
		SELECT provider, label FROM pg_catalog.pg_shseclabel
		WHERE classoid = 'pg_catalog.pg_database'::pg_catalog.regclass AND objoid = `+thisDatabase+` ORDER BY 1`,
		scanSecurityLabel)
	if len(database.SecurityLabels) == 0 {
		database.SecurityLabels = nil
	}
	return database, err
}

// grantColumns are the columns scanGrant reads, of an aclexplode() named a.
const grantColumns = `pg_catalog.pg_get_userbyid(a.grantor)::pg_catalog.text,
	CASE a.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee)::pg_catalog.text END,
	a.grantee = 0, a.privilege_type, a.is_grantable`

func scanGrant(row pgx.CollectableRow) (grant catalog.Grant, err error) {
	err = row.Scan(&grant.Grantor, &grant.Grantee, &grant.Public, &grant.Privilege, &grant.Grantable)
	return grant, err
}

func scanSecurityLabel(row pgx.CollectableRow) (label catalog.SecurityLabel, err error) {
	err = row.Scan(&label.Provider, &label.Label)
	return label, err
}

func captureSettings(ctx context.Context, q Querier) ([]catalog.Setting, error) {
	// A stored item is name=value; a value may hold further equal signs, a parameter's name none. Values of list
	// parameters are kept as stored: quoted by the server, one text.
	return captureAll(ctx, q, "database settings", `
		SELECT CASE s.setrole WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(s.setrole)::pg_catalog.text END, item
		FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) WITH ORDINALITY AS i(item, n)
		WHERE s.setdatabase = `+thisDatabase+` ORDER BY s.setrole <> 0, 1, n`,
		func(row pgx.CollectableRow) (catalog.Setting, error) {
			var setting catalog.Setting
			var item string
			if err := row.Scan(&setting.Role, &item); err != nil {
				return setting, err
			}
			name, value, found := strings.Cut(item, "=")
			if !found {
				return setting, fmt.Errorf("pg_db_role_setting holds an item without an equal sign")
			}
			setting.Name, setting.Value = catalog.Text(name), catalog.Text(value)
			return setting, nil
		})
}

func captureExtensions(ctx context.Context, q Querier) ([]catalog.Extension, error) {
	return captureAll(ctx, q, "extensions", `
		SELECT e.extname::pg_catalog.text, e.extversion, n.nspname::pg_catalog.text
		FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
		ORDER BY e.extname`,
		func(row pgx.CollectableRow) (extension catalog.Extension, err error) {
			err = row.Scan(&extension.Name, &extension.Version, &extension.Schema)
			return extension, err
		})
}

func captureTablespaces(ctx context.Context, q Querier) ([]catalog.Text, error) {
	return captureAll(ctx, q, "tablespaces", `
		SELECT t.spcname::pg_catalog.text FROM pg_catalog.pg_tablespace t
		WHERE t.spcname <> 'pg_global'
			AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.reltablespace = t.oid)
		ORDER BY t.spcname`, pgx.RowTo[catalog.Text])
}

// captureUserMappings reads the options of user mappings from pg_user_mapping itself, which pg_read_all_data may read;
// the view pg_user_mappings, like pg_dump, shows them only to the mapping's user and to superusers.
func captureUserMappings(ctx context.Context, q Querier) ([]catalog.UserMapping, []catalog.Warning, error) {
	readable, err := captureOne(ctx, q, "privilege on user mappings",
		`SELECT pg_catalog.has_table_privilege('pg_catalog.pg_user_mapping', 'SELECT')`, pgx.RowTo[bool])
	if err != nil {
		return nil, nil, err
	}
	if !readable {
		warnings, err := captureAll(ctx, q, "user mappings", `
			SELECT srvname::pg_catalog.text, usename::pg_catalog.text FROM pg_catalog.pg_user_mappings ORDER BY 1, 2`,
			func(row pgx.CollectableRow) (catalog.Warning, error) {
				var server, user catalog.Text
				if err := row.Scan(&server, &user); err != nil {
					return catalog.Warning{}, err
				}
				return catalog.Warning{
					Code: "user_mapping_options_not_captured", Object: user + " on " + server,
					Message: "options of the user mapping are not captured: grant pg_read_all_data to the backup role",
				}, nil
			})
		return nil, warnings, err
	}
	mappings, err := captureAll(ctx, q, "user mappings", `
		SELECT s.srvname::pg_catalog.text,
			CASE m.umuser WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(m.umuser)::pg_catalog.text END,
			COALESCE(m.umoptions, '{}')
		FROM pg_catalog.pg_user_mapping m JOIN pg_catalog.pg_foreign_server s ON s.oid = m.umserver
		ORDER BY s.srvname, 2`,
		func(row pgx.CollectableRow) (mapping catalog.UserMapping, err error) {
			err = row.Scan(&mapping.Server, &mapping.User, &mapping.Options)
			return mapping, err
		})
	return mappings, nil, err
}

// captureAll runs sql, which takes no arguments so that it works in every protocol mode and client encoding, and
// returns its rows, never nil. The result is read to its end: the session is free again when it returns.
func captureAll[T any](ctx context.Context, q Querier, what, sql string, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return all, nil
}

// captureOne is captureAll for a query that must return exactly one row.
func captureOne[T any](ctx context.Context, q Querier, what, sql string, scan pgx.RowToFunc[T]) (T, error) {
	all, err := captureAll(ctx, q, what, sql, scan)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("read %s: %d rows instead of 1", what, len(all))
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return all[0], nil
}
