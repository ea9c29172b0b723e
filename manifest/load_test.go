// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"debug/elf"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// TestLoadSpec: what cilium/ebpf reads, stays as it is; weak maps it refuses.
func TestLoadSpec(t *testing.T) {
	strong, _ := inspectPackage(t, "run-probes")
	if same, err := strengthenMaps(strong.Object); err != nil || &same[0] != &strong.Object[0] {
		t.Errorf("an object without weak maps was changed (%v)", err)
	}
	weak, _ := inspectPackage(t, "run-usdt")
	before := bytes.Clone(weak.Object)
	if _, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(weak.Object)); err == nil {
		t.Error("cilium/ebpf reads weak maps: LoadSpec is not needed any more")
	}
	spec, err := LoadSpec(weak.Object)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"__bpf_usdt_specs", "__bpf_usdt_ip_to_spec_id", "events"} {
		if spec.Maps[name] == nil {
			t.Errorf("no map %s", name)
		}
	}
	if !bytes.Equal(weak.Object, before) {
		t.Error("the caller's object was changed")
	}
	for _, cut := range []int{0, 10, 64, len(before) / 2, len(before) - 1} {
		if _, err := LoadSpec(before[:cut]); err == nil {
			t.Errorf("%d of %d bytes were taken", cut, len(before))
		}
	}
}

// TestLoadSpecOfLargeObjects: what takes no room in the file, or the same room several
// times, takes gigabytes of memory.
func TestLoadSpecOfLargeObjects(t *testing.T) {
	p, _ := inspectPackage(t, "data-bss")
	f, err := elf.NewFile(bytes.NewReader(p.Object))
	if err != nil {
		t.Fatal(err)
	}
	// Of struct Elf64_Ehdr e_shoff, of struct Elf64_Shdr sh_offset and sh_size, of
	// struct Elf64_Sym st_size.
	const offset, size = 24, 32
	header := func(name string) int {
		i := slices.IndexFunc(f.Sections, func(s *elf.Section) bool { return s.Name == name })
		return int(f.ByteOrder.Uint64(p.Object[40:])) + i*64
	}
	put := func(object []byte, at int, n uint64) { f.ByteOrder.PutUint64(object[at:], n) }
	symbols := int(f.SectionByType(elf.SHT_SYMTAB).Offset)
	file := uint64(len(p.Object))
	for _, tt := range []struct {
		name    string
		change  func(object []byte)
		refused string
	}{
		{"as it is", func([]byte) {}, ""},
		{"no value", func(o []byte) { put(o, header(".bss")+size, maxInflated) }, ""},
		{"no value, too large", func(o []byte) { put(o, header(".bss")+size, maxInflated+file) }, "section "},
		{"no value, gigabytes", func(o []byte) { put(o, header(".bss")+size, math.MaxUint32) }, "section .bss of 4294967295 bytes"},
		{"sections over each other", func(o []byte) {
			for _, name := range []string{".data", ".bss"} {
				o[header(name)+4] = byte(elf.SHT_PROGBITS)
				put(o, header(name)+offset, 0)
				put(o, header(name)+size, maxInflated)
			}
		}, "section "},
		{"variables over each other", func(o []byte) {
			put(o, header(".bss")+size, maxInflated)
			for i := 1; i <= 2; i++ {
				put(o, symbols+i*elf.Sym64Size+16, maxInflated)
			}
		}, "symbol "},
	} {
		object := bytes.Clone(p.Object)
		tt.change(object)
		_, err := LoadSpec(object)
		if refused := KindOf(err) == KindUnverified; refused != (tt.refused != "") || refused && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.refused)
		}
	}
}
