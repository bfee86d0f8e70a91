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

	// The zones that --tz names, on machines without tzdata.
	_ "time/tzdata"

	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
)

func main() {
	ctx, stop := withSignals(context.Background(), os.Stderr)
	code := execute(ctx, os.Args[1:], newApp(console.NewStreams(os.Stdout, os.Stderr), config.System()))
	stop()
	os.Exit(code)
}
