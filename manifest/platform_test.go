// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePlatforms(t *testing.T) {
	amd64, arm64 := Platform{"linux", "amd64"}, Platform{"linux", "arm64"}
	for _, tt := range []struct {
		lists []string
		want  []Platform
		err   string
	}{
		{nil, nil, ""},
		{[]string{"linux/arm64"}, []Platform{arm64}, ""},
		{[]string{"linux/arm64,linux/amd64"}, []Platform{amd64, arm64}, ""},
		{[]string{"linux/arm64", "linux/amd64, linux/arm64"}, []Platform{amd64, arm64}, ""},
		{[]string{""}, nil, "wanted OS/ARCHITECTURE"},
		{[]string{"linux/amd64,"}, nil, "wanted OS/ARCHITECTURE"},
		{[]string{"arm64"}, nil, "wanted OS/ARCHITECTURE"},
		{[]string{"linux/"}, nil, "wanted OS/ARCHITECTURE"},
		{[]string{"windows/amd64"}, nil, "linux only"},
		{[]string{"linux/aarch64"}, nil, "is called arm64"},
		{[]string{"linux/x86_64"}, nil, "is called amd64"},
		{[]string{"linux/arm64/v8"}, nil, "no variant"},
		{[]string{"linux/../etc"}, nil, "small letters"},
	} {
		got, err := ParsePlatforms(tt.lists...)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || KindOf(err) != KindUsage || AdviceOf(err) == "" {
				t.Errorf("%q: error %v of kind %d, want %q", tt.lists, err, KindOf(err), tt.err)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", tt.lists, err, diff)
		}
	}
}

func FuzzParsePlatform(f *testing.F) {
	for _, s := range []string{"linux/amd64", "linux/arm64/v8", "/", "linux/x86_64", "linux/\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePlatform(s)
		if err == nil && p.String() != s {
			t.Errorf("%q became %s", s, p)
		}
		// The architecture names a folder.
		if err == nil && strings.ContainsAny(p.Architecture, "/.\\") {
			t.Errorf("%q: architecture %q", s, p.Architecture)
		}
	})
}
