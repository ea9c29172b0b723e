// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cilium/ebpf"

	"github.com/ebpm/ebpm/manifest"
)

func TestTerminationMessage(t *testing.T) {
	verifier := func(lines int) error {
		v := &ebpf.VerifierError{Cause: errors.New("permission denied")}
		for i := range lines {
			v.Log = append(v.Log, fmt.Sprintf("%d: (79) r%d = ü", i, i%10))
		}
		v.Log = append(v.Log, "R1 invalid mem access 'scalar'")
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("load the programs: %w", v), "Do this.")
	}
	for _, tt := range []struct {
		name     string
		err      error
		contains []string
		cut      bool
	}{
		{"plain", errors.New("no such file"), []string{"no such file"}, false},
		{"short log", verifier(3), []string{"load the programs: ", "Do this.", "0: (79) r0", "2: (79)", "invalid mem access 'scalar'"}, false},
		{"long log", verifier(5000), []string{"load the programs: ", "Do this.", "the verifier's log is cut here", "4999: (79)", "invalid mem access 'scalar'"}, true},
		{"long cause", errors.New(strings.Repeat("ü", 5000)), []string{"üüü"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := string(TerminationMessage(tt.err))
			if len(got) > 4000 {
				t.Errorf("%d bytes", len(got))
			}
			if !utf8.ValidString(got) {
				t.Error("cut within a letter")
			}
			for _, s := range tt.contains {
				if !strings.Contains(got, s) {
					t.Errorf("without %q:\n%s", s, got)
				}
			}
			if cut := strings.Contains(got, "cut here"); cut != tt.cut {
				t.Errorf("cut: %t", cut)
			}
		})
	}
	if full := FullMessage(verifier(5000)); !strings.Contains(full, "\n0: (79) r0") || strings.Contains(full, "cut here") {
		t.Error("the full message lacks the start of the log")
	}
	if full := FullMessage(verifier(200000)); len(full) > maxFullMessage {
		t.Errorf("the full message has %d bytes", len(full))
	}
}
