// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"errors"
	"os"
	"path/filepath"
)

type outputFile struct {
	name string
	data []byte
}

// writeAll writes files into dir. All are complete beside their final names
// before the first takes its place.
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
		temp, err := os.CreateTemp(dir, ".ecc-*")
		if err != nil {
			return err
		}
		temps = append(temps, temp.Name())
		_, err = temp.Write(f.data)
		if err := errors.Join(err, temp.Chmod(0o644), temp.Close()); err != nil {
			return err
		}
	}
	for i, f := range files {
		if err := os.Rename(temps[i], filepath.Join(dir, f.name)); err != nil {
			return err
		}
	}
	return nil
}
