// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"io"
	"sync"
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
	// Header is what stands above the lines on Stdout, for instances that print
	// there one after the other: each prints its own only where that differs. Nil is
	// one that nobody else uses.
	Header *Header
	// Root is the folder in which the targets of uprobes are looked for, links
	// included; they never lead out of it. Empty is this process's own root.
	Root string
	// Attach are the places of single programs, which [manifest.Targets] reads.
	Attach []manifest.Attach
	// Interface is a place for the programs that are attached to a network
	// interface and that Attach does not name. Without either it is the one that
	// the package names; XDP and tc take lo where it names none.
	Interface string
	// KernelBTF is raw BTF of the running kernel, for where the kernel shows none
	// and BTF_FILE_PATH names none.
	KernelBTF []byte
	// OptionalBTF passes by a file that BTF_FILE_PATH names and that is not there,
	// where the kernel shows its types: each Pod of a release has the variable, and
	// the file is only where it is needed.
	OptionalBTF bool
	// ReadySocket is the path of the unix socket that is there from when every
	// program is attached until they are detached. Empty is none.
	ReadySocket string
	// Handover is the folder in which the instances of one release on this node
	// meet, so that one takes over from the other without losing an event. Empty
	// is none.
	Handover string
	// Revision says which of two instances follows the other: the one with the
	// higher number. It matters with Handover alone.
	Revision uint64
	// Carry are the maps that outlive this instance with Handover.
	Carry manifest.Carry
	// ResetState lets maps start empty whose layout is not that of the instance
	// that runs; without it such an instance is not taken over from.
	ResetState bool
	// Hung ends the process when a handover does not come to its end; it is needed
	// with Handover.
	Hung func(error)
	// Step is told of each step of a handover; nil tells nobody. It is there for
	// tests that end the process between two of them.
	Step func(string)
	// Status is told of each change; nil writes the record as a line to
	// Stderr, for programs, and none where that is a terminal.
	Status func(manifest.Status)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// A Header remembers what was printed above the lines of an output.
type Header struct {
	mu   sync.Mutex
	text string
}

// replace reports whether text is not what was printed last, and takes it as
// printed.
func (h *Header) replace(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.text
	h.text = text
	return text != old
}
