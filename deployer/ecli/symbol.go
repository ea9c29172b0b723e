// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"cmp"
	"slices"
)

// A symbol of a table is where a function begins, and where it ends.
type tableSymbol struct {
	start uint64
	// size is in bytes; 0 is up to the next symbol.
	size uint32
	// name is where the name begins, in whatever the table's owner has them.
	name uint32
	// rank goes before the order of the table where symbols begin at the same
	// address: the least one stays.
	rank uint8
}

// nameless marks the place of something that is no function.
const nameless = ^uint32(0)

// sortSymbols sorts a table by address and leaves one symbol at each.
func sortSymbols(symbols []tableSymbol) []tableSymbol {
	slices.SortStableFunc(symbols, func(a, b tableSymbol) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.rank, b.rank))
	})
	symbols = slices.CompactFunc(symbols, func(a, b tableSymbol) bool {
		return a.start == b.start || a.name == nameless && b.name == nameless
	})
	return slices.Clip(symbols)
}

// findSymbol returns the function of a sorted table that address is in.
func findSymbol(symbols []tableSymbol, address uint64) (tableSymbol, bool) {
	i, exact := slices.BinarySearchFunc(symbols, address, func(s tableSymbol, address uint64) int { return cmp.Compare(s.start, address) })
	if !exact {
		i--
	}
	if i < 0 {
		return tableSymbol{}, false
	}
	s := symbols[i]
	if s.name == nameless || s.size != 0 && address-s.start >= uint64(s.size) {
		return tableSymbol{}, false
	}
	return s, true
}

// A place is what is known of an address of a stack.
type place struct {
	address uint64 // set by the printer
	// symbol is the function, empty if it is not known, and offset the bytes
	// from where it begins.
	symbol string
	offset uint64
	// module is the kernel module, or the path of the file.
	module string
	// Of a file: its build id in hexadecimal, empty if it has none, and which
	// of its bytes the address is.
	file       bool
	buildID    string
	fileOffset uint64
}

// A resolver finds out what addresses are.
type resolver interface {
	// kernel looks an address of the kernel up.
	kernel(address uint64) place
	// process returns what looks addresses of a process up. comm is its name.
	process(pid uint64, comm []byte) func(address uint64) place
}
