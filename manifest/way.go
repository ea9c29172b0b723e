// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// A Way is how a program gets from one instance of a release to the next on the
// same node.
type Way string

// The ways, from the best.
const (
	// Exact is by a dispatcher, or by an update of the link: each event runs one
	// version, once.
	Exact Way = "exact"
	// NearExact is by a gate in front of the program: both versions are attached,
	// and each looks at the cell. An event that meets the move between the two can
	// be lost or run twice.
	NearExact Way = "near exact"
	// Naive is to attach the new one and then detach the old one: events in
	// between run twice.
	Naive Way = "naive"
)

// WayOf returns how p moves on a kernel that has all that it needs; see [Object.Moves].
func WayOf(p *ebpf.ProgramSpec) Way {
	section := strings.TrimPrefix(p.SectionName, "?")
	switch {
	case p.Type == ebpf.StructOps:
		return Exact // its link is moved to the new struct
	case p.Type == ebpf.Extension:
		return Naive // a function is replaced once: the new one waits for the end of the old one
	case p.Type == ebpf.Tracing && p.AttachType == ebpf.AttachTraceIter:
		return Naive // it runs when it is read
	case p.Type == ebpf.RawTracepointWritable:
		return NearExact // none with tail calls is attached (seen on 6.18)
	case p.Type == ebpf.LSM && p.AttachType == ebpf.AttachLSMCgroup:
		return NearExact
	case p.Type == ebpf.Kprobe && strings.HasPrefix(section, "usdt"):
		return NearExact // what its probe hands to it is of one version
	case sleepable(p), usesCgroupStorage(p):
		// Sleepable programs have no tail calls (seen on 6.1, 6.12 and 6.18); a
		// storage of cgroups must be the same in all programs of a chain of them.
		return NearExact
	}
	return Exact
}

// sleepable is BPF_F_SLEEPABLE, linux/bpf.h of Linux 5.10.
func sleepable(p *ebpf.ProgramSpec) bool {
	const flag = 1 << 4
	return p.Flags&flag != 0
}

func usesCgroupStorage(p *ebpf.ProgramSpec) bool {
	return slices.ContainsFunc(p.Instructions, func(ins asm.Instruction) bool {
		return ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnGetLocalStorage
	})
}

// Move is how a program moves, and where.
type Move struct {
	Way Way `json:"way"`
	// Since is the first kernel on which it is so.
	Since string `json:"since,omitempty"`
	// Before is the way on older ones that have handovers at all; the naive one if
	// it is empty.
	Before Way `json:"before,omitempty"`
}

// handoverSince is the first kernel on which links of perf events can be handed over.
const handoverSince = "5.15"

// On returns how the program moves on a kernel, whose release uname -r prints. Of
// a release without a version it expects the best.
func (m Move) On(release string) Way {
	since, err := semver.NewVersion(m.Since)
	if err != nil {
		return m.Way // the naive way has no floor
	}
	v, err := KernelVersion(release)
	switch {
	case err != nil || !v.LessThan(since):
		return m.Way
	case m.Before == NearExact && !v.LessThan(semver.MustParse(handoverSince)):
		return NearExact
	}
	return Naive // also of a way that is not known
}

// Moves returns how each program of o moves.
func (o *Object) Moves() map[string]Move {
	moves := make(map[string]Move, len(o.Spec.Programs))
	for name, p := range o.Spec.Programs {
		m := Move{Way: WayOf(p)}
		switch {
		case m.Way == Naive:
		case p.Type == ebpf.SchedCLS, p.Type == ebpf.SchedACT:
			// tcx. A filter of netlink is bound to no descriptor, and has a gate.
			m.Since, m.Before = "6.6", NearExact
		case p.Type == ebpf.StructOps:
			m.Since = "6.4" // registered by links
		default:
			m.Since = handoverSince
		}
		moves[name] = m
	}
	return moves
}

// HandsOver reports whether instances of o gain by handing over: some program
// moves better than by the naive way, and none keeps its successor out until it
// has ended.
func (o *Object) HandsOver() bool {
	better := false
	for _, p := range o.Spec.Programs {
		switch {
		case WayOf(p) != Naive:
			better = true
		case exclusive(p):
			return false
		}
	}
	return better
}
