package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestEveryFieldOfTheDocumentsIsDocumented holds docs/cli-json.md, which is a contract, against what is printed.
func TestEveryFieldOfTheDocumentsIsDocumented(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli-json.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	seen := map[reflect.Type]bool{}
	fields := 0
	var check func(of reflect.Type)
	check = func(of reflect.Type) {
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		// Roles have a shape of their own, that of the stored format.
		if of.Kind() != reflect.Struct || seen[of] || of.Name() == "Time" || of.Name() == "Role" {
			return
		}
		seen[of] = true
		for i := range of.NumField() {
			field := of.Field(i)
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			switch {
			case !field.IsExported() && !field.Anonymous:
				continue
			case name == "" && !field.Anonymous:
				t.Errorf("%s.%s has no name in JSON", of, field.Name)
			case name != "":
				fields++
				if !strings.Contains(page, "`"+name+"`") {
					t.Errorf("%s.%s: `%s` is not documented", of, field.Name, name)
				}
				if strings.Contains(options, "omitempty") && !strings.Contains(page, "*optional*") {
					t.Errorf("%s.%s is optional, and the page says of none that it is", of, field.Name)
				}
			}
			check(field.Type)
		}
	}
	for _, document := range []any{
		errorDocument{}, initDocument{}, backupDocument{}, snapshotsDocument{}, restoreDocument{}, verifyDocument{}, doctorDocument{}, versionDocument{},
	} {
		check(reflect.TypeOf(document))
	}
	if fields < 60 {
		t.Errorf("only %d fields were looked at", fields)
	}
}
