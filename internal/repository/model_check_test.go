package repository

import (
	"fmt"
	"hash/maphash"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv"
)

// found is what a search came to.
type found struct {
	states    int
	ends      int // states in which no run goes on
	violation string
	trace     []action
	complete  bool
}

// search visits every state by breadth, and ends with the shortest trace to a violation, or after limit states if that is not 0. States are told
// apart by a hash of 64 bits under a key drawn each time: of ten million, two are taken for one with a probability of 3 in a million.
func search(s setting, limit int) found {
	type node struct {
		parent uint32
		choice uint16
	}
	seed := maphash.MakeSeed()
	key := func(at *state) uint64 { return maphash.Comparable(seed, *at) }
	type open struct {
		at state
		id uint32
	}
	initial := s.initial()
	seen := map[uint64]struct{}{key(&initial): {}}
	nodes := []node{{}}
	now := []open{{at: initial}}
	var after []open
	var result found
	path := func(id uint32) []action {
		var choices []uint16
		for ; id != 0; id = nodes[id].parent {
			choices = append(choices, nodes[id].choice)
		}
		var trace []action
		at := initial
		for len(choices) > 0 {
			choice := choices[len(choices)-1]
			choices = choices[:len(choices)-1]
			var count uint16
			from := at
			s.next(&from, func(next state, act action) {
				if count == choice {
					at = next
					trace = append(trace, act)
				}
				count++
			})
		}
		return trace
	}
	for len(now) > 0 {
		after = after[:0]
		for n := range now {
			from := &now[n]
			var count uint16
			moved := false
			s.next(&from.at, func(next state, act action) {
				choice := count
				count++
				if act.op != opTime && act.op != opDamage {
					moved = true
				}
				k := key(&next)
				if _, known := seen[k]; known || result.violation != "" {
					return
				}
				seen[k] = struct{}{}
				nodes = append(nodes, node{parent: from.id, choice: choice})
				id := uint32(len(nodes) - 1)
				if next.violation != 0 {
					result.violation = invariants[next.violation]
					result.trace = path(id)
					return
				}
				after = append(after, open{at: next, id: id})
			})
			if !moved {
				result.ends++
			}
			if result.violation != "" || limit > 0 && len(nodes) > limit {
				result.states = len(nodes)
				return result
			}
		}
		now, after = after, now
	}
	result.states, result.complete = len(nodes), true
	return result
}

// explain writes a trace for people.
func (s setting) explain(trace []action) string {
	var text strings.Builder
	at := s.initial()
	for n, act := range trace {
		from := at
		s.next(&from, func(next state, other action) {
			if other == act {
				at = next
			}
		})
		fmt.Fprintf(&text, "%3d. %s\n", n+1, s.label(&from, act))
	}
	return text.String()
}

// actorName is S1 for the first snapshot, P2 for the second prune.
func (s setting) actorName(i uint8) string {
	return fmt.Sprintf("%c%d", s.actors[i], strings.Count(s.actors[:i+1], s.actors[i:i+1]))
}

func (s setting) keyName(code uint8) string {
	kind, slot, initial := "manifest", code, uint8(2)
	if code >= planCode {
		kind, slot, initial = "plan", code-planCode, 1
	}
	if slot < initial {
		return fmt.Sprintf("initial %s %d", kind, slot+1)
	}
	name := s.actorName((slot - initial) % maxActors)
	return fmt.Sprintf("%s's %s (name of level %d)", name, kind, level(slot, initial))
}

func (s setting) packNames(packs uint8) string {
	names := []string{}
	for bit := range 8 {
		switch pack := uint8(1) << bit; {
		case packs&pack == 0:
		case bit < 2:
			names = append(names, [...]string{"first", "second"}[bit])
		default:
			names = append(names, s.actorName(uint8(bit-2)))
		}
	}
	return "{" + strings.Join(names, " ") + "}"
}

// label says what an action does in a state.
func (s setting) label(at *state, act action) string {
	switch act.op {
	case opTime:
		return "time passes: everything is old, what was under way is refused"
	case opDamage:
		return s.keyName(act.arg) + " becomes unreadable"
	case opLand:
		for _, f := range at.flight {
			if f.actor == act.actor && uint8(f.op) == act.arg {
				return fmt.Sprintf("the write of %s arrives: %s", s.actorName(act.actor), s.putName(f.op, f.key))
			}
		}
	}
	name := s.actorName(act.actor)
	a := &at.actors[act.actor]
	var what string
	switch act.op {
	case opDraw:
		what = "lists names and draws its own"
	case opReadLease:
		what = "reads the lease: " + map[bool]string{true: "released", false: "of the run at " + s.keyName(at.leaseKey)}[at.released]
	case opOutwait:
		what = "takes that lease for expired"
		if !a.current {
			what = "sees the lease change and ends"
		}
	case opListPlans:
		what = "lists and reads plans"
	case opFinishPlan, opFirstPass:
		what = "deletes " + s.keyName(act.arg)
	case opListManifest:
		what = "lists manifests"
	case opOpen:
		what = "opens manifests"
	case opDropPlan:
		what = "deletes " + s.keyName(planCode+act.arg)
	case opListPacks:
		what = "lists packs"
	case opConfirm:
		what = "writes the lease anew"
	case opSecondPass:
		what = "deletes pack " + s.packNames(act.arg)
	case opPutPack:
		what = "uploads its pack, and takes over " + s.packNames(act.arg)
	case opReadOwn:
		what = "reads what lies at its run key"
	case opPutRun:
		if s.rules.noPlan && !s.snapshots(int(act.actor)) {
			what = "looks at its lease, and decides to delete"
			break
		}
		what = s.putName(act.op, act.arg)
	default:
		what = s.putName(act.op, act.arg)
	}
	if a.again {
		what += " (again)"
	}
	return name + " " + what + map[how]string{
		lostGivesUp: ": done, but the answer is lost, and the run sees an error",
		lostRetries: ": done, but the answer is lost, and the client will send it again",
		neverCame:   ": the request is lost",
		lateGivesUp: ": times out, but is still under way",
		lateRetries: ": times out and will be sent again, but is still under way",
	}[act.how]
}

func (s setting) putName(what op, code uint8) string {
	switch what {
	case opSettleOther:
		return "creates a void at " + s.keyName(code)
	case opSettleOwn:
		return "creates a void at its own run key, " + s.keyName(code)
	case opTakeLease:
		return "takes the lease, naming " + s.keyName(code)
	case opRename:
		return "writes the lease anew, naming " + s.keyName(code)
	case opRelease:
		return "releases the lease"
	default:
		return "creates " + s.keyName(code)
	}
}

// mustHoldIn searches all of a setting.
func mustHoldIn(t *testing.T, s setting) {
	t.Helper()
	begin := time.Now()
	result := search(s, 0)
	if result.violation != "" {
		t.Errorf("%s: %s\n%s", s, result.violation, s.explain(result.trace))
	}
	t.Logf("%s: %d states, %d of them ends, in %s", s, result.states, result.ends, time.Since(begin).Round(time.Millisecond))
}

// Whatever two runs do, and whatever becomes of their writes.
func TestModelHoldsForTwoRuns(t *testing.T) {
	for _, actors := range []string{"SS", "SP", "PP"} {
		for _, plan := range []bool{false, true} {
			mustHoldIn(t, setting{actors: actors, plan: plan, subset: true, time: true, damage: true})
			mustHoldIn(t, setting{actors: actors, plan: plan, time: true, unclear: true, runOnly: true, retries: true, flight: 1})
			if !plan && !raceDetector || testenv.Long() {
				mustHoldIn(t, setting{actors: actors, plan: plan, subset: true, time: true, unclear: true, retries: true, flight: 1})
			}
			if testenv.Long() {
				mustHoldIn(t, setting{actors: actors, plan: plan, subset: true, time: true, damage: true, unclear: true, retries: true, flight: 2})
			}
		}
	}
}

func TestModelHoldsForThreeRuns(t *testing.T) {
	for _, actors := range []string{"SSS", "SSP", "SPP", "PPP"} {
		mustHoldIn(t, setting{actors: actors, time: true, begun: opPutRun})
		if raceDetector {
			continue // which finds nothing in a search by one goroutine, and makes it ten times slower
		}
		mustHoldIn(t, setting{actors: actors})
		mustHoldIn(t, setting{actors: actors, time: true, unclear: true, runOnly: true, retries: true, flight: 1, begun: opPutRun})
		if !testenv.Long() {
			continue
		}
		mustHoldIn(t, setting{actors: actors, subset: true, time: true})
		mustHoldIn(t, setting{actors: actors, subset: true, time: true, damage: true, plan: true})
		mustHoldIn(t, setting{actors: actors, time: true, unclear: true, flight: 1})
		mustHoldIn(t, setting{actors: actors, time: true, unclear: true, runOnly: true, retries: true, flight: 2})
		mustHoldIn(t, setting{actors: actors, time: true, unclear: true, retries: true, flight: 1, plan: true})
	}
}

// A rule that can be left out without anything going wrong would be no rule, or the model would be blind.
func TestModelNeedsEveryRule(t *testing.T) {
	for _, test := range []struct {
		name string
		setting
		violation int
	}{
		{"no void on a takeover, histories fork", setting{actors: "SS", rules: rules{noVoid: true}}, 4},
		{"no void on a takeover, packs go", setting{actors: "SPP", rules: rules{noVoid: true}, time: true}, 1},
		{"lease given back without settling", setting{actors: "SS", rules: rules{releaseUnsettled: true}, unclear: true, flight: 1}, 6},
		{"manifests listed before settling", setting{actors: "SS", rules: rules{listBeforeSettle: true}}, 4},
		{"base chosen before the plan is finished", setting{actors: "SP", rules: rules{baseBeforePlan: true}, plan: true, damage: true}, 7},
		{"unfinished plan ignored", setting{actors: "SP", rules: rules{ignorePlan: true}, plan: true, damage: true}, 7},
		{"name that is not the greatest", setting{actors: "SSS", rules: rules{noRename: true}}, 4},
		{"prune that looks at its lease and stores no plan", setting{actors: "SP", rules: rules{noPlan: true}, damage: true}, 1},
		{"packs deleted by a fresh look only", setting{actors: "SP", rules: rules{freshLookOnly: true}}, 1},
		{"packs deleted by a fresh look only, packs listed first", setting{actors: "SP", rules: rules{freshLookOnly: true, packsFirst: true}}, 1},
		{"manifests deleted while a duplicate is under way", setting{actors: "SSP", rules: rules{noMinAge: true}, unclear: true, runOnly: true, retries: true, flight: 1, begun: opPutRun}, 8},
		{"the newest snapshot deleted", setting{actors: "P", rules: rules{newestMayGo: true}}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			result := search(test.setting, 0)
			if result.violation != invariants[test.violation] {
				t.Errorf("%d states, found %q, want %q", result.states, result.violation, invariants[test.violation])
			}
			t.Logf("after %d states: %s\n%s", result.states, result.violation, test.explain(result.trace))
		})
	}
}

// The grace period protects who reads without a lease, and the order of the two lists is free, because all runs before are settled.
func TestModelNeedsNeitherGraceNorAnOrderOfLists(t *testing.T) {
	for _, free := range []rules{{noGrace: true}, {packsFirst: true}} {
		mustHoldIn(t, setting{actors: "SPP", rules: free, time: true, begun: opPutRun})
	}
}
