package repository

import (
	"fmt"
	mathbits "math/bits"
)

// This file is a model of docs/format.md, sections 12 and 13: the store's objects of one workspace, and runs that work on it, cut into
// their operations at the store. model_check_test.go visits every state that the model can reach. Expiry of a lease has no clock here: a
// run may take another's lease for expired whenever its ETag has not changed since it was seen, which is more than any clock allows.

// Bounds of the model. A run draws its name behind the greatest there, so names are counted in levels above the initial ones.
const (
	maxActors = 3
	maxLevels = 6
	snapSlots = 2 + maxLevels*maxActors // two snapshots are there from the beginning
	planSlots = 1 + maxLevels*maxActors // and, where asked for, one plan
	maxFlight = 2
)

// What lies at a key.
const (
	nothing = iota
	void
	effective
	damaged
)

// Packs are bits: one of each initial snapshot, then one of each run.
const (
	packFirst  = 1 << iota // of the older one
	packSecond             // of the newer one
)

func ownPack(actor int) uint8 { return 4 << actor }

// initialPacks are what the initial snapshots name.
var initialPacks = [2]uint8{packFirst, packSecond}

// initialPlan names the older initial snapshot and its pack; whoever made it died before deleting anything.
const (
	initialPlanManifests uint32 = 1
	initialPlanPacks            = packFirst
)

// op is an operation at the store, or an event.
type op uint8

const (
	opDraw         op = iota // list the names of the own kind
	opReadLease              // get
	opOutwait                // stat until it is taken for expired
	opSettleOther            // create a void at the holder's run key
	opTakeLease              // replace the lease
	opListPlans              // list, and read the effective ones
	opRename                 // replace the lease, naming another run key
	opListManifest           // list
	opFinishPlan             // delete a manifest that an earlier plan names
	opOpen                   // get the manifests
	opListPacks              // list
	opSecondPass             // delete a pack of a plan whose grace has passed
	opPutPack                // create
	opPutRun                 // create the manifest or the plan at the run key
	opSettleOwn              // create a void at the own run key
	opReadOwn                // get the own run key
	opFirstPass              // delete a manifest that the own plan names
	opDropPlan               // delete a plan that the own one stands for
	opConfirm                // replace the lease, because packs seem left over by a run that is not known to be settled
	opRelease                // replace the lease, as released
	opDone
	opLand   // a write that was under way arrives
	opTime   // more than the grace passes
	opDamage // the newest manifest becomes unreadable
)

// how is what becomes of a write.
type how uint8

const (
	answered    how = iota
	lostGivesUp     // applied, answer lost; the run sees an error
	lostRetries     // applied, answer lost; the store's client sends it again
	neverCame       // not applied; the run sees an error
	lateGivesUp     // still under way when the run sees an error
	lateRetries     // still under way when the client sends it again
)

// action is one step of a trace. arg is a slot, a pack, or the choice of packs.
type action struct {
	actor uint8
	op    op
	how   how
	arg   uint8
}

// Results of a run.
const (
	running = iota
	succeeded
	failed
	unknown     // the run says that it does not know
	nothingToDo // a prune without a plan
)

// actor is one run. Fields are zero when they no longer matter, so that equal situations are equal states.
type actor struct {
	op       op
	key      uint8  // slot of its run key
	seen     uint8  // code of the run key in the lease that it waits for
	current  bool   // the ETag that it read is still that of the lease
	again    bool   // the write is a second attempt
	base     uint8  // slot + 1
	packs    uint8  // that its manifest or plan names; before: that the base or the kept manifests name
	stored   uint8  // packs that a prune listed
	named    uint8  // packs that any manifest names which a prune saw
	plans    uint32 // effective ones that it read
	found    uint32 // of these: some of their manifests were still listed
	known    uint32 // manifests and voids that a prune listed or found on plans
	listed   uint32 // manifests and voids that it listed and no plan that it read names
	todo     uint32 // manifests, or packs, still to delete
	doomed   uint32 // manifests of its plan
	stands   uint32 // plans that its own stands for
	drop     uint32 // plans still to delete
	agedSnap uint32 // older than an hour, or a grace, when the lease was written
	agedPlan uint32
	result   uint8
	tried    bool // its run key may yet be created
	became   bool // it was created at some time
}

type flying struct {
	op    op // opDone: none
	actor uint8
	key   uint8 // code of the run key: of the void, or in the lease
}

// state is the store and all runs. It is comparable, and equal states behave equally.
type state struct {
	snaps     [snapSlots]uint8
	plans     [planSlots]uint8
	old       [2]uint32 // manifests and plans that were there when time passed
	atLease   [2]uint32 // the same when the lease was written
	packs     uint8
	holder    uint8 // of the lease: actor, or maxActors for whoever was before
	leaseKey  uint8
	released  bool
	everSnap  uint32 // slots that were effective manifests
	everPlan  uint32 // manifests that a plan in effect named
	broken    bool   // a manifest was damaged
	flight    [maxFlight]flying
	actors    [maxActors]actor
	violation uint8
}

// Invariants, by number of violation.
var invariants = [...]string{
	1: "I1: a committed manifest names a pack that is missing",
	2: "I2: an effective plan names the newest good snapshot",
	3: "I3: a manifest is gone that no effective plan names",
	4: "I4: two snapshots became effective on the same base",
	5: "a run reported success and is not effective",
	6: "a run reported failure and is effective",
	7: "a snapshot became effective whose base an effective plan names",
	8: "a manifest that a plan has deleted is there again",
	9: "the holder of the lease finds packs of a run that is not settled",
}

// rules is the protocol; its zero value has all rules in it. Each field takes one out.
type rules struct {
	noVoid           bool // a takeover does not settle the run before
	releaseUnsettled bool // after an unclear answer the lease is given back without a void
	listBeforeSettle bool // manifests are listed before the run before is settled
	baseBeforePlan   bool // manifests are listed before the plan is finished
	ignorePlan       bool // an unfinished plan is not finished
	noRename         bool // a name that is not the greatest is used all the same
	noPlan           bool // a prune looks at its lease and deletes
	freshLookOnly    bool // the second pass deletes whatever no manifest names, not what a plan lists
	noMinAge         bool // a manifest may be deleted while a duplicate of its write may still arrive
	packsFirst       bool // packs are listed before manifests
	noGrace          bool // packs of a plan may be deleted at once
	newestMayGo      bool // the newest good snapshot has no protection
}

// setting is what may happen.
type setting struct {
	actors  string // S and P, one for each run
	rules   rules
	flight  int  // writes under way at once
	retries bool // the store's client sends a write again after an unclear answer
	lateTry bool // even when the machine was suspended for longer than a signature lives
	damage  bool // the newest manifest may become unreadable
	time    bool // more than the grace may pass
	plan    bool // an unfinished plan is there, and its prune's lease
	unclear bool // answers may be lost, and writes may be late
	runOnly bool // but only those of manifests and plans
	subset  bool // a snapshot may take over a part of its base
	begun   op   // the first run has come to this operation already, alone; opDraw: all begin together
}

func (s setting) String() string {
	text := s.actors
	for _, may := range []struct {
		name string
		may  bool
	}{{"time", s.time}, {"damage", s.damage}, {"unfinished plan", s.plan}, {"subsets", s.subset}, {"unclear answers", s.unclear}, {"at run keys only", s.runOnly}, {"retries", s.retries}, {"late retries", s.lateTry}} {
		if may.may {
			text += ", " + may.name
		}
	}
	if s.begun != opDraw {
		text += ", the first before operation " + fmt.Sprint(s.begun)
	}
	return fmt.Sprintf("%s, %d under way", text, s.flight)
}

func (s setting) snapshots(actor int) bool { return s.actors[actor] == 'S' }

// planCode marks codes of plan keys.
const planCode = 64

func (s setting) initial() state {
	var at state
	at.snaps[0], at.snaps[1] = effective, effective
	at.everSnap, at.old[0], at.atLease[0] = 3, 3, 3
	at.packs = packFirst | packSecond
	at.holder, at.released = maxActors, true
	if s.plan {
		at.plans[0], at.everPlan = effective, initialPlanManifests
		at.leaseKey, at.released = planCode, false
	}
	for i := range maxActors {
		at.actors[i].op = opDone
		if i < len(s.actors) {
			at.actors[i].op = opDraw
		}
	}
	for i := range at.flight {
		at.flight[i].op = opDone
	}
	for s.begun != opDraw && at.actors[0].op != s.begun {
		from := at
		s.step(&from, 0, func(next state, act action) {
			if act.how == answered {
				at = next
			}
		})
	}
	return at
}

func level(slot, initial uint8) uint8 {
	if slot < initial {
		return 0
	}
	return (slot-initial)/maxActors + 1
}

// draw returns the slot of a name behind the greatest there.
func draw(slots []uint8, initial uint8, actor int) uint8 {
	var highest uint8
	for slot, what := range slots {
		if what != nothing {
			highest = max(highest, level(uint8(slot), initial))
		}
	}
	slot := initial + highest*maxActors + uint8(actor)
	if int(slot) >= len(slots) {
		panic("the model needs more levels of names")
	}
	return slot
}

func mask(slots []uint8, want uint8) (set uint32) {
	for slot, what := range slots {
		if what == want {
			set |= 1 << slot
		}
	}
	return set
}

func newest(set uint32) uint32 {
	if set == 0 {
		return 0
	}
	return 1 << (mathbits.Len32(set) - 1)
}

// names returns the packs that the manifest in a slot names.
func (at *state) names(slot int) uint8 {
	if slot < 2 {
		return initialPacks[slot]
	}
	return at.actors[(slot-2)%maxActors].packs
}

func (at *state) namedBy(set uint32) (packs uint8) {
	for ; set != 0; set &= set - 1 {
		packs |= at.names(mathbits.TrailingZeros32(set))
	}
	return packs
}

// planned returns what a plan names.
func (at *state) planned(slot int) (manifests uint32, packs uint8) {
	if slot == 0 {
		return initialPlanManifests, initialPlanPacks
	}
	a := &at.actors[(slot-1)%maxActors]
	return a.doomed, a.packs
}

// plannedBy returns what a set of plans names.
func (at *state) plannedBy(set uint32) (manifests uint32, packs uint8) {
	for ; set != 0; set &= set - 1 {
		m, p := at.planned(mathbits.TrailingZeros32(set))
		manifests |= m
		packs |= p
	}
	return manifests, packs
}

// superseded returns the plans that some of a set stand for.
func (at *state) superseded(set uint32) (plans uint32) {
	for set &^= 1; set != 0; set &= set - 1 {
		plans |= at.actors[(mathbits.TrailingZeros32(set)-1)%maxActors].stands
	}
	return plans
}

// slot returns what lies at the run key with that code.
func (at *state) slot(code uint8) *uint8 {
	if code >= planCode {
		return &at.plans[code-planCode]
	}
	return &at.snaps[code]
}

// create puts what at the key with that code, if nothing is there.
func (at *state) create(code, what uint8) bool {
	slot := at.slot(code)
	if *slot != nothing {
		return false
	}
	*slot = what
	if what != effective {
		return true
	}
	if code >= planCode {
		a := &at.actors[(code-planCode-1)%maxActors]
		a.became = true
		manifests, _ := at.planned(int(code - planCode))
		at.everPlan |= manifests
		// One that was damaged after it was looked at was good when the prune decided.
		if manifests&newest(mask(at.snaps[:], effective)|mask(at.snaps[:], damaged)) != 0 {
			at.violation = 2
		}
		return true
	}
	a := &at.actors[(code-2)%maxActors]
	a.became = true
	if at.everSnap&(1<<code) != 0 {
		at.violation = 8
		return true
	}
	at.everSnap |= 1 << code
	condemned, _ := at.plannedBy(mask(at.plans[:], effective))
	if a.base != 0 && condemned&(1<<(a.base-1)) != 0 {
		at.violation = 7
	}
	return true
}

// remove deletes the manifest in a slot.
func (at *state) remove(slot int) {
	if at.snaps[slot] == nothing {
		return
	}
	at.snaps[slot] = nothing
	at.old[0] &^= 1 << slot
}

// writeLease replaces the lease, and makes all ETags known before worthless.
func (at *state) writeLease(holder, key uint8, released bool) {
	at.holder, at.leaseKey, at.released, at.atLease = holder, key, released, at.old
	for i := range at.actors {
		at.actors[i].current = false
	}
	for i := range at.flight {
		switch at.flight[i].op {
		case opTakeLease, opRename, opRelease:
			at.flight[i] = flying{op: opDone}
		}
	}
	at.order()
}

// order makes equal sets of writes under way equal.
func (at *state) order() {
	less := func(a, b flying) bool {
		return uint32(a.op)<<16|uint32(a.actor)<<8|uint32(a.key) < uint32(b.op)<<16|uint32(b.actor)<<8|uint32(b.key)
	}
	for i := 1; i < len(at.flight); i++ {
		for j := i; j > 0 && less(at.flight[j], at.flight[j-1]); j-- {
			at.flight[j], at.flight[j-1] = at.flight[j-1], at.flight[j]
		}
	}
}

func (at *state) underWay() (count int) {
	for _, f := range at.flight {
		if f.op != opDone {
			count++
		}
	}
	return count
}

func (at *state) launch(f flying) {
	for i := range at.flight {
		if at.flight[i].op == opDone {
			at.flight[i] = f
			break
		}
	}
	at.order()
}

// code is that of an actor's run key.
func (s *setting) code(a *actor, i int) uint8 {
	if s.snapshots(i) {
		return a.key
	}
	return planCode + a.key
}

// next calls yield with every state that can follow.
func (s *setting) next(at *state, yield func(state, action)) {
	for i := range s.actors {
		s.step(at, i, yield)
	}
	for i, f := range at.flight {
		if f.op == opDone || i > 0 && f == at.flight[i-1] {
			continue
		}
		after := *at
		after.flight[i] = flying{op: opDone}
		after.order()
		switch f.op {
		case opPutRun:
			after.create(f.key, effective)
		case opSettleOther, opSettleOwn:
			after.create(f.key, void)
		default:
			after.writeLease(f.actor, f.key, f.op == opRelease)
		}
		s.check(&after)
		yield(after, action{actor: f.actor, op: opLand, arg: uint8(f.op)})
	}
	if s.time {
		s.pass(at, yield)
	}
	if good := mask(at.snaps[:], effective); s.damage && !at.broken && good != 0 {
		after := *at
		after.broken = true
		after.snaps[mathbits.Len32(good)-1] = damaged
		yield(after, action{op: opDamage, arg: uint8(mathbits.Len32(good) - 1)})
	}
}

// pass lets time pass: everything there is old then, and the store refuses requests that were signed before.
func (s *setting) pass(at *state, yield func(state, action)) {
	after := *at
	after.old = [2]uint32{mask(at.snaps[:], effective), mask(at.plans[:], effective)}
	for i := range after.flight {
		after.flight[i] = flying{op: opDone}
	}
	if after == *at {
		return
	}
	if !s.lateTry {
		for i := range s.actors {
			if at.actors[i].op == opPutRun && at.actors[i].again {
				return
			}
		}
	}
	yield(after, action{op: opTime})
}

// put is a write in a run's hand: it is yielded with everything that can become of it.
type put struct {
	op     op
	code   uint8              // of the key: where a manifest, plan or void is created, or what the lease names
	apply  func(*state) bool  // does it, and says whether its condition held
	done   func(*state, bool) // goes on after an answer
	gaveUp func(*state)       // goes on after an error

	onLease bool
}

func (s *setting) put(at *state, i int, p put, yield func(state, action)) {
	emit := func(what how, change func(*state) bool) {
		after := *at
		if change(&after) {
			s.check(&after)
			yield(after, action{actor: uint8(i), op: p.op, how: what, arg: p.code})
		}
	}
	emit(answered, func(after *state) bool {
		held := p.apply(after)
		after.actors[i].again = false
		p.done(after, held)
		return true
	})
	if !s.unclear || s.runOnly && p.op != opPutRun {
		return
	}
	giveUp := func(after *state) bool {
		after.actors[i].again = false
		p.gaveUp(after)
		return true
	}
	again := func(after *state) bool {
		after.actors[i].again = true
		return true
	}
	launch := func(after *state) bool {
		// One whose condition on the lease fails now fails for ever: no ETag comes back.
		if at.underWay() >= s.flight || p.onLease && !p.apply(new(*at)) {
			return false
		}
		after.launch(flying{op: p.op, actor: uint8(i), key: p.code})
		after.actors[i].tried = after.actors[i].tried || p.op == opPutRun
		return true
	}
	emit(lostGivesUp, func(after *state) bool { return p.apply(after) && giveUp(after) })
	emit(neverCame, giveUp)
	emit(lateGivesUp, func(after *state) bool { return launch(after) && giveUp(after) })
	if s.retries && !at.actors[i].again {
		emit(lostRetries, func(after *state) bool { return p.apply(after) && again(after) })
		emit(lateRetries, func(after *state) bool { return launch(after) && again(after) })
	}
}

// step calls yield with every state that the next operation of an actor can lead to.
func (s *setting) step(at *state, i int, yield func(state, action)) {
	now := &at.actors[i]
	snapshot := s.snapshots(i)
	// simple is an operation with one outcome.
	simple := func(arg uint8, change func(after *state, a *actor)) {
		after := *at
		change(&after, &after.actors[i])
		s.check(&after)
		yield(after, action{actor: uint8(i), op: now.op, arg: arg})
	}
	create := func(code, what uint8) func(*state) bool {
		return func(after *state) bool { return after.create(code, what) }
	}
	switch now.op {
	case opDraw:
		simple(0, func(after *state, a *actor) {
			if snapshot {
				a.key = draw(after.snaps[:], 2, i)
			} else {
				a.key = draw(after.plans[:], 1, i)
			}
			if s.rules.listBeforeSettle && snapshot {
				a.listed = after.listing()
			}
			a.op = opReadLease
		})
	case opReadLease:
		simple(0, func(after *state, a *actor) {
			a.current, a.op = true, opTakeLease
			if !after.released {
				a.seen, a.op = after.leaseKey, opOutwait
			}
		})
	case opOutwait:
		simple(0, func(after *state, a *actor) {
			switch {
			case !a.current:
				a.end(failed)
			case s.rules.noVoid:
				a.op = opTakeLease
			default:
				a.op = opSettleOther
			}
		})
	case opSettleOther:
		s.put(at, i, put{op: now.op, code: now.seen, apply: create(now.seen, void),
			done:   func(after *state, _ bool) { after.actors[i].op = opTakeLease },
			gaveUp: func(after *state) { after.actors[i].end(failed) },
		}, yield)
	case opTakeLease:
		code := s.code(now, i)
		s.put(at, i, put{op: now.op, code: code, onLease: true,
			apply: func(after *state) bool {
				held := after.actors[i].current
				if held {
					after.writeLease(uint8(i), code, false)
				}
				return held
			},
			done: func(after *state, held bool) {
				a := &after.actors[i]
				a.seen = 0
				// Its own bytes there: the first attempt came through.
				if !held && (int(after.holder) != i || after.released) {
					a.current, a.op = false, opReadLease
					return
				}
				a.current = false // an ETag of one's own matters no more: see rename and release
				a.op = opListPlans
			},
			gaveUp: func(after *state) { after.actors[i].end(failed) },
		}, yield)
	case opListPlans:
		simple(0, func(after *state, a *actor) {
			if a.plans = mask(after.plans[:], effective); snapshot {
				a.plans = newest(a.plans)
			}
			if snapshot && s.rules.ignorePlan {
				a.plans = 0
			}
			a.agedSnap, a.agedPlan = after.atLease[0], after.atLease[1]
			if !snapshot && !s.rules.noRename && level(a.key, 1)*maxActors+uint8(i) <= highest(after.plans[:], 1) {
				a.key, a.op = draw(after.plans[:], 1, i), opRename
				return
			}
			s.afterNaming(a, snapshot)
		})
	case opListManifest:
		simple(0, func(after *state, a *actor) {
			if !s.rules.listBeforeSettle || !snapshot {
				a.listed = after.listing()
			}
			condemned, _ := after.plannedBy(a.plans)
			a.todo = condemned & a.listed
			if !snapshot {
				a.known = condemned | a.listed
			}
			if !snapshot {
				a.drop = a.plans & after.superseded(a.plans)
				a.plans &^= a.drop
				for plans := a.plans; plans != 0; plans &= plans - 1 {
					slot := mathbits.TrailingZeros32(plans)
					if manifests, _ := after.planned(slot); manifests&a.listed != 0 {
						a.found |= 1 << slot
					}
				}
			}
			if !s.rules.baseBeforePlan || !snapshot {
				a.listed &^= condemned
			}
			if snapshot {
				a.plans = 0
				if !s.rules.noRename && level(a.key, 2)*maxActors+uint8(i) <= highest(after.snaps[:], 2) {
					a.key, a.op = draw(after.snaps[:], 2, i), opRename
					return
				}
			}
			s.afterListing(a, snapshot)
		})
	case opFinishPlan:
		slot := mathbits.TrailingZeros32(now.todo)
		simple(uint8(slot), func(after *state, a *actor) {
			after.remove(slot)
			a.todo &= a.todo - 1
			s.afterListing(a, snapshot)
		})
	case opOpen:
		simple(0, func(after *state, a *actor) {
			if snapshot {
				s.chooseBase(after, a)
			} else {
				s.choosePlan(after, a)
			}
		})
	case opRename:
		code := s.code(now, i)
		mine := func(after *state) bool { return int(after.holder) == i && !after.released }
		s.put(at, i, put{op: now.op, code: code, onLease: true,
			apply: func(after *state) bool {
				held := mine(after)
				if held {
					after.writeLease(uint8(i), code, false)
				}
				return held
			},
			done: func(after *state, held bool) {
				a := &after.actors[i]
				switch {
				case !held && !mine(after):
					a.giveBack(failed)
				case snapshot:
					s.afterListing(a, snapshot)
				default:
					a.agedSnap, a.agedPlan = after.atLease[0], after.atLease[1]
					s.afterNaming(a, snapshot)
				}
			},
			gaveUp: func(after *state) {
				after.actors[i].giveBack(failed)
			},
		}, yield)
	case opSecondPass:
		pack := uint8(now.todo & -now.todo)
		simple(pack, func(after *state, a *actor) {
			after.packs &^= pack
			a.todo &= a.todo - 1
			s.afterSecondPass(after, a)
		})
	case opListPacks:
		simple(0, func(after *state, a *actor) {
			if snapshot {
				a.packs &= after.packs // what is lost is stored again
				a.op = opPutPack
				return
			}
			if a.stored = after.packs; s.rules.packsFirst {
				a.op = opListManifest
				return
			}
			s.compare(after, a)
		})
	case opDropPlan:
		slot := mathbits.TrailingZeros32(now.drop)
		simple(uint8(slot), func(after *state, a *actor) {
			after.plans[slot] = nothing
			after.old[1] &^= 1 << slot
			a.drop &= a.drop - 1
			if a.result == running {
				s.afterListing(a, snapshot)
				return
			}
			a.afterFirstPass()
		})
	case opPutPack:
		choices := []uint8{now.packs}
		if s.subset && now.packs != 0 {
			choices = append(choices, 0)
		}
		for _, packs := range choices {
			simple(packs, func(after *state, a *actor) {
				after.packs |= ownPack(i)
				a.packs = packs | ownPack(i)
				a.op = opPutRun
			})
		}
	case opPutRun:
		if !snapshot && s.rules.noPlan {
			simple(0, func(after *state, a *actor) {
				if int(after.holder) != i {
					a.end(failed)
					return
				}
				a.todo, a.op = a.doomed, opFirstPass
				if a.todo == 0 {
					a.result, a.todo, a.packs = succeeded, uint32(a.packs), 0
					s.afterSecondPass(after, a)
				}
			})
			return
		}
		code := s.code(now, i)
		try := func(after *state) bool {
			after.actors[i].tried = true
			return after.create(code, effective)
		}
		s.put(at, i, put{op: now.op, code: code, apply: try,
			done: func(after *state, held bool) {
				a := &after.actors[i]
				switch {
				case !held && *after.slot(code) != effective:
					a.op = opSettleOwn
				case snapshot:
					a.giveBack(succeeded)
				default:
					a.result, a.todo, a.drop = succeeded, a.doomed, a.stands
					a.afterFirstPass()
				}
			},
			gaveUp: func(after *state) {
				after.actors[i].op = opSettleOwn
				if s.rules.releaseUnsettled {
					after.actors[i].giveBack(failed)
				}
			},
		}, yield)
	case opSettleOwn:
		code := s.code(now, i)
		s.put(at, i, put{op: now.op, code: code, apply: create(code, void),
			done:   func(after *state, _ bool) { after.actors[i].op = opReadOwn },
			gaveUp: func(after *state) { after.actors[i].end(unknown) },
		}, yield)
	case opReadOwn:
		simple(0, func(after *state, a *actor) {
			switch *after.slot(s.code(a, i)) {
			case void:
				a.giveBack(failed)
			case effective:
				if a.result = succeeded; snapshot {
					a.giveBack(succeeded)
				} else {
					a.todo, a.drop = a.doomed, a.stands
					a.afterFirstPass()
				}
			default: // deleted by a plan, or damaged
				a.giveBack(unknown)
			}
		})
	case opFirstPass:
		slot := mathbits.TrailingZeros32(now.todo)
		simple(uint8(slot), func(after *state, a *actor) {
			after.remove(slot)
			a.todo &= a.todo - 1
			if a.todo == 0 && s.rules.noPlan {
				a.result, a.todo, a.packs = succeeded, uint32(a.packs), 0
				s.afterSecondPass(after, a)
				return
			}
			a.afterFirstPass()
		})
	case opConfirm:
		// While nobody deletes leases this always finds that another run has taken over; otherwise voids would follow.
		simple(0, func(after *state, a *actor) {
			if int(after.holder) == i && !after.released {
				after.violation = 9
			}
			a.giveBack(failed)
		})
	case opRelease:
		mine := int(at.holder) == i && !at.released
		simple(0, func(after *state, a *actor) {
			if mine {
				after.writeLease(uint8(i), after.leaseKey, true)
			}
			a.end(a.result)
		})
		if mine && s.unclear && !s.runOnly && at.underWay() < s.flight {
			after := *at
			after.launch(flying{op: opRelease, actor: uint8(i), key: at.leaseKey})
			after.actors[i].end(now.result)
			yield(after, action{actor: uint8(i), op: opRelease, how: lateGivesUp})
		}
	}
}

// highest is the greatest name there, comparable with level*maxActors+actor.
func highest(slots []uint8, initial uint8) uint8 {
	var highest uint8
	for slot, what := range slots {
		if what != nothing && uint8(slot) >= initial {
			highest = max(highest, level(uint8(slot), initial)*maxActors+(uint8(slot)-initial)%maxActors)
		}
	}
	return highest
}

// listing is what a list of the manifests shows, voids included.
func (at *state) listing() uint32 { return (1<<snapSlots - 1) &^ mask(at.snaps[:], nothing) }

// afterNaming begins to look at what is there.
func (s *setting) afterNaming(a *actor, snapshot bool) {
	a.op = opListManifest
	if s.rules.packsFirst && !snapshot {
		a.op = opListPacks
	}
}

// afterListing goes on when all that earlier plans name is deleted.
func (s *setting) afterListing(a *actor, snapshot bool) {
	switch {
	case a.todo != 0 && !(s.rules.baseBeforePlan && snapshot && a.listed != 0):
		a.op = opFinishPlan
	case a.drop != 0:
		a.op = opDropPlan
	case a.listed != 0:
		a.op = opOpen
	case snapshot && a.base != 0:
		a.op = opListPacks
	case snapshot:
		a.op = opPutPack
	default:
		a.giveBack(nothingToDo) // without any snapshot a prune deletes nothing
	}
}

// chooseBase is a snapshot's look at the manifests.
func (s *setting) chooseBase(after *state, a *actor) {
	listed := a.listed
	a.listed, a.agedSnap, a.agedPlan = 0, 0, 0
	for ; listed != 0; listed &^= newest(listed) {
		slot := mathbits.Len32(listed) - 1
		if after.snaps[slot] == nothing {
			a.giveBack(failed)
			return
		}
		if after.snaps[slot] == effective {
			a.base, a.packs = uint8(slot+1), after.names(slot)
			break
		}
	}
	s.afterListing(a, true)
}

// choosePlan is a prune's look at the manifests. It wants to delete whatever may be deleted.
func (s *setting) choosePlan(after *state, a *actor) {
	if a.listed&(mask(after.snaps[:], damaged)|mask(after.snaps[:], nothing)) != 0 {
		a.giveBack(failed)
		return
	}
	there := a.listed & mask(after.snaps[:], effective)
	if a.doomed = there &^ newest(there); s.rules.newestMayGo {
		a.doomed = there
	}
	if !s.rules.noMinAge {
		a.doomed &= a.agedSnap
	}
	a.listed, a.packs, a.named = 0, after.namedBy(there&^a.doomed), after.namedBy(there)
	a.op = opListPacks
	if s.rules.packsFirst {
		s.compare(after, a)
	}
}

// compare is made with the packs listed and the manifests read.
func (s *setting) compare(after *state, a *actor) {
	due := a.plans
	if !s.rules.noGrace {
		due &= a.agedPlan &^ a.found
	}
	a.found = 0
	_, packs := after.plannedBy(due)
	if s.rules.freshLookOnly {
		packs = a.stored
	}
	a.todo = uint32(packs & a.stored &^ a.named)
	s.afterSecondPass(after, a)
}

// afterSecondPass decides when all packs are deleted whose time has come.
func (s *setting) afterSecondPass(after *state, a *actor) {
	if a.todo != 0 {
		a.stored &^= uint8(a.todo)
		a.op = opSecondPass
		return
	}
	if s.rules.noPlan && a.result != running {
		a.giveBack(succeeded)
		return
	}
	_, planned := after.plannedBy(a.plans)
	a.packs = a.stored &^ a.packs &^ planned
	if s.rules.freshLookOnly {
		a.packs = 0
	}
	for plans := a.plans & a.agedPlan; plans != 0; plans &= plans - 1 {
		slot := mathbits.TrailingZeros32(plans)
		if _, packs := after.planned(slot); packs&a.stored == 0 {
			a.stands |= 1 << slot
		}
	}
	// Without any manifest a prune deletes nothing.
	none := a.named == 0
	a.stored, a.named, a.plans, a.agedSnap, a.agedPlan = 0, 0, 0, 0, 0
	unsettled := false
	for j := range s.actors {
		unsettled = unsettled || s.snapshots(j) && a.packs&ownPack(j) != 0 && a.known>>after.actors[j].key&1 == 0
	}
	a.known = 0
	switch a.op = opPutRun; {
	case none || a.doomed == 0 && a.packs == 0:
		a.giveBack(nothingToDo)
	case unsettled && s.rules == (rules{}):
		a.op = opConfirm
	}
}

func (a *actor) afterFirstPass() {
	switch {
	case a.todo != 0:
		a.op = opFirstPass
	case a.drop != 0:
		a.op = opDropPlan
	default:
		a.giveBack(succeeded)
	}
}

// giveBack decides the result; what is left to do is to release the lease.
func (a *actor) giveBack(result uint8) {
	if a.result == running {
		a.result = result
	}
	a.op, a.again = opRelease, false
	a.stored, a.named, a.plans, a.found, a.known, a.listed, a.todo, a.drop, a.agedSnap, a.agedPlan = 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
	if !a.became && !a.tried {
		a.packs, a.doomed, a.stands, a.base = 0, 0, 0, 0
	}
}

// end makes an actor's end canonical.
func (a *actor) end(result uint8) {
	if a.result == running {
		a.result = result
	}
	*a = actor{op: opDone, key: a.key, base: a.base, packs: a.packs, doomed: a.doomed, stands: a.stands, became: a.became, tried: a.tried, result: a.result}
}

// check notes the first invariant that does not hold.
func (s *setting) check(at *state) {
	if at.violation != 0 {
		return
	}
	there := mask(at.snaps[:], effective)
	if at.namedBy(there)&^at.packs != 0 {
		at.violation = 1
		return
	}
	if gone := at.everSnap &^ there &^ mask(at.snaps[:], damaged); gone&^at.everPlan != 0 && !s.rules.noPlan {
		at.violation = 3
		return
	}
	for i := range s.actors {
		a := &at.actors[i]
		switch {
		case a.result == succeeded && !a.became && !(s.rules.noPlan && !s.snapshots(i)):
			at.violation = 5
		case a.result == failed && a.became && *at.slot(s.code(a, i)) == effective:
			at.violation = 6
		}
		if at.broken || !s.snapshots(i) || !a.became {
			continue
		}
		for j := range i {
			if s.snapshots(j) && at.actors[j].became && at.actors[j].base == a.base {
				at.violation = 4
			}
		}
	}
}
