// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// writeTarget writes a program with the probes ebpm:guarded, which fires only
// with its semaphore, and ebpm:twice, at two places; PATH leads to it.
func writeTarget(t *testing.T) (path string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the program that is probed is x86-64 code")
	}
	var notes []byte
	for _, n := range []testNote{
		{progGuarded, 0, progSemaphore, "ebpm\x00guarded\x00" + progArgs + "\x00"},
		{progFirst, 0, 0, "ebpm\x00twice\x00-4@%edi\x00"},
		{progSecond, 0, 0, "ebpm\x00twice\x00-4@%edi -8@16(%rsi)\x00"},
		{progSecond, 0, 0, "ebpm\x00float\x008f@%xmm0\x00"},
		{progSecond, 0, 0, "ebpm\x00unknown\x008@nothing(%rip)\x00"},
	} {
		notes = append(notes, n.bytes()...)
	}
	return installTarget(t, testProgram{notes: notes}.bytes())
}

func installTarget(t *testing.T, program []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(path)+":"+os.Getenv("PATH"))
	return path
}

// runTarget runs the program and returns its exit code: its semaphore.
func runTarget(path string) (int, error) {
	cmd := exec.Command(path)
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// byPerfEvent makes uprobes attach as on kernels before 6.6.
func byPerfEvent(t *testing.T) {
	t.Helper()
	multi := hasUprobeMulti
	hasUprobeMulti = func() bool { return false }
	t.Cleanup(func() { hasUprobeMulti = multi })
}

func TestUserProbes(t *testing.T) {
	path := writeTarget(t)
	type test struct {
		section  string
		sleeps   bool
		want     string // the target
		events   int
		exitCode int
	}
	tests := []test{
		{"usdt/target:ebpm:guarded", false, path + ":ebpm:guarded", 1, 1},
		{"usdt/" + path + ":ebpm:twice", false, path + ":ebpm:twice", 2, 0},
		{"usdt.s/" + path + ":ebpm:guarded", true, path + ":ebpm:guarded", 1, 1},
		{"uprobe/target:first_function", false, path + ":first_function", 1, 0},
		{"uprobe.s/target:first_function", true, path + ":first_function", 1, 0},
		{"uprobe/target:first_function+0xc", false, path + ":first_function+0xc", 1, 0},
		{"uprobe/target:0x10c0", false, path + ":0x10c0", 1, 0},
		{"uretprobe/target:first_function", false, path + ":first_function", 1, 0},
		{"uretprobe.s/target:second_function", true, path + ":second_function", 1, 0},
		{"uretprobe/target:0x10c0", false, path + ":0x10c0", 1, 0},
		{"uprobe.multi/target:second_function", false, path + ":second_function", 1, 0},
		{"uprobe.multi/target:*_function", false, path + ":*_function (2 functions)", 2, 0},
		{"uprobe.multi.s/target:?????_f*", true, path + ":?????_f* (1 functions)", 1, 0},
		{"uretprobe.multi/target:*", false, path + ":* (2 functions)", 2, 0},
	}
	ways := []bool{true, false}
	if !hasUprobeMulti() {
		ways = ways[1:]
	}
	for _, multi := range ways {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("multi=%v/%s", multi, filepath.Base(tt.section)), func(t *testing.T) {
				if !multi {
					byPerfEvent(t)
				}
				h := hookTest{section: tt.section, typ: ebpf.Kprobe, sleeps: tt.sleeps, trigger: func() error {
					code, err := runTarget(path)
					if err == nil && code != tt.exitCode {
						err = fmt.Errorf("exit code %d, want %d", code, tt.exitCode)
					}
					return err
				}}
				if target := h.fires(t); target != tt.want {
					t.Errorf("attached to %s", target)
				}
				if h.printed != tt.events {
					t.Errorf("fired %d times, want %d", h.printed, tt.events)
				}
				if code, err := runTarget(path); code != 0 || err != nil {
					t.Errorf("afterwards: exit code %d, %v", code, err)
				}
			})
		}
	}
}

// TestUprobeSession runs at the entry and at the return.
func TestUprobeSession(t *testing.T) {
	for name, flags := range map[string]uint32{"uprobe.session": 0, "uprobe.session.s": unix.BPF_F_SLEEPABLE} {
		t.Run(name, func(t *testing.T) { testUprobeSession(t, name, flags) })
	}
}

func testUprobeSession(t *testing.T, name string, flags uint32) {
	path := writeTarget(t)
	h := hookTest{section: name + "/target:second_*", typ: ebpf.Kprobe, attach: attachTraceUprobeSession, flags: flags, trigger: func() error {
		_, err := runTarget(path)
		return err
	}}
	if olderThan("6.13") {
		reason := lacking(h.refused(t), kernelRelease(), true)
		if reason != "needs Linux 6.13" {
			t.Errorf("refused with %q", reason)
		}
		t.Attr(hookAttr, h.section+": "+reason)
		return
	}
	if target := h.fires(t); target != path+":second_* (1 functions)" {
		t.Errorf("attached to %s", target)
	}
	if h.printed != 2 {
		t.Errorf("fired %d times", h.printed)
	}
}

// TestUserProbesRefused: each error says what is missing where.
func TestUserProbesRefused(t *testing.T) {
	path := writeTarget(t)
	for section, want := range map[string]string{
		"usdt/target:ebpm:nothing":        path + `: it has no USDT probe ebpm:nothing; it has ["ebpm:guarded" "ebpm:twice" "ebpm:float" "ebpm:unknown"]`,
		"usdt/nosuchtarget:ebpm:x":        "nosuchtarget is in none of",
		"uprobe/target:nothing":           path + ": it has no function nothing",
		"uprobe/target:value":             path + ": it has no function value",
		"uprobe/target:0x0":               path + ": offset 0x0 is in no executable part of it",
		"uprobe.multi/target:*nothing*":   path + ": it has no function that matches *nothing*",
		"uretprobe.multi/target:nothing?": path + ": it has no function that matches nothing?",
	} {
		h := hookTest{section: section, typ: ebpf.Kprobe}
		if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v (kind %d)", section, err, manifest.KindOf(err))
		}
	}
	for section, want := range map[string]string{
		"usdt":              `write SEC("usdt/PATH:PROVIDER:NAME")`,
		"usdt/target":       "it names no probe",
		"usdt/target:x":     "it names no probe",
		"usdt/:provider:x":  "it names no probe",
		"usdt.s/target::x":  "it names no probe",
		"usdt/target:ebpm:": "it names no probe",
	} {
		h := hookTest{section: section, typ: ebpf.Kprobe}
		if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", section, err)
		}
	}
}

// TestUserProbesOfProcess: of two processes of a program one fires.
func TestUserProbesOfProcess(t *testing.T) {
	path := writeTarget(t)
	if !olderThan("6.10") && !multiKnowsProcesses() {
		t.Error("uprobe.multi of this kernel is held for one that mistakes threads for processes")
	}
	for _, multi := range []bool{true, false} {
		for _, section := range []string{"usdt/target:ebpm:guarded", "uprobe/target:second_function", "uretprobe.multi/target:second_f*"} {
			t.Run(fmt.Sprintf("multi=%v/%s", multi, filepath.Base(section)), func(t *testing.T) {
				if !multi {
					byPerfEvent(t)
				}
				var processes [2]*exec.Cmd
				var inputs [2]io.Closer
				for i := range processes {
					processes[i] = exec.Command(path)
					var err error
					if inputs[i], err = processes[i].StdinPipe(); err != nil {
						t.Fatal(err)
					}
					if err := processes[i].Start(); err != nil {
						t.Fatal(err)
					}
					defer func() { _, _ = processes[i].Process.Kill(), processes[i].Wait() }()
				}
				pid := processes[1].Process.Pid
				h := hookTest{section: section, typ: ebpf.Kprobe, pid: pid, trigger: func() error {
					for i := range processes {
						if err := inputs[i].Close(); err != nil {
							return err
						}
						_ = processes[i].Wait()
					}
					return nil
				}}
				if target := h.fires(t); !strings.HasSuffix(target, fmt.Sprintf(" of process %d", pid)) {
					t.Errorf("attached to %s", target)
				}
				if h.printed != 1 {
					t.Errorf("fired %d times", h.printed)
				}
				if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), fmt.Sprintf("there is no process %d here", pid)) {
					t.Errorf("once the process is gone: %v", err)
				}
			})
		}
	}
}

// keepPrograms leaves only some of a package's programs.
func keepPrograms(pkg *manifest.Package, names ...string) {
	progs := pkg.Meta.Skeleton.Progs[:0]
	for _, p := range pkg.Meta.Skeleton.Progs {
		for _, name := range names {
			if p.Name == name {
				progs = append(progs, p)
			}
		}
	}
	pkg.Meta.Skeleton.Progs = progs
}

// TestRunUSDTArgs prints the arguments of the program's probes.
func TestRunUSDTArgs(t *testing.T) {
	path := writeTarget(t)
	needRoot(t)
	for _, tt := range []struct {
		name           string
		multi, cookies bool
	}{{"uprobe.multi", true, true}, {"perf event", false, true}, {"no cookies", false, false}} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.multi {
				byPerfEvent(t)
			}
			if !tt.cookies {
				withoutCookies(t)
			}
			pkg := usdtPackage(t)
			keepPrograms(pkg, "on_guarded", "on_twice")
			s := (&session{t: t}).begin(Options{Package: pkg, JSON: true})
			if code, err := runTarget(path); code != 1 || err != nil {
				t.Errorf("exit code %d, %v", code, err)
			}
			want := `{"args":[5,0,0,0,0,0],"count":1,"probe":7}
{"args":[5,4202496,-70000,-70000,-70000,1],"count":6,"probe":8}
{"args":[5,-70000,0,0,0,0],"count":2,"probe":7}
`
			if out := s.end(); out != want {
				t.Errorf("printed\n%s", out)
			}
		})
	}
}

// withoutCookies is a kernel before 5.15.
func withoutCookies(t *testing.T) {
	t.Helper()
	cookies := hasCookies
	hasCookies = func() bool { return false }
	t.Cleanup(func() { hasCookies = cookies })
}

// TestRunUSDTArgsRefused: an argument that cannot be read is named.
func TestRunUSDTArgsRefused(t *testing.T) {
	path := writeTarget(t)
	needRoot(t)
	for target, want := range map[string]string{
		"target:ebpm:float":   path + `: its USDT probe ebpm:float at 0x4010c0: argument 1, "8f@%xmm0": floating point`,
		"target:ebpm:unknown": "at 0x4010c0: variable nothing: it is not among the symbols of the file",
	} {
		pkg := usdtPackage(t)
		keepPrograms(pkg, "on_twice")
		_, err := startUSDT(pkg, io.Discard, func(p *plannedProgram) { p.target = target })
		if manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: got %v", target, err)
		}
		if left := kernelIDs(t); len(left) != 0 {
			t.Errorf("%s: this process still holds %v", target, left)
		}
	}
}

// startUSDT starts the package with its only program changed.
func startUSDT(pkg *manifest.Package, out io.Writer, change func(*plannedProgram)) (*instance, error) {
	spec, err := loadSpec(pkg.Object)
	if err != nil {
		return nil, err
	}
	p, err := newPlan(&pkg.Meta, spec)
	if err != nil {
		return nil, err
	}
	change(&p.programs[0])
	spec.Variables = nil
	return start(p, spec, &Options{Stdout: out, Stderr: io.Discard, JSON: true, Now: testClock})
}

// compileTarget compiles testdata/usdt/target.c.
func compileTarget(t *testing.T, command string) (path string) {
	t.Helper()
	source, err := filepath.Abs("testdata/usdt/target.c")
	if err != nil {
		t.Fatal(err)
	}
	path = installTarget(t, nil)
	words := strings.Fields(command)
	if out, err := exec.Command(words[0], append(words[1:], "-o", path, source)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// needCompiler skips tests where gcc and clang cannot be.
func needCompiler(t *testing.T) {
	t.Helper()
	if os.Getenv(vmEnv) != "" {
		t.Skip("there is no compiler in the machine of other kernels")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("some of the arguments are in the syntax of x86-64")
	}
}

// TestRunUSDTArgsOfCompilers: whatever a compiler makes of the probes of
// testdata/usdt/target.c, the values are those of its text.
func TestRunUSDTArgsOfCompilers(t *testing.T) {
	needCompiler(t)
	needRoot(t)
	want := []string{
		`{"args":[-1,255,-2,65534,-3,4294967293],"count":6,"probe":1}`,
		`{"args":[-4,-4,1099511627776,ADDRESS,0,0],"count":4,"probe":2}`,
		`{"args":[-9,7,1234605616436508552,-1,255,0],"count":5,"probe":3}`,
		`{"args":[ADDRESS,300,61072,-120,0,0],"count":4,"probe":4}`,
		`{"args":[300,-70000,0,0,0,0],"count":2,"probe":5}`,
		`{"args":[0,0,0,0,0,0],"count":0,"probe":6}`,
		`{"args":[1,0,0,0,0,0],"count":1,"probe":7}`,
		`{"args":[2,-70000,0,0,0,0],"count":2,"probe":7}`,
		`{"args":[1,0,0,0,0,0],"count":1,"probe":8}`,
	}
	for _, tt := range []struct {
		compiler string
		cookies  bool
	}{
		{"gcc -O0", true}, {"gcc -O2", true}, {"gcc -O2 -static", true}, {"clang -O0", true}, {"clang -O2", true},
		{"gcc -O2 -no-pie", false},
	} {
		t.Run(fmt.Sprintf("%s cookies=%v", tt.compiler, tt.cookies), func(t *testing.T) {
			if !tt.cookies {
				withoutCookies(t)
			}
			path := compileTarget(t, tt.compiler)
			s := (&session{t: t}).begin(Options{Package: usdtPackage(t), JSON: true})
			if code, err := runTarget(path); code != 1 || err != nil {
				t.Errorf("exit code %d, %v", code, err)
			}
			got := strings.Split(strings.TrimSpace(s.end()), "\n")
			if len(got) != len(want) {
				t.Fatalf("printed %q", got)
			}
			for i := range want {
				before, after, _ := strings.Cut(want[i], "ADDRESS")
				if !strings.HasPrefix(got[i], before) || !strings.HasSuffix(got[i], after) {
					t.Errorf("printed %s, want %s", got[i], want[i])
				}
			}
		})
	}
}

// TestUSDTArgsWithoutCookies: a program that may be loaded anywhere needs a
// process on kernels before 5.15, in which its probes have addresses.
func TestUSDTArgsWithoutCookies(t *testing.T) {
	needCompiler(t)
	needRoot(t)
	withoutCookies(t)
	path := compileTarget(t, "gcc -O2 -pie")
	target := exec.Command(path)
	input, err := target.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := target.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = target.Process.Kill(), target.Wait() }()
	// Until it is there, the memory of the process is that of this one.
	eventually(t, "the program is loaded", func() bool {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", target.Process.Pid))
		return err == nil && exe == path
	})
	pkg := usdtPackage(t)
	keepPrograms(pkg, "on_twice")
	var out buffer
	run := func(pid int) (*instance, error) {
		return startUSDT(pkg, &out, func(p *plannedProgram) { p.pid = pid })
	}
	if _, err := run(0); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(fmt.Sprint(err), "from 5.15 on") {
		t.Errorf("for every process: %v", err)
	}
	if _, err := run(os.Getpid()); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(fmt.Sprint(err), "does not have it in its memory") {
		t.Errorf("for another process: %v", err)
	}
	in, err := run(target.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = input.Close()
	_ = target.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.run(ctx); err != nil {
		t.Error(err)
	}
	want := `{"args":[1,0,0,0,0,0],"count":1,"probe":7}` + "\n" + `{"args":[2,-70000,0,0,0,0],"count":2,"probe":7}` + "\n"
	if out.String() != want {
		t.Errorf("printed %s", out.String())
	}
}
