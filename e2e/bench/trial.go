// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
)

// A contender prints the events of the load.
type contender struct {
	name string
	// command is what runs a package, in the folder of the bench.
	command func(pkg string, json bool) []string
	// packages is false for what has the program in its arguments.
	packages bool
}

func ecliContender(name, path string) contender {
	return contender{name: name, packages: true, command: func(pkg string, json bool) []string {
		if json {
			return []string{path, "run", "-j", pkg}
		}
		return []string{path, "run", pkg}
	}}
}

// bpftraceScript does what testdata/load.bpf.c does. Its count is per CPU, too,
// and is printed at the end.
var bpftraceScript = fmt.Sprintf(`tracepoint:syscalls:sys_enter_openat /args->dfd == (int32)%d/ {
	@events = count();
	printf("%%-6d %%-6d %%-6d %%-16s %%s\n", pid, 0, args->flags, comm, str(args->filename));
}`, benchDirFD)

func bpftraceContender(path string) contender {
	return contender{name: "bpftrace", command: func(string, bool) []string {
		return []string{path, "-e", bpftraceScript}
	}}
}

// A trial is one run of a contender.
type trial struct {
	cmd    *exec.Cmd
	out    countingWriter
	stderr tail
	ended  chan struct{} // closed when it has ended, with err
	err    error
	// first is how long it took from the start to the first event printed.
	first   time.Duration
	counter *ebpf.Map // nil for a contender without packages
}

// countingWriter counts the lines of events, and keeps the end of the output.
type countingWriter struct {
	events atomic.Uint64
	tail
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.events.Add(uint64(bytes.Count(p, []byte("~"))))
	return w.tail.Write(p)
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const kept = 2 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[max(0, len(p)-kept):]...)
	t.text = append(t.text[:0], t.text[max(0, len(t.text)-kept):]...)
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// How long a contender may take to its first event, and to its end.
const (
	startLimit = 60 * time.Second
	endLimit   = 10 * time.Second
)

// begin starts c, and makes an event now and then until one is printed by each
// of the programs of the package.
func begin(ctx context.Context, c contender, pkg string, json bool, programs uint64) (_ *trial, err error) {
	args := c.command(pkg, json)
	t := &trial{ended: make(chan struct{})}
	t.cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	t.cmd.Stderr = &t.stderr
	stdout, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	// Not that of whoever started the bench: Ctrl-C is for the bench.
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start := time.Now()
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{&t.out}, struct{ io.Reader }{stdout}, make([]byte, 256<<10))
		t.err = errors.Join(err, t.cmd.Wait())
		close(t.ended)
	}()
	defer func() {
		if err != nil {
			_ = t.cmd.Process.Kill()
			<-t.ended
		}
	}()
	for t.out.events.Load() < programs {
		select {
		case <-t.ended:
			return nil, fmt.Errorf("%s ended: %w\n%s%s", c.name, t.err, t.out.String(), t.stderr.String())
		case <-time.After(time.Millisecond):
		}
		if time.Since(start) > startLimit {
			return nil, fmt.Errorf("%s printed no event for %s\n%s%s", c.name, startLimit, t.out.String(), t.stderr.String())
		}
		makeEvents(1)
	}
	t.first = time.Since(start)
	t.settle(ctx, time.Second)
	if c.packages {
		if t.counter, err = findCounter(); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// settle waits until nothing was printed for a while.
func (t *trial) settle(ctx context.Context, quiet time.Duration) {
	last, since := t.out.events.Load(), time.Now()
	for ctx.Err() == nil && time.Since(since) < quiet {
		time.Sleep(10 * time.Millisecond)
		if now := t.out.events.Load(); now != last {
			last, since = now, time.Now()
		}
	}
}

// A measurement is what a trial did with one load.
type measurement struct {
	made, printed uint64
	// rate is how many events a second were made.
	rate     float64
	cpu      time.Duration
	resident uint64 // bytes, at the end of the load
}

func (m measurement) lost() float64 { return 1 - float64(m.printed)/float64(m.made) }

// cpuPerMillion is in seconds.
func (m measurement) cpuPerMillion() float64 { return m.cpu.Seconds() / float64(m.printed) * 1e6 }

// measure makes a load, and waits until nothing more of it is printed.
func (t *trial) measure(ctx context.Context, rate int, d time.Duration) (m measurement, err error) {
	pid := t.cmd.Process.Pid
	made, printed := uint64(0), t.out.events.Load()
	if t.counter != nil {
		if made, err = counted(t.counter); err != nil {
			return m, err
		}
	}
	cpu, err := cpuTime(pid)
	if err != nil {
		return m, err
	}
	start := time.Now()
	m.made = load(ctx, rate, d)
	m.rate = float64(m.made) / time.Since(start).Seconds()
	if m.resident, err = resident(pid); err != nil {
		return m, err
	}
	t.settle(ctx, time.Second)
	if t.counter != nil {
		after, err := counted(t.counter)
		if err != nil {
			return m, err
		}
		m.made = after - made
	}
	used, err := cpuTime(pid)
	if err != nil {
		return m, err
	}
	m.cpu = used - cpu
	m.printed = t.out.events.Load() - printed
	return m, ctx.Err()
}

var bpftraceCount = regexp.MustCompile(`(?m)^@events: (\d+)$`)

// end stops the contender, which may be so far behind that it must be killed. It
// returns how many events were made that were never printed since it began, as the
// program counted them.
func (t *trial) end() (missing int64, err error) {
	made := uint64(0)
	if t.counter != nil {
		if made, err = counted(t.counter); err != nil {
			return 0, err
		}
		if err := t.counter.Close(); err != nil {
			return 0, err
		}
	}
	if err := t.cmd.Process.Signal(os.Interrupt); err != nil {
		return 0, err
	}
	killed := false
	select {
	case <-t.ended:
		err = t.err
	case <-time.After(endLimit):
		killed = true
		err = t.cmd.Process.Kill()
		<-t.ended
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", t.cmd.Path, err, t.stderr.String())
	}
	switch {
	case killed:
		return 1, nil // at least what it was busy with
	case t.counter == nil:
		found := bpftraceCount.FindStringSubmatch(t.out.String())
		if found == nil {
			return 0, fmt.Errorf("%s did not print its count\n%s", t.cmd.Path, t.out.String())
		}
		if made, err = strconv.ParseUint(found[1], 10, 64); err != nil {
			return 0, err
		}
	}
	return int64(made - t.out.events.Load()), nil
}
