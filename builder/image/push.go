// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/ebpm/ebpm/manifest"
)

// Push pushes each image to the repository PREFIX/NAME, with ebpm's version as
// its tag, where prefix is REGISTRY[/PATH]. Blobs that are there already are
// not sent again. Credentials are those of the Docker config. Registries are
// spoken to by HTTPS, by plain HTTP only when plainHTTP is set. It returns the
// references by digest, that of the index, in the order of images.
func Push(ctx context.Context, prefix string, plainHTTP bool, images []*Image) ([]manifest.Reference, error) {
	refs := make([]manifest.Reference, len(images))
	for i, image := range images {
		ref, err := manifest.ParseReference(prefix+"/"+image.Name+":"+manifest.Version, "")
		if err != nil {
			return nil, fmt.Errorf("push image %s: %w", image.Name, err)
		}
		if err := push(ctx, ref, plainHTTP, image); err != nil {
			return nil, fmt.Errorf("push image %s: %w", ref, err)
		}
		d, err := imageDigest(image)
		if err != nil {
			return nil, err
		}
		refs[i] = ref.WithDigest(d).Pinned()
	}
	return refs, nil
}

func push(ctx context.Context, ref manifest.Reference, plainHTTP bool, image *Image) error {
	options := []name.Option{name.StrictValidation}
	transport := remote.DefaultTransport
	if plainHTTP {
		options = append(options, name.Insecure)
	} else {
		transport = onlyHTTPS{transport}
	}
	tag, err := name.NewTag(ref.String(), options...)
	if err != nil {
		return err
	}
	return remote.WriteIndex(tag, image.Index,
		remote.WithContext(ctx),
		remote.WithTransport(transport),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithUserAgent("ebpm/"+manifest.Version),
	)
}

// errPlainHTTP is the answer to a request that would not be encrypted.
var errPlainHTTP = errors.New("the registry is not configured for plain HTTP")

// onlyHTTPS refuses plain HTTP, which the library would try by itself where
// the registry has a private address.
type onlyHTTPS struct{ http.RoundTripper }

func (t onlyHTTPS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, errPlainHTTP
	}
	return t.RoundTripper.RoundTrip(r)
}

func imageDigest(image *Image) (digest.Digest, error) {
	h, err := image.Index.Digest()
	return digest.Digest(h.String()), err
}
