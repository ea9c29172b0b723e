// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/cilium/ebpf/btf"
)

// An exportConfig says what a map holds, in a package whose maps have types of
// their own.
type exportConfig struct {
	// none is true for a map that is not printed.
	none bool
	// ofMap is true for the type that a sampled map itself has.
	ofMap bool
	// typeID is the id of a type of the object's BTF; nil is none.
	typeID *uint32
	// members are named places within an event or value.
	members []customMember
}

// A customMember is a value of a type of the object's BTF at an offset in bytes.
type customMember struct {
	name   string
	offset uint32
	typeID uint32
}

// parseExportConfig reads "no_export", "default", {"btf_type_id": N} or
// {"custom_members": [...]}.
func parseExportConfig(raw json.RawMessage) (exportConfig, error) {
	if len(raw) == 0 {
		return exportConfig{none: true}, nil
	}
	switch string(raw) {
	case `"no_export"`:
		return exportConfig{none: true}, nil
	case `"default"`:
		return exportConfig{ofMap: true}, nil
	}
	var config struct {
		TypeID  *uint32 `json:"btf_type_id"`
		Members *[]struct {
			Name   *string `json:"name"`
			Offset *uint32 `json:"offset"`
			TypeID *uint32 `json:"btf_type_id"`
		} `json:"custom_members"`
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(&config)
	if err == nil && (config.TypeID == nil) == (config.Members == nil) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return exportConfig{}, errors.New(`export_config: expected "no_export", "default", {"btf_type_id": N} or {"custom_members": [...]}`)
	}
	if config.TypeID != nil {
		return exportConfig{typeID: config.TypeID}, nil
	}
	c := exportConfig{members: []customMember{}}
	for i, m := range *config.Members {
		if m.Name == nil || m.Offset == nil || m.TypeID == nil {
			return exportConfig{}, fmt.Errorf("export_config: custom member %d: expected name, offset and btf_type_id", i+1)
		}
		c.members = append(c.members, customMember{*m.Name, *m.Offset, *m.TypeID})
	}
	slices.SortStableFunc(c.members, func(a, b customMember) int { return cmp.Compare(a.offset, b.offset) })
	return c, nil
}

// layout makes the layout of what the config describes. What is no struct has
// no name.
func (c *exportConfig) layout(types *btf.Spec) (*layout, error) {
	switch {
	case c.ofMap:
		return nil, errors.New(`export_config "default" is for sampled maps: the object does not say the type of events`)
	case c.typeID != nil:
		t, err := typeByID(types, *c.typeID)
		if err != nil {
			return nil, fmt.Errorf("export_config: %w", err)
		}
		return newTypeLayout(t, "")
	}
	var shown []field
	end := uint64(0)
	for _, m := range c.members {
		t, err := typeByID(types, m.typeID)
		if err != nil {
			return nil, fmt.Errorf("export_config: member %s: %w", m.name, err)
		}
		size, err := btf.Sizeof(t)
		if err != nil {
			return nil, fmt.Errorf("export_config: member %s: %w", m.name, err)
		}
		if uint64(m.offset) < end {
			return nil, fmt.Errorf("export_config: member %s begins at byte %d, within the one before, which ends at byte %d", m.name, m.offset, end)
		}
		if end = uint64(m.offset) + uint64(size); end > math.MaxInt32 {
			return nil, fmt.Errorf("export_config: member %s ends at byte %d, behind all that a program can send", m.name, end)
		}
		shown = append(shown, field{name: printable(m.name), typ: t, offset: uint64(m.offset) * 8})
	}
	return layoutOf("custom_members", end, shown)
}
