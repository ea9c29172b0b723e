// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ebpm/ebpm/manifest"
)

// WriteLayouts writes each image as an OCI layout to the folder dir/NAME, with
// ebpm's version as its tag. A layout of before is replaced when the new one is
// complete. It returns their references, in the order of images.
func WriteLayouts(ctx context.Context, dir string, images []*Image) ([]manifest.Reference, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("write image layouts: %w", err)
	}
	refs := make([]manifest.Reference, len(images))
	for i, image := range images {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ref, err := writeLayout(dir, image)
		if err != nil {
			return nil, fmt.Errorf("write layout of image %s: %w", image.Name, err)
		}
		refs[i] = ref
	}
	return refs, nil
}

func writeLayout(dir string, image *Image) (ref manifest.Reference, err error) {
	// Beside the final place, so that the rename stays in one file system.
	tmp, err := os.MkdirTemp(dir, "."+image.Name+"-")
	if err != nil {
		return ref, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	content := filepath.Join(tmp, "new")
	path, err := layout.Write(content, empty.Index)
	if err != nil {
		return ref, err
	}
	if err := path.AppendIndex(image.Index, layout.WithAnnotations(map[string]string{imagespec.AnnotationRefName: manifest.Version})); err != nil {
		return ref, err
	}
	final, old := filepath.Join(dir, image.Name), filepath.Join(tmp, "old")
	if err := os.Rename(final, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ref, err
	}
	if err := os.Rename(content, final); err != nil {
		return ref, errors.Join(err, os.Rename(old, final))
	}
	d, err := imageDigest(image)
	if err != nil {
		return ref, err
	}
	return manifest.Reference{Scheme: manifest.SchemeLayout, Path: final}.WithTag(manifest.Version).WithDigest(d), nil
}
