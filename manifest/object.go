// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Object is what an eBPF object holds, read from its ELF and BTF.
type Object struct {
	Programs []Program
	Maps     []Map
	// Spec is the parsed object.
	Spec *ebpf.CollectionSpec
}

// Program is one program of an object.
type Program struct {
	Name string `json:"name"`
	// Section is the ELF section without a leading ?.
	Section string `json:"section"`
	// Type is the kernel's program type, as cilium/ebpf prints it.
	Type string `json:"type"`
	// Target is what follows the hook in the section, such as
	// syscalls/sys_enter_openat.
	Target string `json:"target,omitempty"`
}

// Role says what a map is for.
type Role string

// The roles.
const (
	RoleExport Role = "export" // events for user space
	RoleState  Role = "state"  // what the program remembers
	RoleData   Role = "data"   // global variables
)

// Map is one map of an object.
type Map struct {
	Name string `json:"name"`
	// Type is the kernel's map type, as cilium/ebpf prints it.
	Type       string `json:"type"`
	KeySize    uint32 `json:"keySize"`   // bytes
	ValueSize  uint32 `json:"valueSize"` // bytes
	MaxEntries uint32 `json:"maxEntries"`
	Role       Role   `json:"role"`
}

// Inspect reads an object of at most [MaxObjectSize] bytes. It looks at bytes
// only; nothing is loaded.
func Inspect(object []byte) (*Object, error) {
	if len(object) > MaxObjectSize {
		return nil, fmt.Errorf("read object: %d bytes, at most %d are allowed", len(object), MaxObjectSize)
	}
	if len(object) == 0 {
		return nil, errors.New("read object: it is empty")
	}
	spec, err := LoadSpec(object)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	o := &Object{Spec: spec, Programs: []Program{}, Maps: []Map{}}
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		p := spec.Programs[name]
		section := strings.TrimPrefix(p.SectionName, "?")
		_, target, _ := strings.Cut(section, "/")
		o.Programs = append(o.Programs, Program{Name: name, Section: section, Type: p.Type.String(), Target: target})
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		m := spec.Maps[name]
		o.Maps = append(o.Maps, Map{
			Name:       name,
			Type:       m.Type.String(),
			KeySize:    m.KeySize,
			ValueSize:  m.ValueSize,
			MaxEntries: m.MaxEntries,
			Role:       roleOf(name, m.Type),
		})
	}
	return o, nil
}

func roleOf(name string, t ebpf.MapType) Role {
	switch {
	case strings.HasPrefix(name, "."):
		return RoleData
	case IsEventMap(t):
		return RoleExport
	default:
		return RoleState
	}
}

// perCPU reports whether the kernel keeps one value a CPU.
func perCPU(t ebpf.MapType) bool {
	switch t {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.PerCPUCGroupStorage:
		return true
	}
	return false
}

// MemoryBytes returns about how much kernel memory the maps take with that many
// CPUs. They are charged to the process that creates them. What does not fit a
// uint64 is its largest value.
func (o *Object) MemoryBytes(cpus int) uint64 {
	// A hash entry of the kernel carries its links and hash beside key and value.
	const entryOverhead = 64
	var total uint64
	for _, m := range o.Spec.Maps {
		// The buffer of a ring is its max_entries in bytes.
		size := uint64(1)
		if m.Type != ebpf.RingBuf {
			size = uint64(m.ValueSize)
			if perCPU(m.Type) {
				size *= uint64(cpus)
			}
			size += uint64(m.KeySize) + entryOverhead
		}
		overflow, product := bits.Mul64(uint64(m.MaxEntries), size)
		sum, carry := bits.Add64(total, product, 0)
		if overflow != 0 || carry != 0 {
			return math.MaxUint64
		}
		total = sum
	}
	return total
}

// CheckMaps refuses an object whose maps take more than [MaxMapMemory].
func (o *Object) CheckMaps() error {
	if size := o.MemoryBytes(1); size > MaxMapMemory {
		return WithKind(KindUnverified, fmt.Errorf("the maps take %d bytes of kernel memory, at most %d are allowed", size, uint64(MaxMapMemory)), "Make max_entries smaller.")
	}
	return nil
}

// helpersOf returns the names of the kernel functions that p calls, as
// cilium/ebpf spells them (FnTracePrintk).
func helpersOf(p *ebpf.ProgramSpec) []string {
	seen := map[string]bool{}
	for _, ins := range p.Instructions {
		if ins.IsBuiltinCall() {
			seen[asm.BuiltinFunc(ins.Constant).String()] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// relocates reports whether p is relocated against the kernel's types.
func relocates(p *ebpf.ProgramSpec) bool {
	for i := range p.Instructions {
		if btf.CORERelocationMetadata(&p.Instructions[i]) != nil {
			return true
		}
	}
	return false
}

// Columns returns the fields of the events that m exports from o, in their
// order: the columns that the runner prints. Members of an anonymous struct or
// union stand in its place. It is nil when nothing is exported, and for stacks and
// the content of maps, which have no columns.
func (o *Object) Columns(m *Meta) []string {
	if len(m.ExportTypes) == 0 || m.stacks() || o.onlySampled(m) {
		return nil
	}
	export := m.ExportTypes[0]
	if o.Spec.Types != nil {
		candidates, err := o.Spec.Types.AnyTypesByName(export.Name)
		for _, t := range candidates {
			if s, ok := t.(*btf.Struct); ok && err == nil {
				return columnsOf(nil, s.Members, 0)
			}
		}
	}
	var names []string
	for _, member := range export.Members {
		names = append(names, member.Name)
	}
	return names
}

// IsEventMap reports whether programs send events through a map of this type; the
// others hold values, which are sampled.
func IsEventMap(t ebpf.MapType) bool { return t == ebpf.RingBuf || t == ebpf.PerfEventArray }

// onlySampled reports whether what is printed is the content of maps.
func (o *Object) onlySampled(m *Meta) bool {
	for _, spec := range o.Spec.Maps {
		if IsEventMap(spec.Type) {
			return false
		}
	}
	return slices.ContainsFunc(m.Skeleton.Maps, func(m MapMeta) bool { return m.Sample != nil })
}

func columnsOf(names []string, members []btf.Member, depth int) []string {
	// A C compiler nests no deeper; BTF that was made to loop might.
	const maxDepth = 32
	for _, member := range members {
		if member.Name != "" {
			names = append(names, member.Name)
			continue
		}
		if depth == maxDepth {
			return names
		}
		switch t := btf.UnderlyingType(member.Type).(type) {
		case *btf.Struct:
			names = columnsOf(names, t.Members, depth+1)
		case *btf.Union:
			names = columnsOf(names, t.Members, depth+1)
		}
	}
	return names
}
