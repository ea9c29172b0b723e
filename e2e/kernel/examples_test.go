// SPDX-License-Identifier: Apache-2.0

//go:build linux && e2e

package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/e2e/kernel/vm"
)

// TestExamples compiles the examples here, and runs the tests of e2e/examples
// with them on each kernel. Each test there is a test here:
// TestExamples/KERNEL/TEST.
func TestExamples(t *testing.T) {
	const sources = "../../examples"
	entries, err := os.ReadDir(sources)
	if err != nil {
		t.Fatal(err)
	}
	packages := t.TempDir()
	for _, e := range entries {
		name := e.Name()
		out := filepath.Join(packages, name)
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := ecc.Compile(t.Context(), ecc.Options{
			Source: filepath.Join(sources, name, name+".bpf.c"), Header: filepath.Join(sources, name, name+".h"),
			Output: out, Diagnostics: os.Stderr,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	suite, err := vm.Build(t.Context(), []string{"../examples"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := suite.Close(); err != nil {
			t.Error(err)
		}
	})
	o := vm.Options{
		// busybox has no symbols, and its shell is not what bashreadline looks at.
		Programs: []string{"bash", "dd"},
		Files:    map[string]string{"/bin/bash": "/bin/bash", "/packages": packages, "/src/examples": sources},
		Env:      []string{"EBPM_TEST_PACKAGES=/packages"},
	}
	for _, series := range vm.Series {
		t.Run(series, func(t *testing.T) { runOn(t, series, suite, o, &column{results: map[string]string{}}) })
	}
}
