// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	containers "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sirupsen/logrus"

	"github.com/ebpm/ebpm/manifest"
)

// An image that this machine cannot read has unknown platforms, not none.
func TestImagePlatforms(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	server := httptest.NewServer(containers.New(containers.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	tag, err := name.NewTag(host + "/none:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, empty.Index); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	s := &session{stdio: stdio{err: &stderr}, log: logrus.New()}
	s.log.SetOutput(&stderr)
	s.log.SetLevel(logrus.DebugLevel)
	reg, err := s.client(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ image, said string }{
		{host + "/none:1", ""},
		{host + "/missing:1", "read image " + host + "/missing:1"},
		{"ebpm:1", "names no registry"},
		{"127.0.0.1:1/ebpm:1", "connection refused"},
	} {
		stderr.Reset()
		if got := s.imagePlatforms(t.Context(), reg, tt.image); (got == nil) != (tt.said != "") || len(got) > 0 {
			t.Errorf("%s: platforms %#v", tt.image, got)
		}
		if said := stderr.String(); (said == "") != (tt.said == "") || !strings.Contains(said, tt.said) {
			t.Errorf("%s: --debug says %q, want %q", tt.image, said, tt.said)
		}
	}
}

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
