// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/deployer/ecli/handover"
	"github.com/ebpm/ebpm/manifest"
)

// handoverAttr is the key of the attribute "SECTION: WAY" of a test, from which
// docs/handover-hooks.md is made.
const handoverAttr = "handover"

// refusedWay is of a hook whose second instance does not start.
const refusedWay = "refused"

// moved has the sections that were seen to move: each is moved once, by whatever
// test attaches it first.
var moved sync.Map

// A worker is a thread that may be in namespaces of its own.
type worker chan func()

// newWorker starts a thread on which enter, if any, was called.
func newWorker(t *testing.T, enter func()) worker {
	t.Helper()
	w := make(worker)
	t.Cleanup(func() { close(w) })
	go func() {
		runtime.LockOSThread() // not given back
		if enter != nil {
			enter()
		}
		for f := range w {
			f()
		}
	}()
	return w
}

func (w worker) do(f func() error) error {
	done := make(chan error, 1)
	w <- func() { done <- f() }
	return <-done
}

// joiner returns what brings another thread to where the worker's is: into its
// namespaces, or to its rights.
func (w worker) joiner(t *testing.T, enter func()) func() error {
	t.Helper()
	types := []struct {
		name string
		flag int
	}{{"net", unix.CLONE_NEWNET}, {"mnt", unix.CLONE_NEWNS}}
	// Not /proc/self: the process's first thread may be the worker's, or be where an
	// earlier test has brought it.
	ours := map[string]string{}
	for _, typ := range types {
		name, err := os.Readlink("/proc/thread-self/ns/" + typ.name)
		if err != nil {
			t.Fatal(err)
		}
		ours[typ.name] = name
	}
	files := map[int]*os.File{}
	err := w.do(func() error {
		for _, typ := range types {
			f, err := os.Open("/proc/thread-self/ns/" + typ.name)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = f.Close() })
			if its, err := os.Readlink("/proc/thread-self/ns/" + typ.name); err != nil {
				return err
			} else if its != ours[typ.name] {
				files[typ.flag] = f
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() error {
		if len(files) == 0 && enter != nil {
			enter() // less rights
		}
		if files[unix.CLONE_NEWNS] != nil {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
		}
		for flag, f := range files {
			if err := unix.Setns(int(f.Fd()), flag); err != nil {
				return err
			}
		}
		return nil
	}
}

// edition is h as an instance prints it: each event is the edition's number.
func (h *hookTest) edition(t *testing.T, n int64) (*plan, *ebpf.CollectionSpec) {
	t.Helper()
	p, spec, err := h.plan(t)
	if err != nil {
		t.Fatal(err)
	}
	spec.Programs["probe"].Instructions[len(h.first)].Constant = n
	return p, spec
}

// join starts an instance of h that takes part in a release.
func (h *hookTest) join(t *testing.T, dir string, n int64, out io.Writer, enter func() error) (*member, *generation) {
	t.Helper()
	p, spec := h.edition(t, n)
	m := &member{done: make(chan error, 1), gone: make(chan struct{})}
	o := h.options
	o.Stdout, o.Stderr, o.Now, o.JSON = out, &m.stderr, time.Now, true
	o.Handover, o.Revision = dir, uint64(n)
	o.Hung = func(err error) { t.Errorf("hung: %v", err) }
	o.Status = func(s manifest.Status) { m.mu.Lock(); m.statuses = append(m.statuses, s); m.mu.Unlock() }
	pkg, err := handoverPackage(t, "probe").Encode()
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGeneration(p, spec, &o, pkg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	t.Cleanup(func() {
		cancel()
		<-m.gone
	})
	go func() {
		defer close(m.gone)
		runtime.LockOSThread() // not given back
		if err := enter(); err != nil {
			m.done <- err
			return
		}
		m.done <- g.run(ctx)
	}()
	return m, g
}

// seenBy counts the events that an instance saw.
func seenBy(out *buffer, n int64) int {
	return strings.Count(out.String(), fmt.Sprintf("{\"n\":%d}\n", n))
}

// moves attaches the probe, moves to another instance of it and back, and sees
// that each event is seen by the one that runs then, once, and that nothing is left
// in the kernel. It returns the way of the move.
func (h *hookTest) moves(t *testing.T) string {
	t.Helper()
	dir, out := t.TempDir(), &buffer{}
	w := newWorker(t, h.enter)
	enter := w.joiner(t, h.enter)
	// act makes the event happen once, and returns how often it was seen so far, by
	// whom it is to be seen.
	act := func(g *generation, n int64) {
		before := seenBy(out, n)
		err := w.do(func() error {
			switch {
			case h.read != nil:
				return h.read(g.links)
			case h.use != nil:
				return h.use(g.coll.Maps)
			}
			return h.trigger()
		})
		if err != nil {
			t.Fatalf("trigger: %v", err)
		}
		eventually(t, fmt.Sprintf("instance %d sees the event (printed %q)", n, out.String()), func() bool { return seenBy(out, n) > before })
	}
	old, oldGeneration := h.join(t, dir, 1, out, enter)
	old.waitRole(t, manifest.RoleCurrent)
	act(oldGeneration, 1)
	young, youngGeneration := h.join(t, dir, 2, out, enter)
	way := young.arrives(t)
	if way == refusedWay {
		act(oldGeneration, 1)
		old.end(t)
		h.nothingLeft(t)
		return way
	}
	first := seenBy(out, 1)
	ids := kernelIDs(t)
	act(youngGeneration, 2)
	young.end(t)
	old.waitRole(t, manifest.RoleCurrent)
	second := seenBy(out, 2)
	if n := seenBy(out, 1); n != first && !h.continuous {
		t.Errorf("the old instance saw %d events while the new one ran", n-first)
	}
	act(oldGeneration, 1)
	old.end(t)
	third := seenBy(out, 1) - first
	// Others on this machine may make an event happen, too.
	if !h.continuous && (first != second || second != third) {
		t.Logf("%s: events seen: %d, %d, %d", h.section, first, second, third)
		if second >= 2*max(first, third) || first == 0 || third == 0 {
			t.Errorf("events were lost or doubled: %d, then %d, then %d", first, second, third)
		}
	}
	h.nothingLeft(t)
	for kind, list := range ids {
		for _, id := range list {
			eventually(t, fmt.Sprintf("%s %d is gone", kind, id), func() bool { return !exists(kind, id) })
		}
	}
	return way
}

func (h *hookTest) nothingLeft(t *testing.T) {
	t.Helper()
	if left := kernelIDs(t); len(left) != 0 {
		t.Errorf("after a move this process still holds %v", left)
	}
}

// arrives waits until a new instance has taken over, and returns by which way; it
// is refused when it says that something else is in its place.
func (m *member) arrives(t *testing.T) string {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(time.Millisecond) {
		if h := m.status().Handover; h != nil && h.Role == manifest.RoleCurrent {
			return string(h.Way)
		}
		select {
		case err := <-m.done:
			if manifest.KindOf(err) != manifest.KindConflict {
				t.Fatalf("the new instance ended: %v\n%s", err, m.stderr.String())
			}
			return refusedWay
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new instance is not current but %+v\n%s", m.status().Handover, m.stderr.String())
		}
	}
}

// movesOnce is moves, at the end, for the first test with a program of its kind.
func (h *hookTest) movesOnce(t *testing.T) {
	t.Helper()
	name, target, _ := strings.Cut(strings.TrimPrefix(h.section, "?"), "/")
	if strings.HasPrefix(name, "cgroup") || strings.HasPrefix(name, "sk_skb") {
		name += "/" + target
	}
	if simulated {
		name += " elsewhere"
	}
	if _, again := moved.LoadOrStore(name, true); again {
		return
	}
	// After the test, which may look at what its probe saw.
	again := *h
	t.Cleanup(func() {
		way := again.moves(t)
		if !simulated {
			t.Attr(handoverAttr, again.section+": "+way)
		}
	})
}

// TestHandoverOfFunctionAddress: what a program asks of the hook is the same behind
// a dispatcher. The probe says nothing where the function's address, or the cookie,
// which is none, is another one.
func TestHandoverOfFunctionAddress(t *testing.T) {
	const function = "do_mkdirat"
	symbols, err := os.Open(kallsymsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer symbols.Close()
	addresses, err := addressesOf(symbols, []string{function})
	if err != nil || len(addresses) != 1 {
		t.Fatalf("addresses of %s: %x, %v", function, addresses, err)
	}
	asks := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetFuncIp.Call(),
		asm.LoadImm(asm.R2, int64(addresses[0]), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R2, "other"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetAttachCookie.Call(),
		asm.JEq.Imm(asm.R0, 0, "right"),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("other"),
		asm.Return(),
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("right"),
	}
	for _, h := range []hookTest{
		{section: "fentry/" + function, typ: ebpf.Tracing, attach: ebpf.AttachTraceFEntry},
		{section: "fexit/" + function, typ: ebpf.Tracing, attach: ebpf.AttachTraceFExit},
		{section: "kprobe/" + function, typ: ebpf.Kprobe},
		{section: "kretprobe/" + function, typ: ebpf.Kprobe},
		{section: "kprobe.multi/" + function, typ: ebpf.Kprobe, attach: ebpf.AttachTraceKprobeMulti},
		{section: "kprobe.session/" + function, typ: ebpf.Kprobe, attach: ebpf.AttachTraceKprobeSession},
	} {
		t.Run(h.section, func(t *testing.T) {
			need(t, h)
			h.trigger, h.first = mkdir, asks
			if way := h.moves(t); way != string(manifest.Exact) {
				t.Errorf("moved by the way %q", way)
			}
		})
	}
}

// TestDispatcherKeepsCookie: a program behind a dispatcher gets the cookie with which
// that was attached.
func TestDispatcherKeepsCookie(t *testing.T) {
	const function, cookie = "do_mkdirat", 0xc00c1e
	for _, tt := range []struct {
		hookTest
		link func(*ebpf.Program) (link.Link, error)
	}{
		{hookTest{section: "fentry/" + function, typ: ebpf.Tracing, attach: ebpf.AttachTraceFEntry}, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTracing(link.TracingOptions{Program: p, AttachType: ebpf.AttachTraceFEntry, Cookie: cookie})
		}},
		{hookTest{section: "fexit/" + function, typ: ebpf.Tracing, attach: ebpf.AttachTraceFExit}, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTracing(link.TracingOptions{Program: p, AttachType: ebpf.AttachTraceFExit, Cookie: cookie})
		}},
		{hookTest{section: "kprobe/" + function, typ: ebpf.Kprobe}, func(p *ebpf.Program) (link.Link, error) {
			return link.Kprobe(function, p, &link.KprobeOptions{Cookie: cookie})
		}},
		{hookTest{section: "kprobe.multi/" + function, typ: ebpf.Kprobe, attach: ebpf.AttachTraceKprobeMulti}, func(p *ebpf.Program) (link.Link, error) {
			return link.KprobeMulti(p, link.KprobeMultiOptions{Symbols: []string{function}, Cookies: []uint64{cookie}})
		}},
		{hookTest{section: "tp/syscalls/sys_enter_mkdirat", typ: ebpf.TracePoint}, func(p *ebpf.Program) (link.Link, error) {
			return link.Tracepoint("syscalls", "sys_enter_mkdirat", p, &link.TracepointOptions{Cookie: cookie})
		}},
	} {
		t.Run(tt.section, func(t *testing.T) {
			need(t, tt.hookTest)
			got, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			spec := &ebpf.ProgramSpec{
				Name: "keeps", Type: tt.typ, AttachType: tt.attach, License: "GPL",
				Instructions: asm.Instructions{
					asm.FnGetAttachCookie.Call(),
					asm.LoadMapValue(asm.R1, got.FD(), 0),
					asm.StoreMem(asm.R1, 0, asm.R0, asm.DWord),
					asm.Mov.Imm(asm.R0, 0),
					asm.Return(),
				},
			}
			if tt.typ == ebpf.Tracing {
				spec.AttachTo = function
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			p, err := ebpf.NewProgram(spec)
			must(err)
			defer p.Close()
			cell, err := handover.NewCell()
			must(err)
			defer cell.Close()
			slots, err := handover.NewSlots()
			must(err)
			defer slots.Close()
			d, err := handover.LoadDispatcher(spec, cell, slots, ebpf.ProgramOptions{})
			must(err)
			defer d.Close()
			must(slots.Put(0, p))
			l, err := tt.link(d)
			must(err)
			defer l.Close()
			must(mkdir())
			var value uint64
			must(got.Lookup(uint32(0), &value))
			if value != cookie {
				t.Errorf("the cookie is %#x, want %#x", value, cookie)
			}
		})
	}
}

// TestHandoverOfSockets: what was in a map of sockets before the move is seen by
// the new instance, and by nobody else.
func TestHandoverOfSockets(t *testing.T) {
	needRoot(t)
	var client, server net.Conn
	h := hookTest{section: "sk_skb/stream_verdict", typ: ebpf.SkSKB, attach: ebpf.AttachSkSKBStreamVerdict, returns: 1,
		maps: map[string]*ebpf.MapSpec{"sockets": sockmapSpec(ebpf.SockMap)},
		enter: func() {
			newNetns(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			var dialErr, acceptErr error
			client, dialErr = net.Dial("tcp", l.Addr().String())
			server, acceptErr = l.Accept()
			if err := errors.Join(dialErr, acceptErr); err != nil {
				t.Error(err)
			}
		}}
	put := false
	h.use = func(maps map[string]*ebpf.Map) error {
		if !put {
			put = true
			raw, err := client.(*net.TCPConn).SyscallConn()
			if err != nil {
				return err
			}
			var inner error
			err = raw.Control(func(fd uintptr) { inner = maps["sockets"].Put(uint32(0), uint32(fd)) })
			if err := errors.Join(err, inner); err != nil {
				return err
			}
		}
		_, err := server.Write([]byte("pong"))
		return err
	}
	if way := h.moves(t); way != string(manifest.Exact) {
		t.Errorf("moved by the way %q", way)
	}
	_ = client.Close()
	_ = server.Close()
}

// TestHandoverOfCgroupStorage: both instances count in the same storage.
func TestHandoverOfCgroupStorage(t *testing.T) {
	needRoot(t)
	enter, act := ownCgroup(t)
	h := hookTest{section: "cgroup/sock_create", typ: ebpf.CGroupSock, attach: ebpf.AttachCGroupInetSockCreate, returns: 1, enter: enter, trigger: act,
		maps: map[string]*ebpf.MapSpec{"storage": {Name: "storage", Type: ebpf.CGroupStorage, KeySize: 8, ValueSize: 8}},
		first: asm.Instructions{
			asm.LoadMapPtr(asm.R1, 0).WithReference("storage"),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnGetLocalStorage.Call(),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		}}
	if way := h.moves(t); way != string(manifest.NearExact) {
		t.Errorf("moved by the way %q", way)
	}
}

// TestHandoverOfSleepable moves what a compiler made, with the lines of its source.
func TestHandoverOfSleepable(t *testing.T) {
	for _, tt := range []struct {
		name string
		act  func() error
	}{
		{"uprobe.s", maxPriority},
		{"fentry.s", runFentryTest},
		{"lsm.s", openComm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, out := t.TempDir(), &buffer{}
			join := func(n int) *member {
				return joinPackage(t, Options{
					Package: handoverPackage(t, tt.name), Args: []string{"--edition", strconv.Itoa(n)},
					JSON: true, Stdout: out, Handover: dir, Revision: uint64(n),
				})
			}
			see := func(n int64) {
				t.Helper()
				before := seenBy(out, n)
				if err := tt.act(); err != nil {
					t.Fatal(err)
				}
				eventually(t, fmt.Sprintf("instance %d sees the event", n), func() bool { return seenBy(out, n) > before })
			}
			old := join(1)
			old.waitRole(t, manifest.RoleCurrent)
			see(1)
			young := join(2)
			if way := young.arrives(t); way != string(manifest.NearExact) {
				t.Errorf("moved by the way %q", way)
			}
			first := seenBy(out, 1)
			see(2)
			young.end(t)
			old.waitRole(t, manifest.RoleCurrent)
			if n := seenBy(out, 1); n != first {
				t.Errorf("the old instance saw %d events while the new one ran", n-first)
			}
			see(1)
			old.end(t)
		})
	}
}
