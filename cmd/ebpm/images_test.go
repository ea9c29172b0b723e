// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/manifest"
)

func TestCommonArchitectures(t *testing.T) {
	amd64, arm64 := manifest.Platform{OS: "linux", Architecture: "amd64"}, manifest.Platform{OS: "linux", Architecture: "arm64"}
	unknown := namedPlatforms{image: "unknown"}
	both := namedPlatforms{"both", []manifest.Platform{amd64, arm64}}
	one := namedPlatforms{"one", []manifest.Platform{amd64}}
	other := namedPlatforms{"other", []manifest.Platform{arm64}}
	for _, tt := range []struct {
		name   string
		images []namedPlatforms
		want   []string
		err    string
	}{
		{"nothing is known", []namedPlatforms{unknown, unknown}, nil, ""},
		{"both", []namedPlatforms{both, both}, []string{"amd64", "arm64"}, ""},
		{"the second is of one", []namedPlatforms{both, one}, []string{"amd64"}, ""},
		{"only the second is known", []namedPlatforms{unknown, other}, []string{"arm64"}, ""},
		{"only the first is known", []namedPlatforms{other, unknown}, []string{"arm64"}, ""},
		{"none in common", []namedPlatforms{one, other}, nil, "no node can start the images of a build: one is for linux/amd64; other is for linux/arm64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := commonArchitectures(tt.images...)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || manifest.KindOf(err) != manifest.KindPrecondition {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("architectures differ (-want +got):\n%s", diff)
			}
		})
	}
}
