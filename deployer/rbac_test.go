// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
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
	p, err := c.PlanRollback(t.Context(), "opensnoop", "", false)
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
	if _, err := c.Deploy(t.Context(), p2, RolloutOptions{Deadline: time.Second}); err == nil {
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
	pem := map[string][]byte{"r:1": []byte("PEM")}
	const file = "ca-83780627ece961fa.pem"
	tests := []struct {
		name  string
		data  map[string]string
		add   NodeConfig
		want  map[string]string
		notes []string
		err   bool
	}{
		{
			name: "new", add: NodeConfig{PlainHTTP: []string{"b:5000"}},
			want:  map[string]string{"config.yaml": "plainHTTP:\n- b:5000\n"},
			notes: []string{"Nodes are told to reach registry b:5000 by plain HTTP."},
		},
		{
			name: "beside others", data: map[string]string{"config.yaml": "mirrors:\n- x\nplainHTTP:\n- c:1\n- a:1\n", "other": "kept"},
			add:   NodeConfig{PlainHTTP: []string{"b:5000", "a:1"}},
			want:  map[string]string{"config.yaml": "mirrors:\n- x\nplainHTTP:\n- a:1\n- b:5000\n- c:1\n", "other": "kept"},
			notes: []string{"Nodes are told to reach registry b:5000 by plain HTTP."},
		},
		{
			name: "known", data: map[string]string{"config.yaml": "# ours\nplainHTTP: [b, a]\n"}, add: NodeConfig{PlainHTTP: []string{"a"}},
			want: map[string]string{"config.yaml": "# ours\nplainHTTP: [b, a]\n"},
		},
		{
			name: "a CA", add: NodeConfig{CAs: pem},
			want:  map[string]string{"config.yaml": "ca:\n  r:1: /etc/ebpm/" + file + "\n", file: "PEM"},
			notes: []string{"Nodes are given the CA of registry r:1."},
		},
		{
			name: "the same CA", data: map[string]string{"config.yaml": "ca: {\"r:1\": /etc/ebpm/" + file + "}", file: "PEM"}, add: NodeConfig{CAs: pem},
			want: map[string]string{"config.yaml": "ca: {\"r:1\": /etc/ebpm/" + file + "}", file: "PEM"},
		},
		{
			name: "a CA ends plain HTTP", data: map[string]string{"config.yaml": "plainHTTP: [\"r:1\", x]"}, add: NodeConfig{PlainHTTP: []string{"r:1"}, CAs: pem},
			want:  map[string]string{"config.yaml": "ca:\n  r:1: /etc/ebpm/" + file + "\nplainHTTP:\n- x\n", file: "PEM"},
			notes: []string{"Nodes are given the CA of registry r:1.", "Nodes no longer reach registry r:1 by plain HTTP: it has a CA now."},
		},
		{name: "not a list", data: map[string]string{"config.yaml": "plainHTTP: yes"}, add: NodeConfig{PlainHTTP: []string{"b"}}, err: true},
		{name: "not a map", data: map[string]string{"config.yaml": "ca: [x]"}, add: NodeConfig{CAs: pem}, err: true},
		{name: "not YAML", data: map[string]string{"config.yaml": "\t{"}, add: NodeConfig{PlainHTTP: []string{"b"}}, err: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, notes, err := tt.add.merge(tt.data)
			if (err != nil) != tt.err {
				t.Fatalf("error %v", err)
			}
			if !maps.Equal(got, tt.want) || !slices.Equal(notes, tt.notes) {
				t.Errorf("got %q, notes %q; want %q, notes %q", got, notes, tt.want, tt.notes)
			}
		})
	}
	keys := map[string]bool{}
	for _, registry := range []string{"reg:5000", "reg-5000", "[fd00::1]:5000"} {
		key := caKey(registry)
		if problems := validation.IsConfigMapKey(key); len(problems) > 0 || keys[key] {
			t.Errorf("%s: key %s, %q", registry, key, problems)
		}
		keys[key] = true
	}
	all := NodeConfig{PlainHTTP: []string{"a", "b"}, CAs: map[string][]byte{"c": nil}}
	if got := all.forRegistry("b"); !slices.Equal(got.PlainHTTP, []string{"b"}) || len(got.CAs) != 0 {
		t.Errorf("for b: %+v", got)
	}
	if got := all.forRegistry("d"); !got.empty() {
		t.Errorf("for d: %+v", got)
	}
}
