// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"os"
	"path/filepath"
	"testing"
)

// glibc's headers ask for gnu/stubs-32.h when clang compiles for eBPF, and no
// package that clang needs has it.
func TestHostHeaders(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "host.bpf.c")
	const text = "#include <stdint.h>\n#include <linux/types.h>\n#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nuint32_t counter;\n"
	if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(t.Context(), Options{Source: source, Output: dir, Diagnostics: testWriter{t}}); err != nil {
		t.Fatal(err)
	}
}

// testWriter writes into the log of a test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p))
	return len(p), nil
}
