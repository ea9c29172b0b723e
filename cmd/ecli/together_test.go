// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	containers "github.com/google/go-containerregistry/pkg/registry"
)

// tools are the real ecli and ebpm, in one folder.
type tools struct {
	bin string
	dir string // where they work
	env []string
}

func newTools(t *testing.T) *tools {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".", "../ebpm").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return &tools{bin: bin, dir: dir, env: append(os.Environ(),
		"HOME="+dir, "XDG_CONFIG_HOME="+dir, "DOCKER_CONFIG="+dir, "EBPM_CONFIG=", "EBPM_REGISTRY=", "EBPM_PLAIN_HTTP=", "EBPM_STORE="+filepath.Join(dir, "store"), "SUDO_USER=")}
}

func (o *tools) command(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(o.bin, words[0]), words[1:]...)
	cmd.Dir, cmd.Env = o.dir, o.env
	return cmd
}

func (o *tools) run(t *testing.T, words ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, said bytes.Buffer
	cmd := o.command(t, words...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), said.String()
}

func (o *tools) write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestTogether runs what a user runs: the two programs, a web server and a
// registry with a password.
func TestTogether(t *testing.T) {
	o := newTools(t)
	pkg, err := os.ReadFile("testdata/burst.json")
	if err != nil {
		t.Fatal(err)
	}
	o.write(t, "package.json", pkg)
	o.write(t, "app.wasm", []byte("\x00asm\x01\x00\x00\x00"))
	o.write(t, "p.tar", []byte(archiveOf(t, pkg)))
	// As /dev/stdout is one: it must not be replaced by a file.
	if err := os.Symlink("/proc/self/fd/1", filepath.Join(o.dir, "stdout")); err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(o.dir))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/endless.json":
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return
				}
			}
		case "/moved.json":
			http.Redirect(w, r, "/package.json", http.StatusFound)
		default:
			files.ServeHTTP(w, r)
		}
	}))
	defer web.Close()
	images := containers.New(containers.Logger(log.New(io.Discard, "", 0)))
	var (
		mu        sync.Mutex
		manifests [][]byte // that were written
	)
	reg := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); strings.Contains(r.URL.Path, "/private/") && (user != "me" || password != "se cret") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			data, _ := io.ReadAll(r.Body)
			mu.Lock()
			manifests = append(manifests, data)
			mu.Unlock()
			r.Body = io.NopCloser(bytes.NewReader(data))
		}
		images.ServeHTTP(w, r)
	}))
	defer reg.Close()
	host := strings.TrimPrefix(reg.URL, "http://")

	const version = "burst_bpf 0.1.0\n"
	for _, tt := range []struct {
		words  string // WEB and REG stand for the servers
		code   int
		stdout string
		stderr string
	}{
		{"run package.json -V", 0, version, ""},
		{"run ./p.tar -V", 0, version, ""},
		{"run WEB/package.json -V", 0, version, ""},
		{"WEB/package.json -V", 0, version, ""},
		{"run WEB/moved.json -V", 0, version, ""},
		{"run WEB/p.tar -V", 0, version, ""},
		{"run -p json WEB/package.json?x=1 -V", 0, version, ""},
		{"run WEB/package.json?x=1 -V", 1, "", "does not say which type"},
		{"run WEB/missing.json", 1, "", "404 Not Found"},
		{"run http://127.0.0.1:1/package.json", 1, "", "connection refused"},
		{"run WEB/endless.json", 1, "", "too large"},
		{"run WEB/app.wasm", 1, "", "Wasm module"},
		{"run REG/team/none:1", 1, "", "does not have it"},
		{"run start -V", 1, "", "EBPM_REGISTRY"},
		// What was pushed as if it were a module is run as a package.
		{"push -m package.json REG/team/tool:1", 0, "", ""},
		{"run -p json REG/team/tool:1 -V", 0, version, ""},
		{"run REG/team/tool:1 -V", 0, version, ""},
		{"run -p tar REG/team/tool:1 -V", 1, "", "read tar"},
		{"push REG/team/wasm -a org.opencontainers.image.title=T -a b=c=<d>", 0, "", ""},
		{"run REG/team/wasm", 1, "", "Wasm module"},
		{"run -p json REG/team/wasm", 1, "", "decode package"},
		{"pull -o out REG/team/wasm:latest", 0, "", ""},
		{"pull -o stdout REG/team/wasm", 0, "\x00asm\x01\x00\x00\x00", ""},
		{"pull -o no/such/folder REG/team/wasm", 1, "", "no such file or directory"},
		{"push -m missing.wasm REG/team/wasm", 1, "", "missing.wasm: no such file or directory"},
		{"push -m package.json REG/private/tool:1", 1, "", "wants a login"},
		{"push -m package.json -u me -p guess REG/private/tool:1", 1, "", "denies access"},
	} {
		t.Run(tt.words, func(t *testing.T) {
			words := strings.Fields(strings.NewReplacer("WEB", web.URL, "REG", host).Replace(tt.words))
			code, stdout, stderr := o.run(t, append([]string{"ecli"}, words...)...)
			if code != tt.code || stdout != tt.stdout || !strings.Contains(stderr, tt.stderr) || (code == 0) != (stderr == "") {
				t.Errorf("exit %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
			}
		})
	}
	if to, err := os.Readlink(filepath.Join(o.dir, "stdout")); err != nil || to != "/proc/self/fd/1" {
		t.Errorf("the link to stdout is now %q, %v", to, err)
	}
	if out, err := os.ReadFile(filepath.Join(o.dir, "out")); err != nil || string(out) != "\x00asm\x01\x00\x00\x00" {
		t.Errorf("pulled %q, %v", out, err)
	}
	// In the form that was seen of eunomia-bpf's ecli-rs 0.2.9 (2026-11-23).
	want := `{"annotations":{"b":"c=<d>","org.opencontainers.image.title":"T"},` +
		`"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","mediaType":"application/vnd.wasm.config.v1+json","size":2},` +
		`"layers":[{"digest":"sha256:93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476","mediaType":"application/vnd.wasm.content.layer.v1+wasm","size":8}],"schemaVersion":2}`
	mu.Lock()
	written := slices.Clone(manifests)
	mu.Unlock()
	if !slices.ContainsFunc(written, func(m []byte) bool { return string(m) == want }) {
		t.Errorf("the manifests are\n%s, wanted one\n%s", bytes.Join(written, []byte("\n")), want)
	}

	for _, words := range [][]string{
		{"push", "-m", "package.json", "-u", "me", "-p", "se cret", host + "/private/tool:1"},
		{"pull", "-o", "private.json", "-u", "me", "-p", "se cret", host + "/private/tool:1"},
	} {
		if code, stdout, stderr := o.run(t, append([]string{"ecli"}, words...)...); code != 0 || stdout+stderr != "" {
			t.Errorf("%q: exit %d, %s%s", words, code, stdout, stderr)
		}
	}
	if got, err := os.ReadFile(filepath.Join(o.dir, "private.json")); err != nil || !bytes.Equal(got, pkg) {
		t.Errorf("pulled %d bytes, %v", len(got), err)
	}
	config, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": "bWU6c2UgY3JldA=="}}})
	if err != nil {
		t.Fatal(err)
	}
	o.write(t, "config.json", config)
	if code, stdout, stderr := o.run(t, "ecli", "run", host+"/private/tool:1", "-V"); code != 0 || stdout != version {
		t.Errorf("with the Docker config: exit %d, %s%s", code, stdout, stderr)
	}
}

// TestTogetherPackages: ecli runs a package of ebpm by its reference, from the
// store and from a registry.
func TestTogetherPackages(t *testing.T) {
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	o := newTools(t)
	reg := httptest.NewServer(containers.New(containers.Logger(log.New(io.Discard, "", 0))))
	defer reg.Close()
	ref := strings.TrimPrefix(reg.URL, "http://") + "/team/tool:1.0.0"
	o.write(t, "tool.bpf.c", []byte(`#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("tracepoint/syscalls/sys_enter_getpgid")
int enter(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
`))
	const version = "tool_bpf 0.1.0\n"
	for _, step := range []struct{ words, stdout string }{
		{"ebpm build --builder local tool.bpf.c -t " + ref, ""},
		{"ecli run " + ref + " -V", version},
		{"ebpm push " + ref, ""},
		{"ebpm packages rm " + ref, ""},
		{"ecli run " + ref + " -V", version},
	} {
		if code, stdout, stderr := o.run(t, strings.Fields(step.words)...); code != 0 || step.stdout != "" && stdout != step.stdout {
			t.Fatalf("%s: exit %d, %s%s", step.words, code, stdout, stderr)
		}
	}
	// It is attached, and ends as any other.
	socket := filepath.Join(o.dir, "ready.sock")
	cmd := o.command(t, "ecli", "run", "--ready", socket, ref)
	cmd.Env = append(cmd.Env, asEcliEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitReady(t, socket, &stderr)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr.String())
	}
}
