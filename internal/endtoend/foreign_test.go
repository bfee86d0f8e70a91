package endtoend_test

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv"
)

// TestRestoreDoesNotAskForeignServers restores tables of which a partition or a child is a foreign table. ANALYZE of such
// a table reads the foreign server, which may be another customer's, or the production a drill must not touch.
func TestRestoreDoesNotAskForeignServers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })

	cluster := testenv.Postgres(t, 15)
	database := cluster.CreateDatabase(t, "TEMPLATE template0")
	cluster.Exec(t, database, fmt.Sprintf(`
		create extension postgres_fdw;
		create server far foreign data wrapper postgres_fdw options (host '127.0.0.1', port '%d');
		create user mapping for public server far;
		create table root (a int) partition by range (a);
		create table mid partition of root for values from (0) to (100) partition by range (a);
		create table leaf partition of mid for values from (0) to (10);
		create foreign table far_leaf partition of mid for values from (10) to (20) server far;
		create table other_mid partition of root for values from (100) to (200) partition by range (a);
		create table other_leaf partition of other_mid default;
		insert into root select generate_series(0, 9); insert into root select generate_series(100, 199);
		create table parent (a int); create table child () inherits (parent); create foreign table far_child () inherits (parent) server far;
		insert into parent values (1); insert into child values (2)`, listener.Addr().(*net.TCPAddr).Port))
	vault, server := newVault(t, directory(t)), newServer(t, cluster, "postgres")
	into := database + "_restored"
	t.Cleanup(func() { cluster.Exec(t, "postgres", "DROP DATABASE IF EXISTS "+into+" WITH (FORCE)") })
	result := vault.restore(t, vault.backup(t, server, database), server, into)
	checkWarnings(t, "restore", result.Warnings, "table_not_analyzed")
	if n := asked.Load(); n != 0 {
		t.Errorf("the restore connected %d times to a foreign server", n)
	}
	analyzed := query(t, cluster, into, "select relname::text from pg_stat_user_tables where last_analyze is not null order by 1")
	if got, want := fmt.Sprint(analyzed), "[child leaf other_leaf other_mid]"; got != want {
		t.Errorf("analyzed tables: %s, want %s", got, want)
	}
}
