package endtoend_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/testenv"
)

const (
	accounts  = 6000
	perRow    = 1000
	tellers   = 8
	sideRows  = 400
	snapshots = 3
)

// bank makes tables between which tellers move money, and side tables that are rewritten all the time.
//
// What must hold in every snapshot: the balances of both banks and what lies in open envelopes sum up to what there
// was at first; an account's balance is perRow plus what its entries say; each teller's tally counts and sums up its
// entries; foreign keys hold. The side tables hold sideRows rows of one generation each.
var bank = fmt.Sprintf(`
	create table bank_a (id int primary key, balance bigint not null, padding text not null);
	create table bank_b (id int primary key, balance bigint not null, padding text not null);
	create table teller (id int primary key, entries bigint not null default 0, moved bigint not null default 0);
	create table entry (id bigint generated always as identity primary key, teller int not null references teller,
		from_a int not null references bank_a, to_b int not null references bank_b, amount bigint not null);
	create table envelope (id int primary key, teller int not null references teller, amount bigint not null);
	create table envelope_line (envelope int not null references envelope on delete cascade, amount bigint not null);
	create table still (id int primary key, t text);
	insert into bank_a select i, %[2]d, repeat('a', 200) from generate_series(1, %[1]d) i;
	insert into bank_b select i, %[2]d, repeat('b', 200) from generate_series(1, %[1]d) i;
	insert into teller select i from generate_series(1, %[3]d) i;
	insert into still select i, md5(i::text) from generate_series(1, 50000) i;
	create table side (name text primary key, generation int not null);
	insert into side values ('truncated', 0);
	create table side_truncated (generation int, n int, padding text);
	create table side_altered (n int, generation int, padding text);
	create table side_clustered (n int primary key, generation int, padding text);
	create table side_vacuumed (n int, generation int, padding text);
	insert into side_truncated select 0, i, repeat('t', 100) from generate_series(1, %[4]d) i;
	insert into side_altered select i, 0, repeat('l', 100) from generate_series(1, %[4]d) i;
	insert into side_clustered select i, 0, repeat('c', 100) from generate_series(1, %[4]d) i;
	insert into side_vacuumed select i, 0, repeat('v', 100) from generate_series(1, %[4]d) i;
	cluster side_clustered using side_clustered_pkey`, accounts, perRow, tellers, sideRows)

// invariants are queries that return nothing in a consistent state. Each says what is wrong.
var invariants = map[string]string{
	"total": fmt.Sprintf(`select 'total is ' || total from (select (select sum(balance) from bank_a) + (select sum(balance) from bank_b) + coalesce((select sum(amount) from envelope), 0) as total) x
		where total <> %d`, 2*accounts*perRow),
	"bank a": fmt.Sprintf(`select 'account ' || id from bank_a left join (select from_a, sum(amount) as paid from entry group by 1) e on from_a = id
		where balance <> %d - coalesce(paid, 0) and not exists (select from envelope)`, perRow),
	"bank b": fmt.Sprintf(`select 'account ' || id from bank_b left join (select to_b, sum(amount) as got from entry group by 1) e on to_b = id
		where balance <> %d + coalesce(got, 0)`, perRow),
	"tally": `select 'teller ' || t.id from teller t left join (select teller, count(*) as n, sum(amount) as s from entry group by 1) e on e.teller = t.id
		where t.entries <> coalesce(n, 0) or t.moved <> coalesce(s, 0)`,
	"envelopes": `select 'envelope ' || id from envelope left join (select envelope, sum(amount) as s from envelope_line group by 1) l on l.envelope = id where amount <> coalesce(s, 0)`,
	"keys": `select 'entry ' || e.id from entry e where not exists (select from bank_a where id = from_a) or not exists (select from bank_b where id = to_b) or not exists (select from teller t where t.id = e.teller)
		union all select 'line of ' || envelope from envelope_line l where not exists (select from envelope where id = l.envelope)`,
	"accounts": fmt.Sprintf(`select 'number of accounts' where (select count(*) from bank_a) <> %[1]d or (select count(*) from bank_b) <> %[1]d or (select count(*) from still where t = md5(id::text)) <> 50000`, accounts),
	"truncated table": fmt.Sprintf(`select count(*) || ' rows of generations ' || coalesce(min(t.generation), -1) || ' to ' || coalesce(max(t.generation), -1) || ', want ' || min(s.generation)
		from side s left join side_truncated t on true where s.name = 'truncated' having count(t.n) <> %[1]d or count(distinct t.n) <> %[1]d or min(t.generation) <> min(s.generation) or max(t.generation) <> min(s.generation)`, sideRows),
	"altered table": fmt.Sprintf(`select count(*) || ' rows' from side_altered having count(*) <> %[1]d or count(distinct n) <> %[1]d or min(generation) <> max(generation)`, sideRows),
	"clustered":     fmt.Sprintf(`select count(*) || ' rows' from side_clustered having count(*) <> %[1]d or count(distinct n) <> %[1]d or min(generation) <> max(generation)`, sideRows),
	"vacuumed":      fmt.Sprintf(`select count(*) || ' rows' from side_vacuumed having count(*) <> %[1]d or count(distinct n) <> %[1]d or min(generation) <> max(generation)`, sideRows),
}

// mvccTables are those that hold the same rows for a snapshot whenever they are read: nobody truncates or alters them.
var mvccTables = []string{"bank_a", "bank_b", "teller", "entry", "envelope", "envelope_line", "still", "side_clustered", "side_vacuumed", "side"}

func TestEverySnapshotUnderLoadIsConsistent(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			cluster := testenv.Postgres(t, major)
			database := cluster.CreateDatabase(t, "TEMPLATE template0")
			cluster.Exec(t, database, bank)
			vault, server := newVault(t, bucketOrDirectory(t, major)), newServer(t, cluster, "postgres")
			load := startLoad(t, cluster, database)
			var all []observed
			for range snapshots {
				all = append(all, observedBackup(t, vault, server, cluster, database, load))
			}
			load.stop(t)
			t.Logf("%d transfers, %d rewrites, %d rewrites that were refused, %d attempts for %d snapshots",
				load.transfers.Load(), load.rewrites.Load(), load.refused.Load(), load.attempts, len(all))
			if least := int64(200); load.transfers.Load() < least || load.rewrites.Load() < 20 {
				t.Errorf("the load was too small to show anything")
			}
			totals := make(map[string]bool)
			for i, snapshot := range all {
				into := fmt.Sprintf("%s_%d", database, i)
				t.Cleanup(func() { cluster.Exec(t, "postgres", "DROP DATABASE IF EXISTS "+into+" WITH (FORCE)") })
				vault.restore(t, snapshot.taken, server, into)
				checkInvariants(t, cluster, into)
				for table, want := range snapshot.digests {
					if got := contentDigest(t, cluster, into, "select * from public."+table); got != want {
						t.Errorf("snapshot %d: table %s: %s, but under the same exported snapshot COPY read %s", i+1, table, got, want)
					}
				}
				if len(snapshot.digests) != len(mvccTables) {
					t.Errorf("snapshot %d: %d tables were compared", i+1, len(snapshot.digests))
				}
				totals[snapshot.digests["entry"]] = true
				if statistics := snapshot.manifest.Statistics; i > 0 && (statistics.NewBlocks == 0 || statistics.NewBlocks >= statistics.Blocks) {
					t.Errorf("snapshot %d stored %d of %d blocks: nothing was taken over from the one before, or nothing changed", i+1, statistics.NewBlocks, statistics.Blocks)
				}
			}
			if len(totals) != len(all) {
				t.Errorf("%d snapshots hold only %d different states", len(all), len(totals))
			}
			// The checks themselves: a state that never was is found.
			for _, mutation := range []string{
				"update bank_a set balance = balance + 1 where id = 5", "delete from entry where id = (select min(id) from entry)", "truncate side_truncated", "delete from side_clustered where n = 7",
			} {
				into := fmt.Sprintf("%s_%d", database, len(all)-1)
				if violated(t, cluster, into, mutation) == "" {
					t.Errorf("no invariant is violated after: %s", mutation)
				}
			}
		})
	}
}

func bucketOrDirectory(t *testing.T, major int) opener {
	if major == 18 {
		return bucket(t, testenv.MinIO(t), "AES256")
	}
	return directory(t)
}

func checkInvariants(t *testing.T, cluster *testenv.Cluster, database string) {
	t.Helper()
	if found := violated(t, cluster, database, ""); found != "" {
		t.Errorf("database %s is in a state that never was: %s", database, found)
	}
}

// violated names the invariants that do not hold after a mutation, which is rolled back.
func violated(t *testing.T, cluster *testenv.Cluster, database, mutation string) string {
	t.Helper()
	conn := cluster.Connect(t, database)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.PgConn().Exec(t.Context(), "BEGIN; SET LOCAL session_replication_role = replica; "+mutation).ReadAll(); err != nil {
		t.Fatal(err)
	}
	var found []string
	for name, sql := range invariants {
		rows, err := conn.Query(t.Context(), sql)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(wrong) > 0 {
			found = append(found, fmt.Sprintf("%s: %s (%d)", name, wrong[0], len(wrong)))
		}
	}
	return strings.Join(found, "; ")
}

// observed is a snapshot, and what another session read under the very snapshot that hourvault exported for it.
type observed struct {
	taken
	digests map[string]string
}

// observedBackup takes a snapshot under load. The server leaves an exported snapshot in a file for as long as it is
// held, so that this test can read under it, too. A snapshot that fails loudly is taken again; after some failures the
// rewriting pauses.
func observedBackup(t *testing.T, vault *vault, server *postgres.Server, cluster *testenv.Cluster, database string, load *load) observed {
	t.Helper()
	const most = 12
	for attempt := 1; ; attempt++ {
		load.attempts++
		if attempt > most-3 {
			load.pause(true)
		}
		conn := cluster.Connect(t, database)
		var once sync.Once
		var reading error
		snapshot, err := vault.tryBackup(t, server, database, func(backup.Progress) {
			once.Do(func() { reading = underExportedSnapshot(t, conn, cluster) })
		})
		if err != nil {
			_ = conn.Close(context.WithoutCancel(t.Context()))
			if attempt == most || !failedLoudly(err) {
				t.Fatalf("attempt %d: %v", attempt, err)
			}
			t.Logf("attempt %d: %v", attempt, err)
			continue
		}
		load.pause(false)
		if reading != nil {
			t.Fatalf("read under the exported snapshot: %v", reading)
		}
		result := observed{taken: snapshot, digests: make(map[string]string)}
		for _, table := range mvccTables {
			result.digests[table] = digestOn(t, conn, "select * from only public."+table)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		return result
	}
}

// failedLoudly tells whether an error is one of those with which a snapshot gives way to the load of this test.
func failedLoudly(err error) bool {
	return errors.As(err, new(*postgres.GaveWayError)) || errors.As(err, new(*postgres.UnsettledError)) || errors.As(err, new(*postgres.LockTimeoutError))
}

// underExportedSnapshot begins a transaction under the one snapshot that is exported, whose name it learns from its file.
func underExportedSnapshot(t *testing.T, conn *pgx.Conn, cluster *testenv.Cluster) error {
	files, err := filepath.Glob(filepath.Join(cluster.DataDir(), "pg_snapshots", "*"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		if _, err := os.ReadDir(filepath.Join(cluster.DataDir(), "pg_snapshots")); err != nil {
			return err
		}
	}
	if len(files) != 1 {
		return fmt.Errorf("%d snapshots are exported", len(files))
	}
	_, err = conn.PgConn().Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '"+filepath.Base(files[0])+"'; SELECT 1").ReadAll()
	return err
}

// load is what goes on in the database while snapshots are taken.
type load struct {
	cancel                       context.CancelFunc
	group                        sync.WaitGroup
	transfers, rewrites, refused atomic.Int64
	attempts                     int

	mutex sync.Mutex
	errs  []error
	gate  sync.RWMutex // held for writing while rewriting pauses
	shut  bool
}

func startLoad(t *testing.T, cluster *testenv.Cluster, database string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel}
	run := func(session func(context.Context, *pgx.Conn) error) {
		l.group.Go(func() {
			conn, err := pgx.Connect(ctx, cluster.DSN(database))
			if err == nil {
				err = session(ctx, conn)
				_ = conn.Close(context.WithoutCancel(ctx))
			}
			if err != nil && ctx.Err() == nil {
				l.mutex.Lock()
				l.errs = append(l.errs, err)
				l.mutex.Unlock()
			}
		})
	}
	for teller := range tellers {
		random := rand.New(rand.NewPCG(uint64(teller), 1))
		run(func(ctx context.Context, conn *pgx.Conn) error { return l.transfer(ctx, conn, teller+1, random) })
	}
	run(l.rewrite)
	t.Cleanup(func() { cancel(); l.group.Wait() })
	return l
}

// pace lets a session go on after a moment, or not at all when the load ends.
func pace(ctx context.Context, moment time.Duration) bool {
	select {
	case <-time.After(moment):
		return true
	case <-ctx.Done():
		return false
	}
}

// transfer moves money for ever: mostly at once, with an entry; and now and then into an envelope and back.
func (l *load) transfer(ctx context.Context, conn *pgx.Conn, teller int, random *rand.Rand) error {
	for n := 0; pace(ctx, 10*time.Millisecond); n++ {
		// Most accounts stay as they are, so that a snapshot finds blocks to take over.
		from, to, amount := 1+random.IntN(accounts/4), 1+random.IntN(accounts/4), 1+random.IntN(50)
		script := fmt.Sprintf(`begin;
			update bank_a set balance = balance - %[3]d where id = %[1]d;
			insert into entry (teller, from_a, to_b, amount) values (%[4]d, %[1]d, %[2]d, %[3]d);
			update teller set entries = entries + 1, moved = moved + %[3]d where id = %[4]d;
			update bank_b set balance = balance + %[3]d where id = %[2]d;
			commit`, from, to, amount, teller)
		if n%5 == 0 {
			script = fmt.Sprintf(`begin;
				update bank_a set balance = balance - %[2]d where id = %[1]d;
				insert into envelope values (%[3]d, %[3]d, %[2]d) on conflict (id) do update set amount = envelope.amount + %[2]d;
				insert into envelope_line values (%[3]d, %[2]d);
				commit;
				begin;
				delete from envelope where id = %[3]d;
				update bank_a set balance = balance + %[2]d where id = %[1]d;
				commit`, from, amount, teller)
		}
		_, err := conn.PgConn().Exec(ctx, script).ReadAll()
		if server, ok := errors.AsType[*pgconn.PgError](err); ok && server.Code == "40P01" { // a deadlock undid it
			if _, err := conn.PgConn().Exec(ctx, "rollback").ReadAll(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		l.transfers.Add(1)
	}
	return nil
}

// rewrite replaces the files of the side tables for ever. It waits for a lock only for a moment: whoever waits longer makes
// every snapshot give way, and none would ever meet a rewrite while it opens.
func (l *load) rewrite(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.PgConn().Exec(ctx, "set lock_timeout = '10ms'").ReadAll(); err != nil {
		return err
	}
	for generation := 1; pace(ctx, 10*time.Millisecond); generation++ {
		scripts := []string{
			fmt.Sprintf(`begin; truncate side_truncated; update side set generation = %[1]d where name = 'truncated';
				insert into side_truncated select %[1]d, i, repeat('t', 100) from generate_series(1, %[2]d) i; commit`, generation, sideRows),
			fmt.Sprintf(`update side_clustered set generation = %d`, generation), `cluster side_clustered`,
			fmt.Sprintf(`update side_vacuumed set generation = %d`, generation), `vacuum full side_vacuumed`,
			fmt.Sprintf(`begin; update side_altered set generation = %d; alter table side_altered alter n type %s; commit`, generation, []string{"bigint", "int"}[generation%2]),
		}
		for _, script := range scripts {
			l.gate.RLock()
			_, err := conn.PgConn().Exec(ctx, script).ReadAll()
			l.gate.RUnlock()
			if server, ok := errors.AsType[*pgconn.PgError](err); ok && (server.Code == "55P03" || server.Code == "40P01") {
				l.refused.Add(1)
				if _, err := conn.PgConn().Exec(ctx, "rollback").ReadAll(); err != nil {
					return err
				}
				if !pace(ctx, 50*time.Millisecond) {
					return nil
				}
				continue
			}
			if err != nil {
				return err
			}
			l.rewrites.Add(1)
		}
	}
	return nil
}

// pause stops the rewriting, or lets it go on. Called by one goroutine.
func (l *load) pause(shut bool) {
	switch {
	case shut && !l.shut:
		l.gate.Lock()
	case !shut && l.shut:
		l.gate.Unlock()
	}
	l.shut = shut
}

// stop ends the load and fails the test when a session of it did.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.pause(false)
	l.cancel()
	l.group.Wait()
	for _, err := range l.errs {
		t.Errorf("load: %v", err)
	}
}
