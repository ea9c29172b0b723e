// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
)

func TestStackTrace(t *testing.T) {
	whole := StackTrace{
		PID: "pid", CPU: "cpu_id", Comm: "comm", KernelSize: "kstack_sz", UserSize: "ustack_sz", Kernel: "kstack", User: "ustack",
		WithSymbols: true,
	}
	mapped := StackTrace{PID: "a", CPU: "b", Comm: "c", KernelSize: "d", UserSize: "e", Kernel: "f", User: "g"}
	for _, tt := range []struct {
		interpreter string
		want        *StackTrace
		err         string
	}{
		{"", nil, ""},
		{`"default_struct"`, nil, ""},
		{`{"default_struct":null}`, nil, ""},
		{`{"stack_trace":{}}`, &whole, ""},
		{`{"stack_trace":{"field_map":null,"with_symbols":null}}`, &whole, ""},
		{`{"stack_trace":{"field_map":{"pid":null},"with_symbols":true,"more":1}}`, &whole, ""},
		{`{"stack_trace":{"field_map":{"pid":"a","cpu_id":"b","comm":"c","kstack_sz":"d","ustack_sz":"e","kstack":"f","ustack":"g"},"with_symbols":false}}`, &mapped, ""},
		{`"stack_trace"`, nil, "it needs an object"},
		{`{"stack_trace":null}`, nil, "expected an object"},
		{`{"stack_trace":[]}`, nil, "stack_trace"},
		{`{"stack_trace":{"with_symbols":1}}`, nil, "with_symbols"},
		{`{"stack_trace":{},"default_struct":null}`, nil, "does not know the interpreter"},
		{`{"default_struct":{}}`, nil, "does not know the interpreter"},
		{`{"stack":{}}`, nil, "does not know the interpreter {\"stack\":{}}"},
		{`7`, nil, "does not know the interpreter 7"},
	} {
		m := &MapMeta{}
		if tt.interpreter != "" {
			m.Interpreter = json.RawMessage(tt.interpreter)
		}
		got, err := m.StackTrace()
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.interpreter, err, tt.err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.interpreter, diff)
		}
	}
}

func TestRightsOfStacks(t *testing.T) {
	take := func(flags ...asm.Instruction) asm.Instructions {
		return append(append(asm.Instructions{}, flags...), asm.FnGetStack.Call())
	}
	kernel, user := take(asm.Mov.Imm(asm.R4, 0)), take(asm.Mov.Imm(asm.R4, userStack|2), asm.Mov.Imm(asm.R3, 8))
	const (
		none        = "BPF+PERFMON"
		kernelOnly  = "BPF+PERFMON+SYSLOG"
		userOnly    = "BPF+PERFMON+SYS_PTRACE, hostPID, / (read-only)"
		both        = "BPF+PERFMON+SYSLOG+SYS_PTRACE, hostPID, / (read-only)"
		withSymbols = `{"stack_trace":{}}`
	)
	for _, tt := range []struct {
		name, interpreter string
		program           asm.Instructions
		want              string
	}{
		{"no stacks", `"default_struct"`, append(kernel, user...), none},
		{"no symbols", `{"stack_trace":{"with_symbols":false}}`, append(kernel, user...), none},
		{"of the kernel", withSymbols, kernel, kernelOnly},
		{"of processes", withSymbols, user, userOnly},
		{"of both", withSymbols, append(append(asm.Instructions{}, kernel...), user...), both},
		{"of a task", withSymbols, asm.Instructions{asm.Mov.Imm(asm.R4, 0), asm.FnGetTaskStack.Call()}, kernelOnly},
		{"by flags that are computed", withSymbols, take(asm.Mov.Imm(asm.R4, 0), asm.Or.Reg(asm.R4, asm.R6)), both},
		{"by flags of memory", withSymbols, take(asm.Mov.Imm(asm.R4, 0), asm.LoadMem(asm.R4, asm.R10, -8, asm.DWord)), both},
		{"by flags from before a call", withSymbols, take(asm.Mov.Imm(asm.R4, 0), asm.FnKtimeGetNs.Call()), both},
		{"by flags from before a function", withSymbols, take(asm.Mov.Imm(asm.R4, 0), asm.Mov.Imm(asm.R3, 0).WithSymbol("f")), both},
		{"by flags of an argument", withSymbols, take(), both},
		{"of something else", withSymbols, asm.Instructions{asm.Return()}, both},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := &Object{Spec: &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
				"profile": {SectionName: "perf_event", Type: ebpf.PerfEvent, Instructions: tt.program},
			}}}
			meta := &Meta{Skeleton: Skeleton{Maps: []MapMeta{{Name: "other"}, {Name: "events", Interpreter: json.RawMessage(tt.interpreter)}}}}
			needs, err := o.NeedsOf(meta, "", nil)
			if err != nil || needs.Rights.String() != tt.want {
				t.Errorf("needs %s, %v; want %s", needs.Rights, err, tt.want)
			}
		})
	}
	o := &Object{Spec: &ebpf.CollectionSpec{}}
	if _, err := o.NeedsOf(&Meta{Skeleton: Skeleton{Maps: []MapMeta{{Name: "events", Interpreter: json.RawMessage(`7`)}}}}, "", nil); KindOf(err) != KindPrecondition || !strings.Contains(err.Error(), "map events: ") {
		t.Errorf("another interpreter: %v", err)
	}
}
