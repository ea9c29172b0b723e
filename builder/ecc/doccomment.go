// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"fmt"
	"html"
	"strings"
)

// defaultKey is where text goes that no command claims.
const defaultKey = "description"

// annotation is one value of a documentation comment.
type annotation struct {
	key, text string
	line      int
	// block says that a Doxygen block holds the text, which is always a string.
	block bool
}

// docWarning is something in a comment that its author does not expect.
type docWarning struct {
	line int
	text string
}

// annotations returns what a comment says, in its order, and what it loses
// (spec section A7): the rules are those by which libclang 14 splits a comment,
// but for the _ that a command's name may hold here.
//
// A command is @ or \ and a word. Each piece of text behind a free command, to
// the end of its line, is a value of its own; a blank line goes back to the
// default key. A block command takes all text up to a blank line or to the next
// one. Between two quotes on a line nothing is special.
func (c *docComment) annotations() ([]annotation, []docWarning) {
	p := docParser{key: defaultKey}
	for _, l := range c.lines {
		p.line = l.line
		p.readLine(l.text)
	}
	p.endParagraph()
	if p.verbatimEnd != "" {
		p.verbatimWarning("the rest of the comment, since no " + p.verbatimEnd + " follows")
	}
	return p.found, p.warnings
}

type docParser struct {
	found    []annotation
	warnings []docWarning
	line     int

	key     string // of the free command; the default at the start of a paragraph
	keyLine int    // of a free command that has no text yet, else 0

	// The block that is open.
	block      string
	blockClass commandClass // classBlock or classDropped, else no block is open
	blockLine  int
	pieces     []string

	// argumentOf is the inline command that takes the next word away, and
	// argument what was read of it; the word goes on over adjacent pieces.
	argumentOf string
	argument   string
	// What ends the verbatim block that is open, and where that began.
	verbatimEnd   string
	verbatimBegin string
	verbatimLine  int
}

func (p *docParser) warn(format string, args ...any) {
	p.warnings = append(p.warnings, docWarning{p.line, fmt.Sprintf(format, args...)})
}

func (p *docParser) verbatimWarning(what string) {
	p.warnings = append(p.warnings, docWarning{p.verbatimLine, fmt.Sprintf("@%s drops %s", p.verbatimBegin, what)})
}

func (p *docParser) readLine(text string) {
	if p.verbatimEnd == "" && strings.TrimSpace(text) == "" {
		p.endParagraph()
		return
	}
	for text != "" {
		if p.verbatimEnd != "" {
			_, behind, ok := strings.Cut(text, p.verbatimEnd)
			if !ok {
				return
			}
			p.verbatimWarning("the text up to its " + p.verbatimEnd)
			p.verbatimEnd, text = "", behind
			continue
		}
		text = p.readPiece(text)
	}
}

// readPiece reads the text up to the next special sign, or what that sign
// begins, and returns what is behind it.
func (p *docParser) readPiece(text string) string {
	switch text[0] {
	case '@', '\\':
		return p.readEscape(text)
	case '&':
		return p.readEntity(text)
	case '<':
		return p.readTag(text)
	}
	end := 0
	for end < len(text) && strings.IndexByte(`@\&<`, text[end]) < 0 {
		if text[end] == '"' {
			if closing := strings.IndexByte(text[end+1:], '"'); closing >= 0 {
				end += closing + 1
			}
		}
		end++
	}
	p.addText(text[:end])
	return text[end:]
}

// escapable are the characters that lose their meaning behind @ or \ .
const escapable = `\@%"&$#<>.:`

// readEscape reads @ or \ and what belongs to it.
func (p *docParser) readEscape(text string) string {
	if len(text) > 1 && strings.IndexByte(escapable, text[1]) >= 0 {
		end := 2
		if strings.HasPrefix(text[1:], "::") {
			end = 3
		}
		p.addText(text[1:end])
		return text[end:]
	}
	end := 1
	for end < len(text) && (isLetter(text[end]) || end > 1 && (isDigit(text[end]) || text[end] == '_')) {
		end++
	}
	if end == 1 {
		p.addText(text[:1])
		return text[1:]
	}
	if end == 2 && text[1] == 'f' && len(text) > 2 && strings.IndexByte(`$()[]{}`, text[2]) >= 0 {
		end++ // the formula commands
	}
	return p.command(text[0], text[1:end], text[end:])
}

// command begins what the command name says and returns what is behind it.
func (p *docParser) command(marker byte, typed, rest string) string {
	p.endArgument()
	name, class := findCommand(typed)
	if name != typed {
		p.warn("@%s is taken for @%s, from which it differs by one letter", typed, name)
	}
	switch class {
	case classBlock, classDropped:
		p.endParagraph()
		p.block, p.blockClass, p.blockLine = name, class, p.line
		if class == classDropped {
			p.warn("@%s and the text behind it are dropped up to the next blank line", name)
		}
	case classLine:
		p.endParagraph()
		p.warn("@%s and the rest of its line are dropped", name)
		return ""
	case classVerbatim:
		p.endParagraph()
		p.verbatimEnd = string(marker) + verbatimCommands[name]
		p.verbatimBegin, p.verbatimLine = name, p.line
	case classVerbatimEnd:
		p.warn("@%s ends nothing", name)
	case classWord:
		p.begin(name)
		p.argumentOf = name
	case classFree:
		p.begin(name)
	}
	return rest
}

// begin makes a command the key of the text behind it.
func (p *docParser) begin(name string) {
	if p.blockClass != 0 {
		p.warn("@%s within @%s loses its name, and its text joins @%s: put a blank line between", name, p.block, p.block)
		return
	}
	p.unused()
	p.key, p.keyLine = name, p.line
}

// unused warns of a free command that had no text.
func (p *docParser) unused() {
	if p.keyLine != 0 {
		p.warnings = append(p.warnings, docWarning{p.keyLine, fmt.Sprintf("@%s has no text and stores nothing", p.key)})
		p.keyLine = 0
	}
}

const docBlanks = " \t\f\v"

// endArgument ends the word that an inline command takes away, if it is not
// ended by a blank. Blanks without a word are text again.
func (p *docParser) endArgument() {
	command, argument := p.argumentOf, p.argument
	p.argumentOf, p.argument = "", ""
	switch word := strings.TrimLeft(argument, docBlanks); {
	case word != "":
		p.warn("@%s takes the word %q away", command, word)
	case argument != "":
		p.addText(argument)
	}
}

func (p *docParser) addText(text string) {
	if p.argumentOf != "" {
		p.argument += text
		word := strings.TrimLeft(p.argument, docBlanks)
		end := strings.IndexAny(word, docBlanks)
		if end < 0 {
			return
		}
		text = word[end:]
		p.argument = word[:end]
		p.endArgument()
	}
	if p.blockClass != 0 {
		p.pieces = append(p.pieces, text)
		return
	}
	if text = strings.TrimSpace(text); text != "" {
		p.found = append(p.found, annotation{key: p.key, text: text, line: p.line})
		p.keyLine = 0
	}
}

// endParagraph ends the block that is open and goes back to the default key.
func (p *docParser) endParagraph() {
	p.endArgument()
	p.unused()
	if p.blockClass == classBlock {
		if text := strings.TrimSpace(strings.Join(p.pieces, "\n")); text != "" {
			p.found = append(p.found, annotation{key: p.block, text: text, line: p.blockLine, block: true})
		} else {
			p.warnings = append(p.warnings, docWarning{p.blockLine, fmt.Sprintf("@%s has no text and stores nothing", p.block)})
		}
	}
	p.key, p.block, p.blockClass, p.pieces = defaultKey, "", 0, nil
}

// readEntity reads a character reference such as &amp; or &#x41; , which is a
// piece of its own.
func (p *docParser) readEntity(text string) string {
	end := 1
	switch {
	case len(text) > 1 && isLetter(text[1]):
		for end < len(text) && (isLetter(text[end]) || isDigit(text[end])) {
			end++
		}
	case strings.HasPrefix(text, "&#"):
		end = 2
		digits := "0123456789"
		if len(text) > 2 && text[2]|0x20 == 'x' {
			end, digits = 3, "0123456789abcdefABCDEF"
		}
		for end < len(text) && strings.IndexByte(digits, text[end]) >= 0 {
			end++
		}
	}
	if end == len(text) || text[end] != ';' || end == 1 {
		p.addText(text[:end])
		return text[end:]
	}
	end++
	p.addText(html.UnescapeString(text[:end]))
	return text[end:]
}

// readTag skips a tag of HTML. A word that is none is text.
func (p *docParser) readTag(text string) string {
	begin := 1
	if strings.HasPrefix(text, "</") {
		begin = 2 + len(text[2:]) - len(strings.TrimLeft(text[2:], docBlanks))
	}
	end := begin
	for end < len(text) && (isLetter(text[end]) || end > begin && isDigit(text[end])) {
		end++
	}
	if !htmlTags[text[begin:end]] {
		p.addText(text[:end])
		return text[end:]
	}
	p.endArgument()
	if begin > 1 {
		return strings.TrimPrefix(strings.TrimLeft(text[end:], docBlanks), ">")
	}
	return p.skipAttributes(text[end:])
}

// skipAttributes skips the attributes of a tag and its end, which may be missing.
// (In a block comment libclang then looks on the next line.)
func (p *docParser) skipAttributes(text string) string {
	for first := true; ; first = false {
		rest := strings.TrimLeft(text, docBlanks)
		if rest == "" {
			return ""
		}
		switch c := rest[0]; {
		case c == '>':
			return rest[1:]
		case c == '/' && strings.HasPrefix(rest, "/>"):
			return rest[2:]
		case c == '/':
			p.addText("/") // a piece of its own
			return rest[1:]
		case isLetter(c):
			end := 0
			for end < len(rest) && (isLetter(rest[end]) || isDigit(rest[end])) {
				end++
			}
			text = rest[end:]
		case c == '=' && !first:
			text = rest[1:]
		case (c == '"' || c == '\'') && !first:
			_, behind, _ := strings.Cut(rest[1:], string(c))
			text = behind
		default:
			return rest
		}
	}
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
