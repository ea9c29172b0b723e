// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "ready.sock")
	if err := CheckReady(path); err == nil || !strings.Contains(err.Error(), "not ready") || !strings.Contains(err.Error(), path) {
		t.Fatalf("without a socket: %v", err)
	}
	// A socket that a killed process left.
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	if err := CheckReady(path); err == nil {
		t.Fatal("ready by a stale socket")
	}
	socket, err := listenReady(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := CheckReady(path); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	if err := socket.Close(); err != nil {
		t.Fatal(err)
	}
	if err := CheckReady(path); err == nil {
		t.Error("ready after the end")
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 0 {
		t.Errorf("left there: %v, %v", left, err)
	}
}

func TestReadyTakesNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenReady(path); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("got %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "precious" {
		t.Error("the file is gone")
	}
}

// failingListener fails once, as when the process has no file descriptor left.
type failingListener struct {
	net.Listener
	failed bool
}

func (l *failingListener) Accept() (net.Conn, error) {
	if !l.failed {
		l.failed = true
		return nil, syscall.EMFILE
	}
	return l.Listener.Accept()
}

// TestReadyAfterAFailure: a connection that fails is not the last one.
func TestReadyAfterAFailure(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "ready.sock"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		greet(&failingListener{Listener: l})
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// It is closed once it was accepted.
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("nobody takes connections any more: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
}
