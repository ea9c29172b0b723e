// SPDX-License-Identifier: Apache-2.0

// Package deployer keeps packages running on the nodes of a Kubernetes cluster.
//
// A release is one DaemonSet. Everything that makes one of its revisions is in
// the annotations of the DaemonSet's Pod template, so that Kubernetes' own
// history of templates (ControllerRevisions) is the history of the release, and
// kubectl rollout undo restores all of it. Nothing is stored elsewhere.
//
// A verb that changes something has two halves: a plan, which reads the cluster
// and writes nothing, and the act, which writes only if the release is still
// the one that the plan was made for.
package deployer
