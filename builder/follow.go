// SPDX-License-Identifier: Apache-2.0

//go:build !node

package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// logGrace is how long the end of a container's log is waited for once the
// container has ended.
const logGrace = 10 * time.Second

// noPod is the obstacle of a Job whose Pod is not made; it is none for the first
// moments of every build.
const noPod = "there is no Pod yet"

// observation is what the Job and its Pod say at one moment.
type observation struct {
	// step runs, or is the next one to run.
	step Step
	// compiling is true once the compiler has run or runs: it has a log.
	compiling bool
	// obstacle is why step cannot start; empty when nothing is in its way.
	obstacle string
	// failure is why the build has failed, nil while it has not.
	failure *failure
	// done is true when the package is pushed; digest is the Job's word on it.
	done   bool
	digest digest.Digest
}

// failure is a step that failed.
type failure struct {
	step Step
	// container is the one that ended, nil when none did.
	container *corev1.ContainerStateTerminated
	// reason is why, where it was not a container that ended.
	reason string
}

var stepOf = map[string]Step{pullContainer: StepPull, compileContainer: StepCompile, pushContainer: StepPush}

// observe reads the state of a Job and its Pod, which is nil when there is none.
// The Job must have been read after the Pod, so that it knows why the Pod ended.
func observe(job *batchv1.Job, pod *corev1.Pod) observation {
	o := observation{step: StepPull, obstacle: noPod}
	if pod != nil {
		o = observePod(pod)
	}
	for _, c := range job.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			// A Pod that is there will tell the digest.
			o.done = o.done || pod == nil
		case batchv1.JobFailed, batchv1.JobFailureTarget:
			switch {
			case c.Reason == batchv1.JobReasonDeadlineExceeded:
				o.failure = &failure{step: o.step, reason: fmt.Sprintf("not done after %s", time.Duration(*job.Spec.ActiveDeadlineSeconds)*time.Second)}
			case o.failure == nil:
				o.failure = &failure{step: o.step, reason: "the Job failed: " + words(c.Reason, c.Message)}
			}
		}
	}
	return o
}

func observePod(pod *corev1.Pod) observation {
	o := observation{step: StepPull}
	statuses := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
	for _, name := range []string{pullContainer, compileContainer, pushContainer} {
		o.step = stepOf[name]
		i := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == name })
		if i < 0 {
			break
		}
		state := statuses[i].State
		if name == compileContainer && state.Waiting == nil && (state.Running != nil || state.Terminated != nil) {
			o.compiling = true
		}
		if ended := state.Terminated; ended != nil && ended.ExitCode == 0 {
			if name == pushContainer {
				o.done = true
				if d, err := digest.Parse(strings.TrimSpace(ended.Message)); err == nil {
					o.digest = d
				}
				return o
			}
			continue
		}
		switch {
		case state.Terminated != nil:
			o.failure = &failure{step: o.step, container: state.Terminated}
		case state.Waiting != nil && !starting(state.Waiting.Reason):
			o.obstacle = words(state.Waiting.Reason, state.Waiting.Message)
		}
		break
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			o.obstacle = "no node takes the Pod: " + words(c.Reason, c.Message)
		}
	}
	if o.failure == nil && pod.Status.Phase == corev1.PodFailed {
		o.failure = &failure{step: o.step, reason: "the Pod failed: " + words(pod.Status.Reason, pod.Status.Message)}
	}
	return o
}

// starting reports whether a container that waits is only on its way.
func starting(reason string) bool {
	return reason == "" || reason == "PodInitializing" || reason == "ContainerCreating"
}

// words joins a reason and its message.
func words(reason, message string) string {
	message = strings.TrimSpace(message)
	switch {
	case message == "":
		return cmp.Or(reason, "no reason is given")
	case reason == "":
		return message
	}
	return reason + ": " + message
}

// follow waits for the Job's end, passes the compiler's messages on, and returns
// the digest that the Job pushed; it is empty when the Pod is gone already.
func (b *build) follow(ctx context.Context) (digest.Digest, error) {
	f := follower{build: b, told: map[string]bool{}}
	defer f.stop()
	b.o.tell(Event{Step: StepPull})
	for {
		seen, err := b.look(ctx)
		if err != nil {
			return "", err
		}
		if err := f.note(ctx, seen); err != nil {
			return "", err
		}
		switch {
		case seen.failure != nil:
			return "", f.failed(ctx, seen.failure)
		case seen.done:
			if err := f.finishLog(); err != nil {
				b.o.tell(Event{Step: StepCompile, Detail: err.Error()})
			}
			b.o.tell(Event{Step: StepPush, Done: true})
			return seen.digest, nil
		}
		if err := sleep(ctx, b.pollInterval()); err != nil {
			return "", err
		}
	}
}

// look asks the cluster once. Without an answer it asks again: a build goes on
// while an API server restarts.
func (b *build) look(ctx context.Context) (observation, error) {
	for told := false; ; told = true {
		seen, err := b.lookOnce(ctx)
		if status := apierrors.APIStatus(nil); err == nil || errors.As(err, &status) && !retriable(err) {
			return seen, err
		}
		if ctx.Err() != nil {
			return observation{}, context.Cause(ctx)
		}
		if !told {
			b.o.tell(Event{Step: StepPull, Detail: "the cluster does not answer: " + err.Error()})
		}
		if err := sleep(ctx, b.pollInterval()); err != nil {
			return observation{}, err
		}
	}
}

func retriable(err error) bool {
	return apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
}

func (b *build) lookOnce(ctx context.Context) (observation, error) {
	pods, err := b.pods(ctx)
	if err != nil {
		return observation{}, err
	}
	job, err := b.Client.BatchV1().Jobs(b.job.Namespace).Get(ctx, b.job.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return observation{}, fmt.Errorf("somebody deleted job %s in namespace %s", b.job.Name, b.job.Namespace)
	}
	if err != nil {
		return observation{}, apiError(err, "get", "jobs.batch", b.job.Namespace)
	}
	// There is one; should the controller ever have made two, the first counts.
	var pod *corev1.Pod
	for i := range pods {
		if pod == nil || pods[i].CreationTimestamp.Before(&pod.CreationTimestamp) {
			pod = &pods[i]
		}
	}
	if pod != nil {
		b.pod = pod.Name
	}
	return observe(job, pod), nil
}

// follower is the state of [build.follow].
type follower struct {
	*build
	step     int       // index of the step that was told, in jobSteps
	obstacle string    // the latest; empty when there is none
	since    time.Time // when the first of them came in the way
	told     map[string]bool
	log      *logStream
}

var jobSteps = []Step{StepPull, StepCompile, StepPush}

// note tells what has changed and gives up on what cannot start.
func (f *follower) note(ctx context.Context, seen observation) error {
	for now := slices.Index(jobSteps, seen.step); f.step < now; f.step++ {
		f.o.tell(Event{Step: jobSteps[f.step], Done: true})
		f.o.tell(Event{Step: jobSteps[f.step+1]})
	}
	if seen.step == StepPush {
		f.pushStarted = true
	}
	if seen.compiling && f.log == nil {
		f.log = f.streamLog(ctx)
	}
	if seen.obstacle == "" || seen.failure != nil || seen.done {
		f.obstacle = ""
		return nil
	}
	if f.obstacle == "" {
		f.since = time.Now()
	}
	f.obstacle = seen.obstacle
	// Kubernetes goes back and forth between the words of one obstacle.
	if !f.told[seen.obstacle] && seen.obstacle != noPod {
		f.told[seen.obstacle] = true
		f.o.tell(Event{Step: seen.step, Detail: "waiting: " + seen.obstacle})
	}
	if time.Since(f.since) < f.startTimeout() {
		return nil
	}
	advice, why := "", seen.obstacle
	if why == noPod {
		why += f.warnings(ctx)
	}
	if strings.Contains(why, "Image") {
		advice = "The nodes must be able to pull --image (EBPM_IMAGE) and --builder-image (EBPM_BUILDER_IMAGE)."
	}
	return manifest.WithKind(manifest.KindFailure,
		fmt.Errorf("%s: not started after %s: %s", seen.step, f.startTimeout(), why), advice)
}

// failed is the error of a step that failed.
func (f *follower) failed(ctx context.Context, x *failure) error {
	logErr := f.finishLog()
	if x.container == nil {
		return fmt.Errorf("%s: %s%s", x.step, x.reason, f.warnings(ctx))
	}
	code, message := x.container.ExitCode, strings.TrimSpace(x.container.Message)
	if reason := x.container.Reason; reason != "Error" && reason != "" {
		// The container runtime's word: OOMKilled, StartError, ...
		return fmt.Errorf("%s: exit code %d, %s", x.step, code, words(reason, message))
	}
	if x.step == StepCompile {
		err := fmt.Errorf("compile %s: ecc ended with exit code %d", f.source.path(f.source.File), code)
		if logErr != nil {
			return errors.Join(fmt.Errorf("%w; the end of its messages:\n%s", err, message), logErr)
		}
		return f.log.diagnostics.explain(f.source, err)
	}
	// The error is what ebpm prints last; warnings may stand before it.
	if i := strings.LastIndex("\n"+message, "\nebpm: "); i >= 0 {
		message = message[i+len("ebpm: "):]
	}
	err := fmt.Errorf("%s: exit code %d: %s", x.step, code, cmp.Or(message, "it said nothing"))
	switch kind := manifest.Kind(code); kind {
	case manifest.KindNotFound, manifest.KindUnverified, manifest.KindPrecondition, manifest.KindConflict:
		return manifest.WithKind(kind, err, "")
	}
	return err
}

// warnings is what the cluster's events say about the Job and its Pod, as the
// end of a sentence; the status does not have all of it (a volume that cannot be
// mounted, a Pod that admission refuses).
func (b *build) warnings(ctx context.Context) string {
	var texts []string
	for _, name := range []string{b.job.Name, b.pod} {
		if name == "" {
			continue
		}
		list, err := b.Client.CoreV1().Events(b.job.Namespace).List(ctx, metav1.ListOptions{FieldSelector: fields.Set{
			"involvedObject.name": name, "type": corev1.EventTypeWarning}.String()})
		if err != nil {
			return fmt.Sprintf(" (the events could not be read: %v)", apiError(err, "list", "events", b.job.Namespace))
		}
		if n := len(list.Items); n > 0 {
			last := slices.MaxFunc(list.Items, func(x, y corev1.Event) int {
				return timeOf(x).Compare(timeOf(y))
			})
			texts = append(texts, words(last.Reason, last.Message))
		}
	}
	if texts == nil {
		return ""
	}
	return " (" + strings.Join(texts, "; ") + ")"
}

// timeOf returns when an event was last seen; newer reporters set no
// LastTimestamp.
func timeOf(e corev1.Event) time.Time {
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// logStream passes the log of the compiler's container on.
type logStream struct {
	diagnostics *diagnostics
	done        chan struct{} // closed at its end
	err         error         // set before done is closed
	cancel      context.CancelFunc
}

func (b *build) streamLog(ctx context.Context) *logStream {
	ctx, cancel := context.WithCancel(ctx)
	l := &logStream{
		diagnostics: newDiagnostics(b.o.Diagnostics, sourceMount, b.source),
		done:        make(chan struct{}),
		cancel:      cancel,
	}
	pod := b.pod
	go func() {
		defer close(l.done)
		l.err = errors.Join(b.copyLog(ctx, pod, l.diagnostics), writeFailed(l.diagnostics.Close()))
	}()
	return l
}

// maxLog bounds what is read of the compiler's log, in bytes.
const maxLog = 16 << 20

func (b *build) copyLog(ctx context.Context, pod string, w io.Writer) error {
	r, err := b.Client.CoreV1().Pods(b.job.Namespace).GetLogs(pod, &corev1.PodLogOptions{
		Container: compileContainer, Follow: true}).Stream(ctx)
	if err != nil {
		return apiError(err, "get", "pods/log", b.job.Namespace)
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, maxLog))
	if err != nil {
		return fmt.Errorf("read the compiler's messages: %w", err)
	}
	if n == maxLog {
		_, err = fmt.Fprintf(w, "\n(messages beyond %d MiB are left out)\n", maxLog>>20)
	}
	return err
}

// finishLog waits for the end of the log of a container that has ended.
func (f *follower) finishLog() error {
	if f.log == nil {
		return nil
	}
	t := time.NewTimer(logGrace)
	defer t.Stop()
	select {
	case <-f.log.done:
		return f.log.err
	case <-t.C:
		f.log.cancel()
		<-f.log.done
		return fmt.Errorf("the end of the compiler's messages did not arrive within %s", logGrace)
	}
}

// stop ends the reading of the log.
func (f *follower) stop() {
	if f.log != nil {
		f.log.cancel()
		<-f.log.done
	}
}
