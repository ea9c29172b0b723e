// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Networks are the address ranges of a cluster.
type Networks struct {
	// Nodes is the /24 of the bridge: its first address is the machine's own
	// end, on which the API server and the registry listen; node i has the
	// address 10+i.
	Nodes netip.Prefix `json:"nodes"`
	// Pods is the /16 out of which node i has the /24 number i.
	Pods netip.Prefix `json:"pods"`
	// Services is the /16 of Services' addresses. Without a kube-proxy nothing
	// answers there.
	Services netip.Prefix `json:"services"`
}

// Host is the machine's own address on the bridge.
func (n Networks) Host() netip.Addr { return offset(n.Nodes, 3, 1) }

// Node is the address of node i, which counts from 1.
func (n Networks) Node(i int) netip.Addr { return offset(n.Nodes, 3, byte(10+i)) }

// PodRange is the range of the Pods of node i.
func (n Networks) PodRange(i int) netip.Prefix {
	return netip.PrefixFrom(offset(n.Pods, 2, byte(i)), 24)
}

// Kubernetes is the address of the Service "kubernetes", which the API server
// takes for itself.
func (n Networks) Kubernetes() netip.Addr { return offset(n.Services, 3, 1) }

// offset returns the IPv4 prefix's address with one of its bytes replaced.
func offset(p netip.Prefix, index int, value byte) netip.Addr {
	b := p.Addr().As4()
	b[index] = value
	return netip.AddrFrom4(b)
}

// chooseNetworks picks ranges that overlap none of the taken ones, nor each
// other.
func chooseNetworks(taken []netip.Prefix) (Networks, error) {
	pick := func(what string, first byte, bits int) (netip.Prefix, error) {
		for _, candidate := range candidates(first, bits) {
			if !overlaps(candidate, taken) {
				taken = append(taken[:len(taken):len(taken)], candidate)
				return candidate, nil
			}
		}
		return netip.Prefix{}, fmt.Errorf("choose addresses for the cluster's %s: each private range that could be used is taken by a route of this machine (ip route)", what)
	}
	var n Networks
	var err error
	if n.Nodes, err = pick("nodes", 77, 24); err != nil {
		return n, err
	}
	if n.Pods, err = pick("Pods", 78, 16); err != nil {
		return n, err
	}
	n.Services, err = pick("Services", 96, 16)
	return n, err
}

// candidates lists ranges of RFC 1918, starting at 10.first.0.0 and stepping
// through 10.0.0.0/8 so that neighbours, which tend to be taken together, are
// tried late; then 172.16.0.0/12.
func candidates(first byte, bits int) []netip.Prefix {
	var list []netip.Prefix
	// 11 has no divisor in common with 256: each second byte comes once.
	for i := range 256 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(int(first) + 11*i), 0, 0}), bits))
	}
	for i := byte(16); i < 32; i++ {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, i, 0, 0}), bits))
	}
	return list
}

func overlaps(p netip.Prefix, others []netip.Prefix) bool {
	for _, other := range others {
		if p.Overlaps(other) {
			return true
		}
	}
	return false
}

// parseRoutes reads the output of `ip -json -4 route show table all`. The
// default route is no obstacle; whatever is more specific is.
func parseRoutes(data []byte) ([]netip.Prefix, error) {
	var routes []struct {
		Dst string `json:"dst"`
	}
	if err := json.Unmarshal(data, &routes); err != nil {
		return nil, fmt.Errorf("read the routes of ip: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Dst == "default" || r.Dst == "0.0.0.0/0" {
			continue
		}
		p, err := parsePrefix(r.Dst)
		if err != nil {
			return nil, fmt.Errorf("read the routes of ip: destination %q: %w", r.Dst, err)
		}
		taken = append(taken, p)
	}
	return taken, nil
}

// parseAddresses reads the output of `ip -json -4 addr`. An interface that is
// down has addresses and no routes.
func parseAddresses(data []byte) ([]netip.Prefix, error) {
	var links []struct {
		Addresses []struct {
			Local  string `json:"local"`
			Length int    `json:"prefixlen"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(data, &links); err != nil {
		return nil, fmt.Errorf("read the addresses of ip: %w", err)
	}
	var taken []netip.Prefix
	for _, link := range links {
		for _, a := range link.Addresses {
			if a.Local == "" {
				continue
			}
			addr, err := netip.ParseAddr(a.Local)
			if err != nil {
				return nil, fmt.Errorf("read the addresses of ip: %w", err)
			}
			p, err := addr.Prefix(a.Length)
			if err != nil {
				return nil, fmt.Errorf("read the addresses of ip: %s/%d: %w", a.Local, a.Length, err)
			}
			taken = append(taken, p)
		}
	}
	return taken, nil
}

// parseNameservers reads the IPv4 name servers of a resolv.conf. They are
// reached by the default route, and would not be by a route of ours.
func parseNameservers(data []byte) []netip.Prefix {
	var taken []netip.Prefix
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil && addr.Is4() {
			taken = append(taken, netip.PrefixFrom(addr, 32))
		}
	}
	return taken
}

// parsePrefix reads what ip prints for a destination: a prefix, or an address
// for a single host.
func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p.Masked(), err
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}
