// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tarOf makes a tar of headers; a regular file holds its own name.
func tarNamed(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, h.Name+strings.Repeat("x", int(h.Size)-len(h.Name))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func files(names ...string) []tar.Header {
	var headers []tar.Header
	for _, n := range names {
		headers = append(headers, tar.Header{Typeflag: tar.TypeReg, Name: n})
	}
	return headers
}

func TestFindBTF(t *testing.T) {
	const ubuntu = "5.4.0-42-generic"
	hwe := files("btfhub-archive/ubuntu/18.04/x86_64/5.4.0-42-generic.btf", "btfhub-archive/ubuntu/20.04/x86_64/5.4.0-42-generic.btf")
	for _, test := range []struct {
		name    string
		entries []tar.Header
		k       Kernel
		want    string // the entry
		err     string
	}{
		{"as upstream writes it", append([]tar.Header{{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeDir, Name: "btfhub-archive"}},
			files("btfhub-archive/debian/10/x86_64/4.19.0-16-amd64.btf", "package.json", "tool")...),
			Kernel{Release: "4.19.0-16-amd64", Machine: "x86_64"}, "btfhub-archive/debian/10/x86_64/4.19.0-16-amd64.btf", ""},
		{"dot in front", files("./btfhub-archive/debian/10/x86_64/4.19.btf"), Kernel{Release: "4.19", Machine: "x86_64"}, "./btfhub-archive/debian/10/x86_64/4.19.btf", ""},
		{"name of BTFHub for arm64", files("btfhub-archive/debian/10/arm64/4.19.btf"), Kernel{Release: "4.19", Machine: "aarch64"}, "btfhub-archive/debian/10/arm64/4.19.btf", ""},
		{"another machine", files("btfhub-archive/debian/10/x86_64/4.19.btf"), Kernel{Release: "4.19", Machine: "aarch64"}, "", "no types of the kernel 4.19 (aarch64)"},
		{"another kernel", files("btfhub-archive/debian/10/x86_64/4.19.btf"), Kernel{Release: "4.1", Machine: "x86_64"}, "", "no types of the kernel 4.1 (x86_64)"},
		{"empty", nil, Kernel{Release: "4.19", Machine: "x86_64"}, "", "no types of the kernel"},
		{"by os-release", hwe, Kernel{Release: ubuntu, Machine: "x86_64", ID: "ubuntu", VersionID: "18.04"}, hwe[0].Name, ""},
		{"by the mark in uname -v", hwe, Kernel{Release: ubuntu, Machine: "x86_64", Version: "#46~18.04.1-Ubuntu SMP Fri Jul 10 07:21:24 UTC 2020"}, hwe[0].Name, ""},
		{"no mark: the newest", hwe, Kernel{Release: ubuntu, Machine: "x86_64", Version: "#46-Ubuntu SMP Fri Jul 10 00:24:02 UTC 2020"}, hwe[1].Name, ""},
		{"by the name in uname -v", files("btfhub-archive/centos/7/x86_64/4.19.btf", "btfhub-archive/debian/10/x86_64/4.19.btf"),
			Kernel{Release: "4.19", Machine: "x86_64", Version: "#1 SMP Debian 4.19.181-1 (2021-03-19)"}, "btfhub-archive/debian/10/x86_64/4.19.btf", ""},
		{"os-release of a container says nothing", files("btfhub-archive/centos/7/x86_64/4.19.btf"), Kernel{Release: "4.19", Machine: "x86_64", ID: "alpine", VersionID: "3"}, "btfhub-archive/centos/7/x86_64/4.19.btf", ""},
		{"open choice", files("btfhub-archive/centos/7/x86_64/4.19.btf", "btfhub-archive/ol/7/x86_64/4.19.btf"),
			Kernel{Release: "4.19", Machine: "x86_64", Version: "#1 SMP"}, "", "several types of the kernel 4.19 (#1 SMP): centos/7/x86_64/4.19.btf, ol/7/x86_64/4.19.btf"},
		{"out of the archive", files("btfhub-archive/../x/x86_64/4.19.btf", "../btfhub-archive/debian/10/x86_64/4.19.btf"), Kernel{Release: "4.19", Machine: "x86_64"}, "", "no types of the kernel"},
		{"link", []tar.Header{{Typeflag: tar.TypeSymlink, Name: "btfhub-archive/debian/10/x86_64/4.19.btf", Linkname: "/etc/shadow"}}, Kernel{Release: "4.19", Machine: "x86_64"}, "", "no types of the kernel"},
		{"too large", []tar.Header{{Typeflag: tar.TypeReg, Name: "btfhub-archive/debian/10/x86_64/4.19.btf", Size: MaxBTFSize + 1}}, Kernel{Release: "4.19", Machine: "x86_64"}, "", "too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			plain := tarNamed(t, test.entries...)
			var packed bytes.Buffer
			w := gzip.NewWriter(&packed)
			_, err := w.Write(plain)
			if err := errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			for _, archive := range [][]byte{plain, packed.Bytes()} {
				got, err := FindBTF(bytes.NewReader(archive), test.k)
				switch {
				case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
					t.Errorf("error %v, want %q", err, test.err)
				case test.err == "" && err != nil:
					t.Error(err)
				case test.want != string(got):
					t.Errorf("%s, want %s", got, test.want)
				}
			}
		})
	}
}

func TestFindBTFEqualTypes(t *testing.T) {
	packed, err := PackBTF([]ArchivedBTF{{"b/2/x86_64/5.4.btf", []byte("types")}, {"a/1/x86_64/5.4.btf", []byte("types")}}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := FindBTF(bytes.NewReader(packed), Kernel{Release: "5.4", Machine: "x86_64"})
	if err != nil || string(got) != "types" {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := FindBTF(bytes.NewReader(packed[:len(packed)/2]), Kernel{Release: "5.4", Machine: "x86_64"}); err == nil {
		t.Error("a cut archive was read")
	}
}

func TestPackBTF(t *testing.T) {
	kernels := []ArchivedBTF{{"b/2/x86_64/5.4.btf", []byte("two")}, {"a/1/arm64/5.4.btf", []byte("one")}}
	first, err := PackBTF(kernels, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	kernels[0], kernels[1] = kernels[1], kernels[0]
	second, err := PackBTF(kernels, time.Unix(1, 0))
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("the order of kernels changes the archive: %v", err)
	}
	for _, bad := range [][]ArchivedBTF{
		{{"../a/x86_64/5.4.btf", nil}}, {{"a/1/x86_64/5.4", nil}}, {{"a/1/x86_64/.btf", nil}}, {{"/a/1/5.4.btf", nil}}, {{"a/1/x86_64/x/5.4.btf", nil}},
		{{"a/1/x86_64/5.4.btf", nil}, {"a/1/x86_64/5.4.btf", nil}},
	} {
		if _, err := PackBTF(bad, time.Time{}); err == nil {
			t.Errorf("%v was packed", bad)
		}
	}
}

func TestParseOSRelease(t *testing.T) {
	for text, want := range map[string][2]string{
		"NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\n": {"debian", "12"},
		"ID='fedora'\nVERSION_ID=34\nVARIANT_ID=cloud":              {"fedora", "34"},
		"":                  {},
		"ID=\"\nVERSION_ID": {"\"", ""},
	} {
		id, version := ParseOSRelease([]byte(text))
		if diff := cmp.Diff(want, [2]string{id, version}); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func FuzzFindBTF(f *testing.F) {
	f.Add(tarNamed(f, files("btfhub-archive/debian/10/x86_64/4.19.btf")...))
	packed, err := PackBTF([]ArchivedBTF{{"debian/10/x86_64/4.19.btf", []byte("types")}}, time.Time{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, archive []byte) {
		got, err := FindBTF(bytes.NewReader(archive), Kernel{Release: "4.19", Machine: "x86_64", Version: "#1~18.04-Ubuntu"})
		if err != nil && got != nil {
			t.Error("types and an error")
		}
	})
}
