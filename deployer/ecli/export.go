// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// An export is a map whose content is printed.
type export struct {
	mapName string
	typ     ebpf.MapType
	// layout is that of the events, or of the values of a sampled map.
	layout *layout
	// key is that of the keys of a sampled map, which sample says how to print.
	key    *layout
	sample *manifest.Sample
}

// planExports finds the maps that are printed.
func (p *plan) planExports(meta *manifest.Meta, spec *ebpf.CollectionSpec) error {
	planMap := p.planOneExport
	if meta.MultipleExportTypes {
		planMap = p.planConfiguredExports
	}
	var maps []*manifest.MapMeta
	for i := range meta.Skeleton.Maps {
		m := &meta.Skeleton.Maps[i]
		if m.Mmaped || strings.Contains(m.Name, ".") {
			continue // of global variables; C names have no dot
		}
		if spec.Maps[m.Name] == nil {
			return fmt.Errorf("map %s: the object has no map of that name", m.Name)
		}
		maps = append(maps, m)
	}
	return planMap(maps, meta.ExportTypes, spec)
}

// planOneExport chooses the map that is printed. As with upstream, it is the
// last of the candidates, and the first of the export types is the type of its
// events.
func (p *plan) planOneExport(maps []*manifest.MapMeta, types []manifest.ExportType, spec *ebpf.CollectionSpec) error {
	var chosen *manifest.MapMeta
	for _, m := range maps {
		if m.Sample == nil && !isEventMap(spec.Maps[m.Name].Type) {
			continue
		}
		if chosen != nil {
			p.warnings = append(p.warnings, fmt.Sprintf("map %s is not read: of several maps with events only the last, %s, is", chosen.Name, m.Name))
		}
		chosen = m
	}
	if chosen == nil {
		return nil
	}
	return p.addExport(chosen, spec.Maps[chosen.Name], func() (*layout, error) {
		if len(types) == 0 {
			return nil, manifest.WithKind(manifest.KindFailure,
				errors.New("the package does not say which struct its events are"),
				"Build it again with a header that has the struct: ecc SOURCE.bpf.c HEADER.h.")
		}
		return exportLayout(spec.Types, &types[0])
	}, btf.Type.TypeName, nil)
}

// planConfiguredExports takes all maps that have an export_config. What is no
// struct has no name in that mode.
func (p *plan) planConfiguredExports(maps []*manifest.MapMeta, _ []manifest.ExportType, spec *ebpf.CollectionSpec) error {
	nameless := func(btf.Type) string { return "" }
	for _, m := range maps {
		ms := spec.Maps[m.Name]
		config, err := parseExportConfig(m.ExportConfig)
		switch {
		case err != nil:
			return fmt.Errorf("map %s: %w", m.Name, err)
		case config.none:
			continue
		case m.Sample == nil && !isEventMap(ms.Type):
			p.warnings = append(p.warnings, fmt.Sprintf("map %s is not read: a map of type %s needs a sample", m.Name, ms.Type))
			continue
		}
		configured := func() (*layout, error) { return config.layout(spec.Types) }
		override := configured
		if config.ofMap {
			override = nil
		}
		if err := p.addExport(m, ms, configured, nameless, override); err != nil {
			return err
		}
	}
	return nil
}

// addExport adds a map. events gives the type of what is sent through it, where
// it is one for that; override that of the values of a sampled map, where it is
// not the map's own.
func (p *plan) addExport(m *manifest.MapMeta, ms *ebpf.MapSpec, events func() (*layout, error), label func(btf.Type) string, override func() (*layout, error)) error {
	var e export
	var err error
	if isEventMap(ms.Type) {
		e = export{mapName: m.Name, typ: ms.Type}
		if err = checkInterpreter(m.Interpreter); err == nil {
			e.layout, err = events()
		}
	} else {
		e, err = sampleExport(m, ms, label, override)
	}
	if err != nil {
		return fmt.Errorf("map %s: %w", m.Name, err)
	}
	p.exports = append(p.exports, e)
	return nil
}

func checkInterpreter(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var name string
	if err := json.Unmarshal(raw, &name); err != nil || name != "default_struct" {
		return unsupported("this runner does not know the interpreter %s, only \"default_struct\"", raw)
	}
	return nil
}

// isEventMap reports whether programs send events through a map of this type;
// the others hold values, which are sampled.
func isEventMap(t ebpf.MapType) bool { return t == ebpf.RingBuf || t == ebpf.PerfEventArray }

// The ways in which a sampled map is printed.
const (
	sampleKeyValue = "default_kv"
	sampleLog2     = "log2_hist"
	sampleLinear   = "linear_hist"
)

var sampledMaps = []ebpf.MapType{
	ebpf.Hash, ebpf.Array, ebpf.LRUHash, ebpf.LPMTrie, ebpf.PerCPUHash, ebpf.PerCPUArray, ebpf.LRUCPUHash,
}

// sampleExport reads the types of keys and values off the map itself, but for
// values whose layout is given. label names what is no struct.
func sampleExport(m *manifest.MapMeta, ms *ebpf.MapSpec, label func(btf.Type) string, value func() (*layout, error)) (export, error) {
	if !slices.Contains(sampledMaps, ms.Type) {
		return export{}, unsupported("a map of type %s cannot be sampled", ms.Type)
	}
	switch m.Sample.Type {
	case "", sampleKeyValue, sampleLog2, sampleLinear:
	default:
		return export{}, fmt.Errorf("sample type %q: expected %s, %s or %s", m.Sample.Type, sampleKeyValue, sampleLog2, sampleLinear)
	}
	own := func(part string, t btf.Type) (*layout, error) {
		if t == nil {
			return nil, manifest.WithKind(manifest.KindFailure, errors.New("the object does not say its type"),
				fmt.Sprintf("Declare the map with __type(%s, ...) instead of a size.", part))
		}
		return newTypeLayout(t, label(t))
	}
	if value == nil {
		value = func() (*layout, error) { return own("value", ms.Value) }
	}
	e := export{mapName: m.Name, typ: ms.Type, sample: m.Sample}
	var err error
	if e.key, err = own("key", ms.Key); err == nil {
		err = fits(e.key, ms.KeySize)
	}
	if err != nil {
		return export{}, fmt.Errorf("key: %w", err)
	}
	if e.layout, err = value(); err == nil {
		err = fits(e.layout, ms.ValueSize)
	}
	if err != nil {
		return export{}, fmt.Errorf("value: %w", err)
	}
	return e, nil
}

// fits reports whether keys or values of this many bytes can be printed.
func fits(l *layout, size uint32) error {
	if l.need > int(size) {
		return fmt.Errorf("%s takes %d bytes, but the map has %d", l.what, l.need, size)
	}
	return nil
}

// exportLayout finds the type by its id and holds it against its description.
func exportLayout(types *btf.Spec, export *manifest.ExportType) (*layout, error) {
	t, err := typeByID(types, export.TypeID)
	if err != nil {
		return nil, err
	}
	s, ok := t.(*btf.Struct)
	if !ok {
		return nil, fmt.Errorf("type %d of the object's BTF is %s, not a struct", export.TypeID, typeName(t))
	}
	if s.Name != export.Name {
		return nil, fmt.Errorf("type %d of the object's BTF is struct %s, but struct %s in the package's export_types", export.TypeID, s.Name, export.Name)
	}
	return newLayout(s, export.Members)
}

func typeByID(types *btf.Spec, id uint32) (btf.Type, error) {
	if types == nil {
		return nil, fmt.Errorf("type %d: the object has no BTF", id)
	}
	t, err := types.TypeByID(btf.TypeID(id))
	if err != nil {
		return nil, fmt.Errorf("type %d of the object's BTF: %w", id, err)
	}
	return t, nil
}
