// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenTarget: within a root, nothing leads out of it.
func TestOpenTarget(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, path string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	write("outside", "outside", 0o755)
	write("root/usr/bin/tool", "tool", 0o755)
	write("root/usr/lib/libx.so.1.2", "libx", 0o644)
	write("root/usr/bin/data", "data", 0o644)
	link("usr/bin", "bin")
	link("/usr/bin/tool", "absolute")
	link("../../../../../../outside", "escape")
	link(dir+"/outside", "escape-absolute")
	link("loop", "loop")
	link("libx.so.1.2", "usr/lib/libx.so.1")
	if err := unix.Mkfifo(filepath.Join(root, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What is no file is not even opened: to open a device can have effects.
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, filepath.Join(root, "pipe"), unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := unix.Read(watch, make([]byte, unix.SizeofInotifyEvent)); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("the pipe was opened: %v", err)
		}
	}()
	for _, tt := range []struct {
		name, want, path string
		wantErr          string
	}{
		{name: "/usr/bin/tool", want: "tool", path: "/usr/bin/tool"},
		{name: "/bin/tool", want: "tool", path: "/bin/tool"},
		{name: "usr/bin/tool", want: "tool", path: "usr/bin/tool"},
		{name: "/absolute", want: "tool", path: "/absolute"},
		{name: "tool", want: "tool", path: "/usr/bin/tool"},
		{name: "libx.so.1", want: "libx", path: "/usr/lib/libx.so.1"},
		{name: "/escape", wantErr: "no such file"},
		{name: "/escape-absolute", wantErr: "no such file"},
		{name: "/../../outside", wantErr: "no such file"},
		{name: "/loop", wantErr: "too many levels"},
		{name: "/usr/bin", wantErr: "is not a regular file"},
		{name: "/pipe", wantErr: "is not a regular file"},
		{name: "data", wantErr: "data is in none of /usr/bin, /usr/sbin"},
		{name: "missing", wantErr: "missing is in none of"},
		{name: "libz.so", wantErr: "libz.so is in none of"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, path, err := openTarget(root, tt.name)
			if err != nil {
				if tt.wantErr == "" || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("got %v, want %q", err, tt.wantErr)
				}
				return
			}
			defer f.Close()
			data, err := io.ReadAll(f)
			if err != nil || string(data) != tt.want || path != tt.path || tt.wantErr != "" {
				t.Errorf("got %q of %s, %v", data, path, err)
			}
		})
	}
}

func TestSearchPathOfEnvironment(t *testing.T) {
	t.Setenv("PATH", "relative:/opt/tools")
	if got := searchPath("", "tool")[0]; got != "/opt/tools" {
		t.Errorf("first %s", got)
	}
	if got := searchPath("/host", "tool")[0]; got != "/usr/bin" {
		t.Errorf("the environment of this process counts in another root: %s", got)
	}
}

// testSymbol is a symbol of the ELF files that testELF makes.
type testSymbol struct {
	name  string
	value uint64
	info  byte
	shndx uint16
}

// testELF makes a library whose code is at address 0x1000 and at 0x200 in the
// file, with one table of symbols.
func testELF(table elf.SectionType, symbols ...testSymbol) []byte {
	names := []byte{0}
	var syms bytes.Buffer
	_ = binary.Write(&syms, binary.LittleEndian, elf.Sym64{})
	for _, s := range symbols {
		_ = binary.Write(&syms, binary.LittleEndian, elf.Sym64{Name: uint32(len(names)), Info: s.info, Shndx: s.shndx, Value: s.value})
		names = append(append(names, s.name...), 0)
	}
	sections := []byte("\x00.strtab\x00.symtab\x00")
	const code = 0x200
	symOff := uint64(code + 0x1000)
	nameOff := symOff + uint64(syms.Len())
	secOff := nameOff + uint64(len(names))
	shOff := secOff + uint64(len(sections))
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Shoff: shOff,
		Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64, Shnum: 4, Shstrndx: 3}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	_ = binary.Write(&b, binary.LittleEndian, h)
	_ = binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_X | elf.PF_R),
		Off: code, Vaddr: 0x1000, Filesz: 0x1000, Memsz: 0x1000})
	b.Write(make([]byte, int(symOff)-b.Len()))
	b.Write(syms.Bytes())
	b.Write(names)
	b.Write(sections)
	_ = binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{},
		{Name: 9, Type: uint32(table), Off: symOff, Size: uint64(syms.Len()), Link: 2, Entsize: 24},
		{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: nameOff, Size: uint64(len(names))},
		{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: secOff, Size: uint64(len(sections))},
	})
	return b.Bytes()
}

func TestFunctionOffset(t *testing.T) {
	const (
		global = byte(elf.STB_GLOBAL)<<4 | byte(elf.STT_FUNC)
		weak   = byte(elf.STB_WEAK)<<4 | byte(elf.STT_FUNC)
		object = byte(elf.STB_GLOBAL)<<4 | byte(elf.STT_OBJECT)
	)
	library := testELF(elf.SHT_SYMTAB,
		testSymbol{"plain", 0x1010, global, 1}, testSymbol{"plain_more", 0x1020, global, 1},
		testSymbol{"weak", 0x1030, weak, 1}, testSymbol{"weak", 0x1040, global, 1},
		testSymbol{"twice", 0x1050, global, 1}, testSymbol{"twice", 0x1060, global, 1},
		testSymbol{"alias", 0x1070, global, 1}, testSymbol{"alias", 0x1070, global, 1},
		testSymbol{"undefined", 0x1080, global, 0}, testSymbol{"data", 0x1090, object, 1},
		testSymbol{"outside", 0x9000, global, 1},
		testSymbol{"ver@V1", 0x10a0, global, 1}, testSymbol{"ver2@@V2", 0x10b0, global, 1}, testSymbol{"ver2@V1", 0x10c0, global, 1},
	)
	object32 := bytes.Clone(library)
	object32[16] = byte(elf.ET_REL)
	for _, tt := range []struct {
		file    []byte
		name    string
		want    uint64
		wantErr string
	}{
		{library, "plain", 0x210, ""},
		{library, "plain_more", 0x220, ""},
		{library, "weak", 0x240, ""},
		{library, "alias", 0x270, ""},
		{library, "ver", 0x2a0, ""},
		{library, "ver@V1", 0x2a0, ""},
		{library, "ver2@V2", 0x2b0, ""},
		{library, "ver2@@V1", 0x2c0, ""},
		{library, "twice", 0, "function twice: there are several"},
		{library, "undefined", 0, "it has no function undefined"},
		{library, "data", 0, "it has no function data"},
		{library, "lain", 0, "it has no function lain"},
		{library, "", 0, "it has no function"},
		{library, "outside", 0, "in no executable part"},
		{testELF(elf.SHT_PROGBITS), "plain", 0, "it has no symbols"},
		{object32, "plain", 0, "neither a program nor a library"},
		{library[:700], "plain", 0, "read it as ELF"},
		{[]byte("#!/bin/sh\n"), "plain", 0, "read it as ELF"},
	} {
		got, err := functionOffset(bytes.NewReader(tt.file), tt.name)
		if tt.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("%s: got %v, want %q", tt.name, err, tt.wantErr)
			}
		} else if err != nil || got != tt.want {
			t.Errorf("%s: got %#x, %v, want %#x", tt.name, got, err, tt.want)
		}
	}
}

// TestFunctionOffsetOfLibc compares with what debug/elf reads.
func TestFunctionOffsetOfLibc(t *testing.T) {
	file, path, err := openTarget("", "libc.so.6")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f, err := elf.NewFile(file)
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Name != "getsid" {
			continue
		}
		want, err := fileOffset(f, s.Value)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"getsid", "getsid@" + s.Version, "getsid@@" + s.Version} {
			if got, err := functionOffset(file, name); err != nil || got != want {
				t.Errorf("%s of %s: got %#x, %v, want %#x", name, path, got, err, want)
			}
		}
		if _, err := functionOffset(file, "getsid@NO_SUCH_1.0"); err == nil {
			t.Error("a version that is not there was found")
		}
		return
	}
	t.Fatal(errors.New("libc has no getsid"))
}

func FuzzFunctionOffset(f *testing.F) {
	f.Add(testELF(elf.SHT_SYMTAB, testSymbol{"f", 0x1010, byte(elf.STT_FUNC), 1}), "f")
	f.Add(testELF(elf.SHT_DYNSYM, testSymbol{"f", 0x1010, byte(elf.STT_FUNC), 1}), "f@V")
	f.Fuzz(func(t *testing.T, file []byte, name string) {
		if _, err := functionOffset(bytes.NewReader(file), name); err != nil && err.Error() == "" {
			t.Fatal("an error without a word")
		}
	})
}
