// Package console is how commands talk: results on one stream, words for people on the other, progress of
// long work, tables, and names printed so that they cannot forge the terminal's output. It knows nothing of
// what the commands do, and reads neither flags nor the environment.
package console

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// Streams are where a command writes. Out takes the result and nothing else; Err takes everything for people.
// Neither is closed by this package.
type Streams struct {
	Out, Err io.Writer
	// OutIsTerminal and ErrIsTerminal say whether a person looks at the stream directly.
	OutIsTerminal, ErrIsTerminal bool
}

// NewStreams returns streams for two files, usually os.Stdout and os.Stderr, and finds out whether they are
// terminals.
func NewStreams(out, err *os.File) *Streams {
	return &Streams{
		Out: out, Err: err,
		OutIsTerminal: term.IsTerminal(int(out.Fd())),
		ErrIsTerminal: term.IsTerminal(int(err.Fd())),
	}
}

// WriteJSON writes v as one indented JSON document with a newline at its end. Characters of HTML stay as
// they are. Control characters in names need no Printable here: JSON escapes them.
func WriteJSON(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// Table writes rows in aligned columns, two spaces apart. Nothing is written before Flush. It is for one
// goroutine.
type Table struct {
	writer *tabwriter.Writer
	err    error
}

// NewTable begins a table on out. Without headers it has none.
func NewTable(out io.Writer, headers ...string) *Table {
	t := &Table{writer: tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)}
	if len(headers) > 0 {
		t.Row(headers...)
	}
	return t
}

// Row adds one row. Every cell passes through Cell, so names can be given as they are.
func (t *Table) Row(cells ...string) {
	printed := make([]string, len(cells))
	for i, cell := range cells {
		printed[i] = Cell(cell)
	}
	// tabwriter ends a column at a tab; the last cell is left without one, so that lines have no trailing
	// spaces.
	if _, err := io.WriteString(t.writer, strings.Join(printed, "\t")+"\n"); err != nil && t.err == nil {
		t.err = err
	}
}

// Flush writes the table and returns the first error of writing.
func (t *Table) Flush() error {
	if err := t.writer.Flush(); err != nil && t.err == nil {
		t.err = err
	}
	if t.err != nil {
		return fmt.Errorf("write table: %w", t.err)
	}
	return nil
}
