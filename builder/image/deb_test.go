// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// packageTar makes the file system of a Debian package.
func packageTar(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		content := h.PAXRecords["test.content"]
		h.PAXRecords = nil
		h.Size = int64(len(content))
		h.Name = "./" + h.Name
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, PAXRecords: map[string]string{"test.content": content}}
}

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func TestReadPackage(t *testing.T) {
	suid := file("usr/bin/suid", "s")
	suid.Mode = 0o4755
	owned := file("etc/owned", "o")
	owned.Uid, owned.Uname = 1000, "somebody"
	for _, tt := range []struct {
		name    string
		entries []tar.Header
		want    []string
		err     string
	}{
		{
			name: "files",
			entries: []tar.Header{
				{Typeflag: tar.TypeDir, Name: "usr/bin/", Mode: 0o2775},
				suid, owned,
				file("usr/lib/libx.a", "archive"),
				file("usr/share/man/man1/x.1.gz", "manual"),
				file("usr/share/doc/x/copyright", "license"),
				file("usr/share/doc/x/changelog.gz", "changes"),
				file("usr/lib/libx.so.1", "lib"),
				{Typeflag: tar.TypeLink, Name: "usr/lib/libx.so.1.0", Linkname: "./usr/lib/libx.so.1"},
			},
			want: []string{
				"etc/owned 644 o", "usr/bin/suid 755 s", "usr/lib/libx.so.1 644 lib", "usr/lib/libx.so.1.0 644 lib",
				"usr/share/doc/x/copyright 644 license",
			},
		},
		{
			name:    "merged usr",
			entries: []tar.Header{file("lib/m/libc.so.6", "c"), symlink("lib/m/libc.so", "libc.so.6"), symlink("lib64/ld.so", "/lib/m/ld.so"), symlink("usr/bin/x", "../lib/x")},
			want:    []string{"usr/bin/x -> ../lib/x", "usr/lib/m/libc.so -> /usr/lib/m/libc.so.6", "usr/lib/m/libc.so.6 644 c", "usr/lib64/ld.so -> /lib/m/ld.so"},
		},
		{
			name:    "leaves the root",
			entries: []tar.Header{file("../../etc/x", "x")},
			want:    []string{"etc/x 644 x"},
		},
		{name: "device", entries: []tar.Header{{Typeflag: tar.TypeChar, Name: "etc/null"}}, err: "should not hold an entry of type"},
		{name: "link to nothing", entries: []tar.Header{{Typeflag: tar.TypeLink, Name: "etc/a", Linkname: "./etc/b"}}, err: "which is not there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readPackage(bytes.NewReader(packageTar(t, tt.entries...)), "x", t.TempDir(), 1<<20)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, describe(t, got)); diff != "" {
				t.Errorf("files differ (-want +got):\n%s", diff)
			}
		})
	}

	whole := packageTar(t, file("etc/a", strings.Repeat("a", 2000)))
	if _, err := readPackage(bytes.NewReader(whole[:1200]), "x", t.TempDir(), 1<<20); err == nil {
		t.Error("a truncated package gave no error")
	}
	if _, err := readPackage(bytes.NewReader(whole), "x", t.TempDir(), 1999); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("a package that is too large gave the error %v", err)
	}
}

func FuzzReadPackage(f *testing.F) {
	f.Add(packageTar(f, file("lib/m/libc.so.6", "c"), symlink("lib/m/libc.so", "libc.so.6"), symlink("etc/up", "../../..")))
	f.Add(packageTar(f, tar.Header{Typeflag: tar.TypeLink, Name: "etc/a", Linkname: "./etc/b"}))
	f.Fuzz(func(t *testing.T, content []byte) {
		fs, err := readPackage(bytes.NewReader(content), "x", t.TempDir(), 1<<20)
		if err != nil {
			return
		}
		for name := range fs {
			if !filepath.IsLocal(name) {
				t.Errorf("entry %q leaves the root", name)
			}
			if real, _, err := fs.resolve(name); err == nil && real != "" && !filepath.IsLocal(real) {
				t.Errorf("entry %q leads to %q, out of the root", name, real)
			}
		}
		if err := fs.writeTar(t.Context(), io.Discard, time.Unix(0, 0)); err != nil {
			t.Error(err)
		}
	})
}

// describe returns a line an entry: path, then mode and content or target.
func describe(t *testing.T, fs tree) []string {
	t.Helper()
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(fs)) {
		n := fs[name]
		if n.typ == tar.TypeSymlink {
			lines = append(lines, name+" -> "+n.link)
			continue
		}
		var buf bytes.Buffer
		if n.typ == tar.TypeReg {
			if err := copyNode(&buf, n); err != nil {
				t.Fatal(err)
			}
		}
		lines = append(lines, name+" "+octal(n.mode)+" "+buf.String())
	}
	return lines
}

func octal(mode int64) string { return strconv.FormatInt(mode, 8) }
