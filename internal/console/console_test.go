package console

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.text.String()
}

// pass lets fake time pass: it is for bubbles of synctest only, where nobody really waits.
func pass(d time.Duration) { <-time.After(d) }

func TestPrintableKeepsVisibleNamesAndQuotesTheRest(t *testing.T) {
	for name, want := range map[string]string{
		"acme":             "acme",
		"Büro 日本":          "Büro 日本",
		`it's a "name"`:    `it's a "name"`,
		`back\slash`:       `back\slash`,
		"":                 `""`,
		`"quoted"`:         `"\"quoted\""`,
		" led":             `" led"`,
		"trailed ":         `"trailed "`,
		"line\nbreak":      `"line\nbreak"`,
		"red\x1b[31m":      `"red\x1b[31m"`,
		"c1\u009b31m":      `"c1\u009b31m"`,
		"tab\t":            `"tab\t"`,
		"del\x7f":          `"del\x7f"`,
		"rtl\u202egnp.exe": `"rtl\u202egnp.exe"`,
		"zero\u200bwidth":  `"zero\u200bwidth"`,
		"nbsp\u00a0":       `"nbsp\u00a0"`,
		"latin1 \xe9":      `"latin1 \xe9"`,
	} {
		if got := Printable(name); got != want {
			t.Errorf("Printable(%q) = %s, want %s", name, got, want)
		}
	}
}

func TestTextEscapesMessagesButKeepsTheirLines(t *testing.T) {
	for message, want := range map[string]string{
		"a\nb":                 "a\nb",
		"ok\nsay \"\x1b[2J\"":  "ok\nsay \"\\x1b[2J\"",
		"a\r\nb":               "a\\r\nb",
		`plain "quotes" and \`: `plain "quotes" and \`,
	} {
		if got := Text(message); got != want {
			t.Errorf("Text(%q) = %q, want %q", message, got, want)
		}
	}
}

// FuzzPrintable holds that no name reaches the terminal with anything invisible in it, and that different
// names never print alike.
func FuzzPrintable(f *testing.F) {
	for _, seed := range []string{"acme", "", "a\nb", "\x1b[31m", "\xff", `"x"`, `\x1b`, "\u202e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		printed := Printable(name)
		if !utf8.ValidString(printed) || strings.ContainsFunc(printed, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Fatalf("Printable(%q) = %q is not printable", name, printed)
		}
		back := printed
		if strings.HasPrefix(printed, `"`) {
			var err error
			if back, err = strconv.Unquote(printed); err != nil {
				t.Fatalf("Printable(%q) = %s cannot be read back: %v", name, printed, err)
			}
		}
		if back != name {
			t.Fatalf("Printable(%q) = %s reads back as %q", name, printed, back)
		}
	})
}

func TestFormatSize(t *testing.T) {
	for size, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1258291: "1.2 MiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB",
		1 << 30: "1.0 GiB", 1 << 40: "1.0 TiB", 1<<63 - 1: "8.0 EiB", -2048: "-2.0 KiB", -1 << 63: "-8.0 EiB",
	} {
		if got := FormatSize(size); got != want {
			t.Errorf("FormatSize(%d) = %s, want %s", size, got, want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 850 * time.Millisecond: "850ms", 999999 * time.Microsecond: "999ms", 4250 * time.Millisecond: "4.2s", 9999 * time.Millisecond: "9.9s",
		42 * time.Second: "42s", 200 * time.Second: "3m 20s", time.Hour - 1: "59m 59s", 5*time.Hour + 12*time.Minute: "5h 12m", 76 * time.Hour: "3d 4h",
		-3 * time.Second: "-3.0s",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%d) = %s, want %s", d, got, want)
		}
	}
	if got := FormatDuration(-1 << 63); !strings.HasPrefix(got, "-106751d") {
		t.Errorf("shortest duration printed as %s", got)
	}
}

func TestTableIsAlignedAndCannotBeForged(t *testing.T) {
	var out bytes.Buffer
	table := NewTable(&out, "WORKSPACE", "SIZE", "NOTE")
	table.Row("acme", "1.2 MiB", "")
	table.Row("evil\nother\t9 B", "3 B", "x")
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	want := "WORKSPACE           SIZE     NOTE\nacme                1.2 MiB  \n\"evil\\nother\\t9 B\"  3 B      x\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

func TestResultThatCannotBeWrittenIsAnError(t *testing.T) {
	cause := errors.New("disk full")
	table := NewTable(brokenWriter{cause}, "A")
	if err := table.Flush(); !errors.Is(err, cause) {
		t.Errorf("table: got %v", err)
	}
	if err := WriteJSON(brokenWriter{cause}, 1); !errors.Is(err, cause) {
		t.Errorf("json: got %v", err)
	}
}

func TestWriteJSONWritesOneReadableDocument(t *testing.T) {
	var out bytes.Buffer
	if err := WriteJSON(&out, map[string]any{"name": "a<b>\n\x1b"}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "{\n  \"name\": \"a<b>\\n\\u001b\"\n}\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStreamsOfPlainFilesAreNoTerminals(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if streams := NewStreams(file, file); streams.OutIsTerminal || streams.ErrIsTerminal {
		t.Errorf("got %+v", streams)
	}
}

func TestProgressWithoutTerminalWritesALineEveryTenSecondsAndOneAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, errors buffer
		p := NewProgress(&Streams{Out: &out, Err: &errors}, "restore acme", Bytes, 0)
		p.SetTotal(100 << 20)
		pass(500 * time.Millisecond)
		for range 25 {
			pass(time.Second)
			p.Add(2 << 20)
		}
		p.Finish(nil)
		p.Finish(nil)
		want := `restore acme: 18.0 MiB of 100.0 MiB, 1.8 MiB/s, 46s left (18%)
restore acme: 38.0 MiB of 100.0 MiB, 1.9 MiB/s, 33s left (38%)
restore acme: 50.0 MiB in 25s, 2.0 MiB/s
`
		if errors.String() != want {
			t.Errorf("got\n%s\nwant\n%s", errors.String(), want)
		}
		if out.String() != "" {
			t.Errorf("the result stream got %q", out.String())
		}
	})
}

func TestProgressThatStandsStillSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var errors buffer
		p := NewProgress(&Streams{Err: &errors}, "read", Rows, 1000)
		p.Add(500)
		pass(41 * time.Second)
		p.Finish(nil)
		lines := strings.Split(errors.String(), "\n")
		if got, want := lines[3], "read: 500 rows of 1000 rows, 0 rows/s, time left not known (50%)"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestProgressOfFailedWorkSaysHowFarItCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var errors buffer
		streams := &Streams{Err: &errors}
		p := NewProgress(streams, "restore a\nb", Rows, 10)
		p.Add(3)
		pass(2 * time.Second)
		p.Finish(os.ErrClosed)
		NewProgress(streams, "list", Workspaces, 0).Finish(os.ErrClosed)
		want := "\"restore a\\nb\": stopped at 3 rows of 10 rows after 2.0s\nlist: stopped at 0 workspaces after 0ms\n"
		if errors.String() != want {
			t.Errorf("got %q, want %q", errors.String(), want)
		}
	})
}

// screen plays what a terminal of one line does with carriage returns and erasing, and returns the lines
// that remain visible.
func screen(output string) []string {
	lines := []string{""}
	column := 0
	for i := 0; i < len(output); {
		last := &lines[len(lines)-1]
		switch {
		case strings.HasPrefix(output[i:], "\x1b[2K"):
			*last, i = "", i+4
		case strings.HasPrefix(output[i:], "\x1b[0K"):
			*last, i = (*last)[:min(column, len(*last))], i+4
		case output[i] == '\r':
			column, i = 0, i+1
		case output[i] == '\n':
			lines, column, i = append(lines, ""), 0, i+1
		default:
			padded := *last + strings.Repeat(" ", max(0, column+1-len(*last)))
			*last = padded[:column] + output[i:i+1] + padded[column+1:]
			column, i = column+1, i+1
		}
	}
	return lines
}

func TestProgressOnATerminalDrawsABarAndLeavesOnlyTheLastLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		p := NewProgress(&Streams{Err: &out, ErrIsTerminal: true}, "restore acme", Bytes, 0)
		p.Add(1 << 20)
		pass(time.Second + time.Millisecond)
		if lines := screen(out.String()); len(lines) != 1 || !strings.Contains(lines[0], "restore acme: 1.0 MiB, 1.0 MiB/s") {
			t.Errorf("total not known: got %q", lines)
		}
		p.SetTotal(4 << 20)
		pass(time.Second)
		if lines := screen(out.String()); len(lines) != 1 || !strings.Contains(lines[0], "25% [====>...............]  restore acme: 1.0 MiB of 4.0 MiB, 512.0 KiB/s, 6s left") {
			t.Errorf("total known: got %q", lines)
		}
		p.Note("warning: \x1b[31mred")
		pass(time.Second)
		// The total is reached and then turns out to have been too small: the bar must go on.
		p.Add(3 << 20)
		pass(time.Second)
		p.SetTotal(16 << 20)
		pass(time.Second)
		if lines := screen(out.String()); len(lines) != 2 || !strings.Contains(lines[1], "4.0 MiB of 16.0 MiB") || !strings.Contains(lines[1], "25% [") {
			t.Errorf("grown total: got %q", lines)
		}
		p.Finish(nil)
		want := []string{`warning: \x1b[31mred`, "restore acme: 4.0 MiB in 5.0s, 819.0 KiB/s", ""}
		if lines := screen(out.String()); strings.Join(lines, "\n") != strings.Join(want, "\n") {
			t.Errorf("at the end: got %q, want %q", lines, want)
		}
	})
}

func TestNothingIsDrawnAfterTheLastLine(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		for range 300 {
			synctest.Test(t, func(t *testing.T) {
				var out buffer
				p := NewProgress(&Streams{Err: &out, ErrIsTerminal: terminal}, "x", Rows, 100)
				// The end falls on the very instant at which a line or a bar is due.
				pass(lineInterval)
				p.Finish(nil)
				synctest.Wait()
				if !strings.HasSuffix(out.String(), "x: 0 rows in 10s, 0 rows/s\n") {
					t.Fatalf("got %q", out.String())
				}
			})
		}
	}
}

func TestProgressMayBeUsedByManyGoroutines(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var out buffer
			p := NewProgress(&Streams{Err: &out, ErrIsTerminal: terminal}, "x", Rows, 100)
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					for i := range 100 {
						pass(50 * time.Millisecond)
						p.Add(1)
						if i%25 == 0 {
							p.Note("note")
							p.SetTotal(int64(800 + i))
						}
					}
				})
			}
			group.Wait()
			p.Finish(nil)
			if !strings.HasSuffix(out.String(), "x: 800 rows in 5.0s, 160 rows/s\n") {
				t.Errorf("got %q", out.String())
			}
		})
	}
}
