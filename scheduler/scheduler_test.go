package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// work lets fake time pass: for bubbles of synctest only.
func work(d time.Duration) { <-time.After(d) }

func TestServersRunSideBySideAndWorkspacesOfOneInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mutex sync.Mutex
		var begun []string
		running := map[string]int{}
		var jobs []Job
		for i := range 3 {
			for _, server := range []string{"a", "b"} {
				jobs = append(jobs, Job{Server: server, Run: func(context.Context) error {
					mutex.Lock()
					running[server]++
					if running[server] > 1 {
						t.Errorf("%d jobs of server %s at the same time", running[server], server)
					}
					begun = append(begun, fmt.Sprint(server, i))
					mutex.Unlock()
					work(time.Hour)
					mutex.Lock()
					running[server]--
					mutex.Unlock()
					return nil
				}})
			}
		}
		start := time.Now()
		for i, outcome := range Run(t.Context(), jobs, Limits{}) {
			if outcome.Err != nil || outcome.Duration != time.Hour || outcome.Begun.IsZero() {
				t.Errorf("job %d: got %+v", i, outcome)
			}
		}
		if took := time.Since(start); took != 3*time.Hour {
			t.Errorf("took %s, want 3h: servers must not wait for each other", took)
		}
		for _, server := range []string{"a", "b"} {
			var order []string
			for _, name := range begun {
				if name[:1] == server {
					order = append(order, name)
				}
			}
			if want := []string{server + "0", server + "1", server + "2"}; !slices.Equal(order, want) {
				t.Errorf("order of server %s: got %v, want %v", server, order, want)
			}
		}
	})
}

func TestPerServerLimitIsUsedAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		jobs := make([]Job, 7)
		for i := range jobs {
			jobs[i] = Job{Server: "a", Run: func(context.Context) error {
				now := running.Add(1)
				if now > most.Load() {
					most.Store(now)
				}
				work(time.Second)
				running.Add(-1)
				return nil
			}}
		}
		start := time.Now()
		Run(t.Context(), jobs, Limits{PerServer: 3})
		if most.Load() != 3 || time.Since(start) != 3*time.Second {
			t.Errorf("got %d at a time in %s, want 3 in 3s", most.Load(), time.Since(start))
		}
	})
}

func TestAFailureStopsNobodyElse(t *testing.T) {
	broken := errors.New("broken")
	jobs := []Job{
		{Server: "a", Run: func(context.Context) error { return nil }},
		{Server: "a", Run: func(context.Context) error { return broken }},
		{Server: "a", Run: func(ctx context.Context) error { return ctx.Err() }},
		{Server: "b", Run: func(ctx context.Context) error { return ctx.Err() }},
	}
	outcomes := Run(t.Context(), jobs, Limits{})
	for i, outcome := range outcomes {
		want := error(nil)
		if i == 1 {
			want = broken
		}
		if !errors.Is(outcome.Err, want) {
			t.Errorf("job %d: got %v, want %v", i, outcome.Err, want)
		}
	}
}

func TestAStopBeginsNothingMoreAndWaitsForWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("stopped by signal")
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := false
		jobs := []Job{
			{Server: "a", Run: func(ctx context.Context) error {
				cancel(stop)
				<-ctx.Done()
				work(time.Minute) // cleaning up
				ended = true
				return context.Cause(ctx)
			}},
			{Server: "a", Run: func(context.Context) error {
				t.Error("a job was begun after the stop")
				return nil
			}},
		}
		outcomes := Run(ctx, jobs, Limits{})
		if !ended {
			t.Error("Run returned while a job was cleaning up")
		}
		if !errors.Is(outcomes[0].Err, stop) || errors.Is(outcomes[0].Err, ErrNotBegun) {
			t.Errorf("running job: got %v", outcomes[0].Err)
		}
		if !errors.Is(outcomes[1].Err, ErrNotBegun) || !errors.Is(outcomes[1].Err, stop) || !outcomes[1].Begun.IsZero() {
			t.Errorf("waiting job: got %+v", outcomes[1])
		}
	})
}
