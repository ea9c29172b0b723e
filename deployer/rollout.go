// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RolloutOptions say how to wait for a move.
type RolloutOptions struct {
	// NoWait returns as soon as the cluster knows what is wanted.
	NoWait bool
	// Timeout bounds the time without progress; 0 is DefaultTimeout.
	Timeout time.Duration
	// Deadline bounds the whole wait; 0 does not.
	Deadline time.Duration
	// KeepFailed leaves a first deploy that failed everywhere.
	KeepFailed bool
	// Progress, if set, is called for each change, from one goroutine.
	Progress func(Progress)
}

// Progress is a change of one node, whose cause has one line, or a warning.
type Progress struct {
	NodeResult
	// Warning, if set, is why the release is not watched now; it is tried again,
	// and there is no node.
	Warning string
	// Attached counts the nodes that have the new revision, of Desired.
	Attached, Desired int
}

// Result is what a move led to.
type Result struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Action    Action `json:"action"`
	Reference string `json:"reference"`
	Tag       string `json:"tag,omitempty"`
	Digest    string `json:"digest"`
	// Revision is 0 where it was not waited for.
	Revision int64 `json:"revision,omitempty"`
	// Previous is the revision that was left, nil for a new release.
	Previous *Revision    `json:"previous,omitempty"`
	Attached int          `json:"attached"`
	Desired  int          `json:"desired"`
	Nodes    []NodeResult `json:"nodes,omitempty"`
	Skipped  []Skipped    `json:"skipped,omitempty"`
	Notes    []string     `json:"notes,omitempty"`
	// Seconds are those from the write to the end of the wait.
	Seconds float64 `json:"seconds,omitempty"`
}

// Interrupted is the error of a wait that its context ended. What was waited for
// goes on in the cluster.
type Interrupted struct {
	Release string
	// Removal is true when the end of the release was waited for, else it was a
	// rollout.
	Removal bool
	// Created is true when the release has no earlier revision, so that there is
	// nothing to roll back to.
	Created bool
	Err     error
}

// Error says what goes on.
func (e *Interrupted) Error() string {
	doing := "rollout"
	if e.Removal {
		doing = "removal"
	}
	return fmt.Sprintf("release %s: no longer waited for (%v); its %s goes on", e.Release, e.Err, doing)
}

// Unwrap returns the error of the context.
func (e *Interrupted) Unwrap() error { return e.Err }

// RolloutError is the error of a rollout that did not finish. In its chain is a
// [manifest.Error] of [manifest.KindPartial] when the new revision is attached
// on some node, else of [manifest.KindFailure].
type RolloutError struct {
	Release           string
	Why               string
	Attached, Desired int
	// Nodes are those that are not attached.
	Nodes []NodeResult
	// Removed is true when the release was new, and was taken away again.
	Removed bool
}

// Error returns one line, and for the first nodes that are not attached the
// cause, which may be the end of a verifier's log.
func (e *RolloutError) Error() string {
	const most = 10
	var b strings.Builder
	fmt.Fprintf(&b, "release %s: attached on %d of %d nodes: %s", e.Release, e.Attached, e.Desired, e.Why)
	for i, n := range e.Nodes {
		if i == most {
			fmt.Fprintf(&b, "\n  and %d nodes more", len(e.Nodes)-most)
			break
		}
		fmt.Fprintf(&b, "\n  %s: %s", n.Node, n.State)
		if n.Restarts > 0 {
			fmt.Fprintf(&b, " (restarts: %d)", n.Restarts)
		}
		if n.Cause != "" {
			b.WriteString(": " + strings.ReplaceAll(n.Cause, "\n", "\n    "))
		}
	}
	if e.Removed {
		b.WriteString("\nThe release was new and was removed again.")
	}
	return b.String()
}

// view is a rollout at one moment.
type view struct {
	// observed is false until the controller has seen the template.
	observed bool
	nodes    []nodeView
	// bound is how many nodes may be underway at once.
	bound int
}

// nodeView is one node that is waited for.
type nodeView struct {
	NodeResult
	hopeless bool
	// old is true while an instance of another revision is there, if only to end.
	old bool
	// overdue is the time from which Kubernetes should be ending the old
	// instance, zero while the new one is not attached or the old one ends.
	overdue time.Time
}

// viewOf reads a rollout to the move id on the nodes that are waited for.
func viewOf(ds *appsv1.DaemonSet, pods []*corev1.Pod, id int64, nodes []string) view {
	v := view{observed: ds.Status.ObservedGeneration >= ds.Generation, bound: len(nodes)}
	if r := ds.Spec.UpdateStrategy.RollingUpdate; r != nil && r.MaxSurge != nil && r.MaxUnavailable != nil {
		v.bound = max(1, r.MaxSurge.IntValue(), r.MaxUnavailable.IntValue())
	}
	for _, name := range nodes {
		n := nodeView{NodeResult: NodeResult{Node: name, State: StateAbsent}}
		var ready time.Time
		stays := false
		for _, pod := range pods {
			if nodeNameOf(pod) != name {
				continue
			}
			in := instanceOf(pod)
			switch {
			case readMove(pod.Annotations).ID != id:
				n.old = true
				stays = stays || in.State != StateEnding
			case in.State == StateEnding:
			case n.State == StateAbsent || in.State.stage() > n.State.stage():
				n.NodeResult, n.hopeless = in.NodeResult, in.hopeless()
				ready = readySince(pod)
			}
		}
		if n.State == StateAttached && stays && !ready.IsZero() {
			n.overdue = ready.Add(time.Duration(ds.Spec.MinReadySeconds)*time.Second + nudgeAfter)
		}
		v.nodes = append(v.nodes, n)
	}
	return v
}

// readySince returns when a Pod became ready, zero while it is not.
func readySince(pod *corev1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// overdue reports whether an old instance should have been told to end by now.
func (v view) overdue(now time.Time) bool {
	return slices.ContainsFunc(v.nodes, func(n nodeView) bool { return !n.overdue.IsZero() && now.After(n.overdue) })
}

func (v view) attached() int {
	n := 0
	for _, node := range v.nodes {
		if node.State == StateAttached {
			n++
		}
	}
	return n
}

func (v view) done() bool {
	if !v.observed {
		return false
	}
	for _, n := range v.nodes {
		if n.State != StateAttached || n.old {
			return false
		}
	}
	return true
}

// stuck reports whether nothing will happen any more by itself: whatever is
// underway fails again and again, and Kubernetes starts nothing beside it.
func (v view) stuck() bool {
	if !v.observed {
		return false
	}
	failing, waiting := 0, 0
	for _, n := range v.nodes {
		switch {
		case n.State == StateAttached:
			if n.old {
				return false // the old instance is about to go
			}
		case n.hopeless:
			failing++
		case n.State == StateAbsent && n.old:
			waiting++
		default:
			return false
		}
	}
	return failing > 0 && (waiting == 0 || failing >= v.bound)
}

func (v view) results() []NodeResult {
	out := make([]NodeResult, 0, len(v.nodes))
	for _, n := range v.nodes {
		out = append(out, n.NodeResult)
	}
	return out
}

// tracker turns views into progress. A crash loop goes back and forth, so only
// what has not been reached before counts.
type tracker struct {
	best map[string]int
	last map[string]NodeResult
}

// update returns whether v is progress, and the nodes that changed.
func (t *tracker) update(v view) (progress bool, changed []NodeResult) {
	if t.best == nil {
		t.best, t.last = map[string]int{}, map[string]NodeResult{}
	}
	for _, n := range v.nodes {
		stage := n.State.stage()
		if n.State == StateAttached && !n.old {
			stage++
		}
		if stage > t.best[n.Node] {
			t.best[n.Node], progress = stage, true
		}
		if last, ok := t.last[n.Node]; !ok || last != n.NodeResult {
			t.last[n.Node] = n.NodeResult
			changed = append(changed, n.NodeResult)
		}
	}
	return progress, changed
}

// wait watches a rollout to the move id until it is done, stuck, out of time or
// taken over by another move. nodes are those to wait for.
func (c *Client) wait(ctx context.Context, name string, id int64, nodes []string, o RolloutOptions) (view, error) {
	var t tracker
	v := viewOf(&appsv1.DaemonSet{}, nil, id, nodes)
	tell := func(p Progress) {
		if o.Progress != nil {
			p.Attached, p.Desired = v.attached(), len(nodes)
			o.Progress(p)
		}
	}
	err := c.await(ctx, awaited{
		release: name, timeout: o.Timeout, deadline: o.Deadline,
		look: func(ds *appsv1.DaemonSet, pods []*corev1.Pod) (progress, done bool, err error) {
			if ds == nil {
				return false, false, manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: somebody deleted it during its rollout", name), "")
			}
			if m := readMove(ds.Spec.Template.Annotations); m.ID != id {
				return false, false, manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: another move took over (%s to %s by %q)", name, m.Reason, m.pkg(), m.User), "ebpm history "+name+" shows it.")
			}
			v = viewOf(ds, pods, id, nodes)
			progress, changed := t.update(v)
			for _, n := range changed {
				// The rest is in the error, once.
				n.Cause = firstLine(n.Cause)
				tell(Progress{NodeResult: n})
			}
			if v.stuck() {
				return progress, false, c.unfinished(ctx, name, v, "every new instance fails, again after a restart")
			}
			return progress, v.done(), nil
		},
		idle: func() error {
			if v.overdue(c.now()) {
				return c.nudge(ctx, name)
			}
			return nil
		},
		warn: func(err error) { tell(Progress{Warning: firstLine(err.Error())}) },
	})
	if late := (*lateError)(nil); errors.As(err, &late) {
		if late.blind != nil {
			return v, late.notSeen(name, "rollout")
		}
		return v, c.unfinished(ctx, name, v, late.why)
	}
	return v, err
}

// nudgeAfter is how long Kubernetes may take to end an old instance once it may.
const nudgeAfter = 2 * time.Second

// nudge makes the DaemonSet controller look at a release again. It looks when
// something changes, and once when a new Pod has been ready for
// minReadySeconds; that one look is dropped where an earlier one is due for
// another reason, such as a rollout that follows closely on another (seen with
// Kubernetes 1.37: AddAfter of its work queue keeps the earlier time only).
// Nothing changes after that, and the old Pods would stay for ever.
func (c *Client) nudge(ctx context.Context, name string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, annotationNudged, c.now().UTC().Format(time.RFC3339Nano))
	_, err := c.kube.AppsV1().DaemonSets(c.namespace).Patch(ctx, name, mergePatch, patch, metav1.PatchOptions{FieldManager: managedBy})
	if apierrors.IsNotFound(err) {
		return nil // the next look says so
	}
	if err != nil {
		return c.failed("patch", "daemonsets", name, err)
	}
	return nil
}

// unfinished makes the error of a rollout, with the events of the cluster where
// a node gives no cause: what the kubelet or the controller could not do is
// said nowhere else.
func (c *Client) unfinished(ctx context.Context, name string, v view, why string) error {
	e := &RolloutError{Release: name, Why: why, Attached: v.attached(), Desired: len(v.nodes)}
	kind := manifest.KindFailure
	if e.Attached > 0 {
		kind = manifest.KindPartial
	}
	var events []corev1.Event
	for _, n := range v.nodes {
		if n.State == StateAttached && !n.old {
			continue
		}
		if n.Cause == "" && n.State != StateAttached {
			if events == nil {
				events = c.warnings(ctx)
			}
			n.Cause = eventOf(events, name, n.Node)
		}
		if n.State == StateAttached {
			n.Cause = "the old instance does not end"
		} else if n.State == StateAbsent && n.old && n.Cause == "" {
			n.Cause = "not reached yet; the old instance keeps running"
		} else if n.old && n.State == StateFailed {
			n.Cause += "\nThe old instance keeps running."
		}
		e.Nodes = append(e.Nodes, n.NodeResult)
	}
	return manifest.WithKind(kind, e, "ebpm status "+name+" shows it; ebpm rollback "+name+" goes back.")
}

// warnings returns the warnings of the namespace, the newest first. They only
// explain, so none is returned where they cannot be read.
func (c *Client) warnings(ctx context.Context) []corev1.Event {
	list, err := c.kube.CoreV1().Events(c.namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		return []corev1.Event{}
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return b.LastTimestamp.Compare(a.LastTimestamp.Time) })
	return list.Items
}

// eventOf returns the newest warning on a Pod of a release on a node, else on
// its DaemonSet.
func eventOf(events []corev1.Event, release, node string) string {
	var onRelease string
	for _, e := range events {
		text := e.Reason + ": " + strings.TrimSpace(e.Message)
		switch o := e.InvolvedObject; {
		case o.Kind == "Pod" && strings.HasPrefix(o.Name, release+"-") && e.Source.Host == node && e.Reason != "Unhealthy":
			return text
		case o.Kind == "DaemonSet" && o.Name == release && onRelease == "":
			onRelease = text
		}
	}
	return onRelease
}

// asRollout returns the RolloutError in err's chain, or nil.
func asRollout(err error) *RolloutError {
	var e *RolloutError
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// isDenied reports whether the API server refused who asks.
func isDenied(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }
