package endtoend_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv"
)

// fault is something that goes wrong while the product runs.
type fault struct {
	name string
	// args is what is run; the site's database is put in for "DB".
	args []string
	// arm prepares it; the function returned, if any, is called while the process runs and returns when the fault has happened.
	arm func(s *crashSite) (happen func(*testenv.Process))
	// survived says that the run has to succeed all the same.
	survived bool
	// unclear says that the run cannot know whether its snapshot exists, and says so: it may.
	unclear bool
	// step and next are parts of the error's and of the hint's line.
	step, next string
	// long keeps it out of the short variant, because the product tries again for a long time.
	long bool
}

var (
	runBackup  = []string{"backup", "DB"}
	runRestore = []string{"restore", "DB", "--into", "DB_back"}
)

// storeRule makes requests to the store fail by a rule.
func storeRule(rule testenv.Rule) func(*crashSite) func(*testenv.Process) {
	return func(s *crashSite) func(*testenv.Process) {
		s.store.Add(rule)
		return nil
	}
}

// tap cuts the first connections to PostgreSQL that fit.
func tap(tap testenv.Tap) func(*crashSite) func(*testenv.Process) {
	return func(s *crashSite) func(*testenv.Process) {
		s.postgres.Set(tap)
		return nil
	}
}

// suspended suspends the product when it has exchanged a share of what it will with PostgreSQL, in percent, lets something
// happen to the server, and lets the product go on.
func suspended(percent int64, happen func(*crashSite)) func(*crashSite) func(*testenv.Process) {
	return func(s *crashSite) func(*testenv.Process) {
		reached := make(chan int64, 1)
		s.postgres.Watch(s.traffic*percent/100, reached)
		return func(process *testenv.Process) {
			select {
			case <-reached:
			case <-process.Ended():
				s.t.Error("the run ended before anything happened to it")
				return
			}
			process.Signal(s.t, syscall.SIGSTOP)
			happen(s)
			process.Signal(s.t, syscall.SIGCONT)
		}
	}
}

// terminate ends backends of the product by pg_terminate_backend, as an administrator does.
func terminate(condition string) func(*crashSite) {
	return func(s *crashSite) {
		s.t.Helper()
		if ended := query(s.t, s.cluster, "postgres", "select pg_terminate_backend(pid)::text from pg_stat_activity where application_name like 'hourvault%' and "+condition); len(ended) == 0 {
			s.t.Error("there was no backend to terminate")
		}
	}
}

func restart(s *crashSite) {
	s.t.Helper()
	s.cluster.Stop(s.t)
	s.cluster.Start(s.t)
}

func crash(s *crashSite) {
	s.t.Helper()
	s.cluster.Kill(s.t)
	s.cluster.Start(s.t)
}

func TestFaultOfTheStoreOrTheServerIsSurvivedOrSaidClearly(t *testing.T) {
	const (
		store      = "see whether the store can be reached"
		connection = "see in PostgreSQL's log why it ended hourvault's session"
		mended     = "when that is mended, run the same command again"
	)
	forever := make(chan struct{})
	s := newCrashSite(t, testenv.StartPostgres(t, 18), false)
	s.must("backup", s.database)
	_, backupTraffic, _ := s.measure("backup", s.database)
	_, restoreTraffic, _ := s.measure("restore", s.database, "--into", s.database+"_back")
	s.compare(s.database + "_back")

	for _, f := range []fault{
		// The store refuses: there is no use in trying again.
		{name: "lease refused", args: runBackup, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/lease", Status: 403}), step: "take the lease and read the last snapshot's manifest: ", next: mended},
		{name: "key refused", args: runBackup, arm: storeRule(testenv.Rule{Method: "GET", KeyContains: "/keys/", From: 2, Status: 403}), step: "open the workspace in the repository: ", next: mended},
		{name: "last manifest refused", args: runBackup, arm: storeRule(testenv.Rule{Method: "GET", KeyContains: "/snapshots/", Status: 403}), step: "take the lease and read the last snapshot's manifest: ", next: mended},
		{name: "pack refused", args: runBackup, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/packs/", Status: 403}), step: "store pack: ", next: mended},
		{name: "manifest refused", args: runBackup, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/snapshots/", Status: 403}), step: "commit the snapshot: ", next: mended},
		{name: "packs refused to a restore", args: runRestore, arm: storeRule(testenv.Rule{Method: "GET", KeyContains: "/packs/", From: 6, Status: 403}), step: "load rows: ", next: mended},

		// The store or the way to it stumbles: that is survived.
		{name: "slow down", args: runBackup, survived: true, arm: storeRule(testenv.Rule{From: 5, Times: 2, Status: 503})},
		{name: "internal error on the manifest", args: runBackup, survived: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/snapshots/", Times: 2, Status: 500})},
		{name: "pack cut while it is sent", args: runBackup, survived: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/packs/", Times: 1, CutBody: 300})},
		{name: "answer lost to a pack that landed", args: runBackup, survived: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/packs/", Times: 1, SwallowAnswer: true})},
		{name: "answer lost to a manifest that landed", args: runBackup, survived: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/snapshots/", Times: 1, SwallowAnswer: true})},
		{name: "answer lost to a lease that landed", args: runBackup, survived: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/lease", Times: 1, SwallowAnswer: true})},
		{name: "manifest cut while it is read", args: runBackup, survived: true, arm: storeRule(testenv.Rule{Method: "GET", KeyContains: "/snapshots/", Times: 1, CutAnswer: 500})},
		{name: "pack cut while it is read", args: runRestore, survived: true, arm: storeRule(testenv.Rule{Method: "GET", KeyContains: "/packs/", From: 3, Times: 2, CutAnswer: 100})},
		{name: "slow answers", args: runRestore, survived: true, arm: storeRule(testenv.Rule{Method: "GET", KeyContains: "/packs/", From: 4, Times: 2, BytesPerSecond: 1 << 20})},
		{name: "answer that never comes", args: runBackup, survived: true, long: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/packs/", Times: 1, StallAnswer: forever})},

		// It is down for good.
		{name: "packs never get through", args: runBackup, long: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/packs/", CutBody: 300}), step: "store pack: ", next: store},
		{name: "answers to the manifest are always lost", args: runBackup, long: true, unclear: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/snapshots/", SwallowAnswer: true}), step: "whether it exists is not known", next: store},
		{name: "manifest never gets through", args: runBackup, long: true, arm: storeRule(testenv.Rule{Method: "PUT", KeyContains: "/snapshots/", Status: 503}), step: "commit the snapshot: ", next: store},
		{name: "store down while rows are read", args: runBackup, long: true, arm: suspended(50, func(s *crashSite) { s.store.Refuse(true) }), step: "", next: store},
		{name: "store down while rows are loaded", args: runRestore, long: true, arm: suspended(50, func(s *crashSite) { s.store.Refuse(true) }), step: "load rows: ", next: store},

		// PostgreSQL.
		{name: "all backends of a backup terminated", args: runBackup, arm: suspended(50, terminate("true")), next: connection},
		{name: "restarted during a backup", args: runBackup, arm: suspended(50, restart), next: connection},
		{name: "crashed during a backup", args: runBackup, arm: suspended(60, crash), next: connection},
		{name: "connection cut in the middle of COPY", args: runBackup, arm: tap(testenv.Tap{ToClient: testenv.Stream{Contains: []byte("customer 7"), CutAfter: 1000}}), step: `read table "public"."orders": `, next: connection},
		{name: "connection cut in the middle of pg_dump", args: runBackup, arm: tap(testenv.Tap{ToServer: testenv.Stream{Contains: []byte(" pg_dump\x00"), CutAfter: 5000}}), step: "read the definitions with pg_dump: ", next: "see what pg_dump says above"},
		{name: "restarted when all was read", args: runBackup, survived: true, arm: func(s *crashSite) func(*testenv.Process) {
			reached, release := make(chan testenv.Request, 1), make(chan struct{})
			s.store.Add(testenv.Rule{Method: "PUT", KeyContains: "/snapshots/", Times: 1, Reached: reached, Release: release})
			return func(*testenv.Process) {
				<-reached
				restart(s)
				close(release)
			}
		}},
		{name: "all backends of a restore terminated", args: runRestore, arm: suspended(50, terminate("true")), next: connection},
		{name: "restarted during a restore", args: runRestore, arm: suspended(70, restart), next: connection},
		{name: "crashed during a restore", args: runRestore, arm: suspended(50, crash), next: "see in PostgreSQL's log "},
		{name: "connection cut while rows are loaded", args: runRestore, arm: tap(testenv.Tap{ToServer: testenv.Stream{Contains: []byte("customer 7"), CutAfter: 1000}}), step: "load rows: ", next: connection},
	} {
		t.Run(f.name, func(t *testing.T) {
			if f.long && !testenv.Long() {
				t.Skip("the product tries again for a minute or more: in the long variant only")
			}
			at := *s
			at.t = t
			at.traffic = backupTraffic
			if f.args[0] == "restore" {
				at.traffic = restoreTraffic
			}
			at.meet(f)
		})
	}
	s.must("backup", s.database)
	s.verify()
	s.restored(s.database + "_back")
}

// meet lets one fault happen and checks what the product makes of it: success, or one clear error and nothing half.
func (s *crashSite) meet(f fault) {
	s.t.Helper()
	s.change(1 + len(f.name)*7)
	before := len(s.snapshots())
	into := s.database + "_back"
	args := make([]string, len(f.args))
	for i, arg := range f.args {
		args[i] = strings.Replace(arg, "DB", s.database, 1)
	}
	s.store.Clear()
	s.postgres.Set(testenv.Tap{})
	happen := f.arm(s)
	begin := time.Now()
	process := s.start(args...)
	if happen != nil {
		happen(process)
	}
	outcome := process.Wait()
	took := time.Since(begin)
	s.store.Clear()
	s.store.Refuse(false)
	s.postgres.Set(testenv.Tap{})
	s.postgres.Watch(0, nil)
	s.settle()

	isBackup := f.args[0] == "backup"
	for _, secret := range []string{crashSecret, s.s3.SecretKey} {
		if strings.Contains(outcome.Stdout+outcome.Stderr, secret) {
			s.t.Error("the output holds a secret")
		}
	}
	after, exists, left := len(s.snapshots()), s.exists(into), s.unfinished()
	if f.survived {
		if outcome.Code != 0 || isBackup && after != before+1 || !isBackup && !exists {
			s.t.Fatalf("exit code %d, %d snapshots after %d, database exists: %v\n%s", outcome.Code, after, before, exists, outcome.Stderr)
		}
		s.t.Logf("survived in %s", took.Round(100*time.Millisecond))
	} else {
		s.checkFailure(f, outcome)
		if after != before && !(f.unclear && after == before+1) || exists {
			s.t.Errorf("%d snapshots after %d, database exists: %v", after, before, exists)
		}
	}
	if !f.survived || testenv.Long() { // what was survived is verified at the end
		s.verify()
	}
	if exists {
		s.cluster.Exec(s.t, "postgres", `drop database "`+into+`" with (force)`)
	}
	for _, name := range left {
		if !strings.Contains(outcome.Stderr, name) {
			s.t.Errorf("database %q was left, and nothing said so", name)
		}
		s.cluster.Exec(s.t, "postgres", `drop database "`+name+`" with (force)`)
	}
	if isBackup && !f.survived { // whatever happened, the next one works
		s.must("backup", s.database)
	}
}

// checkFailure demands exit code 1, one line with the step, and one that says what to do next.
func (s *crashSite) checkFailure(f fault, outcome testenv.Outcome) {
	s.t.Helper()
	var errors, hints []string
	for line := range strings.Lines(outcome.Stderr) {
		line = strings.TrimSuffix(line, "\n")
		if hint, is := strings.CutPrefix(line, "hourvault: next: "); is {
			hints = append(hints, hint)
		} else if text, is := strings.CutPrefix(line, "hourvault: "); is && !strings.HasPrefix(text, "warning: ") && !strings.Contains(text, ": waiting up to ") {
			errors = append(errors, text)
		}
	}
	if outcome.Code != 1 || len(errors) != 1 || len(hints) != 1 {
		s.t.Fatalf("exit code %d, %d errors, %d hints, want one of each:\n%s", outcome.Code, len(errors), len(hints), outcome.Stderr)
	}
	const most = 1000
	if !strings.Contains(errors[0], f.step) || !strings.Contains(hints[0], f.next) || len(errors[0]) > most {
		s.t.Errorf("%d bytes\nerror %s\nwant  ... %s ...\nnext  %s\nwant  %s ...", len(errors[0]), errors[0], f.step, hints[0], f.next)
	}
	s.t.Logf("error: %s", errors[0])
}

func TestReaderTerminatedInTheMiddleOfATableIsSaidClearly(t *testing.T) {
	s := newCrashSite(t, testenv.Postgres(t, 18), true)
	s.must("backup", s.database)
	_, s.traffic, _ = s.measure("backup", s.database)
	// The table is larger than what lies in sockets: its reader is in the middle of it.
	s.meet(fault{name: "a reader terminated", args: runBackup, arm: suspended(30, terminate("state = 'active' and query like 'COPY%noise%'")),
		step: `read table "public"."noise": `, next: "see in PostgreSQL's log why it ended hourvault's session"})
}

func TestFaultIsInTheJSONDocumentToo(t *testing.T) {
	s := newCrashSite(t, testenv.Postgres(t, 18), false)
	s.store.Add(testenv.Rule{Method: "PUT", KeyContains: "/packs/", Status: 403})
	outcome := s.start("backup", s.database, "--json").Wait()
	var document struct {
		Workspaces []struct{ Status, Error, Next string }
	}
	s.decode(outcome, &document)
	if len(document.Workspaces) != 1 || document.Workspaces[0].Status != "failed" || document.Workspaces[0].Next != "when that is mended, run the same command again" {
		t.Errorf("got %+v", document)
	}
	s.store.Clear()
	s.store.Add(testenv.Rule{KeyContains: "repository.json", Status: 403})
	outcome = s.start("snapshots", "--json").Wait()
	var failed map[string]any
	if err := json.Unmarshal([]byte(outcome.Stdout), &failed); err != nil || outcome.Code != 1 || !strings.Contains(fmt.Sprint(failed["error"]), "get repository.json") {
		t.Errorf("exit code %d: %v in %s", outcome.Code, err, outcome.Stdout)
	}
}
