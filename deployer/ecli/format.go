// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/ebpm/ebpm/manifest"
)

// A quoting says how the text of an event is written.
type quoting uint8

const (
	quoteNone         quoting = iota // as it is
	quoteTerminal                    // what a terminal acts on escaped
	quoteJSON                        // a JSON string
	quoteJSONTerminal                // a JSON string with what a terminal acts on escaped, too
)

// json returns the quoting of JSON that goes with q.
func (q quoting) json() quoting {
	if q == quoteTerminal || q == quoteJSONTerminal {
		return quoteJSONTerminal
	}
	return quoteJSON
}

const hexDigits = "0123456789abcdef"

// What has to be looked at in a text, by its bytes: one bit for each quoting.
var careful = func() (bits [256]uint8) {
	for c := range bits {
		control, delete := c < 0x20, c == 0x7f
		syntax := c == '"' || c == '\\'
		for q, care := range map[quoting]bool{
			quoteNone:         false,
			quoteTerminal:     control || delete,
			quoteJSON:         control || syntax,
			quoteJSONTerminal: control || delete || syntax,
		} {
			if care || c >= utf8.RuneSelf {
				bits[c] |= 1 << q
			}
		}
	}
	return bits
}()

// appendText appends s. Each byte that is not UTF-8 becomes U+FFFD. As JSON,
// only the quote, the backslash and bytes below 0x20 are escaped, as Rust's
// serde_json does.
func appendText(dst, s []byte, q quoting) []byte {
	asJSON := q == quoteJSON || q == quoteJSONTerminal
	terminal := q == quoteTerminal || q == quoteJSONTerminal
	if asJSON {
		dst = append(dst, '"')
	}
	for len(s) > 0 {
		n := 0
		for n < len(s) && careful[s[n]]>>q&1 == 0 {
			n++
		}
		dst = append(dst, s[:n]...)
		s = s[n:]
		if len(s) == 0 {
			break
		}
		r, n := rune(s[0]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(s)
		}
		s = s[n:]
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < utf8.RuneSelf, terminal && manifest.TerminalUnsafe(r):
			dst = appendEscape(dst, r)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	if asJSON {
		dst = append(dst, '"')
	}
	return dst
}

// appendEscape appends a character by its number, in the way of JSON.
func appendEscape(dst []byte, r rune) []byte {
	switch r {
	case '\b':
		return append(dst, '\\', 'b')
	case '\t':
		return append(dst, '\\', 't')
	case '\n':
		return append(dst, '\\', 'n')
	case '\f':
		return append(dst, '\\', 'f')
	case '\r':
		return append(dst, '\\', 'r')
	}
	if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
		return appendEscape(appendEscape(dst, high), low)
	}
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// untilNUL returns s up to its first NUL, all of s where there is none.
func untilNUL(s []byte) []byte {
	if i := bytes.IndexByte(s, 0); i >= 0 {
		return s[:i]
	}
	return s
}

// appendFloat appends f as JSON with the shortest digits that give f again: in
// exponent form below 1e-5 and from 1e16, with a point otherwise, null for what
// JSON has no number for.
func appendFloat(dst []byte, f float64) []byte {
	abs := math.Abs(f)
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return append(dst, "null"...)
	case abs != 0 && (abs < 1e-5 || abs >= 1e16):
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
		// strconv pads the exponent to two digits.
		if n := len(dst); n-start > 4 && dst[n-2] == '0' && (dst[n-3] == '-' || dst[n-3] == '+') {
			dst[n-2] = dst[n-1]
			dst = dst[:n-1]
		}
		return dst
	default:
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		if bytes.IndexByte(dst[start:], '.') < 0 {
			dst = append(dst, '.', '0')
		}
		return dst
	}
}

// appendInt128 appends the number of the two halves in decimal.
func appendInt128(dst []byte, hi, lo uint64, signed bool) []byte {
	if signed && int64(hi) < 0 {
		dst = append(dst, '-')
		var carry uint64
		lo, carry = bits.Add64(^lo, 1, 0)
		hi = ^hi + carry
	}
	// 2^128 is below 10^39: at most three groups of nineteen digits.
	const group = 1e19
	var groups [3]uint64
	n := 0
	for {
		qhi, rem := hi/group, hi%group
		qlo, rem := bits.Div64(rem, lo, group)
		groups[n] = rem
		n++
		hi, lo = qhi, qlo
		if hi == 0 && lo == 0 {
			break
		}
	}
	dst = strconv.AppendUint(dst, groups[n-1], 10)
	for i := n - 2; i >= 0; i-- {
		start := len(dst)
		dst = append(dst, "0000000000000000000"...)
		var digits [20]byte
		d := strconv.AppendUint(digits[:0], groups[i], 10)
		copy(dst[start+19-len(d):], d)
	}
	return dst
}
