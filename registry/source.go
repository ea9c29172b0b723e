// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// buildAnnotation has the id of the build that a source waits for.
const buildAnnotation = "io.ebpm.build"

// packSource makes the artifact of a source that waits for its build. Its layer
// is the one that the package will hold, so that the registry keeps it once.
//
// The manifest has the id of the build: two builds of the same source have a
// manifest each, and the first to end deletes its own.
func packSource(tar []byte, build string) (*Artifact, error) {
	if build == "" {
		return nil, errors.New("the build has no id")
	}
	if n := len(tar); n == 0 || n > manifest.MaxSourceSize {
		return nil, fmt.Errorf("the source has %d bytes, wanted 1 to %d", n, manifest.MaxSourceSize)
	}
	a := newArtifact()
	empty := a.add(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	r, err := a.addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: manifest.SourceArtifactType,
		Config:       empty,
		Layers:       []ocispec.Descriptor{a.addFile(manifest.SourceMediaType, manifest.SourceFile, tar)},
		Annotations:  map[string]string{buildAnnotation: build},
	})
	if err != nil {
		return nil, err
	}
	r.ArtifactType = manifest.SourceArtifactType
	a.setRoot(r)
	return a, nil
}

// PushSource pushes a source (source.tar) to a repository, without a tag, and
// returns its reference by digest. build is the id of the build that it waits for:
// with ids of their own, builds of the same source share its blob and nothing else.
func (c *Client) PushSource(ctx context.Context, to manifest.Reference, tar []byte, build string) (manifest.Reference, error) {
	a, err := packSource(tar, build)
	if err != nil {
		return to, explain("push source to", to, err)
	}
	to.Tag, to.Digest = "", a.Digest
	pinned, err := c.write(ctx, a, rootOf(a), to)
	return pinned, explain("push source to", to, err)
}

// FetchSource reads the source.tar of a source that waits for its build, or of a
// package: that for this machine's architecture where there is one, else the
// first.
func (c *Client) FetchSource(ctx context.Context, ref manifest.Reference) ([]byte, error) {
	ref = withDefaultTag(ref)
	from, done, r, err := c.lookup(ctx, ref)
	if err != nil {
		return nil, explain("fetch source of", ref, err)
	}
	tar, err := fetchSource(ctx, from, ref, r)
	if err := done(err); err != nil {
		return nil, explain("fetch source of", ref, err)
	}
	return tar, nil
}

func fetchSource(ctx context.Context, from content.Fetcher, ref manifest.Reference, r *root) ([]byte, error) {
	data, artifactType := r.data, manifest.SourceArtifactType
	if r.MediaType == ocispec.MediaTypeImageIndex {
		index, err := newIndex(ref, r)
		if err != nil {
			return nil, err
		}
		child, err := childOf(index, manifest.HostPlatform())
		if err != nil {
			child = index.Platforms[0]
		}
		if data, err = fetchAll(ctx, from, child.descriptor()); err != nil {
			return nil, err
		}
		artifactType = manifest.ArtifactType
	}
	m, err := decodeManifest(data, artifactType)
	if err != nil {
		return nil, unverified(err)
	}
	layer, err := layerOf(m, manifest.SourceMediaType, true)
	if err != nil {
		return nil, unverified(err)
	}
	return fetchAll(ctx, from, *layer)
}
