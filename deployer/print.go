// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/ebpm/ebpm/manifest"
)

// LogPrinter prints log entries as a table: a header with NODE, TIME and the
// columns of the package, then rows. What an event lacks is a dash, and what is
// no event is its text. The header is printed anew only where events have a
// column that it lacks, as after an upgrade that is followed. Stacks and histograms
// are blocks of lines, of which the first stands behind node and time, and end with an
// empty one.
type LogPrinter struct {
	w       io.Writer
	zone    *time.Location
	columns []string
	offsets []int // of NODE, TIME and the columns
	started bool
}

// NewLogPrinter returns a printer whose times are in zone.
func NewLogPrinter(w io.Writer, zone *time.Location) *LogPrinter {
	return &LogPrinter{w: w, zone: zone}
}

const timeFormat = "15:04:05"

// Print prints one entry.
func (p *LogPrinter) Print(e LogEntry) error {
	if err := p.header(e); err != nil {
		return err
	}
	row := &row{}
	row.cell(p.offsets[0], manifest.TerminalText(e.Node, false))
	row.cell(p.offsets[1], e.Time.In(p.zone).Format(timeFormat))
	if e.Event == nil {
		row.cell(p.offsets[2], manifest.TerminalText(e.Notice, false))
		return row.print(p.w)
	}
	if stack, ok := decodeStack(e.Event); ok {
		return row.block(p.w, p.offsets[2], stack.lines())
	}
	if e.Histogram != nil {
		if h, ok := decodeHistogram(e.Event); ok && len(h.slots) <= e.Histogram.MaxSlots() {
			return row.block(p.w, p.offsets[2], h.lines(*e.Histogram))
		}
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(e.Event, &fields); err != nil {
		return fmt.Errorf("print event of node %s: %w", e.Node, err)
	}
	known := false
	for _, c := range p.columns {
		_, ok := fields[c]
		known = known || ok
	}
	if !known {
		row.cell(p.offsets[2], manifest.TerminalText(string(e.Event), false))
		return row.print(p.w)
	}
	for i, c := range p.columns {
		text := "-"
		if value, ok := fields[c]; ok {
			text = valueText(value)
		}
		row.cell(p.offsets[i+2], text)
	}
	return row.print(p.w)
}

// header prints the header when e needs another than the last one.
func (p *LogPrinter) header(e LogEntry) error {
	missing := slices.ContainsFunc(e.Columns, func(c string) bool { return !slices.Contains(p.columns, c) })
	if p.started && !missing {
		return nil
	}
	// The order is that of the newer package; what only the older one has, which
	// may still print, comes last.
	old := p.columns
	p.columns = slices.Clone(e.Columns)
	for _, c := range old {
		if !slices.Contains(p.columns, c) {
			p.columns = append(p.columns, c)
		}
	}
	p.started = true
	// Names of nodes are much of a length.
	second := max(len("NODE"), utf8.RuneCountInString(manifest.TerminalText(e.Node, false))) + 1
	p.offsets = []int{0, second, second + len(timeFormat) + 1}
	row := &row{}
	row.cell(p.offsets[0], "NODE")
	row.cell(p.offsets[1], "TIME")
	for i, c := range p.columns {
		name := strings.ToUpper(manifest.TerminalText(c, false))
		row.cell(p.offsets[i+2], name)
		p.offsets = append(p.offsets, p.offsets[i+2]+max(utf8.RuneCountInString(name), 6)+1)
	}
	return row.print(p.w)
}

// row is a line whose cells begin at offsets, or after one blank where the cell
// before was too wide.
type row struct {
	text  strings.Builder
	width int
}

func (r *row) cell(offset int, text string) {
	if r.width > 0 {
		pad := max(offset-r.width, 1)
		r.text.WriteString(strings.Repeat(" ", pad))
		r.width += pad
	}
	r.text.WriteString(text)
	r.width += utf8.RuneCountInString(text)
}

func (r *row) print(w io.Writer) error {
	_, err := io.WriteString(w, strings.TrimRight(r.text.String(), " ")+"\n")
	return err
}

// block prints lines, the first one as the last cell.
func (r *row) block(w io.Writer, offset int, lines []string) error {
	r.cell(offset, lines[0])
	if err := r.print(w); err != nil {
		return err
	}
	_, err := io.WriteString(w, strings.Join(append(lines[1:], "\n"), "\n"))
	return err
}

// valueText returns a JSON value for a cell: a string without its quotes, else
// compact JSON.
func valueText(value json.RawMessage) string {
	var s string
	if len(value) > 0 && value[0] == '"' && json.Unmarshal(value, &s) == nil {
		if s == "" {
			return `""`
		}
		return manifest.TerminalText(s, false)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return manifest.TerminalText(string(value), false)
	}
	return manifest.TerminalText(compact.String(), false)
}

// NewJSONLogPrinter returns a function that prints entries as one JSON object a
// line, the event to the byte as the runner printed it. Where w is a terminal,
// what it would act on is escaped as JSON does.
func NewJSONLogPrinter(w io.Writer, terminal bool) func(LogEntry) error {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	return func(e LogEntry) error {
		line.Reset()
		if err := encoder.Encode(e); err != nil {
			return fmt.Errorf("encode entry of node %s: %w", e.Node, err)
		}
		out := line.Bytes()
		if terminal {
			out = escapeJSON(out)
		}
		_, err := w.Write(out)
		return err
	}
}

// escapeJSON escapes what a terminal acts on in a line of JSON, where it can be
// in strings only.
func escapeJSON(line []byte) []byte {
	var out []byte
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && size == 1:
			out = append(out, `\ufffd`...) // as a reader of JSON takes it
		case r == '\n' || !manifest.TerminalUnsafe(r):
			out = append(out, line[:size]...)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				out = fmt.Appendf(out, `\u%04x`, unit)
			}
		}
		line = line[size:]
	}
	return out
}
