// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// A world is a kernel in which events happen all the time: a cell, two slots, and
// what the instances print.
type world struct {
	mu      sync.Mutex
	cell    Slot
	slots   [2]*fake
	living  []*fake // those that hold the links
	next    int
	lost    []int // while an instance lived
	nobody  int   // events while none lived, and those that died with the last one
	printed []int
	fault   string
}

func (w *world) event() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.next
	w.next++
	switch g := w.slots[w.cell]; {
	case len(w.living) == 0:
		w.nobody++
	case g == nil:
		w.lost = append(w.lost, n)
	default:
		g.buffer = append(g.buffer, n)
		if g.printing {
			g.show()
		}
	}
}

// load lets events happen until the test ends.
func (w *world) load(t *testing.T) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				w.event()
				time.Sleep(20 * time.Microsecond)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
}

type crash struct{}

// A fake is an instance in a world. It ends as by SIGKILL at a chosen call.
type fake struct {
	w    *world
	name string
	slot Slot
	// buffer is what programs sent and nobody printed.
	buffer   []int
	printing bool
	peer     *fake
	failed   chan error

	calls   []string
	crashAt int // the number of the call, from 1; 0 for none
	failAt  int
	slow    time.Duration // what it needs to get ready
	stopAt  int
	taken   int // how often its place is taken yet
	// unreadable is true of one that cannot read what a peer left.
	unreadable bool
	roles      []string
	ctx        context.Context
	stop       context.CancelFunc
	done       chan error
	revision   uint64
	logged     []string
}

var _ Host = (*fake)(nil)

func (f *fake) show() {
	f.w.printed = append(f.w.printed, f.buffer...)
	f.buffer = nil
}

var errFake = errors.New("it fails")

// step is one call; it dies before or after it has an effect.
func (f *fake) step(name string, effect func() error) (err error) {
	f.w.event()
	f.calls = append(f.calls, name)
	n := len(f.calls)
	if f.crashAt == 2*n-1 {
		panic(crash{})
	}
	if f.stopAt == n {
		f.stop()
	}
	if f.failAt == n {
		return fmt.Errorf("%s: %w", name, errFake)
	}
	f.w.mu.Lock()
	err = effect()
	f.w.mu.Unlock()
	if f.crashAt == 2*n {
		panic(crash{})
	}
	f.w.event()
	return err
}

// dead takes away what the kernel takes away.
func (f *fake) dead() {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.printing = false
	f.w.living = slices.DeleteFunc(f.w.living, func(g *fake) bool { return g == f })
	if len(f.w.living) == 0 {
		f.w.slots = [2]*fake{}
		// What the last one would have printed died with it.
		for _, g := range []*fake{f, f.peer} {
			if g != nil {
				f.w.nobody += len(g.buffer)
				g.buffer = nil
			}
		}
	}
}

func (f *fake) Start(context.Context) error {
	return f.step("start", func() error {
		if f.taken > 0 {
			f.taken--
			return manifest.WithKind(manifest.KindConflict, errFake, "")
		}
		if len(f.w.living) != 0 {
			f.w.fault = f.name + " starts beside a living one"
		}
		f.slot, f.w.cell = 0, 0
		f.w.slots = [2]*fake{f, nil}
		f.w.living = append(f.w.living, f)
		return nil
	})
}

// offers holds who offers, in place of descriptors.
var offers sync.Map

func (f *fake) Offer() (o Offer, files []int, err error) {
	err = f.step("offer", func() error {
		offers.Store(f.name, f)
		o = Offer{Slot: f.slot, Parts: []Part{{Name: f.name, Key: "k"}}}
		files = []int{0, 1, 2}
		return nil
	})
	return o, files, err
}

func (f *fake) Prepare(_ context.Context, o Offer, files []int) (r Ready, mine []int, err error) {
	closeFiles(files)
	time.Sleep(f.slow)
	err = f.step("prepare", func() error {
		peer, _ := offers.Load(o.Parts[0].Name)
		f.peer = peer.(*fake)
		f.slot = o.Slot.Other()
		f.w.slots[f.slot] = f
		f.w.living = append(f.w.living, f)
		offers.Store(f.name, f)
		r = Ready{Parts: []Part{{Name: f.name, Key: "k"}}}
		mine = []int{0, 1}
		return nil
	})
	return r, mine, err
}

func (f *fake) Keep(r Ready, files []int) error {
	closeFiles(files)
	return f.step("keep", func() error {
		peer, _ := offers.Load(r.Parts[0].Name)
		f.peer = peer.(*fake)
		return nil
	})
}

func (f *fake) Current() (current bool, err error) {
	err = f.step("current", func() error { current = f.w.cell == f.slot; return nil })
	return current, err
}

func (f *fake) Flip(own bool) error {
	return f.step("flip", func() error {
		f.w.cell = f.slot
		if !own {
			f.w.cell = f.slot.Other()
		}
		return nil
	})
}

func (f *fake) Grace() error { return f.step("grace", func() error { return nil }) }

func (f *fake) Drain() error {
	return f.step("drain", func() error {
		f.show()
		f.printing = false
		return nil
	})
}

func (f *fake) Resume() error {
	return f.step("resume", func() error {
		if n := len(f.roles); n == 0 || f.roles[n-1] != manifest.RoleCurrent {
			f.w.fault = fmt.Sprintf("%s prints with the roles %q", f.name, f.roles)
		}
		f.show()
		f.printing = true
		return nil
	})
}

func (f *fake) DrainPeer() error {
	return f.step("drainPeer", func() error {
		if n := len(f.roles); n == 0 || f.roles[n-1] != manifest.RoleCurrent {
			f.w.fault = fmt.Sprintf("%s prints what %s left with the roles %q", f.name, f.peer.name, f.roles)
		}
		if f.unreadable {
			return errFake
		}
		if f.peer != nil {
			f.peer.show()
		}
		return nil
	})
}

func (f *fake) DropPeer() error {
	return f.step("dropPeer", func() error {
		f.peer = nil
		f.w.slots[f.slot.Other()] = nil
		return nil
	})
}

func (f *fake) Release() error {
	err := f.step("release", func() error {
		if f.printing {
			f.show()
		}
		return nil
	})
	f.dead()
	return err
}

func (f *fake) Failed() <-chan error { return f.failed }

// run starts an instance.
func (w *world) run(t *testing.T, dir string, f *fake) *fake {
	f.w, f.done, f.failed = w, make(chan error, 1), make(chan error, 1)
	f.ctx, f.stop = context.WithCancel(t.Context())
	go func() {
		var err error
		defer func() {
			if p := recover(); p != nil {
				if p != (crash{}) {
					panic(p)
				}
				err = errors.New("crash")
			}
			f.dead()
			f.done <- err
		}()
		err = Run(f.ctx, f, Options{
			Dir: dir, Revision: f.revision,
			Became: func(r string, _ time.Duration) { w.mu.Lock(); f.roles = append(f.roles, r); w.mu.Unlock() },
			Log:    func(s string) { w.mu.Lock(); f.logged = append(f.logged, s); w.mu.Unlock() },
			Hung: func(err error) {
				if f.slow == 0 {
					t.Errorf("%s hangs: %v", f.name, err)
				}
			},
		})
	}()
	return f
}

func (f *fake) role() string {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if len(f.roles) == 0 {
		return ""
	}
	return f.roles[len(f.roles)-1]
}

// waitFor waits until one of the instances is current, and has nobody in between.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// ended reports whether the instance's process is gone.
func (f *fake) ended() bool {
	select {
	case err := <-f.done:
		f.done <- err
		return true
	default:
		return false
	}
}

// check stops everybody and looks at what was printed.
func (w *world) check(t *testing.T, fakes ...*fake) {
	t.Helper()
	for _, f := range slices.Backward(fakes) {
		f.stop()
		var refused *RefusedError
		if err := <-f.done; err != nil && err.Error() != "crash" && !errors.Is(err, errFake) && !errors.As(err, &refused) {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault != "" {
		t.Error(w.fault)
	}
	if len(w.lost) > 0 {
		t.Errorf("%d events lost, the first is %d of %d", len(w.lost), w.lost[0], w.next)
	}
	if n := w.next - w.nobody - len(w.printed); n != 0 {
		t.Errorf("%d of %d events are missing", n, w.next)
	}
	for i := 1; i < len(w.printed); i++ {
		if w.printed[i] <= w.printed[i-1] {
			t.Fatalf("event %d is printed behind %d", w.printed[i], w.printed[i-1])
		}
	}
	for _, f := range fakes {
		if t.Failed() {
			t.Logf("%s: roles %v, calls %s, %q", f.name, f.roles, strings.Join(f.calls, " "), f.logged)
		}
	}
	if len(w.living) != 0 || w.slots != [2]*fake{} {
		t.Errorf("the kernel still holds %v", w.slots)
	}
}

func TestMoves(t *testing.T) {
	w, dir := &world{}, t.TempDir()
	w.load(t)
	var all []*fake
	for n := range 10 {
		f := w.run(t, dir, &fake{name: fmt.Sprint("i", n), revision: uint64(n)})
		all = append(all, f)
		waitFor(t, "it is current", func() bool { return f.role() == manifest.RoleCurrent })
	}
	for n, f := range all {
		want := manifest.RoleRetired
		switch n {
		case 9:
			want = manifest.RoleCurrent
		case 8:
			want = manifest.RoleStandby
		}
		waitFor(t, fmt.Sprintf("i%d is %s", n, want), func() bool { return f.role() == want })
	}
	// The end of the current one is a move back.
	all[9].stop()
	waitFor(t, "i8 is current", func() bool { return all[8].role() == manifest.RoleCurrent })
	w.check(t, all...)
}

// TestCrashes kills each side before and after each of its steps, in the move of
// a new instance and in the move back.
func TestCrashes(t *testing.T) {
	for _, who := range []string{"old", "new", "both"} {
		for at := 1; at <= 40; at++ {
			t.Run(fmt.Sprintf("%s/%d", who, at), func(t *testing.T) {
				t.Parallel()
				w, dir := &world{}, t.TempDir()
				w.load(t)
				o := w.run(t, dir, &fake{name: t.Name() + "o", revision: 1})
				waitFor(t, "the old one is current", func() bool { return o.role() == manifest.RoleCurrent })
				n := &fake{name: t.Name() + "n", revision: 2}
				if who != "new" {
					w.mu.Lock()
					o.crashAt = 2*len(o.calls) + at
					w.mu.Unlock()
				}
				if who != "old" {
					n.crashAt = at
				}
				w.run(t, dir, n)
				waitFor(t, "one is left", func() bool {
					if n.ended() && o.ended() {
						return true
					}
					return n.role() == manifest.RoleCurrent && (o.role() == manifest.RoleStandby || o.ended()) || n.ended() && o.role() == manifest.RoleCurrent
				})
				n.stop()
				waitFor(t, "the new one is gone", n.ended)
				waitFor(t, "the old one goes on", func() bool { return o.ended() || o.role() == manifest.RoleCurrent })
				// The next one works.
				z := w.run(t, dir, &fake{name: t.Name() + "z", revision: 3})
				waitFor(t, "the next one is current", func() bool { return z.role() == manifest.RoleCurrent })
				w.check(t, o, n, z)
			})
		}
	}
}

// TestFailures lets each step of either side fail.
func TestFailures(t *testing.T) {
	for _, who := range []string{"old", "new"} {
		for at := 1; at <= 20; at++ {
			t.Run(fmt.Sprintf("%s/%d", who, at), func(t *testing.T) {
				t.Parallel()
				w, dir := &world{}, t.TempDir()
				w.load(t)
				o := w.run(t, dir, &fake{name: t.Name() + "o", revision: 1})
				waitFor(t, "the old one is current", func() bool { return o.role() == manifest.RoleCurrent })
				n := &fake{name: t.Name() + "n", revision: 2}
				if who == "old" {
					w.mu.Lock()
					o.failAt = len(o.calls) + at
					w.mu.Unlock()
				} else {
					n.failAt = at
				}
				w.run(t, dir, n)
				waitFor(t, "one is current", func() bool {
					return n.role() == manifest.RoleCurrent && (o.ended() || o.role() == manifest.RoleStandby) || n.ended() && (o.ended() || o.role() == manifest.RoleCurrent)
				})
				w.check(t, o, n)
			})
		}
	}
}

// TestStale: an older instance waits for the end of a newer one.
func TestStale(t *testing.T) {
	w, dir := &world{}, t.TempDir()
	w.load(t)
	newer := w.run(t, dir, &fake{name: "newer", revision: 2})
	waitFor(t, "the newer one is current", func() bool { return newer.role() == manifest.RoleCurrent })
	older := w.run(t, dir, &fake{name: "older", revision: 1})
	waitFor(t, "the older one is stale", func() bool { return older.role() == manifest.RoleStale })
	again := w.run(t, dir, &fake{name: "again", revision: 2})
	waitFor(t, "an equal one is current", func() bool { return again.role() == manifest.RoleCurrent })
	again.stop()
	waitFor(t, "the newer one is current again", func() bool { return newer.role() == manifest.RoleCurrent })
	newer.stop()
	waitFor(t, "the older one is current", func() bool { return older.role() == manifest.RoleCurrent })
	w.check(t, newer, again, older)
}

// TestTwoAtOnce: two new instances come one after the other.
func TestTwoAtOnce(t *testing.T) {
	for range 20 {
		w, dir := &world{}, t.TempDir()
		a := w.run(t, dir, &fake{name: t.Name() + "a", revision: 1})
		b := w.run(t, dir, &fake{name: t.Name() + "b", revision: 1})
		c := w.run(t, dir, &fake{name: t.Name() + "c", revision: 1})
		waitFor(t, "all have a role", func() bool {
			roles := []string{a.role(), b.role(), c.role()}
			slices.Sort(roles)
			return slices.Equal(roles, []string{manifest.RoleCurrent, manifest.RoleRetired, manifest.RoleStandby})
		})
		w.check(t, a, b, c)
	}
}

// TestStops asks either side to end at each of its steps: a move that has begun is
// finished first, so that the other one has what it needs.
func TestStops(t *testing.T) {
	for _, who := range []string{"old", "new"} {
		for at := 1; at <= 12; at++ {
			t.Run(fmt.Sprintf("%s/%d", who, at), func(t *testing.T) {
				t.Parallel()
				w, dir := &world{}, t.TempDir()
				w.load(t)
				o := w.run(t, dir, &fake{name: t.Name() + "o", revision: 1})
				waitFor(t, "the old one is current", func() bool { return o.role() == manifest.RoleCurrent })
				n := &fake{name: t.Name() + "n", revision: 2}
				if who == "old" {
					w.mu.Lock()
					o.stopAt = len(o.calls) + at
					w.mu.Unlock()
				} else {
					n.stopAt = at
				}
				w.run(t, dir, n)
				waitFor(t, "one is left", func() bool {
					return n.role() == manifest.RoleCurrent && (o.ended() || o.role() == manifest.RoleStandby) || n.ended() && o.role() == manifest.RoleCurrent
				})
				if who == "new" && slices.Contains(n.calls, "flip") && !slices.Contains(n.roles, manifest.RoleCurrent) {
					t.Errorf("the new one has moved and not finished it: %v", n.calls)
				}
				w.check(t, o, n)
			})
		}
	}
}

// TestStopBoth asks both to end at once: the current one moves back to nobody.
func TestStopBoth(t *testing.T) {
	for range 20 {
		w, dir := &world{}, t.TempDir()
		o := w.run(t, dir, &fake{name: t.Name() + "o", revision: 1})
		waitFor(t, "the old one is current", func() bool { return o.role() == manifest.RoleCurrent })
		n := w.run(t, dir, &fake{name: t.Name() + "n", revision: 2})
		waitFor(t, "the new one is current", func() bool { return n.role() == manifest.RoleCurrent })
		o.stop()
		n.stop()
		waitFor(t, "both end", func() bool { return o.ended() && n.ended() })
		w.check(t, o, n)
	}
}

// TestTaken: a place that takes one program is waited for.
func TestTaken(t *testing.T) {
	w, dir := &world{}, t.TempDir()
	w.load(t)
	f := w.run(t, dir, &fake{name: t.Name(), taken: 2})
	waitFor(t, "it is current", func() bool { return f.role() == manifest.RoleCurrent })
	w.mu.Lock()
	if len(f.logged) != 1 || !strings.Contains(f.logged[0], "waiting for its end") {
		t.Errorf("it says %q", f.logged)
	}
	w.mu.Unlock()
	w.check(t, f)
}

// TestUnreadable: events of a dead peer that cannot be read are no reason to end.
func TestUnreadable(t *testing.T) {
	w, dir := &world{}, t.TempDir()
	o := w.run(t, dir, &fake{name: t.Name() + "o", revision: 1, unreadable: true})
	waitFor(t, "the old one is current", func() bool { return o.role() == manifest.RoleCurrent })
	n := w.run(t, dir, &fake{name: t.Name() + "n", revision: 2, crashAt: 4}) // after the flip
	waitFor(t, "the new one is gone", n.ended)
	waitFor(t, "the old one goes on", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.ContainsFunc(o.logged, func(s string) bool { return strings.Contains(s, "this one goes on") })
	})
	o.stop()
	if err := <-o.done; err != nil {
		t.Errorf("the old one ends with %v", err)
	}
}

// TestLate: who is ready when the other one has given up on it changes nothing.
func TestLate(t *testing.T) {
	move, answer := MoveTimeout, answerTimeout
	MoveTimeout, answerTimeout = 100*time.Millisecond, 50*time.Millisecond
	defer func() { MoveTimeout, answerTimeout = move, answer }()
	w, dir := &world{}, t.TempDir()
	w.load(t)
	o := w.run(t, dir, &fake{name: t.Name() + "o", revision: 1})
	waitFor(t, "the old one is current", func() bool { return o.role() == manifest.RoleCurrent })
	n := w.run(t, dir, &fake{name: t.Name() + "n", revision: 2, slow: 500 * time.Millisecond})
	waitFor(t, "the late one ends", n.ended)
	if err := <-n.done; err == nil || n.role() != "" {
		t.Errorf("it was %q and ended with %v", n.role(), err)
	}
	n.done <- nil
	if o.role() != manifest.RoleCurrent {
		t.Errorf("the old one is %s", o.role())
	}
	w.check(t, o, n)
}
