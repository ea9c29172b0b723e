// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// activityEnv is set in the process that acts in a cgroup.
const activityEnv = "EBPM_TEST_ACTIVITY"

// activity does once what each hook of a cgroup sees.
func activity() error {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		if err := errors.Join(talkTCP(ip), talkUDP(ip)); err != nil {
			return err
		}
	}
	if err := talkUnix(); err != nil {
		return err
	}
	for _, path := range []string{"/dev/null", "/proc/sys/kernel/ostype"} {
		if _, err := os.ReadFile(path); err != nil {
			return err
		}
	}
	return nil
}

// talkTCP makes a connection, and asks and sets an option of it.
func talkTCP(ip string) error {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return err
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		_, getErr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		inner = errors.Join(getErr, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 65536))
	})
	return errors.Join(err, inner)
}

// talkUDP sends a datagram from a socket that is not connected, and reads it.
func talkUDP(ip string) error {
	to, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return err
	}
	defer to.Close()
	from, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := from.WriteTo([]byte("ping"), to.LocalAddr()); err != nil {
		return err
	}
	_, _, err = to.ReadFrom(make([]byte, 8))
	return err
}

// talkUnix makes a connection, and sends a datagram from a socket that is not
// connected, between abstract unix sockets.
func talkUnix() error {
	l, err := net.Listen("unix", "@stream")
	if err != nil {
		return err
	}
	defer l.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		_, peerErr := unix.Getpeername(int(fd))
		_, ownErr := unix.Getsockname(int(fd))
		inner = errors.Join(peerErr, ownErr)
	})
	if err := errors.Join(err, inner); err != nil {
		return err
	}
	to, err := net.ListenPacket("unixgram", "@to")
	if err != nil {
		return err
	}
	defer to.Close()
	from, err := net.ListenPacket("unixgram", "@from")
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := from.WriteTo([]byte("ping"), to.LocalAddr()); err != nil {
		return err
	}
	_, _, err = to.ReadFrom(make([]byte, 8))
	return err
}

// ownCgroup makes a cgroup, and returns what brings a thread into namespaces
// in which it is the root, read-only as in a Pod, and what acts in it. The
// machine's other processes see nothing of the test.
func ownCgroup(t *testing.T) (enter func(), act func() error) {
	t.Helper()
	root := cgroup2()
	if root == "" {
		t.Skip("no cgroup2 is mounted")
	}
	dir := filepath.Join(root, fmt.Sprintf("ebpm-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	cgroup, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cgroup.Close() })
	enter = func() {
		newNetns(t)
		if err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount(dir, root, "", unix.MS_BIND, ""),
			unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
		); err != nil {
			t.Error(err)
		}
	}
	return enter, func() error {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), activityEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}

func TestCgroup(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		section string
		typ     ebpf.ProgramType
		attach  ebpf.AttachType
	}{
		{"cgroup_skb/ingress", ebpf.CGroupSKB, ebpf.AttachCGroupInetIngress},
		{"cgroup_skb/egress", ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress},
		{"cgroup/sock", ebpf.CGroupSock, ebpf.AttachCGroupInetSockCreate},
		{"cgroup/sock_create", ebpf.CGroupSock, ebpf.AttachCGroupInetSockCreate},
		{"cgroup/sock_release", ebpf.CGroupSock, ebpf.AttachCgroupInetSockRelease},
		{"cgroup/post_bind4", ebpf.CGroupSock, ebpf.AttachCGroupInet4PostBind},
		{"cgroup/post_bind6", ebpf.CGroupSock, ebpf.AttachCGroupInet6PostBind},
		{"cgroup/bind4", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Bind},
		{"cgroup/bind6", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Bind},
		{"cgroup/connect4", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect},
		{"cgroup/connect6", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Connect},
		{"cgroup/sendmsg4", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Sendmsg},
		{"cgroup/sendmsg6", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP6Sendmsg},
		{"cgroup/recvmsg4", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Recvmsg},
		{"cgroup/recvmsg6", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP6Recvmsg},
		{"cgroup/getpeername4", ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetPeername},
		{"cgroup/getpeername6", ebpf.CGroupSockAddr, ebpf.AttachCgroupInet6GetPeername},
		{"cgroup/getsockname4", ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetSockname},
		{"cgroup/getsockname6", ebpf.CGroupSockAddr, ebpf.AttachCgroupInet6GetSockname},
		{"cgroup/connect_unix", ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixConnect},
		{"cgroup/sendmsg_unix", ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixSendmsg},
		{"cgroup/recvmsg_unix", ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixRecvmsg},
		{"cgroup/getpeername_unix", ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixGetpeername},
		{"cgroup/getsockname_unix", ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixGetsockname},
		{"cgroup/getsockopt", ebpf.CGroupSockopt, ebpf.AttachCGroupGetsockopt},
		{"cgroup/setsockopt", ebpf.CGroupSockopt, ebpf.AttachCGroupSetsockopt},
		{"cgroup/sysctl", ebpf.CGroupSysctl, ebpf.AttachCGroupSysctl},
		{"cgroup/dev", ebpf.CGroupDevice, ebpf.AttachCGroupDevice},
		{"sockops", ebpf.SockOps, ebpf.AttachCGroupSockOps},
	} {
		t.Run(tt.section, func(t *testing.T) {
			enter, act := ownCgroup(t)
			h := hookTest{section: tt.section, typ: tt.typ, attach: tt.attach, returns: 1, enter: enter, trigger: act}
			if target := h.fires(t); target != cgroup2() {
				t.Errorf("attached to %s", target)
			}
		})
	}
	for section, want := range map[string]string{
		"cgroup/skb":  "it names no direction",
		"cgroup/nope": "there is no such hook of a cgroup",
	} {
		h := hookTest{section: section}
		if section == "cgroup/skb" {
			h.typ = ebpf.CGroupSKB
		}
		if err := h.refused(t); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", section, err)
		}
	}
}

// TestNoCgroup hides cgroup2.
func TestNoCgroup(t *testing.T) {
	needRoot(t)
	h := hookTest{section: "cgroup/dev", typ: ebpf.CGroupDevice, attach: ebpf.AttachCGroupDevice, returns: 1, enter: func() {
		if err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("none", "/sys/fs/cgroup", "tmpfs", 0, ""),
		); err != nil {
			t.Error(err)
		}
	}}
	if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), "no cgroup2 file system is mounted at /sys/fs/cgroup or") {
		t.Errorf("got %v", err)
	}
}
