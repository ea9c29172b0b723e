// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// The files of a release's folder. All of them may stay behind, and are taken
// over by whoever comes.
const (
	// socketName is where the current instance answers.
	socketName = "socket"
	// lockName is locked by who moves, so that moves are one after the other.
	lockName = "lock"
	// aliveName is locked, shared with others, by each instance that holds links:
	// a current one and its standby.
	aliveName = "alive"
)

// A place is the folder in which the instances of a release on this node meet.
type place struct {
	dir, alive *os.File
	// hideListener ends answer; nil without it.
	hideListener func()
}

// openPlace opens the folder, and makes it if it is missing. It is this user's
// alone: whoever may connect gets the release's maps.
func openPlace(path string) (_ *place, err error) {
	defer func() {
		if err != nil {
			err = manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("open the folder for handovers: %w", err),
				"The folder must be writable and this user's own, such as /run/ebpm/NAME.")
		}
	}()
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	p := &place{dir: dir}
	defer func() {
		if err != nil {
			_ = p.close()
		}
	}()
	info, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("%s belongs to user %d, this process to %d", path, uid, os.Geteuid())
	}
	// The kubelet makes hostPaths with mode 0755.
	if info.Mode().Perm() != 0o700 {
		if err := dir.Chmod(0o700); err != nil {
			return nil, err
		}
	}
	if p.alive, err = p.open(aliveName); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *place) close() error {
	p.hide()
	var errs []error
	for _, f := range []*os.File{p.alive, p.dir} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func (p *place) open(name string) (*os.File, error) {
	fd, err := unix.Openat(int(p.dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(p.dir.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// lock waits until no other instance moves, and returns what lets the next one go,
// as does the end of the process.
func (p *place) lock(ctx context.Context) (unlock func(), err error) {
	f, err := p.open(lockName)
	if err != nil {
		return nil, err
	}
	for {
		err := flock(f, unix.LOCK_EX)
		if err == nil {
			return sync.OnceFunc(func() { _ = f.Close() }), nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if err := pause(ctx); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// claim reports whether no instance lives, and is the first that does then. Who
// has taken over calls it too, and shares the claim.
func (p *place) claim() (alone bool, err error) {
	err = flock(p.alive, unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", aliveName, err)
	}
	return true, nil
}

// live says that this instance lives until its process ends.
func (p *place) live() error {
	if err := flock(p.alive, unix.LOCK_SH); err != nil {
		return fmt.Errorf("lock %s: %w", aliveName, err)
	}
	return nil
}

// die takes that back.
func (p *place) die() { _ = flock(p.alive, unix.LOCK_UN) }

// path is a name of a file in the folder that is short enough for a socket.
func (p *place) path(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), name)
}

// dial connects to the current instance; nil says that none answers.
func (p *place) dial() (*conn, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: p.path(socketName), Net: "unixpacket"})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return nil, nil //nolint:nilnil // Nobody answers, which is no error.
	case err != nil:
		return nil, fmt.Errorf("connect to the running instance: %w", err)
	}
	return &conn{c}, nil
}

// freshName is the name of a socket that does not answer yet. Only who moves makes
// it, so one is enough.
const freshName = socketName + ".new"

// bind makes what [place.answer] puts in place: all that could fail for want of room.
func (p *place) bind() (*net.UnixListener, error) {
	if err := unix.Unlinkat(int(p.dir.Fd()), freshName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("listen for a successor: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: p.path(freshName), Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen for a successor: %w", err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// unbind takes that back.
func (p *place) unbind(l *net.UnixListener) {
	_ = l.Close()
	_ = unix.Unlinkat(int(p.dir.Fd()), freshName, 0)
}

// answer answers from now on in place of whoever did. Peers come over the channel.
func (p *place) answer(l *net.UnixListener) (<-chan conn, error) {
	p.hide()
	// The name is taken over in one step, so that somebody answers at each moment.
	if err := unix.Renameat(int(p.dir.Fd()), freshName, int(p.dir.Fd()), socketName); err != nil {
		p.unbind(l)
		return nil, fmt.Errorf("listen for a successor: %w", err)
	}
	accepted, hidden := make(chan conn), make(chan struct{})
	go accept(l, accepted, hidden)
	p.hideListener = func() {
		_ = l.Close()
		close(hidden)
	}
	return accepted, nil
}

// acceptPause is how long accept waits after a connection that failed, for want
// of a file descriptor for instance.
const acceptPause = 100 * time.Millisecond

// accept passes the connections of this user's processes on, until l is closed.
func accept(l *net.UnixListener, accepted chan<- conn, hidden <-chan struct{}) {
	for {
		uc, err := l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(acceptPause)
			continue
		}
		c := conn{uc}
		if c.checkPeer() != nil {
			_ = c.Close()
			continue
		}
		select {
		case accepted <- c:
		case <-hidden:
			_ = c.Close()
			return
		}
	}
}

// hide stops answering.
func (p *place) hide() {
	if p.hideListener != nil {
		p.hideListener()
		p.hideListener = nil
	}
}
