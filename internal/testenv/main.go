package testenv

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/hourvault/hourvault/internal/serverprocess"
)

// Main is the body of a package's TestMain: it runs the tests, stops every server they started, fails the run when a
// goroutine is left over, and exits the process.
//
// Goroutines are counted after the servers are gone, so idle connections of an HTTP client to them are not taken for a
// leak; a connection pool that nobody closed is one.
func Main(m *testing.M) {
	if err := serverprocess.RemoveAbandoned(os.TempDir()); err != nil {
		fmt.Fprintf(os.Stderr, "testenv: remove what earlier tests left: %v\n", err)
	}
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintf(os.Stderr, "testenv: %v\n", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintf(os.Stderr, "testenv: goroutines left over by the tests: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Majors returns the PostgreSQL major versions hourvault is tested with, ascending.
func Majors() []int {
	return []int{15, 17, 18}
}

// shared holds the servers that all tests of this process use together. It is the one variable of the package: the
// testing package gives tests nothing else that lives as long as the process.
var shared = &environment{}

// environment is what one test process has started.
type environment struct {
	mu       sync.Mutex
	dir      *serverprocess.WorkDir // made on first use
	clusters map[int]*started[*Cluster]
	s3       map[string]*started[*S3Server]
	stops    []func() error
}

// started is the outcome of starting a server once: every later user gets the same one.
type started[T any] struct {
	once   sync.Once
	server T
	err    error
}

// cluster returns the slot of the shared cluster of a major version.
func (e *environment) cluster(major int) *started[*Cluster] {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.clusters == nil {
		e.clusters = make(map[int]*started[*Cluster])
	}
	if e.clusters[major] == nil {
		e.clusters[major] = &started[*Cluster]{}
	}
	return e.clusters[major]
}

// s3Server returns the slot of the S3 server of a name.
func (e *environment) s3Server(name string) *started[*S3Server] {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.s3 == nil {
		e.s3 = make(map[string]*started[*S3Server])
	}
	if e.s3[name] == nil {
		e.s3[name] = &started[*S3Server]{}
	}
	return e.s3[name]
}

// atEnd registers what ends a shared server.
func (e *environment) atEnd(stop func() error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stops = append(e.stops, stop)
}

// work returns the directory all servers of the process keep their files in.
func (e *environment) work() (*serverprocess.WorkDir, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dir == nil {
		dir, err := serverprocess.NewWorkDir(os.TempDir())
		if err != nil {
			return nil, err
		}
		e.dir = dir
	}
	return e.dir, nil
}

// stop ends all shared servers, all at once, and removes their files. The first error is returned after everything was
// tried.
func (e *environment) stop() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	errs := make([]error, len(e.stops)+1)
	var stopping sync.WaitGroup
	for i, stop := range e.stops {
		stopping.Go(func() { errs[i] = stop() })
	}
	stopping.Wait()
	if e.dir != nil {
		errs[len(e.stops)] = e.dir.Remove()
	}
	e.stops, e.dir, e.clusters, e.s3 = nil, nil, nil, nil
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// unavailable ends a test whose server cannot be had: skipped on a developer's machine, failed where it is required.
func unavailable(t testing.TB, err error) {
	t.Helper()
	if os.Getenv(requireVariable) == "1" {
		t.Fatalf("testenv: %v", err)
	}
	t.Skipf("testenv: %v", err)
}

// requireVariable is the environment variable that turns skips for want of a server into failures.
const requireVariable = "HOURVAULT_TEST_REQUIRE"

// longVariable asks for the long variants of tests: make test-long sets it to 1.
const longVariable = "HOURVAULT_TEST_LONG"

// Long says whether tests that have a short and a long variant shall run the long one: more random schedules, larger
// data, minutes to hours. Without it the same tests run a small part of that, for every commit.
func Long() bool { return os.Getenv(longVariable) == "1" }
