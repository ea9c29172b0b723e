// SPDX-License-Identifier: Apache-2.0

//go:build node

package main

import (
	"context"

	"github.com/urfave/cli/v2"
)

// The program in the container image pulls, verifies and runs. It is built
// without the commands that know Kubernetes, whose client is three quarters of
// the other one's size, and no part of what a node should have to trust.
const unknownCommandHint = " (this is the ebpm of the container image, which has no commands for clusters)"

// strictConfig: a newer ebpm writes keys into the nodes' configuration that the
// images of older releases do not know.
const strictConfig = false

func releaseNames(context.Context) []string { return nil }

func (s *session) clusterCommands() []*cli.Command { return nil }
