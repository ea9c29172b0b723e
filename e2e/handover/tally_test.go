// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package handover

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/e2e/kernel"
)

// hookNames are the hooks of load.bpf.c by number.
var hookNames = []string{
	"tracepoint", "raw_tp", "tp_btf", "uprobe", "xdp", "tcx", "socket", "connect4",
	"cgroup_skb", "sk_lookup", "sysctl", "setsockopt", "changed target", "uprobe.s",
	"sockops", "sendmsg4", "netfilter", "uprobe.multi",
}

const hookChanged, hookSleepable = 12, 13

// exact reports whether moves lose and double nothing of a hook.
func exact(hook int) bool { return hook != hookChanged && hook != hookSleepable }

// maxThreads is how many threads make events.
const maxThreads = 2

// A count is what is known of one hook and one thread.
type count struct {
	last                      uint32
	records                   int
	lost, doubled, inversions int
	gaps                      int
	// replayed is what a killed instance had written and not yet ticked off, so that
	// another one has written it again.
	replayed int
	previous uint32
	dead     int    // lost while nobody lived
	first    string // what was first wrong
	// These are lost and gaps at the last mark.
	markLost, markGaps int
}

// A tally reads what all instances print, through one queue, and so in one order.
type tally struct {
	in, out *os.File     // in is what instances write to
	starts  atomic.Int32 // of instances

	mu       sync.Mutex
	counts   [20][maxThreads]count
	versions [3]int
	bad      []string
	killed   bool // since the last mark
	done     chan struct{}
}

func newTally(t testing.TB) *tally {
	t.Helper()
	// A packet is written in whole or not at all, also by who is killed.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20); err != nil {
			t.Fatal(err)
		}
	}
	c := &tally{in: os.NewFile(uintptr(fds[0]), "in"), out: os.NewFile(uintptr(fds[1]), "out"), done: make(chan struct{})}
	go c.read()
	t.Cleanup(func() {
		_ = c.in.Close()
		<-c.done
		_ = c.out.Close()
	})
	return c
}

func (c *tally) read() {
	defer close(c.done)
	buf := make([]byte, 1<<20)
	for {
		n, err := c.out.Read(buf)
		if err != nil || n == 0 {
			return
		}
		c.mu.Lock()
		for line := range bytes.Lines(buf[:n]) {
			c.line(line)
		}
		c.mu.Unlock()
	}
}

// line takes {"hook":2,"seq":1,"thread":0,"version":1}; a real decoder would be the
// slowest part of the test.
func (c *tally) line(line []byte) {
	var numbers [4]int
	at := -1
	digits := false
	for _, b := range line {
		if b < '0' || b > '9' {
			digits = false
			continue
		}
		if !digits {
			digits = true
			if at++; at > 3 {
				break
			}
		}
		numbers[at] = numbers[at]*10 + int(b-'0')
	}
	hook, seq, thread, version := numbers[0], uint32(numbers[1]), numbers[2], numbers[3]
	if at != 3 || line[len(line)-1] != '\n' || hook >= len(c.counts) || thread >= maxThreads || version > 2 {
		c.bad = append(c.bad, string(line))
		return
	}
	c.versions[version]++
	k := &c.counts[hook][thread]
	k.records++
	was := *k
	switch {
	case seq == k.last+1:
	case c.killed && seq < k.last+1 && (k.previous == k.last || k.previous+1 == seq):
		k.replayed++
	case seq == k.last:
		k.doubled++
	case seq < k.last:
		k.inversions++
	default:
		k.lost += int(seq - k.last - 1)
		k.gaps++
	}
	if k.first == "" && (k.doubled != was.doubled || k.inversions != was.inversions || k.lost != was.lost) {
		k.first = fmt.Sprintf("%d behind %d", seq, k.last)
	}
	k.last, k.previous = max(k.last, seq), seq
}

// kill says that an instance is killed that may print.
func (c *tally) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
}

// mark forgives each hook one gap since the mark before where somebody started with
// nobody there, and begins anew.
func (c *tally) mark(forgive bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = false
	for h := range c.counts {
		for t := range c.counts[h] {
			k := &c.counts[h][t]
			if forgive && k.gaps <= k.markGaps+1 {
				k.dead += k.lost - k.markLost
				k.lost = k.markLost
			}
			k.markLost, k.markGaps = k.lost, k.gaps
		}
	}
}

// behind returns how far the hook that is the farthest behind is.
func (c *tally) behind(thread int, hooks []int, n uint32) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var most uint32
	for _, h := range hooks {
		most = max(most, n-min(n, c.counts[h][thread].last))
	}
	return most
}

// caughtUp waits until everything is printed that was sent.
func (c *tally) caughtUp(l *load) bool {
	sent := l.sent()
	return within(20e9, func() bool {
		for thread, n := range sent {
			if c.behind(thread, l.hooks, n) > 0 {
				return false
			}
		}
		return true
	})
}

// check fails the test when a hook that moves exactly lost or doubled an event, or
// another one more than one of each thread in a move, and returns the table.
func (c *tally) check(t testing.TB, l *load) string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.bad) > 0 {
		t.Errorf("%d lines that are no records, the first is %q", len(c.bad), c.bad[0])
	}
	sent := l.sent()
	moves := 2 * int(c.starts.Load()) // to each instance, and perhaps back to it
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "hook\trecords\tlost\tdoubled\tinversions\tprinted again\tdead\t")
	for _, h := range l.hooks {
		var sum count
		for thread := range sent {
			k := c.counts[h][thread]
			sum.records += k.records
			sum.lost += k.lost
			sum.doubled += k.doubled
			sum.inversions += k.inversions
			sum.dead += k.dead
			sum.replayed += k.replayed
			if off := k.lost + k.doubled + k.inversions; off > 0 && exact(h) || off > moves {
				t.Errorf("%s, thread %d: %d lost, %d doubled, %d in another order; first %s", hookNames[h], thread, k.lost, k.doubled, k.inversions, k.first)
			}
			if k.last != sent[thread] {
				t.Errorf("%s, thread %d: the last record is %d of %d", hookNames[h], thread, k.last, sent[thread])
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", hookNames[h], sum.records, sum.lost, sum.doubled, sum.inversions, sum.replayed, sum.dead)
	}
	_ = w.Flush()
	return text.String()
}

// seen is a value of the map seen of load.bpf.c.
type seen struct{ Last, Count, Gaps, Again uint64 }

// checkState compares the map that was carried through all moves with what was sent.
// It must be called while an instance lives, and no other test of this package.
func checkState(t testing.TB, l *load) {
	t.Helper()
	m := findMap(t, "seen")
	defer m.Close()
	for _, h := range l.hooks {
		for thread, n := range l.sent() {
			var s seen
			if err := m.Lookup([2]uint32{uint32(h), uint32(thread)}, &s); err != nil {
				t.Errorf("%s, thread %d: %v", hookNames[h], thread, err)
				continue
			}
			if !exact(h) {
				if s.Count != uint64(n) {
					t.Logf("%s, thread %d: %+v of %d sent", hookNames[h], thread, s, n)
				}
				continue
			}
			if s != (seen{Last: uint64(n), Count: uint64(n)}) {
				t.Errorf("%s, thread %d: %+v of %d sent", hookNames[h], thread, s, n)
			}
		}
	}
}

func findMap(t testing.TB, name string) *ebpf.Map {
	t.Helper()
	for id := ebpf.MapID(0); ; {
		var err error
		if id, err = ebpf.MapGetNextID(id); err != nil {
			t.Fatalf("no map %s: %v", name, err)
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		if info, err := m.Info(); err == nil && info.Name == name && holds(t, m) {
			return m
		}
		_ = m.Close()
	}
}

// holds reports whether m is of an instance of this test: it has as many entries as
// load.bpf.c says, and what this process has sent.
func holds(t testing.TB, m *ebpf.Map) bool {
	t.Helper()
	var s seen
	return m.MaxEntries() == 1024 && m.ValueSize() == 32 && m.Lookup([2]uint32{11, 0}, &s) == nil
}

// ourNames begin the names of what load.bpf.c and handovers put into the kernel.
var ourNames = []string{"by_", "ebpm_", "seen", "records"}

func isOurs(name string) bool {
	return slices.ContainsFunc(ourNames, func(p string) bool { return strings.HasPrefix(name, p) })
}

// ours returns an error that names what is of load.bpf.c or of a handover: other
// programs may use the kernel at the same time.
func ours(o kernel.Objects) error {
	var left []string
	for _, id := range o.Programs {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		if info, err := p.Info(); err == nil && isOurs(info.Name) {
			left = append(left, fmt.Sprintf("program %d %s", id, info.Name))
		}
		_ = p.Close()
	}
	for _, id := range o.Maps {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		if info, err := m.Info(); err == nil && isOurs(info.Name) {
			left = append(left, fmt.Sprintf("map %d %s", id, info.Name))
		}
		_ = m.Close()
	}
	if left != nil {
		return fmt.Errorf("the kernel still holds %s", strings.Join(left, ", "))
	}
	return nil
}
