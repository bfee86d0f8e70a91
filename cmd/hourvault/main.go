// Command hourvault takes encrypted, hourly snapshots of PostgreSQL databases, one per customer, into S3, and restores
// one of them as it was at a given date and hour.
//
// Each command has a file of its own: flags into an options struct, then a run function that tests can call. What a
// command works with (store, repository, servers) is opened from the configuration in wiring.go and nowhere else.
// Exit codes, output and naming are decided in docs/adr/0007-command-line.md.
package main

import (
	"context"
	"os"
	"runtime/debug"

	// The zones that --tz names, on machines without tzdata.
	_ "time/tzdata"

	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
)

// softMemoryLimit is the memory, in bytes, above which the collector works harder, unless GOMEMLIMIT says otherwise. What is held
// at once is about half of it, whatever the database's size; garbage beside it may grow to as much again, and on machines with many processors
// to more. With this, and the program's own pages, the resident memory of the process stays below 256 MiB.
const softMemoryLimit = 192 << 20

func main() {
	limitMemory(config.System())
	ctx, stop := withSignals(context.Background(), os.Stderr)
	code := execute(ctx, os.Args[1:], newApp(console.NewStreams(os.Stdout, os.Stderr), config.System()))
	stop()
	os.Exit(code)
}

// limitMemory sets softMemoryLimit unless the operator gave another, of which "off" is one. The runtime takes an empty
// GOMEMLIMIT for none.
func limitMemory(environment config.Environment) {
	if limit, _ := environment.LookupEnv("GOMEMLIMIT"); limit == "" {
		debug.SetMemoryLimit(softMemoryLimit)
	}
}
