// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import "github.com/urfave/cli/v2"

const unknownCommandHint = ""

// clusterCommands are those that know Kubernetes.
func (s *session) clusterCommands() []*cli.Command {
	return []*cli.Command{
		s.buildCommand(), s.deployCommand(), s.listCommand(), s.statusCommand(), s.logsCommand(),
		s.historyCommand(), s.rollbackCommand(), s.deleteCommand(),
	}
}
