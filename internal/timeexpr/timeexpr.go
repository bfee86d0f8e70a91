// Package timeexpr reads and writes instants and durations the way people type them on a command line or in
// a configuration file: "2026-11-20 14:00", "3h ago", "7d". It knows no clock and no environment: the
// present instant and the zone are arguments.
package timeexpr

import (
	"fmt"
	"strings"
	"time"
)

// examples ends every refusal, so that the reader can correct the command at once.
const examples = `write 2026-11-20 14:00, 2026-11-20 14:00:05, 2026-11-20, 2026-11-20T14:00:00+01:00, "3h ago" or now`

// localLayouts are the forms without a zone, which are read in the zone given by the caller.
var localLayouts = []string{
	"2006-01-02 15:04",
	"2006-01-02 15:04:05",
	"2006-01-02T15:04",
	"2006-01-02T15:04:05",
	"2006-01-02",
}

// ParseInstant reads an instant. It accepts
//
//   - RFC 3339 with its offset, fractions of a second allowed: 2026-11-20T14:00:00.5+01:00, 2026-11-20T13:00:00Z;
//   - a date and a time of day in zone: 2026-11-20 14:00, 2026-11-20 14:00:05, also with T between them;
//   - a date, meaning 00:00 of that day in zone: 2026-11-20;
//   - a time before now: 3h ago, 90m ago, 2d ago, 1d12h ago (d is exactly 24 hours, see ParseDuration);
//   - now.
//
// A time of day that occurs twice or not at all on that day, because clocks are changed, is refused with an
// error that shows the two instants it could mean in RFC 3339. Instants in the future are not refused. The
// result is in UTC. Every error is one line that quotes the text and shows what to write.
func ParseInstant(text string, now time.Time, zone *time.Location) (time.Time, error) {
	instant, err := parseInstant(text, now, zone)
	if err != nil {
		return time.Time{}, err
	}
	instant = instant.UTC()
	if instant.Year() < 1 || instant.Year() > 9999 {
		return time.Time{}, fmt.Errorf("time %q is outside the years 1 to 9999: %s", text, examples)
	}
	return instant, nil
}

func parseInstant(text string, now time.Time, zone *time.Location) (time.Time, error) {
	trimmed := strings.TrimSpace(text)
	if trimmed == "now" {
		return now, nil
	}
	if span, found := strings.CutSuffix(trimmed, " ago"); found {
		back, err := ParseDuration(span)
		if err != nil {
			return time.Time{}, fmt.Errorf("time %q: %q %w", text, strings.TrimSpace(span), err)
		}
		return now.Add(-back), nil
	}
	// RFC3339 accepts a fraction of a second on input although its layout shows none.
	if instant, err := time.Parse(time.RFC3339, trimmed); err == nil {
		return instant, nil
	}
	for _, layout := range localLayouts {
		// Parsed as if in UTC: only the fields of the calendar and the clock are wanted here. Lengths are
		// compared because time.Parse takes fractions and one-digit hours that no layout here shows.
		wall, err := time.Parse(layout, trimmed)
		if err != nil || len(trimmed) != len(layout) {
			continue
		}
		return inZone(text, wall, zone)
	}
	return time.Time{}, fmt.Errorf("time %q is not understood: %s", text, examples)
}

// inZone finds the one instant at which the clocks of zone show the calendar and clock fields of wall.
func inZone(text string, wall time.Time, zone *time.Location) (time.Time, error) {
	// No zone has ever been further from UTC, or has ever jumped further, than a day and some hours: every
	// offset that may apply is in force somewhere in this window.
	const window = 26 * time.Hour
	end := wall.Add(window)
	var matches, offsets []time.Time
	for t := wall.Add(-window).In(zone); ; {
		_, seconds := t.Zone()
		candidate := wall.Add(-time.Duration(seconds) * time.Second)
		offsets = append(offsets, candidate)
		if sameFields(candidate.In(zone), wall) && (len(matches) == 0 || !matches[len(matches)-1].Equal(candidate)) {
			matches = append(matches, candidate)
		}
		_, next := t.ZoneBounds()
		if next.IsZero() || next.After(end) {
			break
		}
		t = next
	}
	switch {
	case len(matches) == 1:
		return matches[0], nil
	case len(matches) > 1:
		return time.Time{}, fmt.Errorf("time %q occurs twice in %s, where clocks were set back: write %s or %s",
			text, zone, FormatInstant(matches[0], zone), FormatInstant(matches[len(matches)-1], zone))
	}
	// Nothing matched, so the clocks jumped over this time: the offset before the jump places it behind the
	// jump, the offset after the jump places it before.
	for i := len(offsets) - 1; i > 0; i-- {
		before, after := offsets[i], offsets[i-1]
		if before.Before(after) && sameOffsetJump(before, after, zone) {
			return time.Time{}, fmt.Errorf("time %q does not exist in %s, where clocks were set forward: write %s or %s",
				text, zone, FormatInstant(before, zone), FormatInstant(after, zone))
		}
	}
	return time.Time{}, fmt.Errorf("time %q does not exist in %s: %s", text, zone, examples)
}

// sameOffsetJump reports whether the clocks of zone were changed between the two instants.
func sameOffsetJump(before, after time.Time, zone *time.Location) bool {
	_, a := before.In(zone).Zone()
	_, b := after.In(zone).Zone()
	return a != b
}

func sameFields(a, b time.Time) bool {
	ay, am, ad := a.Date()
	by, bm, bd := b.Date()
	ah, an, as := a.Clock()
	bh, bn, bs := b.Clock()
	return ay == by && am == bm && ad == bd && ah == bh && an == bn && as == bs
}

// FormatInstant prints an instant in RFC 3339 with the offset of zone, without a space, so that it can be
// pasted into the next command. Fractions of a second are printed when there are any: ParseInstant of the
// result is exactly t, for the years 1 to 9999. An offset that RFC 3339 cannot express (local mean time
// before about 1900 has seconds in it) gives way to UTC.
func FormatInstant(t time.Time, zone *time.Location) string {
	local := t.In(zone)
	if _, seconds := local.Zone(); seconds%60 != 0 || local.Year() < 1 || local.Year() > 9999 {
		local = t.UTC()
	}
	return local.Format(time.RFC3339Nano)
}

// ParseZone reads the name of a time zone: an IANA name such as Europe/Berlin, UTC, local for the zone of
// this machine, or a fixed offset such as +02:00.
func ParseZone(text string) (*time.Location, error) {
	name := strings.TrimSpace(text)
	switch name {
	case "":
		return nil, fmt.Errorf("time zone is empty: write a name such as Europe/Berlin, UTC, local or +02:00")
	case "local", "Local":
		return time.Local, nil
	}
	if name[0] == '+' || name[0] == '-' {
		offset, err := time.Parse("-07:00", name)
		if err != nil {
			return nil, fmt.Errorf("time zone %q is not an offset: write it as +02:00", text)
		}
		_, seconds := offset.Zone()
		return time.FixedZone(name, seconds), nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %q is not known: write a name such as Europe/Berlin, UTC, local or +02:00", text)
	}
	return zone, nil
}
