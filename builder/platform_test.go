// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/manifest"
	"github.com/ebpm/ebpm/registry"
	"github.com/opencontainers/go-digest"
)

var (
	amd64 = manifest.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = manifest.Platform{OS: "linux", Architecture: "arm64"}
)

// tgid reads a struct of the kernel that is another on each architecture.
var tgid = map[string]string{
	"tgid.bpf.c": `#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

int last = 0;

SEC("tracepoint/syscalls/sys_enter_openat")
int enter(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	last = BPF_CORE_READ(task, tgid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
`,
}

func buildFor(t *testing.T, dir string, platforms ...manifest.Platform) *registry.Artifact {
	t.Helper()
	s, err := ReadSource(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	var diagnostics bytes.Buffer
	a, err := Local(t.Context(), s, Options{Ref: reference(t, "r.example/tgid:1.0.0"), Platforms: platforms, Diagnostics: &diagnostics}, Toolchain{})
	if err != nil {
		t.Fatalf("%v\n%s", err, &diagnostics)
	}
	return a
}

// A build for two platforms makes one index with a child for each, in any
// folder and by the steps of the Job the same.
func TestBuildForPlatforms(t *testing.T) {
	needClang(t)
	both := []manifest.Platform{amd64, arm64}
	one := buildFor(t, tree(t, tgid), both...)
	if two := buildFor(t, tree(t, tgid), arm64, amd64); two.Digest != one.Digest {
		t.Errorf("two folders: %s and %s", one.Digest, two.Digest)
	}

	client, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	layout := reference(t, "oci:"+filepath.Join(t.TempDir(), "layout")+":1.0.0")
	pinned, err := client.Push(t.Context(), one, layout)
	if err != nil {
		t.Fatal(err)
	}
	pulled := map[manifest.Platform]*registry.Pulled{}
	for _, p := range both {
		if pulled[p], err = client.Fetch(t.Context(), pinned, p); err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[manifest.Platform]string{amd64: "-D__TARGET_ARCH_x86", arm64: "-D__TARGET_ARCH_arm64"} {
		facts := pulled[p].Config.Build
		if !slices.Contains(facts.Flags, want) || facts.Vmlinux != "embedded" || facts.VmlinuxDigest == "" || facts.SourceDigest == "" {
			t.Errorf("%s: build facts %+v", p, facts)
		}
		pkg, err := manifest.DecodePackage(pulled[p].Package)
		if err != nil {
			t.Fatal(err)
		}
		if err := pulled[p].Config.Verify(pkg); err != nil {
			t.Error(err)
		}
	}
	x, a := pulled[amd64], pulled[arm64]
	if x.Config.Build.VmlinuxDigest == a.Config.Build.VmlinuxDigest {
		t.Error("both platforms have one vmlinux.h")
	}
	if bytes.Equal(x.Package, a.Package) {
		t.Error("both platforms have one object")
	}
	if !bytes.Equal(x.Source, a.Source) {
		t.Error("the platforms have a source each")
	}

	// A platform alone is the same child.
	alone, err := client.Push(t.Context(), buildFor(t, tree(t, tgid), arm64), reference(t, "oci:"+filepath.Join(t.TempDir(), "layout")+":1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := client.Fetch(t.Context(), alone, arm64); err != nil || !bytes.Equal(got.Package, a.Package) {
		t.Errorf("arm64 alone is another package, %v", err)
	}
	if _, err := client.Fetch(t.Context(), alone, amd64); manifest.KindOf(err) != manifest.KindNotFound {
		t.Errorf("amd64 of a package for arm64: %v", err)
	}

	if got := bySteps(t, tree(t, tgid), both); got != one.Digest {
		t.Errorf("by the Job's steps %s, on this machine %s", got, one.Digest)
	}
}

// bySteps builds as the Job does: ecc leaves a folder for each architecture.
func bySteps(t *testing.T, dir string, platforms []manifest.Platform) digest.Digest {
	t.Helper()
	s, err := ReadSource(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	r := &shelf{}
	if r.source, err = PackSource(s, time.Time{}); err != nil {
		t.Fatal(err)
	}
	pinned := reference(t, "r.example/tgid@"+digest.FromBytes(r.source).String())
	in, built := t.TempDir(), t.TempDir()
	if err := PullSource(t.Context(), r, pinned, in); err != nil {
		t.Fatal(err)
	}
	for _, p := range platforms {
		out := filepath.Join(built, p.Architecture)
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		result, err := ecc.Compile(t.Context(), ecc.Options{Source: filepath.Join(in, s.File), Output: out, Arch: p.Architecture})
		if err != nil {
			t.Fatal(err)
		}
		facts, err := json.Marshal(result.Build)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, factsFile), facts, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := PushPackage(t.Context(), r, PushOptions{Source: pinned, File: s.File, Built: built, Platforms: platforms, Target: reference(t, "r.example/tgid:1.0.0")})
	if err != nil {
		t.Fatal(err)
	}
	return got.Digest
}

func TestLocalRefusesPlatforms(t *testing.T) {
	needClang(t)
	broken := maps.Clone(tgid)
	broken["tgid.bpf.c"] += "#ifdef __TARGET_ARCH_arm64\nint broken(;\n#endif\n"
	for _, tt := range []struct {
		name      string
		files     map[string]string
		platforms []manifest.Platform
		vmlinux   string
		kind      manifest.Kind
		want      []string
	}{
		{"no vmlinux.h for it", tgid, []manifest.Platform{amd64, {OS: "linux", Architecture: "riscv64"}}, "", manifest.KindUsage, []string{"linux/riscv64", "amd64 and arm64"}},
		{"one vmlinux.h for two", tgid, []manifest.Platform{amd64, arm64}, "my.h", manifest.KindUsage, []string{"my.h", "of several"}},
		{"one of two does not compile", broken, []manifest.Platform{amd64, arm64}, "", manifest.KindFailure, []string{"build for linux/arm64: compile "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ReadSource(tree(t, tt.files), "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = Local(t.Context(), s, Options{Ref: reference(t, "r.example/tgid:1.0.0"), Platforms: tt.platforms}, Toolchain{Vmlinux: tt.vmlinux})
			if manifest.KindOf(err) != tt.kind {
				t.Errorf("error %v of kind %d, want %d", err, manifest.KindOf(err), tt.kind)
			}
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			}
		})
	}
}
