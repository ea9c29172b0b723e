// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

func init() {
	registerHook(&hook{
		sections: []string{"iter", "iter.s"},
		check: func(p *plannedProgram) error {
			switch {
			case p.target == "":
				return errors.New(`it does not say over what; write SEC("iter/NAME"), such as iter/task`)
			case slices.Contains(iteratorsOfMaps, p.target):
				return errors.New("this runner does not attach iterators over the elements of a map")
			}
			return nil
		},
		// An iterator runs when its link is read. As with upstream it is attached
		// and not read.
		attach: func(p *plannedProgram, prog *ebpf.Program, o *Options) (io.Closer, string, error) {
			l, err := link.AttachIter(link.IterOptions{Program: prog})
			if err != nil {
				return nil, "", err
			}
			fmt.Fprintf(o.Stderr, "warning: program %s: the iterator is attached, but nobody reads it\n", TextFor(o.Stderr, p.name))
			return l, p.target, nil
		},
	})
}

// iteratorsOfMaps are the iterators that are attached to a map, Linux 5.8 to 5.10.
var iteratorsOfMaps = []string{"bpf_map_elem", "bpf_sk_storage_map", "sockmap"}
