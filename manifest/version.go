// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// ParseVersion reads a semantic version X.Y.Z; one leading v is allowed and
// dropped.
func ParseVersion(s string) (*semver.Version, error) {
	v, err := semver.StrictNewVersion(strings.TrimPrefix(s, "v"))
	if err != nil {
		return nil, fmt.Errorf("parse version %q: %w (wanted: X.Y.Z, such as 1.0.0)", s, err)
	}
	return v, nil
}

// TagOfVersion returns the tag of a version. A tag may not hold the + of build
// metadata, which becomes _ as in Helm.
func TagOfVersion(version string) string {
	return strings.ReplaceAll(version, "+", "_")
}

// VersionOfTag returns the version that a tag names, and whether it names one.
func VersionOfTag(tag string) (string, bool) {
	v, err := ParseVersion(strings.ReplaceAll(tag, "_", "+"))
	if err != nil {
		return "", false
	}
	return v.String(), true
}

// KernelVersion returns the X.Y.Z of a kernel release such as
// 6.1.0-18-cloud-amd64. Vendors backport features without changing it, so it
// only advises.
func KernelVersion(release string) (*semver.Version, error) {
	end := strings.IndexFunc(release, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	numbers := release
	if end >= 0 {
		numbers = release[:end]
	}
	parts := strings.SplitN(strings.Trim(numbers, "."), ".", 4)
	if len(parts) > 3 {
		parts = parts[:3]
	}
	v, err := semver.NewVersion(strings.Join(parts, "."))
	if err != nil || numbers == "" {
		return nil, fmt.Errorf("parse kernel release %q: no X.Y.Z at its start", release)
	}
	return v, nil
}

// Version is that of ebpm itself, of which ebpm, ecc and ecli are parts.
const Version = "0.1.0"
