// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// rights returns what a manifest allows, as "verb resource[.group]".
func rights(t *testing.T, file string) map[string]bool {
	t.Helper()
	data, err := RBAC.ReadFile("rbac/" + file)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var role rbacv1.ClusterRole
		err := decoder.Decode(&role)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			for _, verb := range rule.Verbs {
				for _, resource := range rule.Resources {
					if rule.APIGroups[0] != "" {
						resource += "." + rule.APIGroups[0]
					}
					all[verb+" "+resource] = true
				}
			}
		}
	}
}

// used returns what was asked of the API server since the last call.
func (c *testCluster) used() map[string]bool {
	all := map[string]bool{}
	for _, a := range c.fake.Actions() {
		resource := a.GetResource().Resource
		if s := a.GetSubresource(); s != "" {
			resource += "/" + s
		}
		if g := a.GetResource().Group; g != "" {
			resource += "." + g
		}
		// Everybody may ask who they are.
		if resource != "selfsubjectreviews.authentication.k8s.io" {
			all[a.GetVerb()+" "+resource] = true
		}
	}
	c.fake.ClearActions()
	return all
}

// The manifests must allow what the code asks for, and nothing else.
func TestRBAC(t *testing.T) {
	c := newTestCluster(t, "node1", "node2")
	// The operator's manifest makes the namespace.
	if err := c.fake.Tracker().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ebpm"}}); err != nil {
		t.Fatal(err)
	}
	c.fake.ClearActions()
	plain := func(hosts ...string) func(*DeployOptions) {
		return func(o *DeployOptions) { o.Registries.PlainHTTP = hosts }
	}
	c.mustDeploy(t, "1.0.0", plain("registry.example"))
	// Another tool's key, so that the ConfigMap is updated.
	if err := c.fake.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: NodeConfigMap, Namespace: "ebpm"}}, "ebpm"); err != nil {
		t.Fatal(err)
	}
	c.failTag("1.1.0", "no")
	if _, err := c.deploy(t, "1.1.0", plain("registry.example")); err == nil {
		t.Fatal("the upgrade did not fail")
	}
	p, err := c.PlanRollback(t.Context(), "opensnoop", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Rollback(t.Context(), p, RolloutOptions{}); err != nil {
		t.Fatal(err)
	}
	// A rollout that times out looks for events.
	c.behave = func(string, *corev1.PodTemplateSpec) *corev1.ContainerStatus {
		return &corev1.ContainerStatus{State: waiting("ContainerCreating", "")}
	}
	p2, err := c.PlanDeploy(t.Context(), DeployOptions{Package: testPackage(t, "event-one", "opensnoop", "1.2.0"), Image: testImage})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Deploy(t.Context(), p2, RolloutOptions{Deadline: 1}); err == nil {
		t.Fatal("the upgrade did not time out")
	}
	if err := c.nudge(t.Context(), "opensnoop"); err != nil {
		t.Fatal(err)
	}
	changes := c.used()

	if _, err := c.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context(), "opensnoop"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.History(t.Context(), "opensnoop"); err != nil {
		t.Fatal(err)
	}
	if err := c.Logs(t.Context(), "opensnoop", LogOptions{}, func(LogEntry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	looks := c.used()
	if _, err := c.Delete(t.Context(), "opensnoop", DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	all := c.used()
	for _, m := range []map[string]bool{changes, looks} {
		for k := range m {
			all[k] = true
		}
	}
	// What logs -f needs beside logs.
	for _, k := range []string{"list daemonsets.apps", "watch daemonsets.apps", "watch pods"} {
		looks[k] = true
	}
	for _, tt := range []struct {
		file string
		used map[string]bool
	}{{"operator.yaml", all}, {"viewer.yaml", looks}} {
		allowed := rights(t, tt.file)
		for _, k := range sortedKeys(tt.used) {
			if !allowed[k] {
				t.Errorf("%s lacks: %s", tt.file, k)
			}
		}
		for _, k := range sortedKeys(allowed) {
			if !tt.used[k] {
				t.Errorf("%s allows what nobody needs: %s", tt.file, k)
			}
		}
	}
	if slices.Contains(sortedKeys(looks), "update daemonsets.apps") {
		t.Error("looking changed something")
	}
}

func TestNodeConfigMerge(t *testing.T) {
	tests := []struct {
		name string
		data map[string]string
		add  NodeConfig
		want map[string]string
		err  bool
	}{
		{"new", nil, NodeConfig{PlainHTTP: []string{"b:5000"}}, map[string]string{"config.yaml": "plainHTTP:\n- b:5000\n"}, false},
		{"beside others", map[string]string{"config.yaml": "mirrors:\n- x\nplainHTTP:\n- c:1\n- a:1\n", "other": "kept"}, NodeConfig{PlainHTTP: []string{"b:5000", "a:1"}}, map[string]string{"config.yaml": "mirrors:\n- x\nplainHTTP:\n- a:1\n- b:5000\n- c:1\n", "other": "kept"}, false},
		{"a CA", nil, NodeConfig{CAs: map[string][]byte{"r.example:443": []byte("PEM")}}, map[string]string{"config.yaml": "ca:\n  r.example:443: /etc/ebpm/ca-r.example-443.pem\n", "ca-r.example-443.pem": "PEM"}, false},
		{"not a list", map[string]string{"config.yaml": "plainHTTP: yes"}, NodeConfig{PlainHTTP: []string{"b"}}, nil, true},
		{"not YAML", map[string]string{"config.yaml": "\t{"}, NodeConfig{PlainHTTP: []string{"b"}}, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.add.merge(tt.data)
			if (err != nil) != tt.err {
				t.Fatalf("error %v", err)
			}
			if len(got) != len(tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for k, v := range tt.want {
				if got[k] != v {
					t.Errorf("%s: got %q, want %q", k, got[k], v)
				}
			}
		})
	}
	all := NodeConfig{PlainHTTP: []string{"a", "b"}, CAs: map[string][]byte{"c": nil}}
	if got := all.forRegistry("b"); !slices.Equal(got.PlainHTTP, []string{"b"}) || len(got.CAs) != 0 {
		t.Errorf("for b: %+v", got)
	}
	if got := all.forRegistry("d"); !got.empty() {
		t.Errorf("for d: %+v", got)
	}
}
