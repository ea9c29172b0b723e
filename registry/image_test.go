// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

// imageFor makes an image of a media type whose config names a platform.
func randomImage(t *testing.T, mediaType, config types.MediaType, system, architecture string) v1.Image {
	t.Helper()
	image, err := random.Image(16, 1)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = system, architecture
	if image, err = mutate.ConfigFile(image, file); err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(mutate.MediaType(image, mediaType), config)
}

func indexFor(t *testing.T, mediaType types.MediaType, platforms ...v1.Platform) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, mediaType)
	for _, p := range platforms {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        randomImage(t, types.OCIManifestSchema1, types.OCIConfigJSON, p.OS, p.Architecture),
			Descriptor: v1.Descriptor{Platform: &p},
		})
	}
	return index
}

func TestImagePlatforms(t *testing.T) {
	host := serve(t, newDistribution(t))
	client, _ := newClient(t, Options{})
	for _, tt := range []struct {
		name  string
		image any
		want  []manifest.Platform
	}{
		{
			"index", indexFor(t, types.OCIImageIndex, v1.Platform{OS: "linux", Architecture: "arm64"}, v1.Platform{OS: "linux", Architecture: "amd64"}),
			[]manifest.Platform{amd64, arm64},
		},
		{
			"of-docker", indexFor(t, types.DockerManifestList, v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, v1.Platform{OS: "windows", Architecture: "amd64"}, v1.Platform{OS: "unknown", Architecture: "unknown"}),
			[]manifest.Platform{arm64},
		},
		{"not-linux", indexFor(t, types.OCIImageIndex, v1.Platform{OS: "windows", Architecture: "amd64"}), []manifest.Platform{}},
		{"one", randomImage(t, types.OCIManifestSchema1, types.OCIConfigJSON, "linux", "arm64"), []manifest.Platform{arm64}},
		{"one-of-docker", randomImage(t, types.DockerManifestSchema2, types.DockerConfigJSON, "linux", "amd64"), []manifest.Platform{amd64}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ref := parse(t, host+"/"+tt.name+":1")
			tag, err := name.NewTag(ref.String())
			if err != nil {
				t.Fatal(err)
			}
			var hash v1.Hash
			switch image := tt.image.(type) {
			case v1.ImageIndex:
				if err = remote.WriteIndex(tag, image); err == nil {
					hash, err = image.Digest()
				}
			case v1.Image:
				if err = remote.Write(tag, image); err == nil {
					hash, err = image.Digest()
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			d := digest.Digest(hash.String())
			for _, ref := range []manifest.Reference{ref, ref.WithDigest(d).Pinned(), ref.WithTag("moved").WithDigest(d)} {
				got, err := client.ImagePlatforms(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("platforms of %s differ (-want +got):\n%s", ref, diff)
				}
			}
		})
	}
}

func TestImagePlatformsErrors(t *testing.T) {
	inner := newDistribution(t)
	host := serve(t, faulty(inner, func(w http.ResponseWriter, r *http.Request) bool {
		answer := func(text string) bool {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", digest.FromString(strings.TrimSuffix(text, "!")).String())
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			_, _ = io.WriteString(w, text)
			return true
		}
		config := digest.FromString("{}").String()
		switch r.URL.Path {
		case "/v2/text/manifests/1":
			return answer("no JSON")
		case "/v2/other/manifests/1":
			return answer("{}!")
		case "/v2/large/manifests/1":
			return answer(strings.Repeat(" ", manifest.MaxManifestSize+1))
		case "/v2/config/manifests/1":
			return answer(`{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"` + config + `"}}`)
		case "/v2/config/blobs/" + config:
			_, _ = io.WriteString(w, "[]")
			return true
		case "/v2/hostile/manifests/1":
			return answer(`{"config":{"mediaType":"x","size":-1,"digest":"` + config + `"}}`)
		case "/v2/down/manifests/1":
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}))
	client, recorded := newClient(t, Options{})
	for ref, want := range map[string]struct {
		kind manifest.Kind
		text string
	}{
		host + "/none:1":    {manifest.KindNotFound, "read image " + host + "/none:1"},
		host + "/text:1":    {manifest.KindUnverified, "decode manifest"},
		host + "/other:1":   {manifest.KindUnverified, "digest"},
		host + "/large:1":   {manifest.KindUnverified, "too large"},
		host + "/config:1":  {manifest.KindUnverified, "other bytes"},
		host + "/hostile:1": {manifest.KindUnverified, "-1 bytes"},
		host + "/down:1":    {manifest.KindFailure, "503"},
		"oci:folder:1":      {manifest.KindUsage, "not in a registry"},
	} {
		t.Run(ref, func(t *testing.T) {
			_, err := client.ImagePlatforms(t.Context(), parse(t, ref))
			wantKind(t, err, want.kind, want.text)
		})
	}
	if len(recorded.slept) > 0 {
		t.Errorf("it tried again %d times, want one attempt", len(recorded.slept))
	}
}
