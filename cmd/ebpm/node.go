// SPDX-License-Identifier: Apache-2.0

//go:build node

package main

import "github.com/urfave/cli/v2"

// The program in the container image pulls, verifies and runs. It is built
// without the commands that know Kubernetes, whose client is three quarters of
// the other one's size, and no part of what a node should have to trust.
const unknownCommandHint = " (this is the ebpm of the container image, which has no commands for clusters)"

func (s *session) clusterCommands() []*cli.Command { return nil }
