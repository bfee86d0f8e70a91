package restore

import (
	"testing"

	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/testenv"
)

// When the answer to CREATE DATABASE is lost the server may still be at it: a database that is dropped before it is there
// comes afterwards, and nobody knows of it.
func TestDatabaseThatIsStillBeingCreatedIsDropped(t *testing.T) {
	cluster := testenv.StartPostgres(t, 17)
	server, err := postgres.NewServer(postgres.ServerConfig{Name: "server", DSN: cluster.DSN("postgres"), Connections: 2, BinDirs: []string{cluster.BinDir()}})
	if err != nil {
		t.Fatal(err)
	}
	r := &run{target: server, name: TemporaryPrefix + "0123456789abcdef", archive: &archive{}}
	locker, creator, watcher := cluster.Connect(t, "postgres"), cluster.Connect(t, "postgres"), cluster.Connect(t, "postgres")
	if _, err := locker.Exec(t.Context(), "BEGIN; LOCK TABLE pg_catalog.pg_shdepend IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	created := make(chan error, 1)
	go func() {
		_, err := creator.Exec(t.Context(), "CREATE DATABASE "+r.identifier()+" TEMPLATE template0")
		created <- err
	}()
	for waits := false; !waits; {
		if err := watcher.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%' AND wait_event_type = 'Lock')").Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.drop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := locker.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	t.Log(<-created)
	var n int
	if err := watcher.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname = '"+r.name+"'").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d databases left, error %v", n, err)
	}
}
