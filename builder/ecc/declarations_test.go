// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAttachment says which name a comment belongs to. Each source is followed
// by the names that have a description, with it.
func TestAttachment(t *testing.T) {
	for _, test := range []struct{ name, source, want string }{
		{"above", "/// @description d\nint x;", "x=d"},
		{"free text", "/** d */ int x;", "x=d"},
		{"plain comment", "// d\nint x;\n/* e */ int y; /**/ int z; /***/ int w;", ""},
		{"two names", "/// d\nint x, y = 3, *z;", "x=d y=d z=d"},
		{"initializers name nothing", "/// d\nint *x = &y;\n/// e\nint z[] = { [A] = B, C };", "x=d z=e"},
		{"types name nothing", "/// d\nstruct x *y;\n/// e\nenum a b;", "b=e y=d"},
		{"array size", "/// d\nchar x[SIZE];", "x=d"},
		{"section", "/// d\nconst volatile int x SEC(\".rodata.y\") = 1;", "x=d"},
		{"attribute", "/// d\n__attribute__((aligned(8))) int x __attribute__((section(\"a\")));", "x=d"},
		{"function pointer", "/// d\nint (*x)(int y);", "x=d"},
		{"function", "/// d\nSEC(\"xdp\")\nint x(struct y *z)\n{\n\tint w;\n}\nint v;", "x=d"},
		{"struct of a function", "/// d\nstruct a *x(void)\n{\n}\nint y;", "x=d"},
		{"prototype", "/// d\nint x(int y) __attribute__((noinline));", "x=d"},
		{"program macro", "/// d\nSEC(\"x\")\nint BPF_PROG(x, struct y *z, int w)\n{\n}", "x=d"},
		{"map macro", "/// d\nMAP(x, int);", "x=d"},
		{"behind", "int x; ///< d\nint y; /**< e */\nint z;", "x=d y=e"},
		{"behind one of two lines", "int x,\n y; ///< d", "y=d"},
		{"behind, but for the next", "int x; /// d\nint y;", "y=d"},
		{"behind a function", "int x(void) { } ///< d\nint y;", ""},
		{"inside", "int /** d */ x;", "x=d"},
		{"body before the name", "/// d\nstruct s { int y; } x;", ""},
		{"packed struct", "/// d\nstruct __attribute__((packed)) s { int y; } x;", ""},
		{"comment behind the body", "struct s { int y; } /** d */ x;", "x=d"},
		{"cut by a directive", "/// d\n#define X 1\nint x;", ""},
		{"cut by a semicolon", "/// d\n;\nint x;", ""},
		{"not cut by blank lines and comments", "/// d\n\n// plain; with { signs\n\nint x;", "x=d"},
		{"the nearer", "/// d\n\n/// e\nint x;", "x=e"},
		{"adjacent", "/// @description d\n/** @cmdarg {} */\nint x;", "x=d"},
		{"redeclared", "/// d\nextern int x;\nint x = 1;", "x=d"},
		{"in a body", "int f(void)\n{\n\t/// d\n\tint x;\n}", ""},
		{"branches of code", "#ifdef A\nint f(int a) {\n#else\nint f(void) {\n#endif\n}\n/// d\nint x;", "x=d"},
		{"code that is off", "#if 0\n/// d\nint x;\n#if 1\n#endif\nint {{{\n#else\n/// e\nint y;\n#endif\n/// f\nint z;", "y=e z=f"},
		{"strings", "char a[] = \"/// no }{;\"; /// d\nint x;", "x=d"},
		{"continued define", "#define M(x) \\\n /** no */ int x \\\n\nM(y);\n/// d\nint x;", "x=d"},
		{"CR LF", "/// d\r\n/// @cmdarg {}\r\nint x;\r\n", "x=d"},
		{"stars", "/**\n * d\n * \n * @cmdarg {}\n */\nint x;", "x=d"},
		{"last line wins", "/// d\n/// e\nint x;", "x=e"},
		{"quotes", "/// say \"@x <b> \\n\" now\nint x;", `x=say "@x <b> \n" now`},
		{"other commands", "/// @brief no @description d\nint x;", ""},
		{"escapes", "/// @@description d\nint x;", "x=description d"},
		{"end of file", "/// d", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, d := range declarationsOf([]byte(test.source)) {
				for _, n := range d.names {
					if n.comment == nil || len(n.name) > 1 { // only one-letter names are looked for
						continue
					}
					text := ""
					found, _ := n.comment.annotations()
					for _, a := range found {
						if a.key == defaultKey {
							text = a.text
						}
					}
					if text != "" {
						got = append(got, n.name+"="+text)
					}
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnnotationLines(t *testing.T) {
	source := "\n/**\n * words\n *\n * @cmdarg {\"default\": 1} trailing @flag\n */\nint x;"
	declarations := declarationsOf([]byte(source))
	got, warnings := declarations[0].names[1].comment.annotations()
	want := []annotation{{key: "description", text: "words", line: 3}, {key: "cmdarg", text: `{"default": 1} trailing`, line: 5}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(annotation{})); diff != "" || len(warnings) != 1 || warnings[0].line != 5 {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNormalizeJSON(t *testing.T) {
	for raw, want := range map[string]string{
		`{"b": 1, "a": 2}`:     `{"a":2,"b":1}`,
		`1e3`:                  `1000.0`,
		`1.50`:                 `1.5`,
		`-0`:                   `-0.0`,
		`1e16`:                 `1e16`,
		`1.5e-7`:               `1.5e-7`,
		`0.00001`:              `0.00001`,
		`18446744073709551615`: `18446744073709551615`,
		`18446744073709551616`: `1.8446744073709552e19`,
		`-9223372036854775809`: `-9.223372036854776e18`,
		`[true, null, "x"]`:    `[true,null,"x"]`,
		`1e400`:                "",
		`007`:                  "",
		`{} x`:                 "",
		``:                     "",
	} {
		got, err := normalizeJSON([]byte(raw))
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v, wanted %s", raw, got, err, want)
		}
	}
}
