// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LogOptions say which part of a release's logs.
type LogOptions struct {
	// Follow goes on with what instances print from now on, those included that
	// start later.
	Follow bool
	// Since leaves out what is older; 0 leaves out nothing.
	Since time.Duration
	// Tail is the number of lines of each instance, nil for all.
	Tail *int64
}

// LogEntry is one line of an instance, or one sentence about it. Exactly one of
// Event and Notice is set.
type LogEntry struct {
	Node     string    `json:"node"`
	Pod      string    `json:"pod,omitempty"`
	Revision int64     `json:"revision,omitempty"`
	Time     time.Time `json:"time"`
	// Event is as the runner printed it.
	Event json.RawMessage `json:"event,omitempty"`
	// Notice is anything else: what the runner said that is no event, and what
	// is missing from the log.
	Notice string `json:"notice,omitempty"`

	// Columns are the fields of the events of all revisions that have instances
	// now, those of the newest first.
	Columns []string `json:"-"`
	// Histogram is how those of the instance's revision are drawn; nil where it has
	// none.
	Histogram *manifest.Histogram `json:"-"`
}

// Logs gives what the instances of a release printed, of all nodes, in the order
// of time. Without Follow it ends at the end of the logs, and the error says
// which could not be read; with it, that is a notice, and it ends when ctx does,
// without an error, or when the release is gone.
func (c *Client) Logs(ctx context.Context, name string, o LogOptions, emit func(LogEntry) error) error {
	r, err := c.get(ctx, name)
	if err != nil {
		return err
	}
	pods, err := c.pods(ctx, name)
	if err != nil {
		return err
	}
	l := &logs{c: c, o: o, from: c.now(), revisions: map[string]revision{}}
	var pointers []*corev1.Pod
	for i := range pods {
		pointers = append(pointers, &pods[i])
	}
	l.learn(r, pointers)
	cursors := map[string]*cursor{}
	err = l.history(ctx, pods, cursors, emit)
	if err == nil && o.Follow {
		err = l.follow(ctx, name, cursors, emit)
	}
	if o.Follow && ctx.Err() != nil {
		err = nil
	}
	return err
}

// logs is one run of [Client.Logs].
type logs struct {
	c    *Client
	o    LogOptions
	from time.Time

	mu        sync.Mutex
	revisions map[string]revision // by hash
	columns   []string
}

// learn takes in the revisions of a release, and the columns of those that have
// Pods.
func (l *logs) learn(r *release, pods []*corev1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rev := range r.revisions {
		l.revisions[rev.hash] = rev
	}
	var columns []string
	for _, rev := range slices.Backward(r.revisions) {
		if !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return hashOf(p) == rev.hash }) {
			continue
		}
		for _, c := range rev.move.Columns {
			if !slices.Contains(columns, c) {
				columns = append(columns, c)
			}
		}
	}
	l.columns = columns
}

// hashOf returns the label that ties a Pod to its revision.
func hashOf(pod *corev1.Pod) string { return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] }

// entry returns an entry of a Pod without its content.
func (l *logs) entry(pod *corev1.Pod, at time.Time) LogEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	rev := l.revisions[hashOf(pod)]
	return LogEntry{
		Node: nodeNameOf(pod), Pod: pod.Name, Time: at.UTC(),
		Revision: rev.number, Columns: l.columns, Histogram: rev.move.Histogram,
	}
}

func (l *logs) notice(pod *corev1.Pod, at time.Time, format string, args ...any) LogEntry {
	e := l.entry(pod, at)
	e.Notice = fmt.Sprintf(format, args...)
	return e
}

// cursor is how far the log of a container was read. The API server resumes by
// the second only, so the line that was read last is looked for again.
type cursor struct {
	last time.Time // of the line that was read last
	seen int       // lines with that very time
	skip int       // how many of them are still to be passed by
}

// clockSlack is by how much two lines of a log may be out of order: stdout and
// stderr are read, and their lines stamped, apart.
const clockSlack = 10 * time.Millisecond

// resume prepares the cursor for a stream that starts at its time or before.
func (c *cursor) resume() { c.skip = c.seen }

// pass reports whether a line is new, and moves on.
func (c *cursor) pass(at time.Time) bool {
	if c.skip > 0 {
		if at.Equal(c.last) {
			c.skip--
			return false
		}
		if !at.After(c.last.Add(clockSlack)) {
			return false
		}
		c.skip = 0 // the line that was read last is gone
	}
	if at.Equal(c.last) {
		c.seen++
	} else {
		c.last, c.seen = at, 1
	}
	return true
}

// gone reports whether a container has no log, or none any more.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsBadRequest(err) }

// started reports whether the runner of a Pod has a log.
func started(pod *corev1.Pod) (status corev1.ContainerStatus, ok bool) {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == containerRun {
			return s, s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
		}
	}
	return corev1.ContainerStatus{}, false
}

// history gives what there is, merged by time, and leaves in cursors where each
// Pod's log ended.
func (l *logs) history(ctx context.Context, pods []corev1.Pod, cursors map[string]*cursor, emit func(LogEntry) error) error {
	ctx, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	var streams []*stream
	for i := range pods {
		cur := &cursor{}
		cursors[pods[i].Name] = cur
		s := &stream{entries: make(chan LogEntry, 64)}
		streams = append(streams, s)
		readers.Go(func() {
			defer close(s.entries)
			send := func(e LogEntry) error {
				select {
				case s.entries <- e:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			s.err = l.readPod(ctx, &pods[i], cur, send)
			if l.o.Follow && s.err != nil && !isDenied(s.err) && ctx.Err() == nil {
				// It is taken up where it broke.
				s.err = send(l.notice(&pods[i], l.c.now(), "log not readable: %v; it is tried again", s.err))
			}
		})
	}
	return merge(streams, emit)
}

// readPod reads the log of a Pod to its end, that of the run before included.
func (l *logs) readPod(ctx context.Context, pod *corev1.Pod, cur *cursor, emit func(LogEntry) error) error {
	status, ok := started(pod)
	if !ok {
		in := instanceOf(pod)
		cause := ""
		if in.Cause != "" {
			cause = ": " + in.Cause
		}
		return emit(l.notice(pod, pod.CreationTimestamp.Time, "not started (%s)%s", in.State, cause))
	}
	if status.RestartCount > 0 && l.o.Tail == nil {
		// A container that waits for its next run has no log of its own yet: the
		// last run's is the current one.
		kept := "the last two runs are"
		previous := status.State.Waiting == nil
		if !previous {
			kept = "the last run is"
		}
		if status.RestartCount > 1 || !previous {
			if err := emit(l.notice(pod, pod.CreationTimestamp.Time, "restarted %d times; only the log of %s kept", status.RestartCount, kept)); err != nil {
				return err
			}
		}
		if previous {
			// Its own cursor: a new run has its own log.
			if err := l.read(ctx, pod, l.options(true), &cursor{}, emit); err != nil && !gone(err) {
				return l.c.failed("get", "pods/log", pod.Name, err)
			}
		}
	}
	if err := l.read(ctx, pod, l.options(false), cur, emit); err != nil && !gone(err) {
		return l.c.failed("get", "pods/log", pod.Name, err)
	}
	return nil
}

func (l *logs) options(previous bool) *corev1.PodLogOptions {
	o := &corev1.PodLogOptions{Container: containerRun, Timestamps: true, Previous: previous, TailLines: l.o.Tail}
	if l.o.Since > 0 {
		o.SinceTime = new(metav1.NewTime(l.from.Add(-l.o.Since)))
	}
	return o
}

// statusPrefix begins every status record.
var statusPrefix = []byte(`{"` + manifest.StatusKey + `"`)

// read reads one stream of a Pod's log.
func (l *logs) read(ctx context.Context, pod *corev1.Pod, o *corev1.PodLogOptions, cur *cursor, emit func(LogEntry) error) error {
	body, err := l.c.openLog(ctx, pod.Name, o)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was only read
	cur.resume()
	if o.SinceTime == nil && o.TailLines == nil && !o.Follow {
		b := &beginning{emit: emit, lost: func(at time.Time) LogEntry {
			return l.notice(pod, at, "earlier lines are gone: the node's log rotation dropped them")
		}}
		if err := l.lines(pod, body, cur, b.add, b.status); err != nil {
			return errors.Join(err, b.release())
		}
		return b.end()
	}
	return l.lines(pod, body, cur, emit, func([]byte) error { return nil })
}

// lines turns the lines of a log into entries; status is called with a status
// record, which is none.
func (l *logs) lines(pod *corev1.Pod, body io.Reader, cur *cursor, emit func(LogEntry) error, status func([]byte) error) error {
	lines := newLineReader(body)
	for {
		line, cut, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at, text, ok := splitTime(line)
		if !ok {
			at = cur.last
		} else if !cur.pass(at) {
			continue
		}
		switch {
		case bytes.HasPrefix(text, statusPrefix):
			if err := status(text); err != nil {
				return err
			}
			continue
		case len(bytes.TrimSpace(text)) == 0:
			continue
		}
		e := l.entry(pod, at)
		switch {
		case cut:
			e.Notice = fmt.Sprintf("a line of more than %d bytes was cut: %.200s ...", maxLine, text)
		case text[0] == '{' && json.Valid(text):
			e.Event = bytes.Clone(text)
		default:
			e.Notice = string(text)
		}
		if err := emit(e); err != nil {
			return err
		}
	}
}

// beginning holds back the first entries of a run's log until its first status
// record, which an instance writes when it attaches: where there is none, the
// log begins later than the run.
type beginning struct {
	emit func(LogEntry) error
	lost func(at time.Time) LogEntry
	held []LogEntry
	over bool
}

func (b *beginning) add(e LogEntry) error {
	if b.over {
		return b.emit(e)
	}
	// Events and records come by two pipes and pass each other by a little.
	const most = 64
	b.held = append(b.held, e)
	if len(b.held) < most {
		return nil
	}
	return b.end()
}

// status hears of a record. Those that come among events are no sign of the beginning.
func (b *beginning) status(line []byte) error {
	if b.over {
		return nil
	}
	s, ok := manifest.DecodeStatus(line)
	first := s.Event == manifest.StatusAttached || s.Handover != nil && s.Handover.Role == manifest.RoleStale
	if ok && !first {
		return nil
	}
	return b.release()
}

// end says what is missing, where no record came before it. A run that printed
// no event may have ended before it attached.
func (b *beginning) end() error {
	if b.over {
		return nil
	}
	for _, e := range b.held {
		if e.Event != nil {
			if err := b.emit(b.lost(b.held[0].Time)); err != nil {
				return err
			}
			break
		}
	}
	return b.release()
}

func (b *beginning) release() error {
	b.over = true
	for _, e := range b.held {
		if err := b.emit(e); err != nil {
			return err
		}
	}
	b.held = nil
	return nil
}

// stream is one Pod's entries in the order of time.
type stream struct {
	entries chan LogEntry
	err     error // set before entries is closed
	head    LogEntry
}

// advance takes the next entry; ok is false at the end.
func (s *stream) advance() (ok bool, err error) {
	s.head, ok = <-s.entries
	if !ok {
		return false, s.err
	}
	return true, nil
}

type streamHeap []*stream

func (h streamHeap) Len() int { return len(h) }
func (h streamHeap) Less(i, j int) bool {
	a, b := &h[i].head, &h[j].head
	if !a.Time.Equal(b.Time) {
		return a.Time.Before(b.Time)
	}
	return a.Node < b.Node
}
func (h streamHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *streamHeap) Push(x any)   { *h = append(*h, x.(*stream)) }
func (h *streamHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// merge gives the entries of all streams in the order of time. A stream that
// breaks does not hide the others: its error is returned at the end.
func merge(streams []*stream, emit func(LogEntry) error) error {
	var h streamHeap
	var broken []error
	for _, s := range streams {
		ok, err := s.advance()
		if err != nil {
			broken = append(broken, err)
		}
		if ok {
			h = append(h, s)
		}
	}
	heap.Init(&h)
	for len(h) > 0 {
		s := h[0]
		if err := emit(s.head); err != nil {
			return err
		}
		ok, err := s.advance()
		if err != nil {
			broken = append(broken, err)
		}
		if ok {
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return errors.Join(broken...)
}
