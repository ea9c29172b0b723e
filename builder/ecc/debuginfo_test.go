// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"debug/elf"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEmbedSources(t *testing.T) {
	const file = `!DIFile(filename: "a.bpf.c", directory: ".", checksumkind: CSK_MD5, checksum: "d6"`
	for _, test := range []struct{ name, in, want string }{
		{"none", "define i32 @f()\n", "define i32 @f()\n"},
		{"complete", "!3 = " + file + `, source: "int x;\0A")` + "\n", "!3 = " + file + `, source: "int x;\0A")` + "\n"},
		{"of the same file",
			"!3 = " + file + `, source: "int x;\0A")` + "\n!17 = " + file + ")\n!18 = !{}\n",
			"!3 = " + file + `, source: "int x;\0A")` + "\n!17 = " + file + `, source: "int x;\0A")` + "\n!18 = !{}\n"},
		{"of no other",
			`!17 = distinct !DIFile(filename: "b.h", directory: ".")`,
			`!17 = distinct !DIFile(filename: "b.h", directory: ".", source: "\0A")`},
		{"of another file of that name",
			"!3 = " + file + `, source: "int x;\0A")` + "\n" + `!4 = !DIFile(filename: "a.bpf.c", directory: "x", checksumkind: CSK_MD5, checksum: "d6")`,
			"!3 = " + file + `, source: "int x;\0A")` + "\n" + `!4 = !DIFile(filename: "a.bpf.c", directory: "x", checksumkind: CSK_MD5, checksum: "d6", source: "\0A")`},
		{"in a string", `@s = "!17 = !DIFile(filename: \22b.h\22, directory: \22.\22)"`, `@s = "!17 = !DIFile(filename: \22b.h\22, directory: \22.\22)"`},
	} {
		if diff := cmp.Diff(test.want, string(embedSources([]byte(test.in)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestSourceLines looks for the text of the lines that the verifier quotes.
func TestSourceLines(t *testing.T) {
	needTools(t)
	result, err := Compile(t.Context(), Options{
		Source: filepath.Join("testdata", "beyond", "first.bpf.c"), Header: filepath.Join("testdata", "beyond", "first.h"), Output: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.NewFile(bytes.NewReader(result.Object))
	if err != nil {
		t.Fatal(err)
	}
	types, err := file.Section(".BTF").Data()
	if err != nil {
		t.Fatal(err)
	}
	if line := "\tbpf_ringbuf_output(&events, &e, sizeof(e), 0);"; !bytes.Contains(types, []byte(line)) {
		t.Errorf("the BTF does not have the line %q", line)
	}
}
