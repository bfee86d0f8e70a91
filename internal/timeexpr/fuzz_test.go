package timeexpr

import (
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv/allocation"
)

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"90s", "1.5h", "1d12h", "2w", "0s", "-2h", "0", "9223372036854775807ms", ".5s", "1..5s", "1e9s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var length time.Duration
		var err error
		allocation.Bound(t, 16*uint64(len(text)), func() { length, err = ParseDuration(text) })
		switch {
		case err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b"):
			t.Errorf("%q: error is not one printable line: %q", text, err)
		case err == nil && length < 0:
			t.Errorf("%q is %s", text, length)
		case err == nil:
			// Twice the text is twice the time, or too long.
			if twice, err := ParseDuration(strings.TrimSpace(text) + strings.TrimSpace(text)); err == nil && twice != 2*length {
				t.Errorf("%q is %s, and twice %s", text, length, twice)
			}
		}
	})
}

func FuzzParseZone(f *testing.F) {
	for _, text := range []string{"Europe/Berlin", "UTC", "local", "+02:00", "-05:30", "../../etc/passwd", "", "+25:00", "zone.tab"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		zone, err := ParseZone(text)
		if (err == nil) == (zone == nil) {
			t.Errorf("%q: %v, %v", text, zone, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
			t.Errorf("%q: error is not one printable line: %q", text, err)
		}
	})
}
