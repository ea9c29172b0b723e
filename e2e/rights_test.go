// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// userKubeconfig makes a ServiceAccount with the rights of the manifests, if
// any, and returns the kubeconfig of that user.
func userKubeconfig(t *testing.T, name string, manifests ...string) string {
	t.Helper()
	kubectl(t, "create", "serviceaccount", name, "-n", "default")
	t.Cleanup(func() {
		for _, m := range manifests {
			kubectl(t, "delete", "-f", m, "--ignore-not-found")
		}
	})
	t.Cleanup(func() { kubectl(t, "delete", "serviceaccount", name, "-n", "default") })
	for _, m := range manifests {
		kubectl(t, "apply", "-f", m)
	}
	subject := fmt.Sprintf("--serviceaccount=default:%s", name)
	_ = subject
	token := strings.TrimSpace(kubectl(t, "create", "token", name, "-n", "default"))
	server := strings.TrimSpace(kubectl(t, "config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"))
	ca := strings.TrimSpace(kubectl(t, "config", "view", "--raw", "--minify", "--flatten", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}"))
	if _, err := base64.StdEncoding.DecodeString(ca); err != nil || ca == "" {
		t.Fatalf("the kubeconfig has no certificate authority: %v", err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c,
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %q}}],
users: [{name: u, user: {token: %q}}],
contexts: [{name: c, context: {cluster: c, user: u}}]}`, server, ca, token)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Without rights each command says which verb on which resource is missing.
func TestNoRights(t *testing.T) {
	push(t, "examples/opensnoop", "norights:1.0.0")
	kubeconfig := userKubeconfig(t, "nobody-at-all")
	for _, args := range [][]string{
		{"deploy", "norights:1.0.0", "--all"},
		{"list"},
		{"status", "norights"},
		{"delete", "norights"},
		{"build", "examples/opensnoop", "-t", "norights:2.0.0", "--builder", "kubernetes"},
	} {
		t.Run(args[0], func(t *testing.T) {
			c := fails(t, nil, 5, nil, append(args, "--kubeconfig", kubeconfig)...)
			for _, word := range []string{"may not", "rbac"} {
				if !strings.Contains(strings.ToLower(c.stderr), word) {
					t.Errorf("stderr does not say %q: %s", word, c)
				}
			}
		})
	}
}

// The manifests in the repository are enough for each command, and no more is
// needed.
func TestLeastRights(t *testing.T) {
	cleanup(t, "least")
	push(t, "examples/opensnoop", "least:1.0.0")
	push(t, copyExample(t, "opensnoop", [3]string{"opensnoop.bpf.c", "256 * 1024", "512 * 1024"}), "least:1.1.0")
	// The namespaces are an administrator's to make.
	must(t, "deploy", "least:1.0.0", "--node", "node1")
	must(t, "delete", "least")
	must(t, "build", "examples/opensnoop", "-t", "least:2.0.0", "--builder", "kubernetes")

	kubeconfig := userKubeconfig(t, "ebpm-operator")
	bind := func(namespace, role string) {
		t.Helper()
		kubectl(t, "-n", namespace, "create", "rolebinding", "e2e-"+role, "--role="+role, "--serviceaccount=default:ebpm-operator")
		t.Cleanup(func() { kubectl(t, "-n", namespace, "delete", "rolebinding", "e2e-"+role) })
	}
	for _, file := range []string{"deployer/rbac/operator.yaml", "builder/rbac/builder.yaml"} {
		manifest := filepath.Join(root, file)
		kubectl(t, "apply", "-f", manifest)
		t.Cleanup(func() { kubectl(t, "delete", "-f", manifest) })
	}
	bind("ebpm", "ebpm-operator")
	bind("ebpm-build", "ebpm-builder")
	kubectl(t, "create", "clusterrolebinding", "e2e-ebpm-operator", "--clusterrole=ebpm-operator", "--serviceaccount=default:ebpm-operator")
	t.Cleanup(func() { kubectl(t, "delete", "clusterrolebinding", "e2e-ebpm-operator") })

	for _, args := range [][]string{
		{"build", "examples/opensnoop", "-t", "least:3.0.0", "--builder", "kubernetes"},
		{"deploy", "least:1.0.0", "--all"},
		{"list"},
		{"logs", "least", "--tail", "1"},
		{"deploy", "least:1.1.0"},
		{"history", "least"},
		{"rollback", "least"},
		{"status", "least"},
		{"delete", "least"},
	} {
		must(t, append(args, "--kubeconfig", kubeconfig)...)
	}
}
