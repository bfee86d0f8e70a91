package restore

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// What a server refuses to show is not lost.
func TestMarkIsLostOnlyWhereItDoesNotExist(t *testing.T) {
	for code, want := range map[string]bool{"42P01": true, "3F000": true, "42501": false, "57P01": false, "53200": false} {
		if got := markIsLost(fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("SQLSTATE %s: %t, want %t", code, got, want)
		}
	}
	if markIsLost(nil) || markIsLost(errors.New("connection lost")) {
		t.Error("lost without an answer of the server")
	}
}
