// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
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
	// stacks says how events are read as stacks; nil is that they are not.
	stacks *stackFormat
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
		// Decoding leaves there what is no sample. Without it the map would be
		// left out, and nobody told.
		if raw := m.Extra["sample"]; raw != nil {
			if err := json.Unmarshal(raw, new(manifest.Sample)); err != nil {
				return fmt.Errorf("map %s: sample: %w", m.Name, err)
			}
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
		if m.Sample == nil && !manifest.IsEventMap(spec.Maps[m.Name].Type) {
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
	ms := spec.Maps[chosen.Name]
	if !manifest.IsEventMap(ms.Type) {
		return p.addExport(chosen, ms, nil, btf.Type.TypeName)
	}
	if len(types) == 0 {
		return manifest.WithKind(manifest.KindFailure,
			fmt.Errorf("map %s: the package does not say which struct its events are", chosen.Name),
			"Build it again with a header that has the struct: ecc SOURCE.bpf.c HEADER.h.")
	}
	l, err := exportLayout(spec.Types, &types[0])
	if err != nil {
		return fmt.Errorf("map %s: %w", chosen.Name, err)
	}
	return p.addExport(chosen, ms, l, btf.Type.TypeName)
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
		case m.Sample == nil && !manifest.IsEventMap(ms.Type):
			p.warnings = append(p.warnings, fmt.Sprintf("map %s is not read: a map of type %s needs a sample", m.Name, ms.Type))
			continue
		}
		var l *layout
		if manifest.IsEventMap(ms.Type) || !config.ofMap {
			if l, err = config.layout(spec.Types); err != nil {
				return fmt.Errorf("map %s: %w", m.Name, err)
			}
		}
		if err := p.addExport(m, ms, l, nameless); err != nil {
			return err
		}
	}
	return nil
}

// addExport adds a map with the layout of its events or values; nil is that of
// the values which a sampled map itself has. label names what is no struct.
func (p *plan) addExport(m *manifest.MapMeta, ms *ebpf.MapSpec, l *layout, label func(btf.Type) string) error {
	e := export{mapName: m.Name, typ: ms.Type, layout: l}
	var err error
	if manifest.IsEventMap(ms.Type) {
		e.stacks, err = planStacks(m, l)
	} else {
		err = e.planSample(m.Sample, ms, label)
	}
	if err != nil {
		return fmt.Errorf("map %s: %w", m.Name, err)
	}
	p.exports = append(p.exports, e)
	return nil
}

var sampledMaps = []ebpf.MapType{
	ebpf.Hash, ebpf.Array, ebpf.LRUHash, ebpf.LPMTrie, ebpf.PerCPUHash, ebpf.PerCPUArray, ebpf.LRUCPUHash,
}

// planSample reads the types of keys and values off the map itself, but for
// values that have a layout already.
func (e *export) planSample(sample *manifest.Sample, ms *ebpf.MapSpec, label func(btf.Type) string) error {
	if !slices.Contains(sampledMaps, ms.Type) {
		return unsupported("a map of type %s cannot be sampled", ms.Type)
	}
	switch sample.Type {
	case "", manifest.SampleKeyValue, manifest.SampleLog2, manifest.SampleLinear:
	default:
		return fmt.Errorf("sample type %q: expected %s, %s or %s", sample.Type, manifest.SampleKeyValue, manifest.SampleLog2, manifest.SampleLinear)
	}
	e.sample = sample
	for _, part := range []struct {
		name   string
		layout **layout
		typ    btf.Type
		size   uint32
	}{
		{"key", &e.key, ms.Key, ms.KeySize},
		{"value", &e.layout, ms.Value, ms.ValueSize},
	} {
		if *part.layout == nil {
			if part.typ == nil {
				return manifest.WithKind(manifest.KindFailure, fmt.Errorf("%s: the object does not say its type", part.name),
					fmt.Sprintf("Declare the map with __type(%s, ...) instead of a size.", part.name))
			}
			l, err := newTypeLayout(part.typ, label(part.typ))
			if err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
			*part.layout = l
		}
		if l := *part.layout; l.need > int(part.size) {
			return fmt.Errorf("%s: %s takes %d bytes, but the map has %d", part.name, l.what, l.need, part.size)
		}
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
