// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// secret is what the sources below try to take out of a file of the machine.
const secret = "TOPSECRETVALUE"

// TestForeignFilesAreRefused compiles what somebody who wants a file of the
// machine that compiles would write. Each source must be refused, or the file
// must be in neither the object nor the messages.
func TestForeignFilesAreRefused(t *testing.T) {
	needTools(t)
	const head = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nchar LICENSE[] SEC(\"license\") = \"GPL\";\n"
	inFunction := func(statement string) string {
		return "SEC(\"xdp\")\nint f(void *ctx)\n{\n\t" + statement + "\n\treturn 0;\n}\n"
	}
	for _, test := range []struct {
		name, source string
		// want is in the error; empty means that the compile may succeed.
		want string
	}{
		{"file scope", `asm(".incbin \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"statement", inFunction(`asm volatile(".incbin \"FILE\"");`), "a.bpf.c:7: inline assembly with .incbin"},
		{"two strings", `asm(".inc" "bin \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"octal escape", `asm("\056incbin \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"hex escape", `asm("\x2eincbin \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"capitals", `__asm__(".InCbIn \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"keyword from a macro", "#define GLUE(a, b) a##b\nGLUE(as, m)(\".incbin \\\"FILE\\\"\");", "a.bpf.c:5: inline assembly with .incbin"},
		{"keyword from libbpf's macro", `___bpf_concat(as, m)(".incbin \"FILE\"");`, "inline assembly with .incbin"},
		{"keyword on two lines", "as\\\nm(\".incbin \\\"FILE\\\"\");", "inline assembly with .incbin"},
		{"text from a macro", "#define STR(x) #x\n#define XSTR(x) STR(x)\n#define WORD incbin\nasm(\".\" XSTR(WORD) \" \\\"FILE\\\"\");", "a.bpf.c:7: inline assembly with .incbin"},
		{"pragma between", `asm(".incbin" _Pragma("GCC diagnostic push") " \"FILE\"");`, ""},
		{"directive from a symbol", "extern int x asm(\".incbin\");\n" + inFunction(`asm volatile("%0 \"FILE\"" :: "i"(&x));`), "inline assembly with .incbin"},
		{"directive from half a symbol", "void bin(void);\n" + inFunction(`asm volatile(".inc%0 \"FILE\"" :: "i"(&bin));`), "a.bpf.c: inline assembly with .incbin"},
		{"macro of the assembler", `asm(".macro foo a\n.inc\\a \"FILE\"\n.endm\nfoo bin");`, "a.bpf.c:4: inline assembly with .macro"},
		{"loop of the assembler", `asm(".irp a,bin\n.inc\\a \"FILE\"\n.endr");`, "a.bpf.c:4: inline assembly with .irp"},
		{"characters of a loop", `asm(".irpc a,n\n.i\\()\\a\\()cbin \"FILE\"\n.endr");`, "a.bpf.c:4: inline assembly with .irpc"},
		{"repetition", `asm(".rept 1\n.incbin \"FILE\"\n.endr");`, "a.bpf.c:4: inline assembly with ."},
		{"quoted directive", `asm("\".incbin\" \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"behind a comment", `asm("/* x */ .incbin \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"behind a label", `asm("x: .incbin \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"behind a semicolon", `asm("x: ; .incbin \"FILE\"");`, "a.bpf.c:4: inline assembly with .incbin"},
		{"behind a carriage return", inFunction(`asm volatile("r0 = 1\r.incbin \"FILE\"");`), "a.bpf.c:7: inline assembly with .incbin"},
		{"alternatives", inFunction(`asm volatile("{.incbin|.incbin} \"FILE\"");`), "a.bpf.c:7: inline assembly with .incbin"},
		{"number of the asm", inFunction(`asm volatile("l%=: .incbin \"FILE\"");`), "a.bpf.c:7: inline assembly with .incbin"},
		{"assembly included", `asm(".include \"FILE\"");`, "a.bpf.c:4: inline assembly with .include"},
		{"hidden behind the end of assembly", inFunction(`asm volatile("r0 = 1\n\t#NO_APP\n\t.incbin \"FILE\"");`), "inline assembly with .incbin"},
		{"hidden in a string line", inFunction(`asm volatile("\n\t.asciz\t\"x\"; .incbin \"FILE\"");`), "inline assembly with .incbin"},
		{"at some seconds only", inFunction(`if (__TIME__[7] & 1) asm volatile(".incbin \"FILE\"");`), ""},
		{"not in the object", `static void unused(void) { asm(".incbin \"FILE\""); }`, ""},
		{"line of another file", inFunction("\n#line 1 \"FILE\"\n\tbpf_printk(\"x %d\", 3);"), ""},
		{"line marker", inFunction("\n# 1 \"FILE\" 1\n\tbpf_printk(\"x %d\", 3);"), ""},
		{"include, absolute", `#include "FILE"`, "it includes FILE, which lies outside"},
		{"include, angles", `#include <FILE>`, "it includes FILE, which lies outside"},
		{"include, upwards", `#include "../secret.txt"`, "secret.txt, which lies outside"},
		{"include by a macro", "#define NAME \"FILE\"\n#include NAME", "it includes FILE, which lies outside"},
		{"include, then a missing header", "#include \"FILE\"\n#include \"missing.h\"", "it includes FILE, which lies outside"},
		{"include through a link", `#include "link.h"`, "link.h, which lies outside"},
		{"include through a linked folder", `#include "linked/secret.txt"`, "secret.txt, which lies outside"},
		{"include of a device", `#include "/dev/null"`, "it includes /dev/null, which lies outside"},
		{"embed", "const char d[] SEC(\".rodata.x\") = {\n#embed \"FILE\"\n};", "compile a.bpf.c"},
		{"has_include", "#if __has_include(\"FILE\")\nint there;\n#endif", ""},
		{"dependency", `#pragma GCC dependency "FILE"`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			file := writeFile(t, top, "secret.txt", secret+" "+secret+"\n")
			dir := filepath.Join(top, "source")
			source := writeFile(t, dir, "a.bpf.c", head+strings.ReplaceAll(test.source, "FILE", file)+"\n")
			for link, target := range map[string]string{"link.h": "../secret.txt", "linked": ".."} {
				if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
					t.Fatal(err)
				}
			}
			var diagnostics bytes.Buffer
			result, err := Compile(t.Context(), Options{Source: source, Diagnostics: &diagnostics})
			want := strings.ReplaceAll(strings.ReplaceAll(test.want, "FILE", file), "a.bpf.c", source)
			if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("error: %v\nwanted: %s", err, want)
			}
			if result != nil && bytes.Contains(result.Object, []byte(secret)) {
				t.Error("the object holds the file")
			}
			if bytes.Contains(diagnostics.Bytes(), []byte(secret)) {
				t.Errorf("the messages hold the file:\n%s", &diagnostics)
			}
			if _, statErr := os.Stat(filepath.Join(dir, "package.json")); err != nil && statErr == nil {
				t.Error("package.json was written")
			}
		})
	}
}

// TestOwnAssemblyIsBuilt compiles inline assembly that reads nothing.
func TestOwnAssemblyIsBuilt(t *testing.T) {
	needTools(t)
	for name, statement := range map[string]string{
		"empty":        `asm volatile("" ::: "memory");`,
		"instructions": `asm volatile("r0 = 1\n\tr0 += %0\n" :: "r"(x) : "r0");`,
		"labels":       `asm volatile("if %0 > 7 goto l%=\n\t%0 = 3\nl%=:" : "+r"(x));`,
		"directive":    `asm volatile(".long 0x000000b7, 0\n" ::: "r0");`,
		"words":        `bpf_printk("%d .incbin .include .macro", x); asm volatile("l%=: r0 = %0" :: "r"(x) : "r0");`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := writeFile(t, t.TempDir(), "a.bpf.c", `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
/* .incbin in a comment */
SEC("xdp")
int f(void *ctx)
{
	long x = bpf_get_prandom_u32();
	`+statement+`
	return x;
}
`)
			var diagnostics bytes.Buffer
			if _, err := Compile(t.Context(), Options{Source: source, Diagnostics: &diagnostics}); err != nil {
				t.Errorf("%v\n%s", err, &diagnostics)
			}
		})
	}
}

func TestInlineAssembly(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	source := writeFile(t, dir, "a.c", `asm(".globl one");
int f(int x) { asm volatile("two %0" : "+r"(x)); return x; }
int g(int x) { asm volatile("three \xff" : "+r"(x)); asm volatile("two %0" : "+r"(x)); return x; }
`)
	bitcode := filepath.Join(dir, "a.bc")
	if out, err := exec.Command("clang", "-g", "-O2", "-target", "bpf", "-emit-llvm", "-c", source, "-o", bitcode).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data := mustRead(t, bitcode)
	m, err := readBitcode(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".globl one\n", "two $0", "three \xff"} {
		count := 0
		for _, text := range m.assembly {
			if text == want {
				count++
			}
		}
		if count == 0 {
			t.Errorf("%q was not found in %q", want, m.assembly)
		}
	}
	for _, cut := range []int{0, 3, 4, 20, len(data) / 2, len(data) - 4} {
		if _, err := readBitcode(data[:cut]); err == nil && cut != 4 {
			t.Errorf("%d of %d bytes were taken for a module", cut, len(data))
		}
	}
}

// TestPlainObject: an object is taken for plain only when clang's own bitcode in
// it says so, whatever assembly has put beside that.
func TestPlainObject(t *testing.T) {
	needTools(t)
	// The start of a module whose first block covers what follows: 256 bytes of
	// the string table.
	const forged = `.long 0xdec04342; .long 0x00000c5d; .long 64`
	for name, tt := range map[string]struct {
		source string
		want   bool
	}{
		"no assembly":           {"int f(int x) { return x; }", true},
		"instructions":          {`int f(int x) { asm volatile("r0 = %0" :: "r"(x) : "r0"); return 1; }`, true},
		"directive":             {`int f(int x) { asm volatile(".byte 1"); return x; }`, false},
		"file scope":            {`asm(".globl y");`, false},
		"removed":               {`static int g(void) { asm(".byte 1"); return 1; } int f(int x) { return x ? x : 0; }`, true},
		"dead":                  {`int f(int x) { if (0) asm volatile(".byte 1"); return x; }`, true},
		"bitcode in front":      {`asm(".section .llvmbc; ` + forged + `");`, false},
		"bitcode with flags":    {`asm(".section .llvmbc,\"a\",@progbits; ` + forged + `");`, false},
		"bitcode in a function": {`int f(int x) { asm volatile(".pushsection .llvmbc; ` + forged + `; .popsection"); return x; }`, false},
		"file without its text": {"#define F(name) int name(int x)\nF(f) { return x; }", false},
		"line of another file":  {"#line 1 \"/etc/hostname\"\nint f(int x) { return x; }", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			object := filepath.Join(dir, "a.o")
			out, err := exec.Command("clang", "-g", "-O2", "-target", "bpf", "-gdwarf-5", "-gembed-source", "-Xclang", "-fembed-bitcode=all",
				"-c", writeFile(t, dir, "a.c", tt.source+"\n"), "-o", object).CombinedOutput()
			if err != nil {
				if tt.want {
					t.Fatalf("%v\n%s", err, out)
				}
				return // clang refuses it, and there is no object
			}
			if got := isPlainObject(bytes.NewReader(mustRead(t, object))); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
	for _, text := range []string{"", "\x7fELF"} {
		if isPlainObject(strings.NewReader(text)) {
			t.Errorf("%q is taken for a plain object", text)
		}
	}
}

// TestOneStepIsTwoSteps: whether clang runs once or twice, the object is the same.
func TestOneStepIsTwoSteps(t *testing.T) {
	needTools(t)
	sources, err := filepath.Glob("testdata/upstream/*/*.bpf.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	compared, tried := 0, 0
	for i, source := range sources {
		if i%6 != 0 {
			continue // each takes clang three times
		}
		tried++
		compile := func(step func(*compilation, string) error) []byte {
			c, err := newCompilation(Options{Source: source, Output: t.TempDir(), Arch: "amd64"})
			if err != nil {
				t.Fatal(err)
			}
			c.scratch = t.TempDir()
			if c.clang, err = askClang(t.Context(), c.Clang); err != nil {
				t.Fatal(err)
			}
			if err := c.prepareHeaders(); err != nil {
				t.Fatal(err)
			}
			object := filepath.Join(c.scratch, "a.o")
			switch err := step(c, object); {
			case errors.Is(err, errInSteps):
				return nil
			case err != nil:
				t.Fatalf("%s: %v", source, err)
			}
			data, err := c.strip(t.Context(), object)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		once := compile(func(c *compilation, object string) error {
			_, err := c.compileAtOnce(t.Context(), object)
			return err
		})
		if once == nil {
			continue
		}
		compared++
		twice := compile(func(c *compilation, object string) error {
			_, err := c.compileInSteps(t.Context(), object)
			return err
		})
		if !bytes.Equal(once, twice) {
			t.Errorf("%s: the objects differ: %d and %d bytes", source, len(once), len(twice))
		}
	}
	if compared < tried/2 {
		t.Errorf("only %d of %d sources are compiled at once", compared, tried)
	}
}

func TestUnknownBitcode(t *testing.T) {
	r := &bitReader{}
	if err := r.moduleRecord(lastKnownModuleCode+1, nil); !errors.Is(err, errUnknownBitcode) {
		t.Errorf("a module record of the future: %v", err)
	}
	if err := r.constant(lastKnownConstant+1, nil); !errors.Is(err, errUnknownBitcode) {
		t.Errorf("a constant of the future: %v", err)
	}
}

func TestPlain(t *testing.T) {
	for template, want := range map[string]bool{
		"":                                true,
		"r1 = $0\n\tr2 = $1\n\tcall 12":   true,
		"*(u64 *)(r1 + 0) = r2; exit":     true,
		"label: r0 = 1":                   true,
		"if r0 == 0 goto +1":              true,
		".incbin \"x\"":                   false,
		"$0 \"x\"":                        false,
		"r0 = 1\n$0":                      false,
		"a: .x":                           false,
		"r0 = 1 # c":                      false,
		"r0 = 1 // c":                     false,
		"r0 = 1 /* c */ ; .x":             false,
		"l${:uid}: exit":                  false,
		"r0 = \"x\"":                      false,
		"\"x\"":                           false,
		"r0 = 1\v.incbin":                 false,
		"r0 = 1\x00.incbin":               false,
		"r0 = 1\u2028.incbin":             false,
		"$( r0 $| r1 $)":                  false,
		"lock *(u64 *)(r1 + 0) += r2\n\t": true,
	} {
		if got := plain(template); got != want {
			t.Errorf("plain(%q) = %v", template, got)
		}
	}
}

func TestForbiddenIn(t *testing.T) {
	for text, want := range map[string]string{
		"\tr0 = 1\n":                "",
		"\t.incbin \"x\"\n":         ".incbin",
		"x:.INCLUDE \"x\"":          ".include",
		"\t.asciz\t\".incbin x\"\n": "",
		"\t.asciz\t\".incbin x\"\t\t# string offset=12\n":    "",
		"\t.file\t1 \".\" \"a.c\" source \"\\\".macro\\\"\"": "",
		"\t.asciz\t\"x\"; .incbin \"y\"":                     ".incbin",
		"\t.asciz\t\"x\\\\\" .incbin":                        ".incbin",
		"\t.asciz\t\"x\"\t# \r.incbin \"y\"":                 ".incbin",
		"\t.section\t.includes,\"a\"":                        "",
		"\t.ascii .incbin":                                   ".incbin",
	} {
		got, err := forbiddenIn(strings.NewReader(text))
		if err != nil || got != want {
			t.Errorf("forbiddenIn(%q) = %q, %v, wanted %q", text, got, err, want)
		}
	}
}

func TestFindAssembly(t *testing.T) {
	text := `# 1 "a b.c"
# 1 "<built-in>" 1
# 7 "dir/x \"y\".h" 2
static const char *asmx = ".incbin"; char c = '"';
#pragma GCC diagnostic push
__asm__ volatile goto ("r0 = 1\n"
  u8".in\143" "BIN x" : : : : l);
`
	place, directive := findAssembly([]byte(text), forbiddenDirectives)
	if place != `dir/x "y".h:9` || directive != ".incbin" {
		t.Errorf("found %q at %q", directive, place)
	}
}

func TestParseDependencies(t *testing.T) {
	for rule, want := range map[string][]string{
		" a.c b.h\n":                  {"a.c", "b.h"},
		" a.c \\\n  b.h \\\n  c.h\n":  {"a.c", "b.h", "c.h"},
		` two\ words.h x`:             {"two words.h", "x"},
		` a$$b.h c\#d.h`:              {"a$b.h", "c#d.h"},
		` back\slash.h back\\\ end.h`: {`back\slash.h`, `back\ end.h`},
		"":                            nil,
	} {
		got := parseDependencies(rule)
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("parseDependencies(%q) = %q, wanted %q", rule, got, want)
		}
	}
}
