// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// asEbpmEnv makes the test binary the command, so that signals can be tested.
const asEbpmEnv = "EBPM_TEST_AS_EBPM"

func TestMain(m *testing.M) {
	if os.Getenv(asEbpmEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A watchedRun is `ebpm run --watch` on a copy of testdata/watch, whose programs
// number the calls of getpriority(2) that this process makes.
type watchedRun struct {
	t   *testing.T
	dir string // the source
	tmp string // what the command takes for /tmp
	cmd *exec.Cmd
	// lines are stdout, closed at its end; stderr is all of it so far.
	lines  chan string
	stderr lockedBuffer
	// headers and count are those of the rows so far.
	headers []string
	count   uint64
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startWatchedRun starts the command when prepare, which may be nil, has changed
// the source.
func startWatchedRun(t *testing.T, prepare func(*watchedRun), flags ...string) *watchedRun {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test loads eBPF programs: run it as root")
	}
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	r := &watchedRun{t: t, dir: t.TempDir(), tmp: t.TempDir(), lines: make(chan string)}
	if err := os.CopyFS(r.dir, os.DirFS("testdata/watch")); err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(r)
	}
	args := append(append([]string{"run"}, flags...), "--watch", r.dir,
		"--process", strconv.Itoa(os.Getpid()), "--syscall", strconv.Itoa(unix.SYS_GETPRIORITY))
	r.cmd = exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	r.cmd.Env = append(os.Environ(), asEbpmEnv+"=1", "TMPDIR="+r.tmp)
	r.cmd.Stderr = &r.stderr
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		runtime.LockOSThread() // the numbers are those of one thread
		defer runtime.UnlockOSThread()
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				_, _ = unix.Getpriority(unix.PRIO_PROCESS, 0)
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
	})
	return r
}

// row returns the columns behind the time of the next row. Each has the number
// that follows, whichever build prints it.
func (r *watchedRun) row() []string {
	r.t.Helper()
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				r.t.Fatalf("the command has ended: %s", &r.stderr)
			}
			words := strings.Fields(line)
			if words[0] == "TIME" {
				r.headers = append(r.headers, strings.Join(words, " "))
				continue
			}
			n, err := strconv.ParseUint(words[1], 10, 64)
			if err != nil || r.count != 0 && n != r.count+1 {
				r.t.Fatalf("after number %d comes %q (%v)", r.count, line, err)
			}
			r.count = n
			return words[1:]
		case <-time.After(time.Minute):
			r.t.Fatalf("no row: %s", &r.stderr)
		}
	}
}

// says reads rows until stderr has a text so many times.
func (r *watchedRun) says(text string, times int) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for strings.Count(r.stderr.String(), text) < times {
		if r.row(); time.Now().After(deadline) {
			r.t.Fatalf("stderr does not say %q %d times:\n%s", text, times, &r.stderr)
		}
	}
}

// change saves a file with other words in the place of old.
func (r *watchedRun) change(name, old, words string) {
	r.t.Helper()
	file := filepath.Join(r.dir, name)
	text, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	changed := strings.Replace(string(text), old, words, 1)
	if changed == string(text) {
		r.t.Fatalf("%s has no %q", name, old)
	}
	saveByRename(r.t, file, changed)
}

var idRE = regexp.MustCompile(`(?m)^(prog|map)_id:\s*(\d+)$`)

// objects are the programs and maps that the command holds, by the kernel's ids.
func (r *watchedRun) objects() (found []string) {
	r.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, file := range files {
		info, _ := os.ReadFile(file) // it may be closed meanwhile
		for _, m := range idRE.FindAllStringSubmatch(string(info), -1) {
			if object := m[1] + " " + m[2]; !slices.Contains(found, object) {
				found = append(found, object)
			}
		}
	}
	return found
}

// gone waits until the kernel has none of the objects, and reads rows meanwhile.
func (r *watchedRun) gone(objects []string, meanwhile func()) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for _, object := range objects {
		for {
			kind, text, _ := strings.Cut(object, " ")
			id, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				r.t.Fatal(err)
			}
			if kind == "prog" {
				var p *ebpf.Program
				if p, err = ebpf.NewProgramFromID(ebpf.ProgramID(id)); err == nil {
					_ = p.Close()
				}
			} else {
				var m *ebpf.Map
				if m, err = ebpf.NewMapFromID(ebpf.MapID(id)); err == nil {
					_ = m.Close()
				}
			}
			if errors.Is(err, os.ErrNotExist) {
				break
			}
			if err != nil || time.Now().After(deadline) {
				r.t.Fatalf("%s is in the kernel still (%v)", object, err)
			}
			meanwhile()
		}
	}
}

// end sends SIGINT and checks that nothing is left.
func (r *watchedRun) end() {
	r.t.Helper()
	objects := r.objects()
	if len(objects) < 4 {
		r.t.Errorf("the command holds %q, want programs and maps", objects)
	}
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		r.t.Fatal(err)
	}
	for range r.lines {
	}
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("%v: %s", err, &r.stderr)
	}
	r.gone(objects, func() { time.Sleep(time.Millisecond) })
	if left, err := os.ReadDir(r.tmp); err != nil || len(left) > 0 {
		r.t.Errorf("left behind are %v (%v)", left, err)
	}
}

func TestRunWatch(t *testing.T) {
	r := startWatchedRun(t, nil)
	r.row()
	first := r.objects()

	// A new column. The numbers go on, as row checks with each one.
	r.change("tick.h", "unsigned long long count;", "unsigned long long count;\n\tunsigned long long twice;")
	for row := r.row(); ; row = r.row() {
		if len(row) == 2 {
			break
		}
	}
	r.says("kept: counts", 1)
	if want := []string{"TIME COUNT", "TIME COUNT TWICE"}; !slices.Equal(r.headers, want) {
		t.Errorf("the headers are %q, want %q", r.headers, want)
	}
	// The programs of the first build are no more; maps with state live on.
	r.gone(slices.DeleteFunc(first, func(o string) bool { return !strings.HasPrefix(o, "prog") || slices.Contains(r.objects(), o) }), func() { r.row() })

	// What does not compile.
	r.change("tick.bpf.c", "++*n;", "++*n")
	r.says("the build before goes on", 1)
	r.says(filepath.Join(r.dir, "tick.bpf.c")+":35:6: error: expected ';'", 1)
	r.change("tick.bpf.c", "++*n", "++*n;")
	r.says("this is the build that runs", 1)

	// What the verifier refuses.
	r.change("tick.bpf.c", "if (!e)", "if (0)")
	r.says("the build before goes on", 2)
	r.says("invalid mem access 'ringbuf_mem_or_null'", 1)

	// A map whose content would be lost.
	r.change("tick.bpf.c", "if (0)", "if (!e)")
	r.says("this is the build that runs", 2)
	r.change("tick.bpf.c", "typedef u64 value;", "typedef struct { u64 now, before; } value;")
	r.says("the content of map counts would be lost", 1)
	r.says("--reset-state", 1)
	r.says("the build before goes on", 3)

	// Another program with the same columns has no header of its own.
	r.change("tick.bpf.c", "typedef struct { u64 now, before; } value;", "typedef u64 value;")
	r.says("this is the build that runs", 3)
	r.change("tick.h", "((e)->count = (n))", "((e)->count = (n), (e)->twice = 2 * (n))")
	r.says("the new build runs", 2)
	if row := r.row(); row[1] != strconv.FormatUint(2*r.count, 10) {
		t.Errorf("the row of the new build is %q", row)
	}
	if len(r.headers) != 2 {
		t.Errorf("the headers are %q", r.headers)
	}
	if n := strings.Count(r.stderr.String(), "error: expected ';'"); n != 1 {
		t.Errorf("the compiler's error is there %d times", n)
	}
	r.end()
}

func TestRunWatchResetsState(t *testing.T) {
	r := startWatchedRun(t, nil, "--reset-state")
	for range 10 {
		r.row()
	}
	r.change("tick.bpf.c", "typedef u64 value;", "typedef struct { u64 now, before; } value;")
	deadline := time.Now().Add(time.Minute)
	for line := range r.lines {
		if words := strings.Fields(line); len(words) == 2 && words[1] == "1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the numbers do not begin anew: %s", &r.stderr)
		}
	}
	r.count = 1
	r.says("empty: counts", 1)
	r.end()
}

// A global variable is carried where the flags or ebpm.yaml ask for it.
func TestRunWatchCarries(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		flags      []string
		want       string
	}{
		{name: "not", want: "kept: counts\n"},
		{name: "by flag", flags: []string{"--carry", ".data"}, want: "kept: .data, counts\n"},
		{name: "by ebpm.yaml", spec: "carry: [.data]\n", want: "kept: .data, counts\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := startWatchedRun(t, func(r *watchedRun) { save(t, filepath.Join(r.dir, "ebpm.yaml"), tt.spec) }, tt.flags...)
			r.row()
			r.change("tick.h", "((e)->count = (n))", "((e)->count = (n) + 0 * start)")
			r.change("tick.bpf.c", "++start", "start += 2")
			r.says(tt.want, 1)
			r.end()
		})
	}
}

// The first build that works may be a later one.
func TestRunWatchWaitsForABuild(t *testing.T) {
	r := startWatchedRun(t, func(r *watchedRun) { r.change("tick.bpf.c", "++*n;", "++*n") })
	for deadline := time.Now().Add(time.Minute); !strings.Contains(r.stderr.String(), "waiting for a save in "+r.dir); {
		if time.Sleep(time.Millisecond); time.Now().After(deadline) {
			t.Fatalf("it does not wait: %s", &r.stderr)
		}
	}
	r.change("tick.bpf.c", "++*n", "++*n;")
	if row := r.row(); row[0] != "1" {
		t.Errorf("the first row is %q", row)
	}
	r.end()
}

func TestRunWatchRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "package.json")
	save(t, file, "{}")
	for _, tt := range []struct {
		words string
		code  int
		want  string
	}{
		{words: "run --watch " + file, code: 2, want: "--watch takes a folder"},
		{words: "run --watch /no/such/folder", code: 3, want: "no such file"},
		{words: "run --watch --handover /run/x testdata/watch", code: 2, want: "--handover does not go with it"},
		{words: "run --carry all testdata/watch", code: 2, want: "they need --watch or --handover"},
		{words: "run --reset-state testdata/watch", code: 2, want: "they need --watch or --handover"},
		{words: "run testdata/watch --watch", code: 2, want: "--watch belongs in front of it"},
		{words: "run --watch testdata/watch --nosuch", code: 2, want: "nosuch"},
	} {
		if code, _, stderr := call(t, strings.Fields(tt.words)...); code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("ebpm %s: exit %d, want %d with %q:\n%s", tt.words, code, tt.code, tt.want, stderr)
		}
	}
}
