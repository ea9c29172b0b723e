// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/deployer/ecli/handover"
	"github.com/ebpm/ebpm/manifest"
)

// runHandover runs the package as one of several instances of a release.
func runHandover(ctx context.Context, p *plan, spec *ebpf.CollectionSpec, o *Options) error {
	// Before, links of perf events cannot be handed over.
	if olderThan("5.15") {
		fmt.Fprintln(o.Stderr, "warning: handovers need Linux 5.15: while two instances live, events are printed twice")
		in, err := start(p, spec, o)
		if err != nil {
			return err
		}
		o.Package = nil
		return in.run(ctx)
	}
	encoded, err := o.Package.Encode()
	if err != nil {
		return err
	}
	o.Package = nil
	g, err := newGeneration(p, spec, o, encoded)
	if err != nil {
		return err
	}
	return g.run(ctx)
}

// newGeneration makes an instance of a plan. Others read the types of its events
// from the package.
func newGeneration(p *plan, spec *ebpf.CollectionSpec, o *Options, pkg []byte) (*generation, error) {
	fd, err := sealedFile("package", pkg)
	if err != nil {
		return nil, err
	}
	return &generation{
		instance: instance{reporter: newReporter(o, kernelRelease())},
		o:        o, plan: p, spec: spec, failed: make(chan error, 1), pkg: fd,
	}, nil
}

// run takes part until ctx is done.
func (g *generation) run(ctx context.Context) error {
	defer func() { _ = unix.Close(g.pkg) }()
	o := g.o
	err := handover.Run(ctx, g, handover.Options{
		Dir: o.Handover, Revision: o.Revision, Became: g.became, Hung: o.Hung, Step: o.Step,
		Log: func(s string) { fmt.Fprintln(o.Stderr, TextFor(o.Stderr, s)) },
	})
	if g.ready != nil {
		// Who has retired stays ready until it is told to end.
		err = errors.Join(err, g.ready.Close())
	}
	var refused *handover.RefusedError
	switch {
	case errors.As(err, &refused):
		return manifest.WithKind(manifest.KindConflict, err, "End the running instance first, or look at what it says on its standard error.")
	case errors.Is(err, unix.EPIPE):
		return nil // nobody reads any more
	}
	return err
}

// sealedFile returns a file in memory that nobody can change, so that who gets it
// reads what was written.
func sealedFile(name string, data []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	}
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return -1, fmt.Errorf("write a file in memory: %w", err)
	}
	return fd, nil
}

// A generation is an instance that takes part in handovers.
type generation struct {
	instance
	o    *Options
	plan *plan
	// spec is what is loaded; nil once it is.
	spec   *ebpf.CollectionSpec
	pkg    int // the package as a file
	failed chan error

	cell  *handover.Cell
	slot  handover.Slot
	parts []*part
	// states are the maps that a successor gets.
	states []manifest.State
	way    manifest.Way // of the last move
	// brought is what this instance took over and added.
	brought handover.Ready
	peer    *peer

	// printing is the end of the outputs' run, nil while nobody prints; holding
	// ends the hold meanwhile.
	printing chan error
	draining atomic.Bool
	holding  func()
}

var _ handover.Host = (*generation)(nil)

// attempt returns the plan and what it loads as they were at the beginning: after a
// load that failed another one may be tried.
func (g *generation) attempt() (*plan, *ebpf.CollectionSpec, error) {
	p, spec := *g.plan, g.spec.Copy()
	p.programs = slices.Clone(p.programs)
	for i := range p.programs {
		prog := &p.programs[i]
		prog.spec, prog.object = spec.Programs[prog.name], spec
	}
	if err := prepare(&p, g.o); err != nil {
		return nil, nil, err
	}
	var err error
	if g.states, err = manifest.StateMaps(spec, g.o.Carry); err != nil {
		closeTargets(&p)
		return nil, nil, manifest.WithKind(manifest.KindUsage, err, "")
	}
	return &p, spec, nil
}

// wayOf is how a program moves on this kernel.
func wayOf(p *plannedProgram) manifest.Way {
	if p.hook.gated != nil && p.hook.gated(p) {
		return manifest.NearExact
	}
	return manifest.WayOf(p.spec)
}

// bring loads the programs behind their gates, with the maps of another instance in
// place of its own.
func (g *generation) bring(p *plan, spec *ebpf.CollectionSpec, replace map[string]*ebpf.Map) error {
	gates := map[string]bool{}
	for i := range p.programs {
		// A program that is attached at several places has one gate.
		if prog := &p.programs[i]; wayOf(prog) == manifest.NearExact && !gates[prog.name] {
			gates[prog.name] = true
			handover.Gate(prog.spec, g.slot)
		}
	}
	if len(gates) > 0 {
		spec.Maps[handover.GateMap] = handover.CellSpec()
		replace = maps.Clone(replace)
		if replace == nil {
			replace = map[string]*ebpf.Map{}
		}
		replace[handover.GateMap] = g.cell.Map()
	}
	return g.load(p, spec, g.o, replace)
}

func (g *generation) Start(context.Context) (err error) {
	defer func() { err = g.undoneUnless(err) }()
	if g.cell, err = handover.NewCell(); err != nil {
		return explain(err)
	}
	g.slot = 0
	p, spec, err := g.attempt()
	if err != nil {
		return err
	}
	if err := g.bring(p, spec, nil); err != nil {
		return err
	}
	err = attachAll(p.programs, func(prog *plannedProgram) error { return g.place(prog, nil) })
	if err != nil {
		return err
	}
	g.loaded()
	return nil
}

// undoneUnless lets go of everything when err says that something failed.
func (g *generation) undoneUnless(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, g.letGo())
}

// loaded lets go of what only a load needs.
func (g *generation) loaded() {
	g.spec, g.plan, g.types = nil, nil, nil
	debug.FreeOSMemory()
}

func (g *generation) Offer() (o handover.Offer, files []int, err error) {
	o = handover.Offer{Slot: g.slot, Parts: []handover.Part{}, Buffers: []string{}, States: g.states}
	files = []int{g.pkg, g.cell.FD()}
	for _, p := range g.parts {
		o.Parts = append(o.Parts, p.Part)
		files = append(files, p.files()...)
	}
	names, fds := g.buffers()
	o.Buffers = names
	files = append(files, fds...)
	for _, s := range g.states {
		files = append(files, g.coll.Maps[s.Name].FD())
	}
	return o, files, nil
}

// buffers are the ring buffers whose records are printed. Those of perf events end
// with the process that reads them.
func (g *generation) buffers() (names []string, files []int) {
	names = []string{}
	if g.outputs == nil {
		return names, nil
	}
	for _, name := range g.outputs.rings {
		names = append(names, name)
		files = append(files, g.coll.Maps[name].FD())
	}
	return names, files
}

func (g *generation) Prepare(_ context.Context, o handover.Offer, files []int) (_ handover.Ready, mine []int, err error) {
	got := fileList(files)
	defer got.close()
	if err := handover.CheckLinks(o.Parts, files, 2); err != nil {
		return handover.Ready{}, nil, err
	}
	defer func() { err = g.undoneUnless(err) }()
	g.peer = &peer{pkg: got.take(), buffers: map[string]int{}}
	if g.cell, err = handover.AdoptCell(got.take()); err != nil {
		return handover.Ready{}, nil, explain(err)
	}
	g.slot = o.Slot.Other()
	var offered []*part
	defer func() {
		if err != nil {
			for _, p := range offered {
				if p.foreign {
					err = errors.Join(err, p.close())
				}
			}
		}
	}()
	for _, p := range o.Parts {
		theirs, err := adoptPart(p, &got)
		if err != nil {
			return handover.Ready{}, nil, explain(err)
		}
		offered = append(offered, theirs)
	}
	for _, name := range o.Buffers {
		g.peer.buffers[name] = got.take()
	}
	p, spec, err := g.attempt()
	if err != nil {
		return handover.Ready{}, nil, err
	}
	carried, err := g.carry(o.States, &got)
	defer func() {
		for _, m := range carried {
			_ = m.Close() // the collection has its own
		}
	}()
	if err != nil {
		closeTargets(p)
		return handover.Ready{}, nil, err
	}
	if err := g.bring(p, spec, carried); err != nil {
		return handover.Ready{}, nil, err
	}
	g.way = manifest.Exact
	err = attachAll(p.programs, func(prog *plannedProgram) error {
		g.way = worse(g.way, wayOf(prog))
		return g.place(prog, offered)
	})
	if err != nil {
		return handover.Ready{}, nil, err
	}
	g.brought.Parts, g.brought.Buffers = []handover.Part{}, []string{}
	mine = []int{g.pkg}
	for _, p := range g.parts {
		if p.closer != nil {
			g.brought.Parts = append(g.brought.Parts, p.Part)
			mine = append(mine, p.files()...)
		}
	}
	if len(g.brought.Parts) > 0 {
		// Two dispatchers read the cell at the move.
		g.way = worse(g.way, manifest.NearExact)
	}
	names, fds := g.buffers()
	g.brought.Buffers = names
	mine = append(mine, fds...)
	// What only the other one has stays until that has ended: it may have to go on.
	for _, p := range offered {
		if p.foreign {
			g.parts = append(g.parts, p)
		}
	}
	g.hold()
	g.loaded()
	return g.brought, mine, nil
}

// worse returns the less exact of two ways.
func worse(a, b manifest.Way) manifest.Way {
	order := []manifest.Way{manifest.Exact, manifest.NearExact, manifest.Naive}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}

// carry returns the maps of another instance that this one goes on with.
func (g *generation) carry(offered []manifest.State, got *fileList) (map[string]*ebpf.Map, error) {
	layouts := map[string]string{}
	for _, s := range g.states {
		layouts[s.Name] = s.Layout
	}
	g.brought.Carried, g.brought.Reset = []string{}, []string{}
	carried := map[string]*ebpf.Map{}
	for _, s := range offered {
		fd := got.take()
		layout, ok := layouts[s.Name]
		if !ok || layout != s.Layout {
			_ = unix.Close(fd)
			if ok {
				g.brought.Reset = append(g.brought.Reset, s.Name)
			}
			continue
		}
		m, err := ebpf.NewMapFromFD(fd)
		if err != nil {
			return carried, fmt.Errorf("take map %s over: %w", s.Name, err)
		}
		carried[s.Name] = m
		g.brought.Carried = append(g.brought.Carried, s.Name)
	}
	if len(g.brought.Reset) > 0 && !g.o.ResetState {
		return carried, manifest.WithKind(manifest.KindConflict,
			fmt.Errorf("the content of map %s would be lost: its layout has changed", strings.Join(g.brought.Reset, ", ")),
			"With --reset-state it starts empty.")
	}
	return carried, nil
}

func (g *generation) Keep(r handover.Ready, files []int) (err error) {
	got := fileList(files)
	defer got.close()
	if err := handover.CheckLinks(r.Parts, files, 1); err != nil {
		return err
	}
	g.peer = &peer{pkg: got.take(), buffers: map[string]int{}}
	for _, p := range r.Parts {
		theirs, err := adoptPart(p, &got)
		if err != nil {
			return err
		}
		g.parts = append(g.parts, theirs)
	}
	for _, name := range r.Buffers {
		g.peer.buffers[name] = got.take()
	}
	// What cannot be read later is refused now.
	out, err := g.peerOutputs()
	if err != nil {
		return fmt.Errorf("the new instance's buffers: %w", err)
	}
	return out.close()
}

func (g *generation) Current() (bool, error) {
	slot, err := g.cell.Slot()
	return slot == g.slot, err
}

func (g *generation) Flip(own bool) error {
	to := g.slot
	if !own {
		to = to.Other()
	}
	if err := g.cell.Set(to); err != nil {
		return err
	}
	for _, p := range g.parts {
		if p.structs == nil || p.foreign {
			continue
		}
		if err := p.structs.Swap(p.links, own); err != nil {
			return fmt.Errorf("struct %s: %w", p.Name, err)
		}
	}
	return g.cell.Grace()
}

func (g *generation) Grace() error { return g.cell.Grace() }

func (g *generation) Failed() <-chan error { return g.failed }

func (g *generation) Resume() error {
	if g.outputs == nil || g.printing != nil {
		return nil
	}
	g.release()
	done := make(chan error, 1)
	g.printing = done
	g.draining.Store(false)
	out := g.outputs
	go func() {
		err := out.run()
		if err != nil && !g.draining.Load() {
			g.fail(err)
			err = nil // it is told once
		}
		done <- err
	}()
	return nil
}

// fail tells that the output does not work.
func (g *generation) fail(err error) {
	select {
	case g.failed <- err:
	default: // one is enough
	}
}

func (g *generation) Drain() error { return g.drain(false) }

// drain prints what is there and stops; last is true where nobody goes on.
func (g *generation) drain(last bool) error {
	if g.printing == nil {
		return nil
	}
	g.draining.Store(true)
	g.outputs.finish(last)
	err := g.outputs.wait(g.printing)
	g.printing = nil
	if err == nil && !last {
		g.hold()
	}
	return err
}

// hold keeps events until release.
func (g *generation) hold() {
	if g.outputs == nil || g.holding != nil {
		return
	}
	stop, held := make(chan struct{}), make(chan error, 1)
	out := g.outputs
	go func() { held <- out.hold(stop) }()
	g.holding = func() {
		close(stop)
		if err := <-held; err != nil {
			g.fail(err)
		}
	}
}

func (g *generation) release() {
	if g.holding != nil {
		g.holding()
		g.holding = nil
	}
}

func (g *generation) DropPeer() error {
	var errs []error
	g.parts = slices.DeleteFunc(g.parts, func(p *part) bool {
		if p.foreign {
			errs = append(errs, p.close())
			return true
		}
		switch {
		case p.structs != nil:
			errs = append(errs, p.structs.DropPeer())
		case p.slots != nil:
			errs = append(errs, p.slots.Clear(g.slot.Other()))
		}
		return false
	})
	if g.peer != nil {
		errs = append(errs, g.peer.close())
		g.peer = nil
	}
	return errors.Join(errs...)
}

// Release ends this instance. Where another one goes on, that holds what it needs.
func (g *generation) Release() error {
	err := g.letGo()
	if g.reporter.programs != nil {
		g.reporter.record(manifest.StatusDetached)
	}
	return err
}

// letGo detaches, prints what was sent until then if this instance prints, and
// closes everything. It leaves what a further attempt needs.
func (g *generation) letGo() error {
	errs := []error{g.detach()}
	for _, p := range g.parts {
		errs = append(errs, p.close())
	}
	g.parts = nil
	if g.printing != nil && g.cell != nil {
		// Programs that still run send to buffers that are about to be read.
		errs = append(errs, g.cell.Grace())
	}
	errs = append(errs, g.drain(true))
	g.release()
	errs = append(errs, g.close())
	if g.peer != nil {
		errs = append(errs, g.peer.close())
		g.peer = nil
	}
	if g.cell != nil {
		errs = append(errs, g.cell.Close())
		g.cell = nil
	}
	if g.spec != nil {
		g.reporter.programs = nil // nothing was attached
	}
	return errors.Join(errs...)
}

// became tells of a new role.
func (g *generation) became(role string, move time.Duration) {
	h := &manifest.Handover{Role: role}
	if move > 0 {
		h.Way, h.Milliseconds = g.way, float64(move.Microseconds())/1000
		h.Carried, h.Reset = g.brought.Carried, g.brought.Reset
	}
	event := manifest.StatusMoved
	if g.reporter.setHandover(h) && role == manifest.RoleCurrent {
		event = manifest.StatusAttached
	}
	// Who has handed over is as ready as who took over; who is too old is not.
	if role != manifest.RoleStale && g.ready == nil {
		if err := g.listen(g.o); err != nil {
			g.fail(err)
		}
	}
	g.reporter.record(event)
}
