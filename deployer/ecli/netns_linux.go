// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// attachNetns attaches to the network namespace of the runner.
func attachNetns(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, "", err
	}
	defer ns.Close()
	target, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil, "", err
	}
	l, err := link.AttachNetNs(int(ns.Fd()), prog)
	switch {
	case errors.Is(err, unix.EEXIST) || errors.Is(err, unix.E2BIG):
		// A namespace has one flow dissector, and the first namespace's is for all.
		return nil, "", manifest.WithKind(manifest.KindConflict,
			fmt.Errorf("network namespace %s: another %s program is attached: %w", target, p.spec.Type, err),
			"bpftool net and bpftool link show it; end whatever attached it.")
	case errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL):
		return nil, "", manifest.WithKind(manifest.KindPrecondition,
			fmt.Errorf("network namespace %s: %w", target, err), fmt.Sprintf(
				"This runner attaches %s programs by links, which Linux has since %s.", p.spec.Type, netnsLinks[p.spec.Type]))
	case err != nil:
		return nil, "", fmt.Errorf("network namespace %s: %w", target, err)
	}
	return l, target, nil
}

// netnsLinks are the first kernels that attach programs to network namespaces
// by links.
var netnsLinks = map[ebpf.ProgramType]string{ebpf.FlowDissector: "5.8", ebpf.SkLookup: "5.9"}
