// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// Attach is a user's word for where a program is attached, in place of what the
// package says: --attach PROGRAM=TARGET.
type Attach struct {
	Program string `json:"program"`
	// Target is text whose meaning depends on the program's hook; [Targets]
	// reads it.
	Target string `json:"target"`
}

// String returns a as users write it.
func (a Attach) String() string { return a.Program + "=" + a.Target }

// ParseAttach reads PROGRAM=TARGET. The target may be empty, which stands for
// what the package says. The error is of [KindUsage].
func ParseAttach(word string) (Attach, error) {
	program, target, ok := strings.Cut(word, "=")
	a := Attach{Program: program, Target: target}
	if !ok || program == "" {
		return a, usage("%q is not PROGRAM=TARGET", word)
	}
	if len(target) > maxTarget {
		return a, usage("the target of program %s has %d bytes, at most %d are taken", program, len(target), maxTarget)
	}
	if strings.ContainsFunc(word, TerminalUnsafe) {
		return a, usage("%q has a control character", word)
	}
	return a, nil
}

// maxTarget is the longest path of Linux.
const maxTarget = 4096

func usage(format string, args ...any) error {
	return WithKind(KindUsage, fmt.Errorf("attach: "+format, args...), "")
}

// Target is a place that a user chose for a program. Which fields are set
// depends on the hook; what is not set is as the package says.
type Target struct {
	// Section takes the place of what follows the hook's name in the program's
	// section, such as a kernel function or BINARY:FUNCTION.
	Section string
	// Interface is the name of a network interface, or a pattern of
	// [path.Match] for several.
	Interface string
	// Cgroup is a folder of the cgroup2 file system, relative to its root unless
	// it begins with a slash.
	Cgroup string
	// Loaded is the name or the id of a loaded program, of which a function is
	// replaced.
	Loaded string
	// Event is a key of [PerfEvents], and Frequency how many samples of it are
	// taken a second on each CPU.
	Event     string
	Frequency int
	// PID restricts a probe of user space to one process, Container to those of
	// one container, named by the first 12 or more digits of its id. Both also
	// mean that the binary is looked for in the root of those processes.
	PID       int
	Container string
}

// IsPattern reports whether t may stand for several interfaces.
func (t Target) IsPattern() bool { return strings.ContainsAny(t.Interface, `*?[\`) }

// PerfEvent is an event that the kernel counts and can sample: type and config
// of perf_event_attr (linux/perf_event.h).
type PerfEvent struct {
	Type   uint32
	Config uint64
}

// PerfEvents are those that a target may name, by the names of perf-list(1).
var PerfEvents = map[string]PerfEvent{
	"cpu-cycles":              {0, 0},
	"instructions":            {0, 1},
	"cache-references":        {0, 2},
	"cache-misses":            {0, 3},
	"branch-instructions":     {0, 4},
	"branch-misses":           {0, 5},
	"bus-cycles":              {0, 6},
	"stalled-cycles-frontend": {0, 7},
	"stalled-cycles-backend":  {0, 8},
	"ref-cycles":              {0, 9},
	"cpu-clock":               {1, 0},
	"task-clock":              {1, 1},
	"page-faults":             {1, 2},
	"context-switches":        {1, 3},
	"cpu-migrations":          {1, 4},
	"minor-faults":            {1, 5},
	"major-faults":            {1, 6},
}

// A targetKind says what the target of a hook's programs is.
type targetKind struct {
	// parse reads one target; nil is a hook that takes none.
	parse func(text string) (Target, error)
	// single is true where a program is loaded for its target, so that it has
	// one.
	single bool
	// list is true where a comma stands between several.
	list bool
	// required is true where a section may leave the target out, and nothing
	// else says it.
	required bool
}

var (
	noTarget        = targetKind{}
	sectionTarget   = targetKind{parse: parseSectionTarget}
	interfaceTarget = targetKind{parse: parseInterfaceTarget, list: true}
	cgroupTarget    = targetKind{parse: parseCgroupTarget}
	userTarget      = targetKind{parse: parseUserTarget, required: true}
)

// hookTargets has the hooks whose target is not simply what follows the hook's
// name in the section. Those of interfaces are in the table of rights.
var hookTargets = map[Hook]targetKind{
	HookTracepoint: {parse: parseTracepointTarget, required: true},
	// The types of its arguments, against which it is verified, are those of
	// the target.
	HookTPBTF:  {parse: parseSectionTarget, single: true, required: true},
	HookFentry: {parse: parseSectionTarget, single: true, required: true},
	HookLSM:    {parse: parseSectionTarget, single: true, required: true},
	// The section says the function, the target the program that has it.
	HookFreplace: {parse: parseLoadedTarget, single: true},
	// A kernel function, or a pattern of them.
	HookKprobe:      {parse: parseSectionTarget, required: true},
	HookKprobeMulti: {parse: parseSectionTarget, required: true},
	HookKsyscall:    {parse: parseSectionTarget, required: true},
	// A raw tracepoint has no types.
	HookRawTracepoint: {parse: parseSectionTarget, required: true},
	HookUprobe:        userTarget,
	HookPerfEvent:     {parse: parseSampleTarget},
	HookCgroup:        cgroupTarget,
	HookSockOps:       cgroupTarget,
	HookLSMCgroup:     cgroupTarget,
	// What the section says of these is what they do, not where.
	HookIter:          noTarget,
	HookSKLookup:      noTarget,
	HookSKMsg:         noTarget,
	HookSKSKB:         noTarget,
	HookFlowDissector: noTarget,
	HookNetfilter:     noTarget,
	HookStructOps:     noTarget,
}

func targetKindOf(p *ebpf.ProgramSpec) (Hook, targetKind, error) {
	hook, err := HookOf(p)
	if err != nil {
		return "", noTarget, err
	}
	if hookRights[hook].onInterface {
		return hook, interfaceTarget, nil
	}
	if kind, ok := hookTargets[hook]; ok {
		return hook, kind, nil
	}
	return hook, sectionTarget, nil
}

// Targets reads where a user wants these programs, of an object or of a
// package: those that attach names by its targets, and the others that are
// attached to network interfaces on iface, if it is not empty. A program that is
// not in the result is attached where the package says. A program may be named
// several times, with a target each, unless it is loaded for its target.
//
// The error is of [KindUsage]: no program of that name, a hook that takes no
// target, a target that its hook does not know.
func Targets(programs map[string]*ebpf.ProgramSpec, iface string, attach []Attach) (map[string][]Target, error) {
	targets := map[string][]Target{}
	for _, a := range attach {
		p := programs[a.Program]
		if p == nil {
			return nil, usage("the package has no program %s; it has %s", a.Program, strings.Join(slices.Sorted(maps.Keys(programs)), ", "))
		}
		hook, kind, err := targetKindOf(p)
		if err != nil {
			return nil, err
		}
		if kind.parse == nil {
			return nil, usage("program %s: a program of the hook %s takes no target", a.Program, hook)
		}
		list, err := kind.read(a.Target)
		if err != nil {
			return nil, usage("program %s: target %q: %w", a.Program, a.Target, err)
		}
		for _, t := range list {
			if slices.Contains(targets[a.Program], t) {
				return nil, usage("program %s: target %q is named twice", a.Program, a.Target)
			}
			targets[a.Program] = append(targets[a.Program], t)
		}
		if kind.single && len(targets[a.Program]) > 1 {
			return nil, usage("program %s is named twice; a program of the hook %s has one target", a.Program, hook)
		}
	}
	if iface == "" {
		return targets, nil
	}
	list, err := interfaceTarget.read(iface)
	if err != nil {
		return nil, WithKind(KindUsage, fmt.Errorf("network interface %q: %w", iface, err), "")
	}
	if !anyOnInterface(programs) {
		return nil, WithKind(KindUsage, fmt.Errorf("network interface %s: the package has no program that is attached to one", iface), "")
	}
	for name, p := range programs {
		if targets[name] == nil && onInterface(p) {
			targets[name] = list
		}
	}
	return targets, nil
}

// OnInterface reports whether a program of o is attached to a network interface.
func (o *Object) OnInterface() bool { return anyOnInterface(o.Spec.Programs) }

// IsOnInterface reports whether the program of that name is attached to one.
func (o *Object) IsOnInterface(program string) bool {
	p := o.Spec.Programs[program]
	return p != nil && onInterface(p)
}

func anyOnInterface(programs map[string]*ebpf.ProgramSpec) bool {
	for _, p := range programs {
		if onInterface(p) {
			return true
		}
	}
	return false
}

func onInterface(p *ebpf.ProgramSpec) bool {
	hook, err := HookOf(p)
	return err == nil && hookRights[hook].onInterface
}

// Targets is the function of that name for the programs of o, and refuses a
// program that neither a target, nor m, nor its section says a place for: whoever
// runs o somewhere else wants to know before.
func (o *Object) Targets(m *Meta, iface string, attach []Attach) (map[string][]Target, error) {
	targets, err := Targets(o.Spec.Programs, iface, attach)
	if err != nil {
		return nil, err
	}
	for i := range m.Skeleton.Progs {
		meta := &m.Skeleton.Progs[i]
		p := o.Spec.Programs[meta.Name]
		if p == nil || len(targets[meta.Name]) > 0 && targets[meta.Name][0].hasPlace() {
			continue
		}
		hook, kind, err := targetKindOf(p)
		if err != nil {
			return nil, err
		}
		_, said, _ := strings.Cut(p.SectionName, "/")
		switch {
		case (hook == HookSocket || hook == HookNetkit) && meta.Extra["ifindex"] == nil:
			return nil, WithKind(KindUsage, fmt.Errorf("program %s: the package does not say on which network interface", meta.Name),
				fmt.Sprintf("Choose one: --attach %s=NAME, or --interface NAME for all programs.", meta.Name))
		case kind.required && said == "":
			return nil, WithKind(KindUsage, fmt.Errorf("program %s: its section %s does not say where it is attached", meta.Name, p.SectionName),
				fmt.Sprintf("Choose a place: --attach %s=TARGET.", meta.Name))
		}
	}
	return targets, nil
}

// hasPlace reports whether t says more than a restriction.
func (t Target) hasPlace() bool {
	t.PID, t.Container = 0, ""
	return t != Target{}
}

func (k targetKind) read(text string) ([]Target, error) {
	words := []string{text}
	if k.list {
		words = strings.Split(text, ",")
	}
	var list []Target
	for _, word := range words {
		if word == "" {
			return nil, errors.New("it is empty")
		}
		t, err := k.parse(word)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

func parseSectionTarget(text string) (Target, error) { return Target{Section: text}, nil }

func parseLoadedTarget(text string) (Target, error) { return Target{Loaded: text}, nil }

// parseTracepointTarget reads GROUP/NAME or, as perf writes it, GROUP:NAME.
func parseTracepointTarget(text string) (Target, error) {
	group, name, ok := strings.Cut(text, "/")
	if !ok {
		group, name, ok = strings.Cut(text, ":")
	}
	if !ok || group == "" || name == "" {
		return Target{}, errors.New("a tracepoint is GROUP/NAME")
	}
	return Target{Section: group + "/" + name}, nil
}

// maxInterfaceName is IFNAMSIZ of linux/if.h without the NUL.
const maxInterfaceName = 15

func parseInterfaceTarget(text string) (Target, error) {
	t := Target{Interface: text}
	if strings.ContainsAny(text, "/: \t\n") {
		return t, errors.New("no network interface has such a name")
	}
	if !t.IsPattern() && len(text) > maxInterfaceName {
		return t, fmt.Errorf("the name of a network interface has at most %d bytes", maxInterfaceName)
	}
	if _, err := path.Match(text, ""); err != nil {
		return t, errors.New("it is no pattern: a [ has no ]")
	}
	return t, nil
}

// CgroupRoot is the folder in or below which cgroup2 is mounted.
const CgroupRoot = "/sys/fs/cgroup"

func parseCgroupTarget(text string) (Target, error) {
	if slices.Contains(strings.Split(text, "/"), "..") {
		return Target{}, errors.New("there may be no .. in the path of a cgroup")
	}
	clean := path.Clean(text)
	if path.IsAbs(clean) && clean != CgroupRoot && !strings.HasPrefix(clean, CgroupRoot+"/") {
		return Target{}, fmt.Errorf("it is not in %s; a path without a slash in front is relative to the root of cgroup2", CgroupRoot)
	}
	return Target{Cgroup: clean}, nil
}

// maxFrequency is far above what a kernel allows, which
// /proc/sys/kernel/perf_event_max_sample_rate says.
const maxFrequency = 1_000_000

// parseSampleTarget reads EVENT, EVENT@HZ or @HZ.
func parseSampleTarget(text string) (Target, error) {
	var t Target
	event, frequency, ok := strings.Cut(text, "@")
	if ok {
		hz, err := strconv.ParseUint(frequency, 10, 32)
		if err != nil || hz == 0 || hz > maxFrequency {
			return t, fmt.Errorf("%q is no number of samples a second", frequency)
		}
		t.Frequency = int(hz)
	}
	if _, known := PerfEvents[event]; !known && event != "" {
		return t, fmt.Errorf("there is no event %q; there are %s", event, strings.Join(slices.Sorted(maps.Keys(PerfEvents)), ", "))
	}
	t.Event = event
	return t, nil
}

// maxPID is PID_MAX_LIMIT of linux/threads.h on 64 bits.
const maxPID = 1 << 22

// parseUserTarget reads BINARY:PLACE, BINARY:PLACE,RESTRICTION or RESTRICTION,
// where a restriction is pid=NUMBER or container=ID.
func parseUserTarget(text string) (Target, error) {
	var t Target
	place, restriction := cutRestriction(text)
	if place != "" {
		binary, symbol, ok := strings.Cut(place, ":")
		if !ok || binary == "" || symbol == "" {
			return t, errors.New("a place in user space is BINARY:FUNCTION")
		}
		if strings.Contains(symbol, ",") {
			return t, errors.New("behind the comma goes pid=NUMBER or container=ID, one of them")
		}
		t.Section = place
	}
	key, value, _ := strings.Cut(restriction, "=")
	switch key {
	case "pid":
		pid, err := strconv.ParseUint(value, 10, 32)
		if err != nil || pid == 0 || pid > maxPID {
			return t, fmt.Errorf("%q is no process id", value)
		}
		t.PID = int(pid)
	case "container":
		// Kubernetes writes RUNTIME://ID in the status of a Pod.
		if _, id, ok := strings.Cut(value, "://"); ok {
			value = id
		}
		if len(value) < 12 || len(value) > 64 || strings.Trim(value, "0123456789abcdef") != "" {
			return t, fmt.Errorf("%q is no container id: it takes the 64 hexadecimal digits, or the first 12 or more of them", value)
		}
		t.Container = value
	}
	return t, nil
}

func cutRestriction(text string) (place, restriction string) {
	for _, key := range []string{"pid=", "container="} {
		if strings.HasPrefix(text, key) {
			return "", text
		}
		if i := strings.LastIndex(text, ","+key); i >= 0 {
			return text[:i], text[i+1:]
		}
	}
	return text, ""
}
