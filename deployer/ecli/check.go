// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"

	"github.com/ebpm/ebpm/manifest"
)

// CheckArgs reports whether the program that meta describes takes these
// arguments to run, for whoever starts it somewhere else: an option that it does
// not have, or --help, is an error of [manifest.KindUsage]. Whether a value fits
// its variable only the object's BTF says, which the runner asks.
func CheckArgs(meta *manifest.Meta, args []string) error {
	line, err := newCommandLine(meta)
	if err != nil {
		return err
	}
	_, asked, err := line.parse(args)
	if err != nil {
		return manifest.WithKind(manifest.KindUsage, fmt.Errorf("arguments of the program: %w", err), "Its options:\n"+line.helpText())
	}
	if asked != requestRun {
		return manifest.WithKind(manifest.KindUsage, errors.New("arguments of the program: it would print a text and end"), "Its options:\n"+line.helpText())
	}
	return nil
}
