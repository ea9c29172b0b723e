// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/deployer"
)

func (s *session) logsCommand() *cli.Command {
	return &cli.Command{
		Name:      "logs",
		Category:  categoryCluster,
		Usage:     "print the events of a release from all its nodes",
		ArgsUsage: "RELEASE",
		Flags: clusterFlags(
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until interrupted"},
			&cli.DurationFlag{Name: "since", Usage: "only what is younger than this `DURATION`"},
			&cli.Int64Flag{Name: "tail", Value: -1, Usage: "only the last `N` lines of each instance"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "the `FORMAT` of the result: table, json (an object a line)"},
		),
		Action: func(c *cli.Context) error {
			args, err := s.positionals(c, 1, 1)
			if err != nil {
				return err
			}
			options := deployer.LogOptions{Follow: c.Bool("follow"), Since: c.Duration("since")}
			if tail := c.Int64("tail"); tail >= 0 {
				options.Tail = &tail
			}
			var emit func(deployer.LogEntry) error
			switch format := c.String("output"); format {
			case "json":
				emit = deployer.NewJSONLogPrinter(s.out, s.outTerminal)
			case "table":
				emit = deployer.NewLogPrinter(s.out, time.Local).Print
			default:
				return usageError(c, fmt.Sprintf("unknown output format %q (known: table, json)", format))
			}
			cluster, err := s.connect(c)
			if err != nil {
				return err
			}
			return cluster.Logs(c.Context, args[0], options, emit)
		},
	}
}
