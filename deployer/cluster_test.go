// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// testCluster is an API server in memory with what the DaemonSet controller and
// the kubelets do in it: revisions, Pods and their states. A rollout goes as far
// as it can at once, one node after the other.
type testCluster struct {
	*Client
	fake  *fake.Clientset
	nodes []string
	// behave returns the state of the runner on a node; nil is ready.
	behave func(node string, template *corev1.PodTemplateSpec) *corev1.ContainerStatus

	mu      sync.Mutex
	created int
	now     time.Time
}

func newTestCluster(t *testing.T, nodes ...string) *testCluster {
	t.Helper()
	c := &testCluster{nodes: nodes, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	var objects []runtime.Object
	for _, n := range nodes {
		objects = append(objects, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n},
			Status: corev1.NodeStatus{
				NodeInfo:    corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64", KernelVersion: "6.12.9", ContainerRuntimeVersion: "containerd://2.4.2"},
				Capacity:    corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
				Allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("8Gi")},
				Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			},
		})
	}
	c.fake = fake.NewClientset(objects...)
	c.Client = New(c.fake, "", "0.1.0")
	c.Client.now = c.tick
	c.fake.PrependReactor("create", "selfsubjectreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: "alice"}}}, nil
	})
	c.fake.PrependReactor("*", "daemonsets", c.daemonSets)
	return c
}

// tick is a clock that goes on by a second with each look.
func (c *testCluster) tick() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second)
	return c.now
}

var (
	daemonsetsResource = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	revisionsResource  = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "controllerrevisions"}
	podsResource       = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

func (c *testCluster) daemonSets(action clienttesting.Action) (bool, runtime.Object, error) {
	tracker := c.fake.Tracker()
	switch a := action.(type) {
	case clienttesting.CreateActionImpl:
		ds := a.Object.(*appsv1.DaemonSet).DeepCopy()
		c.created++
		ds.UID, ds.Generation, ds.ResourceVersion = types.UID(fmt.Sprint("uid-", c.created)), 1, "1"
		if err := tracker.Create(daemonsetsResource, ds, ds.Namespace); err != nil {
			return true, nil, err
		}
		return true, ds, c.control(ds)
	case clienttesting.UpdateActionImpl:
		ds := a.Object.(*appsv1.DaemonSet).DeepCopy()
		o, err := tracker.Get(daemonsetsResource, ds.Namespace, ds.Name)
		if err != nil {
			return true, nil, err
		}
		old := o.(*appsv1.DaemonSet)
		if old.ResourceVersion != ds.ResourceVersion {
			return true, nil, apierrors.NewConflict(daemonsetsResource.GroupResource(), ds.Name, errors.New("it was modified"))
		}
		if !equality.Semantic.DeepEqual(old.Spec, ds.Spec) {
			ds.Generation++
		}
		return true, ds, c.control(ds)
	case clienttesting.DeleteActionImpl:
		list, err := tracker.List(podsResource, corev1.SchemeGroupVersion.WithKind("Pod"), DefaultNamespace)
		if err != nil {
			return true, nil, err
		}
		for _, p := range list.(*corev1.PodList).Items {
			if p.Labels[labelRelease] == a.Name {
				if err := tracker.Delete(podsResource, DefaultNamespace, p.Name); err != nil {
					return true, nil, err
				}
			}
		}
		return false, nil, nil
	}
	return false, nil, nil
}

// touch writes a DaemonSet as somebody else would.
func (c *testCluster) touch(t *testing.T, name string, change func(ds *appsv1.DaemonSet)) {
	t.Helper()
	ds, err := c.fake.AppsV1().DaemonSets(DefaultNamespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change(ds)
	if _, err := c.fake.AppsV1().DaemonSets(DefaultNamespace).Update(t.Context(), ds, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// control does what the controller does after a write: the revision of the
// template gets the highest number, made where it is new, and nodes get a Pod of
// it until one is not ready.
func (c *testCluster) control(ds *appsv1.DaemonSet) error {
	tracker := c.fake.Tracker()
	number, _ := strconv.Atoi(ds.ResourceVersion)
	ds.ResourceVersion = strconv.Itoa(number + 1)
	raw, err := json.Marshal(map[string]any{"spec": map[string]any{"template": ds.Spec.Template}})
	if err != nil {
		return err
	}
	h := fnv.New32a()
	h.Write(raw)
	hash := fmt.Sprint(h.Sum32())
	list, err := tracker.List(revisionsResource, appsv1.SchemeGroupVersion.WithKind("ControllerRevision"), ds.Namespace)
	if err != nil {
		return err
	}
	var highest int64
	var own *appsv1.ControllerRevision
	for _, cr := range list.(*appsv1.ControllerRevisionList).Items {
		if !metav1.IsControlledBy(&cr, ds) {
			continue
		}
		highest = max(highest, cr.Revision)
		if cr.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hash {
			own = cr.DeepCopy()
		}
	}
	switch {
	case own == nil:
		labels := maps.Clone(ds.Labels)
		labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
		err = tracker.Create(revisionsResource, &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Name: ds.Name + "-" + hash, Namespace: ds.Namespace, Labels: labels,
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ds, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))},
			},
			Data:     runtime.RawExtension{Raw: raw},
			Revision: highest + 1,
		}, ds.Namespace)
	case own.Revision < highest:
		own.Revision = highest + 1
		err = tracker.Update(revisionsResource, own, ds.Namespace)
	}
	if err != nil {
		return err
	}
	ds.Status.ObservedGeneration = ds.Generation
	var targets []Node
	for _, n := range c.nodes {
		targets = append(targets, Node{Name: n, OS: "linux", Architecture: "amd64"})
	}
	targets = matching(ds.Spec.Template.Spec.Affinity, targets)
	ds.Status.DesiredNumberScheduled = int32(len(targets))
	if err := tracker.Update(daemonsetsResource, ds, ds.Namespace); err != nil {
		return err
	}
	pods, err := tracker.List(podsResource, corev1.SchemeGroupVersion.WithKind("Pod"), ds.Namespace)
	if err != nil {
		return err
	}
	for i, n := range targets {
		var old []corev1.Pod
		for _, p := range pods.(*corev1.PodList).Items {
			if p.Labels[labelRelease] == ds.Name && p.Spec.NodeName == n.Name {
				old = append(old, p)
			}
		}
		if slices.ContainsFunc(old, func(p corev1.Pod) bool { return p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hash }) {
			// What is not of the revision and not ready goes.
			for _, p := range old {
				if p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != hash {
					if err := tracker.Delete(podsResource, ds.Namespace, p.Name); err != nil {
						return err
					}
				}
			}
			continue
		}
		pod := testPod(ds.Name, n.Name, &ds.Spec.Template)
		c.created++
		pod.Name = fmt.Sprint(ds.Name, "-", c.created)
		pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
		var status *corev1.ContainerStatus
		if c.behave != nil {
			status = c.behave(n.Name, &ds.Spec.Template)
		}
		setRunner(pod, status)
		if err := tracker.Create(podsResource, pod, ds.Namespace); err != nil {
			return err
		}
		if status == nil {
			for _, p := range old {
				if err := tracker.Delete(podsResource, ds.Namespace, p.Name); err != nil {
					return err
				}
			}
		} else if len(old) > 0 && i == 0 {
			return nil // surge of one: the next node waits for this one
		}
	}
	return nil
}

// down makes a node not ready.
func (c *testCluster) down(t *testing.T, name string) {
	t.Helper()
	n, err := c.fake.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.Conditions[0].Status = corev1.ConditionUnknown
	if _, err := c.fake.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func testPod(release, node string, template *corev1.PodTemplateSpec) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: release + "-" + node, Namespace: DefaultNamespace,
			Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations),
		},
		Spec: *template.Spec.DeepCopy(),
	}
	pod.Spec.NodeName = node
	pod.Status.Phase = corev1.PodRunning
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{
		Name: containerPull, Ready: true, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}},
	}}
	return pod
}

// setRunner gives a Pod the status of its runner; nil is one that is ready.
func setRunner(pod *corev1.Pod, status *corev1.ContainerStatus) {
	ready := corev1.ConditionFalse
	if status == nil {
		ready = corev1.ConditionTrue
		status = &corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	}
	status = status.DeepCopy()
	status.Name = containerRun
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{*status}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
}

// crashing is a runner that ended with a message, restarts times before.
func crashing(restarts int32, message string) *corev1.ContainerStatus {
	return &corev1.ContainerStatus{
		RestartCount:         restarts,
		State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: message}},
	}
}

// failTag makes the runner of packages with a tag fail on some nodes, or on all.
func (c *testCluster) failTag(tag, message string, nodes ...string) {
	c.behave = func(node string, template *corev1.PodTemplateSpec) *corev1.ContainerStatus {
		if template.Annotations[annotationTag] == tag && (len(nodes) == 0 || slices.Contains(nodes, node)) {
			return crashing(2, message)
		}
		return nil
	}
}

func (c *testCluster) deploy(t *testing.T, tag string, change ...func(*DeployOptions)) (*Result, error) {
	t.Helper()
	o := DeployOptions{Package: testPackage(t, "event-one", "opensnoop", tag), Targets: &Targets{All: true}, Image: testImage}
	for _, f := range change {
		f(&o)
	}
	p, err := c.PlanDeploy(t.Context(), o)
	if err != nil {
		return nil, err
	}
	return c.Deploy(t.Context(), p, RolloutOptions{Timeout: 20 * time.Second})
}

func (c *testCluster) mustDeploy(t *testing.T, tag string, change ...func(*DeployOptions)) *Result {
	t.Helper()
	r, err := c.deploy(t, tag, change...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// forbid makes the API server refuse a verb.
func (c *testCluster) forbid(verb, resource string) {
	c.fake.PrependReactor(verb, resource, func(a clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, forbidden(a, verb)
	})
}

// forbidden is the error of the API server's authorizer.
func forbidden(a clienttesting.Action, verb string) error {
	resource := a.GetResource().GroupResource()
	if s := a.GetSubresource(); s != "" {
		resource.Resource += "/" + s
	}
	return apierrors.NewForbidden(resource, "",
		fmt.Errorf(`User "bob" cannot %s resource %q in API group %q in the namespace "ebpm"`, verb, resource.Resource, resource.Group))
}

func has(notes []string, text string) bool {
	return slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, text) })
}
