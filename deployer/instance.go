// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// State is how far an instance is.
type State string

// The states, in the order in which an instance passes them.
const (
	StateAbsent   State = "absent"   // no Pod on the node
	StatePending  State = "pending"  // a Pod, not started
	StatePulling  State = "pulling"  // the init container fetches the package
	StateStarting State = "starting" // the runner loads and attaches
	StateAttached State = "attached" // every program is attached
	StateFailed   State = "failed"   // ended, or cannot start; it is tried again
	StateEnding   State = "ending"   // the Pod is being deleted
)

// stage is how far a state is on the way to attached; a failure is no way.
func (s State) stage() int {
	switch s {
	case StatePending:
		return 1
	case StatePulling:
		return 2
	case StateStarting:
		return 3
	case StateAttached:
		return 4
	}
	return 0
}

// NodeResult is an instance as a rollout left it.
type NodeResult struct {
	Node  string `json:"node"`
	State State  `json:"state"`
	// Cause says why it is not attached; it may have several lines.
	Cause    string `json:"cause,omitempty"`
	Restarts int32  `json:"restarts"`
}

// instance is what a Pod's status says.
type instance struct {
	NodeResult
	pod *corev1.Pod
	// failures is the number of runs that ended, of the container that fails.
	failures int32
	// final is true when trying again is known to change nothing.
	final bool
	// pulling is true when it is the init container that fails.
	pulling bool
}

// instanceOf reads the status of a Pod.
func instanceOf(pod *corev1.Pod) instance {
	in := instance{NodeResult: NodeResult{Node: nodeNameOf(pod), State: StatePending}, pod: pod}
	if pod.DeletionTimestamp != nil {
		in.State = StateEnding
		return in
	}
	if pod.Status.Phase == corev1.PodFailed {
		// Evicted, or refused by the kubelet; the DaemonSet makes another.
		in.State, in.Cause = StateFailed, strings.TrimSpace(pod.Status.Reason+": "+pod.Status.Message)
		return in
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			in.Cause = "not scheduled: " + c.Message
			return in
		}
	}
	for i := range pod.Status.InitContainerStatuses {
		s := &pod.Status.InitContainerStatuses[i]
		if t := s.State.Terminated; t != nil && t.ExitCode == 0 {
			continue
		}
		if s.State.Running == nil && s.State.Waiting == nil && s.State.Terminated == nil {
			return in
		}
		in.pulling = true
		in.read(s, StatePulling)
		return in
	}
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		if s.Name != containerRun {
			continue
		}
		in.read(s, StateStarting)
		if s.Ready && podReady(pod) {
			in.State, in.Cause = StateAttached, ""
		}
	}
	return in
}

// read takes in a container's status; running is the state of one that runs, or
// is about to.
func (in *instance) read(s *corev1.ContainerStatus, running State) {
	in.State, in.Restarts, in.failures = running, s.RestartCount, s.RestartCount
	ended := s.LastTerminationState.Terminated
	if s.State.Terminated != nil {
		ended = s.State.Terminated
	}
	if ended != nil && (ended.ExitCode != 0 || s.State.Running == nil) {
		in.Cause = causeOf(ended)
	}
	switch w := s.State.Waiting; {
	case s.State.Terminated != nil:
		in.State = StateFailed
		in.failures++
	case w == nil:
	case w.Reason == "" || w.Reason == "PodInitializing" || w.Reason == "ContainerCreating":
		if in.State == StateStarting || in.State == StatePulling {
			in.State = running
		}
		if ended == nil && running == StatePulling {
			in.State = StatePending
		}
	case w.Reason == "CrashLoopBackOff":
		in.State = StateFailed
		in.failures++
	default:
		// ImagePullBackOff, CreateContainerError and the like: the message says
		// what the kubelet tried.
		in.State, in.Cause = StateFailed, strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
		in.final = w.Reason == "InvalidImageName"
	}
}

// causeOf returns why a container ended: what it said itself, else its exit.
func causeOf(t *corev1.ContainerStateTerminated) string {
	message := strings.TrimSpace(t.Message)
	exit := fmt.Sprintf("ended with exit code %d", t.ExitCode)
	if t.Signal != 0 {
		exit = fmt.Sprintf("ended by signal %d", t.Signal)
	}
	switch {
	case t.Reason == "OOMKilled":
		return strings.TrimSpace("out of memory: the limit of the Pod was reached\n" + message)
	case message != "":
		return message
	case t.Reason != "" && t.Reason != "Error" && t.Reason != "Completed":
		return exit + " (" + t.Reason + ")"
	}
	return exit
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// nodeNameOf returns the node of a Pod, also of one that is not scheduled: the
// controller makes each Pod for one node.
func nodeNameOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, f := range term.MatchFields {
				if f.Key == "metadata.name" && len(f.Values) == 1 {
					return f.Values[0]
				}
			}
		}
	}
	return ""
}

// hopeless reports whether waiting for an instance is pointless: it failed
// again after it was tried again. A fetch gets one try more, because a registry
// comes back and a kernel's verifier does not change its mind.
func (in *instance) hopeless() bool {
	if in.State == StateAttached || in.State == StateEnding {
		return false
	}
	if in.final {
		return true
	}
	if in.pulling {
		return in.failures >= 3
	}
	return in.failures >= 2
}
