// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unpack lists an initramfs, as the kernel reads it.
func unpack(t *testing.T, data []byte) []string {
	t.Helper()
	field := func(n int) int {
		v, err := strconv.ParseInt(string(data[6+8*n:14+8*n]), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return int(v)
	}
	var entries []string
	for at := 0; ; {
		if string(data[:6]) != "070701" || at%4 != 0 {
			t.Fatalf("no header at %d: %q", at, data[:6])
		}
		size, nameSize, mode := field(6), field(11), field(1)
		name := string(data[110 : 110+nameSize-1])
		start := (110 + nameSize + 3) &^ 3
		end := (start + size + 3) &^ 3
		if name == "TRAILER!!!" {
			return entries
		}
		entries = append(entries, fmt.Sprintf("%s %o %s", name, mode, data[start:start+size]))
		data, at = data[end:], at+end
	}
}

func TestInitramfs(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"tree/a": "1", "tree/sub/bc": "four"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "tree/link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r := newInitramfs(&b)
	for _, err := range []error{
		r.bytes("/init", 0o755, "hello"),
		r.copy("/src/testdata", filepath.Join(dir, "tree")),
		r.bytes("../../etc/x", 0o644, ""),
		r.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"init 100755 hello", "src 40755 ", "src/testdata 40755 ", "src/testdata/a 100600 1", "src/testdata/link 100600 1",
		"src/testdata/sub 40755 ", "src/testdata/sub/bc 100600 four", "etc 40755 ", "etc/x 100644 ",
	}
	if diff := cmp.Diff(want, unpack(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}
	if err := r.file("short", 0o644, 5, strings.NewReader("four")); err == nil {
		t.Error("a file that is shorter than its size gave no error")
	}
}

func TestRead(t *testing.T) {
	const mark = "\x16ebpm-X"
	const passes = "\x16=== RUN   TestA\n\x16=== ATTR  TestA hook xdp: works\n\x16--- PASS: TestA (0.00s)\n\x16PASS\n"
	s := &Suite{packages: []testPackage{{ImportPath: "p"}, {ImportPath: "q"}}}
	for _, tt := range []struct {
		name, stream string
		want         []string
		err          string
	}{
		{"passes", mark + " begin 0\n" + passes + mark + " end 0 0\n" + mark + " done\n", []string{"attr TestA xdp: works", "pass TestA", "pass "}, ""},
		{"no newline before a mark", mark + " begin 0\n" + passes + "rest" + mark + " end 0 0\n" + mark + " done\n", []string{"attr TestA xdp: works", "pass TestA", "pass "}, ""},
		{"exit code", mark + " begin 1\n" + passes + mark + " end 1 3\n" + mark + " done\n", []string{"attr TestA xdp: works", "pass TestA", "fail "}, ""},
		{"no output", mark + " begin 0\n" + mark + " end 0 127\n" + mark + " done\n", []string{"fail "}, ""},
		{"kernel dies", mark + " begin 0\n" + passes, []string{"attr TestA xdp: works", "pass TestA", "fail "}, "ended before its tests"},
		{"nothing", "", nil, "ended before its tests"},
		{"another suite", mark + " begin 2\n", nil, "unexpected mark"},
		{"another word", "ebpm-Y done\n", nil, "ended before its tests"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			err := s.read(t.Context(), strings.NewReader(tt.stream), mark, func(e Event) {
				if slices.Contains([]string{"pass", "fail", "skip", "attr"}, e.Action) {
					got = append(got, strings.TrimSuffix(e.Action+" "+e.Test+" "+e.Value, " "))
				}
			})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestModuleName(t *testing.T) {
	for file, want := range map[string]string{"kernel/net/tls/tls.ko": "tls", "a/nf-defrag.ko.xz": "nf_defrag", "veth": "veth"} {
		if got := moduleName(file); got != want {
			t.Errorf("%s: %s", file, got)
		}
	}
}
