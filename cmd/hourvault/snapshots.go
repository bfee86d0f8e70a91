package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hourvault/hourvault/internal/console"
)

// snapshotsDocument is what hourvault snapshots --json prints.
type snapshotsDocument struct {
	Workspaces []workspaceSnapshots `json:"workspaces"`
	// Errors are about workspaces that cannot be opened, and therefore are not listed.
	Errors []string `json:"errors"`
}

type workspaceSnapshots struct {
	workspaceDocument
	// Snapshots, oldest first.
	Snapshots []snapshotDocument `json:"snapshots"`
	// Unreadable are manifests that are there and cannot be read.
	Unreadable []unreadableSnapshot `json:"unreadable"`
}

type unreadableSnapshot struct {
	Snapshot string `json:"snapshot"`
	Error    string `json:"error"`
}

func newSnapshotsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "snapshots [WORKSPACE]",
		Short: "List the snapshots in the repository",
		Long: `List the snapshots of one workspace, or of all, the newest last. Only the repository and the root key are
needed: it works when database servers are gone.

TIME is the instant of the content on the database server's clock. CONTENT is the rows' text, STORED what was
uploaded for this snapshot. A snapshot that is there and cannot be read is shown as such.

Exit codes: 0 done; 1 failed, or something cannot be read; 2 wrong usage or configuration.`,
		Example: `  hourvault snapshots
  hourvault snapshots acme --tz Europe/Berlin
  hourvault snapshots eu-1/acme --json`,
		Args:              atMostOne("workspace"),
		ValidArgsFunction: a.completeWorkspaces(1),
		RunE:              func(command *cobra.Command, args []string) error { return runSnapshots(command.Context(), a, args) },
	}
}

func runSnapshots(ctx context.Context, a *app, names []string) error {
	loaded, err := a.loadConfig()
	if err != nil {
		return err
	}
	repo, done, err := a.openRepository(ctx, loaded, readOnly)
	if err != nil {
		return err
	}
	defer done()
	all, problem := repo.Workspaces(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	picked, err := a.pickWorkspaces(ctx, nameWorkspaces(all), names, problem)
	if err != nil {
		return err
	}

	result := snapshotsDocument{Workspaces: []workspaceSnapshots{}, Errors: []string{}}
	var unreadable int
	if problem != nil && len(names) == 0 {
		unreadable++
		for _, one := range splitErrors(problem) {
			result.Errors = append(result.Errors, safe(one.Error()))
		}
	}
	for _, workspace := range picked {
		stored, err := storedSnapshots(ctx, workspace.Workspace)
		if err != nil {
			return fmt.Errorf("list snapshots of %s: %w", console.Printable(workspace.name), err)
		}
		entry := workspaceSnapshots{workspaceDocument: workspace.document(), Snapshots: []snapshotDocument{}, Unreadable: []unreadableSnapshot{}}
		for _, one := range stored {
			if one.err != nil {
				unreadable++
				entry.Unreadable = append(entry.Unreadable, unreadableSnapshot{one.id.String(), safe(one.err.Error())})
				continue
			}
			entry.Snapshots = append(entry.Snapshots, *describeSnapshot(one.snapshot))
		}
		result.Workspaces = append(result.Workspaces, entry)
	}
	if a.global.json {
		err = a.answer(result)
	} else {
		err = a.printSnapshots(result)
	}
	if err == nil && unreadable > 0 {
		err = errors.New("something cannot be read, see above: hourvault verify says more")
	}
	return err
}

func (a *app) printSnapshots(result snapshotsDocument) error {
	for _, text := range result.Errors {
		a.say("hourvault: %s", text)
	}
	rows := 0
	table := console.NewTable(a.streams.Out, "WORKSPACE", "SNAPSHOT", "TIME", "AGE", "SEQ", "ROWS", "CONTENT", "STORED", "WARNINGS")
	for _, workspace := range result.Workspaces {
		name := workspace.Workspace
		if name == workspace.WorkspaceID { // one of several of that name
			name = workspace.Server + "/" + string(workspace.Database) + " (" + workspace.WorkspaceID + ")"
		}
		for _, s := range workspace.Snapshots {
			rows++
			table.Row(name, s.Snapshot, a.formatTime(s.Time), console.FormatDuration(a.now().Sub(s.Time)), strconv.FormatUint(s.Sequence, 10),
				strconv.FormatUint(s.Rows, 10), size(s.ContentBytes), size(s.StoredBytes), strconv.Itoa(len(s.Warnings)))
		}
		for _, broken := range workspace.Unreadable {
			rows++
			table.Row(name, broken.Snapshot, "unreadable", "", "", "", "", "", "")
			a.say("hourvault: %s: snapshot %s cannot be read: %s", console.Printable(name), broken.Snapshot, broken.Error)
		}
	}
	if rows == 0 {
		a.say("there are no snapshots yet: hourvault backup --all takes some")
		return nil
	}
	return table.Flush()
}

// splitErrors returns the errors that errors.Join put together; only the outermost is taken apart.
func splitErrors(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
