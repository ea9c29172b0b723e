// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// place is where packages are kept: a repository of a registry, a layout, an
// archive, the store. What Fetch and root give is verified and bounded.
type place interface {
	content.Storage
	// root reads the manifest that a reference to this place names. Where the
	// reference has a tag and a digest, they must agree.
	root(ctx context.Context, ref manifest.Reference) (*root, error)
	// name makes a reference to this place name a manifest that is there with
	// all that it names.
	name(ctx context.Context, ref manifest.Reference, r *root) error
	// tags lists the tags, in no order.
	tags(ctx context.Context) ([]string, error)
}

// root is a verified manifest that a reference names.
type root struct {
	ocispec.Descriptor
	data []byte
}

// newRoot makes a root of bytes whose digest was verified.
func newRoot(data []byte) (*root, error) {
	var head struct {
		MediaType    string `json:"mediaType"`
		ArtifactType string `json:"artifactType"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, unverified(fmt.Errorf("decode manifest: %w", err))
	}
	if !isManifestType(head.MediaType) {
		return nil, unverified(notAPackage(head.MediaType, head.ArtifactType))
	}
	d := content.NewDescriptorFromBytes(head.MediaType, data)
	d.ArtifactType = head.ArtifactType
	return &root{Descriptor: d, data: data}, nil
}

// rootOf returns the root of an artifact.
func rootOf(a *Artifact) *root {
	d := a.root
	return &root{Descriptor: d, data: a.blobs[d.Digest]}
}

// agree checks what a tag names against the digest that the reference has too.
func agree(ref manifest.Reference, d digest.Digest) error {
	if ref.Digest == "" || ref.Digest == d {
		return nil
	}
	if ref.Tag == "" {
		return unverified(fmt.Errorf("the bytes have digest %s", d))
	}
	return manifest.WithKind(manifest.KindUnverified, fmt.Errorf("tag %s names %s", ref.Tag, d),
		fmt.Sprintf("The tag has moved, or the digest is wrong. Leave out one of them: %s, or %s.",
			ref.WithTag(ref.Tag), ref.Pinned()))
}

// readBounded reads all of r, at most limit bytes; more are bytes that nobody
// should have sent.
func readBounded(r io.Reader, limit int64) ([]byte, error) {
	data, err := manifest.ReadBounded(r, limit)
	if errors.Is(err, manifest.ErrTooLarge) {
		return nil, unverified(err)
	}
	return data, err
}

// readVerified reads content and verifies it against its descriptor.
func readVerified(r io.Reader, d ocispec.Descriptor) ([]byte, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, unverified(err)
	}
	// The size of the buffer follows what arrives, not what is said.
	var buf bytes.Buffer
	n, err := buf.ReadFrom(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("%s was cut short after %d of %d bytes: %w", d.Digest, n, d.Size, err)
	}
	if n != d.Size {
		found := strconv.FormatInt(n, 10)
		if n > d.Size {
			found = "more"
		}
		return nil, unverified(fmt.Errorf("%s (%s) should have %d bytes, but has %s", d.Digest, d.MediaType, d.Size, found))
	}
	if actual := digest.FromBytes(buf.Bytes()); actual != d.Digest {
		return nil, unverified(fmt.Errorf("%s (%s) has other bytes, of digest %s", d.Digest, d.MediaType, actual))
	}
	return buf.Bytes(), nil
}

func fetchAll(ctx context.Context, from content.Fetcher, d ocispec.Descriptor) ([]byte, error) {
	rc, err := from.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return readVerified(rc, d)
}

func reader(data []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(data)) }

// open returns the place of a reference, and what must be called once nothing
// more will be written there.
func (c *Client) open(ctx context.Context, ref manifest.Reference, write bool) (place, func(error) error, error) {
	nothing := func(err error) error { return err }
	switch ref.Scheme {
	case manifest.SchemeRegistry:
		repo, err := c.repository(ref)
		if err != nil {
			return nil, nil, err
		}
		return &remotePlace{c: c, repo: repo, ref: ref}, nothing, nil
	case manifest.SchemeLayout:
		l := newLayout(ref.Path)
		if !write {
			return &layoutPlace{layoutReader: l.reader(), ref: ref}, nothing, nil
		}
		release, err := l.beginWrite(ctx)
		if err != nil {
			return nil, nil, err
		}
		return &layoutPlace{layoutReader: l.reader(), layout: l, ref: ref}, func(err error) error {
			release()
			return err
		}, nil
	case manifest.SchemeArchive:
		if !write {
			fsys, err := openArchive(ref.Path)
			if err != nil {
				return nil, nil, err
			}
			return &layoutPlace{layoutReader: layoutReader{fsys}, ref: ref}, func(err error) error {
				_ = fsys.Close() // It was only read.
				return err
			}, nil
		}
		return editArchive(ctx, ref)
	default:
		return nil, nil, manifest.WithKind(manifest.KindUsage, fmt.Errorf("scheme %q is not known", ref.Scheme), "")
	}
}

// lookup reads the root of a reference, and leaves its place open.
func (c *Client) lookup(ctx context.Context, ref manifest.Reference) (place, func(error) error, *root, error) {
	p, done, err := c.open(ctx, ref, false)
	if err != nil {
		return nil, nil, nil, err
	}
	r, err := p.root(ctx, ref)
	if err != nil {
		return nil, nil, nil, done(err)
	}
	return p, done, r, nil
}

// Resolve returns ref with the digest that it names now. Where ref has a tag and
// a digest, they must agree. A reference that names nothing gives an error of
// [manifest.KindNotFound].
func (c *Client) Resolve(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	ref = withDefaultTag(ref)
	_, done, r, err := c.lookup(ctx, ref)
	if err != nil {
		return ref, explain("resolve", ref, err)
	}
	return ref.WithDigest(r.Digest), done(nil)
}

// Index returns the platforms and annotations of a package.
func (c *Client) Index(ctx context.Context, ref manifest.Reference) (*Index, error) {
	ref = withDefaultTag(ref)
	_, done, r, err := c.lookup(ctx, ref)
	if err != nil {
		return nil, explain("read", ref, err)
	}
	index, err := newIndex(ref, r)
	return index, explain("read", ref, done(err))
}

// Index is what a package's image index says.
type Index struct {
	// Reference is the one that was asked for, with its digest.
	Reference manifest.Reference
	// Platforms are sorted.
	Platforms []PlatformManifest
	// Annotations are those of the index (org.opencontainers.image.*).
	Annotations map[string]string
}

// PlatformManifest is one child of an [Index].
type PlatformManifest struct {
	Platform manifest.Platform
	Digest   digest.Digest
	Size     int64 // of the manifest, in bytes
}

// Has reports whether the package was built for a platform.
func (i *Index) Has(p manifest.Platform) bool {
	return slices.ContainsFunc(i.Platforms, func(c PlatformManifest) bool { return c.Platform == p })
}

func newIndex(ref manifest.Reference, r *root) (*Index, error) {
	decoded, err := decodeIndex(r.data)
	if err != nil {
		return nil, unverified(err)
	}
	platforms, err := platformsOf(decoded)
	if err != nil {
		return nil, unverified(err)
	}
	return &Index{Reference: ref.WithDigest(r.Digest), Platforms: platforms, Annotations: decoded.Annotations}, nil
}

// Tags lists the tags of a repository, a layout or an archive, sorted. The tags
// by which some registries keep signatures are left out.
func (c *Client) Tags(ctx context.Context, ref manifest.Reference) ([]string, error) {
	ref.Tag, ref.Digest = "", ""
	p, done, err := c.open(ctx, ref, false)
	if err != nil {
		return nil, explain("list tags of", ref, err)
	}
	tags, err := p.tags(ctx)
	if err := done(err); err != nil {
		return nil, explain("list tags of", ref, err)
	}
	tags = slices.DeleteFunc(tags, func(tag string) bool { return referrersTagRE.MatchString(tag) })
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// withDefaultTag leaves references to layouts as they are: one that names no tag
// takes the only package there is.
func withDefaultTag(ref manifest.Reference) manifest.Reference {
	if ref.Scheme == manifest.SchemeRegistry {
		return ref.WithDefaultTag()
	}
	return ref
}
