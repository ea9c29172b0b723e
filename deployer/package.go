// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ebpm/ebpm/manifest"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Package is what a plan needs to know of a package. All of it comes from bytes
// that were verified.
type Package struct {
	// Reference has a digest, and the tag that it was resolved from, if any.
	Reference manifest.Reference
	// Platforms are those of the index, sorted by architecture.
	Platforms []PlatformPackage
}

// PlatformPackage is the package for one platform.
type PlatformPackage struct {
	Platform manifest.Platform
	Config   *manifest.Config
	Object   *manifest.Object
	// Meta describes the program's options, among others.
	Meta *manifest.Meta
	// Columns are the fields of its events, in their order.
	Columns []string
	// ObjectSize and PackageSize are in bytes, that of package.json as stored.
	ObjectSize, PackageSize int
	// BTFSize is that of btf.tar.gz in bytes, 0 where there is none.
	BTFSize int
}

// NewPlatformPackage verifies one child of a package: its config must say of
// its object what the object says, and its maps must be of a size that a runner
// accepts. The error is of [manifest.KindUnverified].
func NewPlatformPackage(platform manifest.Platform, config *manifest.Config, packageJSON []byte) (PlatformPackage, error) {
	fail := func(err error) (PlatformPackage, error) {
		return PlatformPackage{}, fmt.Errorf("package for %s: %w", platform, err)
	}
	p, err := manifest.DecodePackage(packageJSON)
	if err != nil {
		return fail(manifest.WithKind(manifest.KindUnverified, err, ""))
	}
	if err := config.Verify(p); err != nil {
		return fail(err)
	}
	object, err := manifest.Inspect(p.Object)
	if err != nil {
		return fail(manifest.WithKind(manifest.KindUnverified, err, ""))
	}
	// The runner would refuse it too, once on every node.
	if err := object.CheckMaps(); err != nil {
		return fail(err)
	}
	return PlatformPackage{
		Platform:    platform,
		Config:      config,
		Object:      object,
		Meta:        &p.Meta,
		Columns:     object.Columns(&p.Meta),
		ObjectSize:  len(p.Object),
		PackageSize: len(packageJSON),
	}, nil
}

// platform returns the package for an architecture, or nil.
func (p *Package) platform(architecture string) *PlatformPackage {
	for i := range p.Platforms {
		if p.Platforms[i].Platform.Architecture == architecture {
			return &p.Platforms[i]
		}
	}
	return nil
}

func (p *Package) architectures() []string {
	var all []string
	for _, platform := range p.Platforms {
		all = append(all, platform.Platform.Architecture)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// hasBTF reports whether the package has the types of kernels that do not show
// them.
func (p *Package) hasBTF() bool {
	return slices.ContainsFunc(p.Platforms, func(p PlatformPackage) bool { return p.BTFSize > 0 })
}

// exclusive returns a program that cannot run beside its successor, or "".
func (p *Package) exclusive() string {
	for _, platform := range p.Platforms {
		if name := platform.Object.Exclusive(); name != "" {
			return name
		}
	}
	return ""
}

// handsOver reports whether instances gain by handing over to each other.
func (p *Package) handsOver() bool {
	return !slices.ContainsFunc(p.Platforms, func(p PlatformPackage) bool { return !p.Object.HandsOver() })
}

// moves returns how each program moves; where platforms differ, the last one's.
func (p *Package) moves() map[string]manifest.Move {
	all := map[string]manifest.Move{}
	for _, platform := range p.Platforms {
		maps.Copy(all, platform.Object.Moves())
	}
	return all
}

// carry returns which maps the author wants to be carried over. It is one word
// for all platforms: they were built from one ebpm.yaml.
func (p *Package) carry() manifest.Carry { return p.Platforms[0].Config.Carry }

// state returns the layouts of the maps that are carried over, by architecture
// and name, each short: they tell apart what the runner compares in full.
func (p *Package) state() (map[string]map[string]string, error) {
	const short = 16
	all := map[string]map[string]string{}
	for _, platform := range p.Platforms {
		states, err := manifest.StateMaps(platform.Object.Spec, p.carry())
		if err != nil {
			return nil, manifest.WithKind(manifest.KindUnverified, fmt.Errorf("package for %s: %w", platform.Platform, err), "")
		}
		layouts := map[string]string{}
		for _, s := range states {
			layouts[s.Name] = s.Layout[:short]
		}
		all[platform.Platform.Architecture] = layouts
	}
	return all, nil
}

// onInterface reports whether a program is attached to a network interface.
func (p *Package) onInterface() bool {
	return slices.ContainsFunc(p.Platforms, func(p PlatformPackage) bool { return p.Object.OnInterface() })
}

// isOnInterface reports whether the program of that name is attached to one.
func (p *Package) isOnInterface(program string) bool {
	return slices.ContainsFunc(p.Platforms, func(p PlatformPackage) bool { return p.Object.IsOnInterface(program) })
}

// DefaultName returns the name of a release of ref that was given none: the
// last component of the repository as a DNS label. The error is of
// [manifest.KindUsage].
func DefaultName(ref manifest.Reference) (string, error) {
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, ref.Name()), "-")
	if len(name) > validation.DNS1123LabelMaxLength {
		name = strings.TrimRight(name[:validation.DNS1123LabelMaxLength], "-")
	}
	if err := checkName(name); err != nil {
		return "", manifest.WithKind(manifest.KindUsage, fmt.Errorf("name a release of %s: %q is no DNS label", ref, ref.Name()), "Give it a name with --name.")
	}
	return name, nil
}

func checkName(name string) error {
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		return manifest.WithKind(manifest.KindUsage, fmt.Errorf("release name %q: %s", name, strings.Join(problems, "; ")), "")
	}
	return nil
}
