// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
)

// LoadSpec reads an object for cilium/ebpf. It takes what that library refuses
// and libbpf takes: maps that are declared weak, as those of usdt.bpf.h are.
// Nothing is loaded into the kernel. The error of an object with the section
// .struct_ops, which asks for more than a link can do, is of [KindPrecondition].
func LoadSpec(object []byte) (*ebpf.CollectionSpec, error) {
	object, err := strengthenMaps(object)
	if err != nil {
		return nil, err
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if errors.Is(err, ebpf.ErrNotSupported) && strings.Contains(err.Error(), `section ".struct_ops"`) {
		return nil, WithKind(KindPrecondition,
			errors.New(`a struct in SEC(".struct_ops") stays registered when whoever registered it is killed, and is not run`),
			`Write SEC(".struct_ops.link"), which Linux has since 6.4.`)
	}
	return spec, err
}

// maxInflated is how many bytes an object may have that are not in its file: the
// library makes room for them as soon as it reads it.
const maxInflated = 64 << 20

// checkSizes refuses an object of so many bytes that would take much more memory than
// its file: by variables without a value, by what is compressed, and where sections or
// variables lie over each other, since the library copies each.
func checkSizes(f *elf.File, object uint64) error {
	const advice = "Put large arrays into a map."
	room := object + maxInflated
	for _, s := range f.Sections {
		if s.Size > room {
			return WithKind(KindUnverified, fmt.Errorf("section %s of %d bytes: all together may have %d bytes more than the file", s.Name, s.Size, maxInflated), advice)
		}
		room -= s.Size
	}
	symbols, err := f.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return err
	}
	room = object + maxInflated
	for _, s := range symbols {
		if s.Size > room {
			return WithKind(KindUnverified, fmt.Errorf("symbol %s of %d bytes: all together may have %d bytes more than the file", s.Name, s.Size, maxInflated), advice)
		}
		room -= s.Size
	}
	return nil
}

// strengthenMaps returns object with its weak maps made global, and refuses what
// [checkSizes] does. An object is linked already: of several definitions the one
// that counts is left.
func strengthenMaps(object []byte) (_ []byte, err error) {
	defer func() {
		// debug/elf is not made for files of strangers.
		if p := recover(); p != nil {
			err = fmt.Errorf("read symbols: %v", p)
		}
	}()
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	if err := checkSizes(f, uint64(len(object))); err != nil {
		return nil, err
	}
	table := f.SectionByType(elf.SHT_SYMTAB)
	if f.Class != elf.ELFCLASS64 || table == nil || table.Flags&elf.SHF_COMPRESSED != 0 ||
		table.Offset > uint64(len(object)) || table.FileSize > uint64(len(object))-table.Offset {
		return object, nil // for the library to judge
	}
	var changed []byte
	// Of struct Elf64_Sym: st_info is the 5th byte, st_shndx the 7th and 8th.
	for at := table.Offset; at+elf.Sym64Size <= table.Offset+table.FileSize; at += elf.Sym64Size {
		info, section := object[at+4], int(f.ByteOrder.Uint16(object[at+6:]))
		if elf.ST_BIND(info) != elf.STB_WEAK || section >= len(f.Sections) || !strings.HasPrefix(f.Sections[section].Name, ".maps") {
			continue
		}
		if changed == nil {
			changed = bytes.Clone(object)
		}
		changed[at+4] = elf.ST_INFO(elf.STB_GLOBAL, elf.ST_TYPE(info))
	}
	if changed != nil {
		return changed, nil
	}
	return object, nil
}
