package endtoend_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/testenv"
)

// restoreTally counts what crashes of restores led to.
type restoreTally struct {
	runs, finished, complete, unfinished, nothing int
}

func (c *restoreTally) String() string {
	return fmt.Sprintf("%d runs: %d killed with an unfinished database left, %d with nothing, %d with the complete one, %d finished before",
		c.runs, c.unfinished, c.nothing, c.complete, c.finished)
}

// crashRestore kills a restore and checks that no database under the wanted name is incomplete, that what is left keeps ordinary
// roles out and is named by the next restore, which succeeds.
func (s *crashSite) crashRestore(at killing, count *restoreTally) {
	s.t.Helper()
	into := s.database + "_back"
	_, killed := s.killed(at, "restore", s.database, "--into", into)
	s.settle()
	count.runs++
	left := s.unfinished()
	for _, name := range left {
		if conn, err := pgx.Connect(s.t.Context(), s.cluster.DSNFor("ordinary", name)); err == nil {
			_ = conn.Close(s.t.Context())
			s.t.Errorf("%s: an ordinary role can connect to %q", at.name, name)
		}
	}
	exists := s.exists(into)
	switch {
	case !killed:
		count.finished++
	case exists:
		count.complete++
	case len(left) > 0:
		count.unfinished++
	default:
		count.nothing++
	}
	if !killed && !exists || len(left) > 1 {
		s.t.Fatalf("%s: killed %v, database exists: %v, left: %q", at.name, killed, exists, left)
	}
	if exists {
		s.compare(into)
	}
	next := s.must("restore", s.database, "--into", into)
	for _, name := range left {
		// The warning holds what to run: it is run.
		statement := "DROP DATABASE IF EXISTS " + postgres.QuoteIdentifier(catalog.Text(name)) + " WITH (FORCE)"
		if !strings.Contains(next.Stderr, statement) {
			s.t.Fatalf("%s: the next restore does not say how to remove %q:\n%s", at.name, name, next.Stderr)
		}
		s.cluster.Exec(s.t, "postgres", statement)
	}
	s.compare(into)
}

func TestRestoreKilledLeavesNothingThatLooksFinished(t *testing.T) {
	random := newRandom(t)
	runs := 4
	if testenv.Long() {
		runs = 200
	}
	cluster := testenv.StartPostgres(t, 18)
	execute(t, cluster, "postgres", "create role ordinary login")
	s := newCrashSite(t, cluster, false)
	s.must("backup", s.database)
	into := s.database + "_back"
	seen, traffic, took := s.measure("restore", s.database, "--into", into)
	requests := len(seen)
	s.compare(into)
	t.Logf("a restore sends %d requests, exchanges %d bytes with PostgreSQL and takes %s", requests, traffic, took)
	points := []killing{}
	if testenv.Long() {
		for n := 1; n <= requests; n++ {
			points = append(points, s.atRequest(n, "before"), s.atRequest(n, "after"))
		}
	}
	for len(points) < runs {
		switch random.IntN(4) {
		case 0:
			points = append(points, s.atRequest(1+random.IntN(requests), modes[random.IntN(2)]))
		case 1:
			points = append(points, s.afterTraffic(1+random.Int64N(traffic)))
		default: // most of a restore's time is spent in the server
			points = append(points, s.afterTime(time.Duration(random.Int64N(int64(took*5/4)))))
		}
	}
	var count restoreTally
	for _, at := range points {
		s.crashRestore(at, &count)
		if count.runs%20 == 0 {
			t.Log(count.String())
		}
	}
	t.Log(count.String())
}
