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
)

// tarOf makes a tar; a header without a type is a file, and its size that of the
// content.
func tarOf(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		e.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type tarEntry struct {
	tar.Header
	content string
}

func file(name, content string) tarEntry { return tarEntry{tar.Header{Name: name}, content} }

func special(kind byte, name, link string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: kind, Linkname: link}, ""}
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadTarPackage(t *testing.T) {
	folder := special(tar.TypeDir, "btfhub-archive/", "")
	for _, tt := range []struct {
		name   string
		data   []byte
		json   string
		hasBTF bool
		want   string // of the error
	}{
		{name: "plain", data: tarOf(t, file("package.json", "{}")), json: "{}"},
		{name: "with a dot", data: tarOf(t, special(tar.TypeDir, "./", ""), file("./package.json", "{}")), json: "{}"},
		{name: "compressed", data: gzipped(t, tarOf(t, file("package.json", "{}"))), json: "{}"},
		{name: "with types, behind and in front", data: tarOf(t, folder, file("package.json", "{}"), file("btfhub-archive/debian/12/x86_64/6.1.btf", "types"), file("tool", "ELF")), json: "{}", hasBTF: true},
		{name: "the last counts", data: tarOf(t, file("package.json", "old"), file("./package.json", "new")), json: "new"},
		{name: "long names", data: tarOf(t, file("x/"+strings.Repeat("y", 300), ""), file("package.json", "{}")), json: "{}"},
		{name: "links that nobody reads", data: tarOf(t, special(tar.TypeSymlink, "x", "/etc/passwd"), file("package.json", "{}")), json: "{}"},
		{name: "empty", data: tarOf(t), want: "no package.json"},
		{name: "no bytes", data: nil, want: "no package.json"},
		{name: "in a folder", data: tarOf(t, file("dir/package.json", "{}")), want: "no package.json"},
		{name: "by another name", data: tarOf(t, file("prog.json", "{}")), want: "no package.json"},
		{name: "a folder of that name", data: tarOf(t, special(tar.TypeDir, "package.json", "")), want: "no package.json"},
		{name: "a link", data: tarOf(t, special(tar.TypeSymlink, "package.json", "/etc/shadow")), want: `"package.json" is neither a file nor a folder; links are not followed`},
		{name: "a hard link", data: tarOf(t, file("x", "{}"), special(tar.TypeLink, "./package.json", "x")), want: "links are not followed"},
		{name: "a device", data: tarOf(t, special(tar.TypeChar, "package.json", "")), want: "neither a file nor a folder"},
		{name: "a link among the types", data: tarOf(t, file("package.json", "{}"), special(tar.TypeSymlink, "btfhub-archive/debian", "/")), want: "links are not followed"},
		{name: "the types are a link", data: tarOf(t, file("package.json", "{}"), special(tar.TypeSymlink, "btfhub-archive", "/")), want: "links are not followed"},
		{name: "upwards", data: tarOf(t, file("package.json", "{}"), file("../../etc/cron.d/x", "")), want: `"../../etc/cron.d/x" leaves the archive`},
		{name: "upwards in the middle", data: tarOf(t, file("package.json", "{}"), file("btfhub-archive/../../x", "")), want: "leaves the archive"},
		{name: "from the root", data: tarOf(t, file("/package.json", "{}")), want: "leaves the archive"},
		{name: "too large", data: tarOf(t, file("package.json", strings.Repeat(" ", MaxPackageSize+1))), want: "package.json: too large"},
		{name: "a compressed bomb", data: gzipped(t, tarOf(t, file("package.json", strings.Repeat(" ", MaxPackageSize+1)))), want: "package.json: too large"},
		{name: "cut", data: tarOf(t, file("package.json", strings.Repeat(" ", 4096)))[:2000], want: "unexpected EOF"},
		{name: "cut when compressed", data: gzipped(t, tarOf(t, file("package.json", "{}")))[:40], want: "unexpected EOF"},
		{name: "no gzip", data: []byte{0x1f, 0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, want: "gzip"},
		{name: "text", data: []byte(strings.Repeat("{}", 1000)), want: "invalid tar header"},
		{name: "many entries", data: bytes.Repeat(tarOf(t, file("x", ""))[:512], maxArchiveFiles+1), want: "more than 131072 entries"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ReadTarPackage(bytes.NewReader(tt.data))
			switch {
			case tt.want != "":
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
			case err != nil:
				t.Error(err)
			case string(p.JSON) != tt.json || p.HasBTF != tt.hasBTF:
				t.Errorf("package %q, types: %t", p.JSON, p.HasBTF)
			}
		})
	}
}

// TestBoundedReader: what unpacks to nothing, or to no end, ends.
func TestBoundedReader(t *testing.T) {
	for _, tt := range []struct {
		size int
		ok   bool
	}{{0, true}, {9, true}, {10, true}, {11, false}, {5000, false}} {
		got, err := io.ReadAll(&boundedReader{r: strings.NewReader(strings.Repeat("x", tt.size)), n: 10})
		if errors.Is(err, ErrTooLarge) == tt.ok || len(got) != min(tt.size, 10) {
			t.Errorf("%d bytes: got %d, %v", tt.size, len(got), err)
		}
	}
}

func FuzzTarPackage(f *testing.F) {
	f.Add(tarOf(f, file("package.json", "{}"), file("btfhub-archive/debian/12/x86_64/6.1.btf", "types")))
	f.Add(gzipped(f, tarOf(f, file("./package.json", "{}"))))
	f.Add(tarOf(f, special(tar.TypeSymlink, "package.json", "/etc/shadow")))
	f.Add(tarOf(f, file(strings.Repeat("y", 300), ""), file("../x", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadTarPackage(bytes.NewReader(data))
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
		if p != nil && len(p.JSON) > MaxPackageSize {
			t.Fatalf("%d bytes", len(p.JSON))
		}
	})
}
