// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// A hookTest is a program in one section. On a kernel without its hook, fires
// skips the test (kernel_linux_test.go says when).
type hookTest struct {
	section string
	typ     ebpf.ProgramType
	attach  ebpf.AttachType
	to      string // the AttachTo of the object
	// function is its type, for hooks that compare it.
	function *btf.Func
	returns  int32
	flags    uint32 // those that the object\'s section stands for
	extra    string // what the package says of the program, as JSON
	options  Options
	// enter brings the thread that attaches and triggers into namespaces of
	// its own.
	enter func()
	// trigger makes the event happen.
	trigger func() error
	// programs are programs of the object beside the probe, which are loaded.
	programs map[string]*ebpf.ProgramSpec
	// maps are maps of the object beside its ring buffer, and use is what makes
	// the event happen by way of them.
	maps map[string]*ebpf.MapSpec
	use  func(map[string]*ebpf.Map) error
	// sleeps is true of a program that may be put to sleep.
	sleeps bool
	// pid is the process whose events alone count.
	pid int
	// printed is how many events the last run of fires printed.
	printed int
	// noLink is true of hooks that hold the program by something else.
	noLink bool
	// read makes the event happen by way of what the program is attached by.
	read func([]io.Closer) error
	// continuous is true of events that happen without the trigger, too.
	continuous bool
	// first is what the probe does before all else, with its context in R1.
	first asm.Instructions
}

// plan makes the plan of a package with a probe in that section.
func (h *hookTest) plan(t *testing.T) (*plan, *ebpf.CollectionSpec, error) {
	t.Helper()
	meta, spec := probe(h.section, h.typ)
	ps := spec.Programs["probe"]
	ps.AttachType, ps.AttachTo, ps.Flags = h.attach, h.to, h.flags
	if h.function != nil {
		ps.Instructions[0] = btf.WithFuncMetadata(ps.Instructions[0], h.function)
	}
	if h.sleeps {
		ps.Flags |= unix.BPF_F_SLEEPABLE
	}
	ps.Instructions[len(ps.Instructions)-2] = asm.Mov.Imm(asm.R0, h.returns)
	if len(h.first) > 0 {
		ps.Instructions = append(slices.Clone(h.first), ps.Instructions...)
	}
	if h.extra != "" {
		if err := json.Unmarshal([]byte(h.extra), &meta.Skeleton.Progs[0].Extra); err != nil {
			t.Fatal(err)
		}
	}
	maps.Copy(spec.Programs, h.programs)
	maps.Copy(spec.Maps, h.maps)
	targets, err := manifest.Targets(spec.Programs, h.options.Interface, h.options.Attach)
	if err != nil {
		return nil, nil, err
	}
	planned, err := planPrograms(meta, spec, targets)
	if err != nil {
		return nil, nil, err
	}
	for i := range planned {
		planned[i].pid = h.pid
	}
	l, err := newLayout(&btf.Struct{Name: "record", Size: 8, Members: []btf.Member{{Name: "n", Type: testLong}}}, []manifest.Member{{Name: "n"}})
	if err != nil {
		t.Fatal(err)
	}
	return &plan{exports: []export{{mapName: "events", typ: ebpf.RingBuf, layout: l}}, pollTimeout: time.Millisecond, programs: planned}, spec, nil
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
			if h.use != nil {
				err = h.use(in.coll.Maps)
			} else {
				err = then()
			}
			if err != nil {
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
		skipLacking(t, h.section, err)
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
	h.printed = strings.Count(out.String(), "\n")
	if left := kernelIDs(t); len(left) != 0 {
		t.Errorf("this process still holds %v", left)
	}
	for kind, list := range ids {
		for _, id := range list {
			eventually(t, fmt.Sprintf("%s %d is gone", kind, id), func() bool { return !exists(kind, id) })
		}
	}
	works(t, h.section)
	h.movesOnce(t)
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
	h := hookTest{section: "tp_btf/task_rename", typ: ebpf.Tracing, attach: ebpf.AttachTraceRawTp, to: "task_rename", trigger: rename, continuous: true}
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
	defer func() { _ = os.WriteFile("/proc/thread-self/comm", bytes.TrimSpace(old), 0) }()
	eventually(t, "both events are printed", func() bool {
		if err := os.WriteFile("/proc/thread-self/comm", []byte("gold77"), 0); err != nil {
			t.Fatal(err)
		}
		out := s.out.String()
		return strings.Contains(out, `{"id":1,"note":"gold77","value":0}`+"\n") && strings.Contains(out, `{"id":2,"note":"gold77","value":0}`+"\n")
	})
	s.end()
}

func TestPerfEvent(t *testing.T) {
	h := hookTest{section: "perf_event", typ: ebpf.PerfEvent, trigger: func() error { return nil }, noLink: true, continuous: true}
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

// ping sends one datagram to this thread's own loopback interface.
func ping() error {
	conn, err := net.Dial("udp", "127.0.0.1:7727")
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("ping"))
	return err
}

func TestTC(t *testing.T) {
	hook := func(point string) string { return `{"tchook":{"ifindex":1,"attach_point":"` + point + `"}}` }
	for _, tt := range []struct {
		section string
		attach  ebpf.AttachType
		extra   string
		iface   string
		want    string // the target, or else the error
	}{
		{"tc", 0, "", "", "lo ingress"},
		{"tc", 0, "", "lo", "lo ingress"},
		{"tc", 0, hook("BPF_TC_INGRESS"), "", "lo ingress"},
		{"tc", 0, hook("BPF_TC_EGRESS"), "", "lo egress"},
		{"tc", 0, `{"tchook":{"ifindex":"lo"},"tcopts":{"handle":5,"priority":7}}`, "", "lo ingress"},
		{"classifier", 0, "", "", "lo ingress"},
		{"tc/ingress", ebpf.AttachTCXIngress, "", "", "lo ingress"},
		{"tc/egress", ebpf.AttachTCXEgress, "", "", "lo egress"},
		{"tcx/ingress", ebpf.AttachTCXIngress, "", "", "lo ingress"},
		{"tcx/egress", ebpf.AttachTCXEgress, hook("BPF_TC_EGRESS"), "", "lo egress"},
		{"tc", 0, `{"tchook":{"ifindex":4242}}`, "", "there is no network interface with the index 4242 here"},
		{"tc", 0, "", "nosuch0", "there is no network interface with the name nosuch0 here"},
		{"tc", 0, `{"tchook":{"ifindex":[]}}`, "", "tchook: ifindex []: expected the number or the name"},
		{"tc", 0, `{"tchook":7}`, "", "tchook 7: "},
		{"tc", 0, `{"tcopts":{"priority":-1}}`, "", `tcopts {"priority":-1}: `},
		{"tc", 0, hook("INGRESS"), "", `tchook: attach_point "INGRESS" is neither BPF_TC_INGRESS nor BPF_TC_EGRESS`},
		{"tc", 0, hook("BPF_TC_CUSTOM"), "", "tchook: attach_point BPF_TC_CUSTOM is below a queueing discipline"},
		{"tcx/egress", ebpf.AttachTCXEgress, hook("BPF_TC_INGRESS"), "", "tchook: attach_point BPF_TC_INGRESS is not that of the section"},
		{"tc/sideways", 0, "", "", `"sideways" is neither ingress nor egress`},
	} {
		t.Run(tt.section+tt.extra+tt.iface, func(t *testing.T) {
			// TC_ACT_UNSPEC lets the next program see the packet.
			h := hookTest{section: tt.section, typ: ebpf.SchedCLS, attach: tt.attach, returns: -1, extra: tt.extra, noLink: !haveTCX(t),
				options: Options{Interface: tt.iface}, enter: func() { newNetns(t) }, trigger: ping}
			if strings.HasPrefix(tt.want, "lo ") {
				if target := h.fires(t); target != tt.want {
					t.Errorf("attached to %s", target)
				}
			} else if err := h.refused(t); !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestRunTC prints what upstream printed, but for the program that upstream
// leaves out because another one has its handle.
func TestRunTC(t *testing.T) {
	needRoot(t)
	for name, lines := range map[string]int{"package": 1, "egress": 1, "pair": 2, "two": 2} {
		t.Run(name, func(t *testing.T) {
			pkg, _ := readPackage(t, "tc/"+name)
			var conn net.Conn
			s := &session{t: t, beforehand: func() {
				newNetns(t)
				var err error
				if conn, err = net.Dial("udp", "127.0.0.1:7727"); err != nil {
					t.Error(err)
				}
			}}
			s.begin(Options{Package: pkg, JSON: true})
			defer conn.Close()
			if _, err := conn.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if out, want := s.end(), strings.Repeat(`{"data":"ping","dport":7727,"len":12}`+"\n", lines); out != want {
				t.Errorf("printed %s", out)
			}
		})
	}
}

// TestPriority: the program with the lower one runs first.
func TestPriority(t *testing.T) {
	pkg, spec := readPackage(t, "tc/pair")
	progs := pkg.Meta.Skeleton.Progs
	progs[0].Extra["tcopts"], progs[1].Extra["tcopts"] = json.RawMessage(`{"priority":2}`), json.RawMessage(`{"handle":2}`)
	p, err := newPlan(&pkg.Meta, spec)
	if err != nil {
		t.Fatal(err)
	}
	if p.programs[0].name != "on_second" || p.programs[1].name != "on_first" {
		t.Errorf("order %s, %s", p.programs[0].name, p.programs[1].name)
	}
}

func TestSocketFilter(t *testing.T) {
	h := hookTest{section: "socket", typ: ebpf.SocketFilter, noLink: true, enter: func() { newNetns(t) }, trigger: ping}
	for _, tt := range []struct {
		extra, iface string
		returns      int32
	}{
		{"", "lo", 0},
		{"", "lo", -1}, // lets all packets through
		{`{"ifindex":1}`, "", 0},
		{`{"ifindex":"nosuch0"}`, "lo", 0},
	} {
		h.extra, h.options.Interface, h.returns = tt.extra, tt.iface, tt.returns
		if target := h.fires(t); target != "lo" {
			t.Errorf("attached to %s", target)
		}
	}
	for _, tt := range []struct {
		extra, iface, want string
		kind               manifest.Kind
	}{
		{"", "", "the package does not say on which network interface", manifest.KindUsage},
		{"", "nosuch0", "there is no network interface with the name nosuch0 here", manifest.KindPrecondition},
		{`{"ifindex":{}}`, "", "ifindex {}: expected", manifest.KindFailure},
	} {
		h.extra, h.options.Interface = tt.extra, tt.iface
		if err := h.refused(t); !strings.Contains(err.Error(), tt.want) || manifest.KindOf(err) != tt.kind {
			t.Errorf("got %v (kind %d)", err, manifest.KindOf(err))
		}
	}
}

// TestFullSocket: a filter whose socket takes no more still sees each packet.
func TestFullSocket(t *testing.T) {
	const packets = 200
	h := hookTest{section: "socket", typ: ebpf.SocketFilter, returns: -1, options: Options{Interface: "lo"}, enter: func() { newNetns(t) }}
	var out buffer
	in, err := h.start(t, &out, func() error {
		var err error
		for range packets {
			err = errors.Join(err, ping())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.run(ctx); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n < packets {
		t.Errorf("saw %d of %d packets", n, packets)
	}
}

func TestSKLookup(t *testing.T) {
	var ns string
	h := hookTest{section: "sk_lookup", typ: ebpf.SkLookup, attach: ebpf.AttachSkLookup, returns: 1, trigger: ping, enter: func() {
		newNetns(t)
		var err error
		if ns, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
			t.Error(err)
		}
	}}
	if target := h.fires(t); target != ns {
		t.Errorf("attached to %s, not %s", target, ns)
	}
}

// TestIter reads the link itself, which makes the program run for each process.
func TestIter(t *testing.T) {
	h := hookTest{section: "iter/task", typ: ebpf.Tracing, attach: ebpf.AttachTraceIter, to: "task", trigger: func() error { return nil }, continuous: true}
	iterates(t, &h)
	sleepable := h
	sleepable.section, sleepable.flags = "iter.s/task", unix.BPF_F_SLEEPABLE
	iterates(t, &sleepable)
	for section, want := range map[string]string{"iter": "it does not say over what", "iter/bpf_map_elem": "over the elements of a map"} {
		h.section = section
		if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", section, err)
		}
	}
	h.section, h.to = "iter/nothing", "nothing"
	if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("got %v", err)
	}
}

func iterates(t *testing.T, h *hookTest) {
	t.Helper()
	var out buffer
	in, err := h.start(t, &out, h.trigger)
	if err != nil {
		skipLacking(t, h.section, err)
		t.Fatal(err)
	}
	if got := in.reporter.programs[0].Target; got != "task" {
		t.Errorf("attached to %s", got)
	}
	ids := kernelIDs(t)
	h.read = func(links []io.Closer) error {
		r, err := links[0].(*link.Iter).Open()
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	}
	if err := h.read(in.links); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.run(ctx); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "{\"n\":1}\n") {
		t.Errorf("printed %q", out.String())
	}
	for kind, list := range ids {
		for _, id := range list {
			eventually(t, fmt.Sprintf("%s %d is gone", kind, id), func() bool { return !exists(kind, id) })
		}
	}
	works(t, h.section)
	h.movesOnce(t)
}
