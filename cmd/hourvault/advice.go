package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/restore"
)

// severalError sums up the failures of several workspaces and servers, whose own errors were printed. Its causes are there
// for advice alone; they decide nothing else.
type severalError struct {
	text   string
	causes []error
}

func (e *severalError) Error() string { return e.text }

// adviceLimit bounds how many different things a command advises.
const adviceLimit = 3

// advice says what to do next about an error, in the imperative and without a full stop; empty where the error says so
// itself, or where nothing is known that would help. Failures of several workspaces may need several things, which
// are separated by line feeds. It decides by types, sentinels and SQLSTATE, never by text.
func advice(err error) string {
	var several *severalError
	if !errors.As(err, &several) {
		return adviceFor(err)
	}
	var all []string
	for _, cause := range several.causes {
		if one := adviceFor(cause); one != "" && !slices.Contains(all, one) && len(all) < adviceLimit {
			all = append(all, one)
		}
	}
	return strings.Join(all, "\n")
}

// What several kinds of errors advise.
const (
	adviseRerun      = "run the same command again"
	adviseRerunLater = "run the same command again later"
	adviseStore      = "see whether the store can be reached and its service is well (hourvault doctor tries all of it), then run the same command again"
	adviseOther      = "fails alike in another try: see with --keep-partial what is wrong, or choose another snapshot with --at or --snapshot"
	adviseConnection = "see in PostgreSQL's log why it ended hourvault's session (a restart, a terminated or crashed backend, or nothing there: then the network), then run the same command again"
)

func adviceFor(err error) string {
	var (
		step       *backup.StepError
		lease      *repository.LeaseHeldError
		gaveWay    *postgres.GaveWayError
		unsettled  *postgres.UnsettledError
		locked     *postgres.LockTimeoutError
		tool       *postgres.ToolError
		restoring  *restore.Error
		preflight  *restore.PreflightError
		unreadable *objectstore.ReadError
	)
	inStep, inRestore := errors.As(err, &step), errors.As(err, &restoring)
	switch {
	case err == nil, errors.As(err, new(*stopError)), errors.Is(err, context.Canceled):
		return ""
	case errors.As(err, &lease):
		return "let that run finish, then " + adviseRerun
	case errors.As(err, &gaveWay), errors.As(err, &unsettled), errors.As(err, &locked):
		return adviseRerunLater
	case errors.Is(err, repository.ErrLeaseLost):
		return "find out what held this run up for longer than its lease (a machine suspended or overloaded, a store out of reach), then " + adviseRerun
	case errors.Is(err, objectstore.ErrDenied), errors.Is(err, objectstore.ErrNoBucket), errors.Is(err, objectstore.ErrClockSkew):
		if !inStep && !inRestore {
			return "" // the error says what is needed, and nothing had begun
		}
		return "when that is mended, " + adviseRerun
	case errors.Is(err, objectstore.ErrNotEncrypted) && inStep:
		return "make the store encrypt as repository: sse demands, or change that setting; hourvault doctor tries it"
	case errors.Is(err, objectstore.ErrUnavailable):
		if inStep && step.Step == backup.StepCommit {
			return adviseStore + "; hourvault snapshots shows what exists"
		}
		return adviseStore
	case errors.As(err, &unreadable) && !isDamage(err):
		return adviseStore
	case isDamage(err) && inRestore, errors.Is(err, restore.ErrDatabaseExists):
		return "" // the error says it: another snapshot, or another name; a second try fails alike
	case isDamage(err):
		return "run hourvault verify --read-data to learn what is damaged"
	case errors.As(err, &preflight):
		return "" // every problem says what mends it
	}
	if state := postgres.SQLState(err); state != "" {
		if inRestore {
			return adviceForRestoreState(state)
		}
		return adviceForState(state)
	}
	switch {
	case errors.As(err, &tool) && inRestore:
		return "see what " + tool.Tool + " says above, and PostgreSQL's log: what lies in the snapshot " + adviseOther + "; else " + adviseRerun
	case errors.As(err, &tool):
		return "see what " + tool.Tool + " says above, and PostgreSQL's log, then " + adviseRerun
	case postgres.IsUnconnected(err), inStep && step.Step == backup.StepConnect:
		return "see with hourvault doctor whether the server can be reached, then " + adviseRerun
	case postgres.IsConnectionLost(err):
		return adviseConnection
	case inStep && step.Step.OfStore():
		return adviseStore
	case inRestore:
		return "see in PostgreSQL's log what the server says about it, then " + adviseRerun
	}
	return ""
}

// adviceForState knows the classes of PostgreSQL's errors (manual, "PostgreSQL Error Codes").
func adviceForState(state string) string {
	switch {
	case state == "57P01", state == "57P02", state == "57P03", state == "25P03", state == "25P04", state == "57P05":
		return adviseConnection
	case state == "57014":
		return "see who cancels hourvault's statements (a timeout set for its role, or an administrator), then " + adviseRerun
	case state == "53300":
		return "lower connections of this server in the configuration, or raise its max_connections, then " + adviseRerun
	case state == "53100":
		return "make room on the disk of the PostgreSQL server, then " + adviseRerun
	case strings.HasPrefix(state, "53"), strings.HasPrefix(state, "58"):
		return "see in PostgreSQL's log what it lacks (memory, disk, locks), then " + adviseRerun
	case state == "XX001", state == "XX002":
		return "the database itself may be damaged: see PostgreSQL's log and check it with amcheck before anything else"
	case state == "42501":
		return "grant hourvault's role what it lacks (hourvault doctor names the statements), then " + adviseRerun
	case state == "3D000":
		return "see with hourvault doctor which databases the server has"
	case strings.HasPrefix(state, "08"):
		return adviseConnection
	case strings.HasPrefix(state, "28"):
		return "" // the error says what to check
	}
	return "see in PostgreSQL's log what the server says about it, then " + adviseRerun
}

// adviceForRestoreState knows what means something else in a restore: what lies in the snapshot's data or definitions fails
// again, and the rights that hourvault doctor looks at are those of backups.
func adviceForRestoreState(state string) string {
	if state == "42501" {
		return "let the restoring role do what the server refuses (docs/security.md says what a restore needs; a superuser may do all), then " + adviseRerun
	}
	switch state[:min(2, len(state))] {
	case "22", "23", "42", "P0":
		return "what lies in the snapshot " + adviseOther
	}
	return adviceForState(state)
}
