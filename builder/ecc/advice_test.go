// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestAdvice(t *testing.T) {
	needTools(t)
	for _, test := range []struct{ name, text, want string }{
		{"member", "int f(struct task_struct *t) { return t->no_such_member; }", "-IFOLDER with its vmlinux.h"},
		{"function", "int f(void) { return bpf_no_such_kfunc(); }", "-IFOLDER with its vmlinux.h"},
		{"constant", "int f(void) { return NO_SUCH_CONSTANT; }", "-IFOLDER with its vmlinux.h"},
		{"type", "int f(struct no_such_struct *s) { return s->x; }", "-IFOLDER with its vmlinux.h"},
		{"macro", "NO_SUCH_MACRO(one, two);", "a macro that none of the included headers defines"},
		{"syntax", "int f(void) { return 0 }", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			source := writeFile(t, t.TempDir(), "tool.bpf.c", "#include \"vmlinux.h\"\n"+test.text+"\n")
			var diagnostics bytes.Buffer
			_, err := Compile(t.Context(), Options{Source: source, CFlags: []string{"-Werror=implicit-function-declaration", "-Wno-implicit-int"}, Diagnostics: &diagnostics})
			if !isCompileError(err) {
				t.Fatalf("%v\n%s", err, &diagnostics)
			}
			if advice := manifest.AdviceOf(err); (advice == "") != (test.want == "") || !strings.Contains(advice, test.want) {
				t.Errorf("advice %q, want %q; clang said:\n%s", advice, test.want, &diagnostics)
			}
		})
	}
}

// TestVmlinuxOfFlags compiles for the types in a folder that the flags name.
func TestVmlinuxOfFlags(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	writeFile(t, dir, "types/vmlinux.h", "struct only_here { int member; };\n")
	source := writeFile(t, dir, "tool.bpf.c", "#include <vmlinux.h>\nint f(struct only_here *s) { return s->member; }\n")
	for _, flags := range [][]string{{"-I" + dir + "/types"}, {"-I", dir + "/types"}} {
		result, err := Compile(t.Context(), Options{Source: source, CFlags: flags, NoPackage: true})
		if err != nil {
			t.Fatalf("%q: %v", flags, err)
		}
		if b := result.Build; b.Vmlinux != "file" || !strings.HasPrefix(b.VmlinuxDigest, "sha256:") {
			t.Errorf("%q: built with vmlinux.h %s %s", flags, b.Vmlinux, b.VmlinuxDigest)
		}
	}
}
