package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// programs are what was built of this module, once per test process.
var programs = &builds{}

type builds struct {
	once sync.Once
	path string
	err  error
}

// Hourvault returns the path of the product's own binary, built as it is shipped, without the race detector, from the source at hand: once per test
// process, and of what `make build` has compiled already.
func Hourvault(t testing.TB) string {
	t.Helper()
	programs.once.Do(func() {
		dir, err := os.MkdirTemp("", "hourvault-program-*")
		if err != nil {
			programs.err = err
			return
		}
		shared.atEnd(func() error { return os.RemoveAll(dir) })
		programs.path = filepath.Join(dir, "hourvault")
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", programs.path, "github.com/hourvault/hourvault/cmd/hourvault")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			programs.err = fmt.Errorf("build hourvault: %w\n%s", err, output)
		}
	})
	if programs.err != nil {
		t.Fatalf("testenv: %v", programs.err)
	}
	return programs.path
}

// runLimit bounds one run of the product.
const runLimit = 5 * time.Minute

// Outcome is how a run of the product ended.
type Outcome struct {
	// Code is the exit code; -1 when a signal ended the process.
	Code           int
	Stdout, Stderr string
}

// Process is a run of the product.
type Process struct {
	command        *exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan struct{}
	cancel         context.CancelFunc
}

// StartHourvault starts the product with an environment of its own: nothing of the tests' reaches it. It is killed when the
// test ends before it does.
func StartHourvault(t testing.TB, args ...string) *Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	p := &Process{ended: make(chan struct{}), cancel: cancel}
	p.command = exec.CommandContext(ctx, Hourvault(t), args...)
	p.command.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "TZ=UTC", "LC_ALL=C.UTF-8", "AWS_EC2_METADATA_DISABLED=true"}
	p.command.Stdout, p.command.Stderr = &p.stdout, &p.stderr
	// A program that hourvault started keeps the pipes open when hourvault is killed; that must not keep the test.
	p.command.WaitDelay = time.Second
	if err := p.command.Start(); err != nil {
		cancel()
		t.Fatalf("testenv: start hourvault: %v", err)
	}
	go func() {
		defer close(p.ended)
		_ = p.command.Wait() // ProcessState says it all
	}()
	t.Cleanup(func() {
		cancel()
		<-p.ended
	})
	return p
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Kill ends the process by SIGKILL, as the kernel does when memory runs out, and waits until it is gone. The programs that it
// has started are left alone. One that has ended already is fine.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGKILL)
	<-p.ended
}

// Signal sends a signal, such as SIGSTOP and SIGCONT to suspend the process.
func (p *Process) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.command.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("testenv: signal hourvault: %v", err)
	}
}

// Wait waits until the process has ended by itself.
func (p *Process) Wait() Outcome {
	<-p.ended
	p.cancel()
	return Outcome{Code: p.command.ProcessState.ExitCode(), Stdout: p.stdout.String(), Stderr: p.stderr.String()}
}

// RunHourvault runs the product to its end.
func RunHourvault(t testing.TB, args ...string) Outcome {
	t.Helper()
	return StartHourvault(t, args...).Wait()
}
