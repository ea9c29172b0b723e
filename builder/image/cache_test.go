// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPrune(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{
		"debian-old":  cacheAge + time.Hour,
		"debian-used": cacheAge - time.Hour,
		".tmp-killed": cacheAge + time.Hour,
		".tmp-now":    0,
	} {
		writeFile(t, filepath.Join(dir, name, cachedLayer), name, 0o644)
		if err := os.Chtimes(filepath.Join(dir, name), now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir, now); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"debian-old": false, "debian-used": true, ".tmp-killed": false, ".tmp-now": true} {
		_, err := os.Stat(filepath.Join(dir, name))
		if (err == nil) != want {
			t.Errorf("%s: %v, want it kept: %v", name, err, want)
		}
	}
}

// What is in the cache is used, even where it is old, and stays then.
func TestCachedIsUsed(t *testing.T) {
	dir := t.TempDir()
	entry := filepath.Join(dir, "debian-x")
	if _, err := cached(entry); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an empty cache gave the error %v, want %v", err, fs.ErrNotExist)
	}
	fs := tree{}
	fs.addData("etc/a", 0o644, []byte("a"))
	tmp := filepath.Join(dir, ".tmp-1")
	if err := writeCached(t.Context(), tmp, fs, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	kept, err := keep(tmp, entry)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-cacheAge)
	if err := os.Chtimes(entry, old, old); err != nil {
		t.Fatal(err)
	}
	l, err := cached(entry)
	if err != nil {
		t.Fatal(err)
	}
	if l.blob != kept.blob {
		t.Errorf("the layer is %+v, want %+v", l.blob, kept.blob)
	}
	if err := prune(dir, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); err != nil || n != l.blob.Uncompressed {
		t.Errorf("the tar has %d bytes (%v), want %d", n, err, l.blob.Uncompressed)
	}
}

// Of two processes that make the same layer, the second one takes that of the
// first, which may be reading it.
func TestKeepSecond(t *testing.T) {
	dir := t.TempDir()
	entry := filepath.Join(dir, "debian-x")
	var first os.FileInfo
	for _, name := range []string{".tmp-1", ".tmp-2"} {
		tmp := filepath.Join(dir, name)
		if err := writeCached(t.Context(), tmp, tree{}, time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := keep(tmp, entry); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(entry, cachedLayer))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = info
		}
		if !os.SameFile(first, info) {
			t.Error("the second layer took the place of the first")
		}
	}
	assertNoTemp(t, dir)
}
