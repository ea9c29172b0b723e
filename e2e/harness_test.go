// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

// Package e2e tests ebpm as its users have it: the built commands, a real
// cluster of two nodes, a real registry, the running kernel.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpm/ebpm/e2e/cluster"
)

// The machine's cluster and the environment in which its users work.
var (
	theCluster *cluster.Cluster
	clusterEnv []string
	root       string
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := testMain(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func testMain(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if root, err = filepath.Abs(".."); err != nil {
		return 0, err
	}
	// A cluster that was there before stays; one of our own is taken down.
	if _, openErr := cluster.Open(); openErr != nil {
		defer func() { err = errors.Join(err, cluster.Down(ctx, os.Stderr)) }()
	}
	if theCluster, err = cluster.Up(ctx, os.Stderr); err != nil {
		return 0, err
	}
	if err := cluster.PushImages(ctx, theCluster, filepath.Join(root, "bin", "image"), os.Stderr); err != nil {
		return 0, err
	}
	env, err := theCluster.Env(filepath.Join(root, "bin"))
	if err != nil {
		return 0, err
	}
	clusterEnv = append(os.Environ(), env...)
	return m.Run(), nil
}

// call is one command and what came of it.
type call struct {
	args           []string
	stdout, stderr string
	code           int
}

func (c call) String() string {
	return fmt.Sprintf("ebpm %s: exit %d\nstdout:\n%s\nstderr:\n%s", strings.Join(c.args, " "), c.code, c.stdout, c.stderr)
}

// option changes how a command is started.
type option func(*exec.Cmd)

func withEnv(env ...string) option {
	return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, env...) }
}

func command(ctx context.Context, options []option, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(root, "bin", "ebpm"), args...)
	cmd.Dir, cmd.Env = root, append([]string(nil), clusterEnv...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	for _, o := range options {
		o(cmd)
	}
	return cmd
}

// ebpm runs a command to its end, at most five minutes.
func ebpm(t *testing.T, options []option, args ...string) call {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := command(ctx, options, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("ebpm %s: %v", strings.Join(args, " "), err)
	}
	return call{args: args, stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

// must runs a command that has to succeed and returns its stdout.
func must(t *testing.T, args ...string) string {
	t.Helper()
	c := ebpm(t, nil, args...)
	if c.code != 0 {
		t.Fatal(c)
	}
	return c.stdout
}

// fails runs a command that has to fail with a code and to say these words.
func fails(t *testing.T, options []option, code int, words []string, args ...string) call {
	t.Helper()
	c := ebpm(t, options, args...)
	if c.code != code {
		t.Fatalf("want exit %d: %s", code, c)
	}
	for _, word := range words {
		if !strings.Contains(c.stderr, word) {
			t.Errorf("stderr does not say %q: %s", word, c)
		}
	}
	return c
}

// kubectl runs kubectl as the cluster's administrator.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "kubectl", args...)
	for _, dir := range filepath.SplitList(lookupEnv("PATH")) {
		if path := filepath.Join(dir, "kubectl"); cmd.Err != nil {
			if _, err := os.Stat(path); err == nil {
				cmd = exec.CommandContext(t.Context(), path, args...)
			}
		}
	}
	cmd.Env = clusterEnv
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func lookupEnv(name string) string {
	value := ""
	for _, entry := range clusterEnv {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// decode reads a command's JSON.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
	return v
}

// eventually polls until check returns "", and after a minute fails with its
// last answer.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	const timeout = time.Minute
	deadline := time.Now().Add(timeout)
	for {
		why := check()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %s", timeout, why)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// copyOpensnoop copies the example opensnoop and changes it: in the file
// edit[0] the text edit[1] to edit[2].
func copyOpensnoop(t *testing.T, edits ...[3]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "opensnoop")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "examples", "opensnoop"))); err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		edit(t, filepath.Join(dir, e[0]), e[1], e[2])
	}
	return dir
}

func edit(t *testing.T, file, from, to string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(from)) {
		t.Fatalf("%s has no %q", file, from)
	}
	if err := os.WriteFile(file, bytes.Replace(data, []byte(from), []byte(to), 1), 0o644); err != nil {
		t.Fatal(err)
	}
}

// touch makes an event of opensnoop that carries the name of the test.
func touch(t *testing.T, path string) {
	t.Helper()
	// The file does not exist; opening it is the event.
	_ = exec.CommandContext(t.Context(), "cat", path).Run()
}

// push builds an example on this machine and pushes it under a tag of the
// cluster's registry.
func push(t *testing.T, dir, ref string) {
	t.Helper()
	must(t, "build", dir, "-t", ref, "--builder", "local", "--store", filepath.Join(root, "bin", ".store"))
	must(t, "push", ref, "--store", filepath.Join(root, "bin", ".store"))
}
