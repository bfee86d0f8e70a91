package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// ErrDatabaseExists is the cause of a refusal to restore into a database that exists.
var ErrDatabaseExists = errors.New("database exists")

// Plan says what a restore would do, and what it would do in another way than recorded.
type Plan struct {
	Into string `json:"into"`
	// TargetVersion is the target's server_version_num.
	TargetVersion int `json:"target_version_num"`
	// PgRestore is the version of pg_restore that will be used.
	PgRestore string `json:"pg_restore"`
	// Superuser says whether the restoring role is one.
	Superuser bool `json:"superuser"`
	// CreateRoles are the missing roles that will be made.
	CreateRoles []catalog.Role    `json:"create_roles,omitempty"`
	Tables      int               `json:"tables"`
	Rows        int64             `json:"rows"`
	Bytes       int64             `json:"bytes"`
	Warnings    []catalog.Warning `json:"warnings,omitempty"`
}

// Problem is a reason why a restore would fail, found before anything was created.
type Problem struct {
	// Code is a stable word, for instance "extension_missing".
	Code    string `json:"code"`
	Message string `json:"message"`
	err     error
}

// PreflightError lists all problems that the checks found. errors.Is finds ErrDatabaseExists.
type PreflightError struct {
	Server   string
	Problems []Problem
}

func (e *PreflightError) Error() string {
	messages := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		messages[i] = problem.Message
	}
	// A message may end in a statement to run, with its semicolon.
	return fmt.Sprintf("cannot restore to server %s: %s", e.Server, strings.ReplaceAll(strings.Join(messages, "; "), ";; ", "; "))
}

func (e *PreflightError) Unwrap() (causes []error) {
	for _, problem := range e.Problems {
		if problem.err != nil {
			causes = append(causes, problem.err)
		}
	}
	return causes
}

// Preflight checks whether source can be restored to target, and creates nothing. What would make the restore fail is
// a *PreflightError that lists every problem found, each with what mends it; other errors mean that the checks could not
// be made. Free disk space is not checked: SQL cannot see it.
func Preflight(ctx context.Context, target *postgres.Server, source Source, options Options) (Plan, error) {
	checked, err := preflight(ctx, target, source, options)
	if err != nil {
		return Plan{}, err
	}
	checked.archive.Close()
	return checked.plan, nil
}

// checked is what the checks found, and the schema archive that was read for them.
type checked struct {
	plan    Plan
	archive *archive
}

func preflight(ctx context.Context, target *postgres.Server, source Source, options Options) (_ *checked, err error) {
	check := &preflightCheck{ctx: ctx, target: target, options: options, database: source.Database()}
	check.plan.Into = options.Into
	result := &checked{}
	defer func() {
		if err != nil && result.archive != nil {
			result.archive.Close()
		}
	}()

	identity, err := target.Identity(ctx)
	if err != nil {
		return nil, err
	}
	check.role, check.plan.Superuser, check.plan.TargetVersion = identity.Role, identity.Superuser, identity.ServerVersion
	if identity.InRecovery {
		check.problem("standby", "the server is a standby: restore to its primary")
		return nil, check.refusal()
	}
	check.name()
	if have, need := identity.ServerVersion/10000, check.database.ServerVersion/10000; have < need {
		check.problem("server_version", "the server has PostgreSQL %d, and the snapshot was taken from PostgreSQL %d: restore to that version or a later one", have, need)
		return nil, check.refusal()
	}

	owners := map[catalog.Text]bool{check.database.Owner: true}
	for table, err := range source.Tables(ctx) {
		if err != nil {
			return nil, fmt.Errorf("read the tables of the snapshot: %w", err)
		}
		owners[table.Owner] = owners[table.Owner] || table.Kind == catalog.KindTable
		check.plan.Tables++
		check.plan.Rows += table.Rows
		check.plan.Bytes += table.Bytes
	}

	// Read-write: the locale is tried out by a collation in a transaction that is rolled back.
	check.conn, err = target.ConnectRestore(ctx, target.MaintenanceDatabase())
	if err != nil {
		return nil, err
	}
	defer closeSession(ctx, check.conn)
	for _, step := range []func() error{
		check.nameIsFree, check.extensions, check.roles, func() error { return check.privileges(owners) }, check.tablespaces,
		check.locale, check.leftovers,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}

	chosen, err := target.Tools(ctx)
	if noTools, ok := errors.AsType[*postgres.ToolsError](err); ok {
		check.problem("tools", "%s", noTools.Error())
		return nil, check.refusal()
	} else if err != nil {
		return nil, err
	}
	found, err := postgres.FindTools(nil)
	if err != nil {
		return nil, err
	}
	if result.archive, err = openArchive(ctx, source, toolCandidates(chosen, found)); err != nil {
		if _, failed := errors.AsType[*listError](err); !failed {
			return nil, err
		}
		check.problem("pg_restore", "%v: install the client programs of the version that made the archive", err)
		return nil, check.refusal()
	}
	check.plan.PgRestore = result.archive.tools.Version
	result.archive.ignoreTransactionTimeout = result.archive.tools.Major >= 17 && check.plan.TargetVersion < 170000
	check.plan.Warnings = append(check.plan.Warnings, result.archive.subscriptionsRestored()...)
	if len(check.problems) > 0 {
		return nil, check.refusal()
	}
	result.plan = check.plan
	return result, nil
}

// preflightCheck collects what is found.
type preflightCheck struct {
	ctx      context.Context //nolint:containedctx // lives as long as preflight
	target   *postgres.Server
	options  Options
	database catalog.Database
	role     catalog.Text
	conn     *pgx.Conn
	plan     Plan
	problems []Problem
}

func (c *preflightCheck) problem(code, format string, args ...any) {
	c.problems = append(c.problems, Problem{Code: code, Message: fmt.Sprintf(format, args...)})
}

func (c *preflightCheck) warn(code string, object catalog.Text, format string, args ...any) {
	c.plan.Warnings = append(c.plan.Warnings, catalog.Warning{Code: code, Object: object, Message: catalog.Text(fmt.Sprintf(format, args...))})
}

func (c *preflightCheck) refusal() error {
	return &PreflightError{Server: c.target.Name(), Problems: c.problems}
}

// maxIdentifierBytes is NAMEDATALEN - 1.
const maxIdentifierBytes = 63

func (c *preflightCheck) name() {
	switch into := c.options.Into; {
	case into == "":
		c.problem("name", "no name for the database to restore into is given")
	case len(into) > maxIdentifierBytes:
		c.problem("name", "the database name %q has %d bytes: PostgreSQL allows %d", into, len(into), maxIdentifierBytes)
	case strings.ContainsRune(into, 0):
		c.problem("name", "the database name %q holds a zero byte", into)
	case strings.HasPrefix(into, TemporaryPrefix):
		c.problem("name", "the database name %q looks like that of an unfinished restore: choose another", into)
	}
}

func (c *preflightCheck) nameIsFree() error {
	// The name is given by a statement in the maintenance database: a server takes none that is invalid in its encoding.
	if c.conn.PgConn().ParameterStatus("server_encoding") == "UTF8" && !utf8.ValidString(c.options.Into) {
		c.problem("name", "the database name %q is not valid in the encoding of database %q (UTF8): choose another name, or name a maintenance database of another encoding in the dsn",
			c.options.Into, c.target.MaintenanceDatabase())
	}
	names, err := c.names("databases", "SELECT datname::pg_catalog.text FROM pg_catalog.pg_database")
	if err == nil && slices.Contains(names, catalog.Text(c.options.Into)) {
		c.problems = append(c.problems, Problem{
			Code: "database_exists", err: ErrDatabaseExists,
			Message: fmt.Sprintf("database %q exists: choose another name, or drop or rename it first", c.options.Into),
		})
	}
	return err
}

func (c *preflightCheck) names(what, sql string) ([]catalog.Text, error) {
	return collect(c.ctx, c.conn, what, sql, pgx.RowTo[catalog.Text])
}

func (c *preflightCheck) extensions() error {
	type available struct{ name, version catalog.Text }
	list, err := collect(c.ctx, c.conn, "available extensions", `
		SELECT name::pg_catalog.text, default_version FROM pg_catalog.pg_available_extensions WHERE default_version IS NOT NULL`,
		func(row pgx.CollectableRow) (a available, err error) {
			err = row.Scan(&a.name, &a.version)
			return a, err
		})
	if err != nil {
		return err
	}
	versions := make(map[catalog.Text]catalog.Text)
	for _, a := range list {
		versions[a.name] = a.version
	}
	for _, extension := range c.database.Extensions {
		version, known := versions[extension.Name]
		switch {
		case !known:
			c.problem("extension_missing", "extension %q (version %s) is not available: install the package that brings it for PostgreSQL %d on the server",
				extension.Name, extension.Version, c.plan.TargetVersion/10000)
		case version != extension.Version:
			c.warn("extension_version", extension.Name, "extension had version %s and will have version %s", extension.Version, version)
		}
	}
	return nil
}

func (c *preflightCheck) roles() error {
	list, err := c.names("roles", "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles")
	if err != nil {
		return err
	}
	var statements, superusers []string
	for _, role := range c.database.Roles {
		switch {
		case slices.Contains(list, role.Name):
		case c.options.CreateRoles && !role.Superuser:
			c.plan.CreateRoles = append(c.plan.CreateRoles, role)
		case c.options.CreateRoles:
			superusers = append(superusers, createRoleSQL(role))
		default:
			statements = append(statements, createRoleSQL(role))
		}
	}
	if len(statements) > 0 {
		c.problem("roles_missing", "roles of the snapshot are missing on the server: run %s, or let the restore create them without login (--create-roles)",
			strings.Join(statements, " "))
	}
	if len(superusers) > 0 {
		c.problem("roles_missing", "a restore does not create superusers: run %s", strings.Join(superusers, " "))
	}
	return nil
}

// createRoleSQL recreates a role as recorded, without its password.
func createRoleSQL(role catalog.Role) string {
	sql := "CREATE ROLE " + postgres.QuoteIdentifier(role.Name)
	for _, attribute := range []struct {
		set  bool
		word string
	}{
		{role.Superuser, "SUPERUSER"}, {!role.Inherit, "NOINHERIT"}, {role.CreateRole, "CREATEROLE"},
		{role.CreateDatabase, "CREATEDB"}, {role.Login, "LOGIN"}, {role.Replication, "REPLICATION"}, {role.BypassRLS, "BYPASSRLS"},
	} {
		if attribute.set {
			sql += " " + attribute.word
		}
	}
	if role.ConnectionLimit >= 0 {
		sql += fmt.Sprintf(" CONNECTION LIMIT %d", role.ConnectionLimit)
	}
	if role.ValidUntil != "" {
		sql += " VALID UNTIL " + postgres.QuoteLiteral(role.ValidUntil)
	}
	return sql + ";"
}

// privileges tells a role that is no superuser what it lacks.
func (c *preflightCheck) privileges(owners map[catalog.Text]bool) error {
	if c.plan.Superuser {
		return nil
	}
	me := postgres.QuoteIdentifier(c.role)
	mayCreate, err := collect(c.ctx, c.conn, "own privileges", `
		SELECT rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user`, pgx.RowTo[bool])
	if err != nil {
		return err
	}
	if !slices.Contains(mayCreate, true) {
		c.problem("privilege", "role %s may not create databases: run ALTER ROLE %s CREATEDB;", me, me)
	}
	type ownerState struct {
		name              catalog.Text
		superuser, member bool
	}
	right := "MEMBER"
	if c.plan.TargetVersion >= 160000 {
		right = "SET"
	}
	states, err := collect(c.ctx, c.conn, "memberships", `
		SELECT rolname::pg_catalog.text, rolsuper, pg_catalog.pg_has_role(current_user, oid, '`+right+`') FROM pg_catalog.pg_roles`,
		func(row pgx.CollectableRow) (s ownerState, err error) {
			err = row.Scan(&s.name, &s.superuser, &s.member)
			return s, err
		})
	if err != nil {
		return err
	}
	for _, state := range states {
		switch {
		case !owners[state.name]:
		case state.superuser:
			c.problem("privilege", "the snapshot holds objects of superuser %s, so only a superuser can restore it, and role %s is none",
				postgres.QuoteIdentifier(state.name), me)
		case !state.member:
			c.problem("privilege", "role %s may not act as %s, which owns objects: run GRANT %[2]s TO %[1]s;", me, postgres.QuoteIdentifier(state.name))
		}
	}
	return nil
}

func (c *preflightCheck) tablespaces() error {
	if c.options.NoTablespaces {
		return nil
	}
	list, err := c.names("tablespaces", "SELECT spcname::pg_catalog.text FROM pg_catalog.pg_tablespace")
	if err != nil {
		return err
	}
	var missing []string
	for _, tablespace := range append([]catalog.Text{c.database.Tablespace}, c.database.Tablespaces...) {
		quoted := postgres.QuoteIdentifier(tablespace)
		if tablespace != "" && !slices.Contains(list, tablespace) && !slices.Contains(missing, quoted) {
			missing = append(missing, quoted)
		}
	}
	if len(missing) > 0 {
		c.problem("tablespace_missing", "tablespaces of the snapshot are missing on the server: create %s, or restore without tablespaces (--no-tablespaces)",
			strings.Join(missing, ", "))
	}
	return nil
}

// locale tries the database's locale out with a temporary collation, which is rolled back, and compares versions. The
// server's libc and ICU cannot be asked in another way.
func (c *preflightCheck) locale() error {
	d := c.database
	major := c.plan.TargetVersion / 10000
	var definition string
	switch {
	case d.LocaleProvider == "libc":
		if d.Collate == "C" || d.Collate == "POSIX" {
			return nil
		}
		if encoding := c.conn.PgConn().ParameterStatus("server_encoding"); encoding != d.Encoding {
			return nil // a libc locale can be tried only under its own encoding; CREATE DATABASE will tell
		}
		definition = fmt.Sprintf("PROVIDER = libc, LC_COLLATE = %s, LC_CTYPE = %s", postgres.QuoteLiteral(d.Collate), postgres.QuoteLiteral(d.CType))
	case d.LocaleProvider == "icu" && major >= 15:
		definition = "PROVIDER = icu, LOCALE = " + postgres.QuoteLiteral(d.Locale)
		if d.ICURules != "" {
			definition += ", RULES = " + postgres.QuoteLiteral(d.ICURules)
		}
	case d.LocaleProvider == "builtin" && major >= 17:
		definition = "PROVIDER = builtin, LOCALE = " + postgres.QuoteLiteral(d.Locale)
	default:
		c.problem("locale_provider", "PostgreSQL %d does not know the locale provider %q of the snapshot", major, d.LocaleProvider)
		return nil
	}
	err := execute(c.ctx, c.conn, "BEGIN", "CREATE COLLATION pg_temp.hourvault_locale ("+definition+")")
	if err != nil {
		if sqlState(err) == "" {
			return fmt.Errorf("try the locale: %w", err)
		}
		c.problem("locale_missing", "the server cannot use the locale of the snapshot (%s): %s: install it in the server's operating system",
			definition, serverMessage(err))
		return execute(c.ctx, c.conn, "ROLLBACK")
	}
	version, err := c.names("collation version", `
		SELECT COALESCE(pg_catalog.pg_collation_actual_version(oid), '') FROM pg_catalog.pg_collation WHERE collname = 'hourvault_locale'`)
	if err != nil {
		return err
	}
	if len(version) == 1 && d.CollationVersion != "" && version[0] != d.CollationVersion {
		c.warn("collation_version", d.Name, "the locale's collation had version %s and has version %s on the server: text may sort in another order; indexes are built anew",
			d.CollationVersion, version[0])
	}
	return execute(c.ctx, c.conn, "ROLLBACK")
}

// leftovers names databases and roles of restores that were killed, or are still at work.
func (c *preflightCheck) leftovers() error {
	databases, err := c.names("leftovers", `SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
		WHERE pg_catalog.starts_with(datname::pg_catalog.text, '`+TemporaryPrefix+`') ORDER BY 1`)
	if err != nil {
		return err
	}
	roles, err := c.names("leftovers", `SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles
		WHERE pg_catalog.starts_with(rolname::pg_catalog.text, '`+loaderPrefix+`') ORDER BY 1`)
	if err != nil {
		return err
	}
	subscribed, err := c.names("subscriptions", `SELECT DISTINCT datname::pg_catalog.text FROM pg_catalog.pg_subscription JOIN pg_catalog.pg_database d ON d.oid = subdbid`)
	if err != nil && sqlState(err) != stateInsufficientPrivilege { // the columns are everybody's, unless somebody took that away
		return err
	}
	for _, name := range databases {
		first := ""
		if slices.Contains(subscribed, name) {
			first = "its subscriptions name replication slots of the original, so first, in psql, connected to it as a superuser (others may not connect), run " +
				removeSubscriptionsSQL + " and then, "
		}
		remove := dropDatabaseSQL(string(name))
		// The role may have rights in the database, so it goes last.
		loader := catalog.Text(loaderPrefix + strings.TrimPrefix(string(name), TemporaryPrefix))
		if i := slices.Index(roles, loader); i >= 0 {
			roles = slices.Delete(roles, i, i+1)
			remove += " " + dropRoleSQL(loader)
		}
		c.warn("unfinished_restore", name, "database is left of a restore that did not finish, unless one is at work now: if none is, %sin psql, connected to another database, run %s", first, remove)
	}
	for _, name := range roles {
		c.warn("unfinished_restore", name, "role that may write to all tables is left of a restore that did not finish, unless one is at work now: if none is, run %s", dropRoleSQL(name))
	}
	return nil
}
