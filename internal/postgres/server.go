package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourvault/hourvault/internal/catalog"
)

// Defaults of ServerConfig, and its lower bound of Connections: a snapshot needs one to hold it and one to read with.
const (
	DefaultLockTimeout = 10 * time.Second
	DefaultYieldToDDL  = 5 * time.Second
	MinConnections     = 2
)

// ServerConfig is what there is to say about a server. The zero value of a field is its default where one is named.
type ServerConfig struct {
	// Name is the operator's word for the server.
	Name string
	// DSN is a URL or a keyword/value string as libpq understands it, naming one host and a maintenance database
	// ("postgres" when it names none). A password in it is used when Password is empty.
	DSN      string
	Password Password
	// Connections is the number of connections that all work on this server shares; never more are open at one time,
	// pg_dump's included. At least MinConnections.
	Connections int
	// LockTimeout bounds all waiting for locks while a snapshot is opened, and each wait afterwards; 0 is DefaultLockTimeout.
	LockTimeout time.Duration
	// YieldToDDL is how long another session may wait behind a snapshot's locks before the snapshot gives way; 0 is
	// DefaultYieldToDDL.
	YieldToDDL time.Duration
	// RequestCheckpoint lets Snapshot.Reading issue CHECKPOINT, which needs the role pg_checkpoint.
	RequestCheckpoint bool
	// BinDirs are searched for pg_dump and pg_restore before the usual places.
	BinDirs []string
}

// Password is a secret that prints as redacted under every verb.
type Password string

const redacted = "[redacted]"

func (p Password) String() string               { return redacted }
func (p Password) GoString() string             { return redacted }
func (p Password) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redacted)) }
func (p Password) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (p Password) LogValue() slog.Value         { return slog.StringValue(redacted) }

// Server is a PostgreSQL server under one budget of connections. It holds no connection of its own between calls. Its
// methods may be called concurrently.
type Server struct {
	name        string
	config      *pgx.ConnConfig
	toolParams  []param // of the DSN, for libpq, without database and password
	password    Password
	lockTimeout time.Duration
	yieldToDDL  time.Duration
	checkpoint  bool
	binDirs     []string

	tokens chan struct{} // one per connection that is not open
	pair   chan struct{} // held by whoever takes two tokens, so that two of them never hold one each for ever

	checkpointing chan struct{} // held while CHECKPOINT runs: one serves all that wait

	mutex   sync.Mutex
	version int // server_version_num of the newest connection, 0 unknown
	marks   markHistory
	tools   map[int]Tools // chosen, by server major
}

type param struct{ key, value string }

// dsnKeys are the parameters that pgx and libpq both know and that may stand in a DSN.
var dsnKeys = map[string]bool{
	"host": true, "port": true, "user": true, "password": true, "dbname": true, "database": true, "passfile": true,
	"connect_timeout": true, "sslmode": true, "sslkey": true, "sslcert": true, "sslrootcert": true, "sslsni": true,
	"sslnegotiation": true, "krbsrvname": true, "target_session_attrs": true, "service": true, "servicefile": true,
	"channel_binding": true, "require_auth": true, "application_name": true,
}

// NewServer checks the configuration. It opens no connection. Its errors name the parameter and never the DSN.
func NewServer(config ServerConfig) (*Server, error) {
	fail := func(format string, args ...any) (*Server, error) {
		return nil, fmt.Errorf("server %s: %w", printable(config.Name), fmt.Errorf(format, args...))
	}
	if config.Connections < MinConnections {
		return fail("connections is %d: a snapshot needs at least %d", config.Connections, MinConnections)
	}
	if config.LockTimeout < 0 || config.YieldToDDL < 0 {
		return fail("a timeout is negative")
	}
	params, err := parseDSN(config.DSN)
	if err != nil {
		return fail("dsn: %w", err)
	}
	var forPgx []string
	server := &Server{
		name: config.Name, password: config.Password, binDirs: config.BinDirs,
		lockTimeout: config.LockTimeout, yieldToDDL: config.YieldToDDL, checkpoint: config.RequestCheckpoint,
		tokens: make(chan struct{}, config.Connections), pair: make(chan struct{}, 1), checkpointing: make(chan struct{}, 1),
		tools: map[int]Tools{},
	}
	if server.lockTimeout == 0 {
		server.lockTimeout = DefaultLockTimeout
	}
	if server.yieldToDDL == 0 {
		server.yieldToDDL = DefaultYieldToDDL
	}
	database := ""
	for _, p := range params {
		switch p.key {
		case "password":
			if server.password == "" {
				server.password = Password(p.value)
			}
			continue
		case "dbname", "database":
			database = p.value
			continue
		case "application_name":
			continue // hourvault's sessions are told by theirs
		}
		forPgx = append(forPgx, p.key+"="+quoteParam(p.value))
		server.toolParams = append(server.toolParams, p)
	}
	if database == "" {
		database = "postgres"
	}
	parsed, err := pgx.ParseConfig(strings.Join(append(forPgx, "dbname="+quoteParam(database)), " "))
	if err != nil {
		// The text of the error quotes the DSN; what lies below it says what is wrong.
		var parse *pgconn.ParseConfigError
		if errors.As(err, &parse) && errors.Unwrap(parse) != nil {
			err = errors.Unwrap(parse)
		}
		return fail("dsn: %w", err)
	}
	if server.password != "" {
		parsed.Password = string(server.password)
	}
	for _, fallback := range parsed.Fallbacks {
		if fallback.Host != parsed.Host || fallback.Port != parsed.Port {
			return fail("dsn: it names several hosts: a snapshot is shared by connections to one, so name one")
		}
	}
	// The environment may add parameters (PGOPTIONS, PGAPPNAME, ...): only ours count.
	parsed.RuntimeParams = map[string]string{
		"application_name": "hourvault",
		// In force before the first statement, unlike what pin sets: a database may bring a timeout of a millisecond.
		"statement_timeout": "0", "idle_session_timeout": "0", "idle_in_transaction_session_timeout": "0",
	}
	if parsed.ConnectTimeout == 0 || parsed.ConnectTimeout > 2*time.Minute {
		parsed.ConnectTimeout = 30 * time.Second
	}
	parsed.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return newServerConn(conn), nil
	}
	server.config = parsed
	for range config.Connections {
		server.tokens <- struct{}{}
	}
	server.pair <- struct{}{}
	server.checkpointing <- struct{}{}
	return server, nil
}

// parseDSN splits a DSN of either form into its parameters. Errors do not quote it.
func parseDSN(dsn string) ([]param, error) {
	var params []param
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		parsed, err := url.Parse(dsn)
		if err != nil {
			return nil, errors.New("it is not a valid URL; characters with a meaning in URLs must be percent-encoded")
		}
		if parsed.Hostname() != "" {
			params = append(params, param{"host", parsed.Hostname()})
		}
		if strings.Contains(parsed.Host, ",") {
			return nil, errors.New("it names several hosts: a snapshot is shared by connections to one, so name one")
		}
		if parsed.Port() != "" {
			params = append(params, param{"port", parsed.Port()})
		}
		if parsed.User != nil {
			if parsed.User.Username() != "" {
				params = append(params, param{"user", parsed.User.Username()})
			}
			if password, set := parsed.User.Password(); set {
				params = append(params, param{"password", password})
			}
		}
		if database := strings.TrimPrefix(parsed.Path, "/"); database != "" {
			params = append(params, param{"dbname", database})
		}
		query, err := url.ParseQuery(parsed.RawQuery)
		if err != nil {
			return nil, errors.New("its query part is not valid")
		}
		keys := make([]string, 0, len(query))
		for key := range query {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		for _, key := range keys {
			params = append(params, param{key, query.Get(key)})
		}
	} else {
		var err error
		if params, err = parseKeywords(dsn); err != nil {
			return nil, err
		}
	}
	for _, p := range params {
		if !dsnKeys[p.key] {
			return nil, fmt.Errorf("parameter %q is not supported", printable(p.key))
		}
		if strings.ContainsRune(p.value, 0) {
			return nil, fmt.Errorf("parameter %q holds a zero byte", p.key)
		}
	}
	return params, nil
}

// parseKeywords reads key=value pairs as libpq does (PostgreSQL manual, "Keyword/Value Connection Strings").
func parseKeywords(text string) ([]param, error) {
	var params []param
	const blank = " \t\r\n\f\v"
	for {
		text = strings.TrimLeft(text, blank)
		if text == "" {
			return params, nil
		}
		key, rest, found := strings.Cut(text, "=")
		key = strings.TrimRight(key, blank)
		if !found || key == "" || strings.ContainsAny(key, blank) {
			return nil, errors.New("it is neither a URL nor a list of key=value")
		}
		rest = strings.TrimLeft(rest, blank)
		quoted := strings.HasPrefix(rest, "'")
		if quoted {
			rest = rest[1:]
		}
		var value strings.Builder
		i, ended := 0, false
		for ; i < len(rest); i++ {
			c := rest[i]
			if c == '\\' && i+1 < len(rest) {
				i++
				value.WriteByte(rest[i])
				continue
			}
			if quoted && c == '\'' || !quoted && strings.IndexByte(blank, c) >= 0 {
				ended = true
				break
			}
			value.WriteByte(c)
		}
		if quoted {
			if !ended {
				return nil, fmt.Errorf("the value of %q has no closing quote", printable(key))
			}
			i++
		}
		params = append(params, param{key, value.String()})
		text = rest[i:]
	}
}

func quoteParam(value string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(value, `\`, `\\`), "'", `\'`) + "'"
}

// Name returns the operator's word for the server.
func (s *Server) Name() string { return s.name }

// MaintenanceDatabase returns the database that the DSN names.
func (s *Server) MaintenanceDatabase() string { return s.config.Database }

// Connect opens a read-only session in a database, under the pinned settings for reading. It waits for a place in the
// server's budget of connections; closing the connection gives the place back, however it comes to be closed.
func (s *Server) Connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return s.connectWithin(ctx, database, Reading)
}

// ConnectRestore is Connect for a session that writes.
func (s *Server) ConnectRestore(ctx context.Context, database string) (*pgx.Conn, error) {
	return s.connectWithin(ctx, database, Restoring)
}

func (s *Server) connectWithin(ctx context.Context, database string, purpose Purpose) (*pgx.Conn, error) {
	release, err := s.acquire(ctx, nil)
	if err != nil {
		return nil, err
	}
	return s.connect(ctx, database, purpose, "", release)
}

// acquire takes a place in the budget, or the token in spare when that is there first. The returned function gives it
// back to where it came from, and may be called once.
func (s *Server) acquire(ctx context.Context, spare chan struct{}) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case <-s.tokens:
		return func() { s.tokens <- struct{}{} }, nil
	case <-spare:
		return func() { spare <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for one of the %d connections to server %s: %w", cap(s.tokens), printable(s.name), context.Cause(ctx))
	}
}

// connect opens a session; the place in the budget is released when it is closed, or at once when it cannot be opened.
func (s *Server) connect(ctx context.Context, database string, purpose Purpose, application string, release func()) (*pgx.Conn, error) {
	fail := func(err error) (*pgx.Conn, error) {
		release()
		return nil, fmt.Errorf("connect to database %s on server %s: %w", printable(database), printable(s.name), err)
	}
	s.mutex.Lock()
	hasTransactionTimeout := s.version >= 170000
	s.mutex.Unlock()
	for {
		config := s.config.Copy()
		config.Database = database
		if application != "" {
			config.RuntimeParams["application_name"] = application
		}
		if hasTransactionTimeout {
			config.RuntimeParams["transaction_timeout"] = "0"
		}
		conn, err := pgx.ConnectConfig(ctx, config)
		version := 0
		if err == nil {
			err = pin(ctx, conn, purpose, s.lockTimeout.Milliseconds())
			version, _ = reportedVersion(conn.PgConn().ParameterStatus("server_version"))
			s.mutex.Lock()
			s.version = version
			s.mutex.Unlock()
			if err == nil {
				conn.PgConn().Conn().(*serverConn).onClose(release)
				return conn, nil
			}
			closeConn(ctx, conn)
		}
		// A database's own transaction_timeout may strike before it is pinned. It can be set on connecting only where the
		// server is known to have it: by this error, or by its version where the error was lost to a broken pipe.
		if !hasTransactionTimeout && ctx.Err() == nil && (hasState(err, stateTransactionTimeout) || version >= 170000) {
			hasTransactionTimeout = true
			continue
		}
		return fail(connectError(ctx, err))
	}
}

// connectError leaves out what pgx prints of the configuration, and keeps what the server or the network says, in one
// line that ends with what to look at.
func connectError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if hasState(err, stateInvalidAuthorization) || hasState(err, stateInvalidPassword) {
		return fmt.Errorf("%w: check the role in dsn, its password (password_file) and the server's pg_hba.conf", ServerError(err))
	}
	var server *pgconn.PgError
	var failed *pgconn.ConnectError
	if errors.As(err, &server) || !errors.As(err, &failed) {
		return ServerError(err)
	}
	attempts := connectAttempts(failed.Unwrap())
	text := strings.Join(slices.Compact(attempts), "; ")
	var network *net.OpError
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		text += ": check sslmode and sslrootcert in dsn"
	case errors.As(err, &network), errors.As(err, &name):
		text += ": is it running? check host and port in dsn"
	}
	return &unconnectedError{text: text, cause: err}
}

// SQLSTATEs of a server that does not let a role in (PostgreSQL manual, appendix "PostgreSQL Error Codes").
const (
	stateInvalidAuthorization = "28000"
	stateInvalidPassword      = "28P01"
)

// unconnectedError is a pgconn.ConnectError that is told in one line.
type unconnectedError struct {
	text  string
	cause error
}

func (e *unconnectedError) Error() string { return e.text }
func (e *unconnectedError) Unwrap() error { return e.cause }

// connectAttempts returns what each attempt of pgx met, one line each. With sslmode=prefer every address is tried twice,
// which mostly gives the same line twice, one after the other.
func connectAttempts(err error) []string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var lines []string
		for _, one := range joined.Unwrap() {
			lines = append(lines, connectAttempts(one)...)
		}
		return lines
	}
	var network *net.OpError
	if errors.As(err, &network) {
		met := *network
		met.Source = nil // a port drawn by the kernel, which tells nothing
		return []string{met.Error()}
	}
	if inner := errors.Unwrap(err); inner != nil && strings.Contains(err.Error(), "\n") {
		return connectAttempts(inner)
	}
	return []string{strings.ReplaceAll(err.Error(), "\n", "; ")}
}

// closeConn closes a connection whatever state ctx is in, and waits until it is closed.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	_ = conn.Close(ctx)
	<-conn.PgConn().CleanupDone()
}

// Identity says which server this is, and what hourvault is there.
type Identity struct {
	// SystemIdentifier was drawn when the cluster was created; its physical copies share it.
	SystemIdentifier string
	// ServerVersion is server_version_num, for instance 170011.
	ServerVersion int
	// InRecovery is true of a standby.
	InRecovery bool
	Superuser  bool
	// Role is the name of the role that hourvault connects as.
	Role catalog.Text
}

// Identity asks the server who it is, over a connection to the maintenance database.
func (s *Server) Identity(ctx context.Context) (Identity, error) {
	conn, err := s.Connect(ctx, s.config.Database)
	if err != nil {
		return Identity{}, err
	}
	defer closeConn(ctx, conn)
	return identify(ctx, conn)
}

func identify(ctx context.Context, conn *pgx.Conn) (Identity, error) {
	var identity Identity
	err := conn.QueryRow(ctx, `
select (select system_identifier::text from pg_catalog.pg_control_system()), current_setting('server_version_num')::int,
       pg_catalog.pg_is_in_recovery(), coalesce((select rolsuper from pg_catalog.pg_roles where rolname = current_user), false),
       current_user::text`).
		Scan(&identity.SystemIdentifier, &identity.ServerVersion, &identity.InRecovery, &identity.Superuser, &identity.Role)
	if err != nil {
		return Identity{}, fmt.Errorf("ask the server for its identity: %w", ServerError(err))
	}
	return identity, nil
}

// DatabaseEntry is a database of a server.
type DatabaseEntry struct {
	OID              catalog.OID
	Name             catalog.Text
	Owner            catalog.Text
	AllowConnections bool
	// IsTemplate is true of template0 and template1, and of others that were marked so.
	IsTemplate bool
	// Invalid is true where a DROP DATABASE was interrupted: the database cannot be connected to any more.
	Invalid bool
	// SizeBytes is what it takes on disk, -1 where hourvault may not ask.
	SizeBytes int64
}

// Databases lists all databases of the server, ascending by the bytes of their names.
func (s *Server) Databases(ctx context.Context) ([]DatabaseEntry, error) {
	conn, err := s.Connect(ctx, s.config.Database)
	if err != nil {
		return nil, err
	}
	defer closeConn(ctx, conn)
	rows, err := conn.Query(ctx, `
select d.oid, d.datname, pg_catalog.pg_get_userbyid(d.datdba), d.datallowconn, d.datistemplate, d.datconnlimit = -2,
       case when d.datconnlimit <> -2 and (pg_catalog.has_database_privilege(d.oid, 'CONNECT') or pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'))
            then pg_catalog.pg_database_size(d.oid) end
from pg_catalog.pg_database d order by d.datname::text collate "C"`)
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", ServerError(err))
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (DatabaseEntry, error) {
		var entry DatabaseEntry
		var size *int64
		err := row.Scan(&entry.OID, &entry.Name, &entry.Owner, &entry.AllowConnections, &entry.IsTemplate, &entry.Invalid, &size)
		entry.SizeBytes = -1
		if size != nil {
			entry.SizeBytes = *size
		}
		return entry, err
	})
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", ServerError(err))
	}
	return list, nil
}
