package endtoend_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv"
	"github.com/hourvault/hourvault/restore"
)

// seedVariable names the seed of the random tests of crashes and faults; each prints the one that it drew.
const seedVariable = "HOURVAULT_TEST_SEED"

// newRandom returns a source of random numbers that a failed test can be run with again.
func newRandom(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if given := os.Getenv(seedVariable); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// crashSite is a place where the product itself runs, with proxies between it and its two servers: config is the
// configuration that goes through them, direct the one that does not.
type crashSite struct {
	t        *testing.T
	cluster  *testenv.Cluster
	s3       *testenv.S3Server
	store    *testenv.S3Proxy
	postgres *testenv.TCPProxy
	bucket   string
	database string
	dir      string
	prefixes int
	traffic  int64 // bytes that the run at hand exchanges with PostgreSQL when nothing happens

	config, direct string
}

// crashSecret is the password in the configuration: it must not turn up in any output.
const crashSecret = "pw-3f9c1a77d2"

// newCrashSite makes a database with something of every kind, and a site for it. large says whether its rows fill more
// than one pack.
func newCrashSite(t *testing.T, cluster *testenv.Cluster, large bool) *crashSite {
	t.Helper()
	server := testenv.VersityGW(t)
	s := &crashSite{t: t, cluster: cluster, s3: server, store: testenv.NewS3Proxy(t, server),
		postgres: testenv.NewTCPProxy(t, fmt.Sprintf("127.0.0.1:%d", cluster.Port())), bucket: server.NewBucket(t), database: cluster.CreateDatabase(t, ""), dir: t.TempDir()}
	rows := 40
	if large {
		rows = 3000 // 19 MB that do not compress
	}
	execute(t, cluster, s.database, fmt.Sprintf(`set search_path = public;
		create table noise (id int, content bytea);
		insert into noise select i, (select string_agg(sha512((i || '-' || j)::bytea), ''::bytea) from generate_series(1, 100) j) from generate_series(1, %d) i;
		create table orders (id bigint generated always as identity primary key, customer text not null, placed timestamptz, total numeric(10, 2));
		insert into orders (customer, placed, total) select 'customer ' || i %% 100, timestamptz '2026-01-01 UTC' + i * interval '1 minute', i / 7.0 from generate_series(1, 5000) i;
		create index on orders (customer);
		create table toasted (id int primary key, text text);
		insert into toasted select i, (select string_agg(md5((i * j)::text), '') from generate_series(1, 2000) j) from generate_series(1, 5) i;
		create table empty (id int);
		create table measured (day date, value int) partition by range (day);
		create table measured_a partition of measured for values from ('2026-01-01') to ('2026-02-01');
		insert into measured select date '2026-01-01' + i %% 30, i from generate_series(1, 500) i;
		create sequence counter; select setval('counter', 41);
		select lo_from_bytea(0, sha512('large object'::bytea));
		create materialized view totals as select customer, sum(total) as total from orders group by customer;
		create view recent as select * from orders where placed > '2026-01-02';
		create function twice(int) returns int language sql as 'select $1 * 2';`, rows))
	for name, content := range map[string]string{"secret": server.SecretKey, "root.key.password": crashSecret} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.newRepository()
	return s
}

// newRepository makes the site use a new repository with a root key of its own.
func (s *crashSite) newRepository() {
	s.t.Helper()
	s.prefixes++
	write := func(name, endpoint string, port int) string {
		path := filepath.Join(s.dir, fmt.Sprintf("%s-%d.yaml", name, s.prefixes))
		content := fmt.Sprintf(`repository:
  url: s3://%s/run-%d
  region: %s
  endpoint: %s
  path_style: true
  sse: none
  access_key_id: %s
  secret_access_key_file: %s/secret
  lease_lifetime: 1s
root_key: file://%[6]s/root-%[2]d.key
servers:
  - name: main
    dsn: host=127.0.0.1 port=%[7]d user=postgres dbname=postgres sslmode=disable
    password_file: %[6]s/root.key.password
    pg_bin_dirs: ["%[8]s"]
    workspaces: { include: ["%[9]s"] }
`, s.bucket, s.prefixes, s.s3.Region, endpoint, s.s3.AccessKey, s.dir, port, s.cluster.BinDir(), s.database)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
		return path
	}
	s.config, s.direct = write("proxied", s.store.Endpoint, s.postgres.Port()), write("direct", s.s3.Endpoint, s.cluster.Port())
	s.must("init")
}

// must runs the product without the proxies, and fails the test unless it exits with 0.
func (s *crashSite) must(args ...string) testenv.Outcome {
	s.t.Helper()
	outcome := testenv.RunHourvault(s.t, append([]string{"--config", s.direct}, args...)...)
	if outcome.Code != 0 {
		s.t.Fatalf("hourvault %s: exit code %d\n%s%s", strings.Join(args, " "), outcome.Code, outcome.Stdout, outcome.Stderr)
	}
	return outcome
}

// start runs the product through the proxies.
func (s *crashSite) start(args ...string) *testenv.Process {
	s.t.Helper()
	return testenv.StartHourvault(s.t, append([]string{"--config", s.config}, args...)...)
}

// snapshots returns the ids of the snapshots of the workspace, of which none may be unreadable.
func (s *crashSite) snapshots() []string {
	s.t.Helper()
	var document struct {
		Workspaces []struct {
			Snapshots  []struct{ Snapshot string }
			Unreadable []struct{ Snapshot, Error string }
		}
	}
	s.decode(s.must("snapshots", "--json"), &document)
	var ids []string
	for _, workspace := range document.Workspaces {
		for _, snapshot := range workspace.Snapshots {
			ids = append(ids, snapshot.Snapshot)
		}
		for _, unreadable := range workspace.Unreadable {
			s.t.Errorf("snapshot %s is there and cannot be read: %s", unreadable.Snapshot, unreadable.Error)
		}
	}
	return ids
}

func (s *crashSite) decode(outcome testenv.Outcome, into any) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(outcome.Stdout), into); err != nil {
		s.t.Fatalf("%v in %s\n%s", err, outcome.Stdout, outcome.Stderr)
	}
}

// verify checks the whole repository, which must be without problems, and returns the kinds of its notices.
func (s *crashSite) verify() []string {
	s.t.Helper()
	outcome := testenv.RunHourvault(s.t, "--config", s.direct, "verify", "--read-data", "--json")
	var document struct {
		Complete bool
		Problems []struct{ Kind, Object, Message string }
		Notices  []struct{ Kind string }
	}
	s.decode(outcome, &document)
	if outcome.Code != 0 || !document.Complete || len(document.Problems) > 0 {
		s.t.Fatalf("verify --read-data: exit code %d, %+v\n%s", outcome.Code, document, outcome.Stderr)
	}
	var kinds []string
	for _, notice := range document.Notices {
		kinds = append(kinds, notice.Kind)
	}
	return kinds
}

// change changes a few rows, so that the next snapshot has something to store.
func (s *crashSite) change(round int) {
	s.t.Helper()
	execute(s.t, s.cluster, s.database, fmt.Sprintf(`set search_path = public;
		update orders set total = total + 1 where id %% 500 = %[1]d %% 500; insert into empty values (%[1]d);
		insert into noise select %[1]d, sha512('round %[1]d'::bytea); select nextval('counter')`, round))
}

// restored restores the newest snapshot, compares it with the live database, and drops it.
func (s *crashSite) restored(into string) {
	s.t.Helper()
	s.must("restore", s.database, "--into", into)
	s.compare(into)
}

// compare compares a restored database with the live one by pg_dump, and drops it.
func (s *crashSite) compare(into string) {
	s.t.Helper()
	if difference := differences(dump(s.t, s.cluster, s.cluster, s.database), dump(s.t, s.cluster, s.cluster, into)); difference != "" {
		s.t.Fatalf("restored into %s:\n%s", into, difference)
	}
	s.cluster.Exec(s.t, "postgres", `drop database "`+into+`" with (force)`)
}

// databases returns those that restores have left unfinished.
func (s *crashSite) unfinished() []string {
	s.t.Helper()
	return query(s.t, s.cluster, "postgres", "select datname::text from pg_database where datname like '"+restore.TemporaryPrefix+"%' order by 1")
}

func (s *crashSite) exists(database string) bool {
	s.t.Helper()
	return len(query(s.t, s.cluster, "postgres", "select datname::text from pg_database where datname = '"+database+"'")) > 0
}

// settle waits until the server has ended all of hourvault's sessions: what a killed process asked for may still be done.
func (s *crashSite) settle() {
	s.t.Helper()
	ticker, limit := time.NewTicker(20*time.Millisecond), time.NewTimer(time.Minute)
	defer ticker.Stop()
	defer limit.Stop()
	for {
		left := query(s.t, s.cluster, "postgres", "select application_name || ': ' || left(query, 80) from pg_stat_activity where application_name like 'hourvault%' or application_name like 'pg_%'")
		if len(left) == 0 {
			return
		}
		select {
		case <-ticker.C:
		case <-limit.C:
			s.t.Fatalf("a minute after hourvault was killed its sessions are still there: %q", left)
		}
	}
}

// killing is a moment at which a run of the product is killed.
type killing struct {
	name string
	arm  func() <-chan struct{} // the channel is sent to, or closed, at the moment
	late func()                 // lets a request that was held back land, and waits for that; may be nil
}

// atRequest kills when the n-th request to the store was received and not passed on ("before"), when the server has answered
// it ("after"), or as before, and then lets it land when the next run is over ("late").
func (s *crashSite) atRequest(n int, mode string) killing {
	return s.atRule(fmt.Sprintf("request %d", n), testenv.Rule{From: n, Times: 1}, mode)
}

// atManifest does the same at the request that makes a snapshot exist. Its number varies with the renewals of the lease.
func (s *crashSite) atManifest(mode string) killing {
	return s.atRule("manifest", testenv.Rule{Method: "PUT", KeyContains: "/snapshots/", Times: 1}, mode)
}

func (s *crashSite) atRule(name string, rule testenv.Rule, mode string) killing {
	release, landed := make(chan struct{}), make(chan testenv.Request, 1)
	return killing{name: mode + " " + name, arm: func() <-chan struct{} {
		now := make(chan struct{})
		reached := make(chan testenv.Request, 1)
		if mode == "after" {
			rule.Landed, rule.StallAnswer = reached, make(chan struct{})
		} else {
			rule.Reached, rule.Release, rule.Landed = reached, release, landed
		}
		s.store.Clear()
		s.store.Add(rule)
		go func() {
			select {
			case <-reached:
				close(now)
			case <-s.t.Context().Done():
			}
		}()
		return now
	}, late: func() {
		if mode != "late" {
			return
		}
		close(release)
		select {
		case <-landed:
		case <-time.After(time.Minute):
			s.t.Error("a request that was held back did not land")
		}
	}}
}

// afterTime kills after a while.
func (s *crashSite) afterTime(d time.Duration) killing {
	return killing{name: "after " + d.String(), arm: func() <-chan struct{} {
		now := make(chan struct{})
		timer := time.AfterFunc(d, func() { close(now) })
		s.t.Cleanup(func() { timer.Stop() })
		return now
	}}
}

// afterTraffic kills when so many bytes were exchanged with PostgreSQL.
func (s *crashSite) afterTraffic(bytes int64) killing {
	return killing{name: fmt.Sprintf("after %d bytes of PostgreSQL", bytes), arm: func() <-chan struct{} {
		now := make(chan struct{})
		reached := make(chan int64, 1)
		s.postgres.Watch(bytes, reached)
		go func() {
			select {
			case <-reached:
				close(now)
			case <-s.t.Context().Done():
			}
		}()
		return now
	}}
}

// killed runs the product and kills it at that moment; false when it had ended before.
func (s *crashSite) killed(at killing, args ...string) (testenv.Outcome, bool) {
	s.t.Helper()
	now := at.arm()
	process := s.start(args...)
	select {
	case <-now:
	case <-process.Ended():
	}
	process.Kill(s.t)
	s.store.Clear()
	s.postgres.Watch(0, nil)
	s.store.CutConnections()
	outcome := process.Wait()
	if outcome.Code > 0 {
		s.t.Errorf("%s: the run failed by itself: exit code %d\n%s", at.name, outcome.Code, outcome.Stderr)
	}
	return outcome, outcome.Code < 0
}

// measure runs the product undisturbed and returns how many requests it sends to the store, how many bytes it exchanges
// with PostgreSQL, and how long it takes.
func (s *crashSite) measure(args ...string) (requests []testenv.Request, traffic int64, took time.Duration) {
	s.t.Helper()
	s.store.Clear()
	s.store.Forget()
	s.postgres.Watch(0, nil)
	begin := time.Now()
	if outcome := s.start(args...).Wait(); outcome.Code != 0 {
		s.t.Fatalf("hourvault %s: exit code %d\n%s", strings.Join(args, " "), outcome.Code, outcome.Stderr)
	}
	return s.store.Requests(), s.postgres.Passed(), time.Since(begin)
}
