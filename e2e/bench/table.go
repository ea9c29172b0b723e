// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// A table has a row a figure and a column a contender. Each figure is measured
// several times, the contenders in turn; the median counts.
type table struct {
	title      string
	contenders []contender
	rows       []*row
}

type row struct {
	what, unit string
	figures    [][]float64 // by contender
}

func newTable(title string, contenders []contender) *table {
	return &table{title: title, contenders: contenders}
}

func (t *table) add(what string, column int, unit string, figure float64) {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return r.what == what })
	if i < 0 {
		i = len(t.rows)
		t.rows = append(t.rows, &row{what: what, unit: unit, figures: make([][]float64, len(t.contenders))})
	}
	r := t.rows[i]
	r.figures[column] = append(r.figures[column], figure)
}

// write prints the table, with what each figure of the others is to the first
// one's.
func (t *table) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%s\t", t.title)
	for i, c := range t.contenders {
		fmt.Fprintf(w, "%s\t", c.name)
		if i > 0 {
			fmt.Fprint(w, "ratio\t")
		}
	}
	fmt.Fprintln(w)
	for _, r := range t.rows {
		fmt.Fprintf(w, "%s\t", r.what)
		for i, figures := range r.figures {
			text, ratio := "-", "-"
			if len(figures) > 0 {
				text = format(median(figures), r.unit)
				if i > 0 && len(r.figures[0]) > 0 && median(r.figures[0]) != 0 {
					ratio = fmt.Sprintf("%.2f", median(figures)/median(r.figures[0]))
				}
			}
			fmt.Fprintf(w, "%s\t", text)
			if i > 0 {
				fmt.Fprintf(w, "%s\t", ratio)
			}
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// format writes about three digits.
func format(f float64, unit string) string {
	digits := 2
	switch {
	case f >= 100:
		digits = 0
	case f >= 10:
		digits = 1
	}
	if unit == "" {
		return fmt.Sprintf("%.*f", digits, f)
	}
	return fmt.Sprintf("%.*f %s", digits, f, unit)
}

func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	return sorted[len(sorted)/2]
}
