// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	containers "github.com/google/go-containerregistry/pkg/registry"

	"github.com/ebpm/ebpm/builder"
	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
)

const twoFaced = `#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#ifdef __TARGET_ARCH_arm64
int arm64 = 1;
#else
int amd64 = 1;
#endif

SEC("tracepoint/syscalls/sys_enter_openat")
int enter(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
`

// A package for two platforms from its build to its use.
func TestPlatforms(t *testing.T) {
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("EBPM_CONFIG", "")
	t.Setenv("EBPM_REGISTRY", "reg.invalid")
	t.Setenv("EBPM_BUILDER", "local")
	t.Setenv("EBPM_STORE", t.TempDir())
	t.Setenv("SUDO_USER", "")
	source := filepath.Join(t.TempDir(), "tool.bpf.c")
	if err := os.WriteFile(source, []byte(twoFaced), 0o644); err != nil {
		t.Fatal(err)
	}
	other := "linux/arm64"
	if runtime.GOARCH == "arm64" {
		other = "linux/amd64"
	}
	both := []string{"linux/amd64", "linux/arm64"}

	code, stdout, stderr := call(t, "build", source, "-t", "tool:1.0.0", "--platform", "linux/arm64,linux/amd64", "-o", "json")
	var built packageResult
	if err := json.Unmarshal([]byte(stdout), &built); code != 0 || err != nil || !slices.Equal(built.Platforms, both) {
		t.Fatalf("exit %d, %q, %s", code, stdout, stderr)
	}
	if code, _, stderr := call(t, "build", source, "-t", "foreign:1.0.0", "--platform", other); code != 0 {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	code, stdout, _ = call(t, "packages")
	if want := "reg.invalid/tool:1.0.0      1.0.0     linux/amd64,linux/arm64   "; code != 0 || !strings.Contains(stdout, want) {
		t.Errorf("exit %d, packages are\n%s, want %q", code, stdout, want)
	}

	// The store answers without the registry.
	for _, platform := range append(both, "") {
		dir := t.TempDir()
		args := []string{"pull", "reg.invalid/tool@" + built.Digest, "-o", dir}
		want := runtime.GOARCH
		if platform != "" {
			args = append(args, "--platform", platform)
			want = strings.TrimPrefix(platform, "linux/")
		}
		if code, _, stderr := call(t, args...); code != 0 {
			t.Fatalf("%q: exit %d, %s", args, code, stderr)
		}
		pkg, err := readPackage(filepath.Join(dir, manifest.PackageFile))
		if err != nil {
			t.Fatal(err)
		}
		if p := pkg.Meta.Parameters(); len(p) != 1 || p[0].Name != want {
			t.Errorf("--platform %q: variables %v, want %s", platform, p, want)
		}
	}

	host := manifest.HostPlatform().String()
	code, _, stderr = call(t, "run", "foreign:1.0.0")
	for _, want := range []string{"not built for " + host + ", only for " + other, "--platform " + other + "," + host} {
		if code != int(manifest.KindNotFound) || !strings.Contains(stderr, want) {
			t.Errorf("run: exit %d, %q, want %q", code, stderr, want)
		}
	}
}

// The last step of a Job makes the package that a local build makes.
func TestPushBuiltForPlatforms(t *testing.T) {
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("EBPM_CONFIG", "")
	t.Setenv("EBPM_REGISTRY", "")
	t.Setenv("EBPM_STORE", t.TempDir())
	t.Setenv("SOURCE_DATE_EPOCH", "")
	server := httptest.NewServer(containers.New(containers.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/tool"
	file := filepath.Join(t.TempDir(), "tool.bpf.c")
	if err := os.WriteFile(file, []byte(twoFaced), 0o644); err != nil {
		t.Fatal(err)
	}

	// What the steps before it leave.
	source, err := builder.ReadSource(file, "")
	if err != nil {
		t.Fatal(err)
	}
	tar, err := builder.PackSource(source, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	to, err := manifest.ParseReference(repository, "")
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := client.PushSource(t.Context(), to, tar, "id")
	if err != nil {
		t.Fatal(err)
	}
	built := t.TempDir()
	for _, arch := range ecc.Architectures() {
		out := filepath.Join(built, arch)
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		result, err := ecc.Compile(t.Context(), ecc.Options{Source: file, Output: out, Arch: arch})
		if err != nil {
			t.Fatal(err)
		}
		facts, err := json.Marshal(result.Build)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, "build.json"), facts, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	digestFile := filepath.Join(t.TempDir(), "digest")
	code, _, stderr := call(t, "push", "--built", built, "--platform", "linux/amd64", "--platform", "linux/arm64",
		"--source-from", pinned.String(), "--source-file", "tool.bpf.c", "--digest-file", digestFile, repository+":1.0.0")
	if code != 0 {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	pushed, err := os.ReadFile(digestFile)
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "build", file, "-t", "oci:"+t.TempDir()+":1.0.0", "--builder", "local", "--platform", "linux/amd64,linux/arm64", "-o", "json")
	var local packageResult
	if err := json.Unmarshal([]byte(stdout), &local); code != 0 || err != nil || local.Digest != string(pushed) {
		t.Errorf("exit %d, pushed %s, built here %+v, %s", code, pushed, local, stderr)
	}
	if code, _, stderr := call(t, "pull", repository+":1.0.0", "--platform", "linux/arm64", "-o", t.TempDir()); code != 0 {
		t.Errorf("pull: exit %d, %s", code, stderr)
	}
}

func TestPlatformUsage(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("EBPM_CONFIG", "")
	t.Setenv("EBPM_REGISTRY", "reg.invalid")
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}]\nusers: [{name: u, user: {}}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", kubeconfig)
	source := filepath.Join(t.TempDir(), "tool.bpf.c")
	if err := os.WriteFile(source, []byte(twoFaced), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"build", source, "-t", "x:1.0.0", "--platform", "linux/aarch64"}, "is called arm64 here"},
		{[]string{"build", source, "-t", "x:1.0.0", "--builder", "local", "--platform", "linux/s390x"}, "not known for linux/s390x"},
		{[]string{"build", source, "-t", "x:1.0.0", "--builder", "local", "--platform", "linux/amd64,linux/arm64", "--vmlinux", "v.h"}, "of one architecture"},
		{[]string{"build", source, "-t", "x:1.0.0", "--builder", "kubernetes", "--platform", "linux/amd64,linux/arm64", "--ecc-image", "e:1"}, "--ecc-image and --platform"},
		{[]string{"build", source, "-t", "x:1.0.0", "--builder", "kubernetes", "--builder-image", "b:1", "--image", "i:1", "--platform", "linux/s390x"}, "not known for linux/s390x"},
		{[]string{"pull", "x:1.0.0", "--platform", "linux/arm64"}, "-o FOLDER"},
		{[]string{"pull", "x:1.0.0", "--platform", "arm64", "-o", "x"}, "linux/arm64"},
		{[]string{"pull", "x:1.0.0", "--platform", "linux/arm64", "-o", "x", "--source"}, "the source is the same"},
	} {
		if code, stdout, stderr := call(t, tt.args...); code != 2 || !strings.Contains(stderr, tt.want) || stdout != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q; want 2 and %q", tt.args, code, stdout, stderr, tt.want)
		}
	}
}
