// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// mkdir calls mkdirat, which fails without having changed anything.
func mkdir() error {
	if err := unix.Mkdirat(unix.AT_FDCWD, "/proc/ebpm/test", 0o700); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mkdirat: %w", err)
	}
	return nil
}

// confine leaves the thread that attaches the capabilities that the table of
// rights gives to the hook, and no others.
func (h *hookTest) confine(t *testing.T) {
	t.Helper()
	_, spec, err := h.plan(t)
	if err != nil {
		t.Fatal(err)
	}
	h.enter = onlyRights(t, spec)
}

// onlyRights returns what leaves a thread the capabilities that the table of
// rights gives to the hooks of an object.
func onlyRights(t *testing.T, spec *ebpf.CollectionSpec) func() {
	t.Helper()
	needs, err := (&manifest.Object{Spec: spec}).Needs()
	if err != nil {
		t.Fatal(err)
	}
	var keep uint64
	for _, name := range needs.Rights.Capabilities {
		n, ok := map[string]int{"BPF": unix.CAP_BPF, "PERFMON": unix.CAP_PERFMON}[name]
		if !ok {
			t.Fatalf("the object needs CAP_%s", name)
		}
		keep |= 1 << n
	}
	return func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{
			{Effective: uint32(keep), Permitted: uint32(keep)},
			{Effective: uint32(keep >> 32), Permitted: uint32(keep >> 32)},
		}
		if err := unix.Capset(&header, &data[0]); err != nil {
			t.Error(err)
		}
	}
}

// wantRefusal fails unless err is one of the kernel's limits, names its cause,
// and advises.
func wantRefusal(t *testing.T, err error, cause, advice string) {
	t.Helper()
	if manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), cause) || !strings.Contains(manifest.AdviceOf(err), advice) {
		t.Errorf("got %v (kind %d, advice %q), want %q (advice %q)", err, manifest.KindOf(err), manifest.AdviceOf(err), cause, advice)
	}
}

// need skips on a kernel that cannot attach h.
func need(t *testing.T, h hookTest) {
	t.Helper()
	in, err := h.start(t, io.Discard, func() error { return nil })
	if err == nil {
		err = in.close()
	}
	if err != nil {
		skipLacking(t, h.section, err)
		t.Fatal(err)
	}
}

func TestKprobe(t *testing.T) {
	h := hookTest{section: "kprobe/do_mkdirat", typ: ebpf.Kprobe, trigger: mkdir}
	need(t, h)
	confinable := !perfNeedsAdmin(t) || features.HaveBPFLinkKprobeMulti() == nil
	if !confinable {
		h.confine(t)
		wantRefusal(t, h.refused(t), "do_mkdirat: ", "sysctl kernel.perf_event_paranoid=2")
		h.enter = nil
	}
	for _, section := range []string{"kprobe/do_mkdirat", "?kretprobe/do_mkdirat", "ksyscall/mkdirat", "kretsyscall/mkdirat"} {
		h.section = section
		if confinable {
			h.confine(t)
		}
		want := "do_mkdirat"
		if strings.Contains(section, "syscall") {
			want = syscallPrefixes[runtime.GOARCH] + "sys_mkdirat"
		}
		if target := h.fires(t); target != want {
			t.Errorf("%s: attached to %s", section, target)
		}
	}
	for _, tt := range []struct{ section, cause, advice string }{
		{"kprobe/do_mkdirta", "this kernel has no function do_mkdirta", "There is do_mkdirat."},
		{"kprobe/nothing_of_that_name", "this kernel has no function nothing_of_that_name", "The compiler may have inlined it"},
		{"ksyscall/mkdiratt", "this kernel has no system call mkdiratt (function ", "sys_NAME"},
	} {
		h.section = tt.section
		wantRefusal(t, h.refused(t), tt.cause, tt.advice)
	}
}

// perfNeedsAdmin reports whether the kernel gives perf events to CAP_SYS_ADMIN only.
func perfNeedsAdmin(t *testing.T) bool {
	t.Helper()
	may := make(chan bool)
	go func() {
		runtime.LockOSThread() // not given back: it has no capabilities
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
		}
		may <- mayOpenPerfEvents()
	}()
	return !<-may
}

// TestKprobeOffset finds the instructions of a function by trying.
func TestKprobeOffset(t *testing.T) {
	need(t, hookTest{section: "kprobe/do_mkdirat", typ: ebpf.Kprobe})
	h := hookTest{typ: ebpf.Kprobe, trigger: mkdir}
	// The kernel says of an offset inside an instruction that it is none.
	refused := 0
	for offset := 1; offset < 16; offset++ {
		target := fmt.Sprintf("do_mkdirat+%#x", offset)
		h.section = "kprobe/" + target
		in, err := h.start(t, io.Discard, h.trigger)
		if err != nil {
			wantRefusal(t, err, target+": the kernel takes no probe at that offset", "instruction")
			refused++
			continue
		}
		if err := in.close(); err != nil {
			t.Error(err)
		}
		if got := h.fires(t); got != target {
			t.Errorf("attached to %s, not %s", got, target)
		}
		if refused == 0 {
			t.Error("no offset was refused")
		}
		return
	}
	t.Error("no offset was taken")
}

func TestBlacklistedKprobe(t *testing.T) {
	const blacklisted = "asm_exc_int3"
	need(t, hookTest{section: "kprobe/do_mkdirat", typ: ebpf.Kprobe})
	h := hookTest{section: "kprobe/" + blacklisted, typ: ebpf.Kprobe}
	wantRefusal(t, h.refused(t), blacklisted+": the kernel lets nobody probe that function", "/sys/kernel/debug/kprobes/blacklist")
}

func TestKprobeSections(t *testing.T) {
	for _, tt := range []struct {
		section string
		attach  ebpf.AttachType
		want    string // what is wrong; "" is nothing
	}{
		{"kprobe", 0, `it names no function; write SEC("kprobe/FUNCTION"), such as kprobe/do_unlinkat`},
		{"kprobe/", 0, "it names no function"},
		{"kretprobe", 0, `it names no function; write SEC("kretprobe/FUNCTION")`},
		{"kretprobe/vfs_read+4", 0, "a kretprobe has no offset"},
		{"kprobe/vfs_read+x", 0, `the offset "x" is no number`},
		{"kprobe/vfs_read+-1", 0, `the offset "-1" is no number`},
		{"kprobe/vfs_read+0x10", 0, ""},
		{"kprobe/foo.isra.0", 0, ""},
		{"kprobe/a b", 0, `"a b" is no name of a kernel function`},
		{"kprobe/+1", 0, `"" is no name`},
		{"kprobe/0read", 0, `"0read" is no name`},
		{"kprobe.multi", ebpf.AttachTraceKprobeMulti, `it names no functions; write SEC("kprobe.multi/PATTERN")`},
		{"kprobe.multi/vfs_*", ebpf.AttachTraceKprobeMulti, ""},
		{"kprobe.multi/?fs_[rw]*", ebpf.AttachTraceKprobeMulti, "is no pattern of names"},
		{"kretprobe.multi/*", ebpf.AttachTraceKprobeMulti, ""},
		{"kprobe.session/vfs_read", ebpf.AttachTraceKprobeSession, ""},
		{"ksyscall", 0, `it names no system call; write SEC("ksyscall/NAME")`},
		{"kretsyscall/un-link", 0, `"un-link" is no name of a system call`},
		{"fentry", ebpf.AttachTraceFEntry, `it names no function; write SEC("fentry/FUNCTION")`},
		{"fexit.s/", ebpf.AttachTraceFExit, `it names no function; write SEC("fexit.s//FUNCTION")`},
		{"fmod_ret/a+1", ebpf.AttachModifyReturn, `"a+1" is no name of a kernel function`},
		{"lsm", ebpf.AttachLSMMac, `it names no hook; write SEC("lsm/HOOK")`},
		{"lsm.s/a b", ebpf.AttachLSMMac, `"a b" is no name of an LSM hook`},
		{"syscall", 0, "a program of type syscall is attached to nothing"},
	} {
		h := hookTest{section: tt.section, typ: ebpf.Kprobe, attach: tt.attach}
		_, _, err := h.plan(t)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.section, err, tt.want)
		}
	}
	if slices.Contains(hookNames(), "syscall") {
		t.Error("programs of type syscall are said to be attached")
	}
}

func TestKretprobeMulti(t *testing.T) {
	h := hookTest{section: "kretprobe.multi/do_mkdirat", typ: ebpf.Kprobe, attach: ebpf.AttachTraceKprobeMulti, trigger: mkdir}
	need(t, h)
	h.confine(t)
	h.fires(t)
}

func TestKprobeMulti(t *testing.T) {
	h := hookTest{section: "kprobe.multi/do_mkdirat", typ: ebpf.Kprobe, attach: ebpf.AttachTraceKprobeMulti, trigger: mkdir}
	need(t, h)
	for section, want := range map[string]string{
		"kprobe.multi/do_mkdirat":    "do_mkdirat",
		"kretprobe.multi/do_mkdirat": "do_mkdirat",
		"kprobe.multi/do_mkdira*":    "do_mkdira* (functions: 1)",
		"kretprobe.multi/do_?kdirat": "do_?kdirat (functions: 1)",
		"kprobe.multi/*_mkdirat":     "",
		"kprobe.multi/do_mk*":        "",
	} {
		h.section = section
		h.confine(t)
		target := h.fires(t)
		if want == "" && (!strings.Contains(target, " (functions: ") || strings.HasSuffix(target, "(functions: 1)")) || want != "" && target != want {
			t.Errorf("%s: attached to %s", section, target)
		}
	}
	for _, tt := range []struct{ target, cause, advice string }{
		{"do_mkdirta", "this kernel has no function do_mkdirta", "There is do_mkdirat."},
		{"no_*_such_?", "no function of this kernel that can be traced matches no_*_such_?", "available_filter_functions"},
		{"asm_exc_int3", "the kernel lets nobody trace function asm_exc_int3", "available_filter_functions"},
	} {
		h.section = "kprobe.multi/" + tt.target
		wantRefusal(t, h.refused(t), tt.cause, tt.advice)
	}
}

// TestKprobeMultiByName attaches as on kernels that hide the addresses.
func TestKprobeMultiByName(t *testing.T) {
	need(t, hookTest{section: "kprobe.multi/do_mkdirat", typ: ebpf.Kprobe, attach: ebpf.AttachTraceKprobeMulti})
	f, err := os.Open(tracefs() + "/available_filter_functions")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names, err := traceableNames(f, "*_mkdirat")
	if err != nil || len(names) < 2 || !slices.Contains(names, "do_mkdirat") {
		t.Fatalf("%q, %v", names, err)
	}
}

func TestKprobeSession(t *testing.T) {
	h := hookTest{section: "kprobe.session/do_mkdirat", typ: ebpf.Kprobe, attach: ebpf.AttachTraceKprobeSession, trigger: mkdir}
	h.confine(t)
	if target := h.fires(t); target != "do_mkdirat" {
		t.Errorf("attached to %s", target)
	}
}

func TestFentry(t *testing.T) {
	need(t, hookTest{section: "fentry/do_mkdirat", typ: ebpf.Tracing, attach: ebpf.AttachTraceFEntry, to: "do_mkdirat"})
	for _, tt := range []struct {
		section, target string
		attach          ebpf.AttachType
		trigger         func() error
	}{
		{"fentry", "do_mkdirat", ebpf.AttachTraceFEntry, mkdir},
		{"fexit", "do_mkdirat", ebpf.AttachTraceFExit, mkdir},
		{"fmod_ret", "security_inode_getattr", ebpf.AttachModifyReturn, func() error {
			_, err := os.Stat("/proc")
			return err
		}},
	} {
		h := hookTest{section: tt.section + "/" + tt.target, typ: ebpf.Tracing, attach: tt.attach, trigger: tt.trigger, continuous: tt.section == "fmod_ret"}
		h.confine(t)
		if target := h.fires(t); target != tt.target {
			t.Errorf("%s: attached to %s", tt.section, target)
		}
	}
	for _, tt := range []struct {
		section, target string
		attach          ebpf.AttachType
		cause, advice   string
	}{
		{"fentry", "do_mkdirta", ebpf.AttachTraceFEntry, "this kernel has no function do_mkdirta", "There is do_mkdirat."},
		{"fexit", "no_such_thing", ebpf.AttachTraceFExit, "this kernel has no function no_such_thing", "The compiler may have inlined it"},
		{"fmod_ret", "do_mkdirat", ebpf.AttachModifyReturn, "do_mkdirat", "fmod_ret takes functions whose result the kernel lets programs change"},
		{"fentry.s", "do_mkdirat", ebpf.AttachTraceFEntry, "do_mkdirat", "take the section without .s"},
		{"fentry", "asm_exc_int3", ebpf.AttachTraceFEntry, "asm_exc_int3", ""},
	} {
		h := hookTest{section: tt.section + "/" + tt.target, typ: ebpf.Tracing, attach: tt.attach, sleeps: strings.HasSuffix(tt.section, ".s")}
		err := h.refused(t)
		wantRefusal(t, err, tt.cause, tt.advice)
	}
}

// runFentryTest makes the kernel call its functions for tests.
func runFentryTest() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: "bpf_fentry_test2",
		License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return err
	}
	defer prog.Close()
	_, err = prog.Run(&ebpf.RunOptions{})
	return err
}

// TestSleepableFentry attaches to a function that the kernel has for tests, and
// calls when a tracing program is tested.
func TestSleepableFentry(t *testing.T) {
	const target = "bpf_fentry_test1"
	need(t, hookTest{section: "fentry/" + target, typ: ebpf.Tracing, attach: ebpf.AttachTraceFEntry, to: target})
	for section, attach := range map[string]ebpf.AttachType{"fentry.s": ebpf.AttachTraceFEntry, "fexit.s": ebpf.AttachTraceFExit, "fmod_ret.s": ebpf.AttachModifyReturn} {
		h := hookTest{section: section + "/" + target, typ: ebpf.Tracing, attach: attach, sleeps: true, trigger: runFentryTest}
		t.Run(section, func(t *testing.T) {
			h.confine(t)
			if got := h.fires(t); got != target {
				t.Errorf("attached to %s", got)
			}
		})
	}
}

func TestLSMCgroup(t *testing.T) {
	// A handover makes sockets, too.
	h := hookTest{section: "lsm_cgroup/socket_create", typ: ebpf.LSM, attach: ebpf.AttachLSMCgroup, returns: 1, continuous: true}
	need(t, h)
	h.trigger = func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
	h.confine(t)
	if target := h.fires(t); target != "socket_create in "+cgroup2() {
		t.Errorf("attached to %s", target)
	}
	h.section = "lsm_cgroup/no_such_hook"
	wantRefusal(t, h.refused(t), "this kernel has no LSM hook no_such_hook", "each with bpf_lsm_ in front")
	h.section, h.returns = "lsm_cgroup/socket_create", 7
	if err := h.refused(t); !strings.Contains(err.Error(), "program probe: load program: ") || !strings.Contains(fmt.Sprintf("%+v", err), "R0") {
		t.Errorf("a program that returns 7: %+v", err)
	}
}

// openComm opens a file.
func openComm() error {
	f, err := os.Open("/proc/self/comm")
	if err != nil {
		return err
	}
	return f.Close()
}

func TestLSM(t *testing.T) {
	need(t, hookTest{section: "lsm/path_mkdir", typ: ebpf.LSM, attach: ebpf.AttachLSMMac})
	for _, section := range []string{"lsm", "lsm.s"} {
		h := hookTest{section: section + "/file_open", typ: ebpf.LSM, attach: ebpf.AttachLSMMac, trigger: openComm, continuous: true}
		h.sleeps = section == "lsm.s"
		h.confine(t)
		if target := h.fires(t); target != "file_open" {
			t.Errorf("%s: attached to %s", section, target)
		}
	}
	for _, tt := range []struct {
		target        string
		sleeps        bool
		cause, advice string
	}{
		{"no_such_hook", false, "this kernel has no LSM hook no_such_hook", "each with bpf_lsm_ in front"},
		{"task_free", true, "task_free", "take the section without .s"},
	} {
		h := hookTest{section: "lsm/" + tt.target, typ: ebpf.LSM, attach: ebpf.AttachLSMMac, sleeps: tt.sleeps}
		wantRefusal(t, h.refused(t), tt.cause, tt.advice)
	}
}

// TestRunTracing runs what clang made of the macros of bpf_tracing.h, with the
// rights of a Pod and without tracefs.
func TestRunTracing(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		act  func() error
		want []string // events without this process's number
	}{
		"kprobe":   {mkdir, []string{`"ret":-100,"what":"/proc/ebpm/test"`, `"ret":-2,"what":"kretprobe"`}},
		"ksyscall": {mkdir, []string{`"ret":448,"what":"/proc/ebpm/test"`, `"ret":-2,"what":"kretsyscall"`}},
		"fentry":   {mkdir, []string{`"ret":448,"what":"/proc/ebpm/test"`, `"ret":-2,"what":"fexit"`}},
		"lsm": {func() error {
			if err := unix.Mkdir(dir+"/ebpm-denied", 0o700); !errors.Is(err, unix.EPERM) {
				return fmt.Errorf("mkdir: %w", err)
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}, []string{`"ret":0,"what":"ebpm-denied"`, `"ret":1,"what":"lsm_cgroup"`}},
	} {
		t.Run(name, func(t *testing.T) {
			pkg, spec := readPackage(t, "../tracing/"+name)
			drop := onlyRights(t, spec)
			if spec.Programs["enter"] != nil && spec.Programs["enter"].Type == ebpf.Kprobe && perfNeedsAdmin(t) && features.HaveBPFLinkKprobeMulti() != nil {
				drop = func() {}
			}
			s := &session{t: t, beforehand: func() {
				if err := errors.Join(
					unix.Unshare(unix.CLONE_NEWNS),
					unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
					unix.Mount("none", "/sys/kernel/tracing", "tmpfs", unix.MS_RDONLY, ""),
				); err != nil {
					t.Error(err)
				}
				drop()
			}}
			s.begin(Options{Package: pkg, JSON: true})
			if err := tt.act(); err != nil {
				t.Error(err)
			}
			out := s.end()
			for _, want := range tt.want {
				if line := fmt.Sprintf("{\"pid\":%d,%s}\n", os.Getpid(), want); strings.Count(out, line) != 1 {
					t.Errorf("printed %s, want %s", out, line)
				}
			}
		})
	}
}

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"vfs_read", "vfs_read", true}, {"vfs_read", "vfs_reads", false}, {"vfs_read", "vfs_rea", false},
		{"*", "", true}, {"*", "a", true}, {"", "", true}, {"", "a", false}, {"?", "", false}, {"?", "a", true}, {"?", "ab", false},
		{"vfs_*", "vfs_", true}, {"vfs_*", "vfs", false}, {"*_read", "vfs_read", true}, {"*_read", "vfs_read_x", false},
		{"*a*b", "xaxbxb", true}, {"*a*b", "xaxbxc", false}, {"a**b", "ab", true}, {"v?s_*t?", "vfs_getattr", true}, {"v?s_*t?", "vfs_getatt", true}, {"v?s_*t?", "vfs_get", false},
	} {
		if got := matches(tt.pattern, []byte(tt.name)); got != tt.want {
			t.Errorf("%q, %q: %v", tt.pattern, tt.name, got)
		}
	}
}

const symbols = `ffffffff81000000 T _stext
ffffffff81000010 t helper
ffffffff81000020 t helper
ffffffff81000030 T do_mkdirat
ffffffff81000040 t do_unlinkat.isra.0
ffffffff81000050 D a_variable
ffffffff81000060 W weak
ffffffffc0000000 t helper	[amodule]
broken line
`

func TestNearFunctions(t *testing.T) {
	for name, want := range map[string]string{
		"do_unlinkat": "do_unlinkat.isra.0", "do_mkdira": "do_mkdirat", "do_mkdiratt": "do_mkdirat", "do_mkdirta": "do_mkdirat", "do_mkdurat": "do_mkdirat",
		"mkdir": "do_mkdirat", "nothing": "", "a_variabl": "", "x": "",
	} {
		if got := strings.Join(nearFunctions(strings.NewReader(symbols), name), " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestTraceableLists(t *testing.T) {
	names, err := traceableNames(strings.NewReader("helper\nhelper\ndo_mkdirat\nhelper_of [amodule]\n__ftrace_invalid_address___80\n"), "*e*")
	if err != nil || fmt.Sprint(names) != "[helper]" {
		t.Errorf("names %q, %v", names, err)
	}
	addresses, err := addressesOf(strings.NewReader(symbols), names)
	if err != nil || fmt.Sprintf("%x", addresses) != "[ffffffff81000010 ffffffff81000020]" {
		t.Errorf("addresses %x, %v", addresses, err)
	}
	hidden, err := addressesOf(strings.NewReader("0000000000000000 t helper\n"), names)
	if err != nil || len(hidden) != 0 {
		t.Errorf("addresses that are hidden: %x, %v", hidden, err)
	}
	addresses, err = traceableAddresses(strings.NewReader("ffffffff81000020 helper\nffffffff81000010 helper\nffffffffc0000000 helper [amodule]\nffffffff81000030 do_mkdirat\nffffffff81000099 __ftrace_invalid_address___80\n"), "*e*")
	if err != nil || fmt.Sprintf("%x", addresses) != "[ffffffff81000010 ffffffff81000020 ffffffffc0000000]" {
		t.Errorf("addresses %x, %v", addresses, err)
	}
	if _, err := traceableAddresses(strings.NewReader("x helper\n"), "*"); err == nil {
		t.Error("an address that is no number is read")
	}
}

func FuzzKernelFunctions(f *testing.F) {
	f.Add([]byte(symbols), "do_mkdira*")
	f.Fuzz(func(t *testing.T, text []byte, pattern string) {
		nearFunctions(bytes.NewReader(text), pattern)
		_, _ = traceableAddresses(bytes.NewReader(text), pattern)
		if names, err := traceableNames(bytes.NewReader(text), pattern); err == nil {
			_, _ = addressesOf(bytes.NewReader(text), names)
		}
	})
}
