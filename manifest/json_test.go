// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestUnknownFieldsAreSortedAndKept(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":{"d":[ 1.50, 1e400 ,-0],"c":null}}`:  `{"a":{"c":null,"d":[1.50,1e400,-0]},"b":1}`,
		`{"x":12345678901234567890123,"x":{"y":[true]}}`: `{"x":{"y":[true]}}`,
		`["\u0041\u2028<&>\u0001\ud800", "\/" ]`:         "[\"A\u2028<&>\\u0001\uFFFD\",\"/\"]",
		` [ [ ] , { } ] `:                                `[[],{}]`,
	} {
		m := Meta{Extra: Fields{"extra": json.RawMessage(in)}}
		got, err := m.Encode()
		if err != nil || !strings.HasSuffix(string(got), `"extra":`+want+`}`) {
			t.Errorf("%s\ngot %s, %v\nwant %s", in, got, err, want)
		}
	}
	for _, in := range []string{"{", "1 2", "[1]]", "tru"} {
		m := Meta{Extra: Fields{"extra": json.RawMessage(in)}}
		if got, err := m.Encode(); err == nil {
			t.Errorf("%s became %s", in, got)
		}
	}
}

// TestNesting: what lies deeper than any use is refused before it is decoded,
// and not written either.
func TestNesting(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"[{":[`, n/2) + strings.Repeat(`]}`, n/2) }
	for _, tt := range []struct {
		levels int
		ok     bool
	}{{maxNesting, true}, {maxNesting + 2, false}, {4 << 20, false}} {
		// The skeleton is one level deep when extra begins.
		text := fmt.Sprintf(`{"bpf_skel":{"data_sections":[],"obj_name":"x"},"extra":[%s]}`, deep(tt.levels-2))
		m, err := DecodeMeta([]byte(text))
		if (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), "more than 32 deep") {
			t.Errorf("%d levels: %v", tt.levels, err)
		}
		if tt.ok {
			if _, err := m.Encode(); err != nil {
				t.Errorf("%d levels are read and not written: %v", tt.levels, err)
			}
		}
	}
	m := Meta{Extra: Fields{"extra": json.RawMessage(deep(maxNesting))}}
	if _, err := m.Encode(); err == nil {
		t.Error("what cannot be read again was written")
	}
	// Brackets in strings are no nesting.
	text := `{"bpf_skel":{"data_sections":[],"obj_name":"\"` + strings.Repeat("[", 100) + `"}}`
	if _, err := DecodeMeta([]byte(text)); err != nil {
		t.Errorf("brackets in a string: %v", err)
	}
}

// TestMistypedAnnotations checks that a skeleton is readable whatever a comment
// put into it, and is written again as it was.
func TestMistypedAnnotations(t *testing.T) {
	const around = `{"bpf_skel":{"data_sections":[{"name":".bss","variables":[{%s"name":"x","type":"int"}]}],"maps":[{"ident":"m",%s"name":"m"}],"obj_name":"o","progs":null}}`
	for _, test := range []struct{ variable, bpfMap string }{
		{`"cmdarg":"words","description":42,`, `"mmaped":1,`},
		{`"cmdarg":{"short":5},"description":null,`, `"mmaped":false,`},
		{`"cmdarg":null,"description":"",`, ``},
		{`"cmdarg":{"help":"","long":"l"},"description":"d",`, `"mmaped":true,`},
	} {
		text := fmt.Sprintf(around, test.variable, test.bpfMap)
		m, err := DecodeMeta([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if again, err := m.Encode(); err != nil || string(again) != text {
			t.Errorf("%s becomes %s, %v", text, again, err)
		}
	}
	if _, err := DecodeMeta([]byte(strings.Replace(fmt.Sprintf(around, "", ""), `"type":"int"`, `"type":5`, 1))); err == nil {
		t.Error("a type that is no string is taken")
	}
}
