// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func TestRenderedFiles(t *testing.T) {
	networks := Networks{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("10.78.0.0/16"), netip.MustParsePrefix("10.96.0.0/16")}
	n := node{"node2", 2}
	rendered := func(data []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	kubernetes := component{name: "kubernetes", module: "k8s.io/kubernetes", version: "v1.2.3", staging: true}
	for name, got := range map[string][]byte{
		"kubelet.yaml":    rendered(kubeletConfig(n, networks)),
		"kubeconfig.yaml": rendered(kubeconfig("https://10.77.0.1:6443", "system:node:node2", []byte("ca"), []byte("cert"), []byte("key"))),
		"containerd.toml": containerdConfig("/programs/runc"),
		"hosts.toml":      hostsConfig("10.77.0.1:5000"),
		"cni.json":        cniConfig(networks.PodRange(2)),
		"registry.yaml":   registryConfig("/state/registry", "10.77.0.1:5000"),
		"go.mod.txt":      kubernetes.goMod([]string{"k8s.io/api", "k8s.io/client-go"}),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got; -update writes it):\n%s", file, diff)
			}
		})
	}
}
