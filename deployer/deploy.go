// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const mergePatch = types.MergePatchType

// PlanDeploy makes the plan of a release, new or existing. It reads the cluster
// and writes nothing.
func (c *Client) PlanDeploy(ctx context.Context, o DeployOptions) (*Plan, error) {
	if o.Name == "" {
		name, err := DefaultName(o.Package.Reference)
		if err != nil {
			return nil, err
		}
		o.Name = name
	}
	current, err := c.get(ctx, o.Name)
	switch {
	case err == nil:
		if err := c.checkOwner(current, o.Package.Reference); err != nil {
			return nil, err
		}
	case manifest.KindOf(err) == manifest.KindNotFound:
		current = nil
	default:
		return nil, err
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	if current != nil {
		if pods, err = c.pods(ctx, o.Name); err != nil {
			return nil, err
		}
	}
	return plan(c.namespace, o, nodes, current, pods)
}

// checkOwner refuses to move a release to another repository.
func (c *Client) checkOwner(r *release, ref manifest.Reference) error {
	if r.ds.DeletionTimestamp != nil {
		return manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: it is being deleted", r.ds.Name), "Wait until ebpm list no longer shows it.")
	}
	if from := r.move.repository(); from != ref.Context() {
		if from == "" {
			from = "an unknown repository"
		}
		return manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: it comes from %s, not from %s", r.ds.Name, from, ref.Context()), "Choose another name with --name, or delete that release first.")
	}
	return nil
}

// Deploy makes a plan true and waits for it. A plan that changes nothing writes
// at most what nodes must know of the registry. The error is a [*RolloutError], an [*Interrupted], or says what could
// not be written; of [manifest.KindConflict] when the release changed after the
// plan was made, of [manifest.KindPrecondition] when every node of it is down.
// The result is not nil once the release was written.
func (c *Client) Deploy(ctx context.Context, p *Plan, o RolloutOptions) (*Result, error) {
	name := p.DaemonSet.Name
	result := &Result{
		Name: name, Namespace: c.namespace, Action: p.Action,
		Reference: p.Reference.String(), Tag: p.Reference.Tag, Digest: p.Reference.Digest.String(),
		Desired: len(p.Nodes), Skipped: p.Skipped,
	}
	if p.current != nil {
		previous := p.current.state()
		result.Previous = &previous
	}
	if p.Action == ActionUnchanged {
		// What this user knows of the registry may be all that instances lack.
		if err := c.mergeNodeConfig(ctx, p.registries, result); err != nil {
			return nil, err
		}
		// What was not finished, by whoever asked for it, may be waited for.
		result.Previous = nil
		result, err := c.follow(ctx, p.current.move.ID, result, o)
		return result, interruptedFirst(err, len(p.current.revisions) <= 1)
	}
	if err := c.ensureNamespace(ctx); err != nil {
		return nil, err
	}
	if err := c.mergeNodeConfig(ctx, p.registries, result); err != nil {
		return nil, err
	}
	user := c.user(ctx)
	if p.current == nil {
		id := p.current.nextID(c.now())
		ds := p.DaemonSet.DeepCopy()
		ds.Spec.Template.Annotations = stamp(ds.Spec.Template.Annotations, id, c.now(), user, "deploy", c.version)
		writeCtx, done := writing(ctx)
		_, err := c.kube.AppsV1().DaemonSets(c.namespace).Create(writeCtx, ds, metav1.CreateOptions{FieldManager: managedBy})
		done()
		if apierrors.IsAlreadyExists(err) {
			return nil, manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: somebody else made it just now", name), "Look at it with ebpm status "+name+", and deploy again.")
		}
		if err != nil {
			return nil, c.failed("create", "daemonsets", name, err)
		}
		result, err := c.follow(ctx, id, result, o)
		result, err = c.removeFailed(ctx, result, err, o)
		return result, interruptedFirst(err, true)
	}
	c.recordLeft(ctx, p.current, result)
	reason := "change"
	if p.current.move.Digest != p.Reference.Digest.String() {
		reason = "upgrade"
	}
	id := p.current.nextID(c.now())
	template := p.DaemonSet.Spec.Template.DeepCopy()
	template.Annotations = stamp(template.Annotations, id, c.now(), user, reason, c.version)
	writeCtx, done := writing(ctx)
	err := c.write(writeCtx, p.current, *template, p.DaemonSet.Spec.UpdateStrategy)
	done()
	if err != nil {
		return nil, err
	}
	return c.follow(ctx, id, result, o)
}

// writing returns the context of a write that decides what the cluster does
// from now on. Once begun it ends, also when the user interrupts it: whether it
// happened must be known to say what goes on.
func writing(ctx context.Context) (context.Context, context.CancelFunc) {
	const limit = 10 * time.Second
	if ctx.Err() != nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

// interruptedFirst completes an [*Interrupted] in err's chain.
func interruptedFirst(err error, created bool) error {
	if interrupted := (*Interrupted)(nil); errors.As(err, &interrupted) {
		interrupted.Created = created
	}
	return err
}

// state returns the revision that r is in, in its public form.
func (r *release) state() Revision {
	if cur := r.current(); cur != nil {
		return find(revisionsOf(r), cur.number)
	}
	return Revision{Time: r.move.Time, Reference: r.move.Reference, Tag: r.move.Tag, Digest: r.move.Digest, Args: r.move.Args, Attach: r.move.Attach, Targets: r.move.Targets, User: r.move.User, Reason: r.move.Reason, Current: true}
}

// write gives a release another template, if it still is the one that was read:
// the resource version alone changes with every status.
func (c *Client) write(ctx context.Context, was *release, template corev1.PodTemplateSpec, strategy appsv1.DaemonSetUpdateStrategy) error {
	name := was.ds.Name
	api := c.kube.AppsV1().DaemonSets(c.namespace)
	for {
		ds, err := api.Get(ctx, name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return c.failed("get", "daemonsets", name, err)
		}
		if err != nil || ds.UID != was.ds.UID || ds.DeletionTimestamp != nil {
			return manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: somebody deleted it meanwhile", name), "Deploy again if it is still wanted.")
		}
		if m := readMove(ds.Spec.Template.Annotations); ds.Generation != was.ds.Generation || m.ID != was.move.ID {
			return manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: somebody changed it meanwhile (now %s, by %q)", name, m.pkg(), m.User), "Look at it with ebpm history "+name+", and try again.")
		}
		ds.Spec.Template = template
		ds.Spec.UpdateStrategy = strategy
		ds.Spec.MinReadySeconds = minReadySeconds
		ds.Spec.RevisionHistoryLimit = new(int32(revisionHistoryLimit))
		_, err = api.Update(ctx, ds, metav1.UpdateOptions{FieldManager: managedBy})
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return c.failed("update", "daemonsets", name, err)
		}
		return nil
	}
}

// follow waits for a move and records on its revision how it ended.
func (c *Client) follow(ctx context.Context, id int64, result *Result, o RolloutOptions) (*Result, error) {
	if o.NoWait {
		return result, nil
	}
	start := c.now()
	nodes, err := c.waitable(ctx, result.Name)
	if err != nil && ctx.Err() != nil {
		return result, &Interrupted{Release: result.Name, Err: context.Cause(ctx)}
	}
	if err != nil {
		return result, err
	}
	result.Desired = len(nodes)
	if len(nodes) == 0 {
		return result, manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("release %s: no node that it is to run on is up, so it was not seen to run; it starts where one comes up", result.Name),
			"ebpm status "+result.Name+" shows it; ebpm delete "+result.Name+" takes it away again.")
	}
	v, err := c.wait(ctx, result.Name, id, nodes, o)
	result.Seconds = c.now().Sub(start).Seconds()
	result.Nodes, result.Attached = v.results(), v.attached()
	if e := asRollout(err); e != nil {
		// The causes that events gave are in the error only.
		for _, failed := range e.Nodes {
			for i := range result.Nodes {
				if result.Nodes[i].Node == failed.Node {
					result.Nodes[i] = failed
				}
			}
		}
	}
	if err == nil || asRollout(err) != nil {
		c.recordOutcome(ctx, id, result, v.done())
	}
	return result, err
}

// waitable returns the nodes that a release is to run on and that are up.
func (c *Client) waitable(ctx context.Context, name string) ([]string, error) {
	ds, err := c.kube.AppsV1().DaemonSets(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, c.failed("get", "daemonsets", name, err)
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range matching(ds.Spec.Template.Spec.Affinity, nodes) {
		if n.Ready {
			names = append(names, n.Name)
		}
	}
	return names, nil
}

// recordOutcome writes how a move ended on its revision. What it cannot write
// is a note: the release is as it is.
func (c *Client) recordOutcome(ctx context.Context, id int64, result *Result, ready bool) {
	r, err := c.get(ctx, result.Name)
	if err != nil {
		result.Notes = append(result.Notes, fmt.Sprintf("The outcome was not recorded: %v", err))
		return
	}
	cur := r.current()
	if cur == nil || cur.move.ID != id {
		return // another move is under way and will be recorded by whoever waits for it
	}
	result.Revision = cur.number
	if cur.outcome != nil && cur.outcome.Ready {
		return
	}
	o := Outcome{Ready: ready && result.Desired > 0, Attached: result.Attached, Desired: result.Desired, Time: c.now().UTC().Truncate(time.Second), Causes: causes(result.Nodes)}
	if err := c.annotate(ctx, cur.cr, annotationOutcome, o); err != nil {
		result.Notes = append(result.Notes, fmt.Sprintf("The outcome was not recorded: %v", err))
	}
}

// recordLeft writes what the revision that is about to be left looks like,
// unless it is known to have been ready.
func (c *Client) recordLeft(ctx context.Context, r *release, result *Result) {
	cur := r.current()
	if cur == nil || cur.outcome != nil && cur.outcome.Ready {
		return
	}
	pods, err := c.pods(ctx, r.ds.Name)
	if err != nil {
		result.Notes = append(result.Notes, fmt.Sprintf("The outcome of revision %d was not recorded: %v", cur.number, err))
		return
	}
	var nodes []NodeResult
	attached := 0
	for i := range pods {
		if hashOf(&pods[i]) != cur.hash {
			continue
		}
		in := instanceOf(&pods[i])
		nodes = append(nodes, in.NodeResult)
		if in.State == StateAttached {
			attached++
		}
	}
	desired := int(r.ds.Status.DesiredNumberScheduled)
	o := Outcome{Ready: desired > 0 && attached >= desired, Attached: attached, Desired: desired, Time: c.now().UTC().Truncate(time.Second), Causes: causes(nodes)}
	if err := c.annotate(ctx, cur.cr, annotationOutcome, o); err != nil {
		result.Notes = append(result.Notes, fmt.Sprintf("The outcome of revision %d was not recorded: %v", cur.number, err))
	}
}

// causes returns those of the first nodes that failed. They are kept in an
// annotation, of which an object has 256 KiB in all.
func causes(nodes []NodeResult) map[string]string {
	const most, longest = 8, 4096
	all := map[string]string{}
	for _, n := range nodes {
		if n.Cause == "" || len(all) == most {
			continue
		}
		cause := n.Cause
		if len(cause) > longest {
			cause = cause[:longest] + " ..."
		}
		all[n.Node] = cause
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// removeFailed takes a new release away again that is ready on no node.
func (c *Client) removeFailed(ctx context.Context, result *Result, err error, o RolloutOptions) (*Result, error) {
	e := asRollout(err)
	if e == nil || e.Attached > 0 || o.KeepFailed {
		return result, err
	}
	if _, removeErr := c.Delete(ctx, result.Name, DeleteOptions{}); removeErr != nil {
		return result, errors.Join(err, fmt.Errorf("remove it again: %w", removeErr))
	}
	e.Removed = true
	return result, manifest.WithKind(manifest.KindFailure, e, "--keep-failed leaves it for a closer look.")
}
