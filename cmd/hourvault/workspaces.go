package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/repository"
)

// namedWorkspace is a workspace of the repository under the shortest name that tells it apart from all others.
type namedWorkspace struct {
	*repository.Workspace
	record repository.WorkspaceRecord
	// name is the database's name, or server/database where several servers have one of that name, or the
	// workspace's id where one server has had several.
	name string
}

// nameWorkspaces names all workspaces of a repository, ascending by server and database, then by age.
func nameWorkspaces(all []*repository.Workspace) []namedWorkspace {
	named := make([]namedWorkspace, len(all))
	databases, qualified := map[string]int{}, map[string]int{}
	for i, workspace := range all {
		named[i] = namedWorkspace{Workspace: workspace, record: workspace.Record()}
		databases[string(named[i].record.Database)]++
		qualified[named[i].qualified()]++
	}
	for i := range named {
		w := &named[i]
		switch {
		case databases[string(w.record.Database)] == 1:
			w.name = string(w.record.Database)
		case qualified[w.qualified()] == 1:
			w.name = w.qualified()
		default:
			w.name = w.ID().String()
		}
	}
	slices.SortFunc(named, func(x, y namedWorkspace) int {
		return cmp.Or(strings.Compare(x.record.Server, y.record.Server), strings.Compare(string(x.record.Database), string(y.record.Database)),
			x.record.Created.Compare(y.record.Created), strings.Compare(x.ID().String(), y.ID().String()))
	})
	return named
}

func (w namedWorkspace) qualified() string { return w.record.Server + "/" + string(w.record.Database) }

// isCalled says whether an operator who writes name can mean this workspace.
func (w namedWorkspace) isCalled(name string) bool {
	return name == string(w.record.Database) || name == w.qualified() || name == w.ID().String()
}

// pickWorkspace returns the one workspace that name means. problem is what kept others from being opened, if anything.
func (a *app) pickWorkspace(ctx context.Context, named []namedWorkspace, name string, problem error) (namedWorkspace, error) {
	var found []namedWorkspace
	for _, workspace := range named {
		if workspace.isCalled(name) {
			found = append(found, workspace)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		var list []string
		for _, workspace := range found {
			list = append(list, fmt.Sprintf("%s (of %s, known since %s, %s)", console.Printable(workspace.name), console.Printable(workspace.qualified()),
				a.formatTime(workspace.record.Created), a.newestSnapshot(ctx, workspace)))
		}
		return namedWorkspace{}, usagef("%s means several workspaces: write one of %s", console.Printable(name), strings.Join(list, ", "))
	case problem != nil:
		return namedWorkspace{}, fmt.Errorf("no workspace %s among those that can be opened: %w", console.Printable(name), problem)
	default:
		return namedWorkspace{}, usagef("the repository has no workspace %s: hourvault snapshots lists all%s", console.Printable(name), similar(named, name))
	}
}

// newestSnapshot says of when a workspace's newest snapshot is, for people who have to choose.
func (a *app) newestSnapshot(ctx context.Context, workspace namedWorkspace) string {
	ids, err := workspace.SnapshotIDs(ctx)
	if err != nil {
		return "its snapshots cannot be listed"
	}
	for _, id := range slices.Backward(ids) {
		snapshot, err := workspace.OpenSnapshot(ctx, id)
		switch {
		case isNotThere(err):
		case err != nil:
			return "its newest snapshot cannot be read"
		default:
			return "newest snapshot of " + a.formatTime(snapshot.Manifest().Time)
		}
	}
	return "without snapshots"
}

// similar suggests names that an operator may have meant.
func similar(named []namedWorkspace, name string) string {
	var close []string
	for _, workspace := range named {
		other := string(workspace.record.Database)
		if strings.Contains(other, name) || strings.Contains(name, other) || strings.EqualFold(other, name) {
			close = append(close, console.Printable(workspace.name))
		}
	}
	if len(close) == 0 || len(close) > 5 {
		return ""
	}
	return "; did you mean " + strings.Join(close, " or ") + "?"
}

// pickWorkspaces returns the workspaces that names mean, or all when there are none.
func (a *app) pickWorkspaces(ctx context.Context, named []namedWorkspace, names []string, problem error) ([]namedWorkspace, error) {
	if len(names) == 0 {
		return named, nil
	}
	var picked []namedWorkspace
	for _, name := range names {
		workspace, err := a.pickWorkspace(ctx, named, name, problem)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(picked, func(w namedWorkspace) bool { return w.ID() == workspace.ID() }) {
			picked = append(picked, workspace)
		}
	}
	return picked, nil
}

// manifestReaders is how many manifests are read at the same time.
const manifestReaders = 8

// storedSnapshot is a snapshot as it is found in the repository: one that cannot be read has an error.
type storedSnapshot struct {
	id       repository.SnapshotID
	snapshot *repository.Snapshot
	err      error
}

// storedSnapshots reads all manifests of a workspace, oldest first. Voids are left out.
func storedSnapshots(ctx context.Context, workspace *repository.Workspace) ([]storedSnapshot, error) {
	ids, err := workspace.SnapshotIDs(ctx)
	if err != nil {
		return nil, err
	}
	found := make([]storedSnapshot, len(ids))
	var group errgroup.Group
	group.SetLimit(manifestReaders)
	for i, id := range ids {
		group.Go(func() error {
			found[i].id = id
			found[i].snapshot, found[i].err = workspace.OpenSnapshot(ctx, id)
			return nil
		})
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return slices.DeleteFunc(found, func(s storedSnapshot) bool { return errors.Is(s.err, repository.ErrVoid) }), nil
}

// isNotThere says whether opening a snapshot found none: nothing at all, or a run that was given up.
func isNotThere(err error) bool {
	return errors.Is(err, repository.ErrVoid) || errors.Is(err, objectstore.ErrNotFound)
}
