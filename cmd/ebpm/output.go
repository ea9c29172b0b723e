// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"github.com/ebpm/ebpm/manifest"
)

// result is what a command found, in every form that -o can ask for.
type result struct {
	// value is printed by -o json and -o yaml; its keys are API.
	value any
	// names are printed by -o name, a line each.
	names []string
	// table and wide have the header first; wide may be nil.
	table, wide [][]string
}

var outputFormats = []string{"table", "wide", "json", "yaml", "name"}

func outputFlag() cli.Flag {
	return &cli.StringFlag{
		Name:    "output",
		Aliases: []string{"o"},
		Value:   "table",
		Usage:   "the `FORMAT` of the result: " + strings.Join(outputFormats, ", "),
		Action: func(c *cli.Context, v string) error {
			if !slices.Contains(outputFormats, v) {
				return usageError(c, fmt.Sprintf("unknown output format %q (known: %s)", v, strings.Join(outputFormats, ", ")))
			}
			return nil
		},
	}
}

// print writes r in the format that the user asked for.
func (s *session) print(c *cli.Context, r result) error {
	err := write(s.out, c.String("output"), r)
	if errors.Is(err, errNoReader) {
		return nil // what the command did, it did
	}
	return err
}

func write(w io.Writer, format string, r result) error {
	switch format {
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r.value)
	case "yaml":
		b, err := yaml.Marshal(r.value)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	case "name":
		for _, name := range r.names {
			if _, err := fmt.Fprintln(w, name); err != nil {
				return err
			}
		}
		return nil
	case "wide":
		if r.wide != nil {
			return writeTable(w, r.wide)
		}
	}
	return writeTable(w, r.table)
}

func writeTable(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = manifest.TerminalText(cell, false)
		}
		if _, err := fmt.Fprintln(tw, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}
