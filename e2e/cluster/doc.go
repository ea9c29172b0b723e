// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes cluster of two nodes and a real
// registry on one Linux machine, without a container engine.
//
// Everything is upstream's own program, built once from the Go module proxy
// into the user's cache folder: etcd, the Kubernetes control plane, and for
// each node a kubelet and a containerd that live in a network and a mount
// namespace of their own. To what runs in them the nodes look like two
// machines with one kernel: their hostPaths, interfaces and container runtimes
// differ, their kernel's lists of programs and maps are the same.
//
// There is no kube-proxy and no cluster DNS: Pods reach each other, the API
// server and the registry by address.
//
// All that a running cluster owns carries ebpm in its name (the bridge
// "ebpm0", the links "ebpm-node1" and "ebpm-node2", the cgroup "ebpm-cluster",
// the folder /var/lib/ebpm-cluster), and its processes carry the environment
// variable EBPM_CLUSTER_PROCESS: [Down] finds them by that, also where nothing
// was written down.
package cluster
