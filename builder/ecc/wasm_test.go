// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/manifest"
)

var wasmObject = regexp.MustCompile(`\\"bpf_object\\":\\"[A-Za-z0-9+/]+=*\\",\\"bpf_object_size\\":[0-9]+`)

// TestUpstreamWasmHeader compares with what eunomia-bpf's ecc wrote, but for the
// object, the version, and the quotes in a description, which it does not escape
// twice: its header does not compile.
func TestUpstreamWasmHeader(t *testing.T) {
	needTools(t)
	from := "testdata/upstream-outputs/flag-wasm-header"
	dir := copyDir(t, from)
	opts := Options{Source: filepath.Join(dir, "greeter.bpf.c"), Header: filepath.Join(dir, "event.h"), Output: t.TempDir(), WasmHeader: true}
	if _, err := Compile(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	const broken, mended = `a: colon and \\"quotes\\", yes`, `a: colon and \\\"quotes\\\", yes`
	want := string(mustRead(t, filepath.Join(from, wasmHeaderFile)))
	if strings.Count(want, broken) != 1 {
		t.Fatalf("upstream's header does not hold %s", broken)
	}
	want = strings.Replace(want, broken, mended, 1)
	want = strings.Replace(want, `\"eunomia_version\":\"0.3.4\"`, `\"eunomia_version\":\"`+manifest.Version+`\"`, 1)
	header := mustRead(t, filepath.Join(opts.Output, wasmHeaderFile))
	mask := func(s string) string {
		s = wasmObject.ReplaceAllString(s, "OBJECT")
		return regexp.MustCompile(`type_id\\":[0-9]+`).ReplaceAllString(s, `type_id\":ID`)
	}
	if diff := cmp.Diff(mask(want), mask(string(header))); diff != "" {
		t.Errorf("%s (-want +got):\n%s", wasmHeaderFile, diff)
	}
	if got := compiledString(t, header); !bytes.Equal(got, mustRead(t, filepath.Join(opts.Output, "package.json"))) {
		t.Error("the string of the header is not package.json")
	}
}

// compiledString returns what clang makes of the header's string, with
// trigraphs.
func compiledString(t *testing.T, header []byte) []byte {
	t.Helper()
	source := writeFile(t, t.TempDir(), "a.c", string(header))
	out, err := exec.CommandContext(t.Context(), "clang", "-std=c11", "-w", "-S", "-emit-llvm", "-o", "-", source).CombinedOutput()
	if err != nil {
		t.Fatalf("the header does not compile: %v\n%s", err, out)
	}
	_, text, ok := strings.Cut(string(out), `constant [`)
	_, text, ok2 := strings.Cut(text, ` c"`)
	text, _, ok3 := strings.Cut(text, `\00"`)
	if !ok || !ok2 || !ok3 {
		t.Fatalf("no string in %s", out)
	}
	// LLVM writes a byte that is not itself as \XX .
	var b []byte
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b = append(b, text[i])
			continue
		}
		if text[i+1] == '\\' {
			b = append(b, '\\')
			i++
			continue
		}
		c, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, byte(c))
		i += 2
	}
	return b
}

func TestWasmHeaderEscapes(t *testing.T) {
	needTools(t)
	for _, text := range []string{`{"a":"\"\\n\n"}`, `"??=???/??"`, `"größe \u0001 %s\\"`} {
		if got := string(compiledString(t, wasmHeader([]byte(text)))); got != text {
			t.Errorf("%s becomes %s", text, got)
		}
	}
}

// TestWasmHeaderWithoutPackage checks that no package.json of another run gets
// into the header.
func TestWasmHeaderWithoutPackage(t *testing.T) {
	needTools(t)
	for name, opts := range map[string]Options{"no package": {NoPackage: true}, "YAML": {YAML: true}} {
		dir := copyDir(t, "testdata/upstream-outputs/flag-no-package-wasm")
		writeFile(t, dir, "package.json", "{}")
		opts.Source, opts.WasmHeader = filepath.Join(dir, "minimal.bpf.c"), true
		if _, err := Compile(t.Context(), opts); err == nil || !strings.HasPrefix(err.Error(), "generate wasm header: ") {
			t.Errorf("%s: error %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, wasmHeaderFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a header was written, %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "minimal.bpf.o")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
