// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/deployer"
	"github.com/ebpm/ebpm/manifest"
)

const unknownCommandHint = ""

// strictConfig: a typing error in a user's configuration is an error.
const strictConfig = true

// releaseNames are those of the current context, none where it does not answer.
func releaseNames(ctx context.Context) []string {
	cluster, err := deployer.Connect(deployer.ConnectOptions{Version: manifest.Version})
	if err != nil {
		return nil
	}
	releases, err := cluster.List(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range releases {
		names = append(names, r.Name)
	}
	return names
}

// clusterCommands are those that know Kubernetes.
func (s *session) clusterCommands() []*cli.Command {
	return []*cli.Command{
		s.buildCommand(), s.deployCommand(), s.listCommand(), s.statusCommand(), s.logsCommand(),
		s.historyCommand(), s.rollbackCommand(), s.deleteCommand(),
	}
}
