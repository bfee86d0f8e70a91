package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/timeexpr"
)

// app is what all commands work with. It is made once per process (or test) and used by one command.
type app struct {
	streams     *console.Streams
	environment config.Environment
	logger      *zap.Logger
	now         func() time.Time
	global      globalOptions
	zone        *time.Location

	begun    bool // a command's own code was reached: errors before that are wrong usage
	answered bool // the JSON document was written
}

// globalOptions are the flags that every command has.
type globalOptions struct {
	configFile string
	logFormat  string
	json       bool
	zone       string
}

// Log formats.
const (
	logConsole = "console"
	logJSON    = "json"
)

func newApp(streams *console.Streams, environment config.Environment) *app {
	return &app{streams: streams, environment: environment, logger: zap.NewNop(), now: time.Now, zone: time.Local}
}

// commands are the constructors of all commands, in the order of the help.
func commands() []func(*app) *cobra.Command {
	return []func(*app) *cobra.Command{
		newInitCommand,
		newDoctorCommand,
		newBackupCommand,
		newSnapshotsCommand,
		newRestoreCommand,
		newVerifyCommand,
		newDemoCommand,
		newVersionCommand,
		newCompletionCommand,
	}
}

func rootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "hourvault",
		Short: "Encrypted, hourly, per-workspace backup of PostgreSQL into S3, proven to restore",
		Long: `hourvault keeps encrypted snapshots of PostgreSQL databases, one per customer workspace, in S3 or a
directory, and restores one of them as it was at a given date and hour.

Results go to standard output, everything for people to standard error.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration, nothing was changed; 3 done for some
workspaces, failed for others.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return a.begin()
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.global.configFile, "config", "", "configuration `FILE` (default: $HOURVAULT_CONFIG, else "+config.DefaultFile+")")
	flags.StringVar(&a.global.logFormat, "log-format", logConsole, "`FORMAT` of standard error: console, lines for people; or json, one object per line")
	flags.BoolVar(&a.global.json, "json", false, "print one JSON document on standard output")
	flags.StringVar(&a.global.zone, "tz", "local", "time `ZONE` in which times are read and printed, such as Europe/Berlin, UTC or +02:00")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(a.streams.Out)
	root.SetErr(a.streams.Err)
	for _, construct := range commands() {
		root.AddCommand(construct(a))
	}
	return root
}

// begin checks the global flags and makes the logger.
func (a *app) begin() error {
	a.begun = true
	if a.global.logFormat != logConsole && a.global.logFormat != logJSON {
		return usagef("--log-format %s: write console or json", console.Printable(a.global.logFormat))
	}
	zone, err := timeexpr.ParseZone(a.global.zone)
	if err != nil {
		return usagef("--tz: %w", err)
	}
	a.zone = zone
	a.logger = newLogger(a.streams.Err, a.global.logFormat)
	return nil
}

// newLogger returns the logger of a command. In the console format people read the command's own lines, which say the
// same; so only warnings are logged then.
func newLogger(out io.Writer, format string) *zap.Logger {
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoding.EncodeDuration = zapcore.SecondsDurationEncoder
	encoding.TimeKey = "time"
	encoder, level := zapcore.NewConsoleEncoder(encoding), zapcore.WarnLevel
	if format == logJSON {
		encoder, level = zapcore.NewJSONEncoder(encoding), zapcore.InfoLevel
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(out)), level))
}

// execute runs the command line args and returns the exit code. It is where every error ends: printed once.
func execute(ctx context.Context, args []string, a *app) int {
	root := rootCommand(a)
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if !a.begun {
		// Flags behind the one that was not understood were not read; the promise of --json holds all the same.
		a.global.json = a.global.json || slices.Contains(args, "--json")
		err = &usageError{fmt.Errorf("%s: see %s --help", firstLine(err.Error()), command.CommandPath())}
	}
	// Why it was stopped says more than what the stop broke off.
	if stop := stopped(ctx); stop != nil && !errors.Is(err, stop) {
		err = fmt.Errorf("%w: %w", stop, err)
	}
	code := exitCode(err)
	next := ""
	if code != exitUsage { // what is wrong with a command line or a configuration says what would be right
		next = advice(err)
	}
	if a.global.json && !a.answered {
		_ = a.answer(errorDocument{Error: safe(err.Error()), Next: safe(next), ExitCode: code})
	}
	if a.peopleWatch() {
		for line := range strings.SplitSeq(console.Text(err.Error()), "\n") {
			_, _ = fmt.Fprintln(a.streams.Err, "hourvault: "+line)
		}
		for line := range strings.Lines(console.Text(next)) {
			_, _ = fmt.Fprintln(a.streams.Err, "hourvault: next: "+strings.TrimSuffix(line, "\n"))
		}
	} else {
		a.logger.Error("command failed", zap.String("command", command.Name()), zap.Int("exit_code", code), zap.Error(err), zap.String("next", safe(next)))
	}
	return code
}

// errorDocument is what --json prints when a command failed before it had a result.
type errorDocument struct {
	Error string `json:"error"`
	// Next is what to do about it, where Error does not say so itself; several things are separated by line feeds.
	Next     string `json:"next,omitempty"`
	ExitCode int    `json:"exit_code"`
}

// answer writes the one JSON document of a command.
func (a *app) answer(document any) error {
	a.answered = true
	return console.WriteJSON(a.streams.Out, document)
}

// peopleWatch says whether standard error is for people: with the log format json it holds log entries alone.
func (a *app) peopleWatch() bool { return a.global.logFormat != logJSON }

// say writes a line for people; with the log format json it becomes an entry, so that nothing is lost.
func (a *app) say(format string, args ...any) {
	text := console.Text(fmt.Sprintf(format, args...))
	if !a.peopleWatch() {
		a.logger.Info("note", zap.String("text", strings.TrimPrefix(text, "hourvault: ")))
		return
	}
	_, _ = fmt.Fprintln(a.streams.Err, text)
}

// progress begins to show progress to people. Finish must be called.
func (a *app) progress(title string, unit console.Unit, total int64) *console.Progress {
	streams := a.streams
	if !a.peopleWatch() {
		streams = &console.Streams{Out: io.Discard, Err: io.Discard}
	}
	return console.NewProgress(streams, title, unit, total)
}

func (a *app) formatTime(t time.Time) string {
	return timeexpr.FormatInstant(t.Truncate(time.Second), a.zone)
}

// safe makes a text that may hold anything valid for JSON and harmless when a reader prints it.
func safe(text string) string { return console.Text(text) }

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// noArguments refuses positional arguments.
func noArguments(command *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, got %s", command.Name(), console.Printable(args[0]))
	}
	return nil
}

// atMostOne accepts one positional argument or none; what names it.
func atMostOne(what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) > 1 {
			return fmt.Errorf("%s takes one %s at most, got %d", command.Name(), what, len(args))
		}
		return nil
	}
}

// exactlyOne demands one positional argument; what names it.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s takes exactly one %s, got %d", command.Name(), what, len(args))
		}
		return nil
	}
}
