package backup

import (
	"errors"
	"fmt"
	"testing"
)

func TestStepErrorTellsOneFailureOnce(t *testing.T) {
	cause, release := errors.New("store pack: connection refused"), errors.New("put lease: connection refused")
	const unreleased = " (nor could the lease be given back: the next run waits until it has expired)"
	for _, test := range []struct {
		name string
		got  error
		want string
	}{
		{"plain", ended(StepCommit, cause, nil), "commit the snapshot: store pack: connection refused"},
		{"the lease was not given back", ended(StepStore, cause, release), "store what was read: store pack: connection refused" + unreleased},
		{"what was joined below", ended(StepCommit, errors.Join(cause, release), nil), "commit the snapshot: store pack: connection refused" + unreleased},
		{"one failure of two causes", ended(StepCommit, fmt.Errorf("%w: %w", cause, release), nil), "commit the snapshot: store pack: connection refused: put lease: connection refused"},
		{"one of two causes, and the lease", ended(StepCommit, errors.Join(fmt.Errorf("%w: %w", cause, release), release), nil), "commit the snapshot: store pack: connection refused: put lease: connection refused" + unreleased},
		{"what a step joined", ended(StepHold, at(StepRead, errors.Join(cause, release)), nil), "read table: store pack: connection refused\nput lease: connection refused"},
		{"joined alone", ended(StepCommit, errors.Join(cause), nil), "commit the snapshot: store pack: connection refused"},
		{"a step inside", ended(StepCommit, at(StepRead, cause), release), "read table: store pack: connection refused" + unreleased},
		{"a table", ended(StepRead, &StepError{Step: StepRead, Table: `"public"."t"`, Err: cause}, nil), `read table "public"."t": store pack: connection refused`},
		{"stopped", ended(StepRead, &StepError{Err: cause}, nil), "store pack: connection refused"},
	} {
		if got := test.got.Error(); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		if !errors.Is(test.got, cause) {
			t.Errorf("%s: the cause is not found", test.name)
		}
	}
	if at(StepRead, nil) != nil {
		t.Error("success became an error")
	}
}
