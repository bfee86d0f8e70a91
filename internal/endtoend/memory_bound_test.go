package endtoend_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv"
)

// memoryBound is what the product promises about its own process, whatever the database holds: resident memory in bytes. What
// PostgreSQL's programs take (pg_dump holds all definitions in memory) is theirs, and printed apart.
const memoryBound = 256 << 20

// program is hourvault built as it is shipped, with a repository and a server configured.
type program struct {
	path, config string
}

// installProgram makes a repository for a cluster.
func installProgram(t *testing.T, cluster *testenv.Cluster, repository string) *program {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("memory of processes is read from /proc")
	}
	dir := t.TempDir()
	p := &program{path: testenv.Hourvault(t), config: filepath.Join(dir, "hourvault.yaml")}
	if repository == "" {
		repository = fmt.Sprintf("{ url: %q }", "file://"+dir+"/repository")
	}
	content := fmt.Sprintf("repository: %s\nroot_key: %q\nservers:\n  - name: eu-1\n    dsn: %q\n    pg_bin_dirs: [%q]\n",
		repository, "file://"+dir+"/root.key", cluster.DSN("postgres"), cluster.BinDir())
	if err := os.WriteFile(p.config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(t, "init")
	return p
}

// inBucket is a repository in a new bucket of an S3 server.
func inBucket(t *testing.T) string {
	t.Helper()
	server := testenv.VersityGW(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(server.SecretKey), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{ url: %q, endpoint: %q, region: %q, path_style: true, sse: none, access_key_id: %q, secret_access_key_file: %q }",
		"s3://"+server.NewBucket(t)+"/prod", server.Endpoint, server.Region, server.AccessKey, secret)
}

// run runs a command with default settings, fails when it fails or takes more memory than is promised, and returns its document.
func (p *program) run(t *testing.T, args ...string) map[string]any {
	t.Helper()
	command := exec.Command(p.path, append([]string{"--config", p.config, "--json"}, args...)...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "GOGC=") && !strings.HasPrefix(variable, "GOMEMLIMIT=") {
			command.Env = append(command.Env, variable)
		}
	}
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	begin := time.Now()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	watched := watchMemory(command.Process.Pid)
	err := command.Wait()
	peak, children := watched()
	processor := command.ProcessState.UserTime() + command.ProcessState.SystemTime() // of the programs that it started, too
	line := fmt.Sprintf("hourvault %s: %s, %s of processor time, resident memory of at most %d MiB", strings.Join(args, " "),
		time.Since(begin).Round(100*time.Millisecond), processor.Round(100*time.Millisecond), peak>>20)
	for name, size := range children {
		line += fmt.Sprintf(", %s %d MiB", name, size>>20)
	}
	t.Log(line)
	if err != nil {
		t.Fatalf("hourvault %s: %v\n%s\n%s", strings.Join(args, " "), err, stderr.String(), stdout.String())
	}
	if peak >= memoryBound || peak == 0 {
		t.Errorf("hourvault %s took %d MiB of resident memory, want less than %d", strings.Join(args, " "), peak>>20, memoryBound>>20)
	}
	var document map[string]any
	if err := json.Unmarshal(stdout.Bytes(), &document); err != nil {
		t.Fatalf("hourvault %s: %v\n%s", strings.Join(args, " "), err, stdout.String())
	}
	return document
}

// snapshot runs a backup and returns what it says of the snapshot.
func (p *program) snapshot(t *testing.T, database string) map[string]any {
	t.Helper()
	document := p.run(t, "backup", database)
	workspaces, _ := document["workspaces"].([]any)
	if len(workspaces) != 1 {
		t.Fatalf("backup: got %v", document)
	}
	snapshot, _ := workspaces[0].(map[string]any)["snapshot"].(map[string]any)
	return snapshot
}

// watchMemory follows a process that was just started. The function returned, called when the process has ended, says how much
// memory was resident at most, in bytes, and likewise for the programs that it started, by name.
//
// The system keeps the peak of a process itself; it is read every few milliseconds, because it is gone with the process, and what wait4
// reports begins with the memory of the process that called fork.
func watchMemory(pid int) func() (peak uint64, children map[string]uint64) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	var peak uint64
	children := make(map[string]uint64)
	go func() {
		defer close(done)
		ticker := time.NewTicker(3 * time.Millisecond)
		defer ticker.Stop()
		for {
			if name, size := highWater(pid); name == "hourvault" {
				peak = max(peak, size)
			}
			lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is not at fault
			for _, list := range lists {
				content, err := os.ReadFile(list)
				if err != nil {
					continue // ended
				}
				for field := range strings.FieldsSeq(string(content)) {
					if child, err := strconv.Atoi(field); err == nil {
						if name, size := highWater(child); strings.HasPrefix(name, "pg_") {
							children[name] = max(children[name], size)
						}
					}
				}
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() (uint64, map[string]uint64) {
		stop()
		<-done
		return peak, children
	}
}

// highWater returns a process's name and the most memory that was resident, in bytes (proc_pid_status(5)).
func highWater(pid int) (name string, size uint64) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", 0 // ended
	}
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch key {
		case "Name":
			name = strings.TrimSpace(value)
		case "VmHWM":
			kilobytes, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err == nil {
				size = kilobytes << 10
			}
		}
	}
	return name, size
}

// queryText returns the one text that a query returns.
func queryText(t *testing.T, cluster *testenv.Cluster, database, sql string) (text string) {
	t.Helper()
	conn := connect(t, cluster, database)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return text
}

// besideOthers lets the short variants run at the same time; the long ones need the machine, and print how long they took.
func besideOthers(t *testing.T) {
	if !testenv.Long() {
		t.Parallel()
	}
}

// A row is one message of up to a gigabyte from and to the server, and one block: it passes in pieces.
func TestMemoryIsBoundedForLargeValues(t *testing.T) {
	besideOthers(t)
	size := 60 << 20
	if testenv.Long() {
		size = 400 << 20
	}
	cluster := testenv.StartPostgres(t, 17)
	database := cluster.CreateDatabase(t, "")
	execute(t, cluster, database, fmt.Sprintf(`CREATE TABLE public.big (id int PRIMARY KEY, v bytea);
		ALTER TABLE public.big ALTER v SET STORAGE EXTERNAL;
		INSERT INTO public.big SELECT 1, pg_catalog.string_agg(pg_catalog.sha512(i::text::bytea), ''::bytea) FROM pg_catalog.generate_series(1, %d) i;
		INSERT INTO public.big SELECT 2, v FROM public.big`, size/64))
	const digest = `SELECT string_agg(id || ' ' || length(v) || ' ' || encode(sha256(v), 'hex'), ', ' ORDER BY id) FROM public.big`
	program := installProgram(t, cluster, inBucket(t))
	if rows := program.snapshot(t, database)["rows"]; rows != float64(2) {
		t.Errorf("%v rows", rows)
	}
	again := program.snapshot(t, database)
	if stored := again["stored_bytes"]; stored.(float64) > 1<<20 {
		t.Errorf("%v bytes were stored of an unchanged database", stored)
	}
	// One of the values changes: what was found changed is read once more.
	execute(t, cluster, database, `UPDATE public.big SET v = v || 'x'::bytea WHERE id = 2`)
	want := queryText(t, cluster, database, digest)
	program.snapshot(t, database)
	program.run(t, "verify", "--read-data")
	program.run(t, "restore", database, "--into", database+"_r")
	if got := queryText(t, cluster, database+"_r", digest); got != want {
		t.Errorf("restored %s, want %s", got, want)
	}
}

// Definitions are pg_dump's, but every table has a record, a listing and ranges of its own.
func TestMemoryIsBoundedForManyTables(t *testing.T) {
	besideOthers(t)
	tables := 3000
	if testenv.Long() {
		tables = 50_000
	}
	cluster := testenv.StartPostgres(t, 17, testenv.WithSetting("max_locks_per_transaction", strconv.Itoa(tables/30+64)), testenv.WithSetting("autovacuum", "off"))
	database := cluster.CreateDatabase(t, "")
	conn := connect(t, cluster, database)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for from := 0; from < tables; from += 1000 {
		sql := fmt.Sprintf(`DO $$ BEGIN FOR i IN %d..%d LOOP
			EXECUTE format('CREATE TABLE public.t_%%s (id int, name text, at timestamptz DEFAULT now())', i);
			EXECUTE format('INSERT INTO public.t_%%s SELECT g, md5(g::text) FROM generate_series(1, 3) g', i);
			END LOOP; END $$`, from, min(from+1000, tables)-1)
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	program := installProgram(t, cluster, "")
	if first := program.snapshot(t, database); first["tables"] != float64(tables) || first["rows"] != float64(3*tables) {
		t.Errorf("%v tables and %v rows, want %d and %d", first["tables"], first["rows"], tables, 3*tables)
	}
	second := program.snapshot(t, database)
	if second["new_bytes"] != float64(0) {
		t.Errorf("%v bytes are new of an unchanged database", second["new_bytes"])
	}
	program.run(t, "snapshots")
	program.run(t, "verify", "--read-data")
	program.run(t, "restore", database, "--into", database+"_r")
	const last = `SELECT string_agg(id || name, ' ' ORDER BY ctid) FROM public.t_%d`
	if want, got := queryText(t, cluster, database, fmt.Sprintf(last, tables-1)), queryText(t, cluster, database+"_r", fmt.Sprintf(last, tables-1)); got != want {
		t.Errorf("restored %q, want %q", got, want)
	}
}

// A block has an entry in a listing: there must never be all of them at once.
func TestMemoryIsBoundedForManyBlocks(t *testing.T) {
	besideOthers(t)
	blocks := 70_000 // more than a table record names pages for, so that there are index pages
	row := 500
	if testenv.Long() {
		blocks, row = 1_000_000, 5000
	}
	// What is unlogged writes no WAL, and is stored as well; a fill factor of 10 leaves one row in each block.
	cluster := testenv.StartPostgres(t, 17, testenv.WithSetting("autovacuum", "off"))
	database := cluster.CreateDatabase(t, "")
	execute(t, cluster, database, fmt.Sprintf(`SET statement_timeout = 0; CREATE UNLOGGED TABLE public.big (id int, v text STORAGE PLAIN) WITH (fillfactor = 10);
		INSERT INTO public.big SELECT i, substr(repeat(md5(i::text) || i, %d), 1, %d) FROM pg_catalog.generate_series(1, %d) i`, row/30, row, blocks))
	if got := queryText(t, cluster, database, `SELECT (pg_relation_size('public.big') / 8192)::text`); got < strconv.Itoa(blocks) && len(got) <= len(strconv.Itoa(blocks)) {
		t.Fatalf("the table has %s blocks, want %d", got, blocks)
	}
	program := installProgram(t, cluster, "")
	program.snapshot(t, database)
	if again := program.snapshot(t, database); again["new_bytes"] != float64(0) {
		t.Errorf("%v bytes are new of an unchanged database", again["new_bytes"])
	}
	execute(t, cluster, database, fmt.Sprintf(`UPDATE public.big SET v = 'x' WHERE id %% 100 = 0 AND id < %d`, blocks/10))
	program.snapshot(t, database)
	if testenv.Long() {
		program.run(t, "verify", "--read-data")
		program.run(t, "restore", database, "--into", database+"_r")
		const sums = `SELECT count(*) || ' ' || sum(hashtextextended(v, 0)::numeric) FROM public.big`
		if want, got := queryText(t, cluster, database, sums), queryText(t, cluster, database+"_r", sums); got != want {
			t.Errorf("restored %s, want %s", got, want)
		}
	}
}
