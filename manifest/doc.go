// SPDX-License-Identifier: Apache-2.0

// Package manifest holds the nouns of ebpm as types: the source description
// ebpm.yaml, the package.json of eunomia-bpf, the config of a package
// artifact, references, versions, and what an eBPF object needs to run.
//
// Bytes go in and values come out: nothing here touches the network, the disk
// or a cluster.
package manifest
