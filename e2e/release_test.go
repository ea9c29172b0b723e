// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpm/ebpm/e2e/kernel"
)

type revision struct {
	Revision int64  `json:"revision"`
	Tag      string `json:"tag"`
	Digest   string `json:"digest"`
	Current  bool   `json:"current"`
	Reason   string `json:"reason"`
}

func history(t *testing.T, name string) []revision {
	t.Helper()
	return decode[[]revision](t, must(t, "history", name, "-o", "json"))
}

// cleanup deletes a release at the end of a test and holds the kernel's lists
// against those from before.
func cleanup(t *testing.T, names ...string) {
	t.Helper()
	before, err := kernel.List()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		for _, name := range names {
			var out bytes.Buffer
			cmd := command(ctx, nil, "delete", name)
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil && cmd.ProcessState.ExitCode() != 3 {
				t.Errorf("delete %s: %v\n%s", name, err, out.String())
			}
		}
		if err := kernel.WaitUntilGone(ctx, before, time.Minute); err != nil {
			t.Error(err)
		}
	})
}

// seenFrom waits until each node's instance has reported a marked event.
func seenFrom(t *testing.T, release string, nodes ...string) {
	t.Helper()
	mark := filepath.Join(t.TempDir(), "mark")
	eventually(t, func() string {
		touch(t, mark)
		out := must(t, "logs", release, "--tail", "500", "-o", "json")
		for _, node := range nodes {
			found := false
			for line := range strings.Lines(out) {
				found = found || strings.Contains(line, `"node":"`+node+`"`) && strings.Contains(line, mark)
			}
			if !found {
				return fmt.Sprintf("%s did not report that %s was opened", node, mark)
			}
		}
		return ""
	})
}

// A package that the verifier refuses says why, and the old revision goes on.
func TestVerifierRefusal(t *testing.T) {
	cleanup(t, "verified")
	push(t, "examples/opensnoop", "verified:1.0.0")
	// A read through a pointer that the program made up.
	bad := copyOpensnoop(t, [3]string{"opensnoop.bpf.c", "\te->pid = id >> 32;\n", "\te->pid = *(int *)(id + 8);\n"})
	push(t, bad, "verified:1.1.0")
	must(t, "deploy", "verified:1.0.0", "--all")

	c := fails(t, nil, 1, []string{"node1", "node2", "permission denied"}, "deploy", "verified:1.1.0", "--timeout", "20s")
	if !strings.Contains(c.stderr, "invalid mem access") {
		t.Errorf("the end of the verifier's log is missing: %s", c)
	}
	status := must(t, "status", "verified", "-o", "json")
	if !strings.Contains(status, "invalid mem access") {
		t.Errorf("status does not tell the verifier's log:\n%s", status)
	}
	// The old revision still reports from both nodes.
	seenFrom(t, "verified", "node1", "node2")

	must(t, "rollback", "verified")
	revisions := history(t, "verified")
	current := revisions[len(revisions)-1]
	for _, r := range revisions {
		if r.Current {
			current = r
		}
	}
	if current.Tag != "1.0.0" {
		t.Errorf("after the rollback %+v runs", current)
	}
	seenFrom(t, "verified", "node1", "node2")
}

// A first deploy that comes up nowhere leaves nothing behind.
func TestFirstDeployFails(t *testing.T) {
	cleanup(t, "neverup")
	bad := copyOpensnoop(t, [3]string{"opensnoop.bpf.c", "\te->pid = id >> 32;\n", "\te->pid = *(int *)(id + 8);\n"})
	push(t, bad, "neverup:1.0.0")
	fails(t, nil, 1, []string{"invalid mem access", "removed"}, "deploy", "neverup:1.0.0", "--all", "--deadline", "60s")
	fails(t, nil, 3, []string{"neverup"}, "status", "neverup")
}

func TestDeployRefuses(t *testing.T) {
	push(t, "examples/opensnoop", "refused:1.0.0")
	for _, tt := range []struct {
		name  string
		code  int
		words []string
		args  []string
	}{
		{"no target", 2, []string{"--all", "--node"}, []string{"deploy", "refused:1.0.0"}},
		{"unknown node", 3, []string{"node9", "node1"}, []string{"deploy", "refused:1.0.0", "--node", "node9"}},
		{"unknown tag", 3, []string{"refused:9.9.9"}, []string{"deploy", "refused:9.9.9", "--all"}},
		{"unknown repository", 3, []string{"nowhere"}, []string{"deploy", "nowhere:1.0.0", "--all"}},
		{"both targets", 2, []string{"exclude"}, []string{"deploy", "refused:1.0.0", "--all", "--node", "node1"}},
		{"more words", 2, []string{"unexpected argument"}, []string{"deploy", "refused:1.0.0", "extra", "--all"}},
		{"unknown flag", 2, []string{"allnodes"}, []string{"deploy", "refused:1.0.0", "--allnodes"}},
		{"unknown release", 3, []string{"nothere"}, []string{"rollback", "nothere"}},
		{"unknown release", 3, []string{"nothere"}, []string{"logs", "nothere"}},
		{"unknown release", 3, []string{"nothere"}, []string{"history", "nothere"}},
		{"unknown release", 3, []string{"nothere"}, []string{"delete", "nothere"}},
		{"no such command", 2, []string{"unknown command"}, []string{"depoy"}},
	} {
		t.Run(tt.name, func(t *testing.T) { fails(t, nil, tt.code, tt.words, tt.args...) })
	}
	if out := must(t, "list", "-o", "name"); strings.Contains(out, "refused") {
		t.Errorf("a refused deploy left a release: %s", out)
	}
}

// A release of that name that comes from elsewhere, or an object that ebpm
// does not manage, is never adopted.
func TestReleaseFromElsewhere(t *testing.T) {
	cleanup(t, "mine")
	push(t, "examples/opensnoop", "mine:1.0.0")
	push(t, "examples/opensnoop", "theirs/mine:1.0.0")
	must(t, "deploy", "mine:1.0.0", "--node", "node1")
	fails(t, nil, 6, []string{"theirs/mine", "--name"}, "deploy", "theirs/mine:1.0.0", "--node", "node1")

	manifest := filepath.Join(t.TempDir(), "ds.yaml")
	const foreign = `---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: foreign, namespace: ebpm}, spec: {
selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {nodeSelector: {no: such}, containers: [{name: c, image: "ebpm.test/pause:1"}]}}}}`
	if err := os.WriteFile(manifest, []byte(foreign), 0o644); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", manifest)
	defer kubectl(t, "delete", "-f", manifest)
	fails(t, nil, 6, []string{"foreign"}, "deploy", "mine:1.0.0", "--name", "foreign", "--node", "node1")
	fails(t, nil, 6, []string{"foreign"}, "delete", "foreign")
}

func TestUnchangedAndMovedTag(t *testing.T) {
	cleanup(t, "moved")
	push(t, "examples/opensnoop", "moved:1.0.0")
	must(t, "deploy", "moved:1.0.0", "--node", "node1")
	type result struct{ Action, Digest string }
	again := decode[result](t, must(t, "deploy", "moved:1.0.0", "-o", "json"))
	if again.Action != "unchanged" || len(history(t, "moved")) != 1 {
		t.Errorf("the same deploy twice: %+v, %d revisions", again, len(history(t, "moved")))
	}
	first := history(t, "moved")[0].Digest
	changed := copyOpensnoop(t, [3]string{"opensnoop.bpf.c", "256 * 1024", "512 * 1024"})
	push(t, changed, "moved:1.0.0")
	if r := decode[result](t, must(t, "deploy", "moved:1.0.0", "-o", "json")); r.Action != "updated" || r.Digest == first {
		t.Errorf("the moved tag: %+v, before %s", r, first)
	}
	// The digest of the revision runs, also where its tag has moved since.
	if r := decode[result](t, must(t, "rollback", "moved", "-o", "json")); r.Digest != first {
		t.Errorf("the rollback runs %s, want %s", r.Digest, first)
	}
	// kubectl rollout undo restores all that makes a revision.
	kubectl(t, "-n", "ebpm", "rollout", "undo", "daemonset/moved")
	kubectl(t, "-n", "ebpm", "rollout", "status", "daemonset/moved", "--timeout=2m")
	revisions := history(t, "moved")
	for _, r := range revisions {
		if r.Current && r.Digest == first {
			t.Errorf("kubectl rollout undo changed nothing: %+v", revisions)
		}
	}
}

// The registry may be down when a Pod restarts: the node has the package.
func TestRegistryDown(t *testing.T) {
	cleanup(t, "cached")
	push(t, "examples/opensnoop", "cached:1.0.0")
	must(t, "deploy", "cached:1.0.0", "--all")
	ctx := t.Context()
	if err := theCluster.StopRegistry(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := theCluster.StartRegistry(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	fails(t, nil, 1, []string{theCluster.Registry}, "deploy", "cached:1.0.0")
	pods := strings.Fields(kubectl(t, "-n", "ebpm", "get", "pods", "-l", "ebpm.io/release=cached", "-o", "name"))
	if len(pods) != 2 {
		t.Fatalf("pods %v, want two", pods)
	}
	kubectl(t, append([]string{"-n", "ebpm", "delete", "--wait=true"}, pods...)...)
	kubectl(t, "-n", "ebpm", "rollout", "status", "daemonset/cached", "--timeout=2m")
	seenFrom(t, "cached", "node1", "node2")
}

// Ctrl-C leaves the rollout going and says how to watch and to undo it.
func TestInterruptDeploy(t *testing.T) {
	cleanup(t, "interrupted")
	push(t, "examples/opensnoop", "interrupted:1.0.0")
	cmd := command(t.Context(), nil, "deploy", "interrupted:1.0.0", "--all")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if strings.Contains(kubectl(t, "-n", "ebpm", "get", "daemonsets", "-o", "name"), "daemonset.apps/interrupted") {
			return ""
		}
		return "no DaemonSet"
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit %d, want 130: %s", code, stderr.String())
	}
	for _, word := range []string{"goes on", "ebpm status interrupted", "ebpm delete interrupted"} {
		if !strings.Contains(stderr.String(), word) {
			t.Errorf("stderr does not say %q: %s", word, stderr.String())
		}
	}
	// Run again, it waits for what goes on.
	must(t, "deploy", "interrupted:1.0.0", "--all")
	seenFrom(t, "interrupted", "node1", "node2")
}

func TestArguments(t *testing.T) {
	cleanup(t, "args")
	push(t, "examples/opensnoop", "args:1.0.0")
	must(t, "deploy", "args:1.0.0", "--node", "node2", "--", "--failed")
	seenFrom(t, "args", "node2")
	for line := range strings.Lines(must(t, "logs", "args", "-o", "json")) {
		type entry struct {
			Node  string
			Event *struct{ Ret int }
		}
		if e := decode[entry](t, line); e.Event != nil && e.Event.Ret >= 0 {
			t.Fatalf("a call that did not fail is reported: %s", line)
		}
	}
	// What the program refuses is refused before any node is asked.
	fails(t, nil, 2, []string{"unexpected argument '--nonsense'"}, "deploy", "args:1.0.0", "--", "--nonsense")
	fails(t, nil, 2, []string{"would print a text"}, "deploy", "args:1.0.0", "--", "--help")
	if n := len(history(t, "args")); n != 1 {
		t.Errorf("refused arguments made a revision: %d", n)
	}
}

func TestDryRun(t *testing.T) {
	push(t, "examples/xdpsyn", "dry:1.0.0")
	out := must(t, "deploy", "dry:1.0.0", "--node", "node1", "--interface", "eth0", "--dry-run", "client", "-o", "yaml")
	for _, want := range []string{"kind: DaemonSet", "hostNetwork: true", "- NET_ADMIN", "- BPF", "readOnlyRootFilesystem: true", "automountServiceAccountToken: false", "dry@sha256:"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan has no %q:\n%s", want, out)
		}
	}
	for _, not := range []string{"privileged: true", "SYS_ADMIN"} {
		if strings.Contains(out, not) {
			t.Errorf("the plan has %q:\n%s", not, out)
		}
	}
	if out := must(t, "list", "-o", "name"); strings.Contains(out, "dry") {
		t.Errorf("a dry run made a release: %s", out)
	}
}
