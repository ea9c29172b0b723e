// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package ecli

import (
	"context"
	"errors"

	"github.com/ebpm/ebpm/manifest"
)

// Run needs a Linux kernel: here it returns an error that says so.
func Run(context.Context, Options) error {
	return manifest.WithKind(manifest.KindPrecondition, errors.New("run a package: eBPF programs need a Linux kernel"),
		"Run it on a Linux machine, or deploy it to a cluster.")
}

// KernelHasBTF reports whether the running kernel shows its types to eBPF.
func KernelHasBTF() bool { return false }

// RunningKernel needs a Linux kernel: here it returns an error that says so.
func RunningKernel(bool) (manifest.Kernel, error) {
	return manifest.Kernel{}, manifest.WithKind(manifest.KindPrecondition, errors.New("find the types of the kernel: eBPF programs need a Linux kernel"), "")
}
