// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"cmp"
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

// samplesPerSecond is how often a program runs on each CPU where the user says
// nothing else, as with upstream.
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

// Two of [manifest.PerfEvents].
const (
	cpuCycles = "cpu-cycles"
	// cpuClock is there without hardware counters, such as in a virtual machine.
	cpuClock = "cpu-clock"
)

func attachPerfEvent(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	data, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, "", fmt.Errorf("list the CPUs: %w", err)
	}
	cpus, err := parseCPUs(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, "", fmt.Errorf("list the CPUs: %w", err)
	}
	name, frequency := cmp.Or(p.at.Event, cpuCycles), cmp.Or(p.at.Frequency, samplesPerSecond)
	events, err := samplePerfEvents(name, frequency, cpus, prog)
	if isNotCounted(err) && p.at.Event == "" {
		name = cpuClock
		events, err = samplePerfEvents(name, frequency, cpus, prog)
	}
	switch {
	case isNotCounted(err):
		return nil, "", manifest.WithKind(manifest.KindPrecondition, err,
			"This machine does not count that event, as most virtual ones count no hardware events; "+cpuClock+" is everywhere.")
	case errors.Is(err, unix.EINVAL):
		return nil, "", manifest.WithKind(manifest.KindPrecondition, err,
			fmt.Sprintf("Is %d Hz more than /proc/sys/kernel/perf_event_max_sample_rate allows?", frequency))
	case err != nil:
		return nil, "", err
	}
	return events, fmt.Sprintf("%s at %d Hz on %d CPUs", name, frequency, len(events)), nil
}

// isNotCounted reports whether the machine lacks the event.
func isNotCounted(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV)
}

// samplePerfEvents runs prog on so many samples a second of each CPU. A CPU that
// went offline meanwhile is passed by.
func samplePerfEvents(name string, frequency int, cpus []int, prog *ebpf.Program) (_ perfEvents, err error) {
	var events perfEvents
	defer func() {
		if err != nil {
			_ = events.Close()
		}
	}()
	event := manifest.PerfEvents[name]
	attr := unix.PerfEventAttr{
		Type: event.Type, Size: unix.PERF_ATTR_SIZE_VER0, Config: event.Config,
		Sample: uint64(frequency), Bits: unix.PerfBitFreq | unix.PerfBitDisabled,
	}
	for _, cpu := range cpus {
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if errors.Is(err, unix.ENODEV) && len(cpus) > 1 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open the perf event %s of CPU %d: %w", name, cpu, err)
		}
		events = append(events, os.NewFile(uintptr(fd), "perf event"))
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, prog.FD()); err != nil {
			return nil, fmt.Errorf("attach to the perf event %s of CPU %d: %w", name, cpu, err)
		}
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
			return nil, fmt.Errorf("enable the perf event %s of CPU %d: %w", name, cpu, err)
		}
	}
	if len(events) == 0 {
		return nil, manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("no CPU has the perf event %s: %w", name, unix.ENODEV), "")
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
