package postgres

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv"
)

// What docs/format.md writes where the value of a setting is not a constant.
const (
	documentedEncoding    = "the database's encoding"
	documentedLockTimeout = "set by the run"
)

var (
	// documentedCell is a name in the table, with the version from which on the setting exists.
	documentedCell = regexp.MustCompile("^`([A-Za-z_]+)`(?: \\(from ([0-9]+) on\\))?$")
	// documentedChange is a setting and its other value in the sentence about restoring.
	documentedChange = regexp.MustCompile("`([A-Za-z_]+)` (?:`([^`]+)`|empty)")
)

// documentedSettings returns the settings that docs/format.md, section 16, names for a major version, by name.
func documentedSettings(t *testing.T, major int, purpose Purpose) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## 16. Pinned settings\n")
	if !found {
		t.Fatal("docs/format.md has no section 16 about pinned settings")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	settings := make(map[string]string)
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || !strings.Contains(line, "`") {
			continue
		}
		for _, at := range []int{0, 3} {
			name, value := strings.TrimSpace(cells[at]), strings.TrimSpace(cells[at+1])
			if name == "" && at == 3 {
				continue // an odd number of settings
			}
			match := documentedCell.FindStringSubmatch(name)
			if match == nil {
				t.Fatalf("section 16: %q is not a setting", name)
			}
			var from int
			if _, err := fmt.Sscan(match[2], &from); match[2] != "" && err != nil {
				t.Fatalf("section 16: %q: %v", name, err)
			}
			if _, twice := settings[match[1]]; twice {
				t.Errorf("section 16 names %s twice", match[1])
			}
			if major >= from {
				settings[match[1]] = strings.Trim(value, "`")
			}
		}
	}
	if len(settings) < 29 {
		t.Fatalf("section 16 has a table of %d settings only", len(settings))
	}
	if purpose == Restoring {
		_, sentence, found := strings.Cut(section, "Whoever loads the rows again uses the same, with")
		if !found {
			t.Fatal("section 16 does not say what differs for restoring")
		}
		sentence, _, _ = strings.Cut(sentence, ". ")
		changes := documentedChange.FindAllStringSubmatch(sentence, -1)
		if len(changes) != 3 {
			t.Fatalf("section 16 names %d settings that differ for restoring: %q", len(changes), sentence)
		}
		for _, change := range changes {
			settings[change[1]] = change[2]
		}
	}
	for name, value := range settings {
		if value == "empty" {
			settings[name] = ""
		}
	}
	return settings
}

// Hazard 1.8 in docs/hazards.md: what is not pinned, a customer's ALTER DATABASE ... SET decides.
func TestPinnedSettingsAreThoseOfTheFormat(t *testing.T) {
	for _, major := range testenv.Majors() {
		for purpose, name := range map[Purpose]string{Reading: "reading", Restoring: "restoring"} {
			t.Run(fmt.Sprintf("%d %s", major, name), func(t *testing.T) {
				want := documentedSettings(t, major, purpose)
				list, err := PinnedSettings(major*10000+99, purpose)
				if err != nil {
					t.Fatal(err)
				}
				got := make(map[string]string)
				for _, setting := range list {
					if _, twice := got[setting.Name]; twice {
						t.Errorf("%s is pinned twice", setting.Name)
					}
					got[setting.Name] = setting.Value
				}
				for setting := range maps.Keys(want) {
					if _, pinned := got[setting]; !pinned {
						t.Errorf("%s is in docs/format.md, and not pinned", setting)
					}
				}
				for setting, value := range got {
					documented, known := want[setting]
					switch {
					case !known:
						t.Errorf("%s is pinned, and not in docs/format.md", setting)
					case documented == documentedEncoding && value == serverEncoding, documented == documentedLockTimeout:
					case setting == "search_path" && documented == "" && value == `""`: // as the server prints it
					case documented != value:
						t.Errorf("%s is pinned to %q, but in docs/format.md to %q", setting, value, documented)
					}
				}
			})
		}
	}
}
