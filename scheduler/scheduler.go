// Package scheduler runs work on many workspaces: servers side by side, the workspaces of one server a few at a time,
// and in such a way that one that fails never stops the others. It does not know what the work is: that is the
// function in each job.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// DefaultPerServer is used where Limits.PerServer is 0.
const DefaultPerServer = 1

// ErrNotBegun says that a job was not begun because the run was stopped first. It comes with the reason of the stop.
var ErrNotBegun = errors.New("not begun")

// Job is work on one workspace.
type Job struct {
	// Server names the server whose load the job counts for.
	Server string
	// Run does the work. Its context is that of the whole run: when it ends, Run stops or gives up cleanly, and
	// returns. It is called at most once.
	Run func(ctx context.Context) error
}

// Limits bound how much is done at the same time. The zero value is the sensible default.
type Limits struct {
	// PerServer is how many jobs of one server run at the same time; 0 means DefaultPerServer. Servers do not wait for
	// each other.
	PerServer int
}

// Outcome is how a job ended.
type Outcome struct {
	// Err is what Job.Run returned, or wraps ErrNotBegun and the cause of the context's end.
	Err error
	// Begun is zero for a job that was not begun.
	Begun    time.Time
	Duration time.Duration
}

// Run does all jobs and returns when the last has ended: one outcome for each, in the order of jobs. The jobs of a server
// are begun in that order too. When ctx ends, no further job is begun, and those that run are waited for.
func Run(ctx context.Context, jobs []Job, limits Limits) []Outcome {
	perServer := limits.PerServer
	if perServer <= 0 {
		perServer = DefaultPerServer
	}
	queues := make(map[string]chan int)
	for _, job := range jobs {
		queues[job.Server] = nil
	}
	for server := range queues {
		queue := make(chan int, len(jobs))
		for i, job := range jobs {
			if job.Server == server {
				queue <- i
			}
		}
		close(queue)
		queues[server] = queue
	}
	outcomes := make([]Outcome, len(jobs))
	var workers sync.WaitGroup
	for _, queue := range queues {
		for range min(perServer, len(queue)) {
			workers.Go(func() {
				for i := range queue {
					outcomes[i] = run(ctx, jobs[i])
				}
			})
		}
	}
	workers.Wait()
	return outcomes
}

func run(ctx context.Context, job Job) Outcome {
	if ctx.Err() != nil {
		return Outcome{Err: fmt.Errorf("%w: %w", ErrNotBegun, context.Cause(ctx))}
	}
	begun := time.Now()
	err := job.Run(ctx)
	return Outcome{Err: err, Begun: begun, Duration: time.Since(begun)}
}
