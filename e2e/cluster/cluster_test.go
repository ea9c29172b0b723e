// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testCluster is a cluster of which nothing runs.
func testCluster(t *testing.T) *Cluster {
	t.Helper()
	return newCluster(t.TempDir(), &state{
		Networks: Networks{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("10.78.0.0/16"), netip.MustParsePrefix("10.96.0.0/16")},
		Cache:    "/cache",
		Programs: map[string]string{"etcd": "etcd-v1"},
	})
}

func TestEnv(t *testing.T) {
	c := testCluster(t)
	t.Setenv("PATH", "/usr/bin::/repo/bin:/bin")
	want := []string{
		"KUBECONFIG=" + c.dir + "/kubeconfig",
		"PATH=/repo/bin:" + c.dir + "/bin:/usr/bin:/bin",
		"EBPM_REGISTRY=10.77.0.1:5000",
		"EBPM_PLAIN_HTTP=10.77.0.1:5000",
	}
	got, err := c.Env("/repo/bin")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment without images (-want +got):\n%s", diff)
	}

	const reference = "10.77.0.1:5000/ebpm-builder@sha256:0123"
	if err := c.SetImage(BuilderImage, reference); err != nil {
		t.Fatal(err)
	}
	got, err = c.Env("/repo/bin")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append(want, "EBPM_BUILDER_IMAGE="+reference), got); diff != "" {
		t.Errorf("environment with one image (-want +got):\n%s", diff)
	}
}

func TestSetImageRefuses(t *testing.T) {
	c := testCluster(t)
	for _, tc := range []struct{ name, reference string }{
		{"other", "10.77.0.1:5000/other@sha256:0123"},
		{"../ebpm", "10.77.0.1:5000/ebpm@sha256:0123"},
		{Image, "10.77.0.1:5000/ebpm:latest"},
		{Image, ""},
	} {
		if err := c.SetImage(tc.name, tc.reference); err == nil {
			t.Errorf("SetImage(%q, %q) succeeded", tc.name, tc.reference)
		}
	}
	if files, _ := os.ReadDir(c.dir); len(files) != 0 {
		t.Errorf("refused images left files: %v", files)
	}
}

// TestExports lets a shell read the lines back.
func TestExports(t *testing.T) {
	values := []string{"", "plain", "two words", "it's", `"$HOME" \ $(echo no) `, "a\nb", "-n", "*"}
	var env []string
	for i, v := range values {
		env = append(env, "EBPM_TEST_"+string(rune('A'+i))+"="+v)
	}
	var script strings.Builder
	script.WriteString(Exports(env))
	for i := range values {
		script.WriteString("printf '%s\\0' \"$EBPM_TEST_" + string(rune('A'+i)) + "\"\n")
	}
	out, err := exec.Command("sh", "-euc", script.String()).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if diff := cmp.Diff(values, got); diff != "" {
		t.Errorf("values after eval (-want +got):\n%s", diff)
	}
}

func TestStateSurvivesItsFile(t *testing.T) {
	dir := t.TempDir()
	if s, err := readState(dir); s != nil || err != nil {
		t.Fatalf("without a file: %v, %v", s, err)
	}
	want := &state{
		BootID:   "id",
		Networks: Networks{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("10.78.0.0/16"), netip.MustParsePrefix("10.96.0.0/16")},
		Cache:    "/cache",
		Programs: map[string]string{"etcd": "etcd-v1"},
		Mounts:   []string{"/sys/fs/bpf"},
		Sysctls:  map[string]string{"kernel/panic": "0"},
	}
	if err := want.write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, comparePrefixes); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readState(dir); err == nil || !strings.Contains(err.Error(), "state.json") {
		t.Errorf("a cut file: got %v, want an error that names it", err)
	}
}
