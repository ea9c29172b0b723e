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
		sections: []string{
			"uprobe", "uretprobe", "uprobe.s", "uretprobe.s",
			"uprobe.multi", "uretprobe.multi", "uprobe.multi.s", "uretprobe.multi.s",
			"uprobe.session", "uprobe.session.s",
		},
		check: func(p *plannedProgram) error {
			_, err := parseUprobe(p)
			return err
		},
		prepare:  prepareUprobe,
		identity: sameBinary,
		attach:   attachUprobe,
	})
}

// A uprobe is the target of a section: PATH:FUNCTION, PATH:FUNCTION+OFFSET or
// PATH:OFFSET.
type uprobe struct {
	binary string // a path, or a name that is looked for
	// function is empty where offset is one in the file. In the sections of
	// several functions * in it stands for any letters and ? for one.
	function string
	offset   uint64
	ret      bool
	several  bool
	session  bool
}

// parseUprobe reads the target as libbpf does: an offset is decimal, or hex
// with 0x, or octal with 0.
func parseUprobe(p *plannedProgram) (uprobe, error) {
	section, _, _ := strings.Cut(strings.TrimPrefix(p.spec.SectionName, "?"), "/")
	u := uprobe{
		ret:     strings.HasPrefix(section, "uretprobe"),
		several: strings.Contains(section, ".multi") || strings.Contains(section, ".session"),
		session: strings.Contains(section, ".session"),
	}
	binary, function, ok := strings.Cut(p.target, ":")
	if binary == "" || !ok || function == "" {
		return u, fmt.Errorf(`it names no function; write SEC("%s/PATH:FUNCTION"), or name it at run time: --attach PROGRAM=PATH:FUNCTION`, section)
	}
	u.binary = binary
	if function[0] >= '0' && function[0] <= '9' {
		var err error
		if u.offset, err = strconv.ParseUint(function, 0, 63); err != nil {
			return u, fmt.Errorf("%q is neither a function nor an offset in the file", function)
		}
		return u, nil
	}
	function, offset, ok := strings.Cut(function, "+")
	u.function = function
	if ok {
		switch {
		case u.ret || u.session:
			return u, fmt.Errorf("a %s has no offset: it is at the function's return", section)
		case u.isPattern():
			return u, fmt.Errorf("an offset is that into one function, and %q may be several", function)
		}
		var err error
		if u.offset, err = strconv.ParseUint(offset, 0, 63); err != nil {
			return u, fmt.Errorf("the offset %q is no number", offset)
		}
	}
	return u, nil
}

func (u *uprobe) isPattern() bool { return u.several && strings.ContainsAny(u.function, "*?") }

func attachUprobe(p *plannedProgram, prog *ebpf.Program, o *Options) (io.Closer, string, error) {
	u, err := parseUprobe(p)
	if err != nil {
		return nil, "", err
	}
	file, path, err := p.openUserTarget(o, u.binary)
	if err != nil {
		return nil, "", manifest.WithKind(manifest.KindPrecondition, err, "")
	}
	defer file.Close()
	places := uprobes{file: file, ret: u.ret, session: u.session, pid: p.pid}
	target := path + ":" + u.function
	switch {
	case u.function == "":
		target += fmt.Sprintf("%#x", u.offset)
		places.offsets, err = []uint64{u.offset}, checkOffset(file, u.offset)
	case u.isPattern():
		if places.offsets, err = functionOffsets(file, u.function); err == nil {
			target += fmt.Sprintf(" (%d functions)", len(places.offsets))
		}
	default:
		var offset uint64
		offset, err = functionOffset(file, u.function)
		places.offsets = []uint64{offset + u.offset}
		if u.offset != 0 {
			target += fmt.Sprintf("+%#x", u.offset)
		}
	}
	if err != nil {
		return nil, "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s: %w", path, err),
			"nm -D --defined-only, or nm, lists the functions of a program; a stripped one keeps only those that it exports.")
	}
	l, err := places.attach(p, prog)
	if err != nil {
		return nil, "", aboutTarget(target, p.pid, err)
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

// aboutTarget says what could not be attached to.
func aboutTarget(target string, pid int, err error) error {
	if pid != 0 && (errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist)) {
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s: %w", target, processGone(pid)), "")
	}
	return fmt.Errorf("%s: %w", ofProcess(target, pid), err)
}
