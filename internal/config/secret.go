package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
)

// redacted is what a secret shows of itself.
const redacted = "[redacted]"

// Secret is a text that must not be seen: it prints as [redacted] under every verb, in JSON, YAML and logs.
// The zero Secret is no secret at all. Compare revealed values, not Secrets.
type Secret struct {
	// A pointer, so that even printing a struct that holds a Secret in an unexported field, where fmt may
	// not call methods, shows an address and not the text.
	text *string
}

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the text; empty for the zero Secret.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether there is no secret, or an empty one.
func (s Secret) IsZero() bool { return s.text == nil || *s.text == "" }

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, redacted) }

// String returns [redacted].
func (s Secret) String() string { return redacted }

// GoString returns [redacted].
func (s Secret) GoString() string { return redacted }

// MarshalText returns [redacted]; it serves every encoder that knows encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns "[redacted]".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalYAML returns [redacted].
func (s Secret) MarshalYAML() (any, error) { return redacted, nil }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// maxSecretSize bounds what is read as a secret, in bytes.
const maxSecretSize = 64 << 10

type secretKind int

const (
	noSecret secretKind = iota
	secretFile
	secretEnv
	secretCredential
)

// SecretRef says where a secret is kept: in a file, an environment variable or a systemd credential. It does
// not hold the secret. The zero SecretRef is none.
type SecretRef struct {
	kind secretKind
	name string // path, variable or credential
	file string // the configuration file and the place in it, for errors
	at   Problem
}

// IsZero reports whether no secret is configured.
func (r SecretRef) IsZero() bool { return r.kind == noSecret }

// String says where the secret is kept, for messages: "file /run/x", "environment variable X" or
// "systemd credential x".
func (r SecretRef) String() string {
	switch r.kind {
	case secretFile:
		return "file " + r.name
	case secretEnv:
		return "environment variable " + r.name
	case secretCredential:
		return "systemd credential " + r.name
	default:
		return "none"
	}
}

// Read fetches the secret, without the one newline that editors put at the end of a file. It gives the zero
// Secret when none is configured. Refused are: a file that does not exist or is not regular, one that every
// user of the machine may read or change, an empty secret, one of more than 64 KiB, and a zero byte in it.
// Errors are *Error and name the key that refers to the secret, never its content.
func (r SecretRef) Read(environment Environment) (Secret, error) {
	if r.IsZero() {
		return Secret{}, nil
	}
	content, err := r.read(environment)
	if err != nil {
		return Secret{}, err
	}
	text := strings.TrimSuffix(string(content), "\n")
	text = strings.TrimSuffix(text, "\r")
	switch {
	case text == "":
		return Secret{}, r.problem(nil, "%s is empty", r)
	case strings.ContainsRune(text, 0):
		return Secret{}, r.problem(nil, "%s has a zero byte in it: it is no text", r)
	}
	return NewSecret(text), nil
}

// read returns the bytes as they are.
func (r SecretRef) read(environment Environment) ([]byte, error) {
	path := r.name
	switch r.kind {
	case secretEnv:
		value, found := environment.LookupEnv(r.name)
		if !found {
			return nil, r.problem(nil, "%s is not set", r)
		}
		return []byte(value), nil
	case secretCredential:
		directory, found := environment.LookupEnv("CREDENTIALS_DIRECTORY")
		if !found || directory == "" {
			return nil, r.problem(nil, "%s: CREDENTIALS_DIRECTORY is not set: systemd sets it for a unit that has LoadCredential=%s:PATH", r, r.name)
		}
		path = filepath.Join(directory, r.name)
	}
	content, err := readSecretFile(environment, path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && r.kind == secretCredential:
		return nil, r.problem(err, "%s does not exist in %s: add LoadCredential=%s:PATH to the unit", r, filepath.Dir(path), r.name)
	case errors.Is(err, fs.ErrNotExist):
		return nil, r.problem(err, "%s does not exist", r)
	case errors.Is(err, fs.ErrPermission):
		return nil, r.problem(err, "%s may not be read by this user", r)
	case err != nil:
		return nil, r.problem(err, "%s: %v", r, err)
	}
	return content, nil
}

func readSecretFile(environment Environment, path string) ([]byte, error) {
	file, err := environment.Open(path)
	if err != nil {
		return nil, pathless(err)
	}
	defer file.Close()
	// The open file is looked at, not its name: what is checked is what is read.
	info, err := file.Stat()
	if err != nil {
		return nil, pathless(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	// The group is allowed: a systemd credential shows its access list there, and mounted secrets of a
	// container are given to a group.
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("mode %04o lets every user of this machine at it: run chmod o-rwx on it", mode)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxSecretSize+1))
	if err != nil {
		return nil, pathless(err)
	}
	if len(content) > maxSecretSize {
		return nil, fmt.Errorf("is larger than %d KiB: it is no secret", maxSecretSize>>10)
	}
	return content, nil
}

// pathless drops operation and path, which the message has already.
func pathless(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

func (r SecretRef) problem(cause error, format string, arguments ...any) error {
	p := r.at
	p.Message = fmt.Sprintf(format, arguments...)
	return &Error{File: r.file, Problems: []Problem{p}, Err: cause}
}
