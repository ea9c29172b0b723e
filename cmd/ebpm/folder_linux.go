// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/ebpm/ebpm/manifest"
)

const (
	// settleTime is how long nothing is written before a save is taken as done:
	// editors write in several steps, some to another file that they then rename.
	settleTime = 100 * time.Millisecond
	// settleLimit is when it is taken as done anyway.
	settleLimit = 2 * time.Second
	// maxFolders bounds what is watched; the kernel has a limit of its own for
	// each user.
	maxFolders = 1024
)

// A folder tells of saves in a folder and in those below it. Hidden ones are
// passed by: tools write there, not people.
type folder struct {
	dir    string
	notify *fsnotify.Watcher
	// saved has a value where something was saved since the last one was taken.
	saved chan struct{}
	// failed has the error after which nothing is told any more.
	failed chan error
}

func watchFolder(dir string) (*folder, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	f := &folder{dir: dir, notify: notify, saved: make(chan struct{}, 1), failed: make(chan error, 1)}
	if err := f.add(dir); err != nil {
		return nil, errors.Join(err, notify.Close())
	}
	written := make(chan struct{})
	go settle(written, f.saved)
	go func() {
		defer close(written)
		if err := f.follow(written); err != nil {
			f.failed <- err
		}
	}()
	return f, nil
}

func (f *folder) close() { _ = f.notify.Close() }

// add watches dir and the folders below it. Those that go away meanwhile are no
// error, except the one that is watched.
func (f *folder) add(dir string) error {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && path != f.dir && errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case path != f.dir && !entry.IsDir():
			return nil
		case path != f.dir && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case len(f.notify.WatchList()) >= maxFolders:
			return manifest.WithKind(manifest.KindUsage, fmt.Errorf("more than %d folders are in it", maxFolders),
				"Give the program a folder of its own.")
		}
		if err := f.notify.Add(path); err != nil && (path == f.dir || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", f.dir, err)
	}
	return nil
}

// follow passes on that something was written, until the folder is closed.
func (f *folder) follow(written chan<- struct{}) error {
	for {
		select {
		case e, ok := <-f.notify.Events:
			if !ok {
				return nil
			}
			switch info, err := os.Stat(e.Name); {
			case e.Name == f.dir && e.Has(fsnotify.Remove|fsnotify.Rename):
				// What took its place has to be watched anew.
				if err := f.add(f.dir); err != nil {
					return err
				}
			case e.Has(fsnotify.Create) && err == nil && info.IsDir():
				if err := f.add(e.Name); err != nil {
					return err
				}
			}
		case err, ok := <-f.notify.Errors:
			if !ok {
				return nil
			}
			// After an overflow there is something new, wherever it is.
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watch %s: %w", f.dir, err)
			}
		}
		written <- struct{}{}
	}
}

// settle passes on once that something came, when nothing came for a while, until
// in is closed. A value that nobody has taken stands for those after it.
func settle(in <-chan struct{}, out chan<- struct{}) {
	var quiet, late <-chan time.Time
	for {
		select {
		case _, ok := <-in:
			if !ok {
				return
			}
			quiet = time.After(settleTime)
			if late == nil {
				late = time.After(settleLimit)
			}
			continue
		case <-quiet:
		case <-late:
		}
		quiet, late = nil, nil
		select {
		case out <- struct{}{}:
		default:
		}
	}
}
