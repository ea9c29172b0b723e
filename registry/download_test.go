// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestDownload(t *testing.T) {
	var agent string
	var there string
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent = r.UserAgent()
		switch r.URL.Path {
		case "/file":
			_, _ = io.WriteString(w, "0123456789")
		case "/moved":
			http.Redirect(w, r, "/file", http.StatusMovedPermanently)
		case "/away":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		case "/round":
			http.Redirect(w, r, "/round", http.StatusFound)
		case "/cut":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "0123456789")
		case "/other":
			http.Redirect(w, r, there, http.StatusFound)
		case "/created":
			w.WriteHeader(http.StatusCreated)
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			http.NotFound(w, r)
		}
	}))
	there = "ftp://" + host + "/file"
	for _, tt := range []struct {
		url   string
		limit int64
		want  string // of the error
		kind  manifest.Kind
	}{
		{url: "/file", limit: 10},
		{url: "/moved", limit: 10},
		{url: "/file", limit: 9, want: "too large: more than the 9 bytes", kind: manifest.KindFailure},
		{url: "/none", limit: 10, want: "the server answers 404 Not Found", kind: manifest.KindNotFound},
		{url: "/busy", limit: 10, want: "503", kind: manifest.KindFailure},
		{url: "/created", limit: 10, want: "201", kind: manifest.KindFailure},
		{url: "/away", limit: 10, want: "not followed", kind: manifest.KindFailure},
		{url: "/other", limit: 10, want: "not followed", kind: manifest.KindFailure},
		{url: "/round", limit: 10, want: "more than 10 redirections", kind: manifest.KindFailure},
		{url: "/cut", limit: 100, want: "after 10 bytes: unexpected EOF", kind: manifest.KindFailure},
	} {
		t.Run(tt.url, func(t *testing.T) {
			c, _ := newClient(t, Options{UserAgent: "ebpm/test"})
			var b bytes.Buffer
			err := c.Download(t.Context(), "http://user:secret@"+host+tt.url, &b, tt.limit)
			switch {
			case tt.want != "":
				wantKind(t, err, tt.kind, tt.want)
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("the password is in %v", err)
				}
			case err != nil || b.String() != "0123456789" || agent != "ebpm/test":
				t.Errorf("%q by %q, %v", b.String(), agent, err)
			}
		})
	}
	for _, bad := range []string{"file:///etc/passwd", "ftp://h/x", "http:///x", "://", "x"} {
		c, _ := newClient(t, Options{})
		wantKind(t, c.Download(t.Context(), bad, io.Discard, 1), manifest.KindUsage, "not an http or https URL")
	}
}

// TestDownloadStaysSecret: who asked by https is not sent on to http.
func TestDownloadStaysSecret(t *testing.T) {
	plain := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked by http") }))
	c, _ := newClient(t, Options{})
	secure := tlsServer(t, c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+plain+"/x", http.StatusFound)
	}))
	err := c.Download(t.Context(), secure+"/x", io.Discard, 1)
	wantKind(t, err, manifest.KindFailure, "redirected from https to http://"+plain+"/x, which is not followed")
}

// tlsServer starts a server that a client trusts.
func tlsServer(t *testing.T, c *Client, h http.Handler) string {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	c.clients[""] = newHTTPClient(pool)
	return s.URL
}
