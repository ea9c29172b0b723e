// SPDX-License-Identifier: Apache-2.0

// Package ecc compiles an eBPF source into an object, its skeleton and a
// package.json, as eunomia-bpf's ecc does.
package ecc
