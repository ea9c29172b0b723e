// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ebpm/ebpm/manifest"
	corev1 "k8s.io/api/core/v1"
)

// flagHandover is the runner's option that makes its instances hand over,
// flagReset the one that lets maps start empty whose layout changed.
const (
	flagHandover = "--handover"
	flagReset    = "--reset-state"
)

// version is what an upgrade leaves, or goes to: a Pod template, which may be
// that of a revision.
type version struct {
	name string // for sentences
	move move
	spec *corev1.PodSpec
}

// handsOver reports whether instances hand over to each other. The Pod says it,
// and not an annotation: anyone may edit a template.
func (v version) handsOver() bool { return slices.Contains(runner(v.spec).Command, flagHandover) }

func (v version) resets() bool { return slices.Contains(runner(v.spec).Command, flagReset) }

// setReset makes instances let maps start empty whose layout changed, or not.
func setReset(spec *corev1.PodSpec, reset bool) {
	c := runner(spec)
	c.Command = slices.DeleteFunc(slices.Clone(c.Command), func(word string) bool { return word == flagReset })
	if reset {
		// The last word is the package.
		c.Command = slices.Insert(c.Command, len(c.Command)-1, flagReset)
	}
}

func (rev *revision) version() version {
	return version{fmt.Sprintf("revision %d", rev.number), rev.move, &rev.template.Spec}
}

// version returns what the release is to be now.
func (r *release) version() version {
	if cur := r.current(); cur != nil {
		return cur.version()
	}
	return version{"the release", r.move, &r.ds.Spec.Template.Spec}
}

// running returns what an upgrade leaves: on each node the version of the
// instance that took over last. Where no instance is ready it is what the release
// is to be.
func (r *release) running(pods []corev1.Pod) []version {
	last := map[string]*corev1.Pod{}
	for i := range pods {
		pod := &pods[i]
		if pod.DeletionTimestamp != nil || !podReady(pod) || r.byHash(hashOf(pod)) == nil {
			continue
		}
		before := last[nodeNameOf(pod)]
		if before == nil || readySince(before).Before(readySince(pod)) ||
			readySince(before).Equal(readySince(pod)) && r.byHash(hashOf(before)).number < r.byHash(hashOf(pod)).number {
			last[nodeNameOf(pod)] = pod
		}
	}
	var all []version
	for i := range r.revisions {
		rev := &r.revisions[i]
		for _, pod := range last {
			if hashOf(pod) == rev.hash {
				all = append(all, rev.version())
				break
			}
		}
	}
	if len(all) == 0 {
		all = append(all, r.version())
	}
	return all
}

// exclusive is a program that keeps its successor out until it has ended, and
// why nothing changes that. It is empty where there is none.
type exclusive struct{ program, why string }

// exclusiveOn returns such a program of a version on some nodes.
func (v version) exclusiveOn(nodes []Node) exclusive {
	if v.move.Exclusive == "" {
		return exclusive{}
	}
	if !v.handsOver() {
		return exclusive{v.move.Exclusive, v.name + " does not hand it over"}
	}
	for _, n := range nodes {
		if v.move.Moves[v.move.Exclusive].On(n.Kernel) == manifest.Naive {
			return exclusive{v.move.Exclusive, fmt.Sprintf("Linux %s of node %s cannot hand it over", n.Kernel, n.Name)}
		}
	}
	return exclusive{}
}

// exclusiveIn returns a program, of next or of a kept revision, that cannot run
// beside its successor and is not handed over. kubectl rollout undo restores a
// template and keeps the strategy, so the strategy must suit every kept revision.
// r may be nil.
func (r *release) exclusiveIn(next version, nodes []Node) exclusive {
	all := []version{next}
	if r != nil {
		all = append(all, r.version())
		for i := range r.revisions {
			kept := r.revisions[i].version()
			kept.name += ", which is kept to go back to,"
			all = append(all, kept)
		}
	}
	for _, v := range all {
		if e := v.exclusiveOn(nodes); e.program != "" {
			return e
		}
	}
	return exclusive{}
}

// An upgrade is how instances get from one version to another.
type upgrade struct {
	// notes say it.
	notes []string
	// reset are the maps that start empty because their layout changed, unknown is
	// true where it is not known whether there are such.
	reset   []string
	unknown bool
	leaves  string // the version whose layouts differ
}

// upgradeFrom compares what runs with what is to run on nodes. It is pure.
func upgradeFrom(running []version, next version, nodes []Node, e exclusive) upgrade {
	var u upgrade
	note := func(format string, args ...any) { u.notes = append(u.notes, fmt.Sprintf(format, args...)) }
	lost := func(why string) {
		if maps := next.mapNames(); len(maps) > 0 {
			note("What maps hold is not carried over (%s); these start empty: %s.", why, strings.Join(maps, ", "))
		}
	}
	if e.program != "" {
		note("The kernel gives the hook of program %s to one program at a time, and %s: on each node the old instance ends before the new one starts, and events in between are not seen.", e.program, e.why)
		lost("the old instance is gone by then")
		return u
	}
	if !next.handsOver() {
		note("On each node old and new instance both live for a moment, in which events are seen twice: %s does not hand over.", next.name)
		lost("instances do not hand over")
		return u
	}
	var from []version
	for _, v := range running {
		if v.handsOver() {
			from = append(from, v)
			continue
		}
		note("%s does not hand over: where it runs, old and new instance both live for a moment, in which events are seen twice.", capital(v.name))
		lost(v.name + " does not hand over")
	}
	if len(from) == 0 {
		return u
	}
	u.notes = append(u.notes, waysOf(from, next, nodes)...)
	u.compareState(from, next, nodes)
	return u
}

// waysOf says how programs move.
func waysOf(from []version, next version, nodes []Node) (notes []string) {
	ways := map[manifest.Way][]string{}
	var retargeted []string
	// Nodes whose kernel has a worse way, by that and the programs.
	old := map[manifest.Way]map[string][]string{manifest.NearExact: {}, manifest.Naive: {}}
	for _, name := range sortedKeys(next.move.Moves) {
		ways[next.move.Moves[name].Way] = append(ways[next.move.Moves[name].Way], name)
		if slices.ContainsFunc(from, func(v version) bool { return v.targetDiffers(next, name) }) {
			retargeted = append(retargeted, name)
		}
	}
	for _, n := range nodes {
		worse := map[manifest.Way][]string{}
		for _, name := range sortedKeys(next.move.Moves) {
			m := next.move.Moves[name]
			if way := m.On(n.Kernel); way != m.Way {
				worse[way] = append(worse[way], name)
			}
		}
		for way, programs := range worse {
			key := strings.Join(programs, ", ")
			old[way][key] = append(old[way][key], fmt.Sprintf("%s (Linux %s)", n.Name, n.Kernel))
		}
	}
	if names := ways[manifest.Exact]; len(names) > 0 {
		notes = append(notes, fmt.Sprintf("Handed over exactly, no event is lost or seen twice: %s.", strings.Join(names, ", ")))
	}
	if names := ways[manifest.NearExact]; len(names) > 0 {
		notes = append(notes, fmt.Sprintf("Handed over near exactly, an event at the moment of the switch may be lost or seen twice: %s.", strings.Join(names, ", ")))
	}
	if names := ways[manifest.Naive]; len(names) > 0 {
		notes = append(notes, fmt.Sprintf("Not handed over, while old and new instance both live events are seen twice: %s.", strings.Join(names, ", ")))
	}
	if len(retargeted) > 0 {
		notes = append(notes, fmt.Sprintf("At another target than before, an event on each processor at the moment of the switch may be lost or seen twice: %s.", strings.Join(retargeted, ", ")))
	}
	near, naive := old[manifest.NearExact], old[manifest.Naive]
	for _, programs := range sortedKeys(near) {
		notes = append(notes, fmt.Sprintf("Handed over near exactly on %s, whose kernel is older than 6.6, an event at the moment of the switch may be lost or seen twice: %s.", strings.Join(near[programs], ", "), programs))
	}
	for _, programs := range sortedKeys(naive) {
		notes = append(notes, fmt.Sprintf("Not handed over on %s, whose kernel is too old (5.15 is needed, for struct_ops 6.4): while old and new instance both live, events of %s are seen twice.", strings.Join(naive[programs], ", "), programs))
	}
	return notes
}

// targetDiffers reports whether a program of v has another target in next.
func (v version) targetDiffers(next version, program string) bool {
	section := func(v version) (string, bool) {
		for _, p := range v.move.Programs {
			if p.Name == program {
				return p.Section, true
			}
		}
		return "", false
	}
	was, ok := section(v)
	is, _ := section(next)
	return ok && (was != is || v.move.Interface != next.move.Interface || !slices.Equal(v.placesOf(program), next.placesOf(program)))
}

// placesOf returns where v was told to attach a program.
func (v version) placesOf(program string) []string {
	var places []string
	for _, a := range v.move.Attach {
		if a.Program == program {
			places = append(places, a.Target)
		}
	}
	return places
}

// compareState says what becomes of the content of maps.
func (u *upgrade) compareState(from []version, next version, nodes []Node) {
	carried, reset, gone := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, v := range from {
		if v.move.State == nil {
			u.unknown = true
			u.notes = append(u.notes, fmt.Sprintf("%s does not say which maps it has: whether what they hold is carried over is not known.", capital(v.name)))
		}
		for _, architecture := range architecturesOf(nodes) {
			for name, layout := range v.move.State[architecture] {
				switch now, ok := next.move.State[architecture][name]; {
				case !ok:
					gone[name] = true
				case now != layout:
					reset[name] = true
					u.leaves = v.name
				default:
					carried[name] = true
				}
			}
		}
	}
	u.reset = sortedKeys(reset)
	for _, name := range u.reset {
		delete(carried, name) // on some nodes it is not
	}
	if names := sortedKeys(carried); len(names) > 0 {
		u.notes = append(u.notes, fmt.Sprintf("What these maps hold is carried over: %s.", strings.Join(names, ", ")))
	}
	if len(u.reset) > 0 {
		u.notes = append(u.notes, fmt.Sprintf("RESET: these maps start empty, because their layout is not that of %s: %s.", u.leaves, strings.Join(u.reset, ", ")))
	}
	if names := sortedKeys(gone); len(names) > 0 {
		u.notes = append(u.notes, fmt.Sprintf("What these maps hold goes, since the new version carries no such maps over: %s.", strings.Join(names, ", ")))
	}
}

// mayReset reports whether maps start empty because their layout changed, as far
// as is known.
func (u upgrade) mayReset() bool { return len(u.reset) > 0 || u.unknown }

// refuse returns the error of an upgrade that loses the content of maps although
// nobody asked for that.
func (u upgrade) refuse(release, verb string) error {
	return manifest.WithKind(manifest.KindConflict,
		fmt.Errorf("release %s: what map %s holds would be lost: its layout is not that of %s", release, strings.Join(u.reset, ", "), u.leaves),
		fmt.Sprintf("ebpm %s %s lets it start empty; nothing was changed.", verb, flagReset))
}

// mapNames returns the maps whose content would be carried over.
func (v version) mapNames() []string {
	names := map[string]bool{}
	for _, layouts := range v.move.State {
		for name := range layouts {
			names[name] = true
		}
	}
	return sortedKeys(names)
}

func architecturesOf(nodes []Node) []string {
	all := map[string]bool{}
	for _, n := range nodes {
		all[n.Architecture] = true
	}
	return sortedKeys(all)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
