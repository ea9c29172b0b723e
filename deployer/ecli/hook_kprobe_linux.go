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
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"kprobe", "kretprobe"},
		check: func(p *plannedProgram) error {
			_, err := parseKprobe(p)
			return err
		},
		prepare: func(p *plannedProgram, _ *Options) error {
			k, err := parseKprobe(p)
			if err != nil {
				return err
			}
			k.prepare(p)
			return nil
		},
		attach: attachKprobe,
	})
}

// A kprobe is the target of a section, FUNCTION or FUNCTION+OFFSET.
type kprobe struct {
	function string
	offset   uint64
	ret      bool
}

func (k kprobe) String() string {
	if k.offset != 0 {
		return fmt.Sprintf("%s+%#x", k.function, k.offset)
	}
	return k.function
}

// parseKprobe reads the target as libbpf does: the offset is decimal, or hex
// with 0x, or octal with 0.
func parseKprobe(p *plannedProgram) (kprobe, error) {
	k := kprobe{ret: hasSectionPrefix(p.spec, "kret")}
	name := "kprobe"
	if k.ret {
		name = "kretprobe"
	}
	if p.target == "" {
		return k, fmt.Errorf(`it names no function; write SEC("%s/FUNCTION"), such as %[1]s/do_unlinkat`, name)
	}
	function, offset, ok := strings.Cut(p.target, "+")
	if !validFunction(function) {
		return k, fmt.Errorf("%q is no name of a kernel function", function)
	}
	k.function = function
	if ok {
		if k.ret {
			return k, errors.New("a kretprobe has no offset: it is at the function's return")
		}
		var err error
		if k.offset, err = strconv.ParseUint(offset, 0, 63); err != nil {
			return k, fmt.Errorf("the offset %q is no number", offset)
		}
	}
	return k, nil
}

// hasSectionPrefix reports whether the section of p begins with prefix.
func hasSectionPrefix(p *ebpf.ProgramSpec, prefix string) bool {
	return strings.HasPrefix(strings.TrimPrefix(p.SectionName, "?"), prefix)
}

func attachKprobe(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	k, err := parseKprobe(p)
	if err != nil {
		return nil, "", err
	}
	return k.attach(p, prog)
}

// prepare chooses the kind of link, which a program must be loaded for. That is
// a perf event, as with libbpf, but where this process may open none, and the
// kernel has kprobe.multi (Linux 5.18), which needs none.
func (k kprobe) prepare(p *plannedProgram) {
	if k.offset == 0 && !mayOpenPerfEvents() && features.HaveBPFLinkKprobeMulti() == nil {
		p.spec.AttachType = ebpf.AttachTraceKprobeMulti
	}
}

// perfParanoidFile says who may open perf events.
const perfParanoidFile = "/proc/sys/kernel/perf_event_paranoid"

// mayOpenPerfEvents reports whether CAP_PERFMON is enough to open perf events, or
// this process has more. Debian's and Ubuntu's kernels have levels above 2, at
// which it is not.
func mayOpenPerfEvents() bool {
	data, err := os.ReadFile(perfParanoidFile)
	if err != nil {
		return true // the kernel will tell
	}
	level, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return err != nil || level <= 2 || hasCapability(unix.CAP_SYS_ADMIN)
}

const perfAdvice = "This kernel lets only CAP_SYS_ADMIN open perf events, by which tracepoints, perf events and kprobes are attached: sysctl kernel.perf_event_paranoid=2 makes CAP_PERFMON enough. kprobe.multi, raw tracepoints and fentry need none."

// hasCapability reports whether this thread has a capability in effect.
func hasCapability(n int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[n/32].Effective&(1<<(n%32)) != 0
}

func (k kprobe) attach(p *plannedProgram, prog *ebpf.Program) (io.Closer, string, error) {
	multi := p.spec.AttachType == ebpf.AttachTraceKprobeMulti
	if multi && k.offset != 0 {
		// Its other place chose the kind of link for which the program is loaded.
		return nil, "", manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("%s: a program that is also attached to the entry of a function is attached here by kprobe.multi, which takes no offset", k), perfAdvice)
	}
	if !hasKprobes() {
		return nil, "", errNoKprobes
	}
	var l link.Link
	var err error
	switch {
	case multi && k.ret:
		l, err = link.KretprobeMulti(prog, link.KprobeMultiOptions{Symbols: []string{k.function}})
	case multi:
		l, err = link.KprobeMulti(prog, link.KprobeMultiOptions{Symbols: []string{k.function}})
	case k.ret:
		l, err = link.Kretprobe(k.function, prog, nil)
	default:
		l, err = link.Kprobe(k.function, prog, &link.KprobeOptions{Offset: k.offset})
	}
	if err != nil {
		return nil, "", k.explain(err)
	}
	return l, k.String(), nil
}

// errNoKprobes is the error of kernels that are built without.
var errNoKprobes = manifest.WithKind(manifest.KindPrecondition,
	errors.New("this kernel has no kprobes"), "It needs CONFIG_KPROBES and CONFIG_KPROBE_EVENTS.")

// hasKprobes reports whether the kernel has kprobes as perf events (Linux 4.17)
// or in tracefs, which is what older ones have.
func hasKprobes() bool {
	if _, err := os.Stat("/sys/bus/event_source/devices/kprobe"); err == nil {
		return true
	}
	_, err := os.Stat(tracefs() + "/kprobe_events")
	return err == nil
}

// explain says of the kernel's answer what is wrong with the target.
func (k kprobe) explain(err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		advice := "A kprobe needs CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8)."
		if !mayOpenPerfEvents() {
			advice = perfAdvice
		}
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s: %w", k, err), advice)
	}
	found, lookErr := findFunctions(k.function)
	switch {
	case lookErr != nil:
		return fmt.Errorf("%s: %w", k, err)
	case len(found) == 0:
		return errNoFunction(k.function)
	case len(found) > 1:
		return manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("%s: this kernel has %d functions of that name: %w", k, len(found), err),
			fmt.Sprintf(`SEC("kprobe.multi/%s") attaches to them all (Linux 5.18).`, k.function))
	case k.offset != 0 && !errors.Is(err, unix.EBUSY):
		return manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("%s: the kernel takes no probe at that offset: %w", k, err),
			"It must be where an instruction begins, and inside the function; objdump -d of vmlinux shows them.")
	case errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrNotExist):
		return manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("%s: the kernel lets nobody probe that function: %w", k, err),
			"The file /sys/kernel/debug/kprobes/blacklist lists those that it protects.")
	}
	return fmt.Errorf("%s: %w", k, err)
}
