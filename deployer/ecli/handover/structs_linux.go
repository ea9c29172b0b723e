// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Structs are the structs of programs (struct_ops) of two instances, one of which
// is registered by a link that both hold.
type Structs struct {
	// Own is this instance's, which owns it.
	Own *ebpf.Map
	// peer is that of the instance whose offer it came with; nil without one.
	peer *ebpf.Map
}

// AdoptStructs takes that of another instance. The descriptor is its own, also
// after an error.
func AdoptStructs(fd int) (*Structs, error) {
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("take a struct over: %w", err)
	}
	if m.Type() != ebpf.StructOpsMap {
		_ = m.Close()
		return nil, fmt.Errorf("take a struct over: it is a map of type %s", m.Type())
	}
	return &Structs{peer: m}, nil
}

// FD is the descriptor of the own one, else of the other one.
func (s *Structs) FD() int {
	if s.Own != nil {
		return s.Own.FD()
	}
	return s.peer.FD()
}

// Swap makes the link of links that of the own struct, or of the other instance's.
func (s *Structs) Swap(links []int, own bool) error {
	to := s.Own
	if !own {
		to = s.peer
	}
	if to == nil || len(links) != 1 {
		return errors.New("move the link: the struct of the other instance is not here")
	}
	info, err := to.Info()
	if err != nil {
		return fmt.Errorf("move the link: %w", err)
	}
	want, _ := info.ID()
	// A struct must not take its own place: the kernel does not look.
	if have, err := structOfLink(links[0]); err != nil {
		return err
	} else if have == want {
		return nil
	}
	attr := struct{ link, to, flags, from uint32 }{link: uint32(links[0]), to: uint32(to.FD())}
	// BPF_LINK_UPDATE takes structs since Linux 6.4.
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_UPDATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(to)
	if errno != 0 {
		return fmt.Errorf("move the link: %w", errno)
	}
	return nil
}

// structOfLink returns the map that a link has registered.
func structOfLink(fd int) (ebpf.MapID, error) {
	// The beginning of struct bpf_link_info, with the part of struct_ops.
	info := &struct{ typ, id, prog, _, mapID, _ uint32 }{}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(info)
	attr := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), uint32(unsafe.Sizeof(*info)), uint64(uintptr(unsafe.Pointer(info)))}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return 0, fmt.Errorf("read what the link holds: %w", errno)
	}
	const typeStructOps = 9 // BPF_LINK_TYPE_STRUCT_OPS of linux/bpf.h
	if info.typ != typeStructOps {
		return 0, fmt.Errorf("read what the link holds: it is of type %d, not of a struct", info.typ)
	}
	return ebpf.MapID(info.mapID), nil
}

// DropPeer lets go of the other instance's.
func (s *Structs) DropPeer() error {
	if s.peer == nil {
		return nil
	}
	err := s.peer.Close()
	s.peer = nil
	return err
}

// Close lets go of all but the own one.
func (s *Structs) Close() error { return s.DropPeer() }
