// SPDX-License-Identifier: Apache-2.0

//go:build !node

package builder

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podWith is a Pod whose three containers are in the given states.
func podWith(pull, compile, push corev1.ContainerState) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod"},
		Status: corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{{Name: pullContainer, State: pull}, {Name: compileContainer, State: compile}},
			ContainerStatuses:     []corev1.ContainerStatus{{Name: pushContainer, State: push}},
		},
	}
}

func waiting(reason string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "because"}}
}

func ended(code int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}
}

var (
	initializing = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}
	running      = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	completed    = ended(0, "Completed", "")
)

func jobWith(kind batchv1.JobConditionType, reason string) *batchv1.Job {
	job := &batchv1.Job{Spec: batchv1.JobSpec{ActiveDeadlineSeconds: new(int64(90))}}
	if kind != "" {
		job.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: "so it is"}}
	}
	return job
}

func TestObserve(t *testing.T) {
	d := digest.FromString("package")
	live := jobWith("", "")
	unschedulable := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes are available"}}}}
	evicted := podWith(completed, running, initializing)
	evicted.Status.Phase, evicted.Status.Reason, evicted.Status.Message = corev1.PodFailed, "Evicted", "disk pressure"

	for _, tt := range []struct {
		name     string
		job      *batchv1.Job
		pod      *corev1.Pod
		step     Step
		obstacle string
		compiled bool // it has a log
		failure  string
		code     int32
		digest   digest.Digest
		done     bool
	}{
		{name: "no Pod", job: live, step: StepPull, obstacle: "there is no Pod yet"},
		{name: "new Pod", job: live, pod: &corev1.Pod{}, step: StepPull},
		{name: "unschedulable", job: live, pod: unschedulable, step: StepPull, obstacle: "no node takes the Pod: Unschedulable: 0/2 nodes are available"},
		{name: "image is pulled", job: live, pod: podWith(waiting("ContainerCreating"), initializing, initializing), step: StepPull},
		{name: "image is missing", job: live, pod: podWith(waiting("ImagePullBackOff"), initializing, initializing), step: StepPull, obstacle: "ImagePullBackOff: because"},
		{name: "pulls", job: live, pod: podWith(running, initializing, initializing), step: StepPull},
		{name: "pulled", job: live, pod: podWith(completed, initializing, initializing), step: StepCompile},
		{name: "compiler's image is missing", job: live, pod: podWith(completed, waiting("ErrImagePull"), initializing), step: StepCompile, obstacle: "ErrImagePull: because"},
		{name: "compiles", job: live, pod: podWith(completed, running, initializing), step: StepCompile, compiled: true},
		{name: "does not compile", job: live, pod: podWith(completed, ended(1, "Error", "end of log"), initializing), step: StepCompile, compiled: true, failure: "container", code: 1},
		{name: "does not compile, and the Job knows", job: jobWith(batchv1.JobFailed, "BackoffLimitExceeded"), pod: podWith(completed, ended(1, "Error", ""), initializing), step: StepCompile, compiled: true, failure: "container", code: 1},
		{name: "out of memory", job: live, pod: podWith(completed, ended(137, "OOMKilled", ""), initializing), step: StepCompile, compiled: true, failure: "container", code: 137},
		{name: "source is gone", job: live, pod: podWith(ended(3, "Error", "not found"), initializing, initializing), step: StepPull, failure: "container", code: 3},
		{name: "pushes", job: live, pod: podWith(completed, completed, running), step: StepPush, compiled: true},
		{name: "push is refused", job: live, pod: podWith(completed, completed, ended(5, "Error", "denied")), step: StepPush, compiled: true, failure: "container", code: 5},
		{name: "pushed", job: live, pod: podWith(completed, completed, ended(0, "Completed", d.String()+"\n")), step: StepPush, compiled: true, done: true, digest: d},
		{name: "pushed, without a word", job: live, pod: podWith(completed, completed, completed), step: StepPush, compiled: true, done: true},
		{name: "complete, but the Pod is behind", job: jobWith(batchv1.JobComplete, ""), pod: podWith(completed, completed, running), step: StepPush, compiled: true},
		{name: "complete, the Pod is gone", job: jobWith(batchv1.JobComplete, ""), step: StepPull, obstacle: "there is no Pod yet", done: true},
		{name: "deadline", job: jobWith(batchv1.JobFailed, "DeadlineExceeded"), step: StepPull, obstacle: "there is no Pod yet", failure: "not done after 1m30s"},
		{name: "deadline kills the compiler", job: jobWith(batchv1.JobFailureTarget, "DeadlineExceeded"), pod: podWith(completed, ended(143, "Error", ""), initializing), step: StepCompile, compiled: true, failure: "not done after 1m30s"},
		{name: "Pod was deleted", job: jobWith(batchv1.JobFailed, "BackoffLimitExceeded"), step: StepPull, obstacle: "there is no Pod yet", failure: "the Job failed: BackoffLimitExceeded: so it is"},
		{name: "evicted", job: live, pod: evicted, step: StepCompile, compiled: true, failure: "the Pod failed: Evicted: disk pressure"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := observe(tt.job, tt.pod)
			if got.step != tt.step || got.obstacle != tt.obstacle || got.compiling != tt.compiled || got.done != tt.done || got.digest != tt.digest {
				t.Errorf("got %+v", got)
			}
			failure, code := "", int32(0)
			if f := got.failure; f != nil {
				failure = f.reason
				if f.container != nil {
					failure, code = "container", f.container.ExitCode
				}
				if f.step != tt.step {
					t.Errorf("failed in step %s", f.step)
				}
			}
			if failure != tt.failure || code != tt.code {
				t.Errorf("failure %q (exit code %d)", failure, code)
			}
		})
	}
}

func TestWords(t *testing.T) {
	for _, tt := range [][3]string{{"A", " b ", "A: b"}, {"A", "", "A"}, {"", "b", "b"}, {"", "", "no reason is given"}} {
		if got := words(tt[0], tt[1]); got != tt[2] || strings.TrimSpace(got) != got {
			t.Errorf("words(%q, %q) = %q", tt[0], tt[1], got)
		}
	}
}
