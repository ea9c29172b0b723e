// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// faulty puts a handler in front of a registry. It returns true when it has
// answered itself.
func faulty(inner http.Handler, fault func(w http.ResponseWriter, r *http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fault(w, r) {
			inner.ServeHTTP(w, r)
		}
	})
}

// serveOnly is a registry that can only be read: it has an artifact under each
// tag and serves whatever bytes that holds.
func serveOnly(a *Artifact) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		d := digest.Digest(what)
		if d.Validate() != nil {
			d = a.Digest
		}
		data, ok := a.blobs[d]
		if !ok {
			http.NotFound(w, r)
			return
		}
		mediaType := "application/octet-stream"
		if strings.Contains(r.URL.Path, "/manifests/") {
			mediaType = ocispec.MediaTypeImageManifest
			if d == a.Digest {
				mediaType = a.root.MediaType
			}
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Header().Set("Docker-Content-Digest", d.String())
		if r.Method != http.MethodHead {
			_, _ = w.Write(data)
		}
	})
}

// isUpload reports whether a request brings the bytes of a blob.
func isUpload(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/uploads/")
}

// isRead reports whether a request asks for a blob.
func isRead(r *http.Request, d digest.Digest) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/"+d.String())
}

// TestRetry fails each request of a push and of a fetch once, in turn: all of
// them must succeed in the end.
func TestRetry(t *testing.T) {
	for i, status := range []int{http.StatusServiceUnavailable, http.StatusBadGateway} {
		r := registries[i]
		t.Run(fmt.Sprint(r.name, status), func(t *testing.T) {
			inner := r.new(t)
			for n := int64(1); ; n++ {
				requests, slept := pushAndFetch(t, inner, n, status)
				if requests < n {
					if n < 20 {
						t.Fatalf("only %d requests were made", n)
					}
					return
				}
				if honoured := slept == 7*time.Second; honoured != (status == http.StatusServiceUnavailable) {
					t.Fatalf("request %d: waited %s after %d with Retry-After 7", n, slept, status)
				}
			}
		})
	}
	if _, slept := pushAndFetch(t, newReferrersRegistry(t), 1, http.StatusTooManyRequests); slept != 7*time.Second {
		t.Errorf("waited %s after 429 with Retry-After 7", slept)
	}
}

// pushAndFetch does that while the request number n fails with a status. It
// returns how many requests there were and how long the client waited.
func pushAndFetch(t *testing.T, inner http.Handler, n int64, status int) (requests int64, slept time.Duration) {
	t.Helper()
	var count atomic.Int64
	host := serve(t, faulty(inner, func(w http.ResponseWriter, _ *http.Request) bool {
		if count.Add(1) != n {
			return false
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		return true
	}))
	c, said := newClient(t, Options{})
	ref := parse(t, fmt.Sprintf("%s/x%d:1", host, n))
	if _, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), ref); err != nil {
		t.Fatalf("push with request %d failing: %v", n, err)
	}
	p, err := c.Fetch(t.Context(), ref, amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
	if len(said.slept) != said.kinds(EventRetry) || (count.Load() >= n && len(said.slept) != 1) {
		t.Fatalf("request %d: %d waits, %d retries, wanted 1", n, len(said.slept), said.kinds(EventRetry))
	}
	for _, d := range said.slept {
		slept += d
	}
	return count.Load(), slept
}

// TestNoTagUnlessComplete lets a registry fail for good from each write on, in
// turn: the tag must not exist, and the push must succeed once it works again.
func TestNoTagUnlessComplete(t *testing.T) {
	for _, r := range registries {
		t.Run(r.name, func(t *testing.T) {
			for n := int64(1); ; n++ {
				// A new one each time: some keep a blob for all repositories.
				inner := r.new(t)
				healthy := serve(t, inner)
				var count atomic.Int64
				host := serve(t, faulty(inner, func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method != http.MethodPut || count.Add(1) < n {
						return false
					}
					w.WriteHeader(http.StatusInternalServerError)
					return true
				}))
				c, _ := newClient(t, Options{})
				name := fmt.Sprintf("/x%d:1", n)
				_, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), parse(t, host+name))
				if count.Load() < n {
					if err != nil || n < 9 {
						t.Fatalf("%d writes: %v", n, err)
					}
					return
				}
				wantKind(t, err, manifest.KindFailure, host, "fails", "Try again later")
				ref := parse(t, healthy+name)
				if _, err := c.Resolve(t.Context(), ref); manifest.KindOf(err) != manifest.KindNotFound {
					t.Fatalf("the push failed at write %d, but its tag: %v", n, err)
				}
				if _, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), ref); err != nil {
					t.Fatalf("second push: %v", err)
				}
				p, err := c.Fetch(t.Context(), ref, arm64)
				wantChild(t, p, err, testChild(arm64, "1.0.0"))
			}
		})
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"2":                             2 * time.Second,
		"86400":                         maxRetryAfter,
		"-5":                            0,
		"soon":                          0,
		"Mon, 01 Jan 2001 00:00:00 GMT": 0,
		"Tue, 01 Jan 2999 00:00:00 GMT": maxRetryAfter,
	} {
		var hint retryHint
		ctx := context.WithValue(t.Context(), retryHintKey{}, &hint)
		noteRetryAfter(ctx, &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {value}}})
		if hint.after != want {
			t.Errorf("Retry-After %q: %s, wanted %s", value, hint.after, want)
		}
	}
}

// TestDamagedBlob serves a blob wrongly in each way: it must not be used, nor
// get into the store.
func TestDamagedBlob(t *testing.T) {
	a := testArtifact(t, "1.0.0", amd64)
	index, err := decodeIndex(a.blobs[a.Digest])
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeManifest(a.blobs[index.Manifests[0].Digest], manifest.ArtifactType)
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]ocispec.Descriptor{
		"index":    a.root,
		"manifest": index.Manifests[0],
		"config":   m.Config,
		"package":  m.Layers[0],
		"source":   m.Layers[1],
		"readme":   m.Layers[2],
	}
	other := func(data []byte) []byte {
		data = bytes.Clone(data)
		data[len(data)/2] ^= 1
		return data
	}
	cut := func(w http.ResponseWriter, data []byte) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:len(data)-1])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, damage := range []struct {
		name  string
		kind  manifest.Kind
		words string
		serve func(w http.ResponseWriter, data []byte)
	}{
		{"other bytes", manifest.KindUnverified, "", func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			_, _ = w.Write(other(data))
		}},
		{"cut short", manifest.KindFailure, "broke off", cut},
		{"short, and said so", manifest.KindUnverified, "", func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)-1))
			_, _ = w.Write(data[:len(data)-1])
		}},
		{"short, of no length", manifest.KindUnverified, "", func(w http.ResponseWriter, data []byte) {
			_, _ = w.Write(data[:len(data)-1])
			w.(http.Flusher).Flush()
		}},
		{"longer", manifest.KindUnverified, "", func(w http.ResponseWriter, data []byte) {
			_, _ = w.Write(append(bytes.Clone(data), '\n'))
			w.(http.Flusher).Flush()
		}},
		{"endless", manifest.KindUnverified, "", func(w http.ResponseWriter, data []byte) {
			w.(http.Flusher).Flush()
			for {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
					return
				}
			}
		}},
		{"another digest in the header", manifest.KindUnverified, "", func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			_, _ = w.Write(data)
		}},
		{"a web page", manifest.KindUnverified, "", func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>Please log in to the hotel's network</html>"))
		}},
	} {
		for what, d := range targets {
			t.Run(damage.name+" "+what, func(t *testing.T) {
				var broken atomic.Bool
				broken.Store(true)
				host := serve(t, faulty(serveOnly(a), func(w http.ResponseWriter, r *http.Request) bool {
					if !broken.Load() || !isRead(r, d.Digest) {
						return false
					}
					w.Header().Set("Content-Type", d.MediaType)
					damage.serve(w, a.blobs[d.Digest])
					return true
				}))
				store := newStore(t)
				c, said := newClient(t, Options{Store: store})
				ref := parse(t, host+"/opensnoop").WithDigest(a.Digest)
				p, err := c.Fetch(t.Context(), ref, amd64)
				if p != nil {
					t.Error("a damaged package was given out")
				}
				wantKind(t, err, damage.kind, ref.String(), d.Digest.String(), damage.words, "used or stored")
				if damage.kind == manifest.KindFailure && said.kinds(EventRetry) != attempts-1 {
					t.Errorf("%d retries, wanted %d", said.kinds(EventRetry), attempts-1)
				}
				if entries, err := store.List(t.Context()); err != nil || len(entries) > 0 {
					t.Errorf("the store has %v, %v", entries, err)
				}
				if _, err := os.Stat(filepath.Join(store.Dir(), blobName(d.Digest))); err == nil {
					t.Error("the damaged blob is in the store")
				}
				broken.Store(false)
				p, err = c.Fetch(t.Context(), ref, amd64)
				wantChild(t, p, err, testChild(amd64, "1.0.0"))
			})
		}
	}
}

func TestTruncatedOnce(t *testing.T) {
	a := testArtifact(t, "1.0.0", amd64)
	cut := map[string]bool{}
	var mu sync.Mutex
	host := serve(t, faulty(serveOnly(a), func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		data, ok := a.blobs[digest.Digest(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])]
		if !ok || !strings.Contains(r.URL.Path, "/blobs/") || cut[r.URL.Path] {
			return false
		}
		cut[r.URL.Path] = true
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	c, said := newClient(t, Options{})
	p, err := c.Fetch(t.Context(), parse(t, host+"/x:1"), amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
	if n := said.kinds(EventRetry); n != 4 {
		t.Errorf("%d retries, wanted one for each of 4 blobs", n)
	}
}

// handMade returns an artifact whose index and manifests a test changes.
func handMade(t *testing.T, child Child, change func(*ocispec.Index, *ocispec.Manifest, *Artifact)) *Artifact {
	t.Helper()
	a := newArtifact()
	d, err := packChild(a, &child, map[string]string{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeManifest(a.blobs[d.Digest], manifest.ArtifactType)
	if err != nil {
		t.Fatal(err)
	}
	index := &ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: manifest.ArtifactType,
	}
	change(index, m, a)
	child2, err := a.addJSON(ocispec.MediaTypeImageManifest, m)
	if err != nil {
		t.Fatal(err)
	}
	child2.Platform = d.Platform
	index.Manifests = append(index.Manifests, child2)
	root, err := a.addJSON(ocispec.MediaTypeImageIndex, index)
	if err != nil {
		t.Fatal(err)
	}
	root.MediaType = index.MediaType
	a.setRoot(root)
	return a
}

func TestHostileManifests(t *testing.T) {
	platform := func(p manifest.Platform) *ocispec.Platform {
		return &ocispec.Platform{OS: p.OS, Architecture: p.Architecture}
	}
	for _, tt := range []struct {
		name   string
		change func(*ocispec.Index, *ocispec.Manifest, *Artifact)
		want   string // empty: it is fine
	}{
		{"as it is", func(*ocispec.Index, *ocispec.Manifest, *Artifact) {}, ""},
		{"another platform first", func(i *ocispec.Index, _ *ocispec.Manifest, a *Artifact) {
			d := a.add(ocispec.MediaTypeImageManifest, []byte("{}"))
			d.Platform = platform(arm64)
			i.Manifests = append(i.Manifests, d)
		}, ""},
		{"unknown things first", func(i *ocispec.Index, m *ocispec.Manifest, a *Artifact) {
			i.Manifests = append(i.Manifests,
				ocispec.Descriptor{MediaType: "application/vnd.example.sbom", Digest: digest.FromString("1"), Size: 1, Platform: platform(amd64)},
				ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example", Digest: digest.FromString("2"), Size: 1, Platform: platform(amd64)},
				ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("3"), Size: 1})
			m.Layers = append([]ocispec.Descriptor{{MediaType: "application/vnd.example.new", Digest: digest.FromString("4"), Size: 1}}, m.Layers...)
		}, ""},
		{"layers in another order", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			m.Layers[0], m.Layers[2] = m.Layers[2], m.Layers[0]
		}, ""},
		{"10000 children", func(i *ocispec.Index, _ *ocispec.Manifest, _ *Artifact) {
			for n := range 10000 {
				i.Manifests = append(i.Manifests, ocispec.Descriptor{
					MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(strconv.Itoa(n)), Size: 1, Platform: platform(arm64)})
			}
		}, "names 10001 manifests"},
		{"two for one platform", func(i *ocispec.Index, _ *ocispec.Manifest, a *Artifact) {
			d := a.add(ocispec.MediaTypeImageManifest, []byte("{}"))
			d.Platform = platform(amd64)
			i.Manifests = append(i.Manifests, d)
		}, "two packages for linux/amd64"},
		{"a container image", func(i *ocispec.Index, m *ocispec.Manifest, _ *Artifact) { i.ArtifactType, m.ArtifactType = "", "" }, "not an ebpm package"},
		{"another artifact", func(i *ocispec.Index, _ *ocispec.Manifest, _ *Artifact) { i.ArtifactType = "application/vnd.example" }, "not an ebpm package"},
		{"an index whose type was dropped", func(i *ocispec.Index, _ *ocispec.Manifest, _ *Artifact) { i.ArtifactType = "" }, ""},
		{"a Docker image", func(i *ocispec.Index, _ *ocispec.Manifest, _ *Artifact) {
			i.MediaType = "application/vnd.docker.distribution.manifest.list.v2+json"
		}, "not an ebpm package"},
		{"another child's type", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) { m.ArtifactType = "application/vnd.example" }, "not an ebpm package"},
		{"another config's type", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			m.Config.MediaType = ocispec.MediaTypeImageConfig
		}, "its config is application/vnd.oci.image.config.v1+json"},
		{"another platform in the config", func(_ *ocispec.Index, m *ocispec.Manifest, a *Artifact) {
			m.Config = a.add(manifest.ConfigMediaType, []byte(`{"name":"x","platform":{"os":"linux","architecture":"arm64"}}`))
		}, "its config is for linux/arm64"},
		{"no JSON in the config", func(_ *ocispec.Index, m *ocispec.Manifest, a *Artifact) {
			m.Config = a.add(manifest.ConfigMediaType, []byte(`[`))
		}, "decode package config"},
		{"another layer's type", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			m.Layers[0].MediaType = "application/octet-stream"
		}, "no layer application/vnd.ebpm.bpf.v1+json"},
		{"two packages", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			m.Layers = append(m.Layers, m.Layers[0])
		}, "two layers application/vnd.ebpm.bpf.v1+json"},
		{"a manifest as a layer", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			m.Layers[0].MediaType = ocispec.MediaTypeImageManifest
		}, "a manifest among the blobs"},
		{"1000 layers", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			for range 1000 {
				m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: "x/y", Digest: digest.FromString("x"), Size: 1})
			}
		}, "names 1003 layers"},
		{"a huge package", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			m.Layers[0].Size = manifest.MaxPackageSize + 1
		}, "at most 33554432"},
		{"a huge child", func(i *ocispec.Index, _ *ocispec.Manifest, _ *Artifact) {
			i.Manifests = append(i.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1 << 62})
		}, "at most 4194304"},
		{"a negative size", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) { m.Layers[1].Size = -1 }, "-1 bytes"},
		{"a path as a digest", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			m.Layers[1].Digest = "sha256:../../../etc/passwd"
		}, "digest"},
		{"another algorithm", func(_ *ocispec.Index, m *ocispec.Manifest, _ *Artifact) {
			m.Layers[1].Digest = digest.Digest("sha512:" + strings.Repeat("a", 128))
		}, "sha"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := testChild(amd64, "1.0.0")
			a := handMade(t, want, tt.change)
			host := serve(t, serveOnly(a))
			c, _ := newClient(t, Options{})
			p, err := c.Fetch(t.Context(), parse(t, host+"/x:1"), amd64)
			if tt.want == "" {
				wantChild(t, p, err, want)
				return
			}
			wantKind(t, err, manifest.KindUnverified, host+"/x:1", tt.want)
		})
	}
}

func TestHugeManifest(t *testing.T) {
	huge := bytes.Repeat([]byte(" "), manifest.MaxManifestSize+1)
	a := newArtifact()
	a.setRoot(a.add(ocispec.MediaTypeImageIndex, huge))
	c, _ := newClient(t, Options{})
	_, err := c.Fetch(t.Context(), parse(t, serve(t, serveOnly(a))+"/x:1"), amd64)
	wantKind(t, err, manifest.KindUnverified, "that are allowed")
}

// TestNestedIndex copies an index inside of an index, which would let a registry
// make a chain without an end.
func TestNestedIndex(t *testing.T) {
	a := handMade(t, testChild(amd64, "1.0.0"), func(i *ocispec.Index, _ *ocispec.Manifest, a *Artifact) {
		i.Manifests = append(i.Manifests, a.add(ocispec.MediaTypeImageIndex, []byte("{}")))
	})
	c, _ := newClient(t, Options{Store: newStore(t)})
	_, err := c.PullToStore(t.Context(), parse(t, serve(t, serveOnly(a))+"/x:1"))
	wantKind(t, err, manifest.KindUnverified, "an image index inside of an image index")
}

// TestTagMoves lets a tag name another package at each request.
func TestTagMoves(t *testing.T) {
	one, two := testArtifact(t, "1.0.0"), testArtifact(t, "2.0.0")
	both := newArtifact()
	for _, a := range []*Artifact{one, two} {
		for d, b := range a.blobs {
			both.blobs[d] = b
		}
	}
	var moves atomic.Int64
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := *both
		a.setRoot(one.root)
		if strings.HasSuffix(r.URL.Path, "/manifests/1") && moves.Add(1) > 1 {
			a.setRoot(two.root)
		}
		if strings.HasSuffix(r.URL.Path, two.Digest.String()) {
			a.setRoot(two.root)
		}
		serveOnly(&a).ServeHTTP(w, r)
	}))
	c, _ := newClient(t, Options{Store: newStore(t)})
	ref := parse(t, host+"/x:1")
	pinned, err := c.Resolve(t.Context(), ref)
	if err != nil || pinned.Digest != one.Digest {
		t.Fatalf("resolved %s, %v", pinned, err)
	}
	p, err := c.Fetch(t.Context(), pinned.Pinned(), amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))
	p, err = c.Fetch(t.Context(), ref, amd64)
	wantChild(t, p, err, testChild(amd64, "2.0.0"))
	_, err = c.Fetch(t.Context(), pinned, amd64)
	wantKind(t, err, manifest.KindUnverified, "tag 1 names "+two.Digest.String())

	moves.Store(0)
	stored, err := c.PullToStore(t.Context(), ref)
	if err != nil || stored.Digest != one.Digest {
		t.Errorf("pulled %s, %v", stored, err)
	}
}

func TestRegistryDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	c, said := newClient(t, Options{})
	ref := parse(t, host+"/x:1")
	_, err = c.Fetch(t.Context(), ref, amd64)
	wantKind(t, err, manifest.KindFailure, ref.String(), "registry "+host+" cannot be reached", "Check that the registry runs")
	if len(said.slept) != attempts-1 {
		t.Errorf("%d waits, wanted %d", len(said.slept), attempts-1)
	}
	_, err = c.Push(t.Context(), testArtifact(t, "1.0.0"), ref)
	wantKind(t, err, manifest.KindFailure, "registry "+host+" cannot be reached")
}

func TestRegistryStalls(t *testing.T) {
	a := testArtifact(t, "1.0.0")
	release := make(chan struct{})
	host := serve(t, faulty(serveOnly(a), func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-release:
		}
		return true
	}))
	defer close(release)
	c, said := newClient(t, Options{})
	c.clients[""].Transport.(*idleTransport).timeout = 20 * time.Millisecond
	_, err := c.Fetch(t.Context(), parse(t, host+"/x:1"), amd64)
	if !errors.Is(err, errStalled) || said.kinds(EventRetry) < attempts-1 {
		t.Errorf("error %v, %d retries", err, said.kinds(EventRetry))
	}
	wantKind(t, err, manifest.KindFailure, host)
}

func TestCancel(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	c, _ := newClient(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	c.sleep = func(ctx context.Context, _ time.Duration) error {
		cancel()
		return sleep(ctx, time.Hour)
	}
	_, err := c.Fetch(ctx, parse(t, host+"/x:1"), amd64)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, wanted context.Canceled", err)
	}
	for _, at := range []string{host + "/x:1", "oci:" + filepath.Join(t.TempDir(), "l"), "oci-archive:" + filepath.Join(t.TempDir(), "a.tar")} {
		if _, err := c.Push(ctx, testArtifact(t, "1.0.0"), parse(t, at)); !errors.Is(err, context.Canceled) {
			t.Errorf("push to %s: %v, wanted context.Canceled", at, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "ebpm-archive-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(newReferrersRegistry(t))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	ref := parse(t, host+"/x:1")
	c, _ := newClient(t, Options{CAFiles: map[string]string{host: ca}})
	if _, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), ref); err != nil {
		t.Fatal(err)
	}
	p, err := c.Fetch(t.Context(), ref, amd64)
	wantChild(t, p, err, testChild(amd64, "1.0.0"))

	c.clients[host] = newHTTPClient(nil)
	_, err = c.Fetch(t.Context(), ref, amd64)
	wantKind(t, err, manifest.KindFailure, "the certificate of registry "+host+" is not trusted", "CA")

	plain := serve(t, newReferrersRegistry(t))
	c, said := newClient(t, Options{CAFiles: map[string]string{plain: ca}})
	_, err = c.Fetch(t.Context(), parse(t, plain+"/x:1"), amd64)
	wantKind(t, err, manifest.KindFailure, "speaks plain HTTP", "EBPM_PLAIN_HTTP="+plain)
	if len(said.slept) != 0 {
		t.Error("it was tried again")
	}
}

// TestUploadElsewhere sends the client of an upload to another host.
func TestUploadElsewhere(t *testing.T) {
	var reached atomic.Int64
	elsewhere := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		w.WriteHeader(http.StatusCreated)
	}))
	host := serve(t, faulty(newReferrersRegistry(t), func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		w.Header().Set("Location", "http://"+elsewhere+"/v2/x/blobs/uploads/1")
		w.WriteHeader(http.StatusAccepted)
		return true
	}))
	c, _ := newClient(t, Options{})
	_, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), parse(t, host+"/x:1"))
	wantKind(t, err, manifest.KindFailure, "on a different host")
	if reached.Load() > 0 {
		t.Error("the other host was asked")
	}
}

// TestUploadIsRetried is the fault that oras-go does not try again by itself.
func TestUploadIsRetried(t *testing.T) {
	var failed atomic.Int64
	host := serve(t, faulty(newReferrersRegistry(t), func(w http.ResponseWriter, r *http.Request) bool {
		if !isUpload(r) || failed.Add(1) > 1 {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}))
	c, said := newClient(t, Options{})
	if _, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), parse(t, host+"/x:1")); err != nil {
		t.Fatal(err)
	}
	if said.kinds(EventRetry) != 1 {
		t.Errorf("%d retries, wanted 1", said.kinds(EventRetry))
	}
}

func FuzzDecode(f *testing.F) {
	a := testArtifact(f, "1.0.0")
	for _, b := range a.blobs {
		f.Add(b)
	}
	f.Add([]byte(`{"mediaType":"application/vnd.oci.image.index.v1+json","artifactType":"application/vnd.ebpm.package.v1","manifests":[{}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if index, err := decodeIndex(data); err == nil {
			if len(index.Manifests) == 0 || len(index.Manifests) > maxChildren {
				t.Errorf("%d children", len(index.Manifests))
			}
			if platforms, err := platformsOf(index); err == nil && len(platforms) == 0 {
				t.Error("no platforms and no error")
			}
		}
		for _, artifactType := range []string{manifest.ArtifactType, manifest.SourceArtifactType} {
			m, err := decodeManifest(data, artifactType)
			if err != nil {
				continue
			}
			for _, d := range append(m.Layers, m.Config) {
				if d.Size < 0 || d.Size > manifest.MaxSourceSize || d.Digest.Validate() != nil {
					t.Errorf("descriptor %+v", d)
				}
			}
		}
		r, err := newRoot(data)
		if err != nil {
			return
		}
		if r.Digest != digest.FromBytes(data) || r.Size != int64(len(data)) {
			t.Errorf("root %+v", r.Descriptor)
		}
		// What a fetch makes of it must end, with an error or without.
		one := newArtifact()
		one.setRoot(one.add(r.MediaType, data))
		_, _ = fetchFrom(t.Context(), one, r, manifest.Reference{Registry: "x:1", Repository: "y"}, amd64)
		_, _ = successorsOf(r.Descriptor, data)
	})
}
