// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TerminalText makes s harmless for a terminal: names of commands, files and
// packages are chosen by whoever runs or writes them, and control characters
// move cursors. What [TerminalUnsafe] reports is escaped as Go does; lines and
// tabs are kept where keepLines is true.
func TerminalText(s string, keepLines bool) string {
	unsafe := func(r rune) bool { return TerminalUnsafe(r) && (!keepLines || r != '\n' && r != '\t') }
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unsafe) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unsafe(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// TerminalUnsafe reports what a terminal acts on: control characters, and marks
// that turn the direction of text.
func TerminalUnsafe(r rune) bool {
	if r < utf8.RuneSelf {
		return r < 0x20 || r == 0x7f
	}
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}
