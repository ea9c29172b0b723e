// SPDX-License-Identifier: Apache-2.0

// Package image puts together the two container images of ebpm without a
// container engine and without root: "ebpm", which pulls and runs packages on
// nodes, and "ebpm-builder", which compiles sources in a Job.
//
// The image ebpm is two static programs and a passwd file, for linux/amd64 and
// linux/arm64 under one index: Go compiles for either anywhere. The image
// ebpm-builder is, for this machine's architecture, the part of Debian that clang
// needs: apt says which packages and versions those are, and of their files go in
// the two programs, the shared libraries that they name, the C headers, and the
// licenses. There is no shell and no package manager in either.
//
// The same programs, Debian packages and SOURCE_DATE_EPOCH give the same
// digests: entries are sorted, times and owners are fixed, and nothing of the
// building machine (umask, folders, user) gets in. Layers are gzipped, since
// every node downloads them and gzip takes two thirds off; that Go's gzip may
// write other bytes in another Go version changes nothing, because the Go
// version is an input already, that of the programs.
package image
