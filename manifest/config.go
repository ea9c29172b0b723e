// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Config is the config blob of a package: what it is, for display and search.
// It is the author's word: whoever runs a package derives [Needs] from the
// object and refuses a config that says otherwise.
type Config struct {
	Name        string   `json:"name"`
	Version     string   `json:"version,omitempty"`
	Description string   `json:"description,omitempty"`
	License     string   `json:"license,omitempty"`
	Platform    Platform `json:"platform"`
	// Requires is what the author asks for beyond Needs.
	Requires *Requires `json:"requires,omitempty"`
	// Carry is what the author asks to be carried over in an upgrade.
	Carry      Carry       `json:"carry,omitzero"`
	Programs   []Program   `json:"programs"`
	Maps       []Map       `json:"maps"`
	Parameters []Parameter `json:"parameters"`
	// Columns are the fields of the events, in their order.
	Columns []string   `json:"columns,omitempty"`
	Needs   Needs      `json:"needs"`
	Build   BuildFacts `json:"build"`
}

// BuildFacts say how an object was made, so that it can be made again.
type BuildFacts struct {
	// Ebpm is the version of the ebpm whose ecc compiled it.
	Ebpm string `json:"ebpm,omitempty"`
	// Compiler is the first line of clang --version.
	Compiler string `json:"compiler,omitempty"`
	// Flags are the compiler's flags without the paths of the machine.
	Flags []string `json:"flags,omitempty"`
	// Vmlinux says where vmlinux.h came from: embedded, running or file.
	Vmlinux string `json:"vmlinux,omitempty"`
	// SourceDigest is the digest of the source layer.
	SourceDigest  string `json:"sourceDigest,omitempty"`
	VmlinuxDigest string `json:"vmlinuxDigest,omitempty"`
	HeadersDigest string `json:"headersDigest,omitempty"`
}

// Parameter is a global variable that can be set when the program starts.
type Parameter struct {
	Name string `json:"name"`
	// Option is the long name of its command line option.
	Option  string          `json:"option"`
	Type    string          `json:"type"`
	Default json.RawMessage `json:"default,omitempty"`
	Help    string          `json:"help,omitempty"`
}

// DummyPrefix begins the names of the variables that ecc adds so that the
// compiler keeps the types of the events.
const DummyPrefix = "__eunomia_dummy"

// Parameters returns the global variables of m that can be set, in their order.
func (m *Meta) Parameters() []Parameter {
	parameters := []Parameter{}
	for _, section := range m.Skeleton.DataSections {
		// .kconfig is the kernel's, not the user's.
		if section.Name == ".kconfig" {
			continue
		}
		for _, v := range section.Variables {
			if strings.HasPrefix(v.Name, DummyPrefix) {
				continue
			}
			p := Parameter{Name: v.Name, Option: v.Name, Type: v.Type, Default: v.Value, Help: v.Description}
			if arg := v.CmdArg; arg != nil {
				if arg.Long != "" {
					p.Option = arg.Long
				}
				if arg.Default != nil {
					p.Default = arg.Default
				}
				if arg.Help != "" {
					p.Help = arg.Help
				}
			}
			parameters = append(parameters, p)
		}
	}
	return parameters
}

// NewConfig describes p, compiled for platform from a source described by spec.
func NewConfig(spec *Spec, platform Platform, p *Package, build BuildFacts) (*Config, error) {
	object, err := Inspect(p.Object)
	if err != nil {
		return nil, err
	}
	needs, err := object.NeedsOf(&p.Meta, "", nil)
	if err != nil {
		return nil, err
	}
	if _, err := StateMaps(object.Spec, spec.Carry); err != nil {
		return nil, WithKind(KindUsage, fmt.Errorf("`carry` of %s: %w", SpecFile, err), "The maps of the object: "+strings.Join(mapNames(object), ", ")+".")
	}
	return &Config{
		Name:        spec.Name,
		Version:     spec.Version,
		Description: spec.Description,
		License:     spec.License,
		Platform:    platform,
		Requires:    spec.Requires,
		Carry:       spec.Carry,
		Programs:    object.Programs,
		Maps:        object.Maps,
		Parameters:  p.Meta.Parameters(),
		Columns:     object.Columns(&p.Meta),
		Needs:       needs,
		Build:       build,
	}, nil
}

// Encode returns c as the bytes of the config blob.
func (c *Config) Encode() ([]byte, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode package config: %w", err)
	}
	return b, nil
}

// DecodeConfig reads a config blob. Fields that it does not know are ignored: a
// newer ebpm may have written them.
func DecodeConfig(data []byte) (*Config, error) {
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("decode package config: %w", err)
	}
	return &c, nil
}

// Verify compares the config's word on hooks and rights with what p's object
// says. An error is of [KindUnverified].
func (c *Config) Verify(p *Package) error {
	object, err := Inspect(p.Object)
	if err != nil {
		return WithKind(KindUnverified, err, "")
	}
	needs, err := object.NeedsOf(&p.Meta, "", nil)
	if err != nil {
		return err
	}
	differ := func(what string, said, is any) error {
		return WithKind(KindUnverified,
			fmt.Errorf("verify package %s: its config says %s %v, its object needs %v", c.Name, what, said, is),
			"The package was not made by an honest build; do not run it.")
	}
	if said, is := sectionsOf(c.Programs), sectionsOf(object.Programs); !slices.Equal(said, is) {
		return differ("programs", said, is)
	}
	if said, is := c.Needs.Rights, needs.Rights; !said.Equal(is) {
		return differ("rights", said, is)
	}
	if said, is := c.Needs.Features, needs.Features; !said.equal(is) {
		return differ("features", said, is)
	}
	return nil
}

func mapNames(o *Object) []string {
	var names []string
	for _, m := range o.Maps {
		names = append(names, m.Name)
	}
	return names
}

func sectionsOf(programs []Program) []string {
	var sections []string
	for _, p := range programs {
		sections = append(sections, p.Name+"="+p.Section)
	}
	return sections
}
