// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"strings"
	"time"
)

// A printer writes events of one layout, as JSON lines or as rows of a table.
type printer struct {
	layout *layout
	json   bool
	text   quoting
	now    func() time.Time
	// starts are the bytes at which the columns of the header begin.
	starts []int
	// clock is the time of second, as Unix counts, as rows show it.
	clock  [8]byte
	second int64
	// sameTime says that the next row is printed together with the one before.
	sameTime bool
}

// headerTime heads the column of times, which are eight characters wide.
const headerTime = "TIME     "

// appendColumnName appends the name of a column as the header has it.
func appendColumnName(dst []byte, name string) []byte {
	start := len(dst)
	dst = append(dst, strings.ToUpper(name)...)
	for len(dst) < start+6 {
		dst = append(dst, ' ')
	}
	return append(dst, ' ')
}

// header returns the line above the rows. It is empty for JSON.
func (p *printer) header() []byte {
	if p.json {
		return nil
	}
	dst := []byte(headerTime)
	p.starts = p.starts[:0]
	for _, c := range p.layout.columns {
		p.starts = append(p.starts, len(dst))
		dst = appendColumnName(dst, c.name)
	}
	return append(dst, '\n')
}

// appendTime appends the time that a row begins with, and a blank.
func (p *printer) appendTime(dst []byte) []byte {
	// Where the kernel has to be asked, reading the clock takes longer than
	// writing the row.
	if !p.sameTime {
		if now := p.now(); now.Unix() != p.second {
			p.second = now.Unix()
			now.AppendFormat(p.clock[:0], time.TimeOnly)
		}
	}
	dst = append(dst, p.clock[:]...)
	return append(dst, ' ')
}

// event appends one event as a line. A value stands under its column's name
// where the values before leave room, else one blank behind them; so the first
// one, behind time and blank, is one to the right.
func (p *printer) event(dst, data []byte) []byte {
	if p.json {
		dst = p.layout.appendJSON(dst, data, p.text)
		return append(dst, '\n')
	}
	line := len(dst)
	dst = p.appendTime(dst)
	for i, start := range p.starts {
		if len(dst)-line >= start {
			dst = append(dst, ' ')
		}
		for len(dst)-line < start {
			dst = append(dst, ' ')
		}
		dst = p.layout.appendColumn(dst, i, data, p.text)
	}
	return append(dst, '\n')
}
