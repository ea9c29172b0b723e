// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Summary is a release in one row.
type Summary struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Reference string `json:"reference"`
	// Package is REPOSITORY:TAG.
	Package  string `json:"package"`
	Tag      string `json:"tag,omitempty"`
	Digest   string `json:"digest"`
	Revision int64  `json:"revision"`
	// Desired counts the nodes that it is to run on, Ready those where all is
	// attached, Updated those that have the current revision.
	Desired int `json:"desired"`
	Ready   int `json:"ready"`
	Updated int `json:"updated"`
	// Finished is false while a rollout is under way, or stands still.
	Finished  bool       `json:"finished"`
	Created   time.Time  `json:"created"`
	Instances []Instance `json:"instances"`
}

// Instance is one runner on one node.
type Instance struct {
	Node string `json:"node"`
	// Pod is "" where there is none.
	Pod      string `json:"pod,omitempty"`
	Revision int64  `json:"revision,omitempty"`
	Tag      string `json:"tag,omitempty"`
	State    State  `json:"state"`
	Restarts int32  `json:"restarts"`
	// Since is when the runner was started, nil when it does not run.
	Since *time.Time `json:"since,omitempty"`
	Cause string     `json:"cause,omitempty"`
}

// Status is a release with what its instances say of themselves.
type Status struct {
	Summary
	User      string    `json:"user,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Changed   time.Time `json:"changed"`
	Targets   Targets   `json:"targets"`
	Args      []string  `json:"args,omitempty"`
	Interface string    `json:"interface,omitempty"`
	// Attach are the places that programs were given.
	Attach []manifest.Attach `json:"attach,omitempty"`
	Image  string            `json:"image"`
	Notes  []string          `json:"notes,omitempty"`
	Nodes  []InstanceStatus  `json:"nodes"`
}

// InstanceStatus is an Instance with its last status records.
type InstanceStatus struct {
	Instance
	Kernel   string                   `json:"kernel,omitempty"`
	Programs []manifest.ProgramStatus `json:"programs,omitempty"`
	// Recorded is the time of the last status record. It is nil where the log
	// could not be read, or the node's log rotation dropped all of them: then
	// Programs are those of the package, since an attached instance attached
	// every one, and what was lost is not known.
	Recorded *time.Time `json:"recorded,omitempty"`
	// Note says why the log could not be read.
	Note string `json:"note,omitempty"`
	// Lost and Malformed count events since the start of the runner, by map.
	Lost      map[string]uint64 `json:"lost,omitempty"`
	Malformed map[string]uint64 `json:"malformed,omitempty"`
	// Handover is the instance's part beside others of its release on the node; nil
	// where it takes none, or its log does not say it any more.
	Handover *manifest.Handover `json:"handover,omitempty"`
}

// List returns the releases of the namespace, sorted by name.
func (c *Client) List(ctx context.Context) ([]Summary, error) {
	selector := metav1.ListOptions{LabelSelector: labelManagedBy + "=" + managedBy}
	daemons, err := c.kube.AppsV1().DaemonSets(c.namespace).List(ctx, selector)
	if err != nil {
		return nil, c.failed("list", "daemonsets", "", err)
	}
	revisions, err := c.kube.AppsV1().ControllerRevisions(c.namespace).List(ctx, selector)
	if err != nil {
		return nil, c.failed("list", "controllerrevisions", "", err)
	}
	pods, err := c.kube.CoreV1().Pods(c.namespace).List(ctx, selector)
	if err != nil {
		return nil, c.failed("list", "pods", "", err)
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	list := []Summary{}
	for i := range daemons.Items {
		ds := &daemons.Items[i]
		if !isRelease(ds) {
			continue
		}
		r, err := newRelease(ds, revisions.Items)
		if err != nil {
			return nil, err
		}
		var own []corev1.Pod
		for _, p := range pods.Items {
			if p.Labels[labelRelease] == ds.Name {
				own = append(own, p)
			}
		}
		list = append(list, summaryOf(r, own, nodes))
	}
	slices.SortFunc(list, func(a, b Summary) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// summaryOf reads a release. It is pure.
func summaryOf(r *release, pods []corev1.Pod, nodes []Node) Summary {
	s := Summary{
		Name: r.ds.Name, Namespace: r.ds.Namespace, Reference: r.move.Reference, Package: r.move.pkg(),
		Tag: r.move.Tag, Digest: r.move.Digest, Created: r.ds.CreationTimestamp.UTC(),
		Instances: []Instance{},
	}
	current := r.current()
	if current != nil {
		s.Revision = current.number
	}
	targets := matching(r.ds.Spec.Template.Spec.Affinity, nodes)
	s.Desired = len(targets)
	s.Finished = current != nil && r.ds.DeletionTimestamp == nil
	attached, updated, present, old := map[string]bool{}, map[string]bool{}, map[string]bool{}, false
	for i := range pods {
		in := instanceOf(&pods[i])
		out := Instance{Node: in.Node, Pod: pods[i].Name, State: in.State, Restarts: in.Restarts, Cause: in.Cause}
		rev := r.byHash(hashOf(&pods[i]))
		if rev != nil {
			out.Revision, out.Tag = rev.number, rev.move.Tag
		}
		for _, cs := range pods[i].Status.ContainerStatuses {
			if cs.Name == containerRun && cs.State.Running != nil {
				out.Since = new(cs.State.Running.StartedAt.UTC())
			}
		}
		s.Instances = append(s.Instances, out)
		present[in.Node] = true
		if in.State == StateEnding {
			continue
		}
		if in.State == StateAttached {
			attached[in.Node] = true
		}
		if rev != nil && rev == current {
			updated[in.Node] = updated[in.Node] || in.State == StateAttached
		} else {
			old = true
		}
	}
	for _, n := range targets {
		if present[n.Name] {
			continue
		}
		out := Instance{Node: n.Name, State: StateAbsent}
		if !n.Ready {
			out.Cause = "the node is not ready"
		}
		s.Instances = append(s.Instances, out)
	}
	slices.SortStableFunc(s.Instances, func(a, b Instance) int {
		if a.Node != b.Node {
			return strings.Compare(a.Node, b.Node)
		}
		return int(a.Revision - b.Revision)
	})
	s.Ready = len(attached)
	for _, n := range targets {
		if updated[n.Name] {
			s.Updated++
		} else if n.Ready {
			s.Finished = false
		}
	}
	s.Finished = s.Finished && !old
	return s
}

// Status returns a release and what each instance last said of itself. A log
// that cannot be read, as where a node is down, is a note; that reading logs is
// not allowed is an error.
func (c *Client) Status(ctx context.Context, name string) (*Status, error) {
	r, err := c.get(ctx, name)
	if err != nil {
		return nil, err
	}
	pods, err := c.pods(ctx, name)
	if err != nil {
		return nil, err
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	s := &Status{
		Summary: summaryOf(r, pods, nodes),
		User:    r.move.User, Reason: r.move.Reason, Changed: r.move.Time,
		Targets: r.move.Targets, Args: r.move.Args, Interface: r.move.Interface, Attach: r.move.Attach,
		Image: imageOf(&r.ds.Spec.Template.Spec),
	}
	s.Notes = notesOf(r, s.Summary)
	s.Nodes = make([]InstanceStatus, len(s.Instances))
	beside := map[string]int{}
	for _, in := range s.Instances {
		if in.Since != nil {
			beside[in.Node]++
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, in := range s.Instances {
		s.Nodes[i].Instance = in
		if in.Since == nil {
			continue
		}
		g.Go(func() error {
			err := c.readStatus(gctx, &s.Nodes[i], beside[in.Node] > 1)
			switch {
			case err == nil:
				return nil
			case isDenied(err):
				return c.failed("get", "pods/log", in.Pod, err)
			case gctx.Err() != nil:
				return context.Cause(gctx)
			}
			s.Nodes[i].Recorded = nil // half of the records say nothing of losses
			s.Nodes[i].Note = fmt.Sprintf("log not readable: %v", err)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range s.Nodes {
		in := &s.Nodes[i]
		if in.Note != "" {
			s.Notes = append(s.Notes, fmt.Sprintf("%s on %s: %s.", in.Pod, in.Node, in.Note))
		}
		if in.State != StateAttached || in.Recorded != nil {
			continue
		}
		for _, rev := range r.revisions {
			if rev.number == in.Revision {
				in.Programs = rev.move.Programs
			}
		}
		if in.Note != "" {
			continue
		}
		s.Notes = append(s.Notes, fmt.Sprintf("The log of %s on %s begins after its last status record (the node's log rotation dropped it): whether events were lost is not known.", in.Pod, in.Node))
	}
	return s, nil
}

func notesOf(r *release, s Summary) []string {
	var notes []string
	if r.ds.DeletionTimestamp != nil {
		notes = append(notes, "It is being deleted.")
	} else if !s.Finished {
		notes = append(notes, fmt.Sprintf("The rollout of revision %d is unfinished: %d of %d nodes have it. ebpm rollback %s goes back.", s.Revision, s.Updated, s.Desired, s.Name))
	}
	if current := r.current(); current != nil {
		if note := find(revisionsOf(r), current.number).Note; note != "" {
			notes = append(notes, fmt.Sprintf("Revision %d: %s.", current.number, note))
		}
	}
	// Why an earlier move failed is worth knowing after it was rolled back.
	for i := range slices.Backward(r.revisions) {
		rev := &r.revisions[i]
		if rev == r.current() || rev.outcome == nil || rev.outcome.Ready || len(rev.outcome.Causes) == 0 {
			continue
		}
		for _, node := range sortedKeys(rev.outcome.Causes) {
			notes = append(notes, fmt.Sprintf("Revision %d (%s) failed on %s: %s", rev.number, rev.move.pkg(), node, firstLine(rev.outcome.Causes[node])))
		}
		break
	}
	return notes
}

// firstLine returns the first line of a cause, which says most of it.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// readStatus reads the status records of an instance from its log: the first at
// its start, or behind where its beginning was rotated away, and those of the last
// half minute, in which one that loses events says so. Between them are the events,
// of which there may be any number, so neither end is read beyond a bound, nor waited
// for: a kubelet that is gone answers nothing. Where it is one of several on its node
// it may have handed over at any time; as it prints nothing after that, the end of
// its log says so.
func (c *Client) readStatus(ctx context.Context, in *InstanceStatus, ofSeveral bool) error {
	const headBytes, tailLines, recentSeconds, recentBytes = 2 * manifest.StatusInterval, 20, 30, 32 << 20
	read := func(o corev1.PodLogOptions) error {
		o.Container = containerRun
		timed, stop := context.WithTimeoutCause(ctx, c.logTimeout, fmt.Errorf("no answer for %s", c.logTimeout))
		defer stop()
		body, err := c.openLog(timed, in.Pod, &o)
		if err != nil {
			if gone(err) {
				return nil // it ended since it was listed
			}
			return cmp.Or(context.Cause(timed), err)
		}
		defer func() { _ = body.Close() }() // it was only read
		lines := newLineReader(body)
		for {
			line, _, err := lines.next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return cmp.Or(context.Cause(timed), err)
			}
			if !bytes.HasPrefix(line, statusPrefix) {
				continue
			}
			if s, ok := manifest.DecodeStatus(line); ok {
				in.take(s)
			}
		}
	}
	if err := read(corev1.PodLogOptions{LimitBytes: new(int64(headBytes))}); err != nil {
		return err
	}
	if ofSeveral {
		if err := read(corev1.PodLogOptions{TailLines: new(int64(tailLines)), LimitBytes: new(int64(recentBytes))}); err != nil {
			return err
		}
	}
	return read(corev1.PodLogOptions{SinceSeconds: new(int64(recentSeconds)), LimitBytes: new(int64(recentBytes))})
}

// take adds a record. What is read last may begin before what was read first ends.
func (in *InstanceStatus) take(s manifest.Status) {
	if in.Recorded != nil && s.Time.Before(*in.Recorded) {
		return
	}
	if s.Handover != nil {
		in.Handover = s.Handover
	}
	if s.Kernel != "" {
		in.Kernel = s.Kernel
	}
	in.Recorded = new(s.Time)
	in.Programs = s.Programs
	if s.Event == manifest.StatusDetached {
		in.Programs = nil
	}
	if s.Lost != nil {
		in.Lost = s.Lost
	}
	if s.Malformed != nil {
		in.Malformed = s.Malformed
	}
}
