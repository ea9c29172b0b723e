// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

func init() {
	registerHook(&hook{
		sections: []string{"tp_btf"},
		check: func(p *plannedProgram) error {
			if p.target == "" {
				return errors.New(`it names no tracepoint; write SEC("tp_btf/NAME")`)
			}
			return nil
		},
		// The tracepoint was found when the program was loaded: the verifier
		// knows its arguments from the kernel's types.
		attach: func(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
			l, err := link.AttachTracing(link.TracingOptions{Program: prog, AttachType: ebpf.AttachTraceRawTp})
			if err != nil {
				return nil, "", err
			}
			return l, p.target, nil
		},
	})
}
