// SPDX-License-Identifier: Apache-2.0

package examples

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

func openFile(t *testing.T) action {
	file := filepath.Join(t.TempDir(), "mark")
	return action{
		do: func() error {
			if _, err := os.Open(file); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("open a file that is not there: %w", err)
			}
			return nil
		},
		want: []string{` -2 .* ` + file + `$`},
	}
}

func typeIntoBash(t *testing.T) action {
	return action{
		do: func() error {
			terminal, err := startOnTerminal(exec.CommandContext(t.Context(), "/bin/bash", "--norc", "-i"))
			if err != nil {
				return err
			}
			defer terminal.Close()
			if _, err := io.WriteString(terminal, "echo typed by a test\nexit\n"); err != nil {
				return err
			}
			// Reading fails when bash has ended and with it the other side.
			_, _ = io.Copy(io.Discard, terminal)
			return nil
		},
		want: []string{` echo typed by a test$`},
	}
}

// startOnTerminal starts a command on a terminal of its own, and returns the
// other side of it.
func startOnTerminal(cmd *exec.Cmd) (_ *os.File, err error) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			terminal.Close()
		}
	}()
	fd := int(terminal.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("name the terminal: %w", err)
	}
	side, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer side.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, side, side
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = cmd.Wait() }()
	return terminal, nil
}

func runProgram(*testing.T) action {
	return action{
		do: func() error { return exec.Command("sh", "-c", "exit 0", "an argument").Run() },
		want: []string{
			`exec +\d+ +` + strconv.Itoa(os.Getpid()) + ` +0 +0 +0 +0 +sh +sh -c exit 0 an argument$`,
			`exit +\d+ +` + strconv.Itoa(os.Getpid()) + ` +0 +0 +0 +\d+ +sh +$`,
		},
	}
}

func runProgramThatFails(*testing.T) action {
	parent := strconv.Itoa(os.Getpid())
	return action{
		args: []string{"--failed"},
		do: func() error {
			for _, script := range []string{"exit 3", "kill -TERM $$"} {
				var exit *exec.ExitError
				if err := exec.Command("sh", "-c", script).Run(); !errors.As(err, &exit) {
					return fmt.Errorf("sh -c %q: %w", script, err)
				}
			}
			return nil
		},
		want: []string{
			`exit +\d+ +` + parent + ` +0 +3 +0 +\d+ +sh +$`,
			`exit +\d+ +` + parent + ` +0 +0 +15 +\d+ +sh +$`,
		},
	}
}

func connectTCP(t *testing.T) action {
	a := action{args: []string{"--port"}}
	var listeners []net.Listener
	port := "0"
	for address, pattern := range map[string]string{"127.0.0.1": `127\.0\.0\.1`, "::1": "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		listeners = append(listeners, l)
		_, port, _ = net.SplitHostPort(l.Addr().String())
		a.want = append(a.want,
			fmt.Sprintf(` %d +\S+ +\d+ +SYN_SENT +ESTABLISHED +%s +\d+ +%[2]s +%s$`, os.Getpid(), pattern, port),
			fmt.Sprintf(` 0 +\d+ +SYN_RECV +ESTABLISHED +%s +%s +%[1]s +\d+$`, pattern, port))
	}
	a.args = append(a.args, port)
	a.do = func() error {
		for _, l := range listeners {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			defer conn.Close()
		}
		return nil
	}
	return a
}

func sendSYN(*testing.T) action {
	return action{
		do: func() error {
			_, err := net.Dial("tcp", "127.0.0.1:9")
			if !errors.Is(err, unix.ECONNREFUSED) {
				return fmt.Errorf("connect to a port on which nobody listens: %w", err)
			}
			return nil
		},
		want: []string{` 127\.0\.0\.1 127\.0\.0\.1 \d+ +9$`},
	}
}

func wakeUp(t *testing.T) action {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(os.Getpid())
	return action{
		args: []string{"--pid", pid, "--by-process"},
		do: func() error {
			for range 10 {
				time.Sleep(time.Millisecond)
			}
			return nil
		},
		want: []string{`^key =  ` + pid + `\ncomm = ` + strings.TrimSpace(string(comm)) + `\n\n +usecs +: count +distribution\n( +\d+ -> \d+ +: \d+ +\|\**.*\|\n)+$`},
	}
}

func useCPU(t *testing.T) action {
	cmd := exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of=/dev/null", "bs=1M")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	pid := strconv.Itoa(cmd.Process.Pid)
	return action{
		args: []string{"--pid", pid},
		do:   func() error { return nil },
		want: []string{`^COMM: dd \(pid=` + pid + `\) @ CPU \d+\nKernel:\n( .*\n)* +\d+ \[<[0-9a-f]{16}>\] vfs_read\+0x.*\n( .*\n)*Userspace:\n +0 \[<[0-9a-f]{16}>\] \w*read\w*\+0x`},
	}
}

func sendFromCgroup(t *testing.T) action {
	dir := filepath.Join(cgroup2(), fmt.Sprintf("ebpm-test-%d", os.Getpid()))
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
	t.Cleanup(func() { cgroup.Close() })
	var stat unix.Stat_t
	if err := unix.Fstat(int(cgroup.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return action{
		do: func() error {
			cmd := exec.Command("bash", "-c", "echo hi > /dev/udp/127.0.0.1/9; echo hi > /dev/udp/127.0.0.1/9")
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
			return cmd.Run()
		},
		// Each packet has 20 bytes of IP, 8 of UDP and the 3 of bash.
		want: []string{fmt.Sprintf(`\{"cgroup":%d\} \{.*"sent_bytes":62,"sent_packets":2\}$`, stat.Ino)},
	}
}

func loadAllowed(*testing.T) action {
	return action{
		do:   loadProgram,
		want: []string{fmt.Sprintf(` %d +0 +\S+ +false +looked_at +BPF_PROG_TYPE_SOCKET_FILTER\(1\)$`, os.Getpid())},
	}
}

func loadDenied(*testing.T) action {
	return action{
		args: []string{"--deny"},
		do: func() error {
			if err := loadProgram(); !errors.Is(err, unix.EPERM) {
				return fmt.Errorf("load a program that is to be refused: %w", err)
			}
			return nil
		},
		want: []string{fmt.Sprintf(` %d +0 +\S+ +true +looked_at +BPF_PROG_TYPE_SOCKET_FILTER\(1\)$`, os.Getpid())},
	}
}

func loadProgram() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "looked_at", Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	return p.Close()
}
