// SPDX-License-Identifier: Apache-2.0

package builder

import (
	"bytes"
	"regexp"
)

// include is one #include of a C file.
type include struct {
	path string
	line int
	// angled is true for <path>, which is not looked for beside the file.
	angled bool
}

var includeRE = regexp.MustCompile(`^[ \t]*#[ \t]*(?:include|include_next|import)[ \t]*(?:"([^"]+)"|<([^>]+)>)`)

// scanIncludes returns the includes of a C source, those in branches that are not
// compiled too: which branch is taken is the compiler's to know, and it may not
// be on this machine. Names that a macro makes are not found; `files` of
// ebpm.yaml is for them.
func scanIncludes(src []byte) []include {
	var found []include
	line := 0
	for text := range bytes.Lines(stripComments(src)) {
		line++
		m := includeRE.FindSubmatch(text)
		switch {
		case m == nil:
		case m[1] != nil:
			found = append(found, include{path: string(m[1]), line: line})
		default:
			found = append(found, include{path: string(m[2]), line: line, angled: true})
		}
	}
	return found
}

// stripComments blanks the comments of a C source out; every line stays where it
// is, and a spliced line is joined at the place of its first.
func stripComments(src []byte) []byte {
	const (
		code = iota
		lineComment
		blockComment
	)
	out := make([]byte, 0, len(src))
	state, spliced := code, 0
	var quote byte
	for i := 0; i < len(src); i++ {
		c := src[i]
		next := byte(0)
		if i+1 < len(src) {
			next = src[i+1]
		}
		if c == '\\' && (next == '\n' || next == '\r' && i+2 < len(src) && src[i+2] == '\n') {
			if next == '\r' {
				i++
			}
			i++
			spliced++
			continue
		}
		if c == '\n' {
			// A literal ends with its line, as it does for the compiler.
			quote = 0
			if state == lineComment {
				state = code
			}
			for ; spliced >= 0; spliced-- {
				out = append(out, '\n')
			}
			spliced = 0
			continue
		}
		switch {
		case state == lineComment:
		case state == blockComment:
			if c == '*' && next == '/' {
				state = code
				i++
				out = append(out, ' ')
			}
		case quote != 0:
			out = append(out, c)
			if c == '\\' && next != 0 {
				out = append(out, next)
				i++
			} else if c == quote {
				quote = 0
			}
		case c == '/' && next == '/':
			state = lineComment
		case c == '/' && next == '*':
			state = blockComment
			i++
		default:
			if c == '"' || c == '\'' {
				quote = c
			}
			out = append(out, c)
		}
	}
	return out
}
