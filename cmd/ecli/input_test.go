// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ebpm/ebpm/deployer/ecli"
	"github.com/ebpm/ebpm/manifest"
)

// archiveOf is the tar of a package, with further files: name, content, and so on.
func archiveOf(t *testing.T, pkg []byte, more ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	more = append([]string{"./package.json", string(pkg)}, more...)
	for i := 0; i < len(more); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: more[i], Mode: 0o644, Size: int64(len(more[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, more[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func compress(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestTypesInTar: a kernel that shows no types is served by those in the tar,
// and any other does not look at them.
func TestTypesInTar(t *testing.T) {
	pkg, err := os.ReadFile("testdata/burst.json")
	if err != nil {
		t.Fatal(err)
	}
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		t.Skipf("this kernel shows no types to put into the tar: %v", err)
	}
	k, err := ecli.RunningKernel(false)
	if err != nil {
		t.Fatal(err)
	}
	folder := "btfhub-archive/" + k.ID + "/" + k.VersionID + "/" + k.Machine + "/"
	whole := archiveOf(t, pkg, folder+k.Release+".btf", string(types))
	foreign := archiveOf(t, pkg, folder+"1.2.3.btf", string(types))
	for _, tt := range []struct {
		name, tar, mode string
		stdin           bool
		want            string // on stderr
	}{
		{"this kernel", whole, "without BTF", false, `"event":"detached"`},
		{"this kernel, compressed, by a pipe", compress(t, whole), "without BTF", true, `"event":"detached"`},
		{"another kernel", foreign, "without BTF", false, "no types of the kernel " + k.Release},
		{"no kernel", archiveOf(t, pkg), "without BTF", false, "BTF_FILE_PATH"},
		{"another kernel, and types of its own", foreign, "1", false, `"event":"detached"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "p.tar")
			if err := os.WriteFile(file, []byte(tt.tar), 0o644); err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(t.TempDir(), "ready.sock")
			cmd := command(t, "run", "-p", "tar", "--ready", socket, file)
			if tt.stdin {
				cmd.Args[len(cmd.Args)-1] = "-"
				cmd.Stdin = strings.NewReader(tt.tar)
			}
			cmd.Env = append(cmd.Env, asEcliEnv+"="+tt.mode)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			works := strings.HasPrefix(tt.want, `"`)
			if works {
				waitReady(t, socket, &stderr)
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); (err == nil) != works || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("%v: %s", err, stderr.String())
			}
		})
	}
}

// TestInterruptedInput: a signal ends ecli while it waits for its input.
func TestInterruptedInput(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.WriteString(w, "{")
		cancel()
	}()
	if _, err := readProgram(ctx, &flags{program: "-", progType: typeJSON}, r, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// fakeEbpm puts a script in place of ebpm, and nothing else into PATH.
func fakeEbpm(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if script != "" {
		if err := os.WriteFile(filepath.Join(dir, "ebpm"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	t.Setenv("TMPDIR", t.TempDir())
}

// TestFetch: what is done with each thing that ebpm may bring, or not.
func TestFetch(t *testing.T) {
	pkg, err := filepath.Abs("testdata/burst.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, script, word string
		kind               progType
		want               string // of the error; empty where it works
		types              string
	}{
		{"no ebpm", "", "r.example/x:1", "", "there is no ebpm in ", ""},
		{"no ebpm for a URL", "", "http://h/x.json", "", "there is no ebpm in ", ""},
		{"it fails", "exit 3", "r.example/x:1", "", "get r.example/x:1: ebpm failed, and says why (exit status 3)", ""},
		{"it does nothing", "", "localhost:5000/x", "", "there is no ebpm", ""},
		{"it writes nothing", ":", "localhost:5000/x", "", "wrote nothing", ""},
		{"a package", "/bin/cp " + pkg + ` "$3/package.json"`, "r.example/x:1", "", "", ""},
		{"a package with types", "/bin/cp " + pkg + ` "$3/package.json"; echo types >"$3/kernel.btf"`, "r.example/x:1", "", "", "types\n"},
		{"a package as a tar", "/bin/cp " + pkg + ` "$3/package.json"`, "r.example/x:1", typeTar, "read tar", ""},
		{"a package in a module", "/bin/cp " + pkg + ` "$3/module"`, "r.example/x:1", typeJSON, "", ""},
		{"a package in a module, unasked", "/bin/cp " + pkg + ` "$3/module"`, "x:1", "", "", ""},
		{"a module", `printf '\000asm\001' >"$3/module"`, "x:1", "", "x:1: ecli will run Wasm modules", ""},
		{"an empty module", `: >"$3/module"`, "x:1", "", "decode package", ""},
		{"a URL", "/bin/cp " + pkg + ` "$3/download"`, "HTTP://h/x.json", "", "", ""},
		{"a URL with a type", "/bin/cp " + pkg + ` "$3/download"`, "https://h/x?y=z", typeJSON, "", ""},
		{"a URL with another type", "/bin/cp " + pkg + ` "$3/download"`, "https://h/x.json", typeTar, "read tar", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakeEbpm(t, tt.script)
			p, err := readProgram(t.Context(), &flags{program: tt.word, progType: tt.kind}, nil, io.Discard)
			switch {
			case tt.want != "":
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
			case err != nil:
				t.Error(err)
			case len(p.pkg.Object) == 0 || string(p.types) != tt.types:
				t.Errorf("an object of %d bytes, types %q", len(p.pkg.Object), p.types)
			}
			if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	fakeEbpm(t, "")
	_, err = readProgram(t.Context(), &flags{program: "x"}, nil, io.Discard)
	if advice := manifest.AdviceOf(err); !strings.Contains(advice, "into one folder") {
		t.Errorf("advice %q", advice)
	}
}

// TestAccount: a password reaches ebpm, but not by its command line.
func TestAccount(t *testing.T) {
	fakeEbpm(t, `echo "$@"; exec /bin/cat`)
	for _, tt := range []struct{ words, want string }{
		{"push -u me -p se\"cret -m x.wasm -a k=v r/x", "push --module=x.wasm --annotation=k=v --account r/x\n" + `{"username":"me","password":"se\"cret"}`},
		{"pull r/x -o -y", "error"},
		{"pull r/x -o=-y", "pull --module=-y r/x\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(strings.Fields(tt.words), nil, &stdout, &stderr)
		if tt.want == "error" {
			if code != exitUsage {
				t.Errorf("%s: exit %d", tt.words, code)
			}
			continue
		}
		if code != 0 || stdout.String() != tt.want {
			t.Errorf("%s: exit %d, %s%s", tt.words, code, stdout.String(), stderr.String())
		}
	}
}

// TestPrompt asks on a terminal, which does not show the password.
func TestPrompt(t *testing.T) {
	fakeEbpm(t, `exec /bin/cat`)
	master, tty := terminalPair(t)
	var stdout bytes.Buffer
	said, says := io.Pipe()
	done := make(chan int)
	go func() { done <- run([]string{"pull", "-i", "r/x"}, tty, &stdout, says) }()
	buf := make([]byte, 64)
	for _, tt := range []struct{ prompt, answer string }{{"Username: ", "me\n"}, {"Password: ", "secret\n"}} {
		n, err := said.Read(buf)
		if err != nil || string(buf[:n]) != tt.prompt {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		if _, err := io.WriteString(master, tt.answer); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := said.Read(buf); err != nil { // the end of the line
		t.Fatal(err)
	}
	if code := <-done; code != 0 || stdout.String() != `{"username":"me","password":"secret"}` {
		t.Errorf("exit %d, %s", code, stdout.String())
	}
}
