// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEmbeddedHeaders(t *testing.T) {
	listed := map[string]bool{}
	for _, f := range embeddedHeaders() {
		listed[f.source()] = true
		if _, err := f.content(); err != nil {
			t.Error(err)
		}
	}
	err := fs.WalkDir(embedded, ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !listed[name] {
			t.Errorf("%s is not in SHA256SUMS: run headers/update", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if vmlinux, libbpf := headersFor("x86"); vmlinux.path == "" || len(libbpf) < 6 {
		t.Errorf("headers of x86: %v, %v", vmlinux, libbpf)
	}
	if vmlinux, libbpf := headersFor("vax"); vmlinux.path != "" || len(libbpf) < 6 {
		t.Errorf("headers of vax: %v, %v", vmlinux, libbpf)
	}
}

// TestHeaderCache checks that a cache is used when it is the user's own, mended
// when it was changed, and passed by when others can write to it.
func TestHeaderCache(t *testing.T) {
	_, files := headersFor("x86")
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home)
	extract := func() (dir string, cached bool) {
		t.Helper()
		scratch := t.TempDir()
		dir, err := extractHeaders(files, scratch)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := verifyFile(filepath.Join(dir, f.path), f.sum); err != nil {
				t.Error(err)
			}
		}
		return dir, strings.HasPrefix(dir, home)
	}
	dir, cached := extract()
	if !cached {
		t.Fatalf("extracted to %s, not to the cache", dir)
	}
	before, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := extract()
	if after, err := os.Stat(again); err != nil || !os.SameFile(before, after) {
		t.Errorf("the second time: another folder %s, %v", again, err)
	}

	writeFile(t, dir, files[0].path, "changed")
	if mended, cached := extract(); !cached || mended != dir {
		t.Errorf("a changed file: %s", mended)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, dir); err != nil {
		t.Fatal(err)
	}
	if _, cached := extract(); !cached {
		t.Error("a link in place of the folder was not replaced")
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("the target of the link has %v, %v", left, err)
	}
	for _, open := range []string{dir, filepath.Dir(dir), home} {
		info, err := os.Stat(open)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(open, 0o777); err != nil {
			t.Fatal(err)
		}
		got, cached := extract()
		if cached && open != dir {
			t.Errorf("%s can be written by others and is used", open)
		}
		if info, err := os.Stat(got); err != nil || info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s can be written by others: %v, %v", got, info.Mode(), err)
		}
		if err := os.Chmod(open, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(home, "ebpm", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %q, %v", left, err)
	}
}
