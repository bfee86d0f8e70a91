package console

import (
	"fmt"
	"strconv"
	"time"
)

// FormatSize prints a number of bytes with a binary unit: "512 B", "1.2 MiB". Less than 0 prints with a
// minus sign.
func FormatSize(sizeBytes int64) string {
	if sizeBytes < 0 {
		if sizeBytes == -1<<63 {
			return "-8.0 EiB"
		}
		return "-" + FormatSize(-sizeBytes)
	}
	if sizeBytes < 1024 {
		return strconv.FormatInt(sizeBytes, 10) + " B"
	}
	size := float64(sizeBytes)
	unit := -1
	// 1023.95 would be printed as 1024.0.
	for size >= 1023.95 {
		size /= 1024
		unit++
	}
	if unit < 0 {
		size, unit = size/1024, 0
	}
	return fmt.Sprintf("%.1f %ciB", size, "KMGTPE"[unit])
}

// FormatDuration prints a length of time for people, in its two largest units: "850ms", "4.2s", "42s",
// "3m 20s", "5h 12m", "3d 4h". It is cut, not rounded, to the smallest unit shown.
func FormatDuration(d time.Duration) string {
	if d < 0 {
		if d == -1<<63 {
			d++
		}
		return "-" + FormatDuration(-d)
	}
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	case d < 10*time.Second:
		return fmt.Sprintf("%d.%ds", d/time.Second, d%time.Second/(100*time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd %dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}
