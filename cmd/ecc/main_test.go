// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/builder/ecc"
	"github.com/ebpm/ebpm/manifest"
)

func noEnv(string) string { return "" }

// TestUsageErrors holds the words of eunomia-bpf's ecc-rs 0.3.4.
func TestUsageErrors(t *testing.T) {
	const (
		usage = "Usage: ecc [OPTIONS] <SOURCE_PATH> [EXPORT_EVENT_HEADER]\n\n"
		help  = "For more information, try '--help'.\n"
	)
	for line, want := range map[string]string{
		"":                     "error: the following required arguments were not provided:\n  <SOURCE_PATH>\n\nUsage: ecc <SOURCE_PATH> [EXPORT_EVENT_HEADER]\n\n" + help,
		"--":                   "error: the following required arguments were not provided:\n  <SOURCE_PATH>\n\nUsage: ecc <SOURCE_PATH> [EXPORT_EVENT_HEADER]\n\n" + help,
		"--nonsense a.c":       "error: unexpected argument '--nonsense' found\n\n  tip: to pass '--nonsense' as a value, use '-- --nonsense'\n\n" + usage + help,
		"-x a.c":               "error: unexpected argument '-x' found\n\n  tip: to pass '-x' as a value, use '-- -x'\n\n" + usage + help,
		"-nx a.c":              "error: unexpected argument '-x' found\n\n  tip: to pass '-x' as a value, use '-- -x'\n\n" + usage + help,
		"--yam a.c":            "error: unexpected argument '--yam' found\n\n  tip: a similar argument exists: '--yaml'\n\nUsage: ecc --yaml <SOURCE_PATH> [EXPORT_EVENT_HEADER]\n\n" + help,
		"-n -s a.c":            "error: the argument '--no-generate-package-json' cannot be used with '--standalone'\n\nUsage: ecc --no-generate-package-json <SOURCE_PATH> [EXPORT_EVENT_HEADER]\n\n" + help,
		"--standalone -n a.c":  "error: the argument '--standalone' cannot be used with '--no-generate-package-json'\n\nUsage: ecc --standalone <SOURCE_PATH> [EXPORT_EVENT_HEADER]\n\n" + help,
		"a.c a.h b.h":          "error: unexpected argument 'b.h' found\n\n" + usage + help,
		"-o":                   "error: a value is required for '--output-path <OUTPUT_PATH>' but none was supplied\n\n" + help,
		"a.c -o":               "error: a value is required for '--output-path <OUTPUT_PATH>' but none was supplied\n\n" + help,
		"a.c --output-path -n": "error: a value is required for '--output-path <OUTPUT_PATH>' but none was supplied\n\n" + help,
		"a.c -a":               "error: a value is required for '--additional-cflags <ADDITIONAL_CFLAGS>' but none was supplied\n\n" + help,
		"--yaml=true a.c":      "error: unexpected value 'true' for '--yaml' found; no more were expected\n\nUsage: ecc --yaml <SOURCE_PATH> [EXPORT_EVENT_HEADER]\n\n" + help,
		"-y -y a.c":            "error: the argument '--yaml' cannot be used multiple times\n\n" + usage + help,
		"-o . -o . a.c":        "error: the argument '--output-path <OUTPUT_PATH>' cannot be used multiple times\n\n" + usage + help,
	} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"/usr/bin/ecc"}, strings.Fields(line)...)
		if code := run(t.Context(), args, noEnv, &stdout, &stderr); code != exitUsage {
			t.Errorf("ecc %s: exit code %d", line, code)
		}
		if diff := cmp.Diff(want, stderr.String()); diff != "" || stdout.Len() > 0 {
			t.Errorf("ecc %s: stdout %q, stderr (-want +got):\n%s", line, &stdout, diff)
		}
	}
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args []string
		want commandLine
	}{
		{[]string{"a.c"}, commandLine{source: "a.c"}},
		{[]string{"a.c", "a.h", "-n"}, commandLine{source: "a.c", header: "a.h", noPackage: true}},
		{[]string{"a.c", ""}, commandLine{source: "a.c"}},
		{[]string{"-nv", "a.c"}, commandLine{source: "a.c", noPackage: true, verbose: true}},
		{[]string{"-nvo", "out", "a.c"}, commandLine{source: "a.c", noPackage: true, verbose: true, output: "out"}},
		{[]string{"-oout", "a.c"}, commandLine{source: "a.c", output: "out"}},
		{[]string{"-o=out", "a.c"}, commandLine{source: "a.c", output: "out"}},
		{[]string{"--output-path=out", "--clang-bin", "c", "-l", "s", "-w", "ws", "a.c"}, commandLine{source: "a.c", output: "out", clang: "c", llvmStrip: "s", workspace: "ws"}},
		{[]string{"-a-DX", "-a=-DY=1 2", "-a", "-DZ", "--additional-cflags=-I.", "--additional-cflags", "-DW", "a.c"},
			commandLine{source: "a.c", cflags: []string{"-DX", "-DY=1 2", "-DZ", "-I.", "-DW"}}},
		{[]string{"--header-only", "--wasm-header", "-b", "--btfhub-archive", "d", "-y", "-s", "a.h"},
			commandLine{source: "a.h", headerOnly: true, wasmHeader: true, btfgen: true, btfhub: "d", yaml: true, standalone: true}},
		{[]string{"--", "-n", "-h"}, commandLine{source: "-n", header: "-h"}},
		{[]string{"-"}, commandLine{source: "-"}},
		{[]string{"-h", "-x"}, commandLine{help: "-h"}},
		{[]string{"-n", "--help", "-V"}, commandLine{noPackage: true, help: "--help"}},
		{[]string{"-nV", "-h"}, commandLine{noPackage: true, version: true}},
	} {
		got, err := parse(test.args)
		if err != nil {
			t.Errorf("%q: %v", test.args, err)
		}
		got.seen, got.positionals = nil, 0
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(commandLine{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.args, diff)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for flag, want := range map[string]string{
		"-h":        "  -n, --no-generate-package-json ",
		"--help":    "  -o, --output-path <OUTPUT_PATH>\n          Folder",
		"-V":        "ecc " + manifest.Version + "\n",
		"--version": "ecc " + manifest.Version + "\n",
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"ecc", flag}, noEnv, &stdout, &stderr)
		if code != exitOK || !strings.Contains(stdout.String(), want) || stderr.Len() > 0 {
			t.Errorf("%s: exit code %d, stdout:\n%s\nstderr: %s", flag, code, &stdout, &stderr)
		}
	}
}

// TestHelpOfBTFHub: the help has the folder that would be taken.
func TestHelpOfBTFHub(t *testing.T) {
	for env, want := range map[string]string{
		"HOME":         "the BTF for --btfgen [default: /there/.local/share/eunomia/btfhub-archive]\n",
		"EUNOMIA_HOME": "the BTF for --btfgen [default: /there/btfhub-archive]\n",
		"":             "the BTF for --btfgen\n",
	} {
		getenv := func(name string) string {
			if name == env {
				return "/there"
			}
			return ""
		}
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"ecc", "-h"}, getenv, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), want) {
			t.Errorf("%s: exit code %d, wanted %q in\n%s", env, code, want, &stdout)
		}
	}
}

// TestBTFHubFolder looks for the archive where the flags and the environment
// say.
func TestBTFHubFolder(t *testing.T) {
	for _, tool := range []string{"clang", "llvm-strip", "bpftool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "a.bpf.c")
	if err := os.WriteFile(source, []byte("int x;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		flags []string
		home  string
		want  string
	}{
		{nil, "", "Error: --btfgen: name the folder of the btfhub archive with --btfhub-archive\n"},
		{nil, dir, "Error: btfgen: there is no btfhub archive " + dir + "/.local/share/eunomia/btfhub-archive\n"},
		{[]string{"--btfhub-archive", dir + "/none"}, dir, "  git clone --depth 1 https://github.com/aquasecurity/btfhub-archive " + dir + "/none\n"},
	} {
		var stdout, stderr bytes.Buffer
		getenv := func(name string) string {
			if name == "HOME" {
				return test.home
			}
			return ""
		}
		code := run(t.Context(), append([]string{"ecc", "-b", source}, test.flags...), getenv, &stdout, &stderr)
		if code != exitFailure || !strings.Contains(stderr.String(), test.want) {
			t.Errorf("%q: exit code %d, %s", test.flags, code, &stderr)
		}
	}
}

func TestCompile(t *testing.T) {
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	const source = "#include \"e.h\"\nint x = 1;\n"
	const (
		compiling = "INFO [ecc_rs::bpf_compiler] Compiling bpf object...\n"
		exporting = "INFO [ecc_rs::bpf_compiler] Generating export types...\n"
		packing   = "INFO [ecc_rs::bpf_compiler] Generating package json..\nINFO [ecc_rs::bpf_compiler] Packing ebpf object and config into "
	)
	for _, test := range []struct {
		name    string
		args    []string
		rustLog string
		code    int
		stderr  string
		files   []string
	}{
		{"with header", []string{"a.bpf.c", "e.h"}, "", exitOK, compiling + exporting + packing + "package.json...\n", []string{"a.bpf.o", "a.skel.json", "package.json"}},
		{"output", []string{"-o", ".", "a.bpf.c"}, "", exitOK, compiling + packing + "./package.json...\n", []string{"a.bpf.o", "a.skel.json", "package.json"}},
		{"output elsewhere", []string{"-oout/", "a.bpf.c"}, "", exitOK, compiling + packing + "out/package.json...\n", []string{"out/a.bpf.o", "out/a.skel.json", "out/package.json"}},
		{"source elsewhere", []string{"./a.bpf.c"}, "", exitOK, compiling + packing + "./package.json...\n", []string{"a.bpf.o", "a.skel.json", "package.json"}},
		{"no package", []string{"-n", "a.bpf.c"}, "", exitOK, compiling, []string{"a.bpf.o", "a.skel.json"}},
		{"yaml", []string{"-y", "a.bpf.c", "e.h"}, "", exitOK, compiling + exporting + packing + "package.yaml...\n", []string{"a.bpf.o", "a.skel.yaml", "package.yaml"}},
		{"yaml elsewhere", []string{"-yo", "out", "a.bpf.c"}, "", exitOK, compiling + packing + "out/package.yaml...\n", []string{"out/a.bpf.o", "out/a.skel.yaml", "out/package.yaml"}},
		{"wasm header", []string{"--wasm-header", "a.bpf.c"}, "", exitOK, compiling + packing + "package.json...\n", []string{"a.bpf.o", "a.skel.json", "package.json", "ewasm-skel.h"}},
		{"wasm header of no package", []string{"-n", "--wasm-header", "a.bpf.c"}, "", exitFailure, compiling + "Error: generate wasm header: it holds package.json, which --no-generate-package-json leaves out: call ecc without that flag\n", []string{"a.bpf.o", "a.skel.json"}},
		{"wasm header of YAML", []string{"-y", "--wasm-header", "a.bpf.c"}, "", exitFailure, compiling + packing + "package.yaml...\nError: generate wasm header: it holds package.json, which --yaml replaces by package.yaml: call ecc without that flag\n", []string{"a.bpf.o", "a.skel.yaml", "package.yaml"}},
		{"header only", []string{"--header-only", "e.h"}, "error", exitOK, "", []string{"e.bpf.o", "e.skel.json", "package.json"}},
		{"header only, another header dropped", []string{"--header-only", "e.h", "gone.h"}, "error", exitOK, "", []string{"e.bpf.o", "e.skel.json", "package.json"}},
		{"RUST_LOG of a module", []string{"a.bpf.c"}, "some::module", exitOK, "", []string{"a.bpf.o", "a.skel.json", "package.json"}},
		{"verbose", []string{"-v", "a.bpf.c"}, "", exitOK, compiling +
			"DEBUG [ecc_rs::bpf_compiler] $ \"clang\" CommandArgs { inner: [\"-g\", \"-O2\", \"-target\", \"bpf\", ...] }\n" +
			"DEBUG [ecc_rs::bpf_compiler] $ \"llvm-strip\" CommandArgs { inner: [\"-g\", ...] }\n" +
			packing + "package.json...\n", []string{"a.bpf.o", "a.skel.json", "package.json"}},
		{"dash", []string{"--", "-dash.bpf.c"}, "off", exitOK, "", []string{"-dash.bpf.o", "-dash.skel.json", "package.json"}},
		{"no source", []string{"gone.bpf.c"}, "", exitFailure, "Error: read source: open gone.bpf.c: no such file or directory\n", nil},
		{"no clang", []string{"-c", "gone", "a.bpf.c"}, "", exitFailure, "Error: run gone: exec: \"gone\": executable file not found in $PATH\nInstall clang and llvm (Debian: apt-get install clang llvm) or build in a cluster: ebpm build --builder kubernetes.\n", nil},
		{"bad source", []string{"-a", "-DBAD", "bad.bpf.c"}, "", exitFailure, compiling + "bad.bpf.c:2:2: error: said by the source\nError: compile bad.bpf.c: clang: exit status 1\n", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			for name, text := range map[string]string{
				"a.bpf.c": source, "-dash.bpf.c": source, "e.h": "struct e { int pid; };\n",
				"bad.bpf.c": "#ifdef BAD\n#error said by the source\n#endif\n", "out/.keep": "",
			} {
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var stdout, stderr bytes.Buffer
			getenv := func(name string) string {
				if name == "RUST_LOG" {
					return test.rustLog
				}
				return ""
			}
			if code := run(t.Context(), append([]string{"ecc"}, test.args...), getenv, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d", code)
			}
			// How clang quotes a line differs between its versions.
			got := regexp.MustCompile(`(?s)(error: said by the source\n).*(Error: )`).ReplaceAllString(stderr.String(), "$1$2")
			// So do the flags that it needs, with the folders of the machine.
			got = regexp.MustCompile(`(inner: \["-g", )("-O2", "-target", "bpf", )?".*"\] }`).ReplaceAllString(got, "$1$2...] }")
			if diff := cmp.Diff(test.stderr, got); diff != "" || stdout.Len() > 0 {
				t.Errorf("stdout %q, stderr (-want +got):\n%s", &stdout, diff)
			}
			made, err := filepath.Glob("*.o")
			if err != nil || test.files == nil && len(made) > 0 {
				t.Errorf("made %q, %v", made, err)
			}
			for _, name := range test.files {
				data, err := os.ReadFile(name)
				if err != nil {
					t.Error(err)
				}
				if filepath.Base(name) == "package.json" {
					if _, err := manifest.DecodePackage(data); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// The flag that eunomia-bpf's ecc does not have gives each architecture a folder.
func TestTargetArch(t *testing.T) {
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	t.Chdir(t.TempDir())
	const source = "#ifdef __TARGET_ARCH_arm64\n#ifdef BAD\n#error no\n#endif\nint arm = 1;\n#else\nint x = 1;\n#endif\n"
	if err := os.WriteFile("a.bpf.c", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	getenv := func(name string) string {
		return map[string]string{"RUST_LOG": "warn", ecc.FactsVariable: "elsewhere/build.json"}[name]
	}
	call := func(args ...string) (int, string) {
		var stdout, stderr bytes.Buffer
		return run(t.Context(), append([]string{"ecc"}, args...), getenv, &stdout, &stderr), stderr.String()
	}
	if code, stderr := call("a.bpf.c", "-o", ".", "--target-arch", "amd64", "--target-arch=arm64"); code != exitOK || stderr != "" {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	for arch, want := range map[string][2]string{"amd64": {"x", "-D__TARGET_ARCH_x86"}, "arm64": {"arm", "-D__TARGET_ARCH_arm64"}} {
		data, err := os.ReadFile(filepath.Join(arch, "package.json"))
		if err != nil {
			t.Fatal(err)
		}
		pkg, err := manifest.DecodePackage(data)
		if err != nil {
			t.Fatal(err)
		}
		if p := pkg.Meta.Parameters(); len(p) != 1 || p[0].Name != want[0] {
			t.Errorf("%s: variables %v", arch, p)
		}
		facts, err := os.ReadFile(filepath.Join(arch, "build.json"))
		if err != nil || !strings.Contains(string(facts), want[1]) {
			t.Errorf("%s: facts %s, %v", arch, facts, err)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--target-arch", "riscv64"}, "Error: --target-arch riscv64: wanted one of amd64, arm64\n"},
		{[]string{"--target-arch", "arm64", "-a", "-DBAD"}, "Error: compile a.bpf.c: clang: exit status 1 (for arm64)\n"},
	} {
		if code, stderr := call(append(tt.args, "a.bpf.c")...); code != exitFailure || !strings.HasSuffix(stderr, tt.want) {
			t.Errorf("%q: exit code %d, %q", tt.args, code, stderr)
		}
	}
}

func TestLogLevel(t *testing.T) {
	for rustLog, want := range map[string]slog.Level{
		"": slog.LevelInfo, "trace": slog.LevelDebug, "warn": slog.LevelWarn, "error": levelOff, "off": levelOff, "x": levelOff,
	} {
		if got := logLevel(false, rustLog); got != want {
			t.Errorf("RUST_LOG=%s: %v", rustLog, got)
		}
	}
	if got := logLevel(true, ""); got != slog.LevelDebug {
		t.Errorf("-v: %v", got)
	}
	if got := logLevel(true, "error"); got != levelOff {
		t.Errorf("-v with RUST_LOG=error: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-nvo out a.c a.h -a-DX")
	f.Add("--yaml=1 -- -x")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		parsed, err := parse(args)
		if err == nil && parsed.help == "" && !parsed.version && parsed.positionals == 0 {
			t.Errorf("%q: no source and no error", args)
		}
	})
}
