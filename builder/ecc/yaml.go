// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// yamlFromJSON writes JSON as eunomia-bpf's ecc writes YAML with --yaml, that
// is as Rust's serde_yaml and libyaml do: in blocks, the items of a list at the
// indentation of its key, strings in quotes only where YAML 1.2 would read
// something else (spec section A2). The order of the keys is kept.
func yamlFromJSON(data []byte) ([]byte, error) {
	w := yamlWriter{in: json.NewDecoder(bytes.NewReader(data))}
	w.in.UseNumber()
	if err := w.value(place{}); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	if _, err := w.in.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("write YAML: more than one JSON value")
	}
	return w.out.Bytes(), nil
}

// yamlIndent is how much deeper a level stands, in columns.
const yamlIndent = 2

// maxYAMLKey is the longest key in bytes that stands before its colon without a
// question mark (libyaml's simple key).
const maxYAMLKey = 128

type yamlWriter struct {
	in  *json.Decoder
	out bytes.Buffer
}

// place says where a value stands.
type place struct {
	indent int // of the mapping or list that holds it
	kind   placeKind
}

type placeKind int

const (
	atRoot placeKind = iota
	inMapping
	inList
)

func (w *yamlWriter) newline(indent int) {
	w.out.WriteByte('\n')
	w.out.WriteString(strings.Repeat(" ", indent))
}

func (w *yamlWriter) value(at place) error {
	token, err := w.in.Token()
	if err != nil {
		return err
	}
	inner := at.indent + yamlIndent
	if at.kind == atRoot {
		inner = 0
	}
	switch v := token.(type) {
	case json.Delim:
		if !w.in.More() {
			w.separate(at)
			w.out.WriteString(map[json.Delim]string{'{': "{}\n", '[': "[]\n"}[v])
			_, err := w.in.Token()
			return err
		}
		if v == '{' {
			return w.mapping(at, inner)
		}
		if at.kind == inMapping {
			inner = at.indent
		}
		return w.list(at, inner)
	case string:
		w.separate(at)
		w.text(v, inner, false)
	case nil:
		w.separate(at)
		w.out.WriteString("null")
	default:
		w.separate(at)
		fmt.Fprint(&w.out, v) // a number as it is written, or a boolean
	}
	w.endLine()
	return nil
}

// separate puts the blank between an indicator and what stands behind it.
func (w *yamlWriter) separate(at place) {
	if at.kind != atRoot {
		w.out.WriteByte(' ')
	}
}

// endLine ends a line, which a block of text has done already.
func (w *yamlWriter) endLine() {
	if !bytes.HasSuffix(w.out.Bytes(), []byte("\n")) {
		w.out.WriteByte('\n')
	}
}

// begin goes to where the first entry of a mapping or list at indent begins:
// on the line of the list's dash, else on the next line.
func (w *yamlWriter) begin(at place, indent int) {
	switch at.kind {
	case inList:
		w.out.WriteByte(' ')
	case inMapping:
		w.newline(indent)
	}
}

func (w *yamlWriter) mapping(at place, indent int) error {
	for first := true; w.in.More(); first = false {
		if first {
			w.begin(at, indent)
		} else {
			w.out.WriteString(strings.Repeat(" ", indent))
		}
		token, err := w.in.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok {
			return fmt.Errorf("%v is not a key", token)
		}
		if len(key) > maxYAMLKey || hasBreak(key) {
			w.out.WriteString("? ")
			w.text(key, indent+yamlIndent, false)
			w.endLine()
			w.out.WriteString(strings.Repeat(" ", indent) + ":")
			// What stands behind this colon may begin on its line.
			if err := w.value(place{indent, inList}); err != nil {
				return err
			}
			continue
		}
		w.text(key, indent, true)
		w.out.WriteByte(':')
		if err := w.value(place{indent, inMapping}); err != nil {
			return err
		}
	}
	_, err := w.in.Token()
	return err
}

func (w *yamlWriter) list(at place, indent int) error {
	for first := true; w.in.More(); first = false {
		if first {
			w.begin(at, indent)
		} else {
			w.out.WriteString(strings.Repeat(" ", indent))
		}
		w.out.WriteByte('-')
		if err := w.value(place{indent, inList}); err != nil {
			return err
		}
	}
	_, err := w.in.Token()
	return err
}

// text writes a string in the plainest style that it can be read back from.
// indent is that of a block of text.
func (w *yamlWriter) text(s string, indent int, isKey bool) {
	a := analyzeYAML(s)
	multiline := strings.Contains(s, "\n")
	switch {
	case multiline && a.block && !isKey:
		w.literal(s, indent)
	case !multiline && a.plain && !readsAsOther(s):
		w.out.WriteString(s)
	case !multiline && a.single && (!a.breaks || !isKey):
		w.single(s, indent)
	default:
		w.double(s)
	}
}

// single writes s between single quotes. A break is written twice, since one
// alone would be read as a blank.
func (w *yamlWriter) single(s string, indent int) {
	w.out.WriteByte('\'')
	breaks := false
	for i, c := range s {
		switch {
		case isYAMLBreak(c):
			if !breaks && c == '\n' {
				w.out.WriteByte('\n')
			}
			w.out.WriteRune(c)
			breaks = true
			continue
		case breaks:
			w.out.WriteString(strings.Repeat(" ", indent))
		}
		breaks = false
		if c == '\'' {
			w.out.WriteByte('\'')
		}
		w.out.WriteString(s[i : i+utf8.RuneLen(c)])
	}
	if breaks {
		w.out.WriteString(strings.Repeat(" ", indent))
	}
	w.out.WriteByte('\'')
}

// literal writes s as a block of lines.
func (w *yamlWriter) literal(s string, indent int) {
	w.out.WriteByte('|')
	first, _ := utf8.DecodeRuneInString(s)
	if first == ' ' || isYAMLBreak(first) {
		w.out.WriteString(strconv.Itoa(yamlIndent))
	}
	last, size := utf8.DecodeLastRuneInString(s)
	switch before, _ := utf8.DecodeLastRuneInString(s[:len(s)-size]); {
	case !isYAMLBreak(last):
		w.out.WriteByte('-')
	case size == len(s) || isYAMLBreak(before):
		w.out.WriteByte('+')
	}
	w.out.WriteByte('\n')
	breaks := true
	for _, c := range s {
		if !isYAMLBreak(c) && breaks {
			w.out.WriteString(strings.Repeat(" ", indent))
		}
		breaks = isYAMLBreak(c)
		w.out.WriteRune(c)
	}
}

// double writes s between double quotes, in which everything can be written.
func (w *yamlWriter) double(s string) {
	w.out.WriteByte('"')
	for _, c := range s {
		if isYAMLPrintable(c) && c != '\uFEFF' && !isYAMLBreak(c) && c != '"' && c != '\\' {
			w.out.WriteRune(c)
			continue
		}
		w.out.WriteByte('\\')
		if name, ok := yamlEscapes[c]; ok {
			w.out.WriteByte(name)
			continue
		}
		switch {
		case c <= 0xFF:
			fmt.Fprintf(&w.out, "x%02X", c)
		case c <= 0xFFFF:
			fmt.Fprintf(&w.out, "u%04X", c)
		default:
			fmt.Fprintf(&w.out, "U%08X", c)
		}
	}
	w.out.WriteByte('"')
}

var yamlEscapes = map[rune]byte{
	0: '0', 7: 'a', 8: 'b', 9: 't', 10: 'n', 11: 'v', 12: 'f', 13: 'r', 27: 'e', '"': '"', '\\': '\\',
	0x85: 'N', 0xA0: '_', 0x2028: 'L', 0x2029: 'P',
}

// yamlStyles says in which styles a string can be written.
type yamlStyles struct {
	plain, single, block bool
	breaks               bool // it holds a line break
}

// analyzeYAML follows libyaml's yaml_emitter_analyze_scalar.
func analyzeYAML(s string) yamlStyles {
	if s == "" {
		return yamlStyles{single: true}
	}
	indicators := strings.HasPrefix(s, "---") || strings.HasPrefix(s, "...")
	var special, leading, trailing, trailingSpace, breakSpace, spaceBreak, breaks bool
	afterBlank, afterBreak, afterSpace := true, false, false
	for i, c := range s {
		next := i + utf8.RuneLen(c)
		last := next == len(s)
		beforeBlank := last
		if !last {
			following, _ := utf8.DecodeRuneInString(s[next:])
			beforeBlank = isYAMLBlank(following)
		}
		switch {
		case i == 0 && strings.ContainsRune("#,[]{}&*!|>'\"%@`", c),
			i == 0 && (c == '-' || c == '?') && beforeBlank,
			c == ':' && beforeBlank,
			c == '#' && afterBlank:
			indicators = true
		}
		special = special || !isYAMLPrintable(c)
		switch {
		case c == ' ':
			leading = leading || i == 0
			trailing = trailing || last
			trailingSpace = trailingSpace || last
			breakSpace = breakSpace || afterBreak
			afterSpace, afterBreak = true, false
		case isYAMLBreak(c):
			breaks = true
			leading = leading || i == 0
			trailing = trailing || last
			spaceBreak = spaceBreak || afterSpace
			afterSpace, afterBreak = false, true
		default:
			afterSpace, afterBreak = false, false
		}
		afterBlank = isYAMLBlank(c)
	}
	never := spaceBreak || special
	return yamlStyles{
		plain:  !never && !indicators && !leading && !trailing && !breaks,
		single: !never && !breakSpace,
		block:  !never && !trailingSpace,
		breaks: breaks,
	}
}

func hasBreak(s string) bool { return strings.ContainsFunc(s, isYAMLBreak) }

func isYAMLBreak(c rune) bool {
	return c == '\n' || c == '\r' || c == 0x85 || c == 0x2028 || c == 0x2029
}

func isYAMLBlank(c rune) bool { return c == ' ' || c == '\t' || isYAMLBreak(c) }

// isYAMLPrintable is IS_PRINTABLE of serde_yaml's libyaml, which leaves out the
// tab.
func isYAMLPrintable(c rune) bool {
	return c == '\n' || 0x20 <= c && c <= 0x7E || 0xA0 <= c && c <= 0xD7FF ||
		0xE000 <= c && c <= 0xFFFD && c != '\uFEFF' || c >= 0x10000
}

// readsAsOther reports whether a plain s would be read as null, a boolean or a
// number, or looks like a number to older readers.
func readsAsOther(s string) bool {
	switch s {
	case "", "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE":
		return true
	}
	unsigned := strings.TrimPrefix(s, "+")
	if unsigned == s {
		unsigned = strings.TrimPrefix(s, "-")
	}
	if unsigned == "" || unsigned[0] == '+' || unsigned[0] == '-' {
		return false
	}
	switch unsigned {
	case ".inf", ".Inf", ".INF":
		return true
	case ".nan", ".NaN", ".NAN":
		return unsigned == s
	}
	for prefix, base := range map[string]int{"0x": 16, "0o": 8, "0b": 2} {
		if digits, ok := strings.CutPrefix(unsigned, prefix); ok && digits != "" {
			allowed := "0123456789abcdef"[:base]
			return strings.Trim(strings.ToLower(digits), allowed) == ""
		}
	}
	// The digits of a float, of which one is before or behind the point.
	mantissa, exponent, hasExponent := strings.Cut(strings.ToLower(unsigned), "e")
	if hasExponent {
		if sign := strings.TrimLeft(exponent, "+-"); len(exponent)-len(sign) <= 1 {
			exponent = sign
		}
		if !allDigits(exponent) {
			return false
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	if !allDigits(whole + fraction) {
		return false
	}
	// One out of range is a number to no reader, but for leading zeros.
	_, err := strconv.ParseFloat(unsigned, 64)
	return err == nil || allDigits(unsigned) && unsigned[0] == '0'
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
