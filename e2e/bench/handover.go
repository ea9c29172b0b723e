// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

const (
	// versions are those of load.bpf.c: three hooks, and a map that is carried over.
	versions  = "deployer/ecli/testdata/handover/v%d.json"
	loadHooks = 3
	// firstThread leaves the first numbers to the tests, which may run beside.
	firstThread, loadThreads = 6, 2
	moves                    = 100
	naiveMoves               = 20
	// perThread events every loadPause are 50,000 a second and hook.
	perThread = 25
	loadPause = time.Millisecond
	roleWait  = 2 * time.Minute
)

// handovers prints what a dispatcher costs, how long a move takes, what it loses,
// and what the naive ways do in the same run.
func handovers(ctx context.Context, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	defer func() { _ = w.Flush() }()
	if err := dispatcherCost(w); err != nil {
		return err
	}
	fmt.Fprintln(w, "moves under load\tevents\tlost\tdoubled\tin another order\tp50\tp99\tlongest\t")
	for _, way := range []struct {
		name string
		n    int
		move mover
	}{
		{"handover", moves, byHandover},
		{"start the new one, then stop the old one", naiveMoves, newThenOld},
		{"stop the old one, then start the new one", naiveMoves, oldThenNew},
	} {
		if err := moveUnderLoad(ctx, w, way.name, way.n, way.move); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
	}
	return memory(ctx, w)
}

// A counter takes what the instances print and counts how often each event is
// there.
type counter struct {
	mu      sync.Mutex
	seen    [loadHooks][loadThreads][]uint8
	last    [loadHooks][loadThreads]uint32
	inverse int
	err     error
}

// A feed is the output of one instance.
type feed struct {
	c    *counter
	rest []byte
}

func (f *feed) Write(p []byte) (int, error) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.rest = append(f.rest, p...)
	for {
		line, rest, ok := bytes.Cut(f.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		f.rest = rest
		var r struct {
			Seq          uint32
			Hook, Thread int
		}
		if err := json.Unmarshal(line, &r); err != nil {
			f.c.err = fmt.Errorf("%s: %w", line, err)
			continue
		}
		if t := r.Thread - firstThread; t >= 0 && t < loadThreads && r.Hook < loadHooks {
			f.c.add(r.Hook, t, r.Seq)
		}
	}
}

func (c *counter) add(hook, thread int, seq uint32) {
	seen := c.seen[hook][thread]
	if need := int(seq) + 1 - len(seen); need > 0 {
		seen = append(seen, make([]uint8, need)...)
	}
	seen[seq] = min(seen[seq], 254) + 1
	c.seen[hook][thread] = seen
	if seq < c.last[hook][thread] {
		c.inverse++
	}
	c.last[hook][thread] = max(c.last[hook][thread], seq)
}

// result compares with what was sent: events are numbered from 1.
func (c *counter) result(sent [loadThreads]uint32) (events, lost, doubled int) {
	for hook := range c.seen {
		for thread, n := range sent {
			seen := c.seen[hook][thread]
			for seq := uint32(1); seq <= n; seq++ {
				switch {
				case int(seq) >= len(seen) || seen[seq] == 0:
					lost++
				default:
					events += int(seen[seq])
					doubled += int(seen[seq]) - 1
				}
			}
		}
	}
	return events, lost, doubled
}

// A load makes numbered events on threads of its own.
type numberer struct {
	n    [loadThreads]atomic.Uint32
	stop chan struct{}
	wg   sync.WaitGroup
}

func startNumberer() *numberer {
	l := &numberer{stop: make(chan struct{})}
	for t := range loadThreads {
		l.wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tick := time.NewTicker(loadPause)
			defer tick.Stop()
			for {
				select {
				case <-l.stop:
					return
				case <-tick.C:
				}
				for range perThread {
					_, _ = unix.Getpriority(100+firstThread+t, int(l.n[t].Add(1))) // EINVAL
				}
			}
		})
	}
	return l
}

func (l *numberer) end() (sent [loadThreads]uint32) {
	close(l.stop)
	l.wg.Wait()
	for t := range sent {
		sent[t] = l.n[t].Load()
	}
	return sent
}

// A releaseBench is a release of load.bpf.c on this machine.
type releaseBench struct {
	dir      string
	packages [2]*manifest.Package
	counter  *counter
	took     []time.Duration
}

func newReleaseBench() (*releaseBench, error) {
	r := &releaseBench{counter: &counter{}}
	for i := range r.packages {
		data, err := os.ReadFile(fmt.Sprintf(versions, i+1))
		if err != nil {
			return nil, err
		}
		if r.packages[i], err = manifest.DecodePackage(data); err != nil {
			return nil, err
		}
	}
	var err error
	r.dir, err = os.MkdirTemp("", "ebpm-bench-")
	return r, err
}

// A runner is one instance.
type runner struct {
	cancel   context.CancelFunc
	statuses chan manifest.Status
	done     chan error
	log      bytes.Buffer
}

// start starts revision n, with or without handovers.
func (b *releaseBench) start(ctx context.Context, n int, handover bool) *runner {
	r := &runner{statuses: make(chan manifest.Status, 64), done: make(chan error, 1)}
	ctx, r.cancel = context.WithCancel(ctx)
	pkg := *b.packages[n%2]
	o := ecli.Options{
		Package: &pkg, JSON: true, Stdout: &feed{c: b.counter}, Stderr: &r.log, Revision: uint64(n + 1),
		Status: func(s manifest.Status) { r.statuses <- s },
		Hung:   func(err error) { r.done <- err },
	}
	if handover {
		o.Handover = b.dir
	}
	go func() { r.done <- ecli.Run(ctx, o) }()
	return r
}

// wait waits for a status.
func (r *runner) wait(ok func(manifest.Status) bool) (manifest.Status, error) {
	timeout := time.After(roleWait)
	for {
		select {
		case s := <-r.statuses:
			if ok(s) {
				return s, nil
			}
		case err := <-r.done:
			return manifest.Status{}, fmt.Errorf("it ended: %w\n%s", err, r.log.String())
		case <-timeout:
			return manifest.Status{}, fmt.Errorf("waited in vain for %s\n%s", roleWait, r.log.String())
		}
	}
}

func (r *runner) end() error {
	r.cancel()
	for {
		select {
		case <-r.statuses:
		case err := <-r.done:
			return err
		}
	}
}

func attached(s manifest.Status) bool { return s.Event == manifest.StatusAttached }

func isCurrent(s manifest.Status) bool {
	return s.Handover != nil && s.Handover.Role == manifest.RoleCurrent
}

// byHandover ends the old one when the new one has taken over.
func byHandover(ctx context.Context, b *releaseBench, old *runner, n int) (*runner, error) {
	r := b.start(ctx, n, true)
	s, err := r.wait(isCurrent)
	if err != nil || old == nil {
		return r, err
	}
	b.took = append(b.took, time.Duration(s.Handover.Milliseconds*float64(time.Millisecond)))
	return r, old.end()
}

func newThenOld(ctx context.Context, b *releaseBench, old *runner, n int) (*runner, error) {
	begin := time.Now()
	r := b.start(ctx, n, false)
	if _, err := r.wait(attached); err != nil || old == nil {
		return r, err
	}
	err := old.end()
	b.took = append(b.took, time.Since(begin))
	return r, err
}

func oldThenNew(ctx context.Context, b *releaseBench, old *runner, n int) (*runner, error) {
	begin := time.Now()
	if old != nil {
		if err := old.end(); err != nil {
			return nil, err
		}
	}
	r := b.start(ctx, n, false)
	_, err := r.wait(attached)
	if old != nil {
		b.took = append(b.took, time.Since(begin))
	}
	return r, err
}

// A mover starts revision n in the place of another one; of none at first.
type mover func(ctx context.Context, b *releaseBench, old *runner, n int) (*runner, error)

// moveUnderLoad moves n times up and back, and prints what became of the events.
func moveUnderLoad(ctx context.Context, w io.Writer, name string, n int, move mover) (err error) {
	b, err := newReleaseBench()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	current, err := move(ctx, b, nil, 0)
	if err != nil {
		return err
	}
	l := startNumberer()
	for i := range n {
		if current, err = move(ctx, b, current, i+1); err != nil {
			l.end()
			return err
		}
	}
	sent := l.end()
	if err := current.end(); err != nil {
		return err
	}
	b.counter.mu.Lock()
	defer b.counter.mu.Unlock()
	if b.counter.err != nil {
		return b.counter.err
	}
	events, lost, doubled := b.counter.result(sent)
	slices.Sort(b.took)
	at := func(q float64) time.Duration { return b.took[int(q*float64(len(b.took)-1)+0.5)] }
	fmt.Fprintf(w, "%s (%d)\t%d\t%d\t%d\t%d\t%.1f ms\t%.1f ms\t%.1f ms\t\n", name, n, events, lost, doubled, b.counter.inverse,
		milliseconds(at(0.5)), milliseconds(at(0.99)), milliseconds(at(1)))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// memory prints what the kernel holds for one version, and for two.
func memory(ctx context.Context, w io.Writer) (err error) {
	b, err := newReleaseBench()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	direct, err := newThenOld(ctx, b, nil, 0)
	if err != nil {
		return err
	}
	without, err := kernelMemory()
	if err := errors.Join(err, direct.end()); err != nil {
		return err
	}
	old, err := byHandover(ctx, b, nil, 0)
	if err != nil {
		return err
	}
	one, err := kernelMemory()
	if err != nil {
		return errors.Join(err, old.end())
	}
	young := b.start(ctx, 1, true)
	_, err = young.wait(isCurrent)
	two, memErr := kernelMemory()
	if err := errors.Join(err, memErr, young.end(), old.end()); err != nil {
		return err
	}
	fmt.Fprintln(w, "memory in the kernel\twithout handovers\tone version\ttwo versions\t")
	fmt.Fprintf(w, "three programs, a ring buffer of 8 MiB, a map\t%.1f KiB\t%.1f KiB\t%.1f KiB\t\n",
		float64(without)/1024, float64(one)/1024, float64(two)/1024)
	return nil
}

// kernelMemory sums up what the programs and maps take that this process holds.
func kernelMemory() (total int, err error) {
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		return 0, err
	}
	counted := map[string]bool{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue // closed by now
		}
		info := map[string]string{}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), ":")
			info[key] = strings.TrimSpace(value)
		}
		_ = f.Close()
		id := info["prog_id"] + " " + info["map_id"]
		if info["memlock"] == "" || counted[id] {
			continue
		}
		counted[id] = true
		n, err := strconv.Atoi(info["memlock"])
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		total += n
	}
	return total, nil
}
