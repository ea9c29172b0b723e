// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"raw_tp", "raw_tracepoint", "raw_tp.w", "raw_tracepoint.w"},
		check: func(p *plannedProgram) error {
			if p.target == "" {
				return errors.New(`it names no tracepoint; write SEC("raw_tp/NAME")`)
			}
			return nil
		},
		attach: func(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
			l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: p.target, Program: prog})
			if errors.Is(err, os.ErrNotExist) {
				return nil, "", manifest.WithKind(manifest.KindPrecondition,
					fmt.Errorf("this kernel has no raw tracepoint %s", p.target),
					"The file /sys/kernel/tracing/available_events lists tracepoints; a raw one is named without its group.")
			}
			if err != nil {
				return nil, "", err
			}
			return l, p.target, nil
		},
	})
}
