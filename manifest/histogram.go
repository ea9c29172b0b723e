// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"math/big"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The ways in which a sampled map is printed, [Sample.Type]. Without one it is
// SampleKeyValue.
const (
	SampleKeyValue = "default_kv"
	SampleLog2     = "log2_hist"
	SampleLinear   = "linear_hist"
)

// SlotsMember is the member of a sampled map's values that histograms are drawn of.
const SlotsMember = "slots"

// defaultUnit heads the histograms of a package that names no unit.
const defaultUnit = "(unit)"

// A Histogram says how an array of counts is drawn: slot i counts, with log2, the
// values from 2^i to 2^(i+1)-1, and the first one those of 0, too. If it is linear,
// slot i counts the value i, in whatever steps the program takes; its rows are those
// of log2 with one number, and never the wide ones:
//
//	(unit)              : count    distribution
//	    0               : 1        |********************                    |
//	    1               : 2        |****************************************|
type Histogram struct {
	Linear bool   `json:"linear,omitempty"`
	Unit   string `json:"unit"`
}

// Histogram returns how the map's values are drawn; ok is false where they are
// printed as they are.
func (s *Sample) Histogram() (h Histogram, ok bool) {
	if s == nil || s.Type != SampleLog2 && s.Type != SampleLinear {
		return Histogram{}, false
	}
	return Histogram{Linear: s.Type == SampleLinear, Unit: cmp.Or(s.Unit, defaultUnit)}, true
}

// Histogram returns how the histograms of a package are drawn; ok is false where it
// has none, or sampled maps that differ in that.
func (m *Meta) Histogram() (h Histogram, ok bool) {
	for _, mapMeta := range m.Skeleton.Maps {
		one, drawn := mapMeta.Sample.Histogram()
		switch {
		case mapMeta.Sample == nil:
		case !drawn, ok && one != h:
			return Histogram{}, false
		default:
			h, ok = one, true
		}
	}
	return h, ok
}

// MaxSlots is how many slots are drawn at most. The numbers of log2 get as long as
// there are slots, and those beyond 2^64 count nothing.
func (h Histogram) MaxSlots() int {
	if h.Linear {
		return 1 << 16
	}
	return 128
}

// Append appends the lines of the histogram up to the last slot that is not 0, and
// nothing when all are. unit is h.Unit as the output takes it.
func (h Histogram) Append(dst []byte, slots []uint64, unit string) []byte {
	for len(slots) > 0 && slots[len(slots)-1] == 0 {
		slots = slots[:len(slots)-1]
	}
	if len(slots) == 0 {
		return dst
	}
	greatest := slices.Max(slots)
	// From 2^33 on the numbers of log2 do not fit into ten digits.
	indent, digits, stars := 5, 10, 40
	if len(slots) > 33 && !h.Linear {
		indent, digits, stars = 15, 20, 20
	}
	dst = appendBlanks(dst, indent)
	dst = append(dst, unit...)
	dst = appendBlanks(dst, 2*digits+len(" -> ")-indent-utf8.RuneCountInString(unit))
	dst = append(dst, " : count    distribution\n"...)
	for i, count := range slots {
		dst = h.appendRange(dst, i, digits)
		dst = append(dst, " : "...)
		start := len(dst)
		dst = strconv.AppendUint(dst, count, 10)
		dst = appendBlanks(dst, 8-(len(dst)-start))
		dst = append(dst, " |"...)
		// The product has up to 70 bits.
		hi, lo := bits.Mul64(count, uint64(stars))
		n, _ := bits.Div64(hi, lo, greatest)
		dst = append(dst, strings.Repeat("*", int(n))...)
		dst = appendBlanks(dst, stars-int(n))
		dst = append(dst, "|\n"...)
	}
	return dst
}

// appendRange appends what slot i counts.
func (h Histogram) appendRange(dst []byte, i, digits int) []byte {
	if h.Linear {
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
