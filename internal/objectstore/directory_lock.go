package objectstore

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lock takes the directory's exclusive lock, which PutIfMatch and Delete hold between looking and acting, against
// other goroutines and other processes alike. It ends with the context's error. The kernel releases the lock of a
// process that dies.
func (d *Directory) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case d.writers <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	file, err := d.root.OpenFile(directoryLock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		<-d.writers
		return nil, err
	}
	unlock = func() {
		_ = file.Close() // which releases the lock
		<-d.writers
	}
	// flock(2) cannot be interrupted by a context, so it is asked again and again; only one goroutine of a process
	// is ever here, and another process holds the lock for one small write.
	const first, longest = time.Millisecond, 50 * time.Millisecond
	timer := time.NewTimer(first)
	defer timer.Stop()
	for pause := first; ; pause = min(2*pause, longest) {
		err := flock(file)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			unlock()
			return nil, &os.PathError{Op: "flock", Path: directoryLock, Err: err}
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			unlock()
			return nil, ctx.Err()
		}
	}
}

// flock goes through SyscallConn because Fd would put the file into blocking mode.
func flock(file *os.File) error {
	connection, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := connection.Control(func(fd uintptr) {
		result = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB)
	}); err != nil {
		return err
	}
	return result
}
