// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// RollbackPlan is a release as a rollback leaves and makes it.
type RollbackPlan struct {
	Name string
	// From is the revision that is left, To the one that comes back.
	From, To Revision
	// Returns is true when From's rollout is unfinished: then To's template
	// comes back as it was, and only nodes that had moved move back.
	Returns bool
	// Action is ActionUnchanged when To is where the release is.
	Action Action
	// Notes are sentences that a user should read first.
	Notes []string

	current  *release
	to       *revision
	template *corev1.PodTemplateSpec
	strategy appsv1.DaemonSetUpdateStrategy
}

// PlanRollback finds the revision that a rollback goes to: to is a revision's
// number, a tag or a digest (or the start of one); "" is the newest earlier
// revision that was ready everywhere and whose digest or arguments differ, or,
// while a rollout is unfinished, the one that the other nodes still run. reset
// lets maps start empty whose layout differs; else such a rollback is refused,
// with [manifest.KindConflict]. It writes nothing.
func (c *Client) PlanRollback(ctx context.Context, name, to string, reset bool) (*RollbackPlan, error) {
	r, err := c.get(ctx, name)
	if err != nil {
		return nil, err
	}
	if r.ds.DeletionTimestamp != nil {
		return nil, manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: it is being deleted", name), "")
	}
	pods, err := c.pods(ctx, name)
	if err != nil {
		return nil, err
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	return planRollback(r, pods, nodes, to, reset)
}

// planRollback is the pure part of PlanRollback.
func planRollback(r *release, pods []corev1.Pod, nodes []Node, to string, reset bool) (*RollbackPlan, error) {
	name := r.ds.Name
	p := &RollbackPlan{Name: name, From: r.state(), Action: ActionRolledBack, current: r}
	still := stillRuns(r, pods, nodes)
	if to == "" {
		p.to = still
		if p.to == nil {
			p.to = chooseEarlier(r)
		}
		if p.to == nil {
			return nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("release %s: no earlier revision is known to have been ready everywhere with another digest or other arguments", name), revisionsAdvice(r))
		}
	} else {
		var err error
		if p.to, err = chooseNamed(r, to); err != nil {
			return nil, err
		}
	}
	p.Returns = still != nil && p.to == still
	all := revisionsOf(r)
	p.To = find(all, p.to.number)
	if p.to == r.current() {
		p.Action = ActionUnchanged
		return p, nil
	}
	p.template = p.to.template.DeepCopy()
	targets := matching(p.template.Spec.Affinity, nodes)
	back := p.to.version()
	e := r.exclusiveIn(back, targets)
	p.strategy = strategy(targets, e)
	leaving := pods
	if p.Returns {
		// Where an instance of it still lives, it goes on with what it has.
		if leaving = movedAway(p.to, pods); len(leaving) == 0 {
			p.Notes = append(p.Notes, "On each node an instance of that revision still lives, and goes on.")
			return p, nil
		}
	}
	u := upgradeFrom(r.running(leaving), back, targets, e)
	if len(u.reset) > 0 && !reset {
		return nil, u.refuse(name, "rollback "+name)
	}
	// The permission is that of one move. A template that comes back as it was is
	// changed only where it has to have it.
	if reset = reset && u.mayReset(); !p.Returns || reset && !back.resets() {
		p.Returns = false
		setReset(&p.template.Spec, reset)
	}
	p.Notes = append(p.Notes, u.notes...)
	if was := p.to.move.Targets; !was.Equal(r.move.Targets) {
		p.Notes = append(p.Notes, fmt.Sprintf("The targets of that revision come back too: %s.", was))
	}
	return p, nil
}

// movedAway returns the Pods on nodes where no instance of rev lives any more.
func movedAway(rev *revision, pods []corev1.Pod) []corev1.Pod {
	still := map[string]bool{}
	for i := range pods {
		if pods[i].DeletionTimestamp == nil && hashOf(&pods[i]) == rev.hash {
			still[nodeNameOf(&pods[i])] = true
		}
	}
	var moved []corev1.Pod
	for _, pod := range pods {
		if !still[nodeNameOf(&pod)] {
			moved = append(moved, pod)
		}
	}
	return moved
}

// stillRuns returns the revision that nodes still run because the rollout away
// from it is unfinished: of several, the one that most nodes run. It is nil
// when no node runs another one than the current. What a node that is down, or
// is no target any more, ran last says nothing of the rollout.
func stillRuns(r *release, pods []corev1.Pod, nodes []Node) *revision {
	current := r.current()
	up := map[string]bool{}
	for _, n := range matching(r.ds.Spec.Template.Spec.Affinity, nodes) {
		up[n.Name] = n.Ready
	}
	count := map[*revision]int{}
	for i := range pods {
		if pods[i].DeletionTimestamp != nil || !up[nodeNameOf(&pods[i])] {
			continue
		}
		rev := r.byHash(hashOf(&pods[i]))
		if rev == nil || rev == current {
			continue
		}
		count[rev]++
		// What works is worth more than what was tried in between.
		if podReady(&pods[i]) {
			count[rev] += len(pods)
		}
	}
	var most *revision
	for i := range r.revisions {
		rev := &r.revisions[i]
		if n := count[rev]; n > 0 && (most == nil || n >= count[most]) {
			most = rev
		}
	}
	return most
}

// chooseEarlier returns the newest revision before today's that was ready
// everywhere and that differs in what runs, or nil.
func chooseEarlier(r *release) *revision {
	current := r.current()
	for i := range slices.Backward(r.revisions) {
		rev := &r.revisions[i]
		if rev == current || rev.outcome == nil || !rev.outcome.Ready {
			continue
		}
		if rev.move.Digest != r.move.Digest || !slices.Equal(rev.move.Args, r.move.Args) || rev.move.Interface != r.move.Interface || !slices.Equal(rev.move.Attach, r.move.Attach) {
			return rev
		}
	}
	return nil
}

// chooseNamed returns the revision with a number, else the newest with a tag or
// a digest.
func chooseNamed(r *release, to string) (*revision, error) {
	if number, err := strconv.ParseInt(to, 10, 64); err == nil {
		for i := range r.revisions {
			if r.revisions[i].number == number {
				return &r.revisions[i], nil
			}
		}
	}
	current := r.current()
	var digests []string
	var found *revision
	for i := range slices.Backward(r.revisions) {
		rev := &r.revisions[i]
		tagged := rev.move.Tag != "" && rev.move.Tag == to
		prefixed := isDigestPrefix(to) && strings.HasPrefix(rev.move.Digest, to)
		if !tagged && !prefixed {
			continue
		}
		if prefixed && !slices.Contains(digests, rev.move.Digest) {
			digests = append(digests, rev.move.Digest)
		}
		// The newest, but rather another one than today's.
		if found == nil || found == current {
			found = rev
		}
	}
	switch {
	case len(digests) > 1:
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("release %s: %s begins several digests: %s", r.ds.Name, to, strings.Join(digests, ", ")), "")
	case found == nil:
		return nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("release %s: no kept revision has the number, tag or digest %s", r.ds.Name, to), revisionsAdvice(r))
	}
	// A tag may have moved; where today's revision has it as well, and nothing
	// else does, it is today's that was meant.
	return found, nil
}

// isDigestPrefix reports whether s begins a digest, with enough of it to mean
// one.
func isDigestPrefix(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) >= 6 && strings.Trim(hex, "0123456789abcdef") == ""
}

func revisionsAdvice(r *release) string {
	var words []string
	for i := range r.revisions {
		words = append(words, fmt.Sprintf("%d (%s)", r.revisions[i].number, r.revisions[i].move.pkg()))
	}
	return "Kept revisions: " + strings.Join(words, ", ") + "; --to takes any of them."
}

// Rollback makes a plan true and waits for it. Its errors are those of
// [Client.Deploy].
func (c *Client) Rollback(ctx context.Context, p *RollbackPlan, o RolloutOptions) (*Result, error) {
	result := &Result{
		Name: p.Name, Namespace: c.namespace, Action: p.Action,
		Reference: p.To.Reference, Tag: p.To.Tag, Digest: p.To.Digest,
	}
	if p.Action == ActionUnchanged {
		return c.follow(ctx, p.to.move.ID, result, o)
	}
	result.Previous = &p.From
	c.recordLeft(ctx, p.current, result)
	user := c.user(ctx)
	template := p.template
	id := p.to.move.ID
	if !p.Returns {
		id = p.current.nextID(c.now())
		reason := fmt.Sprintf("rollback to revision %d", p.to.number)
		template.Annotations = stamp(template.Annotations, id, c.now(), user, reason, c.version)
	}
	writeCtx, done := writing(ctx)
	err := c.write(writeCtx, p.current, *template, p.strategy)
	done()
	if err != nil {
		return nil, err
	}
	if p.Returns {
		back := returned{From: p.current.move.ID, Time: c.now().UTC().Truncate(time.Second), User: user}
		if err := c.annotate(ctx, p.to.cr, annotationReturn, back); err != nil {
			result.Notes = append(result.Notes, fmt.Sprintf("The rollback was not recorded, so that history takes it for one outside ebpm: %v", err))
		}
	}
	return c.follow(ctx, id, result, o)
}
