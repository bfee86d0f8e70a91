package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestSecretIsRedactedUnderEveryVerbAndEncoding(t *testing.T) {
	secret := NewSecret("hunter2")
	type holder struct {
		Shown  Secret
		hidden Secret
		list   []Secret
	}
	holders := []any{secret, &secret, holder{secret, secret, []Secret{secret}}, &holder{secret, secret, nil}, []Secret{secret}, map[string]Secret{"a": secret},
		Config{Alerts: []Alert{{URL: secret}}}, fmt.Errorf("with %v", secret)}
	for _, value := range holders {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%5.2s", "%T", "%!"} {
			out := fmt.Sprintf(verb, value)
			if strings.Contains(out, "hunter2") || strings.Contains(strings.ToLower(out), fmt.Sprintf("%x", "hunter2")) {
				t.Errorf("Sprintf(%q, %T) shows the secret: %s", verb, value, out)
			}
		}
	}
	for name, encode := range map[string]func(any) ([]byte, error){"json": json.Marshal, "yaml": func(v any) ([]byte, error) { return yaml.Marshal(v) }} {
		out, err := encode(struct {
			A Secret  `json:"a" yaml:"a"`
			B *Secret `json:"b" yaml:"b"`
		}{secret, &secret})
		if err != nil || strings.Contains(string(out), "hunter2") || strings.Count(string(out), redacted) != 2 {
			t.Errorf("%s: got %s, %v; want both values redacted", name, out, err)
		}
	}
	if secret.LogValue().String() != redacted || secret.String() != redacted {
		t.Error("String or LogValue is not redacted")
	}
	if secret.Reveal() != "hunter2" || secret.IsZero() || !(Secret{}).IsZero() || (Secret{}).Reveal() != "" {
		t.Error("Reveal or IsZero is wrong")
	}
}

// withSecrets loads a file with one server whose password lies where the given line says.
func withSecrets(t *testing.T, line string, environment func(config string) Environment) (SecretRef, Environment) {
	t.Helper()
	env := environment(minimal + "servers:\n  - name: a\n    dsn: host=x\n    " + line + "\n")
	config, err := Load("/h.yaml", env)
	if err != nil {
		t.Fatal(err)
	}
	return config.Servers[0].Password, env
}

func TestSecretIsReadFromFileEnvironmentOrCredential(t *testing.T) {
	for name, c := range map[string]struct {
		line      string
		variables map[string]string
		files     map[string]string
	}{
		"file":            {"password_file: /run/pw", nil, map[string]string{"/run/pw": "s3cret\n"}},
		"file, no end":    {"password_file: /run/pw", nil, map[string]string{"/run/pw": "s3cret"}},
		"file, CR LF":     {"password_file: /run/pw", nil, map[string]string{"/run/pw": "s3cret\r\n"}},
		"environment":     {"password_env: PW", map[string]string{"PW": "s3cret"}, nil},
		"credential":      {"password_credential: pw", map[string]string{"CREDENTIALS_DIRECTORY": "/run/c"}, map[string]string{"/run/c/pw": "s3cret\n"}},
		"nothing is said": {"connections: 4", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ref, env := withSecrets(t, c.line, func(config string) Environment {
				files := map[string]string{"/h.yaml": config}
				for path, content := range c.files {
					files[path] = content
				}
				return environment(c.variables, files)
			})
			secret, err := ref.Read(env)
			if err != nil {
				t.Fatal(err)
			}
			want := "s3cret"
			if name == "nothing is said" {
				want = ""
			}
			if secret.Reveal() != want {
				t.Errorf("got %q, want %q", secret.Reveal(), want)
			}
		})
	}
}

func TestOnlyOneNewlineIsTrimmedFromASecret(t *testing.T) {
	ref := SecretRef{kind: secretFile, name: "/pw"}
	secret, err := ref.Read(environment(nil, map[string]string{"/pw": " a \n\n"}))
	if err != nil || secret.Reveal() != " a \n" {
		t.Errorf("got %q, %v", secret.Reveal(), err)
	}
}

func TestUnusableSecretNamesTheKeyThatRefersToIt(t *testing.T) {
	long := strings.Repeat("x", maxSecretSize+1)
	for name, c := range map[string]struct {
		line      string
		variables map[string]string
		files     map[string]string
		want      string
	}{
		"no file":        {"password_file: /run/pw", nil, nil, "/h.yaml:7: servers[0].password_file: file /run/pw does not exist"},
		"no variable":    {"password_env: PW", nil, nil, "/h.yaml:7: servers[0].password_env: environment variable PW is not set"},
		"no directory":   {"password_credential: pw", nil, nil, "/h.yaml:7: servers[0].password_credential: systemd credential pw: CREDENTIALS_DIRECTORY is not set: systemd sets it for a unit that has LoadCredential=pw:PATH"},
		"no credential":  {"password_credential: pw", map[string]string{"CREDENTIALS_DIRECTORY": "/run/c"}, nil, "/h.yaml:7: servers[0].password_credential: systemd credential pw does not exist in /run/c: add LoadCredential=pw:PATH to the unit"},
		"empty":          {"password_file: /run/pw", nil, map[string]string{"/run/pw": "\n"}, "/h.yaml:7: servers[0].password_file: file /run/pw is empty"},
		"empty variable": {"password_env: PW", map[string]string{"PW": ""}, nil, "/h.yaml:7: servers[0].password_env: environment variable PW is empty"},
		"zero byte":      {"password_file: /run/pw", nil, map[string]string{"/run/pw": "a\x00b"}, "/h.yaml:7: servers[0].password_file: file /run/pw has a zero byte in it: it is no text"},
		"too large":      {"password_file: /run/pw", nil, map[string]string{"/run/pw": long}, "/h.yaml:7: servers[0].password_file: file /run/pw: is larger than 64 KiB: it is no secret"},
		"a directory":    {"password_file: /run", nil, map[string]string{"/run/pw": "x"}, "/h.yaml:7: servers[0].password_file: file /run: is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			ref, env := withSecrets(t, c.line, func(config string) Environment {
				files := map[string]string{"/h.yaml": config}
				for path, content := range c.files {
					files[path] = content
				}
				return environment(c.variables, files)
			})
			secret, err := ref.Read(env)
			if err == nil || err.Error() != c.want {
				t.Errorf("got %q, %v\nwant %s", secret.Reveal(), err, c.want)
			}
			var configError *Error
			if !errors.As(err, &configError) {
				t.Errorf("got %T, want *Error", err)
			}
		})
	}
}

func TestSecretFileThatEveryUserMayReadOrChangeIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(path, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, good := range map[fs.FileMode]bool{0o400: true, 0o600: true, 0o440: true, 0o640: true, 0o444: false, 0o644: false, 0o602: false, 0o601: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := SecretRef{kind: secretFile, name: path, file: "h.yaml"}.Read(System())
		if (err == nil) != good {
			t.Errorf("mode %04o: got error %v, want it accepted: %t", mode, err, good)
		}
		if err != nil && !strings.Contains(err.Error(), "run chmod o-rwx on it") {
			t.Errorf("mode %04o: error does not say what to do: %v", mode, err)
		}
	}
}

func TestRootKeyMaterialKeepsEveryByte(t *testing.T) {
	// Plain bytes of a key may end in what looks like a newline.
	raw := strings.Repeat("k", 31) + "\n"
	env := environment(map[string]string{"CREDENTIALS_DIRECTORY": "/c", "ROOT": "b64\n"}, map[string]string{
		"/c/root": raw,
		"/a.yaml": "repository: { url: file:///x }\nroot_key: credential:root\n",
		"/b.yaml": "repository: { url: file:///x }\nroot_key: env:ROOT\n",
		"/d.yaml": "repository: { url: file:///x }\nroot_key: env:NONE\n",
	})
	for path, want := range map[string]string{"/a.yaml": raw, "/b.yaml": "b64\n"} {
		config, err := Load(path, env)
		if err != nil {
			t.Fatal(err)
		}
		got, err := config.RootKey.Material(env)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
		}
	}
	config, err := Load("/d.yaml", env)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.RootKey.Material(env); err == nil || err.Error() != "/d.yaml:2: root_key: environment variable NONE is not set" {
		t.Errorf("got %v", err)
	}
}

func TestAlertAddressComesFromTheFileOrFromElsewhere(t *testing.T) {
	env := environment(map[string]string{"HOOK": "https://x/token"}, map[string]string{
		"/h.yaml": minimal + "alerts:\n  - { name: a, url: 'b://c' }\n  - { name: d, url_env: HOOK }\n",
	})
	config, err := Load("/h.yaml", env)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"b://c", "https://x/token"} {
		got, err := config.Alerts[i].ReadURL(env)
		if err != nil || got.Reveal() != want {
			t.Errorf("alert %d: got %q, %v; want %q", i, got.Reveal(), err, want)
		}
	}
}
