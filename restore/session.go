package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// SQLSTATEs that decisions here rest on (PostgreSQL manual, "PostgreSQL Error Codes").
const (
	stateCannotConnectNow       = "57P03"
	stateUndefinedObject        = "42704"
	stateInvalidParameter       = "22023"
	stateDuplicateDatabase      = "42P04"
	stateObjectInUse            = "55006"
	stateNotInPrerequisiteState = "55000"
	stateCheckViolation         = "23514"
	stateInsufficientPrivilege  = "42501"
	stateRaiseException         = "P0001"
	stateUndefinedTable         = "42P01" // also where its schema does not exist
	stateInvalidSchemaName      = "3F000"
)

func sqlState(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// serverMessage is what the server says about a statement that holds no rows: unlike postgres.ServerError it does not
// withhold messages that quote values.
func serverMessage(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return fmt.Sprintf("%q (SQLSTATE %s)", server.Message, server.Code)
	}
	return err.Error()
}

// session opens the database being restored, under the settings pinned for restoring.
func (r *run) session(ctx context.Context) (*pgx.Conn, error) {
	return r.target.ConnectRestore(ctx, r.name)
}

// inSession does something in a session of its own.
func (r *run) inSession(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := r.session(ctx)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	return do(conn)
}

// closeSession ends a session whatever became of ctx.
func closeSession(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// execute runs statements as one script. They go through the simple protocol: bytes stay as they are, and no
// arguments are involved. The error holds no row data.
func execute(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	_, err := conn.PgConn().Exec(ctx, strings.Join(statements, ";\n")).ReadAll()
	return sessionError(conn, err)
}

// sessionError is what the server says without row data, or that it can say nothing any more.
func sessionError(conn *pgx.Conn, err error) error {
	if err != nil && conn.IsClosed() && sqlState(err) == "" {
		return fmt.Errorf("the connection to the server was lost: %w", err)
	}
	return postgres.ServerError(err)
}

// collect runs a query without arguments and returns its rows.
func collect[T any](ctx context.Context, conn *pgx.Conn, what, sql string, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := conn.Query(ctx, sql)
	if err == nil {
		var all []T
		if all, err = pgx.CollectRows(rows, scan); err == nil {
			return all, nil
		}
	}
	return nil, fmt.Errorf("read %s: %w", what, sessionError(conn, err))
}

// become is the statement that makes the rest of the transaction run as role. A superuser gives up its identity
// altogether; another role can only act as one that it is a member of.
func (r *run) become(role catalog.Text) string {
	if r.plan.Superuser {
		return "SET LOCAL SESSION AUTHORIZATION " + postgres.QuoteIdentifier(role)
	}
	return "SET LOCAL ROLE " + postgres.QuoteIdentifier(role)
}

// grantStatements returns the statements that give object ("DATABASE x") exactly the privileges of grants, in whatever
// state they are: each grant is made by its grantor, after the grant that lets it. The statements belong into one
// transaction.
func (r *run) grantStatements(object string, owner catalog.Text, grants []catalog.Grant) []string {
	statements := []string{
		"REVOKE ALL ON " + object + " FROM PUBLIC",
		"REVOKE ALL ON " + object + " FROM " + postgres.QuoteIdentifier(owner),
	}
	may := map[string]bool{} // grantor and privilege that were granted with the option to grant
	key := func(role catalog.Text, privilege string) string { return privilege + " " + string(role) }
	pending := grants
	for len(pending) > 0 {
		var later []catalog.Grant
		for _, grant := range pending {
			if grant.Grantor != owner && !may[key(grant.Grantor, grant.Privilege)] {
				later = append(later, grant)
				continue
			}
			statements = append(statements, r.grantStatement(object, owner, grant)...)
			if grant.Grantable {
				may[key(grant.Grantee, grant.Privilege)] = true
			}
		}
		if len(later) == len(pending) { // a grantor without the right: the server shall say so
			for _, grant := range later {
				statements = append(statements, r.grantStatement(object, owner, grant)...)
			}
			break
		}
		pending = later
	}
	return statements
}

func (r *run) grantStatement(object string, owner catalog.Text, grant catalog.Grant) []string {
	grantee := "PUBLIC"
	if !grant.Public {
		grantee = postgres.QuoteIdentifier(grant.Grantee)
	}
	statement := "GRANT " + grant.Privilege + " ON " + object + " TO " + grantee
	if grant.Grantable {
		statement += " WITH GRANT OPTION"
	}
	if grant.Grantor == owner {
		return []string{statement}
	}
	reset := "SET LOCAL ROLE NONE"
	if r.plan.Superuser {
		reset = "SET LOCAL SESSION AUTHORIZATION DEFAULT"
	}
	return []string{r.become(grant.Grantor), statement, reset}
}

// transaction wraps statements.
func transaction(statements []string) []string {
	return append(append([]string{"BEGIN"}, statements...), "COMMIT")
}
