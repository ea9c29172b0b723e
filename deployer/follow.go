// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// followWindow is how long entries are gathered before they are put in the order
// of time: nodes report at their own pace.
const followWindow = 100 * time.Millisecond

// follow gives what instances print from where history ended. Each Pod's log is
// read to its end also when the Pod is being deleted, so that an upgrade loses
// nothing of the old instance.
func (l *logs) follow(ctx context.Context, name string, cursors map[string]*cursor, emit func(LogEntry) error) error {
	ctx, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	w, err := l.c.watch(ctx, name)
	if err != nil {
		return err
	}
	entries := make(chan LogEntry, 256)
	send := func(e LogEntry) error {
		select {
		case entries <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ends := make(chan error)
	// A Pod's name is never used again, so one that ended stays in known.
	known := map[string]bool{}
	following := 0
	window := time.NewTicker(followWindow)
	defer window.Stop()
	var batch []LogEntry
	flush := func() error {
		slices.SortStableFunc(batch, func(a, b LogEntry) int { return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Node, b.Node)) })
		for _, e := range batch {
			if err := emit(e); err != nil {
				return err
			}
		}
		batch = batch[:0]
		return nil
	}
	check := func() (over bool) {
		ds, pods := w.read()
		for _, pod := range pods {
			if _, ok := started(pod); !ok || known[pod.Name] {
				continue
			}
			known[pod.Name] = true
			following++
			cur, tail := cursors[pod.Name], l.o.Tail
			if cur == nil {
				cur, tail = &cursor{}, nil
				// A Pod of a revision that is newer than what was read.
				if r, err := l.c.get(ctx, name); err == nil {
					l.learn(r, pods)
				}
			}
			readers.Go(func() {
				err := l.followPod(ctx, w, pod, cur, tail, send)
				select {
				case ends <- err:
				case <-ctx.Done():
				}
			})
		}
		return ds == nil && len(pods) == 0 && following == 0
	}
	for {
		if check() {
			for len(entries) > 0 {
				batch = append(batch, <-entries)
			}
			return flush()
		}
		select {
		case <-ctx.Done():
			return flush()
		case err := <-w.failed:
			return err
		case e := <-entries:
			batch = append(batch, e)
		case <-window.C:
			if err := flush(); err != nil {
				return err
			}
		case <-w.changed:
		case err := <-ends:
			if err != nil {
				return err
			}
			following--
		}
	}
}

// followPod follows a Pod's log until the Pod is gone. The stream ends with the
// container, and breaks with a connection; both times it goes on where it was.
func (l *logs) followPod(ctx context.Context, w *watcher, pod *corev1.Pod, cur *cursor, tail *int64, emit func(LogEntry) error) error {
	const shortest, longest = 100 * time.Millisecond, 5 * time.Second
	pause := shortest
	for {
		o := &corev1.PodLogOptions{Container: containerRun, Timestamps: true, Follow: true}
		switch {
		case !cur.last.IsZero():
			o.SinceTime = new(metav1.NewTime(cur.last))
		case tail != nil:
			o.TailLines = tail
		case l.o.Since > 0:
			o.SinceTime = new(metav1.NewTime(l.from.Add(-l.o.Since)))
		}
		before := cur.last
		err := l.read(ctx, pod, o, cur, emit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && isDenied(err) {
			return l.c.failed("get", "pods/log", pod.Name, err)
		}
		now := w.pod(pod.Name)
		if now == nil {
			if err != nil {
				return emit(l.notice(pod, l.c.now(), "the Pod was deleted while its log was read; its last lines may be missing"))
			}
			return nil
		}
		status, _ := started(now)
		if err == nil && now.DeletionTimestamp != nil && status.State.Running == nil {
			return nil
		}
		if !cur.last.After(before) {
			pause = min(2*pause, longest)
		} else {
			pause = shortest
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}
