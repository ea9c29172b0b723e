// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	// ready is closed when the state is known and its changes come in.
	ready chan struct{}
	// changed has room for one: it says that something did, not how often.
	changed chan struct{}
	// failed gives what trying again does not help against, trouble what it may.
	failed, trouble chan error

	mu sync.Mutex
	// broken says by resource why it is not watched now.
	broken map[string]error
}

// startWatch starts to watch a release until ctx ends.
func (c *Client) startWatch(ctx context.Context, name string) (*watcher, error) {
	w := &watcher{
		name: name, ready: make(chan struct{}), changed: make(chan struct{}, 1),
		failed: make(chan error, 1), trouble: make(chan error, 1), broken: map[string]error{},
	}
	established := make(chan struct{}, 2)
	daemonSets, pods := c.kube.AppsV1().DaemonSets(c.namespace), c.kube.CoreV1().Pods(c.namespace)
	w.daemons = w.newInformer(c, "daemonsets", established, &appsv1.DaemonSet{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return daemonSets.List(ctx, o)
		}, daemonSets.Watch)
	w.pods = w.newInformer(c, "pods", established, &corev1.Pod{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return pods.List(ctx, o) }, pods.Watch)
	for resource, informer := range map[string]cache.SharedIndexInformer{"daemonsets": w.daemons, "pods": w.pods} {
		if err := w.start(ctx, informer); err != nil {
			return nil, fmt.Errorf("watch %s: %w", resource, err)
		}
	}
	go func() {
		for range 2 {
			select {
			case <-established:
			case <-ctx.Done():
				return
			}
		}
		if cache.WaitForCacheSync(ctx.Done(), w.daemons.HasSynced, w.pods.HasSynced) {
			close(w.ready)
		}
	}()
	return w, nil
}

// watch is startWatch for whoever has all the time: it returns when the watch is
// ready.
func (c *Client) watch(ctx context.Context, name string) (*watcher, error) {
	w, err := c.startWatch(ctx, name)
	if err != nil {
		return nil, err
	}
	select {
	case <-w.ready:
		return w, nil
	case err := <-w.failed:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// newInformer returns an informer of what belongs to the release; it tells
// established, once, of its first watch.
func (w *watcher) newInformer(c *Client, resource string, established chan<- struct{}, example runtime.Object,
	list cache.ListWithContextFunc, watchFunc cache.WatchFuncWithContext,
) cache.SharedIndexInformer {
	first := sync.OnceFunc(func() { established <- struct{}{} })
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selectorOf(w.name)
			all, err := list(ctx, o)
			if err != nil {
				w.report(ctx, c, "list", resource, err)
			}
			return all, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selectorOf(w.name)
			i, err := watchFunc(ctx, o)
			w.report(ctx, c, "watch", resource, err)
			if err == nil {
				first()
			}
			return i, err
		},
	}
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, c.kube), example, 0, cache.Indexers{})
}

// report takes in how an attempt to list or watch went. The informer tries again
// by itself; only what will not pass is a failure.
func (w *watcher) report(ctx context.Context, c *Client, verb, resource string, err error) {
	// An old version is what a watch after a pause may begin with, and an option
	// what an older API server may not know; both are taken up by a list.
	if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) {
		return
	}
	to := w.trouble
	if err != nil {
		if isDenied(err) {
			to = w.failed
		}
		err = c.failed(verb, resource, "", err)
		select {
		case to <- err:
		default:
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken[resource] = err
}

// blind returns why the release is not watched now, or nil.
func (w *watcher) blind() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := cmp.Or(w.broken["daemonsets"], w.broken["pods"]); err != nil {
		return err
	}
	select {
	case <-w.ready:
		return nil
	default:
		return errors.New("the API server does not answer")
	}
}

func (w *watcher) start(ctx context.Context, informer cache.SharedIndexInformer) error {
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
	// report has them already; the default would print them.
	if err := informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}); err != nil {
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
