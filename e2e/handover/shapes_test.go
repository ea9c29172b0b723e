// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package handover

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// TestOtherShape moves to a package with a program more, one fewer, and another
// layout of a map, and back.
func TestOtherShape(t *testing.T) {
	more := compile(t, "more", "VERSION=2", "MORE=1")
	layout := compile(t, "layout", "VERSION=2", "LAYOUT=1")
	c := newTally(t)
	r := newRelease(t, c)
	old := r.start(t, v1(t))
	old.waitRole(manifest.RoleCurrent)
	l := startLoad(t, c, killRate, allHooks)
	for _, pkg := range []string{more, v1(t), more, v2(t)} { // one more, one fewer
		p := r.start(t, pkg)
		p.waitRole(manifest.RoleCurrent)
		old.waitRole(manifest.RoleStandby)
		programs := len(hookNames)
		if pkg == more {
			programs++
		}
		if s := p.last(); len(s.Programs) != programs {
			t.Errorf("%s: %d programs, want %d", pkg, len(s.Programs), programs)
		}
		old = p
	}
	p := fails(t, r, layout, "the content of map seen would be lost")
	if !strings.Contains(p.text(), "--reset-state") || old.role() != manifest.RoleCurrent {
		t.Errorf("it says, while the old one is %s\n%s", old.role(), p.text())
	}
	r.more = []string{"--reset-state"}
	p = r.start(t, layout)
	p.waitRole(manifest.RoleCurrent)
	if h := p.handover(); len(h.Reset) != 1 || h.Reset[0] != "seen" || len(h.Carried) != 0 {
		t.Errorf("%+v", h)
	}
	l.end()
	c.caughtUp(l)
	p.end()
	old.end()
	c.check(t, l)
}

// TestManyPrograms moves a package with as many programs, and one whose files do not
// fit a packet.
func TestManyPrograms(t *testing.T) {
	for _, n := range []int{64, 140} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			dir := filepath.Join(work, fmt.Sprint("many", n))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			fmt.Fprintln(&text, "#include \"vmlinux.h\"\n#include <bpf/bpf_helpers.h>")
			for i := range n {
				fmt.Fprintf(&text, "SEC(\"raw_tp/sys_enter\") int by_%d(void *ctx) { return 0; }\n", i)
			}
			fmt.Fprintln(&text, `char LICENSE[] SEC("license") = "Dual BSD/GPL";`)
			source := filepath.Join(dir, "many.bpf.c")
			if err := os.WriteFile(source, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
			pkg := ecc(t, filepath.Join(dir, "out", "package.json"), source, "-o", filepath.Join(dir, "out"))
			empty := kernelBefore(t)
			r := newRelease(t, newTally(t))
			r.bare = true
			var all []*process
			for range 3 {
				p := r.start(t, pkg)
				p.waitRole(manifest.RoleCurrent)
				all = append(all, p)
			}
			if h := all[2].handover(); h.Way != manifest.Exact {
				t.Errorf("%+v", h)
			}
			all[0].waitRole(manifest.RoleRetired)
			// The one that was handed over to goes on alone.
			all[1].kill()
			for _, p := range []*process{all[0], all[2]} {
				p.end()
			}
			empty()
		})
	}
}

// TestTwoAtOnce starts several new ones at the same moment.
func TestTwoAtOnce(t *testing.T) {
	c := newTally(t)
	r := newRelease(t, c)
	old := r.start(t, v1(t))
	old.waitRole(manifest.RoleCurrent)
	l := startLoad(t, c, killRate, allHooks)
	all := []*process{old}
	for i := range 3 {
		all = append(all, r.start(t, versions(t, i)))
	}
	var current *process
	ok := within(60*time.Second, func() bool {
		count := map[string]int{}
		for _, p := range all {
			if p.ended() {
				t.Fatalf("one has ended\n%s", p.text())
			}
			count[p.role()]++
			if p.role() == manifest.RoleCurrent {
				current = p
			}
		}
		return count[manifest.RoleCurrent] == 1 && count[""] == 0 && count[manifest.RoleStandby] == 1
	})
	if !ok {
		t.Fatal("they do not come to rest")
	}
	l.end()
	c.caughtUp(l)
	checkState(t, l)
	for _, p := range all {
		if p != current {
			p.end()
		}
	}
	current.end()
	c.check(t, l)
}

// TestEndInMove asks either side to end in the middle of a move: nothing is lost,
// and both end well.
func TestEndInMove(t *testing.T) {
	for _, who := range []string{"old", "new", "both"} {
		for _, after := range []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 250 * time.Millisecond, 350 * time.Millisecond, 500 * time.Millisecond} {
			if !*full && after%(100*time.Millisecond) != 50*time.Millisecond {
				continue
			}
			t.Run(fmt.Sprint(who, " after ", after), func(t *testing.T) {
				empty := kernelBefore(t)
				c := newTally(t)
				r := newRelease(t, c)
				old := r.start(t, v1(t))
				old.waitRole(manifest.RoleCurrent)
				l := startLoad(t, c, killRate, allHooks)
				p := r.start(t, v2(t))
				time.Sleep(after)
				for _, one := range []*process{old, p} {
					if who == "both" || who == "old" && one == old || who == "new" && one == p {
						one.signal(syscall.SIGTERM)
					}
				}
				if who == "both" {
					l.end() // what comes behind the end is nobody's
				}
				left := map[string]*process{"old": p, "new": old}[who]
				for _, one := range []*process{old, p} {
					if one != left && (!within(20*time.Second, one.ended) || one.err != nil) {
						t.Errorf("it ends with %v\n%s", one.err, one.text())
					}
				}
				if left == nil {
					empty()
					return
				}
				left.waitRole(manifest.RoleCurrent)
				l.end()
				// Where the old one has ended before the new one knew it, that has started anew.
				if left == p && !p.moved() {
					c.caughtUp(l)
					c.mark(true)
				}
				c.caughtUp(l)
				left.end()
				c.check(t, l)
				empty()
			})
		}
	}
}

// TestSlow: a new one that is too slow ends itself, with a message; the old one goes
// on.
func TestSlow(t *testing.T) {
	c := newTally(t)
	r := newRelease(t, c)
	old := r.start(t, v1(t))
	old.waitRole(manifest.RoleCurrent)
	l := startLoad(t, c, killRate, allHooks)
	p := r.startStepped(t, v2(t), 0, slowEnv+"=3s", timeoutEnv+"=2s")
	if !within(30*time.Second, p.ended) {
		t.Fatalf("it does not end\n%s", p.text())
	}
	if !strings.Contains(p.text(), "the handover was not done in 2s") || p.err == nil {
		t.Errorf("it ends with %v\n%s", p.err, p.text())
	}
	next := r.start(t, v2(t))
	next.waitRole(manifest.RoleCurrent)
	l.end()
	c.caughtUp(l)
	old.end()
	next.end()
	c.check(t, l)
}

// TestStopped: a new one that is stopped in the middle of its move holds the old one
// up, which loses nothing; when it is killed, the old one goes on.
func TestStopped(t *testing.T) {
	c := newTally(t)
	r := newRelease(t, c)
	old := r.start(t, v1(t))
	old.waitRole(manifest.RoleCurrent)
	l := startLoad(t, c, killRate, allHooks)
	p := r.startStepped(t, v2(t), 0, slowEnv+"=2s")
	if !within(30*time.Second, func() bool { return strings.Contains(p.text(), "before prepare") }) {
		t.Fatal(p.text())
	}
	p.signal(syscall.SIGSTOP)
	time.Sleep(200 * time.Millisecond)
	c.kill()
	p.kill()
	next := r.start(t, v2(t))
	next.waitRole(manifest.RoleCurrent)
	l.end()
	c.caughtUp(l)
	old.end()
	next.end()
	c.check(t, l)
}
