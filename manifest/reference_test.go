// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"
	"testing"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseReference(t *testing.T) {
	for _, tt := range []struct{ in, registry, want string }{
		{"opensnoop", "reg.example", "reg.example/opensnoop"},
		{"opensnoop:1.0.0", "reg.example:5000", "reg.example:5000/opensnoop:1.0.0"},
		{"team/opensnoop:1.0.0", "reg.example/base/", "reg.example/base/team/opensnoop:1.0.0"},
		{"reg.example/opensnoop", "", "reg.example/opensnoop"},
		{"localhost/opensnoop:v1", "other.example", "localhost/opensnoop:v1"},
		{"localhost:5000/a/b@" + someDigest, "", "localhost:5000/a/b@" + someDigest},
		{"10.77.0.1:5000/opensnoop:1.0.0@" + someDigest, "", "10.77.0.1:5000/opensnoop:1.0.0@" + someDigest},
		{"[::1]:5000/opensnoop", "", "[::1]:5000/opensnoop"},
		{"[::1]/opensnoop", "", "[::1]/opensnoop"},
		{"a__b/c-d.e_f:T.1_x-y", "reg.example", "reg.example/a__b/c-d.e_f:T.1_x-y"},
		{"oci:dir", "", "oci:dir"},
		{"oci:/a/b:1.0.0", "", "oci:/a/b:1.0.0"},
		{"oci:a:b/c", "", "oci:a:b/c"},
		{"oci-archive:p.tar:latest@" + someDigest, "", "oci-archive:p.tar:latest@" + someDigest},
	} {
		t.Run(tt.in, func(t *testing.T) {
			r, err := ParseReference(tt.in, tt.registry)
			if err != nil {
				t.Fatal(err)
			}
			if r.String() != tt.want {
				t.Errorf("got %s, want %s", r, tt.want)
			}
			again, err := ParseReference(r.String(), "")
			if err != nil || again != r {
				t.Errorf("%s parses to %+v, %v; want %+v", r, again, err, r)
			}
		})
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "no repository",
		"opensnoop":                 "names no registry",
		"Opensnoop":                 "lower case",
		"reg.example/":              "no repository",
		"reg.example/Opensnoop":     "lower case",
		"reg.example/a//b":          "lower case",
		"reg.example/a/../b":        "lower case",
		"reg.example/a:b:c":         "lower case",
		"reg.example/a:-x":          "tag",
		"reg.example/a@md5:aa":      "digest",
		"reg.example/a@sha256:abcd": "digest",
		"reg.example/a@" + strings.Replace(someDigest, "sha256:", "sha512:", 1): "digest",
		"reg.example:0/a":       "port",
		"reg.example:99999/a":   "port",
		"reg_example.x/a":       "host name",
		"-reg.example/a":        "host name",
		"[::1/a":                "not an address",
		"oci:":                  "no path",
		"oci-archive::1.0.0":    "no path",
		"reg.example/a b":       "lower case",
		"reg.example/a\x00":     "lower case",
		"https://reg.example/a": "port",
		"reg.example/" + strings.Repeat("a", 300): "at most 255",
	} {
		t.Run(in, func(t *testing.T) {
			_, err := ParseReference(in, "")
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
			if KindOf(err) != KindUsage {
				t.Errorf("kind %d, want KindUsage", KindOf(err))
			}
		})
	}
	_, err := ParseReference("opensnoop:1.0.0", "")
	if !strings.Contains(AdviceOf(err), "EBPM_REGISTRY") {
		t.Errorf("advice %q does not say how to set a registry", AdviceOf(err))
	}
}

func TestReferenceParts(t *testing.T) {
	r, err := ParseReference("reg.example/team/opensnoop:1.0.0@"+someDigest, "")
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		r.Name():                    "opensnoop",
		r.Context():                 "reg.example/team/opensnoop",
		r.Pinned().String():         "reg.example/team/opensnoop@" + someDigest,
		r.WithTag("2").String():     "reg.example/team/opensnoop:2",
		r.WithDefaultTag().String(): r.String(),
		Reference{Registry: "a.b", Repository: "c"}.WithDefaultTag().String(): "a.b/c:latest",
		Reference{Scheme: SchemeLayout, Path: "x/y/"}.Name():                  "y",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestVersions(t *testing.T) {
	for in, want := range map[string]string{"1.0.0": "1.0.0", "v1.2.3": "1.2.3", "1.0.0-rc.1+b.2": "1.0.0-rc.1+b.2"} {
		v, err := ParseVersion(in)
		if err != nil || v.String() != want {
			t.Errorf("ParseVersion(%q) = %v, %v; want %s", in, v, err, want)
		}
		if back, ok := VersionOfTag(TagOfVersion(in)); !ok || back != want {
			t.Errorf("VersionOfTag(TagOfVersion(%q)) = %q, %v; want %s", in, back, ok, want)
		}
	}
	for _, in := range []string{"", "1", "1.2", "01.2.3", "vv1.2.3", "latest", "1.2.3 "} {
		if v, err := ParseVersion(in); err == nil {
			t.Errorf("ParseVersion(%q) = %s, want an error", in, v)
		}
	}
	for in, want := range map[string]string{"6.1.0-18-cloud-amd64": "6.1.0", "6.18.44-fc-v669": "6.18.44", "5.4": "5.4.0", "4.18.0-553.el8_10.x86_64": "4.18.0", "6.12.107+deb12-amd64": "6.12.107"} {
		if v, err := KernelVersion(in); err != nil || v.String() != want {
			t.Errorf("KernelVersion(%q) = %v, %v; want %s", in, v, err, want)
		}
	}
	if v, err := KernelVersion("linux"); err == nil {
		t.Errorf("KernelVersion(linux) = %s, want an error", v)
	}
}

func TestParseSpec(t *testing.T) {
	s, err := ParseSpec([]byte("name: opensnoop\nversion: v1.0.0\nrequires: {kernel: '>=5.8'}\nfiles: [a/b.h]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "opensnoop" || s.Version != "1.0.0" || s.Files[0] != "a/b.h" {
		t.Errorf("parsed %+v", s)
	}
	for release, want := range map[string]bool{"5.8.0-rc1": true, "5.7.19": false, "6.1.0-18-cloud-amd64": true} {
		if got, err := s.Requires.AllowsKernel(release); err != nil || got != want {
			t.Errorf("AllowsKernel(%s) = %v, %v; want %v", release, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"nmae: x":                    "nmae",
		"name: Big":                  "lower case",
		"version: '1'":               "X.Y.Z",
		"requires: {kernel: newest}": "newest",
		"requires: {kernels: '>=5'}": "kernels",
		"source: ../x.bpf.c":         "leaves the source folder",
		"files: [/etc/passwd]":       "leaves the source folder",
		"files: ['a/../../b']":       "leaves the source folder",
		"name: [":                    "parse ebpm.yaml",
		"name: a\nname: b":           "already set",
		"carry: some":                `wanted "all" or a list of maps`,
		"carry: {all: true}":         `wanted "all" or a list of maps`,
	} {
		if _, err := ParseSpec([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSpec(%q): error %v, want one with %q", in, err, want)
		}
	}
}

func TestResolveVersion(t *testing.T) {
	for _, tt := range []struct {
		version, tag, want string
		fails              bool
	}{
		{"1.0.0", "1.0.0", "1.0.0", false},
		{"1.0.0", "v1.0.0", "1.0.0", false},
		{"1.0.0", "latest", "1.0.0", false},
		{"", "2.0.0_x", "2.0.0+x", false},
		{"", "latest", "", false},
		{"1.0.0", "1.0.1", "", true},
	} {
		got, err := (&Spec{Version: tt.version}).ResolveVersion(tt.tag)
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("version %q with tag %q: %q, %v", tt.version, tt.tag, got, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"a:1", "reg.example:5000/a/b:1@" + someDigest, "oci:x:y", "oci-archive:x", "[::1]:5/a"} {
		f.Add(s, "reg.example")
	}
	f.Fuzz(func(t *testing.T, s, registry string) {
		r, err := ParseReference(s, registry)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String(), "")
		if err != nil || again != r {
			t.Fatalf("%q parses to %+v, whose text %q parses to %+v, %v", s, r, r.String(), again, err)
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte("name: a\nversion: 1.0.0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseSpec(data); err == nil && s.Source != "" && !IsLocalPath(s.Source) {
			t.Fatalf("source %q leaves the folder", s.Source)
		}
	})
}

func TestIsLoopbackHost(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "::1": true, "[::1]": true, "[::1]:5000": true,
		"127.0.0.2:5000": false, "10.0.0.1:5000": false, "localhost.example": false, "reg.example:5000": false,
	} {
		if got := IsLoopbackHost(host); got != want {
			t.Errorf("IsLoopbackHost(%q) = %v, want %v", host, got, want)
		}
	}
}

func TestReferencePackage(t *testing.T) {
	for in, want := range map[string]string{
		"reg.example/team/opensnoop:1.0.0":          "team/opensnoop:1.0.0",
		"reg.example/opensnoop:1.0.0@" + someDigest: "opensnoop:1.0.0",
		"reg.example/opensnoop@" + someDigest:       "opensnoop@sha256:e3b0c44298fc",
		"reg.example:5000/opensnoop":                "opensnoop",
		"oci:/a/layout:1.0.0":                       "layout:1.0.0",
	} {
		r, err := ParseReference(in, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Package(); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{someDigest: "sha256:e3b0c44298fc", "sha256:abc": "sha256:abc", "": ""} {
		if got := ShortDigest(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
