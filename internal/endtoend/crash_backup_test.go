package endtoend_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv"
)

// tally counts what crashes led to.
type tally struct {
	runs, finished         int // finished: ended before they could be killed
	none, complete         int // without and with a new manifest
	waited, leftovers      int // next runs that waited for the dead one's lease; repositories with left-over packs
	restored, lateRequests int
}

func (c *tally) String() string {
	return fmt.Sprintf("%d runs: %d killed without a manifest, %d with a complete one, %d finished before; next run waited for the lease in %d, left-over packs were reported in %d, late requests %d, restored and compared %d",
		c.runs, c.none, c.complete, c.finished, c.waited, c.leftovers, c.lateRequests, c.restored)
}

// crashBackup kills a backup and checks what it leaves: no manifest or a complete one, nothing that verify complains of, a
// next run that succeeds.
func (s *crashSite) crashBackup(at killing, count *tally, compare bool) {
	s.t.Helper()
	before := s.snapshots()
	_, killed := s.killed(at, "backup", s.database)
	after := s.snapshots()
	count.runs++
	switch {
	case !killed:
		count.finished++
		if len(after) != len(before)+1 {
			s.t.Fatalf("%s: exit code 0 and %d snapshots after %d", at.name, len(after), len(before))
		}
	case len(after) == len(before):
		count.none++
	case len(after) == len(before)+1:
		count.complete++
	default:
		s.t.Fatalf("%s: %d snapshots after %d", at.name, len(after), len(before))
	}
	if slices.Contains(s.verify(), "leftover_packs") {
		count.leftovers++
	}
	next := s.must("backup", s.database)
	if strings.Contains(next.Stderr, "waiting up to 1s to see whether it is still at work") {
		count.waited++
	}
	if killed && at.late != nil {
		at.late()
	}
	newest := s.snapshots()
	if len(newest) != len(after)+1 {
		s.t.Fatalf("%s: %d snapshots after the next run, %d before", at.name, len(newest), len(after))
	}
	if killed && strings.HasPrefix(at.name, "late") {
		count.lateRequests++
		s.verify()
		s.must("backup", s.database)
	}
	if count.runs%20 == 0 {
		s.t.Log(count.String())
	}
	if compare {
		s.restored(s.database + "_back")
		count.restored++
	}
}

// modes are the ways to be killed at a request.
var modes = []string{"before", "after", "late"}

func TestBackupKilledAtEachRequestToTheStoreLeavesNothingHalf(t *testing.T) {
	random := newRandom(t)
	s := newCrashSite(t, testenv.Postgres(t, 18), testenv.Long())
	requests, _, _ := s.measure("backup", s.database)
	s.change(0)
	again, _, _ := s.measure("backup", s.database)
	t.Logf("a first backup sends %d requests, a second one %d", len(requests), len(again))

	t.Run("first snapshot", func(t *testing.T) {
		first := *s
		first.t = t
		var count tally
		for _, at := range chooseRequests(random, len(requests), 1) {
			first.prefixes += 1000 // not those of the other subtest
			first.newRepository()
			first.crashBackup(first.atRequest(at.n, at.mode), &count, at.n%8 == 0)
		}
		t.Log(count.String())
	})
	t.Run("second snapshot", func(t *testing.T) {
		second := *s
		second.t = t
		var count tally
		for i, at := range chooseRequests(random, len(again), 2) {
			second.change(i + 1)
			second.crashBackup(second.atRequest(at.n, at.mode), &count, i%8 == 0)
		}
		for _, mode := range modes {
			second.change(len(mode))
			second.crashBackup(second.atManifest(mode), &count, false)
		}
		if count.complete == 0 || count.none == 0 {
			t.Error("a backup that was killed before and after its manifest was stored left the same")
		}
		t.Log(count.String())
	})
}

type requestPoint struct {
	n    int
	mode string
}

// chooseRequests returns every point of every request or, in the short variant, some drawn at random.
func chooseRequests(random *rand.Rand, requests, some int) []requestPoint {
	var all []requestPoint
	for n := 1; n <= requests; n++ {
		for _, mode := range modes {
			all = append(all, requestPoint{n, mode})
		}
	}
	if testenv.Long() {
		return all
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:some]
}

func TestBackupKilledAtRandomMomentsLeavesNothingHalf(t *testing.T) {
	random := newRandom(t)
	runs, compareEach := 3, 3
	if testenv.Long() {
		runs, compareEach = 300, 20
	}
	s := newCrashSite(t, testenv.Postgres(t, 17), false)
	s.measure("backup", s.database)
	s.change(0)
	seen, traffic, took := s.measure("backup", s.database)
	requests := len(seen)
	t.Logf("a backup sends %d requests, exchanges %d bytes with PostgreSQL and takes %s", requests, traffic, took)
	var count tally
	for i := range runs {
		if i%10 == 9 { // first snapshots too
			s.newRepository()
		}
		s.change(i + 1)
		var at killing
		switch random.IntN(3) {
		case 0:
			at = s.afterTime(time.Duration(random.Int64N(int64(took * 5 / 4))))
		case 1:
			at = s.afterTraffic(1 + random.Int64N(traffic))
		default:
			at = s.atRequest(1+random.IntN(requests), modes[random.IntN(len(modes))])
		}
		s.crashBackup(at, &count, i%compareEach == 0)
	}
	t.Log(count.String())
}
