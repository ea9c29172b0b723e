// SPDX-License-Identifier: Apache-2.0

package deployer

// Labels of a release's DaemonSet and Pods.
const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelRelease   = "ebpm.io/release"

	// labelGeneration is Kubernetes': that of the template a Pod was made from.
	labelGeneration = "pod-template-generation"

	managedBy = "ebpm"
)

// Annotations of the Pod template. Digests and tags do not fit labels.
const (
	annotationReference = "ebpm.io/reference" // REGISTRY/REPOSITORY:TAG@DIGEST
	annotationTag       = "ebpm.io/tag"
	annotationDigest    = "ebpm.io/digest"
	annotationTargets   = "ebpm.io/targets"   // Targets as JSON
	annotationArgs      = "ebpm.io/args"      // JSON list
	annotationInterface = "ebpm.io/interface" // of XDP programs
	annotationAttach    = "ebpm.io/attach"    // []manifest.Attach as JSON
	annotationColumns   = "ebpm.io/columns"   // JSON list
	annotationExclusive = "ebpm.io/exclusive" // the program that cannot run beside its successor
	annotationPrograms  = "ebpm.io/programs"  // those of the object, []manifest.ProgramStatus as JSON
	annotationHistogram = "ebpm.io/histogram" // how its histograms are drawn, manifest.Histogram as JSON
	annotationMoves     = "ebpm.io/moves"     // how programs move, manifest.Move by program as JSON
	annotationState     = "ebpm.io/state"     // layouts of maps that are carried over, by architecture and name as JSON
	annotationPlan      = "ebpm.io/plan"      // hash of the plan

	// The move that made the revision. A plan does not have these.
	annotationID      = "ebpm.io/id"
	annotationTime    = "ebpm.io/time" // RFC 3339
	annotationUser    = "ebpm.io/user"
	annotationReason  = "ebpm.io/reason"
	annotationVersion = "ebpm.io/version" // of the ebpm that moved

	// annotationDefaultContainer is kubectl's: logs and exec take it.
	annotationDefaultContainer = "kubectl.kubernetes.io/default-container"
	// annotationRestartedAt is what kubectl rollout restart writes.
	annotationRestartedAt = "kubectl.kubernetes.io/restartedAt"
)

// annotationNudged is one of the DaemonSet itself: when a command last made the
// controller look at it.
const annotationNudged = "ebpm.io/nudged"

// Annotations of a ControllerRevision, which Kubernetes keeps when it renumbers
// one.
const (
	annotationOutcome = "ebpm.io/outcome"  // Outcome as JSON
	annotationReturn  = "ebpm.io/returned" // returned as JSON
)

// Names inside the Pod.
const (
	containerPull = "pull"
	containerRun  = "ecli"

	// DefaultNamespace is where releases live.
	DefaultNamespace = "ebpm"
	// NodeConfigMap is the ConfigMap with what nodes must know of registries.
	NodeConfigMap = "ebpm-node"
)
