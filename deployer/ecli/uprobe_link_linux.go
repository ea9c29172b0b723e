// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// Uprobes are places in a file at which a program runs.
type uprobes struct {
	file *os.File
	// offsets are where in the file they are.
	offsets []uint64
	// counters are the offsets of the semaphores, 0 where there is none; nil
	// if none of them has one. cookies are what the program gets; nil is none.
	counters, cookies []uint64
	// ret is true of the return from a function, session of both its entry and
	// its return.
	ret, session bool
	// pid is the process; 0 is every one.
	pid int
}

// attachTraceUprobeSession is BPF_TRACE_UPROBE_SESSION of linux/bpf.h, Linux
// 6.13; cilium/ebpf has no name for it.
const attachTraceUprobeSession ebpf.AttachType = 57

// maxPerfUprobes bounds the probes that are perf events: each takes a file
// descriptor or two, and of these a process has 1024 by default.
const maxPerfUprobes = 256

// hasUprobeMulti reports whether one link can be at several places, Linux 6.6.
// Tests put an older kernel in its place.
var hasUprobeMulti = func() bool { return features.HaveBPFLinkUprobeMulti() == nil }

// prepareUprobe chooses the kind of link, which a program must be loaded for:
// uprobe.multi (Linux 6.6) needs less rights than the perf event before it.
func prepareUprobe(p *plannedProgram, _ *Options) error {
	switch {
	case p.spec.AttachType == attachTraceUprobeSession:
	case hasUprobeMulti() && (!p.confined || multiKnowsProcesses()):
		p.spec.AttachType = ebpf.AttachTraceUprobeMulti
	default:
		p.spec.AttachType = ebpf.AttachNone
	}
	return nil
}

// multiKnowsProcesses reports whether uprobe.multi takes a pid for a process.
// Before Linux 6.10 the program runs in the first thread of it only. The
// kernels with that fault say that there is no process -1; those without it
// that -1 is no pid.
var multiKnowsProcesses = sync.OnceValue(func() bool {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceUprobeMulti, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return false
	}
	defer func() { _ = prog.Close() }()
	exe, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return false
	}
	const noPID = ^uint32(0)
	l, err := exe.UprobeMulti(nil, prog, &link.UprobeMultiOptions{Addresses: []uint64{1}, PID: noPID})
	if err == nil {
		return l.Close() != nil // it took no notice of the pid
	}
	return errors.Is(err, unix.EINVAL)
})

// attach attaches prog to all the places.
func (u *uprobes) attach(p *plannedProgram, prog *ebpf.Program) (io.Closer, error) {
	// The file that was read is the one that is probed, whatever its path
	// leads to by now: the kernel follows this name to the open file.
	path := fmt.Sprintf("/proc/self/fd/%d", u.file.Fd())
	if u.session {
		return u.attachSession(path, prog)
	}
	exe, err := link.OpenExecutable(path)
	if err != nil {
		return nil, err
	}
	if p.spec.AttachType == ebpf.AttachTraceUprobeMulti {
		o := &link.UprobeMultiOptions{Addresses: u.offsets, RefCtrOffsets: u.counters, Cookies: u.cookies, PID: uint32(u.pid)}
		if u.ret {
			return exe.UretprobeMulti(nil, prog, o)
		}
		return exe.UprobeMulti(nil, prog, o)
	}
	return u.attachPerf(exe, prog)
}

// attachPerf attaches as kernels before 6.6 do, one perf event a place.
func (u *uprobes) attachPerf(exe *link.Executable, prog *ebpf.Program) (_ io.Closer, err error) {
	if len(u.offsets) > maxPerfUprobes {
		return nil, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf(
			"%d places: kernels before 6.6, which have no uprobe.multi, are given at most %d", len(u.offsets), maxPerfUprobes), "")
	}
	var all links
	defer func() {
		if err != nil {
			_ = all.Close()
		}
	}()
	for i, offset := range u.offsets {
		o := &link.UprobeOptions{Address: offset, PID: u.pid}
		if u.counters != nil {
			o.RefCtrOffset = u.counters[i]
		}
		if u.cookies != nil {
			o.Cookie = u.cookies[i]
		}
		attach := exe.Uprobe
		if u.ret {
			attach = exe.Uretprobe
		}
		l, err := attach("", prog, o)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return nil, manifest.WithKind(manifest.KindPrecondition, err,
				"On kernels before 6.6, which have no uprobe.multi (before 6.10 for one process alone), uprobes need CAP_SYS_ADMIN.")
		}
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

type links []link.Link

func (l links) Close() error {
	var errs []error
	for _, one := range l {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// attachSession makes the link of a session, which cilium/ebpf does not make.
func (u *uprobes) attachSession(path string, prog *ebpf.Program) (io.Closer, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return nil, err
	}
	const linkCreate = 28 // BPF_LINK_CREATE
	// The part of union bpf_attr for links of several uprobes.
	attr := struct {
		prog, target, attachType, flags  uint32
		path, offsets, counters, cookies uint64
		count, multiFlags, pid, _        uint32
	}{
		prog: uint32(prog.FD()), attachType: uint32(attachTraceUprobeSession),
		path:    uint64(uintptr(unsafe.Pointer(name))),
		offsets: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(u.offsets)))),
		count:   uint32(len(u.offsets)), pid: uint32(u.pid),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, linkCreate, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(name)
	runtime.KeepAlive(u.offsets)
	runtime.KeepAlive(prog)
	switch {
	case errno == unix.EINVAL && olderThan("6.13"):
		return nil, manifest.WithKind(manifest.KindPrecondition, errors.New("this kernel has no uprobe.session, which needs Linux 6.13"), "")
	case errno != 0:
		return nil, fmt.Errorf("create the link: %w", errno)
	}
	return os.NewFile(fd, "uprobe.session"), nil
}
