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
		{words: "-jp json -", want: flags{json: true, progType: "json", program: "-"}},
		{words: "-pJSON p", want: flags{progType: "JSON", program: "p"}},
		{words: "-p=json p", want: flags{progType: "json", program: "p"}},
		{words: "--prog-type=json p", want: flags{progType: "json", program: "p"}},
		{words: "--interface eth0 --root=/host --ready /r.sock --termination-log /dev/termination-log p x",
			want: flags{iface: "eth0", root: "/host", ready: "/r.sock", terminationLog: "/dev/termination-log", program: "p", args: []string{"x"}}},
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
		{words: "--attach", wantErr: "a value is required for '--attach'"},
		{words: "-- -odd- --help", want: flags{program: "-odd-", args: []string{"--help"}}},
		{words: "p -- a", want: flags{program: "p", args: []string{"--", "a"}}},
		{words: "-h", help: true}, {words: "--help p", help: true}, {words: "-jh", help: true},
		{words: "", wantErr: "which program"},
		{words: "-j", wantErr: "which program"},
		{words: "-x p", wantErr: "unexpected argument '-x' found"},
		{words: "--jso p", wantErr: "unexpected argument '--jso' found"},
		{words: "--json=yes p", wantErr: "unexpected value 'yes' for '--json' found"},
		{words: "-j=yes p", wantErr: "unexpected value 'yes' for '--json' found"},
		{words: "-j -j p", wantErr: "the argument '--json' cannot be used multiple times"},
		{words: "-p", wantErr: "a value is required for '--prog-type'"},
		{words: "--interface -j p", wantErr: "a value is required for '--interface'"},
		{words: "-p elf p", wantErr: "invalid value 'elf' for '--prog-type'"},
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

func FuzzFlags(f *testing.F) {
	f.Add("-jp\x00json\x00-\x00--x")
	f.Add("--ready=\x00--\x00-p")
	f.Fuzz(func(t *testing.T, words string) {
		list := strings.Split(words, "\x00")
		got, help, err := parseFlags(list)
		if err == nil && !help && len(got.args) >= len(list) {
			t.Fatalf("%d words behind the program of %d", len(got.args), len(list))
		}
	})
}
