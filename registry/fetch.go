// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// Pulled is a package for one platform as it came from a registry, a layout or
// the store; every byte of it was verified.
type Pulled struct {
	// Reference is the one that was asked for, with its digest.
	Reference manifest.Reference
	Child
	// Size is that of the package for this platform, in bytes.
	Size int64
	// Cached is true when all of it came from the store.
	Cached bool
}

// Fetch reads the package for a platform. It takes from the client's store what
// that has, by digest, and puts into it what it had to read. A reference with
// the digest of a package that the store has is fetched without the registry,
// unless it has a tag that the store does not know to name that digest: then the
// registry is asked by the tag, and a tag that has moved since is refused. A
// caller who resolved the tag itself passes ref.Pinned(). A store that cannot be used is said by Options.Warn, and passed by.
//
// Its errors are of [manifest.KindNotFound] where the package or the platform is
// not there, and of [manifest.KindUnverified] where its bytes are wrong.
func (c *Client) Fetch(ctx context.Context, ref manifest.Reference, platform manifest.Platform) (*Pulled, error) {
	ref = withDefaultTag(ref)
	p, err := c.fetch(ctx, ref, platform)
	if err != nil {
		return nil, explain("fetch", ref, err)
	}
	return p, nil
}

func (c *Client) fetch(ctx context.Context, ref manifest.Reference, platform manifest.Platform) (*Pulled, error) {
	from, done, err := c.open(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	source := &cachingSource{from: from, warn: c.warn, blobs: map[digest.Digest][]byte{}}
	if ref.Scheme == manifest.SchemeRegistry && c.o.Store != nil {
		source.store = c.o.Store.place()
	}
	r, err := source.root(ctx, ref)
	if err != nil {
		return nil, done(err)
	}
	p, err := fetchFrom(ctx, source, r, ref, platform)
	if err := done(err); err != nil {
		return nil, err
	}
	p.Cached = source.store != nil && !source.missed
	switch {
	case source.store == nil:
	case p.Cached && source.store.names(p.Reference):
		source.store.touch(r.Digest)
	default:
		if err := c.o.Store.keep(ctx, source.blobs, r, p.Reference); err != nil && ctx.Err() == nil {
			c.warn(fmt.Sprintf("the package is not kept in the store: %v", err))
		}
	}
	return p, ctx.Err()
}

// cachingSource reads from a store first, and notes what it gave out.
type cachingSource struct {
	from   place
	store  *storePlace // may be nil
	warn   func(string)
	blobs  map[digest.Digest][]byte
	missed bool
}

func (s *cachingSource) root(ctx context.Context, ref manifest.Reference) (*root, error) {
	if s.store != nil && ref.Digest != "" && (ref.Tag == "" || s.store.names(ref)) {
		r, err := s.store.byDigest(ref.Digest)
		if err == nil {
			s.blobs[r.Digest] = r.data
			return r, nil
		}
		s.unusable(err)
	}
	s.missed = true
	r, err := s.from.root(ctx, ref)
	if err != nil {
		return nil, err
	}
	s.blobs[r.Digest] = r.data
	return r, nil
}

// Fetch reads a blob or manifest.
func (s *cachingSource) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if s.store != nil {
		data, err := fetchAll(ctx, s.store, d)
		if err == nil {
			s.blobs[d.Digest] = data
			return reader(data), nil
		}
		s.unusable(err)
	}
	s.missed = true
	data, err := fetchAll(ctx, s.from, d)
	if err != nil {
		return nil, err
	}
	s.blobs[d.Digest] = data
	return reader(data), nil
}

// unusable says why something is not taken from the store, unless it is merely
// not there.
func (s *cachingSource) unusable(err error) {
	if !errors.Is(err, errdef.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
		s.warn(fmt.Sprintf("the store is passed by: %v", err))
	}
}

// fetchFrom reads the package for a platform below a root. Children and layers
// are chosen by platform and media type, never by position.
func fetchFrom(ctx context.Context, from content.Fetcher, r *root, ref manifest.Reference, platform manifest.Platform) (*Pulled, error) {
	index, err := newIndex(ref, r)
	if err != nil {
		return nil, err
	}
	p := &Pulled{Reference: index.Reference, Child: Child{Platform: platform}}
	child, err := childOf(index, platform)
	if err != nil {
		return nil, err
	}
	data, err := fetchAll(ctx, from, child.descriptor())
	if err != nil {
		return nil, err
	}
	m, err := decodeManifest(data, manifest.ArtifactType)
	if err != nil {
		return nil, unverified(fmt.Errorf("%s: %w", child.Digest, err))
	}
	if m.Config.MediaType != manifest.ConfigMediaType {
		return nil, unverified(fmt.Errorf("%s: its config is %s, wanted %s", child.Digest, m.Config.MediaType, manifest.ConfigMediaType))
	}
	config, err := fetchAll(ctx, from, m.Config)
	if err != nil {
		return nil, err
	}
	if p.Config, err = manifest.DecodeConfig(config); err != nil {
		return nil, unverified(fmt.Errorf("%s: %w", m.Config.Digest, err))
	}
	if p.Config.Platform != platform {
		return nil, unverified(fmt.Errorf("%s: its config is for %s, its index says %s", child.Digest, p.Config.Platform, platform))
	}
	p.Size = int64(len(data)) + m.Config.Size
	for _, layer := range []struct {
		mediaType string
		to        *[]byte
		need      bool
	}{
		{manifest.PackageMediaType, &p.Package, true},
		{manifest.SourceMediaType, &p.Source, true},
		{manifest.ReadmeMediaType, &p.Readme, false},
		{manifest.BTFMediaType, &p.BTF, false},
	} {
		d, err := layerOf(m, layer.mediaType, layer.need)
		if err != nil {
			return nil, unverified(fmt.Errorf("%s: %w", child.Digest, err))
		}
		if d == nil {
			continue
		}
		if *layer.to, err = fetchAll(ctx, from, *d); err != nil {
			return nil, err
		}
		p.Size += d.Size
	}
	return p, nil
}

// PlatformError says that a package is there, but not for a platform.
type PlatformError struct {
	Platform manifest.Platform
	// Built are the platforms that the package has, at least one.
	Built []manifest.Platform
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("the package was not built for %s, only for %s", e.Platform, joinPlatforms(", ", e.Built...))
}

func joinPlatforms(separator string, platforms ...manifest.Platform) string {
	var words []string
	for _, p := range platforms {
		words = append(words, p.String())
	}
	return strings.Join(words, separator)
}

func childOf(index *Index, platform manifest.Platform) (PlatformManifest, error) {
	e := &PlatformError{Platform: platform}
	for _, child := range index.Platforms {
		if child.Platform == platform {
			return child, nil
		}
		e.Built = append(e.Built, child.Platform)
	}
	return PlatformManifest{}, manifest.WithKind(manifest.KindNotFound, e,
		"Build it for this platform too: ebpm build --platform "+joinPlatforms(",", append(slices.Clone(e.Built), platform)...)+".")
}
