// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"

	"github.com/ebpm/ebpm/manifest"
)

// Names of usdt.bpf.h, which is part of the package's object.
const (
	usdtSpecsMap     = "__bpf_usdt_specs"
	usdtAddressesMap = "__bpf_usdt_ip_to_spec_id"
)

// usdtSpecs are the maps in which usdt.bpf.h looks up where the arguments of a
// probe are. All USDT programs of a package share them.
type usdtSpecs struct {
	layout    usdtLayout
	specs     *ebpf.Map // by number, struct __bpf_usdt_spec
	addresses *ebpf.Map // from instruction pointers to numbers, for kernels without cookies
	// ids are the numbers of the specs that are in the map, by their bytes.
	ids map[string]uint32
	// cookies is true where the kernel hands a number to the program whenever
	// the probe is hit.
	cookies bool
}

// newUSDTSpecs returns nil for a package without usdt.bpf.h.
func newUSDTSpecs(spec *ebpf.CollectionSpec, coll *ebpf.Collection) (*usdtSpecs, error) {
	m := spec.Maps[usdtSpecsMap]
	if m == nil || coll.Maps[usdtSpecsMap] == nil {
		return nil, nil
	}
	layout, err := newUSDTLayout(m.Value)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", usdtSpecsMap, err)
	}
	if layout.size != m.ValueSize {
		return nil, fmt.Errorf("map %s: its values have %d bytes and their type %d", usdtSpecsMap, m.ValueSize, layout.size)
	}
	return &usdtSpecs{layout: layout, specs: coll.Maps[usdtSpecsMap], addresses: coll.Maps[usdtAddressesMap],
		ids: map[string]uint32{}, cookies: hasCookies()}, nil
}

// hasCookies reports whether a uprobe can have a cookie, Linux 5.15. Tests put
// an older kernel in its place.
var hasCookies = func() bool { return features.HaveProgramHelper(ebpf.Kprobe, asm.FnGetAttachCookie) == nil }

// add puts the arguments of one place into the map, and returns their number.
func (s *usdtSpecs) add(args []usdtArg) (uint32, error) {
	value, err := s.layout.encode(args)
	if err != nil {
		return 0, err
	}
	if id, ok := s.ids[string(value)]; ok {
		return id, nil
	}
	id := uint32(len(s.ids))
	if id >= s.specs.MaxEntries() {
		return 0, manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("the package's USDT probes keep their arguments in more than %d ways", s.specs.MaxEntries()),
			"Define BPF_USDT_MAX_SPEC_CNT as a greater number before #include <bpf/usdt.bpf.h>, and build the package again.")
	}
	if err := s.specs.Put(id, value); err != nil {
		return 0, fmt.Errorf("map %s: %w", usdtSpecsMap, err)
	}
	s.ids[string(value)] = id
	return id, nil
}

// addAddress tells programs on kernels without cookies which spec belongs to
// an instruction.
func (s *usdtSpecs) addAddress(address uint64, id uint32) error {
	if s.addresses == nil {
		return fmt.Errorf("the object has no map %s", usdtAddressesMap)
	}
	if err := s.addresses.Put(address, id); err != nil {
		return fmt.Errorf("map %s: %w", usdtAddressesMap, err)
	}
	return nil
}

// A usdtLayout is where the members of struct __bpf_usdt_spec are. They moved
// in libbpf 1.7 (an argument takes 24 bytes where it took 16), and the object
// is as old as the compiler that made it.
type usdtLayout struct {
	size, stride, count uint32 // of the struct, of an argument, of the arguments
	argCount            bitField
	value, kind, register, signed, shift,
	index, scale bitField // of an argument; the last two are empty before libbpf 1.7
}

// A bitField is a part of a struct, both in bits.
type bitField struct{ offset, width uint32 }

func newUSDTLayout(t btf.Type) (l usdtLayout, err error) {
	spec, ok := btf.UnderlyingType(t).(*btf.Struct)
	if !ok {
		return l, errors.New("the object's BTF does not have the type of its values")
	}
	args, ok := btf.UnderlyingType(memberOf(spec, "args").Type).(*btf.Array)
	if !ok {
		return l, fmt.Errorf("struct %s has no array args", spec.Name)
	}
	arg, ok := btf.UnderlyingType(args.Type).(*btf.Struct)
	if !ok {
		return l, fmt.Errorf("the args of struct %s are not structs", spec.Name)
	}
	l = usdtLayout{
		size: spec.Size, stride: arg.Size, count: args.Nelems,
		argCount: fieldOf(spec, "arg_cnt"),
		value:    fieldOf(arg, "val_off"), kind: fieldOf(arg, "arg_type"), register: fieldOf(arg, "reg_off"),
		signed: fieldOf(arg, "arg_signed"), shift: fieldOf(arg, "arg_bitshift"),
		index: fieldOf(arg, "idx_reg_off"), scale: fieldOf(arg, "scale_bitshift"),
	}
	for name, f := range map[string]bitField{
		"val_off": l.value, "arg_type": l.kind, "reg_off": l.register, "arg_signed": l.signed, "arg_bitshift": l.shift, "arg_cnt": l.argCount,
	} {
		if f.width == 0 {
			return l, fmt.Errorf("struct %s has no number %s", spec.Name, name)
		}
	}
	// The args come first; with that bound nothing below is outside of a value.
	if uint64(l.stride)*uint64(l.count) > uint64(l.size) || memberOf(spec, "args").Offset != 0 || l.size > 1<<16 {
		return l, fmt.Errorf("struct %s is not that of usdt.bpf.h", spec.Name)
	}
	return l, nil
}

// memberOf returns a member of s, or one without a type.
func memberOf(s *btf.Struct, name string) btf.Member {
	for _, m := range s.Members {
		if m.Name == name {
			return m
		}
	}
	return btf.Member{Type: &btf.Void{}}
}

// fieldOf returns where the number of that name is in s, of width 0 if there is
// none within s.
func fieldOf(s *btf.Struct, name string) bitField {
	m := memberOf(s, name)
	f := bitField{uint32(m.Offset), uint32(m.BitfieldSize)}
	if f.width == 0 {
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Int:
			f.width = 8 * t.Size
		case *btf.Enum:
			f.width = 8 * t.Size
		}
	}
	if f.width > 64 || uint64(f.offset)+uint64(f.width) > 8*uint64(s.Size) {
		return bitField{}
	}
	return f
}

// put writes the low bits of n into b. Little endian: bits count from the
// lowest of the first byte.
func (f bitField) put(b []byte, n uint64) {
	for i := range f.width {
		at := f.offset + i
		b[at/8] = b[at/8]&^(1<<(at%8)) | byte(n>>i&1)<<(at%8)
	}
}

func (l *usdtLayout) encode(args []usdtArg) ([]byte, error) {
	if len(args) > int(l.count) {
		return nil, fmt.Errorf("it has %d arguments, and the package has room for %d", len(args), l.count)
	}
	value := make([]byte, l.size)
	l.argCount.put(value, uint64(len(args)))
	for i, a := range args {
		b := value[uint32(i)*l.stride:][:l.stride]
		l.value.put(b, uint64(a.value))
		l.kind.put(b, uint64(a.kind))
		l.register.put(b, uint64(a.register))
		l.shift.put(b, 64-8*uint64(a.size))
		if a.signed {
			l.signed.put(b, 1)
		}
		if a.kind == usdtScaled {
			if l.index.width == 0 || l.scale.width == 0 {
				return nil, manifest.WithKind(manifest.KindPrecondition,
					fmt.Errorf("argument %d is at an address with an index, which the package's usdt.bpf.h does not know", i+1),
					"Build the package again, with the headers of libbpf 1.7 or later.")
			}
			l.index.put(b, uint64(a.index))
			l.scale.put(b, uint64(a.shift))
		}
	}
	return value, nil
}
