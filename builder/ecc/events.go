// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"fmt"

	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// mapTypeRingBuf is BPF_MAP_TYPE_RINGBUF of the kernel's uapi/linux/bpf.h.
const mapTypeRingBuf = 27

// mapType returns the type that a map of .maps is declared with, by
// __uint(type, ...): the length of the array that the member points to.
func (o *object) mapType(name string) (uint32, bool) {
	sec := o.datasecs[".maps"]
	if sec == nil {
		return 0, false
	}
	for _, info := range sec.Vars {
		v, ok := info.Type.(*btf.Var)
		if !ok || v.Name != name {
			continue
		}
		s, ok := btf.UnderlyingType(v.Type).(*btf.Struct)
		if !ok {
			return 0, false
		}
		for _, m := range s.Members {
			p, ok := m.Type.(*btf.Pointer)
			if !ok || m.Name != "type" {
				continue
			}
			if a, ok := p.Target.(*btf.Array); ok {
				return a.Nelems, true
			}
		}
	}
	return 0, false
}

// warnOfEvents says which ring buffers a runner will refuse, because the package
// has no struct to read their events by.
func (c *compilation) warnOfEvents(o *object, meta *manifest.Meta) {
	if len(meta.ExportTypes) > 0 {
		return
	}
	why := c.Source + ": warning: no header with the structs of events was given"
	if c.Header != "" {
		why = c.Header + ": warning: it has no struct that an event could be"
	}
	for _, m := range meta.Skeleton.Maps {
		if t, ok := o.mapType(m.Name); ok && t == mapTypeRingBuf {
			c.print(fmt.Appendf(nil, "%s; the runner will refuse ring buffer %s\n", why, m.Name))
		}
	}
}
