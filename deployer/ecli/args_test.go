// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ebpm/ebpm/manifest"
)

func packageCommandLine(t testing.TB, name string) *commandLine {
	t.Helper()
	pkg, _ := readPackage(t, name)
	c, err := newCommandLine(&pkg.Meta)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestHelp holds the help against upstream's, which clap laid out.
func TestHelp(t *testing.T) {
	for _, name := range []string{"globals", "cmdarg"} {
		c := packageCommandLine(t, name+"/package")
		golden(t, "testdata/upstream/"+name+"/help.golden", []byte(c.helpText()), false)
	}
	if got, want := packageCommandLine(t, "cmdarg/package").versionText(), "cmdarg_bpf 4.5.6\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := packageCommandLine(t, "globals/package").versionText(), "globals_bpf 0.1.0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestHelpBelow: wide options with long texts have them on the next line.
func TestHelpBelow(t *testing.T) {
	name := strings.Repeat("n", 20)
	c := &commandLine{before: "b", after: "a", params: []*parameter{
		{variable: name, long: name, short: "n", help: strings.Repeat("word ", 12) + "end\nsecond"},
	}}
	want := "  -n, --" + name + " <" + name + ">\n          word"
	if got := c.helpText(); !strings.Contains(got, want) || !strings.Contains(got, "end\n          second\n") {
		t.Errorf("got\n%s\nwant in it\n%s", got, want)
	}
}

// The variables of cmdarg.bpf.c that have a value without any argument.
const cmdargDefaults = "defaulted=42 text=dflt defon=true defoff=false"

func TestParseArguments(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string // settings, or the request, or the error
	}{
		{"", cmdargDefaults},
		{"--verbose", cmdargDefaults},
		{"--", cmdargDefaults},
		{"--plain 10", "plain=10 " + cmdargDefaults},
		{"--plain=10", "plain=10 " + cmdargDefaults},
		{"--plain=", "plain= " + cmdargDefaults},
		{"--plain -", "plain=- " + cmdargDefaults},
		{"--plain=-5", "plain=-5 " + cmdargDefaults},
		{"--plain=a=b", "plain=a=b " + cmdargDefaults},
		{"--new-name 20 --on", "renamed=20 defaulted=42 text=dflt on=true defon=true defoff=false"},
		{"-r 20 -d30 -t=T", "renamed=20 defaulted=30 text=T defon=true defoff=false"},
		{"-t==T", "defaulted=42 text==T defon=true defoff=false"},
		{"-d-3", "defaulted=-3 text=dflt defon=true defoff=false"},
		{"--disable-defon --enable-off-by-default --init", "defaulted=42 text=dflt defon=false defoff=true init=true"},
		{"--help", "help"}, {"-h", "help"}, {"--on -h --nonsense", "help"}, {"--version", "version"}, {"-V", "version"},
		{"-hV", "help"},
		{"--plain -5", "error: a value is required for '--plain <plain>', and '-5' looks like an option; Write --plain=-5 if it is the value."},
		{"--plain", "error: a value is required for '--plain <plain>' but none was supplied"},
		{"-r", "error: a value is required for '--new-name <renamed>' but none was supplied"},
		{"--on true", "error: unexpected argument 'true' found"},
		{"--on=true", "error: unexpected value 'true' for '--on' found; no more were expected"},
		{"--on --on", "error: the argument '--on' cannot be used multiple times"},
		{"-r1 --new-name=2", "error: the argument '--new-name <renamed>' cannot be used multiple times"},
		{"--verbose --verbose", "error: the argument '--verbose' cannot be used multiple times"},
		{"-x", "error: unexpected argument '-x' found"},
		{"--defon", "error: unexpected argument '--defon' found"},
		{"--renamed 1", "error: unexpected argument '--renamed' found; A similar argument exists: '--new-name'."},
		{"--plan 1", "error: unexpected argument '--plan' found; A similar argument exists: '--plain'."},
		{"--zzzz", "error: unexpected argument '--zzzz' found"},
		{"word", "error: unexpected argument 'word' found"},
		{"-- --plain 1", "error: unexpected argument '--plain' found"},
		{"--__eunomia_dummy_record_ptr 1", "error: unexpected argument '--__eunomia_dummy_record_ptr' found"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			c := packageCommandLine(t, "cmdarg/package")
			settings, request, err := c.parse(strings.Fields(tt.args))
			var got []string
			for _, s := range settings {
				got = append(got, s.variable+"="+s.value)
			}
			switch {
			case err != nil:
				if manifest.KindOf(err) != manifest.KindUsage {
					t.Errorf("kind %d", manifest.KindOf(err))
				}
				got = []string{"error: " + err.Error()}
				if advice := manifest.AdviceOf(err); !strings.HasPrefix(advice, "The program's option") {
					got[0] += "; " + advice
				}
			case request == requestHelp:
				got = []string{"help"}
			case request == requestVersion:
				got = []string{"version"}
			}
			// The order of the variables is that of the object.
			if got := strings.Join(got, " "); !sameWords(got, tt.want) {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func sameWords(a, b string) bool {
	count := map[string]int{}
	for _, w := range strings.Fields(a) {
		count[w]++
	}
	for _, w := range strings.Fields(b) {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestCommandLineOfDescription(t *testing.T) {
	arg := func(v manifest.Variable, raw string) manifest.Variable {
		if err := json.Unmarshal([]byte(raw), &v.CmdArg); err != nil {
			t.Fatal(err)
		}
		return v
	}
	number := manifest.Variable{Name: "n", Type: "int"}
	boolean := manifest.Variable{Name: "b", Type: "bool"}
	for _, tt := range []struct {
		name string
		vars []manifest.Variable
		doc  *manifest.Doc
		args string
		want string
	}{
		{name: "short of two", vars: []manifest.Variable{arg(number, `{"short":"nn"}`)}, want: `variable n: its short name "nn" is not one character`},
		{name: "bool with a text", vars: []manifest.Variable{arg(boolean, `{"default":"x"}`)}, want: `variable b: the default of a bool is true or false, not "x"`},
		{name: "bool with a number", vars: []manifest.Variable{arg(boolean, `{"default":1}`)}, want: `variable b: the default of a bool is true or false, not 1`},
		{name: "number with a bool", vars: []manifest.Variable{arg(number, `{"default":true}`)}, want: `variable n: the default of a variable of type int is a number or a string, not true`},
		{name: "number with a list", vars: []manifest.Variable{arg(number, `{"default":[1]}`)}, want: `variable n: the default of a variable of type int is a number or a string, not [1]`},
		{name: "doc of a number", doc: &manifest.Doc{Version: json.RawMessage("1")}, want: "read doc.version: expected a string, got 1"},
		{name: "value", vars: []manifest.Variable{{Name: "n", Type: "int", Value: json.RawMessage("77")}}, want: "n=77"},
		{name: "default before value", vars: []manifest.Variable{arg(manifest.Variable{Name: "n", Type: "int", Value: json.RawMessage("77")}, `{"default":5}`)}, want: "n=5"},
		{name: "short h", vars: []manifest.Variable{arg(number, `{"short":"h"}`)}, args: "-h 3", want: "n=3"},
		{name: "first short wins", vars: []manifest.Variable{arg(number, `{"short":"s"}`), arg(manifest.Variable{Name: "m", Type: "int"}, `{"short":"s"}`)}, args: "-s 3", want: "n=3"},
		{name: "named help", vars: []manifest.Variable{{Name: "help", Type: "int"}}, args: "--help 3", want: "help=3"},
		{name: "named verbose", vars: []manifest.Variable{{Name: "verbose", Type: "bool"}}, args: "--verbose", want: "verbose=true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			meta := &manifest.Meta{Skeleton: manifest.Skeleton{ObjName: "x_bpf", Doc: tt.doc,
				DataSections: []manifest.DataSection{{Name: ".rodata", Variables: tt.vars}, {Name: ".kconfig", Variables: []manifest.Variable{{Name: "CONFIG_HZ", Type: "int"}}}}}}
			c, err := newCommandLine(meta)
			var set strings.Builder
			if err == nil {
				var settings []setting
				settings, _, err = c.parse(strings.Fields(tt.args))
				for _, s := range settings {
					set.WriteString(s.variable + "=" + s.value)
				}
				if strings.Contains(c.helpText(), "CONFIG_HZ") {
					t.Error("a value of the kernel's configuration is an option")
				}
			}
			got := set.String()
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func FuzzArguments(f *testing.F) {
	f.Add("p\x00int\x00pid\x00p", "--pid\x00-5\x00-p3")
	f.Add("b\x00bool\x00\x00", "--b")
	f.Add("h\x00char[8]\x00h\x00h", "-hh\x00--h=\xff")
	f.Fuzz(func(t *testing.T, variable, args string) {
		parts := strings.SplitN(variable, "\x00", 4)
		for len(parts) < 4 {
			parts = append(parts, "")
		}
		meta := &manifest.Meta{Skeleton: manifest.Skeleton{DataSections: []manifest.DataSection{{Name: ".bss", Variables: []manifest.Variable{
			{Name: parts[0], Type: parts[1], CmdArg: &manifest.CmdArg{Long: parts[2], Short: parts[3]}}}}}}}
		c, err := newCommandLine(meta)
		if err != nil {
			return
		}
		settings, request, err := c.parse(strings.Split(args, "\x00"))
		if err != nil && (settings != nil || err.Error() == "") {
			t.Fatal("settings beside an error")
		}
		if request == requestHelp && !strings.Contains(c.helpText(), "Usage:") {
			t.Fatal("no usage in the help")
		}
		if len(settings) > 1 {
			t.Fatal(fmt.Sprint("one variable has two values: ", settings))
		}
	})
}
