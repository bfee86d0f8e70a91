package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/restore"
)

func TestAdviceFollowsFromWhatFailed(t *testing.T) {
	restoring := func(cause error) error { return explainRestore(&restore.Error{Phase: restore.PhaseRows, Err: cause}) }
	state := func(code string) error { return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code}) }
	backingUp := func(step backup.Step, cause error) error { return &backup.StepError{Step: step, Err: cause} }
	const (
		again = "what lies in the snapshot fails alike in another try: see"
		role  = "restoring role"
	)
	for _, test := range []struct {
		name string
		err  error
		want string // a part of it; empty: none at all
	}{
		{"success", nil, ""},
		{"stopped", context.Canceled, ""},
		{"a block that is not authentic, in a restore", restoring(fmt.Errorf("read pack: %w", crypto.ErrNotAuthentic)), ""},
		{"a missing pack, in a restore", restoring(fmt.Errorf("read pack: %w", objectstore.ErrNotFound)), ""},
		{"a damaged record, in a restore", restoring(fmt.Errorf("read pack: %w", repository.ErrDamaged)), ""},
		{"damage elsewhere", backingUp(backup.StepLease, crypto.ErrNotAuthentic), "hourvault verify --read-data"},
		{"the name was taken meanwhile", restoring(fmt.Errorf("%w meanwhile", restore.ErrDatabaseExists)), ""},
		{"data: division by zero in a constraint", restoring(state("22012")), again},
		{"data: a duplicate key", restoring(state("23505")), again},
		{"data: raised by a function", restoring(state("P0001")), again},
		{"definitions: a function that is not there", restoring(state("42883")), again},
		{"pg_restore, of which only text is known", restoring(&postgres.ToolError{Tool: "pg_restore"}), "what lies in the snapshot fails alike"},
		{"pg_dump", backingUp(backup.StepDefinitions, &postgres.ToolError{Tool: "pg_dump"}), "see what pg_dump says above, and PostgreSQL's log, then run"},
		{"rights in a restore", restoring(state("42501")), role},
		{"rights in a backup", backingUp(backup.StepOpen, state("42501")), "hourvault doctor names the statements"},
		{"the disk of the server, in a restore", restoring(state("53100")), "make room"},
		{"the server ended the session, in a restore", restoring(state("57P01")), adviseConnection},
		{"transaction_timeout", backingUp(backup.StepHold, state("25P04")), adviseConnection},
		{"an aborted transaction is no lost session", backingUp(backup.StepRead, state("25P02")), "what the server says about it"},
		{"store out of reach", backingUp(backup.StepStore, objectstore.ErrUnavailable), adviseStore},
		{"store out of reach at the commit", backingUp(backup.StepCommit, objectstore.ErrUnavailable), "hourvault snapshots"},
	} {
		got := advice(test.err)
		if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %v: advises %q, want %q", test.name, test.err, got, test.want)
		}
		if test.want == again && strings.Contains(got, adviseRerun) {
			t.Errorf("%s: advises %q, which fails alike", test.name, got)
		}
	}
}

func TestWhatIsLeftBehindIsNotDenied(t *testing.T) {
	const denial = "nothing was left behind"
	for _, test := range []struct {
		name   string
		failed restore.Error
		denied bool
	}{
		{"nothing", restore.Error{}, true},
		{"a database", restore.Error{Kept: "x", Remove: []string{`DROP DATABASE "x";`}}, false},
		{"a role", restore.Error{Remove: []string{`DROP ROLE "x";`}}, false},
	} {
		test.failed.Phase, test.failed.Err = restore.PhaseRows, crypto.ErrNotAuthentic
		if text := explainRestore(&test.failed).Error(); strings.Contains(text, denial) != test.denied {
			t.Errorf("%s: %s", test.name, text)
		}
	}
}
