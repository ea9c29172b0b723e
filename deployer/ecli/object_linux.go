// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"debug/elf"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// cookieExtern is a variable that usdt.bpf.h declares and the loader defines:
// whether uprobes have cookies. It is in the section of the kernel's
// configuration, where cilium/ebpf looks for it in vain.
const cookieExtern = "LINUX_HAS_BPF_COOKIE"

// cookieMark stands in the instructions that load the address of cookieExtern,
// until setCookieExtern has replaced them.
const cookieMark = 0x5a9d_5e71_c64b_208f

// loadSpec reads an object as libbpf does where cilium/ebpf does not: functions
// that are hidden are static, and the use of cookieExtern is marked.
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
		return markCookieExtern(object, f, symbols), nil
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

// markCookieExtern returns object with cookieMark for the address of
// cookieExtern, and without the relocations that ask the loader for it.
func markCookieExtern(object []byte, f *elf.File, symbols []elf.Symbol) []byte {
	if !bytes.Contains(object, []byte(cookieExtern)) {
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
			if s := symbols[symbol-1]; s.Name != cookieExtern || s.Section != elf.SHN_UNDEF {
				continue
			}
			f.ByteOrder.PutUint32(code[at+4:], cookieMark&(1<<32-1))
			f.ByteOrder.PutUint32(code[at+12:], cookieMark>>32)
			// Nothing begins in the middle of an instruction of 16 bytes: the
			// relocation is for nothing now.
			f.ByteOrder.PutUint64(relocations, at+8)
		}
	}
	return object
}

// constantMap holds the value of cookieExtern. A data section of that kind is
// frozen before programs are loaded, so that the verifier takes its value for a
// constant and does not look at the way that is not taken.
const constantMap = ".rodata.cookie"

// setCookieExtern gives the extern of usdt.bpf.h its value on this kernel.
func setCookieExtern(spec *ebpf.CollectionSpec) error {
	found := false
	for _, prog := range spec.Programs {
		for i := range prog.Instructions {
			ins := &prog.Instructions[i]
			if !ins.OpCode.IsDWordLoad() || ins.Src != 0 || ins.Constant != cookieMark {
				continue
			}
			found = true
			load := asm.LoadMapValue(ins.Dst, 0, 0).WithReference(constantMap).WithSource(ins.Source())
			if symbol := ins.Symbol(); symbol != "" {
				load = load.WithSymbol(symbol)
			}
			if fn := btf.FuncMetadata(ins); fn != nil {
				load = btf.WithFuncMetadata(load, fn)
			}
			*ins = load
		}
	}
	if !found {
		return nil
	}
	if spec.Maps[constantMap] != nil {
		return fmt.Errorf("the object has a section %s, which this runner needs for itself", constantMap)
	}
	value := []byte{0}
	if hasCookies() {
		value[0] = 1
	}
	spec.Maps[constantMap] = &ebpf.MapSpec{Name: constantMap, Type: ebpf.Array, KeySize: 4, ValueSize: 1, MaxEntries: 1,
		Flags: bpfReadOnlyProg, Contents: []ebpf.MapKV{{Key: uint32(0), Value: value}}}
	return forgetExtern(spec.Types, cookieExtern)
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
