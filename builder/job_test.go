// SPDX-License-Identifier: Apache-2.0

//go:build !node

package builder

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

var opensnoop = &Source{Dir: "examples/opensnoop", File: "opensnoop.bpf.c", Header: "opensnoop.h", Spec: &manifest.Spec{Name: "opensnoop"}}

var update = flag.Bool("update", false, "write the golden files")

func planned(t *testing.T, k *Kubernetes, s *Source, platforms ...manifest.Platform) *Objects {
	t.Helper()
	o := Options{Ref: reference(t, "10.77.0.1:5000/opensnoop:1.0.0"), Created: time.Unix(1700000000, 0), Platforms: platforms}
	source := reference(t, "10.77.0.1:5000/opensnoop@"+digest.FromString("source").String())
	objects, err := k.Plan(s, o, source, "abcde")
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func TestPlanGolden(t *testing.T) {
	anonymous := &Kubernetes{
		Image: "10.77.0.1:5000/ebpm@sha256:1", EccImage: "10.77.0.1:5000/ebpm-builder@sha256:2", PlainHTTP: true,
	}
	for name, tt := range map[string]struct {
		k         *Kubernetes
		s         *Source
		platforms []manifest.Platform
	}{
		"anonymous": {anonymous, opensnoop, nil},
		// A node that has the images.
		"architectures": {&Kubernetes{
			Image: "10.77.0.1:5000/ebpm@sha256:1", EccImage: "10.77.0.1:5000/ebpm-builder@sha256:2", PlainHTTP: true, Architectures: []string{"amd64"},
		}, opensnoop, nil},
		// One Pod, on a node of any architecture, compiles for all of them.
		"platforms": {anonymous, opensnoop, []manifest.Platform{amd64, arm64}},
		// Kubernetes gives the compiler the names as they are.
		"dollars": {anonymous, &Source{Dir: ".", File: "$(HOME)/a$$b.bpf.c", Header: "$(HOME)/$.h", Spec: &manifest.Spec{Name: "a"}}, nil},
		"credentials": {&Kubernetes{
			Namespace: "builds", Image: "10.77.0.1:5000/ebpm@sha256:1", EccImage: "elsewhere.example/ecc:latest",
			CA: []byte("-----BEGIN CERTIFICATE-----\n"), DockerConfig: []byte(`{"auths":{}}`), Timeout: time.Minute,
		}, opensnoop, nil},
	} {
		t.Run(name, func(t *testing.T) {
			objects := planned(t, tt.k, tt.s, tt.platforms...)
			var got bytes.Buffer
			all := []any{objects.Job, objects.ConfigMap}
			if objects.Secret != nil {
				all = append(all, objects.Secret)
			}
			for _, object := range all {
				text, err := yaml.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString("---\n")
				got.Write(text)
			}
			file := filepath.Join("testdata", "job-"+name+".yaml")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("go test ./builder -update, if this is meant:\n%s", diff)
			}
		})
	}
}

// What a stranger's source can reach is a promise of its own, beside the golden
// files.
func TestCompilerGetsNoSecrets(t *testing.T) {
	job := planned(t, &Kubernetes{Image: "i", EccImage: "10.77.0.1:5000/e", DockerConfig: []byte("{}"), CA: []byte("x")}, opensnoop).Job
	spec := job.Spec.Template.Spec
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		t.Error("the Pod has a token")
	}
	containers := slices.Concat(spec.InitContainers, spec.Containers)
	if len(containers) != 3 {
		t.Fatalf("%d containers", len(containers))
	}
	kinds := map[string]corev1.VolumeSource{}
	for _, v := range spec.Volumes {
		kinds[v.Name] = v.VolumeSource
		if v.EmptyDir != nil && v.EmptyDir.SizeLimit == nil {
			t.Errorf("volume %s has no limit", v.Name)
		}
	}
	for _, c := range containers {
		context := c.SecurityContext
		if context == nil || !*context.ReadOnlyRootFilesystem || *context.AllowPrivilegeEscalation ||
			!slices.Equal(context.Capabilities.Drop, []corev1.Capability{"ALL"}) || context.Capabilities.Add != nil {
			t.Errorf("container %s: %+v", c.Name, context)
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Limits.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Errorf("container %s: no limits", c.Name)
		}
		secret := false
		for _, m := range c.VolumeMounts {
			secret = secret || kinds[m.Name].Secret != nil
			if c.Name == compileContainer && kinds[m.Name].EmptyDir == nil {
				t.Errorf("ecc sees the volume %s", m.Name)
			}
		}
		if secret != (c.Name != compileContainer) {
			t.Errorf("container %s: sees the credentials: %v", c.Name, secret)
		}
	}
}

func TestJobName(t *testing.T) {
	name := regexp.MustCompile(`^build-[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	for _, s := range []string{"opensnoop", "My-Tool_v2", "a..b", "_", "---", "ünïcode", strings.Repeat("long-name.", 30)} {
		got := jobName(s, newID())
		if !name.MatchString(got) || len(validation.IsDNS1123Label(got)) != 0 || len(got) > 52 {
			t.Errorf("%q: job name %q", s, got)
		}
		if errs := validation.IsValidLabelValue(labelValue(s)); errs != nil {
			t.Errorf("%q: label %q: %v", s, labelValue(s), errs)
		}
	}
}
