package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv"
)

// program returns a command that runs this test binary as hourvault.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, link, args...)
}

// hangName is the name under which the test binary takes the first signal and never comes to an end.
const hangName = "hourvault-hangs"

func hang() {
	ctx, _ := withSignals(context.Background(), os.Stdout)
	fmt.Println("ready")
	<-ctx.Done()
	fmt.Println(context.Cause(ctx))
	select {}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	for _, which := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(which.String(), func(t *testing.T) {
			command := program(t, hangName)
			out, err := command.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for _, want := range []string{"ready", "hourvault: stopping", "stopped by "} {
				if !lines.Scan() || !strings.HasPrefix(lines.Text(), want) {
					t.Fatalf("got %q (%v), want %q", lines.Text(), lines.Err(), want)
				}
				if want == "ready" || want == "stopped by " {
					if err := command.Process.Signal(which); err != nil {
						t.Fatal(err)
					}
				}
			}
			var exit *exec.ExitError
			if err := command.Wait(); !errors.As(err, &exit) {
				t.Fatalf("got %v", err)
			}
			if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != which {
				t.Errorf("ended with %v, want to be killed by %v", exit, which)
			}
		})
	}
}

// site is a place to run hourvault in: a configuration with one database.
type site struct {
	t        *testing.T
	cluster  *testenv.Cluster
	database string
	file     string
}

// newSite makes a repository and a database with an empty table t. more is added to the server's configuration.
func newSite(t *testing.T, more string) *site {
	t.Helper()
	s := &site{t: t, cluster: testenv.Postgres(t, 18)}
	s.database = s.cluster.CreateDatabase(t, "")
	s.cluster.Exec(t, s.database, "create table t (id int)")
	dir := t.TempDir()
	s.file = filepath.Join(dir, "hourvault.yaml")
	content := fmt.Sprintf(`repository: { url: "file://%[1]s/repository" }
root_key: file://%[1]s/root.key
servers:
  - name: main
    dsn: host=%[2]s port=%[3]d user=postgres
    pg_bin_dirs: ["%[4]s"]
    workspaces: { include: ["%[5]s"] }
    %[6]s
`, dir, s.cluster.SocketDir(), s.cluster.Port(), s.cluster.BinDir(), s.database, more)
	if err := os.WriteFile(s.file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := s.run("init"); code != exitDone {
		t.Fatalf("init: exit code %d\n%s", code, stderr)
	}
	return s
}

// run runs hourvault to its end.
func (s *site) run(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	command := program(s.t, "hourvault", append([]string{"--config", s.file}, args...)...)
	var out, text bytes.Buffer
	command.Stdout, command.Stderr = &out, &text
	if err := command.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		s.t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), out.String(), text.String()
}

// block locks the table until the function returned is called.
func (s *site) block() (unblock func()) {
	s.t.Helper()
	blocker := s.cluster.Connect(s.t, s.database)
	if _, err := blocker.Exec(s.t.Context(), "begin; lock table t in access exclusive mode"); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if _, err := blocker.Exec(s.t.Context(), "rollback"); err != nil {
			s.t.Error(err)
		}
	}
}

func TestInterruptedBackupLeavesNothingAndTheNextOneWorks(t *testing.T) {
	s := newSite(t, "lock_timeout: 10m")
	unblock := s.block()
	command := program(t, "hourvault", "--config", s.file, "backup", s.database)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	watcher := s.cluster.Connect(t, s.database)
	for waits := false; !waits; {
		// The server does the waiting between two looks.
		if err := watcher.QueryRow(t.Context(), `select exists (select from pg_locks where not granted and relation = 't'::regclass)
			from (select pg_sleep(0.02)) as pause`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := command.Wait()
	if command.ProcessState.ExitCode() != exitFailed {
		t.Errorf("got %v, want exit code %d", err, exitFailed)
	}
	want := "hourvault: stopping; press Ctrl-C or send the signal again to stop at once\nhourvault: stopped by an interrupt (SIGINT): no snapshot of " + s.database + " was taken\n"
	if stderr.String() != want {
		t.Errorf("got\n%swant\n%s", stderr.String(), want)
	}
	unblock()
	if code, stdout, text := s.run("snapshots"); code != exitDone || stdout != "" {
		t.Errorf("snapshots: exit code %d\n%s%s", code, stdout, text)
	}
	begin := time.Now()
	if code, _, text := s.run("backup", s.database); code != exitDone {
		t.Errorf("the next backup: exit code %d\n%s", code, text)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the next backup took %s: it waited for the lease of the stopped one", took)
	}
}

func TestLockedWorkspaceIsToBeTriedAgain(t *testing.T) {
	s := newSite(t, "lock_timeout: 100ms")
	unblock := s.block()
	code, stdout, stderr := s.run("backup", s.database, "--json")
	var document backupDocument
	if err := json.Unmarshal([]byte(stdout), &document); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	if code != exitFailed || len(document.Workspaces) != 1 || document.Workspaces[0].Status != statusFailed || !document.Workspaces[0].TryAgain {
		t.Errorf("exit code %d, document %+v", code, document)
	}
	if strings.Count(stderr, "\n") != 2 || !strings.Contains(stderr, `"public"."t" is locked by process`) || !strings.HasSuffix(stderr, "\nhourvault: next: run the same command again later\n") {
		t.Errorf("got %s", stderr)
	}
	unblock()
	if code, _, stderr := s.run("backup", "--all"); code != exitDone {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}
