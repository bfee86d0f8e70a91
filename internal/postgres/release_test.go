package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/testenv"
)

// stalledSink blocks in its first Write until it is let go, as an upload that stalls does.
type stalledSink struct {
	blocked, letGo chan struct{}
	seen           bool
}

func (s *stalledSink) Block(uint32) error { return nil }

func (s *stalledSink) Write(p []byte) (int, error) {
	if !s.seen {
		s.seen = true
		close(s.blocked)
		<-s.letGo
	}
	return len(p), nil
}

func TestSnapshotThatGivesWayReleasesTheLocksOfAStalledReader(t *testing.T) {
	eachMajor(t, func(t *testing.T, cluster *testenv.Cluster) {
		database := cluster.CreateDatabase(t, "")
		cluster.Exec(t, database, "CREATE TABLE t (id int, filler text); INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i")
		server := testServer(t, cluster, "", func(c *ServerConfig) { c.YieldToDDL = 50 * time.Millisecond })
		snapshot := openSnapshot(t, server, database, SnapshotOptions{poll: 20 * time.Millisecond})
		reader, table := newReader(t, snapshot), tableNamed(t, snapshot, "public", "t")
		sink := &stalledSink{blocked: make(chan struct{}), letGo: make(chan struct{})}
		read := make(chan error, 1)
		go func() {
			_, err := reader.ReadBlocks(context.Background(), table, 0, OpenEnd, sink)
			read <- err
		}()
		<-sink.blocked
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		// The sink stays blocked: the ALTER must come through all the same, and all places be given back.
		if err := execute(ctx, cluster.Connect(t, database), "ALTER TABLE t ADD c int"); err != nil {
			t.Errorf("ALTER TABLE beside a stalled read: %v", err)
			close(sink.letGo)
			t.Log(<-read)
			return
		}
		if err := snapshot.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if len(server.tokens) != 4 {
			t.Errorf("%d of 4 places are free while the sink is blocked", len(server.tokens))
		}
		close(sink.letGo)
		var gave *GaveWayError
		if err := <-read; !errors.As(err, &gave) {
			t.Errorf("the read that was cut: got %v, want a GaveWayError", err)
		}
	})
}
