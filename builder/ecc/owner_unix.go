// SPDX-License-Identifier: Apache-2.0

//go:build unix

package ecc

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkOwner fails when name, which info describes, belongs to somebody else.
func checkOwner(name string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user", name)
	}
	return nil
}
