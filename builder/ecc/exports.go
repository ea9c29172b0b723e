// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"fmt"
	"regexp"
)

// structPattern finds the structs of a header as upstream does: in its text, so
// that comments and disabled code match too (spec section A5).
var structPattern = regexp.MustCompile(`struct[\s\v]+(\w+)[\s\v]*\{`)

// exportedStruct is a match of [structPattern].
type exportedStruct struct {
	name string
	line int // counted from 1
}

func exportedStructs(header []byte) []exportedStruct {
	var structs []exportedStruct
	line, seen := 1, 0
	for _, m := range structPattern.FindAllSubmatchIndex(header, -1) {
		line += bytes.Count(header[seen:m[2]], []byte("\n"))
		seen = m[2]
		structs = append(structs, exportedStruct{name: string(header[m[2]:m[3]]), line: line})
	}
	return structs
}

// withExports returns source with a pointer to each struct behind its last
// line, so that the compiler describes the struct in the BTF. The line of the
// header is named for messages about it.
func withExports(source []byte, header string, structs []exportedStruct) []byte {
	var b bytes.Buffer
	b.Write(source)
	// A source may end within a line comment or in a backslash.
	b.WriteString("\n\n")
	for _, s := range structs {
		fmt.Fprintf(&b, "#line %d %s\nconst volatile struct %s * %s%s%s  __attribute__((unused));\n",
			s.line, quoteC(header), s.name, dummyPrefix, s.name, dummySuffix)
	}
	return b.Bytes()
}

// quoteC returns s as a C string literal.
func quoteC(s string) string {
	b := []byte{'"'}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == 0x7f:
			b = fmt.Appendf(b, "\\%03o", c)
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}
