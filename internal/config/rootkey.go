package config

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
)

// RootKeyKind says which provider holds the root key.
type RootKeyKind string

// The kinds of root key.
const (
	// RootKeyFile is a file that hourvault init makes.
	RootKeyFile RootKeyKind = "file"
	// RootKeyCredential is a systemd credential.
	RootKeyCredential RootKeyKind = "credential"
	// RootKeyEnv is an environment variable.
	RootKeyEnv RootKeyKind = "env"
)

// RootKey says where the root key is. It does not hold it.
type RootKey struct {
	Kind RootKeyKind
	// Path is the absolute path of the key's file for RootKeyFile, else empty. The file may not exist yet.
	Path string

	text   string
	source SecretRef
}

// String returns the root key's address as written.
func (r RootKey) String() string { return r.text }

// Material reads the key of RootKeyCredential or RootKeyEnv: the bytes as they are, nothing trimmed. A key
// file is read from Path by the package that knows its format and permissions. Errors are *Error.
func (r RootKey) Material(environment Environment) ([]byte, error) {
	if r.Kind == RootKeyFile {
		return nil, fmt.Errorf("root key %s: is read from its path", r)
	}
	return r.source.read(environment)
}

const rootKeyExamples = "write file:///etc/hourvault/root.key, credential:NAME or env:NAME"

// fromText implements textValue.
func (r *RootKey) fromText(text string) error {
	r.text = text
	scheme, rest, found := strings.Cut(text, ":")
	if !found {
		return errors.New("is not a root key's address: " + rootKeyExamples)
	}
	switch scheme {
	case "file":
		location, err := fileURLPath(text)
		if err != nil {
			return err
		}
		r.Kind, r.Path = RootKeyFile, location
	case "credential":
		if err := checkCredentialName(rest); err != nil {
			return err
		}
		r.Kind, r.source = RootKeyCredential, SecretRef{kind: secretCredential, name: rest}
	case "env":
		if err := checkEnvName(rest); err != nil {
			return err
		}
		r.Kind, r.source = RootKeyEnv, SecretRef{kind: secretEnv, name: rest}
	case "aws-kms", "hcvault":
		return fmt.Errorf("%s:// is not yet supported by this version: %s", scheme, rootKeyExamples)
	default:
		return errors.New("is not a root key's address: " + rootKeyExamples)
	}
	return nil
}

// fileURLPath returns the absolute, clean path of a file:/// URL.
func fileURLPath(text string) (string, error) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" || strings.Contains(text, "#") {
		return "", errors.New("is not a valid URL: write file:///absolute/path, with %20 for a space")
	}
	if parsed.Host != "" || parsed.Opaque != "" || !strings.HasPrefix(parsed.Path, "/") || parsed.User != nil {
		return "", errors.New("must be an absolute path: write file:///absolute/path, with three slashes")
	}
	if strings.ContainsRune(parsed.Path, 0) {
		return "", errors.New("has a zero byte in it")
	}
	cleaned := path.Clean(parsed.Path)
	if cleaned == "/" {
		return "", errors.New("must not be the root directory")
	}
	return cleaned, nil
}
