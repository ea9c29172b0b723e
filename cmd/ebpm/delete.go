// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/deployer"
)

func (s *session) deleteCommand() *cli.Command {
	return &cli.Command{
		Name:      "delete",
		Aliases:   []string{"rm"},
		Category:  categoryCluster,
		Usage:     "stop releases and take them off their nodes",
		ArgsUsage: "RELEASE...",
		Flags: clusterFlags(
			&cli.DurationFlag{Name: "timeout", Value: time.Minute, Usage: "wait this `DURATION` until every instance is gone"},
			outputFlag(),
		),
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 1, -1)
			if err != nil {
				return err
			}
			cluster, err := s.connect(c)
			if err != nil {
				return err
			}
			r := result{table: [][]string{{"RELEASE", "DETACHED FROM", "LEFT ON"}}}
			var deleted []*deployer.DeleteResult
			var failed error
			for _, name := range args {
				d, err := cluster.Delete(c.Context, name, deployer.DeleteOptions{Timeout: c.Duration("timeout")})
				var interrupted *deployer.Interrupted
				if errors.As(err, &interrupted) {
					return interruptedText(interrupted)
				}
				failed = errors.Join(failed, err)
				if d == nil {
					continue
				}
				var left []string
				for _, l := range d.Left {
					left = append(left, fmt.Sprintf("%s (%s: %s)", l.Node, l.Pod, l.Why))
				}
				deleted = append(deleted, d)
				r.names = append(r.names, d.Name)
				r.table = append(r.table, []string{d.Name, strings.Join(d.Nodes, ","), strings.Join(left, ",")})
			}
			r.value = deleted
			if len(deleted) > 0 {
				failed = errors.Join(failed, s.print(c, r))
			}
			return failed
		},
	}
}
