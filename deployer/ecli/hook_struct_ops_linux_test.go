// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// congestion makes a congestion control of TCP whose init is the probe.
func congestion(name string) hookTest {
	// Of the kernel's struct, those members that are needed; they are found by
	// name.
	function := &btf.Pointer{Target: &btf.FuncProto{Return: &btf.Void{}}}
	ops := &btf.Struct{Name: "tcp_congestion_ops", Size: 48, Members: []btf.Member{
		{Name: "init", Type: function, Offset: 0},
		{Name: "ssthresh", Type: function, Offset: 64},
		{Name: "cong_avoid", Type: function, Offset: 128},
		{Name: "undo_cwnd", Type: function, Offset: 192},
		{Name: "name", Type: &btf.Array{Index: &btf.Int{Size: 4}, Type: &btf.Int{Name: "char", Size: 1, Encoding: btf.Char}, Nelems: 16}, Offset: 256},
	}}
	value := make([]byte, ops.Size)
	copy(value[32:], name)
	h := hookTest{section: "struct_ops/init", typ: ebpf.StructOps, to: "tcp_congestion_ops:init",
		maps: map[string]*ebpf.MapSpec{"control": {
			Name: "control", Type: ebpf.StructOpsMap, KeySize: 4, ValueSize: ops.Size, MaxEntries: 1, Flags: unix.BPF_F_LINK,
			Key: &btf.Int{Size: 4}, Value: ops, Contents: []ebpf.MapKV{{Key: uint32(0), Value: value}},
		}},
		programs: map[string]*ebpf.ProgramSpec{},
	}
	for _, member := range []string{"ssthresh", "cong_avoid", "undo_cwnd"} {
		h.programs[member] = &ebpf.ProgramSpec{Name: member, SectionName: "struct_ops/" + member, Type: ebpf.StructOps,
			AttachTo: "tcp_congestion_ops:" + member, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}}
	}
	h.trigger = func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		err = raw.Control(func(fd uintptr) { inner = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name) })
		return errors.Join(err, inner)
	}
	return h
}

func TestStructOps(t *testing.T) {
	h := congestion("ebpm_test")
	if target := h.fires(t); target != "tcp_congestion_ops.init of control" {
		t.Errorf("attached to %s", target)
	}
	if err := h.trigger(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("it is still registered: %v", err)
	}
}

func TestSleepableStructOps(t *testing.T) {
	h := congestion("ebpm_sleeps")
	h.section, h.flags = "struct_ops.s/init", unix.BPF_F_SLEEPABLE
	h.fires(t)
}

// TestStructOpsOnce: a struct is registered once, whichever of its programs the
// package lists.
func TestStructOpsOnce(t *testing.T) {
	needRoot(t)
	h := congestion("ebpm_once")
	p, spec, err := h.plan(t)
	if err != nil {
		t.Fatal(err)
	}
	meta := manifest.ProgMeta{Name: "ssthresh"}
	second, err := planProgram(&meta, spec)
	if err != nil {
		t.Fatal(err)
	}
	p.programs = append(p.programs, second)
	in, err := start(p, spec, &Options{Stdout: &buffer{}, Stderr: &buffer{}})
	if err != nil {
		skipLacking(t, h.section, err)
		t.Fatal(err)
	}
	if got := in.reporter.programs[1].Target; got != "tcp_congestion_ops.ssthresh of control" {
		t.Errorf("attached to %s", got)
	}
	if err := h.trigger(); err != nil {
		t.Error(err)
	}
	// Another one of that name.
	other := congestion("ebpm_once")
	if _, err := other.start(t, &buffer{}, func() error { return nil }); manifest.KindOf(err) != manifest.KindConflict || !strings.Contains(err.Error(), "struct control: another of that name is registered") {
		t.Errorf("got %v", err)
	}
	if err := in.close(); err != nil {
		t.Error(err)
	}
}

func TestStructOpsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*hookTest)
		want   string
	}{
		"no struct points to it": {func(h *hookTest) { h.to = "" }, `no struct in SEC(".struct_ops.link") points to it`},
		"no struct":              {func(h *hookTest) { h.maps = nil }, "the object has no struct tcp_congestion_ops"},
		"two structs":            {func(h *hookTest) { h.maps["other"] = h.maps["control"] }, "several structs tcp_congestion_ops (control, other)"},
	} {
		h := congestion("ebpm_test")
		tt.change(&h)
		if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
	h := congestion("ebpm_test")
	delete(h.programs, "ssthresh")
	err := h.refused(t)
	skipLacking(t, h.section, err)
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v", err)
	}
}
