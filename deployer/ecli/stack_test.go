// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/manifest"
)

var testU64 = &btf.Int{Name: "unsigned long long", Size: 8}

// stackStruct is an event type with stacks of depth addresses, at the offsets of
// stackEvent, and a member more.
func stackStruct(depth uint32) *btf.Struct {
	addresses := &btf.Typedef{Name: "addresses_t", Type: &btf.Array{Type: testU64, Nelems: depth}}
	return &btf.Struct{Name: "sample", Size: 40 + 16*depth, Members: []btf.Member{
		{Name: "pid", Type: testUint},
		{Name: "cpu_id", Type: testUint, Offset: 4 * 8},
		{Name: "comm", Type: &btf.Array{Type: testChar, Nelems: 16}, Offset: 8 * 8},
		{Name: "kstack_sz", Type: testInt, Offset: 24 * 8},
		{Name: "ustack_sz", Type: testInt, Offset: 28 * 8},
		{Name: "weight", Type: testU64, Offset: 32 * 8},
		{Name: "kstack", Type: addresses, Offset: 40 * 8},
		{Name: "ustack", Type: addresses, Offset: btf.Bits(40+8*depth) * 8},
	}}
}

// stackLayout is the layout of a struct of events.
func stackLayout(t testing.TB, s *btf.Struct) *layout {
	t.Helper()
	l, err := newLayout(s, membersOf(s))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func stackMap(interpreter string) *manifest.MapMeta {
	return &manifest.MapMeta{Name: "events", Interpreter: json.RawMessage(interpreter)}
}

// stackEvent is an event of stackStruct(4).
func stackEvent(comm string, kernelSize, userSize int32) []byte {
	b := make([]byte, 40+16*4)
	ne := binary.NativeEndian
	ne.PutUint32(b, 4660)
	ne.PutUint32(b[4:], 22136)
	copy(b[8:24], comm)
	ne.PutUint32(b[24:], uint32(kernelSize))
	ne.PutUint32(b[28:], uint32(userSize))
	ne.PutUint64(b[32:], 7)
	for i, address := range []uint64{0x10000, 0xffffffffc0001010, 0, 0xffff, 0x7f0000010000, 0x401004, 0x500000, 0x1} {
		ne.PutUint64(b[40+8*i:], address)
	}
	return b
}

// fakeSymbols knows a few addresses.
type fakeSymbols struct{ asked []string }

func (f *fakeSymbols) kernel(address uint64) place {
	switch address {
	case 0x10000:
		return place{symbol: "symbol", offset: 0x10}
	case 0xffffffffc0001010:
		return place{symbol: "nf_hook", offset: 0, module: "nf_tables"}
	}
	return place{}
}

func (f *fakeSymbols) process(pid uint64, comm []byte) func(uint64) place {
	f.asked = append(f.asked, fmt.Sprintf("%d %s", pid, comm))
	return func(address uint64) place {
		switch address {
		case 0x7f0000010000:
			return place{symbol: "func", offset: 4, module: `/lib/a"b.so`, file: true, buildID: "c0ffee", fileOffset: 4096}
		case 0x401004:
			return place{module: "/bin/stripped", file: true, fileOffset: 4100}
		}
		return place{}
	}
}

func TestStackPrinter(t *testing.T) {
	const both, terminal = "a\x1b[2Jb", true
	for _, tt := range []struct {
		name        string
		interpreter string
		comm        string
		kernel      int32
		user        int32
		json        bool
		terminal    bool
		want        string
	}{
		// The blocks are those of upstream's ecli-rs 0.2.9 (2026-11-23), but for the
		// names of modules.
		{"kernel and process", `{"stack_trace":{}}`, "test-comm", 16, 24, false, false, `COMM: test-comm (pid=4660) @ CPU 22136
Kernel:
  0 [<0000000000010000>] symbol+0x10
  1 [<ffffffffc0001010>] nf_hook+0x0 [nf_tables]
Userspace:
  0 [<00007f0000010000>] func+0x4
  1 [<0000000000401004>]
  2 [<0000000000500000>]

`},
		{"no kernel stack", `{"stack_trace":{}}`, "test-comm", -14, 15, false, false, `COMM: test-comm (pid=4660) @ CPU 22136
No Kernel Stack
Userspace:
  0 [<00007f0000010000>] func+0x4

`},
		{"no stack of the process", `{"stack_trace":{"with_symbols":false}}`, "test-comm", 8, 7, false, false, `COMM: test-comm (pid=4660) @ CPU 22136
Kernel:
  0 [<0000000000010000>]
No Userspace Stack

`},
		{"longer than its array", `{"stack_trace":{"with_symbols":false}}`, "test-comm", 8 * 11, 0, false, false, `COMM: test-comm (pid=4660) @ CPU 22136
Kernel:
  0 [<0000000000010000>]
  1 [<ffffffffc0001010>]
  2 [<0000000000000000>]
  3 [<000000000000ffff>]
  4 [<0000000000000000>]
  5 [<0000000000000000>]
  6 [<0000000000000000>]
  7 [<0000000000000000>]
  8 [<0000000000000000>]
  9 [<0000000000000000>]
  10 [<0000000000000000>]
No Userspace Stack

`},
		{"neither", `{"stack_trace":{}}`, "test-comm", 7, -14, false, false, ""},
		{"neither as JSON", `{"stack_trace":{}}`, "test-comm", 0, 0, true, false, ""},
		{"another mapping", `{"stack_trace":{"field_map":{"pid":"cpu_id","cpu_id":"pid","kstack":"ustack","ustack":"kstack","comm":null},"with_symbols":false}}`, "x", 8, 8, false, false, `COMM: x (pid=22136) @ CPU 4660
Kernel:
  0 [<00007f0000010000>]
Userspace:
  0 [<0000000000010000>]

`},
		{"a name for a terminal", `{"stack_trace":{}}`, both, 8, 0, false, terminal, "COMM: a\\u001b[2Jb (pid=4660) @ CPU 22136\nKernel:\n  0 [<0000000000010000>] symbol+0x10\nNo Userspace Stack\n\n"},
		{"a name for a file", `{"stack_trace":{}}`, both, 8, 0, false, false, "COMM: a\x1b[2Jb (pid=4660) @ CPU 22136\nKernel:\n  0 [<0000000000010000>] symbol+0x10\nNo Userspace Stack\n\n"},
		{"JSON", `{"stack_trace":{}}`, "a\"b", 16, 16, true, false,
			`{"comm":"a\"b","cpu_id":22136,"kernel":[{"address":"0x10000","offset":16,"symbol":"symbol"},{"address":"0xffffffffc0001010","module":"nf_tables","offset":0,"symbol":"nf_hook"}],"pid":4660,` +
				`"user":[{"address":"0x7f0000010000","buildId":"c0ffee","fileOffset":4096,"module":"/lib/a\"b.so","offset":4,"symbol":"func"},{"address":"0x401004","fileOffset":4100,"module":"/bin/stripped"}],"weight":7}` + "\n"},
		{"JSON without symbols", `{"stack_trace":{"with_symbols":false}}`, "x", 8, 0, true, false,
			`{"comm":"x","cpu_id":22136,"kernel":[{"address":"0x10000"}],"pid":4660,"user":[],"weight":7}` + "\n"},
		{"JSON of another mapping", `{"stack_trace":{"field_map":{"pid":"weight"},"with_symbols":false}}`, "x", 8, 0, true, false,
			`{"comm":"x","cpu_id":22136,"kernel":[{"address":"0x10000"}],"pid":7,"user":[]}` + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := stackLayout(t, stackStruct(4))
			f, err := planStacks(stackMap(tt.interpreter), l)
			if err != nil {
				t.Fatal(err)
			}
			p := &stackPrinter{stackFormat: f, json: tt.json}
			if tt.terminal {
				p.text = quoteTerminal
			}
			symbols := &fakeSymbols{}
			if f.withSymbols {
				p.symbols = symbols
			}
			got := p.event(nil, stackEvent(tt.comm, tt.kernel, tt.user))
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tt.json && len(got) > 0 && !json.Valid(got) {
				t.Errorf("%s is no JSON", got)
			}
			if wanted := f.withSymbols && tt.user >= 8; (len(symbols.asked) == 1) != wanted {
				t.Errorf("asked for %q", symbols.asked)
			}
		})
	}
}

func TestPlanStacksRefuses(t *testing.T) {
	const whole = `{"stack_trace":{}}`
	drop := func(name string) func(*btf.Struct) {
		return func(s *btf.Struct) {
			for i := range s.Members {
				if s.Members[i].Name == name {
					s.Members[i].Name = "other"
				}
			}
		}
	}
	retype := func(name string, to btf.Type) func(*btf.Struct) {
		return func(s *btf.Struct) {
			for i := range s.Members {
				if s.Members[i].Name == name {
					s.Members[i].Type = to
				}
			}
		}
	}
	same := func(*btf.Struct) {}
	for _, tt := range []struct {
		name        string
		interpreter string
		change      func(*btf.Struct)
		want        string
	}{
		{"as it is", whole, same, ""},
		{"no pid", whole, drop("pid"), "struct sample has no member pid, which the field pid is read from"},
		{"no stack", whole, drop("ustack"), "struct sample has no member ustack"},
		{"mapped to nobody", `{"stack_trace":{"field_map":{"comm":"nobody"}}}`, same, "struct sample has no member nobody, which the field comm is read from"},
		{"pid that is text", `{"stack_trace":{"field_map":{"pid":"comm"}}}`, same, "member comm of struct sample, which the field pid is read from, is not an integer"},
		{"name that is a number", `{"stack_trace":{"field_map":{"comm":"pid"}}}`, same, "is not an array of char"},
		{"addresses of 32 bits", whole, retype("kstack", &btf.Array{Type: testUint, Nelems: 8}), "member kstack of struct sample, which the field kstack is read from, is not an array of integers of 64 bits"},
		{"pointers", whole, retype("kstack", &btf.Array{Type: &btf.Pointer{Target: testUint}, Nelems: 4}), ""},
		{"one address", whole, retype("ustack", testU64), "is not an array of integers"},
		{"length that is a float", whole, retype("kstack_sz", &btf.Float{Name: "float", Size: 4}), "is not an integer"},
		{"another interpreter", `{"flame_graph":{}}`, same, "this version does not know the interpreter"},
		{"a word", `"stack_trace"`, same, "it needs an object"},
		{"mapped to a number", `{"stack_trace":{"field_map":{"pid":1}}}`, same, "stack_trace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := stackStruct(4)
			tt.change(s)
			_, err := planStacks(stackMap(tt.interpreter), stackLayout(t, s))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestPlanStacksOfUpstream: what upstream refuses, or panics about at the first
// event, is refused before anything is loaded.
func TestPlanStacksOfUpstream(t *testing.T) {
	for pkg, want := range map[string]string{
		"nosym":    "",
		"sym":      "",
		"map":      "",
		"badmap":   "map events: stack_trace: struct trace has no member nobody",
		"wrongmap": "map events: stack_trace: member comm of struct trace, which the field pid is read from, is not an integer",
		"bad":      "map events: this version does not know the interpreter",
		"bare":     "map events: interpreter \"stack_trace\": it needs an object",
	} {
		pkg, spec := readPackage(t, "stack-trace/"+pkg)
		_, err := newPlan(&pkg.Meta, spec)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if strings.Contains(want, "does not know") {
			if kind := manifest.KindOf(err); kind != manifest.KindPrecondition {
				t.Errorf("%v is of kind %v", err, kind)
			}
		}
	}
}

// TestPlanOfProfile: a profiler that our compiler made of testdata/profile.
func TestPlanOfProfile(t *testing.T) {
	pkg, spec := readPackage(t, "../profile/package")
	p, err := newPlan(&pkg.Meta, spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.exports) != 1 || p.exports[0].stacks == nil || !p.exports[0].stacks.withSymbols || p.exports[0].stacks.kernel.size != 127 {
		t.Errorf("exports %+v", p.exports)
	}
}

// TestStackPrinterAllocates nothing for events that have no symbols to look for.
func TestStackPrinterAllocates(t *testing.T) {
	f, err := planStacks(stackMap(`{"stack_trace":{"with_symbols":false}}`), stackLayout(t, stackStruct(4)))
	if err != nil {
		t.Fatal(err)
	}
	for _, asJSON := range []bool{false, true} {
		p := &stackPrinter{stackFormat: f, json: asJSON}
		event := stackEvent("x", 32, 32)
		out := make([]byte, 0, 4096)
		if n := testing.AllocsPerRun(100, func() { out = p.event(out[:0], event) }); n != 0 {
			t.Errorf("JSON %v: %v allocations an event", asJSON, n)
		}
	}
}
