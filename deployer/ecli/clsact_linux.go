// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// Before TCX (Linux 6.6), tc programs are filters of the queueing discipline
// clsact. Such a filter belongs to the interface, not to the process that made
// it, and outlives a runner that was killed. So each of ours carries in its name
// an owner, whose life anybody can judge: the owner holds an abstract unix
// socket of that name as long as it lives. Those sockets are of the network
// namespace, as the filters are, so that runners in Pods, which do not see each
// other's processes, see each other's life; the kernel closes them with the
// process, and no number is ever used twice, as process ids are.

// maxFilterName is what the kernel keeps of a filter's name
// (CLS_BPF_NAME_LEN of net/sched/cls_bpf.c, with the NUL).
const maxFilterName = 255

// A filterName is the name of a filter of ours.
type filterName struct {
	// token is the owner, an unforeseeable number in hex.
	token string
	// pid is the owner's process id in its own namespace, for people.
	pid int
	// madeQdisc is true when the filter's queueing discipline is ours: made by
	// its owner, or by an owner before it.
	madeQdisc bool
	program   string
}

const (
	filterPrefix = "ebpm"
	ownQdisc     = "own"
	otherQdisc   = "other"
)

func (n filterName) String() string {
	qdisc := otherQdisc
	if n.madeQdisc {
		qdisc = ownQdisc
	}
	s := fmt.Sprintf("%s:%s:%d:%s:%s", filterPrefix, n.token, n.pid, qdisc, n.program)
	return s[:min(len(s), maxFilterName)]
}

// parseFilterName reads the name of a filter; ok is false for a stranger's.
func parseFilterName(s string) (_ filterName, ok bool) {
	parts := strings.SplitN(s, ":", 5)
	if len(parts) != 5 || parts[0] != filterPrefix || parts[3] != ownQdisc && parts[3] != otherQdisc {
		return filterName{}, false
	}
	if token, err := hex.DecodeString(parts[1]); err != nil || len(token) != tokenSize || strings.ToLower(parts[1]) != parts[1] {
		return filterName{}, false
	}
	pid, err := strconv.ParseUint(parts[2], 10, 31)
	if err != nil {
		return filterName{}, false
	}
	return filterName{token: parts[1], pid: int(pid), madeQdisc: parts[3] == ownQdisc, program: parts[4]}, true
}

const tokenSize = 16

// An abstractSocket is a name of this network namespace that one process has at
// a time.
type abstractSocket struct{ fd int }

// newAbstractSocket returns one without a name, in the namespace of this thread.
func newAbstractSocket() (*abstractSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a unix socket: %w", err)
	}
	return &abstractSocket{fd}, nil
}

// take takes the name. It is EADDRINUSE when another process has it.
func (s *abstractSocket) take(name string) error {
	return unix.Bind(s.fd, &unix.SockaddrUnix{Name: "@" + name})
}

func (s *abstractSocket) Close() { _ = unix.Close(s.fd) }

func ownerSocket(token string) string { return "ebpm/tc/owner/" + token }

// ownerLives reports whether the owner of a filter of this thread's network
// namespace is alive, or may be.
func ownerLives(token string) bool {
	s, err := newAbstractSocket()
	if err != nil {
		return true
	}
	defer s.Close()
	return s.take(ownerSocket(token)) != nil
}

// lockClsact makes this process the only runner that adds filters to an
// interface or takes its queueing discipline away, so that none is taken away
// with another's new filter on it. It uses s up: close it to unlock. Whoever
// holds the lock does so for milliseconds; a process that holds it longer is
// none of ours and is not waited for: then locked is false.
func lockClsact(s *abstractSocket, ifindex int) (locked bool, err error) {
	name := fmt.Sprintf("ebpm/tc/lock/%d", ifindex)
	for end := time.Now().Add(clsactLockWait); ; time.Sleep(time.Millisecond) {
		err := s.take(name)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return false, fmt.Errorf("lock the queueing discipline: %w", err)
		}
		if time.Now().After(end) {
			return false, nil
		}
	}
}

const clsactLockWait = 2 * time.Second

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
