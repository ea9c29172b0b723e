// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// asUpstream is a manifest in the form that was seen of eunomia-bpf's ecli-rs
// 0.2.9 (2026-11-23): keys sorted, no media type of its own, no annotations of
// layers.
const asUpstream = `{"annotations":{"org.opencontainers.image.description":"a<b>","org.opencontainers.image.title":"app.wasm"},` +
	`"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","mediaType":"application/vnd.wasm.config.v1+json","size":2},` +
	`"layers":[{"digest":"%s","mediaType":"application/vnd.wasm.content.layer.v1+wasm","size":6}],"schemaVersion":2}`

func TestModule(t *testing.T) {
	module := []byte("module")
	annotations := map[string]string{ocispec.AnnotationTitle: "app.wasm", ocispec.AnnotationDescription: "a<b>"}
	for _, tt := range registries {
		t.Run(tt.name, func(t *testing.T) {
			host := serve(t, tt.new(t))
			c, _ := newClient(t, Options{})
			ref := parse(t, host+"/team/module")
			for range 2 { // what is there is no error
				pinned, err := c.PushModule(t.Context(), module, annotations, ref)
				if err != nil {
					t.Fatal(err)
				}
				if want := fmt.Sprintf(asUpstream, digest.FromBytes(module)); pinned.Digest != digest.FromString(want) || pinned.Tag != "latest" {
					t.Errorf("pushed %s, wanted the digest of %s", pinned, want)
				}
			}
			for _, ref := range []manifest.Reference{ref, ref.WithDigest(digest.FromString(fmt.Sprintf(asUpstream, digest.FromBytes(module))))} {
				m, err := c.PullModule(t.Context(), ref)
				if err != nil || !bytes.Equal(m.Data, module) || m.Reference.Digest == "" {
					t.Errorf("pulled %+v, %v", m, err)
				}
			}
			_, err := c.PushModule(t.Context(), []byte("other"), nil, ref.WithDigest(digest.FromString("x")))
			wantKind(t, err, manifest.KindUsage, "Leave the digest out")
			_, err = c.PullModule(t.Context(), ref.WithTag("none"))
			wantKind(t, err, manifest.KindNotFound, "does not have it")
			// The other way about: one is no package, and a package is no module.
			_, err = c.Fetch(t.Context(), ref, amd64)
			wantKind(t, err, manifest.KindUnverified, "not an ebpm package")
			if _, err := c.Push(t.Context(), testArtifact(t, "1.0.0", manifest.HostPlatform()), ref.WithTag("package")); err != nil {
				t.Fatal(err)
			}
			_, err = c.PullModule(t.Context(), ref.WithTag("package"))
			wantKind(t, err, manifest.KindUnverified, "incompatible layer media type: "+manifest.PackageMediaType)
		})
	}
	c, _ := newClient(t, Options{})
	_, err := c.PushModule(t.Context(), module, nil, parse(t, "oci:dir:1"))
	wantKind(t, err, manifest.KindUsage, "registries only")
	_, err = c.PushModule(t.Context(), make([]byte, MaxModuleSize+1), nil, parse(t, "localhost:1/x"))
	wantKind(t, err, manifest.KindFailure, "too large")
}

// TestAccount: an account goes before the Docker config, and to its registry only.
func TestAccount(t *testing.T) {
	host := serve(t, newPrivateRegistry(t))
	dockerConfig(t, account(host, "guess"))
	ref := parse(t, host+"/team/module:1")
	c, _ := newClient(t, Options{Account: &Account{Registry: host, Username: "alice", Password: "secret"}})
	if _, err := c.PushModule(t.Context(), []byte("module"), nil, ref); err != nil {
		t.Fatal(err)
	}
	c, _ = newClient(t, Options{Account: &Account{Registry: "registry.example", Username: "alice", Password: "secret"}})
	_, err := c.PullModule(t.Context(), ref)
	wantKind(t, err, manifest.KindFailure, "denies access")
}

// images serves manifests by tag or digest, and blobs.
type images map[string][]byte

func (i images) add(data any) ocispec.Descriptor {
	b, ok := data.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(data); err != nil {
			panic(err)
		}
	}
	d := digest.FromBytes(b)
	i[d.String()] = b
	return ocispec.Descriptor{Digest: d, Size: int64(len(b))}
}

func (i images) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, ok := i[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
	if !ok {
		http.NotFound(w, r)
		return
	}
	var head struct{ MediaType string }
	_ = json.Unmarshal(data, &head)
	if head.MediaType == "" {
		head.MediaType = ocispec.MediaTypeImageManifest
	}
	w.Header().Set("Content-Type", head.MediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(data).String())
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
}

func TestPullModuleOfIndex(t *testing.T) {
	i := images{}
	layer := func(data, mediaType string) ocispec.Descriptor {
		d := i.add([]byte(data))
		d.MediaType = mediaType
		return d
	}
	wasm := layer("module", ModuleMediaType)
	image := func(mediaType string, layers ...ocispec.Descriptor) map[string]any {
		m := map[string]any{"schemaVersion": 2, "config": layer("{}", moduleConfigMediaType), "layers": layers}
		if mediaType != "" {
			m["mediaType"] = mediaType
		}
		return m
	}
	host, other := manifest.HostPlatform(), manifest.Platform{OS: "linux", Architecture: "s390x"}
	child := func(data any, mediaType string, p manifest.Platform) ocispec.Descriptor {
		d := i.add(data)
		d.MediaType, d.Platform = mediaType, &ocispec.Platform{OS: p.OS, Architecture: p.Architecture}
		return d
	}
	index := func(mediaType string, children ...ocispec.Descriptor) map[string]any {
		m := map[string]any{"schemaVersion": 2, "manifests": children}
		if mediaType != "" {
			m["mediaType"] = mediaType
		}
		return m
	}
	const oci, docker = ocispec.MediaTypeImageManifest, dockerManifestMediaType
	mine := child(image("", wasm), oci, host)
	huge := mine
	huge.Size = manifest.MaxManifestSize + 1
	many := make([]ocispec.Descriptor, maxLayers+1)
	for n := range many {
		many[n] = wasm
	}
	big := wasm
	big.Size = MaxModuleSize + 1
	lies := wasm
	lies.Size++
	for _, tt := range []struct {
		name string
		data any
		kind manifest.Kind // 0: it works
		want string
	}{
		{"image", image("", wasm), 0, ""},
		{"image that says so", image(oci, wasm), 0, ""},
		{"image of Docker", image(docker, wasm), 0, ""},
		{"two layers, the first counts", image("", wasm, layer("second", ModuleMediaType)), 0, ""},
		{"index of OCI", index(ocispec.MediaTypeImageIndex, child(image("", layer("x", "x/y")), oci, other), mine), 0, ""},
		{"index without a media type", index("", mine), 0, ""},
		{"index of Docker", index(dockerListMediaType, child(image(docker, wasm), docker, host)), 0, ""},
		{"no layer of ours", image("", layer("x", "application/wasm")), manifest.KindUnverified, "incompatible layer media type: application/wasm"},
		{"another layer behind", image("", wasm, layer("x", "application/wasm")), manifest.KindUnverified, "incompatible layer"},
		{"no layers", map[string]any{"schemaVersion": 2}, manifest.KindUnverified, "not an image"},
		{"empty layers", map[string]any{"layers": []any{}}, manifest.KindUnverified, "0 layers"},
		{"many layers", image("", many...), manifest.KindUnverified, "33 layers"},
		{"large layer", image("", big), manifest.KindUnverified, "at most"},
		{"layer of another size", image("", lies), manifest.KindUnverified, ""},
		{"both", map[string]any{"layers": []any{wasm}, "manifests": []any{mine}}, manifest.KindUnverified, "layers and manifests"},
		{"neither", map[string]any{"mediaType": "x/y"}, manifest.KindUnverified, `not an image, but a document of media type "x/y"`},
		{"empty index", index(ocispec.MediaTypeImageIndex), manifest.KindUnverified, "names 0 manifests"},
		{"another platform", index(ocispec.MediaTypeImageIndex, child(image("", wasm), oci, other)), manifest.KindNotFound, "only for linux/s390x"},
		{"no platform", index(ocispec.MediaTypeImageIndex, func() ocispec.Descriptor { d := mine; d.Platform = nil; return d }()), manifest.KindUnverified, "names no platform"},
		{"index in an index", index("", child(index("", mine), oci, host)), manifest.KindUnverified, "index inside of an image index"},
		{"a blob for a manifest", index("", child(image("", wasm), "x/y", host)), manifest.KindUnverified, "not the manifest of an image"},
		{"large manifest", index("", huge), manifest.KindUnverified, "not the manifest of an image"},
		{"no JSON", []byte("<html>"), manifest.KindUnverified, "decode manifest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := i.add(tt.data)
			i["1"] = i[d.Digest.String()]
			c, _ := newClient(t, Options{})
			m, err := c.PullModule(t.Context(), parse(t, serve(t, i)+"/x:1"))
			if tt.kind != 0 {
				wantKind(t, err, tt.kind, tt.want)
			} else if err != nil || string(m.Data) != "module" || m.Reference.Digest != d.Digest {
				t.Errorf("got %+v, %v", m, err)
			}
		})
	}
}

func FuzzDecodeImage(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(asUpstream, digest.FromString("x"))))
	f.Add([]byte(`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"layers":[],"manifests":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		layers, children, err := decodeImage(data)
		if err == nil && (len(layers) == 0) == (len(children) == 0) {
			t.Fatalf("%d layers, %d manifests", len(layers), len(children))
		}
		if d, err := imageFor(children, amd64); err == nil && (d.Size > manifest.MaxManifestSize || d.MediaType == "") {
			t.Fatalf("%+v", d)
		}
	})
}
