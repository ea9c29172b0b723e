// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// referrersTagRE matches the tags of the referrers tag schema, and those that
// cosign derives from a digest.
var referrersTagRE = regexp.MustCompile(`^sha256-[0-9a-f]{64}`)

// remotePlace is a repository of a registry.
type remotePlace struct {
	c    *Client
	repo *remote.Repository
	ref  manifest.Reference // the one that it was opened for
}

var _ place = (*remotePlace)(nil)

// retry runs a request until it succeeds; its last error says what to do.
func (p *remotePlace) retry(ctx context.Context, d ocispec.Descriptor, f func(context.Context) error) error {
	e := Event{Reference: p.ref, Digest: d.Digest, MediaType: d.MediaType, Size: d.Size}
	return diagnose(p.ref, p.c.retry(ctx, e, f))
}

// answered turns what oras-go finds wrong with a registry's answer to a read
// into an error of wrong bytes. Errors of requests and of the registry stay.
func answered(err error) error {
	if err == nil || hasKind(err) || errors.Is(err, errdef.ErrNotFound) {
		return err
	}
	if _, ok := errors.AsType[*requestError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return err
	}
	if _, ok := errors.AsType[*readError](err); ok {
		return err
	}
	return unverified(fmt.Errorf("the registry's answer does not fit: %w", err))
}

// Fetch reads and verifies a blob or manifest.
func (p *remotePlace) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, unverified(err)
	}
	var data []byte
	err := p.retry(ctx, d, func(ctx context.Context) error {
		rc, err := p.repo.Fetch(ctx, d)
		if err != nil {
			return answered(err)
		}
		defer rc.Close()
		data, err = readVerified(rc, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	return reader(data), nil
}

// Exists asks the registry for a blob or manifest. One of which the registry
// itself says that it has other bytes, because it kept half of an upload, is
// written again.
func (p *remotePlace) Exists(ctx context.Context, d ocispec.Descriptor) (exists bool, err error) {
	err = p.retry(ctx, d, func(ctx context.Context) error {
		exists, err = p.repo.Exists(ctx, d)
		return answered(err)
	})
	return exists, missing(err)
}

// Push writes a blob or manifest. Its bytes are read to their end first, so that
// each attempt sends all of them.
func (p *remotePlace) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	data, err := readVerified(r, d)
	if err != nil {
		return err
	}
	err = p.retry(ctx, d, func(ctx context.Context) error {
		return p.repo.Push(ctx, d, bytes.NewReader(data))
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", d.Digest, err)
	}
	return nil
}

func (p *remotePlace) root(ctx context.Context, ref manifest.Reference) (*root, error) {
	data, err := p.manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	r, err := newRoot(data)
	if err != nil {
		return nil, err
	}
	return r, agree(ref, r.Digest)
}

// manifest reads the bytes that a tag or, without one, a digest names.
func (p *remotePlace) manifest(ctx context.Context, ref manifest.Reference) (data []byte, err error) {
	name := ref.Tag
	if name == "" {
		name = ref.Digest.String()
	}
	err = p.retry(ctx, ocispec.Descriptor{Digest: ref.Digest}, func(ctx context.Context) error {
		d, rc, err := p.repo.FetchReference(ctx, name)
		if err != nil {
			return answered(err)
		}
		defer rc.Close()
		if data, err = readBounded(rc, manifest.MaxManifestSize); err != nil {
			return err
		}
		if actual := digest.FromBytes(data); actual != d.Digest {
			return unverified(fmt.Errorf("%s has other bytes, of digest %s", d.Digest, actual))
		}
		return nil
	})
	return data, err
}

// name sets a tag by writing the manifest, which is there already, under it: one
// request, which the registry does as a whole or not at all.
func (p *remotePlace) name(ctx context.Context, ref manifest.Reference, r *root) error {
	if ref.Tag == "" {
		return nil
	}
	return p.retry(ctx, r.Descriptor, func(ctx context.Context) error {
		return p.repo.PushReference(ctx, r.Descriptor, bytes.NewReader(r.data), ref.Tag)
	})
}

func (p *remotePlace) tags(ctx context.Context) ([]string, error) {
	var tags []string
	err := p.retry(ctx, ocispec.Descriptor{}, func(ctx context.Context) error {
		tags = nil
		return p.repo.Tags(ctx, "", func(page []string) error {
			tags = append(tags, page...)
			return nil
		})
	})
	return tags, err
}

// Delete deletes the manifest that ref names by its digest, with the tags that
// name it. Where the registry does not allow that, the error is
// [ErrUnsupported]; where there is no such manifest, it is of
// [manifest.KindNotFound].
func (c *Client) Delete(ctx context.Context, ref manifest.Reference) error {
	if ref.Scheme != manifest.SchemeRegistry || ref.Digest == "" {
		return manifest.WithKind(manifest.KindUsage, fmt.Errorf("delete %s: only REGISTRY/REPOSITORY@DIGEST can be deleted", ref), "")
	}
	ref = ref.Pinned()
	repo, err := c.repository(ref)
	if err != nil {
		return explain("delete", ref, err)
	}
	p := &remotePlace{c: c, repo: repo, ref: ref}
	r, err := p.root(ctx, ref)
	if err != nil {
		return explain("delete", ref, err)
	}
	return explain("delete", ref, p.retry(ctx, r.Descriptor, func(ctx context.Context) error {
		err := repo.Delete(ctx, r.Descriptor)
		if response, ok := errors.AsType[*errcode.ErrorResponse](err); ok &&
			(response.StatusCode == http.StatusMethodNotAllowed || response.StatusCode == http.StatusNotImplemented) {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return err
	}))
}
