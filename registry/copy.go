// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ebpm/ebpm/manifest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
)

// copyConcurrency is the number of blobs that one copy moves at a time.
const copyConcurrency = 4

// copyInto brings a root and all that it names to a place, and lets ref name it.
// Blobs and children go first, then the root by its digest, then the name: a
// name never stands for something that is not complete.
func (c *Client) copyInto(ctx context.Context, from content.ReadOnlyStorage, r *root, to place, ref manifest.Reference) error {
	event := func(kind EventKind) func(context.Context, ocispec.Descriptor) error {
		return func(_ context.Context, d ocispec.Descriptor) error {
			c.report(Event{Kind: kind, Reference: ref, Digest: d.Digest, MediaType: d.MediaType, Size: d.Size})
			return nil
		}
	}
	var total atomic.Int64
	err := oras.CopyGraph(ctx, from, to, r.Descriptor, oras.CopyGraphOptions{
		Concurrency:   copyConcurrency,
		PreCopy:       event(EventStart),
		PostCopy:      event(EventDone),
		OnCopySkipped: event(EventSkip),
		FindSuccessors: func(ctx context.Context, from content.Fetcher, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			if !isManifestType(d.MediaType) {
				return nil, nil
			}
			data, err := fetchAll(ctx, from, d)
			if err != nil {
				return nil, err
			}
			successors, err := successorsOf(d, data)
			if err != nil {
				return nil, unverified(fmt.Errorf("%s: %w", d.Digest, err))
			}
			for _, s := range successors {
				if total.Add(s.Size) > maxArtifactSize {
					return nil, unverified(fmt.Errorf("it has over %d bytes", maxArtifactSize))
				}
			}
			return successors, nil
		},
	})
	if err != nil {
		return err
	}
	return to.name(ctx, ref, r)
}

// write copies a root to the place of a reference.
func (c *Client) write(ctx context.Context, from content.ReadOnlyStorage, r *root, ref manifest.Reference) (manifest.Reference, error) {
	if ref.Digest != "" && ref.Digest != r.Digest {
		return ref, manifest.WithKind(manifest.KindUsage, fmt.Errorf("what is written has digest %s", r.Digest),
			"Leave the digest out.")
	}
	to, done, err := c.open(ctx, ref, true)
	if err != nil {
		return ref, err
	}
	if err := done(c.copyInto(ctx, from, r, to, ref)); err != nil {
		return ref, err
	}
	return ref.WithDigest(r.Digest), nil
}

// Push writes an artifact and returns the reference with its digest. A reference
// with neither tag nor digest gets [manifest.DefaultTag]; one with the
// artifact's digest alone is written without a tag.
func (c *Client) Push(ctx context.Context, a *Artifact, to manifest.Reference) (manifest.Reference, error) {
	to = to.WithDefaultTag()
	pinned, err := c.write(ctx, a, rootOf(a), to)
	return pinned, explain("push", to, err)
}

// Copy copies a whole package, all platforms, and returns the reference of the
// copy with its digest, which is that of the original.
func (c *Client) Copy(ctx context.Context, from, to manifest.Reference) (manifest.Reference, error) {
	from, to = withDefaultTag(from), to.WithDefaultTag()
	source, done, r, err := c.lookup(ctx, from)
	if err != nil {
		return to, explain("read", from, err)
	}
	pinned, err := c.write(ctx, source, r, to)
	return pinned, explain(fmt.Sprintf("copy %s to", from), to, done(err))
}

// Tag gives what a reference names one more tag. A word that cannot be a tag is
// an error of [manifest.KindUsage].
func (c *Client) Tag(ctx context.Context, ref manifest.Reference, tag string) error {
	ref = withDefaultTag(ref)
	if !manifest.IsTag(tag) {
		return manifest.WithKind(manifest.KindUsage, fmt.Errorf("tag %s: %q is not a tag", ref, tag),
			"Give only the tag, without the name: at most 128 letters, digits, dots, dashes and underscores, the first of them no dot or dash.")
	}
	source, done, r, err := c.lookup(ctx, ref)
	if err != nil {
		return explain("tag", ref, err)
	}
	_, err = c.write(ctx, source, r, ref.WithTag(tag))
	return explain("tag", ref, done(err))
}

// PushFromStore copies a package from the client's store to the registry that
// its name says, and returns the reference with its digest.
func (c *Client) PushFromStore(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	ref = ref.WithDefaultTag()
	if c.o.Store == nil {
		return ref, fmt.Errorf("push %s: no store", ref)
	}
	from := c.o.Store.place()
	r, err := from.root(ctx, ref)
	if err != nil {
		return ref, explain("push", ref, err)
	}
	if complete, err := from.Exists(ctx, r.Descriptor); err != nil {
		return ref, explain("push", ref, err)
	} else if !complete {
		return ref, manifest.WithKind(manifest.KindNotFound,
			fmt.Errorf("push %s: the store does not have all of %s, or some of it is damaged", ref, r.Digest),
			"Build it again, or pull it.")
	}
	pinned, err := c.write(ctx, from, r, ref)
	return pinned, explain("push", ref, err)
}

// PullToStore copies a whole package, all platforms, into the client's store,
// and returns the reference with its digest.
func (c *Client) PullToStore(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	ref = withDefaultTag(ref)
	if c.o.Store == nil {
		return ref, fmt.Errorf("pull %s: no store", ref)
	}
	source, done, r, err := c.lookup(ctx, ref)
	if err != nil {
		return ref, explain("pull", ref, err)
	}
	err = done(c.o.Store.write(ctx, func(to place) error { return c.copyInto(ctx, source, r, to, ref) }))
	if err != nil {
		return ref, explain("pull", ref, err)
	}
	return ref.WithDigest(r.Digest), nil
}
