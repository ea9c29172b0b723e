// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

func histogramLayout(t *testing.T, name string, typ btf.Type) *layout {
	t.Helper()
	size, err := btf.Sizeof(typ)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newTypeLayout(&btf.Struct{Name: "hist", Size: uint32(size), Members: []btf.Member{{Name: name, Type: typ}}}, "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestFindSlots(t *testing.T) {
	const wrong = "integers of at most 64 bits"
	for _, tt := range []struct {
		name string
		typ  btf.Type
		want string
	}{
		{"slots", &btf.Array{Type: testUint, Nelems: 3}, ""},
		{"slots", &btf.Typedef{Name: "t", Type: &btf.Array{Type: &btf.Typedef{Name: "u", Type: testLong}, Nelems: 3}}, ""},
		{"counts", &btf.Array{Type: testUint, Nelems: 3}, "has none"},
		{"slots", testUint, wrong},
		{"slots", &btf.Array{Type: testBool, Nelems: 3}, wrong},
		{"slots", &btf.Array{Type: &btf.Int{Size: 16}, Nelems: 3}, wrong},
		{"slots", &btf.Array{Type: &btf.Array{Type: testUint, Nelems: 2}, Nelems: 3}, wrong},
		{"slots", &btf.Struct{Name: "s", Size: 4, Members: []btf.Member{{Name: "a", Type: testUint}}}, wrong},
	} {
		_, err := findSlots(histogramLayout(t, tt.name, tt.typ))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %v: got %v, want %q", tt.name, tt.typ, err, tt.want)
		}
	}
}

// TestHistogramOfManySlots: the bounds of slots from the 64th on do not fit
// into 64 bits, and neither do the products of large counts.
func TestHistogramOfManySlots(t *testing.T) {
	slots, err := findSlots(histogramLayout(t, "slots", &btf.Array{Type: &btf.Int{Size: 8}, Nelems: 66}))
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 66*8)
	for i := range 8 {
		data[64*8+i], data[65*8+i] = 0xff, 0xff
	}
	out := string((&histogram{Histogram: manifest.Histogram{Unit: "é"}, slots: slots}).draw(nil, data, quoteNone))
	const heading = "               é                             : count    distribution\n"
	const end = "18446744073709551616 -> 36893488147419103231 : 18446744073709551615 |********************|\n" +
		"36893488147419103232 -> 73786976294838206463 : 18446744073709551615 |********************|\n"
	if !strings.HasPrefix(out, heading) || !strings.HasSuffix(out, end) {
		t.Errorf("drawn:\n%s", out)
	}
	linear := string((&histogram{Histogram: manifest.Histogram{Unit: "ms", Linear: true}, slots: slots}).draw(nil, data, quoteNone))
	const narrow = "        65               : 18446744073709551615 |****************************************|\n"
	if !strings.HasPrefix(linear, "     ms                  : count    distribution\n         0               : 0        |") || !strings.HasSuffix(linear, narrow) {
		t.Errorf("drawn:\n%s", linear)
	}
}

// TestTooManySlots: each row of log2 is longer than the one before.
func TestTooManySlots(t *testing.T) {
	for _, tt := range []struct {
		kind  string
		slots uint32
		want  string
	}{
		{manifest.SampleLog2, 128, ""},
		{manifest.SampleLog2, 129, "log2_hist: 129 slots, at most 128 are drawn"},
		{manifest.SampleLinear, 1 << 16, ""},
		{manifest.SampleLinear, 1<<16 + 1, "linear_hist: 65537 slots, at most 65536 are drawn"},
	} {
		l := histogramLayout(t, "slots", &btf.Array{Type: testUint, Nelems: tt.slots})
		_, err := newPairPrinter(&printer{layout: l}, nil, &manifest.Sample{Type: tt.kind}, false)
		if (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("%s of %d: %v, want %q", tt.kind, tt.slots, err, tt.want)
		}
	}
}
