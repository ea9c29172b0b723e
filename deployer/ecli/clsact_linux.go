// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// sweepClsact takes away what runners that were killed left on the interfaces
// of this thread's network namespace, and returns a sentence for each interface
// that it swept. What others made stays.
func sweepClsact(sockets *netlinkSockets) (swept []string, err error) {
	qdiscs, err := sockets.ingressQdiscs()
	if err != nil {
		return nil, err
	}
	for _, q := range qdiscs {
		n, err := sweepInterface(&clsact{sockets, q.ifindex})
		if err != nil {
			return swept, fmt.Errorf("%s: %w", interfaceName(q.ifindex), err)
		}
		if n > 0 {
			swept = append(swept, fmt.Sprintf("%s: removed tc filters that a killed runner left: %d", interfaceName(q.ifindex), n))
		}
	}
	return swept, nil
}

func sweepInterface(c *clsact) (n int, err error) {
	list, err := c.filters(bothDirections...)
	if err != nil {
		return 0, err
	}
	dead := map[string]bool{}
	for _, f := range list {
		if name, ok := f.owner(); ok && !dead[name.token] && !ownerLives(name.token) {
			dead[name.token] = true
		}
	}
	if len(dead) == 0 {
		return 0, nil
	}
	lock, err := newAbstractSocket()
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	locked, err := lockClsact(lock, c.ifindex)
	if err != nil {
		return 0, err
	}
	err = c.remove(func(_ *tcFilter, name filterName) bool {
		if dead[name.token] {
			n++
		}
		return dead[name.token]
	}, locked)
	return n, err
}

func interfaceName(ifindex int) string {
	if iface, err := net.InterfaceByIndex(ifindex); err == nil {
		return "network interface " + iface.Name
	}
	return fmt.Sprintf("network interface %d", ifindex)
}

// A clsactFilter is an attached program.
type clsactFilter struct {
	clsact
	name string
	prog uint32 // the program's id
	// held is the owner's socket.
	held *abstractSocket
	// lock is of the filter's network namespace, for when it is taken away.
	lock *abstractSocket
}

// attachClsact attaches a program as a filter of clsact, which it makes where it
// is missing.
func attachClsact(iface *net.Interface, x tcExtras, program string, prog *ebpf.Program, o *Options) (_ *clsactFilter, err error) {
	info, err := prog.Info()
	if err != nil {
		return nil, err
	}
	id, _ := info.ID()
	sockets, err := openNetlink()
	if err != nil {
		return nil, err
	}
	f := &clsactFilter{clsact: clsact{sockets, iface.Index}, prog: uint32(id)}
	defer func() {
		if err != nil {
			f.release()
		}
	}()
	swept, err := sweepClsact(sockets)
	if err != nil {
		// What is left of others may be on an interface that is not this one's.
		swept = append(swept, fmt.Sprintf("remove what killed runners left: %v", err))
	}
	for _, s := range swept {
		fmt.Fprintf(o.Stderr, "warning: %s\n", TextFor(o.Stderr, s))
	}
	var random [tokenSize]byte
	_, _ = rand.Read(random[:]) // never fails
	name := filterName{token: hex.EncodeToString(random[:]), pid: os.Getpid(), program: program}
	if f.held, err = newAbstractSocket(); err != nil {
		return nil, err
	}
	if err := f.held.take(ownerSocket(name.token)); err != nil {
		return nil, fmt.Errorf("say whose the filter is: %w", err)
	}
	if f.lock, err = newAbstractSocket(); err != nil {
		return nil, err
	}
	lock, err := newAbstractSocket()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if _, err := lockClsact(lock, iface.Index); err != nil {
		return nil, err
	}
	made, err := f.makeQdisc(x)
	if err != nil {
		return nil, err
	}
	name.madeQdisc = made
	if !made {
		// What an owner before this one made is this one's to remove, if it is
		// the last.
		list, err := f.filters(bothDirections...)
		if err != nil {
			return nil, err
		}
		name.madeQdisc = slices.ContainsFunc(list, func(f tcFilter) bool {
			n, ok := f.owner()
			return ok && n.madeQdisc
		})
	}
	f.name = name.String()
	if err := f.add(x, prog, o); err != nil {
		if made {
			err = errors.Join(err, f.removeQdisc())
		}
		return nil, err
	}
	return f, nil
}

// makeQdisc makes clsact, and reports whether it was missing.
func (f *clsactFilter) makeQdisc(x tcExtras) (made bool, err error) {
	err = f.QdiscAdd(f.qdisc())
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP):
		return false, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("add the queueing discipline clsact: %w", err),
			"This kernel has neither TCX links (Linux 6.6) nor clsact (Linux 4.5, CONFIG_NET_SCH_INGRESS).")
	case !errors.Is(err, unix.EEXIST):
		return false, fmt.Errorf("add the queueing discipline clsact: %w", err)
	}
	qdiscs, err := f.ingressQdiscs()
	if err != nil {
		return false, err
	}
	for _, q := range qdiscs {
		// There the kernel takes a filter of either direction for one of ingress.
		if q.ifindex == f.ifindex && q.kind != "clsact" && x.attach == ebpf.AttachTCXEgress {
			return false, manifest.WithKind(manifest.KindConflict,
				fmt.Errorf("the queueing discipline %s is in the place of clsact, and has no egress", q.kind),
				fmt.Sprintf("Replace it: tc qdisc del dev INTERFACE %s, tc qdisc add dev INTERFACE clsact.", q.kind))
		}
	}
	return false, nil
}

// add adds the filter; where another is in its place, the error names that one.
// The place of a live runner's filter is not an error, since an upgrade runs
// beside what it replaces, as TCX allows it: the kernel chooses another handle.
func (f *clsactFilter) add(x tcExtras, prog *ebpf.Program, o *Options) error {
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: f.ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: x.handle,
			Priority: uint16(x.priority), Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: f.name, DirectAction: true,
	}
	if x.attach == ebpf.AttachTCXEgress {
		filter.Parent = netlink.HANDLE_MIN_EGRESS
	}
	err := f.FilterAdd(filter)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("add a tc filter of the kind bpf: %w", err),
			"This kernel has neither TCX links (Linux 6.6) nor the filter cls_bpf (CONFIG_NET_CLS_BPF).")
	}
	list, listErr := f.filters(filter.Parent)
	if listErr != nil {
		return errors.Join(fmt.Errorf("add a tc filter: %w", err), listErr)
	}
	// EEXIST is another filter of that handle; EINVAL is one of another kind or
	// protocol, which has the priority for itself.
	i := slices.IndexFunc(list, func(other tcFilter) bool {
		return int(other.Priority) == x.priority && (errors.Is(err, unix.EEXIST) && other.Handle == x.handle || errors.Is(err, unix.EINVAL))
	})
	if i < 0 {
		return fmt.Errorf("add a tc filter: %w", err)
	}
	if _, ours := list[i].owner(); ours && errors.Is(err, unix.EEXIST) {
		fmt.Fprintf(o.Stderr, "warning: tc filter handle %#x of priority %d is that of another runner, the kernel chooses another handle\n", x.handle, x.priority)
		filter.Handle = 0
		if err := f.FilterAdd(filter); err != nil {
			return fmt.Errorf("add a tc filter: %w", err)
		}
		return nil
	}
	return manifest.WithKind(manifest.KindConflict,
		fmt.Errorf("another tc filter is in its place, %s: %w", &list[i], err),
		"Remove that one (tc filter del), or compile the program with another handle or priority in its tcopts.")
}

// Close takes the filter away, and clsact if it is ours and nothing else is on it.
func (f *clsactFilter) Close() error {
	defer f.release()
	locked, err := lockClsact(f.lock, f.ifindex)
	if err != nil {
		return err
	}
	return f.remove(func(other *tcFilter, _ filterName) bool {
		return other.name == f.name && other.prog == f.prog
	}, locked)
}

// release closes what the filter needs, but not the filter.
func (f *clsactFilter) release() {
	f.netlinkSockets.Close()
	for _, s := range []*abstractSocket{f.held, f.lock} {
		if s != nil {
			s.Close()
		}
	}
}
