// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURIs(t *testing.T) {
	for _, tt := range []struct {
		name, out string
		want      []debPackage
		err       string
	}{
		{
			name: "packages",
			out: "Reading package lists...\n" +
				"The following NEW packages will be installed:\n  libc6 clang-14\n" +
				"'http://mirror.test/pool/main/g/glibc/libc6_2.36-9%2bdeb12u14_amd64.deb' libc6_2.36-9+deb12u14_amd64.deb 2759320 SHA256:aa\n" +
				"'http://mirror.test/pool/main/c/clang_1%3a14.0.6-12_all.deb' clang-14_1%3a14.0.6-12_all.deb 101936 SHA256:bb\n",
			want: []debPackage{
				{name: "clang-14", version: "1:14.0.6-12", arch: "all", checksum: "SHA256:bb"},
				{name: "libc6", version: "2.36-9+deb12u14", arch: "amd64", checksum: "SHA256:aa"},
			},
		},
		{name: "nothing", out: "Reading package lists...\n", err: "it names no package"},
		{name: "no checksum", out: "'http://mirror.test/a_1_all.deb' a_1_all.deb 12 \n", err: "no package with a checksum"},
		{name: "path in the name", out: "'http://mirror.test/a_1_all.deb' ../a_1_all.deb 12 SHA256:aa\n", err: "no package with a checksum"},
		{name: "path in the version", out: "'http://mirror.test/a_1_all.deb' a_%2f_all.deb 12 SHA256:aa\n", err: "version"},
		{name: "twice", out: strings.Repeat("'http://mirror.test/a_1_all.deb' a_1_all.deb 12 SHA256:aa\n", 2), err: "two of package a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseURIs(tt.out)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(debPackage{})); diff != "" {
				t.Errorf("packages differ (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseURIs(f *testing.F) {
	f.Add("'http://mirror.test/a_1_all.deb' a_1%3a2_all.deb 12 SHA256:aa\n")
	f.Fuzz(func(t *testing.T, out string) {
		pkgs, err := parseURIs(out)
		for _, p := range pkgs {
			if strings.ContainsAny(p.name+p.version+p.arch, "/\x00 \n") || strings.HasPrefix(p.name, "-") {
				t.Errorf("package %+v could be read as a path or a flag", p)
			}
		}
		if err == nil && len(pkgs) == 0 {
			t.Error("no package and no error")
		}
	})
}
