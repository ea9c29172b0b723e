// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/e2e/demo"
)

// testLog writes a demo's progress into the test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// The demo works, and the README shows what it prints.
func TestDemo(t *testing.T) {
	d := &demo.Demo{Out: testLog{t}, Log: testLog{t}}
	if err := d.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	written, err := demo.ReadTranscript(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(demo.Shape(written), demo.Shape(d.Transcript())); diff != "" {
		t.Errorf("the README's transcript has another shape (-README +now); make demo writes it anew:\n%s", diff)
	}
}
