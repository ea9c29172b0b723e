// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/ebpm/ebpm/manifest"
)

// A testNote is a note of a USDT probe.
type testNote struct {
	location, base, semaphore uint64
	texts                     string // provider, name and arguments, each with a NUL
}

func (n testNote) bytes() []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, []uint32{8, uint32(24 + len(n.texts)), usdtNoteType})
	b.WriteString("stapsdt\x00")
	_ = binary.Write(&b, binary.LittleEndian, []uint64{n.location, n.base, n.semaphore})
	b.WriteString(n.texts)
	b.Write(make([]byte, -b.Len()&3))
	return b.Bytes()
}

// A testProgram is a static program for x86-64 that waits for the end of its
// input, calls two functions and ends with its semaphore as exit code. The first
// function has a place that is passed only if the semaphore says so.
type testProgram struct {
	notes []byte
	// base is where the section .stapsdt.base is; 0 is none.
	base uint64
	// change is called with each section before it is written.
	change func(name string, s *elf.Section64)
}

// Addresses of testProgram.
const (
	progText, progData   = 0x401000, 0x402000
	progFirst            = progText + 0x80 // function first_function
	progGuarded          = progFirst + 11  // passed only with the semaphore
	progSecond           = progText + 0xc0 // function second_function
	progSemaphore        = progData        // 2 bytes
	progValue            = progData + 0x10 // variable of 8 bytes, -70000
	progTextAt           = 0x1000          // in the file
	progDataAt           = 0x2000
	progGuardedInFile    = progGuarded - progText + progTextAt
	progSecondInFile     = progSecond - progText + progTextAt
	progSemaphoreInFile  = progSemaphore - progData + progDataAt
	progArgs             = "-4@%edi 8@%rsi -8@16(%rsi) -8@-24(%rsi,%rdi,8) -8@value(%rip) 2@(%rsi)"
	progSegment          = 0x1000
	progHeaderSize       = 64
	progSectionsAt       = progDataAt + progSegment
	progSegmentHeaderLen = 56
)

func (p testProgram) bytes() []byte {
	text := make([]byte, progSegment)
	copy(text, "\x31\xc0"+ // xor eax, eax: read
		"\x31\xff"+ // xor edi, edi: from standard input
		"\xbe\x00\x21\x40\x00"+ // mov esi, 0x402100
		"\xba\x01\x00\x00\x00"+ // mov edx, 1
		"\x0f\x05"+ // syscall
		"\xbf\x05\x00\x00\x00"+ // mov edi, 5
		"\xbe\x00\x20\x40\x00"+ // mov esi, progData
		"\xe8\x61\x00\x00\x00"+ // call first_function
		"\xe8\x9c\x00\x00\x00"+ // call second_function
		"\x0f\xb7\x3c\x25\x00\x20\x40\x00"+ // movzx edi, word [progSemaphore]
		"\xb8\x3c\x00\x00\x00"+ // mov eax, 60: exit
		"\x0f\x05") // syscall
	copy(text[progFirst-progText:], "\x66\x83\x3c\x25\x00\x20\x40\x00\x00"+ // cmp word [progSemaphore], 0
		"\x74\x01"+ // je over the nop
		"\x90\xc3") // nop; ret
	copy(text[progSecond-progText:], "\x90\xc3") // nop; ret
	data := make([]byte, progSegment)
	value := int64(-70000)
	binary.LittleEndian.PutUint64(data[progValue-progData:], uint64(value))

	var names, symbolNames = []byte{0}, []byte{0}
	var symbols, content bytes.Buffer
	_ = binary.Write(&symbols, binary.LittleEndian, elf.Sym64{})
	for _, s := range []struct {
		name    string
		typ     elf.SymType
		section uint16
		value   uint64
	}{
		{"first_function", elf.STT_FUNC, 1, progFirst}, {"second_function", elf.STT_FUNC, 1, progSecond},
		{"value", elf.STT_OBJECT, 2, progValue},
	} {
		_ = binary.Write(&symbols, binary.LittleEndian, elf.Sym64{Name: uint32(len(symbolNames)),
			Info: byte(elf.STB_GLOBAL)<<4 | byte(s.typ), Shndx: s.section, Value: s.value})
		symbolNames = append(append(symbolNames, s.name...), 0)
	}
	sections := []elf.Section64{{}}
	add := func(name string, s elf.Section64, bytes []byte) {
		s.Name = uint32(len(names))
		names = append(append(names, name...), 0)
		if s.Off == 0 {
			if name == ".shstrtab" {
				bytes = names
			}
			s.Off, s.Size = progSectionsAt+uint64(content.Len()), uint64(len(bytes))
			content.Write(bytes)
			content.Write(make([]byte, -content.Len()&7))
		}
		if p.change != nil {
			p.change(name, &s)
		}
		sections = append(sections, s)
	}
	add(".text", elf.Section64{Type: uint32(elf.SHT_PROGBITS), Addr: progText, Off: progTextAt, Size: progSegment}, nil)
	add(".data", elf.Section64{Type: uint32(elf.SHT_PROGBITS), Addr: progData, Off: progDataAt, Size: progSegment}, nil)
	add(".symtab", elf.Section64{Type: uint32(elf.SHT_SYMTAB), Link: 4, Entsize: elf.Sym64Size}, symbols.Bytes())
	add(".strtab", elf.Section64{Type: uint32(elf.SHT_STRTAB)}, symbolNames)
	add(usdtSection, elf.Section64{Type: uint32(elf.SHT_NOTE)}, p.notes)
	if p.base != 0 {
		add(usdtBaseSection, elf.Section64{Type: uint32(elf.SHT_PROGBITS), Addr: p.base}, []byte{0})
	}
	add(".shstrtab", elf.Section64{Type: uint32(elf.SHT_STRTAB)}, nil)

	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: progText,
		Phoff: progHeaderSize, Shoff: progSectionsAt + uint64(content.Len()), Ehsize: progHeaderSize,
		Phentsize: progSegmentHeaderLen, Phnum: 2, Shentsize: 64, Shnum: uint16(len(sections)), Shstrndx: uint16(len(sections) - 1)}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, header)
	_ = binary.Write(&b, binary.LittleEndian, []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: progTextAt, Vaddr: progText, Filesz: progSegment, Memsz: progSegment, Align: 4096},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: progDataAt, Vaddr: progData, Filesz: progSegment, Memsz: 2 * progSegment, Align: 4096},
	})
	b.Write(make([]byte, progTextAt-b.Len()))
	b.Write(text)
	b.Write(data)
	b.Write(content.Bytes())
	_ = binary.Write(&b, binary.LittleEndian, sections)
	return b.Bytes()
}

func sitesOf(file []byte, provider, name string) (sites []usdtSite, err error) {
	err = withELF(bytes.NewReader(file), func(f *elf.File) error {
		sites, err = usdtSites(f, provider, name)
		return err
	})
	return sites, err
}

// A countingReader counts the bytes that are read.
type countingReader struct {
	io.ReaderAt
	read int
}

func (r *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	r.read += n
	return n, err
}

// TestVariables: a file with many places costs no reading each.
func TestVariables(t *testing.T) {
	r := &countingReader{ReaderAt: bytes.NewReader(testProgram{}.bytes())}
	err := withELF(r, func(f *elf.File) error {
		vars := &variables{f, map[string]uint64{}}
		for i := range 2 {
			before := r.read
			if address, err := vars.address("value"); err != nil || address != progValue {
				t.Errorf("at %#x, %v", address, err)
			}
			if again := r.read > before; again != (i == 0) {
				t.Errorf("asked for the %d. time: read %d bytes", i+1, r.read-before)
			}
		}
		for i := range maxVariables {
			vars.addresses[strconv.Itoa(i)] = 0
		}
		delete(vars.addresses, "value")
		if _, err := vars.address("value"); err == nil {
			t.Error("takes any number of variables")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUSDTSites(t *testing.T) {
	const base = 0x403000
	guarded := testNote{progGuarded, base, progSemaphore, "ebpm\x00probe\x00-4@%edi\x00"}
	second := testNote{progSecond, base, 0, "ebpm\x00probe\x00\x00"}
	other := testNote{progSecond, base, 0, "ebpm\x00other\x008@%rax\x00"}
	notes := func(notes ...testNote) []byte {
		var b []byte
		for _, n := range notes {
			b = append(b, n.bytes()...)
		}
		return b
	}
	moved := func(n testNote) testNote {
		n.location, n.base = n.location-0x5000, n.base-0x5000
		if n.semaphore != 0 {
			n.semaphore -= 0x5000
		}
		return n
	}
	stranger := bytes.Replace(guarded.bytes(), []byte("stapsdt\x00"), []byte("strange\x00"), 1)
	longer := func(name string, s *elf.Section64) {
		if name == usdtSection {
			s.Size = maxUSDTNotes + 1
		}
	}
	compressed := func(name string, s *elf.Section64) {
		if name == usdtSection {
			s.Flags |= uint64(elf.SHF_COMPRESSED)
		}
	}
	wantGuarded := usdtSite{progGuarded, progGuardedInFile, progSemaphoreInFile, "-4@%edi"}
	wantSecond := usdtSite{progSecond, progSecondInFile, 0, ""}
	var crowd []testNote
	for i := range 2 * maxNamed {
		crowd = append(crowd, testNote{progSecond, base, 0, fmt.Sprintf("crowd\x00n%02d\x00\x00", i)})
	}
	for name, tt := range map[string]struct {
		program testProgram
		want    []usdtSite
		wantErr string
	}{
		"one":         {testProgram{notes: notes(guarded)}, []usdtSite{wantGuarded}, ""},
		"two":         {testProgram{notes: notes(guarded, other, second)}, []usdtSite{wantGuarded, wantSecond}, ""},
		"not moved":   {testProgram{notes: notes(guarded, second), base: base}, []usdtSite{wantGuarded, wantSecond}, ""},
		"moved":       {testProgram{notes: notes(moved(guarded), moved(second)), base: base}, []usdtSite{wantGuarded, wantSecond}, ""},
		"stranger":    {testProgram{notes: append(stranger, notes(second)...)}, []usdtSite{wantSecond}, ""},
		"no padding":  {testProgram{notes: bytes.TrimRight(notes(guarded), "\x00")}, nil, "no whole note at byte 0 of"},
		"other":       {testProgram{notes: notes(other)}, nil, `it has no USDT probe ebpm:probe; it has ["ebpm:other"]`},
		"many others": {testProgram{notes: notes(crowd...)}, nil, `"crowd:n09" "..."]`},
		"none":        {testProgram{}, nil, "it has no USDT probe ebpm:probe, and no other either"},
		"outside":     {testProgram{notes: notes(testNote{0x99, base, 0, "ebpm\x00probe\x00\x00"})}, nil, "its USDT probe ebpm:probe: address 0x99 is in no executable part"},
		"semaphore":   {testProgram{notes: notes(testNote{progSecond, base, progSecond, "ebpm\x00probe\x00\x00"})}, nil, "its semaphore: address 0x4010c0 is in no writable part"},
		"zero-filled": {testProgram{notes: notes(testNote{progSecond, base, progData + progSegment, "ebpm\x00probe\x00\x00"})}, nil, "is in no writable part of the file"},
		"cut":         {testProgram{notes: append(notes(second), notes(guarded)[:30]...)}, nil, "no whole note at byte 56 of 86"},
		"too short":   {testProgram{notes: []byte{1, 2, 3}}, nil, "no whole note at byte 0 of 3"},
		"huge name":   {testProgram{notes: []byte("\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00\x00\x00")}, nil, "no whole note at byte 0"},
		"no texts":    {testProgram{notes: notes(testNote{progSecond, base, 0, "ebpm\x00probe"})}, nil, "no whole note at byte 0"},
		"no name":     {testProgram{notes: notes(testNote{progSecond, base, 0, "ebpm\x00\x00\x00"})}, nil, "no whole note at byte 0"},
		"too long":    {testProgram{notes: notes(second), change: longer}, nil, "more than 16777216 bytes"},
		"compressed":  {testProgram{notes: notes(second), change: compressed}, nil, "compressed"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := sitesOf(tt.program.bytes(), "ebpm", "probe")
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %s", err, tt.wantErr)
				}
			} else if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func FuzzUSDTNotes(f *testing.F) {
	n := testNote{progGuarded, 0x403000, progSemaphore, "ebpm\x00probe\x00" + progArgs + "\x00"}
	f.Add(testProgram{notes: n.bytes()}.bytes())
	f.Add(testProgram{notes: n.bytes(), base: 0x404000}.bytes())
	f.Add(testProgram{notes: n.bytes()[:20]}.bytes())
	f.Fuzz(func(t *testing.T, file []byte) {
		sites, err := sitesOf(file, "ebpm", "probe")
		if err == nil && len(sites) == 0 || err != nil && err.Error() == "" {
			t.Fatalf("%d places, %v", len(sites), err)
		}
		for _, s := range sites {
			if s.offset > math.MaxInt64 || len(s.args) > len(file) {
				t.Fatalf("%+v", s)
			}
		}
	})
}

func TestParseUSDTArgs(t *testing.T) {
	const rax, rdx, rsi, rdi, rbp, r15, rip, rsp = 80, 96, 104, 112, 32, 0, 128, 152
	x, arm := elf.EM_X86_64, elf.EM_AARCH64
	for _, tt := range []struct {
		machine elf.Machine
		text    string
		want    []usdtArg
		wantErr string
	}{
		{x, "", nil, ""},
		{x, "-4@%eax", []usdtArg{{kind: usdtReg, size: 4, signed: true, register: rax}}, ""},
		{x, " 1@%dl\t2@%si  8@%r15 ", []usdtArg{{kind: usdtReg, size: 1, register: rdx}, {kind: usdtReg, size: 2, register: rsi}, {kind: usdtReg, size: 8, register: r15}}, ""},
		{x, "1@%r15b 1@%sil 1@%spl", []usdtArg{{kind: usdtReg, size: 1, register: r15}, {kind: usdtReg, size: 1, register: rsi}, {kind: usdtReg, size: 1, register: rsp}}, ""},
		{x, "8@-16(%rbp)", []usdtArg{{kind: usdtDeref, size: 8, value: -16, register: rbp}}, ""},
		{x, "8@0x10(%rsp)", []usdtArg{{kind: usdtDeref, size: 8, value: 16, register: rsp}}, ""},
		{x, "-2@(%rdi)", []usdtArg{{kind: usdtDeref, size: 2, signed: true, register: rdi}}, ""},
		{x, "4@$5 -4@$-9 8@$0xffffffffffffffff", []usdtArg{{size: 4, value: 5}, {size: 4, signed: true, value: -9}, {size: 8, value: -1}}, ""},
		{x, "-1@-96(%rbp,%rax,8)", []usdtArg{{kind: usdtScaled, size: 1, signed: true, value: -96, register: rbp, index: rax, shift: 3}}, ""},
		{x, "4@(%rdi, %rsi) 4@(%rdi,%rsi,1)", []usdtArg{{kind: usdtScaled, size: 4, register: rdi, index: rsi}, {kind: usdtScaled, size: 4, register: rdi, index: rsi}}, ""},
		{x, "8@name(%rip) 4@16+a.b$0(%rip) 4@_n-8(%rip) 4@n+8(%rip)", []usdtArg{
			{kind: usdtDeref, size: 8, register: rip, variable: "name"}, {kind: usdtDeref, size: 4, value: 16, register: rip, variable: "a.b$0"},
			{kind: usdtDeref, size: 4, value: -8, register: rip, variable: "_n"}, {kind: usdtDeref, size: 4, value: 8, register: rip, variable: "n"}}, ""},
		{x, "%rax", nil, `argument 1, "%rax": it is not of the form SIZE@OPERAND`},
		{x, "4@%eax 3@%eax", nil, `argument 2, "3@%eax": the size "3" is none of`},
		{x, "8f@%xmm0", nil, "floating point numbers"},
		{x, "8@%xmm0", nil, "do not see register %xmm0"},
		{x, "1@%ah", nil, "the second byte of a register, %ah"},
		{x, "8@%rzx", nil, `no register "%rzx"`},
		{x, "8@rax", nil, "neither a constant nor a register"},
		{x, "8@8(%rax", nil, "neither a constant nor a register"},
		{x, "8@()", nil, `no register ""`},
		{x, "8@name(%rax)", nil, "at the instruction pointer, and nothing else"},
		{x, "8@8(%rip)", nil, "at the instruction pointer, and nothing else"},
		{x, "8@name(%rip,%rax,8)", nil, "at the instruction pointer, and nothing else"},
		{x, "8@a+b(%rip)", nil, `"b" is no number`},
		{x, "8@8+(%rip)", nil, "it names no variable"},
		{x, "8@1*2(%rip)", nil, `"1*2" is neither a number nor a variable`},
		{x, "8@(%rax,%rbx,3)", nil, `the scale "3"`},
		{x, "8@(%rax,%rbx,1,1)", nil, "at most a base, an index and a scale"},
		{x, "8@(,%rbx,8)", nil, `no register ""`},
		{x, "8@%fs:0(%rax)", nil, `no register "%fs:0(%rax)"`},
		{x, "8@$99999999999999999999", nil, "is no number"},
		{x, strings.Repeat("8@%rax ", 12), slices.Repeat([]usdtArg{{kind: usdtReg, size: 8, register: rax}}, 12), ""},
		{x, strings.Repeat("8@%rax ", 13), nil, "more than 12 arguments"},
		{x, "8@" + strings.Repeat("y", 1000), nil, strings.Repeat("y", 62) + `..."`},
		{arm, "-4@x0 8@x30 8@sp 4@w7", []usdtArg{{kind: usdtReg, size: 4, signed: true}, {kind: usdtReg, size: 8, register: 240}, {kind: usdtReg, size: 8, register: 248}, {kind: usdtReg, size: 4, register: 56}}, ""},
		{arm, "-4@[sp, 12] 8@[x19] 8@[x1,-8] 8@[x1, #16]", []usdtArg{{kind: usdtDeref, size: 4, signed: true, value: 12, register: 248}, {kind: usdtDeref, size: 8, register: 152},
			{kind: usdtDeref, size: 8, value: -8, register: 8}, {kind: usdtDeref, size: 8, value: 16, register: 8}}, ""},
		{arm, "4@5 -4@-5 4@#7", []usdtArg{{size: 4, value: 5}, {size: 4, signed: true, value: -5}, {size: 4, value: 7}}, ""},
		{arm, "8@x31", nil, `no register "x31"`},
		{arm, "8@[sp, 12", nil, "its bracket is not closed"},
		{arm, "8@[x0, x1]", nil, `"x1" is no number`},
		{arm, "8@", nil, `"" is no number`},
		{elf.EM_RISCV, "8@a0", nil, "the registers of EM_RISCV are not known"},
	} {
		got, err := parseUSDTArgs(tt.machine, tt.text)
		if tt.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("%q: got %v, want %s", tt.text, err, tt.wantErr)
			}
		} else if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %+v, %v", tt.text, got, err)
		}
	}
}

func FuzzUSDTArg(f *testing.F) {
	for _, text := range []string{progArgs, "4@$5 8@16+memory(%rip)", "8f@%xmm0", "-1@%ah"} {
		f.Add(true, text)
	}
	f.Add(false, "-4@[sp, 12] 8@x0 4@-5")
	l := testLayout(f)
	f.Fuzz(func(t *testing.T, x86 bool, text string) {
		machine := elf.EM_AARCH64
		if x86 {
			machine = elf.EM_X86_64
		}
		args, err := parseUSDTArgs(machine, text)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		for _, a := range args {
			if a.register > 31*8 || a.index > 31*8 || a.shift > 3 || a.kind > usdtScaled {
				t.Fatalf("%q: %+v", text, a)
			}
		}
		if _, err := l.encode(args); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

// usdtPackage is a package of ours, compiled from testdata/usdt/usdt.bpf.c.
func usdtPackage(t testing.TB) *manifest.Package {
	t.Helper()
	data, err := os.ReadFile("testdata/usdt/package.json")
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := manifest.DecodePackage(data)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

func testLayout(t testing.TB) usdtLayout {
	t.Helper()
	spec, err := loadSpec(usdtPackage(t).Object)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newUSDTLayout(spec.Maps[usdtSpecsMap].Value)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// oldUSDTSpec is struct __bpf_usdt_spec before libbpf 1.7.
func oldUSDTSpec() *btf.Struct {
	u64, short, char := &btf.Int{Size: 8}, &btf.Int{Size: 2, Encoding: btf.Signed}, &btf.Int{Size: 1}
	arg := &btf.Struct{Name: "__bpf_usdt_arg_spec", Size: 16, Members: []btf.Member{
		{Name: "val_off", Type: u64}, {Name: "arg_type", Type: &btf.Enum{Size: 4}, Offset: 64},
		{Name: "reg_off", Type: short, Offset: 96}, {Name: "arg_signed", Type: char, Offset: 112}, {Name: "arg_bitshift", Type: char, Offset: 120}}}
	return &btf.Struct{Name: "__bpf_usdt_spec", Size: 208, Members: []btf.Member{
		{Name: "args", Type: &btf.Array{Type: arg, Nelems: 12}}, {Name: "usdt_cookie", Type: u64, Offset: 192 * 8}, {Name: "arg_cnt", Type: short, Offset: 200 * 8}}}
}

func TestUSDTLayout(t *testing.T) {
	l := testLayout(t)
	if l.size != 304 || l.stride != 24 || l.count != 12 {
		t.Errorf("the package's: %+v", l)
	}
	old, err := newUSDTLayout(oldUSDTSpec())
	if err != nil || old.size != 208 || old.stride != 16 {
		t.Fatalf("the old one: %+v, %v", old, err)
	}
	args := []usdtArg{
		{kind: usdtReg, size: 4, signed: true, register: 0x50},
		{kind: usdtDeref, size: 8, value: -16, register: 0x98},
		{kind: usdtScaled, size: 1, value: 1, register: 0x60, index: 0x70, shift: 3},
	}
	got, err := l.encode(args)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 304)
	copy(want, "\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x50\x00\x01\x20\x00\x00\x00\x00\x00\x00"+
		"\xf0\xff\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x00\x98\x00\x00\x00\x00\x00\x00\x00\x00\x00"+
		"\x01\x00\x00\x00\x00\x00\x00\x00\x03\x00\x70\x30\x00\x00\x60\x00\x00\x38\x00\x00\x00\x00\x00\x00")
	want[296] = 3
	if !bytes.Equal(got, want) {
		t.Errorf("encoded\n%x, want\n%x", got, want)
	}
	if got, err = old.encode(args[:2]); err != nil {
		t.Fatal(err)
	}
	want = make([]byte, 208)
	copy(want, "\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x50\x00\x01\x20"+
		"\xf0\xff\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x98\x00\x00\x00")
	want[200] = 2
	if !bytes.Equal(got, want) {
		t.Errorf("encoded\n%x, want\n%x", got, want)
	}
	if _, err := old.encode(args); manifest.KindOf(err) != manifest.KindPrecondition || !strings.Contains(fmt.Sprint(err), "argument 3 is at an address with an index") {
		t.Errorf("got %v", err)
	}
	if _, err := old.encode(make([]usdtArg, 13)); err == nil {
		t.Error("13 arguments were taken")
	}
	for name, change := range map[string]func(*btf.Struct){
		"no array args":         func(s *btf.Struct) { s.Members[0].Name = "arguments" },
		"no number arg_cnt":     func(s *btf.Struct) { s.Members[2].Offset = 208 * 8 },
		"not that of usdt.bpf":  func(s *btf.Struct) { s.Members[0].Type.(*btf.Array).Nelems = 1 << 30 },
		"no number arg_type":    func(s *btf.Struct) { s.Members[0].Type.(*btf.Array).Type.(*btf.Struct).Members[1].Type = &btf.Void{} },
		"are not structs":       func(s *btf.Struct) { s.Members[0].Type.(*btf.Array).Type = &btf.Void{} },
		"is not that of usdt.b": func(s *btf.Struct) { s.Size = math.MaxUint32 },
	} {
		s := oldUSDTSpec()
		change(s)
		if _, err := newUSDTLayout(s); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := newUSDTLayout(nil); err == nil {
		t.Error("a map without a type was taken")
	}
}
