// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// A hook is a place in the kernel that programs are attached to. Each is in a
// file of its own, hook_NAME_linux.go, which puts it into the table.
type hook struct {
	// sections are the names that begin the ELF sections of its programs.
	sections []string
	// check refuses a section that does not say enough; nil takes all.
	check func(*plannedProgram) error
	// prepare changes a program before it is loaded; nil leaves it.
	prepare func(*plannedProgram, *Options) error
	// load loads a program that cilium/ebpf cannot; nil leaves it to that. The
	// kernel's types are nil where they are those of the running one.
	load func(p *plannedProgram, maps map[string]*ebpf.Map, kernel *btf.Spec) (*ebpf.Program, error)
	// explain says what the kernel's refusal to load a program means; nil has
	// nothing to say.
	explain func(*plannedProgram, error) error
	// identity tells apart what is of one name and another thing, such as the
	// file of a program before and after its upgrade; nil where names say all.
	identity func(*plannedProgram, *Options) (string, error)
	// gated is true of a program that this kernel does not attach by descriptors
	// alone; nil is of none.
	gated func(*plannedProgram) bool
	// structOf says which struct of programs the program is in, and the place that
	// is told to users; nil of hooks whose programs are attached one by one.
	structOf func(*plannedProgram) (name, target string, err error)
	// attach attaches a loaded program until the closer is closed, and says to
	// what, such as "eth0". It is nil of hooks that check refuses.
	attach func(*plannedProgram, *ebpf.Program, *Options) (link io.Closer, target string, err error)
}

var hooks []*hook

func registerHook(h *hook) { hooks = append(hooks, h) }
