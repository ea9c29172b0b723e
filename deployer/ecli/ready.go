// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// DefaultReadySocket is where `ecli ready` asks.
const DefaultReadySocket = "/run/ebpm/ready.sock"

// CheckReady returns nil when an instance listens on the socket, which it does
// while all its programs are attached.
func CheckReady(socket string) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(context.Background(), "unix", socket)
	if err != nil {
		return fmt.Errorf("not ready: no runner with attached programs listens on %s: %w", socket, err)
	}
	return conn.Close()
}

type readySocket struct {
	net.Listener
	path string
}

// listenReady takes connections on the socket, for its own user only, and
// closes each. A socket that an earlier run left there is replaced.
func listenReady(path string) (io.Closer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen for readiness: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("listen for readiness: %s is there and is no socket", path)
	}
	// The name appears with its mode set, and over an old one, in one step.
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(fresh); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("listen for readiness: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for readiness: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(fresh)
		return nil, fmt.Errorf("listen for readiness: %w", err)
	}
	go greet(l)
	return &readySocket{l, path}, nil
}

// acceptPause is how long greet waits after a connection that failed, for want of
// a file descriptor for instance.
const acceptPause = 100 * time.Millisecond

// greet closes each connection, until l is closed.
func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(acceptPause)
		default:
			_ = conn.Close()
		}
	}
}

// Close removes the socket and stops listening.
func (s *readySocket) Close() error {
	err := os.Remove(s.path)
	if os.IsNotExist(err) {
		err = nil
	}
	if closeErr := s.Listener.Close(); err == nil {
		err = closeErr
	}
	return err
}
