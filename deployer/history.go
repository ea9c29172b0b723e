// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ebpm/ebpm/manifest"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Revision is one state that a release was in.
type Revision struct {
	Revision int64 `json:"revision"`
	// Time is when the move that made it was asked for.
	Time      time.Time `json:"time"`
	Reference string    `json:"reference"`
	Tag       string    `json:"tag,omitempty"`
	Digest    string    `json:"digest"`
	Args      []string  `json:"args,omitempty"`
	// Attach are the places that programs were given.
	Attach  []manifest.Attach `json:"attach,omitempty"`
	Targets Targets           `json:"targets"`
	User    string            `json:"user,omitempty"`
	// Reason is deploy, upgrade, or a rollback and to what.
	Reason string `json:"reason,omitempty"`
	// Note says what happened to it outside that move.
	Note string `json:"note,omitempty"`
	// Outcome is nil where no command waited.
	Outcome *Outcome `json:"outcome,omitempty"`
	Current bool     `json:"current"`
}

// Words of [Revision].Note.
const (
	noteUndone    = "undone outside ebpm"
	noteRestarted = "restarted outside ebpm"
	noteEdited    = "edited outside ebpm"
	noteForeign   = "not made by ebpm"
)

// revisionsOf reads the history of r. Kubernetes gives an old revision a new
// number when its template returns, so numbers follow time and ids tell what
// happened: an id older than that of a lower number has come back, and of those
// with one id all but the first made were kept by an edit.
func revisionsOf(r *release) []Revision {
	current := r.current()
	list := make([]Revision, 0, len(r.revisions))
	for i := range r.revisions {
		rev := &r.revisions[i]
		out := Revision{
			Revision:  rev.number,
			Time:      rev.move.Time,
			Reference: rev.move.Reference,
			Tag:       rev.move.Tag,
			Digest:    rev.move.Digest,
			Args:      rev.move.Args,
			Attach:    rev.move.Attach,
			Targets:   rev.move.Targets,
			User:      rev.move.User,
			Reason:    rev.move.Reason,
			Outcome:   rev.outcome,
			Current:   rev == current,
		}
		out.Note = r.noteOf(i)
		list = append(list, out)
	}
	return list
}

// noteOf returns the note of a revision, by its index.
func (r *release) noteOf(index int) string {
	rev, before := &r.revisions[index], r.revisions[:index]
	if rev.move.ID == 0 {
		return noteForeign
	}
	if first := r.original(rev.move.ID); first != rev {
		if sameButRestart(first.template, rev.template) {
			return noteRestarted
		}
		return noteEdited
	}
	var newest int64
	for i := range before {
		if before[i].move.ID == rev.move.ID {
			return noteUndone // an edit or a restart was
		}
		newest = max(newest, before[i].move.ID)
	}
	if newest <= rev.move.ID {
		return ""
	}
	if rev.returned != nil && rev.returned.From >= newest {
		left := ""
		for i := range before {
			if before[i].move.ID == rev.returned.From {
				left = fmt.Sprintf(" of revision %d (%s)", before[i].number, before[i].move.pkg())
			}
		}
		return "rollback of an unfinished rollout" + left
	}
	return noteUndone
}

func sameButRestart(a, b corev1.PodTemplateSpec) bool {
	return equality.Semantic.DeepEqual(a.Spec, b.Spec) &&
		a.Annotations[annotationRestartedAt] != b.Annotations[annotationRestartedAt]
}

// History returns the revisions of a release that the cluster keeps, the oldest
// first.
func (c *Client) History(ctx context.Context, name string) ([]Revision, error) {
	r, err := c.get(ctx, name)
	if err != nil {
		return nil, err
	}
	return revisionsOf(r), nil
}

// find returns the public form of a revision.
func find(list []Revision, number int64) Revision {
	i := slices.IndexFunc(list, func(r Revision) bool { return r.Revision == number })
	if i < 0 {
		return Revision{}
	}
	return list[i]
}
