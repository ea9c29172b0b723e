// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestFolderTellsOfSaves(t *testing.T) {
	for _, tt := range []struct {
		name string
		save func(t *testing.T, dir string)
	}{
		{name: "in place", save: func(t *testing.T, dir string) { save(t, filepath.Join(dir, "a.bpf.c"), "new") }},
		{name: "by renaming", save: func(t *testing.T, dir string) { saveByRename(t, filepath.Join(dir, "a.bpf.c"), "new") }},
		{name: "a header below", save: func(t *testing.T, dir string) { save(t, filepath.Join(dir, "sub", "deep", "a.h"), "new") }},
		{name: "removed", save: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "sub", "deep", "a.h")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a folder that comes later", save: func(t *testing.T, dir string) {
			save(t, filepath.Join(dir, "later", "deep", "a.h"), "old")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			save(t, filepath.Join(dir, "a.bpf.c"), "old")
			save(t, filepath.Join(dir, "sub", "deep", "a.h"), "old")
			f := watched(t, dir)
			tt.save(t, dir)
			told(t, f)
		})
	}
}

// Folders that come later are watched, and so is one that takes the place of the
// one that is watched.
func TestFolderFollowsFolders(t *testing.T) {
	parent := t.TempDir()
	dir, other := filepath.Join(parent, "source"), filepath.Join(parent, "other")
	save(t, filepath.Join(dir, "a.bpf.c"), "old")
	save(t, filepath.Join(other, "a.bpf.c"), "other")
	f := watched(t, dir)
	save(t, filepath.Join(dir, "later", "deep", "a.h"), "old")
	told(t, f)
	save(t, filepath.Join(dir, "later", "deep", "a.h"), "new")
	told(t, f)
	if err := unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	told(t, f)
	save(t, filepath.Join(dir, "a.bpf.c"), "new")
	told(t, f)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-f.failed:
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the error is %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("nothing is told of a folder that is gone")
	}
}

func TestFolderPassesHiddenOnesBy(t *testing.T) {
	dir := t.TempDir()
	save(t, filepath.Join(dir, ".git", "index"), "old")
	save(t, filepath.Join(dir, "sub", "a.h"), "old")
	list := watched(t, dir).notify.WatchList()
	if len(list) != 2 {
		t.Errorf("watched are %q", list)
	}
}

func TestFolderIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range maxFolders {
		if err := os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := watchFolder(dir); err == nil {
		t.Error("all folders are watched")
	}
}

func TestSettle(t *testing.T) {
	const step = settleTime / 2
	for _, tt := range []struct {
		name  string
		steps int // writes, one a step
		want  time.Duration
		again bool
	}{
		{name: "one", steps: 1, want: settleTime},
		{name: "several", steps: 4, want: 3*step + settleTime},
		{name: "without an end", steps: 10 * int(settleLimit/step), want: settleLimit, again: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in, out := make(chan struct{}), make(chan struct{}, 1)
				go settle(in, out)
				start := time.Now()
				written := make(chan struct{})
				go func() {
					defer close(written)
					for i := range tt.steps {
						if i > 0 {
							time.Sleep(step)
						}
						in <- struct{}{}
					}
				}()
				<-out
				if got := time.Since(start); got != tt.want {
					t.Errorf("told after %s, want %s", got, tt.want)
				}
				<-written
				time.Sleep(settleTime)
				if again := len(out) > 0; again != tt.again {
					t.Errorf("told again: %t, want %t", again, tt.again)
				}
				close(in)
			})
		})
	}
}

func watched(t *testing.T, dir string) *folder {
	t.Helper()
	f, err := watchFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

func told(t *testing.T, f *folder) {
	t.Helper()
	select {
	case <-f.saved:
	case err := <-f.failed:
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("nothing is told of a save")
	}
}

func save(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// saveByRename saves as many editors do.
func saveByRename(t *testing.T, file, text string) {
	t.Helper()
	fresh := filepath.Join(filepath.Dir(file), ".fresh")
	save(t, fresh, text)
	if err := os.Rename(fresh, file); err != nil {
		t.Fatal(err)
	}
}
