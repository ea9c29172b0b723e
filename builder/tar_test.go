// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/google/go-cmp/cmp"
)

func pack(t *testing.T, dir string) []byte {
	t.Helper()
	s, err := ReadSource(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	data, err := PackSource(s, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPackSourceFiles(t *testing.T) {
	dir := tree(t, map[string]string{
		"w.bpf.c":       "#include \"w.h\"\n#include <bpf/bpf_helpers.h>\n#include <side.h>\n#include \"sub/a.h\"\n#include \"none.h\"\n",
		"w.h":           "struct e {int x;};",
		"side.h":        "",
		"sub/a.h":       "#include \"b.h\"\n#include \"../w.h\"\n#include \"w.h\"\n",
		"sub/b.h":       "#include \"a.h\"\n", // a circle
		"sub/unused.h":  "",
		"unused.h":      "",
		"ebpm.yaml":     "files: [data/x.txt, data/../data/x.txt]\n",
		"README.md":     "# w",
		"data/x.txt":    "x",
		".env":          "SECRET=1",
		".git/config":   "",
		"w.bpf.o":       "",
		"other.bpf.c.c": "",
	})
	files, err := readTar(pack(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"README.md", "data/x.txt", "ebpm.yaml", "side.h", "sub/a.h", "sub/b.h", "w.bpf.c", "w.h"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(files))); diff != "" {
		t.Error(diff)
	}
}

func TestPackSourceIsReproducible(t *testing.T) {
	files := map[string]string{"w.bpf.c": "#include \"w.h\"\n", "w.h": "", "README.md": "# w\n", "ebpm.yaml": "name: w\n"}
	one, two := tree(t, files), tree(t, files)
	if err := os.Chmod(filepath.Join(two, "w.h"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(two, "w.h"), time.Now(), time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	data := pack(t, one)
	if !bytes.Equal(data, pack(t, two)) {
		t.Error("two folders with the same files give different archives")
	}

	var names []string
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
		if h.Mode != 0o644 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 || h.Format != tar.FormatUSTAR || h.PAXRecords != nil {
			t.Errorf("header %+v", h)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("order %v", names)
	}

	s, err := ReadSource(one, "")
	if err != nil {
		t.Fatal(err)
	}
	later, err := PackSource(s, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(data, later) {
		t.Error("the time is not in the archive")
	}
}

func TestPackSourceRefuses(t *testing.T) {
	const program = "#include \"x.h\"\n"
	link := func(target, name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		files   map[string]string
		prepare func(*testing.T, string)
		want    string
	}{
		{"link that leaves", map[string]string{"w.bpf.c": program}, link("/etc/hostname", "x.h"), "x.h is a link that leaves the folder"},
		{"link upwards", map[string]string{"w.bpf.c": program, "../x.h": ""}, link("../x.h", "x.h"), "x.h is a link that leaves the folder"},
		{"folder link", map[string]string{"w.bpf.c": "#include \"sub/x.h\"\n", "../out/x.h": ""}, link("../out", "sub"), "x.h is a link that leaves the folder"},
		{"README link", map[string]string{"w.bpf.c": ""}, link("/etc/hostname", "README.md"), "README.md is a link that leaves the folder"},
		{"link to nothing", map[string]string{"w.bpf.c": program}, link("gone.h", "x.h"), "x.h is a link to nothing"},
		{"include upwards", map[string]string{"w.bpf.c": "\n#include \"../x.h\"\n", "../x.h": ""}, nil, "w.bpf.c:2: the include of ../x.h leaves the source folder"},
		{"absolute include", map[string]string{"w.bpf.c": "#include \"/etc/passwd\"\n"}, nil, "w.bpf.c:1: the include of /etc/passwd leaves"},
		{"absolute angled include", map[string]string{"w.bpf.c": "#include </etc/passwd>\n"}, nil, "w.bpf.c:1: the include of /etc/passwd leaves"},
		{"file that is missing", map[string]string{"w.bpf.c": "", "ebpm.yaml": "files: [x]\n"}, nil, "`files` of"},
		{"folder as a file", map[string]string{"w.bpf.c": "", "ebpm.yaml": "files: [x]\n", "x/y": ""}, nil, "x is not a regular file"},
		{"name beyond ASCII", map[string]string{"w.bpf.c": "#include \"ü.h\"\n", "ü.h": ""}, nil, "ü.h"},
		{"too large", map[string]string{"w.bpf.c": "", "ebpm.yaml": "files: [x1, x2]\n", "x1": "", "x2": ""}, func(t *testing.T, dir string) {
			for _, name := range []string{"x1", "x2"} {
				if err := os.Truncate(filepath.Join(dir, name), manifest.MaxSourceSize/2); err != nil {
					t.Fatal(err)
				}
			}
		}, "more than 64 MiB"},
		{"README too large", map[string]string{"w.bpf.c": "", "README.md": strings.Repeat("x", manifest.MaxReadmeSize+1)}, nil, "README.md has"},
		{"pipe", map[string]string{"w.bpf.c": program}, func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, "x.h"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "x.h is not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, tt.files)
			if tt.prepare != nil {
				tt.prepare(t, dir)
			}
			s, err := ReadSource(filepath.Join(dir, "w.bpf.c"), "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = PackSource(s, time.Time{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPackSourceFollowsLinksInside(t *testing.T) {
	dir := tree(t, map[string]string{"w.bpf.c": "#include \"x.h\"\n", "real/x.h": "int y;", "w.h": ""})
	if err := os.Symlink("real/x.h", filepath.Join(dir, "x.h")); err != nil {
		t.Fatal(err)
	}
	files, err := readTar(pack(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if string(files["x.h"]) != "int y;" {
		t.Errorf("x.h is %q", files["x.h"])
	}
}

func TestUnpackSource(t *testing.T) {
	files := map[string]string{"w.bpf.c": "#include \"sub/a.h\"\n", "sub/a.h": "int x;", "w.h": ""}
	data := pack(t, tree(t, files))
	dir := filepath.Join(t.TempDir(), "new", "folder")
	for range 2 { // a second time changes nothing
		if err := UnpackSource(data, dir); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(p)
		name, _ := filepath.Rel(dir, p)
		got[filepath.ToSlash(name)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, got); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(pack(t, dir), data) {
		t.Error("an unpacked source packs to other bytes")
	}

	if err := os.WriteFile(filepath.Join(dir, "w.h"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := UnpackSource(data, dir); manifest.KindOf(err) != manifest.KindConflict {
		t.Errorf("over a changed file: %v", err)
	}
}

// entry is a header with content, for archives that PackSource does not write.
type entry struct {
	tar.Header
	content string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func hostile(t testing.TB) map[string][]byte {
	file := func(name, content string) entry {
		return entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content: content}
	}
	special := func(flag byte, target string) []byte {
		return archive(t, entry{Header: tar.Header{Typeflag: flag, Name: "x", Linkname: target, Mode: 0o644}})
	}
	// A header that claims a terabyte, with nothing behind it.
	huge := archive(t, file("x", ""))
	copy(huge[124:136], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00")
	sum := int64(0)
	copy(huge[148:156], "        ")
	for _, b := range huge[:512] {
		sum += int64(b)
	}
	copy(huge[148:156], []byte{byte('0' + sum>>15&7), byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7), byte('0' + sum&7), 0, ' '})
	var many []entry
	for i := range maxFiles + 1 {
		many = append(many, file(strings.Repeat("d/", i%40)+"f"+string(rune('a'+i%26))+strings.Repeat("x", i/26), ""))
	}
	return map[string][]byte{
		"parent":            archive(t, file("../x", "")),
		"inner parent":      archive(t, file("a/../../x", "")),
		"absolute":          archive(t, file("/etc/x", "")),
		"not clean":         archive(t, file("a/../b", "")),
		"dot":               archive(t, file("./a", "")),
		"backslash":         archive(t, file(`..\x`, "")),
		"nothing but a dot": archive(t, file(".", "")),
		"twice":             archive(t, file("a", "1"), file("a", "2")),
		"file and folder":   archive(t, file("a/b", "1"), file("a", "2")),
		"symlink":           special(tar.TypeSymlink, "/etc/passwd"),
		"hard link":         special(tar.TypeLink, "/etc/passwd"),
		"device":            special(tar.TypeChar, ""),
		"block device":      special(tar.TypeBlock, ""),
		"pipe":              special(tar.TypeFifo, ""),
		"folder":            special(tar.TypeDir, ""),
		"huge":              huge,
		"many":              archive(t, many...),
		"cut short":         archive(t, file("a", strings.Repeat("x", 2000)))[:1024],
		"no archive":        []byte(strings.Repeat("not a tar archive", 100)),
		"too many bytes":    make([]byte, manifest.MaxSourceSize+1),
	}
}

func TestUnpackSourceRefuses(t *testing.T) {
	for name, data := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "dir")
			err := UnpackSource(data, dir)
			if manifest.KindOf(err) != manifest.KindUnverified || err == nil {
				t.Errorf("error %v of kind %d", err, manifest.KindOf(err))
			}
			if entries, _ := os.ReadDir(parent); len(entries) != 0 {
				t.Errorf("something was written: %v", entries)
			}
		})
	}
}

func TestUnpackSourceStaysInside(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "dir")
	outside := filepath.Join(parent, "outside")
	for _, d := range []string{dir, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside", filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	data := archive(t, entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "sub/x", Mode: 0o644}, content: "x"})
	if err := UnpackSource(data, dir); err == nil {
		t.Error("a link that was there before was followed out of the folder")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("outside: %v", entries)
	}
}

func FuzzUnpackSource(f *testing.F) {
	for name, data := range hostile(f) {
		if name != "too many bytes" && name != "many" {
			f.Add(data)
		}
	}
	f.Add(archive(f, entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "a/b.h", Mode: 0o644}, content: "int x;"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "dir")
		if err := UnpackSource(data, dir); err != nil {
			return
		}
		if entries, _ := os.ReadDir(parent); len(entries) != 1 {
			t.Errorf("beside the folder: %v", entries)
		}
		total := 0
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Error(err)
				return nil
			}
			if d.IsDir() {
				return nil
			}
			info, err := d.Info()
			if err != nil || !info.Mode().IsRegular() {
				t.Errorf("%s: %v, %v", p, info.Mode(), err)
			}
			total += int(info.Size())
			return nil
		})
		if total > manifest.MaxSourceSize {
			t.Errorf("unpacked to %d bytes", total)
		}
	})
}
