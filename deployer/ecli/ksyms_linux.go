// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/ebpm/ebpm/manifest"
)

// kallsymsFile lists the kernel's symbols. Anyone may read the names; the
// addresses are 0 for those without CAP_SYSLOG.
const kallsymsFile = "/proc/kallsyms"

// kernelFunctions calls each with every function of r, which is in the format
// of kallsyms. Its strings are valid until each returns.
func kernelFunctions(r io.Reader, each func(kallsym)) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if s, ok := parseKallsym(lines.Bytes()); ok && strings.IndexByte("tTwW", s.kind) >= 0 {
			each(s)
		}
	}
	return lines.Err()
}

// findFunctions returns for each function with a name the module that it is of,
// "" for the kernel itself. There may be several: those that are local to a file
// need not have a name of their own.
func findFunctions(name string) (modules []string, err error) {
	f, err := os.Open(kallsymsFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	err = kernelFunctions(f, func(s kallsym) {
		if string(s.name) == name {
			modules = append(modules, string(s.module))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kallsymsFile, err)
	}
	return modules, nil
}

// nearFunctions returns up to three names of functions that are much like name.
// Those that a compiler made of it, such as name.isra.0, come first.
func nearFunctions(r io.Reader, name string) []string {
	const most = 3
	var near [3][]string
	add := func(rank int, s []byte) {
		if len(near[rank]) < most && !slices.Contains(near[rank], string(s)) {
			near[rank] = append(near[rank], string(s))
		}
	}
	// Half a list is as good as none.
	_ = kernelFunctions(r, func(s kallsym) {
		n := s.name
		rest, made := bytes.CutPrefix(n, []byte(name))
		switch {
		case made && len(rest) > 0 && rest[0] == '.':
			add(0, n)
		case len(n) > 3 && len(name) > 3 && oneEditApart(n, name):
			add(1, n)
		case len(name) > 3 && bytes.Contains(n, []byte(name)) && !bytes.ContainsAny(n, "."):
			add(2, n)
		}
	})
	all := slices.Concat(near[0], near[1], near[2])
	return all[:min(len(all), most)]
}

// oneEditApart reports whether one letter more, less or changed, or two swapped,
// make b of a.
func oneEditApart(a []byte, b string) bool {
	if d := len(a) - len(b); d < -1 || d > 1 {
		return false
	}
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	restA, restB := a[i:], b[i:]
	switch {
	case len(restA) > len(restB):
		return string(restA[1:]) == restB
	case len(restA) < len(restB):
		return string(restA) == restB[1:]
	case len(restA) == 0:
		return false // the same
	}
	return string(restA[1:]) == restB[1:] ||
		len(restA) > 1 && restA[0] == restB[1] && restA[1] == restB[0] && string(restA[2:]) == restB[2:]
}

// errNoFunction is the error of a target that the kernel does not have.
func errNoFunction(name string) error {
	advice := "The compiler may have inlined it: " + kallsymsFile + " lists those that there are."
	if f, err := os.Open(kallsymsFile); err == nil {
		defer f.Close()
		if near := nearFunctions(f, name); len(near) > 0 {
			advice = fmt.Sprintf("There is %s. If that is not it, the compiler may have inlined the function: %s lists those that there are.",
				strings.Join(near, ", "), kallsymsFile)
		}
	}
	return manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("this kernel has no function %s", name), advice)
}

// syscallPrefixes begin the names of system calls where the kernel wraps them,
// by architecture (ARCH_HAS_SYSCALL_WRAPPER, Linux 4.17).
var syscallPrefixes = map[string]string{
	"386": "__ia32_", "amd64": "__x64_", "arm64": "__arm64_", "ppc64le": "__powerpc_", "riscv64": "__riscv_", "s390x": "__s390x_",
}

// syscallWrapper returns the prefix of the functions of system calls, such as
// __x64_, and "" where the kernel does not wrap them.
var syscallWrapper = sync.OnceValues(func() (string, error) {
	prefix := syscallPrefixes[runtime.GOARCH]
	if prefix == "" {
		return "", nil
	}
	found, err := findFunctions(prefix + "sys_bpf")
	if err != nil || len(found) == 0 {
		return "", err
	}
	return prefix, nil
})

// validFunction reports whether s can be the name of a kernel function.
func validFunction(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c != '.' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}
