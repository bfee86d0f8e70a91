package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/serverprocess"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestMain(m *testing.M) { Main(m) }

// eachMajor runs a test against every supported version.
func eachMajor(t *testing.T, test func(t *testing.T, major int)) {
	t.Helper()
	if len(Majors()) == 0 {
		t.Fatal("there are no supported versions")
	}
	for _, major := range Majors() {
		t.Run(fmt.Sprintf("postgres %d", major), func(t *testing.T) { test(t, major) })
	}
}

// queryString returns the one value of a query.
func queryString(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	var value string
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// ownersUID returns the effective uid of a process.
func ownersUID(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == "Uid:" {
			uid, err := strconv.Atoi(fields[2])
			if err != nil {
				t.Fatal(err)
			}
			return uid
		}
	}
	t.Fatalf("/proc/%d/status has no Uid", pid)
	return 0
}

func TestServersOfEveryMajorRunUnprivilegedWithTheirSettings(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		cluster := Postgres(t, major)
		if uid := ownersUID(t, cluster.PID()); uid == 0 {
			t.Error("the server runs as root")
		}
		conn := cluster.Connect(t, "postgres")
		want := map[string]string{
			"wal_level": "logical", "max_prepared_transactions": "10", "fsync": "off", "TimeZone": "UTC",
			"server_encoding": "UTF8", "listen_addresses": "127.0.0.1",
		}
		if major >= 17 {
			want["summarize_wal"] = "on"
		}
		for name, value := range want {
			if got := queryString(t, conn, "SELECT current_setting('"+name+"')"); got != value {
				t.Errorf("%s is %q, want %q", name, got, value)
			}
		}
		version, err := strconv.Atoi(queryString(t, conn, "SELECT current_setting('server_version_num')"))
		if err != nil || version/10000 != major {
			t.Errorf("server_version_num is %d (%v), want %d0000 and more", version, err, major)
		}
		if Postgres(t, major) != cluster {
			t.Error("a second call returned another cluster")
		}
	})
}

func TestClusterIsReachedOverSocketAndTCPByPgxAndLibpq(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		cluster := Postgres(t, major)
		// Characters that end a part of a URI, or look like an escape.
		const odd = `o'dd @:/?#%41 "näme"`
		cluster.Exec(t, "postgres", "CREATE ROLE "+pgx.Identifier{odd}.Sanitize()+" LOGIN")
		cluster.Exec(t, "postgres", "CREATE DATABASE "+pgx.Identifier{odd}.Sanitize())
		t.Cleanup(func() {
			cluster.Exec(t, "postgres", "DROP DATABASE "+pgx.Identifier{odd}.Sanitize()+" WITH (FORCE)")
			cluster.Exec(t, "postgres", "DROP ROLE "+pgx.Identifier{odd}.Sanitize())
		})
		for _, test := range []struct{ way, dsn, want string }{
			{"socket", cluster.DSN("postgres"), "postgres in postgres over socket"},
			{"tcp", cluster.TCPDSN("postgres"), "postgres in postgres over tcp"},
			{"socket as odd", cluster.DSNFor(odd, odd), odd + " in " + odd + " over socket"},
			{"tcp to odd", cluster.TCPDSN(odd), "postgres in " + odd + " over tcp"},
		} {
			const query = "SELECT current_user || ' in ' || current_database() || ' over ' || CASE WHEN inet_server_addr() IS NULL THEN 'socket' ELSE 'tcp' END"
			conn, err := pgx.Connect(t.Context(), test.dsn)
			if err != nil {
				t.Fatalf("%s: pgx: %v", test.way, err)
			}
			if got := queryString(t, conn, query); got != test.want {
				t.Errorf("%s: pgx got %q, want %q", test.way, got, test.want)
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Errorf("%s: close: %v", test.way, err)
			}
			output, err := exec.CommandContext(t.Context(), filepath.Join(cluster.BinDir(), "psql"), "-XAtc", query, test.dsn).CombinedOutput()
			if got := strings.TrimSpace(string(output)); err != nil || got != test.want {
				t.Errorf("%s: psql got %q (%v), want %q", test.way, got, err, test.want)
			}
		}
	})
}

func TestDatabaseHasItsOptionsAndIsDroppedWithItsTest(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		cluster := Postgres(t, major)
		admin := cluster.Connect(t, "postgres")
		var name string
		t.Run("while the test runs", func(t *testing.T) {
			name = cluster.CreateDatabase(t, "TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
			// A session that is still open at the end must not keep the database.
			conn := cluster.Connect(t, name)
			if got := queryString(t, conn, "SELECT current_setting('server_encoding')"); got != "LATIN1" {
				t.Errorf("encoding is %s, want LATIN1", got)
			}
			if other := cluster.CreateDatabase(t, ""); other == name {
				t.Errorf("two databases are named %s", name)
			}
		})
		if got := queryString(t, admin, "SELECT count(*)::text FROM pg_database WHERE datname = '"+name+"'"); got != "0" {
			t.Errorf("database %s is still there after its test", name)
		}
	})
}

func TestContribExtensionsAndICULocalesAreThere(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		cluster := Postgres(t, major)
		database := cluster.CreateDatabase(t, "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LOCALE 'C.UTF-8'")
		cluster.Exec(t, database, "CREATE EXTENSION amcheck; CREATE EXTENSION hstore; CREATE EXTENSION citext; "+
			"CREATE EXTENSION postgres_fdw; CREATE EXTENSION pageinspect; CREATE EXTENSION pg_trgm; CREATE EXTENSION pgcrypto; "+
			"CREATE EXTENSION lo; CREATE EXTENSION btree_gist; CREATE EXTENSION tablefunc")
		conn := cluster.Connect(t, database)
		if got := queryString(t, conn, "SELECT string_agg(w, '' ORDER BY w) FROM (VALUES ('z'), ('ä'), ('a')) v(w)"); got != "aäz" {
			t.Errorf("German order is %q, want aäz", got)
		}
		if got := queryString(t, conn, "SELECT ('2026-07-01 12:00+00'::timestamptz AT TIME ZONE 'Europe/Berlin')::text"); got != "2026-07-01 14:00:00" {
			t.Errorf("noon UTC in Berlin is %s, want 14:00", got)
		}
	})
}

func TestScriptRunsInOneTransactionAndItsErrorNamesTheDatabase(t *testing.T) {
	cluster := Postgres(t, Majors()[0])
	database := cluster.CreateDatabase(t, "")
	err := cluster.execute(database, "CREATE TABLE a (); SELECT 1/0; CREATE TABLE b ()")
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.Code != "22012" || !strings.Contains(err.Error(), database) {
		t.Errorf("got %v, want division by zero in %s", err, database)
	}
	conn := cluster.Connect(t, database)
	if got := queryString(t, conn, "SELECT count(*)::text FROM pg_class WHERE relname IN ('a', 'b')"); got != "0" {
		t.Errorf("%s tables of a script that failed remain", got)
	}
}

func TestOwnClusterStopsStartsAndRecoversFromACrash(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		cluster := StartPostgres(t, major, WithSetting("max_connections", "7"), WithSetting("cluster_name", "it's own"))
		if cluster == Postgres(t, major) {
			t.Fatal("the cluster is the shared one")
		}
		dsn := cluster.DSN("postgres")
		cluster.Exec(t, "postgres", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
		cluster.Restart(t)
		if cluster.DSN("postgres") != dsn {
			t.Errorf("address changed from %s to %s", dsn, cluster.DSN("postgres"))
		}
		cluster.Exec(t, "postgres", "INSERT INTO kept VALUES (2)")
		cluster.Kill(t)
		cluster.Start(t)
		conn := cluster.Connect(t, "postgres")
		if got := queryString(t, conn, "SELECT count(*)::text FROM kept"); got != "2" {
			t.Errorf("%s rows after restart and crash, want 2", got)
		}
		if got := queryString(t, conn, "SELECT current_setting('max_connections') || current_setting('cluster_name')"); got != "7it's own" {
			t.Errorf("settings are %q, want 7 and it's own", got)
		}
		if !strings.Contains(cluster.Log(), "was not properly shut down") {
			t.Errorf("the log shows no crash recovery:\n%s", cluster.Log())
		}
	})
}

func TestServerThatDoesNotStartShowsItsLog(t *testing.T) {
	if _, err := PostgresBinDir(15); err != nil {
		unavailable(t, err)
	}
	var options clusterOptions
	WithSetting("no_such_parameter", "1")(&options)
	_, err := newCluster(15, options)
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_parameter"`) {
		t.Errorf("got %v, want the server's own message", err)
	}
}

func TestS3ServersAnswerAndKeepConditionalWrites(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(testing.TB) *S3Server
		kms    bool
	}{
		{"versitygw", VersityGW, false},
		{"minio", MinIO, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := test.server(t)
			if uid := ownersUID(t, server.PID()); uid == 0 {
				t.Error("the server runs as root")
			}
			if (server.KMSKeyID != "") != test.kms {
				t.Errorf("KMS key is %q", server.KMSKeyID)
			}
			bucket := server.NewBucket(t)
			client, done := server.client()
			defer done()
			put := func() (*s3.PutObjectOutput, error) {
				return client.PutObject(t.Context(), &s3.PutObjectInput{
					Bucket: &bucket, Key: aws.String("a/b"), Body: strings.NewReader("x"), IfNoneMatch: aws.String("*"),
					ServerSideEncryption: types.ServerSideEncryptionAes256,
				})
			}
			first, err := put()
			if err != nil {
				t.Fatalf("first write: %v", err)
			}
			// The difference between the two servers that tests of hourvault rely on.
			if encrypted := first.ServerSideEncryption == types.ServerSideEncryptionAes256; encrypted != test.kms {
				t.Errorf("answered with encryption %q", first.ServerSideEncryption)
			}
			if _, err := put(); statusOf(err) != http.StatusPreconditionFailed {
				t.Errorf("second write: got %v, want 412", err)
			}
			if other := server.NewBucket(t); other == bucket {
				t.Errorf("two buckets are named %s", bucket)
			}
			server.NewLockBucket(t)
			if test.kms {
				output, err := client.PutObject(t.Context(), &s3.PutObjectInput{
					Bucket: &bucket, Key: aws.String("kms"), Body: strings.NewReader("x"),
					ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &server.KMSKeyID,
				})
				if err != nil || !strings.HasSuffix(aws.ToString(output.SSEKMSKeyId), server.KMSKeyID) {
					t.Errorf("write with KMS: %+v, %v", output, err)
				}
			}
		})
	}
}

// statusOf returns the HTTP status of an answer, 0 for none.
func statusOf(err error) int {
	if answer, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err); ok {
		return answer.HTTPStatusCode()
	}
	return 0
}

func TestServerEndsWithTheTestProcess(t *testing.T) {
	if os.Getenv("HOURVAULT_TESTENV_DIE") != "" {
		// The child: starts a server and is killed, without any clean-up.
		fmt.Printf("pid %d\n", Postgres(t, 15).PID())
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	if _, err := PostgresBinDir(15); err != nil {
		unavailable(t, err)
	}
	temporary, err := os.MkdirTemp("/tmp", "hv-die-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(temporary); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(temporary, 0o755); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), "HOURVAULT_TESTENV_DIE=1", "TMPDIR="+temporary)
	output, err := child.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || !exit.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("the child ended with %v, want it killed; it said:\n%s", err, output)
	}
	_, after, found := strings.Cut(string(output), "pid ")
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]))
	if !found || err != nil {
		t.Fatalf("the child named no server:\n%s", output)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := serverprocess.AwaitGone(ctx, pid); err != nil {
		t.Error(err)
	}

	left, err := filepath.Glob(filepath.Join(temporary, "hourvault-*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("the child left %v (%v), want one directory", left, err)
	}
	if err := serverprocess.RemoveAbandoned(temporary); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there after cleaning up: %v", left[0], err)
	}
}

func TestCacheDirIsTheOneTheScriptsUse(t *testing.T) {
	script, err := filepath.Abs("../../.ci/cache-dir.sh")
	if err != nil {
		t.Fatal(err)
	}
	reachable, err := os.MkdirTemp("/tmp", "hv-cache-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(reachable); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(reachable, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, variables := range [][2]string{
		{"", os.Getenv("HOME")},
		{"", ""},
		{"", "/nonexistent"},
		{"", t.TempDir()},
		{reachable, os.Getenv("HOME")},
		{filepath.Join(reachable, "new"), ""},
	} {
		t.Setenv("HOURVAULT_CACHE", variables[0])
		t.Setenv("HOME", variables[1])
		got, err := CacheDir()
		if err != nil {
			t.Fatal(err)
		}
		output, err := exec.CommandContext(t.Context(), script).Output()
		if want := strings.TrimSpace(string(output)); err != nil || got != want {
			t.Errorf("HOURVAULT_CACHE=%q HOME=%q: got %s, the script says %s (%v)", variables[0], variables[1], got, want, err)
		}
	}
}

func TestMissingServerSkipsLocallyAndFailsWhereItIsRequired(t *testing.T) {
	for value, want := range map[string]string{"": "skip", "0": "skip", "1": "fail"} {
		t.Setenv(requireVariable, value)
		outcome := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			reportStart(outcome, errMissing{errors.New("PostgreSQL 99 is not installed: run .ci/postgres.sh 99")})
		}()
		<-done
		if outcome.ended != want || !strings.Contains(outcome.message, "run .ci/postgres.sh 99") {
			t.Errorf("%s=%q: got %s with %q, want %s with what to run", requireVariable, value, outcome.ended, outcome.message, want)
		}
	}
	t.Setenv(requireVariable, "")
	outcome := &recorder{TB: t}
	func() {
		defer func() { _ = recover() }()
		reportStart(outcome, errors.New("server crashed"))
	}()
	if outcome.ended != "fail" {
		t.Errorf("a server that is there and does not start: got %s, want fail", outcome.ended)
	}
}

// recorder notes how a test would have ended.
type recorder struct {
	testing.TB

	ended, message string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, arguments ...any) {
	r.ended, r.message = "fail", fmt.Sprintf(format, arguments...)
	panic(r.message)
}

func (r *recorder) Skipf(format string, arguments ...any) {
	r.ended, r.message = "skip", fmt.Sprintf(format, arguments...)
	panic(r.message)
}
