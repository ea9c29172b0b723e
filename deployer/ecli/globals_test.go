// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

func TestEncodeValue(t *testing.T) {
	if !littleEndian {
		t.Skip("the bytes are those of a little-endian machine")
	}
	short := &btf.Int{Name: "short", Size: 2, Encoding: btf.Signed}
	ulong := &btf.Int{Name: "unsigned long", Size: 8}
	wide := &btf.Int{Name: "__int128", Size: 16, Encoding: btf.Signed}
	text := &btf.Array{Type: &btf.Const{Type: testChar}, Nelems: 4}
	enum := &btf.Enum{Name: "mode", Size: 4, Signed: true, Values: []btf.EnumValue{{Name: "OFF", Value: 1<<64 - 2}}}
	typedef := &btf.Volatile{Type: &btf.Typedef{Name: "u32", Type: testUint}}
	for _, tt := range []struct {
		typ  btf.Type
		size int
		text string
		want string // hex, or the error
	}{
		{testInt, 4, "-1", "ffffffff"}, {testInt, 4, "+7", "07000000"}, {testInt, 4, "-2147483648", "00000080"},
		{testInt, 4, "2147483648", "`2147483648` is no decimal number from -2147483648 to 2147483647, which int holds"},
		{testInt, 4, "", "no decimal number"}, {testInt, 4, " 7", "no decimal number"}, {testInt, 4, "0x10", "no decimal number"},
		{testInt, 4, "1_0", "no decimal number"}, {testInt, 4, "+-1", "no decimal number"}, {testInt, 4, "1.5", "no decimal number"},
		{testInt, 4, strings.Repeat("9", 1000), "no decimal number"},
		{testUint, 4, "4294967295", "ffffffff"}, {testUint, 4, "-1", "no decimal number from 0 to 4294967295"},
		{typedef, 4, "2147483648", "00000080"},
		{short, 2, "-32769", "no decimal number"}, {testByte, 1, "255", "ff"}, {testChar, 1, "-1", "ff"},
		{ulong, 8, "18446744073709551615", "ffffffffffffffff"},
		{wide, 16, "-2", "feffffffffffffffffffffffffffffff"},
		{testBool, 1, "true", "01"}, {testBool, 1, "0", "00"}, {testBool, 1, "yes", "`yes` is neither true nor false"},
		{testInt, 4, "true", "01000000"},
		{&btf.Float{Name: "float", Size: 4}, 4, "1.25", "0000a03f"},
		{&btf.Float{Name: "double", Size: 8}, 8, "1.25", "000000000000f43f"},
		{&btf.Float{Name: "double", Size: 8}, 8, "0x1p3", "no decimal number"},
		{&btf.Float{Name: "double", Size: 8}, 8, "one", "no decimal number"},
		{enum, 4, "OFF", "feffffff"}, {enum, 4, "3", "03000000"}, {enum, 4, "ON", "no decimal number"},
		{text, 4, "abc", "61626300"}, {text, 4, "", "00aaaaaa"}, {text, 4, "a", "6100aaaa"},
		{text, 4, "abcd", "the text takes 5 bytes with its NUL, and char[4] has room for 4"},
		{text, 4, "a\x00b", "has a NUL"},
		{&btf.Array{Type: testInt, Nelems: 1}, 4, "1", "cannot be given on the command line"},
		{&btf.Struct{Name: "s", Size: 4}, 4, "1", `a value of type "s" cannot be given`},
		{&btf.Pointer{Target: testInt}, 8, "1", "cannot be given"},
	} {
		value := bytes.Repeat([]byte{0xaa}, tt.size)
		err := encodeValue(value, tt.typ, tt.text)
		if err != nil {
			if !strings.Contains(err.Error(), tt.want) || tt.want == "" {
				t.Errorf("%s: got error %q, want %q", tt.text, err, tt.want)
			}
			continue
		}
		if got := hex.EncodeToString(value); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.text, got, tt.want)
		}
	}
}

func TestApplySettings(t *testing.T) {
	for _, tt := range []struct {
		name    string
		setting setting
		want    string // the error
	}{
		{"of the object", setting{&parameter{variable: "i", section: ".rodata", ctype: "int", long: "i"}, "5"}, ""},
		{"only described", setting{&parameter{variable: "nobody", section: ".rodata", ctype: "int", long: "nobody"}, "5"}, ""},
		{"only described, other value", setting{&parameter{variable: "nobody", section: ".rodata", ctype: "int", long: "nobody"}, "x"}, "set variable nobody (--nobody): `x` is no decimal number"},
		{"of another section", setting{&parameter{variable: "i", section: ".bss", ctype: "struct s", long: "i"}, "5"}, ""},
		{"described as a text", setting{&parameter{variable: "i", section: ".rodata", ctype: "char[16]", long: "i"}, "abc"}, "set variable i (--i): `abc` is no decimal number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, spec := readPackage(t, "globals/package")
			i, err := variableBytes(spec, spec.Variables["i"])
			if err != nil {
				t.Fatal(err)
			}
			before := bytes.Clone(i)
			err = applySettings(spec, []setting{tt.setting})
			if tt.want != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			changed := !bytes.Equal(before, i)
			if changed != (tt.name == "of the object") {
				t.Errorf("the variable changed: %t", changed)
			}
		})
	}
}
