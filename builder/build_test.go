// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
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

// watch is a small program that needs no vmlinux.h.
var watch = map[string]string{
	"watch.bpf.c": `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "watch.h"
#include "sub/limits.h"

/// @description only this process
const volatile int target_pid = 0;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LIMIT);
} events SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int watch(void *ctx)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return 0;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
`,
	"watch.h":      "struct event { int pid; };\n",
	"sub/limits.h": "#define LIMIT 4096\n",
	"README.md":    "# watch\n",
}

func needClang(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s", tool)
		}
	}
}

func buildLocal(t *testing.T, dir, ref string, created time.Time) *registry.Artifact {
	t.Helper()
	s, err := ReadSource(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	var diagnostics bytes.Buffer
	a, err := Local(t.Context(), s, Options{Ref: reference(t, ref), Created: created, Diagnostics: &diagnostics}, Toolchain{})
	if err != nil {
		t.Fatalf("%v\n%s", err, diagnostics.String())
	}
	return a
}

// shelf is a registry for the steps of the Job.
type shelf struct {
	source []byte
	pushed *registry.Artifact
	to     manifest.Reference
}

var _ Pusher = (*shelf)(nil)

func (s *shelf) FetchSource(context.Context, manifest.Reference) ([]byte, error) {
	return s.source, nil
}
func (s *shelf) Push(_ context.Context, a *registry.Artifact, to manifest.Reference) (manifest.Reference, error) {
	s.pushed, s.to = a, to
	return to.WithDigest(a.Digest), nil
}

// The same source gives the same digest: from two folders, and by the steps that
// the Job takes, each with its own mounts.
func TestBuildIsReproducible(t *testing.T) {
	needClang(t)
	const ref = "r.example/watch:1.0.0"
	one := buildLocal(t, tree(t, watch), ref, time.Time{})
	two := buildLocal(t, tree(t, watch), ref, time.Time{})
	if one.Digest != two.Digest {
		t.Errorf("two folders: %s and %s", one.Digest, two.Digest)
	}
	if other := buildLocal(t, tree(t, watch), "r.example/watch:1.0.1", time.Time{}); other.Digest == one.Digest {
		t.Error("another version has the same digest")
	}
	if other := buildLocal(t, tree(t, watch), ref, time.Unix(1700000000, 0)); other.Digest == one.Digest {
		t.Error("another SOURCE_DATE_EPOCH has the same digest")
	}

	s, err := ReadSource(tree(t, watch), "")
	if err != nil {
		t.Fatal(err)
	}
	r := &shelf{}
	if r.source, err = PackSource(s, time.Time{}); err != nil {
		t.Fatal(err)
	}
	pinned := reference(t, "r.example/watch@"+digest.FromBytes(r.source).String())
	in, out := t.TempDir(), t.TempDir()
	if err := PullSource(t.Context(), r, pinned, in); err != nil {
		t.Fatal(err)
	}
	result, err := ecc.Compile(t.Context(), ecc.Options{Source: filepath.Join(in, s.File), Header: filepath.Join(in, s.Header), Output: out})
	if err != nil {
		t.Fatal(err)
	}
	facts, err := json.Marshal(result.Build)
	if err != nil {
		t.Fatal(err)
	}
	factsPath := filepath.Join(out, factsFile)
	if err := os.WriteFile(factsPath, facts, 0o644); err != nil {
		t.Fatal(err)
	}
	options := PushOptions{Source: pinned, File: s.File, Built: out, Target: reference(t, ref)}
	got, err := PushPackage(t.Context(), r, options)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != one.Digest || got.Tag != "1.0.0" {
		t.Errorf("by the Job's steps %s, on this machine %s", got, one.Digest)
	}

	// The compiler of eunomia-bpf leaves no facts: another package, but one.
	if err := os.Remove(factsPath); err != nil {
		t.Fatal(err)
	}
	if got, err = PushPackage(t.Context(), r, options); err != nil || got.Digest == one.Digest {
		t.Errorf("without facts: %s, %v", got, err)
	}
}

func TestLocalShowsErrorsInTheUsersFile(t *testing.T) {
	needClang(t)
	files := maps.Clone(watch)
	files["sub/limits.h"] = "#define LIMIT 4096\nint broken(;\n"
	dir := tree(t, files)
	t.Chdir(filepath.Dir(dir))
	for _, name := range []string{dir, filepath.Base(dir), filepath.Join(filepath.Base(dir), "watch.bpf.c")} {
		s, err := ReadSource(name, "")
		if err != nil {
			t.Fatal(err)
		}
		var diagnostics bytes.Buffer
		_, err = Local(t.Context(), s, Options{Ref: reference(t, "r.example/watch:1.0.0"), Diagnostics: &diagnostics}, Toolchain{})
		if err == nil {
			t.Fatal("no error")
		}
		for _, want := range []string{filepath.Join(s.Dir, "sub/limits.h") + ":2:12: error: ", "In file included from " + filepath.Join(s.Dir, "watch.bpf.c") + ":4:"} {
			if !strings.Contains(diagnostics.String(), want) {
				t.Errorf("diagnostics:\n%s\nwant %q", diagnostics.String(), want)
			}
		}
		if !strings.Contains(err.Error(), "compile "+filepath.Join(s.Dir, "watch.bpf.c")) {
			t.Errorf("error %v", err)
		}
		if text := diagnostics.String() + err.Error(); strings.Contains(text, "ebpm-build-") {
			t.Errorf("a scratch folder shows:\n%s", text)
		}
	}
}

func TestLocalRefuses(t *testing.T) {
	needClang(t)
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
		kind  manifest.Kind
	}{
		{"another version", map[string]string{"ebpm.yaml": "version: 2.0.0\n"}, "differ", manifest.KindUsage},
		{"a file of the machine", map[string]string{"sub/limits.h": "#define LIMIT 4096\n__asm__(\".incbin \\\"/etc/hostname\\\"\");\n"}, "incbin", manifest.KindFailure},
		{"a hook that has no row", map[string]string{"watch.bpf.c": strings.Replace(watch["watch.bpf.c"], "tracepoint/syscalls/sys_enter_openat", "lwt_xmit", 1)}, "lwt_xmit", manifest.KindPrecondition},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := maps.Clone(watch)
			maps.Copy(files, tt.files)
			s, err := ReadSource(tree(t, files), "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = Local(t.Context(), s, Options{Ref: reference(t, "r.example/watch:1.0.0")}, Toolchain{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || manifest.KindOf(err) != tt.kind {
				t.Errorf("error %v of kind %d, want %q of kind %d", err, manifest.KindOf(err), tt.want, tt.kind)
			}
		})
	}
}

func TestLocalWithoutClang(t *testing.T) {
	s, err := ReadSource(tree(t, watch), "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Local(t.Context(), s, Options{Ref: reference(t, "r.example/watch:1.0.0")}, Toolchain{Clang: "clang-of-nowhere"})
	if manifest.KindOf(err) != manifest.KindPrecondition || manifest.AdviceOf(err) == "" {
		t.Errorf("error %v of kind %d", err, manifest.KindOf(err))
	}
}

func TestLocalLeavesNothingWhenInterrupted(t *testing.T) {
	needClang(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	s, err := ReadSource(tree(t, watch), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Local(ctx, s, Options{Ref: reference(t, "r.example/watch:1.0.0"), Progress: func(e Event) {
		if e.Step == StepCompile {
			cancel()
		}
	}}, Toolchain{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "ebpm-build-*")); left != nil {
		t.Errorf("left: %v", left)
	}
}

func TestAssembleRefuses(t *testing.T) {
	needClang(t)
	dir := tree(t, watch)
	s, err := ReadSource(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	source, err := PackSource(s, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if _, err := ecc.Compile(t.Context(), ecc.Options{Source: filepath.Join(dir, s.File), Output: out}); err != nil {
		t.Fatal(err)
	}
	pkg, err := os.ReadFile(filepath.Join(out, manifest.PackageFile))
	if err != nil {
		t.Fatal(err)
	}
	good := Parts{Source: source, File: s.File, Tag: "1.0.0"}
	of := func(platform manifest.Platform, pkg []byte) Compiled {
		return Compiled{Platform: platform, Package: pkg}
	}
	good.Compiled = []Compiled{of(manifest.HostPlatform(), pkg)}
	if _, err := Assemble(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Parts){
		"source is no archive": func(p *Parts) { p.Source = []byte("x") },
		"program is not in it": func(p *Parts) { p.File = "other.bpf.c" },
		"package is cut":       func(p *Parts) { p.Compiled[0].Package = pkg[:len(pkg)/2] },
		"package of another size": func(p *Parts) {
			p.Compiled[0].Package = bytes.Replace(pkg, []byte(`"bpf_object_size":`), []byte(`"bpf_object_size":1`), 1)
		},
		"package without object": func(p *Parts) { p.Compiled[0].Package = []byte(`{}`) },
		"no platform":            func(p *Parts) { p.Compiled = nil },
		"a platform twice":       func(p *Parts) { p.Compiled = append(p.Compiled, p.Compiled[0]) },
		"second package is cut": func(p *Parts) {
			p.Compiled = append(p.Compiled, of(manifest.Platform{OS: "linux", Architecture: "x"}, pkg[1:]))
		},
	} {
		p := good
		p.Compiled = slices.Clone(good.Compiled)
		change(&p)
		if _, err := Assemble(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPushPackageReadsRegularFilesOnly(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, manifest.PackageFile)
	if err := os.Symlink("/proc/self/environ", link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", filepath.Join(dir, "arm64")); err != nil {
		t.Fatal(err)
	}
	options := PushOptions{Source: reference(t, "r.example/w@"+digest.FromString("").String()), Built: dir, Target: reference(t, "r.example/w:1.0.0")}
	_, err := PushPackage(t.Context(), &shelf{}, options)
	if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("error %v", err)
	}
	options.Platforms = []manifest.Platform{{OS: "linux", Architecture: "arm64"}}
	if _, err = PushPackage(t.Context(), &shelf{}, options); err == nil || !strings.Contains(err.Error(), "arm64 is not a folder") {
		t.Errorf("error %v", err)
	}
	if _, err := PushPackage(t.Context(), &shelf{}, PushOptions{Source: reference(t, "r.example/w:1.0.0"), Built: dir}); manifest.KindOf(err) != manifest.KindUsage {
		t.Errorf("a source by its tag: %v", err)
	}
}
