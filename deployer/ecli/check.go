// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"

	"github.com/ebpm/ebpm/manifest"
)

// CheckArgs reports whether the program of p takes these arguments to run, for
// whoever starts it somewhere else: an argument that it refuses, or --help, is
// an error of [manifest.KindUsage].
func CheckArgs(p *manifest.Package, args []string) error {
	line, err := newCommandLine(&p.Meta)
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
