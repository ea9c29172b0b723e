// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	yaml "sigs.k8s.io/yaml/goyaml.v3"

	"github.com/ebpm/ebpm/manifest"
)

var (
	yamlTypeID = regexp.MustCompile(`(?m)type_id: [0-9]+$`)
	yamlObject = regexp.MustCompile(`^bpf_object: [A-Za-z0-9+/]+=*\nbpf_object_size: [0-9]+\n`)
)

// TestUpstreamYAML compares with what eunomia-bpf's ecc wrote, but for the
// version, the compiler's ids and the bytes of the object.
func TestUpstreamYAML(t *testing.T) {
	needTools(t)
	for _, test := range []struct{ folder, header string }{{"flag-yaml", "event.h"}, {"flag-yaml-wasm", ""}} {
		t.Run(test.folder, func(t *testing.T) {
			from := filepath.Join("testdata/upstream-outputs", test.folder)
			dir := copyDir(t, from)
			opts := Options{Source: onlySource(t, dir, ""), Output: t.TempDir(), YAML: true}
			if test.header != "" {
				opts.Header = filepath.Join(dir, test.header)
			}
			result, err := Compile(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{result.Name + ".skel.yaml", "package.yaml"} {
				want := strings.Replace(string(mustRead(t, filepath.Join(from, name))), "eunomia_version: 0.3.4", "eunomia_version: "+manifest.Version, 1)
				got := string(mustRead(t, filepath.Join(opts.Output, name)))
				if name == "package.yaml" {
					if !yamlObject.MatchString(got) {
						t.Fatalf("%s begins with %.80q", name, got)
					}
					var head struct {
						Object string `yaml:"bpf_object"`
						Size   int    `yaml:"bpf_object_size"`
					}
					if err := yaml.Unmarshal([]byte(got), &head); err != nil || head.Size != len(result.Object) {
						t.Errorf("size %d, %v", head.Size, err)
					}
				}
				mask := func(s string) string {
					return yamlTypeID.ReplaceAllString(yamlObject.ReplaceAllString(s, ""), "type_id: ID")
				}
				if diff := cmp.Diff(mask(want), mask(got)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			if left, err := filepath.Glob(filepath.Join(opts.Output, "*.json")); err != nil || len(left) > 0 {
				t.Errorf("JSON files %q, %v", left, err)
			}
		})
	}
}

// TestYAML holds libyaml's choices of style.
func TestYAML(t *testing.T) {
	for raw, want := range map[string]string{
		`{"a":[],"b":{},"c":[[],{}]}`:                      "a: []\nb: {}\nc:\n- []\n- {}\n",
		`{"b":[[1,[true]],{"x":null,"y":[2]}],"a":1000.0}`: "b:\n- - 1\n  - - true\n- x: null\n  y:\n  - 2\na: 1000.0\n",
		`[{"a":{"b":{"c":"d"}}}]`:                          "- a:\n    b:\n      c: d\n",
		`["","~","null","true","False","yes","y","no"]`:    "- ''\n- '~'\n- 'null'\n- 'true'\n- 'False'\n- yes\n- y\n- no\n",
		`["1.10","-5","+1","1e3","0x1f","0o7","0b1","007","1_000",".5","5.",".","-",".inf","+.inf","1.2.3","0x","1e999"]`: "- '1.10'\n- '-5'\n- '+1'\n- '1e3'\n- '0x1f'\n- '0o7'\n- '0b1'\n- '007'\n- 1_000\n- '.5'\n- '5.'\n- .\n- '-'\n- '.inf'\n- '+.inf'\n- 1.2.3\n- 0x\n- 1e999\n",
		`["a: b","a:b","a #b","a#b","#a","- a","-a","? a","?a","it's","'a","\"a","@a","%a","[a","a]"," a","a "]`:          "- 'a: b'\n- a:b\n- 'a #b'\n- a#b\n- '#a'\n- '- a'\n- -a\n- '? a'\n- ?a\n- it's\n- '''a'\n- '\"a'\n- '@a'\n- '%a'\n- '[a'\n- a]\n- ' a'\n- 'a '\n",
		`["größe 日本 😀","a\tb","a\\b\u0001\u0085\u2028","---a"]`:                                                           "- größe 日本 😀\n- \"a\\tb\"\n- \"a\\\\b\\x01\\N\\L\"\n- '---a'\n",
		`{"a":"x\ny","b":"x\n y\n","c":"x\n\n","d":"\n","e":" x\ny","f":"x \ny","g":"x\ny ","h":"z"}`:                     "a: |-\n  x\n  y\nb: |\n  x\n   y\nc: |+\n  x\n\nd: |2+\n\ne: |2-\n   x\n  y\nf: \"x \\ny\"\ng: \"x\\ny \"\nh: z\n",
		`{"a\nb":{"c":1},"` + strings.Repeat("k", 129) + `":"v","":2}`:                                                    "? |-\n  a\n  b\n: c: 1\n? " + strings.Repeat("k", 129) + "\n: v\n'': 2\n",
		`{"":{"a b":["x\ny"]}}`: "'':\n  a b:\n  - |-\n    x\n    y\n",
		`"a"`:                   "a\n",
	} {
		got, err := yamlFromJSON([]byte(raw))
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", raw, diff)
		}
	}
	for _, raw := range []string{``, `{`, `{"a"`, `[1,`, `1 2`, `{"a":}`} {
		if got, err := yamlFromJSON([]byte(raw)); err == nil {
			t.Errorf("%q becomes %q", raw, got)
		}
	}
}

// FuzzYAML reads what is written with another implementation.
func FuzzYAML(f *testing.F) {
	addFiles(f, "testdata/upstream/*/*.skel.json")
	f.Add([]byte(`{"a\nb":["x\n y\n"," x\ny","\n","é\u2028","a\rb"],"?":{"":{}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// As Meta.Encode writes it, with valid strings.
		var value any
		if json.Unmarshal(raw, &value) != nil {
			return
		}
		clean, err := json.Marshal(value)
		if err != nil || len(clean) > 1<<16 {
			return
		}
		text, err := yamlFromJSON(clean)
		if err != nil {
			t.Fatalf("%s: %v", clean, err)
		}
		var node yaml.Node
		if err := yaml.Unmarshal(text, &node); err != nil {
			t.Fatalf("%q, written for %s: %v", text, clean, err)
		}
		var want []string
		flattenJSON(&want, value)
		var got []string
		if len(node.Content) > 0 {
			flattenYAML(&got, node.Content[0])
		}
		if !slices.Equal(want, got) {
			t.Errorf("%s becomes %q, which reads\n%q, wanted\n%q", clean, text, got, want)
		}
	})
}

func flattenJSON(to *[]string, value any) {
	switch v := value.(type) {
	case map[string]any:
		*to = append(*to, "{")
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			*to = append(*to, "string "+key)
			flattenJSON(to, v[key])
		}
		*to = append(*to, "}")
	case []any:
		*to = append(*to, "[")
		for _, item := range v {
			flattenJSON(to, item)
		}
		*to = append(*to, "]")
	case string:
		*to = append(*to, "string "+v)
	case nil:
		*to = append(*to, "null")
	case float64:
		*to = append(*to, "number")
	default:
		*to = append(*to, fmt.Sprint(v))
	}
}

func flattenYAML(to *[]string, node *yaml.Node) {
	switch node.Kind {
	case yaml.MappingNode, yaml.SequenceNode:
		begin, end := "{", "}"
		if node.Kind == yaml.SequenceNode {
			begin, end = "[", "]"
		}
		*to = append(*to, begin)
		for _, n := range node.Content {
			flattenYAML(to, n)
		}
		*to = append(*to, end)
	case yaml.ScalarNode:
		number := node.Tag == "!!int" || node.Tag == "!!float"
		switch {
		case number && !strings.Contains(node.Value, "_"):
			*to = append(*to, "number")
		case node.Tag == "!!null" || node.Tag == "!!bool":
			*to = append(*to, node.Value)
		default: // a time is a string in YAML 1.2, and 1_000 or 0_.41 too
			*to = append(*to, "string "+node.Value)
		}
	}
}
