// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package image

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// The largest sizes of the images for one architecture, in bytes, uncompressed.
const (
	maxRunner  = 60_000_000
	maxBuilder = 450_000_000
)

// realOptions builds the programs of the images, as `make images` does.
func realOptions(t *testing.T) Options {
	t.Helper()
	build := exec.CommandContext(t.Context(), "make", "image-programs")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	return Options{Binaries: "../../bin/image", Log: testLog{t}}
}

// The real images are small enough, and alike whether the Debian layer comes
// from the cache or is made anew.
func TestRealImages(t *testing.T) {
	o := realOptions(t)
	warm, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Cache = t.TempDir()
	defer syscall.Umask(syscall.Umask(0o077))
	cold, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i, limit := range []int64{maxRunner, maxBuilder} {
		a, b := warm[i], cold[i]
		for _, c := range a.Children {
			t.Logf("%s for %s: %d bytes, %d compressed", a.Name, c.Architecture, c.Uncompressed, c.Compressed)
			if c.Uncompressed > limit {
				t.Errorf("image %s for %s has %d bytes, at most %d are allowed", a.Name, c.Architecture, c.Uncompressed, limit)
			}
		}
		if x, y := digestOf(t, a.Index), digestOf(t, b.Index); x != y {
			t.Errorf("image %s has the digests %s and %s", a.Name, x, y)
		}
	}
	t.Run("ecc", func(t *testing.T) { testCompile(t, only(t, cold[1]), filepath.Join(o.Binaries, runtime.GOARCH, "ecc")) })
}

// container runs a command in the folder $1 as a Job's container does: as the
// user nonroot, with nothing to write to but /tmp, which is the folder $2.
const container = `set -e
root=$1 tmp=$2
shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$tmp" "$root/tmp"
mount --rbind /dev "$root/dev"
exec chroot --userspec=65532:65532 "$root" /usr/local/bin/"$@"`

// testCompile runs ecc in the image, and the same program on this machine: both
// make the same bytes.
func testCompile(t *testing.T, image v1.Image, local string) {
	if os.Geteuid() != 0 {
		t.Skip("mount and chroot need root")
	}
	root, tmp := t.TempDir(), t.TempDir()
	unpack(t, image, root)
	for _, dir := range []string{root, tmp} { // which are root's alone
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(tmp, NonRoot, NonRoot); err != nil {
		t.Fatal(err)
	}
	const source = `// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include <linux/types.h>
#include <stdint.h>
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

uint64_t seen;

SEC("tracepoint/syscalls/sys_enter_openat")
int count(void *ctx)
{
	__sync_fetch_and_add(&seen, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
`
	name := filepath.Join(tmp, "count.bpf.c")
	writeFile(t, name, source, 0o644)
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	ecc := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", container, "sh",
		root, tmp, "ecc", "/tmp/count.bpf.c", "-o", "/tmp")
	ecc.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp", "EBPM_BUILD_FACTS=/tmp/build.json"}
	if out, err := ecc.CombinedOutput(); err != nil {
		t.Fatalf("ecc: %v\n%s", err, out)
	}

	here := t.TempDir()
	name = filepath.Join(here, "count.bpf.c")
	writeFile(t, name, source, 0o644)
	ecc = exec.CommandContext(t.Context(), local, name)
	ecc.Env = append(os.Environ(), "EBPM_BUILD_FACTS="+filepath.Join(here, "build.json"))
	if out, err := ecc.CombinedOutput(); err != nil {
		t.Fatalf("ecc on this machine: %v\n%s", err, out)
	}
	if diff := cmp.Diff(readFile(t, tmp, "build.json"), readFile(t, here, "build.json")); diff != "" {
		t.Skipf("this machine compiles with something else (image -, machine +):\n%s", diff)
	}
	for _, file := range []string{"count.bpf.o", "package.json"} {
		if readFile(t, tmp, file) != readFile(t, here, file) {
			t.Errorf("%s differs between the image and this machine", file)
		}
	}
}

func readFile(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || len(data) == 0 {
		t.Fatalf("%s: %d bytes, %v", name, len(data), err)
	}
	return string(data)
}

// unpack writes the image's files to root.
func unpack(t *testing.T, image v1.Image, root string) {
	t.Helper()
	r := mutate.Extract(image)
	defer r.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(root, h.Name)
		// mutate.Extract gives the upper layers first, folders of the lower ones
		// can come again.
		switch h.Typeflag {
		case tar.TypeDir:
			if err = os.MkdirAll(name, 0o755); err == nil {
				err = os.Chmod(name, h.FileInfo().Mode())
			}
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, name)
		case tar.TypeReg:
			var f *os.File
			if f, err = os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755); err == nil {
				_, err = io.Copy(f, tr)
				err = errors.Join(err, f.Chmod(h.FileInfo().Mode()), f.Close())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
