package postgres

import (
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLState returns the code of the error that the server reported (PostgreSQL manual, "PostgreSQL Error Codes"); "" for
// errors of other kinds.
func SQLState(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// IsUnconnected says whether err is that no connection came about.
func IsUnconnected(err error) bool { return errors.As(err, new(*pgconn.ConnectError)) }

// IsConnectionLost says whether err shows that a connection broke off, where the server said nothing about it. It cannot tell a
// connection to PostgreSQL from another one: the caller knows what failed.
func IsConnectionLost(err error) bool {
	if errors.As(err, new(*LeaderLostError)) || errors.As(err, new(*net.OpError)) {
		return true
	}
	for _, sign := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}
