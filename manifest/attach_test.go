// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

func TestParseAttach(t *testing.T) {
	for _, tt := range []struct {
		word    string
		want    Attach
		wantErr string
	}{
		{"p=eth0", Attach{"p", "eth0"}, ""},
		{"p=/bin/sh:main,pid=1", Attach{"p", "/bin/sh:main,pid=1"}, ""},
		{"p=", Attach{"p", ""}, ""},
		{"", Attach{}, `"" is not PROGRAM=TARGET`},
		{"eth0", Attach{}, `"eth0" is not PROGRAM=TARGET`},
		{"=eth0", Attach{}, `"=eth0" is not PROGRAM=TARGET`},
		{"p=a\nb", Attach{}, "has a control character"},
		{"p=" + strings.Repeat("x", 4097), Attach{}, "has 4097 bytes, at most 4096"},
	} {
		got, err := ParseAttach(tt.word)
		if tt.wantErr != "" {
			if err == nil || KindOf(err) != KindUsage || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("%q: got %v (kind %d), want %s", tt.word, err, KindOf(err), tt.wantErr)
			}
		} else if err != nil || got != tt.want || got.String() != tt.word {
			t.Errorf("%q: got %+v, %v", tt.word, got, err)
		}
	}
}

// attachable has a program of each kind of target.
func attachable() map[string]*ebpf.ProgramSpec {
	return map[string]*ebpf.ProgramSpec{
		"user":   {SectionName: "uprobe//bin/bash:readline", Type: ebpf.Kprobe},
		"ret":    {SectionName: "uretprobe", Type: ebpf.Kprobe},
		"point":  {SectionName: "tp/sched/sched_switch", Type: ebpf.TracePoint},
		"raw":    {SectionName: "raw_tp/sched_switch", Type: ebpf.RawTracepoint},
		"typed":  {SectionName: "tp_btf/sched_switch", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp},
		"iter":   {SectionName: "iter/task", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter},
		"xdp":    {SectionName: "xdp", Type: ebpf.XDP, AttachType: ebpf.AttachXDP},
		"tc":     {SectionName: "tc/egress", Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXEgress},
		"socket": {SectionName: "socket", Type: ebpf.SocketFilter},
		"group":  {SectionName: "cgroup/connect4", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect},
		"ops":    {SectionName: "sockops", Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps},
		"sample": {SectionName: "perf_event", Type: ebpf.PerfEvent},
		"lookup": {SectionName: "sk_lookup", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup},
		"kernel": {SectionName: "kprobe/vfs_read", Type: ebpf.Kprobe},
		"ext":    {SectionName: "freplace/handle", Type: ebpf.Extension},
		"lsmcg":  {SectionName: "lsm_cgroup/socket_bind", Type: ebpf.LSM, AttachType: ebpf.AttachLSMCgroup},
		"probe":  {SectionName: "usdt/bash:a:b", Type: ebpf.Kprobe},
		"other":  {Name: "other", SectionName: "no_such_hook", Type: ebpf.Kprobe},
	}
}

func TestTargets(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, tt := range []struct {
		attach  string // separated by blanks
		want    map[string][]Target
		wantErr string
	}{
		{"user=/bin/sh:main", map[string][]Target{"user": {{Section: "/bin/sh:main"}}}, ""},
		{"user=libc.so.6:malloc+0x10,pid=7", map[string][]Target{"user": {{Section: "libc.so.6:malloc+0x10", PID: 7}}}, ""},
		{"ret=/a,b:f@V1,container=" + id[:12], map[string][]Target{"ret": {{Section: "/a,b:f@V1", Container: id[:12]}}}, ""},
		{"user=/a,pid=2/b:f,pid=3", map[string][]Target{"user": {{Section: "/a,pid=2/b:f", PID: 3}}}, ""},
		{"user=pid=7 user=pid=8", map[string][]Target{"user": {{PID: 7}, {PID: 8}}}, ""},
		{"user=container=containerd://" + id, map[string][]Target{"user": {{Container: id}}}, ""},
		{"point=syscalls/sys_enter_openat", map[string][]Target{"point": {{Section: "syscalls/sys_enter_openat"}}}, ""},
		{"point=sched:sched_wakeup", map[string][]Target{"point": {{Section: "sched/sched_wakeup"}}}, ""},
		{"raw=sys_enter raw=sys_exit", map[string][]Target{"raw": {{Section: "sys_enter"}, {Section: "sys_exit"}}}, ""},
		{"typed=sched_wakeup", map[string][]Target{"typed": {{Section: "sched_wakeup"}}}, ""},
		{"xdp=eth0,veth* xdp=lo tc=eth[01]", map[string][]Target{"xdp": {{Interface: "eth0"}, {Interface: "veth*"}, {Interface: "lo"}}, "tc": {{Interface: "eth[01]"}}}, ""},
		{"group=system.slice/a.service group=/sys/fs/cgroup/x/ ops=.", map[string][]Target{"group": {{Cgroup: "system.slice/a.service"}, {Cgroup: "/sys/fs/cgroup/x"}}, "ops": {{Cgroup: "."}}}, ""},
		{"sample=cpu-clock@99 sample=@49 sample=page-faults", map[string][]Target{"sample": {{Event: "cpu-clock", Frequency: 99}, {Frequency: 49}, {Event: "page-faults"}}}, ""},
		{"kernel=vfs_write kernel=vfs_open", map[string][]Target{"kernel": {{Section: "vfs_write"}, {Section: "vfs_open"}}}, ""},
		{"ext=7", map[string][]Target{"ext": {{Loaded: "7"}}}, ""},
		{"lsmcg=x", map[string][]Target{"lsmcg": {{Cgroup: "x"}}}, ""},
		{"probe=/bin/sh:a:b,pid=7", map[string][]Target{"probe": {{Section: "/bin/sh:a:b", PID: 7}}}, ""},

		{"nosuch=eth0", nil, "the package has no program nosuch; it has ext, group, iter,"},
		{"lookup=x", nil, "program lookup: a program of the hook sk_lookup takes no target"},
		{"iter=file", nil, "program iter: a program of the hook iter takes no target"},
		{"ext=a ext=b", nil, "has one target"},
		{"other=x", nil, "does not attach"},
		{"xdp=", nil, `program xdp: target "": it is empty`},
		{"xdp=eth0,", nil, "it is empty"},
		{"xdp=eth0 xdp=eth0", nil, `program xdp: target "eth0" is named twice`},
		{"xdp=eth0,eth0", nil, "is named twice"},
		{"typed=a typed=b", nil, "program typed is named twice; a program of the hook tp_btf has one target"},
		{"xdp=a/b", nil, "no network interface has such a name"},
		{"xdp=sixteen_letters_", nil, "at most 15 bytes"},
		{"xdp=veth[", nil, "it is no pattern"},
		{"user=/bin/sh", nil, "is BINARY:FUNCTION"},
		{"user=:f", nil, "is BINARY:FUNCTION"},
		{"user=/bin/sh:", nil, "is BINARY:FUNCTION"},
		{"user=/bin/sh:f,tid=7", nil, "behind the comma goes pid=NUMBER or container=ID"},
		{"user=/bin/sh:f,pid=7,container=0123456789ab", nil, "is no process id"},
		{"user=/bin/sh:f,container=0123456789ab,pid=7", nil, "behind the comma goes"},
		{"user=/bin/sh:f,pid=0", nil, `"0" is no process id`},
		{"user=pid=-1", nil, `"-1" is no process id`},
		{"user=pid=4194305", nil, `"4194305" is no process id`},
		{"user=container=web", nil, `"web" is no container id`},
		{"user=container=" + id + "0", nil, "is no container id"},
		{"point=sched_switch", nil, "a tracepoint is GROUP/NAME"},
		{"group=../x", nil, "there may be no .."},
		{"group=a/../../x", nil, "there may be no .."},
		{"group=/etc", nil, "it is not in /sys/fs/cgroup"},
		{"group=/sys/fs/cgroup2", nil, "it is not in /sys/fs/cgroup"},
		{"sample=@0", nil, `"0" is no number of samples`},
		{"sample=cpu-clock@", nil, `"" is no number of samples`},
		{"sample=@1000001", nil, "is no number of samples"},
		{"sample=cycles", nil, `there is no event "cycles"; there are branch-instructions,`},
	} {
		t.Run(tt.attach, func(t *testing.T) {
			var attach []Attach
			for _, word := range strings.Fields(tt.attach) {
				a, err := ParseAttach(word)
				if err != nil {
					t.Fatal(err)
				}
				attach = append(attach, a)
			}
			got, err := Targets(attachable(), "", attach)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("got %v, %v, want %s", got, err, tt.wantErr)
				}
				if kind := KindOf(err); kind != KindUsage && tt.attach != "other=x" {
					t.Errorf("kind %d of %v", kind, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// An interface is that of the programs that are not named.
func TestTargetsOfInterface(t *testing.T) {
	got, err := Targets(attachable(), "eth*,lo", []Attach{{"tc", "eth0"}})
	all := []Target{{Interface: "eth*"}, {Interface: "lo"}}
	if diff := cmp.Diff(map[string][]Target{"xdp": all, "socket": all, "tc": {{Interface: "eth0"}}}, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
	if _, err := Targets(attachable(), "a/b", nil); KindOf(err) != KindUsage || !strings.Contains(err.Error(), `network interface "a/b"`) {
		t.Errorf("got %v", err)
	}
	programs := attachable()
	for _, name := range []string{"xdp", "tc", "socket"} {
		delete(programs, name)
	}
	if _, err := Targets(programs, "eth0", nil); KindOf(err) != KindUsage || !strings.Contains(err.Error(), "no program that is attached to one") {
		t.Errorf("got %v", err)
	}
}

// What has no place is refused before it runs.
func TestObjectTargets(t *testing.T) {
	for _, tt := range []struct {
		program, section string
		typ              ebpf.ProgramType
		extra            Fields
		target, iface    string
		want             string
	}{
		{program: "filter", section: "socket", typ: ebpf.SocketFilter, want: "--attach filter=NAME, or --interface NAME"},
		{program: "filter", section: "socket", typ: ebpf.SocketFilter, iface: "eth0"},
		{program: "filter", section: "socket", typ: ebpf.SocketFilter, target: "eth0"},
		{program: "filter", section: "socket", typ: ebpf.SocketFilter, extra: Fields{"ifindex": []byte("1")}},
		{program: "call", section: "uprobe", typ: ebpf.Kprobe, want: "--attach call=TARGET"},
		{program: "call", section: "uprobe", typ: ebpf.Kprobe, target: "pid=7", want: "--attach call=TARGET"},
		{program: "call", section: "uprobe", typ: ebpf.Kprobe, target: "bash:readline"},
		{program: "call", section: "uprobe/bash:readline", typ: ebpf.Kprobe, target: "pid=7"},
		{program: "point", section: "tracepoint", typ: ebpf.TracePoint, want: "--attach point=TARGET"},
	} {
		o := &Object{Spec: &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{tt.program: {Name: tt.program, SectionName: tt.section, Type: tt.typ}}}}
		m := &Meta{Skeleton: Skeleton{Progs: []ProgMeta{{Name: tt.program, Extra: tt.extra}}}}
		var attach []Attach
		if tt.target != "" {
			attach = []Attach{{tt.program, tt.target}}
		}
		_, err := o.Targets(m, tt.iface, attach)
		if tt.want == "" && err != nil || tt.want != "" && (KindOf(err) != KindUsage || !strings.Contains(AdviceOf(err), tt.want)) {
			t.Errorf("%+v: got %v, advice %q", tt, err, AdviceOf(err))
		}
	}
}

// A probe of one process needs that process in sight, and its root.
func TestRightsOfTargets(t *testing.T) {
	_, o := inspectPackage(t, "run-uprobe")
	for target, want := range map[Target]string{
		{Section: "bash:readline"}:  "BPF+PERFMON, / (read-only)",
		{PID: 7}:                    "BPF+PERFMON+SYS_PTRACE, hostPID, / (read-only)",
		{Container: "0123456789ab"}: "BPF+PERFMON+SYS_PTRACE, hostPID, / (read-only)",
	} {
		needs, err := o.NeedsAt("", map[string][]Target{"on_call": {target}})
		if err != nil || needs.Rights.String() != want {
			t.Errorf("%+v: needs %s, %v, want %s", target, needs.Rights, err, want)
		}
	}
	// uprobe.multi took a process for its first thread.
	for kernel, want := range map[string]bool{"6.8.0-45-generic": true, "6.10.0": false, "6.12.1": false} {
		for _, target := range []Target{{PID: 7}, {Container: "0123456789ab"}, {Section: "bash:readline"}} {
			needs, err := o.NeedsAt(kernel, map[string][]Target{"on_call": {target}})
			want := want && target.Section == ""
			if err != nil || slices.Contains(needs.Rights.Capabilities, "SYS_ADMIN") != want {
				t.Errorf("%+v on %s: needs %s, %v", target, kernel, needs.Rights, err)
			}
		}
	}
}

// The names of the other hooks in the table are those of hooks.
func TestHookTargetsAreNotInterfaces(t *testing.T) {
	for hook := range hookTargets {
		if hookRights[hook].onInterface {
			t.Errorf("the hook %s is in two tables", hook)
		}
	}
}

func FuzzTargets(f *testing.F) {
	for _, seed := range []string{"xdp=eth0,veth*", "user=/bin/sh:main,pid=1", "user=container=0123456789ab", "sample=cpu-clock@99", "group=/sys/fs/cgroup/x", "point=sched:sched_switch", "typed=x"} {
		f.Add(seed, "")
	}
	f.Add("xdp=eth0", "lo")
	programs := attachable()
	f.Fuzz(func(t *testing.T, word, iface string) {
		a, err := ParseAttach(word)
		if err != nil {
			return
		}
		if a.String() != word {
			t.Fatalf("%q became %q", word, a)
		}
		targets, err := Targets(programs, iface, []Attach{a})
		if err != nil {
			return
		}
		list := targets[a.Program]
		if len(list) == 0 {
			t.Fatalf("%q: no target", word)
		}
		for _, target := range list {
			if target == (Target{}) {
				t.Fatalf("%q: a target that says nothing", word)
			}
			if strings.HasPrefix(target.Cgroup, "/") && !strings.HasPrefix(target.Cgroup, CgroupRoot) || strings.Contains("/"+target.Cgroup+"/", "/../") {
				t.Fatalf("%q leads to %s", word, target.Cgroup)
			}
		}
	})
}
