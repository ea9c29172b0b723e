// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

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
