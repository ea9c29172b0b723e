// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
)

func wantKind(t *testing.T, err error, kind manifest.Kind, texts ...string) {
	t.Helper()
	if err == nil || manifest.KindOf(err) != kind {
		t.Fatalf("error %v, want one of kind %d", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error()+"\n"+manifest.AdviceOf(err), text) {
			t.Errorf("error %q with advice %q lacks %q", err, manifest.AdviceOf(err), text)
		}
	}
}

// TestDeployAttach: where a program is attached is part of a revision.
func TestDeployAttach(t *testing.T) {
	c := newTestCluster(t, "node1")
	exit := manifest.Attach{Program: "on_fork", Target: "sched/sched_process_exit"}
	exec := manifest.Attach{Program: "on_fork", Target: "sched/sched_process_exec"}
	place := func(a manifest.Attach) func(*DeployOptions) {
		return func(o *DeployOptions) { o.Attach = []manifest.Attach{a} }
	}
	attached := func() []manifest.Attach {
		t.Helper()
		s, err := c.Status(t.Context(), "opensnoop")
		if err != nil {
			t.Fatal(err)
		}
		return s.Attach
	}
	c.mustDeploy(t, "1.0.0", place(exit))
	if again := c.mustDeploy(t, "1.0.0"); again.Action != ActionUnchanged {
		t.Errorf("without a word about it: %+v", again)
	}
	if moved := c.mustDeploy(t, "1.0.0", place(exec)); moved.Action != ActionUpdated || !slices.Equal(attached(), []manifest.Attach{exec}) {
		t.Errorf("moved: %+v, attached to %v", moved, attached())
	}
	p, err := c.PlanRollback(t.Context(), "opensnoop", "", false)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.To.Attach, []manifest.Attach{exit}) || !slices.Equal(p.From.Attach, []manifest.Attach{exec}) {
		t.Errorf("rollback from %v to %v", p.From.Attach, p.To.Attach)
	}
	if _, err := c.Rollback(t.Context(), p, RolloutOptions{}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(attached(), []manifest.Attach{exit}) {
		t.Errorf("after the rollback attached to %v", attached())
	}
	_, err = c.deploy(t, "1.1.0", place(manifest.Attach{Program: "nosuch", Target: "x"}))
	wantKind(t, err, manifest.KindUsage, "no program nosuch; it has on_fork")
}

func TestDeployUpgradeRollback(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	first := c.mustDeploy(t, "1.0.0")
	if first.Action != ActionCreated || first.Attached != 2 || first.Revision != 1 {
		t.Errorf("first deploy: %+v", first)
	}
	ns, err := c.fake.CoreV1().Namespaces().Get(t.Context(), "ebpm", metav1.GetOptions{})
	if err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
		t.Errorf("namespace %+v, %v", ns, err)
	}
	if again := c.mustDeploy(t, "1.0.0"); again.Action != ActionUnchanged || again.Revision != 1 {
		t.Errorf("the same again: %+v", again)
	}
	second := c.mustDeploy(t, "1.1.0")
	if second.Action != ActionUpdated || second.Revision != 2 || second.Previous == nil || second.Previous.Tag != "1.0.0" {
		t.Errorf("upgrade: %+v", second)
	}
	p, err := c.PlanRollback(t.Context(), "opensnoop", "", false)
	if err != nil {
		t.Fatal(err)
	}
	if p.From.Tag != "1.1.0" || p.To.Tag != "1.0.0" || p.Returns {
		t.Errorf("rollback from %+v to %+v, returns %v", p.From, p.To, p.Returns)
	}
	third, err := c.Rollback(t.Context(), p, RolloutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if third.Action != ActionRolledBack || third.Revision != 3 || third.Digest != first.Digest {
		t.Errorf("rollback: %+v", third)
	}
	history, err := c.History(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, h := range history {
		if h.User != "alice" || h.Outcome == nil || !h.Outcome.Ready {
			t.Errorf("revision %+v", h)
		}
		rows = append(rows, strings.TrimSpace(h.Tag+" "+h.Reason+" "+h.Note))
	}
	if want := []string{"1.0.0 deploy", "1.1.0 upgrade", "1.0.0 rollback to revision 1"}; !slices.Equal(rows, want) {
		t.Errorf("history %q, want %q", rows, want)
	}
	if !history[2].Current || history[0].Current {
		t.Error("the current revision is not marked")
	}
	s, err := c.Status(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	if !s.Finished || s.Ready != 2 || s.Updated != 2 || s.Tag != "1.0.0" || s.Revision != 3 {
		t.Errorf("status %+v", s)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Package != "team/opensnoop:1.0.0" || len(list[0].Instances) != 2 {
		t.Errorf("list %+v, %v", list, err)
	}
	deleted, err := c.Delete(t.Context(), "opensnoop", DeleteOptions{})
	if err != nil || !slices.Equal(deleted.Nodes, []string{"node1", "node2"}) {
		t.Errorf("delete %+v, %v", deleted, err)
	}
	_, err = c.Status(t.Context(), "opensnoop")
	wantKind(t, err, manifest.KindNotFound, "opensnoop")
}

func TestUpgradeFailsAndReturns(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	c.mustDeploy(t, "1.0.0")
	c.failTag("1.1.0", "load program watch: permission denied\nR1 invalid mem access")
	result, err := c.deploy(t, "1.1.0")
	wantKind(t, err, manifest.KindFailure, "attached on 0 of 2", "node1: failed (restarts: 2): load program watch", "R1 invalid mem access", "old instance keeps running", "ebpm rollback opensnoop")
	if result == nil || result.Nodes[0].State != StateFailed || result.Nodes[1].State != StateAbsent {
		t.Errorf("result %+v", result)
	}
	s, err := c.Status(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	if s.Finished || s.Ready != 2 || s.Updated != 0 || !has(s.Notes, "unfinished") {
		t.Errorf("status %+v", s)
	}
	p, err := c.PlanRollback(t.Context(), "opensnoop", "", false)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Returns || p.To.Tag != "1.0.0" {
		t.Fatalf("plan %+v", p)
	}
	if _, err := c.Rollback(t.Context(), p, RolloutOptions{}); err != nil {
		t.Fatal(err)
	}
	history, err := c.History(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	// The old template came back, so its revision has a new number.
	last := history[len(history)-1]
	if len(history) != 2 || last.Revision != 3 || last.Tag != "1.0.0" || !strings.HasPrefix(last.Note, "rollback of an unfinished rollout of revision 2") {
		t.Errorf("history %+v", history)
	}
	s, err = c.Status(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	if !s.Finished || !has(s.Notes, "Revision 2 (team/opensnoop:1.1.0) failed on node1: load program watch") {
		t.Errorf("the cause was not kept: %q", s.Notes)
	}
}

func TestPartialFailure(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	c.failTag("1.0.0", "no BTF", "node2")
	result, err := c.deploy(t, "1.0.0")
	wantKind(t, err, manifest.KindPartial, "node2: failed", "no BTF")
	if result.Attached != 1 {
		t.Errorf("result %+v", result)
	}
	if _, err := c.Status(t.Context(), "opensnoop"); err != nil {
		t.Errorf("a release that works on one node was removed: %v", err)
	}
}

func TestFirstDeployFails(t *testing.T) {
	for _, keep := range []bool{false, true} {
		c := newTestCluster(t, "node1", "node2")
		c.failTag("1.0.0", "the verifier refuses it")
		p, err := c.PlanDeploy(t.Context(), DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}, Image: testImage})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Deploy(t.Context(), p, RolloutOptions{KeepFailed: keep})
		wantKind(t, err, manifest.KindFailure, "the verifier refuses it")
		_, statusErr := c.Status(t.Context(), "opensnoop")
		if removed := manifest.KindOf(statusErr) == manifest.KindNotFound; removed == keep || strings.Contains(err.Error(), "removed again") == keep {
			t.Errorf("keep %v: removed %v, error %v", keep, removed, err)
		}
	}
}

func TestConflicts(t *testing.T) {
	options := func(t *testing.T, tag string) DeployOptions {
		return DeployOptions{Package: testPackage(t, "event-one", "opensnoop", tag), Image: testImage}
	}
	t.Run("an object that ebpm does not manage", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		if err := c.fake.Tracker().Create(daemonsetsResource, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "opensnoop", Namespace: "ebpm"}}, "ebpm"); err != nil {
			t.Fatal(err)
		}
		_, err := c.deploy(t, "1.0.0")
		wantKind(t, err, manifest.KindConflict, "not managed by ebpm")
		_, err = c.Delete(t.Context(), "opensnoop", DeleteOptions{})
		wantKind(t, err, manifest.KindConflict, "not managed by ebpm")
	})
	t.Run("another repository", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.mustDeploy(t, "1.0.0")
		_, err := c.deploy(t, "1.0.0", func(o *DeployOptions) { o.Package.Reference.Repository = "other/opensnoop" })
		wantKind(t, err, manifest.KindConflict, "registry.example/team/opensnoop", "registry.example/other/opensnoop")
	})
	t.Run("changed after the plan", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.mustDeploy(t, "1.0.0")
		p, err := c.PlanDeploy(t.Context(), options(t, "1.1.0"))
		if err != nil {
			t.Fatal(err)
		}
		c.mustDeploy(t, "1.2.0")
		_, err = c.Deploy(t.Context(), p, RolloutOptions{})
		wantKind(t, err, manifest.KindConflict, "somebody changed it meanwhile", "opensnoop:1.2.0", "alice")
	})
	t.Run("made after the plan", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		o := options(t, "1.1.0")
		o.Targets = &Targets{All: true}
		p, err := c.PlanDeploy(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		c.mustDeploy(t, "1.0.0")
		_, err = c.Deploy(t.Context(), p, RolloutOptions{})
		wantKind(t, err, manifest.KindConflict, "somebody else made it")
	})
	t.Run("only the status changed", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.mustDeploy(t, "1.0.0")
		conflicts := 2
		c.fake.PrependReactor("update", "daemonsets", func(clienttesting.Action) (bool, runtime.Object, error) {
			if conflicts == 0 {
				return false, nil, nil
			}
			conflicts--
			return true, nil, apierrors.NewConflict(daemonsetsResource.GroupResource(), "opensnoop", errors.New("it was modified"))
		})
		if r := c.mustDeploy(t, "1.1.0"); r.Revision != 2 || conflicts != 0 {
			t.Errorf("result %+v after %d conflicts", r, 2-conflicts)
		}
	})
	t.Run("taken over during the wait", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.behave = func(string, *corev1.PodTemplateSpec) *corev1.ContainerStatus {
			return &corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
		}
		o := options(t, "1.0.0")
		o.Targets = &Targets{All: true}
		p, err := c.PlanDeploy(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Deploy(t.Context(), p, RolloutOptions{Progress: func(Progress) {
			c.touch(t, "opensnoop", func(ds *appsv1.DaemonSet) { ds.Spec.Template.Annotations[annotationID] = "99" })
		}})
		wantKind(t, err, manifest.KindConflict, "another move took over")
	})
}

func TestInterrupted(t *testing.T) {
	c := newTestCluster(t, "node1")
	c.behave = func(string, *corev1.PodTemplateSpec) *corev1.ContainerStatus {
		return &corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	}
	p, err := c.PlanDeploy(t.Context(), DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}, Image: testImage})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result, err := c.Deploy(ctx, p, RolloutOptions{Progress: func(Progress) { cancel() }})
	var interrupted *Interrupted
	if !errors.As(err, &interrupted) || interrupted.Release != "opensnoop" || result == nil || result.Action != ActionCreated {
		t.Errorf("result %+v, error %v", result, err)
	}
	if s, err := c.Status(t.Context(), "opensnoop"); err != nil || s.Finished {
		t.Errorf("the rollout does not go on: %+v, %v", s, err)
	}
	// Asked again, the same deploy waits for it.
	c.behave = nil
	pods, err := c.pods(t.Context(), "opensnoop")
	if err != nil {
		t.Fatal(err)
	}
	again := make(chan error, 1)
	p, err = c.PlanDeploy(t.Context(), DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Image: testImage})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		r, err := c.Deploy(t.Context(), p, RolloutOptions{})
		if err == nil && (r.Action != ActionUnchanged || r.Attached != 1) {
			err = errors.New("it did not wait for the rollout that goes on")
		}
		again <- err
	}()
	setRunner(&pods[0], nil)
	if err := c.fake.Tracker().Update(podsResource, &pods[0], "ebpm"); err != nil {
		t.Fatal(err)
	}
	if err := <-again; err != nil {
		t.Error(err)
	}
}

// What a user knows of the registry reaches nodes also where the release is as it
// was: it may be all that its instances lack.
func TestUnchangedDeployTellsNodes(t *testing.T) {
	c := newTestCluster(t, "node1")
	c.mustDeploy(t, "1.0.0")
	plain := func(o *DeployOptions) { o.Registries.PlainHTTP = []string{"registry.example"} }
	r := c.mustDeploy(t, "1.0.0", plain)
	if r.Action != ActionUnchanged || !has(r.Notes, "registry.example by plain HTTP") {
		t.Errorf("result %+v", r)
	}
	known, err := c.fake.CoreV1().ConfigMaps("ebpm").Get(t.Context(), NodeConfigMap, metav1.GetOptions{})
	if err != nil || !strings.Contains(known.Data[nodeConfigKey], "registry.example") {
		t.Errorf("ConfigMap %v, %v", known, err)
	}
	if r := c.mustDeploy(t, "1.0.0", plain); len(r.Notes) != 0 {
		t.Errorf("notes although nothing was written: %q", r.Notes)
	}
}

// Where no node is up there is nothing to wait for, and nothing was seen.
func TestDeployOntoNodesThatAreDown(t *testing.T) {
	c := newTestCluster(t, "node1")
	c.down(t, "node1")
	c.behave = func(string, *corev1.PodTemplateSpec) *corev1.ContainerStatus {
		return &corev1.ContainerStatus{State: waiting("ContainerCreating", "")}
	}
	result, err := c.deploy(t, "1.0.0")
	wantKind(t, err, manifest.KindPrecondition, "no node that it is to run on is up", "starts where one comes up")
	if result == nil || result.Desired != 0 {
		t.Errorf("result %+v", result)
	}
	history, err := c.History(t.Context(), "opensnoop")
	if err != nil || len(history) != 1 || history[0].Outcome != nil {
		t.Errorf("history %+v, %v", history, err)
	}
}

func TestTimeout(t *testing.T) {
	c := newTestCluster(t, "node1")
	c.behave = func(string, *corev1.PodTemplateSpec) *corev1.ContainerStatus {
		return &corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}
	}
	if err := c.fake.Tracker().Add(&corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "ebpm"}, Type: corev1.EventTypeWarning,
		Reason: "FailedMount", Message: `secret "team" not found`, Source: corev1.EventSource{Host: "node1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "opensnoop-2"},
	}); err != nil {
		t.Fatal(err)
	}
	p, err := c.PlanDeploy(t.Context(), DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}, Image: testImage})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Deploy(t.Context(), p, RolloutOptions{Timeout: time.Second, KeepFailed: true})
	wantKind(t, err, manifest.KindFailure, "no progress for 1s", `FailedMount: secret "team" not found`)
	p, err = c.PlanDeploy(t.Context(), DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.1.0"), Image: testImage})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Deploy(t.Context(), p, RolloutOptions{Deadline: time.Second})
	wantKind(t, err, manifest.KindFailure, "not finished after 1s")
}

// The time of a wait runs while the watch is not established, and what keeps it
// from that is told: once on the way, and at the end. A release that is not seen
// is not removed.
func TestWatchIsNotEstablished(t *testing.T) {
	down := &url.Error{Op: "Get", URL: "https://cluster", Err: errors.New("connection refused")}
	c := newTestCluster(t, "node1")
	c.fake.PrependWatchReactor("pods", func(clienttesting.Action) (bool, watch.Interface, error) { return true, nil, down })
	p, err := c.PlanDeploy(t.Context(), DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}, Image: testImage})
	if err != nil {
		t.Fatal(err)
	}
	var warnings []string
	_, err = c.Deploy(t.Context(), p, RolloutOptions{Deadline: time.Second, Progress: func(p Progress) {
		if p.Node != "" {
			t.Errorf("progress %+v", p)
		}
		warnings = append(warnings, p.Warning)
	}})
	wantKind(t, err, manifest.KindPrecondition, "its rollout is not seen: not finished after 1s: reach the cluster: ", "connection refused", "is the cluster up?")
	if len(warnings) != 1 || !strings.Contains(warnings[0], "connection refused") {
		t.Errorf("warnings %q", warnings)
	}
	deleted, err := c.Delete(t.Context(), "opensnoop", DeleteOptions{Timeout: time.Second / 4})
	if deleted != nil || err == nil || !strings.Contains(err.Error(), "it was not deleted: no progress for 250ms") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("delete: %+v, %v", deleted, err)
	}
	if _, err := c.Status(t.Context(), "opensnoop"); err != nil {
		t.Error(err)
	}
}

// What goes on after an interruption is said: a rollout, or a removal, and whether
// there is an earlier revision.
func TestInterruptedSaysWhatGoesOn(t *testing.T) {
	stuck := func(string, *corev1.PodTemplateSpec) *corev1.ContainerStatus {
		return &corev1.ContainerStatus{State: running}
	}
	interrupt := func(t *testing.T, do func(ctx context.Context, cancel func()) error) *Interrupted {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := do(ctx, cancel)
		var interrupted *Interrupted
		if !errors.As(err, &interrupted) || interrupted.Release != "opensnoop" {
			t.Fatalf("error %v", err)
		}
		return interrupted
	}
	deploy := func(c *testCluster, tag string) func(context.Context, func()) error {
		return func(ctx context.Context, cancel func()) error {
			p, err := c.PlanDeploy(ctx, DeployOptions{Package: testPackage(t, "event-one", "opensnoop", tag), Targets: &Targets{All: true}, Image: testImage})
			if err != nil {
				return err
			}
			_, err = c.Deploy(ctx, p, RolloutOptions{Progress: func(Progress) { cancel() }})
			return err
		}
	}
	// keepPods deletes as a node does that does not end its Pods.
	keepPods := func(c *testCluster, then func()) {
		c.fake.PrependReactor("delete", "daemonsets", func(clienttesting.Action) (bool, runtime.Object, error) {
			then()
			return true, nil, nil
		})
	}
	t.Run("first deploy", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.behave = stuck
		if got := interrupt(t, deploy(c, "1.0.0")); !got.Created || got.Removal || !strings.HasSuffix(got.Error(), "its rollout goes on") {
			t.Errorf("%+v: %v", got, got)
		}
		if got := interrupt(t, deploy(c, "1.0.0")); !got.Created {
			t.Errorf("waited for again: %+v", got)
		}
	})
	t.Run("upgrade", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.mustDeploy(t, "1.0.0")
		c.behave = stuck
		if got := interrupt(t, deploy(c, "1.1.0")); got.Created || got.Removal {
			t.Errorf("%+v", got)
		}
	})
	t.Run("delete", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.mustDeploy(t, "1.0.0")
		got := interrupt(t, func(ctx context.Context, cancel func()) error {
			keepPods(c, cancel)
			result, err := c.Delete(ctx, "opensnoop", DeleteOptions{})
			if result == nil {
				t.Error("no result")
			}
			return err
		})
		if !got.Removal || !strings.HasSuffix(got.Error(), "its removal goes on") {
			t.Errorf("%+v: %v", got, got)
		}
	})
	t.Run("removal of a first deploy", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.failTag("1.0.0", "no BTF")
		got := interrupt(t, func(ctx context.Context, cancel func()) error {
			keepPods(c, cancel)
			return deploy(c, "1.0.0")(ctx, func() {})
		})
		if !got.Removal || !got.Created {
			t.Errorf("%+v", got)
		}
	})
	t.Run("before a delete", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.mustDeploy(t, "1.0.0")
		ctx, cancel := context.WithCancel(t.Context())
		c.fake.PrependWatchReactor("pods", func(clienttesting.Action) (bool, watch.Interface, error) {
			cancel()
			return true, nil, errors.New("interrupted")
		})
		result, err := c.Delete(ctx, "opensnoop", DeleteOptions{})
		if result != nil || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "it was not deleted") {
			t.Errorf("result %+v, error %v", result, err)
		}
	})
}

func TestMissingRights(t *testing.T) {
	tests := []struct {
		verb, resource string
		text           string
		do             func(t *testing.T, c *testCluster) error
	}{
		{"create", "daemonsets", "the right to create daemonsets in namespace ebpm is missing", func(t *testing.T, c *testCluster) error { _, err := c.deploy(t, "1.0.0"); return err }},
		{"list", "nodes", "the right to list nodes in the cluster is missing", func(t *testing.T, c *testCluster) error { _, err := c.deploy(t, "1.0.0"); return err }},
		{"create", "namespaces", "kubectl create namespace ebpm", func(t *testing.T, c *testCluster) error { _, err := c.deploy(t, "1.0.0"); return err }},
		{"get", "daemonsets", "the right to get daemonsets", func(t *testing.T, c *testCluster) error { _, err := c.Status(t.Context(), "opensnoop"); return err }},
		{"list", "controllerrevisions", "the right to list controllerrevisions", func(t *testing.T, c *testCluster) error { _, err := c.List(t.Context()); return err }},
		{"watch", "pods", "the right to watch pods", func(t *testing.T, c *testCluster) error { _, err := c.deploy(t, "1.0.0"); return err }},
		{"update", "daemonsets", "the right to update daemonsets", func(t *testing.T, c *testCluster) error {
			c.mustDeploy(t, "0.9.0")
			_, err := c.deploy(t, "1.0.0")
			return err
		}},
		{"delete", "daemonsets", "deployer/rbac", func(t *testing.T, c *testCluster) error {
			c.mustDeploy(t, "1.0.0")
			_, err := c.Delete(t.Context(), "opensnoop", DeleteOptions{})
			return err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.verb+" "+tt.resource, func(t *testing.T) {
			c := newTestCluster(t, "node1")
			if tt.verb == "watch" {
				c.fake.PrependWatchReactor(tt.resource, func(a clienttesting.Action) (bool, watch.Interface, error) {
					return true, nil, forbidden(a, "watch")
				})
			} else {
				c.forbid(tt.verb, tt.resource)
			}
			wantKind(t, tt.do(t, c), manifest.KindPrecondition, tt.text)
		})
	}
	t.Run("who may not look at namespaces may still deploy", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.forbid("get", "namespaces")
		c.mustDeploy(t, "1.0.0")
	})
	t.Run("an unknown user is no obstacle", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		c.forbid("create", "selfsubjectreviews")
		c.mustDeploy(t, "1.0.0")
	})
	t.Run("a stricter namespace", func(t *testing.T) {
		c := newTestCluster(t, "node1")
		if err := c.fake.Tracker().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ebpm", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}}}); err != nil {
			t.Fatal(err)
		}
		_, err := c.deploy(t, "1.0.0")
		wantKind(t, err, manifest.KindPrecondition, "baseline", "kubectl label --overwrite namespace ebpm")
	})
}

// An interrupt between the write and the wait, when the cluster is asked which
// nodes to wait for, is one of the wait too.
func TestInterruptedRightAfterTheWrite(t *testing.T) {
	c := newTestCluster(t, "node1")
	p, err := c.PlanDeploy(t.Context(), DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.0.0"), Targets: &Targets{All: true}, Image: testImage})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.fake.PrependReactor("create", "daemonsets", func(clienttesting.Action) (bool, runtime.Object, error) {
		cancel()
		return false, nil, nil
	})
	// The fake client does not look at contexts.
	c.fake.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		return ctx.Err() != nil, nil, ctx.Err()
	})
	result, err := c.Deploy(ctx, p, RolloutOptions{})
	var interrupted *Interrupted
	if !errors.As(err, &interrupted) || !interrupted.Created || result == nil {
		t.Errorf("result %+v, error %v", result, err)
	}
}
