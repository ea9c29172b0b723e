// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/ebpm/ebpm/manifest"
	corev1 "k8s.io/api/core/v1"
)

// Node is what a plan needs to know of a node.
type Node struct {
	Name         string
	OS           string
	Architecture string
	// Kernel is the release, as uname -r prints it.
	Kernel string
	// Runtime is the container runtime, such as containerd://2.4.2.
	Runtime string
	CPUs    int
	// Memory is what Pods may have, in bytes.
	Memory int64
	Taints []corev1.Taint
	// Ready is false for a node that is down.
	Ready bool
}

func nodeOf(n *corev1.Node) Node {
	node := Node{
		Name:         n.Name,
		OS:           n.Status.NodeInfo.OperatingSystem,
		Architecture: n.Status.NodeInfo.Architecture,
		Kernel:       n.Status.NodeInfo.KernelVersion,
		Runtime:      n.Status.NodeInfo.ContainerRuntimeVersion,
		CPUs:         int(n.Status.Capacity.Cpu().Value()),
		Memory:       n.Status.Allocatable.Memory().Value(),
		Taints:       n.Spec.Taints,
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			node.Ready = c.Status == corev1.ConditionTrue
		}
	}
	return node
}

// blocksBPF reports whether the node's RuntimeDefault seccomp profile is from
// before it knew CAP_BPF, so that bpf(2) is refused.
func (n Node) blocksBPF() bool {
	version, ok := strings.CutPrefix(n.Runtime, "containerd://")
	if !ok {
		return false
	}
	v, err := manifest.KernelVersion(version) // the same X.Y.Z with a vendor's tail
	return err == nil && v.LessThan(semver.New(1, 6, 20, "", ""))
}

// tolerations returns those that let a Pod onto nodes with these taints. Taints
// of Kubernetes itself (not-ready, disk-pressure, unschedulable) come and go,
// and a DaemonSet tolerates them anyway.
func tolerations(nodes []Node) []corev1.Toleration {
	var all []corev1.Toleration
	for _, n := range nodes {
		for _, t := range n.Taints {
			if strings.HasPrefix(t.Key, "node.kubernetes.io/") {
				continue
			}
			toleration := corev1.Toleration{Key: t.Key, Operator: corev1.TolerationOpExists, Effect: t.Effect}
			if t.Value != "" {
				toleration.Operator, toleration.Value = corev1.TolerationOpEqual, t.Value
			}
			all = append(all, toleration)
		}
	}
	slices.SortFunc(all, func(a, b corev1.Toleration) int {
		return strings.Compare(a.Key+"\x00"+a.Value+"\x00"+string(a.Effect), b.Key+"\x00"+b.Value+"\x00"+string(b.Effect))
	})
	return slices.Compact(all)
}
