// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// A Cell is the word that all programs of a release read: the slot that runs.
type Cell struct {
	m *ebpf.Map
	// outer is a map of one map; it and the two for it are there for Grace alone.
	outer *ebpf.Map
	inner [2]*ebpf.Map
	turn  int
}

// CellSpec is what a cell is as a map.
func CellSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "ebpm_cell", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
}

// NewCell makes a cell that names slot 0.
func NewCell() (*Cell, error) {
	m, err := ebpf.NewMap(CellSpec())
	if err != nil {
		return nil, fmt.Errorf("make the cell: %w", err)
	}
	return newCell(m)
}

// AdoptCell takes the cell of another instance. The descriptor is its own, also
// after an error.
func AdoptCell(fd int) (*Cell, error) {
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("take the cell over: %w", err)
	}
	if err := CellSpec().Compatible(m); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("take the cell over: %w", err)
	}
	return newCell(m)
}

func newCell(m *ebpf.Map) (_ *Cell, err error) {
	c := &Cell{m: m}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	inner := &ebpf.MapSpec{Name: "ebpm_grace", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	for i := range c.inner {
		if c.inner[i], err = ebpf.NewMap(inner); err != nil {
			return nil, fmt.Errorf("make a map to wait by: %w", err)
		}
	}
	c.outer, err = ebpf.NewMap(&ebpf.MapSpec{Name: "ebpm_grace", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return nil, fmt.Errorf("make a map to wait by: %w", err)
	}
	return c, nil
}

// FD is the cell's descriptor.
func (c *Cell) FD() int { return c.m.FD() }

// Map is the cell as a map.
func (c *Cell) Map() *ebpf.Map { return c.m }

// Slot returns the slot that runs.
func (c *Cell) Slot() (Slot, error) {
	var s Slot
	if err := c.m.Lookup(uint32(0), &s); err != nil {
		return 0, fmt.Errorf("read the cell: %w", err)
	}
	if s > 1 {
		return 0, fmt.Errorf("read the cell: it names slot %d", s)
	}
	return s, nil
}

// Set makes s the slot that runs, on all processors from their next event on.
func (c *Cell) Set(s Slot) error {
	if err := c.m.Put(uint32(0), s); err != nil {
		return fmt.Errorf("write the cell: %w", err)
	}
	return nil
}

// Grace waits until every program has ended that runs now: about 10 ms. An update
// of a map of maps returns after that (kernel/bpf/syscall.c, Linux 4.20), whatever
// the number of processors. It does not wait for sleepable programs.
func (c *Cell) Grace() error {
	c.turn = 1 - c.turn
	if err := c.outer.Put(uint32(0), c.inner[c.turn]); err != nil {
		return fmt.Errorf("wait for the programs to end: %w", err)
	}
	return nil
}

// Close lets go of the cell.
func (c *Cell) Close() error {
	var errs []error
	for _, m := range []*ebpf.Map{c.outer, c.inner[0], c.inner[1], c.m} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Slots are the two places of one program behind its dispatcher.
type Slots struct{ m *ebpf.Map }

func slotsSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "ebpm_slots", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 2}
}

// NewSlots makes two empty ones.
func NewSlots() (*Slots, error) {
	m, err := ebpf.NewMap(slotsSpec())
	if err != nil {
		return nil, fmt.Errorf("make the slots: %w", err)
	}
	return &Slots{m}, nil
}

// AdoptSlots takes those of another instance. The descriptor is its own, also
// after an error.
func AdoptSlots(fd int) (*Slots, error) {
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("take slots over: %w", err)
	}
	if err := slotsSpec().Compatible(m); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("take slots over: %w", err)
	}
	return &Slots{m}, nil
}

// FD is the descriptor of the map.
func (s *Slots) FD() int { return s.m.FD() }

// Put puts p into a slot. The kernel takes only a program that the dispatcher can
// call.
func (s *Slots) Put(at Slot, p *ebpf.Program) error {
	if err := s.m.Put(at, p); err != nil {
		return fmt.Errorf("put the program behind its dispatcher: %w", err)
	}
	return nil
}

// Clear empties a slot.
func (s *Slots) Clear(at Slot) error {
	if err := s.m.Delete(at); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("take the program from behind its dispatcher: %w", err)
	}
	return nil
}

// Close lets go of the slots.
func (s *Slots) Close() error { return s.m.Close() }

// LoadDispatcher loads the program that stands in p's place, with the options with
// which p is loaded.
func LoadDispatcher(p *ebpf.ProgramSpec, cell *Cell, slots *Slots, opts ebpf.ProgramOptions) (*ebpf.Program, error) {
	d, err := ebpf.NewProgramWithOptions(dispatcher(p, cell.FD(), slots.FD()), opts)
	if err != nil {
		return nil, fmt.Errorf("load the dispatcher of %s: %w", p.Name, err)
	}
	return d, nil
}
