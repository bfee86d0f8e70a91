// Package throwaway starts PostgreSQL clusters that are thrown away: for a demonstration, for drills, for tests. A cluster
// runs as an unprivileged user, without durability, in a directory of its own, and never longer than this process.
package throwaway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/serverprocess"
)

// Superuser is the name of every cluster's bootstrap superuser.
const Superuser = "postgres"

// startAttempts is how often a cluster is started anew when another process took its port in between.
const startAttempts = 5

// Options say how a cluster is set up. BinDir, Dir and As are required.
type Options struct {
	// BinDir holds initdb and postgres.
	BinDir string
	// Dir is an empty directory that belongs to As: for data, socket and log. It is the caller's to remove.
	Dir string
	// As is the user that the server runs as.
	As serverprocess.Identity
	// Settings are configuration parameters and their literal values; they come after this package's own, and win.
	Settings [][2]string
	// InitdbArguments are further arguments of initdb.
	InitdbArguments []string
}

// Cluster is a PostgreSQL server with its data directory. It trusts everyone who connects over its unix socket, which only the
// directory's permissions guard, or over 127.0.0.1. Start and Stop are called from one goroutine; all else concurrently.
type Cluster struct {
	options Options
	port    int
	process *serverprocess.Process
}

// New creates a cluster and starts it. When it fails, nothing runs; what it wrote into Dir stays.
func New(ctx context.Context, options Options) (*Cluster, error) {
	if err := os.Chmod(options.Dir, 0o755); err != nil { // clients reach the socket in it as another user
		return nil, fmt.Errorf("open the directory of the socket: %w", err)
	}
	cluster := &Cluster{options: options}
	if err := cluster.create(ctx); err != nil {
		return nil, err
	}
	if err := cluster.Start(ctx); err != nil {
		return nil, err
	}
	return cluster, nil
}

// create makes the data directory and its configuration.
func (c *Cluster) create(ctx context.Context) error {
	arguments := []string{
		"--pgdata", c.DataDir(), "--username", Superuser, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8",
		"--no-sync", "--no-instructions",
	}
	initdb := exec.CommandContext(ctx, filepath.Join(c.options.BinDir, "initdb"), append(arguments, c.options.InitdbArguments...)...)
	initdb.Dir = c.options.Dir
	initdb.Env = c.environment()
	initdb.SysProcAttr = c.options.As.Attributes(syscall.SIGKILL)
	if output, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("create a cluster of PostgreSQL from %s: %w; initdb said:\n%s", c.options.BinDir, err, bytes.TrimSpace(output))
	}

	settings := [][2]string{
		{"listen_addresses", "127.0.0.1"},
		{"unix_socket_directories", c.options.Dir},
		{"fsync", "off"},
		{"shared_buffers", "32MB"},
		{"max_connections", "100"},
		{"max_wal_size", "256MB"},
		{"log_line_prefix", "%m [%p] %q%u@%d "},
		{"timezone", "UTC"},
		{"log_timezone", "UTC"},
	}
	// The server takes the last value of a parameter that is named several times.
	settings = append(settings, c.options.Settings...)
	var configuration strings.Builder
	for _, setting := range settings {
		fmt.Fprintf(&configuration, "%s = '%s'\n", setting[0], strings.ReplaceAll(setting[1], "'", "''"))
	}
	file, err := os.OpenFile(filepath.Join(c.DataDir(), "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("configure PostgreSQL: %w", err)
	}
	if _, err := file.WriteString("\n" + configuration.String()); err != nil {
		return errors.Join(fmt.Errorf("configure PostgreSQL: %w", err), file.Close())
	}
	return file.Close()
}

// Start runs the server, which must not be running, and waits until it answers. The first start chooses a free TCP port, which later ones keep.
func (c *Cluster) Start(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		port := c.port
		if port == 0 {
			free, err := FreePort()
			if err != nil {
				return err
			}
			port = free
		}
		logged := c.logSize()
		running, err := serverprocess.Start(c.options.As, c.options.Dir, c.environment(), syscall.SIGQUIT, filepath.Join(c.options.BinDir, "postgres"),
			"-D", c.DataDir(), "-c", "port="+strconv.Itoa(port))
		if err != nil {
			return err
		}
		c.process = running
		previous := c.port
		c.port = port
		err = running.AwaitReady(ctx, c.ping)
		if err == nil {
			return nil
		}
		c.port = previous
		err = errors.Join(err, running.Stop(syscall.SIGQUIT))
		// Between choosing the port and listening on it somebody else can be faster.
		if attempt == startAttempts || !c.loggedSince(logged, "could not bind") {
			return fmt.Errorf("start PostgreSQL: %w", err)
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
	return []string{"PATH=" + c.options.BinDir + ":/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + c.options.Dir, "TZ=UTC"}
}

// DataDir returns the data directory, which belongs to the user the server runs as.
func (c *Cluster) DataDir() string { return filepath.Join(c.options.Dir, "data") }

func (c *Cluster) logSize() int64 {
	info, err := os.Stat(filepath.Join(c.options.Dir, "log"))
	if err != nil {
		return 0
	}
	return info.Size()
}

func (c *Cluster) loggedSince(offset int64, text string) bool {
	content, err := os.ReadFile(filepath.Join(c.options.Dir, "log"))
	return err == nil && offset <= int64(len(content)) && bytes.Contains(content[offset:], []byte(text))
}

// Running reports whether the server is running.
func (c *Cluster) Running() bool { return c.process.Running() }

// Stop ends the server by a signal (PostgreSQL manual, "Shutting Down the Server"): SIGINT for a fast shutdown, SIGQUIT for
// one after which the next start recovers from a crash. One that is not running is fine.
func (c *Cluster) Stop(signal syscall.Signal) error {
	if !c.process.Running() {
		return nil
	}
	return c.process.Stop(signal)
}

// BinDir returns the directory of this version's programs: pg_dump, pg_restore, psql and so on.
func (c *Cluster) BinDir() string { return c.options.BinDir }

// PID returns the process id of the postmaster.
func (c *Cluster) PID() int { return c.process.PID() }

// Log returns the last 8 KiB of what the server logged.
func (c *Cluster) Log() string { return c.process.LogTail() }

// DSN returns a postgres:// URI for a database as superuser over the unix socket. pgx and libpq both read it.
func (c *Cluster) DSN(database string) string {
	return c.DSNFor(Superuser, database)
}

// DSNFor returns a postgres:// URI for a database as the given role, over the unix socket and without a password.
func (c *Cluster) DSNFor(user, database string) string {
	query := url.Values{"host": {c.options.Dir}, "port": {strconv.Itoa(c.port)}}
	return fmt.Sprintf("postgres://%s@/%s?%s", escapeURI(user), escapeURI(database), query.Encode())
}

// TCPDSN returns a postgres:// URI for a database as superuser over TCP at 127.0.0.1, without TLS.
func (c *Cluster) TCPDSN(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", Superuser, c.port, escapeURI(database))
}

// escapeURI encodes a name for any place of a libpq URI: every byte that is not a letter, digit or one of "-._~".
// [url.PathEscape] leaves characters such as @ and : alone, which end the user's name.
func escapeURI(name string) string {
	return strings.ReplaceAll(url.QueryEscape(name), "+", "%20")
}

// Port returns the TCP port at 127.0.0.1.
func (c *Cluster) Port() int { return c.port }

// SocketDir returns the directory of the unix socket.
func (c *Cluster) SocketDir() string { return c.options.Dir }

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on at this moment.
func FreePort() (int, error) {
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
