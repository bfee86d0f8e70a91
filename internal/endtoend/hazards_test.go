package endtoend_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// coveredHazards are those that docs/hazards.md must name a test for.
var coveredHazards = strings.Fields("1.2 1.5 1.8 2.1 2.2 2.3 2.4 2.7 2.8 2.9 3.1 3.2 3.3 3.4 3.5 4.1 4.2 4.3")

var (
	hazardRow     = regexp.MustCompile(`(?m)^\| ([0-9]\.[0-9]+) \|.*$`)
	hazardTest    = regexp.MustCompile("`([a-z/]+): (Test[A-Za-z0-9]+)`")
	hazardMention = regexp.MustCompile(`(?:[Hh]azard |: )(Test[A-Za-z0-9]+)`)
)

// TestEveryHazardNamesTestsThatExist holds the page to the tree: a test that is renamed or removed is missed here.
func TestEveryHazardNamesTestsThatExist(t *testing.T) {
	const root = "../.."
	page, err := os.ReadFile(filepath.Join(root, "docs/hazards.md"))
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, row := range hazardRow.FindAllStringSubmatch(string(page), -1) {
		seen = append(seen, row[1])
		tests := hazardTest.FindAllStringSubmatch(row[0], -1)
		if len(tests) == 0 {
			t.Errorf("hazard %s names no test", row[1])
		}
		if mentioned := hazardMention.FindAllString(row[0], -1); len(mentioned) != len(tests) {
			t.Errorf("hazard %s names %d tests, of which %d are written like `folder: TestName`", row[1], len(mentioned), len(tests))
		}
		for _, test := range tests {
			if !declares(t, filepath.Join(root, test[1]), test[2]) {
				t.Errorf("hazard %s: there is no %s in %s", row[1], test[2], test[1])
			}
		}
	}
	if !slices.Equal(seen, coveredHazards) {
		t.Errorf("docs/hazards.md covers\n%q, want\n%q", seen, coveredHazards)
	}
	if declares(t, ".", "TestThatIsNowhere"+"InTheTree") {
		t.Error("a test that does not exist was found")
	}
}

// declares tells whether a test file in dir declares the test.
func declares(t *testing.T, dir, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files in %s: %v", dir, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains("\n"+string(content), "\nfunc "+test+"(t *testing.T)") {
			return true
		}
	}
	return false
}
