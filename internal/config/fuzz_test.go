package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hourvault/hourvault/internal/testenv/allocation"
)

// loadFactor is how many bytes loading may allocate for each byte of a file: the YAML library makes a token, a node and
// their paths of every sign.
const loadFactor = 4 << 10

// FuzzLoadWithinBounds holds that no file, aliases and nesting included, makes Load panic, take long or allocate much,
// and that every problem says where it is.
func FuzzLoadWithinBounds(f *testing.F) {
	content, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte(minimal + "alerts: &a [*a, *a]\nservers: [[[[[[{a: [*a, *a]}]]]]]]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 16<<10 {
			return // the library's time grows with the square of the size
		}
		begin := time.Now()
		var err error
		allocation.Bound(t, loadFactor*uint64(len(content))+1<<20, func() { _, err = load(t, string(content)) })
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%d bytes took %s", len(content), took)
		}
		var configError *Error
		if !errors.As(err, &configError) {
			return
		}
		for _, problem := range configError.Problems {
			if problem.Line == 0 && problem.Key == "" {
				t.Errorf("%+v names neither a line nor a key", problem)
			}
		}
	})
}

// A file that would take the library's parser minutes, or all memory, is refused for what it is.
func TestHostileFilesAreRefusedInBoundedTime(t *testing.T) {
	whole := func(text string) string { return strings.Repeat(text, maxFileSize/len(text)) }
	fill := func(text string) string { return whole(text)[:maxFileSize/4] } // enough to take all memory, were it parsed
	var staircase strings.Builder
	for i := 0; staircase.Len()+i+3 < maxFileSize/4; i++ {
		staircase.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	for name, content := range map[string]string{
		"brackets": fill("["), "braces": fill("{a: "), "dashes": fill("- "), "keys on one line": fill("a: "), "anchors": fill("&a "),
		"questions": fill("? "), "keys": whole("a: b\n"), "entries": whole("-\n"), "staircase": staircase.String(),
		"aliases": "a: &a [x, x]\n" + fill("- [*a, *a, *a, *a, *a, *a]\n"), "list": "a: [" + fill("1,")[4:],
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			_, err := load(t, content)
			var configError *Error
			if !errors.As(err, &configError) || configError.Problems[0].Line == 0 {
				t.Errorf("got %.200v, want a problem with its line", err)
			}
			// A hundred times what it takes on a machine with nothing else to do: what is not bounded takes for ever.
			if took := time.Since(begin); took > time.Minute {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestAThousandServersAreNotTooMany(t *testing.T) {
	var content strings.Builder
	content.WriteString(minimal + "servers:\n")
	for i := range 1000 {
		fmt.Fprintf(&content, "  - name: server-%d\n    dsn: host=db%d.internal user=hourvault dbname=postgres sslmode=verify-full\n    password_file: /run/credentials/hourvault.service/server-%d\n    workspaces: { include: [\"ws_*\", \"tenant_*\"], exclude: [\"ws_test\"] }\n    connections: 6\n", i, i, i)
	}
	config, err := load(t, content.String())
	if err != nil {
		t.Fatalf("%.300v", err)
	}
	if len(config.Servers) != 1000 {
		t.Errorf("%d servers", len(config.Servers))
	}
}

// FuzzPattern compares matching with a regular expression that says the same.
func FuzzPattern(f *testing.F) {
	f.Add("ws_*", "ws_acme")
	f.Add("*a?c\\*", "xxabc*")
	f.Add("?\\[*", "\xff[")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if Pattern(pattern).check() != nil || !utf8.ValidString(pattern) || len(pattern) > 200 || len(name) > 1000 {
			return
		}
		var expression strings.Builder
		expression.WriteString(`\A(?s:`)
		escaped := false
		for _, r := range pattern {
			switch {
			case escaped:
				expression.WriteString(regexp.QuoteMeta(string(r)))
				escaped = false
			case r == '\\':
				escaped = true
			case r == '*':
				expression.WriteString(".*")
			case r == '?':
				expression.WriteString(".")
			default:
				expression.WriteString(regexp.QuoteMeta(string(r)))
			}
		}
		want := regexp.MustCompile(expression.String() + `)\z`).MatchString(name)
		if strings.ContainsRune(pattern, utf8.RuneError) && !utf8.ValidString(name) {
			return // a regular expression takes a broken byte for U+FFFD
		}
		if got := Pattern(pattern).Match(name); got != want {
			t.Errorf("%q matches %q: %t, want %t", pattern, name, got, want)
		}
	})
}

// FuzzDSN holds that no connection string with a password in it passes, and that no refusal shows any of it.
func FuzzDSN(f *testing.F) {
	f.Add("postgres://hourvault@db1.internal/postgres?sslmode=verify-full")
	f.Add("postgres://u:secret@h/d")
	f.Add("postgresql://u@h/d?PassWord=x&sslpassword=y")
	f.Add(`host=h user='it\'s' password=secret`)
	f.Add(`host = /run/postgresql   user=u`)
	f.Fuzz(func(t *testing.T, dsn string) {
		var err error
		allocation.Bound(t, 64*uint64(len(dsn)), func() { err = checkDSN(dsn) })
		if err != nil {
			for _, known := range []string{errPasswordInDSN.Error(), dsnHint} {
				if strings.HasSuffix(err.Error(), known) {
					return
				}
			}
			t.Errorf("%q: %v may show a part of it", dsn, err)
			return
		}
		if parsed, err := url.Parse(dsn); err == nil && (parsed.Scheme == "postgres" || parsed.Scheme == "postgresql") && strings.HasPrefix(dsn, "postgres") {
			if secret, has := parsed.User.Password(); has {
				t.Errorf("%q passes with password %q", dsn, secret)
			}
		}
	})
}

// FuzzRepositoryURL holds that an S3 URL is taken apart without loss.
func FuzzRepositoryURL(f *testing.F) {
	f.Add("s3://acme-backups/prod/eu")
	f.Add("s3://acme-backups/")
	f.Add("s3://acme-backups//x/../y")
	f.Add("file:///var/lib/hour%20vault")
	f.Fuzz(func(t *testing.T, text string) {
		if bucket, prefix, err := parseS3URL(text); err == nil {
			if again := "s3://" + bucket + "/" + prefix; again != text && again != text+"/" && again+"/" != text && again+"//" != text {
				t.Errorf("%q is bucket %q and prefix %q", text, bucket, prefix)
			}
			if strings.Contains("/"+prefix+"/", "/../") || strings.HasPrefix(prefix, "/") {
				t.Errorf("%q has prefix %q", text, prefix)
			}
		}
		if path, err := fileURLPath(text); err == nil && !strings.HasPrefix(path, "/") {
			t.Errorf("%q is path %q", text, path)
		}
	})
}

func FuzzSchedule(f *testing.F) {
	f.Add("@every 90m")
	f.Add("15 */2 * * 1-5")
	f.Add("@hourly\n")
	f.Fuzz(func(t *testing.T, text string) {
		if err := checkSchedule(text); err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
			t.Errorf("%q: %q is not one printable line", text, err)
		}
	})
}
