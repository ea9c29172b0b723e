// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// Platform is what an object was compiled for. eBPF has no CPU of its own, but
// the types of the kernel that a program reads differ from one to the next.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"` // as GOARCH spells it
}

// HostPlatform is that of nodes like this machine.
func HostPlatform() Platform {
	return Platform{OS: "linux", Architecture: runtime.GOARCH}
}

// String returns OS/ARCHITECTURE.
func (p Platform) String() string { return p.OS + "/" + p.Architecture }

// otherNames are what uname and Debian call architectures.
var otherNames = map[string]string{"x86_64": "amd64", "x86": "amd64", "aarch64": "arm64"}

// ParsePlatform reads OS/ARCHITECTURE, such as linux/arm64. eBPF is Linux's, so
// that another system is refused. The error is of [KindUsage].
func ParsePlatform(s string) (Platform, error) {
	system, architecture, ok := strings.Cut(s, "/")
	fail := func(why string) (Platform, error) {
		return Platform{}, WithKind(KindUsage, fmt.Errorf("platform %q: %s", s, why), "A platform is spelled like linux/amd64 or linux/arm64.")
	}
	switch {
	case !ok || system == "" || architecture == "":
		return fail("wanted OS/ARCHITECTURE")
	case system != "linux":
		return fail("eBPF programs run on linux only")
	case otherNames[architecture] != "":
		return fail("this architecture is called " + otherNames[architecture] + " here")
	case strings.ContainsFunc(architecture, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }):
		return fail("an architecture is made of small letters and digits, and has no variant")
	}
	return Platform{OS: system, Architecture: architecture}, nil
}

// ParsePlatforms reads lists of platforms, separated by commas, and returns each
// platform once, sorted. The error is of [KindUsage].
func ParsePlatforms(lists ...string) ([]Platform, error) {
	var platforms []Platform
	for _, list := range lists {
		for word := range strings.SplitSeq(list, ",") {
			p, err := ParsePlatform(strings.TrimSpace(word))
			if err != nil {
				return nil, err
			}
			platforms = append(platforms, p)
		}
	}
	slices.SortFunc(platforms, func(a, b Platform) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(platforms), nil
}
