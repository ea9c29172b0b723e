// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func TestDiagnosticsShowTheUsersPaths(t *testing.T) {
	const clang = `In file included from /source/w.bpf.c:3:
                 from /source/sub/a.h:1:
/source/w.h:7:2: error: unknown type name 'foo'
    7 |         foo x; // see /source/w.h
      |         ^
ERROR [ecc_rs::bpf_compiler] /source/w.bpf.c:4:1: error: expected ';'
/sourcery/w.h:1:1: note: not below the folder
1 error generated.
no newline at the end`
	for _, tt := range []struct{ dir, want string }{
		{"examples/w", "examples/w/"}, {".", ""}, {"/home/user/w", "/home/user/w/"}, {"..", "../"},
	} {
		want := strings.NewReplacer(
			"from /source/", "from "+tt.want,
			"\n/source/", "\n"+tt.want,
			"compiler] /source/", "compiler] "+tt.want,
		).Replace(clang)
		// However the bytes arrive, the lines are the same.
		for size := 1; size < len(clang); size += 7 {
			var out bytes.Buffer
			d := newDiagnostics(&out, "/source", &Source{Dir: tt.dir})
			for rest := []byte(clang); len(rest) > 0; {
				n := min(size, len(rest))
				if _, err := d.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if out.String() != want {
				t.Fatalf("in %s, %d bytes at once:\n%s\nwant:\n%s", tt.dir, size, out.String(), want)
			}
		}
	}
}

func TestDiagnosticsKeepLongLines(t *testing.T) {
	line := strings.Repeat("x", 3*maxLine) + "\n/source/a.c:1:1: error\n"
	var out bytes.Buffer
	d := newDiagnostics(&out, "/source", &Source{Dir: "."})
	for _, b := range []byte(line) {
		if _, err := d.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := out.String(), strings.Replace(line, "/source/", "", 1); got != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestDiagnosticsReportABrokenWriter(t *testing.T) {
	d := newDiagnostics(brokenWriter{}, "/source", &Source{Dir: "."})
	if _, err := d.Write([]byte("a\nb\n")); err != nil {
		t.Errorf("the writer in front must not be stopped: %v", err)
	}
	if err := d.Close(); err == nil {
		t.Error("the error is lost")
	}
}

func TestExplainNamesAFileThatWasNotPacked(t *testing.T) {
	dir := tree(t, map[string]string{"w.bpf.c": "#define H \"gen.h\"\n#include H\n", "gen.h": ""})
	s, err := ReadSource(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	s.Header = ""
	for file, want := range map[string]string{"gen.h": "list it under `files`", "other.h": "", "../w.h": ""} {
		d := newDiagnostics(nil, "/source", s)
		_, _ = d.Write([]byte("/source/w.bpf.c:2:10: fatal error: '" + file + "' file not found\n"))
		err := d.explain(s, errors.New("compile /source/w.bpf.c: clang: exit status 1"))
		if want := "compile " + dir + "/w.bpf.c: clang: exit status 1"; err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
		if got := manifest.AdviceOf(err); (got != "") != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%s: advice %q, want %q", file, got, want)
		}
	}
}
