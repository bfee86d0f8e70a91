package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// PinnedSettingsVersion numbers the list that PinnedSettings returns for reading. It is recorded in every snapshot, and
// rises whenever the list changes in a way that can change row text: blocks read under different versions must not be
// compared.
const PinnedSettingsVersion = 1

// Purpose is what a session is for.
type Purpose int

const (
	// Reading sessions are read-only by default and may not reach a view or a foreign table of a customer.
	Reading Purpose = iota
	// Restoring sessions write. They may use views, because REFRESH MATERIALIZED VIEW must.
	Restoring
)

// PinnedSetting is a configuration parameter and its value, as pg_settings.setting prints it.
type PinnedSetting struct{ Name, Value string }

// serverEncoding stands for the database's own encoding as a value in the pinned list.
const serverEncoding = "<server_encoding>"

// PinnedSettings returns the settings that every session of hourvault sets after connecting, and verifies, so that
// ALTER DATABASE and ALTER ROLE ... SET change neither row text nor how it is read (docs/format.md, "Pinned settings").
// The value of client_encoding is the database's own encoding: no conversion takes place, names and rows are the
// stored bytes. Timeouts are all off; a reading session's lock_timeout is set apart from this list. serverVersion is
// server_version_num; a server that cannot be read safely is an *UnsupportedServerError.
func PinnedSettings(serverVersion int, purpose Purpose) ([]PinnedSetting, error) {
	if err := checkServerVersion(serverVersion); err != nil {
		return nil, err
	}
	restricted, readOnly := "view, foreign-table", "on"
	if purpose == Restoring {
		restricted, readOnly = "", "off"
	}
	list := []PinnedSetting{
		// search_path first: from then on no name resolves to a customer's object.
		{"search_path", `""`},
		{"restrict_nonsystem_relation_kind", restricted},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"idle_session_timeout", "0"},
		{"lock_timeout", "0"},
		{"client_encoding", serverEncoding},
		// What row text depends on.
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"},
		{"extra_float_digits", "3"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
		{"array_nulls", "on"},
		{"xmloption", "content"},
		{"xmlbinary", "base64"},
		{"quote_all_identifiers", "off"},
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
		// What rows are seen.
		{"row_security", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		{"default_transaction_read_only", readOnly},
		// How they are read: in the order of their ctids, a range at the cost of a range.
		{"synchronize_seqscans", "off"},
		{"enable_tidscan", "on"},
		{"enable_seqscan", "on"},
		{"max_parallel_workers_per_gather", "0"},
		{"jit", "off"},
		// Planning a query must not evaluate constraints, which may call functions of customers.
		{"constraint_exclusion", "off"},
		{"client_min_messages", "warning"},
	}
	if serverVersion >= 170000 {
		list = append(list, PinnedSetting{"transaction_timeout", "0"})
	}
	return list, nil
}

// checkServerVersion refuses servers without restrict_nonsystem_relation_kind, which came with the fix of
// CVE-2024-7348: without it a table replaced by a view runs its owner's code with the reading role's rights.
func checkServerVersion(version int) error {
	needed := map[int]int{14: 13, 15: 8, 16: 4}
	major, minor := version/10000, version%10000
	switch least, patched := needed[major]; {
	case major < 14:
		return &UnsupportedServerError{Version: version, Needed: "14.13"}
	case patched && minor < least:
		return &UnsupportedServerError{Version: version, Needed: fmt.Sprintf("%d.%d", major, least)}
	}
	return nil
}

// pin sets the settings of the list on a new connection and reads them back.
func pin(ctx context.Context, conn *pgx.Conn, purpose Purpose, lockTimeoutMillis int64) error {
	version, err := reportedVersion(conn.PgConn().ParameterStatus("server_version"))
	if err != nil {
		return err
	}
	list, err := PinnedSettings(version, purpose)
	if err != nil {
		return err
	}
	encoding := conn.PgConn().ParameterStatus("server_encoding")
	var script strings.Builder
	// A database can bring its own role; RESET would go back to that one.
	script.WriteString("SET SESSION AUTHORIZATION DEFAULT; SET ROLE NONE;")
	expected := make(map[string]string, len(list))
	var names []string
	for i := range list {
		setting := &list[i]
		switch {
		case setting.Value == serverEncoding:
			setting.Value = encoding
		case setting.Name == "lock_timeout" && purpose == Reading:
			setting.Value = fmt.Sprint(lockTimeoutMillis)
		}
		value := "'" + setting.Value + "'"
		if setting.Name == "search_path" {
			value = "''" // printed as `""`
		}
		fmt.Fprintf(&script, "SET %s = %s;", setting.Name, value)
		expected[strings.ToLower(setting.Name)] = setting.Value
		names = append(names, strings.ToLower(setting.Name))
	}
	if _, err := conn.PgConn().Exec(ctx, script.String()).ReadAll(); err != nil {
		return fmt.Errorf("pin settings: %w", ServerError(err))
	}
	rows, err := conn.Query(ctx, `select lower(name), setting from pg_catalog.pg_settings where lower(name) = any ($1)`, names)
	if err != nil {
		return fmt.Errorf("verify pinned settings: %w", ServerError(err))
	}
	var name, value string
	seen := 0
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		seen++
		if value != expected[name] {
			return fmt.Errorf("%s is %q instead of %q", name, printable(value), printable(expected[name]))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("verify pinned settings: %w", ServerError(err))
	}
	if seen != len(list) {
		return fmt.Errorf("verify pinned settings: the server knows only %d of %d", seen, len(list))
	}
	if purpose == Reading {
		return refuseDamage(ctx, conn)
	}
	return nil
}

// refuseDamage refuses a session in which the server would leave out the rows of damaged pages, or return what is on them,
// with no more than a warning. Only a superuser could turn that off for the session, and whoever turned it on should know.
func refuseDamage(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `select name from pg_catalog.pg_settings where name in ('zero_damaged_pages', 'ignore_checksum_failure') and setting <> 'off'`)
	if err != nil {
		return fmt.Errorf("look for settings that hide damage: %w", ServerError(err))
	}
	hiding, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for settings that hide damage: %w", ServerError(err))
	}
	if len(hiding) > 0 {
		return fmt.Errorf("%s is on: rows on damaged pages would be left out without an error; turn it off on the server before taking snapshots", strings.Join(hiding, " and "))
	}
	return nil
}

// reportedVersion turns the parameter server_version, for instance "17.11 (Debian 17.11-1)", "18beta1" or "15.8", into
// the form of server_version_num.
func reportedVersion(text string) (int, error) {
	var major, minor int
	if _, err := fmt.Sscanf(text, "%d", &major); err != nil {
		return 0, fmt.Errorf("the server reports version %q, which is not one of PostgreSQL's", printable(text))
	}
	rest := strings.TrimLeft(text, "0123456789")
	if strings.HasPrefix(rest, ".") {
		_, _ = fmt.Sscanf(rest[1:], "%d", &minor) // 0 where a vendor writes something else
	}
	return major*10000 + minor, nil
}
