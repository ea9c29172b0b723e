// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/deployer/ecli/handover"
	"github.com/ebpm/ebpm/manifest"
)

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

// maxGated is how many links of programs behind gates are handed over: less than what
// there is room for in an offer. The others end with their process.
const maxGated = 256

// gate attaches a program that has its gate in front. Its links are handed over, so
// that it runs on until the other instance has moved when this one is killed.
func (g *generation) gate(prog *plannedProgram, program *ebpf.Program) error {
	own := &part{Part: handover.Part{Name: partName(prog), Gated: true}}
	ok, err := g.attachPart(own, prog, program)
	if err != nil {
		return err
	}
	gated := own.Links
	for _, p := range g.parts {
		if p.Gated {
			gated += p.Links
		}
	}
	if !ok || gated > maxGated {
		// Nothing that another process could hold, or too much.
		g.links = append(g.links, own.closer)
		return nil
	}
	g.parts = append(g.parts, own)
	return nil
}

// attachPart attaches what stands at the hook of a part; ok is false where it is held
// there by more than descriptors.
func (g *generation) attachPart(own *part, prog *plannedProgram, program *ebpf.Program) (ok bool, err error) {
	if err := g.attach(prog, program, g.o); err != nil {
		return false, err
	}
	last := len(g.links) - 1
	own.closer, g.links = g.links[last], g.links[:last]
	own.links, ok = descriptors(own.closer)
	own.Links = len(own.links)
	own.Target = g.reporter.programs[len(g.reporter.programs)-1].Target
	return ok, nil
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
	ok, err := g.attachPart(own, prog, d)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("program %s (%s): it is not attached by a descriptor that could be handed over", prog.name, prog.spec.SectionName)
	}
	if own.Links == 0 {
		own.closer = partOf{} // a map holds it, which others may go on with
	}
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
	ok, err := g.attachPart(own, prog, program)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("struct %s: it is not registered by a descriptor that could be handed over", name)
	}
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
