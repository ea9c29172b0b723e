// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

const (
	// factsFile is the compiler's word on how it compiled, beside package.json.
	factsFile    = "build.json"
	maxFactsSize = 64 << 10
)

// SourceFetcher reads the source that waits for a build; *registry.Client is one.
type SourceFetcher interface {
	FetchSource(ctx context.Context, ref manifest.Reference) ([]byte, error)
}

// Pusher reads a source and writes a package; *registry.Client is one.
type Pusher interface {
	SourceFetcher
	Push(ctx context.Context, a *registry.Artifact, to manifest.Reference) (manifest.Reference, error)
}

var _ Pusher = (*registry.Client)(nil)

// PullSource unpacks a source that waits for its build into a folder. It is the
// first step of the Job.
func PullSource(ctx context.Context, r SourceFetcher, ref manifest.Reference, dir string) error {
	data, err := r.FetchSource(ctx, ref)
	if err != nil {
		return err
	}
	return UnpackSource(data, dir)
}

// PushOptions are those of [PushPackage].
type PushOptions struct {
	// Source is the source that was compiled, by its digest, and File the
	// program in it.
	Source manifest.Reference
	File   string
	// Package is the path of package.json, Facts that of the compiler's facts,
	// which may not exist.
	Package, Facts string
	// Target has the tag that the package gets.
	Target manifest.Reference
	// Created is SOURCE_DATE_EPOCH.
	Created time.Time
}

// PushPackage pushes what was compiled together with its source, and returns the
// target with its digest. It is the last step of the Job. The platform is that of
// the machine, as the compiler ran on the same.
func PushPackage(ctx context.Context, r Pusher, o PushOptions) (manifest.Reference, error) {
	if o.Source.Digest == "" {
		return manifest.Reference{}, usage("push package: the source %s has no digest", o.Source)
	}
	pkg, err := readFile(o.Package, manifest.MaxPackageSize)
	if err != nil {
		return manifest.Reference{}, fmt.Errorf("push package: %w", err)
	}
	facts, err := readFacts(o.Facts)
	if err != nil {
		return manifest.Reference{}, fmt.Errorf("push package: %w", err)
	}
	source, err := r.FetchSource(ctx, o.Source)
	if err != nil {
		return manifest.Reference{}, err
	}
	a, err := Assemble(Parts{
		Source:   source,
		File:     o.File,
		Package:  pkg,
		Facts:    facts,
		Platform: manifest.HostPlatform(),
		Tag:      o.Target.Tag,
		Created:  o.Created,
	})
	if err != nil {
		return manifest.Reference{}, err
	}
	return r.Push(ctx, a, o.Target)
}

func readFacts(file string) (manifest.BuildFacts, error) {
	var facts manifest.BuildFacts
	if file == "" {
		return facts, nil
	}
	data, err := readFile(file, maxFactsSize)
	if errors.Is(err, fs.ErrNotExist) {
		return facts, nil
	}
	if err != nil {
		return facts, err
	}
	if err := json.Unmarshal(data, &facts); err != nil {
		return facts, fmt.Errorf("decode build facts %s: %w", file, err)
	}
	return facts, nil
}

// readFile reads a regular file of at most limit bytes: what a compiler left may
// be anything.
func readFile(file string, limit int64) ([]byte, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := manifest.ReadBounded(f, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return data, nil
}
