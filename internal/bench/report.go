package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is all that a run found.
type report struct {
	Started     time.Time         `json:"started"`
	Took        float64           `json:"took_s"`
	Machine     machine           `json:"machine"`
	Versions    map[string]string `json:"versions"`
	Major       int               `json:"postgresql_major"`
	Settings    [][2]string       `json:"settings"`
	S3Server    string            `json:"s3_server"`
	Encrypted   bool              `json:"s3_encrypts"`
	ZstdLevel   int               `json:"zstd_level"`
	WantedBytes int64             `json:"wanted_bytes"`
	Database    databaseSize      `json:"database"`
	Rounds      int               `json:"rounds"`
	Samples     []sample          `json:"samples"`
}

// measured says whether there is anything to report.
func (r *report) measured() bool { return len(r.Samples) > 0 }

// failure is an error when hourvault itself failed in a part: the other tools' failures are only reported.
func (r *report) failure() error {
	for _, one := range r.Samples {
		if one.Tool == toolHourvault && one.Error != "" {
			return fmt.Errorf("hourvault failed in part %s: %s", one.Part, one.Error)
		}
	}
	return nil
}

// line is what several rounds of one tool in one part come to: medians, except of memory, of which it is the largest.
type line struct {
	part, tool, wal string
	rounds          int
	wall, least     float64
	most            float64
	toolCPU         float64
	postgres, s3    float64
	others          float64
	peak, tree      int64
	added           int64
	statistics      float64
	phases          []phaseTime
	failed          string
}

// lines are the medians, in the order of parts and tools.
func (r *report) lines() []line {
	type key struct{ part, wal, tool string }
	groups := map[key][]sample{}
	var order []key
	for _, one := range r.Samples {
		k := key{one.Part, one.WAL, one.Tool}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], one)
	}
	tools := append(allTools(), toolRestoreGzip)
	walOrder := func(k key) int { return slices.Index([]string{"", "replica", "minimal"}, k.wal) }
	slices.SortStableFunc(order, func(a, b key) int {
		if a.part != b.part {
			return slices.Index(allParts(), a.part) - slices.Index(allParts(), b.part)
		}
		if a.wal != b.wal {
			return walOrder(a) - walOrder(b)
		}
		return slices.Index(tools, a.tool) - slices.Index(tools, b.tool)
	})
	var lines []line
	for _, k := range order {
		one := line{part: k.part, tool: k.tool, wal: k.wal}
		good := slices.DeleteFunc(slices.Clone(groups[k]), func(s sample) bool { return s.Error != "" })
		for _, bad := range groups[k] {
			if bad.Error != "" {
				one.failed = bad.Error
			}
		}
		if len(good) > 0 {
			of := func(value func(sample) float64) float64 { return median(good, value) }
			one.rounds = len(good)
			one.wall = of(func(s sample) float64 { return s.Wall })
			one.least = slices.MinFunc(good, byWall).Wall
			one.most = slices.MaxFunc(good, byWall).Wall
			one.toolCPU = of(func(s sample) float64 { return s.User + s.System })
			one.postgres = of(func(s sample) float64 { return s.Postgres })
			one.s3 = of(func(s sample) float64 { return s.S3 })
			one.others = of(func(s sample) float64 { return s.Other })
			one.added = int64(of(func(s sample) float64 { return float64(s.AddedBytes) }))
			one.statistics = of(func(s sample) float64 {
				if s.Statistics == nil {
					return 0
				}
				return s.Statistics.Wall
			})
			for _, s := range good {
				one.peak, one.tree = max(one.peak, s.PeakBytes), max(one.tree, s.TreeBytes)
			}
			one.phases = medianPhases(good)
		}
		lines = append(lines, one)
	}
	return lines
}

func byWall(a, b sample) int {
	switch {
	case a.Wall < b.Wall:
		return -1
	case a.Wall > b.Wall:
		return 1
	}
	return 0
}

func median(samples []sample, value func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, one := range samples {
		values[i] = value(one)
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

func medianPhases(samples []sample) []phaseTime {
	var phases []phaseTime
	for i, phase := range samples[0].Phases {
		phases = append(phases, phaseTime{Phase: phase.Phase, Duration: time.Duration(median(samples, func(s sample) float64 {
			if i >= len(s.Phases) {
				return 0
			}
			return float64(s.Phases[i].Duration)
		}))})
	}
	return phases
}

// ratio is a comparison with a bound.
type ratio struct {
	what  string
	value float64
	unit  string
	// bound is what value must be at least, or at most; 0 where nothing is demanded.
	bound   float64
	atLeast bool
	missing bool
}

func (r ratio) met() bool {
	if r.atLeast {
		return r.value >= r.bound
	}
	return r.value <= r.bound
}

func (r ratio) verdict() string {
	switch {
	case r.missing:
		return "not measured"
	case r.bound == 0:
		return ""
	case r.met():
		return "met"
	}
	return "NOT MET"
}

func (r ratio) boundText() string {
	if r.bound == 0 {
		return ""
	}
	sign := "<="
	if r.atLeast {
		sign = ">="
	}
	return fmt.Sprintf("%s %g%s", sign, r.bound, r.unit)
}

func (r ratio) valueText() string {
	if r.missing {
		return "-"
	}
	return fmt.Sprintf("%.2f%s", r.value, r.unit)
}

// ratios are the bounds that hourvault sets itself, and a few comparisons without one.
func (r *report) ratios() []ratio {
	lines := r.lines()
	find := func(part, tool, wal string) *line {
		for i := range lines {
			if lines[i].part == part && lines[i].tool == tool && lines[i].wal == wal && lines[i].rounds > 0 {
				return &lines[i]
			}
		}
		return nil
	}
	var all []ratio
	compare := func(what string, above, below *line, value func(*line) float64, bound float64, atLeast bool) {
		one := ratio{what: what, bound: bound, atLeast: atLeast, missing: above == nil || below == nil || value(below) == 0}
		if !one.missing {
			one.value = value(above) / value(below)
		}
		all = append(all, one)
	}
	memory := func(what string, of *line) {
		one := ratio{what: what, bound: 256, unit: " MiB", missing: of == nil}
		if of != nil {
			one.value = float64(of.peak) / (1 << 20)
		}
		all = append(all, one)
	}
	wall := func(l *line) float64 { return l.wall }
	added := func(l *line) float64 { return float64(l.added) }
	cpu := func(l *line) float64 { return l.toolCPU + l.postgres + l.s3 }

	first := find(partBackup, toolHourvault, "")
	compare("first snapshot: time of pg_dump (zstd), age and upload / time of hourvault", find(partBackup, toolDump, ""), first, wall, 2, true)
	compare("first snapshot: time of a full backup by pgBackRest / time of hourvault", find(partBackup, toolPgBackRest, ""), first, wall, 1, true)
	compare("first snapshot: CPU of tool and servers, pg_dump (zstd), age and upload / hourvault", find(partBackup, toolDump, ""), first, cpu, 0, true)
	compare("first snapshot: CPU of tool and servers, pgBackRest / hourvault", find(partBackup, toolPgBackRest, ""), first, cpu, 0, true)
	compare("first snapshot: time of hourvault / time of the floor, COPY of all rows", first, find(partBackup, toolFloor, ""), wall, 0, false)
	compare("first snapshot: bytes of hourvault / bytes of the dump (zstd)", first, find(partBackup, toolDump, ""), added, 1.1, false)
	memory("first snapshot: peak memory of hourvault", first)
	compare("second snapshot, nothing changed: bytes added / bytes of the first", find(partSecond, toolHourvault, ""), first, added, 0.01, false)
	compare("snapshot after 1 % of rows changed: bytes added by hourvault / by restic", find(partUpdate, toolHourvault, ""), find(partUpdate, toolRestic, ""), added, 0.5, false)
	for _, level := range []string{"replica", "minimal"} {
		compare("restore, wal_level "+level+": time of pg_restore -j 2 / time of hourvault", find(partRestore, toolRestore, level), find(partRestore, toolHourvault, level), wall, 1, true)
		compare("restore, wal_level "+level+": CPU of tool and servers, pg_restore -j 2 / hourvault, statistics included in hourvault's", find(partRestore, toolRestore, level), find(partRestore, toolHourvault, level), cpu, 0, true)
		withStatistics := find(partRestore, toolRestore, level)
		if withStatistics != nil {
			sum := *withStatistics
			sum.wall += sum.statistics
			withStatistics = &sum
		}
		compare("restore, wal_level "+level+": time of pg_restore -j 2 and collecting statistics / time of hourvault, which includes that", withStatistics, find(partRestore, toolHourvault, level), wall, 0, true)
		memory("restore, wal_level "+level+": peak memory of hourvault", find(partRestore, toolHourvault, level))
	}
	return all
}

// title is how a tool is called in a report.
func title(tool, part string) string {
	switch tool {
	case toolDump:
		return "pg_dump -Fc (zstd), age, rclone"
	case toolDumpGzip:
		return "pg_dump -Fc (gzip), age, rclone"
	case toolPgBackRest:
		if part == partBackup {
			return "pgBackRest, full"
		}
		return "pgBackRest, incremental"
	case toolRestic:
		return "pg_dump -Fc -Z0, restic"
	case toolFloor:
		return "floor: COPY, 2 connections"
	case toolFloorCTID:
		return "floor: COPY with ctid, 2 connections"
	case toolRestore:
		return "pg_restore -j 2 (zstd dump)"
	case toolRestoreGzip:
		return "pg_restore -j 2 (gzip dump)"
	}
	return tool
}

func partTitle(part, wal string) string {
	switch part {
	case partBackup:
		return "First backup"
	case partSecond:
		return "Second backup, nothing changed"
	case partUpdate:
		return "Backup after scattered updates of 1 % of the rows"
	}
	return "Restore into a new database, wal_level " + wal
}

// columns are the heads of the table and of each line its cells.
func columns() []string {
	return []string{"", "time s", "least to most", "tool CPU s", "PostgreSQL CPU s", "S3 CPU s", "other CPU s", "peak MiB", "all processes MiB", "stored MB"}
}

func (l *line) cells() []string {
	if l.rounds == 0 {
		return []string{title(l.tool, l.part), "failed", "", "", "", "", "", "", "", ""}
	}
	number := func(value float64) string { return fmt.Sprintf("%.1f", value) }
	stored := ""
	if l.added != 0 {
		stored = fmt.Sprintf("%.2f", float64(l.added)/1e6)
	}
	return []string{
		title(l.tool, l.part), number(l.wall), number(l.least) + " to " + number(l.most), number(l.toolCPU), number(l.postgres), number(l.s3), number(l.others),
		fmt.Sprintf("%d", l.peak>>20), fmt.Sprintf("%d", l.tree>>20), stored,
	}
}

// notes are what a table has no column for.
func (l *line) notes() []string {
	var notes []string
	if l.statistics > 0 {
		notes = append(notes, fmt.Sprintf("%s: then vacuumdb --analyze-only -j 2 takes %.1f s, which hourvault's restore includes", title(l.tool, l.part), l.statistics))
	}
	if len(l.phases) > 0 {
		var parts []string
		for _, phase := range l.phases {
			if phase.Duration >= 50*time.Millisecond {
				parts = append(parts, fmt.Sprintf("%s %.1f s", phase.Phase, phase.Duration.Seconds()))
			}
		}
		notes = append(notes, "hourvault: "+strings.Join(parts, ", "))
	}
	if l.failed != "" {
		notes = append(notes, title(l.tool, l.part)+" failed: "+strings.ReplaceAll(l.failed, "\n", " | "))
	}
	return notes
}

// about says on what was measured.
func (r *report) about() []string {
	encrypted := ""
	if r.Encrypted {
		encrypted = ", encrypting all objects at rest"
	}
	var settings []string
	for _, setting := range r.Settings {
		settings = append(settings, setting[0]+"="+setting[1])
	}
	about := []string{
		fmt.Sprintf("Measured %s, %d rounds, medians.", r.Started.Format("2006-01-02 15:04 MST"), r.Rounds),
		"Machine: " + r.Machine.String() + ".",
		fmt.Sprintf("Database: %s of tables with TOAST, %s of indexes, about %d rows, in the page cache of the machine.", formatBytes(r.Database.TableBytes), formatBytes(r.Database.IndexBytes), r.Database.Rows),
		"PostgreSQL with its defaults (fsync on) and " + strings.Join(settings, ", ") + ".",
		fmt.Sprintf("Compression: zstd level %d for pg_dump and pgBackRest, the defaults of hourvault and restic.", r.ZstdLevel),
		fmt.Sprintf("S3: %s on the same machine over TLS%s.", r.S3Server, encrypted),
	}
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		about = append(about, name+": "+r.Versions[name]+".")
	}
	return about
}

// text is the report for a terminal.
func (r *report) text() string {
	var out bytes.Buffer
	for _, one := range r.about() {
		fmt.Fprintln(&out, one)
	}
	lines := r.lines()
	for i := range lines {
		if i == 0 || lines[i].part != lines[i-1].part || lines[i].wal != lines[i-1].wal {
			fmt.Fprintf(&out, "\n%s\n", partTitle(lines[i].part, lines[i].wal))
			table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, strings.Join(columns(), "\t"))
			var notes []string
			for j := i; j < len(lines) && lines[j].part == lines[i].part && lines[j].wal == lines[i].wal; j++ {
				fmt.Fprintln(table, strings.Join(lines[j].cells(), "\t"))
				notes = append(notes, lines[j].notes()...)
			}
			_ = table.Flush() // into memory
			for _, note := range notes {
				fmt.Fprintln(&out, note)
			}
		}
	}
	fmt.Fprintln(&out)
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, one := range r.ratios() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", one.what, one.valueText(), one.boundText(), one.verdict())
	}
	_ = table.Flush() // into memory
	return out.String()
}

// markdown is the report for a document.
func (r *report) markdown() string {
	var out bytes.Buffer
	for _, one := range r.about() {
		fmt.Fprintln(&out, "- "+one)
	}
	row := func(cells []string) { fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | ")) }
	fmt.Fprintf(&out, "\n| comparison | measured | must be | |\n| --- | ---: | ---: | --- |\n")
	for _, one := range r.ratios() {
		row([]string{one.what, one.valueText(), one.boundText(), one.verdict()})
	}
	lines := r.lines()
	for i := range lines {
		if i == 0 || lines[i].part != lines[i-1].part || lines[i].wal != lines[i-1].wal {
			fmt.Fprintf(&out, "\n### %s\n\n", partTitle(lines[i].part, lines[i].wal))
			row(columns())
			row(append([]string{"---"}, slices.Repeat([]string{"---:"}, len(columns())-1)...))
			var notes []string
			for j := i; j < len(lines) && lines[j].part == lines[i].part && lines[j].wal == lines[i].wal; j++ {
				row(lines[j].cells())
				notes = append(notes, lines[j].notes()...)
			}
			for _, note := range notes {
				fmt.Fprintf(&out, "\n%s\n", note)
			}
		}
	}
	return out.String()
}

// write writes the files that the flags name.
func (r *report) write(opts options) error {
	var errs []error
	if opts.markdown != "" {
		errs = append(errs, os.WriteFile(opts.markdown, []byte(r.markdown()), 0o644))
	}
	if opts.samples != "" {
		content, err := json.MarshalIndent(r, "", "  ")
		errs = append(errs, err, os.WriteFile(opts.samples, append(content, '\n'), 0o644))
	}
	if opts.document != "" {
		content, err := os.ReadFile(opts.document)
		if err == nil {
			content, err = replaceSection(content, r.markdown())
		}
		if err == nil {
			err = os.WriteFile(opts.document, content, 0o644)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// The markers in a document between which the report stands.
const (
	beginMarker = "<!-- bench: begin -->"
	endMarker   = "<!-- bench: end -->"
)

// replaceSection puts text between the markers of a document.
func replaceSection(document []byte, text string) ([]byte, error) {
	before, rest, found := strings.Cut(string(document), beginMarker)
	_, after, ended := strings.Cut(rest, endMarker)
	if !found || !ended {
		return nil, fmt.Errorf("the document has no lines %q and %q", beginMarker, endMarker)
	}
	return []byte(before + beginMarker + "\n\n" + strings.TrimSpace(text) + "\n\n" + endMarker + after), nil
}

// formatBytes is a size for people, in powers of 1024.
func formatBytes(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
}
