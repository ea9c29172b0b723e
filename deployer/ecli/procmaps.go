// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

const (
	// maxMaps bounds what is read of the list of a process's mappings, in bytes.
	maxMaps = 16 << 20
	// maxMappings bounds how many executable ones of a process are kept.
	maxMappings = 8192
)

// A mapping is a part of a process's memory that holds code.
type mapping struct {
	start, end uint64
	// offset is where in the file the mapping starts.
	offset uint64
	file   fileID
	// path is that of the file as the process's mount namespace has it, with
	// " (deleted)" behind it where it is gone; "[vdso]" and the like are none.
	path string
}

// fileID is a file as the kernel's lists of mappings name it; of all zeroes is
// none.
type fileID struct {
	major, minor uint32
	inode        uint64
}

var errMapsLine = errors.New("not a line of a list of mappings")

// parseMapping reads a line of /proc/PID/maps, such as
// "5581a000-5581b000 r-xp 00002000 08:01 1234    /usr/bin/cat". What holds no
// code is not executable.
func parseMapping(line []byte) (m mapping, executable bool, err error) {
	var fields [5]string
	rest := string(line)
	for i := range fields {
		var found bool
		if fields[i], rest, found = strings.Cut(rest, " "); !found && i < len(fields)-1 {
			return mapping{}, false, errMapsLine
		}
	}
	from, to, _ := strings.Cut(fields[0], "-")
	major, minor, _ := strings.Cut(fields[3], ":")
	var errs [6]error
	m.start, errs[0] = strconv.ParseUint(from, 16, 64)
	m.end, errs[1] = strconv.ParseUint(to, 16, 64)
	m.offset, errs[2] = strconv.ParseUint(fields[2], 16, 64)
	var a, b uint64
	a, errs[3] = strconv.ParseUint(major, 16, 32)
	b, errs[4] = strconv.ParseUint(minor, 16, 32)
	m.file.inode, errs[5] = strconv.ParseUint(fields[4], 10, 64)
	if errors.Join(errs[:]...) != nil || m.end < m.start || len(fields[1]) != 4 {
		return mapping{}, false, errMapsLine
	}
	m.file.major, m.file.minor = uint32(a), uint32(b)
	m.path = unescapeMapsPath(strings.TrimLeft(rest, " "))
	return m, fields[1][2] == 'x', nil
}

// unescapeMapsPath undoes the one escape of the list: a newline is \012. The
// kernel does not escape the backslash itself, so that a file whose name has
// these four characters is not found.
func unescapeMapsPath(path string) string { return strings.ReplaceAll(path, `\012`, "\n") }

// readMappings reads the executable mappings of a process, which the kernel
// lists in the order of their addresses.
func readMappings(r io.Reader) ([]mapping, error) {
	var all []mapping
	limited := &io.LimitedReader{R: r, N: maxMaps}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, 64<<10)
	for len(all) < maxMappings && lines.Scan() {
		line := lines.Bytes()
		// Most mappings hold no code, and processes have up to 65,530.
		if _, flags, ok := bytes.Cut(line, []byte(" ")); !ok || len(flags) < 4 || flags[2] != 'x' {
			continue
		}
		m, executable, err := parseMapping(line)
		switch {
		case err != nil && limited.N == 0:
			return all, nil // the bound cut the line
		case err != nil:
			return nil, err
		case executable:
			all = append(all, m)
		}
	}
	return all, lines.Err()
}

// findMapping returns the index of the mapping that address is in, or -1.
func findMapping(all []mapping, address uint64) int {
	low, high := 0, len(all)
	for low < high {
		middle := (low + high) / 2
		if all[middle].end <= address {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low < len(all) && all[low].start <= address {
		return low
	}
	return -1
}
