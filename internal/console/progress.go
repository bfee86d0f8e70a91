package console

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Unit is what a Progress counts: Bytes, or the plural of anything else, such as Rows.
type Unit string

// The usual units.
const (
	Bytes      Unit = "bytes"
	Rows       Unit = "rows"
	Blocks     Unit = "blocks"
	Workspaces Unit = "workspaces"
)

const (
	// redrawInterval is how often a bar is drawn anew.
	redrawInterval = 200 * time.Millisecond
	// lineInterval is the shortest time between two lines where there is no terminal.
	lineInterval = 10 * time.Second
	// rateWindow is the time over which the shown rate is averaged.
	rateWindow = 15 * time.Second
	// barSteps is the resolution of the bar; amounts are scaled to it.
	barSteps = 1000
)

// Progress shows how far a long piece of work is, on Streams.Err: as a bar with amount, rate and time left
// on a terminal, elsewhere as a plain line every ten seconds; and one line at its end in both. All methods
// may be called concurrently. Finish must be called: a goroutine draws until then. There should be one
// Progress at a time on a stream, and while it runs other lines go through Note.
type Progress struct {
	title   string
	unit    Unit
	out     io.Writer
	started time.Time

	done  atomic.Int64
	total atomic.Int64 // 0 or less: not known

	stop    chan struct{}
	stopped chan struct{}
	finish  sync.Once

	mutex   sync.Mutex // held while writing to out; guards what follows
	bar     *progressbar.ProgressBar
	known   bool // the bar was made for a known total
	samples []sample
}

// sample is how much was done at an instant.
type sample struct {
	at   time.Time
	done int64
}

// NewProgress begins to show progress of total units of work; a total of 0 or less means that it is not
// known yet. title names the work, such as "restore acme"; it passes through Printable. Nothing is written
// before some time has passed, so that quick work shows its last line only.
func NewProgress(streams *Streams, title string, unit Unit, total int64) *Progress {
	p := &Progress{
		title: Printable(title), unit: unit, out: streams.Err, started: time.Now(),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	p.total.Store(total)
	p.samples = []sample{{p.started, 0}}
	if streams.ErrIsTerminal {
		go p.run(redrawInterval, p.draw)
	} else {
		go p.run(lineInterval, p.line)
	}
	return p
}

// run calls show at every interval until the progress is stopped.
func (p *Progress) run(interval time.Duration, show func()) {
	defer close(p.stopped)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			show()
		}
	}
}

// Add counts n more units as done. It is cheap: nothing is drawn by it.
func (p *Progress) Add(n int64) { p.done.Add(n) }

// SetTotal changes how much there is to do altogether.
func (p *Progress) SetTotal(total int64) { p.total.Store(total) }

// Note writes one line for people, safely beside a bar. The line passes through Text.
func (p *Progress) Note(line string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.clear()
	// Nowhere is left to report that stderr cannot be written to.
	_, _ = io.WriteString(p.out, Text(line)+"\n")
}

// Finish ends the progress, waits until nothing is drawn any more, and writes a last line: what was done in
// which time, or that it stopped half-way if err is not nil. The error itself is not printed: whoever
// handles it does that. Calls after the first do nothing.
func (p *Progress) Finish(err error) {
	p.finish.Do(func() {
		close(p.stop)
		<-p.stopped
		p.mutex.Lock()
		defer p.mutex.Unlock()
		p.clear()
		elapsed := time.Since(p.started)
		done, total := p.done.Load(), p.total.Load()
		var line string
		switch {
		case err != nil && total > 0:
			line = fmt.Sprintf("stopped at %s of %s after %s", p.unit.amount(done), p.unit.amount(total), FormatDuration(elapsed))
		case err != nil:
			line = fmt.Sprintf("stopped at %s after %s", p.unit.amount(done), FormatDuration(elapsed))
		default:
			line = fmt.Sprintf("%s in %s", p.unit.amount(done), FormatDuration(elapsed))
			if elapsed >= time.Second {
				line += ", " + p.unit.rate(float64(done)/elapsed.Seconds())
			}
		}
		_, _ = fmt.Fprintf(p.out, "%s: %s\n", p.title, line)
	})
}

// line writes one plain line.
func (p *Progress) line() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	text, percent := p.status()
	if percent >= 0 {
		text += fmt.Sprintf(" (%d%%)", percent)
	}
	_, _ = fmt.Fprintf(p.out, "%s: %s\n", p.title, text)
}

// draw draws the bar anew.
func (p *Progress) draw() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	text, percent := p.status()
	known := percent >= 0
	if p.bar != nil && p.known != known {
		p.clear()
		p.bar = nil
	}
	if p.bar == nil {
		p.bar, p.known = newBar(p.out, known), known
	}
	description := shorten(p.title) + ": " + text
	if !known {
		p.bar.Describe(description)
		return
	}
	// Below the last step: the library takes a full bar for the end and never draws again, while an estimated
	// total may still grow. Errors are those of writing to stderr.
	step := int64(float64(p.done.Load()) / float64(p.total.Load()) * barSteps)
	_ = p.bar.Set64(max(0, min(step, barSteps-1)))
	p.bar.Describe(description)
}

// shorten cuts a title so that bar and text fit into one line of a terminal: a line that wraps cannot be
// drawn over.
func shorten(title string) string {
	const most = 32
	runes := []rune(title)
	if len(runes) <= most {
		return title
	}
	return string(runes[:most-3]) + "..."
}

func newBar(out io.Writer, known bool) *progressbar.ProgressBar {
	length := int64(-1)
	if known {
		length = barSteps
	}
	// Only the bar itself is the library's: amounts, rate and time left are ours, because its estimate shows
	// 0s while work stands still. With an interval of 0 it starts no goroutine.
	return progressbar.NewOptions64(length,
		progressbar.OptionSetWriter(out),
		progressbar.OptionSetTheme(progressbar.ThemeASCII),
		progressbar.OptionSetWidth(20),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionSpinnerType(14),
		progressbar.OptionSetSpinnerChangeInterval(0),
		progressbar.OptionUseANSICodes(true),
		progressbar.OptionShowDescriptionAtLineEnd(),
		progressbar.OptionSetRenderBlankState(false),
	)
}

// clear removes the bar from the terminal; the next draw brings it back. mutex is held.
func (p *Progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// status describes amount, rate and time left. percent is -1 when the total is not known. mutex is held.
func (p *Progress) status() (text string, percent int) {
	now := time.Now()
	done, total := p.done.Load(), p.total.Load()
	// The oldest sample that is kept is the last one before the window, so that the window is always full.
	p.samples = append(p.samples, sample{now, done})
	for len(p.samples) > 2 && now.Sub(p.samples[1].at) >= rateWindow {
		p.samples = p.samples[1:]
	}
	first := p.samples[0]
	var perSecond float64
	if span := now.Sub(first.at).Seconds(); span > 0 {
		perSecond = float64(done-first.done) / span
	}
	if total <= 0 {
		return fmt.Sprintf("%s, %s", p.unit.amount(done), p.unit.rate(perSecond)), -1
	}
	left := "time left not known"
	if perSecond > 0 {
		seconds := float64(max(0, total-done)) / perSecond
		if seconds < (100 * 24 * time.Hour).Seconds() {
			// Whole seconds: tenths would pretend to know better.
			left = fmt.Sprintf("%.0fs left", math.Ceil(seconds))
			if seconds > 59 {
				left = FormatDuration(time.Duration(math.Ceil(seconds))*time.Second) + " left"
			}
		}
	}
	percent = min(99, max(0, int(float64(done)/float64(total)*100)))
	return strings.Join([]string{p.unit.amount(done) + " of " + p.unit.amount(total), p.unit.rate(perSecond), left}, ", "), percent
}

func (u Unit) amount(n int64) string {
	if u == Bytes {
		return FormatSize(n)
	}
	return fmt.Sprintf("%d %s", n, u)
}

func (u Unit) rate(perSecond float64) string {
	perSecond = max(0, perSecond)
	switch {
	case u == Bytes:
		return FormatSize(int64(perSecond)) + "/s"
	case perSecond > 0 && perSecond < 10:
		return fmt.Sprintf("%.1f %s/s", perSecond, u)
	default:
		return fmt.Sprintf("%.0f %s/s", perSecond, u)
	}
}
