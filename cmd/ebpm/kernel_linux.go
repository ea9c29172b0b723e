// SPDX-License-Identifier: Apache-2.0

package main

import "golang.org/x/sys/unix"

// kernelRelease returns what uname -r prints, or "".
func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
