package postgres

import (
	"strings"

	"github.com/hourvault/hourvault/internal/catalog"
)

// QuoteIdentifier returns name as a double-quoted SQL identifier, always quoted. It works on bytes: no encoding that
// a PostgreSQL database can have uses the byte of a quote or a backslash inside another character.
func QuoteIdentifier(name catalog.Text) string {
	return `"` + strings.ReplaceAll(string(name), `"`, `""`) + `"`
}

// QualifiedName returns schema.name with both parts quoted.
func QualifiedName(schema, name catalog.Text) string {
	return QuoteIdentifier(schema) + "." + QuoteIdentifier(name)
}

// QuoteLiteral returns value as an SQL string literal that means the same whatever standard_conforming_strings says.
// The value must not contain a zero byte, which no PostgreSQL text holds.
func QuoteLiteral(value catalog.Text) string {
	quoted := "'" + strings.ReplaceAll(string(value), "'", "''") + "'"
	if strings.Contains(quoted, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
