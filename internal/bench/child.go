package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/backup"
	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	hourvault "github.com/hourvault/hourvault/internal/repository"
	"github.com/hourvault/hourvault/restore"
)

// runChild is this program as one of its own measured processes.
func runChild(ctx context.Context, arguments []string) error {
	switch {
	case len(arguments) == 3 && arguments[0] == "floor":
		return readAll(ctx, arguments[1], arguments[2] == "true")
	case len(arguments) == 2 && (arguments[0] == "backup" || arguments[0] == "restore"):
		content, err := os.ReadFile(arguments[1])
		if err != nil {
			return fmt.Errorf("read the work of a child: %w", err)
		}
		var wiring inProcess
		if err := json.Unmarshal(content, &wiring); err != nil {
			return fmt.Errorf("read the work of a child: %w", err)
		}
		return wiring.run(ctx, arguments[0])
	}
	return fmt.Errorf("unknown work %q", arguments)
}

// floorConnections is how many connections read, as many as the measure of a floor has.
const floorConnections = 2

// floorBlocks is how many blocks one COPY reads: 64 MiB.
const floorBlocks = 8192

// readAll copies all rows of the database to nowhere, in ranges of blocks; with their ctid when withCTID is set, as
// hourvault reads them. It is the least that any backup by COPY costs.
func readAll(ctx context.Context, dsn string, withCTID bool) error {
	connections := make([]*pgx.Conn, floorConnections)
	for i := range connections {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return fmt.Errorf("connect to the server: %w", err)
		}
		connections[i] = conn
		defer conn.Close(context.WithoutCancel(ctx))
	}
	rows, err := connections[0].Query(ctx, `SELECT c.oid::regclass::text, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), pg_relation_size(c.oid) / current_setting('block_size')::bigint
		FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY c.oid ORDER BY 3 DESC`)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	var statements []string
	var table, columns string
	var blocks int64
	_, err = pgx.ForEachRow(rows, []any{&table, &columns, &blocks}, func() error {
		if withCTID {
			columns = "ctid, " + columns
		}
		for from := int64(0); from < max(blocks, 1); from += floorBlocks {
			statements = append(statements, fmt.Sprintf("COPY (SELECT %s FROM ONLY %s WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)') TO STDOUT", columns, table, from, from+floorBlocks))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	queue := make(chan string, len(statements))
	for _, statement := range statements {
		queue <- statement
	}
	close(queue)
	group, ctx := errgroup.WithContext(ctx)
	for _, conn := range connections {
		group.Go(func() error {
			for statement := range queue {
				if _, err := conn.PgConn().CopyTo(ctx, io.Discard, statement); err != nil {
					return fmt.Errorf("%s: %w", statement, err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// inProcess is what a backup or a restore needs, wired as the hourvault program does it, so that a profile of it can be taken:
// the program itself has no way to write one.
type inProcess struct {
	DSN, BinDir                   string
	Bucket, Endpoint, Region, SSE string
	AccessKey, SecretFile, CAFile string
	RootKeyFile                   string
	CPUProfile, HeapProfile       string
}

func (w *inProcess) run(ctx context.Context, what string) (err error) {
	secret, err := os.ReadFile(w.SecretFile)
	if err != nil {
		return fmt.Errorf("read the S3 secret: %w", err)
	}
	key, err := crypto.ReadRootKeyFile(w.RootKeyFile)
	if err != nil {
		return err
	}
	profile, err := os.Create(w.CPUProfile)
	if err != nil {
		return fmt.Errorf("write a profile: %w", err)
	}
	defer func() { err = errors.Join(err, profile.Close()) }()
	if err := pprof.StartCPUProfile(profile); err != nil {
		return fmt.Errorf("write a profile: %w", err)
	}
	defer pprof.StopCPUProfile()

	store, err := objectstore.OpenS3(ctx, objectstore.S3Options{
		Bucket: w.Bucket, Region: w.Region, Endpoint: w.Endpoint, PathStyle: true, SSE: objectstore.SSE(w.SSE),
		AccessKeyID: w.AccessKey, SecretAccessKey: objectstore.NewSecret(strings.TrimSpace(string(secret))), CAFile: w.CAFile,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	repo, err := hourvault.Open(ctx, store, key)
	if err != nil {
		return err
	}
	defer repo.Close()
	server, err := postgres.NewServer(postgres.ServerConfig{Name: "bench", DSN: w.DSN, Connections: 4, BinDirs: []string{w.BinDir}})
	if err != nil {
		return err
	}
	if what == "backup" {
		err = w.backup(ctx, server, repo)
	} else {
		err = w.restore(ctx, server, repo)
	}
	if err != nil {
		return err
	}
	return w.writeHeap()
}

func (w *inProcess) backup(ctx context.Context, server *postgres.Server, repo *hourvault.Repository) error {
	entries, err := server.Databases(ctx)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if string(entry.Name) == database {
			_, err := backup.Run(ctx, server, entry, repo, backup.Options{Holder: "benchmark", Version: "benchmark"})
			return err
		}
	}
	return fmt.Errorf("there is no database %s", database)
}

func (w *inProcess) restore(ctx context.Context, server *postgres.Server, repo *hourvault.Repository) error {
	workspaces, err := repo.Workspaces(ctx)
	if err != nil {
		return err
	}
	if len(workspaces) != 1 {
		return fmt.Errorf("the repository has %d workspaces", len(workspaces))
	}
	snapshots, err := workspaces[0].SnapshotIDs(ctx)
	if err != nil {
		return err
	}
	if len(snapshots) == 0 {
		return errors.New("the repository has no snapshot")
	}
	snapshot, err := workspaces[0].OpenSnapshot(ctx, snapshots[len(snapshots)-1])
	if err != nil {
		return err
	}
	_, err = restore.Run(ctx, server, snapshot, restore.Options{Into: restored})
	return err
}

// writeHeap writes what was allocated since the beginning, and what is still in use.
func (w *inProcess) writeHeap() (err error) {
	file, err := os.Create(w.HeapProfile)
	if err != nil {
		return fmt.Errorf("write a profile: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	runtime.GC()
	return pprof.Lookup("allocs").WriteTo(file, 0)
}

// profiled is the program that takes a backup or makes a restore of a repository and writes profiles into dir.
func (r *hourvaultRepository) profiled(what, dir string) (program, error) {
	sse := "none"
	if r.s3.encrypts() {
		sse = "AES256"
	}
	content, err := json.Marshal(inProcess{
		DSN: r.cluster.dsn("postgres"), BinDir: r.serverDir, Bucket: r.name, Endpoint: r.s3.endpoint(), Region: s3Region, SSE: sse,
		AccessKey: r.s3.accessKey, SecretFile: filepath.Join(r.dir, "s3-secret"), CAFile: r.s3.caFile, RootKeyFile: r.rootKeyFile(),
		CPUProfile: filepath.Join(dir, what+".cpu.pprof"), HeapProfile: filepath.Join(dir, what+".allocs.pprof"),
	})
	if err != nil {
		return program{}, fmt.Errorf("describe the work of a child: %w", err)
	}
	file := filepath.Join(r.dir, what+".json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return program{}, fmt.Errorf("describe the work of a child: %w", err)
	}
	return program{path: r.self, arguments: []string{"child", what, file}}, nil
}
