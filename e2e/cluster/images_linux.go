// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"io"

	"github.com/ebpm/ebpm/builder/image"
)

// PushImages puts ebpm's two images together from the programs in the
// folder bin and pushes them to the cluster's registry, so that Env names them. The parts of
// Debian in them are downloaded once and kept in the user's cache folder.
func PushImages(ctx context.Context, c *Cluster, bin string, log io.Writer) error {
	images, err := image.Build(ctx, image.Options{Binaries: bin, Log: log})
	if err != nil {
		return fmt.Errorf("build the images: %w", err)
	}
	refs, err := image.Push(ctx, c.Registry, true, images)
	if err != nil {
		return fmt.Errorf("push the images to %s: %w", c.Registry, err)
	}
	names := map[string]string{image.RunnerName: Image, image.BuilderName: BuilderImage}
	for i, ref := range refs {
		if err := c.SetImage(names[images[i].Name], ref.Pinned().String()); err != nil {
			return err
		}
	}
	return nil
}
