// SPDX-License-Identifier: Apache-2.0

// Package builder makes packages of sources: on this machine, or in a Job of a
// Kubernetes cluster.
//
// Both ways take the same steps with the same code. [PackSource] makes
// source.tar, the compiler sees what is in it and nothing else, and [Assemble]
// makes the artifact, so that the same source gives the same digest wherever it
// is built.
package builder
