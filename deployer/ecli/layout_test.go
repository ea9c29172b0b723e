// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/manifest"
)

var update = flag.Bool("update", false, "write the golden files that are ours")

func golden(t *testing.T, path string, got []byte, ours bool) {
	t.Helper()
	if *update && ours {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// testClock is the time of the golden files.
func testClock() time.Time { return time.Date(2026, 11, 23, 12, 34, 56, 0, time.Local) }

func readPackage(t testing.TB, name string) (*manifest.Package, *ebpf.CollectionSpec) {
	t.Helper()
	data, err := os.ReadFile("testdata/upstream/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := manifest.LoadSpec(pkg.Object)
	if err != nil {
		t.Fatal(err)
	}
	return pkg, spec
}

func packageLayout(t testing.TB, name string) *layout {
	t.Helper()
	pkg, spec := readPackage(t, name)
	l, err := exportLayout(spec.Types, &pkg.Meta.ExportTypes[0])
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func readEvents(t testing.TB, name string) [][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/upstream/" + name + ".events")
	if err != nil {
		t.Fatal(err)
	}
	var events [][]byte
	for line := range strings.Lines(string(data)) {
		event, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, event)
	}
	return events
}

// TestUpstreamEvents prints the events of real programs; the output of
// package.events is upstream's own.
func TestUpstreamEvents(t *testing.T) {
	files, err := filepath.Glob("testdata/upstream/*/*.events")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files of events, %v", len(files), err)
	}
	if !littleEndian {
		t.Skip("the events were recorded on a little-endian machine")
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "testdata/upstream/"), ".events")
		t.Run(name, func(t *testing.T) {
			pkg := strings.TrimSuffix(name, "odd")
			if pkg != name {
				pkg += "package"
			}
			l := packageLayout(t, pkg)
			for _, format := range []string{"text", "json"} {
				p := &printer{layout: l, json: format == "json", text: quoteNone, now: testClock}
				out := p.header()
				for _, event := range readEvents(t, name) {
					if len(event) >= l.need {
						out = p.event(out, event)
					}
				}
				ours := filepath.Base(name) != "package"
				golden(t, "testdata/upstream/"+name+"."+format+".golden", out, ours)
			}
		})
	}
}

// TestNoAllocations: printing an event takes no memory once the buffer is there.
func TestNoAllocations(t *testing.T) {
	for _, name := range []string{"scalars", "floats", "arrays", "composites", "columns", "strings"} {
		l, event := packageLayout(t, name+"/package"), readEvents(t, name+"/package")[0]
		for _, asJSON := range []bool{false, true} {
			p := &printer{layout: l, json: asJSON, now: testClock}
			p.header()
			buf := make([]byte, 0, 1<<16)
			if n := testing.AllocsPerRun(100, func() { buf = p.event(buf[:0], event) }); n != 0 {
				t.Errorf("%s (JSON: %t): %v allocations an event", name, asJSON, n)
			}
		}
	}
}

func BenchmarkEvent(b *testing.B) {
	for _, name := range []string{"columns", "scalars", "composites"} {
		l, event := packageLayout(b, name+"/package"), readEvents(b, name+"/package")[0]
		for _, format := range []string{"text", "json"} {
			b.Run(name+"/"+format, func(b *testing.B) {
				p := &printer{layout: l, json: format == "json", now: time.Now}
				p.header()
				buf := make([]byte, 0, 1<<16)
				b.ReportAllocs()
				for b.Loop() {
					buf = p.event(buf[:0], event)
				}
			})
		}
	}
}

var (
	testChar = &btf.Int{Name: "char", Size: 1, Encoding: btf.Signed}
	testByte = &btf.Int{Name: "unsigned char", Size: 1}
	testInt  = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	testUint = &btf.Int{Name: "unsigned int", Size: 4}
	testLong = &btf.Int{Name: "long", Size: 8, Encoding: btf.Signed}
	testBool = &btf.Int{Name: "_Bool", Size: 1, Encoding: btf.Bool}
)

// membersOf is the description that fits s.
func membersOf(s *btf.Struct) []manifest.Member {
	var members []manifest.Member
	for _, m := range s.Members {
		members = append(members, manifest.Member{Name: m.Name})
	}
	return members
}

func TestBitFields(t *testing.T) {
	if !littleEndian {
		t.Skip("the bytes are those of a little-endian machine")
	}
	enum := &btf.Enum{Name: "e", Size: 4, Values: []btf.EnumValue{{Name: "A", Value: 0}, {Name: "D", Value: 3}}}
	s := &btf.Struct{Name: "bits", Size: 16, Members: []btf.Member{
		{Name: "u", Type: testUint, Offset: 0, BitfieldSize: 3},
		{Name: "i", Type: testInt, Offset: 3, BitfieldSize: 5},
		{Name: "e", Type: enum, Offset: 8, BitfieldSize: 2},
		{Name: "b", Type: testBool, Offset: 10, BitfieldSize: 1},
		{Name: "w", Type: testLong, Offset: 12, BitfieldSize: 61},
		{Name: "last", Type: testByte, Offset: 120},
	}}
	l, err := newLayout(s, membersOf(s))
	if err != nil {
		t.Fatal(err)
	}
	// u=5, i=-2, e=3, b=1, w=-1, last=9
	event := make([]byte, 16)
	event[0] = 5 | 0b11110<<3
	event[1] = 3 | 1<<2 | 0xf0
	for i := 2; i < 10; i++ {
		event[i] = 0xff
	}
	event[15] = 9
	const want = `{"b":true,"e":"D(3)","i":-2,"last":9,"u":5,"w":-1}`
	if got := string(l.appendJSON(nil, event, quoteNone)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p := &printer{layout: l, now: testClock}
	p.header()
	const row = "12:34:56  5     -2     D(3)   true   -1     9\n"
	if got := string(p.event(nil, event)); got != row {
		t.Errorf("got %q, want %q", got, row)
	}
}

func TestEnumOfEightBytes(t *testing.T) {
	for _, tt := range []struct {
		signed bool
		want   string
	}{
		{true, `{"e":"ALL(-1)"}`},
		{false, `{"e":"ALL(18446744073709551615)"}`},
	} {
		enum := &btf.Enum{Name: "e", Size: 8, Signed: tt.signed, Values: []btf.EnumValue{{Name: "ALL", Value: 1<<64 - 1}}}
		s := &btf.Struct{Name: "s", Size: 8, Members: []btf.Member{{Name: "e", Type: enum}}}
		l, err := newLayout(s, membersOf(s))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(l.appendJSON(nil, bytes.Repeat([]byte{0xff}, 8), quoteNone)); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestLayoutRefuses(t *testing.T) {
	nested := btf.Type(testInt)
	for range 100 {
		nested = &btf.Array{Index: testInt, Type: nested, Nelems: 1}
	}
	nothing := &btf.Array{Index: testInt, Type: &btf.Struct{Name: "none"}, Nelems: 1 << 31}
	double := btf.Type(testInt)
	for range 30 {
		double = &btf.Union{Name: "u", Size: 4, Members: []btf.Member{{Name: "a", Type: double}, {Name: "b", Type: double}}}
	}
	one := func(m btf.Member) *btf.Struct {
		return &btf.Struct{Name: "s", Size: 8, Members: []btf.Member{m}}
	}
	for _, tt := range []struct {
		name string
		s    *btf.Struct
		want string
	}{
		{"beyond the struct", one(btf.Member{Name: "m", Type: testLong, Offset: 32}), "outside"},
		{"array beyond the struct", one(btf.Member{Name: "m", Type: &btf.Array{Type: testLong, Nelems: 2}}), "outside"},
		{"text beyond the struct", one(btf.Member{Name: "m", Type: &btf.Array{Type: testChar, Nelems: 9}}), "outside"},
		{"within a byte", one(btf.Member{Name: "m", Type: testInt, Offset: 4}), "within a byte"},
		{"wide bit field", one(btf.Member{Name: "m", Type: testInt, BitfieldSize: 65}), "at most 64"},
		{"bit field of a pointer", one(btf.Member{Name: "m", Type: &btf.Pointer{Target: testInt}, BitfieldSize: 3}), "cannot be printed"},
		{"forward", one(btf.Member{Name: "m", Type: &btf.Fwd{Name: "f"}}), `type "f" cannot be printed`},
		{"void", one(btf.Member{Name: "m", Type: &btf.Void{}}), "cannot be printed"},
		{"odd size", one(btf.Member{Name: "m", Type: &btf.Int{Name: "i", Size: 3}}), "cannot be printed"},
		{"long double", one(btf.Member{Name: "m", Type: &btf.Float{Name: "long double", Size: 16}}), "cannot be printed"},
		{"deep", one(btf.Member{Name: "m", Type: nested}), "depth"},
		{"endless nothing", one(btf.Member{Name: "m", Type: nothing}), "too many members"},
		{"exponential", one(btf.Member{Name: "m", Type: double}), "too many members"},
		{"exponential without names", one(btf.Member{Type: anonymous(double)}), "too many members"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newLayout(tt.s, membersOf(tt.s))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want one with %q", err, tt.want)
			}
		})
	}
}

// anonymous returns t with the names of its members gone.
func anonymous(t btf.Type) btf.Type {
	u, ok := t.(*btf.Union)
	if !ok {
		return &btf.Union{Size: 4, Members: []btf.Member{{Name: "x", Type: t}}}
	}
	inner := anonymous(u.Members[0].Type)
	return &btf.Union{Size: 4, Members: []btf.Member{{Type: inner}, {Type: inner}}}
}

func TestFloats(t *testing.T) {
	for _, tt := range []struct {
		f    float64
		want string
	}{
		{0, "0.0"}, {1, "1.0"}, {-1.5, "-1.5"}, {1e15, "1000000000000000.0"}, {1e16, "1e+16"}, {1.5e16, "1.5e+16"},
		{1e-5, "0.00001"}, {9.999e-6, "9.999e-6"}, {1e-10, "1e-10"}, {5e-324, "5e-324"}, {1e100, "1e+100"},
		{-2.5e-7, "-2.5e-7"}, {123456.75, "123456.75"},
	} {
		if got := string(appendFloat(nil, tt.f)); got != tt.want {
			t.Errorf("%g: got %s, want %s", tt.f, got, tt.want)
		}
	}
}

func TestInt128(t *testing.T) {
	for _, tt := range []struct {
		hi, lo uint64
		signed bool
		want   string
	}{
		{0, 0, true, "0"}, {0, 1, false, "1"}, {1<<64 - 1, 1<<64 - 1, true, "-1"},
		{1<<64 - 1, 1<<64 - 1, false, "340282366920938463463374607431768211455"},
		{1 << 63, 0, true, "-170141183460469231731687303715884105728"},
		{1, 0, false, "18446744073709551616"},
		{0, 1e19, false, "10000000000000000000"},
		{5421010862427522170, 687399551400673280, false, "100000000000000000000000000000000000000"},
	} {
		if got := string(appendInt128(nil, tt.hi, tt.lo, tt.signed)); got != tt.want {
			t.Errorf("%x %x: got %s, want %s", tt.hi, tt.lo, got, tt.want)
		}
	}
}

func TestText(t *testing.T) {
	const in = "a\"\\\n\x1b[31m\x7f\u009b\u2028\xff\xfe€\u202e\U000e0041"
	for _, tt := range []struct {
		q    quoting
		want string
	}{
		{quoteJSON, `"a\"\\\n\u001b[31m` + "\x7f\u009b\u2028\ufffd\ufffd€\u202e\U000e0041\""},
		{quoteNone, "a\"\\\n\x1b[31m\x7f\u009b\u2028\ufffd\ufffd€\u202e\U000e0041"},
		{quoteJSONTerminal, `"a\"\\\n\u001b[31m\u007f\u009b\u2028` + "\ufffd\ufffd€" + `\u202e\udb40\udc41"`},
		{quoteTerminal, `a"\\n\u001b[31m\u007f\u009b\u2028` + "\ufffd\ufffd€" + `\u202e\udb40\udc41`},
	} {
		if got := string(appendText(nil, []byte(in), tt.q)); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
		dst := make([]byte, 0, 200)
		if n := testing.AllocsPerRun(10, func() { _ = appendText(dst, []byte(in), tt.q) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// FuzzLayout makes layouts of whatever a package's BTF says and prints whatever
// bytes its program sends.
// TestLayoutIsBounded: members that are each within the bounds are refused when
// there are too many of them.
func TestLayoutIsBounded(t *testing.T) {
	array := &btf.Array{Type: testInt, Index: testInt, Nelems: maxCost / 8} // twice that for its elements
	var fields []field
	for i := range uint64(4) {
		fields = append(fields, field{name: "m", typ: array, offset: i * maxCost / 2 * 8})
		if _, err := layoutOf("record", 4*maxCost, fields); (err != nil) != (len(fields) == 4) {
			t.Errorf("%d members: %v", len(fields), err)
		}
	}
	fields = slices.Repeat([]field{{name: "m", typ: testInt}}, maxOps+1)
	if _, err := layoutOf("record", 4, fields); !errors.Is(err, errTypeTooLarge) {
		t.Errorf("%d members: %v", len(fields), err)
	}
}

func FuzzLayout(f *testing.F) {
	for _, name := range []string{"scalars", "arrays", "composites"} {
		_, spec := readPackage(f, name+"/package")
		var types []btf.Type
		for typ, err := range spec.Types.All() {
			if err != nil {
				f.Fatal(err)
			}
			if s, ok := typ.(*btf.Struct); ok {
				types = append(types, s)
			}
		}
		b, err := btf.NewBuilder(types, nil)
		if err != nil {
			f.Fatal(err)
		}
		raw, err := b.Marshal(nil, nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, readEvents(f, name+"/package")[0])
	}
	f.Fuzz(func(t *testing.T, raw, event []byte) {
		types, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
		if err != nil {
			return
		}
		for typ, err := range types.All() {
			s, ok := typ.(*btf.Struct)
			if err != nil || !ok {
				continue
			}
			l, err := newLayout(s, membersOf(s))
			if err != nil || l.need > 1<<20 {
				continue
			}
			data := make([]byte, l.need)
			copy(data, event)
			p := &printer{layout: l, json: true, now: testClock}
			line := p.event(nil, data)
			if !json.Valid(line) {
				t.Fatalf("not JSON: %q", line)
			}
			p = &printer{layout: l, text: quoteTerminal, now: testClock}
			p.header()
			if row := p.event(nil, data); row[len(row)-1] != '\n' {
				t.Fatalf("no line: %q", row)
			}
		}
	})
}
