// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
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
		sections: []string{"uprobe", "uretprobe", "uprobe.s", "uretprobe.s"},
		check: func(p *plannedProgram) error {
			_, err := parseUprobe(p)
			return err
		},
		prepare: prepareUprobe,
		attach:  attachUprobe,
	})
}

// A uprobe is the target of a section, PATH:FUNCTION or PATH:FUNCTION+OFFSET.
type uprobe struct {
	binary   string // a path, or a name that is looked for
	function string
	offset   uint64
	ret      bool
}

// parseUprobe reads the target as libbpf does: the offset is decimal, or hex
// with 0x, or octal with 0.
func parseUprobe(p *plannedProgram) (uprobe, error) {
	u := uprobe{ret: strings.HasPrefix(strings.TrimPrefix(p.spec.SectionName, "?"), "uretprobe")}
	binary, function, ok := strings.Cut(p.target, ":")
	if binary == "" || !ok || function == "" {
		return u, errors.New(`it names no function; write SEC("uprobe/PATH:FUNCTION")`)
	}
	u.binary = binary
	function, offset, ok := strings.Cut(function, "+")
	u.function = function
	if ok {
		if u.ret {
			return u, errors.New("a uretprobe has no offset: it is at the function's return")
		}
		var err error
		if u.offset, err = strconv.ParseUint(offset, 0, 63); err != nil {
			return u, fmt.Errorf("the offset %q is no number", offset)
		}
	}
	return u, nil
}

// prepareUprobe chooses the kind of link, which a program must be loaded for:
// uprobe.multi (Linux 6.6) needs less rights than the perf event before it.
func prepareUprobe(p *plannedProgram, _ *Options) error {
	if features.HaveBPFLinkUprobeMulti() == nil {
		p.spec.AttachType = ebpf.AttachTraceUprobeMulti
	}
	return nil
}

func attachUprobe(p *plannedProgram, prog *ebpf.Program, o *Options) (io.Closer, string, error) {
	u, err := parseUprobe(p)
	if err != nil {
		return nil, "", err
	}
	file, path, err := openTarget(p.userRoot(o), u.binary)
	if err != nil {
		return nil, "", manifest.WithKind(manifest.KindPrecondition, err, "")
	}
	defer file.Close()
	address, err := functionOffset(file, u.function)
	if err != nil {
		return nil, "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s: %w", path, err),
			"nm -D --defined-only, or nm, lists the functions of a program; a stripped one keeps only those that it exports.")
	}
	// The file that was read is the one that is probed, whatever its path
	// leads to by now: the kernel follows this name to the open file.
	exe, err := link.OpenExecutable(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	var l link.Link
	multi := p.spec.AttachType == ebpf.AttachTraceUprobeMulti
	switch {
	case multi && u.ret:
		l, err = exe.UretprobeMulti(nil, prog, &link.UprobeMultiOptions{Addresses: []uint64{address}, PID: uint32(p.pid)})
	case multi:
		l, err = exe.UprobeMulti(nil, prog, &link.UprobeMultiOptions{Addresses: []uint64{address + u.offset}, PID: uint32(p.pid)})
	case u.ret:
		l, err = exe.Uretprobe("", prog, &link.UprobeOptions{Address: address, PID: p.pid})
	default:
		l, err = exe.Uprobe("", prog, &link.UprobeOptions{Address: address, Offset: u.offset, PID: p.pid})
	}
	if err != nil {
		err = fmt.Errorf("%s:%s: %w", path, u.function, err)
		if !multi && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
			return nil, "", manifest.WithKind(manifest.KindPrecondition, err,
				"On kernels before 6.6, which have no uprobe.multi, uprobes need CAP_SYS_ADMIN.")
		}
		return nil, "", err
	}
	target := path + ":" + u.function
	if u.offset != 0 {
		target += fmt.Sprintf("+%#x", u.offset)
	}
	return l, ofProcess(target, p.pid), nil
}

// ofProcess names the process to which a target is confined.
func ofProcess(target string, pid int) string {
	if pid == 0 {
		return target
	}
	return fmt.Sprintf("%s of process %d", target, pid)
}
