// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/ebpm/ebpm/manifest"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/sirupsen/logrus"
)

var (
	amd64 = manifest.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = manifest.Platform{OS: "linux", Architecture: "arm64"}
)

// TestMain keeps the credentials of the machine out of the tests.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "docker-config-")
	if err != nil {
		panic(err)
	}
	os.Setenv("DOCKER_CONFIG", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// testChild is a small package for a platform. Nothing here looks into
// package.json, so its bytes are of no format.
func testChild(p manifest.Platform, version string) Child {
	return Child{
		Platform: p,
		Config: &manifest.Config{
			Name:        "opensnoop",
			Version:     version,
			Description: "Trace open() <here> & there",
			License:     "GPL-2.0 OR BSD-2-Clause",
			Platform:    p,
			Programs:    []manifest.Program{{Name: "enter", Section: "tracepoint/syscalls/sys_enter_openat", Type: "TracePoint", Target: "syscalls/sys_enter_openat"}},
			Maps:        []manifest.Map{},
			Parameters:  []manifest.Parameter{},
		},
		Package: []byte(`{"bpf_object":"` + p.Architecture + version + `"}`),
		Source:  []byte("tar of version " + version),
		Readme:  []byte("# opensnoop\n"),
	}
}

func testArtifact(t testing.TB, version string, platforms ...manifest.Platform) *Artifact {
	t.Helper()
	if len(platforms) == 0 {
		platforms = []manifest.Platform{amd64, arm64}
	}
	var children []Child
	for _, p := range platforms {
		children = append(children, testChild(p, version))
	}
	a, err := Pack(children, PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// newReferrersRegistry is a registry with the referrers API.
func newReferrersRegistry(testing.TB) http.Handler {
	return ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0)))
}

// newDistribution is a registry without it, that allows to delete. change may
// alter its configuration.
func newDistribution(t testing.TB, change ...func(*configuration.Configuration)) http.Handler {
	t.Helper()
	logrus.SetOutput(io.Discard)
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"inmemory": configuration.Parameters{},
			"delete":   configuration.Parameters{"enabled": true},
		},
	}
	config.Log.Level = "panic"
	config.Log.AccessLog.Disabled = true
	config.HTTP.Secret = "for the tests"
	config.Catalog.MaxEntries = 100
	for _, f := range change {
		f(config)
	}
	return handlers.NewApp(context.Background(), config)
}

var registries = []struct {
	name string
	new  func(testing.TB) http.Handler
}{
	{"referrers", newReferrersRegistry},
	{"distribution", func(t testing.TB) http.Handler { return newDistribution(t) }},
}

// serve starts a server and returns its HOST:PORT.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// recorder keeps what a client says.
type recorder struct {
	mu     sync.Mutex
	events []Event
	warned []string
	slept  []time.Duration
}

func (r *recorder) kinds(kind EventKind) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// newClient returns a client that does not wait between attempts.
func newClient(t testing.TB, o Options) (*Client, *recorder) {
	t.Helper()
	r := &recorder{}
	o.Progress = func(e Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	}
	o.Warn = func(s string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.warned = append(r.warned, s)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.sleep = func(ctx context.Context, d time.Duration) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.slept = append(r.slept, d)
		return ctx.Err()
	}
	return c, r
}

func parse(t testing.TB, s string) manifest.Reference {
	t.Helper()
	ref, err := manifest.ParseReference(s, "")
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantKind checks the kind of an error, and that it has all words.
func wantKind(t testing.TB, err error, kind manifest.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, wanted one of kind %d with %q", kind, words)
	}
	if got := manifest.KindOf(err); got != kind {
		t.Errorf("kind %d, wanted %d: %v", got, kind, err)
	}
	text := err.Error() + "\n" + manifest.AdviceOf(err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in the error and its advice:\n%s", w, text)
		}
	}
}

func wantChild(t testing.TB, got *Pulled, err error, want Child) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Package, want.Package) || !bytes.Equal(got.Source, want.Source) || !bytes.Equal(got.Readme, want.Readme) || !bytes.Equal(got.BTF, want.BTF) ||
		got.Platform != want.Platform || got.Config.Name != want.Config.Name || got.Config.Version != want.Config.Version {
		t.Errorf("fetched %+v, wanted %+v", got.Child, want)
	}
}
