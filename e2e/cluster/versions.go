// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	_ "embed"
	"fmt"
	"path/filepath"
	"strings"
)

// The versions of all programs of the cluster; nothing else names one.
const (
	// KubernetesVersion is the version of the control plane, the kubelets and
	// kubectl.
	KubernetesVersion = "v1.37.2"
	// kubernetesStaging is the version under which the same release publishes
	// its libraries (k8s.io/api, k8s.io/client-go, ...).
	kubernetesStaging = "v0.37.2"

	etcdVersion       = "v3.7.3"
	containerdVersion = "v2.4.2"
	runcVersion       = "v1.5.2"
	// registryVersion is also what the project's go.mod requires; a test
	// compares them.
	registryVersion = "v3.1.2"
)

// pauseImage is the name of the image of each Pod's sandbox. Both nodes have
// it from the start; no registry serves it.
const pauseImage = "ebpm.test/pause:1"

//go:embed pause/main.go
var pauseSource string

// component is one Go module out of which programs of the cluster are built.
type component struct {
	name    string
	module  string // "" for a program whose source this package holds
	version string
	// packages are the main packages. The program of a single one is called
	// as the component, others as their last path element.
	packages []string
	tags     string
	ldflags  string
	cgo      bool
	// staging says that the module's own go.mod replaces its v0.0.0
	// requirements with folders of its repository, as k8s.io/kubernetes does.
	staging bool
	// sources are files of a module that this package holds.
	sources map[string]string
}

// components are ordered so that the short builds come first: what fails for
// a missing compiler or library fails within the first minute.
func components() []component {
	const stripped = "-s -w"
	return []component{
		{
			name:     "pause",
			version:  "v1",
			packages: []string{"ebpm.test/cluster/pause"},
			ldflags:  stripped,
			sources:  map[string]string{"main.go": pauseSource},
		},
		{
			name:     "registry",
			module:   "github.com/distribution/distribution/v3",
			version:  registryVersion,
			packages: []string{"github.com/distribution/distribution/v3/cmd/registry"},
			ldflags:  stripped + " -X github.com/distribution/distribution/v3/version.version=" + registryVersion,
		},
		{
			name:     "runc",
			module:   "github.com/opencontainers/runc",
			version:  runcVersion,
			packages: []string{"github.com/opencontainers/runc"},
			tags:     "seccomp",
			ldflags:  stripped,
			cgo:      true,
		},
		{
			name:     "etcd",
			module:   "go.etcd.io/etcd/server/v3",
			version:  etcdVersion,
			packages: []string{"go.etcd.io/etcd/server/v3"},
			ldflags:  stripped,
		},
		{
			name:    "containerd",
			module:  "github.com/containerd/containerd/v2",
			version: containerdVersion,
			packages: []string{
				"github.com/containerd/containerd/v2/cmd/containerd",
				"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
				"github.com/containerd/containerd/v2/cmd/ctr",
			},
			// The snapshotters that need headers or devices the cluster has no
			// use for.
			tags:    "no_btrfs no_devmapper no_zfs",
			ldflags: stripped + " -X github.com/containerd/containerd/v2/version.Version=" + containerdVersion,
		},
		{
			name:    "kubernetes",
			module:  "k8s.io/kubernetes",
			version: KubernetesVersion,
			packages: []string{
				"k8s.io/kubernetes/cmd/kube-apiserver",
				"k8s.io/kubernetes/cmd/kube-controller-manager",
				"k8s.io/kubernetes/cmd/kube-scheduler",
				"k8s.io/kubernetes/cmd/kubelet",
				"k8s.io/kubernetes/cmd/kubectl",
			},
			ldflags: stripped + " " + kubernetesStamp(),
			staging: true,
		},
	}
}

// kubernetesStamp returns the linker flags by which the programs know their
// version, as upstream's build sets them.
func kubernetesStamp() string {
	const pkg = "k8s.io/component-base/version."
	part := strings.SplitN(strings.TrimPrefix(KubernetesVersion, "v"), ".", 3)
	return "-X " + pkg + "gitVersion=" + KubernetesVersion +
		" -X " + pkg + "gitMajor=" + part[0] +
		" -X " + pkg + "gitMinor=" + part[1]
}

// Programs says where the built programs are: one folder a component.
type Programs struct {
	cache string
	keys  map[string]string // component name -> name of its folder in cache
}

// Dir returns the folder that holds the programs of a component ("etcd",
// "kubernetes", "containerd", "runc", "registry", "pause").
func (p *Programs) Dir(component string) string {
	return filepath.Join(p.cache, p.keys[component])
}

// goMod renders the module file of a component's build.
func (c component) goMod(replace []string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "module ebpm.test/cluster/%s\n\ngo 1.26.0\n", c.name)
	if c.module != "" {
		fmt.Fprintf(&out, "\nrequire %s %s\n", c.module, c.version)
	}
	for _, module := range replace {
		fmt.Fprintf(&out, "\nreplace %s => %s %s\n", module, module, kubernetesStaging)
	}
	return out.Bytes()
}
