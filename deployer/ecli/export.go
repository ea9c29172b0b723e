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
}

// planExports chooses the map whose events are printed. As with upstream, it is
// the last of the candidates, and the first of the export types is its type.
func (p *plan) planExports(meta *manifest.Meta, spec *ebpf.CollectionSpec) error {
	if meta.MultipleExportTypes {
		for i := range meta.Skeleton.Maps {
			m := &meta.Skeleton.Maps[i]
			if len(m.ExportConfig) > 0 && string(m.ExportConfig) != `"no_export"` {
				return unsupported("map %s: this runner does not read maps with an export_config of their own", m.Name)
			}
		}
		return nil
	}
	var chosen *manifest.MapMeta
	for i := range meta.Skeleton.Maps {
		m := &meta.Skeleton.Maps[i]
		if m.Mmaped || strings.Contains(m.Name, ".") {
			continue // of global variables; C names have no dot
		}
		ms := spec.Maps[m.Name]
		if ms == nil {
			return fmt.Errorf("map %s: the object has no map of that name", m.Name)
		}
		if m.Sample == nil && !isEventMap(ms.Type) {
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
	if !isEventMap(ms.Type) {
		e, err := sampleExport(chosen, ms, btf.Type.TypeName)
		if err != nil {
			return fmt.Errorf("map %s: %w", chosen.Name, err)
		}
		p.exports = append(p.exports, e)
		return nil
	}
	if raw := chosen.Interpreter; raw != nil {
		var name string
		if err := json.Unmarshal(raw, &name); err != nil || name != "default_struct" {
			return unsupported("map %s: this runner does not know the interpreter %s, only \"default_struct\"", chosen.Name, raw)
		}
	}
	if len(meta.ExportTypes) == 0 {
		return manifest.WithKind(manifest.KindFailure,
			fmt.Errorf("map %s: the package does not say which struct its events are", chosen.Name),
			"Build it again with a header that has the struct: ecc SOURCE.bpf.c HEADER.h.")
	}
	l, err := exportLayout(spec.Types, &meta.ExportTypes[0])
	if err != nil {
		return fmt.Errorf("map %s: %w", chosen.Name, err)
	}
	p.exports = append(p.exports, export{mapName: chosen.Name, typ: ms.Type, layout: l})
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

// sampleExport reads the types of keys and values off the map itself. label
// names what is no struct.
func sampleExport(m *manifest.MapMeta, ms *ebpf.MapSpec, label func(btf.Type) string) (export, error) {
	if !slices.Contains(sampledMaps, ms.Type) {
		return export{}, unsupported("a map of type %s cannot be sampled", ms.Type)
	}
	switch m.Sample.Type {
	case "", sampleKeyValue, sampleLog2, sampleLinear:
	default:
		return export{}, fmt.Errorf("sample type %q: expected %s, %s or %s", m.Sample.Type, sampleKeyValue, sampleLog2, sampleLinear)
	}
	e := export{mapName: m.Name, typ: ms.Type, sample: m.Sample}
	for _, part := range []struct {
		name string
		typ  btf.Type
		size uint32
		dst  **layout
	}{
		{"key", ms.Key, ms.KeySize, &e.key},
		{"value", ms.Value, ms.ValueSize, &e.layout},
	} {
		if part.typ == nil {
			return export{}, manifest.WithKind(manifest.KindFailure, fmt.Errorf("the object does not say the type of its %ss", part.name),
				fmt.Sprintf("Declare the map with __type(%s, ...) instead of a size.", part.name))
		}
		l, err := newTypeLayout(part.typ, label(part.typ))
		if err != nil {
			return export{}, fmt.Errorf("%s: %w", part.name, err)
		}
		if l.need > int(part.size) {
			return export{}, fmt.Errorf("%s: %s takes %d bytes, but the map has %d", part.name, l.what, l.need, part.size)
		}
		*part.dst = l
	}
	return e, nil
}

// exportLayout finds the type by its id and holds it against its description.
func exportLayout(types *btf.Spec, export *manifest.ExportType) (*layout, error) {
	if types == nil {
		return nil, fmt.Errorf("type %d: the object has no BTF", export.TypeID)
	}
	t, err := types.TypeByID(btf.TypeID(export.TypeID))
	if err != nil {
		return nil, fmt.Errorf("type %d of the object's BTF: %w", export.TypeID, err)
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
