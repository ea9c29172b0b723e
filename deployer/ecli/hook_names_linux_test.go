// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TestHookNames says which sections docs/hooks.md must have.
func TestHookNames(t *testing.T) {
	seen := map[string]bool{}
	for _, h := range hooks {
		if h.attach != nil {
			t.Attr("hooks", strings.Join(h.sections, " "))
		}
		for _, name := range h.sections {
			if seen[name] {
				t.Errorf("two hooks have the section %s", name)
			}
			seen[name] = true
		}
	}
}

// maxPriority calls sched_get_priority_max of the C library.
func maxPriority() error { return exec.Command("chrt", "-m").Run() }

// TestSleepableAndFragments is of the names that differ from others of their
// hook by a flag of the program, and of those that no other test attaches.
func TestSleepableAndFragments(t *testing.T) {
	getpgid := func() error { _, err := unix.Getpgid(0); return err }
	netns := func() { newNetns(t) }
	const function = "/libc.so.6:sched_get_priority_max"
	for _, h := range []hookTest{
		{section: "tp/syscalls/sys_enter_getpgid", typ: ebpf.TracePoint, trigger: getpgid},
		{section: "tracepoint/syscalls/sys_enter_getpgid", typ: ebpf.TracePoint, trigger: getpgid},
		{section: "uprobe.s" + function, typ: ebpf.Kprobe, flags: unix.BPF_F_SLEEPABLE, trigger: maxPriority},
		{section: "uretprobe.s" + function, typ: ebpf.Kprobe, flags: unix.BPF_F_SLEEPABLE, trigger: maxPriority},
		{section: "uretprobe.multi.s" + function, typ: ebpf.Kprobe, flags: unix.BPF_F_SLEEPABLE, trigger: maxPriority},
		{section: "raw_tp/task_rename", typ: ebpf.RawTracepoint, trigger: rename, continuous: true},
		{section: "raw_tracepoint/task_rename", typ: ebpf.RawTracepoint, trigger: rename, continuous: true},
		{section: "xdp", typ: ebpf.XDP, attach: ebpf.AttachXDP, returns: 2, options: Options{Interface: "lo"}, enter: netns, trigger: ping},
		{section: "xdp.frags", typ: ebpf.XDP, attach: ebpf.AttachXDP, flags: unix.BPF_F_XDP_HAS_FRAGS, returns: 2, options: Options{Interface: "lo"}, enter: netns, trigger: ping},
	} {
		t.Run(h.section, func(t *testing.T) { h.fires(t) })
	}
}
