// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
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
				table: [][]string{{"NAME", "PACKAGE", "REVISION", "READY", "AGE"}},
				wide:  [][]string{{"NAME", "PACKAGE", "REVISION", "NODE", "POD", "STATE", "RESTARTS", "AGE"}},
			}
			for _, release := range releases {
				revision := strconv.FormatInt(release.Revision, 10)
				r.names = append(r.names, release.Name)
				r.table = append(r.table, []string{
					release.Name, release.Package, revision, fmt.Sprintf("%d/%d", release.Ready, release.Desired), formatAge(time.Since(release.Created)),
				})
				for _, i := range release.Instances {
					r.wide = append(r.wide, []string{
						release.Name, release.Package, strconv.FormatInt(i.Revision, 10), i.Node, i.Pod, string(i.State),
						strconv.Itoa(int(i.Restarts)), formatAge(time.Since(i.Since)),
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
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 1, 1)
			if err != nil {
				return err
			}
			cluster, err := s.connect(c)
			if err != nil {
				return err
			}
			status, err := cluster.Status(c.Context, args[0])
			if err != nil {
				return err
			}
			return s.printStatus(c, status)
		},
	}
}
