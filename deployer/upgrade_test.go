// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// withMap gives a package a hash map whose value is a struct with these members.
func withMap(p *Package, name string, members ...string) *Package {
	u64 := &btf.Int{Name: "u64", Size: 8}
	value := &btf.Struct{Name: "value", Size: uint32(8 * len(members))}
	for i, m := range members {
		value.Members = append(value.Members, btf.Member{Name: m, Type: u64, Offset: btf.Bits(64 * i)})
	}
	for _, platform := range p.Platforms {
		platform.Object.Spec.Maps[name] = &ebpf.MapSpec{
			Name: name, Type: ebpf.Hash, KeySize: 8, ValueSize: value.Size, MaxEntries: 16, Key: u64, Value: value,
		}
	}
	return p
}

// withCarry is a package whose author asks for maps to be carried over.
func withCarry(p *Package, carry manifest.Carry) *Package {
	for _, platform := range p.Platforms {
		platform.Config.Carry = carry
	}
	return p
}

// sleepable makes a program of a package one that may sleep.
func sleepable(p *Package, program string) *Package {
	for _, platform := range p.Platforms {
		platform.Object.Spec.Programs[program].Flags |= 1 << 4
	}
	return p
}

// withoutHandover makes a release one that an ebpm wrote that knew no handover.
func withoutHandover(r *release) *release {
	c := runner(&r.ds.Spec.Template.Spec)
	i := slices.Index(c.Command, flagHandover)
	c.Command = slices.Delete(c.Command, i, i+2)
	r.move.Moves, r.move.State = nil, nil
	delete(r.ds.Spec.Template.Annotations, annotationMoves)
	delete(r.ds.Spec.Template.Annotations, annotationState)
	return r
}

func commandOfPlan(p *Plan) string {
	return strings.Join(runner(&p.DaemonSet.Spec.Template.Spec).Command, " ")
}

func TestUpgradeSays(t *testing.T) {
	opensnoop := func(tag string) *Package { return testPackage(t, "event-one", "opensnoop", tag) }
	xdp := func(tag string) *Package { return testPackage(t, "run-xdp", "opensnoop", tag) }
	uprobe := func(tag string) *Package { return testPackage(t, "run-uprobe", "opensnoop", tag) }
	current := []Node{testNode("node1")}
	mixed := []Node{testNode("node1"), withKernel(testNode("node2"), "5.10.0-30-amd64")}
	tests := []struct {
		name     string
		old, new DeployOptions
		legacy   bool // old knows no handover
		silent   bool // old does not say which maps it has
		nodes    []Node
		surge    bool
		says     []string
		not      []string
		refused  string
	}{
		{
			name: "exact", old: DeployOptions{Package: opensnoop("1")}, new: DeployOptions{Package: opensnoop("2")}, nodes: current, surge: true,
			says: []string{"Handed over exactly, no event is lost or seen twice: on_fork."}, not: []string{"maps", "RESET", "while old and new"},
		},
		{
			name: "state", old: DeployOptions{Package: withMap(withMap(opensnoop("1"), "seen", "a"), "counts", "n", "last")},
			new: DeployOptions{Package: withMap(withMap(opensnoop("2"), "seen", "a"), "counts", "n", "last")}, nodes: current, surge: true,
			says: []string{"What these maps hold is carried over: counts, seen."}, not: []string{"RESET"},
		},
		{
			name: "a new map, and one that goes", old: DeployOptions{Package: withMap(opensnoop("1"), "old", "a")},
			new: DeployOptions{Package: withMap(opensnoop("2"), "new", "a")}, nodes: current, surge: true,
			says: []string{"What these maps hold goes, since the new version carries no such maps over: old."}, not: []string{"RESET", "new,", "is carried over"},
		},
		{
			name: "another layout", old: DeployOptions{Package: withMap(opensnoop("1"), "counts", "n", "last")},
			new: DeployOptions{Package: withMap(opensnoop("2"), "counts", "last", "n")}, nodes: current,
			refused: "what map counts holds would be lost: its layout is not that of the release",
		},
		{
			name: "another layout, allowed", old: DeployOptions{Package: withMap(withMap(opensnoop("1"), "seen", "a"), "counts", "n", "last")},
			new: DeployOptions{Package: withMap(withMap(opensnoop("2"), "seen", "a"), "counts", "n"), ResetState: true}, nodes: current, surge: true,
			says: []string{"RESET: these maps start empty, because their layout is not that of the release: counts.", "is carried over: seen."},
		},
		{
			name: "globals where the author asks", old: DeployOptions{Package: withCarry(opensnoop("1"), manifest.Carry{All: true})},
			new: DeployOptions{Package: withCarry(opensnoop("2"), manifest.Carry{All: true})}, nodes: current, surge: true,
			says: []string{"is carried over: .bss."},
		},
		{
			name: "one that knew no handover", old: DeployOptions{Package: withMap(opensnoop("1"), "counts", "n")}, legacy: true,
			new: DeployOptions{Package: withMap(opensnoop("2"), "counts", "m")}, nodes: current, surge: true,
			says: []string{"The release does not hand over: where it runs, old and new instance both live", "these start empty: counts"}, not: []string{"exactly"},
		},
		{
			name: "maps that are not known", old: DeployOptions{Package: withMap(opensnoop("1"), "counts", "n")}, silent: true,
			new: DeployOptions{Package: withMap(opensnoop("2"), "counts", "n"), ResetState: true}, nodes: current, surge: true,
			says: []string{"The release does not say which maps it has: whether what they hold is carried over is not known.", "exactly"}, not: []string{"RESET", "is carried over:"},
		},
		{
			name: "XDP", old: DeployOptions{Package: xdp("1"), Interface: "eth0"}, new: DeployOptions{Package: xdp("2")}, nodes: current, surge: true,
			says: []string{"Handed over exactly, no event is lost or seen twice: on_packet."}, not: []string{"one program at a time"},
		},
		{
			name: "XDP, one that knew no handover", old: DeployOptions{Package: xdp("1")}, legacy: true,
			new: DeployOptions{Package: withMap(xdp("2"), "counts", "n")}, nodes: current,
			says: []string{"The kernel gives the hook of program on_packet to one program at a time, and the release does not hand it over: on each node the old instance ends before", "these start empty: counts"},
		},
		{
			name: "XDP, an old kernel", old: DeployOptions{Package: xdp("1")}, new: DeployOptions{Package: xdp("2")}, nodes: mixed,
			says: []string{"and Linux 5.10.0-30-amd64 of node node2 cannot hand it over: on each node the old instance ends before"},
		},
		{
			name: "an old kernel", old: DeployOptions{Package: opensnoop("1")}, new: DeployOptions{Package: opensnoop("2")}, nodes: mixed, surge: true,
			says: []string{"Handed over exactly", "Not handed over on node2 (Linux 5.10.0-30-amd64), whose kernel is too old", "events of on_fork are seen twice"},
		},
		{
			name: "tc before 6.6", old: DeployOptions{Package: testPackage(t, "run-tc", "opensnoop", "1")}, new: DeployOptions{Package: testPackage(t, "run-tc", "opensnoop", "2")},
			nodes: []Node{withKernel(testNode("node1"), "6.1.0")}, surge: true,
			says: []string{"Handed over near exactly on node1 (Linux 6.1.0), whose kernel is older than 6.6"}, not: []string{"while old and new"},
		},
		{
			name: "sleepable", old: DeployOptions{Package: sleepable(uprobe("1"), "on_call")}, new: DeployOptions{Package: sleepable(uprobe("2"), "on_call")}, nodes: current, surge: true,
			says: []string{"Handed over exactly, no event is lost or seen twice: on_return.", "near exactly, an event at the moment of the switch may be lost or seen twice: on_call."},
		},
		{
			name: "another interface", old: DeployOptions{Package: xdp("1"), Interface: "eth0"}, new: DeployOptions{Package: xdp("2"), Interface: "eth1"}, nodes: current, surge: true,
			says: []string{"At another target than before, an event on each processor at the moment of the switch may be lost or seen twice: on_packet."},
		},
		{
			name: "another place", old: DeployOptions{Package: xdp("1"), Interface: "eth0"},
			new: DeployOptions{Package: xdp("2"), Attach: []manifest.Attach{{Program: "on_packet", Target: "veth*"}}}, nodes: current, surge: true,
			says: []string{"At another target than before"},
		},
		{
			name: "the same place", old: DeployOptions{Package: xdp("1"), Attach: []manifest.Attach{{Program: "on_packet", Target: "veth*"}}},
			new: DeployOptions{Package: xdp("2")}, nodes: current, surge: true,
			not: []string{"At another target than before"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.old.Targets = &Targets{All: true}
			was := planned(t, mustPlan(t, tt.old, tt.nodes, nil), 7)
			if tt.legacy {
				was = withoutHandover(was)
			}
			if tt.silent {
				was.move.State = nil
			}
			tt.new.Name, tt.new.Image = "opensnoop", testImage
			p, err := plan("ebpm", tt.new, tt.nodes, was, nil)
			if tt.refused != "" {
				wantKind(t, err, manifest.KindConflict, tt.refused, "--reset-state")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			notes := strings.Join(p.Notes, "\n")
			for _, text := range tt.says {
				if !strings.Contains(notes, text) {
					t.Errorf("notes lack %q:\n%s", text, notes)
				}
			}
			for _, text := range tt.not {
				if strings.Contains(notes, text) {
					t.Errorf("notes have %q:\n%s", text, notes)
				}
			}
			if r := p.DaemonSet.Spec.UpdateStrategy.RollingUpdate; (r.MaxSurge.IntValue() > 0) != tt.surge || (r.MaxUnavailable.IntValue() > 0) == tt.surge {
				t.Errorf("surge %s, unavailable %s", r.MaxSurge, r.MaxUnavailable)
			}
			if reset := strings.HasSuffix(commandOfPlan(p), " --reset-state /package/package.json"); reset != tt.new.ResetState {
				t.Errorf("command %s", commandOfPlan(p))
			}
		})
	}
}

func TestUpgradeWithoutHandover(t *testing.T) {
	iterator := func(tag string) *Package {
		p := testPackage(t, "event-one", "opensnoop", tag)
		program := p.Platforms[0].Object.Spec.Programs["on_fork"]
		program.Type, program.AttachType, program.AttachTo, program.SectionName = ebpf.Tracing, ebpf.AttachTraceIter, "task", "iter/task"
		return p
	}
	nodes := []Node{testNode("node1")}
	old := mustPlan(t, DeployOptions{Package: iterator("1"), Targets: &Targets{All: true}}, nodes, nil)
	spec := old.DaemonSet.Spec.Template.Spec
	if strings.Contains(commandOfPlan(old), "--handover") || runner(&spec).StartupProbe.FailureThreshold != 3600 || strings.Contains(hostPathsOf(&spec), pathInstances) {
		t.Errorf("Pod of a package that gains nothing by a handover: %+v", spec)
	}
	p := mustPlan(t, DeployOptions{Package: withMap(iterator("2"), "counts", "n")}, nodes, planned(t, old, 7))
	if !has(p.Notes, "the new version does not hand over") || !has(p.Notes, "these start empty: counts") {
		t.Errorf("notes %q", p.Notes)
	}
}

func TestCarryReachesTheRunner(t *testing.T) {
	for _, tt := range []struct {
		carry manifest.Carry
		want  string
	}{
		{manifest.Carry{}, "--handover /handover /package/package.json"},
		{manifest.Carry{All: true}, "--handover /handover --carry all /package/package.json"},
		{manifest.Carry{Maps: []string{".bss", "$(HOME)"}}, "--handover /handover --carry .bss --carry $$(HOME) /package/package.json"},
	} {
		pkg := withMap(withCarry(testPackage(t, "event-one", "opensnoop", "1"), tt.carry), "$(HOME)", "a")
		p := mustPlan(t, DeployOptions{Package: pkg, Targets: &Targets{All: true}}, []Node{testNode("node1")}, nil)
		if !strings.HasSuffix(commandOfPlan(p), tt.want) {
			t.Errorf("%+v: command %s", tt.carry, commandOfPlan(p))
		}
	}
	// The config is its author's word; what the object says counts.
	pkg := withCarry(testPackage(t, "event-one", "opensnoop", "1"), manifest.Carry{Maps: []string{"nothing"}})
	_, err := plan("ebpm", DeployOptions{Package: pkg, Name: "opensnoop", Image: testImage, Targets: &Targets{All: true}}, []Node{testNode("node1")}, nil, nil)
	wantKind(t, err, manifest.KindUnverified, "map nothing is to be carried over")
}

// A map that is reset on some nodes is not said to be carried over.
func TestUpgradeFromSeveral(t *testing.T) {
	of := func(name, counts string) version {
		return version{name, move{State: map[string]map[string]string{"amd64": {"counts": counts, "seen": "s"}, "arm64": {"counts": "x"}}},
			&corev1.PodSpec{Containers: []corev1.Container{{Name: containerRun, Command: []string{flagHandover}}}}}
	}
	u := upgradeFrom([]version{of("revision 1", "a"), of("revision 2", "b")}, of("the new version", "b"), []Node{testNode("node1")}, exclusive{})
	want := []string{
		"What these maps hold is carried over: seen.",
		"RESET: these maps start empty, because their layout is not that of revision 1: counts.",
	}
	if !slices.Equal(u.notes, want) || !slices.Equal(u.reset, []string{"counts"}) {
		t.Errorf("%q", u.notes)
	}
}

// What counts on a node is the instance that took over last, and neither one that
// stands by nor one that never got ready.
func TestRunning(t *testing.T) {
	r := releaseOf(rev{number: 1, id: 1, tag: "a"}, rev{number: 2, id: 2, tag: "b"}, rev{number: 3, id: 3, tag: "c"})
	pod := func(node, hash string, ready time.Duration) corev1.Pod {
		p := *testPod("opensnoop", node, &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"controller-revision-hash": hash}}})
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Unix(0, 0).Add(ready))}}
		if ready == 0 {
			p.Status.Conditions[0].Status = corev1.ConditionFalse
		}
		return p
	}
	ending := pod("node1", "h3", time.Hour)
	ending.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	for _, tt := range []struct {
		name string
		pods []corev1.Pod
		want []string
	}{
		{"no Pod", nil, []string{"revision 3"}},
		{"none is ready", []corev1.Pod{pod("node1", "h1", 0)}, []string{"revision 3"}},
		{"a standby", []corev1.Pod{pod("node1", "h2", time.Minute), pod("node1", "h1", time.Second)}, []string{"revision 2"}},
		{"a standby of a later revision", []corev1.Pod{pod("node1", "h2", time.Second), pod("node1", "h1", time.Minute)}, []string{"revision 1"}},
		{"at one time", []corev1.Pod{pod("node1", "h2", time.Second), pod("node1", "h1", time.Second)}, []string{"revision 2"}},
		{"one that fails beside it", []corev1.Pod{pod("node1", "h2", 0), pod("node1", "h1", time.Second)}, []string{"revision 1"}},
		{"one that ends", []corev1.Pod{ending, pod("node1", "h1", time.Second)}, []string{"revision 1"}},
		{"nodes differ", []corev1.Pod{pod("node1", "h2", time.Second), pod("node2", "h1", time.Second), pod("node3", "h1", time.Second)}, []string{"revision 1", "revision 2"}},
		{"of a revision that is not kept", []corev1.Pod{pod("node1", "h9", time.Second)}, []string{"revision 3"}},
	} {
		var got []string
		for _, v := range r.running(tt.pods) {
			got = append(got, v.name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The permission to reset is that of the move that it was given for.
func TestResetIsOfOneMove(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	counts := func(reset bool, members ...string) func(*DeployOptions) {
		return func(o *DeployOptions) { withMap(o.Package, "counts", members...); o.ResetState = reset }
	}
	resets := func() bool {
		r, err := c.get(t.Context(), "opensnoop")
		if err != nil {
			t.Fatal(err)
		}
		return r.version().resets()
	}
	c.mustDeploy(t, "1.0.0", counts(true, "n"))
	if resets() {
		t.Error("a first deploy resets")
	}
	_, err := c.deploy(t, "2.0.0", counts(false, "n", "last"))
	wantKind(t, err, manifest.KindConflict, "what map counts holds would be lost: its layout is not that of revision 1", "nothing was changed")
	if r := c.mustDeploy(t, "2.0.0", counts(true, "n", "last")); r.Action != ActionUpdated || !resets() {
		t.Errorf("%+v, resets %t", r, resets())
	}
	for _, again := range []bool{false, true} {
		if r := c.mustDeploy(t, "2.0.0", counts(again, "n", "last")); r.Action != ActionUnchanged {
			t.Errorf("the same again with %t: %+v", again, r)
		}
	}
	if c.mustDeploy(t, "2.1.0", counts(true, "n", "last")); resets() {
		t.Error("it resets although every layout is the same")
	}
	// Back to 2.0.0, whose template has the permission; then to 1.0.0.
	back := func(to string, reset bool) error {
		p, err := c.PlanRollback(t.Context(), "opensnoop", to, reset)
		if err != nil {
			return err
		}
		_, err = c.Rollback(t.Context(), p, RolloutOptions{})
		return err
	}
	if err := back("", false); err != nil || resets() {
		t.Errorf("rollback: %v, resets %t", err, resets())
	}
	wantKind(t, back("1.0.0", false), manifest.KindConflict, "what map counts holds would be lost", "ebpm rollback opensnoop --reset-state")
	if err := back("1.0.0", true); err != nil || !resets() {
		t.Errorf("rollback over a layout: %v, resets %t", err, resets())
	}
	s, err := c.Status(t.Context(), "opensnoop")
	if err != nil || s.Tag != "1.0.0" || !s.Finished {
		t.Errorf("status %+v, %v", s, err)
	}
}

// Whoever goes back outside ebpm is not asked for the permission, and the new
// instances fail for want of it. It can be given afterwards.
func TestResetAfterwards(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	counts := func(reset bool, members ...string) func(*DeployOptions) {
		return func(o *DeployOptions) { withMap(o.Package, "counts", members...); o.ResetState = reset }
	}
	c.mustDeploy(t, "1.0.0", counts(false, "n"))
	c.mustDeploy(t, "2.0.0", counts(true, "n", "last"))
	r, err := c.get(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	c.failTag("1.0.0", "the content of map counts would be lost")
	c.touch(t, "opensnoop", func(ds *appsv1.DaemonSet) { ds.Spec.Template = r.revisions[0].template })
	if again, err := c.deploy(t, "1.0.0", counts(false, "n")); err == nil || again.Action != ActionUnchanged {
		t.Errorf("without the permission: %+v, %v", again, err)
	}
	c.behave = nil
	if r := c.mustDeploy(t, "1.0.0", counts(true, "n")); r.Action != ActionUpdated {
		t.Errorf("with the permission: %+v", r)
	}
}

// takeOver upgrades a release as far as node1, where the instance before stands by,
// and returns the Pod of the new one.
func (c *testCluster) takeOver(t *testing.T, tag string, change ...func(*DeployOptions)) string {
	t.Helper()
	c.failTag(tag, "killed", "node1")
	if _, err := c.deploy(t, tag, change...); err == nil {
		t.Fatal("it does not fail")
	}
	c.behave = nil
	pods, err := c.pods(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods {
		if readMove(pods[i].Annotations).Tag != tag {
			continue
		}
		// It comes up after all.
		setRunner(&pods[i], nil)
		if err := c.fake.Tracker().Update(podsResource, &pods[i], "ebpm"); err != nil {
			t.Fatal(err)
		}
		return pods[i].Name
	}
	t.Fatal("no Pod of " + tag)
	return ""
}

// While an instance of the revision before stands by on each node, an unfinished
// rollout goes back to those very instances.
func TestReturnToStandby(t *testing.T) {
	setup := func(t *testing.T) (c *testCluster, standby, moved string) {
		c = newTestCluster(t, "node1", "node2")
		counts := func(members ...string) func(*DeployOptions) {
			return func(o *DeployOptions) { withMap(o.Package, "counts", members...); o.ResetState = true }
		}
		c.mustDeploy(t, "1.0.0", counts("n"))
		standby = c.podNames(t)["node1"]
		return c, standby, c.takeOver(t, "2.0.0", counts("n", "last"))
	}
	template := func(t *testing.T, c *testCluster) corev1.PodTemplateSpec {
		r, err := c.get(t.Context(), "opensnoop")
		if err != nil {
			t.Fatal(err)
		}
		return r.ds.Spec.Template
	}
	t.Run("it lives", func(t *testing.T) {
		c, standby, moved := setup(t)
		r, err := c.get(t.Context(), "opensnoop")
		if err != nil {
			t.Fatal(err)
		}
		first := r.revisions[0].template
		p, err := c.PlanRollback(t.Context(), "opensnoop", "", false)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Returns || !has(p.Notes, "still lives, and goes on") {
			t.Errorf("plan %+v", p)
		}
		if _, err := c.Rollback(t.Context(), p, RolloutOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := template(t, c); !equality.Semantic.DeepEqual(got.Spec, first.Spec) || !equality.Semantic.DeepEqual(got.Annotations, first.Annotations) {
			t.Error("the template that came back is another one")
		}
		if names := c.podNames(t); names["node1"] != standby || moved == standby {
			t.Errorf("Pods %v; %s stood by", names, standby)
		}
	})
	t.Run("it has ended", func(t *testing.T) {
		c, standby, _ := setup(t)
		if err := c.fake.Tracker().Delete(podsResource, "ebpm", standby); err != nil {
			t.Fatal(err)
		}
		_, err := c.PlanRollback(t.Context(), "opensnoop", "", false)
		wantKind(t, err, manifest.KindConflict, "what map counts holds would be lost: its layout is not that of revision 2")
		p, err := c.PlanRollback(t.Context(), "opensnoop", "", true)
		if err != nil {
			t.Fatal(err)
		}
		if p.Returns || !has(p.Notes, "RESET") {
			t.Errorf("plan %+v", p)
		}
		if _, err := c.Rollback(t.Context(), p, RolloutOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := template(t, c); got.Annotations[annotationTag] != "1.0.0" || !slices.Contains(runner(&got.Spec).Command, flagReset) {
			t.Errorf("template %+v", got)
		}
	})
}
