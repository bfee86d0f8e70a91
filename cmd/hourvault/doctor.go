package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
)

// doctorDocument is what hourvault doctor --json prints.
type doctorDocument struct {
	Checks   []finding `json:"checks"`
	Warnings int       `json:"warnings"`
	Failures int       `json:"failures"`
}

// Statuses of a finding.
const (
	statusOK      = "ok"
	statusWarning = "warning"
	statusFailure = "failure"
)

// finding is the outcome of one check.
type finding struct {
	// Subject is "repository", "root key" or "server NAME".
	Subject string `json:"subject"`
	// Check is a stable word for what was looked at.
	Check  string `json:"check"`
	Status string `json:"status"`
	// Detail is what was seen, in one line.
	Detail string `json:"detail"`
	// Advice is what to do; empty where nothing needs to be done.
	Advice string `json:"advice,omitempty"`
}

// findings collects what is found about one subject, in order.
type findings struct {
	subject string
	list    []finding
}

func (f *findings) add(status, check, advice, format string, args ...any) {
	f.list = append(f.list, finding{Subject: f.subject, Check: check, Status: status, Detail: safe(fmt.Sprintf(format, args...)), Advice: safe(advice)})
}

func (f *findings) ok(check, format string, args ...any) { f.add(statusOK, check, "", format, args...) }

func newDoctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check servers, privileges, client tools, repository, encryption, keys and clocks",
		Long: `Try everything that hourvault relies on, and say of each whether it is well, and what to do if not.

Of the repository: the root key and its file's mode, whether the store is reached and does what is needed of it
(conditional writes, its answer about encryption, checksums, ranges, listing, deleting: with an object of its own
below doctor/, which is removed), clocks, format, and that all keys open. Of each server: whether it is reached,
TLS, version, client programs, connections, settings, which databases are workspaces, and of every workspace that
a snapshot can be opened, with all locks and privileges, and shared with a second connection. Nothing is changed.

Exit codes: 0 no failure; 1 something failed; 2 wrong usage or configuration.`,
		Example: `  hourvault doctor
  hourvault doctor --json`,
		Args: noArguments,
		RunE: func(command *cobra.Command, _ []string) error { return runDoctor(command.Context(), a) },
	}
}

func runDoctor(ctx context.Context, a *app) error {
	loaded, err := a.loadConfig()
	if err != nil {
		return err
	}
	// Everything at once: what takes long is waiting for others. The order of the results is that of the file.
	lists := make([][]finding, 1+len(loaded.Servers))
	tried := &growingProgress{begin: func() *console.Progress {
		return a.progress("open a snapshot of each workspace", console.Workspaces, 0)
	}}
	var group sync.WaitGroup
	group.Go(func() { lists[0] = a.examineRepository(ctx, loaded) })
	for i := range loaded.Servers {
		group.Go(func() { lists[1+i] = a.examineServer(ctx, &loaded.Servers[i], tried) })
	}
	group.Wait()
	tried.finish(ctx.Err())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}

	result := doctorDocument{Checks: []finding{}}
	for _, list := range lists {
		for _, one := range list {
			result.Checks = append(result.Checks, one)
			switch one.Status {
			case statusWarning:
				result.Warnings++
			case statusFailure:
				result.Failures++
			}
		}
	}
	if a.global.json {
		err = a.answer(result)
	} else {
		err = a.printFindings(result, loaded)
	}
	if err == nil && result.Failures > 0 {
		err = fmt.Errorf("%d of %d checks failed", result.Failures, len(result.Checks))
	}
	return err
}

// growingProgress is a progress whose total several servers add to. It begins with the first of them.
type growingProgress struct {
	begin func() *console.Progress

	mutex sync.Mutex
	bar   *console.Progress
	total int64
}

func (g *growingProgress) grow(by int) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.bar == nil && by > 0 {
		g.bar = g.begin()
	}
	if g.bar != nil {
		g.total += int64(by)
		g.bar.SetTotal(g.total)
	}
}

// done counts one; grow came before it.
func (g *growingProgress) done() {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.bar.Add(1)
}

func (g *growingProgress) finish(err error) {
	if g.bar != nil {
		g.bar.Finish(err)
	}
}

func (a *app) printFindings(result doctorDocument, loaded *config.Config) error {
	out := &errWriter{out: a.streams.Out}
	out.printf("configuration %s\n", console.Printable(loaded.File))
	subject := ""
	for _, one := range result.Checks {
		if one.Subject != subject {
			subject = one.Subject
			out.printf("\n%s\n", subject)
		}
		status := one.Status
		if status != statusOK {
			status = map[string]string{statusWarning: "WARNING", statusFailure: "FAILURE"}[status]
		}
		out.printf("  %-7s  %s: %s\n", status, one.Check, one.Detail)
		if one.Advice != "" {
			out.printf("           -> %s\n", one.Advice)
		}
	}
	out.printf("\n%s: %s, %s\n", count(len(result.Checks), "check"), count(result.Failures, "failure"), count(result.Warnings, "warning"))
	return out.err
}
