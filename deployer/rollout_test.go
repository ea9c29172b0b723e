// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An old instance that nobody ends beside a new one that has been ready for long
// enough is overdue, and only that.
func TestOverdue(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pod := func(id string, ready time.Time, ending bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x-" + id, Annotations: map[string]string{annotationID: id}}, Spec: corev1.PodSpec{NodeName: "node1"}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: containerRun, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(ready)}}
		if ending {
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
		return p
	}
	ds := &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{MinReadySeconds: minReadySeconds}}
	long := now.Add(-time.Minute)
	for _, tt := range []struct {
		name string
		pods []*corev1.Pod
		want bool
	}{
		{"both live, new ready for long", []*corev1.Pod{pod("1", long, false), pod("2", long, false)}, true},
		{"new ready just now", []*corev1.Pod{pod("1", long, false), pod("2", now.Add(-minReadySeconds*time.Second), false)}, false},
		{"old ends", []*corev1.Pod{pod("1", long, true), pod("2", long, false)}, false},
		{"no old one", []*corev1.Pod{pod("2", long, false)}, false},
		{"no new one", []*corev1.Pod{pod("1", long, false)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := viewOf(ds, tt.pods, 2, []string{"node1"}).overdue(now); got != tt.want {
				t.Errorf("overdue %v, want %v", got, tt.want)
			}
		})
	}
}
