// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"netkit"},
		check: func(p *plannedProgram) error {
			if p.target != "primary" && p.target != "peer" {
				return errors.New(`write SEC("netkit/primary") or SEC("netkit/peer")`)
			}
			_, err := parseInterface(p.meta.Extra["ifindex"])
			return err
		},
		identity: sameInterface(annotatedInterface),
		attach:   attachNetkit,
	})
}

// attachNetkit attaches to a pair of netkit devices, which is named by its
// primary one.
func attachNetkit(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	iface, err := namedInterface(p, "Choose one of the kind netkit")
	if err != nil {
		return nil, "", err
	}
	l, err := link.AttachNetkit(link.NetkitOptions{Interface: iface.Index, Program: prog, Attach: p.spec.AttachType})
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		return nil, "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("network interface %s: %w", iface.Name, err),
			"Linux has netkit since 6.7, where it is built with CONFIG_NETKIT.")
	case errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EACCES):
		return nil, "", manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("network interface %s is not the primary device of a netkit pair: %w", iface.Name, err),
			"ip -d link show type netkit lists them.")
	case err != nil:
		return nil, "", fmt.Errorf("network interface %s: %w", iface.Name, err)
	}
	return l, iface.Name + " " + p.target, nil
}
