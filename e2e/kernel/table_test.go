// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A column is what the tests of the runner say of one kernel.
type column struct {
	title string
	// names are the sections that the runner attaches, those of each hook in a
	// list.
	names [][]string
	// results are those of the sections of programs: works, or what is missing.
	results map[string]string
	// ways are how programs in the sections moved to another instance.
	ways map[string]string
}

func newColumn(title string) *column {
	return &column{title: title, results: map[string]string{}, ways: map[string]string{}}
}

const (
	works = "works"
	// unmoved stands in a table where a kernel does not have the hook.
	unmoved = "-"
)

// attr takes an attribute of a test: "hooks", the names of one hook; "hook",
// the result of a section; "handover", how a program in it moved.
func (c *column) attr(key, value string) {
	switch key {
	case "hooks":
		c.names = append(c.names, strings.Fields(value))
	case "hook":
		section, result, ok := strings.Cut(value, ": ")
		if !ok {
			return
		}
		// A hook works that works in one way.
		if section = strings.TrimPrefix(section, "?"); c.results[section] != works {
			c.results[section] = result
		}
	case "handover":
		if section, way, ok := strings.Cut(value, ": "); ok {
			c.ways[strings.TrimPrefix(section, "?")] = way
		}
	}
}

// cell says what a kernel does with the sections NAME and NAME/TARGET: "" when
// no test said anything.
func (c *column) cell(name string) string { return summary(c.results, name) }

// way says how programs in the sections move: "" when none that works was moved.
func (c *column) way(name string) string {
	if way := summary(c.ways, name); way != "" || strings.HasPrefix(c.cell(name), works) {
		return way
	}
	return unmoved
}

// summary is what the sections NAME and NAME/TARGET have in common, and in which
// they differ.
func summary(results map[string]string, name string) string {
	byResult := map[string][]string{}
	for section, result := range results {
		if n, target, _ := strings.Cut(section, "/"); n == name {
			byResult[result] = append(byResult[result], target)
		}
	}
	if len(byResult) == 0 {
		return ""
	}
	sorted := slices.Sorted(maps.Keys(byResult))
	if len(sorted) == 1 {
		return sorted[0]
	}
	var parts []string
	for _, result := range sorted {
		if result == works {
			parts = append([]string{works}, parts...)
			continue
		}
		slices.Sort(byResult[result])
		parts = append(parts, strings.Join(byResult[result], ", ")+" "+result)
	}
	return strings.Join(parts, "; ")
}

// hookNames returns the names of all hooks, those of a hook together.
func hookNames(columns []*column) []string {
	var hooks [][]string
	for _, c := range columns {
		for _, names := range c.names {
			if len(names) > 0 && !slices.ContainsFunc(hooks, func(h []string) bool { return h[0] == names[0] }) {
				hooks = append(hooks, names)
			}
		}
	}
	slices.SortFunc(hooks, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return slices.Concat(hooks...)
}

// neverWorks returns the names of hooks that work on no kernel.
func neverWorks(columns []*column) []string {
	var never []string
	for _, name := range hookNames(columns) {
		if !slices.ContainsFunc(columns, func(c *column) bool { return strings.HasPrefix(c.cell(name), works) }) {
			never = append(never, name)
		}
	}
	return never
}

// untested returns the names of hooks of which the tests on that kernel say
// nothing.
func (c *column) untested(names []string, cell func(*column, string) string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return cell(c, name) != "" })
}

// table writes the table in Markdown. The last column is given as it is.
func table(columns []*column, cell func(*column, string) string, lastTitle string, last map[string]string) string {
	var b strings.Builder
	b.WriteString("| section |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.title)
	}
	fmt.Fprintf(&b, " %s |\n|%s\n", lastTitle, strings.Repeat("---|", len(columns)+2))
	for _, name := range hookNames(columns) {
		fmt.Fprintf(&b, "| `%s` |", name)
		for _, c := range columns {
			fmt.Fprintf(&b, " %s |", cell(c, name))
		}
		fmt.Fprintf(&b, " %s |\n", last[name])
	}
	return b.String()
}

// lastColumn reads the last column of a table, and its title.
func lastColumn(text string) (title string, cells map[string]string) {
	cells = map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		if len(fields) < 4 {
			continue
		}
		name, cell := strings.Trim(fields[1], " `"), strings.TrimSpace(fields[len(fields)-2])
		switch {
		case name == "section":
			title = cell
		case !strings.HasPrefix(name, "-"):
			cells[name] = cell
		}
	}
	return title, cells
}

// The table is between these lines of its file.
const (
	tableBegin = "<!-- begin table: make kernels UPDATE=1 -->\n"
	tableEnd   = "<!-- end table -->\n"
)

func cutTable(text string) (before, tableText, after string, err error) {
	before, rest, ok := strings.Cut(text, tableBegin)
	tableText, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return "", "", "", fmt.Errorf("find the table: it should be between %q and %q", tableBegin, tableEnd)
	}
	return before + tableBegin, tableText, tableEnd + after, nil
}

func TestTable(t *testing.T) {
	old, current := newColumn("Linux 6.1"), newColumn("Linux 6.12")
	for _, c := range []*column{old, current} {
		c.attr("hooks", "xdp xdp.frags")
		c.attr("hooks", "cgroup")
		c.attr("other", "x")
	}
	old.attr("hook", "xdp: works")
	old.attr("hook", "xdp: needs Linux 6.6") // another way of attaching it
	old.attr("hook", "cgroup/dev: works")
	old.attr("hook", "cgroup/unix2: needs Linux 6.7")
	old.attr("hook", "cgroup/unix1: needs Linux 6.7")
	old.attr("hook", "?xdp.frags: needs CONFIG_X")
	current.attr("hook", "cgroup/dev: works")
	current.attr("hook", "cgroup/unix1: works")
	current.attr("hook", "xdp: refused")
	columns := []*column{old, current}
	got := table(columns, (*column).cell, "Linux 6.18", map[string]string{"xdp": "works"})
	const want = "| section | Linux 6.1 | Linux 6.12 | Linux 6.18 |\n" +
		"|---|---|---|---|\n" +
		"| `cgroup` | works; unix1, unix2 needs Linux 6.7 | works |  |\n" +
		"| `xdp` | works | refused | works |\n" +
		"| `xdp.frags` | needs CONFIG_X |  |  |\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if never := neverWorks(columns); !slices.Equal(never, []string{"xdp.frags"}) {
		t.Errorf("never work: %v", never)
	}
	if untested := current.untested(hookNames(columns), (*column).cell); !slices.Equal(untested, []string{"xdp.frags"}) {
		t.Errorf("untested: %v", untested)
	}
	current.attr("handover", "cgroup/dev: exact")
	current.attr("handover", "cgroup/unix1: near exact")
	ways := table(columns, (*column).way, "Linux 6.18", map[string]string{"xdp": "exact"})
	const wantWays = "| section | Linux 6.1 | Linux 6.12 | Linux 6.18 |\n" +
		"|---|---|---|---|\n" +
		"| `cgroup` |  | dev exact; unix1 near exact |  |\n" +
		"| `xdp` |  | - | exact |\n" +
		"| `xdp.frags` | - | - |  |\n"
	if diff := cmp.Diff(wantWays, ways); diff != "" {
		t.Error(diff)
	}
	if untested := old.untested(hookNames(columns), (*column).way); !slices.Equal(untested, []string{"cgroup", "xdp"}) {
		t.Errorf("not moved: %v", untested)
	}
	before, middle, after, err := cutTable("text\n" + tableBegin + got + tableEnd + "more\n")
	if err != nil || before != "text\n"+tableBegin || middle != got || after != tableEnd+"more\n" {
		t.Errorf("got %q, %q, %q, %v", before, middle, after, err)
	}
	title, cells := lastColumn(middle)
	if diff := cmp.Diff(map[string]string{"cgroup": "", "xdp": "works", "xdp.frags": ""}, cells); diff != "" || title != "Linux 6.18" {
		t.Errorf("title %q: %s", title, diff)
	}
	if _, _, _, err := cutTable(tableEnd + tableBegin); err == nil {
		t.Error("a file without a table gave no error")
	}
}
