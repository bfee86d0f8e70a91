package restore

import (
	"context"
	"errors"
	"fmt"
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
		if err := r.createRoles(ctx, conn); err != nil {
			return err
		}
		err := execute(ctx, conn, "ALTER DATABASE "+r.identifier()+" OWNER TO "+postgres.QuoteIdentifier(r.database.Owner))
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
	if err := execute(ctx, conn, transaction(statements)...); err != nil {
		return fmt.Errorf("create the missing roles: %w", err)
	}
	r.rolesCreated = true
	return nil
}

// dropCreatedRoles takes back what createRoles made, after the database is gone; also after ctx has ended.
func (r *run) dropCreatedRoles(ctx context.Context) error {
	if !r.rolesCreated {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	conn, err := r.target.ConnectRestore(ctx, r.target.MaintenanceDatabase())
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	var statements []string
	for _, role := range r.plan.CreateRoles {
		statements = append(statements, "DROP ROLE "+postgres.QuoteIdentifier(role.Name))
	}
	return execute(ctx, conn, transaction(statements)...)
}

// rename gives the database its name: the restore's last step. Whoever is connected to the temporary name by then (a
// monitor that visits every database) is disconnected.
func (r *run) rename(ctx context.Context) error {
	conn, err := r.target.ConnectRestore(ctx, r.target.MaintenanceDatabase())
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	const attempts = 5
	for attempt := 1; ; attempt++ {
		err = execute(ctx, conn, "ALTER DATABASE "+r.identifier()+" RENAME TO "+postgres.QuoteIdentifier(catalog.Text(r.options.Into)))
		switch {
		case err == nil:
			return nil
		case sqlState(err) == stateDuplicateDatabase:
			return fmt.Errorf("%w meanwhile: %q", ErrDatabaseExists, r.options.Into)
		case sqlState(err) != stateObjectInUse || attempt == attempts:
			return err
		}
		terminate := "SELECT pg_catalog.pg_terminate_backend(pid, 2000) FROM pg_catalog.pg_stat_activity WHERE datname = " +
			postgres.QuoteLiteral(catalog.Text(r.name)) + " AND pid <> pg_catalog.pg_backend_pid()"
		if err := execute(ctx, conn, terminate); err != nil {
			return fmt.Errorf("disconnect others from the restored database: %w", err)
		}
	}
}

// drop removes the unfinished database. It works although ctx has ended, for at most cleanUpTimeout.
func (r *run) drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	dropSubscriptions := r.dropSubscriptions(ctx)
	conn, err := r.target.ConnectRestore(ctx, r.target.MaintenanceDatabase())
	if err != nil {
		return errors.Join(dropSubscriptions, err)
	}
	defer closeSession(ctx, conn)
	if err := execute(ctx, conn, "DROP DATABASE IF EXISTS "+r.identifier()+" WITH (FORCE)"); err != nil {
		return errors.Join(dropSubscriptions, err)
	}
	return nil
}

// dropSubscriptions removes subscriptions, with which a database cannot be dropped. Their slot is the original's: it is
// taken off first, since dropping a subscription drops the slot it names.
func (r *run) dropSubscriptions(ctx context.Context) error {
	if len(r.archive.subscriptionsRestored()) == 0 {
		return nil
	}
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		names, err := collect(ctx, conn, "subscriptions", `SELECT subname::pg_catalog.text FROM pg_catalog.pg_subscription
			WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`,
			pgx.RowTo[catalog.Text])
		if err != nil {
			return err
		}
		for _, name := range names {
			quoted := postgres.QuoteIdentifier(name)
			for _, statement := range []string{
				"ALTER SUBSCRIPTION " + quoted + " DISABLE",
				"ALTER SUBSCRIPTION " + quoted + " SET (slot_name = NONE)",
				"DROP SUBSCRIPTION " + quoted,
			} {
				if err := execute(ctx, conn, statement); err != nil {
					return fmt.Errorf("drop subscription %s: %w", quoted, err)
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
	err := execute(ctx, conn, transaction([]string{
		"CREATE ROLE " + quoted + " NOLOGIN INHERIT",
		"GRANT pg_write_all_data TO " + quoted,
		"COMMENT ON ROLE " + quoted + " IS 'temporary role of a restore by hourvault: may be dropped when none is at work'",
	})...)
	if err != nil {
		return fmt.Errorf("create the role that loads rows: %w", err)
	}
	r.loaderCreated = true
	return nil
}

// dropLoader removes the loading role, also after ctx has ended.
func (r *run) dropLoader(ctx context.Context) error {
	if !r.loaderCreated {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	conn, err := r.target.ConnectRestore(ctx, r.target.MaintenanceDatabase())
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	return execute(ctx, conn, "DROP ROLE "+postgres.QuoteIdentifier(r.loader))
}
