package endtoend_test

import (
	"fmt"
	"strings"
	"testing"
)

// leastPrivileges is all that a role needs to take snapshots of every database of a server: it reads rows, also those
// behind row security, and nothing else. A database whose CONNECT was revoked from PUBLIC needs that grant besides.
var leastPrivileges = []struct{ statement, withoutIt string }{
	{"CREATE ROLE fx_backup LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE", `role "fx_backup" does not exist`},
	{"GRANT CONNECT ON DATABASE " + quote(fixtureName) + " TO fx_backup", "permission denied for database"},
	{"GRANT pg_read_all_data TO fx_backup", "GRANT pg_read_all_data TO"},
	{"ALTER ROLE fx_backup BYPASSRLS", "BYPASSRLS"},
}

// leastPrivilegeWarnings name what only a superuser can capture.
var leastPrivilegeWarnings = append([]string{"subscription_not_captured", "pg_dump"}, sourceWarnings...)

func TestRoleWithLeastPrivilegesTakesTheSameSnapshot(t *testing.T) {
	for _, major := range []int{15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			cluster := startServers(t, major)[major]
			makeFixture(t, cluster)
			vault := newVault(t, directory(t))
			server := newServer(t, cluster, "fx_backup")

			// Each privilege is missed when it is not there: the list is the least.
			for i, privilege := range leastPrivileges {
				if i > 0 {
					if _, err := vault.tryBackup(t, server, fixtureName, nil); err == nil || !strings.Contains(err.Error(), privilege.withoutIt) {
						t.Errorf("before %q: error %v, want one that says %q", privilege.statement, err, privilege.withoutIt)
					}
				}
				cluster.Exec(t, "postgres", privilege.statement)
			}
			snapshot := vault.backup(t, server, fixtureName)
			checkWarnings(t, "backup", snapshot.manifest.Warnings, leastPrivilegeWarnings...)
			for _, warning := range snapshot.manifest.Warnings {
				// The database names a role that every session is to have, and this one is no member of it.
				if warning.Code == "pg_dump" && !strings.Contains(string(warning.Message), "subscription") && !strings.Contains(string(warning.Message), "permission denied to set role") {
					t.Errorf("pg_dump warns of something else: %s", warning.Message)
				}
			}

			const into = "restored"
			vault.restore(t, snapshot, newServer(t, cluster, "postgres"), into)
			arguments := append([]string{"--no-subscriptions"}, dumpArguments...)
			want, got := dump(t, cluster, cluster, fixtureName, arguments...), dump(t, cluster, cluster, into, arguments...)
			if report := differences(want, got); report != "" {
				t.Errorf("pg_dump of the restored database differs: %s", report)
			}
			withoutSubscriptions := func(list []string) (kept []string) {
				for _, line := range list {
					if !strings.HasPrefix(line, "subscription | ") {
						kept = append(kept, line)
					}
				}
				return kept
			}
			original := properties(t, cluster, fixtureName)
			if report := differences(withoutSubscriptions(original), properties(t, cluster, into)); report != "" {
				t.Errorf("properties of the restored database differ: %s", report)
			}
			if len(original)-len(withoutSubscriptions(original)) != 2 {
				t.Error("the fixture has no subscriptions to lose")
			}
		})
	}
}
