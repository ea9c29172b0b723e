// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestProcessesAreFoundAndEnded starts a process that ignores SIGTERM and has
// a child, as a shim under containerd does.
func TestProcessesAreFoundAndEnded(t *testing.T) {
	const variable = "EBPM_CLUSTER_TEST_PROCESS"
	cmd := exec.Command("sh", "-c", `trap "" TERM; echo ready; sleep 60; echo never`)
	cmd.Env = append(os.Environ(), variable+"=node1/sh")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed below
		close(ended)
	}()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	if _, err := stdout.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}

	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	p := process{name: "node1/sh", program: shell}
	all, err := processesWith(variable)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.running(all); got != cmd.Process.Pid {
		t.Errorf("found process %d of %v, want %d", got, all, cmd.Process.Pid)
	}
	for _, other := range []process{{name: "node2/sh", program: shell}, {name: "node1/sh", program: "/bin/other"}} {
		if got := other.running(all); got != 0 {
			t.Errorf("%+v was found as process %d", other, got)
		}
	}

	list := func() ([]int, error) {
		all, err := processesWith(variable)
		var pids []int
		for _, f := range all {
			pids = append(pids, f.pid)
		}
		return pids, err
	}
	if err := endProcesses(t.Context(), list, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	<-ended
	if left, err := list(); err != nil || len(left) > 0 {
		t.Errorf("left after endProcesses: %v, %v", left, err)
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte(strings.Repeat("an old line\n", 10000)+"one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(file, 2); got != "one\ntwo" {
		t.Errorf("tail = %q", got)
	}
}

func TestMountsBelow(t *testing.T) {
	if got, err := isMountPoint("/proc"); err != nil || !got {
		t.Errorf("isMountPoint(/proc) = %v, %v", got, err)
	}
	for _, path := range []string{"/pro", "/proc/self", t.TempDir()} {
		if got, err := isMountPoint(path); err != nil || got {
			t.Errorf("isMountPoint(%s) = %v, %v", path, got, err)
		}
	}
}
