// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns two ends of a connection.
func pair(t *testing.T) (a, b conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		ends[i] = conn{c.(*net.UnixConn)}
	}
	return ends[0], ends[1]
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestFiles: all files of a message come, in their order, also where they do not
// fit one packet.
func TestFiles(t *testing.T) {
	for _, n := range []int{2, filesAPacket, filesAPacket + 1, 700} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			a, b := pair(t)
			var files []int
			defer func() { closeFiles(files) }()
			for i := range n {
				fd, err := unix.MemfdCreate(strconv.Itoa(i), unix.MFD_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, fd)
				if _, err := unix.Write(fd, fmt.Appendf(nil, "%d", i)); err != nil {
					t.Fatal(err)
				}
			}
			offer := Offer{}
			for i := range n - 2 {
				offer.Buffers = append(offer.Buffers, fmt.Sprint("b", i))
			}
			sent := make(chan error, 1)
			go func() { sent <- a.send(offer, files) }()
			m, got, err := b.receive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer closeFiles(got)
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if o, ok := m.(Offer); !ok || len(o.Buffers) != n-2 || len(got) != n {
				t.Fatalf("%T with %d files", m, len(got))
			}
			for i, fd := range got {
				text := make([]byte, 10)
				k, err := unix.Pread(fd, text, 0)
				if err != nil || string(text[:k]) != strconv.Itoa(i) {
					t.Fatalf("file %d is %s, %v", i, text[:k], err)
				}
			}
		})
	}
}

// TestNonsense: what a hostile peer may send is refused, and its files are closed.
func TestNonsense(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	for name, send := range map[string]func(c conn) error{
		"no JSON": func(c conn) error { _, err := c.Write([]byte("\x00\xff")); return err },
		"too long": func(c conn) error {
			_ = c.SetWriteBuffer(4 * maxMessage)
			_, err := c.Write(make([]byte, maxMessage+1))
			return err
		},
		"files that nobody asked for": func(c conn) error {
			_, _, err := c.WriteMsgUnix([]byte(`{"kind":"go","body":{}}`), unix.UnixRights(fd, fd), nil)
			return err
		},
		"none where some belong": func(c conn) error {
			data, err := encode(Offer{}, 2)
			if err == nil {
				_, err = c.Write(data)
			}
			if err == nil {
				_, err = c.Write([]byte(`{"kind":"files"}`))
			}
			return err
		},
		"too many": func(c conn) error {
			data, err := encode(Offer{}, 2)
			if err == nil {
				_, _, err = c.WriteMsgUnix(data, unix.UnixRights(fd, fd, fd), nil)
			}
			return err
		},
		"another message between": func(c conn) error {
			data, err := encode(Offer{}, 2)
			if err == nil {
				_, _, err = c.WriteMsgUnix(data, unix.UnixRights(fd), nil)
			}
			if err == nil {
				err = c.send(Go{}, nil)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			before := openFiles(t)
			if err := send(a); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if m, files, err := b.receive(ctx); err == nil || errors.Is(err, io.EOF) || ctx.Err() != nil {
				t.Errorf("taken as %T with %d files (%v)", m, len(files), err)
			}
			if after := openFiles(t); after != before {
				t.Errorf("%d files are open, %d were before", after, before)
			}
		})
	}
}

// TestLastWords: what a peer said is read, also when it ended without reading all
// that it was told.
func TestLastWords(t *testing.T) {
	for _, more := range []bool{false, true} {
		a, b := pair(t)
		if err := a.send(Hello{Protocol: Protocol}, nil); err != nil {
			t.Fatal(err)
		}
		if err := b.send(Refuse{Reason: "no"}, nil); err != nil {
			t.Fatal(err)
		}
		_ = b.Close()
		if more {
			if err := a.send(Flipped{}, nil); !errors.Is(err, io.EOF) {
				t.Errorf("send: %v", err)
			}
		}
		if m, _, err := a.receive(t.Context()); err != nil || m != (Refuse{Reason: "no"}) {
			t.Errorf("%v, %v", m, err)
		}
		if _, _, err := a.receive(t.Context()); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
}

func TestEnds(t *testing.T) {
	a, b := pair(t)
	if !a.open() || !b.open() {
		t.Error("an end is not open")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := a.receive(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// A context that is done does not close it.
	if err := b.send(Done{}, nil); err != nil {
		t.Fatal(err)
	}
	if m, _, err := a.receive(t.Context()); err != nil || m != (Done{}) {
		t.Errorf("%v, %v", m, err)
	}
	_ = b.Close()
	if _, _, err := a.receive(t.Context()); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if a.open() {
		t.Error("it is open after the end of the other one")
	}
	if err := a.checkPeer(); err != nil {
		t.Error(err)
	}
}
