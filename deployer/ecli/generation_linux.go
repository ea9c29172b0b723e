// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// A part is a program with its dispatcher or gate, or a struct of programs with its
// link.
type part struct {
	handover.Part
	// slots is nil behind a gate.
	slots *handover.Slots
	// structs are what stands in the place of slots in a part that is swapped.
	structs *handover.Structs
	// links hold the dispatcher, or the struct, in its place.
	links []int
	// closer is that of the hook, where this instance has attached it; its
	// descriptors are links.
	closer io.Closer
	// foreign is true of a part that only the peer has.
	foreign bool
}

// close lets go of the part. The dispatcher stays in its place as long as another
// instance holds it.
func (p *part) close() error {
	var errs []error
	switch {
	case p.closer != nil:
		errs = append(errs, p.closer.Close())
	default:
		for _, fd := range p.links {
			errs = append(errs, unix.Close(fd))
		}
	}
	if p.slots != nil {
		errs = append(errs, p.slots.Close())
	}
	if p.structs != nil {
		errs = append(errs, p.structs.Close())
	}
	*p = part{}
	return errors.Join(errs...)
}

// files are what [handover.Part] says that belongs to it.
func (p *part) files() []int {
	switch {
	case p.structs != nil:
		return append([]int{p.structs.FD()}, p.links...)
	case p.slots != nil:
		return append([]int{p.slots.FD()}, p.links...)
	}
	return p.links
}

// adoptPart takes over the part that another instance describes.
func adoptPart(what handover.Part, got *fileList) (*part, error) {
	p := &part{Part: what, foreign: true}
	fd := -1
	if !what.Gated {
		fd = got.take()
	}
	for range what.Links {
		p.links = append(p.links, got.take())
	}
	var err error
	switch {
	case what.Gated:
	case what.Swapped:
		p.structs, err = handover.AdoptStructs(fd)
	default:
		p.slots, err = handover.AdoptSlots(fd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("program %s: %w", what.Name, err), p.close())
	}
	return p, nil
}

// A peer is what this instance holds of another one to be able to go on alone.
type peer struct {
	pkg     int
	buffers map[string]int
}

func (p *peer) close() error {
	errs := []error{unix.Close(p.pkg)}
	for _, fd := range p.buffers {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

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

// place puts a program behind a dispatcher: the one of offered that fits, else a new
// one, which it attaches.
func (g *generation) place(prog *plannedProgram, offered []*part) error {
	program := g.coll.Programs[prog.name]
	if prog.hook.structOf != nil {
		return g.placeStruct(prog, program, offered)
	}
	switch wayOf(prog) {
	case manifest.Naive:
		return g.attach(prog, program, g.o)
	case manifest.NearExact:
		return g.gate(prog, program)
	}
	prog.maps = g.coll.Maps
	want, err := g.describe(prog)
	if err != nil {
		return err
	}
	for _, have := range offered {
		if have.Name != want.Name || have.Key != want.Key || have.slots == nil {
			continue
		}
		if have.slots.Put(g.slot, program) != nil {
			break // the kernel sees a difference that we do not
		}
		have.foreign = false
		g.parts = append(g.parts, have)
		g.reporter.programs = append(g.reporter.programs,
			manifest.ProgramStatus{Name: prog.name, Section: prog.spec.SectionName, Target: have.Target})
		return nil
	}
	return g.dispatch(prog, program, want)
}

// gate attaches a program that has its gate in front. Its links are handed over, so
// that it runs on until the other instance has moved when this one is killed.
func (g *generation) gate(prog *plannedProgram, program *ebpf.Program) error {
	if err := g.attach(prog, program, g.o); err != nil {
		return err
	}
	last := len(g.links) - 1
	fds, ok := descriptors(g.links[last])
	if !ok {
		return nil // nothing that another process could hold
	}
	g.parts = append(g.parts, &part{
		Part: handover.Part{
			Name: partName(prog), Links: len(fds), Gated: true,
			Target: g.reporter.programs[len(g.reporter.programs)-1].Target,
		},
		closer: g.links[last], links: fds,
	})
	g.links = g.links[:last]
	return nil
}

// dispatch attaches a new dispatcher.
func (g *generation) dispatch(prog *plannedProgram, program *ebpf.Program, what handover.Part) (err error) {
	own := &part{Part: what}
	if own.slots, err = handover.NewSlots(); err != nil {
		return explain(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, own.close())
		}
	}()
	d, err := handover.LoadDispatcher(prog.spec, g.cell, own.slots, ebpf.ProgramOptions{KernelTypes: g.types})
	if err != nil {
		return explain(err)
	}
	defer func() { _ = d.Close() }() // the link holds it
	if err := own.slots.Put(g.slot, program); err != nil {
		return explain(fmt.Errorf("program %s: %w", prog.name, err))
	}
	if err := g.attach(prog, d, g.o); err != nil {
		return err
	}
	last := len(g.links) - 1
	own.closer, g.links = g.links[last], g.links[:last]
	own.Target = g.reporter.programs[len(g.reporter.programs)-1].Target
	fds, ok := descriptors(own.closer)
	if !ok {
		return fmt.Errorf("program %s (%s): it is not attached by a descriptor that could be handed over", prog.name, prog.spec.SectionName)
	}
	if len(fds) == 0 {
		own.closer = partOf{} // a map holds it, which others may go on with
	}
	own.links, own.Links = fds, len(fds)
	g.parts = append(g.parts, own)
	return nil
}

// placeStruct puts a struct of programs behind the link of an offered one of the
// same kind and name, else behind a new one.
func (g *generation) placeStruct(prog *plannedProgram, program *ebpf.Program, offered []*part) error {
	name, target, err := prog.hook.structOf(prog)
	if err != nil {
		return err
	}
	tell := func() {
		g.reporter.programs = append(g.reporter.programs,
			manifest.ProgramStatus{Name: prog.name, Section: prog.spec.SectionName, Target: target})
	}
	if slices.ContainsFunc(g.parts, func(p *part) bool { return p.structs != nil && p.Name == name }) {
		tell() // with another of its programs
		return nil
	}
	key := structKey(prog.object.Maps[name])
	for _, have := range offered {
		if have.Name == name && have.Key == key && have.structs != nil {
			have.structs.Own, have.foreign = g.coll.Maps[name], false
			g.parts = append(g.parts, have)
			tell()
			return nil
		}
	}
	own := &part{
		Part:    handover.Part{Name: name, Key: key, Target: target, Swapped: true},
		structs: &handover.Structs{Own: g.coll.Maps[name]},
	}
	g.parts = append(g.parts, own)
	if err := g.attach(prog, program, g.o); err != nil {
		return err
	}
	last := len(g.links) - 1
	own.closer, g.links = g.links[last], g.links[:last]
	fds, ok := descriptors(own.closer)
	if !ok {
		return fmt.Errorf("struct %s: it is not registered by a descriptor that could be handed over", name)
	}
	own.links, own.Links = fds, len(fds)
	return nil
}

// descriptors returns what holds a program in its place; ok is false where that is
// more than descriptors.
func descriptors(c io.Closer) (fds []int, ok bool) {
	switch c := c.(type) {
	case interface{ FD() int }:
		return []int{c.FD()}, true
	case *os.File:
		return []int{int(c.Fd())}, true
	case *structOps:
		return descriptors(c.Link)
	case *sockmapProgram:
		return nil, true // the map holds it
	case perfEvents:
		for _, f := range c {
			fds = append(fds, int(f.Fd()))
		}
		return fds, true
	case links:
		for _, l := range c {
			one, ok := descriptors(l)
			if !ok {
				return nil, false
			}
			fds = append(fds, one...)
		}
		return fds, true
	}
	return nil, false
}

// annotations are what a package may say of how a program is attached.
var annotations = []string{"ifindex", "flags", "xdpopts", "tchook", "tcopts", "netfilter", "sockmap", "target"}

// describe says what a dispatcher must be that the program can stand behind.
func (g *generation) describe(prog *plannedProgram) (handover.Part, error) {
	extra := map[string]json.RawMessage{}
	for _, key := range annotations {
		if raw := prog.meta.Extra[key]; raw != nil {
			extra[key] = raw
		}
	}
	var identity string
	if prog.hook.identity != nil {
		var err error
		if identity, err = prog.hook.identity(prog, g.o); err != nil {
			return handover.Part{}, explain(fmt.Errorf("program %s (%s): %w", prog.name, prog.spec.SectionName, err))
		}
	}
	s := prog.spec
	key, err := json.Marshal([]any{
		s.Type, s.AttachType, s.AttachTo, s.Flags, prog.hook.sections, prog.target, prog.place(), extra, identity, handover.Needs(s),
	})
	if err != nil {
		return handover.Part{}, err
	}
	sum := sha256.Sum256(key)
	return handover.Part{Name: partName(prog), Key: hex.EncodeToString(sum[:])}, nil
}

// partName is the name of a program at its place.
func partName(prog *plannedProgram) string {
	at := prog.place()
	if at == "" {
		return prog.name
	}
	place := sha256.Sum256([]byte(at))
	return prog.name + "@" + hex.EncodeToString(place[:8])
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

// A fileList gives out the descriptors that came with a message.
type fileList []int

// take returns the next one, which is the caller's. The message was counted.
func (l *fileList) take() int {
	fd := (*l)[0]
	*l = (*l)[1:]
	return fd
}

func (l *fileList) close() {
	for _, fd := range *l {
		_ = unix.Close(fd)
	}
	*l = nil
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

// peerOutputs print what is in the buffers of the peer, by the peer's own types.
func (g *generation) peerOutputs() (*outputs, error) {
	f := io.NewSectionReader(descriptor(g.peer.pkg), 0, manifest.MaxPackageSize+1)
	data, err := manifest.ReadBounded(f, manifest.MaxPackageSize)
	if err != nil {
		return nil, fmt.Errorf("read its package: %w", err)
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		return nil, fmt.Errorf("read its package: %w", err)
	}
	spec, err := loadSpec(pkg.Object)
	if err != nil {
		return nil, fmt.Errorf("read its object: %w", err)
	}
	p := &plan{pollTimeout: time.Millisecond, perfBuffer: os.Getpagesize()}
	if err := p.planExports(&pkg.Meta, spec); err != nil {
		return nil, err
	}
	p.exports = slices.DeleteFunc(p.exports, func(e export) bool {
		_, ok := g.peer.buffers[e.mapName]
		return !ok || e.typ != ebpf.RingBuf
	})
	buffers := map[string]*ebpf.Map{}
	defer func() {
		for _, m := range buffers {
			_ = m.Close() // the readers have mapped them
		}
	}()
	for _, e := range p.exports {
		fd, err := unix.FcntlInt(uintptr(g.peer.buffers[e.mapName]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		if buffers[e.mapName], err = ebpf.NewMapFromFD(fd); err != nil {
			delete(buffers, e.mapName)
			return nil, fmt.Errorf("map %s: %w", e.mapName, err)
		}
		if err := g.notMine(buffers[e.mapName]); err != nil {
			return nil, fmt.Errorf("map %s: %w", e.mapName, err)
		}
	}
	out, err := newOutputs(p, buffers, g.o, g.reporter)
	if err != nil {
		return nil, err
	}
	out.header = nil
	return out, nil
}

// notMine refuses a buffer of this instance in place of the peer's: with two readers
// its events would be printed twice.
func (g *generation) notMine(theirs *ebpf.Map) error {
	if g.outputs == nil {
		return nil
	}
	for _, name := range g.outputs.rings {
		same, err := sameMap(theirs, g.coll.Maps[name])
		if err != nil {
			return err
		}
		if same {
			return errors.New("it is this instance's own")
		}
	}
	return nil
}

// sameMap reports whether the kernel knows two maps by one id, Linux 4.13.
func sameMap(a, b *ebpf.Map) (bool, error) {
	var ids [2]ebpf.MapID
	for i, m := range []*ebpf.Map{a, b} {
		info, err := m.Info()
		if err != nil {
			return false, err
		}
		id, ok := info.ID()
		if !ok {
			return false, errors.New("the kernel gives it no id")
		}
		ids[i] = id
	}
	return ids[0] == ids[1], nil
}

// A descriptor reads a file at places, and leaves it open.
type descriptor int

func (d descriptor) ReadAt(p []byte, off int64) (int, error) {
	n, err := unix.Pread(int(d), p, off)
	switch {
	case err != nil:
		return 0, err
	case n < len(p):
		return n, io.EOF
	}
	return n, nil
}

func (g *generation) DrainPeer() error {
	if g.peer == nil {
		return nil
	}
	out, err := g.peerOutputs()
	if err != nil {
		return fmt.Errorf("read what the other instance left: %w", err)
	}
	done := make(chan error, 1)
	out.finish(false)
	go func() { done <- out.run() }()
	err = out.wait(done)
	return errors.Join(err, out.close())
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
