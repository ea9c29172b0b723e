// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(code int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}
}

var running = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}

func TestInstanceOf(t *testing.T) {
	pull := func(s corev1.ContainerStatus) *corev1.Pod {
		s.Name = containerPull
		return &corev1.Pod{Status: corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{s},
			ContainerStatuses:     []corev1.ContainerStatus{{Name: containerRun, State: waiting("PodInitializing", "")}},
		}}
	}
	run := func(s corev1.ContainerStatus, ready bool) *corev1.Pod {
		p := &corev1.Pod{}
		setRunner(p, &s)
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: containerPull, State: ended(0, "Completed", "")}}
		if ready {
			p.Status.ContainerStatuses[0].Ready = true
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return p
	}
	tests := []struct {
		name     string
		pod      *corev1.Pod
		state    State
		cause    string
		hopeless bool
	}{
		{"new", &corev1.Pod{}, StatePending, "", false},
		{"not scheduled", &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "Insufficient memory"}}}}, StatePending, "not scheduled: Insufficient memory", false},
		{"ending", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}, StateEnding, "", false},
		{"evicted", &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "low on disk"}}, StateFailed, "Evicted: low on disk", false},
		{"image of the init container", pull(corev1.ContainerStatus{State: waiting("PodInitializing", "")}), StatePending, "", false},
		{"pulling", pull(corev1.ContainerStatus{State: running}), StatePulling, "", false},
		{"no image", pull(corev1.ContainerStatus{State: waiting("ImagePullBackOff", `Back-off pulling image "x"`)}), StateFailed, `ImagePullBackOff: Back-off pulling image "x"`, false},
		{"no such image name", pull(corev1.ContainerStatus{State: waiting("InvalidImageName", "couldn't parse")}), StateFailed, "InvalidImageName: couldn't parse", true},
		{"the registry is down", pull(corev1.ContainerStatus{RestartCount: 1, State: waiting("CrashLoopBackOff", "x"), LastTerminationState: ended(1, "Error", "connection refused")}), StateFailed, "connection refused", false},
		{"and stays so", pull(corev1.ContainerStatus{RestartCount: 2, State: waiting("CrashLoopBackOff", "x"), LastTerminationState: ended(1, "Error", "connection refused")}), StateFailed, "connection refused", true},
		{"starting", run(corev1.ContainerStatus{State: running}, false), StateStarting, "", false},
		{"attached", run(corev1.ContainerStatus{State: running}, true), StateAttached, "", false},
		{"attached after a failure", run(corev1.ContainerStatus{RestartCount: 3, State: running, LastTerminationState: ended(1, "Error", "no BTF")}, true), StateAttached, "", false},
		{"failed once", run(corev1.ContainerStatus{State: ended(1, "Error", "no BTF\nlog")}, false), StateFailed, "no BTF\nlog", false},
		{"tried again", run(corev1.ContainerStatus{RestartCount: 1, State: running, LastTerminationState: ended(1, "Error", "no BTF")}, false), StateStarting, "no BTF", false},
		{"failed again", run(corev1.ContainerStatus{RestartCount: 1, State: waiting("CrashLoopBackOff", "x"), LastTerminationState: ended(1, "Error", "no BTF")}, false), StateFailed, "no BTF", true},
		{"no message", run(corev1.ContainerStatus{State: ended(3, "Error", "")}, false), StateFailed, "ended with exit code 3", false},
		{"out of memory", run(corev1.ContainerStatus{State: ended(137, "OOMKilled", "")}, false), StateFailed, "out of memory: the limit of the Pod was reached", false},
		{"cannot be created", run(corev1.ContainerStatus{State: waiting("CreateContainerError", "no such path")}, false), StateFailed, "CreateContainerError: no such path", false},
		{"ended by itself", run(corev1.ContainerStatus{State: ended(0, "Completed", "")}, false), StateFailed, "ended with exit code 0", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := instanceOf(tt.pod)
			if in.State != tt.state || in.Cause != tt.cause || in.hopeless() != tt.hopeless {
				t.Errorf("state %q, cause %q, hopeless %v; want %q, %q, %v", in.State, in.Cause, in.hopeless(), tt.state, tt.cause, tt.hopeless)
			}
		})
	}
}

func TestView(t *testing.T) {
	pod := func(node string, id int64, status *corev1.ContainerStatus) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: node}}
		p.Annotations = map[string]string{annotationID: strconv.FormatInt(id, 10)}
		setRunner(p, status)
		return p
	}
	ending := func(p *corev1.Pod) *corev1.Pod { p.DeletionTimestamp = &metav1.Time{}; return p }
	bad := crashing(2, "no")
	starting := &corev1.ContainerStatus{State: running}
	tests := []struct {
		name        string
		pods        []*corev1.Pod
		surge       int
		done, stuck bool
		attached    int
	}{
		{"nothing yet", nil, 1, false, false, 0},
		{"all new", []*corev1.Pod{pod("n1", 2, nil), pod("n2", 2, nil)}, 1, true, false, 2},
		{"an old one beside", []*corev1.Pod{pod("n1", 2, nil), pod("n2", 2, nil), pod("n2", 1, nil)}, 1, false, false, 2},
		{"an old one ends", []*corev1.Pod{pod("n1", 2, nil), pod("n2", 2, nil), ending(pod("n2", 1, nil))}, 1, false, false, 2},
		{"one starts", []*corev1.Pod{pod("n1", 2, nil), pod("n2", 2, starting)}, 1, false, false, 1},
		{"all fail", []*corev1.Pod{pod("n1", 2, bad), pod("n2", 2, bad)}, 1, false, true, 0},
		{"one fails, one starts", []*corev1.Pod{pod("n1", 2, bad), pod("n2", 2, starting)}, 1, false, false, 0},
		{"one fails, one is attached", []*corev1.Pod{pod("n1", 2, bad), pod("n2", 2, nil)}, 1, false, true, 1},
		{"the first of a surge fails", []*corev1.Pod{pod("n1", 2, bad), pod("n1", 1, nil), pod("n2", 1, nil)}, 1, false, true, 0},
		{"a wider surge goes on", []*corev1.Pod{pod("n1", 2, bad), pod("n1", 1, nil), pod("n2", 1, nil)}, 2, false, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ds := &appsv1.DaemonSet{}
			ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: new(intstr.FromInt(tt.surge)), MaxUnavailable: new(intstr.FromInt(0))}
			v := viewOf(ds, tt.pods, 2, []string{"n1", "n2"})
			if v.done() != tt.done || v.stuck() != tt.stuck || v.attached() != tt.attached {
				t.Errorf("done %v, stuck %v, attached %d; want %v, %v, %d", v.done(), v.stuck(), v.attached(), tt.done, tt.stuck, tt.attached)
			}
			ds.Generation = 1
			if v := viewOf(ds, tt.pods, 2, []string{"n1", "n2"}); v.done() || v.stuck() {
				t.Error("it ends before the controller saw the template")
			}
		})
	}
}

// A crash loop must not look like progress.
func TestTracker(t *testing.T) {
	at := func(s State) view { return view{nodes: []nodeView{{NodeResult: NodeResult{Node: "n", State: s}}}} }
	var tr tracker
	for i, step := range []struct {
		state    State
		progress bool
	}{
		{StatePending, true}, {StatePulling, true}, {StateStarting, true}, {StateFailed, false},
		{StateStarting, false}, {StateFailed, false}, {StateStarting, false}, {StateAttached, true}, {StateAttached, false},
	} {
		if progress, _ := tr.update(at(step.state)); progress != step.progress {
			t.Errorf("step %d, %s: progress %v", i, step.state, progress)
		}
	}
}

func TestRolloutErrorIsBounded(t *testing.T) {
	e := &RolloutError{Release: "x", Desired: 1000, Why: "no progress"}
	for i := range 1000 {
		e.Nodes = append(e.Nodes, NodeResult{Node: fmt.Sprint("node", i), State: StateFailed, Cause: "two\nlines"})
	}
	if text := e.Error(); !strings.HasSuffix(text, "and 990 nodes more") || !strings.Contains(text, "node9: failed: two\n    lines") {
		t.Errorf("text %.400s", text)
	}
}
