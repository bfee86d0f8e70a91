package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hourvault/hourvault/internal/serverprocess"
)

// dataVersion is changed with the scripts that make the database, so that one kept from before is not taken for it.
const dataVersion = 2

// sample is one measured step.
type sample struct {
	Part  string `json:"part"`
	Tool  string `json:"tool"`
	WAL   string `json:"wal_level,omitempty"` // of restores
	Round int    `json:"round"`
	usage
	// AddedBytes is by how much the objects in the tool's bucket grew; 0 for restores and reading.
	AddedBytes int64 `json:"added_bytes"`
	// Statistics is what collecting statistics took after pg_restore; hourvault's restore includes it.
	Statistics *usage `json:"statistics,omitempty"`
	// Phases are those of hourvault's restore.
	Phases []phaseTime `json:"phases,omitempty"`
	Error  string      `json:"error,omitempty"`
}

// bench is one run of the program.
type bench struct {
	opts options
	*toolset
	report  report
	stderr  io.Writer
	began   time.Time
	base    string // all files lie below
	cleanUp []func() error
}

// run does the whole benchmark and prints the result. Whatever was started is stopped, and what was made is removed, also
// after an error or when ctx ends.
func run(ctx context.Context, opts options, stdout, stderr io.Writer) (err error) {
	b := &bench{opts: opts, stderr: stderr, began: time.Now()}
	defer func() {
		for _, step := range slices.Backward(b.cleanUp) {
			err = errors.Join(err, step())
		}
	}()
	if err := b.setUp(ctx); err != nil {
		return b.reason(ctx, err)
	}
	if err := b.measureAll(ctx); err != nil {
		if b.report.measured() {
			// What was measured until then took long enough.
			fmt.Fprintln(stdout, b.report.text())
		}
		return b.reason(ctx, err)
	}
	fmt.Fprintln(stdout, b.report.text())
	b.report.Took = time.Since(b.began).Seconds()
	if err := b.report.write(opts); err != nil {
		return err
	}
	b.say("done in %s", time.Since(b.began).Round(time.Second))
	return b.report.failure()
}

// reason says that the run was interrupted where that is why something failed.
func (b *bench) reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// say prints a line of progress.
func (b *bench) say(format string, arguments ...any) {
	fmt.Fprintf(b.stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, arguments...))
}

// setUp makes the directories, starts both servers and makes the database.
func (b *bench) setUp(ctx context.Context) error {
	as, err := serverprocess.Unprivileged()
	if err != nil {
		return err
	}
	if err := b.makeBase(as); err != nil {
		return err
	}
	if err := b.checkSpace(); err != nil {
		return err
	}
	subdirectory := func(name string, as serverprocess.Identity) (string, error) {
		path := filepath.Join(b.base, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return "", fmt.Errorf("make a directory: %w", err)
		}
		return path, as.Own(path)
	}
	// Anything an interrupted run left, except a database that is complete.
	for _, name := range []string{"s3", "work"} {
		if err := os.RemoveAll(filepath.Join(b.base, name)); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	s3Dir, err := subdirectory("s3", as)
	if err != nil {
		return err
	}
	workDir, err := subdirectory("work", serverprocess.Identity{})
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	b.toolset = &toolset{dir: workDir, hourvault: b.opts.hourvault, self: self, zstdLevel: b.opts.zstd, clientDir: b.opts.clientBinDir(), serverDir: b.opts.binDirs[b.opts.major]}
	b.meter = &meter{dir: workDir, home: workDir, postgres: func() int { return b.cluster.pid() }, s3: func() int { return b.toolset.s3.pid() }}

	b.toolset.s3, err = startS3(ctx, b.opts.s3, b.opts.servers[b.opts.s3], s3Dir, as)
	if err != nil {
		return err
	}
	b.cleanUp = append(b.cleanUp, b.toolset.s3.stop)
	if err := b.prepareCluster(ctx, as); err != nil {
		return err
	}
	size, err := b.cluster.size(ctx)
	if err != nil {
		return err
	}
	b.report.Started = b.began.UTC()
	b.report.Database, b.report.WantedBytes, b.report.Rounds, b.report.Major = size, b.opts.size, b.opts.rounds, b.opts.major
	b.report.S3Server, b.report.Encrypted, b.report.ZstdLevel = b.opts.s3, b.toolset.s3.encrypts(), b.opts.zstd
	b.report.Settings = serverSettings(b.opts.major)
	b.report.Machine, err = describeMachine(b.base)
	if err != nil {
		return err
	}
	b.report.Versions = b.versions(ctx)
	return ctx.Err()
}

// makeBase makes the directory that everything lies below.
func (b *bench) makeBase(as serverprocess.Identity) error {
	if b.opts.dir == "" {
		const base = "/var/tmp" // on disk, where /tmp may be memory
		if err := serverprocess.RemoveAbandoned(base); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
		work, err := serverprocess.NewWorkDir(base)
		if err != nil {
			return err
		}
		b.cleanUp = append(b.cleanUp, work.Remove)
		b.base, err = work.Subdirectory("bench-*", as)
		if err != nil {
			return err
		}
		return os.Chmod(b.base, 0o755)
	}
	const longest = 80 // a socket's path has at most 107 bytes (unix(7))
	if len(b.opts.dir) > longest {
		return fmt.Errorf("-dir %s is too long for the path of a socket: at most %d bytes", b.opts.dir, longest)
	}
	if err := os.MkdirAll(b.opts.dir, 0o755); err != nil {
		return fmt.Errorf("make -dir: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(b.opts.dir, "bench.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock -dir: %w", err)
	}
	b.cleanUp = append(b.cleanUp, lock.Close)
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("-dir %s is used by another run: %w", b.opts.dir, err)
	}
	b.base = b.opts.dir
	b.cleanUp = append(b.cleanUp, func() error {
		errs := []error{os.RemoveAll(filepath.Join(b.base, "s3")), os.RemoveAll(filepath.Join(b.base, "work"))}
		if !b.opts.keep {
			errs = append(errs, os.RemoveAll(b.clusterDir()), os.Remove(filepath.Join(b.base, "bench.lock")))
			_ = os.Remove(b.base) // unless something else is in it
		}
		return errors.Join(errs...)
	})
	return nil
}

// checkSpace refuses to begin what cannot end.
func (b *bench) checkSpace() error {
	var status unix.Statfs_t
	if err := unix.Statfs(b.base, &status); err != nil {
		return fmt.Errorf("look at the free space of %s: %w", b.base, err)
	}
	free := int64(status.Bavail) * status.Bsize
	// The database with its indexes and WAL, a restored copy, two dumps, and what four tools store.
	wanted := b.opts.size*7 + 5<<30
	if free < wanted {
		return fmt.Errorf("%s has %s free and this takes up to %s: give a smaller -size, or another -dir", b.base, formatBytes(free), formatBytes(wanted))
	}
	return nil
}

func (b *bench) clusterDir() string {
	return filepath.Join(b.base, fmt.Sprintf("pg%d-%d-v%d", b.opts.major, b.opts.size>>20, dataVersion))
}

// readyFile is there while the cluster's database is as it was generated.
func (b *bench) readyFile() string { return b.clusterDir() + ".ready" }

// prepareCluster makes the cluster and its database, or takes those that an earlier run kept, and starts it.
func (b *bench) prepareCluster(ctx context.Context, as serverprocess.Identity) error {
	b.cluster = &cluster{major: b.opts.major, binDir: b.serverDir, dir: b.clusterDir(), as: as}
	b.cleanUp = append(b.cleanUp, b.cluster.stop)
	if !b.opts.keep && b.opts.dir != "" {
		b.cleanUp = append(b.cleanUp, func() error { return removeIfThere(b.readyFile()) })
	}
	if _, err := os.Stat(b.readyFile()); err == nil {
		b.say("database of %s: kept from an earlier run", formatBytes(b.opts.size))
		if err := b.cluster.start(ctx, nil); err != nil {
			return err
		}
		return b.cluster.execute(ctx, "postgres", "DROP DATABASE IF EXISTS "+restored)
	}
	if err := os.RemoveAll(b.clusterDir()); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	if err := os.Mkdir(b.clusterDir(), 0o755); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if err := as.Own(b.clusterDir()); err != nil {
		return err
	}
	b.say("making a database of %s on PostgreSQL %d", formatBytes(b.opts.size), b.opts.major)
	began := time.Now()
	if err := b.cluster.create(ctx); err != nil {
		return err
	}
	if err := b.cluster.start(ctx, loadSettings()); err != nil {
		return err
	}
	if err := b.cluster.makeDatabase(ctx, b.opts.size); err != nil {
		return err
	}
	if err := b.cluster.stop(); err != nil {
		return err
	}
	syscall.Sync()
	if err := b.cluster.start(ctx, nil); err != nil {
		return err
	}
	if b.opts.dir != "" {
		if err := os.WriteFile(b.readyFile(), nil, 0o600); err != nil {
			return fmt.Errorf("note that the database is complete: %w", err)
		}
	}
	b.say("made it in %s", time.Since(began).Round(time.Second))
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a file: %w", err)
	}
	return nil
}

// settle leaves nothing to be written by what came before: no dirty buffers of the server, no dirty pages of the kernel.
func (b *bench) settle(ctx context.Context) error {
	if err := b.cluster.execute(ctx, "postgres", "CHECKPOINT"); err != nil {
		return err
	}
	syscall.Sync()
	return ctx.Err()
}

// measureAll runs the parts that are wanted.
func (b *bench) measureAll(ctx context.Context) error {
	storing := slices.ContainsFunc([]string{partBackup, partSecond, partUpdate}, func(part string) bool { return slices.Contains(b.opts.parts, part) })
	if storing {
		b.say("reading the database once, so that all find it in memory")
		if _, err := b.floor(ctx, false); err != nil {
			return err
		}
		for round := 1; round <= b.opts.rounds; round++ {
			if err := b.storeRound(ctx, round); err != nil {
				return err
			}
		}
	}
	if slices.Contains(b.opts.parts, partRestore) {
		if err := b.restores(ctx); err != nil {
			return err
		}
	}
	return nil
}

// contestant is a tool in one round.
type contestant struct {
	tool string
	// repository is nil for what only reads.
	repository repository
	read       func(ctx context.Context) (usage, error)
	failed     bool
}

// contestants are the tools that store, for a round, rotated so that each is first and last at times.
func (b *bench) contestants(round int) []*contestant {
	var all []*contestant
	bucket := func(tool string) string { return fmt.Sprintf("%s-%d", tool, round) }
	add := func(tool string, repository repository, read func(context.Context) (usage, error)) {
		if slices.Contains(b.opts.tools, tool) {
			all = append(all, &contestant{tool: tool, repository: repository, read: read})
		}
	}
	add(toolHourvault, &hourvaultRepository{toolset: b.toolset, name: bucket(toolHourvault)}, nil)
	add(toolDump, &dumpRepository{toolset: b.toolset, name: bucket(toolDump)}, nil)
	if b.opts.major <= 15 { // what Debian's stable pgBackRest 2.45 knows
		add(toolPgBackRest, &pgbackrestRepository{toolset: b.toolset, name: bucket(toolPgBackRest)}, nil)
	}
	add(toolRestic, &resticRepository{toolset: b.toolset, name: bucket(toolRestic)}, nil)
	add(toolFloor, nil, func(ctx context.Context) (usage, error) { return b.floor(ctx, false) })
	add(toolFloorCTID, nil, func(ctx context.Context) (usage, error) { return b.floor(ctx, true) })
	if round == 1 { // slow, and of no bound
		add(toolDumpGzip, &dumpRepository{toolset: b.toolset, name: bucket(toolDumpGzip), gzip: true}, nil)
	}
	if len(all) > 0 {
		shift := (round - 1) % len(all)
		all = slices.Concat(all[shift:], all[:shift])
	}
	return all
}

// takesPart says whether a tool has something to show in a part.
func takesPart(part, tool string) bool {
	switch part {
	case partSecond:
		return slices.Contains([]string{toolHourvault, toolPgBackRest, toolRestic}, tool)
	case partUpdate:
		return slices.Contains([]string{toolHourvault, toolPgBackRest, toolRestic, toolDump}, tool)
	case partBackup:
		return tool != toolRestore
	}
	return false
}

// storeRound measures first backups by all tools, second ones, and in the last round those after updates.
func (b *bench) storeRound(ctx context.Context, round int) error {
	all := b.contestants(round)
	update := slices.Contains(b.opts.parts, partUpdate) && round == b.opts.rounds
	defer func() {
		// A repository is only as long there as its round, so that the disk need not hold all.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		for _, one := range all {
			if one.repository != nil && ctx.Err() == nil {
				_ = b.removeBucket(ctx, one.repository.bucket()) // the server's data goes away in the end anyhow
			}
		}
	}()
	for _, one := range all {
		wanted := slices.Contains(b.opts.parts, partBackup) || slices.Contains(b.opts.parts, partSecond) && takesPart(partSecond, one.tool) || update && takesPart(partUpdate, one.tool)
		if !wanted {
			one.failed = true
			continue
		}
		if one.repository != nil {
			if err := one.repository.prepare(ctx); err != nil {
				if err := b.fail(ctx, one, sample{Part: partBackup, Tool: one.tool, Round: round}, err); err != nil {
					return err
				}
				continue
			}
		}
		if err := b.store(ctx, one, partBackup, round); err != nil {
			return err
		}
		if one.tool == toolHourvault && round == 1 && b.opts.pprof != "" && !one.failed {
			if err := b.profileBackup(ctx); err != nil {
				return err
			}
		}
	}
	if slices.Contains(b.opts.parts, partSecond) {
		for _, one := range all {
			if takesPart(partSecond, one.tool) {
				if err := b.store(ctx, one, partSecond, round); err != nil {
					return err
				}
			}
		}
	}
	if !update {
		return nil
	}
	b.say("changing one row of a hundred")
	if err := removeIfThere(b.readyFile()); err != nil { // it is not what was generated any more
		return err
	}
	if err := b.cluster.updateRows(ctx); err != nil {
		return err
	}
	for _, one := range all {
		if takesPart(partUpdate, one.tool) {
			if err := b.store(ctx, one, partUpdate, round); err != nil {
				return err
			}
		}
	}
	return nil
}

// store measures one backup of one tool, and how much its bucket grew.
func (b *bench) store(ctx context.Context, one *contestant, part string, round int) error {
	if one.failed {
		return nil
	}
	taken := sample{Part: part, Tool: one.tool, Round: round}
	if err := b.settle(ctx); err != nil {
		return err
	}
	if one.repository == nil {
		used, err := one.read(ctx)
		if err != nil {
			return b.fail(ctx, one, taken, err)
		}
		taken.usage = used
		b.note(taken)
		return nil
	}
	before, err := b.storedBytes(ctx, one.repository.bucket())
	if err != nil {
		return b.fail(ctx, one, taken, err)
	}
	if taken.usage, err = one.repository.run(ctx); err != nil {
		return b.fail(ctx, one, taken, err)
	}
	after, err := b.storedBytes(ctx, one.repository.bucket())
	if err != nil {
		return b.fail(ctx, one, taken, err)
	}
	taken.AddedBytes = after - before
	b.note(taken)
	return nil
}

// fail records that a tool failed. The others go on; only the end of ctx is an error.
func (b *bench) fail(ctx context.Context, one *contestant, taken sample, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if one != nil {
		one.failed = true
	}
	taken.Error = err.Error()
	b.note(taken)
	return nil
}

// note records a sample and prints it.
func (b *bench) note(taken sample) {
	b.report.Samples = append(b.report.Samples, taken)
	what := fmt.Sprintf("%s round %d: %s", taken.Part, taken.Round, taken.Tool)
	if taken.WAL != "" {
		what += " (wal_level " + taken.WAL + ")"
	}
	if taken.Error != "" {
		b.say("%s FAILED: %s", what, strings.ReplaceAll(taken.Error, "\n", " | "))
		return
	}
	line := fmt.Sprintf("%s: %.1f s; CPU tool %.1f, PostgreSQL %.1f, S3 %.1f, others %.1f s; peak %s", what, taken.Wall, taken.User+taken.System, taken.Postgres, taken.S3, taken.Other, formatBytes(taken.PeakBytes))
	if taken.AddedBytes > 0 {
		line += "; stored " + formatBytes(taken.AddedBytes)
	}
	if taken.Statistics != nil {
		line += fmt.Sprintf("; then statistics %.1f s", taken.Statistics.Wall)
	}
	for _, phase := range taken.Phases {
		if phase.Duration >= 100*time.Millisecond {
			line += fmt.Sprintf("; %s %.1f s", phase.Phase, phase.Duration.Seconds())
		}
	}
	b.say("%s", line)
}

// profileBackup takes a first backup once more, inside this program, and writes profiles.
func (b *bench) profileBackup(ctx context.Context) error {
	repository := &hourvaultRepository{toolset: b.toolset, name: "profiled"}
	if err := repository.prepare(ctx); err != nil {
		return err
	}
	if err := b.profile(ctx, repository, partBackup); err != nil {
		return err
	}
	return b.removeBucket(ctx, repository.bucket())
}

func (b *bench) profile(ctx context.Context, repository *hourvaultRepository, what string) error {
	if err := os.MkdirAll(b.opts.pprof, 0o755); err != nil {
		return fmt.Errorf("make the directory of profiles: %w", err)
	}
	command, err := repository.profiled(what, b.opts.pprof)
	if err != nil {
		return err
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	used, _, err := b.meter.run(ctx, command)
	if err != nil {
		return fmt.Errorf("profile a %s: %w", what, err)
	}
	b.say("profiled %s: %.1f s; profiles in %s", what, used.Wall, b.opts.pprof)
	return nil
}

// restores measures restores by hourvault and by pg_restore, under each wanted wal_level.
func (b *bench) restores(ctx context.Context) error {
	b.say("preparing what restores read: a snapshot and a local dump")
	repository := &hourvaultRepository{toolset: b.toolset, name: "restore"}
	if err := repository.prepare(ctx); err != nil {
		return err
	}
	if _, err := repository.run(ctx); err != nil {
		return err
	}
	var dump, dumpGzip string
	var err error
	if slices.Contains(b.opts.tools, toolRestore) {
		if dump, err = b.localDump(ctx, false); err != nil {
			return err
		}
		if dumpGzip, err = b.localDump(ctx, true); err != nil {
			return err
		}
	}
	source, err := b.cluster.digests(ctx, database)
	if err != nil {
		return err
	}
	checked := map[string]bool{}
	for _, level := range b.opts.wal {
		var settings [][2]string
		if level == "minimal" {
			settings = minimalSettings()
		}
		if err := b.cluster.start(ctx, settings); err != nil {
			return err
		}
		for round := 1; round <= b.opts.rounds; round++ {
			order := []string{toolHourvault, toolRestore}
			if round%2 == 0 {
				slices.Reverse(order)
			}
			if round == 1 && level == b.opts.wal[0] {
				order = append(order, toolRestoreGzip)
			}
			for _, tool := range order {
				if !slices.Contains(b.opts.tools, tool) && (tool != toolRestoreGzip || !slices.Contains(b.opts.tools, toolRestore)) {
					continue
				}
				if err := b.settle(ctx); err != nil {
					return err
				}
				taken := sample{Part: partRestore, Tool: tool, WAL: level, Round: round}
				switch tool {
				case toolHourvault:
					taken.usage, taken.Phases, err = repository.restore(ctx)
				default:
					var statistics usage
					gzip := tool == toolRestoreGzip
					file := dump
					if gzip {
						file = dumpGzip
					}
					taken.usage, statistics, err = b.pgRestore(ctx, file, gzip)
					taken.Statistics = &statistics
				}
				if err == nil && !checked[tool] {
					checked[tool] = true
					var got map[string]digest
					if got, err = b.cluster.digests(ctx, restored); err == nil {
						err = compareDigests(source, got)
					}
				}
				if err != nil {
					if err := b.fail(ctx, nil, taken, err); err != nil {
						return err
					}
				} else {
					b.note(taken)
				}
				if err := b.cluster.execute(ctx, "postgres", "DROP DATABASE IF EXISTS "+restored+" WITH (FORCE)"); err != nil {
					return err
				}
			}
		}
		if b.opts.pprof != "" && slices.Contains(b.opts.tools, toolHourvault) {
			if err := b.profile(ctx, repository, partRestore); err != nil {
				return err
			}
			if err := b.cluster.execute(ctx, "postgres", "DROP DATABASE IF EXISTS "+restored+" WITH (FORCE)"); err != nil {
				return err
			}
		}
	}
	if slices.Contains(b.opts.tools, toolHourvault) {
		b.say("verifying the snapshot")
		return repository.verify(ctx)
	}
	return nil
}

// toolRestoreGzip is pg_restore of a dump with pg_dump's default compression, measured once.
const toolRestoreGzip = "pg_restore-gzip"
