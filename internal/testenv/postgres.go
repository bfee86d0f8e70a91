package testenv

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// superuser is the bootstrap superuser of every cluster.
	superuser = "postgres"
	// statementTimeout bounds what this package itself does in a database.
	statementTimeout = 2 * time.Minute
	// startAttempts is how often a cluster is started anew when another process took its port in between.
	startAttempts = 5
)

// Cluster is a running PostgreSQL server with its data directory. Its methods may be called concurrently, except those
// that start and stop it.
type Cluster struct {
	major   int
	binDir  string
	dir     string // data directory, socket and log
	port    int
	as      identity
	process *process
	own     bool // belongs to one test, which may stop it
}

// ClusterOption changes how [StartPostgres] sets a cluster up.
type ClusterOption func(*clusterOptions)

type clusterOptions struct {
	settings [][2]string
	initdb   []string
}

// WithSetting sets a configuration parameter of the server, in place of this package's own value where it has one.
// The value is taken literally; quoting is done here.
func WithSetting(name, value string) ClusterOption {
	return func(o *clusterOptions) { o.settings = append(o.settings, [2]string{name, value}) }
}

// WithInitdb adds an argument to initdb, such as "--no-data-checksums" or "--wal-segsize=1".
func WithInitdb(argument string) ClusterOption {
	return func(o *clusterOptions) { o.initdb = append(o.initdb, argument) }
}

// Postgres returns the cluster of a major version that all tests of this process share, and starts it on first use. Tests
// keep apart by databases of their own ([Cluster.CreateDatabase]); roles, tablespaces and settings of the cluster are
// common to all, so a test that needs those for itself takes [StartPostgres].
//
// The cluster trusts everyone who connects over its unix socket or over 127.0.0.1. It has wal_level=logical,
// max_prepared_transactions=10, max_connections=100, from PostgreSQL 17 on summarize_wal=on, and fsync=off; encoding
// UTF8, locale C.UTF-8.
func Postgres(t testing.TB, major int) *Cluster {
	t.Helper()
	slot := shared.cluster(major)
	slot.once.Do(func() {
		slot.server, slot.err = newCluster(major, clusterOptions{})
		if slot.err == nil {
			shared.atEnd(func() error { return slot.server.halt(syscall.SIGINT) })
		}
	})
	if slot.err != nil {
		reportStart(t, slot.err)
	}
	return slot.server
}

// StartPostgres returns a cluster for this test alone, like that of [Postgres] but for the options. It is stopped and its
// data removed when the test ends.
func StartPostgres(t testing.TB, major int, options ...ClusterOption) *Cluster {
	t.Helper()
	var chosen clusterOptions
	for _, option := range options {
		option(&chosen)
	}
	cluster, err := newCluster(major, chosen)
	if err != nil {
		reportStart(t, err)
	}
	cluster.own = true
	t.Cleanup(func() {
		err := cluster.halt(syscall.SIGINT)
		if t.Failed() {
			t.Logf("log of PostgreSQL %d:\n%s", major, cluster.Log())
		}
		if err := errors.Join(err, os.RemoveAll(cluster.dir)); err != nil {
			t.Errorf("testenv: %v", err)
		}
	})
	return cluster
}

// errMissing says that a program is not installed, as opposed to one that does not start.
type errMissing struct{ error }

// reportStart ends a test whose server did not start: only a missing program is a reason to skip.
func reportStart(t testing.TB, err error) {
	t.Helper()
	if missing, ok := errors.AsType[errMissing](err); ok {
		unavailable(t, missing.error)
	}
	t.Fatalf("testenv: %v", err)
}

// newCluster creates and starts a cluster.
func newCluster(major int, options clusterOptions) (*Cluster, error) {
	if !slices.Contains(Majors(), major) {
		return nil, fmt.Errorf("PostgreSQL %d is not one of the supported versions %v", major, Majors())
	}
	binDir, err := PostgresBinDir(major)
	if err != nil {
		return nil, errMissing{err}
	}
	as, err := serverIdentity()
	if err != nil {
		return nil, err
	}
	work, err := shared.work()
	if err != nil {
		return nil, err
	}
	dir, err := work.subdirectory(fmt.Sprintf("pg%d-*", major), as)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the tests reach the socket in it as another user
		return nil, fmt.Errorf("open the directory of the socket: %w", err)
	}
	cluster := &Cluster{major: major, binDir: binDir, dir: dir, as: as}
	if err := cluster.create(options); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := cluster.start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return cluster, nil
}

// create makes the data directory and its configuration.
func (c *Cluster) create(options clusterOptions) error {
	arguments := []string{
		"--pgdata", c.dataDir(), "--username", superuser, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8",
		"--no-sync", "--no-instructions",
	}
	initdb := exec.Command(filepath.Join(c.binDir, "initdb"), append(arguments, options.initdb...)...) // installed program, bounded work
	initdb.Dir = c.dir
	initdb.Env = c.environment()
	initdb.SysProcAttr = c.as.processAttributes(syscall.SIGKILL)
	if output, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("create a cluster of PostgreSQL %d: %w; initdb said:\n%s", c.major, err, bytes.TrimSpace(output))
	}

	settings := [][2]string{
		{"listen_addresses", "127.0.0.1"},
		{"unix_socket_directories", c.dir},
		{"fsync", "off"},
		{"shared_buffers", "32MB"},
		{"max_connections", "100"},
		{"max_prepared_transactions", "10"},
		{"wal_level", "logical"},
		{"max_wal_senders", "4"},
		{"max_replication_slots", "8"},
		{"max_wal_size", "256MB"},
		{"log_line_prefix", "%m [%p] %q%u@%d "},
		{"timezone", "UTC"},
		{"log_timezone", "UTC"},
	}
	if c.major >= 17 {
		settings = append(settings, [2]string{"summarize_wal", "on"})
	}
	// The server takes the last value of a parameter that is named several times.
	settings = append(settings, options.settings...)
	var configuration strings.Builder
	for _, setting := range settings {
		fmt.Fprintf(&configuration, "%s = '%s'\n", setting[0], strings.ReplaceAll(setting[1], "'", "''"))
	}
	file, err := os.OpenFile(filepath.Join(c.dataDir(), "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("configure PostgreSQL %d: %w", c.major, err)
	}
	if _, err := file.WriteString("\n" + configuration.String()); err != nil {
		return errors.Join(fmt.Errorf("configure PostgreSQL %d: %w", c.major, err), file.Close())
	}
	return file.Close()
}

// start runs the server and waits until it answers. The first start chooses a free TCP port, which later ones keep.
func (c *Cluster) start() error {
	for attempt := 1; ; attempt++ {
		port := c.port
		if port == 0 {
			free, err := freePort()
			if err != nil {
				return err
			}
			port = free
		}
		logged := c.logSize()
		running, err := startProcess(c.as, c.dir, c.environment(), syscall.SIGQUIT, filepath.Join(c.binDir, "postgres"),
			"-D", c.dataDir(), "-c", "port="+strconv.Itoa(port))
		if err != nil {
			return err
		}
		c.process = running
		previous := c.port
		c.port = port
		err = running.awaitReady(context.Background(), c.ping)
		if err == nil {
			return nil
		}
		c.port = previous
		err = errors.Join(err, running.stop(syscall.SIGQUIT))
		// Between choosing the port and listening on it somebody else can be faster.
		if attempt == startAttempts || !c.loggedSince(logged, "could not bind") {
			return fmt.Errorf("start PostgreSQL %d: %w", c.major, err)
		}
	}
}

// ping connects once, over TCP so that a server without its port is not taken for ready, and leaves.
func (c *Cluster) ping(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.TCPDSN("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// environment is that of the server's programs: nothing of the tests' own, so that no PG* variable reaches them.
func (c *Cluster) environment() []string {
	return []string{"PATH=" + c.binDir + ":/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + c.dir, "TZ=UTC"}
}

func (c *Cluster) dataDir() string {
	return filepath.Join(c.dir, "data")
}

func (c *Cluster) logSize() int64 {
	info, err := os.Stat(filepath.Join(c.dir, "log"))
	if err != nil {
		return 0
	}
	return info.Size()
}

func (c *Cluster) loggedSince(offset int64, text string) bool {
	content, err := os.ReadFile(filepath.Join(c.dir, "log"))
	return err == nil && offset <= int64(len(content)) && bytes.Contains(content[offset:], []byte(text))
}

// halt stops the server by the signal; one that is not running is fine.
func (c *Cluster) halt(signal syscall.Signal) error {
	if !c.process.running() {
		return nil
	}
	return c.process.stop(signal)
}

// Major returns the major version of the server, such as 17.
func (c *Cluster) Major() int { return c.major }

// BinDir returns the directory of this version's programs: pg_dump, pg_restore, psql and so on.
func (c *Cluster) BinDir() string { return c.binDir }

// DataDir returns the data directory, which belongs to the user the server runs as.
func (c *Cluster) DataDir() string { return c.dataDir() }

// PID returns the process id of the postmaster.
func (c *Cluster) PID() int { return c.process.pid }

// Log returns the last 8 KiB of what the server logged.
func (c *Cluster) Log() string { return c.process.logTail() }

// DSN returns a postgres:// URI for a database as superuser over the unix socket. pgx and libpq both read it.
func (c *Cluster) DSN(database string) string {
	return c.DSNFor(superuser, database)
}

// DSNFor returns a postgres:// URI for a database as the given role, over the unix socket and without a password.
func (c *Cluster) DSNFor(user, database string) string {
	query := url.Values{"host": {c.dir}, "port": {strconv.Itoa(c.port)}}
	return fmt.Sprintf("postgres://%s@/%s?%s", escapeURI(user), escapeURI(database), query.Encode())
}

// TCPDSN returns a postgres:// URI for a database as superuser over TCP at 127.0.0.1, without TLS.
func (c *Cluster) TCPDSN(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", superuser, c.port, escapeURI(database))
}

// escapeURI encodes a name for any place of a libpq URI: every byte that is not a letter, digit or one of "-._~".
// [url.PathEscape] leaves characters such as @ and : alone, which end the user's name.
func escapeURI(name string) string {
	return strings.ReplaceAll(url.QueryEscape(name), "+", "%20")
}

// Port returns the TCP port at 127.0.0.1.
func (c *Cluster) Port() int { return c.port }

// SocketDir returns the directory of the unix socket.
func (c *Cluster) SocketDir() string { return c.dir }

// Stop ends the server in order: sessions are cut and a checkpoint is written. Only for clusters of [StartPostgres].
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	c.end(t, syscall.SIGINT)
}

// Kill ends the server at once, without a checkpoint, so that its next start recovers from a crash. Only for clusters of
// [StartPostgres].
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	// An immediate shutdown (PostgreSQL manual, 18.5): the same recovery as after SIGKILL, but no backend is left behind
	// that would keep the next start from the shared memory.
	c.end(t, syscall.SIGQUIT)
}

func (c *Cluster) end(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if !c.own {
		t.Fatalf("testenv: the shared cluster of PostgreSQL %d cannot be stopped by a test: take one with StartPostgres", c.major)
	}
	if err := c.halt(signal); err != nil {
		t.Fatalf("testenv: %v", err)
	}
}

// Start starts a server again that was stopped or killed, at the same port and socket.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	if c.process.running() {
		t.Fatalf("testenv: PostgreSQL %d is running already", c.major)
	}
	if err := c.start(); err != nil {
		t.Fatalf("testenv: %v", err)
	}
}

// Restart stops the server in order if it is running, and starts it. Only for clusters of [StartPostgres].
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	c.Stop(t)
	c.Start(t)
}

// CreateDatabase creates a database with a name of its own by CREATE DATABASE <name> <options>, where options is SQL
// such as "TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'", and returns the name: a plain lower-case identifier. The
// database is dropped when the test ends, sessions in it are cut.
func (c *Cluster) CreateDatabase(t testing.TB, options string) string {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text()[:12])
	c.Exec(t, "postgres", "CREATE DATABASE "+name+" "+options)
	t.Cleanup(func() {
		if c.own && !c.process.running() {
			return // its data goes away with it
		}
		if err := c.execute("postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("testenv: %v", err)
		}
	})
	return name
}

// Exec runs a script of SQL statements in a database as superuser, in the simple protocol: statements are separated by
// semicolons and share one transaction unless they begin and end their own. An error fails the test.
func (c *Cluster) Exec(t testing.TB, database, sql string) {
	t.Helper()
	if err := c.execute(database, sql); err != nil {
		t.Fatalf("testenv: %v", err)
	}
}

func (c *Cluster) execute(database, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.DSN(database))
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL %d: %w", c.major, err)
	}
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	if closeErr := conn.Close(ctx); err == nil && closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("run a script in database %s of PostgreSQL %d: %w\n%s", database, c.major, err, abbreviate(sql))
	}
	return nil
}

// Connect opens a connection to a database as superuser over the unix socket; it is closed when the test ends.
func (c *Cluster) Connect(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	return c.ConnectAs(t, superuser, database)
}

// ConnectAs opens a connection to a database as the given role over the unix socket; it is closed when the test ends.
func (c *Cluster) ConnectAs(t testing.TB, user, database string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.DSNFor(user, database))
	if err != nil {
		t.Fatalf("testenv: connect to PostgreSQL %d: %v", c.major, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
		defer cancel()
		_ = conn.Close(ctx) // the test may have closed it, or cut it
	})
	return conn
}

// abbreviate cuts a script that is shown with its error.
func abbreviate(sql string) string {
	const most = 2000
	if len(sql) > most {
		return sql[:most] + "..."
	}
	return sql
}

// freePort returns a TCP port of 127.0.0.1 that nobody listens on at this moment.
func freePort() (int, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0") // returns at once
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port // a TCP listener has a TCP address
	if err := listener.Close(); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return port, nil
}
