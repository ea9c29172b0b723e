// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// neutral is what a program returns that does as if it were not there.
func neutral(p *ebpf.ProgramSpec) int32 {
	switch p.Type {
	case ebpf.XDP:
		return 2 // XDP_PASS
	case ebpf.SchedCLS, ebpf.SchedACT:
		return -1 // TC_ACT_UNSPEC, TCX_NEXT and NETKIT_NEXT
	case ebpf.CGroupSKB, ebpf.CGroupSock, ebpf.CGroupSockAddr, ebpf.CGroupSockopt, ebpf.CGroupSysctl, ebpf.CGroupDevice, ebpf.SockOps:
		return 1 // allow
	case ebpf.SkLookup, ebpf.SkMsg, ebpf.SkSKB, ebpf.SkReuseport:
		return 1 // SK_PASS
	case ebpf.Netfilter:
		return 1 // NF_ACCEPT
	case ebpf.FlowDissector:
		return 129 // BPF_FLOW_DISSECTOR_CONTINUE, Linux 6.1
	case ebpf.LSM:
		if p.AttachType == ebpf.AttachLSMCgroup {
			return 1
		}
	}
	return 0
}

// neutralReturn returns from a program as if it were not there. R6 holds its
// context.
func neutralReturn(p *ebpf.ProgramSpec) asm.Instructions {
	if p.Type == ebpf.SkSKB && p.AttachType == ebpf.AttachSkSKBStreamParser {
		// A parser returns the length of the message: that of the buffer, the first
		// word of struct __sk_buff.
		return asm.Instructions{asm.LoadMem(asm.R0, asm.R6, 0, asm.Word), asm.Return()}
	}
	return asm.Instructions{asm.Mov.Imm(asm.R0, neutral(p)), asm.Return()}
}

// dispatcher returns the program that stands at p's hook in its place. The cell
// and the slots are the descriptors of their maps.
func dispatcher(p *ebpf.ProgramSpec, cell, slots int) *ebpf.ProgramSpec {
	d := &ebpf.ProgramSpec{
		Name: p.Name, Type: p.Type, AttachType: p.AttachType, AttachTo: p.AttachTo, AttachTarget: p.AttachTarget,
		Flags: p.Flags, License: p.License, KernelVersion: p.KernelVersion, ByteOrder: p.ByteOrder,
	}
	// The index is constant, so that the kernel makes a jump of the call: about
	// 1 ns, against 10 for a variable one.
	call := func(slot int32) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R2, slots),
			asm.Mov.Imm(asm.R3, slot),
			asm.FnTailCall.Call(),
		}
	}
	one := call(1)
	one[0] = one[0].WithSymbol("one")
	d.Instructions = asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapValue(asm.R7, cell, 0),
		asm.LoadMem(asm.R7, asm.R7, 0, asm.Word),
		asm.JNE.Imm(asm.R7, 0, "one"),
	}
	d.Instructions = append(d.Instructions, call(0)...)
	d.Instructions = append(d.Instructions, asm.Ja.Label("out"))
	d.Instructions = append(d.Instructions, one...)
	var out asm.Instructions
	// What these helpers need is made ready by the kernel when the program that is
	// attached calls them. The condition is never true, which only we know.
	for _, fn := range []asm.BuiltinFunc{asm.FnGetFuncIp, asm.FnOverrideReturn} {
		if calls(p, fn) {
			skip := fmt.Sprintf("skip%d", fn)
			out = append(out,
				asm.JLE.Imm(asm.R7, 1, skip),
				asm.Mov.Reg(asm.R1, asm.R6),
				asm.Mov.Imm(asm.R2, 0),
				fn.Call(),
				asm.Mov.Imm(asm.R0, 0).WithSymbol(skip))
		}
	}
	out = append(out, neutralReturn(p)...)
	out[0] = out[0].WithSymbol("out")
	d.Instructions = append(d.Instructions, out...)
	return d
}

// Needs says what a dispatcher must have for p that not every one has; those of two
// programs that can stand behind the same one are equal.
func Needs(p *ebpf.ProgramSpec) string {
	return fmt.Sprint(calls(p, asm.FnGetFuncIp), calls(p, asm.FnOverrideReturn))
}

func calls(p *ebpf.ProgramSpec, fn asm.BuiltinFunc) bool {
	return slices.ContainsFunc(p.Instructions, func(ins asm.Instruction) bool {
		return ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == fn
	})
}

// GateMap is the name of the cell among the maps of a package with gates. No name
// of C has a dot at its end.
const GateMap = "ebpm.cell."

// Gate puts in front of p that it does nothing unless the cell names the slot. The
// cell is the map [GateMap] of p's collection.
func Gate(p *ebpf.ProgramSpec, slot Slot) {
	head := asm.Instructions{
		asm.LoadMapValue(asm.R2, 0, 0).WithReference(GateMap),
		asm.LoadMem(asm.R2, asm.R2, 0, asm.Word),
		asm.Mov.Reg(asm.R6, asm.R1),
	}
	body := slices.Clone(p.Instructions)
	closed := neutralReturn(p)
	// Jumps of an object are by distance: past what is returned when it is shut.
	open := asm.JEq.Imm(asm.R2, int32(slot), "")
	open.Offset = int16(len(closed))
	head = append(append(head, open), closed...)
	// The kernel wants the function's name, its type and the source of a line at its
	// first instruction. All else belongs to the instruction that was the first.
	first := &body[0]
	head[0] = btf.WithFuncMetadata(head[0], btf.FuncMetadata(first)).WithSymbol(first.Symbol()).WithSource(first.Source())
	*first = btf.WithFuncMetadata(*first, nil).WithSymbol("")
	p.Instructions = append(head, body...)
}
