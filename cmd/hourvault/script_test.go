package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hourvault/hourvault/internal/testenv"
)

// TestMain is hourvault itself when the test binary was started under that name, as scripts do.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "hourvault":
		main()
	case hangName:
		hang()
	}
	testenv.Main(m)
}

// TestScripts runs the command line as an operator does, against real servers. Besides testscript's own commands there
// are:
//
//	cluster VAR MAJOR [shared] a PostgreSQL cluster of this script's own, or the one that all scripts share: VAR_HOST,
//	                          VAR_PORT and VAR_BIN (its programs)
//	database VAR NAME         a database in the cluster VAR; NAME becomes its name, which no other script has
//	sql VAR DATABASE SQL      runs SQL as superuser
//	query VAR DATABASE SQL    prints the one value that a query returns
//	s3 VAR versitygw|minio    a new bucket: VAR_ENDPOINT, VAR_REGION, VAR_KEY, VAR_SECRET, VAR_BUCKET
//	skewed VAR ENDPOINT       VAR becomes an endpoint through which requests arrive at ENDPOINT with a time 20 minutes off
//	expand FILE...            replaces ${NAME} in files by what it stands for
//	exit CODE COMMAND...      runs a command and demands that exit code
//	json PATH WANT            compares a value of the last standard output, which must be one JSON document: PATH is like
//	                          .workspaces.0.snapshot.rows, WANT is text as %v prints it; with ! it must differ
//	keep VAR PATH             keeps such a value in a variable; the PATH - is the whole standard output as text
//	edit FILE OLD NEW         replaces text in a file
//	remove PATTERN            removes all files that fit, of which there must be some
//	damage PATTERN            cuts the last byte off the first file that fits
//	oneline                   demands that the last standard error is one line that begins with "hourvault: "
//	files DIR FILE            lists a directory, with the content's length, into a file, for cmp
func TestScripts(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pattern := filepath.Join("testdata", "script", "*.txtar")
	if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
		t.Fatalf("no scripts in %s: %v", pattern, err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, ".bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			if err := os.Symlink(self, filepath.Join(bin, "hourvault")); err != nil {
				return err
			}
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("HOURVAULT_CONFIG", filepath.Join(env.WorkDir, "hourvault.yaml"))
			env.Setenv("TZ", "UTC")
			env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			env.Values[stateKey{}] = &scriptState{t: env.T().(testing.TB), clusters: map[string]*testenv.Cluster{}}
			return nil
		},
		Condition: func(condition string) (bool, error) {
			major, found := strings.CutPrefix(condition, "native")
			if !found {
				return false, fmt.Errorf("unknown condition %s", condition)
			}
			installed, err := filepath.Glob("/usr/*/postgresql/" + major + "/bin/pg_dump")
			return len(installed) > 0, err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"cluster":  startCluster,
			"database": makeDatabase,
			"sql":      runSQL,
			"query":    runQuery,
			"s3":       makeBucket,
			"skewed":   skewRequests,
			"expand":   expandFiles,
			"exit":     runForExit,
			"json":     compareJSON,
			"keep":     keepJSON,
			"edit":     editFile,
			"remove":   removeFiles,
			"damage":   damageFile,
			"oneline":  demandOneLine,
			"files":    listFiles,
		},
	})
}

type stateKey struct{}

// scriptState is what the commands of one script share.
type scriptState struct {
	t        testing.TB
	clusters map[string]*testenv.Cluster
}

func state(ts *testscript.TestScript) *scriptState { return ts.Value(stateKey{}).(*scriptState) }

func (s *scriptState) cluster(ts *testscript.TestScript, name string) *testenv.Cluster {
	found := s.clusters[name]
	if found == nil {
		ts.Fatalf("no cluster %s", name)
	}
	return found
}

func startCluster(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: cluster VAR MAJOR [shared]")
	}
	major, err := strconv.Atoi(args[1])
	ts.Check(err)
	s := state(ts)
	start := func(t testing.TB, major int) *testenv.Cluster { return testenv.StartPostgres(t, major) }
	if len(args) == 3 {
		start = testenv.Postgres
	}
	cluster := start(s.t, major)
	s.clusters[args[0]] = cluster
	ts.Setenv(args[0]+"_HOST", cluster.SocketDir())
	ts.Setenv(args[0]+"_PORT", strconv.Itoa(cluster.Port()))
	ts.Setenv(args[0]+"_BIN", cluster.BinDir())
}

func makeDatabase(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: database VAR NAME")
	}
	s := state(ts)
	ts.Setenv(args[1], s.cluster(ts, args[0]).CreateDatabase(s.t, ""))
}

func runSQL(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: sql VAR DATABASE SQL")
	}
	s := state(ts)
	s.cluster(ts, args[0]).Exec(s.t, args[1], args[2])
}

func runQuery(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: query VAR DATABASE SQL")
	}
	ctx, cancel := context.WithTimeout(state(ts).t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, state(ts).cluster(ts, args[0]).DSN(args[1]))
	ts.Check(err)
	defer conn.Close(ctx)
	var value *string
	ts.Check(conn.QueryRow(ctx, "select ("+args[2]+")::text").Scan(&value))
	if value == nil {
		value = new(string)
	}
	fmt.Fprintln(ts.Stdout(), *value)
}

func makeBucket(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: s3 VAR versitygw|minio")
	}
	start := testenv.VersityGW
	if args[1] == "minio" {
		start = testenv.MinIO
	}
	t := state(ts).t
	server := start(t)
	for name, value := range map[string]string{
		"ENDPOINT": server.Endpoint, "REGION": server.Region, "KEY": server.AccessKey, "SECRET": server.SecretKey, "BUCKET": server.NewBucket(t),
	} {
		ts.Setenv(args[0]+"_"+name, value)
	}
}

// skewRequests changes the time that requests carry, as a wrong clock does. Servers look at it before the signature, which
// no longer fits: what they answer is theirs.
func skewRequests(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: skewed VAR ENDPOINT")
	}
	target, err := url.Parse(args[1])
	ts.Check(err)
	transport := &http.Transport{}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
			const layout = "20060102T150405Z"
			at, err := time.Parse(layout, r.In.Header.Get("X-Amz-Date"))
			if err != nil {
				return
			}
			shifted := at.Add(-20 * time.Minute)
			if shifted.Day() != at.Day() { // the signature's scope names the day
				shifted = at.Add(20 * time.Minute)
			}
			r.Out.Header.Set("X-Amz-Date", shifted.Format(layout))
		},
		Transport: transport,
	})
	ts.Defer(func() {
		proxy.Close()
		transport.CloseIdleConnections()
	})
	ts.Setenv(args[0], proxy.URL)
}

func expandFiles(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args {
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(os.Expand(ts.ReadFile(file), ts.Getenv)), 0o600))
		ts.Check(os.Chmod(ts.MkAbs(file), 0o600))
	}
}

func runForExit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exit CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("run: %v", err)
		}
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// lookUp returns a value of the last standard output.
func lookUp(ts *testscript.TestScript, path string) string {
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		ts.Fatalf("standard output is no JSON document: %v", err)
	}
	if decoder.More() {
		ts.Fatalf("standard output holds more than one JSON document")
	}
	for _, step := range strings.Split(strings.TrimPrefix(path, "."), ".") {
		switch at := value.(type) {
		case map[string]any:
			next, there := at[step]
			if !there {
				ts.Fatalf("%s: there is no %s", path, step)
			}
			value = next
		case []any:
			if step == "length" {
				value = len(at)
				continue
			}
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				ts.Fatalf("%s: there is no element %s of %d", path, step, len(at))
			}
			value = at[i]
		default:
			ts.Fatalf("%s: %v has no %s", path, value, step)
		}
	}
	return fmt.Sprint(value)
}

func compareJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json PATH WANT")
	}
	if got := lookUp(ts, args[0]); (got == args[1]) == neg {
		ts.Fatalf("%s is %q, compared with %q", args[0], got, args[1])
	}
}

func keepJSON(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: keep VAR PATH")
	}
	if args[1] == "-" {
		ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
		return
	}
	ts.Setenv(args[0], lookUp(ts, args[1]))
}

func editFile(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	content := ts.ReadFile(args[0])
	if !strings.Contains(content, args[1]) {
		ts.Fatalf("%s does not hold %s", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(content, args[1], args[2])), 0o600))
}

// fitting returns the files that a pattern fits, ascending by name.
func fitting(ts *testscript.TestScript, args []string) []string {
	if len(args) != 1 {
		ts.Fatalf("usage: one pattern")
	}
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) == 0 {
		ts.Fatalf("nothing fits %s", args[0])
	}
	return found
}

func removeFiles(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range fitting(ts, args) {
		ts.Check(os.Remove(file))
	}
}

func damageFile(ts *testscript.TestScript, _ bool, args []string) {
	file := fitting(ts, args)[0]
	info, err := os.Stat(file)
	ts.Check(err)
	ts.Check(os.Truncate(file, info.Size()-1))
}

func demandOneLine(ts *testscript.TestScript, _ bool, _ []string) {
	text := ts.ReadFile("stderr")
	if !strings.HasPrefix(text, "hourvault: ") || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		ts.Fatalf("standard error is not one line of hourvault:\n%s", text)
	}
}

func listFiles(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: files DIR FILE")
	}
	var lines []string
	err := filepath.WalkDir(ts.MkAbs(args[0]), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			lines = append(lines, fmt.Sprintf("%s %d %s\n", path, info.Size(), info.ModTime().UTC()))
		}
		return nil
	})
	ts.Check(err)
	slices.Sort(lines)
	var list bytes.Buffer
	for _, line := range lines {
		list.WriteString(line)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), list.Bytes(), 0o600))
}
