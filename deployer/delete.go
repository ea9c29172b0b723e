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

// DeleteOptions say how to wait for the end of a release.
type DeleteOptions struct {
	// Timeout bounds the time without progress; 0 is DefaultTimeout.
	Timeout time.Duration
	// Progress, if set, is called for each node whose instance is gone, and with
	// a warning; Desired counts the nodes that have an instance left.
	Progress func(Progress)
}

// DeleteResult is what became of a release.
type DeleteResult struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Nodes are those that nothing is left on.
	Nodes []string `json:"nodes"`
	// Left are instances that did not end in time.
	Left []Left `json:"left,omitempty"`
}

// Left is an instance that did not end.
type Left struct {
	Node string `json:"node"`
	Pod  string `json:"pod"`
	Why  string `json:"why"`
}

// Delete ends a release and waits until its Pods are gone; with a Pod goes
// everything that it attached. What is left after the timeout is in the result,
// and the error is then of [manifest.KindPartial]. It can be run again. The
// result is nil, and nothing was done, where it failed before that.
func (c *Client) Delete(ctx context.Context, name string, o DeleteOptions) (*DeleteResult, error) {
	r, err := c.get(ctx, name)
	if err != nil {
		return nil, err
	}
	tell := func(p Progress) {
		if o.Progress != nil {
			o.Progress(p)
		}
	}
	begun := false
	seen := map[string]bool{}
	var left []*corev1.Pod
	result := &DeleteResult{Name: name, Namespace: c.namespace, Nodes: []string{}}
	err = c.await(ctx, awaited{
		release: name, timeout: o.Timeout,
		begin: func(pods []*corev1.Pod) error {
			for _, p := range pods {
				seen[nodeNameOf(p)] = true
			}
			// In the foreground, so that the release is to be seen, and this command
			// can be run again, until its last Pod is gone.
			err := c.kube.AppsV1().DaemonSets(c.namespace).Delete(ctx, name, metav1.DeleteOptions{
				PropagationPolicy: new(metav1.DeletePropagationForeground),
				Preconditions:     &metav1.Preconditions{UID: &r.ds.UID},
			})
			switch {
			case apierrors.IsConflict(err):
				return manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: somebody replaced it meanwhile", name), "")
			case err != nil && !apierrors.IsNotFound(err):
				return c.failed("delete", "daemonsets", name, err)
			}
			begun = true
			return nil
		},
		look: func(ds *appsv1.DaemonSet, pods []*corev1.Pod) (progress, done bool, err error) {
			living := map[string]bool{}
			for _, p := range pods {
				living[nodeNameOf(p)], seen[nodeNameOf(p)] = true, true
			}
			for _, node := range sortedKeys(seen) {
				if !living[node] && !slices.Contains(result.Nodes, node) {
					result.Nodes = append(result.Nodes, node)
					progress = true
					tell(Progress{NodeResult: NodeResult{Node: node, State: StateAbsent}, Desired: len(living)})
				}
			}
			slices.Sort(result.Nodes)
			left = pods
			return progress, len(pods) == 0 && (ds == nil || ds.UID != r.ds.UID), nil
		},
		warn: func(err error) { tell(Progress{Warning: firstLine(err.Error())}) },
	})
	var late *lateError
	var interrupted *Interrupted
	isLate, isInterrupted := errors.As(err, &late), errors.As(err, &interrupted)
	switch {
	case !begun && isInterrupted:
		return nil, fmt.Errorf("release %s: it was not deleted: %w", name, interrupted.Err)
	case !begun && isLate:
		return nil, fmt.Errorf("release %s: it was not deleted: %w", name, late)
	case !begun:
		return nil, err
	case isInterrupted:
		interrupted.Removal = true
	case isLate && late.blind != nil:
		return result, late.notSeen(name, "removal")
	case isLate:
		return result, c.leftBehind(ctx, result, left)
	}
	return result, err
}

func (c *Client) leftBehind(ctx context.Context, result *DeleteResult, pods []*corev1.Pod) error {
	down := map[string]bool{}
	if nodes, err := c.nodes(ctx); err == nil {
		for _, n := range nodes {
			down[n.Name] = !n.Ready
		}
	}
	var words []string
	for _, p := range pods {
		left := Left{Node: nodeNameOf(p), Pod: p.Name, Why: "its Pod does not end"}
		if down[left.Node] {
			left.Why = "the node is down; its Pod ends when it comes back"
		}
		result.Left = append(result.Left, left)
		words = append(words, left.Node+": "+left.Why)
	}
	if len(words) == 0 {
		return fmt.Errorf("release %s: its Pods are gone, but the cluster does not delete its DaemonSet", result.Name)
	}
	return manifest.WithKind(manifest.KindPartial, fmt.Errorf("release %s: something is left: %s", result.Name, strings.Join(words, "; ")), "Run ebpm delete again to wait for it.")
}
