// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"netfilter"},
		check: func(p *plannedProgram) error {
			if p.target != "" {
				return errors.New(`a netfilter program has no target in its section; write SEC("netfilter"), and the place in a comment above it: /// @netfilter {"hooknum":"NF_INET_LOCAL_IN"}`)
			}
			_, err := netfilterOptions(p.meta)
			return err
		},
		prepare: func(p *plannedProgram, _ *Options) error { return needProgramType(p, "6.4") },
		attach:  attachNetfilter,
	})
}

// The places of linux/netfilter.h that the kernel takes programs in, by number.
var (
	netfilterFamilies = map[string]link.NetfilterProtocolFamily{
		"NFPROTO_IPV4": link.NetfilterProtoIPv4,
		"NFPROTO_IPV6": link.NetfilterProtoIPv6,
	}
	netfilterHooks = []string{
		"NF_INET_PRE_ROUTING", "NF_INET_LOCAL_IN", "NF_INET_FORWARD", "NF_INET_LOCAL_OUT", "NF_INET_POST_ROUTING",
	}
)

// netfilterExtras say where a program is attached.
type netfilterExtras struct {
	pf, hooknum string
	priority    int32
	defrag      bool
}

// netfilterOptions reads what the package says in "netfilter":
// {"pf","hooknum","priority","defrag"}. The default are the IPv4 packets to this
// machine, with the priority of filters, 0.
func netfilterOptions(meta *manifest.ProgMeta) (netfilterExtras, error) {
	x := struct {
		PF       string `json:"pf"`
		Hooknum  string `json:"hooknum"`
		Priority int32  `json:"priority"`
		Defrag   bool   `json:"defrag"`
	}{PF: "NFPROTO_IPV4", Hooknum: "NF_INET_LOCAL_IN"}
	if raw := meta.Extra["netfilter"]; raw != nil {
		if err := json.Unmarshal(raw, &x); err != nil {
			return netfilterExtras{}, fmt.Errorf("netfilter %s: %w", raw, err)
		}
	}
	if _, ok := netfilterFamilies[x.PF]; !ok {
		return netfilterExtras{}, fmt.Errorf("netfilter: pf %q is neither NFPROTO_IPV4 nor NFPROTO_IPV6", x.PF)
	}
	if !slices.Contains(netfilterHooks, x.Hooknum) {
		return netfilterExtras{}, fmt.Errorf("netfilter: hooknum %q is none of %q", x.Hooknum, netfilterHooks)
	}
	return netfilterExtras{x.PF, x.Hooknum, x.Priority, x.Defrag}, nil
}

// netfilterDefrag is BPF_F_NETFILTER_IP_DEFRAG of linux/bpf.h, Linux 6.6.
const netfilterDefrag = 1 << 0

// attachNetfilter attaches in the network namespace of the runner.
func attachNetfilter(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	x, err := netfilterOptions(p.meta)
	if err != nil {
		return nil, "", err
	}
	target := fmt.Sprintf("%s %s priority %d", x.pf, x.hooknum, x.priority)
	opts := link.NetfilterOptions{
		Program: prog, ProtocolFamily: netfilterFamilies[x.pf],
		Hook: link.NetfilterInetHook(slices.Index(netfilterHooks, x.hooknum)), Priority: x.priority,
	}
	if x.defrag {
		opts.NetfilterFlags = netfilterDefrag
	}
	l, err := link.AttachNetfilter(opts)
	switch {
	case errors.Is(err, unix.EBUSY) || errors.Is(err, os.ErrExist):
		return nil, "", manifest.WithKind(manifest.KindConflict,
			fmt.Errorf("%s: another program has that priority: %w", target, err),
			`Choose another one in a comment above the program: /// @netfilter {"priority":N}.`)
	case errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP):
		return nil, "", manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("%s: %w", target, err),
			"This kernel was built without netfilter links (CONFIG_NETFILTER_BPF_LINK) or that protocol.")
	case err != nil:
		return nil, "", fmt.Errorf("%s: %w", target, err)
	}
	return l, target, nil
}
