package allocation

import (
	"strings"
	"testing"
)

// recorded keeps what a test would have failed with.
type recorded struct {
	testing.TB
	errors []string
}

func (r *recorded) Helper() {}

func (r *recorded) Errorf(format string, _ ...any) { r.errors = append(r.errors, format) }

var sink []byte

func TestAllocationAboveTheBoundFails(t *testing.T) {
	for _, test := range []struct {
		name        string
		size, limit int
		want        bool // to fail
	}{
		{"one below", 1 << 20, 2 << 20, false},
		{"one above", 4 << 20, 1 << 20, true},
		{"none", 0, 0, false},
	} {
		got := &recorded{TB: t}
		Bound(got, uint64(test.limit), func() { sink = make([]byte, test.size) })
		if failed := len(got.errors) > 0; failed != test.want {
			t.Errorf("%s: failed %t, want %t: %s", test.name, failed, test.want, strings.Join(got.errors, "; "))
		}
	}
	got := &recorded{TB: t}
	Bound(got, 1<<20, func() {
		for range 5000 {
			sink = make([]byte, 1<<10) // garbage at once
		}
	})
	if len(got.errors) == 0 {
		t.Errorf("5 MB in small pieces were not counted")
	}
}
