// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// move is what the annotations of a Pod template say: what the revision is, and
// which move made it.
type move struct {
	Reference, Tag, Digest string
	Targets                Targets
	Args, Columns          []string
	Programs               []manifest.ProgramStatus
	Attach                 []manifest.Attach
	Interface, Exclusive   string
	// Histogram is how histograms are drawn; nil where the package has none.
	Histogram *manifest.Histogram
	// Moves are how programs move where instances hand over.
	Moves map[string]manifest.Move
	// State are the layouts of the maps that are carried over, by architecture and
	// name. An architecture that is not in it is not known.
	State map[string]map[string]string
	Plan  string
	// ID orders moves: microseconds since 1970, made larger where clocks differ.
	// It is 0 in a template that ebpm did not write.
	ID                    int64
	Time                  time.Time
	User, Reason, Version string
}

// readMove reads annotations. What is missing or malformed stays zero: anyone
// may edit a template, and its other fields still hold.
func readMove(annotations map[string]string) move {
	m := move{
		Reference: annotations[annotationReference],
		Tag:       annotations[annotationTag],
		Digest:    annotations[annotationDigest],
		Interface: annotations[annotationInterface],
		Exclusive: annotations[annotationExclusive],
		Plan:      annotations[annotationPlan],
		User:      annotations[annotationUser],
		Reason:    annotations[annotationReason],
		Version:   annotations[annotationVersion],
	}
	_ = json.Unmarshal([]byte(annotations[annotationTargets]), &m.Targets)
	_ = json.Unmarshal([]byte(annotations[annotationArgs]), &m.Args)
	_ = json.Unmarshal([]byte(annotations[annotationAttach]), &m.Attach)
	_ = json.Unmarshal([]byte(annotations[annotationColumns]), &m.Columns)
	_ = json.Unmarshal([]byte(annotations[annotationHistogram]), &m.Histogram)
	_ = json.Unmarshal([]byte(annotations[annotationPrograms]), &m.Programs)
	_ = json.Unmarshal([]byte(annotations[annotationMoves]), &m.Moves)
	_ = json.Unmarshal([]byte(annotations[annotationState]), &m.State)
	m.ID, _ = strconv.ParseInt(annotations[annotationID], 10, 64)
	m.Time, _ = time.Parse(time.RFC3339, annotations[annotationTime])
	return m
}

// stamp returns annotations with the move that makes them a revision.
func stamp(annotations map[string]string, id int64, at time.Time, user, reason, version string) map[string]string {
	a := map[string]string{} // a template that somebody else wrote may have none
	maps.Copy(a, annotations)
	a[annotationID] = strconv.FormatInt(id, 10)
	a[annotationTime] = at.UTC().Format(time.RFC3339)
	a[annotationUser] = user
	a[annotationReason] = reason
	a[annotationVersion] = version
	return a
}

// repository returns REGISTRY/REPOSITORY, or "".
func (m move) repository() string {
	ref, err := manifest.ParseReference(m.Reference, "")
	if err != nil {
		return ""
	}
	return ref.Context()
}

// pkg returns REPOSITORY:TAG, for tables.
func (m move) pkg() string {
	ref, err := manifest.ParseReference(m.Reference, "")
	if err != nil {
		return m.Reference
	}
	return ref.Package()
}

// revision is one ControllerRevision of a release.
type revision struct {
	cr       *appsv1.ControllerRevision
	number   int64
	hash     string // the label controller-revision-hash of its Pods
	template corev1.PodTemplateSpec
	move     move
	outcome  *Outcome
	returned *returned
}

// Outcome is what the command that waited for a revision saw.
type Outcome struct {
	// Ready is true when every instance was ready at once.
	Ready    bool      `json:"ready"`
	Attached int       `json:"attached"` // instances that were ready
	Desired  int       `json:"desired"`
	Time     time.Time `json:"time"`
	// Causes are those of the nodes that failed, the first few.
	Causes map[string]string `json:"causes,omitempty"`
}

// returned is recorded on the revision that a rollback of an unfinished rollout
// went back to, whose template it must not touch.
type returned struct {
	// From is the id of the revision that was left.
	From int64     `json:"from"`
	Time time.Time `json:"time"`
	User string    `json:"user"`
}

func readRevision(cr *appsv1.ControllerRevision) (revision, error) {
	var data struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(cr.Data.Raw, &data); err != nil {
		return revision{}, fmt.Errorf("controllerrevision %s: %w", cr.Name, err)
	}
	r := revision{
		cr:       cr,
		number:   cr.Revision,
		hash:     cr.Labels[appsv1.DefaultDaemonSetUniqueLabelKey],
		template: data.Spec.Template,
		move:     readMove(data.Spec.Template.Annotations),
	}
	// Absent, or not ours: not observed.
	if text := cr.Annotations[annotationOutcome]; text != "" {
		var o Outcome
		if json.Unmarshal([]byte(text), &o) == nil {
			r.outcome = &o
		}
	}
	if text := cr.Annotations[annotationReturn]; text != "" {
		var back returned
		if json.Unmarshal([]byte(text), &back) == nil {
			r.returned = &back
		}
	}
	return r, nil
}

// release is a DaemonSet with its history.
type release struct {
	ds   *appsv1.DaemonSet
	move move
	// revisions ascend by number.
	revisions []revision
}

// current returns the revision of the DaemonSet's template, or nil while the
// controller has not made it.
func (r *release) current() *revision {
	if len(r.revisions) == 0 {
		return nil
	}
	last := &r.revisions[len(r.revisions)-1]
	if !equality.Semantic.DeepEqual(last.template.Annotations, r.ds.Spec.Template.Annotations) ||
		!equality.Semantic.DeepEqual(last.template.Spec, r.ds.Spec.Template.Spec) {
		return nil
	}
	return last
}

// byHash returns the revision whose Pods have that label, or nil.
func (r *release) byHash(hash string) *revision {
	for i := range r.revisions {
		if r.revisions[i].hash == hash {
			return &r.revisions[i]
		}
	}
	return nil
}

// original returns the revision that the move id made, or nil when it is not
// kept. Whoever edits or restarts a release outside ebpm makes further revisions
// with its id; a number may change, the time of creation does not.
func (r *release) original(id int64) *revision {
	var first *revision
	for i := range r.revisions {
		rev := &r.revisions[i]
		if rev.move.ID == id && (first == nil || rev.cr.CreationTimestamp.Before(&first.cr.CreationTimestamp)) {
			first = rev
		}
	}
	return first
}

// edited reports whether the template was changed outside ebpm: its Pod is not
// the one that its move made.
func (r *release) edited() bool {
	first := r.original(r.move.ID)
	return first != nil && !equality.Semantic.DeepEqual(first.template.Spec, r.ds.Spec.Template.Spec)
}

// nextID returns an id larger than that of every kept revision.
func (r *release) nextID(now time.Time) int64 {
	id := now.UnixMicro()
	if r == nil {
		return id
	}
	id = max(id, r.move.ID+1)
	for _, rev := range r.revisions {
		id = max(id, rev.move.ID+1)
	}
	return id
}

// isRelease reports whether ebpm manages a DaemonSet.
func isRelease(ds *appsv1.DaemonSet) bool {
	return ds.Labels[labelManagedBy] == managedBy && ds.Labels[labelRelease] == ds.Name
}

// get returns a release. The error is of [manifest.KindNotFound] when there is
// none, of [manifest.KindConflict] when the name is that of an object that ebpm
// does not manage.
func (c *Client) get(ctx context.Context, name string) (*release, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	ds, err := c.kube.AppsV1().DaemonSets(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("release %s: it does not exist in namespace %s", name, c.namespace), "ebpm list shows those that do.")
	}
	if err != nil {
		return nil, c.failed("get", "daemonsets", name, err)
	}
	if !isRelease(ds) {
		return nil, manifest.WithKind(manifest.KindConflict, fmt.Errorf("release %s: the DaemonSet of that name in namespace %s is not managed by ebpm", name, c.namespace), "Choose another name with --name.")
	}
	return c.withHistory(ctx, ds)
}

func (c *Client) withHistory(ctx context.Context, ds *appsv1.DaemonSet) (*release, error) {
	list, err := c.kube.AppsV1().ControllerRevisions(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: selectorOf(ds.Name)})
	if err != nil {
		return nil, c.failed("list", "controllerrevisions", "", err)
	}
	return newRelease(ds, list.Items)
}

// newRelease takes the revisions of ds from those of the namespace.
func newRelease(ds *appsv1.DaemonSet, all []appsv1.ControllerRevision) (*release, error) {
	r := &release{ds: ds, move: readMove(ds.Spec.Template.Annotations)}
	for i := range all {
		if !metav1.IsControlledBy(&all[i], ds) {
			continue
		}
		rev, err := readRevision(&all[i])
		if err != nil {
			return nil, err
		}
		r.revisions = append(r.revisions, rev)
	}
	slices.SortFunc(r.revisions, func(a, b revision) int { return int(a.number - b.number) })
	return r, nil
}

// annotate writes one annotation of a ControllerRevision; the rest of it is
// Kubernetes'.
func (c *Client) annotate(ctx context.Context, cr *appsv1.ControllerRevision, key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: string(text)}}})
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	_, err = c.kube.AppsV1().ControllerRevisions(c.namespace).Patch(ctx, cr.Name, mergePatch, patch, metav1.PatchOptions{FieldManager: managedBy})
	if err != nil {
		return c.failed("patch", "controllerrevisions", cr.Name, err)
	}
	return nil
}
