// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package kernel lists what of eBPF the running kernel holds, by the kernel's
// own ids: the only word on what is still there that no runner can get wrong.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Objects are the ids of all programs, links and maps, ascending.
type Objects struct {
	Programs []ebpf.ProgramID
	Links    []link.ID
	Maps     []ebpf.MapID
}

// String counts o.
func (o Objects) String() string {
	return fmt.Sprintf("%d programs, %d links, %d maps", len(o.Programs), len(o.Links), len(o.Maps))
}

// List reads the kernel's lists. It needs CAP_SYS_ADMIN.
func List() (Objects, error) {
	var o Objects
	var err error
	if o.Programs, err = ids(ebpf.ProgramGetNextID); err != nil {
		return o, fmt.Errorf("list programs: %w", err)
	}
	if o.Links, err = ids(nextLink); err != nil {
		return o, fmt.Errorf("list links: %w", err)
	}
	if o.Maps, err = ids(ebpf.MapGetNextID); err != nil {
		return o, fmt.Errorf("list maps: %w", err)
	}
	return o, nil
}

// nextLink has no function of its own in the library, whose iterator opens each
// link and so fails on kinds that it does not know.
func nextLink(id link.ID) (link.ID, error) {
	const linkGetNextID = 31 // BPF_LINK_GET_NEXT_ID, Linux 5.8
	attr := struct{ start, next, flags uint32 }{start: uint32(id)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, linkGetNextID, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return 0, errno
	}
	return link.ID(attr.next), nil
}

func ids[T ~uint32](next func(T) (T, error)) ([]T, error) {
	var all []T
	for id := T(0); ; {
		var err error
		if id, err = next(id); errors.Is(err, os.ErrNotExist) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, id)
	}
}

// Minus returns what o has and p has not.
func (o Objects) Minus(p Objects) Objects {
	return Objects{
		Programs: minus(o.Programs, p.Programs),
		Links:    minus(o.Links, p.Links),
		Maps:     minus(o.Maps, p.Maps),
	}
}

func minus[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return slices.Contains(b, x) })
}

// Empty reports whether o has nothing.
func (o Objects) Empty() bool {
	return len(o.Programs) == 0 && len(o.Links) == 0 && len(o.Maps) == 0
}

// WaitUntilGone waits until the kernel holds nothing that was not there before.
// The kernel frees programs and maps some time after their last user is gone.
func WaitUntilGone(ctx context.Context, before Objects, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		now, err := List()
		if err != nil {
			return err
		}
		left := now.Minus(before)
		if left.Empty() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the kernel still holds programs %v, links %v, maps %v", left.Programs, left.Links, left.Maps)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
