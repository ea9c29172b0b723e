// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// A Host is an instance's own part in the kernel and at the output. Its methods
// are called one after the other. Files are descriptors; those that a method
// takes are its own, those that it returns stay the host's.
type Host interface {
	// Start puts the programs in their places where no other instance is; their
	// events wait for Resume. After an error it is as if it had not been called; one
	// of [manifest.KindConflict] says that a place is taken which has room for one.
	Start(context.Context) error
	// Offer says what a successor gets.
	Offer() (Offer, []int, error)
	// Prepare gets everything ready beside the one whose offer it is, up to what
	// would show. After an error it is as if it had not been called.
	Prepare(context.Context, Offer, []int) (Ready, []int, error)
	// Keep holds what a successor brings, so that DrainPeer can print its events.
	Keep(Ready, []int) error
	// Current reports whether the programs of this instance are those that run.
	Current() (bool, error)
	// Flip makes the programs of this instance those that run, or those of its
	// peer, and waits until the others have ended on every processor.
	Flip(own bool) error
	// Grace waits until every program has ended that runs now.
	Grace() error
	// Drain prints all that is in the buffers, and stops printing. From then on
	// events are held.
	Drain() error
	// Resume prints, what was held first.
	Resume() error
	// DrainPeer prints the events that the peer left in its buffers.
	DrainPeer() error
	// DropPeer lets go of what only the peer had, and empties its slots.
	DropPeer() error
	// Release lets go of everything. A host that prints prints what is left.
	Release() error
	// Failed tells that the output does not work any more.
	Failed() <-chan error
}

// Options say how an instance takes part.
type Options struct {
	// Dir is the folder of the release on this node. It is made, and only for
	// this user.
	Dir string
	// Revision is that of [Hello].
	Revision uint64
	// Became is told of each new role, that of the current one before it prints,
	// with the time that the move took until then; 0 without one.
	Became func(role string, move time.Duration)
	// Log takes sentences for people.
	Log func(string)
	// Hung is called in a goroutine of its own when a move does not come to its
	// end. It ends the process, so that the other instance goes on.
	Hung func(error)
	// Step is told of each step of the host, before and after it. It is nil but in
	// tests, which end the process there.
	Step func(string)
}

// Bounds of time.
var (
	// MoveTimeout is how long a move may take in all.
	MoveTimeout = 60 * time.Second
	// answerTimeout is how long an answer may take that needs no work.
	answerTimeout = 10 * time.Second
)

// A RefusedError says that the current instance hands nothing over.
type RefusedError struct {
	Reason   string
	Protocol int
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the running instance does not hand over: %s", e.Reason)
}

// An instance is the process's part in the release.
type instance struct {
	Options
	host     Host
	place    *place
	accepted <-chan conn
	// hidden is true when this instance should answer and cannot.
	hidden bool
	// standby is the instance from which this one took over; nil without one.
	standby *peer
	// parked are those that wait for the end of this one.
	parked []conn
}

// A peer is the other end of a connection that stays open for as long as both
// live: its end is how one learns of the other's.
type peer struct {
	conn
	gone chan struct{} // closed at the end
}

// watch waits for the end of a peer that has nothing more to say.
func watch(c conn) *peer {
	p := &peer{c, make(chan struct{})}
	go func() {
		defer close(p.gone)
		for {
			_, files, err := p.receive(context.Background())
			closeFiles(files)
			// Nonsense is no end: whoever flips while the other one lives doubles.
			switch {
			case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
				return
			case err != nil:
				time.Sleep(tryPause)
			}
		}
	}()
	return p
}

// Run takes over from the current instance of the release, or starts where there
// is none, and runs until ctx is done; then whoever stands by goes on. It returns
// nil after the end, a *[RefusedError] if the current one hands nothing over, and
// the errors of host.
func Run(ctx context.Context, host Host, o Options) (err error) {
	if o.Step != nil {
		host = stepped{host, o.Step}
	}
	i := &instance{Options: o, host: host}
	if i.place, err = openPlace(o.Dir); err != nil {
		return err
	}
	defer func() {
		_ = i.place.close()
		if i.standby != nil {
			_ = i.standby.Close()
		}
		for _, c := range i.parked {
			_ = c.Close()
		}
	}()
	for {
		role, err := i.join(ctx)
		switch {
		case role == manifest.RoleCurrent:
			return i.current(ctx)
		case ctx.Err() != nil:
			return nil // before it was anything
		case err != nil:
			return err
		}
	}
}

// join becomes the current instance, or returns [manifest.RoleStale] after the end of a newer
// one.
func (i *instance) join(ctx context.Context) (string, error) {
	unlock, err := i.place.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	// What follows takes no longer than a move, for others wait for the lock.
	limited, cancel := context.WithTimeoutCause(ctx, MoveTimeout, fmt.Errorf("the handover was not done in %s", MoveTimeout))
	defer cancel()
	// Who hangs in the kernel does not look at a context.
	watchdog := time.AfterFunc(MoveTimeout+answerTimeout, func() { i.Hung(context.Cause(limited)) })
	defer watchdog.Stop()
	for {
		c, err := i.place.dial()
		if err != nil {
			return "", err
		}
		if c == nil {
			free, err := i.place.claim()
			if err != nil {
				return "", err
			}
			if free {
				return i.coldAlone(limited)
			}
			// Somebody lives who does not answer: a standby that is about to.
			if err := pause(limited); err != nil {
				return "", err
			}
			continue
		}
		role, err := i.greet(limited, *c)
		switch {
		case errors.Is(err, io.EOF):
			// It has ended before it gave anything, or hangs up on everybody.
			if err := pause(limited); err != nil {
				return "", err
			}
			continue
		case role == manifest.RoleStale:
			watchdog.Stop()
			unlock()
			defer func() { _ = c.Close() }()
			select {
			case <-watch(*c).gone:
			case <-ctx.Done():
			}
		}
		return role, err
	}
}

// tryPause is how long something that failed is left before it is tried again.
const tryPause = 20 * time.Millisecond

// pause waits that long.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(tryPause):
		return nil
	}
}

// cold starts where nobody is, or beside one that hands nothing over.
func (i *instance) cold(ctx context.Context) (string, error) {
	l, err := i.place.bind()
	if err != nil {
		return "", err
	}
	if err := i.host.Start(ctx); err != nil {
		i.place.unbind(l)
		return "", err
	}
	err = errors.Join(i.place.live(), i.answer(l))
	if err == nil {
		i.Became(manifest.RoleCurrent, 0)
		err = i.host.Resume()
	}
	if err != nil {
		return "", errors.Join(err, i.host.Release())
	}
	return manifest.RoleCurrent, nil
}

// busyPause is how often a hook is looked at that is taken and takes no second
// program.
const busyPause = 250 * time.Millisecond

// coldAlone starts where nobody answers. An instance that knows no handovers may
// hold a hook that takes one program: its end is waited for.
func (i *instance) coldAlone(ctx context.Context) (string, error) {
	for told := false; ; {
		role, err := i.cold(ctx)
		if manifest.KindOf(err) != manifest.KindConflict {
			return role, err
		}
		if !told {
			i.Log(fmt.Sprintf("%v: waiting for its end, for %s at most", err, MoveTimeout))
			told = true
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(busyPause):
		}
	}
}

// answer makes this instance the one that answers.
func (i *instance) answer(l *net.UnixListener) (err error) {
	i.accepted, err = i.place.answer(l)
	return err
}

// appear answers again, or says why that does not work: then it is tried later.
func (i *instance) appear() {
	i.accepted = nil
	l, err := i.place.bind()
	if err == nil {
		err = i.answer(l)
	}
	switch {
	case err == nil:
		i.hidden = false
	case !i.hidden:
		i.hidden = true
		i.Log(fmt.Sprintf("no other instance can take over until this works: %v", err))
	}
}

// greet talks to the current instance. The error is io.EOF if that one ended before
// it gave anything. The connection is closed, but where it is of use: to a newer
// one, and to the standby.
func (i *instance) greet(ctx context.Context, c conn) (_ string, err error) {
	keep := false
	defer func() {
		if !keep {
			_ = c.Close()
		}
	}()
	if err := c.checkPeer(); err != nil {
		return "", err
	}
	start := time.Now()
	if err := c.send(Hello{Protocol: Protocol, Revision: i.Revision}, nil); err != nil {
		return "", err
	}
	m, files, err := c.receive(ctx)
	if err != nil {
		return "", err
	}
	switch m := m.(type) {
	case Refuse:
		if m.Protocol == Protocol {
			return "", &RefusedError{m.Reason, m.Protocol}
		}
		i.Log(fmt.Sprintf("the running instance hands over by protocol %d, this one by %d: events are doubled until it ends", m.Protocol, Protocol))
		role, err := i.cold(ctx)
		if manifest.KindOf(err) == manifest.KindConflict {
			keep = true
			i.Log(fmt.Sprintf("%v: waiting for the end of the running instance", err))
			i.Became(manifest.RoleStale, 0)
			return manifest.RoleStale, nil
		}
		return role, err
	case Stale:
		keep = true
		i.Log(fmt.Sprintf("a newer instance runs (%d, this one is %d): waiting for its end", m.Revision, i.Revision))
		i.Became(manifest.RoleStale, 0)
		return manifest.RoleStale, nil
	case Offer:
		alive, err := i.take(ctx, c, m, files, start)
		if err != nil {
			return "", err
		}
		if keep = alive; alive {
			i.standby = watch(c)
		}
		return manifest.RoleCurrent, nil
	default:
		closeFiles(files)
		return "", fmt.Errorf("the running instance answered with %s", m.kind())
	}
}

// take moves the release to this instance, which began at start, and reports
// whether the other one lives and stands by. Where the other one dies, it goes on
// alone.
func (i *instance) take(ctx context.Context, c conn, offer Offer, files []int, start time.Time) (alive bool, err error) {
	ready, mine, err := i.host.Prepare(ctx, offer, files)
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.host.Release())
		}
	}()
	fresh, err := i.place.bind()
	if err != nil {
		return false, err
	}
	defer func() {
		if fresh != nil {
			i.place.unbind(fresh)
		}
	}()
	// ask sends m and waits for the answer; a peer that has ended gives none. One that
	// has hung up may have said why.
	alive = true
	ask := func(m Message, files []int) (answer Message, err error) {
		err = c.send(m, files)
		if err == nil || errors.Is(err, io.EOF) {
			answer, files, err = c.receive(ctx)
			closeFiles(files)
		}
		if !errors.Is(err, io.EOF) {
			return answer, err
		}
		alive = false
		return nil, nil //nolint:nilnil // Nobody is there to answer.
	}
	answer, err := ask(ready, mine)
	if err != nil {
		return false, err
	}
	switch m := answer.(type) {
	case Refuse:
		return false, &RefusedError{m.Reason, m.Protocol}
	case Go, nil:
	default:
		return false, fmt.Errorf("the running instance answered with %s where it should say go", m.kind())
	}
	if err := i.place.live(); err != nil {
		return false, err
	}
	// From here on this instance has events. A request to end is heard when all is
	// moved: the other one gets them back then.
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadlineCause(context.WithoutCancel(ctx), deadline, fmt.Errorf("the handover was not done in %s", MoveTimeout))
	defer cancel()
	if err := i.host.Flip(true); err != nil {
		return false, err
	}
	l := fresh
	fresh = nil
	if err := i.answer(l); err != nil {
		return false, err
	}
	if alive {
		switch m, err := ask(Flipped{}, nil); m := m.(type) {
		case Drained, nil:
			if err != nil {
				return false, err
			}
		default:
			return false, fmt.Errorf("the former instance answered with %s where it should say drained", m.kind())
		}
	}
	i.Became(manifest.RoleCurrent, time.Since(start))
	if !alive {
		return false, i.goOn()
	}
	if err := i.host.Resume(); err != nil {
		return false, err
	}
	switch err := c.send(Done{}, nil); {
	case errors.Is(err, io.EOF):
		return false, i.host.DropPeer()
	case err != nil:
		return false, err // it lives, and goes on when this one has ended
	}
	return true, nil
}

// goOn prints what a dead peer left, then what comes, and lets go of what only the
// peer had, which takes long where that is much. What cannot be read is lost, and no
// reason to end.
func (i *instance) goOn() error {
	if err := i.host.DrainPeer(); err != nil {
		i.Log(fmt.Sprintf("events of the other instance are lost: %v", err))
	}
	if err := i.host.Resume(); err != nil {
		return err
	}
	return i.host.DropPeer()
}

// current is the life of the instance whose programs run.
func (i *instance) current(ctx context.Context) error {
	for {
		var standbyGone chan struct{}
		if i.standby != nil {
			standbyGone = i.standby.gone
		}
		var again <-chan time.Time
		if i.hidden {
			again = time.After(time.Second)
		}
		select {
		case <-again:
			i.appear()
		case <-ctx.Done():
			return i.end(nil)
		case err := <-i.host.Failed():
			return i.end(err)
		case <-standbyGone:
			i.forgetStandby()
			if err := i.host.DropPeer(); err != nil {
				i.Log(err.Error())
			}
		case c := <-i.accepted:
			moved, err := i.serve(c)
			switch {
			case err != nil:
				return i.end(err)
			case !moved:
				continue
			}
			if again, err := i.stand(ctx, c); !again || err != nil {
				return err
			}
		}
	}
}

func (i *instance) forgetStandby() {
	_ = i.standby.Close()
	i.standby = nil
}

// end ends the current instance. A standby goes on: it learns of the end by that of
// the connection, when all is printed.
func (i *instance) end(err error) error {
	if i.standby == nil {
		return errors.Join(err, i.host.Release())
	}
	flipErr := i.host.Flip(false)
	if flipErr == nil {
		flipErr = i.host.Drain()
	}
	err = errors.Join(err, flipErr, i.host.Release())
	i.forgetStandby()
	return err
}

// serve hands over to a new instance, and reports whether it did. After an error
// this instance does not know what it has.
func (i *instance) serve(c conn) (moved bool, err error) {
	keep := false
	defer func() {
		if !moved && !keep {
			_ = c.Close()
		}
	}()
	quick, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	m, files, err := c.receive(quick)
	closeFiles(files)
	hello, ok := m.(Hello)
	switch {
	case err != nil || !ok:
		i.Log(fmt.Sprintf("a connection that says no hello is closed (%v)", err))
		return false, nil
	case hello.Protocol != Protocol:
		keep = i.park(c, Refuse{Reason: fmt.Sprintf("it speaks protocol %d", Protocol), Protocol: Protocol})
		return false, nil
	case hello.Revision < i.Revision:
		keep = i.park(c, Stale{Revision: i.Revision})
		return false, nil
	}
	if err := i.retireStandby(quick); err != nil {
		i.refuse(c, err)
		return false, nil
	}
	offer, files, err := i.host.Offer()
	if err != nil {
		i.refuse(c, err)
		return false, nil
	}
	if err := c.send(offer, files); err != nil {
		if !errors.Is(err, io.EOF) {
			i.refuse(c, err)
		}
		return false, nil
	}
	// The peer ends itself when it takes too long. Until it has the word to go, so
	// may this one.
	long, cancel := context.WithTimeout(context.Background(), MoveTimeout+2*answerTimeout)
	defer cancel()
	m, files, err = c.receive(long)
	ready, ok := m.(Ready)
	if err != nil || !ok {
		closeFiles(files)
		if err == nil || !errors.Is(err, io.EOF) {
			i.refuse(c, errors.New("it said something else than ready"))
		}
		return false, i.host.DropPeer()
	}
	if err := i.host.Keep(ready, files); err != nil {
		i.refuse(c, err)
		return false, i.host.DropPeer()
	}
	if c.send(Go{}, nil) != nil {
		return false, i.takeBack(false)
	}
	if !await[Flipped](c) {
		return false, i.takeBack(false)
	}
	if err := i.host.Drain(); err != nil {
		return false, err
	}
	if c.send(Drained{}, nil) != nil || !await[Done](c) {
		return false, i.takeBack(false)
	}
	i.place.hide()
	return true, nil
}

// await waits for a message of one kind, however long that takes, and reports
// false when the peer has ended. All else is passed by: as long as the peer lives,
// it may have moved the cell.
func await[M Message](c conn) bool {
	for {
		m, files, err := c.receive(context.Background())
		closeFiles(files)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return false
		}
		if _, ok := m.(M); ok && err == nil {
			return true
		}
		if err != nil {
			time.Sleep(tryPause)
		}
	}
}

// park answers a peer that gets nothing and keeps the connection, by whose end it
// learns of that of this instance.
func (i *instance) park(c conn, m Message) bool {
	if c.send(m, nil) != nil {
		return false
	}
	// Those that have given up meanwhile make room.
	i.parked = slices.DeleteFunc(i.parked, func(c conn) bool {
		if c.open() {
			return false
		}
		_ = c.Close()
		return true
	})
	i.parked = append(i.parked, c)
	return true
}

func (i *instance) refuse(c conn, reason error) {
	i.Log(fmt.Sprintf("the new instance is refused: %v", reason))
	_ = c.send(Refuse{Reason: reason.Error(), Protocol: Protocol}, nil)
}

// retireStandby makes room for a new instance.
func (i *instance) retireStandby(ctx context.Context) error {
	if i.standby == nil {
		return nil
	}
	_ = i.standby.send(Retire{}, nil)
	select {
	case <-i.standby.gone:
		i.forgetStandby()
		return i.host.DropPeer()
	case <-ctx.Done():
		return errors.New("an earlier instance stands by and does not let go")
	}
}

// takeBack goes on after the death of a successor. became is true of one that has
// handed over, and is the current one again.
func (i *instance) takeBack(became bool) error {
	current, err := i.host.Current()
	if err != nil {
		return err
	}
	if !current {
		// In this order, so that what is printed is in the order of the events: the
		// old ones here, those of the peer, the new ones here.
		if err := i.host.Grace(); err != nil {
			return err
		}
		if err := i.host.Drain(); err != nil {
			return err
		}
		if err := i.host.Flip(true); err != nil {
			return err
		}
	}
	if became {
		i.Became(manifest.RoleCurrent, 0)
	}
	if err := i.goOn(); err != nil {
		return err
	}
	i.Log("the new instance has ended: this one goes on")
	i.appear()
	return nil
}

// stand stands by for the instance that took over, and reports whether this one is
// the current one again.
func (i *instance) stand(ctx context.Context, c conn) (again bool, err error) {
	defer func() { _ = c.Close() }()
	i.Became(manifest.RoleStandby, 0)
	for {
		m, files, err := c.receive(ctx)
		closeFiles(files)
		switch {
		case errors.Is(err, io.EOF), ctx.Err() != nil && c.hungUp(): // where both were asked to end, too
			if err := i.takeBack(true); err != nil {
				return false, errors.Join(err, i.host.Release())
			}
			return true, nil
		case ctx.Err() != nil:
			return false, i.host.Release()
		case err != nil:
			i.Log(err.Error())
			time.Sleep(tryPause)
			continue
		}
		if _, ok := m.(Retire); ok {
			err := i.host.Release()
			i.place.die()
			_ = c.Close()
			i.Became(manifest.RoleRetired, 0)
			// Ending now would be a failure to whoever started it.
			<-ctx.Done()
			return false, err
		}
	}
}
