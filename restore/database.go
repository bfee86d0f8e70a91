package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// create makes the database under its temporary name, with the recorded encoding and locale, and what roles are to be
// made. Statements that hold recorded text run in the new database: its encoding is that of the text.
func (r *run) create(ctx context.Context) error {
	conn, err := r.target.ConnectRestore(ctx, r.target.MaintenanceDatabase())
	if err != nil {
		return err
	}
	err = execute(ctx, conn, r.createDatabaseSQL())
	// Unless the server refused it the database is there, or may be: the answer was not awaited, or lost.
	r.created = err == nil || sqlState(err) == ""
	if err == nil && !r.plan.Superuser {
		// Nobody else may look at what is not finished, and whose grants are not yet what they will be.
		err = execute(ctx, conn, "REVOKE ALL ON DATABASE "+r.identifier()+" FROM PUBLIC")
	}
	closeSession(ctx, conn)
	if err != nil {
		return err
	}
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		oids, err := collect(ctx, conn, "the database's oid", "SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()", pgx.RowTo[catalog.OID])
		if err != nil {
			return err
		}
		r.oid = oids[0]
		if err := r.createRoles(ctx, conn); err != nil {
			return err
		}
		if err := r.tune(ctx, conn); err != nil {
			return err
		}
		err = execute(ctx, conn, "ALTER DATABASE "+r.identifier()+" OWNER TO "+postgres.QuoteIdentifier(r.database.Owner))
		if err != nil {
			return fmt.Errorf("set the owner: %w", err)
		}
		return nil
	})
}

// identifier is the quoted temporary name.
func (r *run) identifier() string { return postgres.QuoteIdentifier(catalog.Text(r.name)) }

// createDatabaseSQL is CREATE DATABASE in the words of the target's version. The connection limit of 0 keeps everybody
// but superusers out until the end; without superuser rights it would keep out the restore itself.
func (r *run) createDatabaseSQL() string {
	var sql strings.Builder
	option := func(keyword string, value catalog.Text) {
		fmt.Fprintf(&sql, " %s %s", keyword, postgres.QuoteLiteral(value))
	}
	sql.WriteString("CREATE DATABASE " + r.identifier() + " TEMPLATE template0")
	option("ENCODING", catalog.Text(r.database.Encoding))
	option("LC_COLLATE", r.database.Collate)
	option("LC_CTYPE", r.database.CType)
	if r.plan.TargetVersion >= 150000 {
		option("LOCALE_PROVIDER", catalog.Text(r.database.LocaleProvider))
	}
	switch r.database.LocaleProvider {
	case "icu":
		option("ICU_LOCALE", r.database.Locale)
		if r.database.ICURules != "" {
			option("ICU_RULES", r.database.ICURules)
		}
	case "builtin":
		option("BUILTIN_LOCALE", r.database.Locale)
	}
	if !r.options.NoTablespaces && r.database.Tablespace != "" && r.database.Tablespace != "pg_default" {
		sql.WriteString(" TABLESPACE " + postgres.QuoteIdentifier(r.database.Tablespace))
	}
	if r.plan.Superuser {
		sql.WriteString(" CONNECTION LIMIT 0")
	}
	return sql.String()
}

// createRoles makes the roles that are missing, without login and without any attribute of theirs but INHERIT, and
// their memberships among the recorded roles. Memberships in predefined roles, which give rights over the whole
// server, are left to the operator.
func (r *run) createRoles(ctx context.Context, conn *pgx.Conn) error {
	if len(r.plan.CreateRoles) == 0 {
		return nil
	}
	recorded := make(map[catalog.Text]bool)
	for _, role := range r.database.Roles {
		recorded[role.Name] = true
	}
	var statements []string
	for _, role := range r.plan.CreateRoles {
		inherit := " NOLOGIN INHERIT"
		if !role.Inherit {
			inherit = " NOLOGIN NOINHERIT"
		}
		statements = append(statements, "CREATE ROLE "+postgres.QuoteIdentifier(role.Name)+inherit)
		r.result.CreatedRoles = append(r.result.CreatedRoles, role.Name)
	}
	for _, role := range r.plan.CreateRoles {
		for _, group := range role.MemberOf {
			if recorded[group] {
				statements = append(statements, "GRANT "+postgres.QuoteIdentifier(group)+" TO "+postgres.QuoteIdentifier(role.Name))
			} else {
				r.warn("role_membership_not_restored", role.Name, fmt.Sprintf("role was a member of %q, which is not granted again by a restore", group))
			}
		}
	}
	err := execute(ctx, conn, transaction(statements)...)
	r.rolesCreated = err == nil || sqlState(err) == "" // as with the database
	if err != nil {
		return fmt.Errorf("create the missing roles: %w", err)
	}
	return nil
}

// dropCreatedRoles takes back what createRoles made, after the database is gone; also after ctx has ended.
func (r *run) dropCreatedRoles(ctx context.Context) error {
	if !r.rolesCreated {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	conn, err := r.connectToCleanUp(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	var statements []string
	for _, role := range r.plan.CreateRoles {
		statements = append(statements, "DROP ROLE IF EXISTS "+postgres.QuoteIdentifier(role.Name))
	}
	if err = execute(ctx, conn, transaction(statements)...); err == nil {
		r.rolesCreated = false
	}
	return err
}

// connectToCleanUp connects to the maintenance database. A server that was just restarted gets a while to come up.
func (r *run) connectToCleanUp(ctx context.Context) (*pgx.Conn, error) {
	begin := time.Now()
	for {
		conn, err := r.target.ConnectRestore(ctx, r.target.MaintenanceDatabase())
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		// While it recovers it says so; while it is down nothing answers.
		if sqlState(err) != stateCannotConnectNow && time.Since(begin) > downTimeout {
			return nil, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// errLastStepUnknown says that nobody knows whether a restore is finished: its last step was begun, and the server could not be
// asked what became of it.
var errLastStepUnknown = errors.New("whether the database was given its name could not be found out")

// rename gives the database its name, and lets in whom it is to let in: the restore's last step, in one transaction. Whoever is
// connected to the temporary name by then (a monitor that visits every database) is disconnected. Once it is begun it is not
// interrupted when ctx ends: what the server does with it then, nobody would know.
func (r *run) rename(ctx context.Context) error {
	lost, err := r.tryRename(ctx, r.target.ConnectRestore)
	if !lost {
		return err
	}
	// The server may have done it, and only its answer is missing; or still be at it, and then a second try can fail over the first.
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	var retryErr error
	for range 2 {
		lost, retryErr = r.tryRename(again, func(ctx context.Context, _ string) (*pgx.Conn, error) { return r.connectToCleanUp(ctx) })
		if retryErr == nil || errors.Is(retryErr, ErrDatabaseExists) {
			return retryErr
		}
	}
	if lost && r.renaming {
		return fmt.Errorf("%w: %w", errLastStepUnknown, errors.Join(err, retryErr))
	}
	return errors.Join(err, retryErr)
}

// tryRename says with its error whether the connection was lost over it. It succeeds when the database has its name already.
func (r *run) tryRename(ctx context.Context, connect func(context.Context, string) (*pgx.Conn, error)) (lost bool, err error) {
	conn, err := connect(ctx, r.target.MaintenanceDatabase())
	if err != nil {
		return ctx.Err() == nil || r.renaming, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	defer func() {
		lost = err != nil && conn.IsClosed()
		closeSession(ctx, conn)
	}()
	names, err := collect(ctx, conn, "the database's name", fmt.Sprintf("SELECT datname::pg_catalog.text FROM pg_catalog.pg_database WHERE oid = %d", r.oid), pgx.RowTo[catalog.Text])
	if err != nil {
		return false, err
	}
	if len(names) == 1 && names[0] == catalog.Text(r.options.Into) {
		return false, nil
	}
	if err := execute(ctx, conn, waitForCommits); err != nil {
		return false, err
	}
	r.renaming = true
	statements := transaction(r.finishStatements())
	const attempts = 5
	for attempt := 1; ; attempt++ {
		err = execute(ctx, conn, statements...)
		switch {
		case err == nil:
			return false, nil
		case sqlState(err) == stateDuplicateDatabase:
			return false, fmt.Errorf("%w meanwhile: %q", ErrDatabaseExists, r.options.Into)
		case sqlState(err) != stateObjectInUse || attempt == attempts:
			return false, err
		}
		terminate := "SELECT pg_catalog.pg_terminate_backend(pid, 2000) FROM pg_catalog.pg_stat_activity WHERE datname = " +
			postgres.QuoteLiteral(catalog.Text(r.name)) + " AND pid <> pg_catalog.pg_backend_pid()"
		if err := execute(ctx, conn, "ROLLBACK", terminate); err != nil {
			return false, fmt.Errorf("disconnect others from the restored database: %w", err)
		}
	}
}

// finishStatements are those of the last step.
func (r *run) finishStatements() []string {
	d := r.database
	statements := []string{fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", r.identifier(), d.ConnectionLimit)}
	if d.IsTemplate {
		statements = append(statements, "ALTER DATABASE "+r.identifier()+" IS_TEMPLATE true")
	}
	if !d.AllowConnections {
		statements = append(statements, "ALTER DATABASE "+r.identifier()+" ALLOW_CONNECTIONS false")
	}
	return append(statements, "ALTER DATABASE "+r.identifier()+" RENAME TO "+postgres.QuoteIdentifier(catalog.Text(r.options.Into)))
}

// removeSubscriptionsSQL is the statement that removes the subscriptions of the database it is run in: with them it cannot be dropped.
// Their slot is the original's: it is taken off first, since dropping a subscription drops the slot it names.
const removeSubscriptionsSQL = `DO $$ DECLARE s pg_catalog.name; BEGIN FOR s IN SELECT subname FROM pg_catalog.pg_subscription ` +
	`WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) LOOP ` +
	`EXECUTE pg_catalog.format('ALTER SUBSCRIPTION %I DISABLE', s); ` +
	`EXECUTE pg_catalog.format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', s); ` +
	`EXECUTE pg_catalog.format('DROP SUBSCRIPTION %I', s); END LOOP; END $$;`

// dropDatabaseSQL is the statement with which a person removes an unfinished database.
func dropDatabaseSQL(name string) string {
	return "DROP DATABASE IF EXISTS " + postgres.QuoteIdentifier(catalog.Text(name)) + " WITH (FORCE);"
}

// dropRoleSQL is the statement with which a person removes a role of a restore.
func dropRoleSQL(role catalog.Text) string {
	return "DROP ROLE IF EXISTS " + postgres.QuoteIdentifier(role) + ";"
}

// drop removes the unfinished database. It works although ctx has ended, for at most cleanUpTimeout.
func (r *run) drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	conn, err := r.connectToCleanUp(ctx)
	if err != nil {
		return err
	}
	var subscriptions error
	if len(r.archive.subscriptionsRestored()) > 0 {
		closeSession(ctx, conn) // its place in the budget may be the only one
		subscriptions = r.releaseSlots(ctx, true)
		if conn, err = r.connectToCleanUp(ctx); err != nil {
			return errors.Join(subscriptions, err)
		}
	}
	defer closeSession(ctx, conn)
	if r.oid == 0 {
		// The answer to CREATE DATABASE may have been lost while the server is still at it: dropped before it is there, it
		// would come afterwards. The name in the statement is like no other.
		ended, err := collect(ctx, conn, "sessions", "SELECT pg_catalog.pg_terminate_backend(pid, 30000) FROM pg_catalog.pg_stat_activity WHERE pg_catalog.starts_with(query, "+
			postgres.QuoteLiteral(catalog.Text("CREATE DATABASE "+r.identifier()))+")", pgx.RowTo[bool])
		if err != nil {
			return fmt.Errorf("end the creation of the database: %w", err)
		}
		if slices.Contains(ended, false) {
			return errors.New("the server may still be creating it")
		}
	}
	if err := execute(ctx, conn, "DROP DATABASE IF EXISTS "+r.identifier()+" WITH (FORCE)"); err != nil {
		return errors.Join(subscriptions, err)
	}
	return nil
}

// releaseSlots takes the original's slots off the subscriptions of the unfinished database, and drops these when drop is set. It
// works although ctx has ended.
func (r *run) releaseSlots(ctx context.Context, drop bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		names, err := collect(ctx, conn, "subscriptions", `SELECT subname::pg_catalog.text FROM pg_catalog.pg_subscription
			WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`,
			pgx.RowTo[catalog.Text])
		if err != nil {
			return err
		}
		for _, name := range names {
			quoted := postgres.QuoteIdentifier(name)
			statements := []string{"ALTER SUBSCRIPTION " + quoted + " DISABLE", "ALTER SUBSCRIPTION " + quoted + " SET (slot_name = NONE)"}
			if drop {
				statements = append(statements, "DROP SUBSCRIPTION "+quoted)
			}
			for _, statement := range statements {
				if err := execute(ctx, conn, statement); err != nil {
					return fmt.Errorf("release the slot of subscription %s: %w", quoted, err)
				}
			}
		}
		return nil
	})
}

// createLoader makes the role that loads what the owner may not or must not load. It has no login and no right but to
// write to tables, and lives as long as the restore.
func (r *run) createLoader(ctx context.Context, conn *pgx.Conn) error {
	quoted := postgres.QuoteIdentifier(r.loader)
	r.loaderCreated = true // or may be: an answer can be lost
	err := execute(ctx, conn, transaction([]string{
		"CREATE ROLE " + quoted + " NOLOGIN INHERIT",
		"GRANT pg_write_all_data TO " + quoted,
		"COMMENT ON ROLE " + quoted + " IS 'temporary role of a restore by hourvault: may be dropped when none is at work'",
	})...)
	if err != nil {
		return fmt.Errorf("create the role that loads rows: %w", err)
	}
	return nil
}

// dropLoader removes the loading role, also after ctx has ended.
func (r *run) dropLoader(ctx context.Context) error {
	if !r.loaderCreated {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	conn, err := r.connectToCleanUp(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	if err = execute(ctx, conn, "DROP ROLE IF EXISTS "+postgres.QuoteIdentifier(r.loader)); err == nil {
		r.loaderCreated = false
	}
	return err
}
