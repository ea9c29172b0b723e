// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebpm/ebpm/manifest"
	"github.com/google/go-cmp/cmp"
)

// tree writes files into a new folder and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func reference(t testing.TB, s string) manifest.Reference {
	t.Helper()
	r, err := manifest.ParseReference(s, "")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReadSource(t *testing.T) {
	for _, tt := range []struct {
		name         string
		files        map[string]string
		file, header string
		want         Source // without Dir and Spec
		wantName     string
		wantErr      string
		wantKind     manifest.Kind
	}{
		{
			name:     "folder",
			files:    map[string]string{"watch.bpf.c": "", "watch.h": "", "other.h": "", "notes.txt": ""},
			want:     Source{File: "watch.bpf.c", Header: "watch.h"},
			wantName: "watch",
		},
		{
			name:     "the only header that is not vmlinux.h",
			files:    map[string]string{"watch.bpf.c": "", "events.h": "", "vmlinux.h": ""},
			want:     Source{File: "watch.bpf.c", Header: "events.h"},
			wantName: "watch",
		},
		{
			name:     "vmlinux.h is no header of events",
			files:    map[string]string{"watch.bpf.c": "", "vmlinux.h": ""},
			want:     Source{File: "watch.bpf.c"},
			wantName: "watch",
		},
		{
			name:     "no header where two may be meant",
			files:    map[string]string{"watch.bpf.c": "", "a.h": "", "b.h": ""},
			want:     Source{File: "watch.bpf.c"},
			wantName: "watch",
		},
		{
			name:     "header in words",
			files:    map[string]string{"watch.bpf.c": "", "watch.h": "", "include/e.h": ""},
			header:   "include/e.h",
			want:     Source{File: "watch.bpf.c", Header: "include/e.h"},
			wantName: "watch",
		},
		{
			name:     "file among several",
			files:    map[string]string{"a.bpf.c": "", "b.bpf.c": "", "b.h": ""},
			file:     "b.bpf.c",
			want:     Source{File: "b.bpf.c", Header: "b.h"},
			wantName: "b",
		},
		{
			name:     "ebpm.yaml",
			files:    map[string]string{"a.bpf.c": "", "src/b.bpf.c": "", "src/b.h": "", "ebpm.yaml": "name: fine-name\nsource: src/b.bpf.c\n"},
			want:     Source{File: "src/b.bpf.c", Header: "src/b.h"},
			wantName: "fine-name",
		},
		{
			name:  "several programs",
			files: map[string]string{"a.bpf.c": "", "b.bpf.c": ""},
			// The user must see which.
			wantErr: "several programs: a.bpf.c, b.bpf.c", wantKind: manifest.KindUsage,
		},
		{name: "no program", files: map[string]string{"a.c": ""}, wantErr: "no *.bpf.c in", wantKind: manifest.KindUsage},
		{name: "another file", files: map[string]string{"a.txt": ""}, file: "a.txt", wantErr: "neither a folder nor a .bpf.c file", wantKind: manifest.KindUsage},
		{name: "missing", files: map[string]string{"a.bpf.c": ""}, file: "b.bpf.c", wantErr: "b.bpf.c", wantKind: manifest.KindNotFound},
		{
			name:    "header elsewhere",
			files:   map[string]string{"a/a.bpf.c": "", "x.h": ""},
			file:    "a",
			header:  "x.h",
			wantErr: "is not in the source folder", wantKind: manifest.KindUsage,
		},
		{name: "header missing", files: map[string]string{"a.bpf.c": ""}, header: "x.h", wantErr: "x.h", wantKind: manifest.KindNotFound},
		{
			name:    "ebpm.yaml of another program",
			files:   map[string]string{"a.bpf.c": "", "b.bpf.c": "", "ebpm.yaml": "source: b.bpf.c\n"},
			file:    "a.bpf.c",
			wantErr: "is about b.bpf.c, not about a.bpf.c", wantKind: manifest.KindUsage,
		},
		{
			name:    "ebpm.yaml names nothing",
			files:   map[string]string{"a.bpf.c": "", "ebpm.yaml": "source: b.bpf.c\n"},
			wantErr: "b.bpf.c", wantKind: manifest.KindNotFound,
		},
		{name: "unknown key", files: map[string]string{"a.bpf.c": "", "ebpm.yaml": "label: a\n"}, wantErr: `unknown field "label"`, wantKind: manifest.KindFailure},
		{name: "no name", files: map[string]string{".secret.bpf.c": ""}, wantErr: "gives no name", wantKind: manifest.KindUsage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, tt.files)
			header := tt.header
			if header != "" {
				header = filepath.Join(dir, header)
			}
			got, err := ReadSource(filepath.Join(dir, tt.file), header)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) || manifest.KindOf(err) != tt.wantKind {
					t.Fatalf("error %v of kind %d, want %q of kind %d", err, manifest.KindOf(err), tt.wantErr, tt.wantKind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.File != tt.want.File || got.Header != tt.want.Header || got.Spec.Name != tt.wantName || got.Dir != dir {
				t.Errorf("got %+v (name %s), want %+v (name %s) in %s", got, got.Spec.Name, tt.want, tt.wantName, dir)
			}
		})
	}
}

func TestScanIncludes(t *testing.T) {
	const src = `#include "a.h"
  #  include <b/c.h> // trailing
/* #include "no1.h"
#include "no2.h" */ #include "after.h"
// #include "no3.h" \
#include "no4.h"
#inc\
lude "spliced.h"
char *s = "/* not a comment"; char q = '"';
#include "d.h"
#error don't stop
#import "e.h"
#include MACRO
#if 0
#include "maybe.h"
#endif
` + "#include \"crlf.h\"\r\n#include_next <last.h>"
	want := []include{
		{path: "a.h", line: 1},
		{path: "b/c.h", line: 2, angled: true},
		{path: "after.h", line: 4},
		{path: "spliced.h", line: 7},
		{path: "d.h", line: 10},
		{path: "e.h", line: 12},
		{path: "maybe.h", line: 15},
		{path: "crlf.h", line: 17},
		{path: "last.h", line: 18, angled: true},
	}
	if diff := cmp.Diff(want, scanIncludes([]byte(src)), cmp.AllowUnexported(include{})); diff != "" {
		t.Error(diff)
	}
}

func TestSourceDateEpoch(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  int64
		ok    bool
	}{
		{"", 0, true}, {"0", 0, true}, {"1700000000", 1700000000, true}, {"253402300799", 253402300799, true},
		{"253402300800", 0, false}, {"-1", 0, false}, {"now", 0, false}, {"1.5", 0, false},
	} {
		got, err := SourceDateEpoch(tt.value)
		if (err == nil) != tt.ok || tt.ok && !got.Equal(time.Unix(tt.want, 0)) {
			t.Errorf("SourceDateEpoch(%q) = %v, %v", tt.value, got, err)
		}
		if err != nil && manifest.KindOf(err) != manifest.KindUsage {
			t.Errorf("SourceDateEpoch(%q): error of kind %d", tt.value, manifest.KindOf(err))
		}
	}
}
