// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// talkThrough puts one end of a connection into a map of sockets, and says
// something from that end and to it.
func talkThrough(sockets *ebpf.Map) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		return err
	}
	defer server.Close()
	raw, err := client.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = sockets.Put(uint32(0), uint32(fd)) })
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("put a socket into the map: %w", err)
	}
	_, toErr := client.Write([]byte("ping"))
	_, fromErr := server.Write([]byte("pong"))
	return errors.Join(toErr, fromErr)
}

func sockmapSpec(typ ebpf.MapType) *ebpf.MapSpec {
	return &ebpf.MapSpec{Type: typ, KeySize: 4, ValueSize: 4, MaxEntries: 2}
}

func TestSockmap(t *testing.T) {
	for _, tt := range []struct {
		section string
		typ     ebpf.ProgramType
		attach  ebpf.AttachType
		mapType ebpf.MapType
		verdict bool // a second program gives the verdict
	}{
		{"sk_msg", ebpf.SkMsg, ebpf.AttachSkMsgVerdict, ebpf.SockMap, false},
		{"sk_msg", ebpf.SkMsg, ebpf.AttachSkMsgVerdict, ebpf.SockHash, false},
		{"sk_skb/stream_verdict", ebpf.SkSKB, ebpf.AttachSkSKBStreamVerdict, ebpf.SockMap, false},
		{"sk_skb/verdict", ebpf.SkSKB, ebpf.AttachSkSKBVerdict, ebpf.SockHash, false},
		{"sk_skb/stream_parser", ebpf.SkSKB, ebpf.AttachSkSKBStreamParser, ebpf.SockMap, true},
	} {
		t.Run(tt.section+" "+tt.mapType.String(), func(t *testing.T) {
			h := hookTest{section: tt.section, typ: tt.typ, attach: tt.attach, returns: 1, noLink: true,
				maps:  map[string]*ebpf.MapSpec{"sockets": sockmapSpec(tt.mapType)},
				enter: func() { newNetns(t) },
				use: func(maps map[string]*ebpf.Map) error {
					if tt.verdict {
						pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SkSKB, AttachType: ebpf.AttachSkSKBStreamVerdict, License: "GPL",
							Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
						if err != nil {
							return err
						}
						defer pass.Close()
						if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: maps["sockets"].FD(), Program: pass, Attach: ebpf.AttachSkSKBStreamVerdict}); err != nil {
							return err
						}
					}
					return talkThrough(maps["sockets"])
				}}
			if target := h.fires(t); target != "sockets" {
				t.Errorf("attached to %s", target)
			}
		})
	}
}

func TestSockmapOf(t *testing.T) {
	one := map[string]*ebpf.MapSpec{"sockets": sockmapSpec(ebpf.SockMap)}
	two := map[string]*ebpf.MapSpec{"sockets": sockmapSpec(ebpf.SockMap), "peers": sockmapSpec(ebpf.SockHash)}
	for _, tt := range []struct {
		section, extra string
		maps           map[string]*ebpf.MapSpec
		want           string // the map, or else the error
	}{
		{"sk_msg", "", one, "sockets"},
		{"sk_msg", `{"sockmap":"peers"}`, two, "peers"},
		{"sk_msg", "", nil, "the object has no map of type BPF_MAP_TYPE_SOCKMAP"},
		{"sk_msg", "", two, "several maps of sockets: peers, sockets; say which one"},
		{"sk_msg", `{"sockmap":"events"}`, two, `sockmap "events" is no map of sockets of the object, which has peers, sockets`},
		{"sk_msg", `{"sockmap":1}`, one, "sockmap 1: expected the name of a map"},
		{"sk_skb", "", one, "it does not say when"},
	} {
		h := hookTest{section: tt.section, typ: ebpf.SkMsg, attach: ebpf.AttachSkMsgVerdict, extra: tt.extra, maps: tt.maps}
		if tt.section == "sk_skb" {
			h.attach = 0
		}
		p, _, err := h.plan(t)
		if err != nil {
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s %s: got %v, want %s", tt.section, tt.extra, err, tt.want)
			}
		} else if got, err := sockmapOf(&p.programs[0]); err != nil || got != tt.want {
			t.Errorf("%s %s: got %s, %v, want %s", tt.section, tt.extra, got, err, tt.want)
		}
	}
}

// TestTwoOnOneSockmap: the second program would take the place of the first.
func TestTwoOnOneSockmap(t *testing.T) {
	needRoot(t)
	h := hookTest{section: "sk_msg", typ: ebpf.SkMsg, attach: ebpf.AttachSkMsgVerdict, returns: 1, maps: map[string]*ebpf.MapSpec{"sockets": sockmapSpec(ebpf.SockMap)}}
	p, spec, err := h.plan(t)
	if err != nil {
		t.Fatal(err)
	}
	second := p.programs[0]
	second.spec = second.spec.Copy()
	second.spec.Name, second.name = "second", "second"
	spec.Programs["second"] = second.spec
	p.programs = append(p.programs, second)
	in, err := start(p, spec, &Options{Stdout: &buffer{}, Stderr: &buffer{}})
	if err == nil {
		_ = in.close()
		t.Fatal("both were attached")
	}
	if !strings.Contains(err.Error(), "program second (sk_msg): map sockets: another program of the package, probe, is attached to it") {
		t.Errorf("got %v", err)
	}
}

// sendRaw sends a packet from a packet socket, whose headers the kernel looks for.
func sendRaw() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	packet := make([]byte, 64)
	packet[12], packet[13], packet[14] = 0x08, 0x00, 0x45 // IPv4
	return unix.Sendto(fd, packet, 0, &unix.SockaddrLinklayer{Ifindex: loopback, Protocol: 0x0008})
}

func TestFlowDissector(t *testing.T) {
	var ns string
	h := hookTest{section: "flow_dissector", typ: ebpf.FlowDissector, attach: ebpf.AttachFlowDissector, trigger: sendRaw, enter: func() {
		newNetns(t)
		var err error
		if ns, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
			t.Error(err)
		}
	}}
	if target := h.fires(t); target != ns {
		t.Errorf("attached to %s, not %s", target, ns)
	}
}

// TestTwoFlowDissectors: a namespace has one.
func TestTwoFlowDissectors(t *testing.T) {
	needRoot(t)
	inNetns(t, func() {
		attach := func() (*instance, error) {
			h := hookTest{section: "flow_dissector", typ: ebpf.FlowDissector, attach: ebpf.AttachFlowDissector}
			p, spec, err := h.plan(t)
			if err != nil {
				return nil, err
			}
			return start(p, spec, &Options{Stdout: &buffer{}, Stderr: &buffer{}})
		}
		first, err := attach()
		if err != nil {
			t.Error(err)
			return
		}
		if second, err := attach(); err == nil {
			_ = second.close()
			t.Error("both were attached")
		} else if manifest.KindOf(err) != manifest.KindConflict || !strings.Contains(err.Error(), "another FlowDissector program is attached") {
			t.Errorf("got %v", err)
		}
		if err := first.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNetfilter(t *testing.T) {
	for _, tt := range []struct{ extra, want string }{
		{"", "NFPROTO_IPV4 NF_INET_LOCAL_IN priority 0"},
		{`{"netfilter":{"hooknum":"NF_INET_LOCAL_OUT","priority":-128}}`, "NFPROTO_IPV4 NF_INET_LOCAL_OUT priority -128"},
		{`{"netfilter":{"hooknum":"NF_INET_PRE_ROUTING","defrag":true}}`, "NFPROTO_IPV4 NF_INET_PRE_ROUTING priority 0"},
		{`{"netfilter":{"pf":"NFPROTO_IPV6","hooknum":"NF_INET_POST_ROUTING"}}`, "NFPROTO_IPV6 NF_INET_POST_ROUTING priority 0"},
	} {
		h := hookTest{section: "netfilter", typ: ebpf.Netfilter, attach: ebpf.AttachNetfilter, returns: 1, extra: tt.extra,
			enter: func() { newNetns(t) }, trigger: func() error { return errors.Join(ping(), talkUDP("::1")) }}
		if target := h.fires(t); target != tt.want {
			t.Errorf("attached to %s, want %s", target, tt.want)
		}
	}
	h := hookTest{section: "netfilter", typ: ebpf.Netfilter, attach: ebpf.AttachNetfilter, returns: 1,
		extra: `{"netfilter":{"priority":-2147483648}}`, enter: func() { newNetns(t) }}
	if err := h.refused(t); !strings.Contains(err.Error(), "NFPROTO_IPV4 NF_INET_LOCAL_IN priority -2147483648: ") {
		t.Errorf("got %v", err)
	}
}

// TestTwoNetfilters: a priority has one program.
func TestTwoNetfilters(t *testing.T) {
	needRoot(t)
	h := hookTest{section: "netfilter", typ: ebpf.Netfilter, attach: ebpf.AttachNetfilter, returns: 1}
	var firstErr error
	inNetns(t, func() {
		attach := func() (*instance, error) {
			p, spec, err := h.plan(t)
			if err != nil {
				return nil, err
			}
			return start(p, spec, &Options{Stdout: &buffer{}, Stderr: &buffer{}})
		}
		var first *instance
		if first, firstErr = attach(); firstErr != nil {
			return
		}
		if second, err := attach(); err == nil {
			_ = second.close()
			t.Error("both were attached")
		} else if manifest.KindOf(err) != manifest.KindConflict || !strings.Contains(err.Error(), "another program has that priority") {
			t.Errorf("got %v", err)
		}
		if err := first.close(); err != nil {
			t.Error(err)
		}
	})
	if firstErr != nil {
		skipLacking(t, h.section, firstErr)
		t.Error(firstErr)
	}
}

func TestNetfilterOptions(t *testing.T) {
	for extra, want := range map[string]string{
		`{"netfilter":{"hooknum":"INPUT"}}`:     `netfilter: hooknum "INPUT" is none of `,
		`{"netfilter":{"pf":"NFPROTO_ARP"}}`:    `netfilter: pf "NFPROTO_ARP" is neither`,
		`{"netfilter":{"priority":"first"}}`:    `netfilter {"priority":"first"}: `,
		`{"netfilter":{"priority":3000000000}}`: `netfilter {"priority":3000000000}: `,
	} {
		h := hookTest{section: "netfilter", typ: ebpf.Netfilter, attach: ebpf.AttachNetfilter, extra: extra}
		if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestNetkit(t *testing.T) {
	h := hookTest{section: "netkit/primary", typ: ebpf.SchedCLS, attach: ebpf.AttachNetkitPrimary, returns: -1, options: Options{Interface: "nk0"}}
	h.enter = func() {
		newNetns(t)
		pair := &netlink.Netkit{LinkAttrs: netlink.LinkAttrs{Name: "nk0"}, Mode: netlink.NETKIT_MODE_L3}
		pair.SetPeerAttrs(&netlink.LinkAttrs{Name: "nk1"})
		err := netlink.LinkAdd(pair)
		if errors.Is(err, unix.EOPNOTSUPP) {
			// The runner says itself that the kernel has no netkit.
			err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nk0"}, PeerName: "nk1"})
		}
		if err != nil {
			t.Error(err)
		}
	}
	h.trigger = func() error {
		for _, name := range []string{"nk0", "nk1"} {
			iface, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(iface); err != nil {
				return err
			}
			if name != "nk0" {
				continue
			}
			if err := netlink.AddrReplace(iface, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, 0, 1), Mask: net.CIDRMask(24, 32)}}); err != nil {
				return err
			}
		}
		conn, err := net.Dial("udp", "10.99.0.2:7727")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("ping"))
		return err
	}
	if target := h.fires(t); target != "nk0 primary" {
		t.Errorf("attached to %s", target)
	}
}

func TestNetkitRefused(t *testing.T) {
	h := hookTest{section: "netkit/peer", typ: ebpf.SchedCLS, attach: ebpf.AttachNetkitPeer, returns: -1, enter: func() { newNetns(t) }}
	if err := h.refused(t); manifest.KindOf(err) != manifest.KindUsage {
		t.Errorf("got %v", err)
	}
	h.options.Interface = "lo"
	if err := h.refused(t); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(err.Error(), "network interface lo") && !strings.Contains(err.Error(), "netkit") {
		t.Errorf("got %v (kind %d)", err, manifest.KindOf(err))
	}
	h.section = "netkit"
	if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), `SEC("netkit/primary")`) {
		t.Errorf("got %v", err)
	}
}

// TestXDPFrags: the program may be started for packets in several buffers.
func TestXDPFrags(t *testing.T) {
	h := hookTest{section: "xdp.frags", typ: ebpf.XDP, attach: ebpf.AttachXDP, flags: unix.BPF_F_XDP_HAS_FRAGS, returns: 2, enter: func() { newNetns(t) }, trigger: ping}
	if target := h.fires(t); target != "lo" {
		t.Errorf("attached to %s", target)
	}
	for section, typ := range map[string]ebpf.AttachType{"xdp/devmap": ebpf.AttachXDPDevMap, "xdp.frags/cpumap": ebpf.AttachXDPCPUMap} {
		h.section, h.attach = section, typ
		if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), "are started by the map that holds them") {
			t.Errorf("%s: got %v", section, err)
		}
	}
}

// newReplaceable loads an XDP program that consists of one function.
func newReplaceable(name, function string) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{btf.WithFuncMetadata(asm.Mov.Imm(asm.R0, 2), xdpFunction(function)), asm.Return()}})
}

// replaceable loads one for the time of the test.
func replaceable(t *testing.T, name, function string) {
	t.Helper()
	prog, err := newReplaceable(name, function)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = prog.Close() })
}

// xdpFunction is the type of int name(struct xdp_md *).
func xdpFunction(name string) *btf.Func {
	return &btf.Func{Name: name, Linkage: btf.GlobalFunc, Type: &btf.FuncProto{
		Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
		Params: []btf.FuncParam{{Name: "ctx", Type: &btf.Pointer{Target: &btf.Struct{Name: "xdp_md"}}}},
	}}
}

func TestFreplaceTarget(t *testing.T) {
	for extra, want := range map[string]string{
		`{"target":"main"}`: "main",
		`{"target":7}`:      "7",
		`{"target":"7"}`:    "7",
		``:                  "it does not say which loaded program has the function",
		`{"target":0}`:      "target 0: expected the name or the id",
		`{"target":""}`:     `target "": expected the name or the id`,
		`{"target":-1}`:     "target -1: expected",
		`{"target":["a"]}`:  `target ["a"]: expected`,
	} {
		meta := &manifest.ProgMeta{}
		if extra != "" {
			if err := json.Unmarshal([]byte(extra), &meta.Extra); err != nil {
				t.Fatal(err)
			}
		}
		got, err := replacedProgram(&plannedProgram{name: "probe", meta: meta})
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s", extra, got, want)
		}
	}
	h := hookTest{section: "freplace", typ: ebpf.Extension}
	if _, _, err := h.plan(t); err == nil || !strings.Contains(err.Error(), `SEC("freplace/FUNCTION")`) {
		t.Errorf("got %v", err)
	}
}

func TestFreplace(t *testing.T) {
	var id ebpf.ProgramID
	h := hookTest{section: "freplace/handle", typ: ebpf.Extension, to: "handle", function: xdpFunction("probe"), returns: 2,
		extra: `{"target":"ebpm_replaced"}`, trigger: ping, enter: func() {
			newNetns(t)
			eventually(t, "the program of an earlier run is gone", func() bool {
				earlier, err := findLoadedProgram("ebpm_replaced")
				if err == nil {
					_ = earlier.Close()
				}
				return err != nil && strings.Contains(err.Error(), "no loaded program")
			})
			// Its interface alone holds the program.
			prog, err := newReplaceable("ebpm_replaced", "handle")
			if err != nil {
				t.Error(err)
				return
			}
			defer prog.Close()
			if err := netlink.LinkSetXdpFd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: loopback}}, prog.FD()); err != nil {
				t.Error(err)
			}
			info, err := prog.Info()
			if err != nil {
				t.Error(err)
				return
			}
			id, _ = info.ID()
		}}
	if target, want := h.fires(t), fmt.Sprintf("handle of ebpm_replaced (id %d)", id); target != want {
		t.Errorf("attached to %s, want %s", target, want)
	}
	h.extra, h.options = "", at("ebpm_replaced")
	if target, want := h.fires(t), fmt.Sprintf("handle of ebpm_replaced (id %d)", id); target != want {
		t.Errorf("by the user's word attached to %s, want %s", target, want)
	}
}

func TestFreplaceRefused(t *testing.T) {
	needRoot(t)
	h := hookTest{section: "freplace/handle", typ: ebpf.Extension, to: "handle", extra: `{"target":"ebpm_nosuch"}`}
	if err := h.refused(t); !strings.Contains(err.Error(), "no loaded program has the name ebpm_nosuch") || manifest.KindOf(err) != manifest.KindPrecondition {
		t.Errorf("got %v", err)
	}
	for range 2 {
		replaceable(t, "ebpm_twins", "handle")
	}
	if prog, err := findLoadedProgram("ebpm_twins"); err == nil || !strings.Contains(err.Error(), "several loaded programs have the name ebpm_twins") {
		_ = prog.Close()
		t.Errorf("got %v", err)
	}
	long := "ebpm_longer_than_the_kernel_keeps"
	replaceable(t, long, long)
	replaceable(t, long+"_too", long+"_too")
	prog, err := findLoadedProgram(long)
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	if same, err := findLoadedProgram(fmt.Sprint(id)); err != nil {
		t.Error(err)
	} else {
		_ = same.Close()
	}
	if _, err := findLoadedProgram("4294967295"); err == nil || !strings.Contains(err.Error(), "open the program with the id 4294967295") {
		t.Errorf("got %v", err)
	}
}
