// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

func member(name string, t btf.Type, bits uint32) btf.Member {
	return btf.Member{Name: name, Type: t, Offset: btf.Bits(bits)}
}

func TestLayouts(t *testing.T) {
	u32, s32 := &btf.Int{Name: "unsigned int", Size: 4}, &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	of := func(value btf.Type) *ebpf.MapSpec {
		return &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 16, Key: u32, Value: value}
	}
	pair := func(structName, first, second string, a, b btf.Type) btf.Type {
		return &btf.Struct{Name: structName, Size: 8, Members: []btf.Member{member(first, a, 0), member(second, b, 32)}}
	}
	base := of(pair("v", "count", "last", u32, u32))
	resized := of(pair("v", "count", "last", u32, u32))
	resized.MaxEntries = 32
	for _, tt := range []struct {
		name string
		m    *ebpf.MapSpec
		same bool
	}{
		{"the same", of(pair("v", "count", "last", u32, u32)), true},
		{"another name of the struct", of(pair("w", "count", "last", u32, u32)), true},
		{"behind a typedef", of(&btf.Typedef{Name: "v_t", Type: pair("v", "count", "last", u32, &btf.Const{Type: u32})}), true},
		{"members with the names changed over", of(pair("v", "last", "count", u32, u32)), false},
		{"a signed member", of(pair("v", "count", "last", u32, s32)), false},
		{"more entries", resized, false},
		{"no type", of(nil), false},
	} {
		want, err := mapLayout(base)
		if err != nil {
			t.Fatal(err)
		}
		got, err := mapLayout(tt.m)
		if err != nil || (got == want) != tt.same {
			t.Errorf("%s: equal is %t, %v", tt.name, got == want, err)
		}
	}
	loop := &btf.Struct{Name: "loop", Size: 8}
	loop.Members = []btf.Member{member("again", loop, 0)}
	if _, err := mapLayout(of(loop)); err == nil {
		t.Error("a type that holds itself has a layout")
	}
}

func TestStateMaps(t *testing.T) {
	u64 := &btf.Int{Name: "long", Size: 8}
	timer := &btf.Struct{Name: "bpf_timer", Size: 16}
	spec := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{
		"counts":  {Type: ebpf.Hash, Value: u64},
		"events":  {Type: ebpf.RingBuf},
		"perf":    {Type: ebpf.PerfEventArray},
		"calls":   {Type: ebpf.ProgramArray},
		"filled":  {Type: ebpf.Array, Value: u64, Contents: []ebpf.MapKV{{Key: uint32(0), Value: uint64(1)}}},
		".rodata": {Type: ebpf.Array, Flags: 1 << 7, Contents: []ebpf.MapKV{{}}},
		".bss":    {Type: ebpf.Array, Value: &btf.Datasec{Name: ".bss", Size: 8}},
		".data":   {Type: ebpf.Array, Contents: []ebpf.MapKV{{}}},
		"timers":  {Type: ebpf.Hash, Value: &btf.Struct{Size: 16, Members: []btf.Member{member("t", timer, 0)}}},
		"kptrs":   {Type: ebpf.Hash, Value: &btf.Struct{Size: 8, Members: []btf.Member{member("p", &btf.Pointer{Target: &btf.TypeTag{Value: "kptr", Type: timer}}, 0)}}},
	}}
	for _, tt := range []struct {
		carry Carry
		want  []string // nil for a refusal
	}{
		{Carry{}, []string{"counts"}},
		{Carry{Maps: []string{".bss"}}, []string{".bss", "counts"}},
		{Carry{All: true}, []string{".bss", ".data", "counts"}},
		{Carry{Maps: []string{"timers"}}, nil},
		{Carry{Maps: []string{"nothing"}}, nil},
	} {
		states, err := StateMaps(spec, tt.carry)
		var got []string
		for _, s := range states {
			got = append(got, s.Name)
		}
		if (err != nil) != (tt.want == nil) || err == nil && !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v, %v", tt.carry, got, err)
		}
	}
}

func TestCarryIsSpelled(t *testing.T) {
	for in, want := range map[string]string{
		"name: x":                "",
		"carry: all":             `"all"`,
		"carry: [counts, .bss]":  `["counts",".bss"]`,
		"carry:\n- counts\n":     `["counts"]`,
		"carry: []\nname: empty": `[]`,
	} {
		s, err := ParseSpec([]byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		encoded, err := (&Config{Carry: s.Carry}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(encoded, &fields); err != nil || string(fields["carry"]) != want {
			t.Errorf("%q: %s, %v, want %s", in, fields["carry"], err, want)
		}
		back, err := DecodeConfig(encoded)
		if err != nil || back.Carry.All != s.Carry.All || !slices.Equal(back.Carry.Words(), s.Carry.Words()) {
			t.Errorf("%q: %+v, %v", in, back, err)
		}
	}
}
