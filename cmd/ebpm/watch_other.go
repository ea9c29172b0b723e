// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"context"

	"github.com/ebpm/ebpm/deployer/ecli"
)

// watch says that programs run on Linux only.
func (s *session) watch(ctx context.Context, _ string, _ bool, o ecli.Options) error {
	return ecli.Run(ctx, o)
}
