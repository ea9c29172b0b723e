// SPDX-License-Identifier: Apache-2.0

package manifest

import (
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
		{ebpf.ProgramSpec{Type: ebpf.StructOps}, Naive},
		{ebpf.ProgramSpec{Type: ebpf.SkMsg}, Naive},
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
