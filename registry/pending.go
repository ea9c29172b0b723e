// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
)

var errPending = errors.New("not yet")

// Push writes a to a registry, a layout or an archive.
func (c *Client) Push(ctx context.Context, a *Artifact, to manifest.Reference) (manifest.Reference, error) {
	return manifest.Reference{}, errPending
}

// Resolve finds the digest of a reference.
func (c *Client) Resolve(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	return manifest.Reference{}, errPending
}

// Index reads the image index of a package.
func (c *Client) Index(ctx context.Context, ref manifest.Reference) (*Index, error) {
	return nil, errPending
}

// Fetch reads the package for a platform.
func (c *Client) Fetch(ctx context.Context, ref manifest.Reference, platform manifest.Platform) (*Pulled, error) {
	return nil, errPending
}

// Copy copies a whole package.
func (c *Client) Copy(ctx context.Context, from, to manifest.Reference) (manifest.Reference, error) {
	return manifest.Reference{}, errPending
}

// Tag gives the package of ref one more tag.
func (c *Client) Tag(ctx context.Context, ref manifest.Reference, tag string) error {
	return errPending
}

// Tags lists the tags of a repository or layout, sorted.
func (c *Client) Tags(ctx context.Context, ref manifest.Reference) ([]string, error) {
	return nil, errPending
}

// PushSource pushes a source that waits for its build.
func (c *Client) PushSource(ctx context.Context, to manifest.Reference, tar []byte) (manifest.Reference, error) {
	return manifest.Reference{}, errPending
}

// FetchSource reads source.tar of a source or of a package.
func (c *Client) FetchSource(ctx context.Context, ref manifest.Reference) ([]byte, error) {
	return nil, errPending
}

// Delete deletes a manifest by its digest.
func (c *Client) Delete(ctx context.Context, ref manifest.Reference) error { return errPending }

// PushFromStore copies a package from the client's store to its registry.
func (c *Client) PushFromStore(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	return manifest.Reference{}, errPending
}

// PullToStore copies a whole package into the client's store.
func (c *Client) PullToStore(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	return manifest.Reference{}, errPending
}

// Store is a local OCI layout whose names are full references.
type Store struct{ dir string }

// Entry is one package of a [Store].
type Entry struct {
	// Reference is its name, with the digest.
	Reference manifest.Reference
	// Size is what it takes in the store, in bytes.
	Size      int64
	Platforms []manifest.Platform
	// Name, Version and Description are the package's own words.
	Name, Version, Description string
	// Created is the time in the package (SOURCE_DATE_EPOCH), Used that of its
	// last use.
	Created, Used time.Time
	// Err says why the package cannot be read, for instance because its bytes
	// were changed.
	Err error
}

// OpenStore opens the store in a folder.
func OpenStore(dir string) (*Store, error) { return &Store{dir: dir}, nil }

// Put writes a package into the store under a name.
func (s *Store) Put(ctx context.Context, a *Artifact, ref manifest.Reference) (manifest.Reference, error) {
	return manifest.Reference{}, errPending
}

// Resolve finds the digest of a name in the store.
func (s *Store) Resolve(ctx context.Context, ref manifest.Reference) (manifest.Reference, error) {
	return manifest.Reference{}, errPending
}

// Fetch reads the package for a platform.
func (s *Store) Fetch(ctx context.Context, ref manifest.Reference, platform manifest.Platform) (*Pulled, error) {
	return nil, errPending
}

// List lists the packages of the store.
func (s *Store) List(ctx context.Context) ([]Entry, error) { return nil, errPending }

// Remove takes a name away.
func (s *Store) Remove(ctx context.Context, ref manifest.Reference) error { return errPending }

// Trim removes packages until the store has at most maxBytes.
func (s *Store) Trim(ctx context.Context, maxBytes int64, keep []digest.Digest) (freed int64, err error) {
	return 0, errPending
}
