// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// An export is a map whose content is printed.
type export struct {
	mapName string
	typ     ebpf.MapType
	layout  *layout
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
		if m.Sample == nil && ms.Type != ebpf.RingBuf && ms.Type != ebpf.PerfEventArray {
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
	if chosen.Sample != nil {
		return unsupported("map %s: this runner does not print sampled maps", chosen.Name)
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
	p.exports = append(p.exports, export{mapName: chosen.Name, typ: spec.Maps[chosen.Name].Type, layout: l})
	return nil
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
