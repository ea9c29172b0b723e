// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var comparePrefixes = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

func TestChooseNetworks(t *testing.T) {
	for _, tc := range []struct {
		name                  string
		taken                 []string
		nodes, pods, services string
	}{
		{"nothing taken", nil, "10.77.0.0/24", "10.78.0.0/16", "10.96.0.0/16"},
		{"another network", []string{"172.17.0.0/16", "203.0.113.0/24"}, "10.77.0.0/24", "10.78.0.0/16", "10.96.0.0/16"},
		{"the first of the nodes", []string{"10.77.0.0/24"}, "10.88.0.0/24", "10.78.0.0/16", "10.96.0.0/16"},
		{"one address in it", []string{"10.77.0.200/32"}, "10.88.0.0/24", "10.78.0.0/16", "10.96.0.0/16"},
		{"the first of the Pods", []string{"10.78.3.0/24"}, "10.77.0.0/24", "10.89.0.0/16", "10.96.0.0/16"},
		{"a range of both", []string{"10.64.0.0/11"}, "10.99.0.0/24", "10.100.0.0/16", "10.96.0.0/16"},
		{"all of 10.0.0.0/8", []string{"10.0.0.0/8"}, "172.16.0.0/24", "172.17.0.0/16", "172.18.0.0/16"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := chooseNetworks(prefixes(tc.taken...))
			if err != nil {
				t.Fatal(err)
			}
			want := Networks{netip.MustParsePrefix(tc.nodes), netip.MustParsePrefix(tc.pods), netip.MustParsePrefix(tc.services)}
			if diff := cmp.Diff(want, got, comparePrefixes); diff != "" {
				t.Errorf("networks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChooseNetworksNoneFree(t *testing.T) {
	_, err := chooseNetworks(prefixes("10.0.0.0/8", "172.16.0.0/12"))
	if err == nil || !strings.Contains(err.Error(), "nodes") || !strings.Contains(err.Error(), "ip route") {
		t.Errorf("got %v, want an error that names the nodes' addresses and ip route", err)
	}
}

func TestNetworksAddresses(t *testing.T) {
	n := Networks{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("10.78.0.0/16"), netip.MustParsePrefix("10.96.0.0/16")}
	got := []string{n.Host().String(), n.Node(1).String(), n.Node(2).String(), n.PodRange(1).String(), n.PodRange(2).String(), n.Kubernetes().String()}
	want := []string{"10.77.0.1", "10.77.0.11", "10.77.0.12", "10.78.1.0/24", "10.78.2.0/24", "10.96.0.1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestParseRoutes(t *testing.T) {
	got, err := parseRoutes([]byte(`[
		{"dst":"default","gateway":"198.51.100.1","dev":"eth0","flags":[]},
		{"dst":"198.51.100.0/24","dev":"eth0","scope":"link","prefsrc":"198.51.100.7","flags":[]},
		{"type":"local","dst":"127.0.0.0/8","dev":"lo","table":"local","flags":[]},
		{"type":"local","dst":"198.51.100.7","dev":"eth0","table":"local","flags":[]}
	]`))
	if err != nil {
		t.Fatal(err)
	}
	want := prefixes("198.51.100.0/24", "127.0.0.0/8", "198.51.100.7/32")
	if diff := cmp.Diff(want, got, comparePrefixes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "{}", `[{"dst":"nowhere"}]`} {
		if _, err := parseRoutes([]byte(bad)); err == nil {
			t.Errorf("parseRoutes(%q) succeeded", bad)
		}
	}
}

func TestParseAddresses(t *testing.T) {
	got, err := parseAddresses([]byte(`[
		{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8}]},
		{},
		{"ifname":"docker0","operstate":"DOWN","addr_info":[{"family":"inet","local":"10.77.0.9","prefixlen":28}]}
	]`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(prefixes("127.0.0.0/8", "10.77.0.0/28"), got, comparePrefixes); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", `[{"addr_info":[{"local":"x","prefixlen":8}]}]`, `[{"addr_info":[{"local":"10.0.0.1","prefixlen":99}]}]`} {
		if _, err := parseAddresses([]byte(bad)); err == nil {
			t.Errorf("parseAddresses(%q) succeeded", bad)
		}
	}
}

func TestParseNameservers(t *testing.T) {
	got := parseNameservers([]byte("# comment\nnameserver 10.78.0.2\nnameserver fd00::1\nnameserver\noptions edns0\n"))
	if diff := cmp.Diff(prefixes("10.78.0.2/32"), got, comparePrefixes); diff != "" {
		t.Errorf("name servers (-want +got):\n%s", diff)
	}
}

func FuzzParseRoutes(f *testing.F) {
	f.Add([]byte(`[{"dst":"default"},{"dst":"10.0.0.0/8"},{"dst":"10.1.1.1"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		taken, err := parseRoutes(data)
		if err != nil {
			return
		}
		n, err := chooseNetworks(taken)
		if err != nil {
			return
		}
		for _, p := range []netip.Prefix{n.Nodes, n.Pods, n.Services} {
			if overlaps(p, taken) {
				t.Errorf("%s overlaps one of %v", p, taken)
			}
		}
	})
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}
