// Package serverprocess runs server programs for as long as this process lives: as an unprivileged user even where this
// process is root, in directories that are removed again, also those of a process that was killed, and never longer than
// their owner. Throw-away PostgreSQL clusters and the servers that tests run against are built on it.
package serverprocess
