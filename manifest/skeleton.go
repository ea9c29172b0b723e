// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
)

// Meta is what eunomia-bpf's ecc writes beside an object: NAME.skel.json and
// the field meta of package.json (EunomiaObjectMeta). Fields that ebpm does not
// know survive decoding and encoding.
type Meta struct {
	Skeleton Skeleton `skel:"bpf_skel"`
	// ExportTypes is nil when the compiler was given no header.
	ExportTypes []ExportType `skel:"export_types,omitzero"`
	// EunomiaVersion is the version of the ecc that wrote it; runners ignore it.
	EunomiaVersion string `skel:"eunomia_version,omitzero"`
	// MultipleExportTypes makes the runner read every map with an
	// export_config, each with its own type, and ignore ExportTypes.
	MultipleExportTypes bool `skel:"enable_multiple_export_types,omitzero"`
	// PollTimeoutMS bounds one wait for events, in milliseconds; 0 means 100.
	PollTimeoutMS uint64 `skel:"poll_timeout_ms,omitzero"`
	// PerfBufferPages is the size of a perf buffer in pages a CPU; 0 means 64.
	PerfBufferPages uint64 `skel:"perf_buffer_pages,omitzero"`
	Extra           Fields
}

// Skeleton describes an object's programs, maps and global variables
// (BpfSkeletonMeta).
type Skeleton struct {
	ObjName string `skel:"obj_name"`
	Doc     *Doc   `skel:"doc,omitzero"`
	// DataSections is nil for an object without BTF.
	DataSections []DataSection `skel:"data_sections"`
	Maps         []MapMeta     `skel:"maps,optional"`
	Progs        []ProgMeta    `skel:"progs,optional"`
	Extra        Fields
}

// Doc is the documentation comment of the source's LICENSE variable. Its values
// are strings in what ecc writes, and kept as they are.
type Doc struct {
	Version     json.RawMessage `skel:"version,omitzero"`
	Brief       json.RawMessage `skel:"brief,omitzero"`
	Details     json.RawMessage `skel:"details,omitzero"`
	Description json.RawMessage `skel:"description,omitzero"`
	Extra       Fields
}

// DataSection is a section of global variables, such as .rodata.
type DataSection struct {
	Name      string     `skel:"name"`
	Variables []Variable `skel:"variables"`
	Extra     Fields
}

// Variable is one global variable that is not static.
type Variable struct {
	Name string `skel:"name"`
	// Type is the variable's type as C spells it.
	Type        string          `skel:"type"`
	Value       json.RawMessage `skel:"value,omitzero"`
	Description string          `skel:"description,annotation"`
	CmdArg      *CmdArg         `skel:"cmdarg,annotation"`
	Extra       Fields
}

// CmdArg is a variable's annotation @cmdarg: how its command line option looks.
type CmdArg struct {
	Default json.RawMessage `skel:"default,omitzero"`
	Long    string          `skel:"long,omitzero"`
	Short   string          `skel:"short,omitzero"`
	Help    string          `skel:"help,omitzero"`
	Extra   Fields
}

// MapMeta is one map, among them those of the global variables.
type MapMeta struct {
	Name  string `skel:"name"`
	Ident string `skel:"ident"`
	// Mmaped is true for the map of a section with global variables.
	Mmaped       bool            `skel:"mmaped,annotation"`
	Sample       *Sample         `skel:"sample,annotation"`
	ExportConfig json.RawMessage `skel:"export_config,omitzero"`
	// Interpreter keeps upstream's spelling in its key.
	Interpreter json.RawMessage `skel:"intepreter,omitzero"`
	Extra       Fields
}

// Sample makes the runner print a map's content at an interval.
type Sample struct {
	// Interval is in milliseconds.
	Interval uint64 `skel:"interval"`
	Type     string `skel:"type,omitzero"`
	Unit     string `skel:"unit,omitzero"`
	ClearMap bool   `skel:"clear_map,omitzero"`
	Extra    Fields
}

// ProgMeta is one program. Extra holds the options of its hook, such as
// ifindex and flags of an XDP program.
type ProgMeta struct {
	Name string `skel:"name"`
	// Attach is the ELF section of the program.
	Attach string `skel:"attach"`
	Link   bool   `skel:"link"`
	Extra  Fields
}

// ExportType is a struct whose values the program sends to user space.
type ExportType struct {
	Name    string   `skel:"name"`
	Members []Member `skel:"members"`
	// Size is in bytes.
	Size   uint32 `skel:"size"`
	TypeID uint32 `skel:"type_id"`
	Extra  Fields
}

// Member is a field of an [ExportType].
type Member struct {
	Name  string `skel:"name"`
	Type  string `skel:"type"`
	Extra Fields
}

// DecodeMeta reads a skel.json, nested at most 32 deep.
func DecodeMeta(data []byte) (*Meta, error) {
	if err := checkNesting(data); err != nil {
		return nil, fmt.Errorf("decode skeleton: %w", err)
	}
	var m Meta
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("decode skeleton: %w", err)
	}
	return &m, nil
}

// Encode returns m as ecc writes it: compact, the keys of each object sorted
// bytewise, no final newline.
func (m *Meta) Encode() ([]byte, error) {
	return encodeObject(m)
}

func (m *Meta) UnmarshalJSON(data []byte) error        { return decodeObject(data, m) }
func (s *Skeleton) UnmarshalJSON(data []byte) error    { return decodeObject(data, s) }
func (d *Doc) UnmarshalJSON(data []byte) error         { return decodeObject(data, d) }
func (s *DataSection) UnmarshalJSON(data []byte) error { return decodeObject(data, s) }
func (v *Variable) UnmarshalJSON(data []byte) error    { return decodeObject(data, v) }
func (c *CmdArg) UnmarshalJSON(data []byte) error      { return decodeObject(data, c) }
func (m *MapMeta) UnmarshalJSON(data []byte) error     { return decodeObject(data, m) }
func (s *Sample) UnmarshalJSON(data []byte) error      { return decodeObject(data, s) }
func (p *ProgMeta) UnmarshalJSON(data []byte) error    { return decodeObject(data, p) }
func (e *ExportType) UnmarshalJSON(data []byte) error  { return decodeObject(data, e) }
func (m *Member) UnmarshalJSON(data []byte) error      { return decodeObject(data, m) }
