// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package handover

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// killRate is of events a second at each hook, of all hooks.
const killRate = 1000

// A chain is a release that a test kills instances of.
type chain struct {
	t       testing.TB
	release *release
	tally   *tally
	load    *load
	// current prints, standby may go on after it; both may be nil.
	current, standby *process
	before           *process // the current one before
	next             int
	dead             int // how often nobody lived
}

func startChain(t testing.TB) *chain {
	t.Helper()
	c := &chain{t: t, tally: newTally(t)}
	c.release = newRelease(t, c.tally)
	c.current = c.release.start(t, c.version())
	c.current.waitRole(manifest.RoleCurrent)
	c.before = c.current
	c.load = startLoad(t, c.tally, killRate, allHooks)
	return c
}

func (c *chain) version() string {
	c.next++
	return versions(c.t, c.next)
}

// settle waits until the roles are those of an instance at rest, and looks who is
// there. Where nobody is, the next start must work.
func (c *chain) settle(all ...*process) {
	c.t.Helper()
	c.current, c.standby = nil, nil
	ok := within(60*time.Second, func() bool {
		c.current, c.standby = nil, nil
		for _, p := range all {
			switch {
			case p == nil || p.ended():
				continue
			case p.role() == manifest.RoleCurrent && c.current == nil:
				c.current = p
			case p.role() == manifest.RoleStandby && c.standby == nil:
				c.standby = p
			case p.role() != manifest.RoleRetired:
				return false
			}
		}
		return c.current != nil || c.standby == nil
	})
	if !ok {
		for _, p := range all {
			if p != nil {
				c.t.Logf("pid %d: role %q, ended %v\n%s", p.cmd.Process.Pid, p.role(), p.ended(), p.text())
			}
		}
		c.t.Fatal("they do not come to rest")
	}
	for _, p := range all {
		if p != nil && !p.ended() && p.role() == manifest.RoleRetired {
			p.end()
		}
	}
	if c.current == nil {
		c.current = c.release.start(c.t, c.version())
		c.current.waitRole(manifest.RoleCurrent)
	}
	// Who started with nobody there has moved nothing.
	cold := c.current != c.before && !c.current.moved()
	c.before = c.current
	if cold {
		c.dead++
	}
	if !c.tally.caughtUp(c.load) {
		c.t.Error("not everything is printed")
	}
	c.tally.mark(cold)
}

// finish ends everybody, and checks what was printed.
func (c *chain) finish() string {
	c.t.Helper()
	c.load.end()
	if !c.tally.caughtUp(c.load) {
		c.t.Error("not everything is printed")
	}
	if c.standby != nil {
		c.standby.end()
	}
	c.current.end()
	return c.tally.check(c.t, c.load)
}

var stepLine = regexp.MustCompile(`(?m)^step (\d+) (.*)$`)

// TestKillAtEachStep ends either side of a move, and of a move back, between any
// two of its steps.
func TestKillAtEachStep(t *testing.T) {
	empty := kernelBefore(t)
	c := startChain(t)
	// The steps of one that moves, is moved from, and is moved back to.
	one := c.release.startStepped(t, c.version(), 0)
	one.waitRole(manifest.RoleCurrent)
	two := c.release.start(t, c.version())
	two.waitRole(manifest.RoleCurrent)
	one.waitRole(manifest.RoleStandby)
	two.kill()
	if !within(30*time.Second, one.goesOn) {
		t.Fatalf("it does not go on\n%s", one.text())
	}
	c.settle(c.current, one)
	steps := stepLine.FindAllStringSubmatch(one.text(), -1)
	if len(steps) < 20 {
		t.Fatalf("it has %d steps\n%s", len(steps), one.text())
	}
	killed := 0
	for i, step := range steps {
		if !*full && i%3 != int(time.Now().Unix())%3 {
			continue
		}
		c.tally.kill()
		victim := c.release.startStepped(t, c.version(), i+1)
		within(30*time.Second, func() bool { return victim.ended() || victim.role() == manifest.RoleCurrent })
		all := []*process{c.standby, c.current, victim}
		if !victim.ended() {
			// It is to die when it is moved from, or back to.
			next := c.release.start(t, c.version())
			within(30*time.Second, func() bool {
				return next.role() == manifest.RoleCurrent && (victim.ended() || victim.role() == manifest.RoleStandby)
			})
			if !victim.ended() {
				next.kill()
				within(30*time.Second, func() bool { return victim.ended() || victim.goesOn() })
			}
			all = append(all, next)
		}
		c.settle(all...)
		if victim.ended() {
			killed++
		} else {
			t.Errorf("step %d (%s) has not come again", i+1, step[2])
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d steps, killed at %d, nobody lived %d times\n%s", len(steps), killed, c.dead, c.finish())
	empty()
}

// TestKillAtRandom ends the old one, the new one, or both at random moments of a
// move.
func TestKillAtRandom(t *testing.T) {
	kills := 20
	if *full {
		kills = 200
	}
	empty := kernelBefore(t)
	c := startChain(t)
	longest := 600 * time.Millisecond
	counts := map[string]int{}
	for i := range kills {
		n := c.release.start(t, c.version())
		time.Sleep(rand.N(longest))
		who := []string{"old", "new", "both"}[rand.N(3)]
		counts[fmt.Sprintf("%s while the new one is %q", who, n.role())]++
		c.tally.kill()
		if who != "new" {
			c.current.kill()
			if c.standby != nil && rand.N(2) == 0 {
				c.standby.kill()
			}
		}
		if who != "old" {
			n.kill()
		}
		c.settle(c.standby, c.current, n)
		if t.Failed() {
			t.Fatalf("kill %d: %s", i, who)
		}
	}
	table := c.finish()
	t.Logf("%d kills: %v; nobody lived %d times\n%s", kills, counts, c.dead, table)
	empty()
}

// TestKillAllLeavesNothing ends all instances at once, at rest and in a move.
func TestKillAllLeavesNothing(t *testing.T) {
	for _, n := range []int{1, 2, 3} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			empty := kernelBefore(t)
			r := newRelease(t, newTally(t))
			var all []*process
			for i := range n {
				p := r.start(t, versions(t, i))
				if i < 2 {
					p.waitRole(manifest.RoleCurrent)
				} else {
					time.Sleep(rand.N(300 * time.Millisecond))
				}
				all = append(all, p)
			}
			for _, p := range slices.Backward(all) {
				p.kill()
			}
			empty()
		})
	}
}
