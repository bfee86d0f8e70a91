// Package allocation bounds, in tests, what a parser makes the Go runtime allocate: a reader of hostile bytes must not be
// made to allocate more than a stated multiple of what it was given. It is no part of the product.
package allocation

import (
	"runtime/metrics"
	"testing"
)

// Slack is what [Bound] always allows besides its limit, in bytes: the runtime counts small objects by whole spans, and
// other goroutines of the test process allocate a little too.
const Slack = 512 << 10

// Bound runs work and fails the test when more than limit bytes, and [Slack], were allocated meanwhile. What counts is the
// sum of everything allocated, also of what was garbage at once, so it bounds the memory held at any moment. It counts the
// whole process: nothing else may run at the same time, in particular no parallel test.
func Bound(t testing.TB, limit uint64, work func()) {
	t.Helper()
	before := total()
	work()
	if allocated := total() - before; allocated > limit+Slack {
		t.Errorf("%d bytes were allocated, more than the bound of %d and %d of slack", allocated, limit, Slack)
	}
}

// total returns the bytes allocated by this process so far. Unlike runtime.ReadMemStats it does not stop the program,
// which a fuzzer would do thousands of times a second.
func total() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
