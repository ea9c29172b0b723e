// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"errors"
	"os"
	"path/filepath"
)

type outputFile struct {
	name       string // with slashes
	data       []byte
	executable bool
}

func (f outputFile) mode() os.FileMode {
	if f.executable {
		return 0o755
	}
	return 0o644
}

// writeAll writes files into dir, and makes the folders in their names. All are
// complete beside their final names before the first takes its place.
func writeAll(dir string, files []outputFile) (err error) {
	temps := make([]string, 0, len(files))
	defer func() {
		for _, temp := range temps {
			if e := os.Remove(temp); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}()
	for _, f := range files {
		parent := filepath.Dir(filepath.Join(dir, filepath.FromSlash(f.name)))
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return err
		}
		temp, err := os.CreateTemp(parent, ".ecc-*")
		if err != nil {
			return err
		}
		temps = append(temps, temp.Name())
		_, err = temp.Write(f.data)
		if err := errors.Join(err, temp.Chmod(f.mode()), temp.Close()); err != nil {
			return err
		}
	}
	for i, f := range files {
		if err := os.Rename(temps[i], filepath.Join(dir, filepath.FromSlash(f.name))); err != nil {
			return err
		}
	}
	return nil
}
