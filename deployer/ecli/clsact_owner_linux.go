// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Before TCX (Linux 6.6), tc programs are filters of the queueing discipline
// clsact. Such a filter belongs to the interface, not to the process that made
// it, and outlives a runner that was killed. So each of ours carries in its name
// an owner, whose life anybody can judge: the owner holds an abstract unix
// socket of that name as long as it lives. Those sockets are of the network
// namespace, as the filters are, so that runners in Pods, which do not see each
// other's processes, see each other's life; the kernel closes them with the
// process, and no number is ever used twice, as process ids are.

// maxFilterName is what the kernel keeps of a filter's name
// (CLS_BPF_NAME_LEN of net/sched/cls_bpf.c, with the NUL).
const maxFilterName = 255

// A filterName is the name of a filter of ours.
type filterName struct {
	// token is the owner, an unforeseeable number in hex.
	token string
	// pid is the owner's process id in its own namespace, for people.
	pid int
	// madeQdisc is true when the filter's queueing discipline is ours: made by
	// its owner, or by an owner before it.
	madeQdisc bool
	program   string
}

const (
	filterPrefix = "ebpm"
	ownQdisc     = "own"
	otherQdisc   = "other"
)

func (n filterName) String() string {
	qdisc := otherQdisc
	if n.madeQdisc {
		qdisc = ownQdisc
	}
	s := fmt.Sprintf("%s:%s:%d:%s:%s", filterPrefix, n.token, n.pid, qdisc, n.program)
	return s[:min(len(s), maxFilterName)]
}

// parseFilterName reads the name of a filter; ok is false for a stranger's.
func parseFilterName(s string) (_ filterName, ok bool) {
	parts := strings.SplitN(s, ":", 5)
	if len(parts) != 5 || parts[0] != filterPrefix || parts[3] != ownQdisc && parts[3] != otherQdisc {
		return filterName{}, false
	}
	if token, err := hex.DecodeString(parts[1]); err != nil || len(token) != tokenSize || strings.ToLower(parts[1]) != parts[1] {
		return filterName{}, false
	}
	pid, err := strconv.ParseUint(parts[2], 10, 31)
	if err != nil {
		return filterName{}, false
	}
	return filterName{token: parts[1], pid: int(pid), madeQdisc: parts[3] == ownQdisc, program: parts[4]}, true
}

const tokenSize = 16

// An abstractSocket is a name of this network namespace that one process has at
// a time.
type abstractSocket struct{ fd int }

// newAbstractSocket returns one without a name, in the namespace of this thread.
func newAbstractSocket() (*abstractSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a unix socket: %w", err)
	}
	return &abstractSocket{fd}, nil
}

// take takes the name. It is EADDRINUSE when another process has it.
func (s *abstractSocket) take(name string) error {
	return unix.Bind(s.fd, &unix.SockaddrUnix{Name: "@" + name})
}

func (s *abstractSocket) Close() { _ = unix.Close(s.fd) }

func ownerSocket(token string) string { return "ebpm/tc/owner/" + token }

// ownerLives reports whether the owner of a filter of this thread's network
// namespace is alive, or may be.
func ownerLives(token string) bool {
	s, err := newAbstractSocket()
	if err != nil {
		return true
	}
	defer s.Close()
	return s.take(ownerSocket(token)) != nil
}

// lockClsact makes this process the only runner that adds filters to an
// interface or takes its queueing discipline away, so that none is taken away
// with another's new filter on it. It uses s up: close it to unlock. Whoever
// holds the lock does so for milliseconds; a process that holds it longer is
// none of ours and is not waited for: then locked is false.
func lockClsact(s *abstractSocket, ifindex int) (locked bool, err error) {
	name := fmt.Sprintf("ebpm/tc/lock/%d", ifindex)
	for end := time.Now().Add(clsactLockWait); ; time.Sleep(time.Millisecond) {
		err := s.take(name)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return false, fmt.Errorf("lock the queueing discipline: %w", err)
		}
		if time.Now().After(end) {
			return false, nil
		}
	}
}

const clsactLockWait = 2 * time.Second
