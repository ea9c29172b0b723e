// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
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

// The tests in this file load programs into the running kernel: they need root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test loads eBPF programs: run it as root")
	}
}

// A buffer may be written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits for a condition that another process or the kernel brings
// about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// A session is a package that runs beside the test.
type session struct {
	t          *testing.T
	out, err   buffer
	cancel     context.CancelFunc
	done       chan error
	mu         sync.Mutex
	statuses   []manifest.Status
	beforehand func() // runs on the thread of Run, before it
	attached   func() // runs once all is attached, before anything is printed
}

// begin starts Run and waits until everything is attached.
func (s *session) begin(o Options) *session {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.t.Cleanup(cancel)
	s.done = make(chan error, 1)
	if o.Stdout == nil {
		o.Stdout = &s.out
	}
	o.Stderr, o.Now = &s.err, testClock
	attached := make(chan struct{})
	o.Status = func(st manifest.Status) {
		s.mu.Lock()
		s.statuses = append(s.statuses, st)
		s.mu.Unlock()
		if st.Event == manifest.StatusAttached {
			if s.attached != nil {
				s.attached()
			}
			close(attached)
		}
	}
	go func() {
		if s.beforehand != nil {
			// The thread is not given back: it is in other namespaces.
			runtime.LockOSThread()
			s.beforehand()
		}
		s.done <- Run(ctx, o)
	}()
	select {
	case <-attached:
	case err := <-s.done:
		skipLacking(s.t, "", err)
		s.t.Fatalf("the run ended: %v\n%s", err, s.err.String())
	}
	return s
}

// end stops the run and returns what it printed.
func (s *session) end() string {
	s.t.Helper()
	s.cancel()
	if err := <-s.done; err != nil {
		s.t.Errorf("run: %v\n%s", err, s.err.String())
	}
	return s.out.String()
}

func (s *session) last() manifest.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statuses[len(s.statuses)-1]
}

func runPackage(t *testing.T, name string, o Options) *session {
	t.Helper()
	needRoot(t)
	o.Package, _ = readPackage(t, name)
	return (&session{t: t}).begin(o)
}

// getpgid fires the tracepoint that the test programs wait for; each takes
// another number for its sign.
func getpgid(sign int) { _, _ = unix.Getpgid(sign) }

// TestRun runs upstream's packages and holds what they print against what
// upstream printed. What was sent before the end is printed, however short the
// run was.
func TestRun(t *testing.T) {
	for name, sign := range map[string]int{
		"scalars": 77101, "floats": 77102, "arrays": 77103, "composites": 77104, "columns": 77105,
		"strings": 77106, "several-structs": 77120, "event-sizes": 77140, "perf-array": 77130,
	} {
		for _, format := range []string{"text", "json"} {
			t.Run(name+"/"+format, func(t *testing.T) {
				s := runPackage(t, name+"/package", Options{JSON: format == "json"})
				getpgid(sign)
				golden(t, "testdata/upstream/"+name+"/package."+format+".golden", []byte(s.end()), false)
			})
		}
	}
}

// TestRunStacks is TestRun for packages whose events are stacks of fixed
// addresses.
func TestRunStacks(t *testing.T) {
	for _, name := range []string{"nosym", "sym", "map"} {
		t.Run(name, func(t *testing.T) {
			s := runPackage(t, "stack-trace/"+name, Options{})
			getpgid(77330)
			golden(t, "testdata/upstream/stack-trace/"+name+".text.golden", []byte(s.end()), false)
		})
	}
}

func TestRunWithArguments(t *testing.T) {
	const globals = `"a_u32":10,"bss":0,"bss_text":"","d":4612811918334230528,"f":1069547520,"i":1,"l":5,"ll":6,"pid":8,"s":3,"text":"rodata","uc":9,"ui":2,"ul":11,"ull":7,"us":4`
	const cmdarg = `"defaulted":42,"defoff":false,"defon":true,"init":true,"on":false,"plain":1,"renamed":2,"text":"dflt"`
	replace := func(s string, pairs ...string) string {
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(s, pairs[i]) {
				panic(pairs[i])
			}
			s = strings.Replace(s, pairs[i], pairs[i+1], 1)
		}
		return s
	}
	for _, tt := range []struct {
		pkg  string
		sign int
		args string
		want string
	}{
		{"globals/package", 77220, "", globals},
		{"globals/package", 77220, "--i=-5 --s=-32768 --ull 18446744073709551615",
			replace(globals, `"i":1`, `"i":-5`, `"s":3`, `"s":-32768`, `"ull":7`, `"ull":18446744073709551615`)},
		{"globals/package", 77220, "--ui 4294967295 --us 65535 --uc 200 --a_u32 4000000000 --ul 5",
			replace(globals, `"ui":2`, `"ui":4294967295`, `"us":4`, `"us":65535`, `"uc":9`, `"uc":200`, `"a_u32":10`, `"a_u32":4000000000`, `"ul":11`, `"ul":5`)},
		{"globals/package", 77220, "--f 1.25 --d 1.25", replace(globals, `1069547520`, `1067450368`, `4612811918334230528`, `4608308318706860032`)},
		{"globals/package", 77220, "--text ab --bss_text xyz --bss 900",
			replace(globals, `"rodata"`, `"ab"`, `"bss_text":""`, `"bss_text":"xyz"`, `"bss":0`, `"bss":900`)},
		{"cmdarg/package", 77230, "", cmdarg},
		{"cmdarg/package", 77230, "--plain 10 --new-name 20 -d30 -t=T --disable-defon --enable-off-by-default --on",
			`"defaulted":30,"defoff":true,"defon":false,"init":true,"on":true,"plain":10,"renamed":20,"text":"T"`},
		{"short-name/package", 77340, "--level 4", `"id":1,"value":4`},
		{"data-section/data", 77240, "", `"id":1,"value":5`},
		{"data-section/custom", 77241, "--setting 66", `"id":2,"value":66`},
		{"data-section/static", 77242, "", `"id":7,"value":1`},
		{"data-section/mixed", 77244, "--open 80", `"id":80,"value":9`},
	} {
		t.Run(tt.pkg+" "+tt.args, func(t *testing.T) {
			s := runPackage(t, tt.pkg, Options{JSON: true, Args: strings.Fields(tt.args)})
			getpgid(tt.sign)
			if got, want := s.end(), "{"+tt.want+"}\n"; got != want {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
}

func TestRunPrintsHelp(t *testing.T) {
	for args, want := range map[string]string{"--help": "Usage: prog [OPTIONS]", "-V": "cmdarg_bpf 4.5.6\n"} {
		pkg, _ := readPackage(t, "cmdarg/package")
		var out bytes.Buffer
		err := Run(t.Context(), Options{Package: pkg, Args: []string{args}, Stdout: &out, Stderr: io.Discard})
		if err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, printed %q", args, err, out.String())
		}
	}
}

// TestRunDrains: all events that were sent before the end are printed, also
// when there are thousands.
func TestRunDrains(t *testing.T) {
	s := runPackage(t, "signals/burst", Options{JSON: true})
	getpgid(77322)
	lines := strings.Split(strings.TrimSuffix(s.end(), "\n"), "\n")
	if len(lines) != 3000 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		if want := fmt.Sprintf(`{"id":%d,"value":%d}`, i, -i); line != want {
			t.Fatalf("line %d: %s", i, line)
		}
	}
}

// TestRunPrintsAtOnce: no event waits for another one, or for the end.
func TestRunPrintsAtOnce(t *testing.T) {
	s := runPackage(t, "several-structs/package", Options{JSON: true})
	getpgid(77120)
	eventually(t, "the event is printed", func() bool { return s.out.String() == "{\"a\":30,\"b\":0}\n" })
	s.end()
	if !strings.Contains(s.err.String(), "warning: map ring_one is not read") {
		t.Errorf("stderr: %s", s.err.String())
	}
}

func TestRunWithoutExport(t *testing.T) {
	s := runPackage(t, "no-export/package", Options{})
	if out := s.end(); out != "" {
		t.Errorf("printed %q", out)
	}
}

// TestMalformedEvents: an event that is too short is counted and said, and the
// next one is printed.
func TestMalformedEvents(t *testing.T) {
	s := runPackage(t, "event-sizes/package", Options{JSON: true})
	getpgid(77142)
	if out, want := s.end(), "{\"id\":1,\"second\":2,\"third\":3}\n{\"id\":20,\"second\":2,\"third\":3}\n"; out != want {
		t.Errorf("printed %s", out)
	}
	if got := s.last(); got.Event != manifest.StatusDetached || got.Malformed["events"] != 1 {
		t.Errorf("last status %+v", got)
	}
	if want := "map events: an event of 15 bytes is left out: struct record takes 16 (1 left out so far)\n"; s.err.String() != want {
		t.Errorf("stderr: %s", s.err.String())
	}
	if len(s.statuses) != 3 || s.statuses[1].Event != manifest.StatusMalformed {
		t.Errorf("statuses: %+v", s.statuses)
	}
}

// TestPerfEventSizes: of an event that is longer than its type the rest is
// ignored; one that is shorter is counted and said, but for what the kernel's
// padding hides, and the next one is printed.
func TestPerfEventSizes(t *testing.T) {
	line := func(id int) string { return fmt.Sprintf("{\"id\":%d,\"note\":\"perf\",\"tail\":9}\n", id) }
	for _, tt := range []struct {
		name      string
		sign      int
		want      string
		malformed uint64
	}{
		{"longer", 77131, line(77131) + line(77131) + line(77132), 0},
		{"one byte short", 77132, line(77132) + line(77132) + line(77133), 0},
		{"shorter", 77133, line(77133) + line(77134), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := runPackage(t, "perf-array/package", Options{JSON: true})
			getpgid(tt.sign)
			if out := s.end(); out != tt.want {
				t.Errorf("printed %s", out)
			}
			lost, counted := s.last().Lost["events"]
			if got := s.last().Malformed["events"]; got != tt.malformed || !counted || lost != 0 {
				t.Errorf("last status %+v", s.last())
			}
		})
	}
}

// TestPerfLost: events that find the buffer full are counted and said, and
// those after them are printed.
func TestPerfLost(t *testing.T) {
	needRoot(t)
	pkg, _ := readPackage(t, "perf-array/package")
	pkg.Meta.PerfBufferPages = 1
	w := &stuckWriter{entered: make(chan struct{}), leave: make(chan struct{})}
	s := (&session{t: t}).begin(Options{Package: pkg, JSON: true, Stdout: w})
	// All events are of one CPU, and fill its buffer while the output is stuck.
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &before); err == nil {
			runtime.UnlockOSThread()
		}
	}()
	getpgid(77130)
	<-w.entered
	const events = 1000
	for range events - 1 {
		getpgid(77130)
	}
	close(w.leave)
	// The kernel tells of the loss with an event that finds room.
	sent := events
	eventually(t, "the loss is said", func() bool {
		getpgid(77130)
		sent++
		return s.last().Event == manifest.StatusLost
	})
	s.end()
	lost, printed := int(s.last().Lost["events"]), strings.Count(w.String(), "\n")
	if lost == 0 || lost+printed != sent {
		t.Errorf("sent %d, printed %d, lost %d", sent, printed, lost)
	}
	if want := fmt.Sprintf("map events: %d events are lost: the buffer was full", lost); !strings.Contains(s.err.String(), want) {
		t.Errorf("stderr: %s", s.err.String())
	}
}

func TestStatus(t *testing.T) {
	s := runPackage(t, "probes/package", Options{})
	s.end()
	got := s.statuses[0]
	want := []manifest.ProgramStatus{
		{Name: "on_getpgid", Section: "tp/syscalls/sys_enter_getpgid", Target: "syscalls:sys_enter_getpgid"},
		{Name: "on_getsid", Section: "tracepoint/syscalls/sys_enter_getsid", Target: "syscalls:sys_enter_getsid"},
	}
	if got.Kernel == "" || got.Time.IsZero() || fmt.Sprint(got.Programs) != fmt.Sprint(want) {
		t.Errorf("got %+v", got)
	}
}

// TestStatusLine: without a function for it, a status is a line on stderr.
func TestStatusLine(t *testing.T) {
	var out bytes.Buffer
	r := newReporter(&Options{Stderr: &out, Now: testClock}, "6.1.0")
	l := &layout{what: "struct record", need: 16}
	r.malformedEvent("events", 3, l)
	r.malformedEvent("events", 4, l) // too soon for another line
	r.due()
	r.now = func() time.Time { return testClock().Add(recordInterval) }
	r.due()
	r.due()
	var losses []uint64
	for line := range strings.Lines(out.String()) {
		if st, ok := manifest.DecodeStatus([]byte(line)); ok && st.Event == manifest.StatusMalformed {
			losses = append(losses, st.Malformed["events"])
		}
	}
	if fmt.Sprint(losses) != "[1 2]" {
		t.Errorf("losses %v in\n%s", losses, out.String())
	}
}

// TestStatusAmongEvents: the log of an instance that prints much has a record
// wherever its beginning was cut off.
func TestStatusAmongEvents(t *testing.T) {
	var out bytes.Buffer
	r := newReporter(&Options{Stderr: &out, Now: testClock, ReadySocket: "ready"}, "6.1.0")
	s := &sink{out: io.Discard, reporter: r}
	line := bytes.Repeat([]byte("x"), 1<<10)
	write := func(bytes int) {
		for range bytes / len(line) {
			if err := s.write(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(manifest.StatusInterval - len(line))
	if out.Len() != 0 {
		t.Errorf("too early: %s", &out)
	}
	r.record(manifest.StatusMoved)
	write(manifest.StatusInterval - len(line))
	write(2*manifest.StatusInterval + len(line))
	var events []string
	for line := range strings.Lines(out.String()) {
		st, _ := manifest.DecodeStatus([]byte(line))
		events = append(events, st.Event)
	}
	if want := "[moved running running running]"; fmt.Sprint(events) != want {
		t.Errorf("%v, want %s", events, want)
	}
	out.Reset()
	r.programs = make([]manifest.ProgramStatus, 1000)
	write(999 << 10)
	if out.Len() != 0 {
		t.Error("a long record comes as often as a short one")
	}
	// Outside of Pods perhaps nobody reads it.
	r.repeats = false
	write(4 << 20)
	if out.Len() != 0 {
		t.Error("a record where there is no Pod")
	}
}

// TestPipeIsWidened: a burst finds more room in the pipe to a reader than the 64
// KiB that Linux gives it.
func TestPipeIsWidened(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	s := runPackage(t, "several-structs/package", Options{JSON: true, Stdout: out})
	size, err := unix.FcntlInt(out.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil || size != pipeSize {
		t.Errorf("the pipe takes %d bytes, %v", size, err)
	}
	s.end()
}

// A stuckWriter takes nothing until it is let go.
type stuckWriter struct {
	buffer
	entered chan struct{}
	once    sync.Once
	leave   chan struct{}
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.entered) })
	<-w.leave
	return w.buffer.Write(p)
}

// TestStuckOutput: an output that takes nothing holds up neither detaching nor
// the end, and the loss is said.
func TestStuckOutput(t *testing.T) {
	defer func(d time.Duration) { stuckTimeout = d }(stuckTimeout)
	stuckTimeout = 20 * time.Millisecond
	w := &stuckWriter{entered: make(chan struct{}), leave: make(chan struct{})}
	defer close(w.leave)
	s := runPackage(t, "signals/burst", Options{JSON: true, Stdout: w})
	getpgid(77322)
	<-w.entered
	s.cancel()
	if err := <-s.done; err == nil || !strings.Contains(err.Error(), "the output has taken nothing") {
		t.Errorf("got %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// TestClosedOutput: the run ends by itself, without an error when it was the
// reader that left.
func TestClosedOutput(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want error
	}{
		{&os.PathError{Op: "write", Path: "|1", Err: unix.EPIPE}, nil},
		{unix.ENOSPC, unix.ENOSPC},
	} {
		s := runPackage(t, "signals/burst", Options{JSON: true, Stdout: failingWriter{tt.err}})
		getpgid(77322)
		if err := <-s.done; !errors.Is(err, tt.want) {
			t.Errorf("%v: got %v", tt.err, err)
		}
		if s.last().Event != manifest.StatusDetached {
			t.Errorf("%v: last status %+v", tt.err, s.last())
		}
	}
}

// kernelIDs are the ids of the BPF things that this process holds.
func kernelIDs(t *testing.T) map[string][]int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string][]int{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // closed by now
		}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if key == "prog_id" || key == "map_id" || key == "link_id" {
				id, err := strconv.Atoi(strings.TrimSpace(value))
				if err != nil {
					t.Fatalf("%s: %s", file, line)
				}
				ids[key] = append(ids[key], id)
			}
		}
	}
	return ids
}

func exists(kind string, id int) bool {
	var c io.Closer
	var err error
	switch kind {
	case "prog_id":
		c, err = ebpf.NewProgramFromID(ebpf.ProgramID(id))
	case "map_id":
		c, err = ebpf.NewMapFromID(ebpf.MapID(id))
	case "link_id":
		c, err = link.NewFromID(link.ID(id))
	}
	if err == nil {
		_ = c.Close()
	}
	return !errors.Is(err, os.ErrNotExist)
}

// TestNothingIsLeft: after the end the kernel has nothing of the run, by its
// own ids.
func TestNothingIsLeft(t *testing.T) {
	for _, name := range []string{"probes/package", "probes/uprobe", "globals/package", "xdp/package"} {
		t.Run(name, func(t *testing.T) {
			s := &session{t: t, beforehand: func() { newNetns(t) }}
			needRoot(t)
			pkg, _ := readPackage(t, name)
			s.begin(Options{Package: pkg})
			ids := kernelIDs(t)
			if len(ids["prog_id"]) == 0 || len(ids["map_id"]) == 0 || len(ids["link_id"]) == 0 {
				t.Fatalf("while it runs: %v", ids)
			}
			s.end()
			if left := kernelIDs(t); len(left) != 0 {
				t.Errorf("this process still holds %v", left)
			}
			if maps, err := os.ReadFile("/proc/self/maps"); err != nil || bytes.Contains(maps, []byte("bpf-map")) {
				t.Errorf("this process still has a map in its memory (%v)", err)
			}
			for kind, list := range ids {
				for _, id := range list {
					// The kernel frees after a grace period.
					eventually(t, fmt.Sprintf("%s %d is gone", kind, id), func() bool { return !exists(kind, id) })
				}
			}
		})
	}
}

// TestNothingIsLeftOfFailures: an error on the way in leaves nothing either.
func TestNothingIsLeftOfFailures(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		pkg     string
		options Options
		want    string
		kind    manifest.Kind
		advice  string
	}{
		{"sections/nosuch", Options{}, "attach program the_program (tracepoint/syscalls/sys_enter_nosuch): this kernel has no tracepoint syscalls:sys_enter_nosuch", manifest.KindPrecondition, "available_events"},
		{"sections/nofile", Options{}, "attach program the_program (uprobe/nosuchfile:main): nosuchfile is in none of", manifest.KindPrecondition, ""},
		{"sections/nosym", Options{}, "libc.so.6: it has no function no_such_symbol", manifest.KindPrecondition, "nm -D"},
		{"probes/uprobe", Options{Root: "/nonexistent"}, "root /nonexistent: no such file or directory", manifest.KindPrecondition, ""},
		{"probes/package", Options{Interface: "lo"}, "network interface lo: the package has no program that is attached to one", manifest.KindUsage, ""},
		{"xdp/package", Options{Interface: "nosuch0"}, "attach program on_packet (xdp): there is no network interface with the name nosuch0 here", manifest.KindPrecondition, "--interface"},
		{"probes/package", Options{ReadySocket: "/proc/self/ready.sock"}, "listen for readiness", manifest.KindFailure, ""},
		{"sections/refused", Options{}, "load the programs: program the_program: load program: permission denied", manifest.KindFailure, ""},
	} {
		t.Run(tt.pkg, func(t *testing.T) {
			o := tt.options
			o.Package, _ = readPackage(t, tt.pkg)
			o.Stdout, o.Stderr = io.Discard, io.Discard
			err := Run(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || manifest.KindOf(err) != tt.kind || !strings.Contains(manifest.AdviceOf(err), tt.advice) {
				t.Errorf("got %v (kind %d, advice %q)", err, manifest.KindOf(err), manifest.AdviceOf(err))
			}
			if left := kernelIDs(t); len(left) != 0 {
				t.Errorf("this process still holds %v", left)
			}
		})
	}
}

// TestVerifierLog: the log of the verifier comes with the error.
func TestVerifierLog(t *testing.T) {
	needRoot(t)
	pkg, _ := readPackage(t, "sections/refused")
	err := Run(t.Context(), Options{Package: pkg, Stdout: io.Discard, Stderr: io.Discard})
	for _, text := range []string{FullMessage(err), string(TerminationMessage(err))} {
		if !strings.Contains(text, "R1 invalid mem access 'scalar'") || !strings.Contains(text, "0: (79) r1 =") {
			t.Errorf("got %s", text)
		}
	}
}

func TestKernelBTFOfEnvironment(t *testing.T) {
	needRoot(t)
	t.Setenv(btfFileEnv, "/nonexistent/btf")
	pkg, _ := readPackage(t, "probes/package")
	err := Run(t.Context(), Options{Package: pkg, Stdout: io.Discard, Stderr: io.Discard})
	if err == nil || manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), "/nonexistent/btf") {
		t.Errorf("got %v", err)
	}
	t.Setenv(btfFileEnv, "/sys/kernel/btf/vmlinux")
	runPackage(t, "probes/package", Options{}).end()
}

func TestReadyWhileAttached(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready.sock")
	s := runPackage(t, "no-export/package", Options{ReadySocket: path})
	if err := CheckReady(path); err != nil {
		t.Error(err)
	}
	s.end()
	if err := CheckReady(path); err == nil {
		t.Error("still ready after the end")
	}
}

// newNetns moves this thread into a network namespace of its own, with its
// loopback interface up.
func newNetns(t *testing.T) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Errorf("a network namespace of its own: %v", err)
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		t.Error(err)
		return
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		t.Error(err)
	}
}

func TestXDP(t *testing.T) {
	needRoot(t)
	for name, iface := range map[string]string{"index": "", "name": "lo"} {
		t.Run(name, func(t *testing.T) {
			var conn net.Conn
			var busy error
			pkg, _ := readPackage(t, "xdp/package")
			s := &session{t: t}
			s.beforehand = func() {
				newNetns(t)
				var err error
				if conn, err = net.Dial("udp", "127.0.0.1:7726"); err != nil {
					t.Error(err)
				}
			}
			s.begin(Options{Package: pkg, JSON: true, Interface: iface})
			defer conn.Close()
			if _, err := conn.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the packet is printed", func() bool { return s.out.String() == `{"data":"ping","dport":7726,"len":12}`+"\n" })
			if got := s.statuses[0].Programs[0].Target; got != "lo" {
				t.Errorf("attached to %q", got)
			}
			// A second program finds the interface taken.
			ns := netnsOf(t, conn)
			done := make(chan struct{})
			go func() {
				defer close(done)
				runtime.LockOSThread()
				if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
					t.Errorf("setns: %v", err)
					return
				}
				busy = Run(context.Background(), Options{Package: pkg, Stdout: io.Discard, Stderr: io.Discard})
			}()
			<-done
			id := kernelIDs(t)["prog_id"][0]
			if want := fmt.Sprintf("network interface lo: another XDP program is attached (id %d)", id); busy == nil ||
				!strings.Contains(busy.Error(), want) || manifest.KindOf(busy) != manifest.KindConflict {
				t.Errorf("got %v, want %s", busy, want)
			}
			s.end()
		})
	}
}

// netnsOf opens the network namespace of a socket.
func netnsOf(t *testing.T, conn net.Conn) int {
	t.Helper()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ns := -1
	if err := raw.Control(func(fd uintptr) {
		ns, err = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS)
	}); err != nil || ns < 0 {
		t.Fatal("the namespace of a socket: ", err)
	}
	t.Cleanup(func() { _ = unix.Close(ns) })
	return ns
}

// probe makes a package of one program that sends the number 1 whenever it
// runs.
func probe(section string, typ ebpf.ProgramType) (*manifest.Meta, *ebpf.CollectionSpec) {
	meta := &manifest.Meta{}
	meta.Skeleton.Progs = []manifest.ProgMeta{{Name: "probe"}}
	meta.Skeleton.Maps = []manifest.MapMeta{{Name: "events"}}
	output := asm.Instructions{
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.R10, -8, asm.R1, asm.DWord),
		asm.LoadMapPtr(asm.R1, 0).WithReference("events"),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -8),
		asm.Mov.Imm(asm.R3, 8),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}
	return meta, &ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{"probe": {Name: "probe", Type: typ, SectionName: section, License: "GPL", Instructions: output}},
		Maps:     map[string]*ebpf.MapSpec{"events": {Name: "events", Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())}},
	}
}

// count runs a probe while trigger runs, and returns how often it ran and to
// what it was attached.
func count(t *testing.T, section string, typ ebpf.ProgramType, o Options, trigger func()) (int, string) {
	t.Helper()
	needRoot(t)
	meta, spec := probe(section, typ)
	planned, err := planProgram(&meta.Skeleton.Progs[0], spec)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(&btf.Struct{Name: "record", Size: 8, Members: []btf.Member{{Name: "n", Type: testLong}}}, []manifest.Member{{Name: "n"}})
	if err != nil {
		t.Fatal(err)
	}
	p := &plan{
		programs:    []plannedProgram{planned},
		exports:     []export{{mapName: "events", typ: ebpf.RingBuf, layout: l}},
		pollTimeout: defaultPollTimeout,
	}
	var out bytes.Buffer
	o.Stdout, o.Stderr, o.Now, o.JSON = &out, io.Discard, time.Now, true
	in, err := start(p, spec, &o)
	if err != nil {
		skipLacking(t, section, err)
		t.Fatal(err)
	}
	trigger()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := in.run(ctx); err != nil {
		t.Fatal(err)
	}
	n := strings.Count(out.String(), "{\"n\":1}\n")
	if n > 0 {
		works(t, section)
	}
	return n, in.reporter.programs[0].Target
}

func TestRawTracepoint(t *testing.T) {
	rename := func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		name := []byte("ebpm-test\x00")
		var old [16]byte
		_ = unix.Prctl(unix.PR_GET_NAME, uintptr(unsafe.Pointer(&old[0])), 0, 0, 0)
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&old[0])), 0, 0, 0)
	}
	for _, section := range []string{"raw_tp/task_rename", "raw_tracepoint/task_rename"} {
		if n, target := count(t, section, ebpf.RawTracepoint, Options{}, rename); n < 2 || target != "task_rename" {
			t.Errorf("%s: %d events, attached to %s", section, n, target)
		}
	}
	meta, spec := probe("raw_tp/no_such_thing", ebpf.RawTracepoint)
	planned, err := planProgram(&meta.Skeleton.Progs[0], spec)
	if err != nil {
		t.Fatal(err)
	}
	_, err = start(&plan{programs: []plannedProgram{planned}}, spec, &Options{Stdout: io.Discard, Stderr: io.Discard, Now: time.Now})
	if err == nil || !strings.Contains(err.Error(), "this kernel has no raw tracepoint no_such_thing") {
		t.Errorf("got %v", err)
	}
}

// TestUprobe probes libc in the root of this process and a copy in another
// root, which a link within that root leads to.
func TestUprobe(t *testing.T) {
	libc, path, err := openTarget("", "libc.so.6")
	if err != nil {
		t.Fatal(err)
	}
	defer libc.Close()
	root := t.TempDir()
	copyPath := filepath.Join(root, "opt/libc.so.6")
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "opt"), 0o755), os.MkdirAll(filepath.Join(root, "usr/lib"), 0o755),
		os.Symlink("/opt/libc.so.6", filepath.Join(root, "usr/lib/libc.so.6"))); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copyPath, data, 0o755); err != nil {
		t.Fatal(err)
	}
	// chrt -m asks libc for the greatest priority of each policy.
	chrt := func(env ...string) func() {
		return func() {
			cmd := exec.Command("chrt", "-m")
			cmd.Env = env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("chrt: %v: %s", err, out)
			}
		}
	}
	inCopy := chrt("LD_LIBRARY_PATH=" + filepath.Dir(copyPath))
	const function = ":sched_get_priority_max"
	for _, tt := range []struct {
		section string
		root    string
		trigger func()
		want    bool
		target  string
	}{
		{"uprobe/libc.so.6" + function, "", chrt(), true, path + function},
		{"uprobe/" + path + function, "", chrt(), true, path + function},
		{"uprobe/" + path + function + "+0x0", "", chrt(), true, path + function},
		{"uretprobe/libc.so.6" + function, "", chrt(), true, path + function},
		{"uprobe/libc.so.6" + function, root, inCopy, true, "/usr/lib/libc.so.6" + function},
		{"uretprobe//usr/lib/libc.so.6" + function, root, inCopy, true, "/usr/lib/libc.so.6" + function},
		{"uprobe/libc.so.6" + function, root, chrt(), false, "/usr/lib/libc.so.6" + function},
	} {
		n, target := count(t, tt.section, ebpf.Kprobe, Options{Root: tt.root}, tt.trigger)
		if (n > 0) != tt.want || target != tt.target {
			t.Errorf("%s in %q: %d events, attached to %s", tt.section, tt.root, n, target)
		}
	}
}

// TestUprobeByPerfEvent attaches as on kernels before 6.6.
func TestUprobeByPerfEvent(t *testing.T) {
	needRoot(t)
	byPerfEvent(t)
	for _, section := range []string{"uprobe/libc.so.6:sched_get_priority_max", "uretprobe/libc.so.6:sched_get_priority_max"} {
		n, _ := count(t, section, ebpf.Kprobe, Options{}, func() { _ = exec.Command("chrt", "-m").Run() })
		if n == 0 {
			t.Errorf("%s: no event", section)
		}
	}
}

func TestParseUprobe(t *testing.T) {
	for _, tt := range []struct {
		section string
		want    uprobe
		wantErr string
	}{
		{"uprobe//bin/bash:readline", uprobe{binary: "/bin/bash", function: "readline"}, ""},
		{"uretprobe//bin/bash:readline", uprobe{binary: "/bin/bash", function: "readline", ret: true}, ""},
		{"uprobe/bash:f+0x10", uprobe{binary: "bash", function: "f", offset: 16}, ""},
		{"uprobe/bash:f+10", uprobe{binary: "bash", function: "f", offset: 10}, ""},
		{"?uretprobe.s/bash:f", uprobe{binary: "bash", function: "f", ret: true}, ""},
		{"uprobe/bash:f@V1+8", uprobe{binary: "bash", function: "f@V1", offset: 8}, ""},
		{"uprobe/bash:0x1234", uprobe{binary: "bash", offset: 0x1234}, ""},
		{"uretprobe.s/bash:4660", uprobe{binary: "bash", offset: 0x1234, ret: true}, ""},
		{"uprobe.multi/bash:read*", uprobe{binary: "bash", function: "read*", several: true}, ""},
		{"uretprobe.multi.s/bash:?ead", uprobe{binary: "bash", function: "?ead", ret: true, several: true}, ""},
		{"uprobe.session/bash:read*", uprobe{binary: "bash", function: "read*", several: true, session: true}, ""},
		{"uprobe/go:main.(*T).f", uprobe{binary: "go", function: "main.(*T).f"}, ""},
		{"uprobe", uprobe{}, `write SEC("uprobe/PATH:FUNCTION"), or name it at run time: --attach PROGRAM=PATH:FUNCTION`},
		{"uretprobe.multi", uprobe{}, `write SEC("uretprobe.multi/PATH:FUNCTION")`},
		{"uprobe/bash", uprobe{}, "it names no function"},
		{"uprobe/:f", uprobe{}, "it names no function"},
		{"uprobe/bash:", uprobe{}, "it names no function"},
		{"uprobe/bash:f+x", uprobe{}, `the offset "x" is no number`},
		{"uprobe/bash:f+-1", uprobe{}, `the offset "-1" is no number`},
		{"uprobe/bash:0x1g", uprobe{}, `"0x1g" is neither a function nor an offset`},
		{"uretprobe/bash:f+1", uprobe{}, "a uretprobe has no offset"},
		{"uprobe.session/bash:f+1", uprobe{}, "a uprobe.session has no offset"},
		{"uprobe.multi/bash:f*+1", uprobe{}, `"f*" may be several`},
	} {
		h, target := findHook(strings.TrimPrefix(tt.section, "?"))
		if h == nil {
			t.Fatalf("%s: no hook", tt.section)
		}
		got, err := parseUprobe(&plannedProgram{target: target, spec: &ebpf.ProgramSpec{SectionName: tt.section}})
		if tt.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("%s: got %v, want %s", tt.section, err, tt.wantErr)
			}
		} else if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v", tt.section, got, err)
		}
	}
}
