package backup

import (
	"context"
	"errors"
	"reflect"

	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
)

// Step is a part of taking a snapshot, in words that complete "while trying to". They stand first in a *StepError's text.
type Step string

// The steps of Run. Definitions, rows and properties are read at the same time.
const (
	// StepConnect asks the server which cluster it is.
	StepConnect Step = "ask the server who it is"
	// StepWorkspace finds, or makes, the workspace and its key in the repository.
	StepWorkspace Step = "open the workspace in the repository"
	// StepLease takes the workspace's lease, waits for that of a run that died, and reads the newest manifest.
	StepLease Step = "take the lease and read the last snapshot's manifest"
	// StepOpen locks all tables and exports the snapshot.
	StepOpen Step = "lock the tables and export a snapshot"
	// StepDefinitions is pg_dump's.
	StepDefinitions Step = "read the definitions with pg_dump"
	// StepTables lists tables and compares them with the base's.
	StepTables Step = "list the tables"
	// StepRead reads the rows of the table that StepError.Table names.
	StepRead Step = "read table"
	// StepProperties reads sequences, large objects' owners and grants, settings and what else pg_dump leaves out.
	StepProperties Step = "read sequences, large objects and settings"
	// StepHold keeps the exported snapshot and its locks until everything is read.
	StepHold Step = "hold the snapshot open"
	// StepStore stores packs, and reads pages of the base.
	StepStore Step = "store what was read"
	// StepRecheck looks, at the end, for what may have changed meanwhile.
	StepRecheck Step = "check what changed while reading"
	// StepCommit stores what is left and then the manifest, which makes the snapshot exist.
	StepCommit Step = "commit the snapshot"
)

// OfStore says whether the step speaks with the repository's store, and not with the database server.
func (s Step) OfStore() bool {
	switch s {
	case StepWorkspace, StepLease, StepStore, StepCommit:
		return true
	}
	return false
}

// StepError says in which step a snapshot failed. The cause is testable through it.
type StepError struct {
	// Step is empty where the run's context ended: then no step failed.
	Step Step
	// Table is the quoted name of the table of StepRead; else empty.
	Table string
	Err   error
	// LeaseErr is set when the workspace's lease could not be given back after the failure, so that the next run has to wait
	// until it has expired. It is no cause, and mostly fails for the same reason: it is not printed.
	LeaseErr error
}

func (e *StepError) Error() string {
	text := e.Err.Error()
	switch {
	case e.Table != "":
		text = string(e.Step) + " " + e.Table + ": " + text
	case e.Step != "":
		text = string(e.Step) + ": " + text
	}
	if e.LeaseErr != nil {
		text += " (nor could the lease be given back: the next run waits until it has expired)"
	}
	return text
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// at says in which step err happened, unless it says so already. nil stays nil.
func at(step Step, err error) error {
	if err == nil || errors.As(err, new(*StepError)) {
		return err
	}
	return &StepError{Step: step, Err: err}
}

// joinedType is the type of what errors.Join returns. fmt.Errorf with several causes returns another, which is one failure.
var joinedType = reflect.TypeOf(errors.Join(errors.ErrUnsupported))

// ended returns the error of a run that was given up. Besides the cause there may be that the lease could not be given
// back, which package repository joins to it: one failure is told once.
func ended(step Step, err, leaseErr error) error {
	failed := &StepError{Step: step, Err: err}
	if inner := (*StepError)(nil); errors.As(err, &inner) {
		*failed = *inner
	} else if joined := (interface{ Unwrap() []error })(nil); reflect.TypeOf(err) == joinedType && errors.As(err, &joined) {
		causes := joined.Unwrap()
		failed.Err, leaseErr = causes[0], errors.Join(append(causes[1:len(causes):len(causes)], leaseErr)...)
	}
	failed.LeaseErr = leaseErr
	return failed
}

// interrupted returns what ended the run's parts from outside, when something did: it explains more than the first error of
// one of them. That the snapshot's own connection was lost does not count as such: it is closed when another part fails
// while it is in use.
func (r *run) interrupted(ctx context.Context) error {
	if ctx.Err() != nil {
		return &StepError{Err: context.Cause(ctx)} // whoever called wants it to stop
	}
	stored, held := context.Cause(r.writer.Context()), context.Cause(r.snapshot.Context())
	switch {
	case errors.Is(stored, repository.ErrLeaseLost):
		return at(StepLease, stored)
	case stored != nil:
		return at(StepStore, stored)
	case errors.As(held, new(*postgres.GaveWayError)):
		return at(StepHold, held)
	}
	return nil
}
