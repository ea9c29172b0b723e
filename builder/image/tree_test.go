// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestResolve(t *testing.T) {
	fs := tree{}
	fs.addData("usr/lib/llvm/bin/clang", 0o755, nil)
	fs.addLink("usr/bin/clang", "../lib/llvm/bin/clang")
	fs.addLink("usr/lib/current", "/usr/lib/llvm")
	fs.addLink("usr/bin/cc", "/usr/lib/current/bin/clang")
	fs.addLink("usr/lib64/ld.so", "/lib/ld-2.so")
	fs.addLink("usr/bin/up", "../../../../../usr/lib/llvm/bin/clang")
	fs.addLink("loop/a", "b")
	fs.addLink("loop/b", "a")
	for _, tt := range []struct {
		name, real string
		links      []string
		err        string
	}{
		{name: "usr/lib/llvm/bin/clang", real: "usr/lib/llvm/bin/clang"},
		{name: "/usr/bin/clang", real: "usr/lib/llvm/bin/clang", links: []string{"usr/bin/clang"}},
		{name: "bin/clang", real: "usr/lib/llvm/bin/clang", links: []string{"usr/bin/clang"}},
		{name: "usr/bin/cc", real: "usr/lib/llvm/bin/clang", links: []string{"usr/bin/cc", "usr/lib/current"}},
		{name: "/lib64/ld.so", real: "usr/lib/ld-2.so", links: []string{"usr/lib64/ld.so"}},
		{name: "usr/bin/up", real: "usr/lib/llvm/bin/clang", links: []string{"usr/bin/up"}},
		{name: "usr/../../etc/x", real: "etc/x"},
		{name: "loop/a", err: "more than 40 symlinks"},
	} {
		t.Run(strings.ReplaceAll(tt.name, "/", "_"), func(t *testing.T) {
			real, links, err := fs.resolve(tt.name)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if real != tt.real {
				t.Errorf("leads to %q, want %q", real, tt.real)
			}
			if diff := cmp.Diff(tt.links, links); diff != "" {
				t.Errorf("links differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWriteTar(t *testing.T) {
	mtime := time.Unix(1700000000, 0)
	fs := tree{}
	fs.addData("usr/bin/b", 0o755, []byte("program"))
	fs.addData("usr/bin/a", 0o644, nil)
	fs.addLink("bin", "usr/bin")
	fs.addDir("tmp", 0o1777)
	var buf bytes.Buffer
	if err := fs.writeTar(t.Context(), &buf, mtime); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(mtime) || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: time %v, owner %d:%d %q:%q, want %v, 0:0 without names", h.Name, h.ModTime, h.Uid, h.Gid, h.Uname, h.Gname, mtime)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(h.FileInfo().Mode().String()+" "+h.Name+" "+h.Linkname+string(content)))
	}
	want := []string{
		"Lrwxrwxrwx bin usr/bin",
		"dtrwxrwxrwx tmp/",
		"drwxr-xr-x usr/",
		"drwxr-xr-x usr/bin/",
		"-rw-r--r-- usr/bin/a",
		"-rwxr-xr-x usr/bin/b program",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries differ (-want +got):\n%s", diff)
	}
}
