// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// findAssembly looks in preprocessed C for an asm whose text mentions one of
// directives, and returns its place as FILE:LINE and the directive.
func findAssembly(text []byte, directives []string) (place, directive string) {
	lexer := cLexer{text: text, file: "<source>", line: 1}
	for {
		token := lexer.next()
		if token == "" {
			return "", ""
		}
		if token != "asm" && token != "__asm" && token != "__asm__" {
			continue
		}
		place := fmt.Sprintf("%s:%d", lexer.file, lexer.line)
		template := []byte(strings.ToLower(lexer.template()))
		for _, d := range directives {
			if mentions(template, d) {
				return place, d
			}
		}
	}
}

// cLexer splits preprocessed C into identifiers, literals and single
// characters, and knows the place of each.
type cLexer struct {
	text []byte
	pos  int
	file string
	line int
}

// next returns the next token, or "" at the end.
func (l *cLexer) next() string {
	for l.pos < len(l.text) {
		c := l.text[l.pos]
		switch {
		case c == '\n':
			l.line++
			l.pos++
		case c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v':
			l.pos++
		case c == '#' && l.atLineStart():
			l.directive()
		case c == '"' || c == '\'':
			return l.literal(c)
		case isIdentByte(c):
			start := l.pos
			for l.pos < len(l.text) && isIdentByte(l.text[l.pos]) {
				l.pos++
			}
			return string(l.text[start:l.pos])
		default:
			l.pos++
			return string(l.text[l.pos-1 : l.pos])
		}
	}
	return ""
}

func (l *cLexer) atLineStart() bool {
	start := bytes.LastIndexByte(l.text[:l.pos], '\n') + 1
	return len(bytes.TrimSpace(l.text[start:l.pos])) == 0
}

// directive reads a line such as `# 12 "file.c" 2`, which says where the next
// line comes from; others, such as pragmas, are skipped.
func (l *cLexer) directive() {
	end := bytes.IndexByte(l.text[l.pos:], '\n')
	if end < 0 {
		l.pos = len(l.text)
		return
	}
	line := string(l.text[l.pos+1 : l.pos+end])
	l.pos += end + 1
	l.line++
	number, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		return
	}
	l.line = n
	if len(rest) > 1 && rest[0] == '"' {
		quoted := cLexer{text: []byte(rest)}
		l.file = unquoteC(quoted.literal('"'))
	}
}

// literal reads a string or character literal with its quotes.
func (l *cLexer) literal(quote byte) string {
	start := l.pos
	for l.pos++; l.pos < len(l.text); l.pos++ {
		switch l.text[l.pos] {
		case '\\':
			l.pos++
		case '\n':
			return string(l.text[start:l.pos]) // unterminated
		case quote:
			l.pos++
			return string(l.text[start:l.pos])
		}
	}
	l.pos = len(l.text)
	return string(l.text[start:])
}

// template reads what stands behind the word asm and returns the strings of its
// template as one.
func (l *cLexer) template() string {
	var text strings.Builder
	for opened := false; ; {
		switch token := l.next(); {
		case token == "(" && !opened:
			opened = true
		case opened && token != "" && token[0] == '"':
			text.WriteString(unquoteC(token))
		case opened && (token == "L" || token == "u8" || token == "u" || token == "U"):
		case !opened && token != "" && isIdentByte(token[0]):
			// volatile, goto, inline and their like
		default:
			return text.String()
		}
	}
}

// unquoteC returns what a C string literal stands for. Escapes that name a
// character outside of ASCII are left out: no directive has one.
func unquoteC(literal string) string {
	s := strings.TrimSuffix(strings.TrimPrefix(literal, `"`), `"`)
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		base, digits := 8, 3
		switch s[i] {
		case 'x':
			base, digits, i = 16, len(s), i+1
		case 'u':
			base, digits, i = 16, 4, i+1
		case 'U':
			base, digits, i = 16, 8, i+1
		case '0', '1', '2', '3', '4', '5', '6', '7':
		default:
			if at := strings.IndexByte(`abefnrtv`, s[i]); at >= 0 {
				b = append(b, "\a\b\x1b\f\n\r\t\v"[at])
			} else {
				b = append(b, s[i])
			}
			continue
		}
		end := i
		for end < len(s) && end-i < digits && strings.IndexByte("0123456789abcdef"[:base], s[end]|0x20) >= 0 {
			end++
		}
		if v, err := strconv.ParseUint(s[i:end], base, 32); err == nil && v < 0x80 {
			b = append(b, byte(v))
		}
		i = end - 1
	}
	return string(b)
}
