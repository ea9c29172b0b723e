// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/ebpm/ebpm/manifest"
)

const maxRedirects = 10

// Download writes the file that an http or https URL names to w, at most limit
// bytes of it; a longer one is an error that [manifest.ErrTooLarge] is in. Any
// answer but 200 is an error. A redirection from https to http is not followed.
func (c *Client) Download(ctx context.Context, address string, w io.Writer, limit int64) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || !isWeb(u) {
		return manifest.WithKind(manifest.KindUsage, fmt.Errorf("download %q: not an http or https URL", address), "")
	}
	if err := c.download(ctx, u, w, limit); err != nil {
		return fmt.Errorf("download %s: %w", u.Redacted(), err)
	}
	return nil
}

func (c *Client) download(ctx context.Context, u *url.URL, w io.Writer, limit int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", c.userAgent())
	client := *c.clients[""]
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		switch {
		case len(via) >= maxRedirects:
			return fmt.Errorf("more than %d redirections", maxRedirects)
		case !isWeb(next.URL) || via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https":
			return fmt.Errorf("redirected from %s to %s, which is not followed", via[len(via)-1].URL.Scheme, next.URL.Redacted())
		}
		return nil
	}
	resp, err := client.Do(req)
	if err != nil {
		// It has the address too, which is said already.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("the server answers %s", resp.Status)
		if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone {
			return manifest.WithKind(manifest.KindNotFound, err, "")
		}
		return err
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return fmt.Errorf("after %d bytes: %w", n, err)
	case n > limit:
		return fmt.Errorf("%w: more than the %d bytes that are allowed", manifest.ErrTooLarge, limit)
	}
	return nil
}

func isWeb(u *url.URL) bool { return u.Scheme == "http" || u.Scheme == "https" }
