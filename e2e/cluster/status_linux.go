// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Status writes a table of the cluster's programs with their process ids and
// resident memory. It fails when there is no cluster, when a program does not
// run, and when a node is not Ready.
func Status(ctx context.Context, w io.Writer) error {
	c, err := open()
	if err != nil {
		return err
	}
	all, err := findProcesses()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "PROGRAM\tPID\tRESIDENT\tADDRESS")
	total := 0
	var dead []string
	for _, p := range c.processes() {
		pid := p.running(all)
		if pid == 0 {
			dead = append(dead, p.name)
			fmt.Fprintf(table, "%s\t-\t-\t%s\n", p.name, c.address(p))
			continue
		}
		memory := residentMiB(pid)
		total += memory
		fmt.Fprintf(table, "%s\t%d\t%d MiB\t%s\n", p.name, pid, memory, c.address(p))
	}
	fmt.Fprintf(table, "all\t\t%d MiB\n", total)
	if err := table.Flush(); err != nil {
		return err
	}
	if len(dead) > 0 {
		return fmt.Errorf("%s: not running; `make cluster-up` starts what is missing", strings.Join(dead, ", "))
	}
	return c.nodesReady(ctx)
}

// address is where a program listens, "" where it does not matter to a user.
func (c *Cluster) address(p process) string {
	switch {
	case p.name == c.apiserver().name:
		return c.server()
	case p.name == c.registry().name:
		return "http://" + c.Registry
	case p.node != nil && p.name == c.kubelet(*p.node).name:
		return c.Networks.Node(p.node.index).String()
	case p.node != nil && p.name == c.containerd(*p.node).name:
		return c.ContainerdSocket(p.node.name)
	}
	return ""
}

// residentMiB reads VmRSS of a process; 0 when it has ended.
func residentMiB(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				return 0
			}
			return kib / 1024
		}
	}
	return 0
}
