package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// stopError is the cancel cause of a command that was asked to stop by a signal.
type stopError struct{ signal os.Signal }

func (e *stopError) Error() string {
	name := "signal " + e.signal.String()
	switch e.signal {
	case os.Interrupt:
		name = "an interrupt (SIGINT)"
	case syscall.SIGTERM:
		name = "SIGTERM"
	}
	return "stopped by " + name
}

// withSignals returns a context that the first SIGINT or SIGTERM ends, with a *stopError as cause. Work then stops or is
// given up cleanly. From then on signals have their default effect again: a second one ends the process at once. The
// function returned stops listening.
func withSignals(ctx context.Context, out io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	received := make(chan os.Signal, 1)
	done := make(chan struct{})
	finished := make(chan struct{})
	signal.Notify(received, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer close(finished)
		select {
		case which := <-received:
			signal.Stop(received)
			_, _ = fmt.Fprintln(out, "hourvault: stopping; press Ctrl-C or send the signal again to stop at once")
			cancel(&stopError{which})
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(received)
		close(done)
		<-finished
		cancel(nil)
	}
}
