// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func init() {
	registerHook(&hook{
		sections: []string{"socket"},
		check: func(p *plannedProgram) error {
			if p.target != "" {
				return errors.New(`a socket filter has no target in its section; write SEC("socket")`)
			}
			_, err := parseInterface(p.meta.Extra["ifindex"])
			return err
		},
		identity: sameInterface(annotatedInterface),
		attach:   attachSocket,
	})
}

// attachSocket filters a packet socket (packet(7)) that sees all that the
// interface sends and receives, and that nobody reads: what the filter lets
// through fills the socket's buffer, and then is dropped.
func attachSocket(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	iface, err := namedInterface(p, "Choose one")
	if err != nil {
		return nil, "", err
	}
	// Protocol 0 receives nothing until it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open a packet socket: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "packet socket")
	fail := func(err error) (io.Closer, string, error) {
		_ = socket.Close()
		return nil, "", fmt.Errorf("network interface %s: %w", iface.Name, err)
	}
	// The kernel takes its own minimum.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil {
		return fail(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, prog.FD()); err != nil {
		return fail(err)
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index}); err != nil {
		return fail(err)
	}
	return socket, iface.Name, nil
}
