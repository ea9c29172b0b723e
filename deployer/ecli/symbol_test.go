// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindSymbol(t *testing.T) {
	symbols := sortSymbols([]tableSymbol{
		{start: 0x300, name: 6, rank: 1}, // up to the next one
		{start: 0x100, size: 0x10, name: 1, rank: 2},
		{start: 0x100, size: 0x10, name: 2, rank: 0},
		{start: 0x100, size: 0x10, name: 3, rank: 0},
		{start: 0x100, name: nameless, rank: 2},
		{start: 0x400, name: nameless, rank: 2},
		{start: 0x410, name: nameless, rank: 2},
		{start: 0x500, size: 1, name: 5},
	})
	if len(symbols) != 4 {
		t.Errorf("%d symbols stay: %+v", len(symbols), symbols)
	}
	for address, want := range map[uint64]int{
		0: 0, 0xff: 0, 0x100: 2, 0x10f: 2, 0x110: 0, 0x2ff: 0, 0x300: 6, 0x3ff: 6, 0x400: 0, 0x4ff: 0, 0x500: 5, 0x501: 0, math.MaxUint64: 0,
	} {
		got, ok := findSymbol(symbols, address)
		if ok != (want != 0) || ok && int(got.name) != want {
			t.Errorf("%#x: %+v, %v; want %d", address, got, ok, want)
		}
	}
}

const testKallsyms = `0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 t _text_alias
ffffffff81000100 t do_work
ffffffff81000200 D some_data
ffffffffc0000000 t helper	[nf_tables]
ffffffffc0000010 d table	[nf_tables]
ffffffffc0001000 t bpf_prog_6deef7357e7b4530_profile	[bpf]
`

func TestReadKallsyms(t *testing.T) {
	k, err := readKallsyms(strings.NewReader(testKallsyms))
	if err != nil || k.hidden {
		t.Fatalf("hidden %v, %v", k.hidden, err)
	}
	for address, want := range map[uint64]place{
		0:                  {},
		0xffffffff80ffffff: {},
		0xffffffff81000000: {symbol: "_stext"},
		0xffffffff810000ff: {symbol: "_stext", offset: 0xff},
		0xffffffff81000110: {symbol: "do_work", offset: 0x10},
		0xffffffff81000210: {},
		0xffffffffc0000008: {symbol: "helper", offset: 8, module: "nf_tables"},
		0xffffffffc0000018: {},
		0xffffffffc0001001: {symbol: "bpf_prog_6deef7357e7b4530_profile", offset: 1, module: "bpf"},
	} {
		if got := k.find(address); got != want {
			t.Errorf("%#x: %+v, want %+v", address, got, want)
		}
	}
	k, err = readKallsyms(strings.NewReader("0000000000000000 T _stext\n0000000000000000 t do_work\t[nf_tables]\n"))
	if err != nil || !k.hidden || k.find(0x10) != (place{}) {
		t.Errorf("without rights: %+v, %v", k, err)
	}
	for _, bad := range []string{
		"\n", "x\n", "ffffffff81000000\n", "ffffffff81000000 T\n", "ffffffff81000000 T \n", "zz T name\n", "ffffffff810000000 T name\n",
		"ffffffff81000000 T name\t[\n", "ffffffff81000000 T name\t[]\n", "ffffffff81000000 T " + strings.Repeat("x", 70_000) + "\n",
	} {
		if _, err := readKallsyms(strings.NewReader(testKallsyms + bad)); err == nil {
			t.Errorf("%.40q: no error", bad)
		}
	}
	if _, err := readKallsyms(io.MultiReader(strings.NewReader(testKallsyms), &repeated{line: "ffffffff81000000 D x\n"})); err == nil {
		t.Error("a list without an end: no error")
	}
}

// repeated is a line again and again.
type repeated struct {
	line string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.line[r.at]
		r.at = (r.at + 1) % len(r.line)
	}
	return len(p), nil
}

func FuzzKallsyms(f *testing.F) {
	f.Add([]byte(testKallsyms))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := readKallsyms(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, s := range k.symbols {
			if p := k.find(s.start); p.symbol == "" != (s.name == nameless) || p.offset != 0 {
				t.Errorf("%#x: %+v", s.start, p)
			}
		}
	})
}

const testMaps = `55d5c0400000-55d5c0402000 r--p 00000000 fe:01 1234                       /usr/bin/cat
55d5c0402000-55d5c0407000 r-xp 00002000 fe:01 1234                       /usr/bin/cat
7f0000000000-7f0000001000 r-xp 00000000 00:00 0 
7f0000002000-7f0000003000 r-xp 00001000 00:2a 18446744073709551615       /tmp/with blank\012and newline (deleted)
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`

func TestReadMappings(t *testing.T) {
	all, err := readMappings(strings.NewReader(testMaps))
	if err != nil {
		t.Fatal(err)
	}
	want := []mapping{
		{0x55d5c0402000, 0x55d5c0407000, 0x2000, fileID{0xfe, 1, 1234}, "/usr/bin/cat"},
		{0x7f0000000000, 0x7f0000001000, 0, fileID{}, ""},
		{0x7f0000002000, 0x7f0000003000, 0x1000, fileID{0, 0x2a, math.MaxUint64}, "/tmp/with blank\nand newline (deleted)"},
		{0x7ffd00000000, 0x7ffd00002000, 0, fileID{}, "[vdso]"},
		{0xffffffffff600000, 0xffffffffff601000, 0, fileID{}, "[vsyscall]"},
	}
	if diff := cmp.Diff(want, all, cmp.AllowUnexported(mapping{}, fileID{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for address, want := range map[uint64]int{
		0: -1, 0x55d5c0401fff: -1, 0x55d5c0402000: 0, 0x55d5c0406fff: 0, 0x55d5c0407000: -1, 0x7f0000002000: 2, 0xffffffffff600800: 4, math.MaxUint64: -1,
	} {
		if got := findMapping(all, address); got != want {
			t.Errorf("%#x is in mapping %d, want %d", address, got, want)
		}
	}
	for _, bad := range []string{
		"1 r-xp", "1-2 r-xp 0 0:0", "2-1 r-xp 0 0:0 0 ", "x-2 r-xp 0 0:0 0 ", "1-2 r-xp z 0:0 0 ", "1-2 r-xp 0 00 0 ", "1-2 r-xpp 0 0:0 0 ", "1-2 r-xp 0 0:0 -1 ",
		"1-2 r-xp 0 100000000:0 0 ", "1-10000000000000000 r-xp 0 0:0 0 ", strings.Repeat("x", 1<<17),
	} {
		if all, err := readMappings(strings.NewReader(bad + "\n")); err == nil {
			t.Errorf("%.40q: %+v", bad, all)
		}
	}
	if all, err := readMappings(&repeated{line: "1000-2000 r-xp 0 0:0 0 \n"}); len(all) != maxMappings {
		t.Errorf("%d mappings, %v", len(all), err)
	}
}

func FuzzMappings(f *testing.F) {
	f.Add([]byte(testMaps), uint64(0x7f0000002000))
	f.Fuzz(func(t *testing.T, data []byte, address uint64) {
		all, err := readMappings(bytes.NewReader(data))
		if err != nil || len(all) > maxMappings {
			return
		}
		slices.SortFunc(all, func(a, b mapping) int { return int(min(max(int64(a.start>>1)-int64(b.start>>1), -1), 1)) })
		if i := findMapping(all, address); i >= 0 && (address < all[i].start || address >= all[i].end) {
			t.Errorf("%#x is not in %+v", address, all[i])
		}
	})
}

// codeOffset is where in a symbolFile its code is.
const codeOffset = 0x800

// A symbolFile is a program with one segment at address 0x400000, a build id, and
// functions, of which main is the code.
type symbolFile struct {
	wide    bool
	order   binary.AppendByteOrder
	machine elf.Machine
	code    []byte
	// change alters the headers behind their making.
	change func(b []byte)
}

func (e symbolFile) bytes() []byte {
	word := func(b []byte, v uint64) []byte {
		if e.wide {
			return e.order.AppendUint64(b, v)
		}
		return e.order.AppendUint32(b, uint32(v))
	}
	headerSize, segmentSize, sectionSize, class, data := 52, 32, 40, elf.ELFCLASS32, elf.ELFDATA2LSB
	if e.wide {
		headerSize, segmentSize, sectionSize, class = 64, 56, 64, elf.ELFCLASS64
	}
	if e.order == binary.AppendByteOrder(binary.BigEndian) {
		data = elf.ELFDATA2MSB
	}
	segments, notes := headerSize, headerSize+2*segmentSize
	note := e.order.AppendUint32(nil, 4)
	note = e.order.AppendUint32(note, 3)
	note = e.order.AppendUint32(note, 3)
	note = append(note, "GNU\x00\xca\xfe\x01\x00"...)
	names := "\x00main\x00local@V1\x00weak\x00data\x00tail\x00imported\x00"
	var symbols []byte
	symbol := func(name string, info byte, section uint16, value, size uint64) {
		at := uint32(strings.Index(names, "\x00"+name) + 1)
		symbols = e.order.AppendUint32(symbols, at)
		if e.wide {
			symbols = append(symbols, info, 0)
			symbols = e.order.AppendUint16(symbols, section)
			symbols = word(word(symbols, value), size)
			return
		}
		symbols = word(word(symbols, value), size)
		symbols = append(symbols, info, 0)
		symbols = e.order.AppendUint16(symbols, section)
	}
	symbol("tail", 0x12, 1, 0x400880, 0)
	symbol("main", 0x12, 1, 0x400800, 0x20)
	symbol("local", 0x02, 1, 0x400820, 0x10)
	symbol("weak", 0x22, 1, 0x400820, 0x10)
	symbol("data", 0x11, 1, 0x400830, 0x10)
	symbol("imported", 0x12, 0, 0x400840, 0x10)
	symbolsAt := notes + len(note)
	namesAt := symbolsAt + len(symbols)
	sectionsAt := namesAt + len(names)

	b := append([]byte(elf.ELFMAG), byte(class), byte(data), 1)
	b = append(b, make([]byte, 9)...)
	b = e.order.AppendUint16(b, uint16(elf.ET_EXEC))
	b = e.order.AppendUint16(b, uint16(e.machine))
	b = e.order.AppendUint32(b, 1)
	b = word(word(word(b, 0x400000+codeOffset), uint64(segments)), uint64(sectionsAt))
	b = e.order.AppendUint32(b, 0)
	for _, v := range []int{headerSize, segmentSize, 2, sectionSize, 3, 0} {
		b = e.order.AppendUint16(b, uint16(v))
	}
	for _, s := range []struct {
		typ                   elf.ProgType
		offset, address, size int
	}{{elf.PT_LOAD, 0, 0x400000, 0x1000}, {elf.PT_NOTE, notes, 0, len(note)}} {
		b = e.order.AppendUint32(b, uint32(s.typ))
		if e.wide {
			b = e.order.AppendUint32(b, 5)
		}
		for _, v := range []int{s.offset, s.address, s.address, s.size, s.size} {
			b = word(b, uint64(v))
		}
		if !e.wide {
			b = e.order.AppendUint32(b, 5)
		}
		b = word(b, 0)
	}
	b = append(b, note...)
	b = append(b, symbols...)
	b = append(b, names...)
	for _, s := range []struct {
		typ                elf.SectionType
		offset, size, link int
	}{{}, {elf.SHT_SYMTAB, symbolsAt, len(symbols), 2}, {elf.SHT_STRTAB, namesAt, len(names), 0}} {
		b = e.order.AppendUint32(b, 0)
		b = e.order.AppendUint32(b, uint32(s.typ))
		b = word(word(word(word(b, 0), 0), uint64(s.offset)), uint64(s.size))
		b = e.order.AppendUint32(b, uint32(s.link))
		b = e.order.AppendUint32(b, 0)
		b = word(word(b, 0), 0)
	}
	b = append(b, make([]byte, codeOffset-len(b))...)
	b = append(b, e.code...)
	if e.change != nil {
		e.change(b)
	}
	return b
}

func TestReadELF(t *testing.T) {
	for _, e := range []symbolFile{
		{wide: true, order: binary.LittleEndian}, {wide: false, order: binary.LittleEndian},
		{wide: true, order: binary.BigEndian}, {wide: false, order: binary.BigEndian},
	} {
		t.Run(fmt.Sprint(e.wide, e.order), func(t *testing.T) {
			s, err := readSymbols(bytes.NewReader(e.bytes()))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := elf.NewFile(bytes.NewReader(e.bytes())); err != nil {
				t.Errorf("debug/elf does not read it: %v", err)
			}
			at := func(offset uint64, symbol string, into uint64) {
				t.Helper()
				want := place{symbol: symbol, offset: into, file: true, buildID: "cafe01", fileOffset: offset}
				if got := s.find(offset); got != want {
					t.Errorf("%#x: %+v, want %+v", offset, got, want)
				}
			}
			at(0x7ff, "", 0)
			at(0x800, "main", 0)
			at(0x81f, "main", 0x1f)
			at(0x82f, "weak", 0xf)
			at(0x830, "", 0)
			at(0x840, "", 0)
			at(0x8ff, "tail", 0x7f)
			at(0x1000, "", 0)
			at(math.MaxUint64, "", 0)
		})
	}
}

// TestReadELFLikeDebugELF holds the functions of real programs against those that
// debug/elf finds.
func TestReadELFLikeDebugELF(t *testing.T) {
	own, _ := os.Executable()
	tool, _ := exec.LookPath("go")
	libraries, _ := filepath.Glob("/lib*/*/libc.so.6")
	found := false
	// The tests' own program has symbols when it was built with go test -c.
	for _, path := range append([]string{own, tool}, libraries...) {
		if file, err := os.Open(path); err == nil {
			found = likeDebugELF(t, file) || found
			_ = file.Close()
		}
	}
	if !found {
		t.Error("no program here has symbols")
	}
}

func likeDebugELF(t *testing.T, file *os.File) bool {
	f, err := elf.NewFile(file)
	if err != nil {
		return false
	}
	symbols, err := f.Symbols()
	if errors.Is(err, elf.ErrNoSymbols) {
		symbols, err = f.DynamicSymbols()
	}
	if err != nil {
		return false
	}
	s, err := readSymbols(file)
	if err != nil {
		t.Fatalf("%s: %v", file.Name(), err)
	}
	names := map[uint64][]string{}
	for _, symbol := range symbols {
		if kind := elf.ST_TYPE(symbol.Info); (kind == elf.STT_FUNC || kind == elf.STT_LOOS) && symbol.Section != elf.SHN_UNDEF && symbol.Value != 0 {
			name, _, _ := strings.Cut(symbol.Name, "@")
			names[symbol.Value] = append(names[symbol.Value], name)
		}
	}
	if len(s.symbols) != len(names) {
		t.Errorf("%s: %d functions, debug/elf has %d", file.Name(), len(s.symbols), len(names))
	}
	for _, symbol := range s.symbols {
		i := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool {
			return p.Type == elf.PT_LOAD && symbol.start >= p.Vaddr && symbol.start-p.Vaddr < p.Filesz
		})
		if i < 0 {
			continue
		}
		offset := symbol.start - f.Progs[i].Vaddr + f.Progs[i].Off
		if got := s.find(offset); !slices.Contains(names[symbol.start], got.symbol) || got.offset != 0 {
			t.Fatalf("%s: %#x is %+v, debug/elf says %s", file.Name(), symbol.start, got, names[symbol.start])
		}
	}
	if len(s.known) > maxKnownNames {
		t.Errorf("%s: %d names are kept", file.Name(), len(s.known))
	}
	return len(names) > 1000
}

func TestReadELFRefuses(t *testing.T) {
	le := binary.LittleEndian
	good := symbolFile{wide: true, order: le}.bytes()
	sections := int(le.Uint64(good[40:]))
	for _, tt := range []struct {
		name   string
		change func(b []byte)
		want   string
	}{
		{"not ELF", func(b []byte) { b[0] = 'x' }, "no ELF file"},
		{"of no class", func(b []byte) { b[4] = 3 }, "no ELF file"},
		{"of no byte order", func(b []byte) { b[5] = 0 }, "no ELF file"},
		{"segments of another size", func(b []byte) { b[54] = 1 }, "segments: 2 of 1 bytes"},
		{"many segments", func(b []byte) { le.PutUint16(b[56:], 0xffff) }, "segments: 65535"},
		{"segments beyond the end", func(b []byte) { le.PutUint64(b[32:], 1<<40) }, "segments: EOF"},
		{"segments beyond all files", func(b []byte) { le.PutUint64(b[32:], math.MaxUint64) }, "segments: they are at byte"},
		{"notes beyond the end", func(b []byte) { le.PutUint64(b[64+56+8:], 1<<40) }, "notes: EOF"},
		{"sections of another size", func(b []byte) { b[58] = 1 }, "sections: of 1 bytes"},
		{"sections beyond the end", func(b []byte) { le.PutUint64(b[40:], 1<<40) }, "sections: EOF"},
		{"number of sections beyond bounds", func(b []byte) {
			le.PutUint16(b[60:], 0)
			le.PutUint64(b[sections+32:], 1<<40)
		}, "sections: there are 1099511627776, at most 65536 are read"},
		{"names in no section", func(b []byte) { le.PutUint32(b[sections+64+40:], 99) }, "the table names no strings"},
		{"more symbols than there may be", func(b []byte) { le.PutUint64(b[sections+64+32:], 1<<40) }, "symbols: there are 45812984490, at most 8388608 are read"},
		{"symbols beyond all files", func(b []byte) { le.PutUint64(b[sections+64+24:], math.MaxUint64) }, "symbols: they are at byte"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readSymbols(bytes.NewReader(symbolFile{wide: true, order: le, change: tt.change}.bytes()))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	for _, change := range []func(b []byte){
		func(b []byte) { le.PutUint64(b[64+56+32:], maxNotes+1) }, // notes that are not read
		func(b []byte) { le.PutUint64(b[40:], 0) },                // no sections
		func(b []byte) { le.PutUint64(b[sections+128+24:], math.MaxUint64) },
		func(b []byte) { le.PutUint64(b[sections+128+32:], 1) },
	} {
		s, err := readSymbols(bytes.NewReader(symbolFile{wide: true, order: le, change: change}.bytes()))
		if err != nil {
			t.Error(err)
			continue
		}
		s.find(codeOffset)
	}
}

// TestELFChanges: names are read when they are asked for, of a file that may
// have changed meanwhile.
func TestELFChanges(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(symbolFile{wide: true, order: binary.LittleEndian}.bytes()); err != nil {
		t.Fatal(err)
	}
	s, err := readSymbols(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.find(codeOffset); got.symbol != "main" {
		t.Errorf("got %+v", got)
	}
	if err := f.Truncate(10); err != nil {
		t.Fatal(err)
	}
	if got := s.find(codeOffset + 0x20); got.symbol != "" || got.offset != 0 {
		t.Errorf("of a file that was cut: %+v", got)
	}
}

func FuzzELFSymbols(f *testing.F) {
	for _, e := range []symbolFile{{wide: true, order: binary.LittleEndian}, {wide: false, order: binary.BigEndian}} {
		f.Add(e.bytes(), uint64(codeOffset))
	}
	f.Fuzz(func(t *testing.T, data []byte, offset uint64) {
		s, err := readSymbols(bytes.NewReader(data))
		if err != nil {
			return
		}
		if len(s.buildID) > 2*maxBuildID {
			t.Errorf("build id %s", s.buildID)
		}
		if p := s.find(offset); len(p.symbol) > maxReadName {
			t.Errorf("a name of %d bytes", len(p.symbol))
		}
		for _, symbol := range s.symbols {
			for _, seg := range s.segments {
				s.find(symbol.start - seg.address + seg.offset)
			}
		}
	})
}
