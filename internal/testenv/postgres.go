package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/postgres/throwaway"
	"github.com/hourvault/hourvault/internal/serverprocess"
)

const (
	// superuser is the bootstrap superuser of every cluster.
	superuser = throwaway.Superuser
	// statementTimeout bounds what this package itself does in a database.
	statementTimeout = 2 * time.Minute
	// startAttempts is how often an S3 server is started anew when another process took its port in between.
	startAttempts = 5
)

// Cluster is a running PostgreSQL server with its data directory. Its methods may be called concurrently, except those
// that start and stop it.
type Cluster struct {
	*throwaway.Cluster
	major int
	dir   string
	own   bool // belongs to one test, which may stop it
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
			shared.atEnd(func() error { return slot.server.Cluster.Stop(syscall.SIGINT) })
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
		err := cluster.Cluster.Stop(syscall.SIGINT)
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
	as, err := serverprocess.Unprivileged()
	if err != nil {
		return nil, err
	}
	work, err := shared.work()
	if err != nil {
		return nil, err
	}
	dir, err := work.Subdirectory(fmt.Sprintf("pg%d-*", major), as)
	if err != nil {
		return nil, err
	}
	settings := [][2]string{{"wal_level", "logical"}, {"max_prepared_transactions", "10"}, {"max_wal_senders", "4"}, {"max_replication_slots", "8"}}
	if major >= 17 {
		settings = append(settings, [2]string{"summarize_wal", "on"})
	}
	cluster, err := throwaway.New(context.Background(), throwaway.Options{
		BinDir: binDir, Dir: dir, As: as, Settings: append(settings, options.settings...), InitdbArguments: options.initdb,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("PostgreSQL %d: %w", major, err), os.RemoveAll(dir))
	}
	return &Cluster{Cluster: cluster, major: major, dir: dir}, nil
}

// Major returns the major version of the server, such as 17.
func (c *Cluster) Major() int { return c.major }

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
	if err := c.Cluster.Stop(signal); err != nil {
		t.Fatalf("testenv: %v", err)
	}
}

// Start starts a server again that was stopped or killed, at the same port and socket.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	if c.Running() {
		t.Fatalf("testenv: PostgreSQL %d is running already", c.major)
	}
	if err := c.Cluster.Start(context.Background()); err != nil {
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
		if c.own && !c.Running() {
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
