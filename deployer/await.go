// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/ebpm/ebpm/manifest"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// DefaultTimeout is how long a release may stand still while a command waits.
const DefaultTimeout = 2 * time.Minute

// awaited is what a command waits for.
type awaited struct {
	release string
	// timeout bounds the time without progress, 0 is DefaultTimeout; deadline
	// bounds the whole wait, 0 does not.
	timeout, deadline time.Duration
	// begin, if set, is called once, as soon as the release is watched.
	begin func(pods []*corev1.Pod) error
	// look is called then, and with every change.
	look func(ds *appsv1.DaemonSet, pods []*corev1.Pod) (progress, done bool, err error)
	// idle, if set, is called every nudgeAfter.
	idle func() error
	// warn, if set, is told the first thing that keeps the release from being
	// watched; it is tried again.
	warn func(error)
}

// lateError is the error of a wait that ran out of time.
type lateError struct {
	why string
	// blind is why the release is not watched now, nil where it is.
	blind error
}

func (e *lateError) Error() string {
	if e.blind != nil {
		return fmt.Sprintf("%s, and it is not seen: %v", e.why, e.blind)
	}
	return e.why
}

func (e *lateError) Unwrap() error { return e.blind }

// await waits until a.look is done. The time runs from the call on. The error is
// that of begin, look or idle, an [*Interrupted], a [*lateError], or that of a
// watch that is denied.
func (c *Client) await(ctx context.Context, a awaited) error {
	timeout := cmp.Or(a.timeout, DefaultTimeout)
	still := time.NewTimer(timeout)
	defer still.Stop()
	var deadline <-chan time.Time
	if a.deadline > 0 {
		timer := time.NewTimer(a.deadline)
		defer timer.Stop()
		deadline = timer.C
	}
	nudge := time.NewTicker(nudgeAfter)
	defer nudge.Stop()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w, err := c.startWatch(ctx, a.release)
	if err != nil {
		return err
	}
	ready, told := w.ready, false
	for {
		if ready == nil {
			progress, done, err := a.look(w.read())
			if done || err != nil {
				return err
			}
			if progress {
				still.Reset(timeout)
			}
		}
		select {
		case <-ctx.Done():
			return &Interrupted{Release: a.release, Err: context.Cause(ctx)}
		case err := <-w.failed:
			return err
		case err := <-w.trouble:
			if !told && a.warn != nil {
				a.warn(err)
			}
			told = true
		case <-still.C:
			return &lateError{fmt.Sprintf("no progress for %s", timeout), w.blind()}
		case <-deadline:
			return &lateError{fmt.Sprintf("not finished after %s", a.deadline), w.blind()}
		case <-nudge.C:
			if ready == nil && a.idle != nil {
				if err := a.idle(); err != nil {
					return err
				}
			}
		case <-w.changed:
		case <-ready:
			ready = nil
			if a.begin != nil {
				_, pods := w.read()
				if err := a.begin(pods); err != nil {
					return err
				}
			}
		}
	}
}

// notSeen makes the error of a command that was late and blind: what became of
// the release is not known.
func (e *lateError) notSeen(release, doing string) error {
	return manifest.WithKind(manifest.KindOf(e.blind), fmt.Errorf("release %s: what becomes of its %s is not seen: %s: %w", release, doing, e.why, e.blind),
		cmp.Or(manifest.AdviceOf(e.blind), "ebpm status "+release+" shows it."))
}
