package main

import (
	"testing"
	"time"
)

func TestProcessStateIsReadWhateverTheProgramIsCalled(t *testing.T) {
	const rest = " S 41 4242 4242 0 -1 4194560 9000 100 0 0 150 25 1200 30 20 0 1 0 12345 200000000 5000 18446744073709551615 1 1 0"
	for _, name := range []string{"postgres", "postgres: a) S 7", "((", ") 1 2 3"} {
		got, err := parseProcessStat([]byte("4242 (" + name + ")" + rest))
		want := processStat{parent: 41, own: 1750 * time.Millisecond, waited: 12300 * time.Millisecond}
		if err != nil || got != want {
			t.Errorf("state of %q is %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "1 (a", "1 (a) S 1", "1 (a) S x 1 1 0 -1 0 0 0 0 0 1 1 1 1 20"} {
		if got, err := parseProcessStat([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func TestBusyTimeOfTheMachineLeavesOutIdleWaitStealAndGuests(t *testing.T) {
	got, err := parseMachineCPU([]byte("cpu  100 10 20 99999 5000 3 7 777 55 5\ncpu0 1 2 3 4 5 6 7 8 9 10\n"))
	if want := 1400 * time.Millisecond; err != nil || got != want {
		t.Errorf("busy time is %s, %v; want %s", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu a 1 2 3 4 5 6 7 8 9", "intr 1 2 3 4 5 6 7 8 9"} {
		if got, err := parseMachineCPU([]byte(bad)); err == nil {
			t.Errorf("%q was read as %s", bad, got)
		}
	}
}
