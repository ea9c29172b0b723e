// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"io"
	"os"

	"golang.org/x/term"

	"github.com/ebpm/ebpm/manifest"
)

// TextFor returns text as it may be written to w: where that is a terminal, what
// the terminal would act on is escaped, but for lines and tabs. Packages and
// whoever names their files choose the words in help texts and errors.
func TextFor(w io.Writer, text string) string {
	if isTerminal(w) {
		return manifest.TerminalText(text, true)
	}
	return text
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
