// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

// addFiles adds the files that match pattern as seeds.
func addFiles(f *testing.F, pattern string) {
	f.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		f.Fatalf("no seeds %s: %v", pattern, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// FuzzSkeleton reads objects that no compiler made.
func FuzzSkeleton(f *testing.F) {
	addFiles(f, "testdata/objects/*.o")
	f.Fuzz(func(t *testing.T, data []byte) {
		skel, err := skeletonOf(data, "fuzz.bpf.o")
		if err != nil {
			return
		}
		meta := manifest.Meta{Skeleton: skel}
		encoded, err := meta.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(encoded) {
			t.Errorf("skeleton is no JSON: %s", encoded)
		}
	})
}

func FuzzAnnotate(f *testing.F) {
	addFiles(f, "testdata/upstream/*/*.c")
	f.Add([]byte("#if 0\n}\n#else\nint f(void) {\n#endif\n}\n/// @cmdarg {\"default\":1}\nint x;"))
	f.Fuzz(func(t *testing.T, source []byte) {
		skel := manifest.Skeleton{
			DataSections: []manifest.DataSection{{Name: ".bss", Variables: []manifest.Variable{{Name: "x"}, {Name: "only_pid"}}}},
			Maps:         []manifest.MapMeta{{Name: "above"}, {Name: "rb"}},
			Progs:        []manifest.ProgMeta{{Name: "f"}, {Name: "on_getpid"}},
		}
		notes := annotator{file: "fuzz.c", log: slog.New(slog.DiscardHandler), warn: func(string) {}}
		if notes.annotate(&skel, source) != nil {
			return
		}
		meta := manifest.Meta{Skeleton: skel}
		encoded, err := meta.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(encoded) {
			t.Errorf("annotated skeleton is no JSON: %s", encoded)
		}
		again, err := manifest.DecodeMeta(encoded)
		if err != nil {
			t.Fatalf("the skeleton cannot be read again: %v\n%s", err, encoded)
		}
		if second, err := again.Encode(); err != nil || string(second) != string(encoded) {
			t.Errorf("encodes to %s, then to %s, %v", encoded, second, err)
		}
	})
}

// FuzzComment reads comments alone, so that what is found gets far into them.
func FuzzComment(f *testing.F) {
	for _, text := range []string{
		"/** @brief a <b c='d'>e</b> &amp; \\@ @p f g\n *\n * @cmdarg {\"h\": \"@i\"} */",
		"/// @code x @endcode y @f$ z @f$\n//! @link a @/link\n/// @brif @name b",
		"/**\r\n * @xdp_opts {\"a\": 1e3}\r\n ** @n <i/>\r\n */",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		comment := newDocComment(text, 7, strings.HasPrefix(text, "/*"))
		if comment == nil {
			return
		}
		found, warnings := comment.annotations()
		inside := func(line int) bool { return line >= 7 && line <= comment.end }
		for _, a := range found {
			if !inside(a.line) || a.key == "" || strings.Trim(a.key, letters+"0123456789_$()[]{}") != "" {
				t.Errorf("annotation %+v of lines 7 to %d", a, comment.end)
			}
			if a.text == "" || strings.TrimSpace(a.text) != a.text || !a.block && strings.Contains(a.text, "\n") {
				t.Errorf("text of %+v", a)
			}
		}
		for _, w := range warnings {
			if !inside(w.line) || w.text == "" {
				t.Errorf("warning %+v of lines 7 to %d", w, comment.end)
			}
		}
	})
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

func FuzzExportedStructs(f *testing.F) {
	addFiles(f, "testdata/upstream/*/*.h")
	f.Fuzz(func(t *testing.T, header []byte) {
		lines := strings.Split(string(header), "\n")
		for _, s := range exportedStructs(header) {
			if s.line < 1 || s.line > len(lines) || !strings.Contains(lines[s.line-1], s.name) {
				t.Errorf("struct %s is not in line %d", s.name, s.line)
			}
		}
	})
}

func FuzzInlineAssembly(f *testing.F) {
	addFiles(f, "testdata/objects/*.bc")
	f.Fuzz(func(_ *testing.T, bitcode []byte) {
		_, _ = readBitcode(bitcode)
	})
}

func FuzzFindAssembly(f *testing.F) {
	f.Add([]byte("# 1 \"a.c\"\nasm(\".inc\\142in x\");\n"))
	f.Add([]byte("__asm__ volatile(\"\\x2eincbin\" u8\"\\u0041\\U00000041\" : : \"i\"(&x));"))
	f.Fuzz(func(t *testing.T, text []byte) {
		place, directive := findAssembly(text, forbiddenDirectives)
		if (place == "") != (directive == "") {
			t.Errorf("found %q at %q", directive, place)
		}
	})
}

func FuzzDependencies(f *testing.F) {
	f.Add(` a.c two\ words.h a$$b.h c\#d.h \` + "\n  e.h\n")
	f.Fuzz(func(t *testing.T, rule string) {
		for _, name := range parseDependencies(rule) {
			if name == "" || strings.ContainsAny(name, "\n") {
				t.Errorf("file %q", name)
			}
		}
	})
}

func FuzzNormalizeJSON(f *testing.F) {
	for _, seed := range []string{`{"a":1e3}`, `[-0,1.50,1e16,18446744073709551615,1e400]`, `"x"`, `{"a":1,"a":2}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		once, err := normalizeJSON(raw)
		if err != nil {
			return
		}
		twice, err := normalizeJSON(once)
		if err != nil || string(once) != string(twice) {
			t.Errorf("%q becomes %q, then %q, %v", raw, once, twice, err)
		}
	})
}
