// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"maps"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

func TestWayOf(t *testing.T) {
	const sleepable = 1 << 4
	for _, tt := range []struct {
		spec ebpf.ProgramSpec
		want Way
	}{
		{ebpf.ProgramSpec{Type: ebpf.TracePoint}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.XDP}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.Kprobe, Flags: sleepable}, NearExact},
		{ebpf.ProgramSpec{Type: ebpf.LSM, Flags: sleepable}, NearExact},
		{ebpf.ProgramSpec{Type: ebpf.CGroupSKB, Instructions: asm.Instructions{asm.FnGetLocalStorage.Call()}}, NearExact},
		{ebpf.ProgramSpec{Type: ebpf.CGroupSKB, Instructions: asm.Instructions{asm.FnMapLookupElem.Call()}}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter}, Naive},
		{ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.StructOps}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.SkMsg}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.RawTracepoint}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.RawTracepointWritable}, NearExact},
		{ebpf.ProgramSpec{Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.LSM, AttachType: ebpf.AttachLSMCgroup}, NearExact},
		{ebpf.ProgramSpec{Type: ebpf.Kprobe, SectionName: "usdt/a:b:c"}, NearExact},
		{ebpf.ProgramSpec{Type: ebpf.Kprobe, SectionName: "?uprobe/a:b"}, Exact},
		{ebpf.ProgramSpec{Type: ebpf.Extension}, Naive},
	} {
		if got := WayOf(&tt.spec); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.spec.Type, tt.spec.AttachType, got, tt.want)
		}
	}
}

func TestMoves(t *testing.T) {
	iter := &ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter}
	for _, tt := range []struct {
		name     string
		programs map[string]*ebpf.ProgramSpec
		on       map[string]map[string]Way // by kernel
		handsOver,
		exclusive bool
	}{
		{"xdp and tc", map[string]*ebpf.ProgramSpec{"x": {Type: ebpf.XDP}, "t": {Type: ebpf.SchedCLS}}, map[string]map[string]Way{
			"":                      {"x": Exact, "t": Exact},
			"6.6.0":                 {"x": Exact, "t": Exact},
			"6.1.0-18-cloud-amd64":  {"x": Exact, "t": NearExact},
			"5.15.0-rc1":            {"x": Exact, "t": NearExact},
			"5.14.21":               {"x": Naive, "t": Naive},
			"a vendor's own number": {"x": Exact, "t": Exact},
		}, true, true},
		{"an iterator beside a sleepable one", map[string]*ebpf.ProgramSpec{"i": iter, "s": {Type: ebpf.LSM, Flags: 1 << 4}}, map[string]map[string]Way{
			"6.1.0": {"i": Naive, "s": NearExact},
			"5.4.0": {"i": Naive, "s": Naive},
		}, true, false},
		{"an iterator", map[string]*ebpf.ProgramSpec{"i": iter}, nil, false, false},
		// The new one would wait for the end of the old one, and that for the new one.
		{"one that cannot run beside its successor", map[string]*ebpf.ProgramSpec{"x": {Type: ebpf.XDP}, "f": {Type: ebpf.Extension}}, nil, false, true},
	} {
		o := &Object{Spec: &ebpf.CollectionSpec{Programs: tt.programs}}
		if o.HandsOver() != tt.handsOver || (o.Exclusive() != "") != tt.exclusive {
			t.Errorf("%s: hands over %t, exclusive %q", tt.name, o.HandsOver(), o.Exclusive())
		}
		for kernel, want := range tt.on {
			got := map[string]Way{}
			for name, m := range o.Moves() {
				got[name] = m.On(kernel)
			}
			if !maps.Equal(got, want) {
				t.Errorf("%s on %s: %v, want %v", tt.name, kernel, got, want)
			}
		}
	}
}
