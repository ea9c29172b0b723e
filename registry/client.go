// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/opencontainers/go-digest"
)

// Options are those of a [Client]. The zero value works.
type Options struct {
	// PlainHTTP lists registries (HOST:PORT) that are reached by plain HTTP,
	// beside localhost, 127.0.0.1 and ::1.
	PlainHTTP []string
	// CAFiles names, for a registry (HOST:PORT), the PEM file of its private
	// CA. A registry that is in it is reached by HTTPS, also on localhost.
	CAFiles map[string]string
	// Store is looked up and filled by [Client.Fetch]; nil is none.
	Store *Store
	// UserAgent is sent to registries; empty is "ebpm".
	UserAgent string
	// Progress is told what happens, from several goroutines; nil is silent.
	Progress func(Event)
	// Warn is told what the user should know but nothing failed by: warnings
	// of a registry, retries, a store that cannot be used. nil drops it.
	Warn func(string)
}

// EventKind says what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	EventStart EventKind = "start" // a blob or manifest is read or written
	EventDone  EventKind = "done"  // it has arrived
	EventSkip  EventKind = "skip"  // it is there already
	EventRetry EventKind = "retry" // an attempt failed; another follows
)

// Event is one step of a push, a pull or a copy.
type Event struct {
	Kind      EventKind
	Reference manifest.Reference
	Digest    digest.Digest
	MediaType string
	Size      int64 // bytes
	// Err is why an attempt failed, and Wait how long until the next one.
	Err  error
	Wait time.Duration
}

// Client reads and writes packages in registries, OCI layouts and OCI archives.
// It is safe for concurrent use.
type Client struct{ o Options }

// New returns a client. Credentials come from the Docker config and its helpers
// (DOCKER_CONFIG is honoured) and are sent to their own registry only.
func New(o Options) (*Client, error) { return &Client{o: o}, nil }

// ErrUnsupported is what [Client.Delete] returns where a registry does not allow
// to delete.
var ErrUnsupported = errors.New("the registry does not allow to delete")

// Pulled is a package for one platform as it came from a registry, a layout or
// the store; every byte of it was verified.
type Pulled struct {
	// Reference is the one that was asked for, with its digest.
	Reference manifest.Reference
	Child
	// Size is what was read, in bytes.
	Size int64
	// Cached is true when all of it came from the store.
	Cached bool
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
	for _, c := range i.Platforms {
		if c.Platform == p {
			return true
		}
	}
	return false
}

// maxChildren is the number of manifests that an index may name. Linux has about
// a dozen architectures that Go knows.
const maxChildren = 64
