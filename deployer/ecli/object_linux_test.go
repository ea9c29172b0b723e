// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// TestLoadSpec: the functions of usdt.bpf.h are static, and what asks for
// cookies reads the runner's own map.
func TestLoadSpec(t *testing.T) {
	object := usdtPackage(t).Object
	before := bytes.Clone(object)
	for _, cookies := range []bool{true, false} {
		spec, err := loadSpec(object)
		if err != nil {
			t.Fatal(err)
		}
		if !cookies {
			withoutCookies(t)
		}
		if err := setExterns(spec); err != nil {
			t.Fatal(err)
		}
		static, loads := 0, 0
		for _, ins := range spec.Programs["on_twice"].Instructions {
			if fn := btf.FuncMetadata(&ins); fn != nil && fn.Linkage == btf.StaticFunc {
				static++
			}
			if ins.OpCode.IsDWordLoad() && ins.Reference() == constantMap && ins.Src == asm.PseudoMapValue {
				loads++
			}
			if ins.OpCode.IsDWordLoad() && uint64(ins.Constant)-externMark < uint64(len(externs)) {
				t.Errorf("a mark is left: %v", ins)
			}
		}
		if static != 2 || loads != 2 { // of bpf_usdt_arg_cnt and bpf_usdt_arg
			t.Errorf("%d static functions, %d loads", static, loads)
		}
		value, ok := spec.Maps[constantMap].Contents[0].Value.([]byte)
		if !ok || len(value) != len(externs) || (value[0] == 1) != (cookies && hasCookies()) {
			t.Errorf("cookies %v: the map holds %v", cookies, value)
		}
		var section *btf.Datasec
		if err := spec.Types.TypeByName(kconfigSection, &section); err != nil || len(section.Vars) != 0 {
			t.Errorf("section %s: %v, %v", kconfigSection, section, err)
		}
	}
	if !bytes.Equal(object, before) {
		t.Error("the package's object was changed")
	}
	for _, name := range []string{"probes/package", "globals/package"} {
		pkg, _ := readPackage(t, name)
		spec, err := loadSpec(pkg.Object)
		if err != nil {
			t.Fatal(err)
		}
		maps := len(spec.Maps)
		if err := setExterns(spec); err != nil || len(spec.Maps) != maps {
			t.Errorf("%s: %v, %d maps", name, err, len(spec.Maps))
		}
	}
}

// TestSyscallWrapper: what BPF_KSYSCALL asks for is read from kallsyms, and the
// value is found where no program uses it as a variable of the configuration.
func TestSyscallWrapper(t *testing.T) {
	pkg, _ := readPackage(t, "../tracing/ksyscall")
	spec, err := loadSpec(pkg.Object)
	if err != nil {
		t.Fatal(err)
	}
	if err := setExterns(spec); err != nil {
		t.Fatal(err)
	}
	prefix, err := syscallWrapper()
	if err != nil {
		t.Fatal(err)
	}
	value, ok := spec.Maps[constantMap].Contents[0].Value.([]byte)
	if !ok || len(value) != 2 || value[0] != 0 || (value[1] == 1) != (prefix != "") {
		t.Errorf("prefix %q: the map holds %v", prefix, value)
	}
	var section *btf.Datasec
	if err := spec.Types.TypeByName(kconfigSection, &section); err != nil || len(section.Vars) != 0 {
		t.Errorf("section %s: %v, %v", kconfigSection, section, err)
	}
}

func FuzzLoadSpec(f *testing.F) {
	f.Add(usdtPackage(f).Object)
	pkg, _ := readPackage(f, "probes/package")
	f.Add(pkg.Object)
	f.Fuzz(func(t *testing.T, object []byte) {
		spec, err := loadSpec(object)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without a word")
			}
			return
		}
		if spec.Types != nil {
			_ = setExterns(spec)
		}
	})
}
