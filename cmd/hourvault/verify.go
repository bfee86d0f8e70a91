package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/repository"
)

// verifyOptions are the flags of hourvault verify.
type verifyOptions struct {
	workspaces []string
	readData   bool
	witnesses  []string
	stdin      io.Reader
}

// verifyDocument is what hourvault verify --json prints.
type verifyDocument struct {
	RepositoryID string `json:"repository_id"`
	ReadData     bool   `json:"read_data"`
	// Complete is false when the check did not come to its end; what was found until then is in the document.
	Complete   bool                `json:"complete"`
	Workspaces []verifiedWorkspace `json:"workspaces"`
	Problems   []verifyProblem     `json:"problems"`
	Notices    []verifyNotice      `json:"notices"`
	DurationNS time.Duration       `json:"duration_ns"`
}

type verifiedWorkspace struct {
	WorkspaceID string       `json:"workspace_id"`
	Server      string       `json:"server"`
	Database    catalog.Text `json:"database"`
	Snapshots   int          `json:"snapshots"`
	Tables      int          `json:"tables"`
	Packs       int          `json:"packs"`
	PackBytes   uint64       `json:"pack_bytes"`
	ReadBytes   uint64       `json:"read_bytes"`
	// Sequence and ManifestSHA256 are those of the newest snapshot; 0 and empty when there is none.
	Sequence       uint64 `json:"sequence"`
	ManifestSHA256 string `json:"manifest_sha256"`
	// WitnessSequence is the highest that a witness outside the repository knows; 0 without one.
	WitnessSequence uint64 `json:"witness_sequence"`
	// Damaged are snapshots that cannot be restored completely.
	Damaged []string `json:"damaged"`
}

type verifyProblem struct {
	Kind        string `json:"kind"`
	Workspace   string `json:"workspace,omitempty"` // server/database
	WorkspaceID string `json:"workspace_id,omitempty"`
	Snapshot    string `json:"snapshot,omitempty"`
	Object      string `json:"object,omitempty"`
	Message     string `json:"message"`
}

type verifyNotice struct {
	Kind        string `json:"kind"`
	Workspace   string `json:"workspace,omitempty"` // server/database
	WorkspaceID string `json:"workspace_id,omitempty"`
	Object      string `json:"object,omitempty"`
	Message     string `json:"message"`
	Count       int    `json:"count"`
	Bytes       uint64 `json:"bytes"`
}

func newVerifyCommand(a *app) *cobra.Command {
	var opts verifyOptions
	command := &cobra.Command{
		Use:   "verify [WORKSPACE...]",
		Short: "Check that everything in the repository is there, authentic and consistent",
		Long: `Check the repository, or some workspaces in it: that keys open, that no snapshot is missing from the history,
that every pack that snapshots need is there with its right length, and that definitions and lists of rows open.
With --read-data every pack is read whole, and the rows of every snapshot are checked, which downloads everything.
Nothing is changed, and database servers are not needed. What interrupted backups left over is a notice, no
problem.

A snapshot missing from the middle of a workspace's history is always found. That the newest ones were deleted or
hidden can only be seen by what is known outside the repository: --witness names files with what hourvault printed
before (logs of backups in JSON, documents of backup --json or verify --json, the witness file; other lines are passed
over), and witness_file of the configuration is read as well. A workspace of which more is known than the
repository holds is the problem repository_rolled_back.

Exit codes: 0 no problems; 1 there are problems, or the check did not come to its end; 2 wrong usage or
configuration, or an unknown workspace.`,
		Example: `  hourvault verify
  hourvault verify --read-data acme
  hourvault verify --json
  journalctl -u hourvault -o cat --since -7d | hourvault verify --witness -`,
		ValidArgsFunction: a.completeWorkspaces(0),
		RunE: func(command *cobra.Command, args []string) error {
			opts.workspaces, opts.stdin = args, command.InOrStdin()
			return runVerify(command.Context(), a, opts)
		},
	}
	command.Flags().BoolVar(&opts.readData, "read-data", false, "read every pack whole and check all rows")
	command.Flags().StringArrayVar(&opts.witnesses, "witness", nil, "`FILE` that knows the newest snapshots, - for standard input; may be given several times")
	return command
}

func runVerify(ctx context.Context, a *app, opts verifyOptions) error {
	begin := a.now()
	loaded, err := a.loadConfig()
	if err != nil {
		return err
	}
	known, err := readWitnesses(opts.witnesses, opts.stdin, loaded.WitnessFile)
	if err != nil {
		return err
	}
	repo, done, err := a.openRepository(ctx, loaded, readOnly)
	if err != nil {
		return err
	}
	defer done()
	if err := known.of(repo.ID()); err != nil {
		return err
	}
	options := repository.VerifyOptions{ReadData: opts.readData, Witness: known.options()}
	if len(opts.workspaces) > 0 {
		all, problem := repo.Workspaces(ctx)
		picked, err := a.pickWorkspaces(ctx, nameWorkspaces(all), opts.workspaces, problem)
		if err != nil {
			return err
		}
		for _, workspace := range picked {
			options.Workspaces = append(options.Workspaces, workspace.ID())
		}
	}
	unit := console.Unit("packs")
	if opts.readData {
		unit = console.Bytes
	}
	bar := a.progress("verify", unit, 0)
	var shown int64
	options.Progress = func(p repository.VerifyProgress) {
		now, total := int64(p.Packs), int64(p.PacksTotal)
		if opts.readData {
			now, total = int64(p.PackBytes), int64(p.PackBytesTotal)
		}
		bar.SetTotal(total)
		bar.Add(now - shown)
		shown = now
	}
	report, err := repo.Verify(ctx, options)
	bar.Finish(err)

	document := describeReport(report)
	known.describe(report, &document)
	document.Complete, document.DurationNS = err == nil, a.now().Sub(begin)
	a.logger.Info("repository verified", zap.Bool("complete", document.Complete), zap.Bool("read_data", opts.readData), zap.Int("problems", len(document.Problems)),
		zap.Int("notices", len(document.Notices)), zap.Duration("duration", document.DurationNS))
	if a.global.json {
		if printed := a.answer(document); printed != nil {
			return printed
		}
	} else if printed := a.printReport(document); printed != nil {
		return printed
	}
	switch {
	case err != nil:
		return err
	case len(document.Problems) > 0:
		return fmt.Errorf("the repository has %s, see above", count(len(document.Problems), "problem"))
	}
	return nil
}

func describeReport(report repository.VerifyReport) verifyDocument {
	document := verifyDocument{
		RepositoryID: report.Repository, ReadData: report.ReadData,
		Workspaces: []verifiedWorkspace{}, Problems: []verifyProblem{}, Notices: []verifyNotice{},
	}
	for _, w := range report.Workspaces {
		verified := verifiedWorkspace{
			WorkspaceID: w.Workspace.String(), Server: w.Server, Database: w.Database, Snapshots: w.Snapshots, Tables: withoutLargeObjects(w.Tables),
			Packs: w.Packs, PackBytes: w.PackBytes, ReadBytes: w.BytesRead, Damaged: []string{},
		}
		if w.Newest != nil {
			verified.Sequence, verified.ManifestSHA256 = w.Newest.Sequence, hex.EncodeToString(w.Newest.SHA256)
		}
		for _, id := range w.Damaged {
			verified.Damaged = append(verified.Damaged, id.String())
		}
		document.Workspaces = append(document.Workspaces, verified)
	}
	for _, p := range report.Problems {
		problem := verifyProblem{Kind: p.Kind, Workspace: safe(p.Name), WorkspaceID: workspaceID(p.Workspace), Object: safe(p.Object), Message: safe(p.Message)}
		if !p.Snapshot.IsZero() {
			problem.Snapshot = p.Snapshot.String()
		}
		document.Problems = append(document.Problems, problem)
	}
	for _, n := range report.Notices {
		document.Notices = append(document.Notices, verifyNotice{
			Kind: n.Kind, Workspace: safe(n.Name), WorkspaceID: workspaceID(n.Workspace), Object: safe(n.Object), Message: safe(n.Message), Count: n.Count, Bytes: n.Bytes,
		})
	}
	return document
}

// workspaceID prints an id; nothing for what concerns no workspace.
func workspaceID(id repository.WorkspaceID) string {
	if id == (repository.WorkspaceID{}) {
		return ""
	}
	return id.String()
}

func (a *app) printReport(document verifyDocument) error {
	out := &errWriter{out: a.streams.Out}
	if len(document.Workspaces) > 0 {
		named := map[string]int{}
		for _, w := range document.Workspaces {
			named[w.Server+"/"+string(w.Database)]++
		}
		table := console.NewTable(a.streams.Out, "WORKSPACE", "SNAPSHOTS", "TABLES", "PACKS", "SIZE", "READ", "SEQ", "DAMAGED")
		for _, w := range document.Workspaces {
			name := w.Server + "/" + string(w.Database)
			if named[name] > 1 {
				name += " (" + w.WorkspaceID + ")"
			}
			table.Row(name, strconv.Itoa(w.Snapshots), strconv.Itoa(w.Tables), strconv.Itoa(w.Packs), size(w.PackBytes), size(w.ReadBytes),
				strconv.FormatUint(w.Sequence, 10), strconv.Itoa(len(w.Damaged)))
		}
		out.err = table.Flush()
	}
	for _, notice := range document.Notices {
		out.printf("notice   %s: %s\n", where(notice.Workspace, notice.Object), notice.Message)
	}
	for _, problem := range document.Problems {
		object := problem.Object
		if object == "" {
			object = problem.Snapshot
		}
		out.printf("PROBLEM  %s: %s (%s)\n", where(problem.Workspace, object), problem.Message, problem.Kind)
	}
	switch {
	case !document.Complete:
	case len(document.Problems) > 0:
		out.printf("%s\n", count(len(document.Problems), "problem"))
	case document.ReadData:
		out.printf("no problems: every pack was read and all rows were checked\n")
	default:
		out.printf("no problems: everything needed is there; --read-data checks every byte of it\n")
	}
	return out.err
}

func where(workspace, object string) string {
	switch {
	case workspace == "" && object == "":
		return "repository"
	case workspace == "":
		return object
	case object == "":
		return console.Printable(workspace)
	}
	return console.Printable(workspace) + ": " + object
}

// count prints a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}
