// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// oras-go retries requests, but not the upload of a blob inside a copy, and not
// a body that was cut short. So each operation as a whole is tried again.
const (
	attempts   = 3
	firstWait  = 300 * time.Millisecond
	waitFactor = 3
	// maxRetryAfter bounds how long a registry may make us wait.
	maxRetryAfter = 30 * time.Second
)

// retryHint carries a registry's Retry-After from the answer to the loop.
type retryHint struct{ after time.Duration }

type retryHintKey struct{}

// noteRetryAfter keeps what an answer says about when to come again.
func noteRetryAfter(ctx context.Context, resp *http.Response) {
	hint, ok := ctx.Value(retryHintKey{}).(*retryHint)
	if !ok || (resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable) {
		return
	}
	value := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		hint.after = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		hint.after = time.Until(at)
	}
	hint.after = min(max(hint.after, 0), maxRetryAfter)
}

// retry runs f until it succeeds, at most three times. e says what it is about.
func (c *Client) retry(ctx context.Context, e Event, f func(context.Context) error) error {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		var hint retryHint
		err := f(context.WithValue(ctx, retryHintKey{}, &hint))
		if err == nil || attempt == attempts || ctx.Err() != nil || !temporary(err) {
			return err
		}
		// The nodes of a cluster fail together: spread them.
		//nolint:gosec // There is nothing to be gained by guessing a wait.
		e.Kind, e.Err, e.Wait = EventRetry, err, max(hint.after, wait+rand.N(wait/2))
		c.report(e)
		if err := c.sleep(ctx, e.Wait); err != nil {
			return err
		}
		wait *= waitFactor
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
