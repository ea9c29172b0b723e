// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

const (
	// maxObjectName is BPF_OBJ_NAME_LEN of the kernel's uapi/linux/bpf.h, the
	// final NUL included.
	maxObjectName = 16
	// maxSkeletonName is the longest base name, in bytes, that bpftool takes
	// over into obj_name.
	maxSkeletonName = 63
	dummyPrefix     = "__eunomia_dummy_"
	dummySuffix     = "_ptr"
)

// object is a compiled object with what the skeleton needs of it.
type object struct {
	elf     *elf.File
	types   *btf.Spec // nil without BTF
	symbols []elf.Symbol
	// datasecs are the BTF's sections of variables by name.
	datasecs map[string]*btf.Datasec
}

func openObject(data []byte) (o *object, err error) {
	// debug/elf is documented as not hardened against crafted input.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read object: malformed ELF: %v", r)
		}
	}()
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	if file.Machine != elf.EM_BPF || file.Class != elf.ELFCLASS64 {
		return nil, fmt.Errorf("read object: not a 64-bit eBPF object but %v, %v", file.Machine, file.Class)
	}
	o = &object{elf: file, datasecs: map[string]*btf.Datasec{}}
	o.symbols, err = file.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, fmt.Errorf("read object: symbols: %w", err)
	}
	section := file.Section(".BTF")
	if section == nil {
		return o, nil
	}
	raw, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read object: BTF: %w", err)
	}
	// Not the whole object: for that cilium/ebpf refuses some externs.
	o.types, err = btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read object: BTF: %w", err)
	}
	for t, err := range o.types.All() {
		if err != nil {
			return nil, fmt.Errorf("read object: BTF: %w", err)
		}
		if sec, ok := t.(*btf.Datasec); ok {
			o.datasecs[sec.Name] = sec
		}
	}
	return o, nil
}

// offsets returns the offsets of a section's variables by name. Those in BTF
// are zero until an object is linked.
func (o *object) offsets(section string) map[string]uint64 {
	offsets := map[string]uint64{}
	for _, sym := range o.symbols {
		if elf.ST_TYPE(sym.Info) != elf.STT_OBJECT || elf.ST_BIND(sym.Info) == elf.STB_LOCAL {
			continue
		}
		if int(sym.Section) < len(o.elf.Sections) && o.elf.Sections[sym.Section].Name == section {
			offsets[sym.Name] = sym.Value
		}
	}
	return offsets
}

// placedVar is a variable that is not static.
type placedVar struct {
	*btf.Var
	offset, size uint64
}

// placedVars lists the variables of a section by offset.
func (o *object) placedVars(section string) ([]placedVar, error) {
	sec := o.datasecs[section]
	if sec == nil {
		return nil, nil
	}
	offsets := o.offsets(section)
	var vars []placedVar
	for _, info := range sec.Vars {
		v, ok := info.Type.(*btf.Var)
		if !ok || v.Linkage == btf.StaticVar {
			continue
		}
		offset, ok := offsets[v.Name]
		if !ok {
			return nil, fmt.Errorf("variable %s has no symbol", v.Name)
		}
		vars = append(vars, placedVar{v, offset, uint64(info.Size)})
	}
	slices.SortStableFunc(vars, func(a, b placedVar) int { return cmp.Compare(a.offset, b.offset) })
	return vars, nil
}

// skeletonOf describes object, whose file is called fileName, as bpftool's
// `gen skeleton -j` of eunomia-bpf does (spec section B3).
func skeletonOf(data []byte, fileName string) (skel manifest.Skeleton, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read object: malformed ELF: %v", r)
		}
	}()
	o, err := openObject(data)
	if err != nil {
		return manifest.Skeleton{}, err
	}
	return o.skeleton(fileName)
}

func (o *object) skeleton(fileName string) (manifest.Skeleton, error) {
	skel := manifest.Skeleton{ObjName: objectName(fileName)}
	var err error
	if skel.Maps, err = o.declaredMaps(); err != nil {
		return skel, err
	}
	if o.types != nil {
		skel.DataSections = []manifest.DataSection{}
	}
	for _, section := range o.elf.Sections {
		if !isDataSection(section) {
			continue
		}
		vars, err := o.variables(section.Name)
		if err != nil {
			return skel, fmt.Errorf("section %s: %w", section.Name, err)
		}
		addSection(&skel, section.Name, vars)
	}
	vars, err := o.kconfig()
	if err != nil {
		return skel, fmt.Errorf("section %s: %w", kconfigSection, err)
	}
	if len(vars) > 0 {
		addSection(&skel, kconfigSection, vars)
	}
	for _, section := range []string{".struct_ops", ".struct_ops.link"} {
		maps, err := o.mapsIn(section)
		if err != nil {
			return skel, err
		}
		skel.Maps = append(skel.Maps, maps...)
	}
	skel.Progs, err = o.programs()
	return skel, err
}

// addSection adds the map of a section of variables, and its variables.
func addSection(skel *manifest.Skeleton, section string, vars []manifest.Variable) {
	name := internalMapName(skel.ObjName, section)
	skel.Maps = append(skel.Maps, manifest.MapMeta{
		Name:   name,
		Ident:  sanitize(name[strings.IndexByte(name, '.')+1:]),
		Mmaped: len(vars) > 0,
	})
	if len(vars) > 0 {
		skel.DataSections = append(skel.DataSections, manifest.DataSection{Name: section, Variables: vars})
	}
}

// objectName returns obj_name: the file's base name without its .o, every byte
// that C does not take in a name replaced.
func objectName(fileName string) string {
	if len(fileName) > maxSkeletonName {
		fileName = fileName[:maxSkeletonName]
	}
	return sanitize(strings.TrimSuffix(fileName, ".o"))
}

func sanitize(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !isIdentByte(c) {
			b[i] = '_'
		}
	}
	return string(b)
}

func isIdentByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// internalMapName is the name that libbpf gives the map of a section: the
// section's own for one such as .data.tuning, else the section behind as much
// of the object's name as fits.
func internalMapName(objName, section string) string {
	if strings.Contains(section[1:], ".") {
		return section
	}
	suffix := max(len(".rodata"), len(section))
	suffix = min(suffix, maxObjectName-1)
	prefix := min(maxObjectName-1-suffix, len(objName))
	return objName[:prefix] + section[:min(len(section), suffix)]
}

func isDataSection(s *elf.Section) bool {
	if s.Size == 0 {
		return false
	}
	is := func(name string) bool { return s.Name == name || strings.HasPrefix(s.Name, name+".") }
	switch s.Type {
	case elf.SHT_PROGBITS:
		return s.Flags&elf.SHF_EXECINSTR == 0 && (is(".data") || is(".rodata"))
	case elf.SHT_NOBITS:
		return is(".bss")
	}
	return false
}

// variables lists the variables of a section that are not static.
func (o *object) variables(section string) ([]manifest.Variable, error) {
	placed, err := o.placedVars(section)
	if err != nil {
		return nil, err
	}
	var vars []manifest.Variable
	end := uint64(0)
	for _, v := range placed {
		typ, err := spellVariable(v.Type)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", v.Name, err)
		}
		variable := manifest.Variable{Name: v.Name, Type: typ}
		// The skeleton's struct is laid out for 32-bit machines, so that an
		// alignment of 8 needs explicit padding. Upstream calls it size.
		align := uint64(min(alignOf(v.Type), 4))
		if rounded := (end + align - 1) / align * align; rounded != v.offset {
			padding := strconv.FormatInt(int64(v.offset-end), 10)
			variable.Extra = manifest.Fields{"size": json.RawMessage(padding)}
		}
		end = v.offset + v.size
		vars = append(vars, variable)
	}
	return vars, nil
}

const kconfigSection = ".kconfig"

// kconfig lists the extern variables whose values the loader takes from the
// kernel's configuration, in the order in which libbpf lays them out.
func (o *object) kconfig() ([]manifest.Variable, error) {
	sec := o.datasecs[kconfigSection]
	if sec == nil {
		return nil, nil
	}
	type extern struct {
		v           *btf.Var
		align, size int
	}
	var externs []extern
	for _, info := range sec.Vars {
		v, ok := info.Type.(*btf.Var)
		if !ok {
			continue
		}
		size, err := btf.Sizeof(v.Type)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", v.Name, err)
		}
		externs = append(externs, extern{v: v, align: alignOf(v.Type), size: size})
	}
	slices.SortFunc(externs, func(a, b extern) int {
		return cmp.Or(cmp.Compare(b.align, a.align), cmp.Compare(a.size, b.size), cmp.Compare(a.v.Name, b.v.Name))
	})
	var vars []manifest.Variable
	for _, e := range externs {
		typ, err := spellVariable(e.v.Type)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", e.v.Name, err)
		}
		vars = append(vars, manifest.Variable{Name: e.v.Name, Type: typ})
	}
	return vars, nil
}

// declaredMaps lists the maps of .maps by their offset.
func (o *object) declaredMaps() ([]manifest.MapMeta, error) {
	for _, s := range o.elf.Sections {
		if s.Name == "maps" {
			return nil, errors.New(`section maps holds legacy map definitions, which libbpf 1.0 and later refuse: declare maps as struct { __uint(type, ...); ... } NAME SEC(".maps")`)
		}
	}
	sec := o.datasecs[".maps"]
	if sec == nil {
		return nil, nil
	}
	for _, info := range sec.Vars {
		if v, ok := info.Type.(*btf.Var); ok && v.Linkage == btf.StaticVar {
			return nil, fmt.Errorf("map %s is static, which libbpf does not support: remove the word static", v.Name)
		}
	}
	return o.mapsIn(".maps")
}

// mapsIn lists the variables of a section as maps.
func (o *object) mapsIn(section string) ([]manifest.MapMeta, error) {
	placed, err := o.placedVars(section)
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", section, err)
	}
	var maps []manifest.MapMeta
	for _, v := range placed {
		maps = append(maps, manifest.MapMeta{Name: v.Name, Ident: v.Name})
	}
	return maps, nil
}

// programs lists the functions that a loader takes for programs, by section and
// offset. Functions in .text are subprograms, except for an object's only one.
func (o *object) programs() ([]manifest.ProgMeta, error) {
	type function struct {
		elf.Symbol
		section *elf.Section
	}
	var functions []function
	for _, sym := range o.symbols {
		if elf.ST_TYPE(sym.Info) != elf.STT_FUNC || int(sym.Section) >= len(o.elf.Sections) {
			continue
		}
		section := o.elf.Sections[sym.Section]
		if section.Type != elf.SHT_PROGBITS || section.Flags&elf.SHF_EXECINSTR == 0 {
			continue
		}
		functions = append(functions, function{sym, section})
	}
	slices.SortStableFunc(functions, func(a, b function) int {
		return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.Value, b.Value))
	})
	var progs []manifest.ProgMeta
	for _, f := range functions {
		if f.section.Name == ".text" {
			if len(functions) > 1 {
				continue
			}
		} else if elf.ST_BIND(f.Info) == elf.STB_LOCAL {
			return nil, fmt.Errorf("program %s in section %q is static, which libbpf does not support: remove the word static", f.Name, f.section.Name)
		}
		progs = append(progs, manifest.ProgMeta{
			Name:   f.Name,
			Attach: strings.TrimPrefix(f.section.Name, "?"),
			Link:   true,
		})
	}
	return progs, nil
}

// exportTypes describes the structs of the object's BTF whose name is in names,
// in the order of their ids (spec section A5).
func (o *object) exportTypes(names map[string]bool) ([]manifest.ExportType, error) {
	exports := []manifest.ExportType{}
	if len(names) == 0 {
		return exports, nil
	}
	if o.types == nil {
		return nil, errors.New("the object has no BTF, so that the event structs cannot be exported")
	}
	for t, err := range o.types.All() {
		if err != nil {
			return nil, fmt.Errorf("read object: BTF: %w", err)
		}
		s, ok := t.(*btf.Struct)
		if !ok || !names[s.Name] {
			continue
		}
		id, err := o.types.TypeID(s)
		if err != nil {
			return nil, fmt.Errorf("struct %s: %w", s.Name, err)
		}
		export := manifest.ExportType{Name: s.Name, Members: []manifest.Member{}, Size: s.Size, TypeID: uint32(id)}
		for _, m := range s.Members {
			typ, err := spellMember(m.Type)
			if err != nil {
				return nil, fmt.Errorf("struct %s, member %s: %w", s.Name, m.Name, err)
			}
			name := m.Name
			if name == "" {
				name = "(anon)"
			}
			export.Members = append(export.Members, manifest.Member{Name: name, Type: typ})
		}
		exports = append(exports, export)
	}
	return exports, nil
}
