// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// idleTimeout is how long a request may go without a byte sent or received.
const idleTimeout = time.Minute

// idleTransport ends requests on which nothing moves. A limit on the whole
// request would be either too short for a slow line or no limit.
type idleTransport struct {
	base    http.RoundTripper
	timeout time.Duration
}

func (t *idleTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	watch := &idleWatch{timeout: t.timeout, cancel: cancel, ctx: ctx}
	watch.timer = time.AfterFunc(t.timeout, func() { cancel(errStalled) })
	req = req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &idleBody{ReadCloser: req.Body, watch: watch}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		err = watch.cause(err)
		watch.stop()
		return nil, err
	}
	resp.Body = &idleBody{ReadCloser: resp.Body, watch: watch, answer: true}
	return resp, nil
}

type idleWatch struct {
	timeout time.Duration
	timer   *time.Timer
	cancel  context.CancelCauseFunc
	ctx     context.Context
}

func (w *idleWatch) moved() {
	// A timer that has fired stays so: the request is over.
	if w.timer.Stop() {
		w.timer.Reset(w.timeout)
	}
}

func (w *idleWatch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// cause says that a request stalled instead of that it was cancelled.
func (w *idleWatch) cause(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(w.ctx), errStalled) {
		return errStalled
	}
	return err
}

// idleBody tells a watch of each byte. The body of the answer ends the watch, and
// marks its errors as such.
type idleBody struct {
	io.ReadCloser
	watch  *idleWatch
	answer bool
}

func (b *idleBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.moved()
	}
	err = b.watch.cause(err)
	//nolint:errorlint // The end is io.EOF itself; an error that wraps it is no end.
	if b.answer && err != nil && err != io.EOF {
		err = &readError{err}
	}
	return n, err
}

func (b *idleBody) Close() error {
	err := b.ReadCloser.Close()
	if b.answer {
		b.watch.stop()
	}
	return err
}
