// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed init.sh
var initScript string

// Options say how a machine is made.
type Options struct {
	// CPUs and Memory, in MiB; 0 is 2 and 1024.
	CPUs, Memory int
	// Modules are the kernel modules that are loaded, with those that they need.
	Modules []string
	// Programs are programs of the host, with their shared libraries: most are
	// busybox's otherwise.
	Programs []string
	// Env is added to the environment of the tests, as NAME=VALUE.
	Env []string
	// Files are files and folders of the host, by their path in the machine.
	Files map[string]string
	// Args are flags of the test binaries, such as -test.run=X.
	Args []string
	// Console gets what the kernel and the init script print; nil drops it.
	Console io.Writer
}

// DefaultModules are those that the tests of the hooks need.
var DefaultModules = []string{"veth", "dummy", "tls", "sch_ingress", "cls_bpf", "nf_defrag_ipv4", "nf_defrag_ipv6"}

// DefaultPrograms are those that tests start because they use libc.so.
var DefaultPrograms = []string{"chrt"}

// An Event is one of `go tool test2json`.
type Event struct {
	Action  string
	Package string
	Test    string  `json:",omitempty"`
	Elapsed float64 `json:",omitempty"` // seconds
	Output  string  `json:",omitempty"`
	Key     string  `json:",omitempty"` // of an attribute
	Value   string  `json:",omitempty"`
}

const (
	// maxOutput bounds what the tests may print, in bytes.
	maxOutput = 64 << 20
	// consoleTail is how much of the console an error shows, in bytes.
	consoleTail = 4 << 10
)

// Run boots k and calls report with each event of the tests of s, in order. A
// test that fails is no error; a machine that ends before its tests is one.
func Run(ctx context.Context, k *Kernel, s *Suite, o Options, report func(Event)) (err error) {
	dir, err := os.MkdirTemp("", "ebpm-vm-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	mark := "\x16ebpm-" + rand.Text()
	initrd := filepath.Join(dir, "initramfs")
	if err := s.pack(ctx, k, o, mark, initrd); err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	kernel, err := k.one("boot/vmlinuz-*")
	if err != nil {
		return err
	}
	// QEMU writes the output of the tests into a pipe that it opens by its name
	// in its own table of files.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", qemuArgs(kernel, initrd, o)...)
	cmd.ExtraFiles = []*os.File{w} // 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	console := &tail{w: o.Console, most: consoleTail}
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	exited := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		w.Close()
		exited <- err
	}()
	readErr := s.read(ctx, r, mark, report)
	if readErr != nil {
		_ = cmd.Process.Kill() // it may have ended
	}
	waitErr := <-exited
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("run tests on %s: %w; its console ended with:\n%s", k.Package, context.Cause(ctx), console)
	case readErr != nil:
		return fmt.Errorf("run tests on %s: %w; its console ended with:\n%s", k.Package, readErr, console)
	case waitErr != nil:
		return fmt.Errorf("run QEMU: %w: %s", waitErr, console)
	}
	return nil
}

func qemuArgs(kernel, initrd string, o Options) []string {
	or := func(n, otherwise int) string {
		if n == 0 {
			n = otherwise
		}
		return strconv.Itoa(n)
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		// Not KVM: a /dev/kvm that opens may still fail, as nested ones do. Not a
		// thread for each processor either: one that translates code while the
		// kernel patches it on another keeps the old one, and the kernel dies of a
		// breakpoint (seen with QEMU 7.2 and Linux 6.12).
		"-accel", "tcg,thread=single", "-cpu", "max", "-smp", or(o.CPUs, 2), "-m", or(o.Memory, 1024),
		"-kernel", kernel, "-initrd", initrd,
		// The expedited grace periods of RCU make closing what is attached quick.
		"-append", "console=ttyS0 quiet panic=-1 lsm=bpf no_timer_check mitigations=off rcupdate.rcu_expedited=1",
		"-serial", "stdio", "-serial", "file:/dev/fd/3",
	}
}

// pack writes the initramfs. The packages have the places of the repository
// under /src.
func (s *Suite) pack(ctx context.Context, k *Kernel, o Options, mark, file string) (err error) {
	modules, err := k.modules(ctx, o.Modules)
	if err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := newInitramfs(f)
	add := func(step error) { err = errors.Join(err, step) }
	add(r.copy("/bin/busybox", busybox))
	libraries := map[string]bool{}
	for _, name := range o.Programs {
		add(r.addProgram(name, libraries))
	}
	add(r.bytes("/init", 0o755, initScript))
	add(r.bytes("/mark", 0o644, mark))
	for i, m := range modules {
		add(r.file(fmt.Sprintf("/modules/%02d-%s.ko", i, m.name), 0o644, int64(len(m.data)), bytes.NewReader(m.data)))
	}
	var env, folders strings.Builder
	for _, e := range append([]string{"EBPM_TEST_KERNEL=" + k.Series}, o.Env...) {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(&env, "export %s=%s\n", name, shellQuote(value))
	}
	add(r.bytes("/environment", 0o644, env.String()))
	for i, p := range s.packages {
		rel, err := filepath.Rel(s.root, p.Dir)
		if err != nil {
			return err
		}
		folder := "/src/" + filepath.ToSlash(rel)
		add(r.folder(folder))
		if testdata := filepath.Join(p.Dir, "testdata"); exists(testdata) {
			add(r.copy(folder+"/testdata", testdata))
		}
		binary := fmt.Sprintf("/tests.d/%d/%s.test", i, filepath.Base(p.Dir))
		add(r.copy(binary, p.binary))
		words := []string{"exec", binary, "-test.v=test2json"}
		for _, arg := range o.Args {
			words = append(words, shellQuote(arg))
		}
		add(r.bytes(fmt.Sprintf("/run%d.sh", i), 0o644, strings.Join(words, " ")+"\n"))
		fmt.Fprintln(&folders, folder)
	}
	add(r.bytes("/tests", 0o644, folders.String()))
	for name, from := range o.Files {
		add(r.copy(name, from))
	}
	add(r.close())
	return err
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// read reads what the tests print, up to the last mark.
func (s *Suite) read(ctx context.Context, stream io.Reader, mark string, report func(Event)) (err error) {
	bounded := &io.LimitedReader{R: stream, N: maxOutput}
	lines := bufio.NewReader(bounded)
	var now *converter
	defer func() {
		if now != nil {
			err = errors.Join(err, now.end(1))
		}
	}()
	for {
		line, readErr := lines.ReadString('\n')
		text := strings.TrimRight(line, "\r\n")
		// A test that ends without a newline leaves its last line before a mark.
		before, command, marked := strings.Cut(text, mark+" ")
		if !marked {
			if now != nil {
				if err := now.write(line); err != nil {
					return err
				}
			}
		} else {
			if before != "" && now != nil {
				if err := now.write(before + "\n"); err != nil {
					return err
				}
			}
			var n, code int
			switch {
			case command == "done":
				return nil
			case scan(command, "begin %d", &n) && now == nil && n < len(s.packages):
				if now, err = newConverter(ctx, s.packages[n].ImportPath, report); err != nil {
					return err
				}
			case scan(command, "end %d %d", &n, &code) && now != nil:
				err := now.end(code)
				if now = nil; err != nil {
					return err
				}
			default:
				return fmt.Errorf("read the machine's output: unexpected mark %q", command)
			}
		}
		switch {
		case bounded.N == 0:
			return fmt.Errorf("read the machine's output: it is larger than %d bytes", maxOutput)
		case errors.Is(readErr, io.EOF):
			return errors.New("the machine ended before its tests")
		case readErr != nil:
			return readErr
		}
	}
}

func scan(text, format string, values ...any) bool {
	n, err := fmt.Sscanf(text, format, values...)
	return err == nil && n == len(values)
}

// A converter makes events of what one test binary prints, by test2json.
type converter struct {
	pkg    string
	cmd    *exec.Cmd
	in     io.WriteCloser
	report func(Event)
	done   chan error
	last   Event // of the package
}

func newConverter(ctx context.Context, pkg string, report func(Event)) (*converter, error) {
	c := &converter{pkg: pkg, report: report, done: make(chan error, 1)}
	c.cmd = exec.CommandContext(ctx, "go", "tool", "test2json", "-p", pkg)
	// An interrupt of the terminal is for this process, which then ends its
	// children.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start test2json: %w", err)
	}
	go func() { c.done <- c.convert(out) }()
	return c, nil
}

func (c *converter) write(line string) error {
	_, err := io.WriteString(c.in, line)
	return err
}

func (c *converter) convert(out io.Reader) error {
	d := json.NewDecoder(out)
	for {
		var e Event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read what test2json printed: %w", err)
		}
		if e.Test == "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			c.last = e
			continue
		}
		c.report(e)
	}
}

// end reports the package's result: it has failed when its binary did not end
// with 0, whatever it printed.
func (c *converter) end(code int) error {
	_ = c.in.Close()
	err := <-c.done
	if waitErr := c.cmd.Wait(); err == nil {
		err = waitErr
	}
	c.last.Package = c.pkg
	if code != 0 || c.last.Action == "" {
		c.last.Action = "fail"
	}
	c.report(c.last)
	return err
}

// A tail keeps the end of what is written to it, and passes all of it on.
type tail struct {
	mu   sync.Mutex
	w    io.Writer
	most int
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if len(t.data) > 2*t.most {
		t.data = append([]byte(nil), t.data[len(t.data)-t.most:]...)
	}
	if t.w != nil {
		return t.w.Write(p)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data[max(0, len(t.data)-t.most):])
}
