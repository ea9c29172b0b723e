// SPDX-License-Identifier: Apache-2.0

//go:build unix

package image

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Whoever builds, wherever, whenever: the digests are equal.
func TestReproducible(t *testing.T) {
	newDistro(t, "")
	build := func(umask int, mtime time.Time) []v1.Hash {
		t.Helper()
		defer syscall.Umask(syscall.Umask(umask))
		t.Setenv("TMPDIR", t.TempDir())
		t.Setenv("HOME", t.TempDir())
		o := options(t)
		programs, err := filepath.Glob(filepath.Join(o.Binaries, "*", "*"))
		if err != nil || len(programs) != 2*len(architectures)+1 {
			t.Fatalf("%d programs, %v", len(programs), err)
		}
		for _, p := range programs {
			if err := os.Chtimes(p, mtime, mtime); err != nil {
				t.Fatal(err)
			}
		}
		images, err := Build(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := WriteLayouts(t.Context(), dir, images); err != nil {
			t.Fatal(err)
		}
		digests := map[string]v1.Hash{}
		for _, image := range images {
			if digests[image.Name], err = image.Index.Digest(); err != nil {
				t.Fatal(err)
			}
		}
		var list []v1.Hash
		for _, name := range slices.Sorted(maps.Keys(digests)) {
			list = append(list, digests[name])
		}
		return list
	}
	first := build(0o022, time.Unix(1, 0))
	second := build(0o077, time.Unix(2_000_000_000, 0))
	if !slices.Equal(first, second) {
		t.Errorf("the digests are %v and %v", first, second)
	}
}
