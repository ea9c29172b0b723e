// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ebpm/ebpm/manifest"
)

// beginSampled runs a package with a sampled map, which has its content before
// it is read for the first time.
func beginSampled(t *testing.T, name string, sign int, interval uint64, asJSON bool) *session {
	t.Helper()
	needRoot(t)
	pkg, _ := readPackage(t, name)
	for i := range pkg.Meta.Skeleton.Maps {
		if sample := pkg.Meta.Skeleton.Maps[i].Sample; sample != nil {
			sample.Interval = interval
		}
	}
	s := &session{t: t, attached: func() { getpgid(sign) }}
	return s.begin(Options{Package: pkg, JSON: asJSON})
}

const hour = 3_600_000 // milliseconds

// TestSampledMaps holds what is printed of the maps of upstream's packages
// against what upstream printed; with ours, upstream prints something else: it
// confuses the members, fails, or draws wrong bars. Each map is printed at once
// and, whatever its interval, at the end.
func TestSampledMaps(t *testing.T) {
	for _, tt := range []struct {
		pkg  string
		sign int
		text string // "theirs", "ours" or "" for what is not compared
		json string
	}{
		{"default-kv/package", 77150, "theirs", "theirs"},
		{"default-kv/array", 0, "ours", "theirs"},
		{"kv-struct-key/package", 77160, "ours", "ours"},
		{"kv-struct-key/scalar", 77161, "ours", "ours"},
		{"kv-struct-key/scalar-header", 77161, "theirs", "theirs"},
		{"kv-struct-key/other", 77162, "ours", "ours"},
		{"kv-struct-key/comm", 77163, "theirs", "theirs"},
		{"log2-hist/few", 77170, "theirs", "theirs"},
		{"log2-hist/first", 77171, "theirs", ""},
		{"log2-hist/unit", 77172, "theirs", "theirs"},
		{"log2-hist/wide", 77173, "ours", ""},
		{"log2-hist/limit", 77174, "theirs", ""},
		{"log2-hist/over", 77175, "theirs", ""},
		{"log2-hist/zero", 77176, "theirs", "theirs"},
		{"log2-hist/wide64", 77178, "ours", ""},
		{"log2-hist/before", 77179, "theirs", ""},
		{"log2-hist/big", 77180, "ours", ""},
		{"linear-hist/package", 77190, "ours", "theirs"},
	} {
		for format, whose := range map[string]string{"text": tt.text, "json": tt.json} {
			if whose == "" {
				continue
			}
			t.Run(tt.pkg+"/"+format, func(t *testing.T) {
				out := beginSampled(t, tt.pkg, tt.sign, hour, format == "json").end()
				header := ""
				if strings.HasPrefix(out, headerTime) {
					end := strings.IndexByte(out, '\n') + 1
					header, out = out[:end], out[end:]
				}
				first, last := out[:len(out)/2], out[len(out)/2:]
				if first == "" || first != last {
					t.Fatalf("printed at first\n%sat the end\n%s", first, last)
				}
				path := "testdata/upstream/" + tt.pkg + "." + format + ".golden"
				if whose == "ours" {
					path = "testdata/upstream/" + tt.pkg + "." + format + ".ours"
				}
				golden(t, path, []byte(header+first), whose == "ours")
			})
		}
	}
}

// TestSampledPerCPU: of a map with a value for each CPU each one is printed.
func TestSampledPerCPU(t *testing.T) {
	cpus := ebpf.MustPossibleCPU()
	for _, asJSON := range []bool{false, true} {
		s := beginSampled(t, "default-kv/percpu", 77154, hour, asJSON)
		lines := strings.Split(strings.TrimSuffix(s.end(), "\n"), "\n")
		before, after := `{"cpu":0,"key":{"__u32":1},"value":{"hits":`, `,"ns":0,"who":""}}`
		if !asJSON {
			if want := "TIME     CPU    __U32  HITS   WHO    NS     "; lines[0] != want {
				t.Errorf("header %q, want %q", lines[0], want)
			}
			lines = lines[1:]
			before, after = `12:34:56 0 {"__u32":1} {"hits":`, `,"ns":0,"who":""}`
		}
		if len(lines) != 2*cpus || !strings.HasPrefix(lines[0], before) || !strings.HasSuffix(lines[0], after) {
			t.Errorf("%d CPUs, printed\n%s", cpus, strings.Join(lines, "\n"))
		}
		if n := strings.Count(strings.Join(lines, "\n"), `{"hits":3,`); n != 2 {
			t.Errorf("the value of the CPU that had the event is there %d times", n)
		}
	}
}

// TestSampleInterval: the map is printed again and again.
func TestSampleInterval(t *testing.T) {
	s := beginSampled(t, "default-kv/package", 77150, 0, true)
	eventually(t, "it is printed ten times", func() bool { return strings.Count(s.out.String(), "\n") >= 10 })
	s.end()
}

// TestClearMap: at the end, and not before, a map is emptied.
func TestClearMap(t *testing.T) {
	needRoot(t)
	pkg, spec := readPackage(t, "default-kv/clear")
	p, err := newPlan(&pkg.Meta, spec)
	if err != nil {
		t.Fatal(err)
	}
	var out buffer
	in, err := start(p, spec, &Options{Stdout: &out, Stderr: io.Discard, Now: time.Now, JSON: true, Status: func(manifest.Status) {}})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := in.coll.Maps["stats"].Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	getpgid(77153)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.run(ctx) }()
	const line = "{\"key\":{\"__u32\":1},\"value\":{\"hits\":3,\"ns\":0,\"who\":\"\"}}\n"
	eventually(t, "it is printed", func() bool { return strings.HasPrefix(out.String(), line) })
	key, value := make([]byte, 4), make([]byte, stats.ValueSize())
	if err := stats.NextKey(nil, key); err != nil {
		t.Errorf("while it runs: %v", err)
	}
	if err := stats.Lookup(key, value); err != nil {
		t.Errorf("while it runs: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := stats.NextKey(nil, key); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("after the end: %v", err)
	}
}

// TestHistogramRefuses: what a histogram cannot be drawn of is refused before
// anything is attached; as JSON it is printed.
func TestHistogramRefuses(t *testing.T) {
	needRoot(t)
	pkg, _ := readPackage(t, "log2-hist/noslots")
	err := Run(t.Context(), Options{Package: pkg, Stdout: io.Discard, Stderr: os.Stderr})
	if want := "map hists: log2_hist: a histogram is drawn of the value's member slots, and it has none"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	out := beginSampled(t, "log2-hist/noslots", 77177, hour, true).end()
	if want := "{\"key\":{\"__u32\":7},\"value\":{\"counts\":[1,2,0,0]}}\n"; out != want+want {
		t.Errorf("printed %s", out)
	}
}
