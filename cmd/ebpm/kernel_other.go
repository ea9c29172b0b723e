// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

// kernelRelease returns "": eBPF packages run on Linux only, and the runner
// says so.
func kernelRelease() string { return "" }
