package config

import (
	"fmt"
	"sort"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Line and Column count from 1; both are 0 when the problem is not in a place of the file.
	Line, Column int
	// Key is the path of the key, such as servers[0].connections; empty when the problem has none.
	Key string
	// Message is one line without a full stop, with a hint what to do where that is not plain. It never
	// holds a secret or a connection string.
	Message string
}

// Error says that the configuration cannot be used: wrong usage, exit code 2. It carries every problem found.
type Error struct {
	// File is the configuration file.
	File string
	// Problems is never empty and sorted by line.
	Problems []Problem
	// Err is the cause when the file or a secret could not be read, else nil.
	Err error
}

// Error prints one line per problem: FILE:LINE: KEY: MESSAGE.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		var line strings.Builder
		line.WriteString(e.File)
		if p.Line > 0 {
			fmt.Fprintf(&line, ":%d", p.Line)
		}
		if p.Key != "" {
			line.WriteString(": " + p.Key)
		}
		lines[i] = line.String() + ": " + p.Message
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the cause, if there is one.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) sort() {
	sort.SliceStable(e.Problems, func(i, j int) bool {
		a, b := e.Problems[i], e.Problems[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
}
