// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImagePlatforms returns the Linux platforms of a container image, sorted: those
// of its index, or that of its config where it has no index. There may be none.
// It reads the image as nodes do, by the digest where ref has one, in a single
// attempt: nodes may have mirrors and credentials that this machine lacks, so
// that a caller has to live with an error anyway. Errors are as those of
// [Client.Fetch].
func (c *Client) ImagePlatforms(ctx context.Context, ref manifest.Reference) ([]manifest.Platform, error) {
	platforms, err := c.imagePlatforms(ctx, withDefaultTag(ref))
	return platforms, explain("read image", ref, diagnose(ref, err))
}

func (c *Client) imagePlatforms(ctx context.Context, ref manifest.Reference) ([]manifest.Platform, error) {
	if ref.Scheme != manifest.SchemeRegistry {
		return nil, manifest.WithKind(manifest.KindUsage, errors.New("it is not in a registry"), "")
	}
	repo, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	d, rc, err := repo.FetchReference(ctx, cmp.Or(ref.Digest.String(), ref.Tag))
	if err != nil {
		return nil, answered(err)
	}
	defer rc.Close()
	data, err := readBounded(rc, manifest.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	if actual := digest.FromBytes(data); actual != cmp.Or(ref.Digest, d.Digest) {
		return nil, unverified(fmt.Errorf("%s has other bytes, of digest %s", d.Digest, actual))
	}

	// The image manifests and indexes of OCI and of Docker share these fields.
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, unverified(fmt.Errorf("decode manifest: %w", err))
	}
	var found []ocispec.Platform
	if m.Config != nil {
		if err := checkDescriptor(*m.Config); err != nil {
			return nil, unverified(err)
		}
		rc, err := repo.Blobs().Fetch(ctx, *m.Config)
		if err != nil {
			return nil, answered(err)
		}
		defer rc.Close()
		data, err := readVerified(rc, *m.Config)
		if err != nil {
			return nil, err
		}
		var platform ocispec.Platform
		if err := json.Unmarshal(data, &platform); err != nil {
			return nil, unverified(fmt.Errorf("decode the image's config: %w", err))
		}
		found = append(found, platform)
	}
	for _, d := range m.Manifests {
		if d.Platform != nil {
			found = append(found, *d.Platform)
		}
	}
	platforms := []manifest.Platform{}
	for _, p := range found {
		// What goes with an image, such as its provenance, is for unknown/unknown.
		if p.OS == "linux" {
			platforms = append(platforms, manifest.Platform{OS: p.OS, Architecture: p.Architecture})
		}
	}
	slices.SortFunc(platforms, func(a, b manifest.Platform) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(platforms), nil
}
