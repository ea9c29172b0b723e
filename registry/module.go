// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// The media types of the images that eunomia-bpf's ecli pushes and pulls (spec
// section D, ecli-rs 0.2.9).
const (
	ModuleMediaType       = "application/vnd.wasm.content.layer.v1+wasm"
	moduleConfigMediaType = "application/vnd.wasm.config.v1+json"
)

// Those of Docker, which eunomia-bpf's ecli takes too.
const (
	dockerManifestMediaType = "application/vnd.docker.distribution.manifest.v2+json"
	dockerListMediaType     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// MaxModuleSize bounds a module, in bytes.
const MaxModuleSize = manifest.MaxSourceSize

// Module is what an image of eunomia-bpf's ecli holds. Its push calls everything
// a Wasm module: the bytes may be those of a package.json.
type Module struct {
	// Reference is the one that was asked for, with its digest.
	Reference manifest.Reference
	Data      []byte
}

// moduleManifest is written with its keys sorted and without a mediaType, as
// eunomia-bpf's ecli does.
type moduleManifest struct {
	Annotations   map[string]string  `json:"annotations"`
	Config        moduleDescriptor   `json:"config"`
	Layers        []moduleDescriptor `json:"layers"`
	SchemaVersion int                `json:"schemaVersion"`
}

type moduleDescriptor struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
}

// PushModule writes an image with one module and returns the reference with its
// digest: an image in the form of eunomia-bpf's ecli.
func (c *Client) PushModule(ctx context.Context, module []byte, annotations map[string]string, to manifest.Reference) (manifest.Reference, error) {
	to = to.WithDefaultTag()
	pinned, err := c.pushModule(ctx, module, annotations, to)
	return pinned, explain("push", to, err)
}

func (c *Client) pushModule(ctx context.Context, module []byte, annotations map[string]string, to manifest.Reference) (manifest.Reference, error) {
	if len(module) > MaxModuleSize {
		return to, fmt.Errorf("%w: a module of %d bytes, at most %d are allowed", manifest.ErrTooLarge, len(module), MaxModuleSize)
	}
	config := []byte("{}")
	blobs := []struct {
		ocispec.Descriptor
		data []byte
	}{
		{content.NewDescriptorFromBytes(ModuleMediaType, module), module},
		{content.NewDescriptorFromBytes(moduleConfigMediaType, config), config},
	}
	describe := func(d ocispec.Descriptor) moduleDescriptor { return moduleDescriptor{d.Digest, d.MediaType, d.Size} }
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(moduleManifest{
		Annotations:   annotations,
		Layers:        []moduleDescriptor{describe(blobs[0].Descriptor)},
		Config:        describe(blobs[1].Descriptor),
		SchemaVersion: 2,
	}); err != nil {
		return to, err
	}
	text := bytes.TrimSuffix(data.Bytes(), []byte("\n"))
	r := &root{Descriptor: content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, text), data: text}
	if to.Digest != "" && to.Digest != r.Digest {
		return to, manifest.WithKind(manifest.KindUsage, fmt.Errorf("what is written has digest %s", r.Digest), "Leave the digest out.")
	}
	p, err := c.modulePlace(to)
	if err != nil {
		return to, err
	}
	for _, b := range blobs {
		if there, err := p.Exists(ctx, b.Descriptor); err != nil {
			return to, err
		} else if there {
			continue
		}
		if err := p.Push(ctx, b.Descriptor, bytes.NewReader(b.data)); err != nil {
			return to, err
		}
	}
	if to.Tag == "" {
		err = p.Push(ctx, r.Descriptor, bytes.NewReader(text))
	} else {
		err = p.name(ctx, to, r)
	}
	if err != nil {
		return to, err
	}
	return to.WithDigest(r.Digest), nil
}

// PullModule reads the first layer of an image of eunomia-bpf's ecli; as there,
// every layer must be a module. Of an image index it takes the image for this
// machine. Errors are of [manifest.KindNotFound] where the image or the platform
// is not there, and of [manifest.KindUnverified] where its bytes are wrong or it
// is another sort of image.
func (c *Client) PullModule(ctx context.Context, ref manifest.Reference) (*Module, error) {
	ref = ref.WithDefaultTag()
	m, err := c.pullModule(ctx, ref)
	if err != nil {
		return nil, explain("pull", ref, err)
	}
	return m, nil
}

func (c *Client) pullModule(ctx context.Context, ref manifest.Reference) (*Module, error) {
	p, err := c.modulePlace(ref)
	if err != nil {
		return nil, err
	}
	data, err := p.manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	named := digest.FromBytes(data)
	if err := agree(ref, named); err != nil {
		return nil, err
	}
	image, children, err := decodeImage(data)
	if err != nil {
		return nil, unverified(err)
	}
	if children != nil {
		child, err := imageFor(children, manifest.HostPlatform())
		if err != nil {
			return nil, err
		}
		if data, err = fetchAll(ctx, p, child); err != nil {
			return nil, err
		}
		if image, children, err = decodeImage(data); err != nil {
			return nil, unverified(fmt.Errorf("%s: %w", child.Digest, err))
		}
		if children != nil {
			return nil, unverified(fmt.Errorf("%s is an image index inside of an image index", child.Digest))
		}
	}
	for _, layer := range image {
		if layer.MediaType != ModuleMediaType {
			return nil, manifest.WithKind(manifest.KindUnverified,
				fmt.Errorf("incompatible layer media type: %s, wanted %s", layer.MediaType, ModuleMediaType),
				"Neither a package of ebpm nor an image that `ecli push` writes; other images are not run.")
		}
	}
	module, err := fetchAll(ctx, p, image[0])
	if err != nil {
		return nil, err
	}
	return &Module{Reference: ref.WithDigest(named), Data: module}, nil
}

// decodeImage returns the layers of an image, at least one, or the images of an
// index, which are not nil then. Many tools leave out the media type.
func decodeImage(data []byte) (layers, children []ocispec.Descriptor, err error) {
	var m struct {
		MediaType string               `json:"mediaType"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, nil, fmt.Errorf("decode manifest: %w", err)
	}
	isIndex := m.MediaType == ocispec.MediaTypeImageIndex || m.MediaType == dockerListMediaType
	isImage := m.MediaType == ocispec.MediaTypeImageManifest || m.MediaType == dockerManifestMediaType
	if m.MediaType == "" {
		isIndex, isImage = m.Manifests != nil, m.Layers != nil
	}
	switch {
	case m.Manifests != nil && m.Layers != nil:
		return nil, nil, errors.New("the manifest has layers and manifests: it is either an image or an index")
	case isIndex && (len(m.Manifests) == 0 || len(m.Manifests) > maxChildren):
		return nil, nil, fmt.Errorf("the image index names %d manifests, wanted 1 to %d", len(m.Manifests), maxChildren)
	case isIndex:
		return nil, m.Manifests, nil
	case !isImage:
		return nil, nil, fmt.Errorf("not an image, but a document of media type %q", m.MediaType)
	case len(m.Layers) == 0 || len(m.Layers) > maxLayers:
		return nil, nil, fmt.Errorf("the image has %d layers, wanted 1 to %d", len(m.Layers), maxLayers)
	}
	return m.Layers, nil, nil
}

// imageFor returns the image of an index that is for a platform.
func imageFor(images []ocispec.Descriptor, platform manifest.Platform) (ocispec.Descriptor, error) {
	e := &PlatformError{Platform: platform}
	for _, d := range images {
		if d.Platform == nil {
			continue
		}
		built := manifest.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture}
		if built != platform {
			e.Built = append(e.Built, built)
			continue
		}
		if !slices.Contains([]string{ocispec.MediaTypeImageManifest, dockerManifestMediaType}, d.MediaType) || d.Size > manifest.MaxManifestSize {
			return d, unverified(fmt.Errorf("%s (%s, %d bytes) is not the manifest of an image", d.Digest, d.MediaType, d.Size))
		}
		return d, nil
	}
	if len(e.Built) == 0 {
		return ocispec.Descriptor{}, unverified(errors.New("the image index names no platform"))
	}
	return ocispec.Descriptor{}, manifest.WithKind(manifest.KindNotFound, e, "")
}

func (c *Client) modulePlace(ref manifest.Reference) (*remotePlace, error) {
	if ref.Scheme != manifest.SchemeRegistry {
		return nil, manifest.WithKind(manifest.KindUsage, errors.New("images of modules are kept in registries only"), "Give REGISTRY/REPOSITORY:TAG.")
	}
	repo, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	return &remotePlace{c: c, repo: repo, ref: ref}, nil
}
