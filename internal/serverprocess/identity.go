package serverprocess

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// Identity is the user a server runs as: never root, which PostgreSQL refuses and S3 servers do not need.
type Identity struct {
	change   bool // this process runs as root, so the user has to be changed
	uid, gid uint32
}

// Unprivileged returns the user that servers run as: that of this process, or for root the user postgres, or nobody.
func Unprivileged() (Identity, error) {
	if os.Geteuid() != 0 {
		return Identity{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
			continue
		}
		if err != nil {
			return Identity{}, fmt.Errorf("look up the user %s to run servers as: %w", name, err)
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return Identity{}, fmt.Errorf("uid of the user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return Identity{}, fmt.Errorf("gid of the user %s: %w", name, err)
		}
		return Identity{change: true, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return Identity{}, errors.New("servers must not run as root, and there is neither a user postgres nor nobody")
}

// Own gives a file or directory, not what is in it, to the Identity.
func (i Identity) Own(path string) error {
	if !i.change {
		return nil
	}
	if err := os.Chown(path, int(i.uid), int(i.gid)); err != nil {
		return fmt.Errorf("give a directory to the servers' user: %w", err)
	}
	return nil
}

// Attributes makes a process run as the Identity, in a process group of its own so that a terminal's interrupt
// reaches this process first, and end by deathSignal when the thread that started it ends.
func (i Identity) Attributes(deathSignal syscall.Signal) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Pdeathsig: deathSignal, Setpgid: true}
	if i.change {
		attributes.Credential = &syscall.Credential{Uid: i.uid, Gid: i.gid}
	}
	return attributes
}
