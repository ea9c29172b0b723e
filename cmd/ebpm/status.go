// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/deployer"
	"github.com/ebpm/ebpm/manifest"
)

func (s *session) listCommand() *cli.Command {
	return &cli.Command{
		Name:     "list",
		Aliases:  []string{"ls"},
		Category: categoryCluster,
		Usage:    "list the releases of a cluster",
		Flags:    clusterFlags(outputFlag()),
		Action: func(c *cli.Context) error {
			if _, err := s.positionals(c, 0, 0); err != nil {
				return err
			}
			cluster, err := s.connect(c)
			if err != nil {
				return err
			}
			releases, err := cluster.List(c.Context)
			if err != nil {
				return err
			}
			r := result{
				value: releases,
				table: [][]string{{"NAME", "PACKAGE", "REVISION", "UPDATED", "READY", "AGE"}},
				wide:  [][]string{{"NAME", "PACKAGE", "REVISION", "NODE", "POD", "STATE", "RESTARTS", "AGE"}},
			}
			for _, release := range releases {
				revision := strconv.FormatInt(release.Revision, 10)
				r.names = append(r.names, release.Name)
				r.table = append(r.table, []string{
					release.Name, release.Package, revision, fmt.Sprintf("%d/%d", release.Updated, release.Desired),
					fmt.Sprintf("%d/%d", release.Ready, release.Desired), formatAge(time.Since(release.Created)),
				})
				for _, i := range release.Instances {
					r.wide = append(r.wide, []string{
						release.Name, strings.TrimSuffix(release.Package, release.Tag) + i.Tag, strconv.FormatInt(i.Revision, 10), i.Node, i.Pod, string(i.State),
						strconv.Itoa(int(i.Restarts)), since(i.Since),
					})
				}
			}
			return s.print(c, r)
		},
	}
}

func (s *session) statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Category:  categoryCluster,
		Usage:     "show how a release is on each node",
		ArgsUsage: "RELEASE",
		Flags:     clusterFlags(outputFlag()),
		Action: s.release(func(c *cli.Context, cluster *deployer.Client, name string) error {
			status, err := cluster.Status(c.Context, name)
			if err != nil {
				return err
			}
			return s.printStatus(c, status)
		}),
	}
}

func since(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return formatAge(time.Since(*t))
}

// printStatus prints the release and a row a node; causes, which may have many
// lines, come below.
func (s *session) printStatus(c *cli.Context, status *deployer.Status) error {
	r := result{
		value: status,
		names: []string{status.Name},
		table: [][]string{{"NODE", "STATE", "ROLE", "REVISION", "TAG", "RESTARTS", "AGE", "ATTACHED", "LOST", "MOVED", "MAPS"}},
		wide:  [][]string{{"NODE", "STATE", "ROLE", "REVISION", "TAG", "RESTARTS", "AGE", "ATTACHED", "LOST", "MOVED", "MAPS", "POD", "KERNEL", "TARGETS"}},
	}
	for _, n := range status.Nodes {
		row := []string{
			n.Node, string(n.State), role(n), strconv.FormatInt(n.Revision, 10), n.Tag, strconv.Itoa(int(n.Restarts)), since(n.Since),
			strconv.Itoa(len(targetsOf(n.Programs))) + " programs", counters(n), moved(n.Handover), carried(n.Handover),
		}
		r.table = append(r.table, row)
		r.wide = append(r.wide, append(row[:len(row):len(row)], n.Pod, n.Kernel, attachedTo(n.Programs)))
	}
	if format := c.String("output"); format != "table" && format != "wide" {
		return s.print(c, r)
	}
	state := "complete"
	if !status.Finished {
		state = fmt.Sprintf("unfinished: %d/%d updated", status.Updated, status.Desired)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "release:   %s\npackage:   %s\ndigest:    %s\nrevision:  %d (%s)\ntargets:   %s\nready:     %d/%d, rollout %s\n",
		status.Name, status.Package, status.Digest, status.Revision, status.Reason, status.Targets, status.Ready, status.Desired, state)
	if len(status.Args) > 0 {
		fmt.Fprintf(&b, "arguments: %s\n", strings.Join(status.Args, " "))
	}
	if status.Interface != "" {
		fmt.Fprintf(&b, "interface: %s\n", status.Interface)
	}
	for _, a := range status.Attach {
		fmt.Fprintf(&b, "attach:    %s\n", a)
	}
	for _, note := range status.Notes {
		fmt.Fprintf(&b, "note:      %s\n", note)
	}
	b.WriteString("\n")
	if err := write(&b, c.String("output"), r); err != nil {
		return err
	}
	for _, n := range status.Nodes {
		if n.Cause != "" {
			fmt.Fprintf(&b, "\n%s (%s):\n  %s\n", n.Node, n.Pod, strings.ReplaceAll(strings.TrimSpace(n.Cause), "\n", "\n  "))
		}
	}
	_, err := io.WriteString(s.out, manifest.TerminalText(b.String(), true))
	return err
}

// role is an instance's among those on its node: "?" where the node's log does not
// say it any more, "-" where it has none.
func role(n deployer.InstanceStatus) string {
	switch {
	case n.Handover != nil:
		return n.Handover.Role
	case n.Recorded == nil && n.Since != nil:
		return "?"
	}
	return "-"
}

// moved says how an instance took over, and in what time.
func moved(h *manifest.Handover) string {
	if h == nil || h.Way == "" {
		return "-"
	}
	return fmt.Sprintf("%s, %.1f ms", h.Way, h.Milliseconds)
}

// carried says what became of the content of maps when an instance took over.
func carried(h *manifest.Handover) string {
	if h == nil {
		return "-"
	}
	var words []string
	if len(h.Carried) > 0 {
		words = append(words, "carried "+strings.Join(h.Carried, ","))
	}
	if len(h.Reset) > 0 {
		words = append(words, "RESET "+strings.Join(h.Reset, ","))
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, "; ")
}

// targetsOf returns what each program is attached to, by its name.
func targetsOf(programs []manifest.ProgramStatus) map[string][]string {
	targets := map[string][]string{}
	for _, p := range programs {
		targets[p.Name] = append(targets[p.Name], p.Target)
	}
	return targets
}

// attachedTo lists the programs with their targets, which the status records
// say.
func attachedTo(programs []manifest.ProgramStatus) string {
	targets := targetsOf(programs)
	var words []string
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		words = append(words, name+"="+strings.Join(targets[name], ","))
	}
	return cmp.Or(strings.Join(words, " "), "-")
}

// counters sums what did not reach the output: "?" where the node's log does not
// say it any more, "-" where nothing counts it (a full ring buffer is known only
// to the program).
func counters(n deployer.InstanceStatus) string {
	if n.Recorded == nil {
		return "?"
	}
	lost := "-"
	if len(n.Lost) > 0 {
		lost = strconv.FormatUint(sum(n.Lost), 10)
	}
	if malformed := sum(n.Malformed); malformed > 0 {
		lost += fmt.Sprintf(", %d malformed", malformed)
	}
	return lost
}

func sum(counts map[string]uint64) uint64 {
	var total uint64
	for _, n := range counts {
		total += n
	}
	return total
}
