// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/ebpm/ebpm/manifest"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares lines with the file of that name.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		writeFile(t, file, got, 0o644)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", file, diff)
	}
}

func TestRunner(t *testing.T) {
	image, err := Runner(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(image.Index); err != nil {
		t.Error(err)
	}
	index, err := image.Index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if index.MediaType != types.OCIImageIndex {
		t.Errorf("its media type is %s, want %s", index.MediaType, types.OCIImageIndex)
	}
	var got []string
	for i, d := range index.Manifests {
		got = append(got, d.Platform.String())
		if want := digestOf(t, image.Children[i]); d.Digest != want {
			t.Errorf("its manifest %d is %s, want that of child %s, %s", i, d.Digest, image.Children[i].Architecture, want)
		}
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, got); diff != "" {
		t.Errorf("platforms differ (-want +got):\n%s", diff)
	}
	for _, child := range image.Children {
		t.Run(child.Architecture, func(t *testing.T) { testRunner(t, child) })
	}
}

func testRunner(t *testing.T, image *Child) {
	golden(t, "runner.txt", files(t, image))
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		User:       "0:0",
		Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
		Entrypoint: []string{"/usr/local/bin/ebpm"},
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":       "ebpm",
			"org.opencontainers.image.description": "Pulls eBPF packages and runs them on the nodes of a cluster.",
			"org.opencontainers.image.version":     manifest.Version,
			"org.opencontainers.image.source":      "https://github.com/ebpm/ebpm",
			"org.opencontainers.image.created":     "1970-01-01T00:00:00Z",
		},
	}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("config differs (-want +got):\n%s", diff)
	}
	if config.OS != "linux" || config.Architecture != image.Architecture || !config.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("it is for %s/%s of %v, want linux/%s of 1970", config.OS, config.Architecture, config.Created, image.Architecture)
	}
	if got := programMachine(t, image, "usr/local/bin/ebpm"); got != machines[image.Architecture] {
		t.Errorf("its ebpm is for %v, want %v", got, machines[image.Architecture])
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 3 {
		t.Errorf("%d layers, want one of folders and one a program", len(layers))
	}
}

// programMachine returns the machine of a program in an image.
func programMachine(t *testing.T, image v1.Image, name string) elf.Machine {
	t.Helper()
	r := mutate.Extract(image)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatalf("find %s: %v", name, err)
		}
		if h.Name != name {
			continue
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		d, err := readDynamic(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return d.machine
	}
}

func digestOf(t *testing.T, image interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEpoch(t *testing.T) {
	o := options(t)
	digests := map[v1.Hash]bool{}
	for _, epoch := range []time.Time{{}, time.Unix(0, 0), time.Unix(1700000000, 0), time.Unix(1700000000, 0).In(time.FixedZone("x", 3600))} {
		o.Epoch = epoch
		image, err := Runner(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		digests[digestOf(t, image.Index)] = true
	}
	if len(digests) != 2 {
		t.Errorf("two times, each given twice, gave %d digests", len(digests))
	}
}

func TestRunnerErrors(t *testing.T) {
	arm64 := func(d dynamic) string {
		d.machine = elf.EM_AARCH64
		return string(elfFile(d))
	}
	for _, tt := range []struct {
		name, program, err string
	}{
		{name: "a script", program: "#!/bin/sh\n", err: "not an ELF file"},
		{name: "dynamic", program: arm64(dynamic{interpreter: "/lib/ld.so"}), err: "it is not static, it needs /lib/ld.so"},
		{name: "libraries", program: arm64(dynamic{libraries: []string{"libc.so.6"}}), err: "it needs libc.so.6"},
		{name: "another machine's", program: string(elfFile(dynamic{machine: elf.EM_X86_64})), err: "it is for EM_X86_64, not for EM_AARCH64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t)
			writeFile(t, filepath.Join(o.Binaries, "arm64", "ebpm"), tt.program, 0o755)
			_, err := Runner(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), "build image ebpm for linux/arm64: ") || !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q of linux/arm64", err, tt.err)
			}
			if got := manifest.KindOf(err); got != manifest.KindPrecondition {
				t.Errorf("kind %d, want %d", got, manifest.KindPrecondition)
			}
			if got := manifest.AdviceOf(err); !strings.Contains(got, "GOARCH=arm64 ") {
				t.Errorf("advice %q, want that of a build for arm64", got)
			}
		})
	}
}

func TestCheckStaticArchitecture(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ecc")
	writeFile(t, file, string(elfFile(dynamic{})), 0o755)
	if _, err := checkStatic(file, "vax"); err == nil || !strings.Contains(err.Error(), "no image can be built for vax") {
		t.Errorf("error %v, want that of the architecture", err)
	}
	if size, err := checkStatic(file, runtime.GOARCH); err != nil || size != int64(len(elfFile(dynamic{}))) {
		t.Errorf("size %d, error %v, want %d", size, err, len(elfFile(dynamic{})))
	}
}

func TestWriteLayouts(t *testing.T) {
	newDistro(t, "")
	o := options(t)
	dir := filepath.Join(t.TempDir(), "dist", "images")
	for range 2 { // the second time replaces the first
		images, err := Build(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		refs, err := WriteLayouts(t.Context(), dir, images)
		if err != nil {
			t.Fatal(err)
		}
		for i, image := range images {
			want := digestOf(t, image.Index)
			if wantRef := "oci:" + filepath.Join(dir, image.Name) + ":" + manifest.Version + "@" + want.String(); refs[i].String() != wantRef {
				t.Errorf("reference %s, want %s", refs[i], wantRef)
			}
			index, err := layout.ImageIndexFromPath(filepath.Join(dir, image.Name))
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(index); err != nil {
				t.Error(err)
			}
			m, err := index.IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Manifests) != 1 || m.Manifests[0].Digest != want || m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != manifest.Version {
				t.Errorf("the layout holds %+v, want one index %s, tagged %s", m.Manifests, want, manifest.Version)
			}
		}
		assertNoTemp(t, dir)
		writeProgram(t, o, runtime.GOARCH, "ecc", "new")
		writeProgram(t, o, "arm64", "ebpm", "new")
	}
}

// A layout that cannot be finished leaves the one of before.
func TestWriteLayoutsFails(t *testing.T) {
	newDistro(t, "")
	o := options(t)
	dir := t.TempDir()
	images, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WriteLayouts(t.Context(), dir, images); err != nil {
		t.Fatal(err)
	}
	builder := images[1:]
	if err := os.RemoveAll(o.Cache); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteLayouts(t.Context(), dir, builder); err == nil || !strings.Contains(err.Error(), "write layout of image ebpm-builder: ") {
		t.Errorf("without its layer, the error is %v", err)
	}
	assertNoTemp(t, dir)
	index, err := layout.ImageIndexFromPath(filepath.Join(dir, BuilderName))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("the layout of before: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := WriteLayouts(ctx, dir, builder); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted, the error is %v, want %v", err, context.Canceled)
	}
}

func TestPush(t *testing.T) {
	newDistro(t, "")
	o := options(t)
	var uploads atomic.Int64
	blobs := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/blobs/uploads/") {
			uploads.Add(1)
		}
		blobs.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	t.Setenv("DOCKER_CONFIG", t.TempDir())

	push := func() []*Image {
		t.Helper()
		images, err := Build(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		refs, err := Push(t.Context(), host+"/team", true, images)
		if err != nil {
			t.Fatal(err)
		}
		for i, image := range images {
			want := digestOf(t, image.Index)
			if wantRef := host + "/team/" + image.Name + "@" + want.String(); refs[i].String() != wantRef {
				t.Errorf("reference %s, want %s", refs[i], wantRef)
			}
			tag, err := name.NewTag(host+"/team/"+image.Name+":"+manifest.Version, name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			got, err := remote.Index(tag)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(got); err != nil {
				t.Error(err)
			}
			if d := digestOf(t, got); d != want {
				t.Errorf("the tag is %s, want %s", d, want)
			}
			// As a node does, which takes the child of its platform.
			for _, child := range image.Children {
				pulled, err := remote.Image(tag, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: child.Architecture}))
				if err != nil {
					t.Fatal(err)
				}
				if got, want := digestOf(t, pulled), digestOf(t, child); got != want {
					t.Errorf("for %s the tag is %s, want %s", child.Architecture, got, want)
				}
			}
		}
		return images
	}
	push()
	before := uploads.Load()
	writeProgram(t, o, "arm64", "ecli", "new")
	images := push()
	if got := uploads.Load() - before; got != 2 {
		t.Errorf("after a change of one ecli %d blobs were sent, want its layer and the config", got)
	}

	if _, err := Push(t.Context(), host, false, images); !errors.Is(err, errPlainHTTP) {
		t.Errorf("push without plain HTTP: error %v, want %v", err, errPlainHTTP)
	}
	if _, err := Push(t.Context(), "team", true, images); manifest.KindOf(err) != manifest.KindUsage {
		t.Errorf("push to no registry: error %v, want a usage error", err)
	}
	server.Close()
	if _, err := Push(t.Context(), host, true, images); err == nil || !strings.Contains(err.Error(), "push image "+host+"/ebpm:") {
		t.Errorf("push to a registry that is down: error %v", err)
	}
}
