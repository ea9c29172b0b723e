// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// yielders are programs of which main calls sched_yield(2) for ever. They are
// written down, since the tests' own program often has no symbols, and other
// kernels are tested where there is no compiler.
var yielders = map[string]symbolFile{
	"amd64": {machine: elf.EM_X86_64, code: []byte{
		0xb8, 24, 0, 0, 0, // mov $24, %eax
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp main
	}},
	"arm64": {machine: elf.EM_AARCH64, code: []byte{
		0x88, 0x0f, 0x80, 0xd2, // mov x8, #124
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0xfe, 0xff, 0xff, 0x17, // b main
	}},
}

// mainAddress is where a yielder's main is in memory.
const mainAddress = 0x400000 + codeOffset

// startYielder runs a yielder until the test ends.
func startYielder(t *testing.T) (path string, pid uint64) {
	t.Helper()
	program, ok := yielders[runtime.GOARCH]
	if !ok {
		t.Fatalf("write a yielder for %s", runtime.GOARCH)
	}
	program.wide, program.order = true, binary.LittleEndian
	path = filepath.Join(t.TempDir(), "yielder")
	if err := os.WriteFile(path, program.bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	// The kernel says that it runs before it has mapped the file.
	eventually(t, "the program is mapped", func() bool {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", cmd.Process.Pid))
		return err == nil && strings.Contains(string(maps), path)
	})
	return path, uint64(cmd.Process.Pid)
}

func testSymbolizer(t *testing.T, stderr io.Writer) *symbolizer {
	t.Helper()
	needRoot(t)
	s := newSymbolizer("", newReporter(&Options{Stderr: stderr, Now: time.Now}, ""))
	t.Cleanup(s.close)
	return s
}

func TestSymbolizeProcess(t *testing.T) {
	s := testSymbolizer(t, io.Discard)
	path, pid := startYielder(t)
	want := place{symbol: "main", offset: 5, module: path, file: true, buildID: "cafe01", fileOffset: codeOffset + 5}
	look := func(when string, want place) {
		t.Helper()
		if got := s.process(pid, []byte("yielder"))(mainAddress + 5); got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	look("at first", want)
	look("again", want)
	if got := s.process(pid, []byte("yielder"))(0x10); got != (place{}) {
		t.Errorf("what is no address: %+v", got)
	}
	var id fileID
	for id = range s.files {
	}
	s.evict(id)
	if look("read again", want); s.files[id] == nil || len(s.files) != 1 || s.cached != 3 {
		t.Errorf("%d files, %d symbols are cached", len(s.files), s.cached)
	}

	// Another file takes its path: the one that is mapped stays the one that counts.
	other := symbolFile{wide: true, order: binary.LittleEndian}.bytes()
	if err := os.WriteFile(path+".new", bytes.ReplaceAll(other, []byte("\x00main"), []byte("\x00evil")), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	s.evict(id)
	s.processes[pid].read = time.Time{}
	want.module += " (deleted)"
	look("of a file that is gone", want)

	// A process that ended: what is known of it stays.
	if err := unix.Kill(int(pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its mappings are gone", func() bool {
		maps, err := os.ReadFile(s.processes[pid].path("maps"))
		return err != nil || len(maps) == 0
	})
	s.processes[pid].read = time.Time{}
	look("of a process that is gone", want)
	if got := s.process(1<<22+1, []byte("nobody"))(mainAddress); got != (place{}) {
		t.Errorf("of nobody: %+v", got)
	}
	s.close()
	if len(s.files) != 0 || s.cached != 0 {
		t.Errorf("%d files and %d symbols are left", len(s.files), s.cached)
	}
}

// TestFindMappedFile: each path leads to the file, and none to another one.
func TestFindMappedFile(t *testing.T) {
	needRoot(t)
	path, pid := startYielder(t)
	p := &process{pid: pid}
	p.refresh(time.Now())
	i := findMapping(p.mappings, mainAddress)
	if i < 0 {
		t.Fatalf("no mapping of main in %+v", p.mappings)
	}
	m := p.mappings[i]
	decoy := filepath.Join(t.TempDir(), "decoy")
	if err := os.WriteFile(decoy, make([]byte, 8192), 0o755); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, dir := range []string{filepath.Dir(path)} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(path, root+path); err != nil {
		t.Fatal(err)
	}
	moved := m
	moved.start, moved.end = m.end, m.end+4096 // the kernel has no link of that name
	nowhere := moved
	nowhere.path = "/nowhere"
	hidden := filepath.Join(t.TempDir(), "hidden") + "/" // no such folder
	for _, tt := range []struct {
		name, process, root string
		m                   mapping
		ok                  bool
	}{
		{"by the kernel's link", p.path(""), "", m, true},
		{"by the root of the process", p.path(""), "", moved, true},
		{"by the program", p.path(""), "", nowhere, true},
		{"by the node's root", hidden, root, m, true},
		{"by its path here", hidden, "", m, true},
		{"by nothing", hidden, t.TempDir(), m, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := findMappedFile(tt.process, tt.root, tt.m)
			if (err == nil) != tt.ok {
				t.Fatal(err)
			}
			if err == nil {
				_ = f.Close()
			}
		})
	}
	// A file system may give another number than the kernel's list.
	m.file.inode++
	for name, want := range map[string]error{path: nil, decoy: errOtherFile} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := isMapped(f, p.path(""), m); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		_ = f.Close()
	}
}

func TestSymbolizeVDSO(t *testing.T) {
	s := testSymbolizer(t, io.Discard)
	symbols, size := readVDSO()
	if symbols == nil {
		t.Fatal("this process has no vDSO that can be read")
	}
	find := s.process(uint64(os.Getpid()), []byte("test"))
	p := s.processes[uint64(os.Getpid())]
	i := slices.IndexFunc(p.mappings, func(m mapping) bool { return m.path == vdsoPath })
	if i < 0 || p.mappings[i].end-p.mappings[i].start != size {
		t.Fatalf("mappings %+v", p.mappings)
	}
	at := find(p.mappings[i].start + symbols.symbols[0].start - symbols.segments[0].address)
	if !strings.Contains(at.symbol, "vdso") && !strings.Contains(at.symbol, "kernel") || at.module != vdsoPath || at.file != false && at.buildID == "" {
		t.Errorf("got %+v", at)
	}
	if got := s.vdsoFile(&mapping{end: size + 4096}); got != noFile {
		t.Error("one of another size is taken for it")
	}
}

func TestSymbolizeOtherNamespace(t *testing.T) {
	s := testSymbolizer(t, io.Discard)
	s.checked, s.foreign = true, true
	if got := s.process(uint64(os.Getpid()), nil)(mainAddress); got != (place{}) || len(s.processes) != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestSymbolizeForgets: the processes and files that are kept are bounded.
func TestSymbolizeForgets(t *testing.T) {
	s := testSymbolizer(t, io.Discard)
	for pid := range uint64(maxProcesses + 2) {
		s.process(1<<22+1+pid, nil)
	}
	if len(s.processes) != maxProcesses || s.processes[1<<22+1] != nil || s.processes[1<<22+2] != nil || s.processes[1<<22+3] == nil {
		t.Errorf("%d processes are kept", len(s.processes))
	}
	take := func(inode uint64, symbols int) *mappedFile {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		return s.take(fileID{inode: inode}, loaded[*mappedFile]{value: &mappedFile{elfSymbols: &elfSymbols{symbols: make([]tableSymbol, symbols)}, file: f}})
	}
	first, second := take(1, maxCachedSymbols/2), take(2, maxCachedSymbols/2)
	s.clock++
	first.used = s.clock
	take(3, 1)
	if first.evicted || !second.evicted || len(s.files) != 2 || s.cached != maxCachedSymbols/2+1 {
		t.Errorf("evicted %v and %v, %d files with %d symbols stay", first.evicted, second.evicted, len(s.files), s.cached)
	}
	for n := range uint64(2 * maxFiles) {
		take(10+n, 0)
	}
	if len(s.files) != maxFiles {
		t.Errorf("%d files stay", len(s.files))
	}
}

// TestSymbolizeHanging: a file that cannot be read holds events up once.
func TestSymbolizeHanging(t *testing.T) {
	hanging := inBackground(func() (int, error) { select {} })
	if _, done := hanging.await(time.Millisecond); done || !hanging.late {
		t.Error("it was read")
	}
	if _, done := hanging.await(time.Hour); done {
		t.Error("it was read")
	}
	read := inBackground(func() (int, error) { return 1, nil })
	if r, done := read.await(time.Hour); !done || r.value != 1 {
		t.Errorf("got %+v", r)
	}

	s := testSymbolizer(t, io.Discard)
	for n := range uint64(maxLoads) {
		s.loads[fileID{inode: n}] = inBackground(func() (*mappedFile, error) { select {} })
		s.loads[fileID{inode: n}].late = true
	}
	_, pid := startYielder(t)
	look := func() string { return s.process(pid, nil)(mainAddress).symbol }
	if got := look(); got != "" {
		t.Errorf("while too many files hang: %s", got)
	}
	delete(s.loads, fileID{})
	eventually(t, "the symbol is there", func() bool { return look() == "main" })
}

func TestSymbolizeKernel(t *testing.T) {
	var said buffer
	s := testSymbolizer(t, &said)
	kallsyms, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	k, err := readKallsyms(bytes.NewReader(kallsyms))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kernel's symbols are read", func() bool {
		s.kernel(0)
		return s.kernelList != nil
	})
	for _, symbol := range k.symbols[:100] {
		if got, want := s.kernel(symbol.start), k.find(symbol.start); got != want {
			t.Errorf("%#x: %+v, want %+v", symbol.start, got, want)
		}
	}
	if said.String() != "" {
		t.Errorf("said %s", said.String())
	}
	for _, r := range []loaded[*kernelSymbols]{{value: &kernelSymbols{hidden: true}}, {err: io.ErrUnexpectedEOF}} {
		var said buffer
		s := testSymbolizer(t, &said)
		s.takeKernel(r)
		s.takeKernel(r)
		if got := said.String(); strings.Count(got, "warning: stacks of the kernel have no symbols: ") != 1 {
			t.Errorf("said %q", got)
		}
	}
}

// stackProgram sends its stacks, as events of stackStruct(depth).
func stackProgram(depth int32) asm.Instructions {
	stack := func(at, length int32, flags int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.R7),
			asm.Add.Imm(asm.R2, at),
			asm.Mov.Imm(asm.R3, 8*depth),
			asm.Mov.Imm(asm.R4, flags),
			asm.FnGetStack.Call(),
			asm.StoreMem(asm.R7, int16(length), asm.R0, asm.Word),
		}
	}
	return slices.Concat(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapPtr(asm.R1, 0).WithReference("events"),
		asm.Mov.Imm(asm.R2, 40+16*depth),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(asm.R7, 0, asm.R0, asm.Word),
		asm.FnGetSmpProcessorId.Call(),
		asm.StoreMem(asm.R7, 4, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, 8),
		asm.Mov.Imm(asm.R2, 16),
		asm.FnGetCurrentComm.Call(),
	}, stack(40, 24, 0), stack(40+8*depth, 28, 1<<8), asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	})
}

// TestStacks samples a process that runs a known function and calls the kernel.
func TestStacks(t *testing.T) {
	needRoot(t)
	path, pid := startYielder(t)
	meta, spec := probe("perf_event", ebpf.PerfEvent)
	spec.Programs["probe"].Instructions = stackProgram(32)
	spec.Maps["events"].MaxEntries = 1 << 20
	sampleYielder := &hook{attach: func(_ *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
		attr := unix.PerfEventAttr{
			Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: unix.PERF_ATTR_SIZE_VER0,
			Sample: 199, Bits: unix.PerfBitFreq | unix.PerfBitDisabled,
		}
		fd, err := unix.PerfEventOpen(&attr, int(pid), -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return nil, "", err
		}
		event := os.NewFile(uintptr(fd), "perf event")
		return event, "yielder", errors.Join(unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, prog.FD()), unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0))
	}}
	for _, asJSON := range []bool{false, true} {
		l := stackLayout(t, stackStruct(32))
		f, err := planStacks(stackMap(`{"stack_trace":{}}`), l)
		if err != nil {
			t.Fatal(err)
		}
		p := &plan{
			exports:     []export{{mapName: "events", typ: ebpf.RingBuf, layout: l, stacks: f}},
			pollTimeout: time.Millisecond,
			programs:    []plannedProgram{{name: "probe", hook: sampleYielder, spec: spec.Programs["probe"], meta: &meta.Skeleton.Progs[0]}},
		}
		var out, said buffer
		o := Options{Stdout: &out, Stderr: &said, Now: time.Now, JSON: asJSON, Status: func(manifest.Status) {}}
		in, err := start(p, spec.Copy(), &o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- in.run(ctx) }()
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("printed %.4000s\nsaid %s", out.String(), said.String())
			}
		})
		// Both stacks have to be in one event.
		eventually(t, "stacks of the kernel and of main", func() bool {
			if !asJSON {
				for block := range strings.SplitSeq(out.String(), "\n\n") {
					kernel, user, _ := strings.Cut(block, "Userspace:\n")
					if strings.HasPrefix(kernel, "COMM: yielder (pid=") && strings.Contains(kernel, "sched_yield+0x") && strings.Contains(user, ">] main+0x") {
						return true
					}
				}
				return false
			}
			for line := range strings.Lines(out.String()) {
				var event struct {
					Comm         string
					PID          uint64
					Kernel, User []struct{ Symbol, Module, BuildID string }
				}
				if json.Unmarshal([]byte(line), &event) != nil || len(event.Kernel) == 0 || len(event.User) == 0 {
					continue
				}
				top := event.User[0]
				if event.Comm == "yielder" && event.PID == pid && top.Symbol == "main" && top.Module == path && top.BuildID == "cafe01" && strings.HasSuffix(event.Kernel[0].Symbol, "sched_yield") {
					return true
				}
			}
			return false
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if said.String() != "" {
			t.Errorf("said %s", said.String())
		}
	}
}

// TestStacksToClosedOutput: the end of the output ends the run.
func TestStacksToClosedOutput(t *testing.T) {
	f, err := planStacks(stackMap(`{"stack_trace":{"with_symbols":false}}`), stackLayout(t, stackStruct(4)))
	if err != nil {
		t.Fatal(err)
	}
	reader := &endlessReader{event: stackEvent("x", 8, 8), flushed: make(chan struct{})}
	events := &eventSource{mapName: "events", reader: reader, printer: &printer{layout: f.layout}, sink: &sink{out: failingWriter{unix.EPIPE}}}
	if err := newStackSource(f, events, "").run(); !errors.Is(err, unix.EPIPE) {
		t.Errorf("got %v", err)
	}
}

// An endlessReader returns the same event until it is flushed.
type endlessReader struct {
	event   []byte
	flushed chan struct{}
	once    sync.Once
}

func (r *endlessReader) next() (event []byte, lost uint64, err error) {
	select {
	case <-r.flushed:
		return nil, 0, errFlushed
	default:
		return r.event, 0, nil
	}
}

func (r *endlessReader) release() {}

func (r *endlessReader) Flush() error {
	r.once.Do(func() { close(r.flushed) })
	return nil
}

func (r *endlessReader) Close() error { return nil }
