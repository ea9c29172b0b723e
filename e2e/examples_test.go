// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Each example runs, shows the event that is made, and prints the columns that
// its README shows.
func TestExamples(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join(root, "examples"))
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "mark")
	examples := map[string]struct {
		flags []string
		event string // a shell command
		want  string // in a row
	}{
		"opensnoop":    {event: "cat " + mark, want: mark},
		"bashreadline": {event: "printf 'echo typed-by-a-test\\nexit\\n' | script -qec 'bash --norc -i' /dev/null", want: "echo typed-by-a-test"},
		"xdpsyn":       {flags: []string{"--interface", "lo"}, event: "(echo > /dev/tcp/127.0.0.1/9)", want: "127.0.0.1 127.0.0.1"},
	}
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) {
			example, ok := examples[e.Name()]
			if !ok {
				t.Fatal("this example has no test")
			}
			header := runExample(t, e.Name(), example.flags, example.event, example.want)
			readme, err := os.ReadFile(filepath.Join(root, "examples", e.Name(), "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(readme), "\n"+strings.TrimRight(header, " ")+"\n") {
				t.Errorf("the README does not show the header %q", header)
			}
		})
	}
}

// runExample runs an example in a network of its own, makes the event until a
// row shows it, and returns the header.
func runExample(t *testing.T, name string, flags []string, event, want string) (header string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append(append([]string{"run"}, flags...), "examples/"+name)
	// The events come from within, so that XDP on lo sees no other packets.
	const script = `ip link set lo up
event=$1; shift
while sleep 0.2; do eval "$event" >/dev/null 2>&1 </dev/null; done & maker=$!
trap 'kill $maker; kill -INT $ebpm' TERM
"$@" & ebpm=$!
wait $ebpm || wait $ebpm`
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"-n", "bash", "-c", script, "bash", event, filepath.Join(root, "bin", "ebpm")}, args...)...)
	cmd.Dir, cmd.Env = root, clusterEnv
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }()
	seen := false
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if header == "" {
			header = lines.Text()
		}
		if !seen && strings.Contains(lines.Text(), want) {
			seen = true
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	if !seen {
		t.Fatalf("no row with %q\n%s", want, stderr.String())
	}
	return header
}

// A uprobe in a Pod finds the node's files, and only through /host.
func TestUprobeInCluster(t *testing.T) {
	cleanup(t, "bashreadline")
	push(t, "examples/bashreadline", "bashreadline:1.0.0")
	must(t, "deploy", "bashreadline:1.0.0", "--node", "node2")
	eventually(t, func() string {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", "printf 'echo typed-on-a-node\\nexit\\n' | script -qec 'bash --norc -i' /dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if out := must(t, "logs", "bashreadline", "-o", "json"); !strings.Contains(out, "typed-on-a-node") {
			return "no event: " + out
		}
		return ""
	})
}
