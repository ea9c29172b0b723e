// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

func init() {
	registerHook(&hook{
		sections: []string{"sk_lookup"},
		// The network namespace is that of the runner.
		attach: func(_ *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
			ns, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return nil, "", err
			}
			defer ns.Close()
			l, err := link.AttachNetNs(int(ns.Fd()), prog)
			if err != nil {
				return nil, "", err
			}
			target, err := os.Readlink("/proc/thread-self/ns/net")
			if err != nil {
				return nil, "", errors.Join(err, l.Close())
			}
			return l, target, nil
		},
	})
}
