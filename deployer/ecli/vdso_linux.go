// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"os"
)

const vdsoPath = "[vdso]"

// maxVDSO is in bytes; the kernel's have two to five pages.
const maxVDSO = 1 << 20

// vdsoFile returns the symbols of the code of the kernel that each process has
// in its memory. They are read from this process; that of another size, as
// processes of 32 bits have, is passed by.
func (s *symbolizer) vdsoFile(m *mapping) *mappedFile {
	if s.vdso == nil {
		s.vdso = &mappedFile{}
		s.vdso.elfSymbols, s.vdsoSize = readVDSO()
	}
	if m.end-m.start != s.vdsoSize {
		return noFile
	}
	return s.vdso
}

func readVDSO() (symbols *elfSymbols, size uint64) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, 0
	}
	defer func() { _ = maps.Close() }() // it was only read
	mappings, err := readMappings(maps)
	if err != nil {
		return nil, 0
	}
	for _, m := range mappings {
		if m.path != vdsoPath || m.end-m.start > maxVDSO {
			continue
		}
		memory, err := os.Open("/proc/self/mem")
		if err != nil {
			return nil, 0
		}
		defer func() { _ = memory.Close() }() // it was only read
		image := make([]byte, m.end-m.start)
		if _, err := memory.ReadAt(image, int64(m.start)); err != nil {
			return nil, 0
		}
		if symbols, err = readSymbols(bytes.NewReader(image)); err != nil {
			return nil, 0
		}
		return symbols, m.end - m.start
	}
	return nil, 0
}
