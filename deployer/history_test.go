// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rev describes a revision of a test.
type rev struct {
	number    int64
	id        int64
	tag       string
	args      string
	exclusive string
	outcome   string // ready, failed or ""
	returned  int64
	restarted string // kubectl rollout restart's time
	image     string // an edit
	made      int64  // seconds since 1970
}

// releaseOf makes a release whose last revision is the current one.
func releaseOf(revs ...rev) *release {
	r := &release{ds: &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ebpm"}}}
	for _, v := range revs {
		args := []string{}
		if v.args != "" {
			args = strings.Fields(v.args)
		}
		template := corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
				annotationReference: "r.example/x:" + v.tag, annotationTag: v.tag, annotationDigest: "sha256:" + strings.Repeat(v.tag, 64)[:64],
				annotationArgs: encode(args), annotationTargets: `{"all":true}`,
				annotationID: strconv.FormatInt(v.id, 10), annotationReason: "move " + strconv.FormatInt(v.id, 10), annotationExclusive: v.exclusive,
			}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: containerRun, Image: "i" + v.image}}},
		}
		if v.restarted != "" {
			template.Annotations[annotationRestartedAt] = v.restarted
		}
		cr := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Unix(v.made, 0)}}
		out := revision{cr: cr, number: v.number, hash: fmt.Sprint("h", v.number), template: template, move: readMove(template.Annotations)}
		if v.outcome != "" {
			out.outcome = &Outcome{Ready: v.outcome == "ready"}
		}
		if v.returned != 0 {
			out.returned = &returned{From: v.returned, Time: time.Unix(0, 0)}
		}
		r.revisions = append(r.revisions, out)
	}
	last := r.revisions[len(r.revisions)-1]
	r.ds.Spec.Template, r.move = *last.template.DeepCopy(), last.move
	return r
}

func TestHistoryNotes(t *testing.T) {
	tests := []struct {
		name string
		revs []rev
		want []string
	}{
		{"moves", []rev{{number: 1, id: 10, tag: "a"}, {number: 2, id: 20, tag: "b"}}, []string{"", ""}},
		{"undone", []rev{{number: 2, id: 20, tag: "b"}, {number: 3, id: 10, tag: "a"}}, []string{"", noteUndone}},
		{"a move after an undo", []rev{{number: 2, id: 20, tag: "b"}, {number: 3, id: 10, tag: "a"}, {number: 4, id: 30, tag: "c"}}, []string{"", noteUndone, ""}},
		{"restarted", []rev{{number: 1, id: 10, tag: "a"}, {number: 2, id: 10, tag: "a", restarted: "now"}}, []string{"", noteRestarted}},
		{"edited", []rev{{number: 1, id: 10, tag: "a"}, {number: 2, id: 10, tag: "a", image: "evil"}}, []string{"", noteEdited}},
		{"a rollback of an unfinished rollout", []rev{{number: 2, id: 20, tag: "b"}, {number: 3, id: 10, tag: "a", returned: 20}}, []string{"", "rollback of an unfinished rollout of revision 2 (x:b)"}},
		{"undone later than such a rollback", []rev{{number: 2, id: 20, tag: "b"}, {number: 4, id: 30, tag: "c"}, {number: 5, id: 10, tag: "a", returned: 20}}, []string{"", "", noteUndone}},
		{"an edit was undone", []rev{{number: 2, id: 10, tag: "a", image: "evil", made: 2}, {number: 3, id: 10, tag: "a", made: 1}}, []string{noteEdited, noteUndone}},
		{"not ours", []rev{{number: 1, id: 0, tag: "a"}}, []string{noteForeign}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			list := revisionsOf(releaseOf(tt.revs...))
			for _, r := range list {
				got = append(got, r.Note)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("notes %q, want %q", got, tt.want)
			}
			for i, r := range list {
				if r.Current != (i == len(list)-1) {
					t.Errorf("revision %d: current %v", r.Revision, r.Current)
				}
			}
		})
	}
}

func TestChooseRollback(t *testing.T) {
	usual := []rev{
		{number: 1, id: 10, tag: "a", outcome: "ready"},
		{number: 2, id: 20, tag: "b", outcome: "ready"},
		{number: 3, id: 30, tag: "c", outcome: "failed"},
		{number: 4, id: 40, tag: "d"},
		{number: 5, id: 50, tag: "e", outcome: "ready"},
	}
	tests := []struct {
		name string
		revs []rev
		pods map[string]int64 // number of a node's revision
		down string           // a node
		to   string
		want int64
		kind manifest.Kind
		back bool
	}{
		{name: "the newest that was ready", revs: usual, want: 2},
		{name: "a number", revs: usual, to: "1", want: 1},
		{name: "a number of one that failed", revs: usual, to: "3", want: 3},
		{name: "a tag", revs: usual, to: "d", want: 4},
		{name: "a digest", revs: usual, to: "sha256:" + strings.Repeat("a", 64), want: 1},
		{name: "the start of a digest", revs: usual, to: "sha256:bbbbbbbb", want: 2},
		{name: "today's", revs: usual, to: "5", want: 5},
		{name: "unknown", revs: usual, to: "9", kind: manifest.KindNotFound},
		{name: "an unknown digest", revs: usual, to: "sha256:ffffffff", kind: manifest.KindNotFound},
		{name: "the newest with the tag", revs: []rev{{number: 1, id: 1, tag: "a", args: "-v"}, {number: 2, id: 2, tag: "a"}, {number: 3, id: 3, tag: "b"}}, to: "a", want: 2},
		{name: "rather another than today's", revs: []rev{{number: 1, id: 1, tag: "a", args: "-v"}, {number: 2, id: 2, tag: "a"}}, to: "a", want: 1},
		{name: "the same digest and arguments do not count", revs: []rev{{number: 1, id: 1, tag: "b", outcome: "ready"}, {number: 2, id: 2, tag: "a", outcome: "ready"}, {number: 3, id: 3, tag: "a", outcome: "ready"}}, want: 1},
		{name: "other arguments count", revs: []rev{{number: 1, id: 1, tag: "a", args: "-v", outcome: "ready"}, {number: 2, id: 2, tag: "a", outcome: "ready"}}, want: 1},
		{name: "nothing was ready", revs: []rev{{number: 1, id: 1, tag: "a"}, {number: 2, id: 2, tag: "b"}}, kind: manifest.KindNotFound},
		{name: "nothing earlier", revs: []rev{{number: 1, id: 1, tag: "a", outcome: "ready"}}, kind: manifest.KindNotFound},
		{name: "unfinished: what nodes still run", revs: usual, pods: map[string]int64{"node1": 5, "node2": 4}, want: 4, back: true},
		{name: "unfinished, another is named", revs: usual, pods: map[string]int64{"node1": 5, "node2": 4}, to: "1", want: 1},
		{name: "what a dead node ran last does not count", revs: usual, pods: map[string]int64{"node1": 5, "node2": 4}, down: "node2", want: 2},
		{name: "nor what runs on no target", revs: usual, pods: map[string]int64{"node1": 5, "elsewhere": 4}, want: 2},
		{name: "unfinished twice: what most run", revs: usual, pods: map[string]int64{"node1": 5, "node2": 2, "node3": 2, "node4": 4}, want: 2, back: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var pods []corev1.Pod
			var nodes []Node
			for node, number := range tt.pods {
				if node != "elsewhere" {
					n := testNode(node)
					n.Ready = node != tt.down
					nodes = append(nodes, n)
				}
				p := corev1.Pod{Spec: corev1.PodSpec{NodeName: node}}
				p.Labels = map[string]string{appsv1.DefaultDaemonSetUniqueLabelKey: fmt.Sprint("h", number)}
				setRunner(&p, nil)
				pods = append(pods, p)
			}
			p, err := planRollback(releaseOf(tt.revs...), pods, nodes, tt.to, false)
			if tt.kind != 0 {
				wantKind(t, err, tt.kind)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.To.Revision != tt.want || p.Returns != tt.back {
				t.Errorf("to %d, returns %v; want %d, %v", p.To.Revision, p.Returns, tt.want, tt.back)
			}
			if unchanged := p.Action == ActionUnchanged; unchanged != p.To.Current {
				t.Errorf("action %q to revision %+v", p.Action, p.To)
			}
		})
	}
}

func TestRollbackKeepsUnavailable(t *testing.T) {
	r := releaseOf(rev{number: 1, id: 1, tag: "a", outcome: "ready"}, rev{number: 2, id: 2, tag: "b", exclusive: "count"})
	p, err := planRollback(r, nil, []Node{testNode("n")}, "1", false)
	if err != nil {
		t.Fatal(err)
	}
	if p.strategy.RollingUpdate.MaxSurge.IntValue() != 0 || !has(p.Notes, "program count") {
		t.Errorf("strategy %+v, notes %q", p.strategy.RollingUpdate, p.Notes)
	}
}

func TestNextID(t *testing.T) {
	now := time.Unix(100, 0)
	if id := (*release)(nil).nextID(now); id != now.UnixMicro() {
		t.Errorf("a new release: %d", id)
	}
	// Another user's clock is ahead of ours.
	ahead := releaseOf(rev{number: 1, id: now.UnixMicro() + 50, tag: "a"}, rev{number: 2, id: 3, tag: "b"})
	if id := ahead.nextID(now); id != now.UnixMicro()+51 {
		t.Errorf("id %d is not the largest", id)
	}
}

// An edit that was undone is no edit: Kubernetes renumbers the revision that came
// back, and keeps when it was made.
func TestEdited(t *testing.T) {
	original, edit := rev{number: 1, id: 10, tag: "a", made: 1}, rev{number: 2, id: 10, tag: "a", image: "evil", made: 2}
	renumbered := original
	renumbered.number = 3
	for name, tt := range map[string]struct {
		revs []rev
		want bool
	}{
		"as it was made": {[]rev{original}, false},
		"edited":         {[]rev{original, edit}, true},
		"undone":         {[]rev{edit, renumbered}, false},
		"restarted":      {[]rev{original, {number: 2, id: 10, tag: "a", restarted: "now", made: 2}}, false},
	} {
		if got := releaseOf(tt.revs...).edited(); got != tt.want {
			t.Errorf("%s: edited %v, want %v", name, got, tt.want)
		}
	}
}

// Whoever edits a release may take all annotations of its template away.
func TestStampOfNothing(t *testing.T) {
	if a := stamp(nil, 7, time.Unix(0, 0), "alice", "rollback", "1"); a[annotationID] != "7" || a[annotationUser] != "alice" {
		t.Errorf("annotations %v", a)
	}
}
