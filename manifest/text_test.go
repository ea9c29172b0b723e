// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"testing"
	"unicode/utf8"
)

func TestTerminalText(t *testing.T) {
	for _, tt := range []struct {
		in, want  string
		keepLines bool
	}{
		{"plain ü 日本", "plain ü 日本", false},
		{"a\x1b[31mb", `a\x1b[31mb`, false},
		{"a\nb\tc", `a\nb\tc`, false},
		{"a\nb\tc\r", "a\nb\tc" + `\r`, true},
		{"\u009b1m\x7f", `\u009b1m\x7f`, true},
		{"exe\u202etxt", `exe\u202etxt`, false},
		{"\xff\ufffd", `\xff` + "\ufffd", false},
	} {
		if got := TerminalText(tt.in, tt.keepLines); got != tt.want {
			t.Errorf("TerminalText(%q, %v) = %q, want %q", tt.in, tt.keepLines, got, tt.want)
		}
	}
}

func FuzzTerminalText(f *testing.F) {
	f.Add("a\x1b\xff\u202e\n")
	f.Fuzz(func(t *testing.T, s string) {
		got := TerminalText(s, false)
		if !utf8.ValidString(got) {
			t.Fatalf("%q became %q, which is not UTF-8", s, got)
		}
		for _, r := range got {
			if TerminalUnsafe(r) {
				t.Fatalf("%q became %q, which holds %q", s, got, r)
			}
		}
	})
}
