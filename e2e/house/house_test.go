// SPDX-License-Identifier: Apache-2.0

// Package house holds the rules of the repository as tests: which part may
// import which, that the command line builds on darwin, and that nothing here
// leans on a machine or a download host.
package house

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ebpm/ebpm/"

func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func output(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = repository(t)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	return strings.Fields(output(t, nil, "go", "list", "-deps", "./"+pkg))
}

// Arrows run one way: cmd -> deployer, builder -> registry -> manifest.
func TestImports(t *testing.T) {
	for pkg, allowed := range map[string][]string{
		"manifest":      {"manifest"},
		"registry":      {"registry", "manifest"},
		"builder/ecc":   {"builder/ecc", "manifest"},
		"deployer/ecli": {"deployer/ecli", "manifest"},
		"builder":       {"builder", "builder/ecc", "registry", "manifest"},
		"deployer":      {"deployer", "registry", "manifest"},
		"cmd/ecc":       {"cmd/ecc", "builder/ecc", "manifest"},
		"cmd/ecli":      {"cmd/ecli", "deployer/ecli", "manifest"},
		"builder/image": {"builder/image", "manifest"},
		"cmd/ebpm":      {"cmd/ebpm", "builder", "builder/ecc", "deployer", "deployer/ecli", "registry", "manifest"},
	} {
		t.Run(pkg, func(t *testing.T) {
			for _, dep := range dependencies(t, pkg) {
				own, isOwn := strings.CutPrefix(dep, module)
				if !isOwn {
					continue
				}
				// A part may have packages below it.
				ok := slices.ContainsFunc(allowed, func(a string) bool {
					return own == a || (strings.HasPrefix(own, a+"/") && a != "builder" && a != "deployer")
				})
				if !ok {
					t.Errorf("%s imports %s; allowed are %s", pkg, own, strings.Join(allowed, ", "))
				}
			}
		})
	}
}

// Only deployer and builder know Kubernetes; the runner knows no registry.
func TestImportsOfLibraries(t *testing.T) {
	for pkg, forbidden := range map[string][]string{
		"manifest":      {"k8s.io/", "oras.land/", "net/http"},
		"registry":      {"k8s.io/"},
		"builder/ecc":   {"k8s.io/", "oras.land/", "net/http"},
		"builder/image": {"k8s.io/"},
		"deployer/ecli": {"k8s.io/", "oras.land/", "net/http"},
		"cmd/ecli":      {"k8s.io/", "oras.land/", "net/http"},
		"cmd/ecc":       {"k8s.io/", "oras.land/", "net/http"},
	} {
		t.Run(pkg, func(t *testing.T) {
			forbid(t, pkg, dependencies(t, pkg), forbidden)
		})
	}
}

func forbid(t *testing.T, what string, dependencies, forbidden []string) {
	t.Helper()
	for _, dep := range dependencies {
		for _, f := range forbidden {
			if dep == f || (strings.HasSuffix(f, "/") && strings.HasPrefix(dep, f)) {
				t.Errorf("%s links %s", what, dep)
			}
		}
	}
}

// What has kernel rights, or only looks at bytes, starts no program. (cmd/ecli
// has ebpm fetch what is not on this machine, before it loads anything.)
func TestImportsOfExec(t *testing.T) {
	for _, pkg := range []string{"manifest", "deployer/ecli", "registry"} {
		imports := strings.Fields(output(t, nil, "go", "list", "-f", "{{join .Imports \"\\n\"}}", "./"+pkg))
		forbid(t, pkg, imports, []string{"os/exec"})
	}
}

// The ebpm of the container image, which every node runs, has no client of
// Kubernetes in it.
func TestImportsOfNodes(t *testing.T) {
	node := strings.Fields(output(t, nil, "go", "list", "-deps", "-tags", "node", "./cmd/ebpm"))
	forbid(t, "cmd/ebpm -tags node", node, []string{"k8s.io/client-go/", "k8s.io/api/", "k8s.io/apimachinery/", module + "deployer"})
}

// The folders are those of the architecture document, and no others.
func TestFolders(t *testing.T) {
	known := []string{"builder", "cmd", "deployer", "docs", "e2e", "examples", "manifest", "registry", ".ci", ".git", "bin", "dist"}
	entries, err := os.ReadDir(repository(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(known, e.Name()) {
			t.Errorf("folder %s is not in docs/architecture.md", e.Name())
		}
	}
}

func TestStandaloneDarwinBuild(t *testing.T) {
	output(t, []string{"GOOS=darwin", "GOARCH=arm64", "CGO_ENABLED=0"}, "go", "build", "-o", os.DevNull, "./cmd/ebpm")
}

// No file names the host of a package registry or a path of one machine.
func TestStandaloneText(t *testing.T) {
	forbidden := regexp.MustCompile(`(?i)proxy\.` + `golang\.org|deb\.` + `debian\.org|snapshot\.` + `debian\.org|static\.` + `crates\.io|index\.` + `crates\.io|registry\.` + `npmjs\.org|files\.` + `pythonhosted\.org|repo1\.` + `maven\.org|/work` + `/(main|shared)`)
	for _, file := range strings.Split(output(t, nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00") {
		if file == "" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(repository(t), file))
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if m := forbidden.Find(data); m != nil {
			t.Errorf("%s names %s", file, m)
		}
	}
}
