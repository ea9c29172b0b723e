// SPDX-License-Identifier: Apache-2.0

package ecc

import "strings"

// defaultKey is where text goes that no command claims.
const defaultKey = "description"

// annotation is one value of a documentation comment.
type annotation struct {
	key, text string
	line      int
}

// annotations returns what a comment says, in its order (spec section A7). A
// command is @ or \ and a word; each piece of text behind it, to the end of its
// line, is a value of its own. A blank line goes back to the default key.
// Between two quotes on a line nothing is special.
func (c *docComment) annotations() []annotation {
	var found []annotation
	key := defaultKey
	for _, l := range c.lines {
		if strings.TrimSpace(l.text) == "" {
			key = defaultKey
			continue
		}
		for _, piece := range splitCommands(l.text) {
			if piece.command {
				key = piece.text
				continue
			}
			if text := strings.TrimSpace(piece.text); text != "" {
				found = append(found, annotation{key, text, l.line})
			}
		}
	}
	return found
}

type docPiece struct {
	text    string
	command bool
}

// escapable are the characters that lose their meaning behind @ or \ .
const escapable = `\@%"&$#<>.:`

func splitCommands(text string) []docPiece {
	var pieces []docPiece
	start := 0
	flush := func(end int) {
		if start < end {
			pieces = append(pieces, docPiece{text: text[start:end]})
		}
	}
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"':
			end := strings.IndexByte(text[i+1:], '"')
			if end < 0 {
				i++
				continue
			}
			i += end + 2
		case c != '@' && c != '\\':
			i++
		default:
			flush(i)
			end := i + 1
			for end < len(text) && isLetter(text[end]) || end > i+1 && end < len(text) && '0' <= text[end] && text[end] <= '9' {
				end++
			}
			switch {
			case end > i+1:
				pieces = append(pieces, docPiece{text[i+1 : end], true})
			case end < len(text) && strings.IndexByte(escapable, text[end]) >= 0:
				end++
				pieces = append(pieces, docPiece{text: text[i+1 : end]})
			default:
				pieces = append(pieces, docPiece{text: text[i:end]})
			}
			i, start = end, end
		}
	}
	flush(len(text))
	return pieces
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
