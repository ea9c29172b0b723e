// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestChoose(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"clang", "llvm-strip", "clang-19"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	onlyClang := t.TempDir()
	if err := os.Symlink(filepath.Join(bin, "clang"), filepath.Join(onlyClang, "clang")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		want, path, context string
		tools               Toolchain
		builder, why        string
		kind                manifest.Kind
	}{
		{want: "auto", path: bin, builder: "local", why: "where clang is"},
		{want: "", path: bin, context: "prod", builder: "local", why: "where clang is"},
		{want: "auto", path: t.TempDir(), context: "prod", builder: "kubernetes", why: "context prod: there is no clang"},
		{want: "auto", path: onlyClang, context: "prod", builder: "kubernetes", why: "there is no llvm-strip"},
		{want: "auto", path: bin, tools: Toolchain{Clang: "clang-19"}, builder: "local", why: "where clang is"},
		{want: "auto", path: bin, tools: Toolchain{Clang: "clang-12"}, context: "prod", builder: "kubernetes", why: "there is no clang-12"},
		{want: "auto", path: t.TempDir(), kind: manifest.KindPrecondition},
		{want: "local", path: t.TempDir(), context: "prod", builder: "local", why: "as asked"},
		{want: "kubernetes", path: bin, context: "prod", builder: "kubernetes", why: "context prod, as asked"},
		{want: "kubernetes", path: bin, kind: manifest.KindPrecondition},
		{want: "docker", path: bin, kind: manifest.KindUsage},
	} {
		t.Setenv("PATH", tt.path)
		got, err := Choose(tt.want, tt.tools, tt.context)
		if tt.kind != 0 {
			if err == nil || manifest.KindOf(err) != tt.kind {
				t.Errorf("%+v: error %v of kind %d", tt, err, manifest.KindOf(err))
			}
			continue
		}
		if err != nil || got.Builder != tt.builder || !strings.Contains(got.Why, tt.why) {
			t.Errorf("%+v: %+v, %v", tt, got, err)
		}
	}
}
