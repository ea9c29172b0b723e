// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// elfFile makes an ELF file of this machine's architecture that says what d
// says and holds no code.
func elfFile(d dynamic) []byte {
	if d.machine == elf.EM_NONE {
		d.machine = machines[runtime.GOARCH]
	}
	const headerSize, progSize, sectionSize = 64, 56, 64
	strs := []byte{0}
	add := func(s string) uint64 {
		at := uint64(len(strs))
		strs = append(append(strs, s...), 0)
		return at
	}
	var dyn []elf.Dyn64
	for _, l := range d.libraries {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: add(l)})
	}
	for _, p := range d.runpath {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_RUNPATH), Val: add(p)})
	}
	dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_NULL)})
	interp := append([]byte(d.interpreter), 0)

	dynAt := uint64(headerSize + progSize)
	strAt := dynAt + uint64(16*len(dyn))
	interpAt := strAt + uint64(len(strs))
	sectionsAt := interpAt + uint64(len(interp))

	h := elf.Header64{
		Type:      uint16(elf.ET_DYN),
		Machine:   uint16(d.machine),
		Version:   1,
		Ehsize:    headerSize,
		Phoff:     headerSize,
		Phentsize: progSize,
		Phnum:     1,
		Shoff:     sectionsAt,
		Shentsize: sectionSize,
		Shnum:     3,
		Shstrndx:  1,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	prog := elf.Prog64{Type: uint32(elf.PT_NOTE), Off: interpAt}
	if d.interpreter != "" {
		prog.Type, prog.Filesz, prog.Memsz = uint32(elf.PT_INTERP), uint64(len(interp)), uint64(len(interp))
	}
	sections := []elf.Section64{
		{},
		{Type: uint32(elf.SHT_STRTAB), Off: strAt, Size: uint64(len(strs))},
		{Type: uint32(elf.SHT_DYNAMIC), Off: dynAt, Size: uint64(16 * len(dyn)), Link: 1, Entsize: 16},
	}
	var buf bytes.Buffer
	for _, part := range []any{h, prog, dyn, strs, interp, sections} {
		if err := binary.Write(&buf, binary.LittleEndian, part); err != nil {
			panic(err) // a value of no fixed size: a mistake above
		}
	}
	return buf.Bytes()
}

func TestReadDynamic(t *testing.T) {
	for name, want := range map[string]dynamic{
		"static": {machine: elf.EM_AARCH64},
		"program": {
			machine:     elf.EM_X86_64,
			interpreter: "/lib64/ld.so.2",
			libraries:   []string{"liba.so.1", "libb.so.2"},
			runpath:     []string{"$ORIGIN/../lib", "/opt/lib"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := want
			if len(in.runpath) > 0 {
				in.runpath = []string{"$ORIGIN/../lib:/opt/lib"}
			}
			got, err := readDynamic(bytes.NewReader(elfFile(in)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&want, got, cmp.AllowUnexported(dynamic{})); diff != "" {
				t.Errorf("readDynamic differs (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := readDynamic(bytes.NewReader([]byte("#!/bin/sh\n"))); !errors.Is(err, errNotELF) {
		t.Errorf("readDynamic of a script: error %v, want errNotELF", err)
	}
}
