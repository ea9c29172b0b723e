// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPackDigest pins the bytes of an artifact: whoever changes them changes the
// digest of every package that is built again from the same source.
func TestPackDigest(t *testing.T) {
	const want = "sha256:f2cb0dd323c5e922f233a02394ffddcca514b71e3a106f3d5435988691c047ea"
	if got := testArtifact(t, "1.0.0").Digest.String(); got != want {
		t.Errorf("digest %s, wanted %s", got, want)
	}
}

func TestPackLayout(t *testing.T) {
	children := []Child{testChild(arm64, "1.0.0"), testChild(amd64, "1.0.0")}
	children[1].Readme = nil
	children[0].BTF = []byte("types of kernels")
	a, err := Pack(children, PackOptions{
		Created: time.Unix(1700000000, 0), Revision: "abc", SourceURL: "https://git.example/opensnoop",
	})
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(a.blobs[a.Digest], &index); err != nil {
		t.Fatal(err)
	}
	annotations := map[string]string{
		"org.opencontainers.image.title":       "opensnoop",
		"org.opencontainers.image.version":     "1.0.0",
		"org.opencontainers.image.description": "Trace open() <here> & there",
		"org.opencontainers.image.licenses":    "GPL-2.0 OR BSD-2-Clause",
		"org.opencontainers.image.created":     "2023-11-14T22:13:20Z",
		"org.opencontainers.image.revision":    "abc",
		"org.opencontainers.image.source":      "https://git.example/opensnoop",
	}
	if index.MediaType != ocispec.MediaTypeImageIndex || index.ArtifactType != "application/vnd.ebpm.package.v1" || index.SchemaVersion != 2 {
		t.Errorf("index is %s, %s, version %d", index.MediaType, index.ArtifactType, index.SchemaVersion)
	}
	if diff := cmp.Diff(annotations, index.Annotations); diff != "" {
		t.Error(diff)
	}
	if len(index.Manifests) != 2 {
		t.Fatalf("%d manifests", len(index.Manifests))
	}
	type layer struct{ mediaType, title string }
	for i, want := range []struct {
		arch   string
		layers []layer
	}{
		{"amd64", []layer{
			{"application/vnd.ebpm.bpf.v1+json", "package.json"},
			{"application/vnd.ebpm.source.v1.tar", "source.tar"},
		}},
		{"arm64", []layer{
			{"application/vnd.ebpm.bpf.v1+json", "package.json"},
			{"application/vnd.ebpm.source.v1.tar", "source.tar"},
			{"text/markdown", "README.md"},
			{"application/vnd.ebpm.btf.v1.tar+gzip", "btf.tar.gz"},
		}},
	} {
		d := index.Manifests[i]
		if d.Platform == nil || d.Platform.OS != "linux" || d.Platform.Architecture != want.arch {
			t.Errorf("child %d is for %+v, wanted %s", i, d.Platform, want.arch)
		}
		if d.ArtifactType != "application/vnd.ebpm.package.v1" {
			t.Errorf("child %d has artifact type %q in the index", i, d.ArtifactType)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(a.blobs[d.Digest], &m); err != nil {
			t.Fatal(err)
		}
		if m.ArtifactType != "application/vnd.ebpm.package.v1" || m.Config.MediaType != "application/vnd.ebpm.package.config.v1+json" {
			t.Errorf("child %d is %q with config %q", i, m.ArtifactType, m.Config.MediaType)
		}
		if diff := cmp.Diff(annotations, m.Annotations); diff != "" {
			t.Error(diff)
		}
		var got []layer
		for _, l := range m.Layers {
			got = append(got, layer{l.MediaType, l.Annotations[ocispec.AnnotationTitle]})
		}
		if diff := cmp.Diff(want.layers, got, cmp.AllowUnexported(layer{})); diff != "" {
			t.Error(diff)
		}
	}
	if err := walkArtifact(t.Context(), a, a.root); err != nil {
		t.Errorf("the artifact does not hold all that it names: %v", err)
	}
}

func walkArtifact(ctx context.Context, a *Artifact, d ocispec.Descriptor) error {
	data, err := fetchAll(ctx, a, d)
	if err != nil {
		return err
	}
	successors, err := successorsOf(d, data)
	if err != nil {
		return err
	}
	for _, s := range successors {
		if err := walkArtifact(ctx, a, s); err != nil {
			return err
		}
	}
	return nil
}

func TestPackIsPure(t *testing.T) {
	one := testArtifact(t, "1.0.0", amd64, arm64)
	two := testArtifact(t, "1.0.0", arm64, amd64)
	if one.Digest != two.Digest {
		t.Errorf("the order of children changes the digest: %s, %s", one.Digest, two.Digest)
	}
	if other := testArtifact(t, "1.0.1"); other.Digest == one.Digest {
		t.Error("another version has the same digest")
	}
}

func TestPackRefuses(t *testing.T) {
	change := func(f func(*Child)) []Child {
		c := testChild(amd64, "1.0.0")
		f(&c)
		return []Child{c}
	}
	for _, tt := range []struct {
		name     string
		children []Child
		want     string
	}{
		{"nothing", nil, "no platform"},
		{"too many", make([]Child, maxChildren+1), "at most 64"},
		{"no architecture", change(func(c *Child) { c.Platform.Architecture = "" }), "not complete"},
		{"no config", change(func(c *Child) { c.Config = nil }), "no config"},
		{"another platform", change(func(c *Child) { c.Config.Platform = arm64 }), "its config says linux/arm64"},
		{"no package", change(func(c *Child) { c.Package = nil }), "no package.json"},
		{"no source", change(func(c *Child) { c.Source = nil }), "no source.tar"},
		{"large readme", change(func(c *Child) { c.Readme = make([]byte, manifest.MaxReadmeSize+1) }), "README.md has 1048577 bytes"},
		{"large config", change(func(c *Child) { c.Config.Description = strings.Repeat("x", manifest.MaxManifestSize) }), "its config has"},
		{"twice", []Child{testChild(amd64, "1.0.0"), testChild(amd64, "1.0.0")}, "there twice"},
		{"two versions", []Child{testChild(amd64, "1.0.0"), testChild(arm64, "1.0.1")}, "but that for linux/amd64 is opensnoop 1.0.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Pack(tt.children, PackOptions{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, wanted %q", err, tt.want)
			}
		})
	}
}
