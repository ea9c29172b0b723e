// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Bounds of what is read of a file that a process has mapped. Anybody may write
// such a file, so debug/elf, which takes the file's word for the sizes of its
// tables, is not asked.
const (
	maxSegments = 1 << 10
	maxSections = 1 << 16
	// maxELFSymbols is how many entries of a table of symbols are looked at,
	// maxKeptFunctions how many of them are kept.
	maxELFSymbols    = 8 << 20
	maxKeptFunctions = 1 << 20
	maxNotes         = 64 << 10
	maxBuildID       = 64
	// maxReadName is in bytes; those of C++ get long.
	maxReadName = 4 << 10
)

// A segment is a part of an ELF file that is loaded.
type segment struct {
	offset, size uint64 // in the file
	address      uint64
}

// elfSymbols are the functions of an ELF file. Their names stay in the file and
// are read when they are asked for: programs have many, and few are ever seen.
type elfSymbols struct {
	file     io.ReaderAt
	segments []segment
	symbols  []tableSymbol
	// strings is where in the file the names are, and how many bytes.
	stringsAt, stringsSize uint64
	buildID                string
	// known are names that were read.
	known map[uint32]string
}

var errELF = errors.New("it is no ELF file that this machine runs")

// An elfReader reads the headers of an ELF file.
type elfReader struct {
	file  io.ReaderAt
	order binary.ByteOrder
	wide  bool // 64 bits
}

// word reads an address, offset or size at one of two places, for 32 and 64
// bits.
func (r *elfReader) word(b []byte, at32, at64 int) uint64 {
	if r.wide {
		return r.order.Uint64(b[at64:])
	}
	return uint64(r.order.Uint32(b[at32:]))
}

func (r *elfReader) half(b []byte, at32, at64 int) uint16 {
	if r.wide {
		return r.order.Uint16(b[at64:])
	}
	return r.order.Uint16(b[at32:])
}

// choose returns the one of two values that is for the file's width.
func (r *elfReader) choose(for32, for64 int) int {
	if r.wide {
		return for64
	}
	return for32
}

// table reads count entries of a size at an offset of the file.
func (r *elfReader) table(what string, offset uint64, count, size int) ([]byte, error) {
	if offset > math.MaxInt64-uint64(count*size) {
		return nil, fmt.Errorf("%s: they are at byte %d", what, offset)
	}
	b := make([]byte, count*size)
	if _, err := r.file.ReadAt(b, int64(offset)); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return b, nil
}

type elfSection struct {
	typ          elf.SectionType
	offset, size uint64
	link         uint32
}

// readSymbols reads the functions of a program or library. A file without a table
// of symbols has none.
func readSymbols(file io.ReaderAt) (*elfSymbols, error) {
	header := make([]byte, 64)
	if n, err := file.ReadAt(header, 0); n < 52 {
		return nil, errors.Join(errELF, err)
	}
	r := &elfReader{file: file, order: binary.LittleEndian}
	if string(header[:4]) != elf.ELFMAG {
		return nil, errELF
	}
	switch elf.Data(header[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
	case elf.ELFDATA2MSB:
		r.order = binary.BigEndian
	default:
		return nil, errELF
	}
	switch elf.Class(header[elf.EI_CLASS]) {
	case elf.ELFCLASS32:
	case elf.ELFCLASS64:
		r.wide = true
	default:
		return nil, errELF
	}
	s := &elfSymbols{file: file, known: map[uint32]string{}}
	if err := s.readSegments(r, header); err != nil {
		return nil, err
	}
	sections, err := r.sections(header)
	if err != nil {
		return nil, err
	}
	for _, kind := range []elf.SectionType{elf.SHT_SYMTAB, elf.SHT_DYNSYM} {
		i := slices.IndexFunc(sections, func(s elfSection) bool { return s.typ == kind })
		if i < 0 {
			continue
		}
		if int64(sections[i].link) >= int64(len(sections)) {
			return nil, errors.New("symbols: the table names no strings")
		}
		names := sections[sections[i].link]
		s.stringsAt, s.stringsSize = names.offset, names.size
		return s, s.readSymbols(r, sections[i])
	}
	return s, nil
}

func (s *elfSymbols) readSegments(r *elfReader, header []byte) error {
	size, count := int(r.half(header, 42, 54)), int(r.half(header, 44, 56))
	if count == 0 {
		return nil
	}
	if size != r.choose(32, 56) || count > maxSegments {
		return fmt.Errorf("segments: %d of %d bytes", count, size)
	}
	table, err := r.table("segments", r.word(header, 28, 32), count, size)
	if err != nil {
		return err
	}
	for entry := range slices.Chunk(table, size) {
		seg := segment{offset: r.word(entry, 4, 8), size: r.word(entry, 16, 32), address: r.word(entry, 8, 16)}
		switch elf.ProgType(r.order.Uint32(entry)) {
		case elf.PT_LOAD:
			s.segments = append(s.segments, seg)
		case elf.PT_NOTE:
			if s.buildID != "" || seg.size > maxNotes {
				continue
			}
			notes, err := r.table("notes", seg.offset, 1, int(seg.size))
			if err != nil {
				return err
			}
			s.buildID = buildIDOf(notes, r.order)
		}
	}
	return nil
}

// buildIDOf returns the GNU build id of a segment of notes, or "".
func buildIDOf(notes []byte, order binary.ByteOrder) string {
	const gnuBuildID = 3 // NT_GNU_BUILD_ID
	align := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= 12 {
		nameSize, size, kind := order.Uint32(notes), order.Uint32(notes[4:]), order.Uint32(notes[8:])
		notes = notes[12:]
		if align(nameSize)+align(size) > uint64(len(notes)) {
			return ""
		}
		name, id := notes[:nameSize], notes[align(nameSize):][:size]
		if kind == gnuBuildID && string(name) == "GNU\x00" && size > 0 && size <= maxBuildID {
			return hex.EncodeToString(id)
		}
		notes = notes[align(nameSize)+align(size):]
	}
	return ""
}

func (r *elfReader) sections(header []byte) ([]elfSection, error) {
	at := r.word(header, 32, 40)
	size, count := int(r.half(header, 46, 58)), uint64(r.half(header, 48, 60))
	if at == 0 {
		return nil, nil
	}
	if size != r.choose(40, 64) {
		return nil, fmt.Errorf("sections: of %d bytes", size)
	}
	if count == 0 { // there are more than its field holds: the first section has the number
		first, err := r.table("sections", at, 1, size)
		if err != nil {
			return nil, err
		}
		count = r.word(first, 20, 32)
	}
	if count > maxSections {
		return nil, fmt.Errorf("sections: there are %d, at most %d are read", count, maxSections)
	}
	table, err := r.table("sections", at, int(count), size)
	if err != nil {
		return nil, err
	}
	var sections []elfSection
	for entry := range slices.Chunk(table, size) {
		sections = append(sections, elfSection{
			typ:    elf.SectionType(r.order.Uint32(entry[4:])),
			offset: r.word(entry, 16, 24), size: r.word(entry, 20, 32),
			link: r.order.Uint32(entry[r.choose(24, 40):]),
		})
	}
	return sections, nil
}

func (s *elfSymbols) readSymbols(r *elfReader, table elfSection) error {
	size := r.choose(elf.Sym32Size, elf.Sym64Size)
	if table.size/uint64(size) > maxELFSymbols {
		return fmt.Errorf("symbols: there are %d, at most %d are read", table.size/uint64(size), maxELFSymbols)
	}
	if table.offset > math.MaxInt64-table.size {
		return fmt.Errorf("symbols: they are at byte %d", table.offset)
	}
	chunk := make([]byte, size*2048)
	in := io.NewSectionReader(s.file, int64(table.offset), int64(table.size))
	for {
		n, err := io.ReadFull(in, chunk)
		for at := 0; at+size <= n; at += size {
			symbol, ok := r.function(chunk[at : at+size])
			if !ok {
				continue
			}
			if len(s.symbols) == maxKeptFunctions {
				return fmt.Errorf("symbols: there are more than %d functions", maxKeptFunctions)
			}
			s.symbols = append(s.symbols, symbol)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			s.symbols = sortSymbols(s.symbols)
			return nil
		}
		if err != nil {
			return fmt.Errorf("symbols: %w", err)
		}
	}
}

// function decodes an entry of a table of symbols if it is that of a function
// which the file defines.
func (r *elfReader) function(b []byte) (s tableSymbol, ok bool) {
	s.name = r.order.Uint32(b)
	s.start = r.word(b, 4, 8)
	s.size = uint32(min(r.word(b, 8, 16), math.MaxUint32))
	info, section := b[r.choose(12, 4)], r.half(b, 14, 6)
	const indirect = 10 // STT_GNU_IFUNC
	if kind := info & 15; kind != byte(elf.STT_FUNC) && kind != indirect || elf.SectionIndex(section) == elf.SHN_UNDEF {
		return s, false
	}
	switch elf.ST_BIND(info) {
	case elf.STB_GLOBAL:
	case elf.STB_WEAK:
		s.rank = 1
	default:
		s.rank = 2
	}
	return s, s.start != 0 && s.name != nameless
}

// find returns what is at an offset of the file.
func (s *elfSymbols) find(offset uint64) place {
	p := place{file: true, buildID: s.buildID, fileOffset: offset}
	i := slices.IndexFunc(s.segments, func(seg segment) bool { return offset >= seg.offset && offset-seg.offset < seg.size })
	if i < 0 {
		return p
	}
	address := offset - s.segments[i].offset + s.segments[i].address
	if symbol, ok := findSymbol(s.symbols, address); ok {
		if p.symbol = s.name(symbol.name); p.symbol != "" {
			p.offset = address - symbol.start
		}
	}
	return p
}

// maxKnownNames bounds the names of a file that are kept in memory.
const maxKnownNames = 4096

// name reads a name, without the version that tables of symbols put behind an @.
// It is empty where the file has none there any more.
func (s *elfSymbols) name(at uint32) string {
	if name, ok := s.known[at]; ok {
		return name
	}
	name := s.readName(at)
	if len(s.known) == maxKnownNames {
		clear(s.known)
	}
	s.known[at] = name
	return name
}

func (s *elfSymbols) readName(at uint32) string {
	if uint64(at) >= s.stringsSize || s.stringsAt > math.MaxInt64-s.stringsSize {
		return ""
	}
	var b [maxReadName]byte
	// Most names are short.
	for _, most := range []uint64{128, maxReadName} {
		most = min(most, s.stringsSize-uint64(at))
		n, err := s.file.ReadAt(b[:most], int64(s.stringsAt)+int64(at))
		if end := bytes.IndexByte(b[:n], 0); end >= 0 {
			name, _, _ := strings.Cut(string(b[:end]), "@")
			return name
		}
		if err != nil {
			return ""
		}
	}
	return ""
}
