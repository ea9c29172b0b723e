// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

// slotsMember is the member that histograms are drawn of.
const slotsMember = "slots"

// defaultUnit heads the histograms of a package that names no unit.
const defaultUnit = "(unit)"

// A histogram is drawn of an array of counts: slot i counts, with log2, the
// values from 2^i to 2^(i+1)-1, and the first one those of 0, too. If it is
// linear, slot i counts the value i, in whatever steps the program takes; its
// rows are those of log2 with one number, and never the wide ones:
//
//	(unit)              : count    distribution
//	    0               : 1        |********************                    |
//	    1               : 2        |****************************************|
type histogram struct {
	slots  *op // of an array of integers
	linear bool
	unit   string
}

// findSlots returns the array of counts of a map's values.
func findSlots(l *layout) (*op, error) {
	i := slices.IndexFunc(l.columns, func(c column) bool { return c.name == slotsMember })
	if i < 0 {
		return nil, errors.New("a histogram is drawn of the value's member slots, and it has none")
	}
	if ops := l.columns[i].ops; len(ops) == 1 && ops[0].kind == opArray && len(ops[0].body) == 1 && len(ops[0].body[0].literal) == 0 {
		switch ops[0].body[0].kind {
		case opInt8, opInt16, opInt32, opInt64, opUint8, opUint16, opUint32, opUint64:
			return &ops[0], nil
		}
	}
	return nil, fmt.Errorf("a histogram is drawn of an array of integers of at most 64 bits, which member %s is not", slotsMember)
}

func (h *histogram) slot(data []byte, i int) uint64 {
	d := data[int(h.slots.offset)+i*int(h.slots.stride):]
	switch h.slots.stride {
	case 1:
		return uint64(d[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(d))
	case 4:
		return uint64(binary.NativeEndian.Uint32(d))
	default:
		return binary.NativeEndian.Uint64(d)
	}
}

// draw appends the histogram up to the last slot that is not 0, and nothing
// when all are.
func (h *histogram) draw(dst, data []byte, q quoting) []byte {
	last, greatest := -1, uint64(0)
	for i := range int(h.slots.size) {
		if v := h.slot(data, i); v > 0 {
			last, greatest = i, max(greatest, v)
		}
	}
	if last < 0 {
		return dst
	}
	// From 2^33 on the numbers of log2 do not fit into ten digits.
	indent, digits, stars := 5, 10, 40
	if last > 32 && !h.linear {
		indent, digits, stars = 15, 20, 20
	}
	dst = appendBlanks(dst, indent)
	start := len(dst)
	dst = appendText(dst, []byte(h.unit), q)
	dst = appendBlanks(dst, 2*digits+len(" -> ")-indent-utf8.RuneCount(dst[start:]))
	dst = append(dst, " : count    distribution\n"...)
	for i := range last + 1 {
		dst = h.appendRange(dst, i, digits)
		dst = append(dst, " : "...)
		start := len(dst)
		count := h.slot(data, i)
		dst = strconv.AppendUint(dst, count, 10)
		dst = appendBlanks(dst, 8-(len(dst)-start))
		dst = append(dst, " |"...)
		// The product has up to 70 bits.
		hi, lo := bits.Mul64(count, uint64(stars))
		n, _ := bits.Div64(hi, lo, greatest)
		for range n {
			dst = append(dst, '*')
		}
		dst = appendBlanks(dst, stars-int(n))
		dst = append(dst, "|\n"...)
	}
	return dst
}

// appendRange appends what slot i counts.
func (h *histogram) appendRange(dst []byte, i, digits int) []byte {
	if h.linear {
		dst = appendRight(dst, strconv.Itoa(i), digits)
		return appendBlanks(dst, len(" -> ")+digits)
	}
	one := big.NewInt(1)
	low, high := new(big.Int), new(big.Int).Lsh(one, uint(i)+1)
	if i > 0 {
		low.Lsh(one, uint(i))
	}
	dst = appendRight(dst, low.String(), digits)
	dst = append(dst, " -> "...)
	start := len(dst)
	dst = high.Sub(high, one).Append(dst, 10)
	return appendBlanks(dst, digits-(len(dst)-start))
}

func appendRight(dst []byte, s string, width int) []byte {
	return append(appendBlanks(dst, width-len(s)), s...)
}

func appendBlanks(dst []byte, n int) []byte {
	for ; n > 0; n-- {
		dst = append(dst, ' ')
	}
	return dst
}
