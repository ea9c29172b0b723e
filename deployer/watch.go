// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// watcher holds a DaemonSet and its Pods as the API server has them.
type watcher struct {
	name    string
	daemons cache.SharedIndexInformer
	pods    cache.SharedIndexInformer
	// changed has room for one: it says that something did, not how often.
	changed chan struct{}
	failed  chan error
}

// watch starts to watch a release until ctx ends, and returns when its state is
// known and its changes come in.
func (c *Client) watch(ctx context.Context, name string) (*watcher, error) {
	w := &watcher{name: name, changed: make(chan struct{}, 1), failed: make(chan error, 1)}
	established := make(chan struct{}, 2)
	daemonSets, pods := c.kube.AppsV1().DaemonSets(c.namespace), c.kube.CoreV1().Pods(c.namespace)
	w.daemons = newInformer(established, c.kube, &appsv1.DaemonSet{}, selectorOf(name),
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return daemonSets.List(ctx, o)
		}, daemonSets.Watch)
	w.pods = newInformer(established, c.kube, &corev1.Pod{}, selectorOf(name),
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return pods.List(ctx, o) }, pods.Watch)
	for resource, informer := range map[string]cache.SharedIndexInformer{"daemonsets": w.daemons, "pods": w.pods} {
		if err := w.start(ctx, c, resource, informer); err != nil {
			return nil, fmt.Errorf("watch %s: %w", resource, err)
		}
	}
	for range 2 {
		select {
		case <-established:
		case <-ctx.Done():
			return nil, &Interrupted{Release: name, Err: context.Cause(ctx)}
		case err := <-w.failed:
			return nil, err
		}
	}
	if !cache.WaitForCacheSync(ctx.Done(), w.daemons.HasSynced, w.pods.HasSynced) {
		return nil, &Interrupted{Release: name, Err: context.Cause(ctx)}
	}
	return w, nil
}

// newInformer returns an informer of what a selector names; it tells established,
// once, of its first watch.
func newInformer(established chan<- struct{}, kube any, example runtime.Object, selector string,
	list cache.ListWithContextFunc, watchFunc cache.WatchFuncWithContext,
) cache.SharedIndexInformer {
	first := sync.OnceFunc(func() { established <- struct{}{} })
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			return list(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			i, err := watchFunc(ctx, o)
			if err == nil {
				first()
			}
			return i, err
		},
	}
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, kube), example, 0, cache.Indexers{})
}

func (w *watcher) start(ctx context.Context, c *Client, resource string, informer cache.SharedIndexInformer) error {
	signal := func() {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { signal() },
		UpdateFunc: func(any, any) { signal() },
		DeleteFunc: func(any) { signal() },
	}); err != nil {
		return err
	}
	// The informer tries again by itself; only what will not pass is an error.
	if err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if !isDenied(err) {
			return
		}
		verb := "watch"
		if strings.Contains(err.Error(), "cannot list") {
			verb = "list"
		}
		select {
		case w.failed <- c.failed(verb, resource, "", err):
		default:
		}
	}); err != nil {
		return err
	}
	go informer.RunWithContext(ctx)
	return nil
}

// read returns the DaemonSet, or nil when it is gone, and the Pods.
func (w *watcher) read() (*appsv1.DaemonSet, []*corev1.Pod) {
	var ds *appsv1.DaemonSet
	for _, o := range w.daemons.GetStore().List() {
		if d, ok := o.(*appsv1.DaemonSet); ok && d.Name == w.name {
			ds = d
		}
	}
	var pods []*corev1.Pod
	for _, o := range w.pods.GetStore().List() {
		// The API in memory of the tests does not select.
		if p, ok := o.(*corev1.Pod); ok && p.Labels[labelRelease] == w.name {
			pods = append(pods, p)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return ds, pods
}

// pod returns a Pod, or nil when it is gone.
func (w *watcher) pod(name string) *corev1.Pod {
	_, pods := w.read()
	for _, p := range pods {
		if p.Name == name {
			return p
		}
	}
	return nil
}
