// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestPackageBehind(t *testing.T) {
	pkg := &manifest.Package{Object: []byte("\x7fELF"), Meta: manifest.Meta{EunomiaVersion: "0"}}
	data, err := pkg.Encode()
	if err != nil {
		t.Fatal(err)
	}
	whole := manifest.AppendStandalone([]byte("a runner"), data)
	changed := append([]byte(nil), whole...)
	changed[len("a runner")+3] ^= 1
	for _, test := range []struct {
		name string
		file []byte
		own  bool
		err  string
	}{
		{"runner", []byte("a runner"), false, ""},
		{"empty", nil, false, ""},
		{"package", whole, true, ""},
		{"changed", changed, false, "does not have its recorded digest"},
		{"no package", manifest.AppendStandalone(nil, []byte("{}")), false, "read the package in "},
	} {
		path := filepath.Join(t.TempDir(), "tool.out")
		if err := os.WriteFile(path, test.file, 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := packageBehind(path)
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.err)
		}
		if (got != nil) != test.own {
			t.Errorf("%s: package %v", test.name, got)
		}
	}
	if got, err := packageBehind(filepath.Join(t.TempDir(), "none")); got != nil || err != nil {
		t.Errorf("no file: %v, %v", got, err)
	}
	// The test's own executable is none.
	if got, err := ownPackage(); got != nil || err != nil {
		t.Errorf("this executable: %v, %v", got, err)
	}
}
