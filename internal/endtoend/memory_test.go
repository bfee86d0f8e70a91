package endtoend_test

import (
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// peakGrowth returns by how many bytes, at most, the memory of this process grew while act ran: what the Go runtime has
// mapped and not given back. It looks every few milliseconds, so it can miss a moment, but not a value that is held.
func peakGrowth(t *testing.T, act func()) uint64 {
	t.Helper()
	debug.FreeOSMemory()
	before := mappedBytes()
	stop, peak := make(chan struct{}), make(chan uint64, 1)
	go func() {
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		largest := before
		for {
			select {
			case <-ticker.C:
				largest = max(largest, mappedBytes())
			case <-stop:
				peak <- max(largest, mappedBytes())
				return
			}
		}
	}()
	func() {
		defer close(stop) // also when act ends the test
		act()
	}()
	return <-peak - before
}

func mappedBytes() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}

// checkMemory fails when act needs as much memory as the text of a bytea value of valueSize bytes: COPY writes two digits
// for each.
func checkMemory(t *testing.T, what string, valueSize uint64, act func()) {
	t.Helper()
	growth := peakGrowth(t, act)
	t.Logf("%s: memory grew by %d MiB at most", what, growth>>20)
	if growth >= 2*valueSize {
		t.Errorf("%s: memory grew by %d MiB, with a row of %d MiB", what, growth>>20, 2*valueSize>>20)
	}
}
