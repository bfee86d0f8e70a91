package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/hourvault/hourvault/crypto"
)

// version and commit are set by the linker: -X main.version=v1.2.3 -X main.commit=0123abcd. A build without version control
// (-buildvcs=false, as where git distrusts a directory) knows the commit from there alone.
var (
	version = ""
	commit  = ""
)

// versionDocument is what hourvault version --json prints.
type versionDocument struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	// Format is the newest version of the stored format that this program reads and writes.
	Format int `json:"format"`
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of hourvault, of Go, and of the stored format",
		Long: `Show the version of hourvault, the commit and the Go release it was built from, and the newest version of
the stored format that it reads and writes.

Exit codes: 0 done; 2 wrong usage.`,
		Example: `  hourvault version
  hourvault version --json`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return runVersion(a) },
	}
}

func runVersion(a *app) error {
	about := buildVersion()
	if a.global.json {
		return a.answer(about)
	}
	_, err := fmt.Fprintf(a.streams.Out, "hourvault %s\ncommit    %s\ngo        %s\nformat    %d\n", about.Version, about.Commit, about.Go, about.Format)
	return err
}

// buildVersion says which program this is. What the linker was not told is taken from what go build records.
func buildVersion() versionDocument {
	about := versionDocument{Version: version, Go: runtime.Version(), Format: crypto.FormatVersion}
	if build, ok := debug.ReadBuildInfo(); ok {
		if about.Version == "" && build.Main.Version != "" {
			about.Version = build.Main.Version
		}
		modified := false
		for _, setting := range build.Settings {
			switch setting.Key {
			case "vcs.revision":
				about.Commit = setting.Value
			case "vcs.modified":
				modified = setting.Value == "true"
			}
		}
		if modified {
			about.Commit += " with local changes"
		}
	}
	if about.Commit == "" {
		about.Commit = commit
	}
	if about.Commit == "" {
		about.Commit = "unknown"
	}
	if about.Version == "" {
		about.Version = "unknown"
	}
	return about
}
