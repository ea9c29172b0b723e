// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// handoverPackage reads a version of testdata/handover/load.bpf.c.
func handoverPackage(t testing.TB, version string) *manifest.Package {
	t.Helper()
	data, err := os.ReadFile("testdata/handover/" + version + ".json")
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

// A record is struct record of testdata/handover/load.h.
type record struct {
	Seq     uint32 `json:"seq"`
	Hook    uint16 `json:"hook"`
	Thread  uint8  `json:"thread"`
	Version uint8  `json:"version"`
}

// A tallier takes what all instances print, in one order, and counts what is
// missing, what is there twice, and what is in another order.
type tallier struct {
	mu                       sync.Mutex
	rest                     []byte
	last                     map[[2]int]uint32
	records                  map[[2]int]int
	lost, doubled, inversion int
	versions                 map[uint8]int
	err                      error
}

func newTallier() *tallier {
	return &tallier{last: map[[2]int]uint32{}, records: map[[2]int]int{}, versions: map[uint8]int{}}
}

func (c *tallier) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, p...)
	for {
		line, rest, ok := bytes.Cut(c.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		c.rest = rest
		var r record
		if err := json.Unmarshal(line, &r); err != nil && c.err == nil {
			c.err = fmt.Errorf("%s: %w", line, err)
		}
		at := [2]int{int(r.Hook), int(r.Thread)}
		last := c.last[at]
		switch {
		case r.Seq == last+1:
		case r.Seq == last:
			c.doubled++
		case r.Seq < last:
			c.inversion++
		default:
			c.lost += int(r.Seq - last - 1)
		}
		c.last[at] = max(last, r.Seq)
		c.records[at]++
		c.versions[r.Version]++
	}
}

// A numberer makes numbered events on a thread of its own.
type numberer struct {
	thread int
	n      atomic.Uint32
	stop   chan struct{}
	done   chan struct{}
}

func startNumberer(thread int, pause time.Duration) *numberer {
	l := &numberer{thread: thread, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for {
			select {
			case <-l.stop:
				return
			default:
			}
			for range 20 {
				_, _ = unix.Getpriority(100+thread, int(l.n.Add(1))) // EINVAL
			}
			time.Sleep(pause)
		}
	}()
	return l
}

func (l *numberer) end() uint32 {
	close(l.stop)
	<-l.done
	return l.n.Load()
}

// A member is an instance of a release in this process.
type member struct {
	mu       sync.Mutex
	statuses []manifest.Status
	stderr   buffer
	cancel   context.CancelFunc
	done     chan error
	gone     chan struct{}
	ready    string // its socket
}

func startMember(t *testing.T, dir, version string, revision uint64, out *tallier) *member {
	t.Helper()
	return joinPackage(t, Options{Package: handoverPackage(t, version), JSON: true, Stdout: out, Handover: dir, Revision: revision})
}

// joinPackage starts an instance of a package that takes part in a release.
func joinPackage(t *testing.T, o Options) *member {
	t.Helper()
	needRoot(t)
	m := &member{done: make(chan error, 1), gone: make(chan struct{}), ready: filepath.Join(t.TempDir(), "ready.sock")}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	t.Cleanup(func() {
		cancel()
		<-m.gone // what a test that failed left would be in the way of others
	})
	o.ReadySocket = m.ready
	o.Stderr, o.Hung = &m.stderr, func(err error) { t.Errorf("hung: %v", err) }
	o.Status = func(s manifest.Status) { m.mu.Lock(); m.statuses = append(m.statuses, s); m.mu.Unlock() }
	go func() {
		defer close(m.gone)
		m.done <- Run(ctx, o)
	}()
	return m
}

func (m *member) status() manifest.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.statuses) == 0 {
		return manifest.Status{Handover: &manifest.Handover{}}
	}
	return m.statuses[len(m.statuses)-1]
}

func (m *member) waitRole(t *testing.T, role string) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Millisecond) {
		if h := m.status().Handover; h != nil && h.Role == role {
			return
		}
		select {
		case err := <-m.done:
			skipLacking(t, "", err)
			t.Fatalf("it ended before it was %s: %v\n%s", role, err, m.stderr.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not %s but %+v\n%s", role, m.status().Handover, m.stderr.String())
		}
	}
}

func (m *member) end(t *testing.T) {
	t.Helper()
	m.cancel()
	if err := <-m.done; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("end: %v\n%s", err, m.stderr.String())
	}
	if _, err := os.Lstat(m.ready); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket for readiness is left: %v", err)
	}
}

// TestHandover moves between two versions under load, up and back.
func TestHandover(t *testing.T) {
	dir, out := t.TempDir(), newTallier()
	first := startMember(t, dir, "v1", 1, out)
	first.waitRole(t, manifest.RoleCurrent)
	// A translated processor does less.
	moves, pause := 10, time.Millisecond
	if os.Getenv(vmEnv) != "" {
		moves, pause = 4, 50*time.Millisecond
	}
	load := []*numberer{startNumberer(0, pause), startNumberer(1, pause)}
	members := []*member{first}
	for n := range moves {
		m := startMember(t, dir, []string{"v2", "v1"}[n%2], uint64(n+2), out)
		m.waitRole(t, manifest.RoleCurrent)
		h := m.status().Handover
		if h.Way != manifest.Exact || h.Milliseconds <= 0 || len(h.Carried) != 1 || h.Carried[0] != "seen" {
			t.Errorf("move %d: %+v", n, h)
		}
		// All but the last two have nothing to hold.
		if n > 0 {
			old := members[len(members)-2]
			old.waitRole(t, manifest.RoleRetired)
			old.end(t)
		}
		members = append(members, m)
	}
	last, standby := members[len(members)-1], members[len(members)-2]
	// The end of the current one is a move back.
	last.end(t)
	standby.waitRole(t, manifest.RoleCurrent)
	sent := []uint32{load[0].end(), load[1].end()}
	standby.end(t)
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.lost+out.doubled+out.inversion != 0 || out.err != nil {
		t.Errorf("%d lost, %d doubled, %d in another order; %v", out.lost, out.doubled, out.inversion, out.err)
	}
	for hook := range 3 {
		for thread, n := range sent {
			if got := out.last[[2]int{hook, thread}]; got != n {
				t.Errorf("hook %d: the last record of thread %d is %d of %d", hook, thread, got, n)
			}
		}
	}
	if out.versions[1] == 0 || out.versions[2] == 0 {
		t.Errorf("records by version: %v", out.versions)
	}
	t.Logf("%v sent, records %v", sent, out.versions)
	if left := kernelIDs(t); len(left) != 0 {
		t.Errorf("this process still holds %v", left)
	}
}
