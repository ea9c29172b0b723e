// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"fmt"
	"strconv"

	"github.com/ebpm/ebpm/manifest"
)

// A pairPrinter writes keys and values of a sampled map: as JSON lines, as rows
// of a table, or as histograms of the values' member slots.
type pairPrinter struct {
	*printer // of the values
	key      *layout
	// perCPU is true when there is a value for each CPU, which makes a line or
	// histogram each.
	perCPU bool
	// hist draws the histograms; nil prints key and value.
	hist *histogram
}

func newPairPrinter(p *printer, key *layout, sample *manifest.Sample, perCPU bool) (*pairPrinter, error) {
	pp := &pairPrinter{printer: p, key: key, perCPU: perCPU}
	if h, ok := sample.Histogram(); ok && !p.json {
		slots, err := findSlots(p.layout)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", sample.Type, err)
		}
		if int(slots.size) > h.MaxSlots() {
			return nil, fmt.Errorf("%s: %d slots, at most %d are drawn", sample.Type, slots.size, h.MaxSlots())
		}
		pp.hist = &histogram{Histogram: h, slots: slots}
	}
	return pp, nil
}

// header returns the line above the rows, which names the members of keys and
// values; as with upstream, the rows are two objects that do not stand under it.
func (p *pairPrinter) header() []byte {
	if p.json || p.hist != nil {
		return nil
	}
	dst := []byte(headerTime)
	if p.perCPU {
		dst = appendColumnName(dst, "cpu")
	}
	for _, l := range []*layout{p.key, p.layout} {
		for _, c := range l.columns {
			dst = appendColumnName(dst, c.name)
		}
	}
	return append(dst, '\n')
}

// pair appends a key and its value, that of one CPU where there are several.
func (p *pairPrinter) pair(dst, key, value []byte, cpu int) []byte {
	switch {
	case p.json:
		dst = append(dst, '{')
		if p.perCPU {
			dst = append(dst, `"cpu":`...)
			dst = strconv.AppendInt(dst, int64(cpu), 10)
			dst = append(dst, ',')
		}
		dst = append(dst, `"key":`...)
		dst = p.key.appendJSON(dst, key, p.text)
		dst = append(dst, `,"value":`...)
		dst = p.layout.appendJSON(dst, value, p.text)
		return append(dst, "}\n"...)
	case p.hist != nil:
		return p.histogram(dst, key, value, cpu)
	}
	dst = p.appendTime(dst)
	if p.perCPU {
		dst = strconv.AppendInt(dst, int64(cpu), 10)
		dst = append(dst, ' ')
	}
	dst = p.key.appendJSON(dst, key, p.text)
	dst = append(dst, ' ')
	dst = p.layout.appendJSON(dst, value, p.text)
	return append(dst, '\n')
}

// histogram appends the key, the value's other members and the histogram, with
// an empty line behind both parts.
func (p *pairPrinter) histogram(dst, key, value []byte, cpu int) []byte {
	dst = append(dst, "key = "...)
	for i := range p.key.columns {
		dst = append(dst, ' ')
		dst = p.key.appendColumn(dst, i, key, p.text)
	}
	dst = append(dst, '\n')
	if p.perCPU {
		dst = append(dst, "cpu = "...)
		dst = strconv.AppendInt(dst, int64(cpu), 10)
		dst = append(dst, '\n')
	}
	for i, c := range p.layout.columns {
		if c.name == manifest.SlotsMember {
			continue
		}
		dst = append(dst, c.name...)
		dst = append(dst, " = "...)
		dst = p.layout.appendColumn(dst, i, value, p.text)
		dst = append(dst, '\n')
	}
	dst = append(dst, '\n')
	dst = p.hist.draw(dst, value, p.text)
	return append(dst, '\n')
}
