package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/postgres/throwaway"
	"github.com/hourvault/hourvault/internal/serverprocess"
)

// superuser is the bootstrap superuser of the cluster.
const superuser = "postgres"

// serverSettings are those that differ from PostgreSQL's defaults: a small production server on a machine shared with the
// tools. Durability is PostgreSQL's default: fsync, full_page_writes and synchronous_commit are on.
func serverSettings(major int) [][2]string {
	settings := [][2]string{
		{"shared_buffers", "1GB"},
		{"max_wal_size", "4GB"},
		{"checkpoint_timeout", "15min"},
		{"wal_level", "replica"},
		{"max_connections", "100"},
		{"timezone", "UTC"},
		{"log_timezone", "UTC"},
	}
	if major >= 17 {
		settings = append(settings, [2]string{"summarize_wal", "on"})
	}
	return settings
}

// loadSettings are those under which the database is made, in a hurry: nothing is measured then.
func loadSettings() [][2]string {
	return [][2]string{{"fsync", "off"}, {"synchronous_commit", "off"}, {"wal_level", "minimal"}, {"max_wal_senders", "0"}, {"summarize_wal", "off"}, {"max_wal_size", "16GB"}, {"maintenance_work_mem", "512MB"}}
}

// minimalSettings make the least WAL. WAL summaries need more.
func minimalSettings() [][2]string {
	return [][2]string{{"wal_level", "minimal"}, {"max_wal_senders", "0"}, {"summarize_wal", "off"}}
}

// cluster is the PostgreSQL server whose database is backed up and restored.
type cluster struct {
	major  int
	binDir string
	dir    string // of data, socket and log; belongs to as
	as     serverprocess.Identity
	port   int

	process *serverprocess.Process // nil while not running
}

// create makes the data directory.
func (c *cluster) create(ctx context.Context) error {
	initdb := exec.CommandContext(ctx, filepath.Join(c.binDir, "initdb"), "--pgdata", c.dataDir(), "--username", superuser, "--auth", "trust",
		"--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions")
	initdb.Dir = c.dir
	initdb.Env = c.environment()
	initdb.SysProcAttr = c.as.Attributes(syscall.SIGKILL)
	if output, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("create a cluster of PostgreSQL %d: %w; initdb said:\n%s", c.major, err, bytes.TrimSpace(output))
	}
	return nil
}

func (c *cluster) dataDir() string { return filepath.Join(c.dir, "data") }

func (c *cluster) environment() []string {
	return []string{"PATH=" + c.binDir + ":/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + c.dir, "TZ=UTC"}
}

// start starts the server with serverSettings and then the given ones, and stops it first where it runs.
func (c *cluster) start(ctx context.Context, settings [][2]string) error {
	if err := c.stop(); err != nil {
		return err
	}
	port, err := throwaway.FreePort()
	if err != nil {
		return err
	}
	c.port = port
	arguments := []string{"-D", c.dataDir(), "-c", "port=" + strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + c.dir}
	for _, setting := range append(serverSettings(c.major), settings...) {
		if setting[0] == "summarize_wal" && c.major < 17 {
			continue
		}
		arguments = append(arguments, "-c", setting[0]+"="+setting[1])
	}
	running, err := serverprocess.Start(c.as, c.dir, c.environment(), syscall.SIGQUIT, filepath.Join(c.binDir, "postgres"), arguments...)
	if err != nil {
		return err
	}
	c.process = running
	return running.AwaitReady(ctx, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, c.dsn("postgres"))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// stop shuts the server down in order, so that all it holds is on disk.
func (c *cluster) stop() error {
	if c.process == nil {
		return nil
	}
	err := c.process.Stop(syscall.SIGINT)
	c.process = nil
	return err
}

func (c *cluster) pid() int {
	if c.process == nil {
		return 0
	}
	return c.process.PID()
}

// dsn is the address of a database, over the unix socket.
func (c *cluster) dsn(database string) string {
	return fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d", superuser, database, c.dir, c.port)
}

// clientEnvironment names the server to PostgreSQL's own programs.
func (c *cluster) clientEnvironment() []string {
	return []string{"PGHOST=" + c.dir, "PGPORT=" + strconv.Itoa(c.port), "PGUSER=" + superuser}
}

// execute runs a script of statements in a database.
func (c *cluster) execute(ctx context.Context, database, script string) error {
	conn, err := pgx.Connect(ctx, c.dsn(database))
	if err != nil {
		return fmt.Errorf("connect to the server: %w", err)
	}
	_, err = conn.PgConn().Exec(ctx, script).ReadAll()
	err = errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	if err != nil {
		const shown = 200
		return fmt.Errorf("in database %s: %w: %s", database, err, script[:min(len(script), shown)])
	}
	return nil
}

// s3Server is the S3 server of this machine that all tools store to, over TLS.
type s3Server struct {
	kind       string // minio or versitygw
	dir        string
	port       int
	accessKey  string
	secretKey  string
	process    *serverprocess.Process
	caFile     string
	certFile   string
	privateKey string
}

// s3Region is what the S3 server takes itself for.
const s3Region = "eu-central-1"

func (s *s3Server) endpoint() string { return "https://127.0.0.1:" + strconv.Itoa(s.port) }

func (s *s3Server) pid() int {
	if s.process == nil {
		return 0
	}
	return s.process.PID()
}

// encrypts says whether the server encrypts what it stores.
func (s *s3Server) encrypts() bool { return s.kind == "minio" }

// startS3 starts the server of that kind with its data in dir.
func startS3(ctx context.Context, kind, executable, dir string, as serverprocess.Identity) (*s3Server, error) {
	port, err := throwaway.FreePort()
	if err != nil {
		return nil, err
	}
	s := &s3Server{kind: kind, dir: dir, port: port, accessKey: "bench" + rand.Text()[:12], secretKey: rand.Text()}
	certs := filepath.Join(dir, "certs")
	data := filepath.Join(dir, "data")
	for _, directory := range []string{certs, data} {
		if err := os.Mkdir(directory, 0o755); err != nil {
			return nil, fmt.Errorf("prepare the S3 server: %w", err)
		}
	}
	// The names that MinIO looks for.
	s.certFile, s.privateKey = filepath.Join(certs, "public.crt"), filepath.Join(certs, "private.key")
	s.caFile = s.certFile
	if err := writeCertificate(s.certFile, s.privateKey); err != nil {
		return nil, err
	}
	for _, path := range []string{certs, data, s.certFile, s.privateKey} {
		if err := as.Own(path); err != nil {
			return nil, err
		}
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	environment := []string{"HOME=" + dir, "PATH=/usr/bin:/bin", "TMPDIR=" + dir}
	var arguments []string
	switch kind {
	case "minio":
		key := make([]byte, 32)
		rand.Read(key)
		environment = append(environment, "MINIO_ROOT_USER="+s.accessKey, "MINIO_ROOT_PASSWORD="+s.secretKey, "MINIO_SITE_REGION="+s3Region,
			"MINIO_KMS_SECRET_KEY=bench:"+base64.StdEncoding.EncodeToString(key),
			// Everything is encrypted at rest, whether asked for or not: the same work for every tool.
			"MINIO_KMS_AUTO_ENCRYPTION=on", "MINIO_BROWSER=off", "MINIO_UPDATE=off")
		arguments = []string{"server", "--certs-dir", certs, "--address", address, data}
	case "versitygw":
		environment = append(environment, "ROOT_ACCESS_KEY="+s.accessKey, "ROOT_SECRET_KEY="+s.secretKey)
		arguments = []string{"--port", address, "--region", s3Region, "--keep-alive", "--quiet", "--cert", s.certFile, "--key", s.privateKey, "posix", data}
	}
	s.process, err = serverprocess.Start(as, dir, environment, syscall.SIGKILL, executable, arguments...)
	if err != nil {
		return nil, err
	}
	certificate, err := os.ReadFile(s.caFile)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the S3 server: %w", err), s.stop())
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	err = s.process.AwaitReady(ctx, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.endpoint()+"/", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode >= http.StatusInternalServerError {
			return fmt.Errorf("the server answered %s", response.Status)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *s3Server) stop() error {
	if s.process == nil {
		return nil
	}
	err := s.process.Stop(syscall.SIGTERM)
	s.process = nil
	return err
}

// writeCertificate makes a key and a certificate for 127.0.0.1 that vouches for itself.
func writeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "hourvault benchmark"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(7 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o644); err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600); err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	return nil
}

// isComplaintOf17 says whether all errors that pg_restore 17 reported are about the one setting that it makes and that
// older servers do not know.
func isComplaintOf17(stderr string) bool {
	seen := false
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, "pg_restore: error:") {
			if !strings.Contains(line, `unrecognized configuration parameter "transaction_timeout"`) {
				return false
			}
			seen = true
		}
	}
	return seen
}
