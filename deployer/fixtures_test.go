// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

const testImage = "registry.example/ebpm@sha256:1111111111111111111111111111111111111111111111111111111111111111"

// testPackage makes a package for amd64 and further architectures, tagged, from a
// package.json of testdata. The digest is made from the tag, so that two tags are
// two packages.
func testPackage(t *testing.T, file, name, tag string, more ...string) *Package {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file+".package.json"))
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := manifest.DecodePackage(data)
	if err != nil {
		t.Fatal(err)
	}
	var platforms []PlatformPackage
	for _, architecture := range append([]string{"amd64"}, more...) {
		platform := manifest.Platform{OS: "linux", Architecture: architecture}
		config, err := manifest.NewConfig(&manifest.Spec{Name: name, Version: tag}, platform, decoded, manifest.BuildFacts{})
		if err != nil {
			t.Fatal(err)
		}
		child, err := NewPlatformPackage(platform, config, data)
		if err != nil {
			t.Fatal(err)
		}
		platforms = append(platforms, child)
	}
	ref, err := manifest.ParseReference("registry.example/team/"+name+":"+tag, "")
	if err != nil {
		t.Fatal(err)
	}
	return &Package{
		Reference: ref.WithDigest(digest.FromString(name + tag)),
		Platforms: platforms,
	}
}

func testNode(name string) Node {
	return Node{
		Name: name, OS: "linux", Architecture: "amd64", Kernel: "6.12.9-cloud-amd64",
		Runtime: "containerd://2.4.2", CPUs: 4, Memory: 8 << 30, Ready: true,
	}
}

func withKernel(n Node, kernel string) Node { n.Kernel = kernel; return n }

func withArch(n Node, architecture string) Node { n.Architecture = architecture; return n }

func withTaint(n Node, key, value string) Node {
	n.Taints = append(n.Taints,
		corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffectNoSchedule},
		corev1.Taint{Key: "node.kubernetes.io/unschedulable", Effect: corev1.TaintEffectNoSchedule})
	return n
}

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
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
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-want +got):\n%s", file, cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")))
	}
}
