package formatreader

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// plan is that of section 13, with all its fields.
type plan struct {
	Plan      snapshotID `json:"plan"` // a <plan> has the form of a <snapshot>
	Workspace string     `json:"workspace"`
	Time      instant    `json:"time"`
	Writer    string     `json:"writer"`
	Purpose   string     `json:"purpose"`
	Manifests []struct {
		Snapshot snapshotID `json:"snapshot"`
		SHA256   hexBytes   `json:"sha256"`
		Sequence int64      `json:"sequence"`
	} `json:"manifests"`
	Packs []struct {
		Name packName `json:"name"`
		Size int64    `json:"size"`
	} `json:"packs"`
	Grace     string `json:"grace"`
	Explained struct {
		Manifests []manifestRef `json:"manifests"`
		Sequences []struct {
			From int64 `json:"from"`
			To   int64 `json:"to"`
		} `json:"sequences"`
	} `json:"explained"`
	Supersedes []snapshotID `json:"supersedes"`
}

// plans opens everything below plans/, ascending by name, voids left out. What does not open, or belongs to a later version, is an error of
// its own.
func (w *workspace) plans() (all []plan, problems []error, err error) {
	names, err := w.repository.store.list(fmt.Sprintf("workspaces/%x/plans/", w.id))
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if !snapshotID(name).valid() {
			problems = append(problems, fmt.Errorf("plans/%s: %w", name, errUnknown))
			continue
		}
		switch found, err := w.openPlan(snapshotID(name)); {
		case err == nil:
			all = append(all, found)
		case !errors.Is(err, errVoid):
			problems = append(problems, err)
		}
	}
	return all, problems, nil
}

func (w *workspace) openPlan(id snapshotID) (plan, error) {
	key := fmt.Sprintf("workspaces/%x/plans/%s", w.id, id)
	object, err := w.repository.store.get(key, 512<<20)
	if err != nil {
		return plan{}, err
	}
	kind, plain, err := w.repository.openObject(key, object, w.id, w.key, kindPlan, kindVoid)
	if err != nil {
		return plan{}, err
	}
	if kind == kindVoid {
		return plan{}, fmt.Errorf("%s: %w", key, errVoid)
	}
	var found plan
	tree, err := parseJSON(plain)
	if err == nil {
		err = checkPreamble(tree)
	}
	if err == nil {
		var preamble struct {
			Purpose string `json:"purpose"`
		}
		if err = decodeJSON(tree, &preamble); err == nil && preamble.Purpose != "prune" {
			err = fmt.Errorf("purpose %q: %w", preamble.Purpose, errUnknown)
		}
	}
	if err == nil {
		err = decodeJSON(tree, &found)
	}
	if err == nil {
		err = found.check(w, id)
	}
	if err != nil {
		return plan{}, fmt.Errorf("open %s: %w", key, err)
	}
	return found, nil
}

func (p *plan) check(w *workspace, id snapshotID) error {
	if p.Plan != id || p.Workspace != fmt.Sprintf("%x", w.id) {
		return damage("plan %q of workspace %q", p.Plan, p.Workspace)
	}
	if grace, err := time.ParseDuration(p.Grace); err != nil || grace < 0 {
		return damage("grace %q", p.Grace)
	}
	var manifests []manifestRef
	for _, m := range p.Manifests {
		if m.Sequence < 1 {
			return damage("sequence %d", m.Sequence)
		}
		manifests = append(manifests, manifestRef{m.Snapshot, m.SHA256})
	}
	for _, refs := range [][]manifestRef{manifests, p.Explained.Manifests} {
		if !rising(refs, func(m manifestRef) snapshotID { return m.Snapshot }) {
			return damage("manifests are not ascending")
		}
		if slices.ContainsFunc(refs, func(m manifestRef) bool { return len(m.SHA256) != 32 }) {
			return damage("length of a hash")
		}
	}
	var packs, superseded []snapshotID
	for _, pack := range p.Packs {
		packs = append(packs, snapshotID(pack.Name))
	}
	superseded = append(superseded, p.Supersedes...)
	for _, names := range [][]snapshotID{packs, superseded} {
		if !rising(names, func(name snapshotID) snapshotID { return name }) {
			return damage("packs or plans are not ascending")
		}
	}
	if len(superseded) > 0 && superseded[len(superseded)-1] >= p.Plan {
		return damage("supersedes a later plan")
	}
	last := int64(0)
	for _, numbers := range p.Explained.Sequences {
		if numbers.From <= last || numbers.To < numbers.From {
			return damage("sequences %d to %d", numbers.From, numbers.To)
		}
		last = numbers.To
	}
	return nil
}

// deletes says whether the plan names the manifest among those that it deletes.
func (p *plan) deletes(id snapshotID) bool {
	for _, m := range p.Manifests {
		if m.Snapshot == id {
			return true
		}
	}
	return false
}

// explains says whether the plan, or one that it stands for, deleted exactly that manifest.
func (p *plan) explains(ref manifestRef) bool {
	for _, m := range p.Manifests {
		if sameRef(manifestRef{m.Snapshot, m.SHA256}, ref) {
			return true
		}
	}
	return slices.ContainsFunc(p.Explained.Manifests, func(m manifestRef) bool { return sameRef(m, ref) })
}

// counts says whether the plan deleted a snapshot with that sequence.
func (p *plan) counts(sequence int64) bool {
	for _, m := range p.Manifests {
		if m.Sequence == sequence {
			return true
		}
	}
	for _, numbers := range p.Explained.Sequences {
		if numbers.From <= sequence && sequence <= numbers.To {
			return true
		}
	}
	return false
}
