// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"errors"
	"fmt"
	"os/exec"

	"github.com/ebpm/ebpm/manifest"
)

// The builders that a user can ask for.
const (
	Auto             = "auto"
	OnThisMachine    = "local"
	OnKubernetes     = "kubernetes"
	builderVariable  = "EBPM_BUILDER"
	installToolchain = "Install clang and llvm (Debian: apt-get install clang llvm), or name a cluster with --kubeconfig or KUBECONFIG."
)

// Choice is a builder and why it was taken.
type Choice struct {
	// Builder is [OnThisMachine] or [OnKubernetes].
	Builder string
	// Why is a sentence for the user.
	Why string
}

// Choose takes the builder that the user wants; auto, or nothing, takes this
// machine where the toolchain is found, else the cluster of kubeContext, which
// is empty where there is none. It looks for programs and asks nothing.
func Choose(want string, t Toolchain, kubeContext string) (Choice, error) {
	switch want {
	case OnThisMachine:
		return Choice{OnThisMachine, "The build runs on this machine, as asked."}, nil
	case OnKubernetes:
		if kubeContext == "" {
			return Choice{}, manifest.WithKind(manifest.KindPrecondition,
				errors.New("build in a cluster: there is no kubeconfig, or it has no current context"), "Set KUBECONFIG, or --kubeconfig and --context.")
		}
		return Choice{OnKubernetes, "The build runs in the cluster of context " + kubeContext + ", as asked."}, nil
	case "", Auto:
	default:
		return Choice{}, usage("--builder %s (%s): wanted %s, %s or %s", want, builderVariable, Auto, OnThisMachine, OnKubernetes)
	}
	missing := ""
	for _, tool := range []struct{ set, name string }{{t.Clang, "clang"}, {t.LLVMStrip, "llvm-strip"}} {
		name := tool.name
		if tool.set != "" {
			name = tool.set
		}
		if _, err := exec.LookPath(name); err != nil {
			missing = name
			break
		}
	}
	switch {
	case missing == "":
		return Choice{OnThisMachine, "The build runs on this machine, where clang is."}, nil
	case kubeContext != "":
		return Choice{OnKubernetes, "The build runs in the cluster of context " + kubeContext + ": there is no " + missing + " on this machine."}, nil
	}
	return Choice{}, manifest.WithKind(manifest.KindPrecondition,
		fmt.Errorf("build: there is no %s on this machine, and no cluster", missing), installToolchain)
}
