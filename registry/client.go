// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Options are those of a [Client]. The zero value works.
type Options struct {
	// PlainHTTP lists registries (HOST:PORT) that are reached by plain HTTP,
	// beside localhost, 127.0.0.1 and ::1.
	PlainHTTP []string
	// CAFiles names, for a registry (HOST:PORT), the PEM file of its private
	// CA. A registry that is in it is reached by HTTPS, also on localhost and
	// where PlainHTTP lists it.
	CAFiles map[string]string
	// Account is used for its registry in place of the Docker config's; nil is
	// none.
	Account *Account
	// Store is looked up and filled by [Client.Fetch]; nil is none.
	Store *Store
	// UserAgent is sent to registries; empty is "ebpm".
	UserAgent string
	// Progress is told what happens, from several goroutines; nil is silent.
	Progress func(Event)
	// Warn is told what the user should know but nothing failed by: warnings
	// of a registry, a store that cannot be used, and retries where Progress is
	// nil. It may be called from several goroutines; nil drops it.
	Warn func(string)
}

// Account is a login for one registry.
type Account struct {
	// Registry is HOST[:PORT]. Nobody else is sent the password, but the token
	// server that the registry names.
	Registry           string
	Username, Password string
}

// EventKind says what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	EventStart EventKind = "start" // a blob or manifest is being copied
	EventDone  EventKind = "done"  // it has arrived
	EventSkip  EventKind = "skip"  // it is there already, and all that it names
	EventRetry EventKind = "retry" // an attempt failed; another follows
)

// Event is one step of a push, a pull or a copy.
type Event struct {
	Kind      EventKind
	Reference manifest.Reference
	Digest    digest.Digest
	MediaType string
	Size      int64 // bytes
	// Err is why an attempt failed, and Wait how long until the next one.
	Err  error
	Wait time.Duration
}

// Client reads and writes packages in registries, OCI layouts and OCI archives.
// It is safe for concurrent use.
type Client struct {
	o          Options
	credential auth.CredentialFunc
	cache      auth.Cache
	clients    map[string]*http.Client // by registry with a CA of its own; "" for the others
	sleep      func(context.Context, time.Duration) error

	mu     sync.Mutex
	warned map[string]bool
}

// New returns a client. Credentials come from the Docker config and its helpers
// (DOCKER_CONFIG is honoured) and are sent to their own registry, and to the
// token server that it names, only.
func New(o Options) (*Client, error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("read the Docker config: %w", err),
			"Mend it, or point DOCKER_CONFIG at the folder of another config.json.")
	}
	lookup := credentials.Credential(store)
	c := &Client{
		o: o,
		credential: func(ctx context.Context, hostport string) (auth.Credential, error) {
			if a := o.Account; a != nil && credentials.ServerAddressFromHostname(hostport) == credentials.ServerAddressFromRegistry(a.Registry) {
				return auth.Credential{Username: a.Username, Password: a.Password}, nil
			}
			credential, err := lookup(ctx, hostport)
			if err != nil {
				return auth.EmptyCredential, &credentialError{err}
			}
			return credential, nil
		},
		cache:   auth.NewCache(),
		clients: map[string]*http.Client{"": newHTTPClient(nil)},
		sleep:   sleep,
		warned:  map[string]bool{},
	}
	for registry, file := range o.CAFiles {
		pool, err := loadCA(file)
		if err != nil {
			return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("read the CA of registry %s: %w", registry, err), "")
		}
		c.clients[registry] = newHTTPClient(pool)
	}
	return c, nil
}

const maxCASize = 4 << 20

func loadCA(file string) (*x509.CertPool, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pem, err := manifest.ReadBounded(f, maxCASize)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in PEM form", file)
	}
	return pool, nil
}

func newHTTPClient(pool *x509.CertPool) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	t.MaxResponseHeaderBytes = 1 << 20
	// A body that the transport unpacks has no length to check.
	t.DisableCompression = true
	return &http.Client{Transport: &idleTransport{base: t, timeout: idleTimeout}}
}

// plainHTTP reports whether a registry is reached without TLS.
func (c *Client) plainHTTP(registry string) bool {
	if _, ok := c.o.CAFiles[registry]; ok {
		return false
	}
	return slices.Contains(c.o.PlainHTTP, registry) || manifest.IsLoopbackHost(registry)
}

const (
	tagPageSize = 1000
	maxTagPages = 100
)

// repository returns the repository of a reference as oras-go has it.
func (c *Client) repository(ref manifest.Reference) (*remote.Repository, error) {
	repo, err := remote.NewRepository(ref.Registry + "/" + ref.Repository)
	if err != nil {
		return nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("repository %s: %w", ref.Context(), err), "")
	}
	client, ok := c.clients[ref.Registry]
	if !ok {
		client = c.clients[""]
	}
	repo.Client = &httpClient{&auth.Client{
		Client:     client,
		Header:     http.Header{"User-Agent": {c.userAgent()}},
		Credential: c.credential,
		Cache:      c.cache,
	}}
	repo.PlainHTTP = c.plainHTTP(ref.Registry)
	repo.TagListPageSize = tagPageSize
	repo.TagListMaxPages = maxTagPages
	repo.ReferrerListMaxPages = maxTagPages
	repo.MaxMetadataBytes = manifest.MaxManifestSize
	repo.SkipReferrersGC = true
	repo.HandleWarning = func(w remote.Warning) {
		c.warnOnce(fmt.Sprintf("registry %s says: %s", ref.Registry, w.Text))
	}
	return repo, nil
}

func (c *Client) userAgent() string { return cmp.Or(c.o.UserAgent, "ebpm") }

// httpClient marks the errors of requests, so that they can be told from what
// oras-go finds wrong with an answer.
type httpClient struct{ auth *auth.Client }

var _ remote.Client = (*httpClient)(nil)

func (h *httpClient) Do(req *http.Request) (*http.Response, error) {
	resp, err := h.auth.Do(req)
	if err != nil {
		return nil, &requestError{err}
	}
	noteRetryAfter(req.Context(), resp)
	return resp, nil
}

func (c *Client) report(e Event) {
	switch {
	case c.o.Progress != nil:
		c.o.Progress(e)
	case e.Kind == EventRetry:
		c.warn(fmt.Sprintf("%s: %v; trying again in %s", e.Reference, e.Err, e.Wait.Round(100*time.Millisecond)))
	}
}

func (c *Client) warn(s string) {
	if c.o.Warn != nil {
		c.o.Warn(s)
	}
}

// warnOnce says a thing once for each client: a registry repeats its warnings.
func (c *Client) warnOnce(s string) {
	const most = 100 // a registry may make up a new one for each answer
	c.mu.Lock()
	seen := c.warned[s] || len(c.warned) >= most
	if !seen {
		c.warned[s] = true
	}
	c.mu.Unlock()
	if !seen {
		c.warn(s)
	}
}
