package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// firstNormalOID is the first object identifier that initdb does not give away (FirstNormalObjectId).
const firstNormalOID = "16384"

// referredRoles lists the oids of the roles that the open database refers to, and of no other: roles are shared by
// all databases of a server, and their names are other customers' names.
//
// pg_shdepend knows owners, grants, default privileges and policies, but is silent about roles that initdb made.
// Of those only the bootstrap superuser (oid 10) can have another name, or be missing, on another server: it is
// included when it owns an object that pg_dump would print with its owner (no member of an extension, no type or table
// that comes with another object), or when a grant or a policy names it.
const referredRoles = `
	WITH this AS (SELECT oid, datdba, datacl FROM pg_catalog.pg_database
		WHERE datname = pg_catalog.current_database()),
	objects(class, object, owner, acl) AS (
		SELECT tableoid, oid, relowner, relacl FROM pg_catalog.pg_class
		UNION ALL SELECT tableoid, oid, proowner, proacl FROM pg_catalog.pg_proc
		UNION ALL SELECT tableoid, oid, typowner, typacl FROM pg_catalog.pg_type
		UNION ALL SELECT tableoid, oid, nspowner, nspacl FROM pg_catalog.pg_namespace
		UNION ALL SELECT tableoid, oid, lanowner, lanacl FROM pg_catalog.pg_language
		UNION ALL SELECT tableoid, oid, fdwowner, fdwacl FROM pg_catalog.pg_foreign_data_wrapper
		UNION ALL SELECT tableoid, oid, srvowner, srvacl FROM pg_catalog.pg_foreign_server
		UNION ALL SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass, oid, lomowner, lomacl
			FROM pg_catalog.pg_largeobject_metadata WHERE lomowner = 10 OR lomacl IS NOT NULL
		UNION ALL SELECT tableoid, oid, oprowner, NULL FROM pg_catalog.pg_operator
		UNION ALL SELECT tableoid, oid, opcowner, NULL FROM pg_catalog.pg_opclass
		UNION ALL SELECT tableoid, oid, opfowner, NULL FROM pg_catalog.pg_opfamily
		UNION ALL SELECT tableoid, oid, collowner, NULL FROM pg_catalog.pg_collation
		UNION ALL SELECT tableoid, oid, conowner, NULL FROM pg_catalog.pg_conversion
		UNION ALL SELECT tableoid, oid, evtowner, NULL FROM pg_catalog.pg_event_trigger
		UNION ALL SELECT tableoid, oid, pubowner, NULL FROM pg_catalog.pg_publication
		UNION ALL SELECT tableoid, oid, stxowner, NULL FROM pg_catalog.pg_statistic_ext
		UNION ALL SELECT tableoid, oid, dictowner, NULL FROM pg_catalog.pg_ts_dict
		UNION ALL SELECT tableoid, oid, cfgowner, NULL FROM pg_catalog.pg_ts_config
		UNION ALL SELECT a.attrelid, a.attrelid, c.relowner, a.attacl
			FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL
		UNION ALL SELECT tableoid, oid, defaclrole, defaclacl FROM pg_catalog.pg_default_acl
		UNION ALL SELECT 'pg_catalog.pg_subscription'::pg_catalog.regclass, s.oid, s.subowner, NULL
			FROM pg_catalog.pg_subscription s, this WHERE s.subdbid = this.oid
	),
	referred(role) AS (
		SELECT d.refobjid FROM pg_catalog.pg_shdepend d, this
		WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
			AND (d.dbid = this.oid
				OR d.dbid = 0 AND d.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND d.objid = this.oid)
		UNION SELECT datdba FROM this
		UNION SELECT unnest(ARRAY[a.grantor, a.grantee]) FROM this, pg_catalog.aclexplode(this.datacl) a
		UNION SELECT s.setrole FROM pg_catalog.pg_db_role_setting s, this WHERE s.setdatabase = this.oid
		UNION SELECT umuser FROM pg_catalog.pg_user_mappings
		UNION SELECT s.subowner FROM pg_catalog.pg_subscription s, this WHERE s.subdbid = this.oid
		UNION SELECT 10::pg_catalog.oid FROM objects o
		WHERE (o.object >= ` + firstNormalOID + ` OR o.class = 'pg_catalog.pg_namespace'::pg_catalog.regclass
				AND o.object = 'public'::pg_catalog.regnamespace)
			AND (o.owner = 10 OR EXISTS (SELECT FROM pg_catalog.aclexplode(o.acl) a WHERE 10 IN (a.grantor, a.grantee)))
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
				WHERE e.classid = o.class AND e.objid = o.object AND e.deptype IN ('e', 'i'))
		UNION SELECT 10::pg_catalog.oid FROM pg_catalog.pg_policy WHERE 10 = ANY (polroles)
	)`

// captureRoles reads the roles the database refers to, without passwords; see referredRoles.
func captureRoles(ctx context.Context, q Querier) ([]catalog.Role, error) {
	return captureAll(ctx, q, "roles", referredRoles+`
		SELECT r.rolname::pg_catalog.text, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin,
			r.rolreplication, r.rolbypassrls, r.rolconnlimit, COALESCE(r.rolvaliduntil::pg_catalog.text, ''),
			ARRAY(SELECT DISTINCT g.rolname::pg_catalog.text
				FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
				WHERE m.member = r.oid
					AND (g.oid < `+firstNormalOID+` OR g.oid IN (SELECT role FROM referred))
				ORDER BY 1)
		FROM pg_catalog.pg_roles r
		WHERE r.oid IN (SELECT role FROM referred) AND (r.oid >= `+firstNormalOID+` OR r.oid = 10)
		ORDER BY r.rolname`,
		func(row pgx.CollectableRow) (role catalog.Role, err error) {
			err = row.Scan(&role.Name, &role.Superuser, &role.Inherit, &role.CreateRole, &role.CreateDatabase, &role.Login,
				&role.Replication, &role.BypassRLS, &role.ConnectionLimit, &role.ValidUntil, &role.MemberOf)
			if len(role.MemberOf) == 0 {
				role.MemberOf = nil
			}
			return role, err
		})
}
