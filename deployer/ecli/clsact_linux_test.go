// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

// simulated is true while this process acts as on another kernel.
var simulated bool

// withoutTCX makes this process act as on a kernel without TCX.
func withoutTCX(t *testing.T) {
	t.Helper()
	attach, has := attachTCX, hasTCX
	attachTCX = func(link.TCXOptions) (link.Link, error) { return nil, ebpf.ErrNotSupported }
	hasTCX, simulated = func() bool { return false }, haveTCX(t)
	t.Cleanup(func() { attachTCX, hasTCX, simulated = attach, has, false })
}

// haveTCX reports whether the running kernel has TCX, by its version.
func haveTCX(t *testing.T) bool {
	t.Helper()
	var major, minor int
	if _, err := fmt.Sscanf(kernelRelease(), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 6
}

// inNetns runs f on a thread in a network namespace of its own.
func inNetns(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // not given back
		newNetns(t)
		f()
	}()
	<-done
}

// tcState returns what is at the place of clsact of this thread's loopback
// interface: the queueing discipline and the filters, owners' names left out.
func tcState(t *testing.T) []string {
	t.Helper()
	sockets, err := openNetlink()
	if err != nil {
		t.Error(err)
		return nil
	}
	defer sockets.Close()
	var state []string
	qdiscs, err := sockets.ingressQdiscs()
	if err != nil {
		t.Error(err)
	}
	for _, q := range qdiscs {
		state = append(state, q.kind)
	}
	filters, err := (&clsact{sockets, loopback}).filters(bothDirections...)
	if err != nil {
		t.Error(err)
	}
	for _, f := range filters {
		name := f.name
		if n, ok := f.owner(); ok {
			name = n.program
		}
		state = append(state, fmt.Sprintf("%#x %d %d %s %s", f.Parent, f.Priority, f.Handle, f.kind, name))
	}
	return state
}

// stranger adds a filter of another program, and clsact where it is missing.
func stranger(t *testing.T, parent uint32, handle uint32, priority uint16) {
	t.Helper()
	strangerOf(t, parent, handle, priority, unix.ETH_P_ALL)
}

// strangerOf is stranger for the packets of one protocol.
func strangerOf(t *testing.T, parent uint32, handle uint32, priority, protocol uint16) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		t.Error(err)
		return
	}
	defer prog.Close()
	if err := netlink.QdiscAdd((&clsact{ifindex: loopback}).qdisc()); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Error(err)
	}
	if err := netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: loopback, Parent: parent, Handle: handle, Priority: priority, Protocol: protocol},
		Fd:          prog.FD(), Name: "stranger", DirectAction: true,
	}); err != nil {
		t.Errorf("a stranger's filter: %v", err)
	}
}

func TestClsact(t *testing.T) {
	withoutTCX(t)
	hook := func(point, opts string) string {
		return `{"tchook":{"ifindex":1,"attach_point":"` + point + `"},"tcopts":` + opts + `}`
	}
	const in, out = "0xfffffff2", "0xfffffff3"
	for _, tt := range []struct {
		section string
		attach  ebpf.AttachType
		extra   string
		target  string
		want    string // the filter
	}{
		{"tc", 0, "", "lo ingress", in + " 1 1 bpf probe"},
		{"classifier", 0, "", "lo ingress", in + " 1 1 bpf probe"},
		{"tc", 0, hook("BPF_TC_EGRESS", `{}`), "lo egress", out + " 1 1 bpf probe"},
		{"tc", 0, hook("BPF_TC_INGRESS", `{"handle":5,"priority":7}`), "lo ingress", in + " 7 5 bpf probe"},
		{"tc/egress", ebpf.AttachTCXEgress, "", "lo egress", out + " 1 1 bpf probe"},
		{"tcx/ingress", ebpf.AttachTCXIngress, `{"tcopts":{"priority":0}}`, "lo ingress", in + " 49152 1 bpf probe"},
	} {
		t.Run(tt.section+tt.extra, func(t *testing.T) {
			var during []string
			h := hookTest{section: tt.section, typ: ebpf.SchedCLS, attach: tt.attach, returns: -1, extra: tt.extra, noLink: true,
				enter: func() { newNetns(t) }, trigger: func() error {
					during = tcState(t)
					return ping()
				}}
			if target := h.fires(t); target != tt.target {
				t.Errorf("attached to %s", target)
			}
			if want := []string{"clsact", tt.want}; !slices.Equal(during, want) {
				t.Errorf("the kernel has %q, want %q", during, want)
			}
		})
	}
}

// attachProbe attaches a probe of tc as a filter, on this thread.
func attachProbe(t *testing.T, extra string, stderr io.Writer) (*instance, error) {
	h := hookTest{section: "tc", typ: ebpf.SchedCLS, returns: -1, extra: extra}
	p, spec, err := h.plan(t)
	if err != nil {
		return nil, err
	}
	return start(p, spec, &Options{Stdout: io.Discard, Stderr: stderr})
}

// TestClsactLeavesStrangers: at the end our filter goes, and clsact only if it is
// ours and nobody else's filter is on it.
func TestClsactLeavesStrangers(t *testing.T) {
	needRoot(t)
	withoutTCX(t)
	const in, out = netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS
	const ours = "0xfffffff2 1 1 bpf probe"
	for name, tt := range map[string]struct {
		before, while func(*testing.T)
		after         []string
	}{
		"nobody else":               {},
		"a filter before":           {before: func(t *testing.T) { stranger(t, in, 9, 1) }, after: []string{"clsact", "0xfffffff2 1 9 bpf stranger"}},
		"a filter of the other way": {before: func(t *testing.T) { stranger(t, out, 1, 1) }, after: []string{"clsact", "0xfffffff3 1 1 bpf stranger"}},
		"a filter meanwhile":        {while: func(t *testing.T) { stranger(t, in, 9, 2) }, after: []string{"clsact", "0xfffffff2 2 9 bpf stranger"}},
		"an empty clsact before": {before: func(t *testing.T) {
			if err := netlink.QdiscAdd((&clsact{ifindex: loopback}).qdisc()); err != nil {
				t.Error(err)
			}
		}, after: []string{"clsact"}},
		"an ingress before": {before: func(t *testing.T) {
			if err := netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: loopback, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0)}}); err != nil {
				t.Error(err)
			}
		}, after: []string{"ingress"}},
		"ours was taken away": {while: func(t *testing.T) {
			if err := netlink.QdiscDel((&clsact{ifindex: loopback}).qdisc()); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inNetns(t, func() {
				if tt.before != nil {
					tt.before(t)
				}
				in, err := attachProbe(t, "", io.Discard)
				if err != nil {
					t.Error(err)
					return
				}
				if state := tcState(t); !slices.Contains(state, ours) {
					t.Errorf("while it runs: %q", state)
				}
				if tt.while != nil {
					tt.while(t)
				}
				if err := in.close(); err != nil {
					t.Error(err)
				}
				if state := tcState(t); !slices.Equal(state, tt.after) {
					t.Errorf("left %q, want %q", state, tt.after)
				}
			})
		})
	}
}

// TestClsactOfTwo: clsact that one of us made goes with the last of us.
func TestClsactOfTwo(t *testing.T) {
	needRoot(t)
	withoutTCX(t)
	inNetns(t, func() {
		first, err1 := attachProbe(t, "", io.Discard)
		second, err2 := attachProbe(t, `{"tchook":{"attach_point":"BPF_TC_EGRESS"}}`, io.Discard)
		if err1 != nil || err2 != nil {
			t.Error(err1, err2)
			return
		}
		if err := first.close(); err != nil {
			t.Error(err)
		}
		if state := tcState(t); !slices.Equal(state, []string{"clsact", "0xfffffff3 1 1 bpf probe"}) {
			t.Errorf("after the first: %q", state)
		}
		if err := second.close(); err != nil {
			t.Error(err)
		}
		if state := tcState(t); len(state) != 0 {
			t.Errorf("after the second: %q", state)
		}
	})
}

func TestClsactConflicts(t *testing.T) {
	needRoot(t)
	withoutTCX(t)
	for name, tt := range map[string]struct {
		before func(*testing.T)
		extra  string
		want   []string
	}{
		"the same handle": {
			func(t *testing.T) { stranger(t, netlink.HANDLE_MIN_INGRESS, 3, 5) }, `{"tcopts":{"handle":3,"priority":5}}`,
			[]string{"network interface lo: another tc filter is in its place, pref 5 handle 0x3 bpf stranger (program ", "file exists"},
		},
		// A priority is for one protocol.
		"another protocol": {
			func(t *testing.T) { strangerOf(t, netlink.HANDLE_MIN_INGRESS, 3, 5, unix.ETH_P_IP) }, `{"tcopts":{"priority":5}}`,
			[]string{"another tc filter is in its place, pref 5 handle 0x3 bpf stranger (program ", "invalid argument"},
		},
		"no egress": {
			func(t *testing.T) {
				if err := netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: loopback, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0)}}); err != nil {
					t.Error(err)
				}
			}, `{"tchook":{"attach_point":"BPF_TC_EGRESS"}}`,
			[]string{"the queueing discipline ingress is in the place of clsact"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inNetns(t, func() {
				tt.before(t)
				before := tcState(t)
				in, err := attachProbe(t, tt.extra, io.Discard)
				if err == nil {
					_ = in.close()
					t.Error("it was attached")
					return
				}
				for _, want := range tt.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("got %v, want %s", err, want)
					}
				}
				if kind := manifest.KindOf(err); kind != manifest.KindConflict {
					t.Errorf("kind %d", kind)
				}
				if state := tcState(t); !slices.Equal(state, before) {
					t.Errorf("left %q, was %q", state, before)
				}
			})
		})
	}
	// Without a handle of one's own there is room for each.
	inNetns(t, func() {
		stranger(t, netlink.HANDLE_MIN_INGRESS, 1, 1)
		in, err := attachProbe(t, "", io.Discard)
		if err != nil {
			t.Error(err)
			return
		}
		if state := tcState(t); !slices.Contains(state, "0xfffffff2 1 2 bpf probe") {
			t.Errorf("the kernel has %q", state)
		}
		if err := in.close(); err != nil {
			t.Error(err)
		}
	})
}

// TestClsactBesideItself: an upgrade has the same handle as what it replaces.
func TestClsactBesideItself(t *testing.T) {
	needRoot(t)
	withoutTCX(t)
	inNetns(t, func() {
		var stderr buffer
		const extra = `{"tcopts":{"handle":7,"priority":2}}`
		before, err1 := attachProbe(t, extra, io.Discard)
		after, err2 := attachProbe(t, extra, &stderr)
		if err1 != nil || err2 != nil {
			t.Error(err1, err2)
			return
		}
		if want := "warning: tc filter handle 0x7 of priority 2 is that of another runner, the kernel chooses another handle\n"; stderr.String() != want {
			t.Errorf("said %q", stderr.String())
		}
		if err := before.close(); err != nil {
			t.Error(err)
		}
		if state := tcState(t); !slices.Equal(state, []string{"clsact", "0xfffffff2 2 1 bpf probe"}) {
			t.Errorf("the kernel has %q", state)
		}
		if err := after.close(); err != nil {
			t.Error(err)
		}
	})
}

// clsactOwnerEnv is set in the process that is killed.
const clsactOwnerEnv = "EBPM_TEST_CLSACT_OWNER"

// TestClsactSweep kills a runner: the next one takes away what it left, and only
// that.
func TestClsactSweep(t *testing.T) {
	needRoot(t)
	withoutTCX(t)
	if extra := os.Getenv(clsactOwnerEnv); extra != "" {
		if _, err := attachProbe(t, extra, io.Discard); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(os.Stdout, "attached\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or the test is gone
		return
	}
	owner := func(extra string) (kill func()) {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestClsactSweep$", "-test.v")
		cmd.Env = append(os.Environ(), clsactOwnerEnv+"="+extra, mountedEnv+"=1")
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Error(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Error(err)
		}
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return func() {}
		}
		attached := false
		for lines := bufio.NewScanner(stdout); !attached && lines.Scan(); {
			attached = strings.HasSuffix(lines.Text(), "attached")
		}
		if !attached {
			t.Error("the other runner did not attach")
		}
		return func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = stdin.Close()
		}
	}
	const (
		dead      = `{"tcopts":{"handle":7}}`
		deadToo   = `{"tchook":{"attach_point":"BPF_TC_EGRESS"},"tcopts":{"handle":7}}`
		alive     = `{"tcopts":{"handle":8}}`
		filter    = "0xfffffff2 1 %d bpf %s"
		leftovers = "warning: network interface lo: removed tc filters that a killed runner left: 2\n"
	)
	for name, tt := range map[string]struct {
		others, live bool
		want         []string // after the sweep and the end of the runner that swept
	}{
		"alone":                {want: nil},
		"beside a stranger":    {others: true, want: []string{"clsact", fmt.Sprintf(filter, 9, "stranger")}},
		"beside a live runner": {live: true, want: []string{"clsact", fmt.Sprintf(filter, 8, "probe")}},
	} {
		t.Run(name, func(t *testing.T) {
			inNetns(t, func() {
				kill, killToo, end := owner(dead), owner(deadToo), func() {}
				if tt.live {
					end = owner(alive)
				}
				if tt.others {
					stranger(t, netlink.HANDLE_MIN_INGRESS, 9, 1)
				}
				kill()
				killToo()
				if state := tcState(t); !slices.Contains(state, fmt.Sprintf(filter, 7, "probe")) || !slices.Contains(state, "0xfffffff3 1 7 bpf probe") {
					t.Errorf("a killed runner left %q", state)
				}
				var stderr buffer
				// Its place is that of the dead one.
				in, err := attachProbe(t, dead, &stderr)
				if err != nil {
					t.Error(err)
					end()
					return
				}
				if stderr.String() != leftovers {
					t.Errorf("said %q, want %q", stderr.String(), leftovers)
				}
				if err := in.close(); err != nil {
					t.Error(err)
				}
				if state := tcState(t); !slices.Equal(state, tt.want) {
					t.Errorf("left %q, want %q", state, tt.want)
				}
				end()
			})
		})
	}
}

// TestClsactOfGoneInterface: what went with its interface is not missed.
func TestClsactOfGoneInterface(t *testing.T) {
	needRoot(t)
	withoutTCX(t)
	inNetns(t, func() {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}); err != nil {
			t.Error(err)
			return
		}
		in, err := attachProbe(t, `{"tchook":{"ifindex":"v0"}}`, io.Discard)
		if err != nil {
			t.Error(err)
			return
		}
		iface, err := net.InterfaceByName("v0")
		if err != nil {
			t.Error(err)
			return
		}
		if err := netlink.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: iface.Index}}); err != nil {
			t.Error(err)
		}
		if err := in.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestFilterName(t *testing.T) {
	token := strings.Repeat("0f", tokenSize)
	for _, n := range []filterName{
		{token, 1, true, "on_packet"},
		{token, 4194304, false, "a:b"},
		{token, 7, false, ""},
	} {
		if got, ok := parseFilterName(n.String()); !ok || got != n {
			t.Errorf("%s: %+v, %v", n, got, ok)
		}
	}
	long := filterName{token, 1, true, strings.Repeat("x", 400)}
	if got, ok := parseFilterName(long.String()); !ok || got.token != token || len(long.String()) != maxFilterName {
		t.Errorf("%s: %+v, %v", long, got, ok)
	}
	for _, s := range []string{
		"", "ebpm", "cil_from_netdev", "ebpm:" + token, "ebpm:" + token[1:] + ":1:own:x", "ebpm:" + strings.ToUpper(token) + ":1:own:x",
		"ebpm:" + token + ":-1:own:x", "ebpm:" + token + ":1:mine:x", "xbpm:" + token + ":1:own:x", "ebpm:" + token + "00:1:own:x",
	} {
		if n, ok := parseFilterName(s); ok {
			t.Errorf("%q is %+v", s, n)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(make([]byte, 20), "ebpm:"+strings.Repeat("0f", tokenSize)+":1:own:x")
	f.Fuzz(func(t *testing.T, message []byte, name string) {
		if n, ok := parseFilterName(name); ok && len(name) <= maxFilterName {
			if again, ok := parseFilterName(n.String()); !ok || again != n {
				t.Errorf("%q: %+v, then %+v", name, n, again)
			}
		}
		if filter, err := parseFilter(message); err == nil {
			_ = filter.String()
		}
	})
}
