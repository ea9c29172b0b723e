// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A clsact is the queueing discipline of one interface.
type clsact struct {
	*netlinkSockets
	ifindex int
}

func (c *clsact) qdisc() netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: c.ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// A tcFilter is a filter of whatever kind.
type tcFilter struct {
	netlink.FilterAttrs
	kind string
	name string // of a program
	prog uint32 // id of the program
}

// String names a filter as tc filter show does.
func (f *tcFilter) String() string {
	s := fmt.Sprintf("pref %d handle %#x %s", f.Priority, f.Handle, f.kind)
	if f.prog != 0 {
		s += fmt.Sprintf(" %s (program %d)", f.name, f.prog)
	}
	return s
}

// owner returns the name of a filter of ours.
func (f *tcFilter) owner() (filterName, bool) {
	if f.kind != "bpf" {
		return filterName{}, false
	}
	return parseFilterName(f.name)
}

// filters returns all filters of the given directions. Unlike netlink's own
// list it has filters of each kind, and so never takes one for absent.
func (c *clsact) filters(parents ...uint32) ([]tcFilter, error) {
	var all []tcFilter
	for _, parent := range parents {
		messages, err := c.dump(unix.RTM_GETTFILTER, unix.RTM_NEWTFILTER, &nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(c.ifindex), Parent: parent})
		if err != nil {
			return nil, fmt.Errorf("list the tc filters: %w", err)
		}
		for _, m := range messages {
			f, err := parseFilter(m)
			if err != nil {
				return nil, fmt.Errorf("list the tc filters: %w", err)
			}
			// One without a handle stands for all of its priority, which follow.
			if f.Handle != 0 {
				all = append(all, f)
			}
		}
	}
	return all, nil
}

// routeAttrs reads the attributes of a message. The library counts on the padding of
// the last one, which b may lack.
func routeAttrs(b []byte) ([]syscall.NetlinkRouteAttr, error) {
	return nl.ParseRouteAttr(append(slices.Clip(b), make([]byte, -len(b)&3)...))
}

func parseFilter(m []byte) (tcFilter, error) {
	if len(m) < nl.SizeofTcMsg {
		return tcFilter{}, io.ErrUnexpectedEOF
	}
	msg := nl.DeserializeTcMsg(m)
	f := tcFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: int(msg.Ifindex), Handle: msg.Handle, Parent: msg.Parent}}
	f.Priority, f.Protocol = netlink.MajorMinor(msg.Info)
	f.Protocol = nl.Swap16(f.Protocol)
	attrs, err := routeAttrs(m[nl.SizeofTcMsg:])
	if err != nil {
		return f, err
	}
	var options []byte
	for _, a := range attrs {
		switch a.Attr.Type {
		case nl.TCA_KIND:
			f.kind = unix.ByteSliceToString(a.Value)
		case nl.TCA_CHAIN:
			if len(a.Value) == 4 {
				chain := binary.NativeEndian.Uint32(a.Value)
				f.Chain = &chain
			}
		case nl.TCA_OPTIONS:
			options = a.Value
		}
	}
	if f.kind != "bpf" {
		return f, nil
	}
	if attrs, err = routeAttrs(options); err != nil {
		return f, err
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == nl.TCA_BPF_NAME:
			f.name = unix.ByteSliceToString(a.Value)
		case a.Attr.Type == nl.TCA_BPF_ID && len(a.Value) == 4:
			f.prog = binary.NativeEndian.Uint32(a.Value)
		}
	}
	return f, nil
}

// bothDirections are those of clsact.
var bothDirections = []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS}

// remove takes away the filters for which gone is true, and nobody else's. If
// one of them says that the queueing discipline is ours, and nothing is on it
// any more, it goes too, unless mayRemoveQdisc is false. Callers hold the lock.
func (c *clsact) remove(gone func(*tcFilter, filterName) bool, mayRemoveQdisc bool) error {
	list, err := c.filters(bothDirections...)
	if err != nil {
		return err
	}
	made, rest := false, 0
	for _, f := range list {
		name, ok := f.owner()
		if !ok || !gone(&f, name) {
			rest++
			continue
		}
		if err := c.FilterDel(&netlink.BpfFilter{FilterAttrs: f.FilterAttrs, Fd: -1}); err != nil && !isGone(err) {
			return fmt.Errorf("remove the tc filter %s: %w", &f, err)
		}
		made = made || name.madeQdisc
	}
	if !made || rest > 0 || !mayRemoveQdisc {
		return nil
	}
	return c.removeQdisc()
}

// removeQdisc takes clsact away if nothing is on it.
func (c *clsact) removeQdisc() error {
	if list, err := c.filters(bothDirections...); err != nil || len(list) > 0 {
		return err
	}
	if err := c.QdiscDel(c.qdisc()); err != nil && !isGone(err) {
		return fmt.Errorf("remove the queueing discipline clsact: %w", err)
	}
	return nil
}

// isGone reports whether there is nothing to remove any more: no such filter,
// interface or queueing discipline.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

// netlinkSockets are of the network namespace in which they were opened,
// whatever thread uses them.
type netlinkSockets struct {
	*netlink.Handle
	dumps *nl.SocketHandle
}

func openNetlink() (*netlinkSockets, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &netlinkSockets{h, &nl.SocketHandle{Socket: s}}, nil
}

func (s *netlinkSockets) Close() {
	s.Handle.Close()
	s.dumps.Close()
}

// dump returns all messages of one type.
func (s *netlinkSockets) dump(request, reply uint16, header nl.NetlinkRequestData) ([][]byte, error) {
	// The kernel says when something changed while it wrote the list.
	for try := 0; ; try++ {
		r := nl.NewNetlinkRequest(int(request), unix.NLM_F_DUMP)
		r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: s.dumps}
		r.AddData(header)
		messages, err := r.Execute(unix.NETLINK_ROUTE, reply)
		if errors.Is(err, nl.ErrDumpInterrupted) && try < 10 {
			continue
		}
		return messages, err
	}
}

// A tcQdisc is a queueing discipline.
type tcQdisc struct {
	ifindex int
	handle  uint32
	kind    string
}

// ingressQdiscs returns the queueing disciplines at the place of clsact, of all
// interfaces: clsact, and its elder ingress.
func (s *netlinkSockets) ingressQdiscs() ([]tcQdisc, error) {
	messages, err := s.dump(unix.RTM_GETQDISC, unix.RTM_NEWQDISC, &nl.TcMsg{Family: nl.FAMILY_ALL})
	if err != nil {
		return nil, fmt.Errorf("list the queueing disciplines: %w", err)
	}
	var all []tcQdisc
	for _, m := range messages {
		if len(m) < nl.SizeofTcMsg {
			continue
		}
		msg := nl.DeserializeTcMsg(m)
		attrs, err := routeAttrs(m[nl.SizeofTcMsg:])
		if err != nil {
			return nil, fmt.Errorf("list the queueing disciplines: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == nl.TCA_KIND && msg.Parent == netlink.HANDLE_CLSACT {
				all = append(all, tcQdisc{int(msg.Ifindex), msg.Handle, unix.ByteSliceToString(a.Value)})
			}
		}
	}
	return all, nil
}
