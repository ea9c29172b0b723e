// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/ebpm/ebpm/manifest"
)

// distro is a Debian of a few tiny packages, with an apt-get, a dpkg and a
// dpkg-deb that are in front of the real ones in PATH. The ".deb" files are the
// tars of their file systems.
type distro struct {
	dir string
}

func (d *distro) file(name string) string { return filepath.Join(d.dir, name) }

// newDistro makes the packages, but not the one named leaveOut.
func newDistro(t *testing.T, leaveOut string) *distro {
	t.Helper()
	d := &distro{dir: t.TempDir()}
	program := func(name string, libs ...string) tar.Header {
		h := file(name, string(elfFile(dynamic{interpreter: "/lib64/ld.so.2", libraries: libs, runpath: []string{"$ORIGIN/../lib"}})))
		h.Mode = 0o755
		return h
	}
	library := func(name string, libs ...string) tar.Header {
		return file(name, string(elfFile(dynamic{libraries: libs})))
	}
	license := func(pkg string) tar.Header { return file("usr/share/doc/"+pkg+"/copyright", "license of "+pkg) }
	packages := map[string][]tar.Header{
		"base-files": {
			file("etc/debian_version", "12\n"), file("usr/lib/os-release", "ID=debian\n"), symlink("etc/os-release", "../usr/lib/os-release"),
			file("usr/share/common-licenses/GPL-3", "GPL"), symlink("usr/share/common-licenses/GPL", "GPL-3"), license("base-files"),
		},
		"clang":    {symlink("usr/bin/clang", "../lib/llvm-14/bin/clang"), symlink("usr/share/doc/clang", "clang-14")},
		"clang-14": {program("usr/lib/llvm-14/bin/clang", "libLLVM.so.1", "libc.so.6"), program("usr/lib/llvm-14/bin/lld", "libc.so.6"), license("clang-14")},
		"libclang-common": {
			file("usr/lib/llvm-14/lib/clang/14/include/stdint.h", "clang's"), file("usr/lib/llvm-14/lib/clang/14/share/list.txt", "no header"), license("libclang-common"),
		},
		"llvm":           {symlink("usr/bin/llvm-strip", "../lib/llvm-14/bin/llvm-strip"), license("llvm")},
		"llvm-14":        {symlink("usr/lib/llvm-14/bin/llvm-strip", "llvm-objcopy"), program("usr/lib/llvm-14/bin/llvm-objcopy", "libLLVM.so.1", "libc.so.6"), license("llvm-14")},
		"libllvm":        {library("usr/lib/m/libLLVM.so.1.0", "libc.so.6", "libz.so.1"), symlink("usr/lib/llvm-14/lib/libLLVM.so.1", "../../m/libLLVM.so.1.0"), license("libllvm")},
		"libc6":          {library("lib/m/libc.so.6", "ld.so.2"), library("lib/m/ld.so.2"), symlink("lib64/ld.so.2", "/lib/m/ld.so.2"), license("libc6")},
		"zlib":           {library("lib/m/libz.so.1.2", "libc.so.6"), symlink("lib/m/libz.so.1", "libz.so.1.2"), license("zlib")},
		"libc6-dev":      {file("usr/include/stdint.h", "the C library's"), symlink("usr/include/gone", "nowhere"), file("usr/lib/m/libc.a", "archive"), license("libc6-dev")},
		"linux-libc-dev": {file("usr/include/linux/types.h", "the kernel's"), license("linux-libc-dev")},
		"libc6-dev-i386": {file("usr/include/m/gnu/stubs-32.h", "stubs"), license("libc6-dev-i386")},
		"libtsan":        {library("usr/lib/m/libtsan.so.2"), file("usr/include/tsan.h", "not of the C library"), license("libtsan")},
	}
	delete(packages, leaveOut)
	var uris strings.Builder
	for name, entries := range packages {
		deb := name + "_1%3a2.0-1_amd64.deb"
		content := packageTar(t, entries...)
		d.write(t, deb, string(content), 0o644)
		fmt.Fprintf(&uris, "'http://mirror.test/%s' %s %d SHA256:%s\n", deb, deb, len(content), name)
	}
	d.write(t, "uris", uris.String(), 0o644)
	// calls gets a line a call, "stale" makes the lists those of last month.
	d.write(t, "bin/apt-get", `#!/bin/sh
echo "$*" >> "`+d.dir+`/calls"
case "$*" in
*--print-uris*) cat "`+d.dir+`/uris" ;;
*update*) rm "`+d.dir+`/stale" ;;
*download*)
	if test -e "`+d.dir+`/stale"; then echo "E: 404 Not Found" >&2; exit 100; fi
	cp "`+d.dir+`"/*.deb . ;;
esac
`, 0o755)
	d.write(t, "bin/dpkg", "#!/bin/sh\necho amd64\n", 0o755)
	d.write(t, "bin/dpkg-deb", `#!/bin/sh
case "$1" in
--fsys-tarfile) cat "$2" ;;
--field) echo "Package: $(basename "$2")" ;;
esac
`, 0o755)
	t.Setenv("PATH", d.file("bin")+":"+os.Getenv("PATH"))
	return d
}

func (d *distro) write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	writeFile(t, d.file(name), content, mode)
}

func writeFile(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// calls returns how often apt-get was called with word.
func (d *distro) calls(t *testing.T, word string) int {
	t.Helper()
	text, err := os.ReadFile(d.file("calls"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, word) {
			n++
		}
	}
	return n
}

// options are those of a build with tiny programs and a cache of its own.
func options(t *testing.T) Options {
	t.Helper()
	o := Options{Binaries: t.TempDir(), Cache: filepath.Join(t.TempDir(), "cache"), Log: testLog{t}}
	for _, arch := range architectures {
		for _, name := range []string{"ebpm", "ecli"} {
			writeProgram(t, o, arch, name, name)
		}
	}
	writeProgram(t, o, runtime.GOARCH, "ecc", "ecc")
	return o
}

// writeProgram writes a static program that differs from others by its content.
func writeProgram(t *testing.T, o Options, arch, name, content string) {
	t.Helper()
	writeFile(t, filepath.Join(o.Binaries, arch, name), string(elfFile(dynamic{machine: machines[arch]}))+content, 0o600)
}

// only returns the image of an index that has one architecture.
func only(t *testing.T, image *Image) *Child {
	t.Helper()
	if len(image.Children) != 1 {
		t.Fatalf("image %s has %d children, want 1", image.Name, len(image.Children))
	}
	return image.Children[0]
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// files returns a line an entry of all of an image's layers.
func files(t *testing.T, image v1.Image) []string {
	t.Helper()
	r := mutate.Extract(image)
	defer r.Close()
	var lines []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		line := h.FileInfo().Mode().String() + " " + h.Name
		if h.Typeflag == tar.TypeSymlink {
			line += " -> " + h.Linkname
		}
		lines = append(lines, line)
	}
}

func TestBuilder(t *testing.T) {
	newDistro(t, "")
	image, err := Builder(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(image.Index); err != nil {
		t.Error(err)
	}
	child := only(t, image)
	golden(t, "builder.txt", files(t, child))
	config, err := child.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65532:65532" {
		t.Errorf("the user is %q, want 65532:65532", config.Config.User)
	}
	if config.Architecture != runtime.GOARCH {
		t.Errorf("it is for %s, want %s", config.Architecture, runtime.GOARCH)
	}
}

func TestBuilderCache(t *testing.T) {
	d := newDistro(t, "")
	o := options(t)
	build := func() v1.Hash {
		t.Helper()
		image, err := Builder(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		files(t, only(t, image)) // fails where a layer is not whole
		digest, err := image.Index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	downloads := func(want int) {
		t.Helper()
		if got := d.calls(t, "download"); got != want {
			t.Errorf("%d downloads, want %d", got, want)
		}
	}
	first := build()
	downloads(1)
	if second := build(); second != first {
		t.Errorf("the digest from the cache is %s, want %s", second, first)
	}
	downloads(1)

	layers, err := filepath.Glob(filepath.Join(o.Cache, "debian-amd64-*", cachedLayer))
	if err != nil || len(layers) != 1 {
		t.Fatalf("the cache has %d layers (%v), want 1", len(layers), err)
	}
	content, err := os.ReadFile(layers[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	writeFile(t, layers[0], string(content), 0o644)
	if third := build(); third != first {
		t.Errorf("the digest after a broken cache is %s, want %s", third, first)
	}
	downloads(2)

	// A program that changes leaves the large layer as it is.
	writeProgram(t, o, runtime.GOARCH, "ecc", "new")
	if fourth := build(); fourth == first {
		t.Error("another ecc gave the same digest")
	}
	downloads(2)

	// A newer version of a package is another layer.
	uris, err := os.ReadFile(d.file("uris"))
	if err != nil {
		t.Fatal(err)
	}
	d.write(t, "uris", strings.Replace(string(uris), "SHA256:libllvm", "SHA256:other", 1), 0o644)
	build()
	downloads(3)
	assertNoTemp(t, o.Cache)
}

// assertNoTemp fails when dir holds what should have been removed.
func assertNoTemp(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s was left behind", filepath.Join(dir, e.Name()))
		}
	}
}

func TestBuilderStaleLists(t *testing.T) {
	d := newDistro(t, "")
	d.write(t, "stale", "", 0o644)
	_, err := Builder(t.Context(), options(t))
	if os.Geteuid() != 0 {
		if manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(manifest.AdviceOf(err), "apt-get update") {
			t.Errorf("error %v, advice %q, want that of apt-get update", err, manifest.AdviceOf(err))
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := d.calls(t, "update"); got != 1 {
		t.Errorf("%d updates of the lists, want 1", got)
	}
}

func TestBuilderErrors(t *testing.T) {
	for _, tt := range []struct {
		name     string
		leaveOut string
		change   func(t *testing.T, d *distro, o *Options)
		err      string
		kind     manifest.Kind
	}{
		{
			name: "a library that no package has", leaveOut: "zlib", kind: manifest.KindFailure,
			err: "take program usr/bin/clang: usr/lib/m/libLLVM.so.1.0: find library libz.so.1: no package has it in usr/lib/m, usr/lib",
		},
		{name: "no dynamic linker", leaveOut: "libc6", err: "take /lib64/ld.so.2: no package has it", kind: manifest.KindFailure},
		{name: "no clang", leaveOut: "clang", err: "take usr/bin/clang: no package has it", kind: manifest.KindFailure},
		{name: "no headers", leaveOut: "linux-libc-dev", err: "take the headers of linux-libc-dev: no package has files in usr/include", kind: manifest.KindFailure},
		{
			name: "no Debian", kind: manifest.KindPrecondition, err: "find apt-get",
			change: func(t *testing.T, _ *distro, _ *Options) { t.Setenv("PATH", t.TempDir()) },
		},
		{
			name: "a broken package", kind: manifest.KindFailure, err: "unpack package libc6: ",
			change: func(t *testing.T, d *distro, _ *Options) {
				d.write(t, "libc6_1%3a2.0-1_amd64.deb", "not a tar at all", 0o644)
			},
		},
		{
			name: "a truncated package", kind: manifest.KindFailure, err: "unexpected EOF: dpkg-deb: error: lzma error",
			change: func(t *testing.T, d *distro, _ *Options) {
				d.write(t, "bin/dpkg-deb", "#!/bin/sh\nhead -c 1100 \"$2\"\necho 'dpkg-deb: error: lzma error' >&2\nexit 2\n", 0o755)
			},
		},
		{
			name: "dpkg-deb fails", kind: manifest.KindFailure, err: "dpkg-deb: error: read error",
			change: func(t *testing.T, d *distro, _ *Options) {
				d.write(t, "bin/dpkg-deb", "#!/bin/sh\ncat \"$2\"\necho 'dpkg-deb: error: read error' >&2\nexit 2\n", 0o755)
			},
		},
		{
			name: "no ecc", kind: manifest.KindPrecondition, err: "ecc: no such file",
			change: func(t *testing.T, _ *distro, o *Options) { o.Binaries = t.TempDir() },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, o := newDistro(t, tt.leaveOut), options(t)
			if tt.change != nil {
				tt.change(t, d, &o)
			}
			_, err := Builder(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if got := manifest.KindOf(err); got != tt.kind {
				t.Errorf("kind %d, want %d", got, tt.kind)
			}
			if _, err := os.Stat(o.Cache); err == nil {
				assertNoTemp(t, o.Cache)
			}
		})
	}
}

func TestBuilderInterrupted(t *testing.T) {
	d, o := newDistro(t, ""), options(t)
	// As the real one, this dpkg-deb has a child, which does the writing. The
	// zeros are an end of the archive that never ends.
	d.write(t, "bin/dpkg-deb", "#!/bin/sh\n(: > '"+d.file("started")+"'; exec cat /dev/zero)\n", 0o755)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := Builder(ctx, o)
		failed <- err
	}()
	for {
		if _, err := os.Stat(d.file("started")); err == nil {
			break
		}
		select {
		case err := <-failed:
			t.Fatalf("it ended before the interrupt: %v", err)
		default:
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	assertNoTemp(t, o.Cache)
	if layers, err := filepath.Glob(filepath.Join(o.Cache, "*")); err != nil || len(layers) > 0 {
		t.Errorf("the cache holds %v (%v), want nothing", layers, err)
	}
}
