// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"io"
	"time"

	"github.com/ebpm/ebpm/manifest"
)

// Options say what [Run] runs and how.
type Options struct {
	// Package is the package to run.
	Package *manifest.Package
	// Args are the arguments of the program, which are made from its global
	// variables.
	Args []string
	// JSON prints one JSON object a line instead of a table.
	JSON bool
	// Stdout takes the events, Stderr what else there is to say.
	Stdout, Stderr io.Writer
	// Root is the folder in which the targets of uprobes are looked for, links
	// included; they never lead out of it. Empty is this process's own root.
	Root string
	// Interface is the name of the network interface that programs are attached
	// to, if their hook is on one. Empty is the one that the package names; XDP
	// and tc take lo where it names none.
	Interface string
	// KernelBTF is raw BTF of the running kernel, for where the kernel shows none
	// and BTF_FILE_PATH names none.
	KernelBTF []byte
	// ReadySocket is the path of the unix socket that is there from when every
	// program is attached until they are detached. Empty is none.
	ReadySocket string
	// Status is told of each change; nil writes the record as a line to
	// Stderr, for programs, and none where that is a terminal.
	Status func(manifest.Status)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}
