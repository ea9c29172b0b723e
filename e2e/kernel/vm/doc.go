// SPDX-License-Identifier: Apache-2.0

// Package vm runs Go tests on Debian's kernels in QEMU, which translates
// the processor's code and so needs no KVM. A machine boots from an initramfs of
// its own: busybox, the test binaries with their testdata, the kernel modules
// asked for, and an init script. It has no disk and no network.
//
// The machine's first serial port is the kernel's console. The second carries
// what the tests print, between marks that hold a random word, so that no test
// can end another one's output.
package vm
