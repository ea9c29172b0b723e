// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// A hookTest is a program in one section.
type hookTest struct {
	section string
	typ     ebpf.ProgramType
	attach  ebpf.AttachType
	to      string // the AttachTo of the object
	returns int32
	extra   string // what the package says of the program, as JSON
	options Options
	// enter brings the thread that attaches and triggers into namespaces of
	// its own.
	enter func()
	// trigger makes the event happen.
	trigger func() error
	// noLink is true of hooks that hold the program by something else.
	noLink bool
}

// plan makes the plan of a package with a probe in that section.
func (h *hookTest) plan(t *testing.T) (*plan, *ebpf.CollectionSpec, error) {
	t.Helper()
	meta, spec := probe(h.section, h.typ)
	ps := spec.Programs["probe"]
	ps.AttachType, ps.AttachTo = h.attach, h.to
	ps.Instructions[len(ps.Instructions)-2] = asm.Mov.Imm(asm.R0, h.returns)
	if h.extra != "" {
		if err := json.Unmarshal([]byte(h.extra), &meta.Skeleton.Progs[0].Extra); err != nil {
			t.Fatal(err)
		}
	}
	planned, err := planProgram(&meta.Skeleton.Progs[0], spec)
	if err != nil {
		return nil, nil, err
	}
	l, err := newLayout(&btf.Struct{Name: "record", Size: 8, Members: []btf.Member{{Name: "n", Type: testLong}}}, []manifest.Member{{Name: "n"}})
	if err != nil {
		t.Fatal(err)
	}
	return &plan{export: "events", pollTimeout: time.Millisecond, layout: l, programs: []plannedProgram{planned}}, spec, nil
}

// start attaches the probe on a thread of its own, and runs then there.
func (h *hookTest) start(t *testing.T, out io.Writer, then func() error) (*instance, error) {
	t.Helper()
	needRoot(t)
	p, spec, err := h.plan(t)
	if err != nil {
		return nil, err
	}
	o := h.options
	o.Stdout, o.Stderr, o.Now, o.JSON = out, io.Discard, time.Now, true
	var in *instance
	done := make(chan error, 1)
	go func() {
		if h.enter != nil {
			runtime.LockOSThread() // not given back: it is in other namespaces
			h.enter()
		}
		var err error
		if in, err = start(p, spec, &o); err == nil {
			if err = then(); err != nil {
				err = fmt.Errorf("trigger: %w", err)
			}
		}
		done <- err
	}()
	return in, <-done
}

// fires attaches the probe, makes it fire, and sees that nothing is left of it
// in the kernel afterwards. It returns the target that is told to users.
func (h *hookTest) fires(t *testing.T) string {
	t.Helper()
	var out buffer
	in, err := h.start(t, &out, h.trigger)
	if err != nil {
		if in != nil {
			_ = in.close()
		}
		t.Fatal(err)
	}
	ids := kernelIDs(t)
	if len(ids["prog_id"]) == 0 || (len(ids["link_id"]) == 0) != h.noLink {
		t.Errorf("while it runs: %v", ids)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- in.run(ctx) }()
	eventually(t, "an event is printed", func() bool { return strings.HasPrefix(out.String(), "{\"n\":1}\n") })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left := kernelIDs(t); len(left) != 0 {
		t.Errorf("this process still holds %v", left)
	}
	for kind, list := range ids {
		for _, id := range list {
			eventually(t, fmt.Sprintf("%s %d is gone", kind, id), func() bool { return !exists(kind, id) })
		}
	}
	return in.reporter.programs[0].Target
}

// refused returns the error of a probe that cannot be attached.
func (h *hookTest) refused(t *testing.T) error {
	t.Helper()
	in, err := h.start(t, io.Discard, func() error { return nil })
	if err == nil {
		_ = in.close()
		t.Fatalf("%s: attached to %s", h.section, in.reporter.programs[0].Target)
	}
	if left := kernelIDs(t); len(left) != 0 {
		t.Errorf("this process still holds %v", left)
	}
	return err
}

// rename renames this thread and renames it back.
func rename() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name := [16]byte{'e', 'b', 'p', 'm'}
	var old [16]byte
	if err := unix.Prctl(unix.PR_GET_NAME, uintptr(unsafe.Pointer(&old[0])), 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&old[0])), 0, 0, 0)
}

func TestTPBTF(t *testing.T) {
	h := hookTest{section: "tp_btf/task_rename", typ: ebpf.Tracing, attach: ebpf.AttachTraceRawTp, to: "task_rename", trigger: rename}
	if target := h.fires(t); target != "task_rename" {
		t.Errorf("attached to %s", target)
	}
	h.section, h.to = "tp_btf/no_such_thing", "no_such_thing"
	if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), "no_such_thing") {
		t.Errorf("got %v (kind %d)", err, manifest.KindOf(err))
	}
	h.section = "tp_btf"
	if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), "it names no tracepoint") {
		t.Errorf("got %v", err)
	}
}

// TestWritableRawTracepoint waits for the end of a program's test run, a
// tracepoint with an argument that programs may write.
func TestWritableRawTracepoint(t *testing.T) {
	for _, section := range []string{"raw_tp.w/bpf_test_finish", "raw_tracepoint.w/bpf_test_finish"} {
		h := hookTest{section: section, typ: ebpf.RawTracepointWritable, trigger: func() error {
			prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
			if err != nil {
				return err
			}
			defer prog.Close()
			_, err = prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
			return err
		}}
		if target := h.fires(t); target != "bpf_test_finish" {
			t.Errorf("%s: attached to %s", section, target)
		}
	}
}

// TestRunOfBothKinds of raw tracepoints in one object prints what upstream
// printed.
func TestRunOfBothKinds(t *testing.T) {
	s := runPackage(t, "probes/rename", Options{JSON: true})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := os.ReadFile("/proc/thread-self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gold77", strings.TrimSpace(string(old))} {
		if err := os.WriteFile("/proc/thread-self/comm", []byte(name), 0); err != nil {
			t.Fatal(err)
		}
	}
	out := s.end()
	for _, want := range []string{`{"id":1,"note":"gold77","value":0}`, `{"id":2,"note":"gold77","value":0}`} {
		if strings.Count(out, want+"\n") != 1 {
			t.Errorf("printed %s", out)
		}
	}
}

func TestPerfEvent(t *testing.T) {
	h := hookTest{section: "perf_event", typ: ebpf.PerfEvent, trigger: func() error { return nil }, noLink: true}
	if target := h.fires(t); !strings.HasPrefix(target, "cpu-c") || !strings.HasSuffix(target, " CPUs") {
		t.Errorf("attached to %s", target)
	}
	h.section = "perf_event/cpu"
	if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), "a perf_event has no target") {
		t.Errorf("got %v", err)
	}
}

func TestParseCPUs(t *testing.T) {
	for list, want := range map[string]string{
		"0": "[0]", "0-3": "[0 1 2 3]", "0,2-3,8": "[0 2 3 8]",
		"": "", "a": "", "3-1": "", "1-": "", "-1": "", "0,": "", "0-65535,0-65535": "", "0-99999999999": "",
	} {
		cpus, err := parseCPUs(list)
		if (err != nil) != (want == "") || err == nil && fmt.Sprint(cpus) != want {
			t.Errorf("%q: %v, %v", list, cpus, err)
		}
	}
}
