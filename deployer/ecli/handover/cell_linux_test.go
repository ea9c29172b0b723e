// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading programs needs root")
	}
	_ = rlimit.RemoveMemlock() // needed, and possible, before Linux 5.11
}

// returning is a program that only returns.
func returning(typ ebpf.ProgramType, value int32) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: "returning", Type: typ, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, value).WithSymbol("returning"), asm.Return()},
	}
}

func run(t *testing.T, p *ebpf.Program) int32 {
	t.Helper()
	got, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil {
		t.Fatal(err)
	}
	return int32(got)
}

// must returns v, and closes it after the test.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%+v", err)
		}
		if c, ok := any(v).(io.Closer); ok {
			t.Cleanup(func() { _ = c.Close() })
		}
		return v
	}
}

// TestDispatcher: the cell says which slot runs, and an empty one does as if
// nothing were there.
func TestDispatcher(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		typ        ebpf.ProgramType
		zero, one  int32
		whenAbsent int32
	}{
		{ebpf.XDP, 1, 3, 2},
		{ebpf.SchedCLS, 2, 0, -1},
		{ebpf.SocketFilter, 7, 9, 0},
		{ebpf.CGroupSKB, 0, 0, 1},
	} {
		t.Run(tt.typ.String(), func(t *testing.T) {
			cell, slots := must(NewCell())(t), must(NewSlots())(t)
			spec := returning(tt.typ, tt.zero)
			d := must(LoadDispatcher(spec, cell, slots, ebpf.ProgramOptions{}))(t)
			expect := func(slot Slot, want int32) {
				t.Helper()
				if err := cell.Set(slot); err != nil {
					t.Fatal(err)
				}
				if err := cell.Grace(); err != nil {
					t.Fatal(err)
				}
				if got, err := cell.Slot(); err != nil || got != slot {
					t.Errorf("the cell names slot %d, %v", got, err)
				}
				if got := run(t, d); got != want {
					t.Errorf("slot %d: returned %d, want %d", slot, got, want)
				}
			}
			expect(0, tt.whenAbsent)
			expect(1, tt.whenAbsent)
			for slot, value := range []int32{tt.zero, tt.one} {
				p := must(ebpf.NewProgram(returning(tt.typ, value)))(t)
				if err := slots.Put(Slot(slot), p); err != nil {
					t.Fatal(err)
				}
			}
			expect(0, tt.zero)
			expect(1, tt.one)
			if err := slots.Clear(1); err != nil {
				t.Fatal(err)
			}
			expect(1, tt.whenAbsent)
			if err := slots.Clear(1); err != nil {
				t.Errorf("clear twice: %v", err)
			}
			// What another instance holds goes on.
			other := must(AdoptCell(dup(t, cell.FD())))(t)
			if err := other.Set(0); err != nil {
				t.Fatal(err)
			}
			if got := run(t, d); got != tt.zero {
				t.Errorf("moved by the other one: returned %d", got)
			}
		})
	}
}

// TestHelpersOfDispatchers: a program that asks where it was called from, or
// overrides what it traces, has a dispatcher that the verifier takes.
func TestHelpersOfDispatchers(t *testing.T) {
	spec := returning(ebpf.Kprobe, 0)
	spec.Instructions = append(asm.Instructions{asm.FnGetFuncIp.Call().WithSymbol("p"), asm.FnOverrideReturn.Call()}, spec.Instructions[1])
	found := map[asm.BuiltinFunc]bool{}
	for _, ins := range dispatcher(spec, 1, 2).Instructions {
		if ins.IsBuiltinCall() {
			found[asm.BuiltinFunc(ins.Constant)] = true
		}
	}
	if !found[asm.FnGetFuncIp] || !found[asm.FnOverrideReturn] || !found[asm.FnTailCall] {
		t.Errorf("it calls %v", found)
	}
}

// TestGate: a program with a gate runs where the cell names its slot.
func TestGate(t *testing.T) {
	needRoot(t)
	for _, slot := range []Slot{0, 1} {
		t.Run(fmt.Sprint(slot), func(t *testing.T) {
			cell := must(NewCell())(t)
			spec := &ebpf.CollectionSpec{
				Maps:     map[string]*ebpf.MapSpec{GateMap: CellSpec()},
				Programs: map[string]*ebpf.ProgramSpec{"p": returning(ebpf.SchedCLS, 2)},
			}
			Gate(spec.Programs["p"], slot)
			coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{GateMap: cell.Map()}})
			if err != nil {
				t.Fatal(err)
			}
			defer coll.Close()
			for at := range Slot(2) {
				want := int32(-1)
				if at == slot {
					want = 2
				}
				if err := cell.Set(at); err != nil {
					t.Fatal(err)
				}
				if got := run(t, coll.Programs["p"]); got != want {
					t.Errorf("the cell names %d: returned %d, want %d", at, got, want)
				}
			}
		})
	}
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
