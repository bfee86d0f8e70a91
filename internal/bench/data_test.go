package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/testenv"
)

// generated makes the database, at its smallest, on the newest server.
func generated(t *testing.T) *cluster {
	t.Helper()
	server := testenv.StartPostgres(t, slices.Max(testenv.Majors()))
	made := &cluster{major: server.Major(), binDir: server.BinDir(), dir: server.SocketDir(), port: server.Port()}
	if err := made.makeDatabase(t.Context(), 1<<20); err != nil {
		t.Fatal(err)
	}
	return made
}

func contents(t *testing.T, of *cluster) map[string]digest {
	t.Helper()
	found, err := of.digests(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestGeneratedDatabaseHasWhatTheBenchmarkSays(t *testing.T) {
	made := generated(t)
	before := contents(t, made)
	for table, one := range before {
		if one.rows == 0 {
			t.Errorf("table %s is empty", table)
		}
	}
	if got, want := slices.Sorted(maps.Keys(before)), []string{"customers", "documents", "events", "order_items", "orders", "products"}; !slices.Equal(got, want) {
		t.Errorf("tables are %v, want %v", got, want)
	}
	if err := compareDigests(before, contents(t, made)); err != nil {
		t.Errorf("the same database differs from itself: %v", err)
	}
	if err := made.query(t.Context(), database, func(conn *pgx.Conn) error {
		var toast int64
		err := conn.QueryRow(t.Context(), "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'documents'").Scan(&toast)
		if err == nil && toast == 0 {
			t.Error("no document is stored out of line")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	if err := made.updateRows(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := contents(t, made)
	if after["events"].sum == before["events"].sum || after["events"].rows != before["events"].rows {
		t.Errorf("after updates the events are %+v, before %+v", after["events"], before["events"])
	}
	if err := compareDigests(before, after); err == nil {
		t.Error("databases with different rows were taken for equal")
	}
	delete(after, "events")
	if err := compareDigests(after, before); err == nil {
		t.Error("a database with one table more was taken for equal")
	}
}

func TestGeneratedDatabaseIsTheSameEveryTime(t *testing.T) {
	if !testenv.Long() {
		t.Skip("makes a database twice: runs in the long variant")
	}
	made := generated(t)
	first := contents(t, made)
	if err := made.execute(t.Context(), "postgres", "DROP DATABASE "+database); err != nil {
		t.Fatal(err)
	}
	if err := made.makeDatabase(t.Context(), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := compareDigests(first, contents(t, made)); err != nil {
		t.Error(err)
	}
}
