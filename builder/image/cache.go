// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// cacheAge is how long a layer that nobody asked for is kept.
const cacheAge = 30 * 24 * time.Hour

// The files of one cached layer, which is a folder.
const (
	cachedLayer = "layer.tar.gz"
	cachedBlob  = "layer.json"
)

// cached returns the layer in folder dir, after it has verified its bytes. It
// returns an error that is [fs.ErrNotExist] when there is none.
func cached(dir string) (*layer, error) {
	text, err := os.ReadFile(filepath.Join(dir, cachedBlob))
	if err != nil {
		return nil, err
	}
	var b blob
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, cachedBlob), err)
	}
	name := filepath.Join(dir, cachedLayer)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != b.Digest.Hex {
		return nil, fmt.Errorf("verify %s: it has the digest %s, not %s", name, got, b.Digest.Hex)
	}
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // so that prune keeps it; an unused stamp harms nobody
	return &layer{blob: b, open: func() (io.ReadCloser, error) { return os.Open(name) }}, nil
}

// keep moves the folder tmp, which holds a finished layer, to dir and returns
// the layer. Where another process was faster, it is that process's layer: the
// name is the hash of the inputs, and the other one may be reading it.
func keep(tmp, dir string) (*layer, error) {
	if l, err := cached(dir); err == nil {
		return l, os.RemoveAll(tmp)
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return cached(dir)
}

// prune removes from the cache folder what was not used for [cacheAge], among
// it what a killed process left.
func prune(folder string, now time.Time) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && now.Sub(info.ModTime()) > cacheAge {
			err = os.RemoveAll(filepath.Join(folder, e.Name()))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
