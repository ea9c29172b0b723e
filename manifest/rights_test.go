// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
)

func inspectPackage(t *testing.T, name string) (*Package, *Object) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".package.json")
	if err != nil {
		t.Fatal(err)
	}
	p, err := DecodePackage(data)
	if err != nil {
		t.Fatal(err)
	}
	o, err := Inspect(p.Object)
	if err != nil {
		t.Fatal(err)
	}
	return p, o
}

func TestRights(t *testing.T) {
	for _, tt := range []struct {
		pkg, kernel string
		want        Rights
	}{
		{"run-probes", "", Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountTracefs}}},
		{"run-xdp", "", Rights{Capabilities: []string{"BPF", "NET_ADMIN", "PERFMON"}, HostNetwork: true}},
		{"run-uprobe", "", Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountHostRoot}}},
		{"run-uprobe", "6.6.0-1-amd64", Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountHostRoot}}},
		{"run-uprobe", "6.1.0-18-cloud-amd64", Rights{Capabilities: []string{"BPF", "PERFMON", "SYS_ADMIN"}, Mounts: []Mount{mountHostRoot}}},
		{"run-usdt", "", Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountHostRoot}}},
		{"run-usdt", "6.1.0-18-cloud-amd64", Rights{Capabilities: []string{"BPF", "PERFMON", "SYS_ADMIN"}, Mounts: []Mount{mountHostRoot}}},
	} {
		t.Run(tt.pkg+tt.kernel, func(t *testing.T) {
			_, o := inspectPackage(t, tt.pkg)
			needs, err := o.NeedsAt(tt.kernel, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, needs.Rights); diff != "" {
				t.Errorf("rights (-want +got):\n%s", diff)
			}
		})
	}
}

// A packet program that reads kernel memory or prints needs PERFMON.
func TestRightsOfTracingHelpers(t *testing.T) {
	for helper, want := range map[string]bool{
		"FnTracePrintk": true, "FnTraceVprintk": true, "FnProbeReadKernel": true, "FnProbeReadUserStr": true, "FnProbeRead": true,
		"FnGetCurrentTask": true, "FnGetCurrentTaskBtf": true, "FnSnprintf": true, "FnSnprintfBtf": true,
		"FnRingbufReserve": false, "FnMapLookupElem": false, "FnKtimeGetNs": false, "FnGetCurrentPidTgid": false,
	} {
		if got := readsKernel(helper); got != want {
			t.Errorf("readsKernel(%s) = %v, want %v", helper, got, want)
		}
	}
}

// The reader of a perf buffer opens perf events, whatever the program is.
func TestRightsOfPerfBuffers(t *testing.T) {
	_, o := inspectPackage(t, "run-xdp")
	for _, p := range o.Spec.Programs {
		p.Instructions = asm.Instructions{asm.Return()}
	}
	for _, want := range []bool{false, true} {
		needs, err := o.Needs()
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(needs.Rights.Capabilities, "PERFMON"); got != want {
			t.Errorf("PERFMON: %v, want %v", got, want)
		}
		for _, m := range o.Spec.Maps {
			m.Type = ebpf.PerfEventArray
		}
	}
}

func TestRightsOfPointerArithmetic(t *testing.T) {
	for name, tt := range map[string]struct {
		ins  asm.Instruction
		want bool
	}{
		"add a register":     {asm.Add.Reg(asm.R1, asm.R2), true},
		"take a register":    {asm.Sub.Reg(asm.R1, asm.R2), true},
		"add a constant":     {asm.Add.Imm(asm.R1, 14), false},
		"add 32 bits":        {asm.Add.Reg32(asm.R1, asm.R2), false},
		"multiply registers": {asm.Mul.Reg(asm.R1, asm.R2), false},
	} {
		p := &ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{tt.ins, asm.Return()}}
		if got := computesPointers(p); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestHookWithoutRowIsRefused(t *testing.T) {
	_, o := inspectPackage(t, "prog-sections")
	refused := 0
	for name, p := range o.Spec.Programs {
		hook, err := HookOf(p)
		if err != nil {
			refused++
			if KindOf(err) != KindPrecondition || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: error %v of kind %d does not name the program", name, err, KindOf(err))
			}
			continue
		}
		if !slices.Contains(Hooks(), hook) {
			t.Errorf("%s: hook %s has no row of rights", name, hook)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
	if _, err := o.Needs(); err == nil {
		t.Error("an object with hooks that are not supported has needs")
	}
}

func TestHookOf(t *testing.T) {
	for _, tt := range []struct {
		section string
		typ     ebpf.ProgramType
		attach  ebpf.AttachType
		want    Hook // "" is refused
	}{
		{"raw_tp/sys_enter", ebpf.RawTracepoint, 0, HookRawTracepoint},
		{"raw_tp.w/bpf_test_finish", ebpf.RawTracepointWritable, 0, HookRawTracepoint},
		{"tp_btf/sched_switch", ebpf.Tracing, ebpf.AttachTraceRawTp, HookTPBTF},
		{"perf_event", ebpf.PerfEvent, 0, HookPerfEvent},
		{"xdp", ebpf.XDP, ebpf.AttachXDP, HookXDP},
		{"xdp/devmap", ebpf.XDP, ebpf.AttachXDPDevMap, ""},
		{"tc", ebpf.SchedCLS, 0, HookTC},
		{"classifier", ebpf.SchedCLS, 0, HookTC},
		{"tc/ingress", ebpf.SchedCLS, ebpf.AttachTCXIngress, HookTC},
		{"tcx/egress", ebpf.SchedCLS, ebpf.AttachTCXEgress, HookTC},
		{"netkit/peer", ebpf.SchedCLS, ebpf.AttachNetkitPeer, HookNetkit},
		{"action", ebpf.SchedACT, 0, ""},
		{"cgroup_skb/ingress", ebpf.CGroupSKB, ebpf.AttachCGroupInetIngress, HookCgroup},
		{"cgroup/skb", ebpf.CGroupSKB, 0, ""},
		{"cgroup/sock_create", ebpf.CGroupSock, ebpf.AttachCGroupInetSockCreate, HookCgroup},
		{"cgroup/connect4", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, HookCgroup},
		{"cgroup/setsockopt", ebpf.CGroupSockopt, ebpf.AttachCGroupSetsockopt, HookCgroup},
		{"cgroup/sysctl", ebpf.CGroupSysctl, ebpf.AttachCGroupSysctl, HookCgroup},
		{"cgroup/dev", ebpf.CGroupDevice, ebpf.AttachCGroupDevice, HookCgroup},
		{"sockops", ebpf.SockOps, ebpf.AttachCGroupSockOps, HookSockOps},
		{"socket", ebpf.SocketFilter, 0, HookSocket},
		{"sk_lookup", ebpf.SkLookup, ebpf.AttachSkLookup, HookSKLookup},
		{"lsm/file_open", ebpf.LSM, ebpf.AttachLSMMac, HookLSM},
		{"lsm.s/file_open", ebpf.LSM, ebpf.AttachLSMMac, HookLSM},
		{"lsm_cgroup/socket_bind", ebpf.LSM, ebpf.AttachLSMCgroup, HookLSMCgroup},
		{"fentry/do_unlinkat", ebpf.Tracing, ebpf.AttachTraceFEntry, HookFentry},
		{"fexit.s/do_unlinkat", ebpf.Tracing, ebpf.AttachTraceFExit, HookFentry},
		{"fmod_ret/do_unlinkat", ebpf.Tracing, ebpf.AttachModifyReturn, HookFentry},
		{"sk_msg", ebpf.SkMsg, ebpf.AttachSkMsgVerdict, HookSKMsg},
		{"sk_skb/stream_parser", ebpf.SkSKB, ebpf.AttachSkSKBStreamParser, HookSKSKB},
		{"sk_skb/verdict", ebpf.SkSKB, ebpf.AttachSkSKBVerdict, HookSKSKB},
		{"sk_skb", ebpf.SkSKB, 0, ""},
		{"flow_dissector", ebpf.FlowDissector, ebpf.AttachFlowDissector, HookFlowDissector},
		{"netfilter", ebpf.Netfilter, ebpf.AttachNetfilter, HookNetfilter},
		{"struct_ops/init", ebpf.StructOps, 0, HookStructOps},
		{"struct_ops.s", ebpf.StructOps, 0, HookStructOps},
		{"freplace/handle", ebpf.Extension, 0, HookFreplace},
		{"lwt_xmit", ebpf.LWTXmit, 0, ""},
		{"sk_reuseport/migrate", ebpf.SkReuseport, ebpf.AttachSkReuseportSelectOrMigrate, ""},
		{"syscall", ebpf.Syscall, 0, ""},
		{"lirc_mode2", ebpf.LircMode2, ebpf.AttachLircMode2, ""},
		{"iter/task", ebpf.Tracing, ebpf.AttachTraceIter, HookIter},
		{"kprobe/do_unlinkat", ebpf.Kprobe, 0, HookKprobe},
		{"?kretprobe/do_unlinkat", ebpf.Kprobe, 0, HookKprobe},
		{"kprobe.multi/vfs_*", ebpf.Kprobe, ebpf.AttachTraceKprobeMulti, HookKprobeMulti},
		{"kretprobe.multi/vfs_*", ebpf.Kprobe, ebpf.AttachTraceKprobeMulti, HookKprobeMulti},
		{"kprobe.session/vfs_*", ebpf.Kprobe, ebpf.AttachTraceKprobeSession, HookKprobeMulti},
		{"ksyscall/unlinkat", ebpf.Kprobe, 0, HookKsyscall},
		{"kretsyscall/unlinkat", ebpf.Kprobe, 0, HookKsyscall},
		{"uprobe/bash:readline", ebpf.Kprobe, 0, HookUprobe},
		{"uretprobe.s/bash:readline", ebpf.Kprobe, 0, HookUprobe},
		{"uprobe.multi/bash:read*", ebpf.Kprobe, ebpf.AttachTraceUprobeMulti, HookUprobe},
		{"uretprobe.multi.s/bash:read*", ebpf.Kprobe, ebpf.AttachTraceUprobeMulti, HookUprobe},
		{"uprobe.session/bash:read*", ebpf.Kprobe, 57, HookUprobe},
		{"?usdt/libc.so.6:libc:setjmp", ebpf.Kprobe, 0, HookUprobe},
		{"usdt.s/libc.so.6:libc:setjmp", ebpf.Kprobe, 0, HookUprobe},
	} {
		got, err := HookOf(&ebpf.ProgramSpec{Name: "probe", SectionName: tt.section, Type: tt.typ, AttachType: tt.attach})
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: %q, %v, want %q", tt.section, got, err, tt.want)
		}
	}
}

// TestRightsOfHooks: each row, as a Pod gets it.
func TestRightsOfHooks(t *testing.T) {
	for _, tt := range []struct {
		section   string
		typ       ebpf.ProgramType
		attach    ebpf.AttachType
		want      string
		exclusive bool
	}{
		{"sk_msg", ebpf.SkMsg, ebpf.AttachSkMsgVerdict, "BPF+NET_ADMIN, hostNetwork", false},
		{"sk_skb/verdict", ebpf.SkSKB, ebpf.AttachSkSKBVerdict, "BPF+NET_ADMIN, hostNetwork", false},
		{"flow_dissector", ebpf.FlowDissector, ebpf.AttachFlowDissector, "BPF+NET_ADMIN, hostNetwork", true},
		{"netfilter", ebpf.Netfilter, ebpf.AttachNetfilter, "BPF+NET_ADMIN, hostNetwork", true},
		{"netkit/primary", ebpf.SchedCLS, ebpf.AttachNetkitPrimary, "BPF+NET_ADMIN, hostNetwork", false},
		{"struct_ops/init", ebpf.StructOps, 0, "BPF+PERFMON", true},
		{"freplace/handle", ebpf.Extension, 0, "BPF+NET_ADMIN+PERFMON+SYS_ADMIN", true},
	} {
		p := &ebpf.ProgramSpec{Name: "probe", SectionName: tt.section, Type: tt.typ, AttachType: tt.attach, Instructions: asm.Instructions{asm.Return()}}
		o := &Object{Spec: &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"probe": p}}}
		needs, err := o.Needs()
		if err != nil || needs.Rights.String() != tt.want {
			t.Errorf("%s: %s, %v, want %s", tt.section, needs.Rights, err, tt.want)
		}
		if got := o.Exclusive() != ""; got != tt.exclusive {
			t.Errorf("%s: exclusive %v", tt.section, got)
		}
	}
}

func TestWhyNotAttached(t *testing.T) {
	for section, want := range map[string]string{
		"lwt_in": "belongs to a route", "?sk_reuseport/migrate": "attached to a socket by the process", "syscall": "has no hook",
		"action": "belongs to a tc filter", "xdp": "", "": "", "lwt": "",
	} {
		if got := WhyNotAttached(section); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", section, got, want)
		}
	}
}

func TestInspect(t *testing.T) {
	p, o := inspectPackage(t, "event-one")
	if len(o.Programs) != 1 || o.Programs[0].Section == "" || o.Programs[0].Target == "" {
		t.Errorf("programs %+v", o.Programs)
	}
	roles := map[Role]int{}
	for _, m := range o.Maps {
		roles[m.Role]++
	}
	if roles[RoleExport] == 0 {
		t.Errorf("maps %+v have no export", o.Maps)
	}
	if o.MemoryBytes(2) < 4096 {
		t.Errorf("maps of %d bytes", o.MemoryBytes(2))
	}
	needs, err := o.Needs()
	if err != nil {
		t.Fatal(err)
	}
	if !needs.Features.BTF || !slices.Contains(needs.Features.MapTypes, "RingBuf") || len(needs.Features.Helpers) == 0 {
		t.Errorf("features %+v", needs.Features)
	}
	if o.Columns(&p.Meta) == nil {
		t.Error("no columns")
	}
	for name, object := range map[string][]byte{"empty": nil, "text": []byte("hello"), "cut": p.Object[:len(p.Object)/2]} {
		if _, err := Inspect(object); err == nil {
			t.Errorf("%s object: no error", name)
		}
	}
}

// TestLoadSpecOfStructOps gives a section of a good object the name .struct_ops.
func TestLoadSpecOfStructOps(t *testing.T) {
	p, o := inspectPackage(t, "run-probes")
	name := []byte(o.Programs[0].Section)
	bad := make([]byte, len(name))
	copy(bad, ".struct_ops")
	object := bytes.ReplaceAll(p.Object, append(name, 0), append(bad, 0))
	// A struct is no code: no section header has the flag any more.
	le := binary.LittleEndian
	headers := object[le.Uint64(object[40:]):]
	for i := range int(le.Uint16(object[60:])) {
		flags := headers[i*64+8:]
		le.PutUint64(flags, le.Uint64(flags)&^uint64(elf.SHF_EXECINSTR))
	}
	if _, err := LoadSpec(object); KindOf(err) != KindPrecondition || !strings.Contains(AdviceOf(err), `SEC(".struct_ops.link")`) {
		t.Errorf("got %v (kind %d)", err, KindOf(err))
	}
}

func TestExclusive(t *testing.T) {
	for pkg, want := range map[string]bool{"run-xdp": true, "run-probes": false} {
		_, o := inspectPackage(t, pkg)
		if got := o.Exclusive() != ""; got != want {
			t.Errorf("%s: exclusive %v, want %v", pkg, got, want)
		}
	}
}

func TestOnInterface(t *testing.T) {
	for pkg, want := range map[string]bool{"run-xdp": true, "run-probes": false} {
		_, o := inspectPackage(t, pkg)
		if got := o.OnInterface(); got != want {
			t.Errorf("%s: on an interface %v, want %v", pkg, got, want)
		}
	}
	tc := &ebpf.ProgramSpec{SectionName: "tc/egress", Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXEgress, Instructions: asm.Instructions{asm.Add.Reg(asm.R1, asm.R2)}}
	o := &Object{Spec: &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"on_packet": tc}}}
	if !o.OnInterface() || o.Exclusive() != "" {
		t.Errorf("tc: on an interface %v, exclusive %q", o.OnInterface(), o.Exclusive())
	}
	needs, err := o.Needs()
	if want := (Rights{Capabilities: []string{"BPF", "NET_ADMIN", "PERFMON"}, HostNetwork: true}); err != nil || !needs.Rights.Equal(want) {
		t.Errorf("tc: needs %v, %v", needs.Rights, err)
	}
}

func TestRightsOfIterators(t *testing.T) {
	task := &ebpf.ProgramSpec{SectionName: "iter/task", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter}
	o := &Object{Spec: &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"dump": task}}}
	needs, err := o.Needs()
	if err != nil || !needs.Rights.HostPID || needs.Rights.String() != "BPF+PERFMON, hostPID" {
		t.Errorf("needs %v, %v", needs.Rights, err)
	}
	without := needs.Rights
	without.HostPID = false
	if without.Equal(needs.Rights) {
		t.Error("rights with and without hostPID are equal")
	}
}

func TestRightsOfTracing(t *testing.T) {
	for _, tt := range []struct {
		section string
		typ     ebpf.ProgramType
		attach  ebpf.AttachType
		want    string
	}{
		{"kprobe/do_unlinkat", ebpf.Kprobe, 0, "BPF+PERFMON"},
		{"kprobe.multi/vfs_*", ebpf.Kprobe, ebpf.AttachTraceKprobeMulti, "BPF+PERFMON, /sys/kernel/tracing (read-only)"},
		{"ksyscall/unlinkat", ebpf.Kprobe, 0, "BPF+PERFMON"},
		{"fexit/do_unlinkat", ebpf.Tracing, ebpf.AttachTraceFExit, "BPF+PERFMON"},
		{"lsm/file_open", ebpf.LSM, ebpf.AttachLSMMac, "BPF+PERFMON, /sys/kernel/security (read-only)"},
		{"lsm_cgroup/socket_bind", ebpf.LSM, ebpf.AttachLSMCgroup, "BPF+PERFMON, /sys/fs/cgroup (read-only), /sys/kernel/security (read-only)"},
	} {
		p := &ebpf.ProgramSpec{Name: "probe", SectionName: tt.section, Type: tt.typ, AttachType: tt.attach}
		o := &Object{Spec: &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"probe": p}}}
		if needs, err := o.Needs(); err != nil || needs.Rights.String() != tt.want || o.Exclusive() != "" || o.OnInterface() {
			t.Errorf("%s: needs %v, %v, want %s", tt.section, needs.Rights, err, tt.want)
		}
	}
}

func TestConfigVerify(t *testing.T) {
	p, _ := inspectPackage(t, "event-one")
	spec := &Spec{Name: "greeter", Version: "1.0.0"}
	fresh := func() *Config {
		c, err := NewConfig(spec, HostPlatform(), p, BuildFacts{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeConfig(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, back); diff != "" {
			t.Fatalf("round trip (-want +got):\n%s", diff)
		}
		return back
	}
	if err := fresh().Verify(p); err != nil {
		t.Errorf("an honest config is refused: %v", err)
	}
	asking := &Spec{Name: "greeter", Carry: Carry{Maps: []string{"nothing"}}}
	if _, err := NewConfig(asking, HostPlatform(), p, BuildFacts{}); KindOf(err) != KindUsage || !strings.Contains(err.Error(), "`carry` of ebpm.yaml: map nothing") {
		t.Errorf("a map to be carried that does not exist: %v", err)
	}
	for name, lie := range map[string]func(*Config){
		"fewer rights":  func(c *Config) { c.Needs.Rights.Capabilities = nil },
		"more rights":   func(c *Config) { c.Needs.Rights.HostNetwork = true },
		"other section": func(c *Config) { c.Programs[0].Section = "xdp" },
		"no program":    func(c *Config) { c.Programs = nil },
		"fewer helpers": func(c *Config) { c.Needs.Features.Helpers = c.Needs.Features.Helpers[1:] },
		"no BTF":        func(c *Config) { c.Needs.Features.BTF = false },
	} {
		c := fresh()
		lie(c)
		if err := c.Verify(p); KindOf(err) != KindUnverified {
			t.Errorf("%s: error %v, want one of KindUnverified", name, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	for _, data := range readPackages(f) {
		p, err := DecodePackage(data)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.Object)
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		if o, err := Inspect(object); err == nil {
			_, _ = o.Needs()
			o.MemoryBytes(4)
			o.Exclusive()
		}
	})
}

func TestColumnsOfAnonymousMembers(t *testing.T) {
	p, o := inspectPackage(t, "members")
	columns := o.Columns(&p.Meta)
	if len(columns) == 0 || slices.Contains(columns, "(anon)") || slices.Contains(columns, "") {
		t.Errorf("columns %q", columns)
	}
	if len(columns) < len(p.Meta.ExportTypes[0].Members) {
		t.Errorf("%d columns of %d members", len(columns), len(p.Meta.ExportTypes[0].Members))
	}
	if p, o := inspectPackage(t, "empty"); o.Columns(&p.Meta) != nil {
		t.Error("columns of a package that exports nothing")
	}
	p, o = inspectPackage(t, "event-one")
	p.Meta.Skeleton.Maps[0].Sample = &Sample{Interval: 1}
	if o.Columns(&p.Meta) == nil {
		t.Error("no columns of a package with a ring buffer beside what is sampled")
	}
	for _, m := range o.Spec.Maps {
		m.Type = ebpf.Hash
	}
	if o.Columns(&p.Meta) != nil {
		t.Error("columns of a package whose maps are sampled")
	}
}

func TestCheckMaps(t *testing.T) {
	_, o := inspectPackage(t, "event-one")
	if err := o.CheckMaps(); err != nil {
		t.Errorf("small maps are refused: %v", err)
	}
	for _, m := range o.Spec.Maps {
		m.MaxEntries, m.ValueSize = 1<<32-1, 1<<32-1
	}
	if err := o.CheckMaps(); KindOf(err) != KindUnverified {
		t.Errorf("error %v, want one of KindUnverified", err)
	}
}
