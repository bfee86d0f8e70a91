package main

import (
	"strings"
	"testing"
)

// samples of a run in which everything is exactly at its bound.
func samplesAtTheBounds() []sample {
	return []sample{
		{Part: partBackup, Tool: toolHourvault, usage: usage{Wall: 10, PeakBytes: 256 << 20}, AddedBytes: 1100},
		{Part: partBackup, Tool: toolDump, usage: usage{Wall: 20}, AddedBytes: 1000},
		{Part: partBackup, Tool: toolPgBackRest, usage: usage{Wall: 10}, AddedBytes: 1300},
		{Part: partBackup, Tool: toolFloor, usage: usage{Wall: 5}},
		{Part: partSecond, Tool: toolHourvault, usage: usage{Wall: 5}, AddedBytes: 11},
		{Part: partUpdate, Tool: toolHourvault, usage: usage{Wall: 5}, AddedBytes: 50},
		{Part: partUpdate, Tool: toolRestic, usage: usage{Wall: 5}, AddedBytes: 100},
		{Part: partRestore, Tool: toolHourvault, WAL: "replica", usage: usage{Wall: 40, PeakBytes: 1}},
		{Part: partRestore, Tool: toolRestore, WAL: "replica", usage: usage{Wall: 40}, Statistics: &usage{Wall: 4}},
		{Part: partRestore, Tool: toolHourvault, WAL: "minimal", usage: usage{Wall: 30, PeakBytes: 1}},
		{Part: partRestore, Tool: toolRestore, WAL: "minimal", usage: usage{Wall: 30}},
	}
}

func TestBoundsAreMetAtTheBoundAndNotBeyond(t *testing.T) {
	r := report{Samples: samplesAtTheBounds()}
	demanded := 0
	for _, one := range r.ratios() {
		if one.bound == 0 {
			continue
		}
		demanded++
		if one.verdict() != "met" {
			t.Errorf("%s: %s is %s, want met", one.what, one.valueText(), one.verdict())
		}
	}
	if demanded != 10 {
		t.Errorf("%d bounds, want 10", demanded)
	}
	// hourvault a little slower, larger and hungrier everywhere.
	for i := range r.Samples {
		if one := &r.Samples[i]; one.Tool == toolHourvault {
			one.Wall *= 1.01
			one.AddedBytes += one.AddedBytes / 10
			one.PeakBytes = 256<<20 + 1
		}
	}
	r.Samples[0].AddedBytes = 1101
	for _, one := range r.ratios() {
		if one.bound != 0 && one.verdict() != "NOT MET" {
			t.Errorf("%s: %s is %s, want not met", one.what, one.valueText(), one.verdict())
		}
	}
}

func TestWhatWasNotMeasuredIsNeitherMetNorMissed(t *testing.T) {
	failed := samplesAtTheBounds()[:1]
	failed[0].Error = "no space left"
	for _, samples := range [][]sample{nil, failed} {
		r := report{Samples: samples}
		for _, one := range r.ratios() {
			if one.verdict() != "not measured" || one.valueText() != "-" {
				t.Errorf("%s: %s, %s", one.what, one.valueText(), one.verdict())
			}
		}
	}
	r := report{Samples: failed}
	if err := r.failure(); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("failure of hourvault is %v", err)
	}
	if text := r.text() + r.markdown(); !strings.Contains(text, "no space left") {
		t.Errorf("the report does not say why hourvault failed:\n%s", text)
	}
}

func TestReportShowsMediansAndTheLargestMemory(t *testing.T) {
	var r report
	for i, wall := range []float64{9, 3, 4} {
		r.Samples = append(r.Samples, sample{Part: partBackup, Tool: toolHourvault, Round: i + 1, usage: usage{Wall: wall, PeakBytes: int64(i) << 20}})
	}
	lines := r.lines()
	if len(lines) != 1 || lines[0].wall != 4 || lines[0].least != 3 || lines[0].most != 9 || lines[0].peak != 2<<20 {
		t.Errorf("lines are %+v", lines)
	}
	r.Samples = r.Samples[:2]
	if got := r.lines()[0].wall; got != 6 {
		t.Errorf("median of 9 and 3 is %g", got)
	}
}

func TestReportReplacesOnlyWhatStandsBetweenTheMarkers(t *testing.T) {
	document := "# Title\n\n" + beginMarker + "\nold\n" + endMarker + "\n\nafter\n"
	for range 2 { // again is the same
		got, err := replaceSection([]byte(document), "new\n")
		if want := "# Title\n\n" + beginMarker + "\n\nnew\n\n" + endMarker + "\n\nafter\n"; err != nil || string(got) != want {
			t.Fatalf("document is %q, %v; want %q", got, err, want)
		}
		document = string(got)
	}
	for _, bad := range []string{"", beginMarker, endMarker + beginMarker} {
		if got, err := replaceSection([]byte(bad), "new"); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func TestSizesAreReadWithTheirUnit(t *testing.T) {
	for text, want := range map[string]int64{"200MB": 200 << 20, "2GB": 2 << 30, "0.5GB": 512 << 20} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GB", "2", "-1GB", "0MB", "2 TB", "99999999GB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}
