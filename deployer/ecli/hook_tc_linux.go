// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

func init() {
	registerHook(&hook{
		sections: []string{"tc", "tcx", "classifier"},
		check: func(p *plannedProgram) error {
			x, err := tcOptions(p)
			p.order = x.priority
			return err
		},
		identity: sameInterface(func(p *plannedProgram) (netInterface, error) {
			x, err := tcOptions(p)
			return x.iface, err
		}),
		// A filter of clsact is no descriptor.
		gated:  func(*plannedProgram) bool { return !hasTCX() },
		attach: attachTC,
	})
}

// tcExtras say where a program is attached.
type tcExtras struct {
	iface  netInterface
	attach ebpf.AttachType
	// priority is the lower the earlier the program runs. With 0, the kernel
	// chooses one for a filter.
	priority int
	// handle is the filter's number among those of its priority. With 0, the
	// kernel chooses a free one. A TCX link has none.
	handle uint32
}

// tcOptions reads the section and what the package says of the program.
func tcOptions(p *plannedProgram) (tcExtras, error) {
	x := tcExtras{attach: ebpf.AttachTCXIngress, priority: 1}
	if raw := p.meta.Extra["tcopts"]; raw != nil {
		opts := struct {
			Handle   uint32  `json:"handle"`
			Priority *uint16 `json:"priority"`
		}{}
		if err := json.Unmarshal(raw, &opts); err != nil {
			return x, fmt.Errorf("tcopts %s: %w", raw, err)
		}
		x.handle = opts.Handle
		if opts.Priority != nil {
			x.priority = int(*opts.Priority)
		}
	}
	var hook struct {
		Ifindex     json.RawMessage `json:"ifindex"`
		AttachPoint string          `json:"attach_point"`
	}
	if raw := p.meta.Extra["tchook"]; raw != nil {
		if err := json.Unmarshal(raw, &hook); err != nil {
			return x, fmt.Errorf("tchook %s: %w", raw, err)
		}
	}
	var err error
	if x.iface, err = parseInterface(hook.Ifindex); err != nil {
		return x, fmt.Errorf("tchook: %w", err)
	}
	var said ebpf.AttachType
	switch hook.AttachPoint {
	case "":
	case "BPF_TC_INGRESS":
		said = ebpf.AttachTCXIngress
	case "BPF_TC_EGRESS":
		said = ebpf.AttachTCXEgress
	case "BPF_TC_CUSTOM":
		return x, errors.New("tchook: attach_point BPF_TC_CUSTOM is below a queueing discipline of one's own; a link is on an interface: BPF_TC_INGRESS or BPF_TC_EGRESS")
	default:
		return x, fmt.Errorf("tchook: attach_point %q is neither BPF_TC_INGRESS nor BPF_TC_EGRESS", hook.AttachPoint)
	}
	switch p.target {
	case "":
		if said != ebpf.AttachNone {
			x.attach = said
		}
		return x, nil
	case "ingress":
	case "egress":
		x.attach = ebpf.AttachTCXEgress
	default:
		return x, fmt.Errorf("%q is neither ingress nor egress", p.target)
	}
	if said != ebpf.AttachNone && said != x.attach {
		return x, fmt.Errorf("tchook: attach_point %s is not that of the section", hook.AttachPoint)
	}
	return x, nil
}

func attachTC(p *plannedProgram, prog *ebpf.Program, o *Options) (io.Closer, string, error) {
	x, err := tcOptions(p)
	if err != nil {
		return nil, "", err
	}
	iface, err := x.iface.find(p)
	if err != nil {
		return nil, "", err
	}
	direction := "ingress"
	if x.attach == ebpf.AttachTCXEgress {
		direction = "egress"
	}
	var l io.Closer
	l, err = attachTCX(link.TCXOptions{Interface: iface.Index, Program: prog, Attach: x.attach})
	if errors.Is(err, ebpf.ErrNotSupported) {
		l, err = attachClsact(iface, x, p.name, prog, o)
	}
	if err != nil {
		return nil, "", fmt.Errorf("network interface %s: %w", iface.Name, err)
	}
	return l, iface.Name + " " + direction, nil
}

// These are variables so that tests can do without TCX, which Linux has since 6.6.
var (
	attachTCX = link.AttachTCX
	hasTCX    = func() bool { return !olderThan("6.6") }
)
