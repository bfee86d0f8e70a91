package main

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/hourvault/hourvault/internal/config"
)

func TestAnOperatorsMemoryLimitStays(t *testing.T) {
	before := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(before)
	for _, test := range []struct {
		value string
		set   bool
		want  int64
	}{
		{want: softMemoryLimit},
		{set: true, want: softMemoryLimit},
		{value: "off", set: true, want: math.MaxInt64},
		{value: "1GiB", set: true, want: math.MaxInt64}, // the runtime has read it already
	} {
		debug.SetMemoryLimit(math.MaxInt64)
		limitMemory(config.Environment{LookupEnv: func(name string) (string, bool) { return test.value, test.set && name == "GOMEMLIMIT" }})
		if got := debug.SetMemoryLimit(-1); got != test.want {
			t.Errorf("GOMEMLIMIT=%q (set: %t): limit %d, want %d", test.value, test.set, got, test.want)
		}
	}
}
