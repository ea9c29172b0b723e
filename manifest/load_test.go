// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"debug/elf"
	"math"
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

// TestLoadSpecOfLargeSections: variables without a value take no room in the file,
// and gigabytes of memory.
func TestLoadSpecOfLargeSections(t *testing.T) {
	p, _ := inspectPackage(t, "data-bss")
	f, err := elf.NewFile(bytes.NewReader(p.Object))
	if err != nil {
		t.Fatal(err)
	}
	header := 0
	for i, s := range f.Sections {
		if s.Type == elf.SHT_NOBITS {
			// Of struct Elf64_Ehdr e_shoff, of struct Elf64_Shdr sh_size.
			header = int(f.ByteOrder.Uint64(p.Object[40:])) + i*64 + 32
		}
	}
	for _, tt := range []struct {
		size    uint64
		refused bool
	}{{maxInflated, false}, {maxInflated + 1, true}, {math.MaxUint32, true}, {math.MaxInt64, true}} {
		f.ByteOrder.PutUint64(p.Object[header:], tt.size)
		_, err := LoadSpec(p.Object)
		if refused := KindOf(err) == KindUnverified && strings.Contains(err.Error(), "section .bss"); refused != tt.refused {
			t.Errorf("%d bytes: %v", tt.size, err)
		}
	}
}
