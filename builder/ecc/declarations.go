// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"strings"
)

// A docComment is a documentation comment, or several on adjacent lines, which
// count as one.
type docComment struct {
	lines []docLine
	// end is the line of the source on which it ends.
	end int
	// behind says that it documents what stands before it on its line.
	behind bool
}

// docLine is one line of a comment without the signs of the comment.
type docLine struct {
	text string
	line int // in the source, counted from 1
}

// A declaration is what a source declares at its top level.
type declaration struct {
	names []declaredName
	// tag is the comment of the struct, union or enum whose body is part of the
	// declaration.
	tag *docComment
	// hasBody says that there is such a body.
	hasBody bool
	// function says that it is a function with its body.
	function bool
}

// declaredName is a name that a declaration declares. A macro may stand before
// the real name, so that there can be more than the declaration declares; those
// that the object does not have are not looked for.
type declaredName struct {
	name    string
	line    int
	comment *docComment
	// byMacro says that the name is an argument of a macro.
	byMacro bool
}

// declarationsOf returns the declarations at the top level of a source with the
// documentation comments that belong to them (spec section A7). It reads the
// text as it stands: macros are not expanded, and of conditional code all
// branches count but those of #if 0.
//
// A comment belongs to the next name; blank lines and other comments between do
// not matter; a preprocessor line, a semicolon or a brace ends its reach. One
// that begins with ///< or /**< belongs to the variables before it on its line.
func declarationsOf(source []byte) []declaration {
	p := declParser{src: source, line: 1}
	p.parse()
	return p.done
}

type declParser struct {
	src  []byte
	pos  int
	line int

	done    []declaration
	pending *docComment // the comment that waits for a name

	// The declaration that is being read.
	current   declaration
	braces    int    // depth of braces
	parens    int    // depth of parentheses and brackets
	word      string // the last identifier at this level
	wordLine  int
	tagWord   bool // the next identifier is the name of a struct, union or enum
	value     bool // behind the = of an initializer
	inTag     bool // within the body of a struct, union or enum
	lastClose bool // the last token is a closing parenthesis
	begun     bool
	macro     string // the identifier before the parenthesis that is open
	argument  bool   // the first token within that parenthesis is next
	pointer   bool   // within the parenthesis of a pointer's declarator

	conditionals []declParser // the state at each #if
}

func (p *declParser) peek(n int) byte {
	if p.pos+n < len(p.src) {
		return p.src[p.pos+n]
	}
	return 0
}

func (p *declParser) parse() {
	for p.pos < len(p.src) {
		c := p.src[p.pos]
		switch {
		case c == '\n':
			p.line++
			p.pos++
		case c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v':
			p.pos++
		case c == '/' && (p.peek(1) == '/' || p.peek(1) == '*'):
			p.comment()
		case c == '#' && p.atLineStart():
			p.directive()
		case c == '"' || c == '\'':
			p.literal(c)
		case isIdentByte(c) || c >= 0x80:
			start := p.pos
			for p.pos < len(p.src) && (isIdentByte(p.src[p.pos]) || p.src[p.pos] >= 0x80) {
				p.pos++
			}
			p.identifier(string(p.src[start:p.pos]))
		default:
			p.pos++
			p.punctuation(c)
		}
	}
}

func (p *declParser) atLineStart() bool {
	start := bytes.LastIndexByte(p.src[:p.pos], '\n') + 1
	return len(bytes.TrimSpace(p.src[start:p.pos])) == 0
}

// comment reads a comment of either kind and, if it is documentation, keeps it.
func (p *declParser) comment() {
	start, line := p.pos, p.line
	block := p.src[p.pos+1] == '*'
	if block {
		end := bytes.Index(p.src[p.pos+2:], []byte("*/"))
		if end < 0 {
			p.pos = len(p.src)
		} else {
			p.pos += 2 + end + 2
		}
	} else {
		for p.pos < len(p.src) && p.src[p.pos] != '\n' {
			if p.src[p.pos] == '\\' && p.peek(1) == '\n' {
				p.pos++
			}
			p.pos++
		}
		p.pos = min(p.pos, len(p.src))
	}
	text := string(p.src[start:p.pos])
	p.line += strings.Count(text, "\n")
	doc := newDocComment(text, line, block)
	switch {
	case doc == nil:
	case doc.behind:
		p.documentBefore(doc)
	case p.pending != nil && p.onlyBlankSince(p.pending, start, line):
		p.pending = &docComment{lines: append(p.pending.lines[:len(p.pending.lines):len(p.pending.lines)], doc.lines...), end: doc.end}
	default:
		p.pending = doc
	}
}

// onlyBlankSince reports whether doc ends on the line before line or on it, and
// nothing but blanks stands before pos since then.
func (p *declParser) onlyBlankSince(doc *docComment, pos, line int) bool {
	if line > doc.end+1 {
		return false
	}
	before := bytes.TrimRight(p.src[:pos], " \t\r\f\v\n")
	if bytes.HasSuffix(before, []byte("*/")) {
		return true
	}
	// Behind a line comment there is no code; before one there may be.
	lastLine := before[bytes.LastIndexByte(before, '\n')+1:]
	return bytes.Contains(lastLine, []byte("//")) && line == doc.end+1
}

// newDocComment returns nil for a comment that is no documentation.
func newDocComment(text string, line int, block bool) *docComment {
	if len(text) < 4 || text[2] != text[1] && text[2] != '!' || text == "/**/" {
		if text != "///" && text != "//!" {
			return nil
		}
	}
	body := text[3:]
	if block {
		body = strings.TrimSuffix(body, "*/")
	}
	doc := &docComment{}
	if strings.HasPrefix(body, "<") {
		doc.behind, body = true, body[1:]
	}
	for i, l := range strings.Split(body, "\n") {
		l = strings.TrimRight(l, "\r")
		if block && i > 0 {
			if trimmed := strings.TrimLeft(l, " \t"); strings.HasPrefix(trimmed, "*") {
				l = trimmed[1:]
			}
		}
		doc.lines = append(doc.lines, docLine{l, line + i})
		doc.end = line + i
	}
	return doc
}

// documentBefore gives doc to the variables that were declared on its line.
func (p *declParser) documentBefore(doc *docComment) {
	last := &p.current
	if !p.begun {
		if len(p.done) == 0 {
			return
		}
		last = &p.done[len(p.done)-1]
	}
	if last.function {
		return
	}
	for i := range last.names {
		if last.names[i].line == doc.lines[0].line {
			last.names[i].comment = doc
		}
	}
}

// directive skips a preprocessor line and what it continues on, and keeps the
// depth of braces right over the branches of conditional code.
func (p *declParser) directive() {
	start := p.pos
	for p.pos < len(p.src) && p.src[p.pos] != '\n' {
		switch {
		case p.src[p.pos] == '\\' && (p.peek(1) == '\n' || p.peek(1) == '\r' && p.peek(2) == '\n'):
			p.pos += bytes.IndexByte(p.src[p.pos:], '\n')
			p.line++
			p.pos++
		case p.src[p.pos] == '/' && p.peek(1) == '*':
			end := bytes.Index(p.src[p.pos+2:], []byte("*/"))
			if end < 0 {
				p.pos = len(p.src)
				break
			}
			p.line += bytes.Count(p.src[p.pos:p.pos+2+end], []byte("\n"))
			p.pos += 2 + end + 2
		default:
			p.pos++
		}
	}
	p.pending = nil
	fields := strings.Fields(strings.TrimPrefix(string(p.src[start:min(p.pos, len(p.src))]), "#"))
	if len(fields) == 0 {
		return
	}
	switch fields[0] {
	case "if", "ifdef", "ifndef":
		if len(fields) == 2 && fields[0] == "if" && fields[1] == "0" {
			p.skipBranch()
		}
		if len(p.conditionals) < maxTypeChain {
			p.conditionals = append(p.conditionals, *p)
		}
	case "else", "elif":
		if n := len(p.conditionals); n > 0 {
			p.restore(&p.conditionals[n-1])
		}
	case "endif":
		if n := len(p.conditionals); n > 0 {
			p.conditionals = p.conditionals[:n-1]
		}
	}
}

// restore goes back to the place within a declaration at which a conditional
// began.
func (p *declParser) restore(state *declParser) {
	kept := *p
	*p = *state
	p.pos, p.line, p.done, p.conditionals = kept.pos, kept.line, kept.done, kept.conditionals
}

// skipBranch skips to the #else or #endif of an #if 0.
func (p *declParser) skipBranch() {
	for depth := 0; p.pos < len(p.src); {
		next := bytes.IndexByte(p.src[p.pos:], '\n')
		if next < 0 {
			p.pos = len(p.src)
			return
		}
		rest := p.src[p.pos+next+1:]
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		word := strings.TrimLeft(strings.TrimPrefix(strings.TrimSpace(string(line)), "#"), " \t")
		directive := bytes.HasPrefix(bytes.TrimSpace(line), []byte("#"))
		if directive && depth == 0 && (strings.HasPrefix(word, "e")) && !strings.HasPrefix(word, "error") {
			return // before the newline, so that the directive is read next
		}
		if directive && strings.HasPrefix(word, "if") {
			depth++
		}
		if directive && strings.HasPrefix(word, "endif") {
			depth--
		}
		p.pos += next + 1
		p.line++
	}
}

func (p *declParser) literal(quote byte) {
	p.touch()
	for p.pos++; p.pos < len(p.src); p.pos++ {
		switch p.src[p.pos] {
		case '\\':
			if p.peek(1) == '\n' {
				p.line++
			}
			p.pos++
		case '\n':
			return
		case quote:
			p.pos++
			return
		}
	}
	p.pos = min(p.pos, len(p.src))
}

// touch notes that a declaration has begun.
func (p *declParser) touch() {
	if p.braces == 0 || p.inTag {
		p.begun = true
	}
	p.lastClose = false
	p.argument = false
}

func (p *declParser) identifier(word string) {
	argument := p.argument
	p.touch()
	switch {
	case p.braces > 0:
		return
	case p.parens > 0:
		// An argument of a macro such as BPF_PROG(name, ...), or the name
		// within (*name)(...).
		if !p.value && (argument && isMacroName(p.macro) || p.pointer && p.parens == 1) {
			p.name(word, !p.pointer)
		}
		return
	case word == "struct" || word == "union" || word == "enum":
		p.tagWord = true
		return
	case p.tagWord && (word == "__attribute__" || word == "__attribute"):
		p.word = word
		return
	case p.tagWord:
		p.tagWord = false
		p.word = "" // the name of the struct, or a macro of attributes
		return
	case p.value:
		return
	}
	p.word, p.wordLine = word, p.line
	p.name(word, false)
}

func (p *declParser) name(word string, byMacro bool) {
	p.current.names = append(p.current.names, declaredName{word, p.line, p.pending, byMacro})
}

// isMacroName reports whether word is written like a macro.
func isMacroName(word string) bool {
	return word != "" && word != "SEC" && word == strings.ToUpper(word) && strings.ContainsAny(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
}

func (p *declParser) punctuation(c byte) {
	wasArgument := p.argument
	closed := p.lastClose
	p.touch()
	switch c {
	case '(', '[':
		if p.braces > 0 {
			return
		}
		p.parens++
		if p.parens == 1 {
			p.macro, p.argument, p.pointer = "", c == '(', false
			if c == '(' {
				p.macro = p.word
			}
		}
		p.word = ""
	case ')', ']':
		if p.braces > 0 {
			return
		}
		p.parens = max(0, p.parens-1)
		p.lastClose = c == ')'
		p.pointer = false
	case '*':
		if wasArgument && p.parens == 1 && p.braces == 0 {
			p.pointer = true
		}
	case '=':
		if p.braces == 0 && p.parens == 0 {
			p.value = true
		}
	case ',':
		if p.braces == 0 && p.parens == 0 {
			p.value = false
		}
	case '{':
		p.open(closed)
	case '}':
		p.pending = nil
		p.braces = max(0, p.braces-1)
		if p.braces == 0 && p.parens == 0 {
			p.inTag = false
			p.tagWord = false
			if p.current.function {
				p.finish()
			}
		}
	case ';':
		p.pending = nil
		if p.braces == 0 && p.parens == 0 {
			p.finish()
		}
	}
}

// open begins a body. behindParen says that a parenthesis closed before it.
func (p *declParser) open(behindParen bool) {
	if p.braces == 0 && p.parens == 0 && !p.value {
		if behindParen && !p.current.hasBody && !p.tagIsOpen() {
			p.current.function = true
		} else if !p.current.hasBody {
			p.current.hasBody, p.inTag = true, true
			p.current.tag = p.pending
			p.current.names = nil // words before the body are no names
		}
	}
	p.pending = nil
	p.braces++
}

// tagIsOpen reports whether a struct, union or enum was begun whose name, if it
// has one, did not end its head: struct __attribute__((packed)) {...}.
func (p *declParser) tagIsOpen() bool { return p.tagWord }

func (p *declParser) finish() {
	if len(p.current.names) > 0 || p.current.hasBody {
		p.done = append(p.done, p.current)
	}
	p.current = declaration{}
	p.word, p.tagWord, p.value, p.inTag, p.lastClose, p.begun = "", false, false, false, false, false
	p.parens = 0
}
