// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const aRun = `
[   5 s] On this machine: compile a source.
$ ebpm run examples/opensnoop
TIME     PID    UID    RET    FLAGS  COMM   FNAME  
20:21:57  7590  0      27     524288 ebpm   /sys/kernel/tracing/x
20:21:57  7602  0      -2     0      cat    /tmp/ebpm-demo-4208048258/hello-laptop

[  20 s] Deploy it.
RELEASE     ACTION    PACKAGE           REVISION   ATTACHED   SECONDS   DIGEST
opensnoop   created   opensnoop:1.0.0   1          2/2        2.8       sha256:b0fc485d0063
opensnoop   opensnoop:1.0.0   1          2/2       2/2     3s
node1 20:22:15 8979   0      -2     0      cat    /tmp/ebpm-demo-4208048258/hello-1.0.0
1              2026-11-24 20:22:12   1.0.0   sha256:b0fc485d0063   deploy    ready     
`

const anotherRun = `
[ 105 s] On this machine: compile a source.
$ ebpm run examples/opensnoop
TIME     PID    UID    RET    FLAGS  COMM   FNAME  
08:01:02  1     0      3      0      sh     /etc/passwd
08:01:02  2     0      3      0      sh     /etc/group
08:01:03  3     0      -2     0      cat    /tmp/ebpm-demo-1/hello-laptop

[ 120 s] Deploy it.
RELEASE     ACTION    PACKAGE           REVISION   ATTACHED   SECONDS   DIGEST
opensnoop   created   opensnoop:1.0.0   1          2/2        12.8      sha256:0123456789ab
opensnoop   opensnoop:1.0.0   1          2/2       2/2     13s
node1 08:02:15 123456 0      -2     0      cat    /tmp/ebpm-demo-1/hello-1.0.0
1              2027-01-01 08:02:12   1.0.0   sha256:0123456789ab   deploy    ready     
`

func TestShape(t *testing.T) {
	if diff := cmp.Diff(Shape(aRun), Shape(anotherRun)); diff != "" {
		t.Errorf("two runs that show the same have different shapes:\n%s", diff)
	}
	for name, other := range map[string]string{
		"another tag":      "[ 1 s] Deploy it.\nopensnoop   created   opensnoop:1.1.0   1          2/2        2.8       sha256:b0fc485d0063",
		"one node less":    "[ 1 s] Deploy it.\nopensnoop   created   opensnoop:1.0.0   1          1/1        2.8       sha256:b0fc485d0063",
		"another revision": "[ 1 s] Deploy it.\nopensnoop   created   opensnoop:1.0.0   2          2/2        2.8       sha256:b0fc485d0063",
	} {
		const one = "[ 1 s] Deploy it.\nopensnoop   created   opensnoop:1.0.0   1          2/2        2.8       sha256:b0fc485d0063"
		if Shape(one) == Shape(other) {
			t.Errorf("%s makes no difference", name)
		}
	}
}

func TestWriteTranscript(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(file, []byte("before\n"+beginMark+"old\n"+endMark+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := WriteTranscript(file, aRun); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadTranscript(file)
	if err != nil || Shape(got) != Shape(aRun) {
		t.Errorf("read back %q, %v", got, err)
	}
	if err := os.WriteFile(file, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteTranscript(file, aRun); err == nil {
		t.Error("a README without the marks is written to")
	}
}
