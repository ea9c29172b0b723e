// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

func mustPlan(t *testing.T, o DeployOptions, nodes []Node, current *release) *Plan {
	t.Helper()
	if o.Image == "" {
		o.Image = testImage
	}
	if o.Name == "" {
		o.Name = "opensnoop"
	}
	p, err := plan("ebpm", o, nodes, current, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanYAML(t *testing.T) {
	tests := []struct {
		name  string
		o     func(t *testing.T) DeployOptions
		nodes []Node
	}{
		{"opensnoop-all", func(t *testing.T) DeployOptions {
			return DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}}
		}, []Node{testNode("node1"), testNode("node2")}},
		{"opensnoop-nodes", func(t *testing.T) DeployOptions {
			return DeployOptions{
				Package:    testPackage(t, "event-one", "opensnoop", "1.0.0"),
				Targets:    &Targets{Nodes: []string{"node2", "node1", "node2"}},
				Args:       []string{"--min", "5"},
				PullSecret: "team-registry",
			}
		}, []Node{testNode("node1"), withTaint(testNode("node2"), "dedicated", "gpu"), testNode("node3")}},
		{"xdp-node", func(t *testing.T) DeployOptions {
			return DeployOptions{
				Name: "xdpcount", Package: testPackage(t, "run-xdp", "xdpcount", "1.0.0"),
				Targets: &Targets{Nodes: []string{"node1"}}, Interface: "eth0",
			}
		}, []Node{testNode("node1"), testNode("node2")}},
		{"tc-node", func(t *testing.T) DeployOptions {
			return DeployOptions{
				Name: "tccount", Package: testPackage(t, "run-tc", "tccount", "1.0.0"),
				Targets: &Targets{Nodes: []string{"node1"}}, Interface: "eth0",
			}
		}, []Node{testNode("node1")}},
		{"xdp-attach", func(t *testing.T) DeployOptions {
			return DeployOptions{
				Name: "xdpcount", Package: testPackage(t, "run-xdp", "xdpcount", "1.0.0"), Targets: &Targets{All: true},
				Attach: []manifest.Attach{{Program: "on_packet", Target: "veth*"}, {Program: "on_packet", Target: "$(HOSTNAME)"}},
			}
		}, []Node{testNode("node1")}},
		// A process of the node must be in sight, and its root.
		{"uprobe-container", func(t *testing.T) DeployOptions {
			return DeployOptions{
				Name: "calls", Package: testPackage(t, "run-uprobe", "calls", "1.0.0"), Targets: &Targets{Nodes: []string{"node1"}},
				Attach: []manifest.Attach{{Program: "on_call", Target: "libc.so.6:getsid,container=0123456789ab"}},
			}
		}, []Node{testNode("node1")}},
		{"cgroup-all", func(t *testing.T) DeployOptions {
			return DeployOptions{Name: "connects", Package: testPackage(t, "run-cgroup", "connects", "1.0.0"), Targets: &Targets{All: true}}
		}, []Node{testNode("node1")}},
		// Kubernetes makes of each word what the user wrote.
		{"dollars", func(t *testing.T) DeployOptions {
			return DeployOptions{
				Name: "xdpcount", Package: testPackage(t, "run-xdp", "xdpcount", "1.0.0"), Targets: &Targets{Nodes: []string{"node1"}},
				Interface: "$(HOSTNAME)", Args: []string{"--comm", "$(PATH)", "a$$b", "$"},
			}
		}, []Node{testNode("node1")}},
		{"btf-archive", func(t *testing.T) DeployOptions {
			o := DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}}
			o.Package.Platforms[0].BTFSize = 1 << 20
			return o
		}, []Node{testNode("node1")}},
		// Stacks with symbols take rights, and memory for the symbols.
		{"profile-all", func(t *testing.T) DeployOptions {
			return DeployOptions{Name: "profile", Package: testPackage(t, "profile", "profile", "1.0.0"), Targets: &Targets{All: true}}
		}, []Node{testNode("node1")}},
		{"two-architectures", func(t *testing.T) DeployOptions {
			return DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0", "arm64"), Targets: &Targets{All: true}}
		}, []Node{testNode("node1"), withArch(testNode("node2"), "arm64"), withArch(testNode("node3"), "riscv64")}},
		{"uprobe-old-kernel", func(t *testing.T) DeployOptions {
			return DeployOptions{Name: "bashreadline", Package: testPackage(t, "run-uprobe", "bashreadline", "1.0.0"), Targets: &Targets{All: true}}
		}, []Node{testNode("node1"), withKernel(testNode("node2"), "6.1.0-18-cloud-amd64")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := mustPlan(t, tt.o(t), tt.nodes, nil).YAML()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name+".yaml", out)
		})
	}
}

func TestPlanHash(t *testing.T) {
	options := func() DeployOptions {
		return DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}, Args: []string{"-p", "1"}}
	}
	nodes := []Node{testNode("node1"), testNode("node2")}
	base := mustPlan(t, options(), nodes, nil).Hash
	tests := []struct {
		name   string
		change func(*DeployOptions) []Node
		equal  bool
	}{
		{"the same", func(o *DeployOptions) []Node { return nodes }, true},
		{"another order of nodes", func(o *DeployOptions) []Node { return []Node{nodes[1], nodes[0]} }, true},
		{"one more node of the same size", func(o *DeployOptions) []Node { return append(slices.Clone(nodes), testNode("node3")) }, true},
		{"a node that is down", func(o *DeployOptions) []Node {
			down := testNode("node2")
			down.Ready = false
			return []Node{nodes[0], down}
		}, true},
		{"another tag of the same digest", func(o *DeployOptions) []Node {
			o.Package.Reference.Tag = "stable"
			return nodes
		}, true},
		{"another digest of the same tag", func(o *DeployOptions) []Node {
			o.Package.Reference = o.Package.Reference.WithDigest(digest.FromString("other"))
			return nodes
		}, false},
		{"other arguments", func(o *DeployOptions) []Node { o.Args = []string{"-p", "2"}; return nodes }, false},
		{"other targets", func(o *DeployOptions) []Node { o.Targets = &Targets{Nodes: []string{"node1"}}; return nodes }, false},
		{"another image", func(o *DeployOptions) []Node { o.Image = "registry.example/other:1"; return nodes }, false},
		{"a place", func(o *DeployOptions) []Node {
			o.Attach = []manifest.Attach{{Program: "on_fork", Target: "sched/sched_process_exit"}}
			return nodes
		}, false},
		{"a pull secret", func(o *DeployOptions) []Node { o.PullSecret = "x"; return nodes }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := options()
			got := mustPlan(t, o, nodes, nil)
			if got.Hash != base {
				t.Fatal("the hash of equal input changed")
			}
			n := tt.change(&o)
			if got := mustPlan(t, o, n, nil).Hash; (got == base) != tt.equal {
				t.Errorf("equal hash: %v, want %v", got == base, tt.equal)
			}
		})
	}
}

// planned returns the release that a plan becomes.
func planned(t *testing.T, p *Plan, id int64) *release {
	t.Helper()
	ds := p.DaemonSet.DeepCopy()
	ds.Generation = 1
	ds.Spec.Template.Annotations[annotationID] = strconv.FormatInt(id, 10)
	return &release{ds: ds, move: readMove(ds.Spec.Template.Annotations)}
}

func TestPlanMoves(t *testing.T) {
	nodes := []Node{testNode("node1"), testNode("node2")}
	first := mustPlan(t, DeployOptions{
		Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{Nodes: []string{"node1"}},
		Args: []string{"-p", "1"}, PullSecret: "team",
	}, nodes, nil)
	current := planned(t, first, 7)

	t.Run("kept", func(t *testing.T) {
		p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0")}, nodes, current)
		if p.Action != ActionUnchanged || len(p.Changes) != 0 {
			t.Errorf("action %q, changes %q", p.Action, p.Changes)
		}
	})
	t.Run("upgrade keeps targets, arguments and secret", func(t *testing.T) {
		p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.1.0")}, nodes, current)
		if p.Action != ActionUpdated {
			t.Fatalf("action %q", p.Action)
		}
		if len(p.Changes) != 2 || p.Changes[0] != "tag: 1.0.0 -> 1.1.0" || !strings.HasPrefix(p.Changes[1], "digest: ") {
			t.Errorf("changes %q", p.Changes)
		}
		m := readMove(p.DaemonSet.Spec.Template.Annotations)
		if !m.Targets.Equal(Targets{Nodes: []string{"node1"}}) || !slices.Equal(m.Args, []string{"-p", "1"}) || pullSecretOf(&p.DaemonSet.Spec.Template.Spec) != "team" {
			t.Errorf("not kept: %+v", m)
		}
		if !has(p.Notes, "no event is lost or seen twice: on_fork") {
			t.Errorf("notes do not say how programs move: %q", p.Notes)
		}
	})
	t.Run("an empty list clears the arguments", func(t *testing.T) {
		p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Args: []string{}}, nodes, current)
		if want := []string{`arguments: ["-p" "1"] -> []`}; !slices.Equal(p.Changes, want) {
			t.Errorf("changes %q, want %q", p.Changes, want)
		}
	})
	t.Run("other targets restart everything", func(t *testing.T) {
		p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}}, nodes, current)
		if !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, "restarts every instance") }) {
			t.Errorf("notes %q", p.Notes)
		}
	})
	t.Run("an edit outside is not unchanged", func(t *testing.T) {
		edited := planned(t, first, 7)
		original := edited.ds.Spec.Template.DeepCopy()
		edited.revisions = []revision{{number: 1, template: *original, move: edited.move}}
		edited.ds.Spec.Template.Spec.Containers[0].Image = "evil:1"
		p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0")}, nodes, edited)
		if p.Action != ActionUpdated || !slices.Contains(p.Changes, "image: evil:1 -> "+testImage) {
			t.Errorf("action %q, changes %q", p.Action, p.Changes)
		}
	})
	t.Run("a node of the targets has gone", func(t *testing.T) {
		two := planned(t, mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{Nodes: []string{"node1", "node2"}}}, nodes, nil), 8)
		p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0")}, nodes[:1], two)
		if p.Action != ActionUnchanged || len(p.Skipped) != 1 || p.Skipped[0].Node != "node2" {
			t.Errorf("action %q, skipped %v", p.Action, p.Skipped)
		}
	})
}

// TestPlanMovesAttach follows the places of programs through the moves of a
// release.
func TestPlanMovesAttach(t *testing.T) {
	nodes := []Node{testNode("node1")}
	move := func(t *testing.T, current *release, iface string, words ...string) *Plan {
		t.Helper()
		o := DeployOptions{Package: testPackage(t, "run-uprobe", "calls", "1.0.0"), Targets: &Targets{All: true}, Interface: iface}
		if iface != "" {
			o.Package = testPackage(t, "run-xdp", "calls", "1.0.0")
		}
		for _, word := range words {
			a, err := manifest.ParseAttach(word)
			if err != nil {
				t.Fatal(err)
			}
			o.Attach = append(o.Attach, a)
		}
		return mustPlan(t, o, nodes, current)
	}
	attached := func(p *Plan) string {
		return quoteAttach(readMove(p.DaemonSet.Spec.Template.Annotations).Attach)
	}
	first := move(t, nil, "", "on_return=pid=8", "on_call=pid=7", "on_call=pid=6")
	if got, want := attached(first), `"on_call=pid=6" "on_call=pid=7" "on_return=pid=8"`; got != want {
		t.Fatalf("attached to %s, want %s", got, want)
	}
	current := planned(t, first, 1)
	for _, tt := range []struct {
		words  []string
		want   string
		action Action
	}{
		{nil, `"on_call=pid=6" "on_call=pid=7" "on_return=pid=8"`, ActionUnchanged},
		{[]string{"on_call=pid=7", "on_call=pid=6"}, `"on_call=pid=6" "on_call=pid=7" "on_return=pid=8"`, ActionUnchanged},
		{[]string{"on_call=pid=9"}, `"on_call=pid=9" "on_return=pid=8"`, ActionUpdated},
		{[]string{"on_call="}, `"on_return=pid=8"`, ActionUpdated},
		{[]string{"on_call=", "on_return="}, "", ActionUpdated},
	} {
		p := move(t, current, "", tt.words...)
		if got := attached(p); got != tt.want || p.Action != tt.action {
			t.Errorf("%q: %s, attached to %s", tt.words, p.Action, got)
		}
		change := fmt.Sprintf(`attach: ["on_call=pid=6" "on_call=pid=7" "on_return=pid=8"] -> [%s]`, tt.want)
		if slices.Contains(p.Changes, change) != (tt.action == ActionUpdated) {
			t.Errorf("%q: changes %q", tt.words, p.Changes)
		}
	}
	t.Run("an interface for all takes the place of those that were named", func(t *testing.T) {
		named := planned(t, move(t, nil, "lo", "on_packet=eth0,eth1"), 1)
		if p := move(t, named, "veth*"); attached(p) != "" || readMove(p.DaemonSet.Spec.Template.Annotations).Interface != "veth*" {
			t.Errorf("attached to %s", attached(p))
		}
	})
	t.Run("a program that the new package lacks", func(t *testing.T) {
		o := DeployOptions{Name: "calls", Image: testImage, Package: testPackage(t, "event-one", "calls", "2.0.0")}
		_, err := plan("ebpm", o, nodes, current, nil)
		wantKind(t, err, manifest.KindUsage, "no program on_call", `The release had "on_call=pid=6"`, "--attach on_call= takes that away")
		o.Attach = []manifest.Attach{{Program: "on_call"}, {Program: "on_return"}}
		if _, err := plan("ebpm", o, nodes, current, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestPlanRefuses(t *testing.T) {
	nodes := []Node{testNode("node1")}
	opensnoop := func() *Package { return testPackage(t, "event-one", "opensnoop", "1.0.0") }
	tests := []struct {
		name  string
		o     DeployOptions
		nodes []Node
		kind  manifest.Kind
		text  string
	}{
		{"no target", DeployOptions{Package: opensnoop()}, nodes, manifest.KindUsage, "--all"},
		{"both targets", DeployOptions{Package: opensnoop(), Targets: &Targets{All: true, Nodes: []string{"node1"}}}, nodes, manifest.KindUsage, "exclude each other"},
		{"a node that does not exist", DeployOptions{Package: opensnoop(), Targets: &Targets{Nodes: []string{"node9"}}}, nodes, manifest.KindNotFound, "node9"},
		{"no node matches", DeployOptions{Package: opensnoop(), Targets: &Targets{All: true}}, []Node{{Name: "arm", OS: "linux", Architecture: "arm64"}}, manifest.KindNotFound, "arm64"},
		{"an empty cluster", DeployOptions{Package: opensnoop(), Targets: &Targets{All: true}}, nil, manifest.KindNotFound, "no node matches"},
		{"a named node of another architecture", DeployOptions{Package: opensnoop(), Targets: &Targets{Nodes: []string{"arm"}}}, []Node{{Name: "arm", OS: "linux", Architecture: "arm64"}}, manifest.KindPrecondition, "it is arm64"},
		{"an interface for a tracepoint", DeployOptions{Package: opensnoop(), Targets: &Targets{All: true}, Interface: "eth0"}, nodes, manifest.KindUsage, "no program that is attached to one"},
		{"a program that is not there", DeployOptions{Package: opensnoop(), Targets: &Targets{All: true}, Attach: []manifest.Attach{{Program: "nosuch", Target: "eth0"}}}, nodes, manifest.KindUsage, "no program nosuch; it has on_fork"},
		{"a target of another hook", DeployOptions{Package: opensnoop(), Targets: &Targets{All: true}, Attach: []manifest.Attach{{Program: "on_fork", Target: "eth0"}}}, nodes, manifest.KindUsage, "a tracepoint is GROUP/NAME"},
		{"a socket filter without an interface", DeployOptions{Package: inSection(opensnoop(), "socket", ebpf.SocketFilter), Targets: &Targets{All: true}}, nodes, manifest.KindUsage, "--attach on_fork=NAME, or --interface NAME"},
		{"a uprobe without a function", DeployOptions{Package: inSection(opensnoop(), "uprobe", ebpf.Kprobe), Targets: &Targets{All: true}}, nodes, manifest.KindUsage, "--attach on_fork=TARGET"},
		{"a kernel that the author excludes", DeployOptions{Package: requiring(opensnoop(), ">=7.0"), Targets: &Targets{All: true}}, nodes, manifest.KindPrecondition, "node1 has kernel 6.12.9"},
		{"a layout", DeployOptions{Package: &Package{Reference: manifest.Reference{Scheme: manifest.SchemeLayout, Path: "x"}}, Targets: &Targets{All: true}}, nodes, manifest.KindUsage, "layout"},
		{"more memory than a node has", DeployOptions{Package: opensnoop(), Targets: &Targets{All: true}}, []Node{{Name: "small", OS: "linux", Architecture: "amd64", Memory: 64 << 20, Kernel: "6.12.0", Ready: true}}, manifest.KindPrecondition, "small"},
		{"an image without a node's architecture", DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0", "arm64"), Targets: &Targets{All: true}, ImagePlatforms: []manifest.Platform{linux("amd64")}}, []Node{testNode("node1"), withArch(testNode("arm"), "arm64")}, manifest.KindPrecondition, "node arm is arm64; the runner's image " + testImage + " is for linux/amd64"},
		{"an image for no Linux", DeployOptions{Package: opensnoop(), Targets: &Targets{All: true}, ImagePlatforms: []manifest.Platform{}}, nodes, manifest.KindPrecondition, "is for no platform of Linux"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Name, tt.o.Image = "opensnoop", testImage
			_, err := plan("ebpm", tt.o, tt.nodes, nil, nil)
			if err == nil || manifest.KindOf(err) != tt.kind || !strings.Contains(err.Error()+manifest.AdviceOf(err), tt.text) {
				t.Errorf("error %v (kind %d, advice %q), want kind %d and %q", err, manifest.KindOf(err), manifest.AdviceOf(err), tt.kind, tt.text)
			}
		})
	}
	t.Run("requirements can be ignored", func(t *testing.T) {
		mustPlan(t, DeployOptions{Package: requiring(opensnoop(), ">=7.0"), Targets: &Targets{All: true}, IgnoreRequirements: true}, nodes, nil)
	})
}

// inSection moves the program of a package to another hook.
func inSection(p *Package, section string, typ ebpf.ProgramType) *Package {
	for _, spec := range p.Platforms[0].Object.Spec.Programs {
		spec.SectionName, spec.Type, spec.AttachType = section, typ, ebpf.AttachNone
	}
	return p
}

// A package for two architectures runs on the nodes of both, and the others are
// named.
func linux(architecture string) manifest.Platform {
	return manifest.Platform{OS: "linux", Architecture: architecture}
}

// What is not known of an image matters where nodes differ.
func TestPlanImagePlatforms(t *testing.T) {
	one, mixed := []Node{testNode("node1")}, []Node{testNode("node1"), withArch(testNode("arm"), "arm64")}
	for _, tt := range []struct {
		name      string
		platforms []manifest.Platform
		nodes     []Node
		note      bool
	}{
		{"unknown, one architecture", nil, one, false},
		{"unknown, two architectures", nil, mixed, true},
		{"both", []manifest.Platform{linux("amd64"), linux("arm64")}, mixed, false},
		{"what one needs", []manifest.Platform{linux("amd64")}, one, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := mustPlan(t, DeployOptions{
				Package: testPackage(t, "event-one", "opensnoop", "1.0.0", "arm64"), Targets: &Targets{All: true}, ImagePlatforms: tt.platforms,
			}, tt.nodes, nil)
			if got := strings.Contains(strings.Join(p.Notes, "\n"), "The nodes are amd64 and arm64; "); got != tt.note {
				t.Errorf("notes %q, want one about the image: %v", p.Notes, tt.note)
			}
		})
	}
}

func TestPlanArchitectures(t *testing.T) {
	nodes := []Node{testNode("x86"), withArch(testNode("arm"), "arm64"), withArch(testNode("risc"), "riscv64")}
	for _, tt := range []struct {
		more  []string
		nodes []string
	}{
		{nil, []string{"x86"}},
		{[]string{"arm64"}, []string{"arm", "x86"}},
	} {
		p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0", tt.more...), Targets: &Targets{All: true}}, nodes, nil)
		matched := []string{}
		for _, n := range matching(p.DaemonSet.Spec.Template.Spec.Affinity, nodes) {
			matched = append(matched, n.Name)
		}
		slices.Sort(matched)
		if !slices.Equal(p.Nodes, tt.nodes) || !slices.Equal(matched, tt.nodes) || len(p.Skipped) != len(nodes)-len(tt.nodes) {
			t.Errorf("%v: nodes %v, the scheduler's %v, skipped %v", tt.more, p.Nodes, matched, p.Skipped)
		}
	}
}

func requiring(p *Package, kernel string) *Package {
	p.Platforms[0].Config.Requires = &manifest.Requires{Kernel: kernel}
	return p
}

func TestPlanNames(t *testing.T) {
	old, down := testNode("old"), testNode("down")
	old.Runtime, down.Ready = "containerd://1.6.18~ds1", false
	fine := testNode("fine")
	fine.Runtime = "containerd://1.6.20"
	arm := testNode("arm")
	arm.Architecture = "arm64"
	p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}, Image: "registry.example/ebpm:1"},
		[]Node{arm, down, fine, old}, nil)
	notes := strings.Join(p.Notes, "\n")
	for _, want := range []string{"will fail on: old (containerd://1.6.18~ds1).", "not waited for: down.", "has no digest"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes lack %q:\n%s", want, notes)
		}
	}
	if !slices.Equal(p.Nodes, []string{"down", "fine", "old"}) || len(p.Skipped) != 1 || p.Skipped[0].Node != "arm" {
		t.Errorf("nodes %v, skipped %v", p.Nodes, p.Skipped)
	}
}

func TestStrategy(t *testing.T) {
	nodes := func(up, down int) []Node {
		var all []Node
		for i := range up + down {
			n := testNode(fmt.Sprint("node", i))
			n.Ready = i < up
			all = append(all, n)
		}
		return all
	}
	tests := []struct {
		up, down           int
		exclusive          string
		surge, unavailable int
	}{
		{1, 0, "", 1, 0},
		{2, 0, "", 1, 0},
		{5, 0, "", 2, 0},
		{7, 1, "", 3, 0},
		{2, 0, "prog", 0, 1},
		{7, 1, "prog", 0, 2},
	}
	for _, tt := range tests {
		s := strategy(nodes(tt.up, tt.down), exclusive{program: tt.exclusive})
		if s.Type != appsv1.RollingUpdateDaemonSetStrategyType || s.RollingUpdate.MaxSurge.IntValue() != tt.surge || s.RollingUpdate.MaxUnavailable.IntValue() != tt.unavailable {
			t.Errorf("%+v: surge %s, unavailable %s", tt, s.RollingUpdate.MaxSurge, s.RollingUpdate.MaxUnavailable)
		}
	}
}

func TestStrategyKeepsExclusive(t *testing.T) {
	nodes := []Node{testNode("node1")}
	current := planned(t, mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}}, nodes, nil), 2)
	current.revisions = []revision{{number: 1, move: move{ID: 1, Exclusive: "count_syn"}}}
	p := mustPlan(t, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.1.0")}, nodes, current)
	if got := p.DaemonSet.Spec.UpdateStrategy.RollingUpdate; got.MaxSurge.IntValue() != 0 {
		t.Errorf("surge %s although a kept revision has an XDP program", got.MaxSurge)
	}
}

// Everything that a Pod may beyond nothing must be one of the rights of the
// table.
func TestPodRights(t *testing.T) {
	allowed := map[corev1.Capability]bool{"BPF": true, "PERFMON": true, "NET_ADMIN": true, "SYS_ADMIN": true}
	ofStacks := map[corev1.Capability]bool{"BPF": true, "PERFMON": true, "SYSLOG": true, "SYS_PTRACE": true}
	for _, file := range []string{"event-one", "run-xdp", "run-uprobe", "profile"} {
		allowed := allowed
		if file == "profile" {
			allowed = ofStacks
		}
		for _, kernel := range []string{"6.1.0", "6.12.0"} {
			p := mustPlan(t, DeployOptions{Package: testPackage(t, file, "x", "1.0.0"), Targets: &Targets{All: true}}, []Node{withKernel(testNode("n"), kernel)}, nil)
			spec := p.DaemonSet.Spec.Template.Spec
			for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
				if s := c.SecurityContext; !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || s.Privileged != nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem {
					t.Errorf("%s on %s: container %s: %+v", file, kernel, c.Name, s)
				}
				for _, add := range c.SecurityContext.Capabilities.Add {
					if c.Name == containerPull || !allowed[add] || add == "SYS_ADMIN" && (kernel != "6.1.0" || file != "run-uprobe") {
						t.Errorf("%s on %s: container %s may %s", file, kernel, c.Name, add)
					}
				}
				for _, m := range c.VolumeMounts {
					if c.Name == containerRun && m.Name != "run" && m.Name != "handover" && !m.ReadOnly {
						t.Errorf("%s: the runner can write %s", file, m.MountPath)
					}
					if c.Name == containerRun && m.Name == "store" {
						t.Errorf("%s: the runner sees the cache", file)
					}
				}
			}
			if *spec.AutomountServiceAccountToken || spec.HostPID != (file == "profile") || spec.HostIPC {
				t.Errorf("%s: %+v", file, spec)
			}
		}
	}
}

func TestDefaultName(t *testing.T) {
	for in, want := range map[string]string{
		"r.example/team/opensnoop:1":           "opensnoop",
		"r.example/net_watch.v2":               "net-watch-v2",
		"r.example/" + strings.Repeat("a", 70): strings.Repeat("a", 63),
	} {
		ref, err := manifest.ParseReference(in, "")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DefaultName(ref); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
}
