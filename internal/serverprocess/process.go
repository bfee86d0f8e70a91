package serverprocess

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const (
	// startTimeout is how long a server may take until it answers. Two cores shared by several test processes are slow.
	startTimeout = 90 * time.Second
	// stopTimeout is how long a server may take to end before it is killed.
	stopTimeout = 60 * time.Second
	// pollInterval is the time between two attempts to reach a server that is starting.
	pollInterval = 20 * time.Millisecond
)

// Process is a running server program. Its output goes to a log file.
type Process struct {
	name string
	log  string // path of the log file
	pid  int
	done chan struct{} // closed when the program has ended
	err  error         // how it ended; read after done is closed
}

// Start runs a program as the Identity, in directory dir and with exactly the given environment, its output
// appended to the file "log" in dir. The program gets deathSignal should this process die.
func Start(as Identity, dir string, environment []string, deathSignal syscall.Signal, program string, arguments ...string) (*Process, error) {
	name := filepath.Base(program)
	logPath := filepath.Join(dir, "log")
	logFile, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	command := exec.Command(program, arguments...) // the installed server; it ends by Stop
	command.Dir = dir
	command.Env = environment
	command.Stdout = logFile
	command.Stderr = logFile
	command.SysProcAttr = as.Attributes(deathSignal)

	p := &Process{name: name, log: logPath, done: make(chan struct{})}
	launched := make(chan error)
	go func() {
		// The death signal is tied to the thread that starts the program, not to the process (prctl(2),
		// PR_SET_PDEATHSIG): this thread must live as long as the program does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		if err == nil {
			p.pid = command.Process.Pid
		}
		launched <- err
		if err == nil {
			p.err = command.Wait()
			close(p.done)
		}
	}()
	err = <-launched
	if closeErr := logFile.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// AwaitReady calls ready until it returns nil, and fails when the program ends or does not become ready in time. The
// error then ends with the last lines of the program's log.
func (p *Process) AwaitReady(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		last := ready(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while starting (%v); its log:\n%s", p.name, p.err, p.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready within %s: %w; its log:\n%s", p.name, startTimeout, last, p.LogTail())
		case <-poll.C:
		}
	}
}

// Stop sends the signal and waits until the program has ended; when that takes too long it is killed, which is an
// error. A program that has ended already is fine.
func (p *Process) Stop(signal syscall.Signal) error {
	if err := syscall.Kill(p.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	deadline := time.NewTimer(stopTimeout)
	defer deadline.Stop()
	select {
	case <-p.done:
		return nil
	case <-deadline.C:
	}
	// The whole group: PostgreSQL's backends would otherwise go on for a while without their postmaster.
	if err := syscall.Kill(-p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return fmt.Errorf("%s did not stop within %s and was killed; its log:\n%s", p.name, stopTimeout, p.LogTail())
}

// AwaitGone waits until no process of the id is left, other than one that has ended and was not waited for.
func AwaitGone(ctx context.Context, pid int) error {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look at process %d: %w", pid, err)
		}
		if _, after, found := bytes.Cut(status, []byte(") ")); found && after[0] == 'Z' {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d is still running: %w", pid, context.Cause(ctx))
		case <-poll.C:
		}
	}
}

// PID returns the process id.
func (p *Process) PID() int { return p.pid }

// Running reports whether the program has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// LogTail returns the last 8 KiB of the program's output.
func (p *Process) LogTail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	const tail = 8 << 10
	if len(content) > tail {
		content = content[len(content)-tail:]
	}
	return string(content)
}
