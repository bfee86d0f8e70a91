package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/restore"
)

// newestMajor is the newest PostgreSQL that hourvault is tested with.
const newestMajor = 18

// clockTolerated is how much a database server's clock may differ before it is reported: snapshots carry its time, and
// restores ask for it.
const clockTolerated = time.Minute

// serverFacts are what one query tells about a server and hourvault's role on it.
type serverFacts struct {
	clock                                 time.Time
	tls                                   bool
	tlsVersion                            string
	local                                 bool // unix socket
	maxConnections, reserved, used, limit int
	createDB, readAllData, checkpointer   bool
	summarizeWAL                          string // empty before PostgreSQL 17
}

// examineServer checks one server.
func (a *app) examineServer(ctx context.Context, from *config.Server, tried *growingProgress) []finding {
	found := &findings{subject: "server " + from.Name}
	server, err := a.openServer(from)
	if err != nil {
		found.add(statusFailure, "configuration", "", "%v", err)
		return found.list
	}
	identity, err := server.Identity(ctx)
	if err != nil {
		advice := "check dsn, network, pg_hba.conf and the server itself"
		if unsupported := (*postgres.UnsupportedServerError)(nil); errors.As(err, &unsupported) {
			advice = ""
		}
		found.add(statusFailure, "reach", advice, "%v", err)
		return found.list
	}
	role := postgres.QuoteIdentifier(identity.Role)
	found.ok("reach", "connected as role %s", role)
	examineVersion(found, identity)

	tools, err := server.Tools(ctx)
	if err != nil {
		found.add(statusFailure, "client tools", "install the client programs of PostgreSQL "+fmt.Sprint(identity.ServerVersion/10000)+", or name their directory in pg_bin_dirs", "%v", err)
	} else {
		found.ok("client tools", "pg_dump %s in %s", tools.Version, tools.Dir)
	}
	facts, err := askFacts(ctx, server, identity)
	if err != nil {
		found.add(statusFailure, "settings", "", "%v", err)
		return found.list
	}
	examineFacts(found, facts, identity, from)
	a.examineDatabases(ctx, found, server, identity, from, tried)
	return found.list
}

func examineVersion(found *findings, identity postgres.Identity) {
	major := identity.ServerVersion / 10000
	printed := fmt.Sprintf("PostgreSQL %d.%d", major, identity.ServerVersion%10000)
	switch {
	case major > newestMajor:
		found.add(statusWarning, "version", "use a newer hourvault", "%s is newer than this version of hourvault was tested with", printed)
	case identity.InRecovery:
		found.add(statusWarning, "version", "", "%s, a standby: snapshots are taken from it, nothing can be restored to it", printed)
	default:
		found.ok("version", "%s, system identifier %s", printed, identity.SystemIdentifier)
	}
}

func askFacts(ctx context.Context, server *postgres.Server, identity postgres.Identity) (serverFacts, error) {
	var facts serverFacts
	conn, err := server.Connect(ctx, server.MaintenanceDatabase())
	if err != nil {
		return facts, err
	}
	defer closeSession(ctx, conn)
	checkpointer := "false"
	if identity.ServerVersion >= 150000 {
		checkpointer = "pg_catalog.pg_has_role('pg_checkpoint', 'USAGE')"
	}
	err = conn.QueryRow(ctx, `
select pg_catalog.clock_timestamp(), coalesce(s.ssl, false), coalesce(s.version, ''), a.client_addr is null,
       current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,
       (select count(*)::int from pg_catalog.pg_stat_activity where backend_type = 'client backend'),
       r.rolconnlimit, r.rolcreatedb, pg_catalog.pg_has_role('pg_read_all_data', 'USAGE'), `+checkpointer+`,
       coalesce(current_setting('summarize_wal', true), '')
from pg_catalog.pg_roles r
left join pg_catalog.pg_stat_ssl s on s.pid = pg_catalog.pg_backend_pid()
left join pg_catalog.pg_stat_activity a on a.pid = pg_catalog.pg_backend_pid()
where r.rolname = current_user`).
		Scan(&facts.clock, &facts.tls, &facts.tlsVersion, &facts.local, &facts.maxConnections, &facts.reserved, &facts.used,
			&facts.limit, &facts.createDB, &facts.readAllData, &facts.checkpointer, &facts.summarizeWAL)
	if err != nil {
		return facts, fmt.Errorf("ask the server for its settings: %w", postgres.ServerError(err))
	}
	return facts, nil
}

// closeSession closes a connection whatever state ctx is in.
func closeSession(ctx context.Context, conn interface{ Close(context.Context) error }) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	_ = conn.Close(ctx)
}

func examineFacts(found *findings, facts serverFacts, identity postgres.Identity, from *config.Server) {
	role := postgres.QuoteIdentifier(identity.Role)
	switch {
	case facts.local:
		found.ok("TLS", "not needed: the connection is a unix socket of this machine")
	case !facts.tls:
		found.add(statusWarning, "TLS", "say sslmode=verify-full in dsn", "the connection is not encrypted: rows travel in the clear")
	case !strings.Contains(from.DSN, "verify-full"):
		found.add(statusWarning, "TLS", "say sslmode=verify-full in dsn, and sslrootcert if the authority is your own", "%s, but dsn does not demand that the server proves its name", facts.tlsVersion)
	default:
		found.ok("TLS", "%s, certificate and name checked", facts.tlsVersion)
	}
	if skew := time.Since(facts.clock); skew.Abs() > clockTolerated {
		found.add(statusWarning, "clock", "set the clocks, by NTP for example", "this machine's clock and the server's differ by %s: snapshots carry the server's time", console.FormatDuration(skew.Abs()))
	} else {
		found.ok("clock", "agrees with this machine's")
	}
	free := facts.maxConnections - facts.reserved - facts.used
	switch {
	case facts.limit >= 0 && facts.limit < from.Connections:
		found.add(statusFailure, "connections", fmt.Sprintf("run ALTER ROLE %s CONNECTION LIMIT %d; or set connections to %d", role, from.Connections, facts.limit),
			"role %s may open %d connections, and connections is %d", role, facts.limit, from.Connections)
	case free < from.Connections:
		found.add(statusWarning, "connections", "lower connections, or raise max_connections", "%d of %d are free now, and hourvault may open %d", max(0, free), facts.maxConnections, from.Connections)
	default:
		found.ok("connections", "at most %d; %d of %d are free now", from.Connections, free, facts.maxConnections)
	}
	switch {
	case identity.Superuser:
		found.ok("role", "%s is a superuser; pg_read_all_data is enough to take snapshots", role)
	case !facts.readAllData:
		found.add(statusWarning, "role", fmt.Sprintf("run as superuser: GRANT pg_read_all_data TO %s;", role), "%s is no member of pg_read_all_data: tables that come later may not be readable", role)
	default:
		found.ok("role", "%s is a member of pg_read_all_data", role)
	}
	if identity.Superuser || facts.createDB {
		found.ok("restoring", "%s may create databases", role)
	} else {
		found.add(statusWarning, "restoring", fmt.Sprintf("to restore to this server, run as superuser: ALTER ROLE %s CREATEDB;", role), "%s may not create databases: snapshots can be taken, not restored here", role)
	}
	switch {
	case from.Checkpoint != config.CheckpointRequest:
		found.ok("checkpoint", "waits for those that the server makes anyway")
	case identity.Superuser || facts.checkpointer:
		found.ok("checkpoint", "%s may ask for one", role)
	case identity.ServerVersion < 150000:
		found.add(statusFailure, "checkpoint", "say checkpoint: wait", "before PostgreSQL 15 only superusers may ask for a checkpoint, and %s is none", role)
	default:
		found.add(statusFailure, "checkpoint", fmt.Sprintf("run as superuser: GRANT pg_checkpoint TO %s; or say checkpoint: wait", role), "%s may not ask for a checkpoint", role)
	}
	switch facts.summarizeWAL {
	case "":
		found.ok("summarize_wal", "not in this version of PostgreSQL (17 has it): every block is read, and only changed ones are stored")
	case "on":
		found.ok("summarize_wal", "on")
	default:
		found.add(statusWarning, "summarize_wal", "run as superuser: ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf();", "off: the server cannot tell which blocks changed, so every block is read")
	}
}

// examineDatabases says which databases are workspaces, and tries to open a snapshot of each.
func (a *app) examineDatabases(ctx context.Context, found *findings, server *postgres.Server, identity postgres.Identity, from *config.Server, tried *growingProgress) {
	databases, err := server.Databases(ctx)
	if err != nil {
		found.add(statusFailure, "databases", "", "%v", err)
		return
	}
	var selected, usable []postgres.DatabaseEntry
	var excluded, neither []string
	for _, database := range databases {
		name := string(database.Name)
		switch {
		case strings.HasPrefix(name, restore.TemporaryPrefix):
			found.add(statusWarning, "databases", "drop it, unless a restore is at work now: DROP DATABASE "+postgres.QuoteIdentifier(database.Name)+";", "%s is left of a restore that did not finish", console.Printable(name))
		case !isCandidate(database):
		case from.Workspaces.Selects(name):
			selected = append(selected, database)
		case from.Workspaces.Excludes(name):
			excluded = append(excluded, console.Printable(name))
		default:
			neither = append(neither, console.Printable(name))
		}
	}
	switch {
	case len(selected) == 0 && len(neither) == 0 && slices.Equal(from.Workspaces.Exclude, []config.Pattern{"*"}):
		found.ok("databases", "all are excluded: no backups are taken through this entry, which is for restoring")
	case len(selected) == 0:
		found.add(statusWarning, "databases", "correct the server's workspaces: include", "no database is a workspace; %d are excluded", len(excluded))
	default:
		found.ok("databases", "%d are workspaces, %d are excluded", len(selected), len(excluded))
	}
	if len(neither) > 0 {
		found.add(statusWarning, "unprotected", "include them, or exclude them by name", "not backed up and not excluded: %s", strings.Join(neither, ", "))
	}
	for _, database := range selected {
		switch {
		case database.Invalid:
			found.add(statusFailure, "workspace", "drop it: DROP DATABASE "+postgres.QuoteIdentifier(database.Name)+";", "%s cannot be connected to: dropping it was interrupted", console.Printable(string(database.Name)))
		case !database.AllowConnections:
			found.add(statusFailure, "workspace", "run ALTER DATABASE "+postgres.QuoteIdentifier(database.Name)+" ALLOW_CONNECTIONS true; or exclude it", "%s does not allow connections: it cannot be backed up", console.Printable(string(database.Name)))
		default:
			usable = append(usable, database)
		}
	}
	barred, err := mayNotConnect(ctx, server)
	if err != nil {
		found.add(statusFailure, "databases", "", "%v", err)
		return
	}
	tried.grow(len(usable))
	opened := 0
	for _, database := range usable {
		if ctx.Err() != nil {
			return
		}
		if slices.Contains(barred, database.Name) {
			found.add(statusFailure, "privileges", fmt.Sprintf("run as superuser: GRANT CONNECT ON DATABASE %s TO %s;", postgres.QuoteIdentifier(database.Name), postgres.QuoteIdentifier(identity.Role)),
				"role %s may not connect to %s", postgres.QuoteIdentifier(identity.Role), console.Printable(string(database.Name)))
		} else if trySnapshot(ctx, found, server, database) {
			opened++
		}
		tried.done()
	}
	if opened > 0 {
		found.ok("snapshots", "of %d of %d workspaces one was opened, every table locked and readable, and shared with a second connection", opened, len(selected))
	}
}

func mayNotConnect(ctx context.Context, server *postgres.Server) ([]catalog.Text, error) {
	conn, err := server.Connect(ctx, server.MaintenanceDatabase())
	if err != nil {
		return nil, err
	}
	defer closeSession(ctx, conn)
	rows, err := conn.Query(ctx, "select datname::text from pg_catalog.pg_database where not pg_catalog.has_database_privilege(oid, 'CONNECT')")
	if err != nil {
		return nil, fmt.Errorf("ask for privileges: %w", postgres.ServerError(err))
	}
	defer rows.Close()
	var names []catalog.Text
	for rows.Next() {
		var name catalog.Text
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("ask for privileges: %w", postgres.ServerError(err))
	}
	return names, nil
}

// trySnapshot opens a snapshot as a backup does, and a second connection that shares it, which fails behind a pooler that
// hands out sessions by transaction.
func trySnapshot(ctx context.Context, found *findings, server *postgres.Server, database postgres.DatabaseEntry) bool {
	name := console.Printable(string(database.Name))
	snapshot, err := server.OpenSnapshot(ctx, string(database.Name), postgres.SnapshotOptions{})
	if err != nil {
		var missing *postgres.PrivilegeError
		switch {
		case errors.As(err, &missing):
			found.add(statusFailure, "privileges", "run as superuser in database "+name+": "+strings.Join(missing.Statements, "; ")+";", "%s", describeMissing(missing))
		case passes(err):
			found.add(statusWarning, "snapshots", "run doctor again later", "%s: %v", name, err)
		default:
			found.add(statusFailure, "snapshots", "", "%s: %v", name, err)
		}
		return false
	}
	defer func() { _ = snapshot.Close(context.WithoutCancel(ctx)) }()
	reader, err := snapshot.NewReader(ctx)
	if err != nil {
		found.add(statusFailure, "snapshots", "connect to the server itself, not to a pooler that shares sessions by transaction", "%s: a snapshot cannot be shared with a second connection: %v", name, err)
		return false
	}
	_ = reader.Close(context.WithoutCancel(ctx))
	return true
}

// describeMissing says what a role may not read, without the statements that mend it.
func describeMissing(missing *postgres.PrivilegeError) string {
	var parts []string
	for _, lack := range []struct {
		what  string
		names []string
	}{
		{"USAGE on schema", missing.Schemas},
		{"SELECT on table", missing.Tables},
		{"the right to bypass row-level security of table", missing.RowSecurity},
	} {
		const shown = 5
		if len(lack.names) > shown {
			parts = append(parts, fmt.Sprintf("%s %s and %d more", lack.what, strings.Join(lack.names[:shown], ", "), len(lack.names)-shown))
		} else if len(lack.names) > 0 {
			parts = append(parts, lack.what+" "+strings.Join(lack.names, ", "))
		}
	}
	return fmt.Sprintf("role %s in database %s lacks %s", missing.Role, console.Printable(missing.Database), strings.Join(parts, " and "))
}
