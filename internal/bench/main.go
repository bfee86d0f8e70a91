// Command bench measures hourvault beside other ways to back up the same PostgreSQL database on the same machine, in one
// run: pg_dump with age and an uploader, pgBackRest, restic, and the least that reading all rows costs. docs/performance.md
// says what is measured and how; .ci/bench.sh, behind make bench, installs what is needed and starts it.
//
// It starts a PostgreSQL server and an S3 server of its own as an unprivileged user, generates a database that is the
// same on every machine, runs the tools by turns, and prints a table. It is not part of the product, tests no times, and
// leaves nothing behind unless asked to.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs the program and returns its exit code: 0 done, also when a bound is not met; 1 failed, or hourvault
// did; 2 wrong usage.
func execute(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	if len(arguments) > 0 && arguments[0] == "child" {
		if err := runChild(ctx, arguments[1:]); err != nil {
			fmt.Fprintf(stderr, "bench: %v\n", err)
			return 1
		}
		return 0
	}
	opts, err := parseOptions(arguments, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 2
	}
	if err := run(ctx, opts, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

// The parts of a benchmark.
const (
	partBackup  = "backup"
	partSecond  = "second"
	partUpdate  = "update"
	partRestore = "restore"
)

// The tools. A tool takes part in the parts that it can.
const (
	toolHourvault  = "hourvault"
	toolDump       = "dump"
	toolDumpGzip   = "dump-gzip"
	toolPgBackRest = "pgbackrest"
	toolRestic     = "restic"
	toolFloor      = "floor"
	toolFloorCTID  = "floor-ctid"
	toolRestore    = "pg_restore"
)

func allParts() []string { return []string{partBackup, partSecond, partUpdate, partRestore} }

func allTools() []string {
	return []string{toolHourvault, toolDump, toolDumpGzip, toolPgBackRest, toolRestic, toolFloor, toolFloorCTID, toolRestore}
}

// options are the flags.
type options struct {
	size   int64
	rounds int
	parts  []string
	tools  []string
	wal    []string
	major  int
	zstd   int

	dir   string
	keep  bool
	pprof string

	markdown, samples, document string

	s3        string
	hourvault string
	binDirs   map[int]string
	servers   map[string]string // S3 server programs
}

func parseOptions(arguments []string, stderr io.Writer) (options, error) {
	opts := options{size: 2 << 30, binDirs: map[int]string{}, servers: map[string]string{}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Func("size", "size of all tables, TOAST included and indexes not, such as 200MB or 2GB (default 2GB)", func(text string) (err error) {
		opts.size, err = parseSize(text)
		return err
	})
	flags.IntVar(&opts.rounds, "rounds", 3, "how often everything is measured; medians are reported")
	list := func(target *[]string, all []string, what string) func(string) error {
		return func(text string) error {
			*target = strings.Split(text, ",")
			for _, one := range *target {
				if !slices.Contains(all, one) {
					return fmt.Errorf("%s is no %s: there are %s", one, what, strings.Join(all, ", "))
				}
			}
			return nil
		}
	}
	opts.parts, opts.tools, opts.wal = allParts(), allTools(), []string{"replica", "minimal"}
	flags.Func("only", "parts to run, of "+strings.Join(opts.parts, ",")+" (default all)", list(&opts.parts, opts.parts, "part"))
	flags.Func("tools", "tools to measure, of "+strings.Join(opts.tools, ",")+" (default all)", list(&opts.tools, opts.tools, "tool"))
	flags.Func("wal", "values of wal_level for restores, of replica,minimal (default both)", list(&opts.wal, opts.wal, "wal_level"))
	flags.IntVar(&opts.major, "major", 15, "major version of the PostgreSQL server")
	flags.IntVar(&opts.zstd, "zstd", 1, "level of zstd for pg_dump and pgBackRest; 1 is comparable with hourvault's")
	flags.StringVar(&opts.s3, "s3", "minio", "S3 server: minio, which encrypts at rest, or versitygw")
	flags.StringVar(&opts.dir, "dir", "", "directory to work in (default one of its own in /var/tmp)")
	flags.BoolVar(&opts.keep, "keep", false, "keep the generated database in -dir, for the next run with the same -size and -major")
	flags.StringVar(&opts.pprof, "pprof", "", "directory for CPU and allocation profiles of one more backup and restore, made by the same code inside this program")
	flags.StringVar(&opts.markdown, "markdown", "", "file for the report in Markdown")
	flags.StringVar(&opts.samples, "json", "", "file for all samples in JSON")
	flags.StringVar(&opts.document, "document", "", "document whose part between the markers of the benchmark is replaced by the report")
	flags.StringVar(&opts.hourvault, "hourvault", "bin/hourvault", "the program to measure")
	flags.Func("bin", "MAJOR=DIR: where the programs of a PostgreSQL version are; once for each", func(text string) error {
		number, dir, found := strings.Cut(text, "=")
		major, err := strconv.Atoi(number)
		if !found || err != nil {
			return errors.New("write MAJOR=DIR")
		}
		opts.binDirs[major] = dir
		return nil
	})
	flags.Func("server", "NAME=PROGRAM: where the program of an S3 server is; once for each", func(text string) error {
		name, path, found := strings.Cut(text, "=")
		if !found {
			return errors.New("write NAME=PROGRAM")
		}
		opts.servers[name] = path
		return nil
	})
	if err := flags.Parse(arguments); err != nil {
		return opts, err
	}
	if flags.NArg() > 0 {
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return opts, opts.check()
}

func (o *options) check() (err error) {
	switch {
	case o.rounds < 1:
		return fmt.Errorf("-rounds is %d: at least 1", o.rounds)
	case o.zstd < 1 || o.zstd > 19:
		return fmt.Errorf("-zstd is %d: 1 to 19", o.zstd)
	case o.keep && o.dir == "":
		return errors.New("-keep needs -dir: say where")
	case o.binDirs[o.major] == "":
		return fmt.Errorf("no programs of PostgreSQL %d: give -bin %d=DIR, as .ci/bench.sh does", o.major, o.major)
	case o.servers[o.s3] == "":
		return fmt.Errorf("no program of the S3 server %s: give -server %s=PROGRAM, as .ci/bench.sh does", o.s3, o.s3)
	}
	for _, path := range []*string{&o.hourvault, &o.dir, &o.pprof} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
	}
	if _, err := os.Stat(o.hourvault); err != nil {
		return fmt.Errorf("%w: build it with make build, or name it with -hourvault", err)
	}
	return nil
}

// clientBinDir is where the newest client programs are: pg_dump knows zstd since version 16.
func (o *options) clientBinDir() string {
	newest := o.major
	for major := range o.binDirs {
		// Not newer than 17, whose archives are read by the fewest surprises: see isComplaintOf17.
		if major > newest && major <= 17 {
			newest = major
		}
	}
	return o.binDirs[newest]
}

// parseSize reads a number of bytes, with MB or GB after it: powers of 1024.
func parseSize(text string) (int64, error) {
	units := []struct {
		name  string
		bytes int64
	}{{"GB", 1 << 30}, {"MB", 1 << 20}}
	for _, unit := range units {
		number, found := strings.CutSuffix(text, unit.name)
		if !found {
			continue
		}
		value, err := strconv.ParseFloat(number, 64)
		if err != nil || value <= 0 || value*float64(unit.bytes) > 1<<45 {
			break
		}
		return int64(value * float64(unit.bytes)), nil
	}
	return 0, errors.New("write a size such as 200MB or 2GB")
}
