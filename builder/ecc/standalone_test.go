// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

// buildRunner puts our runner into a folder.
func buildRunner(t *testing.T, dir string) {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, runnerName), "../../cmd/ecli")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the runner: %v\n%s", err, output)
	}
}

func TestStandalone(t *testing.T) {
	needTools(t)
	bin := t.TempDir()
	buildRunner(t, bin)
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	dir := t.TempDir()
	source := writeFile(t, dir, "tool.bpf.c", `// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
/// @brief counts calls
char LICENSE[] SEC("license") = "GPL";
/// @description only this process
/// @cmdarg {"short": "p", "long": "process"}
const volatile int pid = 0;
SEC("tp/syscalls/sys_enter_getpid")
int on_getpid(void *ctx)
{
	return pid;
}
`)
	// As YAML, too, the executable holds package.json.
	for _, yaml := range []bool{false, true} {
		result, err := Compile(t.Context(), Options{Source: source, Standalone: true, YAML: yaml})
		if err != nil {
			t.Fatal(err)
		}
		executable := mustRead(t, filepath.Join(dir, "tool.out"))
		packed, err := manifest.ReadStandalone(bytes.NewReader(executable), int64(len(executable)))
		if err != nil {
			t.Fatal(err)
		}
		if pkg, err := manifest.DecodePackage(packed); err != nil || !bytes.Equal(pkg.Object, result.Object) {
			t.Errorf("the package in it is another: %v", err)
		}
		help, err := exec.CommandContext(t.Context(), filepath.Join(dir, "tool.out"), "--help").CombinedOutput()
		if err != nil || !strings.Contains(string(help), "counts calls") || !strings.Contains(string(help), "-p, --process") {
			t.Errorf("--help: %v\n%s", err, help)
		}
	}
}

func TestStandaloneWithoutRunner(t *testing.T) {
	needTools(t)
	tools := t.TempDir()
	for _, tool := range []string{"clang", "llvm-strip"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(tools, tool)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", tools)
	source := writeFile(t, t.TempDir(), "tool.bpf.c", "int x;\n")
	refuse := func(want string) {
		t.Helper()
		_, err := Compile(t.Context(), Options{Source: source, Standalone: true})
		if manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if entries, err := os.ReadDir(filepath.Dir(source)); err != nil || len(entries) != 1 {
			t.Errorf("left beside the source: %v, %v", entries, err)
		}
	}
	refuse("there is no ecli beside this program or in PATH")
	script := writeFile(t, tools, runnerName, "#!/bin/sh\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	refuse("it is another program")
}

func TestCheckRunner(t *testing.T) {
	bin := t.TempDir()
	buildRunner(t, bin)
	runner := mustRead(t, filepath.Join(bin, runnerName))
	if isDynamic(runner) {
		t.Error("it is said to be linked with libraries")
	}
	for _, test := range []struct {
		data []byte
		arch string
		want string
	}{
		{runner, "mips", "it is not for linux/mips"},
		{manifest.AppendStandalone(runner, []byte("{}")), runtime.GOARCH, "it has a package of its own"},
		{[]byte("text"), "amd64", "it is another program"},
	} {
		if err := checkRunner(test.data, test.arch); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}
