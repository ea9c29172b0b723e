// SPDX-License-Identifier: Apache-2.0

package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"
)

// dynamic is what an ELF file needs from others at its start.
type dynamic struct {
	machine     elf.Machine
	interpreter string   // of a program that is linked dynamically
	libraries   []string // DT_NEEDED
	runpath     []string // DT_RUNPATH and DT_RPATH, with $ORIGIN as it is
}

// errNotELF is found by errors.Is when a file is something else.
var errNotELF = errors.New("not an ELF file")

// readDynamic reads what the ELF file r needs.
func readDynamic(r io.ReaderAt) (*dynamic, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotELF, err)
	}
	d := &dynamic{machine: f.Machine}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(p.Open(), 4096)) // PATH_MAX
		if err != nil {
			return nil, fmt.Errorf("read the interpreter's name: %w", err)
		}
		d.interpreter = strings.TrimRight(string(text), "\x00")
	}
	if d.libraries, err = f.ImportedLibraries(); err != nil {
		return nil, fmt.Errorf("read the libraries' names: %w", err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			return nil, fmt.Errorf("read %v: %w", tag, err)
		}
		for _, p := range paths {
			d.runpath = append(d.runpath, strings.Split(p, ":")...)
		}
	}
	return d, nil
}

// machines are the ELF machines by GOARCH, those that eBPF runs on and Debian
// has.
var machines = map[string]elf.Machine{
	"amd64":   elf.EM_X86_64,
	"arm64":   elf.EM_AARCH64,
	"ppc64le": elf.EM_PPC64,
	"riscv64": elf.EM_RISCV,
	"s390x":   elf.EM_S390,
}
