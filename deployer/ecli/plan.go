// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// A plan is what a run does with an object, found without touching the kernel:
// what cannot be run is refused here.
type plan struct {
	programs []plannedProgram
	// export is the name of the map whose events are printed; empty is none.
	export string
	layout *layout
	// pollTimeout is how long an event may lie in the ring that its program
	// sent without waking the reader up.
	pollTimeout time.Duration
	// warnings are sentences for the user.
	warnings []string
}

// defaultPollTimeout is that of a package that says nothing else.
const defaultPollTimeout = 100 * time.Millisecond

type plannedProgram struct {
	name string
	hook *hook
	// target is what follows the hook's name in the section, without the slash.
	target string
	spec   *ebpf.ProgramSpec
	meta   *manifest.ProgMeta
	// order is set by the hook where it matters which of a package's programs
	// is attached first.
	order int
}

func newPlan(meta *manifest.Meta, spec *ebpf.CollectionSpec) (*plan, error) {
	p := &plan{pollTimeout: defaultPollTimeout}
	if ms := meta.PollTimeoutMS; ms != 0 {
		p.pollTimeout = time.Duration(min(ms, 60_000)) * time.Millisecond
	}
	for _, section := range meta.Skeleton.DataSections {
		if section.Name != kconfigSection && spec.Maps[section.Name] == nil {
			return nil, fmt.Errorf("data section %s: the object has none of that name", section.Name)
		}
	}
	for i := range meta.Skeleton.Progs {
		prog := &meta.Skeleton.Progs[i]
		planned, err := planProgram(prog, spec)
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", prog.Name, err)
		}
		p.programs = append(p.programs, planned)
	}
	slices.SortStableFunc(p.programs, func(a, b plannedProgram) int { return cmp.Compare(a.order, b.order) })
	return p, p.planExport(meta, spec)
}

func planProgram(meta *manifest.ProgMeta, spec *ebpf.CollectionSpec) (plannedProgram, error) {
	ps := spec.Programs[meta.Name]
	if ps == nil {
		return plannedProgram{}, errors.New("the object has no program of that name")
	}
	// The section of the object decides; the description's is not looked at.
	section := strings.TrimPrefix(ps.SectionName, "?")
	h, target := findHook(section)
	if h == nil {
		return plannedProgram{}, unsupported("section %q: this runner does not attach that hook; it attaches %s", section, strings.Join(hookNames(), ", "))
	}
	planned := plannedProgram{name: meta.Name, hook: h, target: target, spec: ps, meta: meta}
	if h.check != nil {
		if err := h.check(&planned); err != nil {
			return plannedProgram{}, fmt.Errorf("section %q: %w", section, err)
		}
	}
	return planned, nil
}

// unsupported is the error for what a package asks for and this runner lacks.
func unsupported(format string, args ...any) error {
	return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf(format, args...), "")
}

// planExport chooses the map whose events are printed. As with upstream, it is
// the last of the candidates, and the first of the export types is its type.
func (p *plan) planExport(meta *manifest.Meta, spec *ebpf.CollectionSpec) error {
	if meta.MultipleExportTypes {
		for i := range meta.Skeleton.Maps {
			m := &meta.Skeleton.Maps[i]
			if len(m.ExportConfig) > 0 && string(m.ExportConfig) != `"no_export"` {
				return unsupported("map %s: this runner does not read maps with an export_config of their own", m.Name)
			}
		}
		return nil
	}
	var export *manifest.MapMeta
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
		if export != nil {
			p.warnings = append(p.warnings, fmt.Sprintf("map %s is not read: of several maps with events only the last, %s, is", export.Name, m.Name))
		}
		export = m
	}
	if export == nil {
		return nil
	}
	switch ms := spec.Maps[export.Name]; {
	case export.Sample != nil:
		return unsupported("map %s: this runner does not print sampled maps", export.Name)
	case ms.Type != ebpf.RingBuf:
		return unsupported("map %s: this runner does not read maps of type %s, only ring buffers", export.Name, ms.Type)
	}
	if raw := export.Interpreter; raw != nil {
		var name string
		if err := json.Unmarshal(raw, &name); err != nil || name != "default_struct" {
			return unsupported("map %s: this runner does not know the interpreter %s, only \"default_struct\"", export.Name, raw)
		}
	}
	if len(meta.ExportTypes) == 0 {
		return manifest.WithKind(manifest.KindFailure,
			fmt.Errorf("map %s: the package does not say which struct its events are", export.Name),
			"Build it again with a header that has the struct: ecc SOURCE.bpf.c HEADER.h.")
	}
	var err error
	if p.layout, err = exportLayout(spec.Types, &meta.ExportTypes[0]); err != nil {
		return fmt.Errorf("map %s: %w", export.Name, err)
	}
	p.export = export.Name
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

// onInterface reports whether a program is attached to a network interface.
func (p *plan) onInterface() bool {
	return slices.ContainsFunc(p.programs, func(p plannedProgram) bool { return p.hook.onInterface })
}

// hookNames lists the sections that can be attached.
func hookNames() []string {
	var names []string
	for _, h := range hooks {
		names = append(names, h.sections...)
	}
	slices.Sort(names)
	return names
}

// findHook returns the hook of a section NAME or NAME/TARGET, and TARGET.
func findHook(section string) (*hook, string) {
	name, target, _ := strings.Cut(section, "/")
	for _, h := range hooks {
		if slices.Contains(h.sections, name) {
			return h, target
		}
	}
	return nil, ""
}
