// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A usdtSite is one place in a file where a USDT probe was compiled in.
type usdtSite struct {
	// address is the one that the file gives the place, before the file is
	// loaded anywhere; offset is where in the file it is.
	address, offset uint64
	// semaphore is where in the file the counter is that says whether anybody
	// listens; 0 is none.
	semaphore uint64
	// args say where the arguments are, in the syntax of the assembler.
	args string
}

const (
	usdtSection     = ".note.stapsdt"
	usdtBaseSection = ".stapsdt.base"
	usdtOwner       = "stapsdt"
	usdtNoteType    = 3 // NT_STAPSDT

	// maxUSDTNotes bounds the notes that are read from a file, in bytes. The
	// largest programs that have any keep below 1 MiB.
	maxUSDTNotes = 16 << 20
	// maxUSDTSites bounds the places of one probe.
	maxUSDTSites = 1 << 16
)

// usdtSites finds the places of a probe in an open program or library.
func usdtSites(f *elf.File, provider, name string) ([]usdtSite, error) {
	var sites []usdtSite
	var others []string
	err := usdtNotes(f, func(n usdtNote) error {
		if n.provider != provider || n.name != name {
			if other := shorten(n.provider + ":" + n.name); len(others) <= maxNamed && !slices.Contains(others, other) {
				others = append(others, other)
			}
			return nil
		}
		if len(sites) == maxUSDTSites {
			return fmt.Errorf("its USDT probe %s:%s has more than %d places", provider, name, maxUSDTSites)
		}
		site, err := n.site(f)
		if err != nil {
			return fmt.Errorf("its USDT probe %s:%s: %w", provider, name, err)
		}
		sites = append(sites, site)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(sites) > 0:
		return sites, nil
	case len(others) == 0:
		return nil, fmt.Errorf("it has no USDT probe %s:%s, and no other either", provider, name)
	case len(others) > maxNamed:
		others[maxNamed] = "..."
	}
	return nil, fmt.Errorf("it has no USDT probe %s:%s; it has %q", provider, name, others)
}

// maxNamed is how many probes an error names.
const maxNamed = 10

// A usdtNote describes one place of a probe, with addresses as they were when
// the file was linked.
type usdtNote struct {
	location, base, semaphore uint64
	provider, name, args      string
}

// usdtNotes calls visit with each note of f. The format is that of
// systemtap's wiki, "UserSpaceProbeImplementation".
func usdtNotes(f *elf.File, visit func(usdtNote) error) error {
	if f.Class != elf.ELFCLASS64 {
		return errors.New("it is a 32-bit program: USDT probes are read from 64-bit ones only")
	}
	budget := uint64(maxUSDTNotes)
	for _, section := range f.Sections {
		if section.Name != usdtSection || section.Type != elf.SHT_NOTE {
			continue
		}
		if section.Flags&elf.SHF_COMPRESSED != 0 || section.FileSize > budget {
			return fmt.Errorf("its USDT notes are compressed, or of more than %d bytes", maxUSDTNotes)
		}
		budget -= section.FileSize
		data := make([]byte, section.FileSize)
		if _, err := io.ReadFull(section.Open(), data); err != nil {
			return fmt.Errorf("read its USDT notes: %w", err)
		}
		if err := decodeUSDTNotes(data, f.ByteOrder, visit); err != nil {
			return err
		}
	}
	return nil
}

func decodeUSDTNotes(data []byte, order binary.ByteOrder, visit func(usdtNote) error) error {
	size := len(data)
	broken := func() error {
		return fmt.Errorf("its USDT notes are broken: no whole note at byte %d of %d", size-len(data), size)
	}
	for len(data) > 0 {
		if len(data) < 12 {
			return broken()
		}
		nameSize, descSize, typ := order.Uint32(data), order.Uint32(data[4:]), order.Uint32(data[8:])
		// Both are padded to 4 bytes, but for the last one of a section.
		descAt := 12 + (uint64(nameSize)+3)&^3
		end := descAt + uint64(descSize)
		if end > uint64(len(data)) {
			return broken()
		}
		owner := string(bytes.TrimRight(data[12:12+uint64(nameSize)], "\x00"))
		if owner == usdtOwner && typ == usdtNoteType {
			note, ok := decodeUSDTNote(data[descAt:end], order)
			if !ok {
				return broken()
			}
			if err := visit(note); err != nil {
				return err
			}
		}
		data = data[min((end+3)&^3, uint64(len(data))):]
	}
	return nil
}

func decodeUSDTNote(desc []byte, order binary.ByteOrder) (n usdtNote, ok bool) {
	if len(desc) < 24 {
		return n, false
	}
	n.location, n.base, n.semaphore = order.Uint64(desc), order.Uint64(desc[8:]), order.Uint64(desc[16:])
	texts := bytes.SplitN(desc[24:], []byte{0}, 4)
	if len(texts) < 4 { // each has a NUL behind it
		return n, false
	}
	n.provider, n.name, n.args = string(texts[0]), string(texts[1]), string(texts[2])
	return n, n.provider != "" && n.name != ""
}

// site turns the addresses of n into places in f.
func (n usdtNote) site(f *elf.File) (usdtSite, error) {
	// Who moves a program's segments after it was linked, as prelink does, does
	// not know of the addresses in notes; this section moves with them.
	var moved uint64
	if base := f.Section(usdtBaseSection); base != nil && n.base != 0 {
		moved = base.Addr - n.base
	}
	site := usdtSite{address: n.location + moved, args: n.args}
	var err error
	if site.offset, err = fileOffset(f, site.address); err != nil {
		return site, err
	}
	if n.semaphore != 0 {
		if site.semaphore, err = dataOffset(f, n.semaphore+moved); err != nil {
			return site, fmt.Errorf("its semaphore: %w", err)
		}
	}
	return site, nil
}

// dataOffset turns the address of a variable into its place in the file.
func dataOffset(f *elf.File, address uint64) (uint64, error) {
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_W != 0 && p.Vaddr <= address && address-p.Vaddr < p.Filesz {
			return address - p.Vaddr + p.Off, nil
		}
	}
	return 0, fmt.Errorf("address %#x is in no writable part of the file", address)
}

// parseUSDTTarget splits PATH:PROVIDER:NAME.
func parseUSDTTarget(target string) (binary, provider, name string, err error) {
	if last := strings.LastIndexByte(target, ':'); last >= 0 {
		binary, name = target[:last], target[last+1:]
		if middle := strings.LastIndexByte(binary, ':'); middle >= 0 {
			binary, provider = binary[:middle], binary[middle+1:]
		}
	}
	if binary == "" || provider == "" || name == "" {
		return "", "", "", errors.New(`it names no probe; write SEC("usdt/PATH:PROVIDER:NAME"), or name it at run time: --attach PROGRAM=PATH:PROVIDER:NAME`)
	}
	return binary, provider, name, nil
}
