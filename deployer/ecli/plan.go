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
	// target is what follows the hook's name in the section, without the slash,
	// or what the user has put in its place.
	target string
	// at is what else the user chose of the place. A program that is attached to
	// several places is planned for each.
	at manifest.Target
	// pid is the process whose user-space probes fire; 0 is every process.
	pid int
	// confined is true where this or another place of the program, which is loaded
	// once for them all, is one process.
	confined bool
	spec     *ebpf.ProgramSpec
	meta     *manifest.ProgMeta
	// usdt has the maps of usdt.bpf.h once the package is loaded; nil without.
	usdt *usdtSpecs
	// object is what the program is a part of; nil once it is attached.
	object *ebpf.CollectionSpec
	// maps are the object's maps in the kernel, and attached what was attached
	// before this program, for hooks that attach to maps. They are there from
	// when it is attached.
	maps     map[string]*ebpf.Map
	attached []io.Closer
	// order is set by the hook where it matters which of a package's programs
	// is attached first.
	order int
}

// place says in a word where the user wants the program, apart from target; empty is
// where the package does.
func (p *plannedProgram) place() string {
	if p.at == (manifest.Target{}) {
		return ""
	}
	return fmt.Sprintf("%+v", p.at)
}

// newPlanAt plans the programs of meta at the targets that a user chose, by the
// names of the programs.
func newPlanAt(meta *manifest.Meta, spec *ebpf.CollectionSpec, targets map[string][]manifest.Target) (*plan, error) {
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
	var err error
	if p.programs, err = planPrograms(meta, spec, targets); err != nil {
		return nil, err
	}
	return p, p.planExports(meta, spec)
}

// planPrograms returns the programs at each of their targets, in the order in
// which they are attached.
func planPrograms(meta *manifest.Meta, spec *ebpf.CollectionSpec, targets map[string][]manifest.Target) ([]plannedProgram, error) {
	var programs []plannedProgram
	for i := range meta.Skeleton.Progs {
		prog := &meta.Skeleton.Progs[i]
		places := targets[prog.Name]
		if len(places) == 0 {
			places = []manifest.Target{{}} // the package's
		}
		for _, at := range places {
			planned, err := planProgramAt(prog, spec, at)
			if err != nil {
				return nil, fmt.Errorf("program %s: %w", prog.Name, err)
			}
			programs = append(programs, planned)
		}
	}
	slices.SortStableFunc(programs, func(a, b plannedProgram) int { return cmp.Compare(a.order, b.order) })
	return programs, nil
}

// planProgramAt plans one program at one target; the zero one is the package's.
func planProgramAt(meta *manifest.ProgMeta, spec *ebpf.CollectionSpec, at manifest.Target) (plannedProgram, error) {
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
	if at.Section != "" {
		target = at.Section
		if ps.AttachTo != "" || ps.Type == ebpf.Tracing || ps.Type == ebpf.LSM {
			ps.AttachTo = target // for which the kernel loads it
		}
	}
	planned := plannedProgram{name: meta.Name, hook: h, target: target, at: at, pid: at.PID, spec: ps, meta: meta, object: spec}
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

// programsOf returns the programs that meta describes, which are those that are
// attached.
func programsOf(meta *manifest.Meta, spec *ebpf.CollectionSpec) map[string]*ebpf.ProgramSpec {
	programs := map[string]*ebpf.ProgramSpec{}
	for _, p := range meta.Skeleton.Progs {
		if ps := spec.Programs[p.Name]; ps != nil {
			programs[p.Name] = ps
		}
	}
	return programs
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
