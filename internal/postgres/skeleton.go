package postgres

import (
	"context"
	"errors"
	"io"
	"iter"
	"os/exec"
	"time"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/jackc/pgx/v5"
)

var errSkeleton = errors.New("not written yet")

const PinnedSettingsVersion = 1

type ServerConfig struct {
	Name              string
	DSN               string // URL or keyword/value, without password
	Password          Password
	Connections       int           // at least 2
	LockTimeout       time.Duration // 0: DefaultLockTimeout
	YieldToDDL        time.Duration // 0: DefaultYieldToDDL
	RequestCheckpoint bool
	BinDirs           []string
}

type Password string

type Server struct{}

type Identity struct {
	SystemIdentifier string
	ServerVersion    int
	InRecovery       bool
	Superuser        bool
	Role             catalog.Text
}

type DatabaseEntry struct {
	OID              catalog.OID
	Name             catalog.Text
	Owner            catalog.Text
	AllowConnections bool
	IsTemplate       bool
	SizeBytes        int64 // -1 unknown
}

func NewServer(ServerConfig) (*Server, error) { return nil, errSkeleton }
func (s *Server) Name() string                { return "" }
func (s *Server) Connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return nil, errSkeleton
} // reading: read-only
func (s *Server) ConnectRestore(ctx context.Context, database string) (*pgx.Conn, error) {
	return nil, errSkeleton
}
func (s *Server) Identity(ctx context.Context) (Identity, error)         { return Identity{}, errSkeleton }
func (s *Server) Databases(ctx context.Context) ([]DatabaseEntry, error) { return nil, errSkeleton }
func (s *Server) CommandContext(ctx context.Context, tool, database string, args ...string) (*exec.Cmd, error) {
	return nil, errSkeleton
}

type SnapshotOptions struct{}

type Snapshot struct{}

func (s *Server) OpenSnapshot(ctx context.Context, database string, options SnapshotOptions) (*Snapshot, error) {
	return nil, errSkeleton
}
func (s *Snapshot) ID() string                                                 { return "" }
func (s *Snapshot) Time() time.Time                                            { return time.Time{} }
func (s *Snapshot) Database() string                                           { return "" }
func (s *Snapshot) OID() catalog.OID                                           { return 0 }
func (s *Snapshot) Context() context.Context                                   { return nil }
func (s *Snapshot) Warnings() []catalog.Warning                                { return nil } // of opening: what will not be captured
func (s *Snapshot) TableCount() int                                            { return 0 }
func (s *Snapshot) Tables(ctx context.Context) iter.Seq2[catalog.Table, error] { return nil }
func (s *Snapshot) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return nil, errSkeleton
}
func (s *Snapshot) NewReader(ctx context.Context) (*Reader, error) { return nil, errSkeleton }
func (s *Snapshot) SchemaArchive(ctx context.Context, w io.Writer) ([]catalog.Warning, error) {
	return nil, errSkeleton
}
func (s *Snapshot) Recheck(ctx context.Context) error { return errSkeleton }
func (s *Snapshot) Reading(ctx context.Context) (catalog.Reading, error) {
	return catalog.Reading{}, errSkeleton
}                                                   // calls Recheck
func (s *Snapshot) Close(ctx context.Context) error { return errSkeleton }

type Reader struct{}

type RowSink interface {
	Block(number uint32) error
	Write(p []byte) (int, error)
}

// OpenEnd as the end of a range means: to the end of the table.
const OpenEnd = ^uint32(0)

func (r *Reader) ReadBlocks(ctx context.Context, table *catalog.Table, from, to uint32, sink RowSink) (int64, error) {
	return 0, errSkeleton
}

// ReadStream calls sink.Block(0) once before the first row.
func (r *Reader) ReadStream(ctx context.Context, table *catalog.Table, sink RowSink) (int64, error) {
	return 0, errSkeleton
}
func (r *Reader) Close(ctx context.Context) error { return errSkeleton }

type Tools struct {
	Major   int
	Version string
	Dir     string
}

func (t Tools) DumpPath() string    { return "" }
func (t Tools) RestorePath() string { return "" }

func FindTools(binDirs []string) ([]Tools, error)               { return nil, errSkeleton }
func ChooseTools(tools []Tools, serverMajor int) (Tools, error) { return Tools{}, errSkeleton }

type LockTimeoutError struct{ Table catalog.Text }

func (e *LockTimeoutError) Error() string { return "" }

type GaveWayError struct{ Table catalog.Text }

func (e *GaveWayError) Error() string { return "" }

type OrderError struct{ Table catalog.Text }

func (e *OrderError) Error() string { return "" }
