package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// identity is the user a server runs as: never root, which PostgreSQL refuses and S3 servers do not need.
type identity struct {
	change   bool // the tests run as root, so the user has to be changed
	uid, gid uint32
}

// serverIdentity returns the user that servers run as: that of the tests, or for root the user postgres, or nobody.
func serverIdentity() (identity, error) {
	if os.Geteuid() != 0 {
		return identity{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
			continue
		}
		if err != nil {
			return identity{}, fmt.Errorf("look up the user %s to run servers as: %w", name, err)
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return identity{}, fmt.Errorf("uid of the user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return identity{}, fmt.Errorf("gid of the user %s: %w", name, err)
		}
		return identity{change: true, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return identity{}, errors.New("servers must not run as root, and there is neither a user postgres nor nobody")
}

// own gives a file or directory, not what is in it, to the identity.
func (i identity) own(path string) error {
	if !i.change {
		return nil
	}
	if err := os.Chown(path, int(i.uid), int(i.gid)); err != nil {
		return fmt.Errorf("give a directory to the servers' user: %w", err)
	}
	return nil
}

// processAttributes makes a process run as the identity, in a process group of its own so that a terminal's interrupt
// reaches the tests first, and end by deathSignal when the thread that started it ends.
func (i identity) processAttributes(deathSignal syscall.Signal) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Pdeathsig: deathSignal, Setpgid: true}
	if i.change {
		attributes.Credential = &syscall.Credential{Uid: i.uid, Gid: i.gid}
	}
	return attributes
}
