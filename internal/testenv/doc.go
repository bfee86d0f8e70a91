// Package testenv provides the servers the tests of hourvault run against: real PostgreSQL of every supported major
// version and two real S3 servers. There are no mocks of either.
//
// Servers are started on first use, once per test process, as an unprivileged user when the tests run as root, on
// temporary data, and reachable from this machine only. [Main] stops them; when the test process dies without coming
// to that, the kernel ends them with it, and the next test process removes what they left in the temporary directory.
//
// A test whose server is not installed is skipped with the command that installs it, or fails when the environment
// variable HOURVAULT_TEST_REQUIRE is 1, as `make test` and `.ci/run` set it.
//
// The package is for tests only: nothing that is shipped imports it.
package testenv
