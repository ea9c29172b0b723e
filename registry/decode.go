// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxChildren is the number of manifests that an index may name. Linux has
	// about a dozen architectures that Go knows.
	maxChildren = 64
	// maxLayers is the number of layers that a manifest may name.
	maxLayers = 32
	// maxArtifactSize bounds a copied package, all platforms together, in bytes.
	maxArtifactSize = 1 << 30
)

// limitOf returns how many bytes content of a media type may have. What a newer
// ebpm may add is bounded by the largest that this one knows.
func limitOf(mediaType string) int64 {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, manifest.ConfigMediaType:
		return manifest.MaxManifestSize
	case manifest.PackageMediaType:
		return manifest.MaxPackageSize
	case manifest.ReadmeMediaType:
		return manifest.MaxReadmeSize
	case manifest.BTFMediaType:
		return manifest.MaxBTFArchiveSize
	default:
		return manifest.MaxSourceSize
	}
}

func isManifestType(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == ocispec.MediaTypeImageManifest
}

// checkDescriptor refuses what must not even be asked for.
func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	if d.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q: only sha256 is supported", d.Digest)
	}
	if limit := limitOf(d.MediaType); d.Size < 0 || d.Size > limit {
		return fmt.Errorf("%s (%s) is said to have %d bytes, at most %d are allowed", d.Digest, d.MediaType, d.Size, limit)
	}
	return nil
}

// decodeIndex reads the image index of a package. It may be without an artifact
// type: copied by a tool that drops what it does not know, as skopeo 1.9 does. The
// manifest of a child says then that it is a package.
func decodeIndex(data []byte) (*ocispec.Index, error) {
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("decode image index: %w", err)
	}
	if index.MediaType != ocispec.MediaTypeImageIndex ||
		(index.ArtifactType != "" && index.ArtifactType != manifest.ArtifactType) {
		return nil, notAPackage(index.MediaType, index.ArtifactType)
	}
	if n := len(index.Manifests); n == 0 || n > maxChildren {
		return nil, fmt.Errorf("the image index names %d manifests, wanted 1 to %d", n, maxChildren)
	}
	for _, d := range index.Manifests {
		if err := checkDescriptor(d); err != nil {
			return nil, err
		}
	}
	return &index, nil
}

// decodeManifest reads an artifact manifest, of a package's child or of a source.
func decodeManifest(data []byte, artifactType string) (*ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if m.MediaType != ocispec.MediaTypeImageManifest || m.ArtifactType != artifactType {
		return nil, notAPackage(m.MediaType, m.ArtifactType)
	}
	if n := len(m.Layers); n > maxLayers {
		return nil, fmt.Errorf("the manifest names %d layers, at most %d are allowed", n, maxLayers)
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return nil, err
		}
		// Anything else in the place of a blob would be asked for as a manifest.
		if isManifestType(d.MediaType) {
			return nil, fmt.Errorf("%s is a manifest among the blobs", d.Digest)
		}
	}
	return &m, nil
}

// NotAPackageError says that a reference names something else than a package.
type NotAPackageError struct {
	// MediaType and ArtifactType are those of what was found; they may be empty.
	MediaType, ArtifactType string
}

func (e *NotAPackageError) Error() string {
	return fmt.Sprintf("not an ebpm package, but %s of artifact type %q", cmp.Or(e.MediaType, "a document without media type"), e.ArtifactType)
}

func notAPackage(mediaType, artifactType string) error {
	return &NotAPackageError{MediaType: mediaType, ArtifactType: artifactType}
}

// platformsOf returns the packages in an index, sorted by platform.
func platformsOf(index *ocispec.Index) ([]PlatformManifest, error) {
	var platforms []PlatformManifest
	for _, d := range index.Manifests {
		// What is not a package may be a newer ebpm's.
		if d.MediaType != ocispec.MediaTypeImageManifest || d.Platform == nil ||
			(d.ArtifactType != "" && d.ArtifactType != manifest.ArtifactType) {
			continue
		}
		platforms = append(platforms, PlatformManifest{
			Platform: manifest.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture},
			Digest:   d.Digest,
			Size:     d.Size,
		})
	}
	slices.SortStableFunc(platforms, func(a, b PlatformManifest) int {
		return cmp.Compare(a.Platform.String(), b.Platform.String())
	})
	for i := 1; i < len(platforms); i++ {
		if platforms[i].Platform == platforms[i-1].Platform {
			return nil, fmt.Errorf("the image index names two packages for %s", platforms[i].Platform)
		}
	}
	if len(platforms) == 0 {
		if index.ArtifactType == "" {
			return nil, notAPackage(index.MediaType, index.ArtifactType)
		}
		return nil, errors.New("the image index names no package")
	}
	return platforms, nil
}

func (p PlatformManifest) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: p.Digest, Size: p.Size}
}

// layerOf returns the only layer of a media type; need says whether it must be
// there.
func layerOf(m *ocispec.Manifest, mediaType string, need bool) (*ocispec.Descriptor, error) {
	var found *ocispec.Descriptor
	for i := range m.Layers {
		if m.Layers[i].MediaType != mediaType {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("the manifest has two layers %s", mediaType)
		}
		found = &m.Layers[i]
	}
	if found == nil && need {
		return nil, fmt.Errorf("the manifest has no layer %s", mediaType)
	}
	return found, nil
}

// successorsOf returns what a manifest names. Anything that has no successors
// has none to be copied: the subject of a manifest is not part of a package.
func successorsOf(d ocispec.Descriptor, data []byte) ([]ocispec.Descriptor, error) {
	switch d.MediaType {
	case ocispec.MediaTypeImageIndex:
		index, err := decodeIndex(data)
		if err != nil {
			return nil, err
		}
		for _, child := range index.Manifests {
			if child.MediaType == ocispec.MediaTypeImageIndex {
				return nil, fmt.Errorf("%s is an image index inside of an image index", child.Digest)
			}
		}
		return index.Manifests, nil
	case ocispec.MediaTypeImageManifest:
		artifactType := manifest.ArtifactType
		if d.ArtifactType != "" {
			artifactType = d.ArtifactType
		}
		m, err := decodeManifest(data, artifactType)
		if err != nil {
			return nil, err
		}
		return append([]ocispec.Descriptor{m.Config}, m.Layers...), nil
	default:
		return nil, nil
	}
}
