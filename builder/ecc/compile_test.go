// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/manifest"
)

var update = flag.Bool("update", false, "write the golden files")

// needTools skips a test where there is no clang.
func needTools(t testing.TB) {
	t.Helper()
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
}

// copyDir copies a folder of testdata to a new one.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// skeletonJSON decodes a skel.json without what another compiler changes.
func skeletonJSON(t testing.TB, data []byte) any {
	t.Helper()
	var v any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		t.Fatal(err)
	}
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			delete(v, "eunomia_version")
			if _, ok := v["type_id"].(json.Number); ok {
				v["type_id"] = "a BTF id"
			}
			for _, e := range v {
				strip(e)
			}
		case []any:
			for _, e := range v {
				strip(e)
			}
		}
	}
	strip(v)
	return v
}

func mustRead(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// upstreamCases are the sources of testdata/upstream whose compile needs more
// than the one source in the folder.
var upstreamCases = map[string]Options{
	"crlf":                {Header: "event.h"},
	"event-many":          {Header: "wire.h"},
	"event-one":           {Header: "event.h"},
	"flag-cflags":         {CFlags: []string{"-I", "more", "-DWITH_NAME", `-DTEXT="a b"`, "-DNAME=title"}},
	"flag-header-only":    {HeaderOnly: true, Source: "reading.h"},
	"header-no-structs":   {Header: "consts.h"},
	"header-not-included": {Header: "event.h"},
	"in-subdir":           {Header: "event.h", Output: "out"},
	"members":             {Header: "shapes.h"},
	"no-program":          {Header: "types.h"},
}

func TestUpstreamSkeletons(t *testing.T) {
	needTools(t)
	folders, err := os.ReadDir("testdata/upstream")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		t.Run(folder.Name(), func(t *testing.T) {
			t.Parallel()
			from := filepath.Join("testdata/upstream", folder.Name())
			dir := copyDir(t, from)
			opts := upstreamCases[folder.Name()]
			opts.Source = onlySource(t, dir, opts.Source)
			opts.Output = filepath.Join(dir, opts.Output)
			if err := os.MkdirAll(opts.Output, 0o755); err != nil {
				t.Fatal(err)
			}
			if opts.Header != "" {
				opts.Header = filepath.Join(dir, opts.Header)
			}
			opts.CFlags = slices.Clone(opts.CFlags)
			for i, f := range opts.CFlags {
				if f == "more" {
					opts.CFlags[i] = filepath.Join(dir, f)
				}
			}
			var diagnostics bytes.Buffer
			opts.Diagnostics = &diagnostics
			result, err := Compile(t.Context(), opts)
			if err != nil {
				t.Fatalf("%v\n%s", err, &diagnostics)
			}
			name := result.Name + ".skel.json"
			got := mustRead(t, filepath.Join(opts.Output, name))
			want := mustRead(t, filepath.Join(from, name))
			if diff := cmp.Diff(upstreamText(t, folder.Name(), string(want)), withoutIDs(string(got))); diff != "" {
				t.Errorf("skeleton differs from upstream's (-want +got):\n%s", diff)
			}
			checkOutputs(t, opts.Output, result)
		})
	}
}

// upstreamDifferences are what of upstream's skeletons is mended here, as pairs
// of its text and ours: _ belongs to the name of a command, and comments belong
// to what a macro declares.
var upstreamDifferences = map[string][]string{
	"doc-attach": {
		`{"name":"by_macro"`, `{"description":"above a macro that makes a variable","name":"by_macro"`,
		`{"ident":"map_by_macro"`, `{"description":"above the use of the macro","ident":"map_by_macro"`,
		`"link":true,"name":"prog_macro"`, `"description":"above BPF_PROG","link":true,"name":"prog_macro"`,
		`"link":true,"name":"kprobe_macro"`, `"description":"above BPF_KPROBE","link":true,"name":"kprobe_macro"`,
		`"link":true,"name":"kretprobe_macro"`, `"description":"above BPF_KRETPROBE","link":true,"name":"kretprobe_macro"`,
		`"link":true,"name":"ksyscall_macro"`, `"description":"above BPF_KSYSCALL","link":true,"name":"ksyscall_macro"`,
	},
	"doc-commands": {
		`{"clear":"next line"`, `{"clear_map":"next line"`,
		`"name":"v_enum_values"`, `"enum_values":"next line","name":"v_enum_values"`,
	},
	"doc-maps":  {`"export":"_config \"default\""`, `"export_config":"default"`},
	"doc-traps": {`"export":"_config {\"btf_type_id\": 3}"`, `"export_config":{"btf_type_id":3}`},
}

var typeID = regexp.MustCompile(`"type_id":[0-9]+`)

// withoutIDs masks the BTF ids, which are the compiler's.
func withoutIDs(skel string) string { return typeID.ReplaceAllString(skel, `"type_id":ID`) }

// upstreamText returns what ours must write byte for byte where upstream wrote
// skel.
func upstreamText(t *testing.T, folder, skel string) string {
	t.Helper()
	pairs := upstreamDifferences[folder]
	pairs = append(slices.Clone(pairs), `"eunomia_version":"0.3.4"`, `"eunomia_version":"`+manifest.Version+`"`)
	for i := 0; i < len(pairs); i += 2 {
		if strings.Count(skel, pairs[i]) != 1 {
			t.Fatalf("upstream's skeleton does not hold %s once", pairs[i])
		}
		skel = strings.Replace(skel, pairs[i], pairs[i+1], 1)
	}
	return withoutIDs(skel)
}

// onlySource returns the path of the source in dir: name, or the one .c file.
func onlySource(t *testing.T, dir, name string) string {
	t.Helper()
	if name != "" {
		return filepath.Join(dir, name)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.c"))
	if err != nil || len(found) != 1 {
		t.Fatalf("sources in %s: %q, %v", dir, found, err)
	}
	return found[0]
}

// checkOutputs checks that the files are those of the result.
func checkOutputs(t *testing.T, dir string, result *Result) {
	t.Helper()
	object := mustRead(t, filepath.Join(dir, result.Name+".bpf.o"))
	if !bytes.Equal(object, result.Object) {
		t.Error("the object in the folder is not that of the result")
	}
	p, err := manifest.DecodePackage(mustRead(t, filepath.Join(dir, "package.json")))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Object, object) {
		t.Error("package.json holds another object")
	}
	meta, err := p.Meta.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if skel := mustRead(t, filepath.Join(dir, result.Name+".skel.json")); !bytes.Equal(meta, skel) {
		t.Errorf("meta of package.json is not the skeleton:\n%s\n%s", meta, skel)
	}
}

func TestGoldens(t *testing.T) {
	needTools(t)
	for _, test := range []struct{ source, header string }{
		{"beyond/anon.bpf.c", ""},
		{"beyond/batch.bpf.c", "beyond/event.h"},
		{"beyond/first.bpf.c", "beyond/first.h"},
		{"beyond/long.bpf.c", ""},
		{"beyond/ops.bpf.c", ""},
	} {
		t.Run(test.source, func(t *testing.T) {
			t.Parallel()
			opts := Options{Source: filepath.Join("testdata", test.source), Output: t.TempDir()}
			if test.header != "" {
				opts.Header = filepath.Join("testdata", test.header)
			}
			var diagnostics bytes.Buffer
			opts.Diagnostics = &diagnostics
			result, err := Compile(t.Context(), opts)
			if err != nil {
				t.Fatalf("%v\n%s", err, &diagnostics)
			}
			checkOutputs(t, opts.Output, result)
			got, err := json.MarshalIndent(skeletonJSON(t, mustRead(t, filepath.Join(opts.Output, result.Name+".skel.json"))), "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(opts.Source, ".bpf.c") + ".golden.json"
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(mustRead(t, golden)), string(got)+"\n"); diff != "" {
				t.Errorf("skeleton (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReproducible compiles the same sources in two folders, under other names
// of the folder and at other times.
func TestReproducible(t *testing.T) {
	needTools(t)
	source := `// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>
#include "event.h"
#include "inner.h"
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } rb SEC(".maps");
const char built[] SEC(".rodata.built") = __DATE__ __TIME__ __TIMESTAMP__ __FILE__;
SEC("usdt")
int BPF_USDT(on_usdt, long arg)
{
	bpf_printk("%s %d", __FILE__, inner(arg));
	return built[arg & 1];
}
`
	headers := map[string]string{
		"event.h":       "struct event { int pid; };\n",
		"inc/inner.h":   "static inline int inner(long x)\n{\n\tbpf_printk(\"inner %s\", __FILE__);\n\treturn x ? bpf_get_prandom_u32() : 0;\n}\n",
		"inc/deep/x.h":  "",
		"unrelated.txt": "",
	}
	for _, header := range []string{"", "event.h"} {
		var first []byte
		var firstPackage []byte
		for i, build := range []struct {
			name string
			// cwd and source are relative to the folder of the source.
			cwd, source, include string
		}{
			{"bare name", ".", "tool.bpf.c", "inc"},
			{"dot", ".", "./tool.bpf.c", "./inc/"},
			{"from above", "..", "SOURCE/tool.bpf.c", "SOURCE/inc"},
			{"from below", "inc/deep", "../../tool.bpf.c", ".."},
			{"absolute", "/", "ABS/tool.bpf.c", "ABS/inc"},
		} {
			dir := filepath.Join(t.TempDir(), strings.Repeat("x", i+1))
			for name, text := range headers {
				writeFile(t, dir, name, text)
			}
			writeFile(t, dir, "tool.bpf.c", source)
			path := func(s string) string {
				return strings.NewReplacer("SOURCE", filepath.Base(dir), "ABS", dir).Replace(s)
			}
			cwd := filepath.Join(dir, build.cwd)
			if build.cwd == "/" {
				cwd = "/"
			}
			t.Chdir(cwd)
			opts := Options{Source: path(build.source), CFlags: []string{"-I" + path(build.include)}, Output: t.TempDir()}
			if header != "" {
				opts.Header = filepath.Join(filepath.Dir(opts.Source), header)
			}
			if i%2 == 1 { // a cache that cannot be used
				t.Setenv("XDG_CACHE_HOME", writeFile(t, t.TempDir(), "file", ""))
			} else {
				t.Setenv("XDG_CACHE_HOME", t.TempDir())
			}
			var diagnostics bytes.Buffer
			opts.Diagnostics = &diagnostics
			result, err := Compile(t.Context(), opts)
			if err != nil {
				t.Fatalf("%s: %v\n%s", build.name, err, &diagnostics)
			}
			for _, word := range []string{dir, "/tmp", "/usr/"} {
				if bytes.Contains(result.Object, []byte(word)) {
					t.Errorf("%s: the object holds the path %s", build.name, word)
				}
			}
			if !bytes.Contains(result.Object, []byte("\tbpf_printk(\"%s %d\", __FILE__, inner(arg));")) {
				t.Errorf("%s: the object does not hold the lines of the source", build.name)
			}
			packed := mustRead(t, filepath.Join(opts.Output, "package.json"))
			if first == nil {
				first, firstPackage = result.Object, packed
				continue
			}
			if !bytes.Equal(first, result.Object) {
				t.Errorf("header %q, %s: another object than that of the bare name", header, build.name)
			}
			if !bytes.Equal(firstPackage, packed) {
				t.Errorf("header %q, %s: another package than that of the bare name", header, build.name)
			}
		}
	}
}

func TestSourceDateEpoch(t *testing.T) {
	needTools(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	dir := t.TempDir()
	source := writeFile(t, dir, "when.bpf.c", "const char when[] __attribute__((section(\".rodata\"))) = __DATE__ \" \" __TIME__ \"|\" __TIMESTAMP__;\n")
	result, err := Compile(t.Context(), Options{Source: source})
	if err != nil {
		t.Fatal(err)
	}
	if want := "Sep  9 2001 01:46:40|Sun Sep  9 01:46:40 2001"; !bytes.Contains(result.Object, []byte(want)) {
		t.Errorf("the object does not hold %q", want)
	}
}

func TestDependencies(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	source := writeFile(t, dir, "a tool.bpf.c", "#include \"sub/one$#x.h\"\n#include \"sub/one$#x.h\"\n#include <bpf/bpf_endian.h>\n")
	one := writeFile(t, dir, "sub/one$#x.h", "#include \"../two words.h\"\n")
	two := writeFile(t, dir, "two words.h", "#include <linux/types.h>\n")
	result, err := Compile(t.Context(), Options{Source: source})
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, d := range result.Dependencies {
		if strings.HasPrefix(d, dir) {
			own = append(own, d)
		}
		if _, err := os.Stat(d); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{source, one, two}, own); diff != "" {
		t.Errorf("dependencies (-want +got):\n%s", diff)
	}
	has := func(suffix string) bool {
		return slices.ContainsFunc(result.Dependencies, func(d string) bool { return strings.HasSuffix(d, suffix) })
	}
	if has("/bpf/bpf_endian.h") || !has("/linux/types.h") {
		t.Errorf("dependencies: %q", result.Dependencies)
	}
}

func TestBuildFacts(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	source := writeFile(t, dir, "a.bpf.c", "int x = VALUE;\n")
	vmlinux := writeFile(t, dir, "v/mine.h", "typedef int mine_t;\n")
	writeFile(t, dir, "ws/include/bpf/bpf_helpers.h", "")
	compile := func(opts Options) manifest.BuildFacts {
		opts.Source, opts.CFlags, opts.Arch = source, []string{"-DVALUE=1", "-I" + dir, "-isystem", dir}, "amd64"
		result, err := Compile(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		return result.Build
	}
	facts := compile(Options{})
	vmlinuxHeader, libbpf := headersFor("x86")
	if facts.Vmlinux != "embedded" || facts.VmlinuxDigest != "sha256:"+vmlinuxHeader.sum || facts.HeadersDigest != digestOf(libbpf).String() {
		t.Errorf("embedded headers: %+v", facts)
	}
	if !strings.Contains(facts.Compiler, "clang version") || facts.Ebpm != manifest.Version {
		t.Errorf("compiler: %+v", facts)
	}
	want := []string{"-g", "-O2", "-target", "bpf", "-Wno-unknown-attributes", "-D__TARGET_ARCH_x86", "-DVALUE=1"}
	if diff := cmp.Diff(want, facts.Flags); diff != "" {
		t.Errorf("flags (-want +got):\n%s", diff)
	}
	own := compile(Options{Vmlinux: vmlinux})
	if own.Vmlinux != "file" || own.VmlinuxDigest == facts.VmlinuxDigest || own.HeadersDigest != facts.HeadersDigest {
		t.Errorf("own vmlinux.h: %+v", own)
	}
	workspace := compile(Options{Workspace: filepath.Join(dir, "ws")})
	if workspace.Vmlinux != "" || workspace.HeadersDigest == facts.HeadersDigest {
		t.Errorf("workspace: %+v", workspace)
	}
}

// TestIncludeOrder says which of several headers of one name is taken.
func TestIncludeOrder(t *testing.T) {
	needTools(t)
	for _, test := range []struct {
		name, include string
		vmlinux       string // Options.Vmlinux, relative
		workspace     string
		cflags        []string
		want          string
	}{
		{name: "quoted, beside the source", include: `"vmlinux.h"`, want: "beside"},
		{name: "in angles, embedded", include: `<vmlinux.h>`, want: "struct task_struct"},
		{name: "in angles, own", include: `<vmlinux.h>`, vmlinux: "own.h", want: "own"},
		{name: "in angles, workspace", include: `<vmlinux.h>`, workspace: "ws", want: "workspace"},
		{name: "-a before the source's folder", include: `<both.h>`, cflags: []string{"-Imore"}, want: "more"},
		{name: "-include", include: `<both.h>`, cflags: []string{"-include", "sub/first.h", "-Wall", "-Werror", "-mcpu=v3"}, want: "source"},
		{name: "source's folder", include: `<both.h>`, want: "source"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			tell := func(name, word string) {
				writeFile(t, dir, name, "extern char said[]; char said[] = \""+word+"\";\n")
			}
			tell("vmlinux.h", "beside")
			tell("own.h", "own")
			tell("ws/include/vmlinux/x86/vmlinux.h", "workspace")
			tell("both.h", "source")
			tell("more/both.h", "more")
			writeFile(t, dir, "sub/first.h", "typedef int first_t;\n")
			text := "#include " + test.include + "\n"
			if strings.HasPrefix(test.want, "struct") {
				text += "char said[] = \"" + test.want + "\"; int size = sizeof(" + test.want + ");\n"
			}
			writeFile(t, dir, "a.bpf.c", text)
			var diagnostics bytes.Buffer
			result, err := Compile(t.Context(), Options{
				Source: "a.bpf.c", Vmlinux: test.vmlinux, Workspace: test.workspace,
				CFlags: test.cflags, Arch: "amd64", Diagnostics: &diagnostics,
			})
			if err != nil {
				t.Fatalf("%v\n%s", err, &diagnostics)
			}
			if !bytes.Contains(result.Object, []byte(test.want+"\x00")) {
				t.Errorf("the object does not hold %q", test.want)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	needTools(t)
	const license = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nchar LICENSE[] SEC(\"license\") = \"GPL\";\n"
	for _, test := range []struct {
		name    string
		files   map[string]string
		opts    Options
		want    string // in the error
		printed string // in the diagnostics
		kind    manifest.Kind
		refused bool // a CompileError
	}{
		{name: "no source", want: "a.bpf.c: no such file"},
		{name: "source is a folder", opts: Options{Source: "."}, want: `source "." is not a file`},
		{name: "empty name", opts: Options{Source: ""}, want: `source "" is not a file`},
		{name: "header missing", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Header: "no.h"}, want: "read export header: open no.h"},
		{name: "not UTF-8", files: map[string]string{"a.bpf.c": "// \xff\n"}, want: "a.bpf.c is not valid UTF-8"},
		{name: "output missing", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Output: "no"}, want: "output folder: stat no"},
		{name: "output is a file", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Output: "a.bpf.c"}, want: "a.bpf.c is not a folder"},
		{name: "syntax", files: map[string]string{"sub/a.bpf.c": license + "int f(void)\n{\n\treturn missing_name;\n}\n"}, opts: Options{Source: "sub/a.bpf.c"},
			want: "compile sub/a.bpf.c: clang: exit status 1", printed: "sub/a.bpf.c:6:9: error: use of undeclared identifier 'missing_name'", refused: true},
		{name: "syntax, with header", files: map[string]string{"sub/a.bpf.c": license + "#include \"e.h\"\nint f(void)\n{\n\treturn missing_name;\n}\n", "sub/e.h": "struct e { int x; };\n"},
			opts: Options{Source: "sub/a.bpf.c", Header: "sub/e.h"},
			want: "compile sub/a.bpf.c", printed: "sub/a.bpf.c:7:9: error: use of undeclared identifier 'missing_name'", refused: true},
		{name: "syntax in the header", files: map[string]string{"a.bpf.c": "#include \"e.h\"\n", "e.h": "struct e { nonsense x; };\n"}, opts: Options{Source: "a.bpf.c", Header: "e.h"},
			want: "compile a.bpf.c", printed: "In file included from a.bpf.c:1:\n./e.h:1:12: error: unknown type name", refused: true},
		{name: "header names a union", files: map[string]string{"a.bpf.c": "#include \"e.h\"\n", "e.h": "\n// struct e {\nunion e { int x; };\n"}, opts: Options{Source: "a.bpf.c", Header: "e.h"},
			want: "compile a.bpf.c", printed: "e.h:2:16: error: use of 'e' with tag type", refused: true},
		{name: "backend, place", files: map[string]string{"sub/a.bpf.c": license + "SEC(\"xdp\")\nint f(void *ctx)\n{\n\tasm volatile(\"bogus r1\");\n\treturn 0;\n}\n"}, opts: Options{Source: "sub/a.bpf.c"},
			want: "compile sub/a.bpf.c", printed: "sub/a.bpf.c:7:15: error: ", refused: true},
		{name: "missing include", files: map[string]string{"a.bpf.c": "#include \"gone.h\"\n"}, want: "compile a.bpf.c", printed: "a.bpf.c:1:10: fatal error: 'gone.h' file not found", refused: true},
		{name: "bad flag", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", CFlags: []string{"-fno-such-thing"}}, want: "compile a.bpf.c: clang", printed: "unknown argument", refused: true},
		{name: "no clang", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Clang: "no-such-clang"}, want: "run no-such-clang", kind: manifest.KindPrecondition},
		{name: "no llvm-strip", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", LLVMStrip: "no-such-strip"}, want: "run no-such-strip", kind: manifest.KindPrecondition},
		{name: "clang that fails", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Clang: "false"}, want: "compile a.bpf.c: false: exit status 1", refused: true},
		{name: "llvm-strip that fails", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", LLVMStrip: "false"}, want: "compile a.bpf.c: false: exit status 1", refused: true},
		{name: "clang that makes nothing", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Clang: "true"}, want: "read what true made of a.bpf.c"},
		{name: "static program", files: map[string]string{"a.bpf.c": license + "SEC(\"xdp\")\nstatic __attribute__((used)) int f(void *ctx)\n{\n\treturn 0;\n}\n"}, want: `a.bpf.c: program f in section "xdp" is static`},
		{name: "static map", files: map[string]string{"a.bpf.c": license + "static __attribute__((used)) struct { __uint(type, 1); } m SEC(\".maps\");\n"}, want: "map m is static"},
		{name: "legacy map", files: map[string]string{"a.bpf.c": license + "struct { int type; } m SEC(\"maps\") = { 1 };\n"}, want: "legacy map definitions"},
		{name: "vmlinux missing", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Vmlinux: "no.h"}, want: "vmlinux: open no.h"},
		{name: "vmlinux of the running kernel", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Vmlinux: "running"}, want: "running is not supported yet"},
		{name: "workspace missing", files: map[string]string{"a.bpf.c": license}, opts: Options{Source: "a.bpf.c", Workspace: "no"}, want: "workspace: stat"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			for name, text := range test.files {
				writeFile(t, dir, name, text)
			}
			opts := test.opts
			if opts.Source == "" && test.name != "empty name" {
				opts.Source = "a.bpf.c"
			}
			var diagnostics bytes.Buffer
			opts.Diagnostics = &diagnostics
			_, err := Compile(t.Context(), opts)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error: %v\nwanted: %s\n%s", err, test.want, &diagnostics)
			}
			if !strings.Contains(diagnostics.String(), test.printed) {
				t.Errorf("diagnostics:\n%swanted: %s", &diagnostics, test.printed)
			}
			if strings.Contains(diagnostics.String(), os.TempDir()+"/ecc-") {
				t.Errorf("diagnostics name a temporary file:\n%s", &diagnostics)
			}
			var compileError *CompileError
			if errors.As(err, &compileError) != test.refused {
				t.Errorf("%#v is a CompileError: wanted %v", err, test.refused)
			}
			if test.kind != 0 && manifest.KindOf(err) != test.kind {
				t.Errorf("kind %v, wanted %v", manifest.KindOf(err), test.kind)
			}
			if test.kind == manifest.KindPrecondition && manifest.AdviceOf(err) == "" {
				t.Error("no advice")
			}
			checkNothingLeft(t, dir, test.files)
		})
	}
}

// checkNothingLeft fails when a folder holds another file than those given.
func checkNothingLeft(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if _, ok := files[rel]; !ok {
			t.Errorf("%s was left behind", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWarningsAreShown(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	t.Chdir(dir)
	writeFile(t, dir, "a.bpf.c", "#warning said by the source\n")
	var diagnostics bytes.Buffer
	if _, err := Compile(t.Context(), Options{Source: "a.bpf.c", Diagnostics: &diagnostics}); err != nil {
		t.Fatal(err)
	}
	if want := "a.bpf.c:1:2: warning: said by the source"; !strings.Contains(diagnostics.String(), want) {
		t.Errorf("diagnostics: %q, wanted %q", &diagnostics, want)
	}
}

// TestInterrupted checks that a compile that is interrupted while clang runs
// ends at once and leaves nothing.
func TestInterrupted(t *testing.T) {
	needTools(t)
	dir, temp := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	source := writeFile(t, dir, "a.bpf.c", "int x;\n")
	// It says that it runs, and then waits for ever.
	started := filepath.Join(t.TempDir(), "started")
	slow := writeFile(t, t.TempDir(), "clang", "#!/bin/sh\ncase \"$*\" in *-MF*) mkfifo "+started+".fifo; : >"+started+"; read x <"+started+".fifo;; esac\n")
	if err := os.Chmod(slow, 0o755); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("interrupted by the test")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Compile(ctx, Options{Source: source, Clang: slow})
		done <- err
	}()
	for {
		if _, err := os.Stat(started); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("ended early: %v", err)
		default:
		}
	}
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("error %v, wanted %v", err, cause)
	}
	checkNothingLeft(t, dir, map[string]string{"a.bpf.c": ""})
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

func TestOutputsAreReplacedTogether(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "b", "old")
	if err := os.Mkdir(filepath.Join(dir, "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "c/full", "")
	// The third cannot take its place: a folder with something in it is there.
	err := writeAll(dir, []outputFile{{name: "a", data: []byte("new")}, {name: "b", data: []byte("new")}, {name: "c", data: []byte("new")}})
	if err == nil {
		t.Fatal("a folder was replaced by a file")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}
