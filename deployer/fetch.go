// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"context"
	"fmt"

	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

// Registry is where a package comes from.
type Registry interface {
	Index(ctx context.Context, ref manifest.Reference) (*registry.Index, error)
	Fetch(ctx context.Context, ref manifest.Reference, platform manifest.Platform) (*registry.Pulled, error)
}

var _ Registry = (*registry.Client)(nil)

// FetchPackage resolves a reference, once, and reads the package for each of
// its Linux platforms.
func FetchPackage(ctx context.Context, r Registry, ref manifest.Reference) (*Package, error) {
	index, err := r.Index(ctx, ref)
	if err != nil {
		return nil, err
	}
	p := &Package{Reference: index.Reference}
	for _, child := range index.Platforms {
		if child.Platform.OS != "linux" {
			continue
		}
		// By digest: the tag may move while its children are read.
		pulled, err := r.Fetch(ctx, index.Reference.Pinned(), child.Platform)
		if err != nil {
			return nil, err
		}
		platform, err := NewPlatformPackage(child.Platform, pulled.Config, pulled.Package)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", index.Reference, err)
		}
		platform.BTFSize = len(pulled.BTF)
		p.Platforms = append(p.Platforms, platform)
	}
	if len(p.Platforms) == 0 {
		return nil, manifest.WithKind(manifest.KindNotFound, fmt.Errorf("%s: the package has no platform of Linux", index.Reference), "")
	}
	return p, nil
}
