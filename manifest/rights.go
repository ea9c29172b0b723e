// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Hook is a place in the kernel that a program attaches to.
type Hook string

// The hooks, by the words that are their ELF sections' prefixes.
const (
	HookTracepoint    Hook = "tracepoint"
	HookRawTracepoint Hook = "raw_tp"
	HookTPBTF         Hook = "tp_btf"
	HookPerfEvent     Hook = "perf_event"
	HookIter          Hook = "iter"
	HookKprobe        Hook = "kprobe"
	HookKprobeMulti   Hook = "kprobe.multi"
	HookKsyscall      Hook = "ksyscall"
	HookFentry        Hook = "fentry"
	HookLSM           Hook = "lsm"
	HookLSMCgroup     Hook = "lsm_cgroup"
	HookUprobe        Hook = "uprobe"
	HookXDP           Hook = "xdp"
	HookTC            Hook = "tc"
	HookCgroup        Hook = "cgroup"
	HookSockOps       Hook = "sockops"
	HookSocket        Hook = "socket"
	HookSKLookup      Hook = "sk_lookup"
	HookSKMsg         Hook = "sk_msg"
	HookSKSKB         Hook = "sk_skb"
	HookFlowDissector Hook = "flow_dissector"
	HookNetfilter     Hook = "netfilter"
	HookNetkit        Hook = "netkit"
	HookStructOps     Hook = "struct_ops"
	HookFreplace      Hook = "freplace"
)

// Needs is what an object asks of the kernel and of whoever starts it.
type Needs struct {
	Rights   Rights   `json:"rights"`
	Features Features `json:"features"`
}

// Features are the kernel features that an object uses, sorted.
type Features struct {
	ProgramTypes []string `json:"programTypes"`
	MapTypes     []string `json:"mapTypes"`
	AttachTypes  []string `json:"attachTypes"`
	// Helpers are kernel functions as cilium/ebpf spells them (FnTracePrintk).
	Helpers []string `json:"helpers"`
	// BTF is true when the object is relocated against the kernel's types
	// (CO-RE), so that the kernel's BTF must be there.
	BTF bool `json:"btf"`
}

func (f Features) equal(g Features) bool {
	return slices.Equal(f.ProgramTypes, g.ProgramTypes) && slices.Equal(f.MapTypes, g.MapTypes) &&
		slices.Equal(f.AttachTypes, g.AttachTypes) && slices.Equal(f.Helpers, g.Helpers) && f.BTF == g.BTF
}

// Rights are what a runner must be allowed, beyond nothing.
type Rights struct {
	// Capabilities are without CAP_, sorted.
	Capabilities []string `json:"capabilities"`
	// HostNetwork is for hooks on interfaces: without it they would attach to
	// those of the Pod.
	HostNetwork bool `json:"hostNetwork,omitempty"`
	// HostPID is for hooks that see processes: without it they would see those
	// of the Pod, by its numbers.
	HostPID bool `json:"hostPID,omitempty"`
	// Mounts are folders of the node, sorted by path.
	Mounts []Mount `json:"mounts,omitempty"`
}

// Mount is a folder of the node that a runner sees, always read-only.
type Mount struct {
	HostPath  string `json:"hostPath"`
	MountPath string `json:"mountPath"`
}

// Equal reports whether two rights allow the same.
func (r Rights) Equal(s Rights) bool {
	return slices.Equal(r.Capabilities, s.Capabilities) && r.HostNetwork == s.HostNetwork && r.HostPID == s.HostPID && slices.Equal(r.Mounts, s.Mounts)
}

// with returns what r and s allow together.
func (r Rights) with(s Rights) Rights {
	capabilities := slices.Concat(r.Capabilities, s.Capabilities)
	slices.Sort(capabilities)
	mounts := slices.Concat(r.Mounts, s.Mounts)
	slices.SortFunc(mounts, func(a, b Mount) int { return strings.Compare(a.HostPath, b.HostPath) })
	return Rights{
		Capabilities: slices.Compact(capabilities),
		HostNetwork:  r.HostNetwork || s.HostNetwork,
		HostPID:      r.HostPID || s.HostPID,
		Mounts:       slices.Compact(mounts),
	}
}

// String returns r in one line, for plans and errors.
func (r Rights) String() string {
	words := []string{strings.Join(r.Capabilities, "+")}
	if r.HostNetwork {
		words = append(words, "hostNetwork")
	}
	if r.HostPID {
		words = append(words, "hostPID")
	}
	for _, m := range r.Mounts {
		words = append(words, m.HostPath+" (read-only)")
	}
	return strings.Join(words, ", ")
}

// HostRoot is where a runner in a Pod finds the node's files.
const HostRoot = "/host"

var (
	// The format and the id of a tracepoint are files of tracefs.
	mountTracefs = Mount{HostPath: "/sys/kernel/tracing", MountPath: "/sys/kernel/tracing"}
	// A uprobe names a file of the node.
	mountHostRoot = Mount{HostPath: "/", MountPath: HostRoot}
	// Before Linux 6.8 only a file of securityfs tells which security modules are
	// active.
	mountSecurityfs = Mount{HostPath: "/sys/kernel/security", MountPath: "/sys/kernel/security"}
	// The root cgroup is a folder. Attaching to it writes nothing there.
	mountCgroup = Mount{HostPath: CgroupRoot, MountPath: CgroupRoot}
)

// hookRights is the one table of rights: what a hook that this version attaches
// needs. A hook without a row is refused.
var hookRights = map[Hook]struct {
	rights Rights
	// before adds a capability on kernels older than a version.
	before map[string]string
	// tracing is the capability that the hook's programs need as soon as they
	// call a helper that reads kernel memory or writes to the trace pipe, or
	// compute with pointers.
	tracing string
	// onInterface is true of hooks on a network interface that users may choose.
	onInterface bool
}{
	// BPF loads, PERFMON lets a program read the kernel's memory.
	HookTracepoint:    {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountTracefs}}},
	HookRawTracepoint: {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}}},
	HookTPBTF:         {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}}},
	HookPerfEvent:     {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}}},
	HookIter:          {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}, HostPID: true}},
	// A kprobe is a perf event, for which PERFMON is enough. Kernels of Debian and
	// Ubuntu want SYS_ADMIN where perf_event_paranoid is above 2: there it becomes a
	// kprobe.multi, which is none.
	HookKprobe:   {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}}},
	HookKsyscall: {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}}},
	// The functions that match a pattern are those that a file of tracefs lists.
	HookKprobeMulti: {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountTracefs}}},
	HookFentry:      {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}}},
	HookLSM:         {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountSecurityfs}}},
	HookLSMCgroup:   {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountCgroup, mountSecurityfs}}},
	// Before uprobe.multi (6.6) a uprobe is a perf event of its own kind, which
	// the kernel gives to SYS_ADMIN only.
	HookUprobe: {
		rights: Rights{Capabilities: []string{"BPF", "PERFMON"}, Mounts: []Mount{mountHostRoot}},
		before: map[string]string{"6.6.0": "SYS_ADMIN"},
	},
	// NET_ADMIN attaches to an interface, which must be the node's own.
	HookXDP: {
		rights:      Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, HostNetwork: true},
		tracing:     "PERFMON",
		onInterface: true,
	},
	HookTC: {
		rights:      Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, HostNetwork: true},
		tracing:     "PERFMON",
		onInterface: true,
	},
	// NET_RAW opens the packet socket that is filtered.
	HookSocket: {
		rights:      Rights{Capabilities: []string{"BPF", "NET_RAW"}, HostNetwork: true},
		tracing:     "PERFMON",
		onInterface: true,
	},
	// The network namespace is attached to, not an interface of it.
	HookSKLookup: {
		rights:  Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, HostNetwork: true},
		tracing: "PERFMON",
	},
	// The sockets in a map are those of the node, and so are their namespaces.
	HookSKMsg: {
		rights:  Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, HostNetwork: true},
		tracing: "PERFMON",
	},
	HookSKSKB: {
		rights:  Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, HostNetwork: true},
		tracing: "PERFMON",
	},
	HookFlowDissector: {
		rights:  Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, HostNetwork: true},
		tracing: "PERFMON",
	},
	HookNetfilter: {
		rights:  Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, HostNetwork: true},
		tracing: "PERFMON",
	},
	HookNetkit: {
		rights:      Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, HostNetwork: true},
		tracing:     "PERFMON",
		onInterface: true,
	},
	// Their programs see the kernel's own structs.
	HookStructOps: {rights: Rights{Capabilities: []string{"BPF", "PERFMON"}}},
	// The kernel takes the rights of every program type for a program that may
	// become a part of any, and SYS_ADMIN to open another's program.
	HookFreplace: {rights: Rights{Capabilities: []string{"BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"}}},
	// The kernel counts what acts on cgroups, be it on their devices, as networking.
	HookCgroup: {
		rights:  Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, Mounts: []Mount{mountCgroup}},
		tracing: "PERFMON",
	},
	HookSockOps: {
		rights:  Rights{Capabilities: []string{"BPF", "NET_ADMIN"}, Mounts: []Mount{mountCgroup}},
		tracing: "PERFMON",
	},
}

// Hooks returns the hooks that have a row in the table of rights, sorted.
func Hooks() []Hook {
	return slices.Sorted(maps.Keys(hookRights))
}

// HookOf returns the hook of a program. The error of a hook that this version
// does not attach is of [KindPrecondition] and names it.
func HookOf(p *ebpf.ProgramSpec) (Hook, error) {
	section := strings.TrimPrefix(p.SectionName, "?")
	prefix, _, _ := strings.Cut(section, "/")
	switch p.Type {
	case ebpf.TracePoint:
		return HookTracepoint, nil
	case ebpf.RawTracepoint, ebpf.RawTracepointWritable:
		return HookRawTracepoint, nil
	case ebpf.Tracing:
		switch p.AttachType {
		case ebpf.AttachTraceRawTp:
			return HookTPBTF, nil
		case ebpf.AttachTraceIter:
			return HookIter, nil
		case ebpf.AttachTraceFEntry, ebpf.AttachTraceFExit, ebpf.AttachModifyReturn:
			return HookFentry, nil
		}
	case ebpf.LSM:
		switch p.AttachType {
		case ebpf.AttachLSMMac:
			return HookLSM, nil
		case ebpf.AttachLSMCgroup:
			return HookLSMCgroup, nil
		}
	case ebpf.PerfEvent:
		return HookPerfEvent, nil
	case ebpf.XDP:
		// The others run behind a redirect, and are not attached to an interface.
		if p.AttachType == ebpf.AttachXDP {
			return HookXDP, nil
		}
	case ebpf.SchedCLS:
		switch prefix {
		case "tc", "tcx", "classifier":
			return HookTC, nil
		case "netkit":
			return HookNetkit, nil
		}
	case ebpf.CGroupSKB:
		// The section cgroup/skb says no direction.
		if prefix == "cgroup_skb" {
			return HookCgroup, nil
		}
	case ebpf.CGroupSock, ebpf.CGroupSockAddr, ebpf.CGroupSockopt, ebpf.CGroupSysctl, ebpf.CGroupDevice:
		return HookCgroup, nil
	case ebpf.SocketFilter:
		return HookSocket, nil
	case ebpf.SkLookup:
		return HookSKLookup, nil
	case ebpf.SockOps:
		return HookSockOps, nil
	case ebpf.SkMsg:
		return HookSKMsg, nil
	case ebpf.SkSKB:
		// The section sk_skb says neither parser nor verdict.
		if p.AttachType != ebpf.AttachNone {
			return HookSKSKB, nil
		}
	case ebpf.FlowDissector:
		return HookFlowDissector, nil
	case ebpf.Netfilter:
		return HookNetfilter, nil
	case ebpf.StructOps:
		return HookStructOps, nil
	case ebpf.Extension:
		return HookFreplace, nil
	case ebpf.Kprobe:
		// uprobes share the kernel's program type with kprobes.
		switch strings.TrimSuffix(prefix, ".s") {
		case "kprobe", "kretprobe":
			return HookKprobe, nil
		case "kprobe.multi", "kretprobe.multi", "kprobe.session":
			return HookKprobeMulti, nil
		case "ksyscall", "kretsyscall":
			return HookKsyscall, nil
		case "uprobe", "uretprobe", "uprobe.multi", "uretprobe.multi", "uprobe.session", "usdt":
			return HookUprobe, nil
		}
	}
	if why := WhyNotAttached(section); why != "" {
		return "", WithKind(KindPrecondition, fmt.Errorf("program %s: section %q: %s", p.Name, section, why), "")
	}
	return "", WithKind(KindPrecondition,
		fmt.Errorf("program %s: section %q: this version of ebpm does not attach %s programs of that section", p.Name, section, p.Type),
		fmt.Sprintf("It attaches: %s.", joinHooks(Hooks())))
}

// notAttached says why a runner does not attach programs of some sections that
// libbpf knows, by their names up to the slash.
var notAttached = map[string]string{
	"action":        `an action belongs to a tc filter of somebody else; write SEC("tc"), whose program says itself what to do with a packet`,
	"lirc_mode2":    "an infrared decoder is attached to a receiver, /dev/lircN, and not by this runner",
	"lwt_in":        lwtIsOfRoute,
	"lwt_out":       lwtIsOfRoute,
	"lwt_seg6local": lwtIsOfRoute,
	"lwt_xmit":      lwtIsOfRoute,
	"sk_reuseport":  "the program is attached to a socket by the process that has the socket (SO_ATTACH_REUSEPORT_EBPF), and to no hook of the kernel",
	"syscall":       "the program has no hook: it runs when a process asks for it (BPF_PROG_RUN)",
}

const lwtIsOfRoute = "the program belongs to a route, and is attached with it: ip route add ... encap bpf"

// WhyNotAttached says why no program of an ELF section is ever attached; "" where
// one may be.
func WhyNotAttached(section string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(section, "?"), "/")
	return notAttached[name]
}

func joinHooks(hooks []Hook) string {
	var words []string
	for _, h := range hooks {
		words = append(words, string(h))
	}
	return strings.Join(words, ", ")
}

// readsKernel reports whether a helper makes the kernel ask for PERFMON.
func readsKernel(helper string) bool {
	for _, prefix := range []string{"FnTracePrintk", "FnTraceVprintk", "FnProbeRead", "FnGetCurrentTask", "FnSnprintf"} {
		if strings.HasPrefix(helper, prefix) {
			return true
		}
	}
	return false
}

// computesPointers reports whether p may add a register to a pointer or take one
// pointer from another. Without PERFMON the verifier refuses both (seen on Linux
// 6.18: "prohibited for !root"), and clang makes such instructions of most code
// that parses packets. Only the verifier knows which register is a pointer, so
// each sum of two registers counts.
func computesPointers(p *ebpf.ProgramSpec) bool {
	for _, ins := range p.Instructions {
		if ins.OpCode.Class() != asm.ALU64Class || ins.OpCode.Source() != asm.RegSource {
			continue
		}
		if op := ins.OpCode.ALUOp(); op == asm.Add || op == asm.Sub {
			return true
		}
	}
	return false
}

// Needs derives what o asks for on a current kernel.
func (o *Object) Needs() (Needs, error) {
	return o.NeedsAt("", nil)
}

// NeedsAt derives what o asks for when the oldest kernel that it is to run on has
// that release, "" being a current one, and its programs have these targets, by
// their names.
func (o *Object) NeedsAt(oldestKernel string, targets map[string][]Target) (Needs, error) {
	capabilities := map[string]bool{}
	mounts := map[Mount]bool{}
	programTypes, mapTypes, attachTypes, helpers := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	var needs Needs
	for _, name := range slices.Sorted(maps.Keys(o.Spec.Programs)) {
		p := o.Spec.Programs[name]
		hook, err := HookOf(p)
		if err != nil {
			return Needs{}, err
		}
		row := hookRights[hook]
		for _, c := range row.rights.Capabilities {
			capabilities[c] = true
		}
		for _, m := range row.rights.Mounts {
			mounts[m] = true
		}
		for version, c := range row.before {
			old, err := olderThan(oldestKernel, version)
			if err != nil {
				return Needs{}, err
			}
			if old {
				capabilities[c] = true
			}
		}
		needs.Rights.HostNetwork = needs.Rights.HostNetwork || row.rights.HostNetwork
		needs.Rights.HostPID = needs.Rights.HostPID || row.rights.HostPID
		for _, t := range targets[name] {
			// The process is one of the node's, by its number there. The kernel
			// shows the root of another's process to tracers only.
			if t.PID == 0 && t.Container == "" {
				continue
			}
			needs.Rights.HostPID = true
			capabilities["SYS_PTRACE"] = true
			// Until then uprobe.multi takes the first thread for the process, and
			// what takes its place is a perf event.
			old, err := olderThan(oldestKernel, "6.10.0")
			if err != nil {
				return Needs{}, err
			}
			if old {
				capabilities["SYS_ADMIN"] = true
			}
		}
		for _, helper := range helpersOf(p) {
			helpers[helper] = true
			if row.tracing != "" && readsKernel(helper) {
				capabilities[row.tracing] = true
			}
		}
		if row.tracing != "" && computesPointers(p) {
			capabilities[row.tracing] = true
		}
		programTypes[p.Type.String()] = true
		if p.AttachType != ebpf.AttachNone {
			attachTypes[p.AttachType.String()] = true
		}
		needs.Features.BTF = needs.Features.BTF || relocates(p)
	}
	for _, m := range o.Spec.Maps {
		mapTypes[m.Type.String()] = true
		// Its reader opens a perf event of each CPU.
		if m.Type == ebpf.PerfEventArray {
			capabilities["PERFMON"] = true
		}
	}
	needs.Rights.Capabilities = sortedKeys(capabilities)
	needs.Rights.Mounts = slices.SortedFunc(maps.Keys(mounts), func(a, b Mount) int { return strings.Compare(a.HostPath, b.HostPath) })
	needs.Features.ProgramTypes = sortedKeys(programTypes)
	needs.Features.MapTypes = sortedKeys(mapTypes)
	needs.Features.AttachTypes = sortedKeys(attachTypes)
	needs.Features.Helpers = sortedKeys(helpers)
	return needs, nil
}

// olderThan reports whether a kernel of that release is older than a version; ""
// is a current one.
func olderThan(release, version string) (bool, error) {
	if release == "" {
		return false, nil
	}
	kernel, err := KernelVersion(release)
	if err != nil {
		return false, err
	}
	return kernel.LessThan(semver.MustParse(version)), nil
}

// Exclusive returns the first program of o whose hook the kernel gives to one
// program at a time, or "". Such a program cannot run beside its successor.
func (o *Object) Exclusive() string {
	for _, name := range slices.Sorted(maps.Keys(o.Spec.Programs)) {
		if exclusive(o.Spec.Programs[name]) {
			return name
		}
	}
	return ""
}

func exclusive(p *ebpf.ProgramSpec) bool {
	switch p.Type {
	// An interface, a network namespace, a priority of netfilter, a name of a
	// struct and a function have one.
	case ebpf.XDP, ebpf.FlowDissector, ebpf.Netfilter, ebpf.StructOps, ebpf.Extension:
		return true
	}
	return false
}

// sortedKeys returns the keys of a set; never nil, so that JSON has a list.
func sortedKeys(set map[string]bool) []string {
	keys := slices.AppendSeq(make([]string, 0, len(set)), maps.Keys(set))
	slices.Sort(keys)
	return keys
}
