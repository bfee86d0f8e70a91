package backup

import (
	"testing"

	"github.com/hourvault/hourvault/internal/catalog"
)

func TestSequenceBehindKnowsItsDirection(t *testing.T) {
	for _, test := range []struct {
		earlier, later catalog.Sequence
		want           bool
	}{
		{catalog.Sequence{LastValue: 5, IsCalled: true}, catalog.Sequence{LastValue: 9, IsCalled: true, Increment: 1}, false},
		{catalog.Sequence{LastValue: 9, IsCalled: true}, catalog.Sequence{LastValue: 5, IsCalled: true, Increment: 1}, true},
		{catalog.Sequence{LastValue: -5, IsCalled: true}, catalog.Sequence{LastValue: -9, IsCalled: true, Increment: -1}, false},
		{catalog.Sequence{LastValue: -9, IsCalled: true}, catalog.Sequence{LastValue: -5, IsCalled: true, Increment: -1}, true},
		{catalog.Sequence{LastValue: 1, IsCalled: true}, catalog.Sequence{LastValue: 1, Increment: 1}, true},
		{catalog.Sequence{LastValue: 1}, catalog.Sequence{LastValue: 1, IsCalled: true, Increment: 1}, false},
	} {
		if got := test.later.Behind(test.earlier); got != test.want {
			t.Errorf("%+v behind %+v: got %v, want %v", test.later, test.earlier, got, test.want)
		}
	}
}
