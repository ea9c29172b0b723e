// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// Child is a package for one platform: what a build makes and a pull gives.
type Child struct {
	Platform manifest.Platform
	Config   *manifest.Config
	// Package is package.json as it is stored, at most
	// [manifest.MaxPackageSize] bytes.
	Package []byte
	// Source is source.tar, at most [manifest.MaxSourceSize] bytes.
	Source []byte
	// Readme is README.md, nil where there is none, at most
	// [manifest.MaxReadmeSize] bytes.
	Readme []byte
	// BTF is btf.tar.gz, see [manifest.PackBTF]; nil where there is none, at most
	// [manifest.MaxBTFArchiveSize] bytes.
	BTF []byte
}

// PackOptions are the facts about a package that its children do not hold.
type PackOptions struct {
	// Created is SOURCE_DATE_EPOCH; zero is the epoch, so that the digest does
	// not depend on the clock.
	Created time.Time
	// Revision and SourceURL say where the source is kept; both may be empty.
	Revision, SourceURL string
}

// Artifact is a package or a source, ready to be pushed: a root manifest and
// everything that it names, in memory.
type Artifact struct {
	// Digest is that of the root manifest.
	Digest digest.Digest

	root  ocispec.Descriptor
	blobs map[digest.Digest][]byte
}

var _ content.ReadOnlyStorage = (*Artifact)(nil)

// Fetch returns the content of a descriptor of the artifact.
func (a *Artifact) Fetch(_ context.Context, target ocispec.Descriptor) (io.ReadCloser, error) {
	b, ok := a.blobs[target.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", target.Digest, errdef.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// Exists reports whether the artifact holds a descriptor's content.
func (a *Artifact) Exists(_ context.Context, target ocispec.Descriptor) (bool, error) {
	_, ok := a.blobs[target.Digest]
	return ok, nil
}

// Size is the size of the artifact in bytes, all platforms together.
func (a *Artifact) Size() int64 {
	var n int64
	for _, b := range a.blobs {
		n += int64(len(b))
	}
	return n
}

func newArtifact() *Artifact { return &Artifact{blobs: map[digest.Digest][]byte{}} }

func (a *Artifact) add(mediaType string, data []byte) ocispec.Descriptor {
	d := content.NewDescriptorFromBytes(mediaType, data)
	a.blobs[d.Digest] = data
	return d
}

func (a *Artifact) addJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	if len(data) > manifest.MaxManifestSize {
		return ocispec.Descriptor{}, fmt.Errorf("encode %s: %d bytes, at most %d are allowed", mediaType, len(data), manifest.MaxManifestSize)
	}
	return a.add(mediaType, data), nil
}

func (a *Artifact) setRoot(d ocispec.Descriptor) {
	a.root, a.Digest = d, d.Digest
}

// Pack makes the artifact of a package: an image index, also for one platform,
// with one artifact manifest for each child. It is pure: the same input gives
// the same digest.
func Pack(children []Child, o PackOptions) (*Artifact, error) {
	if len(children) == 0 {
		return nil, errors.New("pack package: no platform")
	}
	if len(children) > maxChildren {
		return nil, fmt.Errorf("pack package: %d platforms, at most %d are allowed", len(children), maxChildren)
	}
	children = slices.Clone(children)
	slices.SortFunc(children, func(a, b Child) int { return cmp.Compare(a.Platform.String(), b.Platform.String()) })

	a := newArtifact()
	index := ocispec.Index{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageIndex,
		ArtifactType: manifest.ArtifactType,
	}
	for i := range children {
		child := &children[i]
		if err := checkChild(child, children[:i]); err != nil {
			return nil, fmt.Errorf("pack package for %s: %w", child.Platform, err)
		}
		d, err := packChild(a, child, annotationsOf(child.Config, o))
		if err != nil {
			return nil, fmt.Errorf("pack package for %s: %w", child.Platform, err)
		}
		index.Manifests = append(index.Manifests, d)
	}
	index.Annotations = annotationsOf(children[0].Config, o)
	root, err := a.addJSON(ocispec.MediaTypeImageIndex, index)
	if err != nil {
		return nil, err
	}
	a.setRoot(root)
	return a, nil
}

func checkChild(child *Child, before []Child) error {
	switch c := child.Config; {
	case child.Platform.OS == "" || child.Platform.Architecture == "":
		return errors.New("the platform is not complete")
	case c == nil:
		return errors.New("no config")
	case c.Platform != child.Platform:
		return fmt.Errorf("its config says %s", c.Platform)
	case len(before) > 0 && (c.Name != before[0].Config.Name || c.Version != before[0].Config.Version):
		return fmt.Errorf("it is %s %s, but that for %s is %s %s", c.Name, c.Version,
			before[0].Platform, before[0].Config.Name, before[0].Config.Version)
	case len(before) > 0 && before[len(before)-1].Platform == child.Platform:
		return errors.New("the platform is there twice")
	}
	for _, l := range []struct {
		name string
		size int
		max  int
		need bool
	}{
		{manifest.PackageFile, len(child.Package), manifest.MaxPackageSize, true},
		{manifest.SourceFile, len(child.Source), manifest.MaxSourceSize, true},
		{manifest.ReadmeFile, len(child.Readme), manifest.MaxReadmeSize, false},
		{manifest.BTFFile, len(child.BTF), manifest.MaxBTFArchiveSize, false},
	} {
		if l.need && l.size == 0 {
			return fmt.Errorf("no %s", l.name)
		}
		if l.size > l.max {
			return fmt.Errorf("%s has %d bytes, at most %d are allowed", l.name, l.size, l.max)
		}
	}
	return nil
}

func packChild(a *Artifact, child *Child, annotations map[string]string) (ocispec.Descriptor, error) {
	config, err := child.Config.Encode()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(config) > manifest.MaxManifestSize {
		return ocispec.Descriptor{}, fmt.Errorf("its config has %d bytes, at most %d are allowed", len(config), manifest.MaxManifestSize)
	}
	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: manifest.ArtifactType,
		Config:       a.add(manifest.ConfigMediaType, config),
		Layers: []ocispec.Descriptor{
			a.addFile(manifest.PackageMediaType, manifest.PackageFile, child.Package),
			a.addFile(manifest.SourceMediaType, manifest.SourceFile, child.Source),
		},
		Annotations: annotations,
	}
	// An empty README is left out: some registries refuse blobs of no bytes.
	if len(child.Readme) > 0 {
		m.Layers = append(m.Layers, a.addFile(manifest.ReadmeMediaType, manifest.ReadmeFile, child.Readme))
	}
	if len(child.BTF) > 0 {
		m.Layers = append(m.Layers, a.addFile(manifest.BTFMediaType, manifest.BTFFile, child.BTF))
	}
	d, err := a.addJSON(ocispec.MediaTypeImageManifest, m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d.ArtifactType = manifest.ArtifactType
	d.Platform = &ocispec.Platform{OS: child.Platform.OS, Architecture: child.Platform.Architecture}
	return d, nil
}

func (a *Artifact) addFile(mediaType, title string, data []byte) ocispec.Descriptor {
	d := a.add(mediaType, data)
	d.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	return d
}

// annotationsOf are what other projects' tools show of a package.
func annotationsOf(c *manifest.Config, o PackOptions) map[string]string {
	created := o.Created
	if created.IsZero() {
		created = time.Unix(0, 0)
	}
	annotations := map[string]string{ocispec.AnnotationCreated: created.UTC().Format(time.RFC3339)}
	for key, value := range map[string]string{
		ocispec.AnnotationTitle:       c.Name,
		ocispec.AnnotationVersion:     c.Version,
		ocispec.AnnotationDescription: c.Description,
		ocispec.AnnotationLicenses:    c.License,
		ocispec.AnnotationRevision:    o.Revision,
		ocispec.AnnotationSource:      o.SourceURL,
	} {
		if value != "" {
			annotations[key] = value
		}
	}
	return annotations
}
