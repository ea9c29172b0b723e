// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"perf_event"},
		check: func(p *plannedProgram) error {
			if p.target != "" {
				return errors.New(`a perf_event has no target; write SEC("perf_event")`)
			}
			return nil
		},
		attach: attachPerfEvent,
	})
}

// samplesPerSecond is how often a program runs on each CPU, as with upstream.
const samplesPerSecond = 1

// perfEvents are the open events of one program, which holds it as long as
// they are open.
type perfEvents []*os.File

func (e perfEvents) Close() error {
	var errs []error
	for _, f := range e {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// A sampler is an event that the kernel can sample.
type sampler struct {
	name   string
	typ    uint32
	config uint64
}

var (
	cpuCycles = sampler{"cpu-cycles", unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CPU_CYCLES}
	// cpuClock is there without hardware counters, such as in a virtual machine.
	cpuClock = sampler{"cpu-clock", unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_CPU_CLOCK}
)

func attachPerfEvent(_ *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	data, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, "", fmt.Errorf("list the CPUs: %w", err)
	}
	cpus, err := parseCPUs(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, "", fmt.Errorf("list the CPUs: %w", err)
	}
	events, err := samplePerfEvents(cpuCycles, cpus, prog)
	s := cpuCycles
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) {
		s = cpuClock
		events, err = samplePerfEvents(cpuClock, cpus, prog)
	}
	if err != nil {
		return nil, "", err
	}
	return events, fmt.Sprintf("%s at %d Hz on %d CPUs", s.name, samplesPerSecond, len(events)), nil
}

// samplePerfEvents runs prog on samples of each CPU. A CPU that went offline
// meanwhile is passed by.
func samplePerfEvents(s sampler, cpus []int, prog *ebpf.Program) (_ perfEvents, err error) {
	var events perfEvents
	defer func() {
		if err != nil {
			_ = events.Close()
		}
	}()
	attr := unix.PerfEventAttr{
		Type: s.typ, Size: unix.PERF_ATTR_SIZE_VER0, Config: s.config,
		Sample: samplesPerSecond, Bits: unix.PerfBitFreq | unix.PerfBitDisabled,
	}
	for _, cpu := range cpus {
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if errors.Is(err, unix.ENODEV) && len(cpus) > 1 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open the perf event %s of CPU %d: %w", s.name, cpu, err)
		}
		events = append(events, os.NewFile(uintptr(fd), "perf event"))
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, prog.FD()); err != nil {
			return nil, fmt.Errorf("attach to the perf event %s of CPU %d: %w", s.name, cpu, err)
		}
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
			return nil, fmt.Errorf("enable the perf event %s of CPU %d: %w", s.name, cpu, err)
		}
	}
	if len(events) == 0 {
		return nil, manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("no CPU has the perf event %s: %w", s.name, unix.ENODEV), "")
	}
	return events, nil
}

// maxCPUs is more than any kernel is built for.
const maxCPUs = 1 << 16

// parseCPUs reads a list of the kernel, such as "0-3,8".
func parseCPUs(list string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil || to < from || len(cpus)+int(to-from) >= maxCPUs {
			return nil, fmt.Errorf("%q is no list of CPUs", list)
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, int(cpu))
		}
	}
	return cpus, nil
}
