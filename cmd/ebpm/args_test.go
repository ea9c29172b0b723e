// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitArgs(t *testing.T) {
	for _, tt := range []struct {
		args, head, tail string
	}{
		{"ebpm deploy x:1 --all", "ebpm deploy --all -- x:1", ""},
		{"ebpm deploy --all x:1", "ebpm deploy --all -- x:1", ""},
		{"ebpm deploy x:1 --node a --node=b -n ns", "ebpm deploy --node a --node=b -n ns -- x:1", ""},
		{"ebpm deploy x:1 --debug --registry r", "ebpm --debug --registry r deploy -- x:1", ""},
		{"ebpm --debug deploy x:1", "ebpm --debug deploy -- x:1", ""},
		{"ebpm deploy x:1 --all -- --all -p 1", "ebpm deploy --all -- x:1", "--all -p 1"},
		{"ebpm run -j x:1 -j --help", "ebpm run -j -- x:1", "-j --help"},
		{"ebpm run x:1 -- -p 1", "ebpm run -- x:1", "-p 1"},
		{"ebpm run x:1 -p 1 -- y", "ebpm run -- x:1", "-p 1 -- y"},
		{"ebpm run --store s x:1 --store t", "ebpm --store s run -- x:1", "--store t"},
		{"ebpm packages rm x:1 y:1", "ebpm packages rm -- x:1 y:1", ""},
		{"ebpm list -o", "ebpm list -o", ""},
		{"ebpm deploy x:1 --nosuch v", "ebpm deploy --nosuch -- x:1 v", ""},
		{"ebpm list --help", "ebpm list --help", ""},
		{"ebpm", "ebpm", ""},
		{"ebpm nosuch x", "ebpm -- nosuch x", ""},
		{"ebpm build - -t x", "ebpm build -t x -- -", ""},
	} {
		t.Run(tt.args, func(t *testing.T) {
			head, tail := splitArgs(newApp(&session{}, "ebpm"), strings.Fields(tt.args))
			if diff := cmp.Diff(strings.Fields(tt.head), head); diff != "" {
				t.Errorf("head (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.tail, strings.Join(tail, " ")); diff != "" {
				t.Errorf("tail (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzSplitArgs(f *testing.F) {
	f.Add("deploy x:1 --all -- -p 1")
	f.Add("run -j x:1 --store")
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Fields(line)
		head, tail := splitArgs(newApp(&session{}, "ebpm"), append([]string{"ebpm"}, words...))
		// No word is lost or made up, but for the separators.
		count := func(words []string) map[string]int {
			m := map[string]int{}
			for _, w := range words {
				if w != "--" {
					m[w]++
				}
			}
			return m
		}
		if diff := cmp.Diff(count(append([]string{"ebpm"}, words...)), count(append(head, tail...))); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", line, diff)
		}
	})
}

// call runs ebpm in this process.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), append([]string{"ebpm"}, args...), stdio{in: strings.NewReader(""), out: &out, err: &err})
	return code, out.String(), err.String()
}

func TestUsageErrors(t *testing.T) {
	t.Setenv("EBPM_REGISTRY", "")
	t.Setenv("EBPM_CONFIG", "")
	t.Setenv("EBPM_IMAGE", "")
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	for _, tt := range []struct{ args, stderr string }{
		{"nosuch", `unknown command "nosuch"`},
		{"deploy", "REF is missing"},
		{"deploy a:1 b:1", `unexpected argument "b:1"`},
		{"deploy a:1 --nosuch", "nosuch"},
		{"deploy a:1 --all --node x", "exclude each other"},
		{"deploy a:1 --all", "EBPM_REGISTRY"},
		{"deploy reg.example/a:1 --all", "EBPM_IMAGE"},
		{"deploy reg.example/a:1 --all --dry-run server", "only client"},
		{"list -o xml", "unknown output format"},
		{"list extra", "unexpected argument"},
		{"list -- extra", "behind --"},
		{"logs x -o yaml", "unknown output format"},
		{"pull reg.example/a:1 --canonical", "-o FOLDER"},
		{"push reg.example/A:1", "lower case"},
		{"completion tcsh", "tcsh"},
		{"--config /nosuch/file list", "/nosuch/file"},
		{"deply", `Did you mean "deploy"?`},
		{"help nosuch", `unknown command "nosuch"`},
		{"packages rm", "ebpm packages rm --help"},
		{"build . -t x -n ns", "-n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			code, stdout, stderr := call(t, strings.Fields(tt.args)...)
			if code != 2 || !strings.Contains(stderr, tt.stderr) || stdout != "" {
				t.Errorf("exit %d, stdout %q, stderr %q; want 2 and %q", code, stdout, stderr, tt.stderr)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range []string{"", "--help", "deploy --help", "packages rm --help", "version", "version -o json", "completion bash", "--version", "-v", "help", "help deploy", "help packages rm"} {
		code, stdout, stderr := call(t, strings.Fields(args)...)
		if code != 0 || stdout == "" || stderr != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

// A line that a shell completes is never run, whatever stands in it.
func TestCompletion(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nosuch")
	for _, tt := range []struct {
		words string
		want  []string
		not   string
	}{
		{"", []string{"build", "deploy", "run"}, "--all"},
		{"deploy x:1", []string{"--all", "--node", "--debug"}, "run"},
		{"deploy x:1 --all --", nil, "--all"},
		{"packages", []string{"rm", "--output"}, "--all"},
		{"run examples/nosuch", nil, "--json"},
		{"run", []string{"--json"}, "--all"},
		{"status", []string{"--output"}, "--all"},
	} {
		code, stdout, stderr := call(t, append(strings.Fields(tt.words), completeFlag)...)
		if code != 0 || stderr != "" {
			t.Errorf("%q: exit %d, %q", tt.words, code, stderr)
		}
		words := strings.Fields(stdout)
		for _, want := range tt.want {
			if !slices.Contains(words, want) {
				t.Errorf("%q: no %s in %q", tt.words, want, words)
			}
		}
		if slices.Contains(words, tt.not) || (tt.want == nil && len(words) > 0) {
			t.Errorf("%q: offers %q", tt.words, words)
		}
	}
}

// brokenPipe is a stdout that nobody reads.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
}

func TestNobodyReads(t *testing.T) {
	var stderr bytes.Buffer
	std := stdio{out: &resultWriter{w: brokenPipe{}}, err: &stderr}
	if code := run(t.Context(), []string{"ebpm", "version"}, std); code != 0 || stderr.Len() > 0 {
		t.Errorf("exit %d, %q", code, stderr.String())
	}
	// A command that failed has failed, also where nobody reads its result.
	if code := run(t.Context(), []string{"ebpm", "nosuch"}, std); code != 2 {
		t.Errorf("exit %d, want 2", code)
	}
}

func TestMessagesCannotMoveTheCursor(t *testing.T) {
	_, _, stderr := call(t, "x\x1b[2J")
	if strings.Contains(stderr, "\x1b") {
		t.Errorf("stderr holds an escape: %q", stderr)
	}
	var out bytes.Buffer
	if err := write(&out, "table", result{table: [][]string{{"A\x1b[2J", "\u202eB"}}}); err != nil || strings.ContainsAny(out.String(), "\x1b\u202e") {
		t.Errorf("the table is %q, %v", out.String(), err)
	}
}

func TestConfigOfUsersIsStrict(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("registry: reg.example\nmirrors: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, "--config", file, "version"); code != 2 || !strings.Contains(stderr, "mirrors") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}
