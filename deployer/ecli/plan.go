// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ebpm/ebpm/manifest"
)

// A plan is what a run does with an object, found without touching the kernel:
// what cannot be run is refused here.
type plan struct {
	programs []plannedProgram
	// exports are the maps that are printed.
	exports []export
	// pollTimeout is how long an event may lie in the ring that its program
	// sent without waking the reader up.
	pollTimeout time.Duration
	// perfBuffer is the size in bytes of the buffer that each CPU has for the
	// events of a perf event array.
	perfBuffer int
	// warnings are sentences for the user.
	warnings []string
}

// defaultPollTimeout is that of a package that says nothing else.
const defaultPollTimeout = 100 * time.Millisecond

const (
	// defaultPerfPages are those of a package that says nothing else. The
	// kernel has buffers of a power of two of pages: a number between is
	// rounded up.
	defaultPerfPages = 64
	maxPerfPages     = 1 << 16
)

type plannedProgram struct {
	name string
	hook *hook
	// target is what follows the hook's name in the section, without the slash.
	target string
	spec   *ebpf.ProgramSpec
	meta   *manifest.ProgMeta
	// object is what the program is a part of; nil once it is attached.
	object *ebpf.CollectionSpec
	// maps are the object's maps in the kernel, and attached what was attached
	// before this program, for hooks that attach to maps. They are there from
	// when it is attached.
	maps     map[string]*ebpf.Map
	attached []io.Closer
	// pid is the process whose user-space probes fire; 0 is every process.
	pid int
	// usdt has the maps of usdt.bpf.h once the package is loaded; nil without.
	usdt *usdtSpecs
	// order is set by the hook where it matters which of a package's programs
	// is attached first.
	order int
}

func newPlan(meta *manifest.Meta, spec *ebpf.CollectionSpec) (*plan, error) {
	p := &plan{pollTimeout: defaultPollTimeout}
	if ms := meta.PollTimeoutMS; ms != 0 {
		p.pollTimeout = time.Duration(min(ms, 60_000)) * time.Millisecond
	}
	pages := cmp.Or(meta.PerfBufferPages, defaultPerfPages)
	if pages > maxPerfPages {
		return nil, fmt.Errorf("perf_buffer_pages %d: at most %d pages a CPU", pages, maxPerfPages)
	}
	p.perfBuffer = int(pages) * os.Getpagesize()
	for _, section := range meta.Skeleton.DataSections {
		if section.Name != kconfigSection && spec.Maps[section.Name] == nil {
			return nil, fmt.Errorf("data section %s: the object has none of that name", section.Name)
		}
	}
	for i := range meta.Skeleton.Progs {
		prog := &meta.Skeleton.Progs[i]
		planned, err := planProgram(prog, spec)
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", prog.Name, err)
		}
		p.programs = append(p.programs, planned)
	}
	slices.SortStableFunc(p.programs, func(a, b plannedProgram) int { return cmp.Compare(a.order, b.order) })
	return p, p.planExports(meta, spec)
}

func planProgram(meta *manifest.ProgMeta, spec *ebpf.CollectionSpec) (plannedProgram, error) {
	ps := spec.Programs[meta.Name]
	if ps == nil {
		return plannedProgram{}, errors.New("the object has no program of that name")
	}
	// The section of the object decides; the description's is not looked at.
	section := strings.TrimPrefix(ps.SectionName, "?")
	h, target := findHook(section)
	if why := manifest.WhyNotAttached(section); h == nil && why != "" {
		return plannedProgram{}, unsupported("section %q: %s", section, why)
	}
	if h == nil {
		return plannedProgram{}, unsupported("section %q: this runner does not attach that hook; it attaches %s", section, strings.Join(hookNames(), ", "))
	}
	planned := plannedProgram{name: meta.Name, hook: h, target: target, spec: ps, meta: meta, object: spec}
	if h.check != nil {
		if err := h.check(&planned); err != nil {
			return plannedProgram{}, fmt.Errorf("section %q: %w", section, err)
		}
	}
	return planned, nil
}

// unsupported is the error for what a package asks for and this runner lacks.
func unsupported(format string, args ...any) error {
	return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf(format, args...), "")
}

// onInterface reports whether a program is attached to a network interface.
func (p *plan) onInterface() bool {
	return slices.ContainsFunc(p.programs, func(p plannedProgram) bool { return p.hook.onInterface })
}

// hookNames lists the sections that can be attached.
func hookNames() []string {
	var names []string
	for _, h := range hooks {
		if h.attach != nil {
			names = append(names, h.sections...)
		}
	}
	slices.Sort(names)
	return names
}

// findHook returns the hook of a section NAME or NAME/TARGET, and TARGET.
func findHook(section string) (*hook, string) {
	name, target, _ := strings.Cut(section, "/")
	for _, h := range hooks {
		if slices.Contains(h.sections, name) {
			return h, target
		}
	}
	return nil, ""
}
