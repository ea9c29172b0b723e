// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// asUser returns the kubeconfig of a user who is in some groups and has no
// rights but theirs.
func asUser(t *testing.T, name string, groups ...string) string {
	t.Helper()
	config := decode[map[string]any](t, kubectl(t, "config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
	user := config["users"].([]any)[0].(map[string]any)["user"].(map[string]any)
	user["as"], user["as-groups"] = name, append([]string{"system:authenticated"}, groups...)
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Without rights each command says which verb on which resource is missing, and
// where the rights are.
func TestNoRights(t *testing.T) {
	push(t, "examples/opensnoop", "norights:1.0.0")
	kubeconfig := asUser(t, "nobody-at-all")
	for _, tt := range []struct {
		args  []string
		words []string
	}{
		{[]string{"deploy", "norights:1.0.0", "--all"}, []string{"get daemonsets", "deployer/rbac"}},
		{[]string{"list"}, []string{"list daemonsets", "deployer/rbac"}},
		{[]string{"status", "norights"}, []string{"get daemonsets", "deployer/rbac"}},
		{[]string{"logs", "norights"}, []string{"get daemonsets", "deployer/rbac"}},
		{[]string{"history", "norights"}, []string{"get daemonsets", "deployer/rbac"}},
		{[]string{"rollback", "norights"}, []string{"get daemonsets", "deployer/rbac"}},
		{[]string{"delete", "norights"}, []string{"get daemonsets", "deployer/rbac"}},
		{[]string{"build", "examples/opensnoop", "-t", "norights:2.0.0", "--builder", "kubernetes"}, []string{"create jobs", "builder/rbac"}},
	} {
		t.Run(tt.args[0], func(t *testing.T) {
			fails(t, nil, 5, tt.words, append(tt.args, "--kubeconfig", kubeconfig)...)
		})
	}
	fails(t, nil, 3, []string{"norights:2.0.0"}, "pull", "norights:2.0.0", "-o", t.TempDir())
}

// The manifests in the repository are enough for each command.
func TestLeastRights(t *testing.T) {
	cleanup(t, "least")
	push(t, "examples/opensnoop", "least:1.0.0")
	push(t, copyOpensnoop(t, [3]string{"opensnoop.bpf.c", "256 * 1024", "512 * 1024"}), "least:1.1.0")
	for _, file := range []string{"deployer/rbac/operator.yaml", "deployer/rbac/viewer.yaml", "builder/rbac/builder.yaml"} {
		kubectl(t, "apply", "-f", filepath.Join(root, file))
	}
	kubeconfig := asUser(t, "olga", "ebpm-operators", "ebpm-builders")
	for _, args := range [][]string{
		{"build", "examples/opensnoop", "-t", "least:3.0.0", "--builder", "kubernetes"},
		{"deploy", "least:1.0.0", "--all"},
		{"list"},
		{"logs", "least", "--tail", "1"},
		{"deploy", "least:1.1.0"},
		{"history", "least"},
		{"rollback", "least"},
		{"status", "least"},
	} {
		must(t, append(args, "--kubeconfig", kubeconfig)...)
	}
	viewer := asUser(t, "victor", "ebpm-viewers")
	for _, verb := range []string{"list", "status", "history", "logs"} {
		args := []string{verb, "--kubeconfig", viewer}
		if verb != "list" {
			args = append(args, "least")
		}
		must(t, args...)
	}
	fails(t, nil, 5, []string{"configmaps"}, "deploy", "least:1.1.0", "--kubeconfig", viewer)
	fails(t, nil, 5, []string{"daemonsets"}, "delete", "least", "--kubeconfig", viewer)
	must(t, "delete", "least", "--kubeconfig", kubeconfig)
}
