// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf/asm"
)

// StackTrace says that the events of a map are stacks, and which of their
// members hold what (spec sections B4 and C5).
type StackTrace struct {
	PID, CPU, Comm string
	// KernelSize and UserSize are the members that have the lengths of the
	// stacks in bytes; Kernel and User have the addresses.
	KernelSize, UserSize, Kernel, User string
	// WithSymbols adds the names of functions to the addresses.
	WithSymbols bool
}

// The interpreters of the events of a map.
const (
	interpretStruct = "default_struct"
	interpretStacks = "stack_trace"
)

// StackTrace returns how the events of m are read as stacks, and nil where they
// are plain structs. The error is of [KindPrecondition] for an interpreter that
// this version does not know.
func (m *MapMeta) StackTrace() (*StackTrace, error) {
	if m.Interpreter == nil {
		return nil, nil
	}
	var name string
	if json.Unmarshal(m.Interpreter, &name) == nil {
		switch name {
		case interpretStruct:
			return nil, nil
		case interpretStacks:
			return nil, errors.New(`interpreter "stack_trace": it needs an object; write /// @intepreter {"stack_trace": {}}`)
		}
	}
	var variants map[string]json.RawMessage
	if json.Unmarshal(m.Interpreter, &variants) == nil && len(variants) == 1 {
		if raw, ok := variants[interpretStacks]; ok {
			return decodeStackTrace(raw)
		}
		if raw, ok := variants[interpretStruct]; ok && string(raw) == "null" {
			return nil, nil
		}
	}
	return nil, WithKind(KindPrecondition, fmt.Errorf("this version does not know the interpreter %.200s, only %s and %s", m.Interpreter, interpretStruct, interpretStacks), "")
}

func decodeStackTrace(raw json.RawMessage) (*StackTrace, error) {
	var fields struct {
		FieldMap *struct {
			PID        *string `json:"pid"`
			CPU        *string `json:"cpu_id"`
			Comm       *string `json:"comm"`
			KernelSize *string `json:"kstack_sz"`
			UserSize   *string `json:"ustack_sz"`
			Kernel     *string `json:"kstack"`
			User       *string `json:"ustack"`
		} `json:"field_map"`
		WithSymbols *bool `json:"with_symbols"`
	}
	if string(raw) == "null" {
		return nil, errors.New(`interpreter "stack_trace": expected an object, not null`)
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("interpreter %q: %w", interpretStacks, err)
	}
	s := &StackTrace{
		PID: "pid", CPU: "cpu_id", Comm: "comm",
		KernelSize: "kstack_sz", UserSize: "ustack_sz", Kernel: "kstack", User: "ustack",
		WithSymbols: fields.WithSymbols == nil || *fields.WithSymbols,
	}
	if m := fields.FieldMap; m != nil {
		for to, from := range map[*string]*string{
			&s.PID: m.PID, &s.CPU: m.CPU, &s.Comm: m.Comm,
			&s.KernelSize: m.KernelSize, &s.UserSize: m.UserSize, &s.Kernel: m.Kernel, &s.User: m.User,
		} {
			if from != nil {
				*to = *from
			}
		}
	}
	return s, nil
}

// StackSymbols reports whether the events of a map are stacks whose addresses
// are given names.
func (m *Meta) StackSymbols() (bool, error) {
	symbols := false
	for i := range m.Skeleton.Maps {
		m := &m.Skeleton.Maps[i]
		stacks, err := m.StackTrace()
		if err != nil {
			return false, fmt.Errorf("map %s: %w", m.Name, err)
		}
		symbols = symbols || stacks != nil && stacks.WithSymbols
	}
	return symbols, nil
}

// stacks reports whether the events of a map are stacks.
func (m *Meta) stacks() bool {
	return slices.ContainsFunc(m.Skeleton.Maps, func(m MapMeta) bool {
		stacks, err := m.StackTrace()
		return err == nil && stacks != nil
	})
}

// NeedsOf derives what the package of o and meta asks for: what [Object.NeedsAt]
// says of its programs at these targets, and the rights to give names to the addresses of stacks
// where its description wants that.
func (o *Object) NeedsOf(meta *Meta, oldestKernel string, targets map[string][]Target) (Needs, error) {
	needs, err := o.NeedsAt(oldestKernel, targets)
	if err != nil {
		return Needs{}, err
	}
	symbols, err := meta.StackSymbols()
	if err != nil {
		return Needs{}, err
	}
	if symbols {
		needs.Rights = needs.Rights.with(o.stackRights())
	}
	return needs, nil
}

// What it takes to give names to addresses.
var (
	// The kernel shows where its functions are to who has SYSLOG.
	kernelStackRights = Rights{Capabilities: []string{"SYSLOG"}}
	// The files that other processes have mapped are found in the node's /proc,
	// with SYS_PTRACE, or, when these have ended, by their paths on the node.
	userStackRights = Rights{Capabilities: []string{"SYS_PTRACE"}, HostPID: true, Mounts: []Mount{mountHostRoot}}
)

// stackRights returns what it takes to give names to the stacks that o's
// programs take: those of the kernel, of processes, or both where the programs
// do not say it plainly.
func (o *Object) stackRights() Rights {
	kernel, user := false, false
	for _, p := range o.Spec.Programs {
		k, u := stacksOf(p.Instructions)
		kernel, user = kernel || k, user || u
	}
	var rights Rights
	if kernel || !user {
		rights = rights.with(kernelStackRights)
	}
	if user || !kernel {
		rights = rights.with(userStackRights)
	}
	return rights
}

// userStack is BPF_F_USER_STACK of linux/bpf.h.
const userStack = 1 << 8

// stacksOf reports which stacks a program takes. The flags of bpf_get_stack say
// it, its fourth argument.
func stacksOf(program asm.Instructions) (kernel, user bool) {
	for i, ins := range program {
		if !ins.IsBuiltinCall() {
			continue
		}
		switch asm.BuiltinFunc(ins.Constant) {
		case asm.FnGetStack, asm.FnGetTaskStack:
			flags, ok := constantBefore(program[:i], asm.R4)
			kernel = kernel || !ok || flags&userStack == 0
			user = user || !ok || flags&userStack != 0
		}
	}
	return kernel, user
}

// constantBefore returns the constant that a register holds behind program,
// where the straight line of instructions that leads there sets it.
func constantBefore(program asm.Instructions, register asm.Register) (int64, bool) {
	for i := len(program) - 1; i >= 0; i-- {
		ins := &program[i]
		switch class := ins.OpCode.Class(); {
		case class.IsJump():
			return 0, false
		case (class.IsALU() || class.IsLoad()) && ins.Dst == register:
			isConstant := class.IsALU() && ins.OpCode.ALUOp() == asm.Mov && ins.OpCode.Source() == asm.ImmSource
			return ins.Constant, isConstant
		case ins.Symbol() != "":
			return 0, false
		}
	}
	return 0, false
}
