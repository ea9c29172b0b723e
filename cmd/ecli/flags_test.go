// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebpm/ebpm/manifest"
)

func TestParseFlags(t *testing.T) {
	for _, tt := range []struct {
		words   string
		want    flags
		help    bool
		wantErr string
	}{
		{words: "p.json", want: flags{program: "p.json"}},
		{words: "-j p.json -j --help", want: flags{json: true, program: "p.json", args: []string{"-j", "--help"}}},
		{words: "--json --strict p.json", want: flags{json: true, strict: true, program: "p.json"}},
		{words: "-jp json -", want: flags{json: true, progType: typeJSON, program: "-"}},
		{words: "-pJSON p", want: flags{progType: typeJSON, program: "p"}},
		{words: "-p=json p", want: flags{progType: typeJSON, program: "p"}},
		{words: "--prog-type=json p", want: flags{progType: typeJSON, program: "p"}},
		{words: "--interface eth0 --root=/host --ready /r.sock --termination-log /dev/termination-log p x",
			want: flags{iface: "eth0", root: "/host", ready: "/r.sock", terminationLog: "/dev/termination-log", program: "p", args: []string{"x"}}},
		{words: "-p JsonEunomia p", want: flags{progType: typeJSON, program: "p"}},
		{words: "-p TAR p", want: flags{progType: typeTar, program: "p"}},
		{words: "-p WasmModule p", want: flags{progType: typeWasm, program: "p"}},
		{words: "--attach a=eth0,veth* --attach b=/bin/sh:main,pid=1 --attach=a=lo p --attach x", want: flags{
			attach:  []manifest.Attach{{Program: "a", Target: "eth0,veth*"}, {Program: "b", Target: "/bin/sh:main,pid=1"}, {Program: "a", Target: "lo"}},
			program: "p", args: []string{"--attach", "x"},
		}},
		{words: "--handover /h --carry .bss --carry=.data --reset-state p", want: flags{
			handover: "/h", carry: manifest.Carry{Maps: []string{".bss", ".data"}}, resetState: true, program: "p",
		}},
		{words: "--handover=/h --carry all p", want: flags{handover: "/h", carry: manifest.Carry{All: true}, program: "p"}},
		{words: "--carry all p", wantErr: "--handover DIR"},
		{words: "--attach eth0 p", wantErr: `"eth0" is not PROGRAM=TARGET`},
		{words: "--attach", wantErr: "a value is required for '--attach <PROG=TARGET>'"},
		{words: "-- -odd- --help", want: flags{program: "-odd-", args: []string{"--help"}}},
		{words: "p -- a", want: flags{program: "p", args: []string{"--", "a"}}},
		{words: "-h", help: true}, {words: "--help p", help: true}, {words: "-jh", help: true},
		{words: "", wantErr: "required arguments were not provided:\n  <COMMAND_LINE>..."},
		{words: "-j", wantErr: "required arguments were not provided:\n  <COMMAND_LINE>..."},
		{words: "-x p", wantErr: "unexpected argument '-x' found"},
		{words: "--jso p", wantErr: "unexpected argument '--jso' found"},
		{words: "--json=yes p", wantErr: "unexpected value 'yes' for '--json' found"},
		{words: "-j=yes p", wantErr: "unexpected value 'yes' for '--json' found"},
		{words: "-j -j p", wantErr: "the argument '--json' cannot be used multiple times"},
		{words: "-p json --prog-type=tar p", wantErr: "the argument '--prog-type <PROG_TYPE>' cannot be used multiple times"},
		{words: "-p", wantErr: "a value is required for '--prog-type <PROG_TYPE>'"},
		{words: "--interface -j p", wantErr: "a value is required for '--interface <NAME>'"},
		{words: "-p elf p", wantErr: "invalid value 'elf' for '--prog-type <PROG_TYPE>': unknown program type: elf"},
	} {
		t.Run(tt.words, func(t *testing.T) {
			got, help, err := parseFlags(strings.Fields(tt.words))
			switch {
			case tt.wantErr != "":
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %s", err, tt.wantErr)
				}
			case err != nil:
				t.Error(err)
			case help != tt.help:
				t.Errorf("help: %t", help)
			case !help:
				if tt.want.args == nil {
					tt.want.args = []string{}
				}
				if diff := cmp.Diff(&tt.want, got, cmp.AllowUnexported(flags{})); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			}
		})
	}
}

func TestParseImageFlags(t *testing.T) {
	for _, tt := range []struct {
		command, words string
		want           imageFlags
		help           bool
		wantErr        string
	}{
		{command: "push", words: "r/x:1", want: imageFlags{file: "app.wasm", image: "r/x:1"}},
		{command: "push", words: "r/x:1 -m f.json -a a=b=c --annotations k=", want: imageFlags{file: "f.json", annotations: []string{"a=b=c", "k="}, image: "r/x:1"}},
		{command: "push", words: "-i -- r/x", want: imageFlags{file: "app.wasm", prompt: true, image: "r/x"}},
		{command: "push", words: "-ume -p=secret r/x", want: imageFlags{file: "app.wasm", account: &account{"me", "secret"}, image: "r/x"}},
		{command: "pull", words: "-o out --username me r/x --password p", want: imageFlags{file: "out", account: &account{"me", "p"}, image: "r/x"}},
		{command: "pull", words: "--help", help: true},
		{command: "pull", words: "-o x -h", help: true},
		{command: "pull", words: "", wantErr: "were not provided:\n  <IMAGE>"},
		{command: "pull", words: "-u me", wantErr: "were not provided:\n  --password <PASSWORD>\n  <IMAGE>"},
		{command: "push", words: "-p secret r/x", wantErr: "were not provided:\n  --username <USERNAME>"},
		{command: "push", words: "-i -u me -p secret r/x", wantErr: "the argument '--prompt' cannot be used with:\n  --username <USERNAME>\n  --password <PASSWORD>"},
		{command: "push", words: "-i -p secret r/x", wantErr: "cannot be used with:\n  --password <PASSWORD>"},
		{command: "push", words: "r/x r/y", wantErr: "unexpected argument 'r/y' found"},
		{command: "push", words: "-o f r/x", wantErr: "unexpected argument '-o' found"},
		{command: "pull", words: "-m f r/x", wantErr: "unexpected argument '-m' found"},
		{command: "push", words: "-a word r/x", wantErr: "invalid value 'word' for '--annotations <ANNOTATIONS>'"},
		{command: "push", words: "-m a -m b r/x", wantErr: "'--module <MODULE>' cannot be used multiple times"},
		{command: "push", words: "-- --module", wantErr: "invalid value '--module' for '<IMAGE>'"},
	} {
		t.Run(tt.command+" "+tt.words, func(t *testing.T) {
			got, help, err := parseImageFlags(tt.command, strings.Fields(tt.words))
			switch {
			case tt.wantErr != "":
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %s", err, tt.wantErr)
				}
			case err != nil || help != tt.help:
				t.Errorf("help: %t, %v", help, err)
			case !help:
				if diff := cmp.Diff(&tt.want, got, cmp.AllowUnexported(imageFlags{})); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			}
		})
	}
}

func FuzzFlags(f *testing.F) {
	f.Add("-jp\x00json\x00-\x00--x")
	f.Add("--ready=\x00--\x00-p")
	f.Fuzz(func(t *testing.T, words string) {
		list := strings.Split(words, "\x00")
		if got, help, err := parseImageFlags("push", list); err == nil && !help && (got.image == "" || got.image[0] == '-') {
			t.Fatalf("the reference %q", got.image)
		}
		got, help, err := parseFlags(list)
		if err == nil && !help && len(got.args) >= len(list) {
			t.Fatalf("%d words behind the program of %d", len(got.args), len(list))
		}
	})
}
