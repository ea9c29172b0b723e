// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/manifest"
)

// annotated annotates the variables x and y, the program f and the map m, and
// returns what is not as it was, and the warnings.
func annotated(t *testing.T, source string) (*manifest.Meta, string) {
	t.Helper()
	meta := &manifest.Meta{Skeleton: manifest.Skeleton{
		DataSections: []manifest.DataSection{{Name: ".bss", Variables: []manifest.Variable{{Name: "x", Type: "int"}, {Name: "y", Type: "int"}}}},
		Maps:         []manifest.MapMeta{{Name: "m", Ident: "m"}},
		Progs:        []manifest.ProgMeta{{Name: "f", Attach: "xdp", Link: true}},
	}}
	var warnings strings.Builder
	a := annotator{file: "a.c", log: slog.New(slog.DiscardHandler), warn: func(line string) { warnings.WriteString(line) }}
	if err := a.annotate(&meta.Skeleton, []byte(source)); err != nil {
		t.Fatal(err)
	}
	return meta, warnings.String()
}

// TestAnnotationWarnings holds what is said of the traps of upstream's grammar.
func TestAnnotationWarnings(t *testing.T) {
	for _, folder := range []string{"doc-quotes", "doc-traps", "doc-vars", "doc-maps", "doc-progs", "doc-license"} {
		dir := filepath.Join("testdata/upstream", folder)
		source := onlySource(t, dir, "")
		name, _, _ := strings.Cut(source, ".")
		meta, err := manifest.DecodeMeta(mustRead(t, name+".skel.json"))
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		a := annotator{file: filepath.Base(source), log: slog.New(slog.DiscardHandler), warn: func(line string) { got.WriteString(line) }}
		if err := a.annotate(&meta.Skeleton, mustRead(t, source)); err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata/annotations", folder+".warnings")
		if *update {
			if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(mustRead(t, golden)), got.String()); diff != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", folder, diff)
		}
	}
}

// TestAnnotationValues checks what reaches a package, and that it can be read
// again.
func TestAnnotationValues(t *testing.T) {
	for _, test := range []struct {
		name, source string
		want         string // a part of the skeleton
		warning      string // a part of what is said; "" for nothing
	}{
		{"number", "/// @description 42\nint x;", `{"description":42,"name":"x","type":"int"}`, "a.c:1: warning: the @description of x is no string but 42"},
		{"empty string", "/// @description \"\"\nint x;", `{"description":"","name":"x","type":"int"}`, ""},
		{"null", "/// @cmdarg null\nint x;", `{"cmdarg":null,"name":"x","type":"int"}`, "a.c:1: warning: the @cmdarg of x makes no option, and eunomia-bpf's runner refuses it: it is no object"},
		{"empty help", "/// @cmdarg {\"help\":\"\",\"long\":\"<l>\"}\nint x;", `{"cmdarg":{"help":"","long":"<l>"},"name":"x","type":"int"}`, ""},
		{"mistyped option", "/// @cmdarg {\"short\":5}\nint x;", `{"cmdarg":{"short":5},"name":"x","type":"int"}`, ""},
		{"type is no string", "/// @type 5\nint x;", `{"name":"x","type":"5"}`, ""},
		{"attach is no string", "/// @attach [1]\nint f(void) {}", `{"attach":"[1]","link":true,"name":"f"}`, ""},
		{"mistyped map", "/// @sample 5\n/// @mmaped 1\n/// @ident \"i\"\nstruct { int a; } m;", `{"ident":"i","mmaped":1,"name":"m","sample":5}`, "a.c:1: warning: runners refuse the @sample of m: "},
		{"sample without interval", "/// @sample {\"type\":\"log2_hist\"}\nstruct { int a; } m;", `"sample":{"type":"log2_hist"}`, "a.c:1: warning: runners refuse the @sample of m: missing field `interval`\n"},
		{"two declarations", "/// @cmdarg {\"long\":\"l\", \"default\":1e3}\n/// @value 3\n/// @description d\nextern int x;\n/// @size 7\nint x;", `{"cmdarg":{"default":1000.0,"long":"l"},"description":"d","name":"x","size":7,"type":"int","value":3}`, ""},
		{"deep", "/// @cmdarg " + strings.Repeat("[", 25) + strings.Repeat("]", 25) + "\nint x;", `"cmdarg":"[[[[`, "a.c:1: warning: arrays and objects lie in each other more than 24 deep"},
		{"deepest", "/// @sample " + strings.Repeat("[", 24) + strings.Repeat("]", 24) + "\nstruct {} m;", `"sample":[[[[`, "runners refuse the @sample of m: "},
		{"replaced", "/// @cmdarg {}\n/// words\nint x;", `{"cmdarg":"words"`, "a.c:2: warning: this line replaces the @cmdarg of line 1"},
		{"once for two names", "/// @name n\nint x, y;", ``, "a.c:1: warning: @name and the rest of its line are dropped\n"},
		{"link in a link", "/// @link a @/link @cmdarg {}\nint x;", `{"cmdarg":{},"name":"x"`, "a.c:1: warning: @link drops the text up to its @/link"},
		{"formula", "/// @f$ a @description b @f$ @description c\nint x;", `{"description":"c","name":"x"`, "@f$ drops"},
		{"formula over lines", "/** @f[ a\n *\n * b @f] c */\nint x;", `{"description":"c","name":"x"`, "@f[ drops"},
		{"word on the next line", "/// @p\n/// one two\nint x;", `{"name":"x","p":"two"`, "takes the word \"one\" away"},
		{"word of several pieces", "/// @p a\\@b&amp;c d\nint x;", `{"name":"x","p":"d"`, "takes the word \"a@b&c\" away"},
		{"tag instead of a word", "/** @note n @p <b>w */\nint x;", `{"name":"x","note":"n \n \nw"`, "@p within @note"},
		{"slash in a tag", "/// <b/ d\nint x;", `{"description":"d","name":"x"`, "only the last piece"},
		{"no word", "/// @p @cmdarg {}\nint x;", `{"cmdarg":{},"name":"x"`, "a.c:1: warning: @p has no text"},
		{"attributes", "/// a <a href=\"x @b\" id='2'/>b\nint x;", `{"description":"b","name":"x"`, "only the last piece"},
		{"end of a tag", "/// a < /b> </ b >c\nint x;", `{"description":"c","name":"x"`, "only the last piece"},
		{"entities", "/// &#65;&#x42;\nint x;", `{"description":"B","name":"x"`, "only the last piece"},
		{"unfinished", "/// &\n/// <\n/// @\n/// \"&#x\nint x;", `{"description":"&#x","name":"x"`, "replaces"},
		{"tag at the end", "/// a <b\nint x;", `{"description":"a","name":"x"`, ""},
		{"colons", "/// @::\nint x;", `{"description":"::","name":"x"`, ""},
		{"empty block", "/// @brief\n///\n/// d\nint x;", `{"description":"d","name":"x"`, "a.c:1: warning: @brief has no text"},
		{"end alone", "/// a @endcode\nint x;", `{"description":"a","name":"x"`, "@endcode ends nothing"},
		{"underscore", "/// @brie_f a\nint x;", `{"brie_f":"a","name":"x"`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			meta, warnings := annotated(t, test.source)
			encoded, err := meta.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(encoded), test.want) {
				t.Errorf("skeleton %s\nwanted in it: %s", encoded, test.want)
			}
			if !strings.Contains(warnings, test.warning) || test.warning == "" && warnings != "" {
				t.Errorf("warnings %q, wanted %q", warnings, test.warning)
			}
			if strings.HasSuffix(test.warning, "\n") && warnings != test.warning {
				t.Errorf("warnings %q", warnings)
			}
			again, err := manifest.DecodeMeta(encoded)
			if err != nil {
				t.Fatalf("a runner cannot read it: %v", err)
			}
			if second, err := again.Encode(); err != nil || string(second) != string(encoded) {
				t.Errorf("encodes to %s, then to %s, %v", encoded, second, err)
			}
		})
	}
}
