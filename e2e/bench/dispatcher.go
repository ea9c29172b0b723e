// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/deployer/ecli/handover"
)

const (
	rounds   = 11
	testRuns = 200_000
	// batch is how long the events of a measurement take, at most about: less than
	// the turn that a busy machine gives to a thread. Each round has so many.
	batch   = 500 * time.Microsecond
	batches = 40
)

// A costCase is a hook whose event this program can make happen in a loop.
type costCase struct {
	name string
	spec ebpf.ProgramSpec
	// attach attaches a program; nil where the kernel runs it for tests.
	attach func(*ebpf.Program) (io.Closer, error)
	event  func()
}

// probed is what the probe of user space is at.
//
//go:noinline
func probed() int { return len(os.Args) }

func getpgid() { _, _, _ = unix.RawSyscall(unix.SYS_GETPGID, 0, 0, 0) }

func costCases() []costCase {
	return []costCase{
		{name: "xdp", spec: ebpf.ProgramSpec{Type: ebpf.XDP, AttachType: ebpf.AttachXDP}},
		{name: "tc", spec: ebpf.ProgramSpec{Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress}},
		{name: "tp", event: getpgid, spec: ebpf.ProgramSpec{Type: ebpf.TracePoint}, attach: func(p *ebpf.Program) (io.Closer, error) {
			return link.Tracepoint("syscalls", "sys_enter_getpgid", p, nil)
		}},
		{name: "raw_tp", event: getpgid, spec: ebpf.ProgramSpec{Type: ebpf.RawTracepoint}, attach: func(p *ebpf.Program) (io.Closer, error) {
			return link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sys_enter", Program: p})
		}},
		{name: "tp_btf", event: getpgid, spec: ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sys_enter"}, attach: func(p *ebpf.Program) (io.Closer, error) {
			return link.AttachTracing(link.TracingOptions{Program: p})
		}},
		{name: "uprobe", event: func() { probed() }, spec: ebpf.ProgramSpec{Type: ebpf.Kprobe}, attach: func(p *ebpf.Program) (io.Closer, error) {
			offset, err := offsetOf(reflect.ValueOf(probed).Pointer())
			if err != nil {
				return nil, err
			}
			exe, err := link.OpenExecutable("/proc/self/exe")
			if err != nil {
				return nil, err
			}
			return exe.Uprobe("", p, &link.UprobeOptions{Address: offset, PID: os.Getpid()})
		}},
	}
}

// offsetOf returns where in the file of this program a function is.
func offsetOf(pc uintptr) (uint64, error) {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Vaddr <= uint64(pc) && uint64(pc) < p.Vaddr+p.Filesz {
			return uint64(pc) - p.Vaddr + p.Off, nil
		}
	}
	return 0, errors.New("find a function in this program: no segment has it")
}

// dispatcherCost prints how long an event takes with a program that does nothing:
// attached by itself, and behind a dispatcher.
func dispatcherCost(w io.Writer) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fmt.Fprintln(w, "ns an event\tno program\tdirect\tdispatcher\tdifference\t")
	for _, c := range costCases() {
		if err := c.measure(w); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (c *costCase) measure(w io.Writer) error {
	c.spec.Name, c.spec.License = "bench", "GPL"
	c.spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	direct, err := ebpf.NewProgram(&c.spec)
	if err != nil {
		return err
	}
	defer func() { _ = direct.Close() }()
	cell, err := handover.NewCell()
	if err != nil {
		return err
	}
	defer func() { _ = cell.Close() }()
	slots, err := handover.NewSlots()
	if err != nil {
		return err
	}
	defer func() { _ = slots.Close() }()
	dispatcher, err := handover.LoadDispatcher(&c.spec, cell, slots, ebpf.ProgramOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = dispatcher.Close() }()
	if err := slots.Put(0, direct); err != nil {
		return err
	}
	// Interleaved, so that what else the machine does hits all alike; the best is
	// what it takes without that.
	ways := []*ebpf.Program{nil, direct, dispatcher}
	best := make([]float64, len(ways))
	for range rounds {
		for i, p := range ways {
			ns, err := c.once(p)
			if err != nil {
				return err
			}
			if best[i] == 0 || ns < best[i] {
				best[i] = ns
			}
		}
	}
	nothing := "-"
	if c.attach != nil {
		nothing = fmt.Sprintf("%.1f", best[0])
	}
	fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%+.1f\t\n", c.name, nothing, best[1], best[2], best[2]-best[1])
	return nil
}

// once returns the nanoseconds of an event with a program; nil is none.
func (c *costCase) once(p *ebpf.Program) (_ float64, err error) {
	if c.attach == nil {
		if p == nil {
			return 0, nil
		}
		_, d, err := p.Benchmark(make([]byte, 64), testRuns, nil)
		return float64(d.Nanoseconds()), err
	}
	if p != nil {
		l, err := c.attach(p)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
	}
	begin := time.Now()
	c.event()
	calls := min(max(int(batch/max(time.Since(begin), 1)), 50), 2000)
	best := time.Duration(math.MaxInt64)
	for range batches {
		begin := time.Now()
		for range calls {
			c.event()
		}
		best = min(best, time.Since(begin))
	}
	return float64(best.Nanoseconds()) / float64(calls), nil
}
