// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"struct_ops", "struct_ops.s"},
		check: func(p *plannedProgram) error {
			_, err := structOpsMapOf(p)
			return err
		},
		attach: attachStructOps,
	})
}

// structOpsMapOf returns the name of the map whose struct holds the program.
func structOpsMapOf(p *plannedProgram) (string, error) {
	ops, _, ok := strings.Cut(p.spec.AttachTo, ":")
	if !ok {
		return "", errors.New(`no struct in SEC(".struct_ops.link") points to it`)
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(p.object.Maps)) {
		m := p.object.Maps[name]
		if s, ok := btf.As[*btf.Struct](m.Value); ok && m.Type == ebpf.StructOpsMap && s.Name == ops {
			found = append(found, name)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("the object has no struct %s in SEC(\".struct_ops.link\")", ops)
	case 1:
		return found[0], nil
	}
	// The library that loads them tells them apart by their type only.
	return "", fmt.Errorf("the object has several structs %s (%s); this runner loads one of a type", ops, strings.Join(found, ", "))
}

// A structOps is a registered struct.
type structOps struct {
	link.Link
	name string
}

// A partOf is a program that is attached with others by one link.
type partOf struct{}

func (partOf) Close() error { return nil }

// attachStructOps registers the struct when the first of its programs is
// attached; the others are in it.
func attachStructOps(p *plannedProgram, _ *ebpf.Program, _ *Options) (io.Closer, string, error) {
	name, err := structOpsMapOf(p)
	if err != nil {
		return nil, "", err
	}
	target := strings.Replace(p.spec.AttachTo, ":", ".", 1) + " of " + name
	for _, a := range p.attached {
		if s, ok := a.(*structOps); ok && s.name == name {
			return partOf{}, target, nil
		}
	}
	l, err := link.AttachStructOps(link.StructOpsOptions{Map: p.maps[name]})
	switch {
	case errors.Is(err, os.ErrExist):
		return nil, "", manifest.WithKind(manifest.KindConflict,
			fmt.Errorf("struct %s: another of that name is registered: %w", name, err), "End whatever registered it, or give this one another name.")
	case errors.Is(err, unix.EINVAL):
		return nil, "", fmt.Errorf("struct %s: the kernel does not accept it; a member that must be set may be missing: %w", name, err)
	case err != nil:
		return nil, "", fmt.Errorf("struct %s: %w", name, err)
	}
	return &structOps{l, name}, target, nil
}
