package restore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"testing"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/testenv"
)

// heldSource is a snapshot of a live database held in memory: what a repository would give back.
type heldSource struct {
	database     catalog.Database
	archive      []byte
	tables       []catalog.StoredTable
	rows         map[catalog.OID][]byte
	sequences    []catalog.Sequence
	views        []catalog.MaterializedView
	largeObjects []catalog.LargeObject
	// onRows, when set, is called before the rows of a table are written; its error ends them.
	onRows func(ctx context.Context, table catalog.StoredTable, w io.Writer) error
}

func (s *heldSource) Database() catalog.Database { return s.database }

func (s *heldSource) SchemaArchive(_ context.Context, w io.Writer) error {
	_, err := w.Write(s.archive)
	return err
}

func (s *heldSource) Tables(context.Context) iter.Seq2[catalog.StoredTable, error] {
	return yieldAll(s.tables)
}

func (s *heldSource) Rows(ctx context.Context, table catalog.StoredTable, w io.Writer) error {
	if s.onRows != nil {
		if err := s.onRows(ctx, table, w); err != nil {
			return err
		}
	}
	for rows := s.rows[table.OID]; len(rows) > 0; {
		piece := min(len(rows), 1000) // an odd size: rows and pages are cut anywhere
		if _, err := w.Write(rows[:piece]); err != nil {
			return err
		}
		rows = rows[piece:]
	}
	return nil
}

func (s *heldSource) Sequences(context.Context) iter.Seq2[catalog.Sequence, error] {
	return yieldAll(s.sequences)
}

func (s *heldSource) MaterializedViews() []catalog.MaterializedView { return s.views }

func (s *heldSource) LargeObjects(context.Context) iter.Seq2[catalog.LargeObject, error] {
	return yieldAll(s.largeObjects)
}

func yieldAll[T any](all []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, one := range all {
			if !yield(one, nil) {
				return
			}
		}
	}
}

// table returns the held table of a name.
func (s *heldSource) table(t *testing.T, name catalog.Text) *catalog.StoredTable {
	t.Helper()
	for i := range s.tables {
		if s.tables[i].Name == name {
			return &s.tables[i]
		}
	}
	t.Fatalf("no table %s among the %d of the snapshot", name, len(s.tables))
	return nil
}

// newServer returns the cluster as hourvault sees it, connecting as user.
func newServer(t *testing.T, cluster *testenv.Cluster, user string) *postgres.Server {
	t.Helper()
	server, err := postgres.NewServer(postgres.ServerConfig{
		Name: fmt.Sprintf("postgres-%d", cluster.Major()), DSN: cluster.DSNFor(user, "postgres"), Connections: 4,
		BinDirs: []string{cluster.BinDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

type rowBuffer struct{ bytes.Buffer }

func (*rowBuffer) Block(uint32) error { return nil }

// hold takes a snapshot of a database into memory.
func hold(t *testing.T, server *postgres.Server, database string) *heldSource {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("hold a snapshot of %s: %v", database, err)
		}
	}
	snapshot, err := server.OpenSnapshot(ctx, database, postgres.SnapshotOptions{})
	must(err)
	defer func() { must(snapshot.Close(context.Background())) }()
	source := &heldSource{rows: map[catalog.OID][]byte{}}
	source.database, _, err = postgres.CaptureDatabase(ctx, snapshot)
	must(err)
	var archive bytes.Buffer
	_, err = snapshot.SchemaArchive(ctx, &archive)
	must(err)
	source.archive = archive.Bytes()
	source.views, err = postgres.CaptureMaterializedViews(ctx, snapshot)
	must(err)
	for sequence, err := range postgres.CaptureSequences(ctx, snapshot) {
		must(err)
		source.sequences = append(source.sequences, sequence)
	}
	for object, err := range postgres.CaptureLargeObjects(ctx, snapshot) {
		must(err)
		source.largeObjects = append(source.largeObjects, object)
	}
	reader, err := snapshot.NewReader(ctx)
	must(err)
	defer func() { must(reader.Close(context.Background())) }()
	for table, err := range snapshot.Tables(ctx) {
		must(err)
		var rows rowBuffer
		if table.Kind == catalog.KindExtensionConfig || !table.HasBlocks() {
			_, err = reader.ReadStream(ctx, &table, &rows)
		} else {
			_, err = reader.ReadBlocks(ctx, &table, 0, postgres.OpenEnd, &rows)
		}
		must(err)
		source.rows[table.OID] = rows.Bytes()
		source.tables = append(source.tables, catalog.StoredTable{
			Table: table, Rows: int64(bytes.Count(rows.Bytes(), []byte{'\n'})), Bytes: int64(rows.Len()),
		})
	}
	return source
}
