package objectstore

import (
	"fmt"
	"io"
)

// Secret is a text that no print, log or encoding shows: every verb of fmt, JSON and text encoders see "[redacted]"
// (or nothing, when it is empty). Reveal gives it back.
type Secret struct{ text string }

// NewSecret keeps text.
func NewSecret(text string) Secret { return Secret{text: text} }

// Reveal returns the text itself, for the one place that needs it.
func (s Secret) Reveal() string { return s.text }

// IsZero reports whether there is no text.
func (s Secret) IsZero() bool { return s.text == "" }

// String returns "[redacted]", or "" when there is no text.
func (s Secret) String() string {
	if s.text == "" {
		return ""
	}
	return "[redacted]"
}

// Format writes String whatever the verb: without it %#v and %x would show the field.
func (s Secret) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, s.String()) }

// MarshalText returns String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
