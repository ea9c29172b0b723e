// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// counts attaches the probe, makes it fire, and returns the targets that are
// told to users and the number of events, which it waits for until there are so
// many.
func (h *hookTest) counts(t *testing.T, least int) (targets []string, events int) {
	t.Helper()
	var out buffer
	in, err := h.start(t, &out, h.trigger)
	if err != nil {
		if in != nil {
			_ = in.close()
		}
		skipLacking(t, "", err) // the hook's own test says it of the hook
		t.Fatal(err)
	}
	for _, p := range in.reporter.programs {
		targets = append(targets, p.Target)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- in.run(ctx) }()
	lines := func() int { return strings.Count(out.String(), "{\"n\":1}\n") }
	eventually(t, fmt.Sprintf("%d events are printed", least), func() bool { return lines() >= least })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left := kernelIDs(t); len(left) != 0 {
		t.Errorf("this process still holds %v", left)
	}
	return targets, lines()
}

func at(targets ...string) Options {
	var o Options
	for _, target := range targets {
		o.Attach = append(o.Attach, manifest.Attach{Program: "probe", Target: target})
	}
	return o
}

// probedEnv is set in a process that calls probed for each line that it reads,
// to the folder that it takes for its root.
const probedEnv = "EBPM_TEST_PROBED"

// A function that makes room on its stack begins a second time after that, and a
// probe at its begin then fires twice.
//
//go:noinline
//go:nosplit
//go:norace
func probed() int { return len(os.Args) }

func callProbed(in io.Reader, out io.Writer) error {
	if err := unix.Chroot(os.Getenv(probedEnv)); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	fmt.Fprintln(out, "ready")
	for lines.Scan() {
		fmt.Fprintln(out, probed())
	}
	return lines.Err()
}

// probedSymbol is what copyOfTest calls it.
const probedSymbol = "probed"

// A probedProcess calls probed when it is asked to.
type probedProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startProbed(t *testing.T, binary, root string, attr *syscall.SysProcAttr) *probedProcess {
	t.Helper()
	p := &probedProcess{cmd: exec.Command(binary)}
	p.cmd.Env, p.cmd.SysProcAttr, p.cmd.Stderr = append(os.Environ(), probedEnv+"="+root), attr, os.Stderr
	var err, outErr error
	var out io.Reader
	p.in, err = p.cmd.StdinPipe()
	out, outErr = p.cmd.StdoutPipe()
	if err = errors.Join(err, outErr, p.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.in.Close(), p.cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	p.out = bufio.NewReader(out)
	if _, err := p.out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *probedProcess) call() error {
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		return err
	}
	_, err := p.out.ReadString('\n')
	return err
}

func callAll(processes ...*probedProcess) func() error {
	return func() error {
		for _, p := range processes {
			if err := p.call(); err != nil {
				return err
			}
		}
		return nil
	}
}

// copyOfTest is a copy of this program, in a folder that can be a root. Its
// table of symbols has the function, which go test leaves out.
func copyOfTest(t *testing.T) (root string) {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(exe))
	if err != nil {
		t.Fatal(err)
	}
	var address uint64
	offset := offsetInExe(t, uint64(reflect.ValueOf(probed).Pointer()))
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Off <= offset && offset-p.Off < p.Filesz {
			address = offset - p.Off + p.Vaddr
		}
	}
	symbols := uint64(len(exe)+7) &^ 7
	names := "\x00" + probedSymbol + "\x00"
	namesAt := symbols + 2*elf.Sym64Size
	sectionsAt := (namesAt + uint64(len(names)) + 7) &^ 7
	out := bytes.NewBuffer(append(exe, make([]byte, symbols-uint64(len(exe)))...))
	for _, part := range []any{
		elf.Sym64{}, elf.Sym64{Name: 1, Info: byte(elf.STT_FUNC), Shndx: 1, Value: address}, []byte(names),
		make([]byte, sectionsAt-namesAt-uint64(len(names))),
		[]elf.Section64{
			{},
			{Type: uint32(elf.SHT_SYMTAB), Off: symbols, Size: 2 * elf.Sym64Size, Link: 2, Entsize: elf.Sym64Size},
			{Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names))},
		},
	} {
		_ = binary.Write(out, f.ByteOrder, part)
	}
	exe = out.Bytes()
	// e_shoff, e_shnum and e_shstrndx of the header.
	f.ByteOrder.PutUint64(exe[40:], sectionsAt)
	f.ByteOrder.PutUint16(exe[60:], 3)
	f.ByteOrder.PutUint16(exe[62:], 2)
	root = t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "prog"), exe, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// offsetInExe returns where in the file of this program an address is.
func offsetInExe(t *testing.T, address uint64) uint64 {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var first, last, offset uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s %x", &first, &last, &mode, &offset); err == nil && first <= address && address < last {
			return address - first + offset
		}
	}
	t.Fatalf("address %#x is not mapped", address)
	return 0
}

func TestAttachUprobe(t *testing.T) {
	needRoot(t)
	root := copyOfTest(t)
	prog := root + "/prog"
	one, two := startProbed(t, prog, "/", nil), startProbed(t, prog, "/", nil)
	inside := startProbed(t, prog, root, nil)
	pid := func(p *probedProcess) string { return fmt.Sprintf("pid=%d", p.cmd.Process.Pid) }
	of := func(p *probedProcess) string { return fmt.Sprintf(" of process %d", p.cmd.Process.Pid) }
	h := hookTest{typ: ebpf.Kprobe, trigger: callAll(one, two, inside)}
	for _, tt := range []struct {
		name, section string
		attach        []string
		targets       []string
		events        int
	}{
		{"any process", "uprobe", []string{prog + ":" + probedSymbol}, []string{prog + ":" + probedSymbol}, 3},
		{"one process", "uprobe", []string{prog + ":" + probedSymbol + "," + pid(one)}, []string{prog + ":" + probedSymbol + of(one)}, 1},
		{"the section's function", "uprobe/" + prog + ":" + probedSymbol, []string{pid(two)}, []string{prog + ":" + probedSymbol + of(two)}, 1},
		{"two processes", "uprobe/" + prog + ":" + probedSymbol, []string{pid(one), pid(two)},
			[]string{prog + ":" + probedSymbol + of(one), prog + ":" + probedSymbol + of(two)}, 2},
		// The path is one of the root that the process has.
		{"in its root", "uprobe", []string{"/prog:" + probedSymbol + "," + pid(inside)}, []string{"/prog:" + probedSymbol + of(inside)}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.section, h.options = tt.section, at(tt.attach...)
			targets, events := h.counts(t, tt.events)
			if !slices.Equal(targets, tt.targets) || events != tt.events {
				t.Errorf("%d events, attached to %q", events, targets)
			}
		})
	}
	h.section, h.options = "uprobe", at("/prog:"+probedSymbol+","+pid(one))
	if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a path of another root: %v", err)
	}
	h.options = at("/prog:" + probedSymbol + ",container=ffffffffffff")
	if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), "container ffffffffffff: no process here") {
		t.Errorf("no such container: %v", err)
	}
}

// TestAttachContainer: what makes a process one of a container is the name of
// its cgroup.
func TestAttachContainer(t *testing.T) {
	needRoot(t)
	root := copyOfTest(t)
	mount := cgroup2()
	if mount == "" {
		t.Skip("no cgroup2 is mounted")
	}
	id := fmt.Sprintf("%064x", os.Getpid()+0x7e57<<32)
	id = strings.Repeat("e", 48) + id[48:]
	dir := filepath.Join(mount, "cri-containerd-"+id+".scope")
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
	defer cgroup.Close()
	inside := func() *probedProcess {
		return startProbed(t, root+"/prog", root, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())})
	}
	one, two := inside(), inside()
	// It has ended, and whoever started it has not asked for that.
	zombie := exec.Command("/bin/true")
	zombie.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := zombie.Wait(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "it has ended", func() bool {
		_, err := os.Readlink(fmt.Sprintf("/proc/%d/root", zombie.Process.Pid))
		return errors.Is(err, os.ErrNotExist)
	})
	outside := startProbed(t, root+"/prog", "/", nil)
	h := hookTest{section: "uprobe", typ: ebpf.Kprobe, options: at("/prog:" + probedSymbol + ",container=containerd://" + id), trigger: callAll(outside, one, two)}
	targets, events := h.counts(t, 2)
	if events != 2 || len(targets) != 2 || !strings.Contains(targets[0], fmt.Sprint(" of process ", one.cmd.Process.Pid)) {
		t.Errorf("%d events, attached to %q", events, targets)
	}
}

// TestAttachAll: what a container has lost since its processes were listed is
// passed by, and only that.
func TestAttachAll(t *testing.T) {
	of := func(container string, pid int) plannedProgram {
		return plannedProgram{name: "probe", at: manifest.Target{Container: container, PID: pid}}
	}
	refused := errors.New("refused")
	for _, tt := range []struct {
		name     string
		programs []plannedProgram
		errs     []error
		want     error
	}{
		{"one has ended", []plannedProgram{of("c", 1), of("c", 2)}, []error{processGone(1), nil}, nil},
		{"the last one has ended", []plannedProgram{of("c", 1), of("c", 2)}, []error{nil, fmt.Errorf("/prog: %w", processGone(2))}, nil},
		{"all have ended", []plannedProgram{of("c", 1), of("c", 2)}, []error{processGone(1), processGone(2)}, processGone(2)},
		{"all of another container", []plannedProgram{of("c", 1), of("d", 2)}, []error{nil, processGone(2)}, processGone(2)},
		{"named by its number", []plannedProgram{of("", 1), of("", 2)}, []error{processGone(1), nil}, processGone(1)},
		{"another error", []plannedProgram{of("c", 1), of("c", 2)}, []error{refused, nil}, refused},
	} {
		i := 0
		err := attachAll(tt.programs, func(*plannedProgram) error { i++; return tt.errs[i-1] })
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestContainerID(t *testing.T) {
	a, b := "aaaaaaaaaaaa"+strings.Repeat("1", 52), "aaaaaaaaaaaa"+strings.Repeat("2", 52)
	for _, tt := range []struct{ cgroups, prefix, want string }{
		{"0::/kubepods/besteffort/pod12/" + a + "\n", "aaaaaaaaaaaa", a},
		{"0::/../../docker-" + a + ".scope\n", a, a},
		{"5:cpu:/x\n1:name=systemd:/docker/" + b + "\n0::/\n", "aaaaaaaaaaaa2", b},
		{"0::/" + a + "/" + b + "\n", "aaaaaaaaaaaa2", b}, // one inside another
		{"0::/" + a + "\n", "aaaaaaaaaaaa2", ""},
		{"0::/" + a + "1\n", "aaaaaaaaaaaa", ""}, // 65 digits
		{"0::/1" + a + "\n", "aaaaaaaaaaaa", ""},
		{"0::/aaaaaaaaaaaa\n", "aaaaaaaaaaaa", ""},
		{"", "aaaaaaaaaaaa", ""},
	} {
		if got := containerID(tt.cgroups, tt.prefix); got != tt.want {
			t.Errorf("%q in %q: %q", tt.prefix, tt.cgroups, got)
		}
	}
}

func FuzzContainerID(f *testing.F) {
	f.Add("0::/docker-"+strings.Repeat("a", 64)+".scope", "aaaaaaaaaaaa")
	f.Fuzz(func(t *testing.T, cgroups, prefix string) {
		if prefix == "" {
			return
		}
		if id := containerID(cgroups, prefix); id != "" && (len(id) != 64 || !strings.HasPrefix(id, prefix) || !strings.Contains(cgroups, id)) {
			t.Fatalf("%q in %q: %q", prefix, cgroups, id)
		}
	})
}

// addVeth makes a pair of interfaces in the network namespace of this thread and
// sets them up. Without IPv6 nothing is sent that a test does not send.
func addVeth(name, peer string) error {
	before, err := interfacesUp()
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	attr := func(kind uint16, value []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	const (
		vethInfoPeer = 1 // linux/veth.h
		infoKind     = 1 // linux/if_link.h
		infoData     = 2
	)
	link := make([]byte, unix.SizeofIfInfomsg)
	named := attr(unix.IFLA_IFNAME, []byte(name+"\x00"))
	peered := append(slices.Clone(link), attr(unix.IFLA_IFNAME, []byte(peer+"\x00"))...)
	info := slices.Concat(attr(infoKind, []byte("veth")), attr(infoData, attr(vethInfoPeer, peered)))
	body := slices.Concat(link, named, attr(unix.IFLA_LINKINFO, info))
	var msg []byte
	msg = binary.NativeEndian.AppendUint32(msg, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, unix.RTM_NEWLINK)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg = append(append(msg, make([]byte, 8)...), body...)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("answer of %d bytes: %w", n, err)
	}
	if code := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return fmt.Errorf("make %s: %w", name, syscall.Errno(code))
	}
	inet, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(inet)
	up := func(name string) error {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return unix.IoctlIfreq(inet, unix.SIOCSIFFLAGS, req)
	}
	if err := errors.Join(up(name), up(peer)); err != nil {
		return err
	}
	for range 10_000 {
		n, err := interfacesUp()
		if err != nil {
			return err
		}
		if n == before+2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	// An interface is said to be up a moment before it sends: this waits for the
	// lock under which the kernel does both.
	return up(name)
}

// interfacesUp counts the interfaces that can send.
func interfacesUp() (int, error) {
	const iflaOperstate, operUp = 16, 6 // linux/if_link.h, linux/if.h
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	if err != nil {
		return 0, err
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, m := range messages {
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if m.Header.Type != syscall.RTM_NEWLINK || err != nil {
			continue
		}
		for _, a := range attrs {
			if a.Attr.Type == iflaOperstate && len(a.Value) > 0 && a.Value[0] == operUp {
				n++
			}
		}
	}
	return n, nil
}

// sendFrame sends one frame out of an interface.
func sendFrame(name string) error {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := append(bytes.Repeat([]byte{0xff}, 6), make([]byte, 54)...)
	frame[12], frame[13] = 0x88, 0xb5 // for experiments (IEEE 802)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: iface.Index})
}

func TestAttachInterfaces(t *testing.T) {
	needRoot(t)
	enter := func() {
		newNetns(t)
		if err := errors.Join(addVeth("veth0", "veth1"), addVeth("other0", "other1")); err != nil {
			t.Error(err)
		}
	}
	// Each receives what its peer sends; the peers receive nothing that a
	// program is to see.
	trigger := func() error { return errors.Join(sendFrame("veth0"), sendFrame("veth1"), sendFrame("other0")) }
	programs := []hookTest{
		{section: "xdp", typ: ebpf.XDP, attach: ebpf.AttachXDP, returns: 2},
		{section: "tc/ingress", typ: ebpf.SchedCLS, attach: ebpf.AttachTCXIngress, returns: -1},
		{section: "socket", typ: ebpf.SocketFilter, noLink: true},
	}
	for _, tt := range []struct {
		name    string
		options Options
		names   []string
		events  int
	}{
		{"pattern", at("veth*"), []string{"veth0", "veth1"}, 2},
		{"list", at("veth0,other1"), []string{"veth0", "other1"}, 2},
		{"overlap", at("veth1", "veth[01]", "v*"), []string{"veth1", "veth0"}, 2},
		{"interface", Options{Interface: "veth1"}, []string{"veth1"}, 1},
		{"interface pattern", Options{Interface: "veth?"}, []string{"veth0", "veth1"}, 2},
	} {
		for _, h := range programs {
			t.Run(h.section+" "+tt.name, func(t *testing.T) {
				h.options, h.enter, h.trigger = tt.options, enter, trigger
				want, suffix := tt.events, ""
				switch h.section {
				case "socket":
					want = 2 * len(tt.names) // it sees what is sent, too
					if slices.Contains(tt.names, "other1") {
						want--
					}
				case "tc/ingress":
					suffix = " ingress"
				}
				targets, events := h.counts(t, want)
				var names []string
				for _, name := range tt.names {
					names = append(names, name+suffix)
				}
				if !slices.Equal(targets, names) || events != want {
					t.Errorf("%d events, want %d, attached to %q", events, want, targets)
				}
			})
		}
	}
	for target, want := range map[string]string{
		"nothing*":      "there is no network interface here that matches nothing*",
		"veth0,nosuch0": "there is no network interface with the name nosuch0 here",
	} {
		h := programs[0]
		h.options, h.enter = at(target), enter
		if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", target, err)
		}
	}
}

// TestAttachCgroup: the program sees what acts in that cgroup, and nothing else.
func TestAttachCgroup(t *testing.T) {
	needRoot(t)
	_, act := ownCgroup(t)
	root, name := cgroup2(), fmt.Sprintf("ebpm-test-%d", os.Getpid())
	h := hookTest{section: "cgroup/sock_create", typ: ebpf.CGroupSock, attach: ebpf.AttachCGroupInetSockCreate, returns: 1}
	for _, target := range []string{name, "./" + name + "/", root + "/" + name} {
		h.options, h.trigger = at(target), act
		targets, events := h.counts(t, 1)
		if !slices.Equal(targets, []string{root + "/" + name}) {
			t.Errorf("%s: attached to %q", target, targets)
		}
		h.trigger = talkOutside
		if _, outside := h.counts(t, 0); events == 0 || outside != 0 {
			t.Errorf("%s: %d events of the cgroup, %d of others", target, events, outside)
		}
	}
	for target, want := range map[string]string{
		"nosuch":                   "there is none of that path in " + root,
		name + "/cgroup.procs":     "there is none of that path in " + root,
		"/sys/fs/cgroup/../../etc": "there may be no .. in the path of a cgroup",
	} {
		h.options = at(target)
		if err := h.refused(t); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", target, err, want)
		}
	}
}

func talkOutside() error { return talkUDP("127.0.0.1") }

func TestOpenCgroupStaysInside(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := errors.Join(os.MkdirAll(root+"/a/b", 0o755), os.Mkdir(dir+"/outside", 0o755), os.Symlink("../outside", root+"/link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"a/b": root + "/a/b", root + "/a": root + "/a", root: root, ".": root,
		"../outside": "", "link": "", dir + "/outside": "", root + "x": "", root + "/../outside": "", "/": "",
	} {
		f, err := openCgroup(root, path)
		if err == nil {
			if f.Name() != want {
				t.Errorf("%s: opened %s", path, f.Name())
			}
			_ = f.Close()
		} else if want != "" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestAttachPerfEvent(t *testing.T) {
	needRoot(t)
	h := hookTest{section: "perf_event", typ: ebpf.PerfEvent, noLink: true, trigger: func() error { return nil }}
	h.options = at("cpu-clock@199")
	// At the usual frequency these would take minutes.
	targets, _ := h.counts(t, 100)
	if len(targets) != 1 || !strings.HasPrefix(targets[0], "cpu-clock at 199 Hz on ") {
		t.Errorf("attached to %q", targets)
	}
	h.options = at("@99", "page-faults@999", "context-switches")
	targets, _ = h.counts(t, 1)
	if len(targets) != 3 || !strings.Contains(targets[0], " at 99 Hz on ") || !strings.HasPrefix(targets[1], "page-faults at 999 Hz") || !strings.HasPrefix(targets[2], "context-switches at 1 Hz") {
		t.Errorf("attached to %q", targets)
	}
	limit, err := os.ReadFile("/proc/sys/kernel/perf_event_max_sample_rate")
	if err != nil {
		t.Fatal(err)
	}
	if len(strings.TrimSpace(string(limit))) > 6 {
		t.Fatalf("this kernel allows %s samples a second", limit)
	}
	h.options = at("cpu-clock@1000000")
	if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(manifest.AdviceOf(err), "perf_event_max_sample_rate") {
		t.Errorf("got %v", err)
	}
}

// A target takes the place of the section's, of what the verifier knows of it,
// too.
func TestAttachTracepoints(t *testing.T) {
	for _, h := range []hookTest{
		{section: "raw_tp", typ: ebpf.RawTracepoint, options: at("task_rename")},
		{section: "raw_tp/no_such_thing", typ: ebpf.RawTracepoint, options: at("task_rename")},
		{section: "tp/no/such_thing", typ: ebpf.TracePoint, options: at("task:task_rename")},
		{section: "tp_btf/sched_switch", typ: ebpf.Tracing, attach: ebpf.AttachTraceRawTp, to: "sched_switch", options: at("task_rename")},
	} {
		h.trigger = rename
		if targets, events := h.counts(t, 1); events == 0 || len(targets) != 1 || !strings.HasSuffix(targets[0], "task_rename") {
			t.Errorf("%s: %d events, attached to %q", h.section, events, targets)
		}
	}
	h := hookTest{section: "raw_tp", typ: ebpf.RawTracepoint, options: at("task_rename", "sys_enter"), trigger: rename}
	if targets, _ := h.counts(t, 3); !slices.Equal(targets, []string{"task_rename", "sys_enter"}) {
		t.Errorf("attached to %q", targets)
	}
}

// TestAttachKernelFunctions: the function is that of the target, where the
// verifier knows it, too.
func TestAttachKernelFunctions(t *testing.T) {
	for _, h := range []hookTest{
		{section: "kprobe", typ: ebpf.Kprobe, options: at("__set_task_comm")},
		{section: "kretprobe/no_such_function", typ: ebpf.Kprobe, options: at("__set_task_comm")},
		{section: "fentry/no_such_function", typ: ebpf.Tracing, attach: ebpf.AttachTraceFEntry, to: "no_such_function", options: at("__set_task_comm")},
	} {
		t.Run(h.section, func(t *testing.T) {
			h.trigger = rename
			if targets, events := h.counts(t, 1); events == 0 || !slices.Equal(targets, []string{"__set_task_comm"}) {
				t.Errorf("%d events, attached to %q", events, targets)
			}
		})
	}
}

// TestConfined: a program is loaded once for all its places, whatever their order.
func TestConfined(t *testing.T) {
	multi, knows := hasUprobeMulti, multiKnowsProcesses
	hasUprobeMulti, multiKnowsProcesses = func() bool { return true }, func() bool { return false }
	t.Cleanup(func() { hasUprobeMulti, multiKnowsProcesses = multi, knows })
	everywhere, here := manifest.Target{Section: "/prog:a"}, manifest.Target{Section: "/prog:b", PID: os.Getpid()}
	for _, tt := range []struct {
		places []manifest.Target
		want   ebpf.AttachType
	}{
		{[]manifest.Target{everywhere}, ebpf.AttachTraceUprobeMulti},
		{[]manifest.Target{everywhere, here}, ebpf.AttachNone},
		{[]manifest.Target{here, everywhere}, ebpf.AttachNone},
	} {
		meta, spec := probe("uprobe", ebpf.Kprobe)
		programs, err := planPrograms(meta, spec, map[string][]manifest.Target{"probe": tt.places})
		if err != nil {
			t.Fatal(err)
		}
		if err := prepare(&plan{programs: programs}, &Options{}); err != nil {
			t.Fatal(err)
		}
		if got := spec.Programs["probe"].AttachType; got != tt.want {
			t.Errorf("%v: loaded as %s, want %s", tt.places, got, tt.want)
		}
	}
}

// TestKprobeOffsetAndEntry: kprobe.multi would put the probe at the entry.
func TestKprobeOffsetAndEntry(t *testing.T) {
	p := plannedProgram{spec: &ebpf.ProgramSpec{AttachType: ebpf.AttachTraceKprobeMulti}}
	_, _, err := kprobe{function: "f", offset: 4}.attach(&p, nil)
	if err == nil || !strings.Contains(err.Error(), "f+0x4: ") || !strings.Contains(err.Error(), "takes no offset") {
		t.Errorf("got %v", err)
	}
}
