// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ebpm/ebpm/manifest"
)

// ownPackage returns the package behind this executable, if `ecc --standalone`
// put one there; then every argument is the program's own.
func ownPackage() (*manifest.Package, error) {
	// Where the name cannot be known, there is no file of it, and no package.
	name, _ := os.Executable()
	return packageBehind(name)
}

func packageBehind(name string) (*manifest.Package, error) {
	file, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return nil, nil // it may be run but not read, or is deleted
	case err != nil:
		return nil, fmt.Errorf("read this executable: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read this executable: %w", err)
	}
	data, err := manifest.ReadStandalone(file, info.Size())
	if err != nil {
		return nil, fmt.Errorf("read the package in %s: %w", name, err)
	}
	if data == nil {
		return nil, nil
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		return nil, fmt.Errorf("read the package in %s: %w", name, err)
	}
	return pkg, nil
}
