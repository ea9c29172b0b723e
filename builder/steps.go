// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	// Built is the folder with package.json and the compiler's facts (build.json,
	// which may not exist). Of a build for Platforms it has a folder with these
	// for each, of the name of its architecture; without them the platform is
	// that of the machine, as the compiler ran on the same.
	Built     string
	Platforms []manifest.Platform
	// Target has the tag that the package gets.
	Target manifest.Reference
	// Created is SOURCE_DATE_EPOCH.
	Created time.Time
}

// PushPackage pushes what was compiled together with its source, and returns the
// target with its digest. It is the last step of the Job.
func PushPackage(ctx context.Context, r Pusher, o PushOptions) (manifest.Reference, error) {
	if o.Source.Digest == "" {
		return manifest.Reference{}, usage("push package: the source %s has no digest", o.Source)
	}
	made, err := readBuilt(o.Built, o.Platforms)
	if err != nil {
		return manifest.Reference{}, fmt.Errorf("push package: %w", err)
	}
	source, err := r.FetchSource(ctx, o.Source)
	if err != nil {
		return manifest.Reference{}, err
	}
	a, err := Assemble(Parts{Source: source, File: o.File, Compiled: made, Tag: o.Target.Tag, Created: o.Created})
	if err != nil {
		return manifest.Reference{}, err
	}
	return r.Push(ctx, a, o.Target)
}

// readBuilt reads what a compiler left in a folder.
func readBuilt(dir string, platforms []manifest.Platform) ([]Compiled, error) {
	if len(platforms) == 0 {
		one, err := readCompiled(dir, manifest.HostPlatform())
		return []Compiled{one}, err
	}
	var made []Compiled
	for _, p := range platforms {
		one, err := readCompiled(filepath.Join(dir, p.Architecture), p)
		if err != nil {
			return nil, fmt.Errorf("for %s: %w", p, err)
		}
		made = append(made, one)
	}
	return made, nil
}

func readCompiled(dir string, platform manifest.Platform) (Compiled, error) {
	// What the compiler left may be a link, too, and lead anywhere.
	if info, err := os.Lstat(dir); err != nil {
		return Compiled{}, err
	} else if !info.IsDir() {
		return Compiled{}, fmt.Errorf("%s is not a folder", dir)
	}
	pkg, err := readFile(filepath.Join(dir, manifest.PackageFile), manifest.MaxPackageSize)
	if err != nil {
		return Compiled{}, err
	}
	facts, err := readFacts(filepath.Join(dir, factsFile))
	if err != nil {
		return Compiled{}, err
	}
	return Compiled{Platform: platform, Package: pkg, Facts: facts}, nil
}

func readFacts(file string) (manifest.BuildFacts, error) {
	var facts manifest.BuildFacts
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
