// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

func TestSpelling(t *testing.T) {
	var (
		i     = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
		c     = &btf.Int{Name: "char", Size: 1}
		anon  = &btf.Struct{}
		pair  = &btf.Struct{Name: "pair"}
		ptr   = func(t btf.Type) btf.Type { return &btf.Pointer{Target: t} }
		array = func(t btf.Type, n uint32) btf.Type { return &btf.Array{Index: i, Type: t, Nelems: n} }
		void  = (*btf.Void)(nil)
	)
	for _, test := range []struct {
		t                btf.Type
		variable, member string
	}{
		{i, "int", "int"},
		{void, "void", "void"},
		{ptr(void), "void *", "void *"},
		{&btf.Const{Type: &btf.Volatile{Type: c}}, "char", "volatile const char"},
		{ptr(&btf.Const{Type: c}), "char *", "const char *"},
		{&btf.Const{Type: ptr(c)}, "char *", "char * const"},
		{&btf.Restrict{Type: ptr(ptr(&btf.Const{Type: c}))}, "char **", "const char ** restrict"},
		{ptr(&btf.TypeTag{Type: &btf.Const{Type: c}, Value: "user"}), "char *", "const char *"},
		{array(array(c, 20), 10), "char[10][20]", "char[10][20]"},
		{array(ptr(c), 4), "char *[4]", "char *[4]"},
		{ptr(array(c, 4)), "char(*)[4]", "char(*)[4]"},
		{&btf.Const{Type: array(c, 4)}, "char[4]", "char[4]"},
		{ptr(&btf.FuncProto{Return: i, Params: []btf.FuncParam{{Type: i}, {Type: ptr(c)}}}), "int (*)(int, char *)", "int (*)(int, char *)"},
		{ptr(&btf.FuncProto{Return: void, Params: []btf.FuncParam{{Name: "a", Type: i}, {Type: void}}}), "void (*)(int a, ...)", "void (*)(int a, ...)"},
		{ptr(&btf.FuncProto{Return: void, Params: []btf.FuncParam{{Type: void}}}), "void (*)(void)", "void (*)(void)"},
		{array(ptr(&btf.FuncProto{Return: i}), 2), "int (*[2])()", "int (*[2])()"},
		{pair, "struct pair", "composite"},
		{&btf.TypeTag{Type: pair}, "struct pair", "composite"},
		{&btf.Volatile{Type: pair}, "struct pair", "volatile struct pair"},
		{ptr(pair), "struct pair *", "struct pair *"},
		{&btf.Union{Name: "u"}, "union u", "composite"},
		{&btf.Enum{Name: "e"}, "enum e", "enum"},
		{&btf.Enum{}, "enum {...}", "enum"},
		{anon, "struct {...}", "composite"},
		{array(anon, 3), "struct {...}[3]", "struct {...}[3]"},
		{ptr(&btf.Fwd{Name: "later", Kind: btf.FwdUnion}), "union later *", "union later *"},
		{&btf.Typedef{Name: "pid_t", Type: i}, "pid_t", "pid_t"},
		{&btf.Float{Name: "double", Size: 8}, "double", "double"},
	} {
		if got, err := spellVariable(test.t); err != nil || got != test.variable {
			t.Errorf("variable %v: %q, %v, wanted %q", test.t, got, err, test.variable)
		}
		if got, err := spellMember(test.t); err != nil || got != test.member {
			t.Errorf("member %v: %q, %v, wanted %q", test.t, got, err, test.member)
		}
	}
}

// TestEndlessTypes spells types that contain themselves, which C cannot say and
// BTF can.
func TestEndlessTypes(t *testing.T) {
	loop := &btf.Pointer{}
	loop.Target = loop
	tag := &btf.TypeTag{}
	tag.Type = tag
	function := &btf.FuncProto{Return: (*btf.Void)(nil)}
	function.Params = []btf.FuncParam{{Type: &btf.Pointer{Target: function}}}
	array := &btf.Array{Nelems: 1}
	array.Type = array
	for _, typ := range []btf.Type{loop, tag, function, array} {
		if got, err := spellVariable(typ); err == nil {
			t.Errorf("%T: %q", typ, got)
		}
		if got := alignOf(typ); got < 1 {
			t.Errorf("%T: alignment %d", typ, got)
		}
	}
}

func TestAlignment(t *testing.T) {
	i := &btf.Int{Size: 4}
	l := &btf.Int{Size: 8}
	c := &btf.Int{Size: 1}
	for _, test := range []struct {
		t    btf.Type
		want int
	}{
		{c, 1},
		{&btf.Int{Size: 16}, 8},
		{&btf.Array{Type: i, Nelems: 3}, 4},
		{&btf.Pointer{Target: c}, 8},
		{&btf.Struct{Size: 16, Members: []btf.Member{{Type: c}, {Type: l, Offset: 64}}}, 8},
		{&btf.Struct{Size: 9, Members: []btf.Member{{Type: c}, {Type: l, Offset: 8}}}, 1},
		{&btf.Struct{Size: 12, Members: []btf.Member{{Type: l}, {Type: i, Offset: 64}}}, 1},
		{&btf.Union{Size: 8, Members: []btf.Member{{Type: c}, {Type: l}}}, 8},
		{&btf.Struct{}, 1},
	} {
		if got := alignOf(test.t); got != test.want {
			t.Errorf("%v: %d, wanted %d", test.t, got, test.want)
		}
	}
}

func TestNames(t *testing.T) {
	for file, want := range map[string]string{
		"client.bpf.o": "client_bpf", ".bpf.o": "_bpf", "9-lives.bpf.o": "9_lives_bpf", "ä.bpf.o": "___bpf",
		strings.Repeat("x", 60) + ".bpf.o": strings.Repeat("x", 60) + "_bp",
	} {
		if got := objectName(file); got != want {
			t.Errorf("object name of %s: %s, wanted %s", file, got, want)
		}
	}
	for section, want := range map[string]string{
		".rodata": "some_obj.rodata", ".data": "some_obj.data", ".bss": "some_obj.bss", ".kconfig": "some_ob.kconfig",
		".rodata.str1.1": ".rodata.str1.1", ".bss.a_long_name_here": ".bss.a_long_name_here",
	} {
		if got := internalMapName("some_object_bpf", section); got != want {
			t.Errorf("map of %s: %s, wanted %s", section, got, want)
		}
	}
	if got := internalMapName("tc_bpf", ".rodata"); got != "tc_bpf.rodata" {
		t.Errorf("map of a short name: %s", got)
	}
}

func TestExportedStructs(t *testing.T) {
	header := "struct one {\n};\nstruct\n two\t{ struct three { int x; } y; };\n// we construct things {\nstruct __attribute__((packed)) no {};\nstruct { int x; } anonymous;\nunion four { };\ntypedef struct five{} five_t;\r\nstruct\v\vsix\f{};\n"
	var got []string
	for _, s := range exportedStructs([]byte(header)) {
		got = append(got, s.name)
	}
	if want := "one two three things five six"; strings.Join(got, " ") != want {
		t.Errorf("structs %q, wanted %s", got, want)
	}
	if s := exportedStructs([]byte(header))[1]; s.line != 4 {
		t.Errorf("struct two is in line %d", s.line)
	}
}
