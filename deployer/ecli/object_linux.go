// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// An extern is a variable that a header of libbpf declares and the loader
// defines: whether the kernel has something. It is in the section of the kernel's
// configuration.
type extern struct {
	name  string
	value func() (bool, error)
}

var externs = []extern{
	// Of usdt.bpf.h. cilium/ebpf looks for it in the kernel's configuration.
	{"LINUX_HAS_BPF_COOKIE", func() (bool, error) { return hasCookies(), nil }},
	// Of BPF_KSYSCALL. cilium/ebpf makes a probe to find out, for which tracefs
	// must be writable.
	{"LINUX_HAS_SYSCALL_WRAPPER", func() (bool, error) {
		prefix, err := syscallWrapper()
		return prefix != "", err
	}},
}

// externMark and the index of an extern stand in the instructions that load its
// address, until setExterns has replaced them.
const externMark = 0x5a9d_5e71_c64b_2000

// loadSpec reads an object as libbpf does where cilium/ebpf does not: functions
// that are hidden are static, and the use of externs is marked.
func loadSpec(object []byte) (*ebpf.CollectionSpec, error) {
	hidden := map[string]bool{}
	marked, err := readELF(object, func(f *elf.File) ([]byte, error) {
		symbols, err := f.Symbols()
		if err != nil {
			return nil, fmt.Errorf("read symbols: %w", err)
		}
		for _, s := range symbols {
			if v := elf.ST_VISIBILITY(s.Other); elf.ST_TYPE(s.Info) == elf.STT_FUNC && (v == elf.STV_HIDDEN || v == elf.STV_INTERNAL) {
				hidden[s.Name] = true
			}
		}
		return markExterns(object, f, symbols), nil
	})
	if err != nil {
		return nil, err
	}
	spec, err := manifest.LoadSpec(marked)
	if err != nil {
		return nil, err
	}
	for _, prog := range spec.Programs {
		for i := range prog.Instructions {
			// The verifier checks a global function by itself, without what is
			// known of its arguments where it is called.
			if fn := btf.FuncMetadata(&prog.Instructions[i]); fn != nil && hidden[fn.Name] {
				fn.Linkage = btf.StaticFunc
			}
		}
	}
	return spec, nil
}

func readELF(object []byte, use func(*elf.File) ([]byte, error)) (_ []byte, err error) {
	defer func() {
		// debug/elf is not made for files of strangers.
		if p := recover(); p != nil {
			err = fmt.Errorf("read sections: %v", p)
		}
	}()
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	return use(f)
}

// markExterns returns object with marks for the addresses of externs, and
// without the relocations that ask the loader for them.
func markExterns(object []byte, f *elf.File, symbols []elf.Symbol) []byte {
	if !slices.ContainsFunc(externs, func(e extern) bool { return bytes.Contains(object, []byte(e.name)) }) {
		return object
	}
	object = bytes.Clone(object)
	// The bytes of a section in the object; those of a broken one are none.
	bytesOf := func(s *elf.Section) []byte {
		size := uint64(len(object))
		if s.Offset > size || s.FileSize > size-s.Offset || s.Flags&elf.SHF_COMPRESSED != 0 {
			return nil
		}
		return object[s.Offset:][:s.FileSize]
	}
	for _, section := range f.Sections {
		if section.Type != elf.SHT_REL || int(section.Info) >= len(f.Sections) {
			continue
		}
		// The section .BTF names the variable, too.
		if f.Sections[section.Info].Flags&elf.SHF_EXECINSTR == 0 {
			continue
		}
		code := bytesOf(f.Sections[section.Info])
		// Of struct Elf64_Rel: r_offset, r_info, of 8 bytes each.
		const entry, load = 16, 16
		for relocations := bytesOf(section); len(relocations) >= entry; relocations = relocations[entry:] {
			at := f.ByteOrder.Uint64(relocations)
			symbol := uint64(elf.R_SYM64(f.ByteOrder.Uint64(relocations[8:])))
			if symbol == 0 || symbol > uint64(len(symbols)) || at > uint64(len(code)) || uint64(len(code))-at < load {
				continue
			}
			s := symbols[symbol-1]
			i := slices.IndexFunc(externs, func(e extern) bool { return e.name == s.Name })
			if i < 0 || s.Section != elf.SHN_UNDEF {
				continue
			}
			mark := externMark + uint64(i)
			f.ByteOrder.PutUint32(code[at+4:], uint32(mark))
			f.ByteOrder.PutUint32(code[at+12:], uint32(mark>>32))
			// Nothing begins in the middle of an instruction of 16 bytes: the
			// relocation is for nothing now.
			f.ByteOrder.PutUint64(relocations, at+8)
		}
	}
	return object
}

// constantMap holds the values of externs, a byte each. A data section of that
// kind is frozen before programs are loaded, so that the verifier takes its values
// for constants and does not look at the way that is not taken.
const constantMap = ".rodata.externs"

// setExterns gives the externs that are used their values on this kernel.
func setExterns(spec *ebpf.CollectionSpec) error {
	used := make([]bool, len(externs))
	for _, prog := range spec.Programs {
		for i := range prog.Instructions {
			ins := &prog.Instructions[i]
			at := uint64(ins.Constant) - externMark
			if !ins.OpCode.IsDWordLoad() || ins.Src != 0 || at >= uint64(len(externs)) {
				continue
			}
			used[at] = true
			load := asm.LoadMapValue(ins.Dst, 0, uint32(at)).WithReference(constantMap).WithSource(ins.Source())
			if symbol := ins.Symbol(); symbol != "" {
				load = load.WithSymbol(symbol)
			}
			if fn := btf.FuncMetadata(ins); fn != nil {
				load = btf.WithFuncMetadata(load, fn)
			}
			*ins = load
		}
	}
	if !slices.Contains(used, true) {
		return nil
	}
	if spec.Maps[constantMap] != nil {
		return fmt.Errorf("the object has a section %s, which this runner needs for itself", constantMap)
	}
	values := make([]byte, len(externs))
	for i, e := range externs {
		if !used[i] {
			continue
		}
		value, err := e.value()
		if err != nil {
			return fmt.Errorf("find the value of %s: %w", e.name, err)
		}
		if value {
			values[i] = 1
		}
		if err := forgetExtern(spec.Types, e.name); err != nil {
			return err
		}
	}
	spec.Maps[constantMap] = &ebpf.MapSpec{Name: constantMap, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(values)), MaxEntries: 1,
		Flags: bpfReadOnlyProg, Contents: []ebpf.MapKV{{Key: uint32(0), Value: values}}}
	return nil
}

// bpfReadOnlyProg is BPF_F_RDONLY_PROG of linux/bpf.h.
const bpfReadOnlyProg = 1 << 7

// forgetExtern takes a variable out of the section .kconfig, so that its value
// is not looked for when another one of the section is used.
func forgetExtern(types *btf.Spec, name string) error {
	if types == nil {
		return fmt.Errorf("section %s: the object has no BTF", kconfigSection)
	}
	var section *btf.Datasec
	if err := types.TypeByName(kconfigSection, &section); err != nil {
		return fmt.Errorf("section %s: %w", kconfigSection, err)
	}
	for i, v := range section.Vars {
		if variable, ok := v.Type.(*btf.Var); ok && variable.Name == name {
			section.Vars = append(section.Vars[:i:i], section.Vars[i+1:]...)
			return nil
		}
	}
	return nil
}
