package timeexpr

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ErrNegative says that a duration was written with a minus sign.
var ErrNegative = errors.New("must not be negative")

// errDuration is the one answer to a text that is no duration; callers add what it was for.
var errDuration = errors.New("is not a duration: write a number and a unit, such as 90s, 30m, 2h, 7d or 2w")

// durationUnits are the units a duration may be written in. A day is always 24 hours, a week always seven
// such days: objectives and intervals must not change length with the season.
var durationUnits = map[string]time.Duration{
	"ms": time.Millisecond,
	"s":  time.Second,
	"m":  time.Minute,
	"h":  time.Hour,
	"d":  24 * time.Hour,
	"w":  7 * 24 * time.Hour,
}

// ParseDuration reads a length of time: one or more numbers, each with a unit of ms, s, m, h, d (24 hours)
// or w (7 days), without spaces, such as "90s", "1.5h", "7d" or "1d12h". A bare number is refused, "0" too:
// "0s" says what it means. The result is never negative. Errors are one clause that fits behind the name of
// what was read ("lock_timeout " + err), without the text itself; a minus sign gives ErrNegative.
func ParseDuration(text string) (time.Duration, error) {
	rest := strings.TrimSpace(text)
	if strings.HasPrefix(rest, "-") {
		return 0, ErrNegative
	}
	if rest == "" {
		return 0, errDuration
	}
	var total time.Duration
	for rest != "" {
		end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if end <= 0 {
			return 0, errDuration
		}
		number := rest[:end]
		rest = rest[end:]
		end = strings.IndexFunc(rest, func(r rune) bool { return r < 'a' || r > 'z' })
		if end < 0 {
			end = len(rest)
		}
		unit, known := durationUnits[rest[:end]]
		if !known {
			return 0, errDuration
		}
		rest = rest[end:]

		part, err := scale(number, unit)
		if err != nil {
			return 0, err
		}
		if part > math.MaxInt64-total {
			return 0, errTooLong
		}
		total += part
	}
	return total, nil
}

var errTooLong = fmt.Errorf("is too long: the longest duration is %dd", int64(math.MaxInt64/(24*time.Hour)))

// scale multiplies a decimal number with a unit. Whole numbers are exact; a fraction is rounded to the
// nanosecond.
func scale(number string, unit time.Duration) (time.Duration, error) {
	if !strings.Contains(number, ".") {
		whole, err := strconv.ParseInt(number, 10, 64)
		if err != nil || whole > math.MaxInt64/int64(unit) {
			return 0, errTooLong
		}
		return time.Duration(whole) * unit, nil
	}
	fraction, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, errDuration
	}
	product := math.Round(fraction * float64(unit))
	if product >= math.MaxInt64 {
		return 0, errTooLong
	}
	return time.Duration(product), nil
}
