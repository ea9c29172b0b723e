// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/ebpm/ebpm/manifest"
)

// A histogram is drawn of the array of integers in the values of a map.
type histogram struct {
	manifest.Histogram
	slots  *op
	counts []uint64 // of the last value
	unit   []byte
}

// findSlots returns the array of counts of a map's values.
func findSlots(l *layout) (*op, error) {
	i := slices.IndexFunc(l.columns, func(c column) bool { return c.name == manifest.SlotsMember })
	if i < 0 {
		return nil, errors.New("a histogram is drawn of the value's member slots, and it has none")
	}
	if ops := l.columns[i].ops; len(ops) == 1 && ops[0].kind == opArray && len(ops[0].body) == 1 && len(ops[0].body[0].literal) == 0 {
		switch ops[0].body[0].kind {
		case opInt8, opInt16, opInt32, opInt64, opUint8, opUint16, opUint32, opUint64:
			return &ops[0], nil
		}
	}
	return nil, fmt.Errorf("a histogram is drawn of an array of integers of at most 64 bits, which member %s is not", manifest.SlotsMember)
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

// draw appends the histogram of a value.
func (h *histogram) draw(dst, data []byte, q quoting) []byte {
	h.counts = h.counts[:0]
	for i := range int(h.slots.size) {
		h.counts = append(h.counts, h.slot(data, i))
	}
	h.unit = appendText(h.unit[:0], []byte(h.Unit), q)
	return h.Append(dst, h.counts, string(h.unit))
}
