// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestKernelTypes(t *testing.T) {
	if !KernelHasBTF() {
		t.Skip("the kernel does not show its types")
	}
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("no BTF"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		own        bool // the kernel's own are taken
		kind       manifest.Kind
		optional   bool
	}{
		{"none is named", "", true, 0, false},
		{"the file is not there", filepath.Join(dir, "none"), false, manifest.KindPrecondition, false},
		{"the file is not there and need not be", filepath.Join(dir, "none"), true, 0, true},
		{"a file with types", kernelBTF, false, 0, true},
		{"a file without", garbage, false, manifest.KindPrecondition, true},
	} {
		t.Setenv(btfFileEnv, test.path)
		types, err := kernelTypes(&Options{OptionalBTF: test.optional, KernelBTF: []byte("not looked at where the kernel shows its types")})
		if err == nil && test.kind != 0 || err != nil && manifest.KindOf(err) != test.kind {
			t.Errorf("%s: error %v", test.name, err)
		}
		if err == nil && (types == nil) != test.own {
			t.Errorf("%s: types %v", test.name, types)
		}
	}
}

func TestRunningKernel(t *testing.T) {
	k, err := RunningKernel(true)
	if err != nil || k.Release != kernelRelease() || k.Machine == "" || k.Version == "" || k.ID != "" {
		t.Errorf("%+v, %v", k, err)
	}
}
