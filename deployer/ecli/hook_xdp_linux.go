// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"xdp", "xdp.frags"},
		check: func(p *plannedProgram) error {
			if p.target != "" {
				return fmt.Errorf("programs of a %s are started by the map that holds them; only \"xdp\" and \"xdp.frags\" are attached", p.target)
			}
			_, err := xdpOptions(p.meta)
			return err
		},
		identity: sameInterface(func(p *plannedProgram) (netInterface, error) {
			x, err := xdpOptions(p.meta)
			return x.iface, err
		}),
		attach: attachXDP,
	})
}

// xdpExtras are what a package says of an XDP program.
type xdpExtras struct {
	iface netInterface
	flags link.XDPAttachFlags
}

// The flags of linux/if_link.h. Those of a mode are also a link's; a link never
// replaces a program, as XDP_FLAGS_UPDATE_IF_NOEXIST asks.
const (
	xdpUpdateIfNoExist = 1 << 0
	xdpModes           = 1<<1 | 1<<2 | 1<<3
)

func xdpOptions(meta *manifest.ProgMeta) (xdpExtras, error) {
	var x xdpExtras
	var err error
	if x.iface, err = parseInterface(meta.Extra["ifindex"]); err != nil {
		return x, err
	}
	var flags uint32
	if raw := meta.Extra["flags"]; raw != nil {
		if err := json.Unmarshal(raw, &flags); err != nil {
			return x, fmt.Errorf("flags %s: expected the number of the XDP_FLAGS", raw)
		}
	}
	if rest := flags &^ (xdpModes | xdpUpdateIfNoExist); rest != 0 {
		return x, fmt.Errorf("flags %d: of the XDP_FLAGS, those with the value %d cannot be used with a link", flags, rest)
	}
	x.flags = link.XDPAttachFlags(flags & xdpModes)
	var opts struct {
		OldProgFD int `json:"old_prog_fd"`
	}
	if raw := meta.Extra["xdpopts"]; raw != nil {
		if err := json.Unmarshal(raw, &opts); err != nil {
			return x, fmt.Errorf("xdpopts %s: %w", raw, err)
		}
	}
	if opts.OldProgFD != 0 {
		return x, fmt.Errorf("xdpopts: old_prog_fd %d is no program of this process; another's program is never replaced", opts.OldProgFD)
	}
	return x, nil
}

func attachXDP(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	x, err := xdpOptions(p.meta)
	if err != nil {
		return nil, "", err
	}
	iface, err := x.iface.find(p)
	if err != nil {
		return nil, "", err
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: iface.Index, Flags: x.flags})
	switch {
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST):
		return nil, "", manifest.WithKind(manifest.KindConflict,
			fmt.Errorf("network interface %s: another XDP program is attached%s", iface.Name, xdpProgramID(iface.Index)),
			"An interface has one XDP program at a time: detach that one, or choose another interface.")
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, "", manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("network interface %s: its driver does not run XDP programs in this mode (flags %d): %w", iface.Name, x.flags, err), "")
	case err != nil:
		return nil, "", fmt.Errorf("network interface %s: %w", iface.Name, err)
	}
	return l, iface.Name, nil
}

// xdpProgramID returns " (id N)" for the XDP program of an interface, and
// nothing where it cannot be told.
func xdpProgramID(ifindex int) string {
	const iflaXDPProgID = 4 // linux/if_link.h, Linux 4.12
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	if err != nil {
		return ""
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return ""
	}
	for _, m := range messages {
		if m.Header.Type != syscall.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg ||
			int(int32(binary.NativeEndian.Uint32(m.Data[4:]))) != ifindex {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return ""
		}
		for _, a := range attrs {
			if a.Attr.Type&^unix.NLA_F_NESTED != unix.IFLA_XDP {
				continue
			}
			for rest := a.Value; len(rest) >= unix.SizeofRtAttr; {
				size, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
				if size < unix.SizeofRtAttr || size > len(rest) {
					break
				}
				if kind == iflaXDPProgID && size >= 8 {
					return fmt.Sprintf(" (id %d)", binary.NativeEndian.Uint32(rest[4:]))
				}
				rest = rest[min((size+3)&^3, len(rest)):]
			}
		}
	}
	return ""
}
