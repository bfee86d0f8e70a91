package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/restore"
)

// Exit codes (docs/adr/0007-command-line.md). Every command's help lists those that it can have.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitPartial = 3
)

// usageError says that the command cannot be meant as it was given: wrong flags or arguments, or a name or time that
// refers to nothing. Nothing was changed.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// partialError says that a command was done for some workspaces and failed for others, whose errors were printed.
type partialError struct{ err error }

func (e *partialError) Error() string { return e.err.Error() }
func (e *partialError) Unwrap() error { return e.err }

// exitCode is the one place that decides what a command's error means to whoever called it.
func exitCode(err error) int {
	var (
		usage     *usageError
		wrong     *config.Error
		partial   *partialError
		preflight *restore.PreflightError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &partial):
		return exitPartial
	case errors.As(err, &usage), errors.As(err, &wrong), errors.Is(err, repository.ErrWrongRootKey):
		return exitUsage
	case errors.As(err, &preflight) && onlyTheName(preflight):
		return exitUsage
	default:
		return exitFailed
	}
}

// onlyTheName says whether nothing but the name of the database to make stands in the way of a restore.
func onlyTheName(refused *restore.PreflightError) bool {
	for _, problem := range refused.Problems {
		if problem.Code != "name" && problem.Code != "database_exists" {
			return false
		}
	}
	return len(refused.Problems) > 0
}

// stopped returns the cause when ctx was ended by a signal, else nil.
func stopped(ctx context.Context) error {
	var stop *stopError
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &stop) {
		return stop
	}
	return nil
}
