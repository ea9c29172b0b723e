// SPDX-License-Identifier: Apache-2.0

//go:build !node

package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"
)

// memoryRegistry knows tags and whether the source is there.
type memoryRegistry struct {
	mu      sync.Mutex
	tags    map[string]digest.Digest
	sources map[digest.Digest]bool
	deleted []digest.Digest
	// deleteErr and pushErr are what Delete and PushSource return.
	deleteErr, pushErr error
}

var _ Registry = (*memoryRegistry)(nil)

func (r *memoryRegistry) PushSource(_ context.Context, to manifest.Reference, tar []byte, build string) (manifest.Reference, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if to.Tag != "" {
		return to, errors.New("a source has no tag")
	}
	if r.pushErr != nil {
		return to, r.pushErr
	}
	d := digest.FromBytes(append(tar, build...))
	if r.sources == nil {
		r.sources = map[digest.Digest]bool{}
	}
	r.sources[d] = true
	return to.WithDigest(d), nil
}

func (r *memoryRegistry) Resolve(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	if err := ctx.Err(); err != nil {
		return ref, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.tags[ref.Tag]; ok {
		return ref.WithDigest(d), nil
	}
	return ref, manifest.WithKind(manifest.KindNotFound, errors.New("no such tag"), "")
}

func (r *memoryRegistry) Delete(ctx context.Context, ref manifest.Reference) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deleteErr != nil {
		return r.deleteErr
	}
	r.deleted = append(r.deleted, ref.Digest)
	delete(r.sources, ref.Digest)
	return nil
}

// tag makes d the package that the tests build.
func (r *memoryRegistry) tag(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tags == nil {
		r.tags = map[string]digest.Digest{}
	}
	r.tags["1.0.0"] = d
}

// cluster is a fake clientset that plays the Job controller and the kubelet: the
// Pod of a Job that was let go is in one state after another, each time it is
// looked at; it stays in the last.
type cluster struct {
	*fake.Clientset
	registry *memoryRegistry
	states   []*corev1.Pod // nil is no Pod
	log      string
	// onLook is called at each look at the Pods with the number of the look.
	onLook func(n int)

	job               string // its name
	looks, configured int
	released, deleted bool
}

func newCluster(t *testing.T, states ...*corev1.Pod) *cluster {
	c := &cluster{Clientset: fake.NewClientset(), registry: &memoryRegistry{}, states: states, log: "/source/w.bpf.c:1:1: warning: odd\n"}
	c.PrependReactor("create", "jobs", func(a k8stesting.Action) (bool, runtime.Object, error) {
		job := a.(k8stesting.CreateAction).GetObject().(*batchv1.Job)
		c.job = job.Name
		job.UID, job.CreationTimestamp = types.UID("uid-"+job.Name), metav1.Unix(1700000000, 0)
		return false, nil, nil
	})
	for _, what := range []string{"configmaps", "secrets"} {
		c.PrependReactor("create", what, func(k8stesting.Action) (bool, runtime.Object, error) {
			c.configured++
			return false, nil, nil
		})
	}
	c.PrependReactor("patch", "jobs", func(a k8stesting.Action) (bool, runtime.Object, error) {
		c.released = true
		if patch := string(a.(k8stesting.PatchAction).GetPatch()); patch != `{"spec":{"suspend":false}}` {
			t.Errorf("patch %s", patch)
		}
		// What the Job needs must be there before.
		if c.configured != 2 {
			t.Errorf("the Job is let go with %d of ConfigMap and Secret", c.configured)
		}
		return false, nil, nil
	})
	c.PrependReactor("delete", "jobs", func(a k8stesting.Action) (bool, runtime.Object, error) {
		c.deleted = true
		if p := a.(k8stesting.DeleteActionImpl).DeleteOptions.PropagationPolicy; p == nil || *p != metav1.DeletePropagationBackground {
			t.Errorf("deleted with propagation %v", p)
		}
		return false, nil, nil
	})
	c.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		list := &corev1.PodList{}
		if c.released && !c.deleted && len(c.states) > 0 {
			pod := c.states[min(c.looks, len(c.states)-1)]
			c.looks++
			if c.onLook != nil {
				c.onLook(c.looks)
			}
			if pod != nil {
				pod.Labels = map[string]string{batchv1.JobNameLabel: c.job}
				list.Items = append(list.Items, *pod)
			}
		}
		return true, list, nil
	})
	c.PrependReactor("get", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		return a.GetSubresource() == "log", &runtime.Unknown{Raw: []byte(c.log)}, nil
	})
	return c
}

// did returns the actions of a verb on a resource.
func (c *cluster) did(verb, what string) []k8stesting.Action {
	var found []k8stesting.Action
	for _, a := range c.Actions() {
		if a.Matches(verb, what) {
			found = append(found, a)
		}
	}
	return found
}

func (c *cluster) builder() *Kubernetes {
	return &Kubernetes{
		Client: c, Registry: c.registry, Image: "i", EccImage: "e", DockerConfig: []byte("{}"),
		StartTimeout: time.Nanosecond, poll: time.Millisecond,
	}
}

func source(t *testing.T) *Source {
	t.Helper()
	dir := tree(t, map[string]string{"w.bpf.c": "int x;\n", "w.h": ""})
	s, err := ReadSource(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// gone fails when a build left something behind.
func (c *cluster) gone(t *testing.T) {
	t.Helper()
	jobs, err := c.Tracker().List(batchv1.SchemeGroupVersion.WithResource("jobs"), batchv1.SchemeGroupVersion.WithKind("Job"), DefaultNamespace)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(jobs.(*batchv1.JobList).Items); n != 0 {
		t.Errorf("%d Jobs are left", n)
	}
	if len(c.registry.sources) != 0 {
		t.Error("the source is left")
	}
	// The garbage collector removes what the Job owns.
	for _, what := range []string{"configmaps", "secrets"} {
		for _, a := range c.did("create", what) {
			object := a.(k8stesting.CreateAction).GetObject().(metav1.Object)
			owners := object.GetOwnerReferences()
			if len(owners) != 1 || owners[0].Kind != "Job" || owners[0].UID != types.UID("uid-"+object.GetName()) {
				t.Errorf("%s: owners %+v", what, owners)
			}
		}
	}
}

func TestBuildInCluster(t *testing.T) {
	d := digest.FromString("package")
	pushed := podWith(completed, completed, ended(0, "Completed", d.String()))
	c := newCluster(t, nil, podWith(running, initializing, initializing), podWith(completed, running, initializing),
		podWith(completed, completed, running), pushed)
	c.onLook = func(n int) {
		if n == 5 {
			c.registry.tag(d)
		}
	}
	k := c.builder()
	k.StartTimeout = time.Hour
	var diagnostics bytes.Buffer
	var events []string
	s := source(t)
	ref, err := k.Build(t.Context(), s, Options{
		Ref:         reference(t, "r.example/w:1.0.0"),
		Diagnostics: &diagnostics,
		Progress:    func(e Event) { events = append(events, fmt.Sprint(e)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "r.example/w:1.0.0@" + d.String(); ref.String() != want {
		t.Errorf("%s, want %s", ref, want)
	}
	if want := s.Dir + "/w.bpf.c:1:1: warning: odd\n"; diagnostics.String() != want {
		t.Errorf("diagnostics %q, want %q", diagnostics.String(), want)
	}
	want := []string{
		"{source  false}", "{source  true}", "{pull  false}", "{pull  true}", "{compile  false}", "{compile  true}",
		"{push  false}", "{push  true}", "{cleanup  false}", "{cleanup  true}",
	}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Error(diff)
	}
	c.gone(t)
}

func TestBuildInClusterFails(t *testing.T) {
	const event = "volume is missing"
	for _, tt := range []struct {
		name   string
		states []*corev1.Pod
		want   []string
		kind   manifest.Kind
		shown  bool // the compiler's messages
	}{
		{
			name:   "does not compile",
			states: []*corev1.Pod{podWith(completed, ended(1, "Error", "the last lines"), initializing)},
			want:   []string{"compile ", "/w.bpf.c: ecc ended with exit code 1"}, kind: manifest.KindFailure, shown: true,
		},
		{
			name:   "out of memory",
			states: []*corev1.Pod{podWith(completed, ended(137, "OOMKilled", ""), initializing)},
			want:   []string{"compile: exit code 137, OOMKilled"}, kind: manifest.KindFailure, shown: true,
		},
		{
			name:   "no ecc in the image",
			states: []*corev1.Pod{podWith(completed, ended(128, "StartError", "exec: \"ecc\": executable file not found in $PATH"), initializing)},
			want:   []string{"compile: exit code 128, StartError: exec: \"ecc\""}, kind: manifest.KindFailure, shown: true,
		},
		{
			name:   "bytes were changed",
			states: []*corev1.Pod{podWith(ended(4, "Error", "level=warning msg=\"ebpm: odd\"\nebpm: digest differs\n"), initializing, initializing)},
			want:   []string{"pull: exit code 4: digest differs"}, kind: manifest.KindUnverified,
		},
		{
			name:   "push fails",
			states: []*corev1.Pod{podWith(completed, completed, ended(2, "Error", ""))},
			want:   []string{"push: exit code 2: it said nothing"}, kind: manifest.KindFailure, shown: true,
		},
		{
			name:   "image cannot be pulled",
			states: []*corev1.Pod{podWith(waiting("ImagePullBackOff"), initializing, initializing)},
			want:   []string{"pull: not started after 1ns: ImagePullBackOff: because"}, kind: manifest.KindFailure,
		},
		{
			name:   "no Pod",
			states: []*corev1.Pod{nil},
			want:   []string{"pull: not started after 1ns: there is no Pod yet", event}, kind: manifest.KindFailure,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, tt.states...)
			c.PrependReactor("list", "events", func(k8stesting.Action) (bool, runtime.Object, error) {
				return true, &corev1.EventList{Items: []corev1.Event{{Reason: "FailedMount", Message: event}}}, nil
			})
			var diagnostics bytes.Buffer
			_, err := c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0"), Diagnostics: &diagnostics})
			if err == nil || manifest.KindOf(err) != tt.kind {
				t.Fatalf("error %v of kind %d", err, manifest.KindOf(err))
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			}
			if shown := strings.Contains(diagnostics.String(), "warning: odd"); shown != tt.shown {
				t.Errorf("diagnostics %q", diagnostics.String())
			}
			if len(c.registry.tags) != 0 {
				t.Error("there is a tag")
			}
			c.gone(t)
		})
	}
}

// Wherever the user gives up, nothing stays.
func TestBuildInClusterInterrupted(t *testing.T) {
	for _, verb := range []string{"create jobs", "create configmaps", "create secrets", "patch jobs", "list pods", "get pods", "get jobs"} {
		t.Run(verb, func(t *testing.T) {
			c := newCluster(t, nil, podWith(completed, running, initializing))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			v, what, _ := strings.Cut(verb, " ")
			c.PrependReactor(v, what, func(k8stesting.Action) (bool, runtime.Object, error) {
				if ctx.Err() == nil {
					cancel()
					if v == "create" || v == "patch" {
						// The request may have arrived or not; this one has not.
						return true, nil, ctx.Err()
					}
				}
				return false, nil, nil
			})
			k := c.builder()
			k.StartTimeout = time.Hour
			_, err := k.Build(ctx, source(t), Options{Ref: reference(t, "r.example/w:1.0.0")})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			if strings.Contains(err.Error(), "still in namespace") {
				t.Errorf("error %v", err)
			}
			c.gone(t)
		})
	}
}

func TestInterruptedBuildSaysThatItHadPushed(t *testing.T) {
	d := digest.FromString("package")
	c := newCluster(t, podWith(completed, completed, running))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.onLook = func(n int) {
		if n == 2 {
			c.registry.tag(d)
			cancel()
		}
	}
	_, err := c.builder().Build(ctx, source(t), Options{Ref: reference(t, "r.example/w:1.0.0")})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), d.String()) {
		t.Errorf("error %v", err)
	}
	c.gone(t)
}

func TestBuildSaysWhatItCouldNotCleanUp(t *testing.T) {
	c := newCluster(t, podWith(completed, ended(1, "Error", ""), initializing))
	c.registry.deleteErr = errors.New("registry is down")
	c.PrependReactor("delete", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "x", errors.New("no"))
	})
	_, err := c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0")})
	for _, want := range []string{"ecc ended with exit code 1", "is still in namespace ebpm-build", "delete jobs.batch in namespace ebpm-build", "registry is down"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestRegistryThatDoesNotDeleteIsNoFailure(t *testing.T) {
	d := digest.FromString("package")
	c := newCluster(t, podWith(completed, completed, ended(0, "", d.String())))
	c.registry.deleteErr = fmt.Errorf("delete: %w", registry.ErrUnsupported)
	c.registry.tag(d)
	var details []string
	_, err := c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0"), Progress: func(e Event) {
		if e.Detail != "" {
			details = append(details, e.Detail)
		}
	}})
	if err != nil || details != nil {
		t.Errorf("error %v, details %q", err, details)
	}
}

// Builds of the same source do not delete each other's.
func TestSourceOfAnotherBuildStays(t *testing.T) {
	s := source(t)
	c := newCluster(t, podWith(completed, ended(1, "Error", ""), initializing))
	for range 2 {
		if _, err := c.builder().Build(t.Context(), s, Options{Ref: reference(t, "r.example/w:1.0.0")}); err == nil {
			t.Fatal("no error")
		}
		c.released, c.deleted, c.configured = false, false, 0
	}
	if d := c.registry.deleted; len(d) != 2 || d[0] == d[1] {
		t.Errorf("two builds of one source deleted %v", d)
	}
}

func TestAbandonedBuildsAreSwept(t *testing.T) {
	c := newCluster(t, podWith(completed, ended(1, "Error", ""), initializing))
	job := func(name string, suspended bool, age time.Duration, labels map[string]string) {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: DefaultNamespace, UID: types.UID(name), Labels: labels,
			CreationTimestamp: metav1.NewTime(time.Unix(1700000000, 0).Add(-age))}}
		j.Spec.Suspend = &suspended
		if err := c.Tracker().Add(j); err != nil {
			t.Fatal(err)
		}
	}
	ours := map[string]string{managedByLabel: managedByEbpm, buildLabel: "w"}
	job("abandoned", true, time.Hour, ours)
	job("young", true, time.Second, ours)
	job("running", false, time.Hour, ours)
	job("foreign", true, time.Hour, map[string]string{managedByLabel: "helm"})
	if _, err := c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0")}); err == nil {
		t.Fatal("no error")
	}
	list, err := c.BatchV1().Jobs(DefaultNamespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, j := range list.Items {
		left = append(left, j.Name)
	}
	slices.Sort(left)
	if diff := cmp.Diff([]string{"foreign", "running", "young"}, left); diff != "" {
		t.Error(diff)
	}
}

func TestNamespaceIsMade(t *testing.T) {
	c := newCluster(t, podWith(completed, ended(1, "Error", ""), initializing))
	made := false
	c.PrependReactor("create", "namespaces", func(k8stesting.Action) (bool, runtime.Object, error) {
		made = true
		return false, nil, nil
	})
	c.PrependReactor("create", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
		return !made, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, DefaultNamespace)
	})
	_, err := c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0")})
	if err == nil || !strings.Contains(err.Error(), "ecc ended") {
		t.Errorf("error %v", err)
	}
	namespace, err := c.CoreV1().Namespaces().Get(t.Context(), DefaultNamespace, metav1.GetOptions{})
	if err != nil || namespace.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("%v, %v", namespace, err)
	}
}

func TestForbiddenNamesTheRight(t *testing.T) {
	for _, tt := range []struct{ verb, resource, want string }{
		{"create", "jobs", "create jobs.batch in namespace ebpm-build"},
		{"create", "configmaps", "create configmaps in namespace ebpm-build"},
		{"create", "secrets", "create secrets in namespace ebpm-build"},
		{"patch", "jobs", "patch jobs.batch in namespace ebpm-build"},
		{"get", "jobs", "get jobs.batch in namespace ebpm-build"},
		{"list", "pods", "list pods in namespace ebpm-build"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			c := newCluster(t, podWith(running, initializing, initializing))
			once := true
			c.PrependReactor(tt.verb, tt.resource, func(k8stesting.Action) (bool, runtime.Object, error) {
				refused := once
				once = false // the cleanup may
				return refused, nil, apierrors.NewForbidden(schema.GroupResource{Resource: tt.resource}, "x", errors.New("no"))
			})
			_, err := c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0")})
			if err == nil || manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v of kind %d", err, manifest.KindOf(err))
			}
			if advice := manifest.AdviceOf(err); !strings.Contains(advice, "right to "+tt.want) {
				t.Errorf("advice %q", advice)
			}
			c.gone(t)
		})
	}
}

func TestBuildInClusterRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, ref string
		change    func(*Kubernetes, *Source)
		want      string
	}{
		{"layout", "oci:dir:1.0.0", nil, "is not in a registry"},
		{"localhost", "localhost:5000/w:1.0.0", nil, "which a Pod does not reach"},
		{"loopback", "127.0.0.1:5000/w:1.0.0", nil, "which a Pod does not reach"},
		{"loopback of IPv6", "[::1]:5000/w:1.0.0", nil, "which a Pod does not reach"},
		{"no tag", "r.example/w", nil, "must have a tag"},
		{"a digest", "r.example/w:1.0.0@" + digest.FromString("").String(), nil, "and no digest"},
		{"another version", "r.example/w:1.0.0", func(_ *Kubernetes, s *Source) { s.Spec.Version = "2.0.0" }, "differ"},
		{"no image", "r.example/w:1.0.0", func(k *Kubernetes, _ *Source) { k.Image = "" }, "no image for --image"},
		{"no builder image", "r.example/w:1.0.0", func(k *Kubernetes, _ *Source) { k.EccImage = "" }, "no image for --builder-image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			k, s := c.builder(), source(t)
			if tt.change != nil {
				tt.change(k, s)
			}
			_, err := k.Build(t.Context(), s, Options{Ref: reference(t, tt.ref)})
			if err == nil || manifest.KindOf(err) != manifest.KindUsage || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v of kind %d, want %q", err, manifest.KindOf(err), tt.want)
			}
			if len(c.Actions()) != 0 || c.registry.sources != nil {
				t.Error("something was done before")
			}
		})
	}
}

func TestMovedTagIsAConflict(t *testing.T) {
	c := newCluster(t, podWith(completed, completed, ended(0, "", digest.FromString("ours").String())))
	c.registry.tag(digest.FromString("theirs"))
	_, err := c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0")})
	if manifest.KindOf(err) != manifest.KindConflict || !strings.Contains(manifest.AdviceOf(err), digest.FromString("ours").String()) {
		t.Errorf("error %v of kind %d", err, manifest.KindOf(err))
	}
}

func TestRegistryDownMakesNoJob(t *testing.T) {
	c := newCluster(t)
	c.registry.pushErr = errors.New("connection refused")
	_, err := c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0")})
	if !errors.Is(err, c.registry.pushErr) || len(c.Actions()) != 0 {
		t.Errorf("error %v, actions %v", err, c.Actions())
	}
}

// The role has the rights that builds were seen to use, no more and no less.
func TestRBACIsLeast(t *testing.T) {
	used := map[string]bool{}
	record := func(c *cluster) {
		for _, a := range c.Actions() {
			resource := a.GetResource().Resource
			if s := a.GetSubresource(); s != "" {
				resource += "/" + s
			}
			if a.GetNamespace() == DefaultNamespace {
				used[a.GetVerb()+" "+a.GetResource().Group+"/"+resource] = true
			}
		}
	}
	d := digest.FromString("package")
	good := newCluster(t, podWith(completed, completed, ended(0, "", d.String())))
	good.registry.tag(d)
	bad := newCluster(t, nil)
	for _, c := range []*cluster{good, bad} {
		_, _ = c.builder().Build(t.Context(), source(t), Options{Ref: reference(t, "r.example/w:1.0.0")})
		record(c)
	}

	data, err := os.ReadFile("rbac/builder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	kinds := map[string]int{}
	for document := range strings.SplitSeq(string(data), "\n---\n") {
		var role rbacv1.Role
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatal(err)
		}
		kinds[role.Kind]++
		if role.Kind != "Role" {
			continue
		}
		if role.Namespace != DefaultNamespace {
			t.Errorf("the role is for namespace %s", role.Namespace)
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						allowed[verb+" "+group+"/"+resource] = true
					}
				}
			}
		}
	}
	if diff := cmp.Diff(used, allowed); diff != "" {
		t.Errorf("used (-) and allowed (+):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"Namespace": 1, "Role": 1, "RoleBinding": 1}, kinds); diff != "" {
		t.Error(diff)
	}
}
