// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRegistryVersion keeps the cluster's registry that which the project's
// tests use in process.
func TestRegistryVersion(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/distribution/distribution/v3").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != registryVersion {
		t.Errorf("go.mod has %s, registryVersion is %s", got, registryVersion)
	}
}

func TestKeyChangesWithTheBuild(t *testing.T) {
	base := component{name: "x", module: "m", version: "v1", packages: []string{"m/a"}, ldflags: "-s"}
	seen := map[string]string{base.key(): "base"}
	for name, change := range map[string]func(*component){
		"version":  func(c *component) { c.version = "v2" },
		"packages": func(c *component) { c.packages = []string{"m/a", "m/b"} },
		"tags":     func(c *component) { c.tags = "t" },
		"ldflags":  func(c *component) { c.ldflags = "-w" },
		"cgo":      func(c *component) { c.cgo = true },
		"sources":  func(c *component) { c.sources = map[string]string{"main.go": "package main"} },
	} {
		c := base
		change(&c)
		if other, ok := seen[c.key()]; ok {
			t.Errorf("changing %s gives the key of %s", name, other)
		}
		seen[c.key()] = name
	}
	if first, second := base.key(), base.key(); first != second {
		t.Errorf("the same component has two keys, %s and %s", first, second)
	}
}

func TestEstimate(t *testing.T) {
	const early = "too early to tell how long it takes"
	for _, tc := range []struct {
		done, total int
		elapsed     time.Duration
		want        string
	}{
		{0, 0, time.Minute, early},
		{0, 1000, time.Hour, early},
		{10, 1000, time.Hour, early},
		{500, 1000, time.Second, early},
		{500, 1000, 5 * time.Minute, "about 5 min left"},
		{250, 1000, 4 * time.Minute, "about 12 min left"},
		{990, 1000, 10 * time.Minute, "less than a minute left"},
		{1000, 1000, 10 * time.Minute, "less than a minute left"},
	} {
		if got := estimate(tc.done, tc.total, tc.elapsed); got != tc.want {
			t.Errorf("estimate(%d, %d, %s) = %q, want %q", tc.done, tc.total, tc.elapsed, got, tc.want)
		}
	}
}

func TestProgressNeverExceedsTheAnnounced(t *testing.T) {
	var log bytes.Buffer
	p := &progress{log: &log, start: time.Now()}
	p.add(2, 1)
	p.compiling()
	for range 5 {
		p.last = time.Time{} // each line is due
		p.compiled()
	}
	if !strings.Contains(log.String(), "2 of 2 packages") || strings.Contains(log.String(), "3 of 2") {
		t.Errorf("progress lines:\n%s", &log)
	}
}

// TestBuildPause builds the one component that needs no network, and looks at
// what a second build and a broken one do.
func TestBuildPause(t *testing.T) {
	goTool, err := goTool()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b := &build{cache: t.TempDir(), goTool: goTool, log: &log}
	pause := components()[0]
	if pause.name != "pause" {
		t.Fatalf("the first component is %s", pause.name)
	}
	if err := b.run(t.Context(), []component{pause}); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(b.cache, pause.key(), "pause")
	cmd := exec.Command(program)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed above

	broken := pause
	broken.sources = map[string]string{"main.go": "package main\n\nfunc main() { undefined() }\n"}
	err = b.run(t.Context(), []component{broken})
	if err == nil || !strings.Contains(err.Error(), "undefined: undefined") || !strings.Contains(err.Error(), "pause v1") {
		t.Errorf("a broken source: got %v, want the compiler's message and the component", err)
	}
	if isDir(filepath.Join(b.cache, broken.key())) {
		t.Error("a failed build left a folder that counts as built")
	}
	entries, err := os.ReadDir(b.cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != pause.key() {
			t.Errorf("the builds left %s", e.Name())
		}
	}

	archives := [2]string{}
	for i := range archives {
		archive := filepath.Join(t.TempDir(), fmt.Sprintf("%d.tar", i))
		if err := writePauseImage(archive, program); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = string(data)
	}
	if archives[0] != archives[1] {
		t.Error("the same program gives two different image archives")
	}
}
