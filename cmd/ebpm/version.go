// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/manifest"
)

func (s *session) versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			if _, err := s.positionals(c, 0, 0); err != nil {
				return err
			}
			return s.printVersion(c)
		},
	}
}

func (s *session) printVersion(c *cli.Context) error {
	value := map[string]string{"version": manifest.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
	return s.print(c, result{
		value: value,
		names: []string{manifest.Version},
		table: [][]string{{fmt.Sprintf("ebpm %s (%s, %s)", manifest.Version, value["go"], value["platform"])}},
	})
}
