// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ecli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestExportConfigs runs upstream's packages whose maps have types of their own
// and holds the lines against those that upstream printed. Lines of several maps
// come in any order behind the headers, which are in that of the maps.
func TestExportConfigs(t *testing.T) {
	files, err := filepath.Glob("testdata/upstream/multi-export/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "testdata/upstream/"), ".golden")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Split(string(data), "\n")
			pkg, asJSON := strings.CutSuffix(name, ".json")
			pkg = strings.TrimSuffix(pkg, ".text")
			got := strings.Split(beginSampled(t, pkg, 77200, hour, asJSON).end(), "\n")
			headers := 0
			for headers < len(want) && strings.HasPrefix(want[headers], headerTime) {
				headers++
			}
			if len(got) < headers || !slices.Equal(got[:headers], want[:headers]) {
				t.Fatalf("headers %q, want %q", got, want[:headers])
			}
			// Sampled maps are printed at the start and at the end.
			slices.Sort(want)
			slices.Sort(got)
			if got, want := slices.Compact(got), slices.Compact(want); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// TestExportsRefused: what a package says wrongly of its maps is refused at
// once, with the name of the map.
func TestExportsRefused(t *testing.T) {
	for name, want := range map[string]string{
		"linear-hist/badtype":       `map hists: sample type "cubic": expected default_kv, log2_hist or linear_hist`,
		"linear-hist/nointerval":    "map hists: sample: missing field `interval`",
		"linear-hist/float":         "map hists: sample: interval: ",
		"multi-export/overlap":      `map rb_one: export_config: member bb begins at byte 2, within the one before, which ends at byte 4`,
		"multi-export/badid":        `map rb_one: export_config: member aa: type 9999 of the object's BTF`,
		"multi-export/badbtf":       `map rb_one: export_config: type 9999 of the object's BTF`,
		"multi-export/default-ring": `map rb_one: export_config "default" is for sampled maps`,
		"multi-export/unknown":      `map rb_one: export_config: expected "no_export", "default", {"btf_type_id": N} or`,
	} {
		pkg, spec := readPackage(t, name)
		if _, err := newPlan(&pkg.Meta, spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}

func TestUnsampledExportIsNotRead(t *testing.T) {
	pkg, spec := readPackage(t, "multi-export/hash-no-sample")
	p, err := newPlan(&pkg.Meta, spec)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"map stats is not read: a map of type Hash needs a sample"}; len(p.exports) != 0 || !slices.Equal(p.warnings, want) {
		t.Errorf("exports %v, warnings %q", p.exports, p.warnings)
	}
}

func TestParseExportConfig(t *testing.T) {
	const form = "export_config: expected"
	for in, want := range map[string]string{
		``:                      "",
		`"no_export"`:           "",
		`"default"`:             "",
		`{"btf_type_id":1}`:     "",
		`{"custom_members":[]}`: "",
		`{"custom_members":[{"name":"a","offset":0,"btf_type_id":1}]}`:  "",
		`{"custom_members":[{"name":"a","offset":0}]}`:                  "custom member 1: expected name, offset and btf_type_id",
		`{"custom_members":[{"name":"a","offset":-1,"btf_type_id":1}]}`: form,
		`{"btf_type_id":-1}`:                    form,
		`{"btf_type_id":4294967296}`:            form,
		`{"btf_type_id":1,"custom_members":[]}`: form,
		`{}`:                                    form,
		`"everything"`:                          form,
		`{"everything":1}`:                      form,
		`null`:                                  form,
		`7`:                                     form,
	} {
		_, err := parseExportConfig(json.RawMessage(in))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", in, err, want)
		}
	}
}

// FuzzExportConfig: whatever the config says, what it describes is refused or
// can be printed of as many bytes as it needs.
func FuzzExportConfig(f *testing.F) {
	f.Add(`{"btf_type_id":49}`)
	f.Add(`"default"`)
	f.Add(`{"custom_members":[{"btf_type_id":2,"name":"tail","offset":4},{"btf_type_id":2,"name":"head","offset":0}]}`)
	_, spec := readPackage(f, "multi-export/package")
	f.Fuzz(func(t *testing.T, in string) {
		c, err := parseExportConfig(json.RawMessage(in))
		if err != nil || c.none {
			return
		}
		l, err := c.layout(spec.Types)
		if err != nil || l.need > 1<<20 {
			return
		}
		event := make([]byte, l.need)
		if out := l.appendJSON(nil, event, quoteNone); !json.Valid(out) {
			t.Errorf("printed %q", out)
		}
		p := &printer{layout: l, now: testClock}
		p.header()
		p.event(nil, event)
	})
}
