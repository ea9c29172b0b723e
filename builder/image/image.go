// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/ebpm/ebpm/manifest"
)

// The names of the images, which are the last components of their references.
const (
	RunnerName  = "ebpm"
	BuilderName = "ebpm-builder"
)

// NonRoot is the user and group ID of nonroot, in both images. It is the user
// of the image ebpm-builder; the image ebpm's is root, as ecli needs it.
const NonRoot = 65532

// architectures are those of the image ebpm, by GOARCH and sorted: of every node
// that a package can be built for.
var architectures = []string{"amd64", "arm64"}

// Options say what the images are made of.
type Options struct {
	// Binaries is the folder of the static Linux programs, which are in a folder
	// an architecture: amd64/ebpm and arm64/ebpm, likewise ecli, and ecc for this
	// machine's architecture.
	Binaries string
	// Epoch is the time of every file and of the images; the zero value is the
	// Unix epoch.
	Epoch time.Time
	// Cache is the folder in which the Debian layer is kept; "" is ebpm/images
	// in [os.UserCacheDir].
	Cache string
	// Log is told, a line each, what takes long; nil is nobody.
	Log io.Writer
}

func (o Options) log(format string, args ...any) {
	if o.Log != nil {
		fmt.Fprintf(o.Log, format+"\n", args...)
	}
}

func (o Options) withDefaults() (Options, error) {
	if o.Epoch.IsZero() {
		o.Epoch = time.Unix(0, 0)
	}
	o.Epoch = o.Epoch.UTC()
	if o.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("find the cache of images: %w", err), "Set HOME or XDG_CACHE_HOME.")
		}
		o.Cache = filepath.Join(dir, "ebpm", "images")
	}
	return o, nil
}

// Image is one of the images: an index, also of one architecture, so that a node
// of another one refuses it by name instead of failing to execute it.
type Image struct {
	Name  string // RunnerName or BuilderName
	Index v1.ImageIndex
	// Children are the images of Index, in its order.
	Children []*Child
}

// Child is an image for Linux on one architecture. Its layers may be files in
// [Options.Cache].
type Child struct {
	v1.Image
	Architecture string // GOARCH
	// Uncompressed is the size of the layers' tars, in bytes.
	Uncompressed int64
	// Compressed is the size of the layers as they are stored, in bytes.
	Compressed int64
}

// Build makes both images: ebpm, then ebpm-builder. It needs apt-get and
// dpkg-deb; as root it may update apt's lists. Errors about what this machine
// lacks are of [manifest.KindPrecondition].
func Build(ctx context.Context, o Options) ([]*Image, error) {
	runner, err := Runner(ctx, o)
	if err != nil {
		return nil, err
	}
	builder, err := Builder(ctx, o)
	if err != nil {
		return nil, err
	}
	return []*Image{runner, builder}, nil
}

// Runner makes the image ebpm, for linux/amd64 and linux/arm64.
func Runner(ctx context.Context, o Options) (*Image, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	t := tree{}
	t.identity()
	base, err := memoryLayer(ctx, t, o.Epoch)
	if err != nil {
		return nil, fmt.Errorf("build image %s: %w", RunnerName, err)
	}
	return assemble(ctx, o, architectures, spec{
		name:        RunnerName,
		description: "Pulls eBPF packages and runs them on the nodes of a cluster.",
		base:        base,
		origin:      "users and folders",
		programs:    []string{"ecli", "ebpm"},
		entrypoint:  "/usr/local/bin/ebpm",
		user:        "0:0",
	})
}

// Builder makes the image ebpm-builder, for this machine's architecture: apt has
// no lists of another's packages. The first time, and whenever apt offers newer
// packages, it downloads about 110 MB of them.
func Builder(ctx context.Context, o Options) (*Image, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	base, err := debianLayer(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("build image %s: %w", BuilderName, err)
	}
	return assemble(ctx, o, []string{runtime.GOARCH}, spec{
		name:        BuilderName,
		description: "Compiles eBPF sources to packages: ecc, with clang of Debian.",
		base:        base,
		origin:      "Debian packages",
		programs:    []string{"ecc"},
		entrypoint:  "/usr/local/bin/ecc",
		user:        fmt.Sprintf("%[1]d:%[1]d", NonRoot),
	})
}

// spec is what differs between the images.
type spec struct {
	name, description string
	base              *layer
	origin            string   // what base is made of
	programs          []string // a layer each, so that a new one is all that is pushed
	entrypoint        string
	user              string
}

// assemble makes the index of an image with a child for each of archs.
func assemble(ctx context.Context, o Options, archs []string, s spec) (*Image, error) {
	image := &Image{Name: s.name}
	adds := make([]mutate.IndexAddendum, len(archs))
	for i, arch := range archs {
		child, err := assembleChild(ctx, o, arch, s)
		if err != nil {
			return nil, fmt.Errorf("build image %s for linux/%s: %w", s.name, arch, err)
		}
		image.Children = append(image.Children, child)
		adds[i] = mutate.IndexAddendum{
			Add:        child.Image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		}
	}
	image.Index = mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), adds...)
	return image, nil
}

func assembleChild(ctx context.Context, o Options, arch string, s spec) (*Child, error) {
	layers := []*layer{s.base}
	origins := []string{s.origin}
	for _, p := range s.programs {
		l, err := programLayer(ctx, o, arch, p)
		if err != nil {
			return nil, err
		}
		layers, origins = append(layers, l), append(origins, p)
	}

	child := &Child{Architecture: arch}
	adds := make([]mutate.Addendum, len(layers))
	for i, l := range layers {
		adds[i] = mutate.Addendum{
			Layer:     l,
			MediaType: types.OCILayer,
			History:   v1.History{Created: v1.Time{Time: o.Epoch}, CreatedBy: "ebpm make images", Comment: origins[i]},
		}
		child.Uncompressed += l.blob.Uncompressed
		child.Compressed += l.blob.Size
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Created:      v1.Time{Time: o.Epoch},
		OS:           "linux",
		Architecture: arch,
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:       s.user,
			Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			Entrypoint: []string{s.entrypoint},
			WorkingDir: "/",
			Labels: map[string]string{
				"org.opencontainers.image.title":       s.name,
				"org.opencontainers.image.description": s.description,
				"org.opencontainers.image.version":     manifest.Version,
				"org.opencontainers.image.source":      "https://github.com/ebpm/ebpm",
				"org.opencontainers.image.created":     o.Epoch.Format(time.RFC3339),
			},
		},
	})
	if err == nil {
		child.Image, err = mutate.Append(img, adds...)
	}
	return child, err
}

// programLayer makes a layer of one program of [Options.Binaries].
func programLayer(ctx context.Context, o Options, arch, name string) (*layer, error) {
	file := filepath.Join(o.Binaries, arch, name)
	size, err := checkStatic(file, arch)
	if err != nil {
		return nil, manifest.WithKind(manifest.KindPrecondition, err,
			fmt.Sprintf("Build it with `CGO_ENABLED=0 GOOS=linux GOARCH=%s go build -trimpath -o %s ./cmd/%s`.", arch, file, name))
	}
	t := tree{"usr/local/bin/" + name: {typ: tar.TypeReg, mode: 0o755, file: file, size: size}}
	return memoryLayer(ctx, t, o.Epoch)
}

// checkStatic returns the size of a program, once it has seen that the image
// can run it.
func checkStatic(file, arch string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	d, err := readDynamic(f)
	want, known := machines[arch]
	switch {
	case !known:
		return 0, fmt.Errorf("take program %s: no image can be built for %s", file, arch)
	case err != nil:
		return 0, fmt.Errorf("read program %s: %w", file, err)
	case d.machine != want:
		return 0, fmt.Errorf("take program %s: it is for %v, not for %v", file, d.machine, want)
	case d.interpreter != "" || len(d.libraries) > 0:
		needs := slices.DeleteFunc(append([]string{d.interpreter}, d.libraries...), func(s string) bool { return s == "" })
		return 0, fmt.Errorf("take program %s: it is not static, it needs %s", file, strings.Join(needs, ", "))
	}
	return info.Size(), nil
}
