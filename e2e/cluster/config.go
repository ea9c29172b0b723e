// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net/netip"
	"path"

	"sigs.k8s.io/yaml"
)

// The paths that a node's programs see inside its mount namespace, where /run,
// /var/lib and /var/log are the node's own.
const (
	nodePrograms   = "/var/lib/ebpm-programs" // the cache of programs
	nodeKubelet    = "/var/lib/kubelet"
	nodeContainerd = "/var/lib/containerd"
	nodeCNI        = "/var/lib/cni"
	nodeRuntime    = "/run/containerd" // containerd's state and its socket
	nodeSocket     = nodeRuntime + "/containerd.sock"
)

// cgroupRoot is the cgroup below which the containers of all nodes are.
const cgroupRoot = "ebpm-cluster"

// cniPlugins is where Debian puts the CNI plugins.
const cniPlugins = "/usr/lib/cni"

// registryPort is the port of the registry on the bridge's address.
const registryPort = 5000

// apiPort is the port of the API server on the bridge's address.
const apiPort = 6443

// node is one node of the cluster.
type node struct {
	name  string
	index int // from 1
}

var nodes = []node{{"node1", 1}, {"node2", 2}}

func nodeNames() []string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.name)
	}
	return names
}

// kubeconfig renders a client configuration for the API server that carries
// its certificates, so that the file alone is enough.
func kubeconfig(server, user string, ca, cert, key []byte) ([]byte, error) {
	const name = "ebpm-cluster"
	return yaml.Marshal(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": name,
		"clusters": []any{map[string]any{"name": name, "cluster": map[string]any{
			"server":                     server,
			"certificate-authority-data": ca,
		}}},
		"users": []any{map[string]any{"name": user, "user": map[string]any{
			"client-certificate-data": cert,
			"client-key-data":         key,
		}}},
		"contexts": []any{map[string]any{"name": name, "context": map[string]any{
			"cluster": name,
			"user":    user,
		}}},
	})
}

// kubeletConfig renders the KubeletConfiguration of a node.
func kubeletConfig(n node, networks Networks) ([]byte, error) {
	pki := path.Join(nodeKubelet, "pki")
	return yaml.Marshal(map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"address":                  networks.Node(n.index).String(),
		"containerRuntimeEndpoint": "unix://" + nodeSocket,
		"volumePluginDir":          path.Join(nodeKubelet, "volumeplugins"),
		"tlsCertFile":              path.Join(pki, "kubelet.crt"),
		"tlsPrivateKeyFile":        path.Join(pki, "kubelet.key"),
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": path.Join(pki, "ca.crt")},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		"healthzPort":   0,

		// Each node has a tree of its own in the machine's cgroups, which may
		// be of version 1.
		"cgroupDriver": "cgroupfs",
		"cgroupRoot":   path.Join("/", cgroupRoot, n.name),
		"failCgroupV1": false,
		"failSwapOn":   false,
		// Lowering the score takes CAP_SYS_RESOURCE, which a container or a
		// small virtual machine may lack.
		"oomScoreAdj": 0,
		// No kube-proxy, so nothing needs the kubelet's chains.
		"makeIPTablesUtilChains": false,

		// There is no cluster DNS. A question to the node's own address is
		// refused at once, where one to an address without an owner would
		// make programs wait.
		"clusterDNS":    []string{networks.Node(n.index).String()},
		"clusterDomain": "cluster.local",

		// Both nodes see the whole machine's disk; it being rather full is no
		// reason to evict Pods.
		"evictionHard": map[string]string{
			"imagefs.available": "0%",
			"nodefs.available":  "0%",
			"nodefs.inodesFree": "0%",
			"memory.available":  "100Mi",
		},
	})
}

// containerdConfig renders the configuration of a node's containerd. Paths are
// those of the node's mount namespace.
func containerdConfig(runc string) []byte {
	return fmt.Appendf(nil, `version = 4
root = %[1]q
state = %[2]q

[plugins.'io.containerd.internal.v1.opt']
  path = "%[1]s/opt"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %[3]q

[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "%[1]s/certs.d"

[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE no process may lower its score, and each sandbox
  # would fail for it.
  restrict_oom_score_adj = true
  # Keep the network namespaces of Pods below /run/containerd.
  netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = %[4]q
  SystemdCgroup = false

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [%[5]q]
  conf_dir = "%[6]s/net.d"
`, nodeContainerd, nodeRuntime, pauseImage, runc, cniPlugins, nodeCNI)
}

// hostsConfig renders containerd's description of the registry: plain HTTP.
func hostsConfig(registry string) []byte {
	return fmt.Appendf(nil, "server = %q\n\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+registry)
}

// cniConfig renders the network of a node's Pods: a bridge inside the node,
// whose addresses the other node and the machine route to.
func cniConfig(pods netip.Prefix) []byte {
	return fmt.Appendf(nil, `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": false,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": %q}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    }
  ]
}
`, pods)
}

// registryConfig renders the configuration of the registry: plain HTTP,
// deletion allowed, data below dir.
func registryConfig(dir, address string) []byte {
	return fmt.Appendf(nil, `version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %q
  delete:
    enabled: true
http:
  addr: %q
`, dir, address)
}
