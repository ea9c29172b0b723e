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
	"unsafe"

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
		prepare: func(p *plannedProgram, _ *Options) error {
			if haveStructOpsLink() {
				return nil
			}
			return manifest.WithKind(manifest.KindPrecondition, errors.New("this kernel does not register a struct_ops by a link"),
				"Linux does since 6.4. Before, it stays registered when its runner is killed.")
		},
		structOf: func(p *plannedProgram) (name, target string, err error) {
			name, err = structOpsMapOf(p)
			return name, structOpsTarget(p, name), err
		},
		attach: attachStructOps,
	})
}

// haveStructOpsLink asks for a map of a struct that is none: a kernel that knows
// the flag BPF_F_LINK of Linux 6.4 refuses the struct, an older one the flag.
func haveStructOpsLink() bool {
	attr := struct {
		mapType, keySize, valueSize, maxEntries, flags, innerMap, numaNode uint32
		name                                                               [unix.BPF_OBJ_NAME_LEN]byte
		ifindex, btf, btfKey, btfValue, btfVmlinuxValue                    uint32
	}{mapType: unix.BPF_MAP_TYPE_STRUCT_OPS, keySize: 4, valueSize: 64, maxEntries: 1, flags: unix.BPF_F_LINK, btfVmlinuxValue: 1}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno == 0 {
		_ = unix.Close(int(fd))
	}
	return errno != unix.EINVAL
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

func structOpsTarget(p *plannedProgram, name string) string {
	return strings.Replace(p.spec.AttachTo, ":", ".", 1) + " of " + name
}

// structKey is equal for two structs of which one can take the other's place: they
// are of one type, and of one name where that has names.
func structKey(m *ebpf.MapSpec) string {
	s, ok := btf.As[*btf.Struct](m.Value)
	if !ok {
		return ""
	}
	var name string
	for _, member := range s.Members {
		array, ok := btf.As[*btf.Array](member.Type)
		if !ok || member.Name != "name" || len(m.Contents) == 0 {
			continue
		}
		value, ok := m.Contents[0].Value.([]byte)
		if from, to := member.Offset.Bytes(), member.Offset.Bytes()+array.Nelems; ok && int(to) <= len(value) {
			name = unix.ByteSliceToString(value[from:to])
		}
	}
	return s.Name + " " + name
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
	target := structOpsTarget(p, name)
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
	case err != nil:
		return nil, "", fmt.Errorf("struct %s: %w", name, err)
	}
	return &structOps{l, name}, target, nil
}
