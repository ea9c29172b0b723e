// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/ebpm/ebpm/manifest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
)

// places are all kinds of references that a package can be pushed to.
func places(t *testing.T) map[string]string {
	p := map[string]string{
		"layout":  "oci:" + filepath.Join(t.TempDir(), "layout"),
		"archive": "oci-archive:" + filepath.Join(t.TempDir(), "deep", "package.tar"),
	}
	for _, r := range registries {
		p[r.name] = serve(t, r.new(t)) + "/team/opensnoop"
	}
	return p
}

func TestPushFetch(t *testing.T) {
	for name, at := range places(t) {
		t.Run(name, func(t *testing.T) {
			c, events := newClient(t, Options{})
			ctx := t.Context()
			a := testArtifact(t, "1.0.0")
			ref := parse(t, at+":1.0.0")

			if _, err := c.Resolve(ctx, ref); manifest.KindOf(err) != manifest.KindNotFound {
				t.Errorf("resolve before the push: %v", err)
			}
			pinned, err := c.Push(ctx, a, ref)
			if err != nil {
				t.Fatal(err)
			}
			if pinned != ref.WithDigest(a.Digest) {
				t.Errorf("pushed %s, wanted %s", pinned, ref.WithDigest(a.Digest))
			}
			// 2 x (package, config, manifest), the source and README that
			// both have, and the index.
			if n := events.kinds(EventDone); n != 9 {
				t.Errorf("%d blobs were written, wanted 9", n)
			}

			for _, r := range []manifest.Reference{ref, pinned, pinned.Pinned()} {
				got, err := c.Resolve(ctx, r)
				if err != nil || got != r.WithDigest(a.Digest) {
					t.Errorf("resolve %s: %s, %v", r, got, err)
				}
				for _, p := range []manifest.Platform{amd64, arm64} {
					pulled, err := c.Fetch(ctx, r, p)
					wantChild(t, pulled, err, testChild(p, "1.0.0"))
					if pulled.Reference != r.WithDigest(a.Digest) || pulled.Cached || pulled.Size == 0 {
						t.Errorf("fetched as %s, cached %v, %d bytes", pulled.Reference, pulled.Cached, pulled.Size)
					}
				}
			}
			index, err := c.Index(ctx, ref)
			if err != nil {
				t.Fatal(err)
			}
			if !index.Has(amd64) || !index.Has(arm64) || len(index.Platforms) != 2 || index.Reference.Digest != a.Digest ||
				index.Annotations["org.opencontainers.image.title"] != "opensnoop" {
				t.Errorf("index: %+v", index)
			}

			riscv64 := manifest.Platform{OS: "linux", Architecture: "riscv64"}
			_, err = c.Fetch(ctx, ref, riscv64)
			wantKind(t, err, manifest.KindNotFound, "not built for linux/riscv64", "linux/amd64, linux/arm64")
			if e, ok := errors.AsType[*PlatformError](err); !ok || e.Platform != riscv64 || !slices.Equal(e.Built, []manifest.Platform{amd64, arm64}) {
				t.Errorf("error %#v", e)
			}
			if advice := manifest.AdviceOf(err); !strings.Contains(advice, "--platform linux/amd64,linux/arm64,linux/riscv64.") {
				t.Errorf("advice %q", advice)
			}
			_, err = c.Fetch(ctx, ref.WithTag("2.0.0"), amd64)
			wantKind(t, err, manifest.KindNotFound, ref.WithTag("2.0.0").String())

			// The same again writes nothing but the tag.
			before := events.kinds(EventDone)
			if _, err := c.Push(ctx, a, ref); err != nil || events.kinds(EventDone) != before {
				t.Errorf("second push: %v, %d blobs written", err, events.kinds(EventDone)-before)
			}
			// The tag moves; the digest stays.
			b := testArtifact(t, "1.0.1")
			if _, err := c.Push(ctx, b, ref); err != nil {
				t.Fatal(err)
			}
			if got, err := c.Resolve(ctx, ref); err != nil || got.Digest != b.Digest {
				t.Errorf("moved tag: %s, %v", got, err)
			}
			_, err = c.Resolve(ctx, pinned)
			wantKind(t, err, manifest.KindUnverified, "tag 1.0.0 names "+b.Digest.String(), "moved")
			old, err := c.Fetch(ctx, pinned.Pinned(), amd64)
			wantChild(t, old, err, testChild(amd64, "1.0.0"))

			if err := c.Tag(ctx, pinned.Pinned(), "stable"); err != nil {
				t.Fatal(err)
			}
			if got, err := c.Resolve(ctx, ref.WithTag("stable")); err != nil || got.Digest != a.Digest {
				t.Errorf("new tag: %s, %v", got, err)
			}
			for _, bad := range []string{"", "-x", "a/b", "x:1.0", "a b", ref.String()} {
				wantKind(t, c.Tag(ctx, ref, bad), manifest.KindUsage, "is not a tag", "only the tag")
			}
			tags, err := c.Tags(ctx, ref)
			if err != nil || !slices.Equal(tags, []string{"1.0.0", "stable"}) {
				t.Errorf("tags %q, %v", tags, err)
			}
			wantDigest := ref.WithDigest(b.Digest)
			_, err = c.Push(ctx, a, wantDigest)
			wantKind(t, err, manifest.KindUsage, "has digest "+a.Digest.String())
		})
	}
}

func TestCopy(t *testing.T) {
	all := places(t)
	for fromName, from := range all {
		for toName, to := range all {
			t.Run(fromName+" to "+toName, func(t *testing.T) {
				c, _ := newClient(t, Options{})
				a := testArtifact(t, "1.0.0")
				source, target := parse(t, from+":source"), parse(t, to+":copy-of-"+fromName)
				if _, err := c.Push(t.Context(), a, source); err != nil {
					t.Fatal(err)
				}
				got, err := c.Copy(t.Context(), source, target)
				if err != nil || got != target.WithDigest(a.Digest) {
					t.Fatalf("copied to %s, %v", got, err)
				}
				p, err := c.Fetch(t.Context(), target, arm64)
				wantChild(t, p, err, testChild(arm64, "1.0.0"))
			})
		}
	}
}

// What is not there is said in one line that names it once.
func TestNotFoundIsSaidOnce(t *testing.T) {
	for _, r := range registries {
		t.Run(r.name, func(t *testing.T) {
			host := serve(t, r.new(t))
			store, err := OpenStore(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			c, _ := newClient(t, Options{Store: store})
			ref := parse(t, host+"/x:1.0")
			_, err = c.PullToStore(t.Context(), ref)
			wantKind(t, err, manifest.KindNotFound)
			want := "pull " + ref.String() + ": registry " + host + " does not have it"
			if err.Error() != want || strings.Contains(manifest.AdviceOf(err), ref.String()) {
				t.Errorf("error %q with the advice %q, want %q", err, manifest.AdviceOf(err), want)
			}
			_, err = c.Tags(t.Context(), ref)
			if want := "list tags of " + host + "/x: registry " + host + " does not have it"; err != nil && err.Error() != want {
				t.Errorf("error %q, want %q", err, want)
			}
		})
	}
}

func TestCopyNamesWhoFails(t *testing.T) {
	healthy := serve(t, newReferrersRegistry(t))
	a := testArtifact(t, "1.0.0")
	broken := serve(t, faulty(serveOnly(a), func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	}))
	c, _ := newClient(t, Options{})
	_, err := c.Copy(t.Context(), parse(t, broken+"/x:1"), parse(t, healthy+"/x:1"))
	wantKind(t, err, manifest.KindFailure, "copy "+broken+"/x:1 to "+healthy+"/x:1", "registry "+broken+" fails")
}

// TestLayoutOfOthers reads what other tools make: an index in which children are
// listed too, and one without an artifact type.
func TestLayoutOfOthers(t *testing.T) {
	dir := t.TempDir()
	theirs, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	for tag, artifactType := range map[string]string{"1": manifest.ArtifactType, "2": ""} {
		a := handMade(t, testChild(amd64, "1.0.0"), func(i *ocispec.Index, _ *ocispec.Manifest, _ *Artifact) { i.ArtifactType = artifactType })
		if err := oras.CopyGraph(t.Context(), a, theirs, a.root, oras.DefaultCopyGraphOptions); err != nil {
			t.Fatal(err)
		}
		if err := theirs.Tag(t.Context(), a.root, tag); err != nil {
			t.Fatal(err)
		}
		c, _ := newClient(t, Options{})
		p, err := c.Fetch(t.Context(), parse(t, "oci:"+dir+":"+tag), amd64)
		wantChild(t, p, err, testChild(amd64, "1.0.0"))
	}
	c, _ := newClient(t, Options{})
	_, err = c.Resolve(t.Context(), parse(t, "oci:"+dir))
	wantKind(t, err, manifest.KindUsage, "no tag is named", "1, 2")
	if err := theirs.Untag(t.Context(), "2"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), parse(t, "oci:"+dir)); err != nil {
		t.Errorf("the only tag: %v", err)
	}
	_, err = c.Resolve(t.Context(), parse(t, "oci:"+dir+":3"))
	wantKind(t, err, manifest.KindNotFound, "no tag 3", "Tags that are there: 1.")
}

func TestSource(t *testing.T) {
	for _, r := range registries {
		t.Run(r.name, func(t *testing.T) {
			c, _ := newClient(t, Options{})
			repo := parse(t, serve(t, r.new(t))+"/opensnoop")
			tar := testChild(amd64, "1.0.0").Source
			pinned, err := c.PushSource(t.Context(), repo.WithTag("ignored"), tar, "one")
			if err != nil {
				t.Fatal(err)
			}
			if pinned.Tag != "" || pinned.Digest == "" {
				t.Errorf("pushed as %s, wanted a digest alone", pinned)
			}
			got, err := c.FetchSource(t.Context(), pinned)
			if err != nil || string(got) != string(tar) {
				t.Errorf("fetched %q, %v", got, err)
			}
			if tags, err := c.Tags(t.Context(), repo); err == nil && len(tags) > 0 {
				t.Errorf("a waiting source has tags: %q", tags)
			}
			// It is no package.
			_, err = c.Fetch(t.Context(), pinned, amd64)
			wantKind(t, err, manifest.KindUnverified, "not an ebpm package")

			// The package has the same blob.
			a := testArtifact(t, "1.0.0")
			if _, err := c.Push(t.Context(), a, repo.WithTag("1.0.0")); err != nil {
				t.Fatal(err)
			}
			got, err = c.FetchSource(t.Context(), repo.WithTag("1.0.0"))
			if err != nil || string(got) != string(tar) {
				t.Errorf("fetched %q, %v", got, err)
			}

			// Another build of the same source has the same blob, and keeps it.
			other, err := c.PushSource(t.Context(), repo, tar, "other")
			if err != nil || other == pinned {
				t.Fatalf("pushed for another build as %s, %v", other, err)
			}
			if err := c.Delete(t.Context(), pinned); err != nil {
				t.Fatal(err)
			}
			if got, err := c.FetchSource(t.Context(), other); err != nil || string(got) != string(tar) {
				t.Errorf("the other build's source after the delete: %q, %v", got, err)
			}
			if _, err := c.FetchSource(t.Context(), pinned); manifest.KindOf(err) != manifest.KindNotFound {
				t.Errorf("after delete: %v", err)
			}
			wantKind(t, c.Delete(t.Context(), pinned), manifest.KindNotFound)
			// The blob that the package needs is still there.
			p, err := c.Fetch(t.Context(), repo.WithTag("1.0.0"), amd64)
			wantChild(t, p, err, testChild(amd64, "1.0.0"))
		})
	}
	c, _ := newClient(t, Options{})
	if _, err := c.PushSource(t.Context(), parse(t, "localhost:1/x"), nil, "id"); err == nil {
		t.Error("an empty source was pushed")
	}
	if _, err := c.PushSource(t.Context(), parse(t, "localhost:1/x"), []byte("tar"), ""); err == nil {
		t.Error("a source without a build was pushed")
	}
}

func TestDeleteUnsupported(t *testing.T) {
	c, _ := newClient(t, Options{})
	host := serve(t, newDistribution(t, func(config *configuration.Configuration) { delete(config.Storage, "delete") }))
	pinned, err := c.PushSource(t.Context(), parse(t, host+"/x"), []byte("tar"), "id")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), pinned); !errors.Is(err, ErrUnsupported) {
		t.Errorf("error %v, wanted ErrUnsupported", err)
	}
	wantKind(t, c.Delete(t.Context(), parse(t, host+"/x:tag")), manifest.KindUsage, "@DIGEST")
}

func TestWarningsAreSaidOnce(t *testing.T) {
	inner := newReferrersRegistry(t)
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Warning", `299 - "this registry closes in June"`)
		inner.ServeHTTP(w, r)
	}))
	c, said := newClient(t, Options{})
	if _, err := c.Push(t.Context(), testArtifact(t, "1.0.0"), parse(t, host+"/x:1")); err != nil {
		t.Fatal(err)
	}
	if want := "registry " + host + " says: this registry closes in June"; !slices.Equal(said.warned, []string{want}) {
		t.Errorf("warned %q", said.warned)
	}
}

func TestPlainHTTP(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	c := &Client{o: Options{
		PlainHTTP: []string{"10.77.0.1:5000", "10.77.0.1:5443"},
		CAFiles:   map[string]string{"localhost:5443": ca, "10.77.0.1:5443": ca},
	}}
	for registry, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "[::1]:5000": true, "[::1]": true,
		"10.77.0.1:5000": true, "10.77.0.1:5001": false, "10.77.0.1": false, "192.168.1.1:5000": false,
		"localhost.example": false, "sub.localhost:5000": false, "ghcr.io": false, "localhost:5443": false,
		"10.77.0.1:5443": false,
	} {
		if got := c.plainHTTP(registry); got != want {
			t.Errorf("%s: plain HTTP %v, wanted %v", registry, got, want)
		}
	}
	if _, err := New(Options{CAFiles: map[string]string{"x:1": ca}}); manifest.KindOf(err) != manifest.KindUsage {
		t.Errorf("a CA file that does not exist: %v", err)
	}
	if err := os.WriteFile(ca, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := New(Options{CAFiles: map[string]string{"x:1": ca}})
	wantKind(t, err, manifest.KindUsage, "no certificate")
}
