// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// State is a map that outlives an instance.
type State struct {
	Name string `json:"name"`
	// Layout is equal for two maps whose bytes mean the same.
	Layout string `json:"layout"`
}

// Carry says which maps outlive an instance, beside those that do anyway.
type Carry struct {
	// All carries the global variables too.
	All bool
	// Maps are names.
	Maps []string
}

// CarryAll is the word for all in ebpm.yaml and on a command line.
const CarryAll = "all"

// Words returns c as the words that set it: [CarryAll], or names of maps.
func (c Carry) Words() []string {
	if c.All {
		return []string{CarryAll}
	}
	return c.Maps
}

// MarshalJSON returns "all" or the list of maps.
func (c Carry) MarshalJSON() ([]byte, error) {
	if c.All {
		return json.Marshal(CarryAll)
	}
	return json.Marshal(c.Maps)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Carry) UnmarshalJSON(data []byte) error {
	*c = Carry{}
	var word string
	if json.Unmarshal(data, &word) == nil && word == CarryAll {
		c.All = true
		return nil
	}
	if err := json.Unmarshal(data, &c.Maps); err != nil {
		return fmt.Errorf("carry: wanted %q or a list of maps, not %.40s", CarryAll, data)
	}
	return nil
}

func (c Carry) asks(name string) bool { return c.All || slices.Contains(c.Maps, name) }

// StateMaps returns the maps of an object that are carried over, sorted, with their
// layouts: all but those with events, with what the loader puts into them, and
// global variables unless carry asks for them. It refuses what carry asks for and
// cannot be.
func StateMaps(spec *ebpf.CollectionSpec, carry Carry) ([]State, error) {
	states := []State{}
	for name, m := range spec.Maps {
		if !carried(name, m, carry) {
			continue
		}
		layout, err := mapLayout(m)
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		states = append(states, State{Name: name, Layout: layout})
	}
	for _, name := range carry.Maps {
		if !slices.ContainsFunc(states, func(s State) bool { return s.Name == name }) {
			if spec.Maps[name] == nil {
				return nil, fmt.Errorf("map %s is to be carried over: the object has none of that name", name)
			}
			return nil, fmt.Errorf("map %s cannot be carried over: it holds events, programs or constants, a timer, or pointers of the kernel", name)
		}
	}
	slices.SortFunc(states, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return states, nil
}

func carried(name string, m *ebpf.MapSpec, carry Carry) bool {
	switch m.Type {
	case ebpf.RingBuf, ebpf.UserRingbuf, ebpf.PerfEventArray:
		return false // each version sends by its own
	case ebpf.ProgramArray, ebpf.StructOpsMap:
		return false // they hold programs
	}
	if len(m.Contents) > 0 && !strings.HasPrefix(name, ".") {
		return false
	}
	const readOnly = 1 << 7 // BPF_F_RDONLY_PROG, Linux 5.2
	if m.Flags&readOnly != 0 || name == ".kconfig" || strings.HasPrefix(name, ".rodata") || strings.HasPrefix(name, ".struct_ops") {
		return false
	}
	if strings.HasPrefix(name, "__bpf_usdt_") {
		return false // the runner's: where the arguments of probes are
	}
	if strings.HasPrefix(name, ".") && !carry.asks(name) {
		return false
	}
	return !holdsKernel(m.Value, 0)
}

// kernelTypes are structs that the kernel fills: a timer goes on with the function
// of the program that set it.
var kernelTypes = []string{"bpf_timer", "bpf_wq", "bpf_list_head", "bpf_list_node", "bpf_rb_root", "bpf_rb_node", "bpf_refcount"}

// kernelTags mark pointers to what the kernel owns.
var kernelTags = []string{"kptr", "kptr_untrusted", "percpu_kptr", "uptr"}

// maxTypeDepth is deeper than C nests; BTF that was made to loop might be deeper.
const maxTypeDepth = 32

func holdsKernel(t btf.Type, depth int) bool {
	if depth > maxTypeDepth {
		return true
	}
	switch t := t.(type) {
	case *btf.Struct:
		if slices.Contains(kernelTypes, t.Name) {
			return true
		}
		return slices.ContainsFunc(t.Members, func(m btf.Member) bool { return holdsKernel(m.Type, depth+1) })
	case *btf.Union:
		return slices.ContainsFunc(t.Members, func(m btf.Member) bool { return holdsKernel(m.Type, depth+1) })
	case *btf.Array:
		return holdsKernel(t.Type, depth+1)
	case *btf.Datasec:
		return slices.ContainsFunc(t.Vars, func(v btf.VarSecinfo) bool { return holdsKernel(v.Type, depth+1) })
	case *btf.Var:
		return holdsKernel(t.Type, depth+1)
	case *btf.Typedef:
		return holdsKernel(t.Type, depth+1)
	case *btf.Volatile:
		return holdsKernel(t.Type, depth+1)
	case *btf.Const:
		return holdsKernel(t.Type, depth+1)
	case *btf.Restrict:
		return holdsKernel(t.Type, depth+1)
	case *btf.Pointer:
		tag, ok := t.Target.(*btf.TypeTag)
		return ok && slices.Contains(kernelTags, tag.Value)
	}
	return false
}

// mapLayout returns a text that is equal for two maps whose bytes mean the same:
// a digest of the map's own numbers and of the names, places and sizes in its key
// and value.
func mapLayout(m *ebpf.MapSpec) (string, error) {
	h := sha256.New()
	for depth, m := 0, m; m != nil; depth, m = depth+1, m.InnerMap {
		if depth > 1 {
			return "", errors.New("a map in a map in a map")
		}
		fmt.Fprintf(h, "map %d %d %d %d %d %d\n", m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags, m.MapExtra)
		for _, t := range []btf.Type{m.Key, m.Value} {
			if err := writeLayout(h, t, 0); err != nil {
				return "", err
			}
			fmt.Fprintln(h)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeLayout writes a type so that types with the same meaning give the same
// text: names of structs and typedefs say nothing of it.
func writeLayout(w io.Writer, t btf.Type, depth int) error {
	if depth > maxTypeDepth {
		return fmt.Errorf("types nest deeper than %d", maxTypeDepth)
	}
	members := func(kind string, size uint32, members []btf.Member) error {
		fmt.Fprintf(w, "%s %d{", kind, size)
		for _, m := range members {
			fmt.Fprintf(w, "%q %d %d ", m.Name, m.Offset, m.BitfieldSize)
			if err := writeLayout(w, m.Type, depth+1); err != nil {
				return err
			}
			fmt.Fprint(w, ";")
		}
		fmt.Fprint(w, "}")
		return nil
	}
	switch t := t.(type) {
	case nil, *btf.Void:
		fmt.Fprint(w, "void")
	case *btf.Int:
		fmt.Fprintf(w, "int %d %d", t.Size, t.Encoding)
	case *btf.Float:
		fmt.Fprintf(w, "float %d", t.Size)
	case *btf.Enum:
		fmt.Fprintf(w, "enum %d %t{", t.Size, t.Signed)
		for _, v := range t.Values {
			fmt.Fprintf(w, "%q %d;", v.Name, v.Value)
		}
		fmt.Fprint(w, "}")
	case *btf.Pointer:
		fmt.Fprint(w, "pointer") // what it points at is not in the map
	case *btf.Array:
		fmt.Fprintf(w, "[%d]", t.Nelems)
		return writeLayout(w, t.Type, depth+1)
	case *btf.Struct:
		return members("struct", t.Size, t.Members)
	case *btf.Union:
		return members("union", t.Size, t.Members)
	case *btf.Datasec:
		fmt.Fprintf(w, "section %d{", t.Size)
		for _, v := range t.Vars {
			fmt.Fprintf(w, "%q %d %d ", v.Type.TypeName(), v.Offset, v.Size)
			if err := writeLayout(w, v.Type, depth+1); err != nil {
				return err
			}
			fmt.Fprint(w, ";")
		}
		fmt.Fprint(w, "}")
	case *btf.Var:
		return writeLayout(w, t.Type, depth+1)
	case *btf.Typedef:
		return writeLayout(w, t.Type, depth+1)
	case *btf.Volatile:
		return writeLayout(w, t.Type, depth+1)
	case *btf.Const:
		return writeLayout(w, t.Type, depth+1)
	case *btf.Restrict:
		return writeLayout(w, t.Type, depth+1)
	case *btf.TypeTag:
		return writeLayout(w, t.Type, depth+1)
	case *btf.Fwd, *btf.Func, *btf.FuncProto:
		fmt.Fprintf(w, "%T", t)
	default:
		return fmt.Errorf("a type of kind %T", t)
	}
	return nil
}
