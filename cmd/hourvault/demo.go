package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/demo"
)

// demoOptions are the flags of hourvault demo.
type demoOptions struct {
	binDir string
	keep   bool
}

func newDemoCommand(a *app) *cobra.Command {
	var opts demoOptions
	command := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole cycle on throw-away parts, with nothing to configure",
		Long: `Show the whole cycle: a PostgreSQL server of its own is started, three workspaces are made and backed up, one is
damaged, and that one is restored to the moment before, beside the live database. Then the restored database is
compared with what was there, by PostgreSQL's own programs: every row, and every line that pg_dump prints.

Nothing is needed but the programs of a PostgreSQL server, version 14 or later, on this machine: no configuration,
no network, no cloud account. The server runs as an unprivileged user, never as root. All that was made is stopped
and removed at the end, also after Ctrl-C; --keep leaves the files and says where they are.

Exit codes: 0 done, and proven equal; 1 failed, or a proof does not hold; 2 wrong usage.`,
		Example: `  hourvault demo
  hourvault demo --pg-bin-dir /usr/lib/postgresql/17/bin
  hourvault demo --json`,
		Args: noArguments,
		RunE: func(command *cobra.Command, _ []string) error { return runDemo(command.Context(), a, opts) },
	}
	command.Flags().StringVar(&opts.binDir, "pg-bin-dir", "", "`DIRECTORY` of initdb, postgres and the other programs (default: the newest version installed)")
	command.Flags().BoolVar(&opts.keep, "keep", false, "keep the server's data, the repository and the root key")
	return command
}

func runDemo(ctx context.Context, a *app, opts demoOptions) error {
	told := &demoTeller{app: a}
	a.say("hourvault demo: a story on throw-away parts; all of it is removed at the end, also after Ctrl-C\n")
	report, err := demo.Run(ctx, demo.Options{BinDir: opts.binDir, Version: buildVersion().Version, Keep: opts.keep, Observer: told})
	told.finish(report)
	if opts.binDir != "" && errors.Is(err, demo.ErrNoServer) {
		err = usagef("--pg-bin-dir: %w", err)
	}
	if a.global.json && !errors.Is(err, demo.ErrNoServer) {
		if err != nil {
			report.Error = safe(err.Error())
		}
		return errors.Join(err, a.answer(report))
	}
	return err
}

// demoTeller tells people what a demonstration does.
type demoTeller struct {
	app *app
	// open says that the line of a step has no end yet.
	open bool
}

// titleWidth is where the durations of steps stand.
const titleWidth = 72

// Begin implements demo.Observer.
func (d *demoTeller) Begin(step demo.Step) {
	// Elsewhere than on a terminal a line appears when it is complete.
	if d.app.peopleWatch() && d.app.streams.ErrIsTerminal {
		d.write(fmt.Sprintf("%2d  %s ...", step.Number, step.Title))
		d.open = true
	}
}

// End implements demo.Observer.
func (d *demoTeller) End(step demo.Step, report *demo.Report) {
	if d.open {
		d.write("\r")
		d.open = false
	}
	d.line("%2d  %-*s %7s", step.Number, titleWidth, step.Title, console.FormatDuration(step.Duration))
	switch step.Stage {
	case demo.StageWorkspaces:
		d.table(func(row func(...string)) {
			for _, workspace := range report.Workspaces {
				row(d.plain(workspace.Database), fmt.Sprintf("%d tables", workspace.Tables), strconv.FormatInt(workspace.Rows, 10)+" rows", size(uint64(max(0, workspace.DiskBytes)))+" on disk")
			}
		})
	case demo.StageFirst, demo.StageSecond, demo.StageThird:
		d.table(func(row func(...string)) {
			for _, snapshot := range report.Rounds[len(report.Rounds)-1].Snapshots {
				row(d.plain(snapshot.Workspace), strconv.FormatUint(snapshot.Rows, 10)+" rows", size(snapshot.ContentBytes), size(snapshot.NewBytes)+" new",
					size(snapshot.StoredBytes)+" stored", "in "+console.FormatDuration(snapshot.Duration))
				for _, warning := range snapshot.Warnings {
					row("warning: " + d.plain(warningLine(warning)))
				}
			}
		})
	case demo.StageWitness:
		d.line("      the moment to come back to: %s", d.app.formatTime(report.Instant))
	case demo.StageDamage:
		d.table(func(row func(...string)) {
			for _, damage := range report.Damage {
				if damage.Rows < 0 {
					row(damage.What)
				} else {
					row(damage.What, strconv.FormatInt(damage.Rows, 10))
				}
			}
		})
	case demo.StageRestore:
		restored := report.Restore
		d.line("      snapshot %s of %s into database %s:", restored.Snapshot, d.app.formatTime(restored.Time), restored.Into)
		d.line("      %d rows, %s, %d large objects, %d sequences", restored.Rows, console.FormatSize(restored.Bytes), restored.LargeObjects, restored.Sequences)
		for _, warning := range restored.Warnings {
			d.line("      warning: %s", d.plain(warningLine(warning)))
		}
	case demo.StageCompare:
		d.comparison(report.Tables)
		d.proofs(report.Proofs, "rows", "pg_dump", "damage_seen")
	case demo.StageUntouched:
		d.proofs(report.Proofs, "untouched:")
	case demo.StageVerify:
		d.proofs(report.Proofs, "verify")
		for _, problem := range report.Verify.Problems {
			d.line("      %s", d.plain(problem))
		}
		d.line("      the repository: %d objects, %s, for %d snapshots of %d workspaces", report.Verify.Objects, console.FormatSize(report.Verify.RepositoryBytes), report.Verify.Snapshots, report.Verify.Workspaces)
	}
}

// comparison prints how many rows each table had, has and has again. Partitions count with their root; what is no table is
// counted in one line, unless it differs.
func (d *demoTeller) comparison(tables []demo.Table) {
	type line struct {
		name                      string
		parts                     int
		before, damaged, restored int64
		gone, equal               bool
	}
	var lines []*line
	roots := map[string]*line{}
	others := 0
	for _, table := range tables {
		if table.Kind != demo.KindTable && table.Kind != demo.KindLargeObjects && table.Equal {
			others++
			continue
		}
		name := table.Name
		if table.Root != "" {
			name = table.Root
		}
		at := roots[name]
		if at == nil {
			at = &line{name: name, equal: true, gone: true}
			roots[name], lines = at, append(lines, at)
		}
		at.parts++
		at.before += max(0, table.Before)
		at.damaged += max(0, table.Damaged)
		at.restored += max(0, table.Restored)
		at.gone = at.gone && table.Damaged < 0
		at.equal = at.equal && table.Equal
	}
	d.table(func(row func(...string)) {
		row("TABLE", "BEFORE", "DAMAGED", "RESTORED", "")
		for _, at := range lines {
			name, damaged, verdict := d.plain(at.name), strconv.FormatInt(at.damaged, 10), "equal"
			if at.parts > 1 {
				name += fmt.Sprintf(" (%d partitions)", at.parts)
			}
			if at.gone {
				damaged = "gone"
			}
			if !at.equal {
				verdict = "DIFFERENT"
			}
			row(name, strconv.FormatInt(at.before, 10), damaged, strconv.FormatInt(at.restored, 10), verdict)
		}
		row(fmt.Sprintf("%d sequences and materialized views", others), "", "", "", "equal")
	})
}

// proofs prints those whose name begins with one of the prefixes.
func (d *demoTeller) proofs(proofs []demo.Proof, prefixes ...string) {
	for _, proof := range proofs {
		for _, prefix := range prefixes {
			if strings.HasPrefix(proof.Name, prefix) {
				mark := "proven"
				if !proof.Holds {
					mark = "FAILED"
				}
				d.line("      %s: %s", mark, d.plain(proof.Text))
			}
		}
	}
}

// finish tells how it ended.
func (d *demoTeller) finish(report *demo.Report) {
	if d.open {
		d.write("\n")
	}
	if kept := report.Kept; kept != nil {
		d.line("\nkept in %s: postgres, repository, root.key; this starts the server again, as the user its files belong to:\n  %s", kept.Directory, kept.Start)
	}
	if !report.Proven {
		return
	}
	d.line("\nproven: %s is back as it was at %s, restored in %s beside the live database; nobody else was touched. %s altogether.",
		report.Restore.Workspace, d.app.formatTime(report.Restore.Time), console.FormatDuration(report.Restore.Duration), console.FormatDuration(report.Duration.Round(time.Millisecond)))
	d.line(`
For real: copy deploy/hourvault.example.yaml to /etc/hourvault/hourvault.yaml, name your bucket and servers, then
  hourvault init && hourvault doctor && hourvault backup --all
  hourvault restore acme --into restored_acme
and when there are older snapshots, --at "3h ago" or --at "2026-11-20 14:00" chooses among them`)
}

// line writes one or several whole lines for people.
func (d *demoTeller) line(format string, args ...any) { d.app.say(format, args...) }

// write writes a part of a line. It is of fixed texts and step titles only.
func (d *demoTeller) write(text string) { _, _ = fmt.Fprint(d.app.streams.Err, text) }

// table writes an indented table.
func (d *demoTeller) table(fill func(row func(...string))) {
	var text strings.Builder
	table := console.NewTable(&text)
	fill(func(cells ...string) { table.Row(cells...) })
	if err := table.Flush(); err != nil {
		return // a strings.Builder takes everything
	}
	for line := range strings.Lines(text.String()) {
		d.line("      %s", strings.TrimRight(line, " \n"))
	}
}

// plain makes a name safe for where it is printed: elsewhere than on a terminal it may meet anything, so only ASCII is
// left as it is.
func (d *demoTeller) plain(text string) string {
	if d.app.streams.ErrIsTerminal {
		return console.Text(text)
	}
	quoted := strconv.QuoteToASCII(text)
	if quoted == strconv.Quote(text) {
		return console.Text(text)
	}
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
