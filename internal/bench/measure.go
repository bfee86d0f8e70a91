package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/internal/serverprocess"
)

// memoryInterval is the time between two looks at the memory of the measured processes.
const memoryInterval = 100 * time.Millisecond

// usage is what a measured step took.
type usage struct {
	// Wall is the time from the first start to the last end of its processes, in seconds, as are all others.
	Wall float64 `json:"wall_s"`
	// User and System are CPU time of the tool's processes, children that they waited for included.
	User   float64 `json:"tool_user_s"`
	System float64 `json:"tool_system_s"`
	// Postgres and S3 are CPU time of the two servers, all their processes, meanwhile.
	Postgres float64 `json:"postgres_s"`
	S3       float64 `json:"s3_s"`
	// Other is CPU time of everything else on the machine, the kernel's own threads included: much of it means that the
	// machine was not quiet.
	Other float64 `json:"other_s"`
	// PeakBytes is the largest resident set of any process of the pipeline that was started here, without their children.
	PeakBytes int64 `json:"peak_rss_bytes"`
	// TreeBytes is the largest sum of the resident sets of all processes of the tool at one moment.
	TreeBytes int64 `json:"tree_rss_bytes"`
}

// add makes u the usage of two steps, one after the other.
func (u *usage) add(other usage) {
	u.Wall += other.Wall
	u.User += other.User
	u.System += other.System
	u.Postgres += other.Postgres
	u.S3 += other.S3
	u.Other += other.Other
	u.PeakBytes = max(u.PeakBytes, other.PeakBytes)
	u.TreeBytes = max(u.TreeBytes, other.TreeBytes)
}

// program is a program to run. Its standard input is the output of the one before it in a pipeline.
type program struct {
	path      string
	arguments []string
	// environment is all that the program gets, beside PATH and HOME.
	environment []string
	// as is another user to run as; the zero value is this process's.
	as serverprocess.Identity
	// tolerate, when set, says whether a failure with that standard error is none.
	tolerate func(stderr string) bool
}

// meter runs programs and says what they took.
type meter struct {
	dir      string     // for output of programs
	home     string     // their HOME
	postgres func() int // process id of the server, 0 when there is none
	s3       func() int // likewise
}

// run runs programs as one pipeline and waits for all. The output of the last is returned where it is small, and otherwise
// cut. When ctx ends, all are stopped.
func (m *meter) run(ctx context.Context, programs ...program) (usage, []byte, error) {
	before, err := m.readCPU()
	if err != nil {
		return usage{}, nil, err
	}
	began := time.Now()
	running, err := m.start(ctx, programs)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return usage{}, nil, err
	}
	var used usage
	watched := make(chan struct{})
	stopWatching := make(chan struct{})
	go func() {
		defer close(watched)
		used.PeakBytes, used.TreeBytes = watchMemory(running, stopWatching)
	}()
	runErr := running.wait()
	used.Wall = time.Since(began).Seconds()
	close(stopWatching)
	<-watched
	after, err := m.readCPU()
	if err := errors.Join(runErr, err); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return used, nil, err
	}
	for _, one := range running {
		used.User += one.command.ProcessState.UserTime().Seconds()
		used.System += one.command.ProcessState.SystemTime().Seconds()
	}
	used.Postgres = (after.postgres - before.postgres).Seconds()
	used.S3 = (after.s3 - before.s3).Seconds()
	own := (after.self - before.self).Seconds()
	used.Other = max(0, (after.machine-before.machine).Seconds()-used.User-used.System-used.Postgres-used.S3-own)
	output, err := os.ReadFile(running[len(running)-1].stdout)
	if err != nil {
		return used, nil, fmt.Errorf("read what %s printed: %w", programs[len(programs)-1].path, err)
	}
	return used, output, nil
}

// process is a started program.
type process struct {
	program        program
	command        *exec.Cmd
	stdout, stderr string // files; stdout only of the last
	ended          chan error
}

type processes []*process

// start starts a pipeline. When it fails, what was started has been stopped.
func (m *meter) start(ctx context.Context, programs []program) (started processes, err error) {
	var open []*os.File
	defer func() {
		for _, file := range open {
			err = errors.Join(err, file.Close())
		}
		if err != nil && len(started) > 0 {
			for _, one := range started {
				_ = syscall.Kill(-one.command.Process.Pid, syscall.SIGKILL)
			}
			_ = started.wait()
		}
	}()
	var input *os.File
	for i, program := range programs {
		one := &process{program: program, ended: make(chan error, 1)}
		name := filepath.Join(m.dir, fmt.Sprintf("%d-%s", i, filepath.Base(program.path)))
		one.stdout, one.stderr = name+".out", name+".err"
		stderr, err := os.Create(one.stderr)
		if err != nil {
			return started, fmt.Errorf("run %s: %w", program.path, err)
		}
		open = append(open, stderr)
		var output, next *os.File
		if i+1 < len(programs) {
			if next, output, err = os.Pipe(); err != nil {
				return started, fmt.Errorf("run %s: %w", program.path, err)
			}
			open = append(open, next, output)
		} else {
			if output, err = os.Create(one.stdout); err != nil {
				return started, fmt.Errorf("run %s: %w", program.path, err)
			}
			open = append(open, output)
		}
		one.command = exec.CommandContext(ctx, program.path, program.arguments...)
		one.command.Dir = m.dir
		one.command.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=" + m.home, "LC_ALL=C.UTF-8", "TZ=UTC"}, program.environment...)
		if input != nil {
			one.command.Stdin = input
		}
		one.command.Stdout, one.command.Stderr = output, stderr
		one.command.SysProcAttr = program.as.Attributes(syscall.SIGKILL)
		one.command.Cancel = func() error { return syscall.Kill(-one.command.Process.Pid, syscall.SIGTERM) }
		one.command.WaitDelay = 20 * time.Second
		launched := make(chan error)
		go func() {
			// The death signal comes when the thread ends that started the program (prctl(2), PR_SET_PDEATHSIG).
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			err := one.command.Start()
			launched <- err
			if err == nil {
				one.ended <- one.command.Wait()
			}
		}()
		if err := <-launched; err != nil {
			return started, fmt.Errorf("run %s: %w", program.path, err)
		}
		started = append(started, one)
		input = next
	}
	return started, nil
}

// wait waits for all processes and says which failed, with what they said.
func (p processes) wait() error {
	var group errgroup.Group
	for _, one := range p {
		group.Go(func() error {
			one.ended <- <-one.ended // kept for the next to ask
			return nil
		})
	}
	_ = group.Wait()
	var errs []error
	for _, one := range p {
		err := <-one.ended
		if err == nil {
			continue
		}
		said, readErr := os.ReadFile(one.stderr)
		if readErr != nil {
			said = []byte(readErr.Error())
		}
		if one.program.tolerate != nil && one.program.tolerate(string(said)) {
			continue
		}
		const tail = 2 << 10
		if len(said) > tail {
			said = said[len(said)-tail:]
		}
		errs = append(errs, fmt.Errorf("%s %s: %w: %s", filepath.Base(one.program.path), firstWords(one.program.arguments), err, strings.TrimSpace(string(said))))
	}
	return errors.Join(errs...)
}

// firstWords shows what a program was asked to do without its many flags.
func firstWords(arguments []string) string {
	return strings.Join(arguments[:min(2, len(arguments))], " ")
}

// watchMemory looks at the processes until stop is closed. It returns the largest resident set of any of them, by the
// kernel's own high-water mark, and the largest sum of all with their descendants.
func watchMemory(running processes, stop <-chan struct{}) (peak, tree int64) {
	tick := time.NewTicker(memoryInterval)
	defer tick.Stop()
	for {
		var sum int64
		for _, one := range running {
			highest, now := residentOf(one.command.Process.Pid)
			peak = max(peak, highest)
			sum += now
			for _, child := range descendants(one.command.Process.Pid) {
				_, now := residentOf(child)
				sum += now
			}
		}
		tree = max(tree, sum)
		select {
		case <-stop:
			return peak, tree
		case <-tick.C:
		}
	}
}
