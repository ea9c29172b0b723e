// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// maxKernelSymbols bounds the list of the kernel's symbols; those of
// distributions have about 200,000.
const maxKernelSymbols = 1 << 20

// kernelSymbols are the functions of the kernel and its modules.
type kernelSymbols struct {
	symbols []tableSymbol
	// names has the names, each behind the number of its module and its length,
	// of two bytes each.
	names   string
	modules []string
	// hidden is true when the kernel shows no addresses.
	hidden bool
}

// A kallsym is one line of /proc/kallsyms.
type kallsym struct {
	address      uint64
	kind         byte
	name, module []byte
}

// parseKallsym reads a line such as "ffffffffc0001000 t name\t[module]".
func parseKallsym(line []byte) (s kallsym, ok bool) {
	i := bytes.IndexByte(line, ' ')
	if i < 1 || i > 16 || len(line) < i+4 || line[i+2] != ' ' {
		return kallsym{}, false
	}
	for _, c := range line[:i] {
		var digit byte
		switch {
		case c >= '0' && c <= '9':
			digit = c - '0'
		case c >= 'a' && c <= 'f':
			digit = c - 'a' + 10
		default:
			return kallsym{}, false
		}
		s.address = s.address<<4 | uint64(digit)
	}
	s.kind = line[i+1]
	s.name = line[i+3:]
	if name, module, found := bytes.Cut(s.name, []byte("\t[")); found {
		s.name = name
		s.module, ok = bytes.CutSuffix(module, []byte("]"))
		if !ok || len(s.module) == 0 {
			return kallsym{}, false
		}
	}
	return s, len(s.name) > 0 && len(s.name) < 1<<16
}

// readKallsyms reads the kernel's list of symbols.
func readKallsyms(r io.Reader) (*kernelSymbols, error) {
	k := &kernelSymbols{modules: []string{""}, hidden: true}
	var names []byte
	numbers := map[string]uint16{"": 0}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 64<<10)
	for n := 1; lines.Scan(); n++ {
		if n > maxKernelSymbols {
			return nil, fmt.Errorf("it has more than %d symbols", maxKernelSymbols)
		}
		s, ok := parseKallsym(lines.Bytes())
		if !ok {
			return nil, fmt.Errorf("line %d: %s is no symbol", n, strconv.Quote(fmt.Sprintf("%.100s", lines.Bytes())))
		}
		if s.address == 0 {
			continue
		}
		k.hidden = false
		symbol := tableSymbol{start: s.address, name: nameless, rank: 2}
		switch s.kind {
		case 'T':
			symbol.rank = 0
		case 't', 'W', 'w':
			symbol.rank = 1
		}
		if symbol.rank < 2 {
			number, known := numbers[string(s.module)]
			if !known && len(k.modules) < 1<<16 {
				number = uint16(len(k.modules))
				k.modules = append(k.modules, string(s.module))
				numbers[string(s.module)] = number
			}
			symbol.name = uint32(len(names))
			names = append(names, byte(number), byte(number>>8), byte(len(s.name)), byte(len(s.name)>>8))
			names = append(names, s.name...)
		}
		k.symbols = append(k.symbols, symbol)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	k.symbols = sortSymbols(k.symbols)
	k.names = string(names)
	return k, nil
}

func (k *kernelSymbols) find(address uint64) place {
	s, ok := findSymbol(k.symbols, address)
	if !ok {
		return place{}
	}
	head := k.names[s.name:]
	module, length := int(head[0])|int(head[1])<<8, int(head[2])|int(head[3])<<8
	return place{symbol: head[4:][:length], offset: address - s.start, module: k.modules[module]}
}
