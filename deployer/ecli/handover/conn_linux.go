// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// filesAPacket is the most that the kernel takes with one packet: SCM_MAX_FD of
// include/net/scm.h, Linux 2.6.38.
const filesAPacket = 253

// A conn carries messages and open files between two instances.
type conn struct{ *net.UnixConn }

// send sends a message with files, which stay open here. The error is io.EOF when
// the peer's end is closed.
func (c conn) send(m Message, files []int) error {
	data, err := encode(m, len(files))
	if err != nil {
		return err
	}
	// Who does not read must not stop this instance.
	if err := c.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return fmt.Errorf("send %s: %w", m.kind(), err)
	}
	for {
		some := files[:min(len(files), filesAPacket)]
		var rights []byte
		if len(some) > 0 {
			rights = unix.UnixRights(some...)
		}
		switch _, _, err := c.WriteMsgUnix(data, rights, nil); {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
			return io.EOF
		case err != nil:
			return fmt.Errorf("send %s: %w", m.kind(), err)
		}
		if files = files[len(some):]; len(files) == 0 {
			return nil
		}
		if data, err = json.Marshal(envelope{Kind: kindFiles}); err != nil {
			return err
		}
	}
}

// kindFiles is the kind of a packet that only carries more files of the message
// before it.
const kindFiles = "files"

// receive returns the next message with its files, which the caller closes. The
// error is io.EOF when the peer's end is closed, and that of ctx when it is done.
func (c conn) receive(ctx context.Context) (_ Message, files []int, err error) {
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = c.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-stopped // else it would end the next read
		}
	}()
	defer func() {
		if err != nil {
			closeFiles(files)
			files = nil
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
			err = context.Cause(ctx)
		case errors.Is(err, unix.ECONNRESET):
			err = io.EOF
		}
	}()
	data, files, err := c.packet(nil)
	if err != nil {
		return nil, files, err
	}
	m, want, err := decode(data)
	if err != nil {
		return nil, files, fmt.Errorf("read a message: %w", err)
	}
	if len(files) < want {
		// The rest was sent with it.
		if err := c.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
			return nil, files, err
		}
	}
	for len(files) < want {
		before := len(files)
		if data, files, err = c.packet(files); err != nil {
			return nil, files, err
		}
		var e envelope
		if err := strict(data, &e); err != nil || e.Kind != kindFiles || len(files) == before {
			return nil, files, fmt.Errorf("read the files of %s: %d of %d came", m.kind(), len(files), want)
		}
	}
	if len(files) != want {
		return nil, files, fmt.Errorf("read %s: %d files came with it, %d belong to it", m.kind(), len(files), want)
	}
	return m, files, nil
}

// packet reads one packet, and adds its files to those that are there.
func (c conn) packet(files []int) ([]byte, []int, error) {
	// One byte more than is allowed shows what is too long.
	data := make([]byte, maxMessage+1)
	oob := make([]byte, unix.CmsgSpace(4*filesAPacket))
	n, oobn, flags, _, err := c.ReadMsgUnix(data, oob)
	if errors.Is(err, unix.ECONNRESET) {
		// The kernel says once that the peer has ended without reading everything.
		// What it said before that is behind it.
		n, oobn, flags, _, err = c.ReadMsgUnix(data, oob)
	}
	if err != nil {
		return nil, files, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, files, fmt.Errorf("read a packet: %w", err)
	}
	for i := range messages {
		more, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, files, fmt.Errorf("read a packet: %w", err)
		}
		files = append(files, more...)
	}
	if n == 0 {
		return nil, files, io.EOF
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n > maxMessage || len(files) > maxFiles {
		return nil, files, fmt.Errorf("read a packet: it is longer than %d bytes, or has too many files", maxMessage)
	}
	return data[:n], files, nil
}

// peerUID returns the user of the process at the other end.
func (c conn) peerUID() (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctlErr != nil {
		return 0, ctlErr
	}
	if err != nil {
		return 0, fmt.Errorf("ask who the peer is: %w", err)
	}
	return cred.Uid, nil
}

// checkPeer refuses a process of another user.
func (c conn) checkPeer() error {
	uid, err := c.peerUID()
	if err != nil {
		return err
	}
	if own := uint32(os.Geteuid()); uid != own {
		return fmt.Errorf("the other instance runs as user %d, this one as %d", uid, own)
	}
	return nil
}

// open reports whether the peer's end is open, and has said nothing that is not
// read.
func (c conn) open() bool {
	_, err := c.peek()
	return errors.Is(err, unix.EAGAIN)
}

// hungUp reports whether the peer's end is closed, and all that it said is read.
func (c conn) hungUp() bool {
	n, err := c.peek()
	return n == 0 && !errors.Is(err, unix.EAGAIN)
}

// peek looks at what is not read yet.
func (c conn) peek() (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	if ctlErr != nil {
		return 0, ctlErr
	}
	return max(n, 0), err
}

func closeFiles(files []int) {
	for _, fd := range files {
		_ = unix.Close(fd)
	}
}
