package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/testenv"
)

// memoryBound is what a process that writes or reads a snapshot may take, in bytes, whatever the snapshot's size.
const memoryBound = 256 << 20

// Numbers of package backup, which this package does not know: how many connections read at once by default, and how many blocks one
// reads at a time.
const (
	defaultReaders = 3
	rangeBlocks    = 4 * ListingSpan
)

// syntheticTables is over how many tables the content is spread, most of it in the first.
const syntheticTables = 4

// synthetic is a database that nobody has to store: rows of any block can be made at any time. A part of the text is random, so that it
// compresses about as far as real tables do.
type synthetic struct {
	blocks uint32 // of all tables
	pool   []byte // rows of which blocks are made
}

// poolSize and blockBytes are lengths in bytes; what a heap block holds is a little less than its size.
const (
	poolSize   = 4 << 20 // more than a compressor looks back
	blockBytes = 7600
)

func newSynthetic(size int64) *synthetic {
	source := rand.New(rand.NewPCG(1, 2))
	pool := make([]byte, 0, poolSize+256)
	for id := 0; len(pool) < poolSize; id++ {
		pool = fmt.Appendf(pool, "%d\tcustomer-%d@example.org\t2026-11-22 14:00:00.%06d+00\t{\"status\": \"open\", \"token\": \"%016x%016x%016x%016x%016x\", \"items\": [1, 2, 3], \"note\": \"nothing of interest happened to this one\"}\n",
			id, id%5000, id%1000000, source.Uint64(), source.Uint64(), source.Uint64(), source.Uint64(), source.Uint64())
	}
	return &synthetic{blocks: uint32(size / blockBytes), pool: pool}
}

// tableBlocks is how many blocks a table has: each half of what is left after those before it.
func (s *synthetic) tableBlocks(table int) uint32 {
	if table == syntheticTables-1 {
		table--
	}
	return s.blocks >> (table + 1)
}

// content appends the rows of one block, which differ from those of all others in the first row at least.
func (s *synthetic) content(buffer []byte, table int, number uint32) []byte {
	buffer = fmt.Appendf(buffer, "%d\t%d\n", table, number)
	at := int(uint64(number) * 2654435761 % uint64(len(s.pool)-2*blockBytes))
	at += bytes.IndexByte(s.pool[at:], '\n') + 1
	end := at + blockBytes - len(buffer) - 300
	end += bytes.IndexByte(s.pool[end:], '\n') + 1
	return append(buffer, s.pool[at:end]...)
}

// snapshot writes a snapshot of it, read by as many as read a real database.
func (s *synthetic) snapshot(ctx context.Context, workspace *Workspace) (*Snapshot, error) {
	writer, err := workspace.BeginSnapshot(ctx, SnapshotOptions{Holder: "test"})
	if err != nil {
		return nil, err
	}
	type span struct {
		table    *TableWriter
		index    int
		from, to uint32
	}
	spans := make(chan span)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(spans)
		for index := range syntheticTables {
			blocks := s.tableBlocks(index)
			table, err := writer.OpenTable(groupCtx, catalog.Table{OID: catalog.OID(100 + index), Kind: catalog.KindTable, Name: "t", Schema: "public", AccessMethod: catalog.HeapAccessMethod, Blocks: blocks})
			if err != nil {
				return err
			}
			for from := uint32(0); from < blocks; from += rangeBlocks {
				table.Hold()
				select {
				case spans <- span{table, index, from, min(from+rangeBlocks, blocks)}:
				case <-groupCtx.Done():
					return context.Cause(groupCtx)
				}
			}
			if err := table.CloseTable(); err != nil {
				return err
			}
		}
		return nil
	})
	for range defaultReaders {
		group.Go(func() error {
			blocks := writer.NewBlockWriter()
			var content []byte
			pass := func(index int, from, to uint32) (rows int64, err error) {
				for number := from; number < to; number++ {
					content = s.content(content[:0], index, number)
					rows += int64(bytes.Count(content, []byte{'\n'}))
					if err := blocks.Block(number); err != nil {
						return 0, err
					}
					if _, err := blocks.Write(content); err != nil {
						return 0, err
					}
				}
				return rows, nil
			}
			for next := range spans {
				if err := blocks.BeginRange(groupCtx, next.table, next.from, next.to); err != nil {
					return err
				}
				rows, err := pass(next.index, next.from, next.to)
				if err != nil {
					return err
				}
				next.table.AddRows(rows)
				again, err := blocks.EndPass()
				if err != nil {
					return err
				}
				for _, run := range again {
					if _, err := pass(next.index, run.From, run.To); err != nil {
						return err
					}
				}
				if err := errors.Join(blocks.EndRange(), next.table.Release()); err != nil {
					return err
				}
			}
			return blocks.Close()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, writer.Abandon(ctx))
	}
	return writer.Commit(ctx, Ending{Time: time.Now(), Server: "s"})
}

// Environment variables that make a process of this test one phase of the work on a repository.
const (
	phaseVariable     = "HOURVAULT_TEST_MEMORY_PHASE"
	directoryVariable = "HOURVAULT_TEST_MEMORY_DIRECTORY"
	sizeVariable      = "HOURVAULT_TEST_MEMORY_SIZE"
)

// TestMemoryIsBoundedWhateverTheSize writes, takes over, checks and reads back a database of a size that no test machine needs to have
// room for, each in a process of its own, as the commands are.
func TestMemoryIsBoundedWhateverTheSize(t *testing.T) {
	if phase := os.Getenv(phaseVariable); phase != "" {
		memoryPhase(t, phase)
		return
	}
	size := int64(500 << 20)
	processors := "16" // memory must not grow with the machine
	if raceDetector {
		size = 100 << 20 // the compressor is Go, and twenty times slower
	}
	if testenv.Long() {
		size = 20 << 30
		processors = strconv.Itoa(runtime.NumCPU())
	}
	directory := t.TempDir()
	for _, phase := range []string{"first", "unchanged", "verify", "read"} {
		begin := time.Now()
		command := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3h")
		command.Env = append(os.Environ(), phaseVariable+"="+phase, directoryVariable+"="+directory, "GOMAXPROCS="+processors, sizeVariable+"="+strconv.FormatInt(size, 10))
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", phase, err, output)
		}
		for line := range strings.Lines(string(output)) {
			if _, told, found := strings.Cut(line, "phase: "); found {
				t.Logf("%d MiB of rows, %s: %s, %s", size>>20, phase, time.Since(begin).Round(100*time.Millisecond), strings.TrimSpace(told))
			}
		}
	}
}

// memoryPhase does one of the things that are done to a repository, and fails when it took too much memory.
func memoryPhase(t *testing.T, phase string) {
	debug.SetMemoryLimit(192 << 20) // as the command does
	size, err := strconv.ParseInt(os.Getenv(sizeVariable), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	source := newSynthetic(size)
	store, err := objectstore.OpenDirectory(os.Getenv(directoryVariable), objectstore.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var repository *Repository
	if phase == "first" {
		repository = createIn(t, store)
	} else {
		repository = openIn(t, store)
	}
	workspace := ensure(t, repository, WorkspaceRecord{Server: "s", Database: "d", Identity: testIdentity(5)})
	peak := peakMemory(t)
	told := ""
	switch phase {
	case "first", "unchanged":
		snapshot, err := source.snapshot(t.Context(), workspace)
		if err != nil {
			t.Fatal(err)
		}
		stats := snapshot.Manifest().Statistics
		told = fmt.Sprintf("%d blocks, %d new, %d MiB stored in %d packs", stats.Blocks, stats.NewBlocks, stats.StoredBytes>>20, len(snapshot.Manifest().Packs))
		if phase == "unchanged" && stats.NewBlocks > 0 {
			t.Errorf("%d blocks of an unchanged database were stored", stats.NewBlocks)
		}
	case "verify":
		told = fmt.Sprintf("%d problems", len(mustBeSound(t, repository).Problems))
	case "read":
		newest, err := workspace.newestID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		snapshot, err := workspace.OpenSnapshot(t.Context(), newest)
		if err != nil {
			t.Fatal(err)
		}
		var length counter
		group, ctx := errgroup.WithContext(t.Context())
		group.SetLimit(2) // as restore loads several tables at once
		for entry, err := range snapshot.Entries(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if entry.OID == 100 {
				length.want = uint64(entry.Bytes)
				group.Go(func() error { return snapshot.EntryRows(ctx, entry, &length) })
				continue
			}
			group.Go(func() error { return snapshot.EntryRows(ctx, entry, io.Discard) })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if length.got != length.want || length.got == 0 {
			t.Errorf("%d bytes were read of %d", length.got, length.want)
		}
	default:
		t.Fatalf("unknown phase %q", phase)
	}
	taken, what := peak()
	t.Logf("phase: %s of at most %d MiB; %s", what, taken>>20, told)
	if taken >= memoryBound {
		t.Errorf("%s: %d MiB of memory, want less than %d", phase, taken>>20, memoryBound>>20)
	}
}

// counter counts what is written to it.
type counter struct{ got, want uint64 }

func (c *counter) Write(p []byte) (int, error) {
	c.got += uint64(len(p))
	return len(p), nil
}

// peakMemory begins to watch this process. The function returned says how much memory it took at most, in bytes: what was resident, or, under
// the race detector, which keeps several bytes beside each of the program's, what the Go runtime had mapped for the program itself.
func peakMemory(t *testing.T) func() (peak uint64, what string) {
	t.Helper()
	if !raceDetector {
		if _, err := os.Stat("/proc/self/status"); err != nil {
			t.Skip("resident memory is read from /proc")
		}
		return func() (uint64, string) { return residentPeak(t), "resident memory" }
	}
	stop, largest := make(chan struct{}), make(chan uint64, 1)
	go func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		peak := uint64(0)
		for {
			peak = max(peak, mappedMemory())
			select {
			case <-ticker.C:
			case <-stop:
				largest <- peak
				return
			}
		}
	}()
	return func() (uint64, string) {
		close(stop)
		return <-largest, "mapped memory"
	}
}

func mappedMemory() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}

// residentPeak is the peak that the system has seen since the process began (proc_pid_status(5), VmHWM).
func residentPeak(t *testing.T) uint64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kilobytes, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Fatal("no VmHWM in /proc/self/status")
	return 0
}
