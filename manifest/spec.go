// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
	"sigs.k8s.io/yaml"
)

// SpecFile is the name of the file that describes a source.
const SpecFile = "ebpm.yaml"

// Spec is an ebpm.yaml: what its author says about a source.
type Spec struct {
	Name        string `json:"name"`
	Version     string `json:"version,omitempty"`
	Description string `json:"description,omitempty"`
	// License is an SPDX expression.
	License string `json:"license,omitempty"`
	// Source is the path of the .bpf.c file, relative to the folder; it is
	// needed only where a folder has several.
	Source   string    `json:"source,omitempty"`
	Requires *Requires `json:"requires,omitempty"`
	// Files are further files for the source layer, relative to the folder.
	Files []string `json:"files,omitempty"`
	// Carry are the maps that outlive an instance in an upgrade, beside those that
	// do anyway.
	Carry Carry `json:"carry,omitzero"`
}

// Requires tightens what the object needs; it can never loosen it.
type Requires struct {
	// Kernel is a constraint on X.Y.Z, such as ">=5.15".
	Kernel string `json:"kernel,omitempty"`
}

var nameRE = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)

// ParseSpec reads an ebpm.yaml. An unknown key is an error, so that a typing
// error is not a setting that does nothing.
func ParseSpec(data []byte) (*Spec, error) {
	var s Spec
	if err := yaml.UnmarshalStrict(data, &s); err != nil {
		return nil, fmt.Errorf("parse %s: %w", SpecFile, err)
	}
	if s.Name != "" && !nameRE.MatchString(s.Name) {
		return nil, fmt.Errorf("parse %s: name %q: wanted lower case letters, digits and single . _ - between them", SpecFile, s.Name)
	}
	if s.Version != "" {
		v, err := ParseVersion(s.Version)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", SpecFile, err)
		}
		s.Version = v.String()
	}
	if s.Requires != nil && s.Requires.Kernel != "" {
		if _, err := semver.NewConstraint(s.Requires.Kernel); err != nil {
			return nil, fmt.Errorf("parse %s: requires.kernel %q: %w", SpecFile, s.Requires.Kernel, err)
		}
	}
	for _, file := range append([]string{s.Source}, s.Files...) {
		if file != "" && !IsLocalPath(file) {
			return nil, fmt.Errorf("parse %s: file %q leaves the source folder", SpecFile, file)
		}
	}
	return &s, nil
}

// IsLocalPath reports whether a slash-separated path stays in the folder that
// it is relative to.
func IsLocalPath(p string) bool {
	clean := path.Clean(p)
	return p != "" && !path.IsAbs(p) && clean != ".." && !strings.HasPrefix(clean, "../") && !strings.ContainsAny(p, "\\\x00")
}

// SourceName returns the name of a source file without its endings:
// opensnoop.bpf.c is opensnoop.
func SourceName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return name
}

// ResolveVersion returns the version of a package that is built from s under a
// tag: that of ebpm.yaml, else the tag where it is a version. When both exist
// they must agree.
func (s *Spec) ResolveVersion(tag string) (string, error) {
	tagged, ok := VersionOfTag(tag)
	switch {
	case s.Version == "" && ok:
		return tagged, nil
	case s.Version != "" && ok && tagged != s.Version:
		return "", WithKind(KindUsage,
			fmt.Errorf("the tag %s and the version %s of %s differ", tag, s.Version, SpecFile),
			"Change one of them, or drop `version` from "+SpecFile+" and let the tag say it.")
	}
	return s.Version, nil
}

// AllowsKernel reports whether a kernel release satisfies r.
func (r *Requires) AllowsKernel(release string) (bool, error) {
	if r == nil || r.Kernel == "" {
		return true, nil
	}
	constraint, err := semver.NewConstraint(r.Kernel)
	if err != nil {
		return false, fmt.Errorf("parse kernel constraint %q: %w", r.Kernel, err)
	}
	v, err := KernelVersion(release)
	if err != nil {
		return false, err
	}
	return constraint.Check(v), nil
}
