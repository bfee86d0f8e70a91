package timeexpr

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Skipf("no time zone data on this machine: %v", err)
	}
	return zone
}

var now = time.Date(2026, 11, 22, 14, 30, 15, 123456000, time.UTC)

func TestParseInstantReadsEveryForm(t *testing.T) {
	berlin := location(t, "Europe/Berlin")
	cases := []struct{ text, want string }{
		{"2026-11-20T14:00:00Z", "2026-11-20T14:00:00Z"},
		{"2026-11-20T14:00:00+01:00", "2026-11-20T13:00:00Z"},
		{"2026-11-20T14:00:00.25-05:00", "2026-11-20T19:00:00.25Z"},
		{"2026-11-20 14:00", "2026-11-20T13:00:00Z"},
		{"2026-07-20 14:00", "2026-07-20T12:00:00Z"},
		{"2026-11-20 14:00:05", "2026-11-20T13:00:05Z"},
		{"2026-11-20T14:00", "2026-11-20T13:00:00Z"},
		{"2026-11-20T14:00:05", "2026-11-20T13:00:05Z"},
		{"2026-11-20", "2026-11-19T23:00:00Z"},
		{" 2026-11-20 ", "2026-11-19T23:00:00Z"},
		{"now", "2026-11-22T14:30:15.123456Z"},
		{"3h ago", "2026-11-22T11:30:15.123456Z"},
		{"90m ago", "2026-11-22T13:00:15.123456Z"},
		{"2d ago", "2026-11-20T14:30:15.123456Z"},
		{"1d12h ago", "2026-11-21T02:30:15.123456Z"},
		{"1w ago", "2026-11-15T14:30:15.123456Z"},
		{"0s ago", "2026-11-22T14:30:15.123456Z"},
		{"2030-01-01", "2029-12-31T23:00:00Z"}, // the future is the caller's to refuse
	}
	for _, c := range cases {
		got, err := ParseInstant(c.text, now, berlin)
		if err != nil {
			t.Errorf("ParseInstant(%q): %v", c.text, err)
			continue
		}
		if got.Format(time.RFC3339Nano) != c.want || got.Location() != time.UTC {
			t.Errorf("ParseInstant(%q) = %v, want %s in UTC", c.text, got, c.want)
		}
	}
}

func TestParseInstantRefusesWithOneLineThatHelps(t *testing.T) {
	berlin := location(t, "Europe/Berlin")
	cases := []struct{ text, want string }{
		{"", `time "" is not understood: ` + examples},
		{"yesterday", `time "yesterday" is not understood: ` + examples},
		{"14:00", `time "14:00" is not understood: ` + examples},
		{"2026-02-30", `time "2026-02-30" is not understood: ` + examples},
		{"2026-11-20 24:00", `time "2026-11-20 24:00" is not understood: ` + examples},
		{"2026-11-20 14:00:05.5", `time "2026-11-20 14:00:05.5" is not understood: ` + examples},
		{"2026-11-20 4:00", `time "2026-11-20 4:00" is not understood: ` + examples},
		{"20\n26", `time "20\n26" is not understood: ` + examples},
		{"3 ago", `time "3 ago": "3" is not a duration: write a number and a unit, such as 90s, 30m, 2h, 7d or 2w`},
		{"-3h ago", `time "-3h ago": "-3h" must not be negative`},
		{"3x ago", `time "3x ago": "3x" is not a duration: write a number and a unit, such as 90s, 30m, 2h, 7d or 2w`},
		{"99999999w ago", `time "99999999w ago": "99999999w" is too long: the longest duration is 106751d`},
	}
	for _, c := range cases {
		got, err := ParseInstant(c.text, now, berlin)
		if err == nil {
			t.Errorf("ParseInstant(%q) = %v, want an error", c.text, got)
			continue
		}
		if err.Error() != c.want {
			t.Errorf("ParseInstant(%q)\n got %s\nwant %s", c.text, err, c.want)
		}
	}
}

func TestParseInstantRefusesLocalTimesThatClocksRepeatOrSkip(t *testing.T) {
	cases := []struct{ zone, text, want string }{
		{"Europe/Berlin", "2026-10-25 02:30", `time "2026-10-25 02:30" occurs twice in Europe/Berlin, where clocks were set back: write 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00`},
		{"Europe/Berlin", "2026-03-29 02:30", `time "2026-03-29 02:30" does not exist in Europe/Berlin, where clocks were set forward: write 2026-03-29T01:30:00+01:00 or 2026-03-29T03:30:00+02:00`},
		{"America/New_York", "2026-11-01 01:00", `time "2026-11-01 01:00" occurs twice in America/New_York, where clocks were set back: write 2026-11-01T01:00:00-04:00 or 2026-11-01T01:00:00-05:00`},
		// Half an hour only.
		{"Australia/Lord_Howe", "2026-04-05 01:45", `time "2026-04-05 01:45" occurs twice in Australia/Lord_Howe, where clocks were set back: write 2026-04-05T01:45:00+11:00 or 2026-04-05T01:45:00+10:30`},
		// A date alone is midnight, which some zones skip.
		{"America/Sao_Paulo", "2018-11-04", `time "2018-11-04" does not exist in America/Sao_Paulo, where clocks were set forward: write 2018-11-03T23:00:00-03:00 or 2018-11-04T01:00:00-02:00`},
		// A whole day that never was.
		{"Pacific/Apia", "2011-12-30 12:00", `time "2011-12-30 12:00" does not exist in Pacific/Apia, where clocks were set forward: write 2011-12-29T12:00:00-10:00 or 2011-12-31T12:00:00+14:00`},
	}
	for _, c := range cases {
		got, err := ParseInstant(c.text, now, location(t, c.zone))
		if err == nil {
			t.Errorf("ParseInstant(%q) in %s = %v, want an error", c.text, c.zone, got)
			continue
		}
		if err.Error() != c.want {
			t.Errorf("ParseInstant(%q) in %s\n got %s\nwant %s", c.text, c.zone, err, c.want)
		}
	}
}

func TestParseInstantAcceptsTheMinutesBesideAClockChange(t *testing.T) {
	berlin := location(t, "Europe/Berlin")
	for text, want := range map[string]string{
		"2026-10-25 01:59:59": "2026-10-24T23:59:59Z",
		"2026-10-25 03:00":    "2026-10-25T02:00:00Z",
		"2026-03-29 01:59:59": "2026-03-29T00:59:59Z",
		"2026-03-29 03:00":    "2026-03-29T01:00:00Z",
	} {
		got, err := ParseInstant(text, now, berlin)
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("ParseInstant(%q) = %v, %v; want %s", text, got, err, want)
		}
	}
}

func TestFormatInstantShowsTheZoneAndKeepsFractions(t *testing.T) {
	berlin := location(t, "Europe/Berlin")
	if got, want := FormatInstant(now, berlin), "2026-11-22T15:30:15.123456+01:00"; got != want {
		t.Errorf("FormatInstant = %s, want %s", got, want)
	}
	if got, want := FormatInstant(now.Truncate(time.Second), time.UTC), "2026-11-22T14:30:15Z"; got != want {
		t.Errorf("FormatInstant = %s, want %s", got, want)
	}
	// Local mean time of Berlin was +00:53:28, which RFC 3339 cannot say.
	old := time.Date(1880, 1, 1, 12, 0, 0, 0, time.UTC)
	if got, want := FormatInstant(old, berlin), "1880-01-01T12:00:00Z"; got != want {
		t.Errorf("FormatInstant = %s, want %s", got, want)
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "250ms": 250 * time.Millisecond, "10s": 10 * time.Second, "90m": 90 * time.Minute,
		"2h": 2 * time.Hour, "1.5h": 90 * time.Minute, "7d": 168 * time.Hour, "2w": 336 * time.Hour,
		"1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute, " 2h ": 2 * time.Hour,
	} {
		got, err := ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "10", "h", "2 h", "2H", "2y", "1..5h", "+2h", "2h-1m", "1e3s", "10µs", "9223372036854775807h", "106751d106751d", "99999999999999999999.0w"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
	if _, err := ParseDuration("-2h"); !errors.Is(err, ErrNegative) {
		t.Errorf("ParseDuration(-2h): got %v, want ErrNegative", err)
	}
}

func TestParseZone(t *testing.T) {
	location(t, "Europe/Berlin")
	for _, name := range []string{"Europe/Berlin", "UTC", "local", "+02:00", "-05:30"} {
		zone, err := ParseZone(name)
		if err != nil || zone == nil {
			t.Errorf("ParseZone(%q): %v", name, err)
		}
	}
	for _, name := range []string{"", "Berlin", "../../etc/passwd", "+2", "+25:00"} {
		if zone, err := ParseZone(name); err == nil {
			t.Errorf("ParseZone(%q) = %v, want an error", name, zone)
		}
	}
}

// FuzzParseInstant holds that no text makes the parser panic or answer in more than one line, and that what
// it accepts survives printing and reading again in any zone.
func FuzzParseInstant(f *testing.F) {
	for _, zone := range []string{"UTC", "Europe/Berlin", "Pacific/Apia"} {
		for _, text := range []string{"now", "3h ago", "2026-10-25 02:30", "2026-03-29 02:30", "2026-11-20", "2026-11-20T14:00:00.5+01:00", "0001-01-01", "9999-12-31 23:59"} {
			f.Add(text, zone)
		}
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		zone, err := ParseZone(name)
		if err != nil {
			return
		}
		instant, err := ParseInstant(text, now, zone)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Fatalf("ParseInstant(%q): error is not one printable line: %q", text, err)
			}
			return
		}
		printed := FormatInstant(instant, zone)
		again, err := ParseInstant(printed, now, time.UTC)
		if err != nil || !again.Equal(instant) {
			t.Fatalf("ParseInstant(%q) = %v, printed %q, read again as %v, %v", text, instant, printed, again, err)
		}
	})
}
