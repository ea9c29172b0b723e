// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"fmt"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
	"github.com/opencontainers/go-digest"
)

// Parts are what a package is made of.
type Parts struct {
	// Source is source.tar, as [PackSource] made it.
	Source []byte
	// File is the program in it.
	File string
	// Compiled has what the compiler made for each platform.
	Compiled []Compiled
	// Tag gives the version where ebpm.yaml gives none.
	Tag string
	// Created is SOURCE_DATE_EPOCH; zero is the epoch.
	Created time.Time
}

// Compiled is what the compiler made of a source for one platform.
type Compiled struct {
	Platform manifest.Platform
	// Package is package.json as the compiler wrote it.
	Package []byte
	// Facts say how it was compiled; the digest of the source is filled in.
	Facts manifest.BuildFacts
	// BTF is btf.tar.gz, or nil.
	BTF []byte
}

// Assemble makes the artifact of a package. It is the one way to it, for a build
// on this machine and for one in a cluster, and it is pure: the same parts give
// the same digest. What the config says is derived from the object.
func Assemble(p Parts) (*registry.Artifact, error) {
	files, err := readTar(p.Source)
	if err != nil {
		return nil, manifest.WithKind(manifest.KindUnverified, fmt.Errorf("assemble package: %s: %w", manifest.SourceFile, err), "")
	}
	if _, ok := files[p.File]; !ok {
		return nil, manifest.WithKind(manifest.KindUnverified, fmt.Errorf("assemble package: %s has no %s", manifest.SourceFile, p.File), "")
	}
	spec := &manifest.Spec{}
	if data, ok := files[manifest.SpecFile]; ok {
		if spec, err = manifest.ParseSpec(data); err != nil {
			return nil, fmt.Errorf("assemble package: %w", err)
		}
	}
	if spec.Name == "" {
		spec.Name = manifest.SourceName(p.File)
	}
	if spec.Version, err = spec.ResolveVersion(p.Tag); err != nil {
		return nil, err
	}
	var children []registry.Child
	for _, made := range p.Compiled {
		pkg, err := manifest.DecodePackage(made.Package)
		if err != nil {
			return nil, fmt.Errorf("assemble package for %s: %w", made.Platform, err)
		}
		made.Facts.SourceDigest = digest.FromBytes(p.Source).String()
		config, err := manifest.NewConfig(spec, made.Platform, pkg, made.Facts)
		if err != nil {
			return nil, fmt.Errorf("assemble package %s for %s: %w", spec.Name, made.Platform, err)
		}
		children = append(children, registry.Child{
			Platform: made.Platform,
			Config:   config,
			Package:  made.Package,
			Source:   p.Source,
			Readme:   readmeOf(files),
			BTF:      made.BTF,
		})
	}
	return registry.Pack(children, registry.PackOptions{Created: p.Created})
}
