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
	Skeleton Skeleton `json:"bpf_skel"`
	// ExportTypes is nil when the compiler was given no header.
	ExportTypes []ExportType `json:"export_types,omitzero"`
	// EunomiaVersion is the version of the ecc that wrote it; runners ignore it.
	EunomiaVersion string `json:"eunomia_version,omitzero"`
	// MultipleExportTypes makes the runner read every map with an
	// export_config, each with its own type, and ignore ExportTypes.
	MultipleExportTypes bool `json:"enable_multiple_export_types,omitzero"`
	// PollTimeoutMS bounds one wait for events, in milliseconds; 0 means 100.
	PollTimeoutMS uint64 `json:"poll_timeout_ms,omitzero"`
	// PerfBufferPages is the size of a perf buffer in pages a CPU; 0 means 64.
	PerfBufferPages uint64 `json:"perf_buffer_pages,omitzero"`
	Extra           Fields `json:"-"`
}

// Skeleton describes an object's programs, maps and global variables
// (BpfSkeletonMeta).
type Skeleton struct {
	ObjName string `json:"obj_name"`
	Doc     *Doc   `json:"doc,omitzero"`
	// DataSections is nil for an object without BTF.
	DataSections []DataSection `json:"data_sections"`
	Maps         []MapMeta     `json:"maps,optional"`
	Progs        []ProgMeta    `json:"progs,optional"`
	Extra        Fields        `json:"-"`
}

// Doc is the documentation comment of the source's LICENSE variable. Its values
// are strings in what ecc writes, and kept as they are.
type Doc struct {
	Version     json.RawMessage `json:"version,omitzero"`
	Brief       json.RawMessage `json:"brief,omitzero"`
	Details     json.RawMessage `json:"details,omitzero"`
	Description json.RawMessage `json:"description,omitzero"`
	Extra       Fields          `json:"-"`
}

// DataSection is a section of global variables, such as .rodata.
type DataSection struct {
	Name      string     `json:"name"`
	Variables []Variable `json:"variables"`
	Extra     Fields     `json:"-"`
}

// Variable is one global variable that is not static.
type Variable struct {
	Name string `json:"name"`
	// Type is the variable's type as C spells it.
	Type        string          `json:"type"`
	Value       json.RawMessage `json:"value,omitzero"`
	Description string          `json:"description,omitzero"`
	CmdArg      *CmdArg         `json:"cmdarg,omitzero"`
	Extra       Fields          `json:"-"`
}

// CmdArg is a variable's annotation @cmdarg: how its command line option looks.
type CmdArg struct {
	Default json.RawMessage `json:"default,omitzero"`
	Long    string          `json:"long,omitzero"`
	Short   string          `json:"short,omitzero"`
	Help    string          `json:"help,omitzero"`
	Extra   Fields          `json:"-"`
}

// MapMeta is one map, among them those of the global variables.
type MapMeta struct {
	Name  string `json:"name"`
	Ident string `json:"ident"`
	// Mmaped is true for the map of a section with global variables.
	Mmaped       bool            `json:"mmaped,omitzero"`
	Sample       *Sample         `json:"sample,omitzero"`
	ExportConfig json.RawMessage `json:"export_config,omitzero"`
	// Interpreter keeps upstream's spelling in its key.
	Interpreter json.RawMessage `json:"intepreter,omitzero"`
	Extra       Fields          `json:"-"`
}

// Sample makes the runner print a map's content at an interval.
type Sample struct {
	// Interval is in milliseconds.
	Interval uint64 `json:"interval"`
	Type     string `json:"type,omitzero"`
	Unit     string `json:"unit,omitzero"`
	ClearMap bool   `json:"clear_map,omitzero"`
	Extra    Fields `json:"-"`
}

// ProgMeta is one program. Extra holds the options of its hook, such as
// ifindex and flags of an XDP program.
type ProgMeta struct {
	Name string `json:"name"`
	// Attach is the ELF section of the program.
	Attach string `json:"attach"`
	Link   bool   `json:"link"`
	Extra  Fields `json:"-"`
}

// ExportType is a struct whose values the program sends to user space.
type ExportType struct {
	Name    string   `json:"name"`
	Members []Member `json:"members"`
	// Size is in bytes.
	Size   uint32 `json:"size"`
	TypeID uint32 `json:"type_id"`
	Extra  Fields `json:"-"`
}

// Member is a field of an [ExportType].
type Member struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Extra Fields `json:"-"`
}

// DecodeMeta reads a skel.json.
func DecodeMeta(data []byte) (*Meta, error) {
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
