package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// setProperties gives the database what pg_dump would print only with --create: comment, labels, grants, settings. It
// comes last, because settings such as default_transaction_read_only would act on the restore itself. What keeps sessions out
// comes with the name.
func (r *run) setProperties(ctx context.Context) error {
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		object := "DATABASE " + r.identifier()
		d := r.database
		var statements []string
		if d.Comment != nil {
			statements = append(statements, "COMMENT ON "+object+" IS "+postgres.QuoteLiteral(*d.Comment))
		}
		switch {
		case d.Grants != nil:
			statements = append(statements, r.grantStatements(object, d.Owner, d.Grants)...)
		case !r.plan.Superuser:
			statements = append(statements, "GRANT CONNECT, TEMPORARY ON "+object+" TO PUBLIC") // the default, taken away by create
		}
		// That of makeDurable; the settings recorded come below.
		statements = append(statements, "ALTER "+object+" RESET synchronous_commit")
		if err := execute(ctx, conn, waitForCommits); err != nil {
			return err
		}
		if err := execute(ctx, conn, transaction(statements)...); err != nil {
			return err
		}
		for _, label := range d.SecurityLabels {
			err := execute(ctx, conn, securityLabelSQL(object, label))
			if state := sqlState(err); state == stateInvalidParameter || state == stateUndefinedObject {
				r.warn("security_label_not_restored", label.Provider, "security label of the database is not set: "+serverMessage(err))
			} else if err != nil {
				return err
			}
		}
		for _, setting := range d.Settings {
			err := execute(ctx, conn, settingSQL(r.identifier(), setting))
			switch {
			case sqlState(err) == stateUndefinedObject:
				r.warn("setting_not_restored", setting.Name, "the server does not know this setting of the database: "+serverMessage(err))
			case err != nil:
				return fmt.Errorf("set %s of the database: %w", setting.Name, err)
			}
		}
		return nil
	})
}

// listSettings are the parameters whose value is a list of quoted names (GUC_LIST_QUOTE in the server's source, and
// variable_is_guc_list_quote in pg_dump's): given as one string, it would be quoted again as one name.
var listSettings = []string{
	"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces",
	"unix_socket_directories",
}

// settingSQL is the statement that stores a setting as pg_db_role_setting had it.
func settingSQL(database string, setting catalog.Setting) string {
	sql := "ALTER DATABASE " + database
	if setting.Role != "" {
		sql = "ALTER ROLE " + postgres.QuoteIdentifier(setting.Role) + " IN DATABASE " + database
	}
	sql += " SET " + postgres.QuoteIdentifier(setting.Name) + " TO "
	if !slices.Contains(listSettings, strings.ToLower(string(setting.Name))) {
		return sql + postgres.QuoteLiteral(setting.Value)
	}
	var literals []string
	for _, name := range splitSettingList(string(setting.Value)) {
		literals = append(literals, postgres.QuoteLiteral(catalog.Text(name)))
	}
	if len(literals) == 0 {
		return sql + "''"
	}
	return sql + strings.Join(literals, ", ")
}

// splitSettingList splits a stored list: names separated by commas, in double quotes where they need it, a quote inside
// doubled (SplitGUCList of the server's source).
func splitSettingList(value string) []string {
	var names []string
	for {
		value = strings.TrimLeft(value, " \t\n\r\f\v")
		if value == "" {
			return names
		}
		var name strings.Builder
		if value[0] == '"' {
			value = value[1:]
			for value != "" {
				c := value[0]
				value = value[1:]
				if c != '"' {
					name.WriteByte(c)
					continue
				}
				if !strings.HasPrefix(value, `"`) {
					break
				}
				name.WriteByte('"')
				value = value[1:]
			}
			_, value, _ = strings.Cut(value, ",")
		} else {
			var plain string
			plain, value, _ = strings.Cut(value, ",")
			name.WriteString(strings.TrimRight(plain, " \t\n\r\f\v"))
		}
		names = append(names, name.String())
	}
}

// setUserMappings adds the options of user mappings that the archive lacks, because whoever made it was no superuser.
func (r *run) setUserMappings(ctx context.Context) error {
	if !slices.ContainsFunc(r.database.UserMappings, func(m catalog.UserMapping) bool { return len(m.Options) > 0 }) {
		return nil
	}
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		// The view shows options to superusers and to the mapping's user; elsewhere they read as absent.
		list, err := collect(ctx, conn, "user mappings", `
			SELECT srvname::pg_catalog.text, CASE umuser WHEN 0 THEN '' ELSE usename::pg_catalog.text END, COALESCE(umoptions, '{}')
			FROM pg_catalog.pg_user_mappings`,
			func(row pgx.CollectableRow) (m catalog.UserMapping, err error) {
				err = row.Scan(&m.Server, &m.User, &m.Options)
				return m, err
			})
		if err != nil {
			return err
		}
		for _, want := range r.database.UserMappings {
			i := slices.IndexFunc(list, func(m catalog.UserMapping) bool { return m.Server == want.Server && m.User == want.User })
			user := "PUBLIC"
			if want.User != "" {
				user = postgres.QuoteIdentifier(want.User)
			}
			server := postgres.QuoteIdentifier(want.Server)
			if i < 0 {
				return fmt.Errorf("user mapping for %s on server %s is not defined by the schema archive", user, server)
			}
			var changes []string
			for _, option := range want.Options {
				name, value, _ := strings.Cut(string(option), "=")
				has := func(have catalog.Text) bool { return strings.HasPrefix(string(have), name+"=") }
				word := "ADD "
				switch {
				case slices.Contains(list[i].Options, option):
					continue
				case slices.ContainsFunc(list[i].Options, has):
					word = "SET "
				}
				changes = append(changes, word+postgres.QuoteIdentifier(catalog.Text(name))+" "+postgres.QuoteLiteral(catalog.Text(value)))
			}
			if len(changes) == 0 {
				continue
			}
			err := execute(ctx, conn, "ALTER USER MAPPING FOR "+user+" SERVER "+server+" OPTIONS ("+strings.Join(changes, ", ")+")")
			if err != nil {
				return fmt.Errorf("set options of the user mapping for %s on server %s: %w", user, server, err)
			}
		}
		return nil
	})
}
