// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ecli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// newPlan plans a package where it says itself.
func newPlan(meta *manifest.Meta, spec *ebpf.CollectionSpec) (*plan, error) {
	return newPlanAt(meta, spec, nil)
}

// planProgram plans a program where its package says.
func planProgram(meta *manifest.ProgMeta, spec *ebpf.CollectionSpec) (plannedProgram, error) {
	return planProgramAt(meta, spec, manifest.Target{})
}

// TestPlan changes a good package in one way each.
func TestPlan(t *testing.T) {
	export := func(m *manifest.Meta) *manifest.ExportType { return &m.ExportTypes[0] }
	skel := func(m *manifest.Meta) *manifest.Skeleton { return &m.Skeleton }
	for _, tt := range []struct {
		name   string
		change func(*manifest.Meta)
		want   string // the error, or "" for a plan that exports, or "-" for one that does not
	}{
		{"as it is", func(*manifest.Meta) {}, ""},
		{"no maps", func(m *manifest.Meta) { skel(m).Maps = nil }, "-"},
		{"no programs", func(m *manifest.Meta) { skel(m).Progs = nil }, ""},
		{"no data sections", func(m *manifest.Meta) { skel(m).DataSections = nil }, ""},
		{"program that is not there", func(m *manifest.Meta) { skel(m).Progs[0].Name = "other" }, "program other: the object has no program of that name"},
		{"attach and link are not looked at", func(m *manifest.Meta) { skel(m).Progs[0].Attach, skel(m).Progs[0].Link = "kprobe/x", false }, ""},
		{"map that is not there", func(m *manifest.Meta) { skel(m).Maps[0].Name = "other" }, "map other: the object has no map of that name"},
		{"data section that is not there", func(m *manifest.Meta) {
			skel(m).DataSections = append(skel(m).DataSections, manifest.DataSection{Name: ".nosuch"})
		}, "data section .nosuch: the object has none of that name"},
		{"type of another name", func(m *manifest.Meta) { export(m).Name = "other" }, "is struct record, but struct other"},
		{"type that is not there", func(m *manifest.Meta) { export(m).TypeID = 9999 }, "type 9999 of the object's BTF"},
		{"type that is no struct", func(m *manifest.Meta) { export(m).TypeID = 1 }, "not a struct"},
		{"member too few", func(m *manifest.Meta) { export(m).Members = export(m).Members[:1] }, "has 2 members in the object's BTF, but 1 in"},
		{"member of another name", func(m *manifest.Meta) { export(m).Members[0].Name = "other" }, ""},
		{"member of another type", func(m *manifest.Meta) { export(m).Members[0].Type = "long" }, ""},
		{"other size", func(m *manifest.Meta) { export(m).Size = 1 }, ""},
		{"no export types", func(m *manifest.Meta) { m.ExportTypes = nil }, "map events: the package does not say which struct its events are"},
		{"perf buffers of many pages", func(m *manifest.Meta) { m.PerfBufferPages = 1 << 16 }, ""},
		{"perf buffers of too many pages", func(m *manifest.Meta) { m.PerfBufferPages = 1<<16 + 1 }, "perf_buffer_pages 65537: at most 65536 pages a CPU"},
		{"default interpreter", func(m *manifest.Meta) { skel(m).Maps[0].Interpreter = json.RawMessage(`"default_struct"`) }, ""},
		{"stack traces", func(m *manifest.Meta) { skel(m).Maps[0].Interpreter = json.RawMessage(`{"stack_trace":{}}`) }, `map events: stack_trace: struct record has no member pid`},
		{"sample of a ring buffer is not looked at", func(m *manifest.Meta) { skel(m).Maps[0].Sample = &manifest.Sample{Interval: 1} }, ""},
		{"export config that is switched off", func(m *manifest.Meta) { skel(m).Maps[0].ExportConfig = json.RawMessage(`"no_export"`) }, ""},
		{"export config of nothing", func(m *manifest.Meta) {
			m.MultipleExportTypes = true
			skel(m).Maps[0].ExportConfig = json.RawMessage(`"no_export"`)
		}, "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkg, spec := readPackage(t, "bad-packages/package")
			tt.change(&pkg.Meta)
			p, err := newPlan(&pkg.Meta, spec)
			switch {
			case tt.want == "" || tt.want == "-":
				if err != nil {
					t.Fatal(err)
				}
				if (len(p.exports) == 1) != (tt.want == "") {
					t.Errorf("exports %+v", p.exports)
				}
			case err == nil || !strings.Contains(err.Error(), tt.want):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestPlanRefuses: what this runner cannot do is refused with the name of the
// program or map and of the hook.
func TestPlanRefuses(t *testing.T) {
	for pkg, want := range map[string]string{
		"sections/kprobe":    `program the_program: section "kprobe": it names no function; write SEC("kprobe/FUNCTION")`,
		"sections/uprobe":    `program the_program: section "uprobe": it names no function`,
		"sections/badtp":     `program the_program: section "tracepoint/noslash": it names no tracepoint`,
		"no-export/noheader": `map events: the package does not say which struct its events are`,
	} {
		t.Run(pkg, func(t *testing.T) {
			pkg, spec := readPackage(t, pkg)
			_, err := newPlan(&pkg.Meta, spec)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

// TestPlanOfSeveralMaps: the last one is read, and that is said.
func TestPlanOfSeveralMaps(t *testing.T) {
	pkg, spec := readPackage(t, "several-structs/package")
	p, err := newPlan(&pkg.Meta, spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.exports) != 1 || p.exports[0].mapName != "ring_two" || len(p.warnings) != 1 || !strings.Contains(p.warnings[0], "ring_one") {
		t.Errorf("exports %+v, warns %q", p.exports, p.warnings)
	}
}

// TestPlanOfSampledMaps changes a good sampled map in one way each.
func TestPlanOfSampledMaps(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*ebpf.MapSpec)
		want   string
	}{
		{"as it is", func(*ebpf.MapSpec) {}, ""},
		{"per CPU", func(m *ebpf.MapSpec) { m.Type = ebpf.PerCPUHash }, ""},
		{"without keys", func(m *ebpf.MapSpec) { m.Type = ebpf.Queue }, "map stats: a map of type Queue cannot be sampled"},
		{"type of keys unknown", func(m *ebpf.MapSpec) { m.Key = nil }, "map stats: key: the object does not say its type"},
		{"type of values unknown", func(m *ebpf.MapSpec) { m.Value = nil }, "map stats: value: the object does not say its type"},
		{"values smaller than their type", func(m *ebpf.MapSpec) { m.ValueSize = 8 }, "map stats: value: struct tally takes 24 bytes, but the map has 8"},
		{"keys that cannot be printed", func(m *ebpf.MapSpec) { m.Key = &btf.Fwd{Name: "x"} }, "map stats: key: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkg, spec := readPackage(t, "default-kv/package")
			tt.change(spec.Maps["stats"])
			_, err := newPlan(&pkg.Meta, spec)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestXDPOptions(t *testing.T) {
	for _, tt := range []struct {
		extra   string
		want    xdpExtras
		wantErr string
	}{
		{`{}`, xdpExtras{iface: netInterface{index: 1}}, ""},
		{`{"ifindex":3,"flags":2,"xdpopts":{"old_prog_fd":0}}`, xdpExtras{iface: netInterface{index: 3}, flags: 2}, ""},
		{`{"ifindex":"eth0","flags":5}`, xdpExtras{iface: netInterface{"eth0", 1}, flags: 4}, ""},
		{`{"ifindex":1.5}`, xdpExtras{}, "ifindex 1.5: expected the number or the name"},
		{`{"ifindex":null}`, xdpExtras{iface: netInterface{index: 1}}, ""},
		{`{"flags":-1}`, xdpExtras{}, "flags -1: expected the number"},
		{`{"flags":16}`, xdpExtras{}, "those with the value 16 cannot be used"},
		{`{"xdpopts":[]}`, xdpExtras{}, "xdpopts []"},
		{`{"xdpopts":{"old_prog_fd":5}}`, xdpExtras{}, "old_prog_fd 5 is no program of this process"},
	} {
		meta := &manifest.ProgMeta{}
		if err := json.Unmarshal([]byte(tt.extra), &meta.Extra); err != nil {
			t.Fatal(err)
		}
		got, err := xdpOptions(meta)
		if tt.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("%s: got %v, want %s", tt.extra, err, tt.wantErr)
			}
		} else if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.extra, got, err, tt.want)
		}
	}
}
