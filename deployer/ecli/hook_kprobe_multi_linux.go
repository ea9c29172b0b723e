// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpm/ebpm/manifest"
)

func init() {
	registerHook(&hook{
		sections: []string{"kprobe.multi", "kretprobe.multi", "kprobe.session"},
		check: func(p *plannedProgram) error {
			switch {
			case p.target == "":
				return errors.New(`it names no functions; write SEC("kprobe.multi/PATTERN"), such as kprobe.multi/vfs_*`)
			case !validFunction(wildcards.Replace(p.target)):
				return fmt.Errorf("%q is no pattern of names of kernel functions: * is any letters, ? is one", p.target)
			}
			return nil
		},
		attach: attachKprobeMulti,
	})
}

var wildcards = strings.NewReplacer("*", "_", "?", "_")

func attachKprobeMulti(p *plannedProgram, prog *ebpf.Program, _ *Options) (io.Closer, string, error) {
	session := p.spec.AttachType == ebpf.AttachTraceKprobeSession
	l, target, err := linkKprobeMulti(p, prog, session)
	if err == nil {
		return l, target, nil
	}
	if lacking := lacksKprobeMulti(session); lacking != nil {
		return nil, "", lacking
	}
	return nil, "", err
}

func linkKprobeMulti(p *plannedProgram, prog *ebpf.Program, session bool) (io.Closer, string, error) {
	t, err := traceableFunctions(p.target)
	if err != nil {
		return nil, "", err
	}
	opts := link.KprobeMultiOptions{Symbols: t.names, Addresses: t.addresses, Session: session}
	var l link.Link
	if hasSectionPrefix(p.spec, "kret") {
		l, err = link.KretprobeMulti(prog, opts)
	} else {
		l, err = link.KprobeMulti(prog, opts)
	}
	switch {
	case errors.Is(err, os.ErrNotExist) && !isPattern(p.target):
		return nil, "", errUntraceable(p.target)
	case err != nil:
		return nil, "", fmt.Errorf("%s: %w", p.target, err)
	}
	target := p.target
	if n := len(t.names) + len(t.addresses); n > 1 || isPattern(target) {
		target += fmt.Sprintf(" (functions: %d)", n)
	}
	return l, target, nil
}

// lacksKprobeMulti returns an error that says what the kernel lacks, nil if
// nothing.
func lacksKprobeMulti(session bool) error {
	if errors.Is(features.HaveBPFLinkKprobeMulti(), ebpf.ErrNotSupported) {
		return lacks("kprobe.multi", "5.18", "CONFIG_FPROBE")
	}
	if session && errors.Is(features.HaveBPFLinkKprobeSession(), ebpf.ErrNotSupported) {
		return lacks("kprobe.session", "6.10", "CONFIG_FPROBE")
	}
	return nil
}

// lacks is the error of a feature that Linux has since a version, if it is built
// with an option.
func lacks(feature, since, option string) error {
	if olderThan(since) {
		return unsupported("this kernel has no %s: Linux has it since %s, and this is %s", feature, since, kernelRelease())
	}
	return unsupported("this kernel has no %s: it (%s) is built without %s", feature, kernelRelease(), option)
}

// olderThan reports whether this kernel is older than a version.
func olderThan(version string) bool {
	have, err := manifest.KernelVersion(kernelRelease())
	need, needErr := manifest.KernelVersion(version)
	return err == nil && needErr == nil && have.LessThan(need)
}

// traced are functions to attach to, by address where the kernel tells them,
// since a name may be that of several functions.
type traced struct {
	names     []string
	addresses []uintptr
}

func isPattern(target string) bool { return strings.ContainsAny(target, "*?") }

// traceableFunctions returns the functions that match a pattern and that can be
// traced: the kernel refuses a list in which one of them cannot.
func traceableFunctions(pattern string) (traced, error) {
	dir := tracefs()
	if dir == "" {
		if isPattern(pattern) {
			return traced{}, errNoTracefs
		}
		return traced{names: []string{pattern}}, nil
	}
	t, err := readTraceable(dir, pattern)
	switch {
	case err != nil:
		return traced{}, err
	case len(t.names)+len(t.addresses) > 0:
		return t, nil
	case !isPattern(pattern):
		return traced{}, errUntraceable(pattern)
	}
	return traced{}, manifest.WithKind(manifest.KindPrecondition,
		fmt.Errorf("no function of this kernel that can be traced matches %s", pattern),
		fmt.Sprintf("The file %s/available_filter_functions lists those that can.", dir))
}

func readTraceable(dir, pattern string) (traced, error) {
	var t traced
	// Linux 6.5 tells the addresses, whether or not kallsyms does.
	f, err := os.Open(dir + "/available_filter_functions_addrs")
	if err == nil {
		defer f.Close()
		t.addresses, err = traceableAddresses(f, pattern)
		return t, err
	}
	if f, err = os.Open(dir + "/available_filter_functions"); err != nil {
		return t, manifest.WithKind(manifest.KindPrecondition, fmt.Errorf("list the functions that can be traced: %w", err), "")
	}
	defer f.Close()
	if t.names, err = traceableNames(f, pattern); err != nil || len(t.names) == 0 {
		return t, err
	}
	symbols, err := os.Open(kallsymsFile)
	if err != nil {
		return t, err
	}
	defer symbols.Close()
	addresses, err := addressesOf(symbols, t.names)
	if err != nil {
		return t, err
	}
	if len(addresses) > 0 {
		return traced{addresses: addresses}, nil
	}
	return t, nil
}

// noFunction begins what the kernel lists in the place of weak functions that
// were left out when it was linked.
const noFunction = "__ftrace_invalid_address__"

// traceableAddresses reads lines "ADDRESS FUNCTION" and "ADDRESS FUNCTION [MODULE]".
func traceableAddresses(r io.Reader, pattern string) ([]uintptr, error) {
	var addresses []uintptr
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		address, rest, _ := bytes.Cut(lines.Bytes(), []byte{' '})
		name, _, _ := bytes.Cut(rest, []byte{' '})
		if !matches(pattern, name) || bytes.HasPrefix(name, []byte(noFunction)) {
			continue
		}
		at, err := strconv.ParseUint(string(address), 16, strconv.IntSize)
		if err != nil {
			return nil, fmt.Errorf("list the functions that can be traced: address %q: %w", address, err)
		}
		addresses = append(addresses, uintptr(at))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list the functions that can be traced: %w", err)
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}

// traceableNames reads lines "FUNCTION" and "FUNCTION [MODULE]", and returns each
// name once, sorted. It passes by those of modules, which the kernel finds by
// name since Linux 6.2 only, after which it tells their addresses soon.
func traceableNames(r io.Reader, pattern string) ([]string, error) {
	var names []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, _, module := bytes.Cut(lines.Bytes(), []byte{' '})
		if !module && matches(pattern, name) && !bytes.HasPrefix(name, []byte(noFunction)) {
			names = append(names, string(name))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list the functions that can be traced: %w", err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// addressesOf looks names, which are sorted, up in kallsyms. It returns none if
// the kernel hides addresses from this process.
func addressesOf(r io.Reader, names []string) ([]uintptr, error) {
	var addresses []uintptr
	err := kernelFunctions(r, func(s kallsym) {
		if len(s.module) > 0 || s.address == 0 {
			return
		}
		if _, ok := slices.BinarySearch(names, string(s.name)); ok {
			addresses = append(addresses, uintptr(s.address))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kallsymsFile, err)
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}

// matches reports whether a name matches a pattern in which * is any letters and
// ? is one. It takes at most len(pattern)*len(name) steps.
func matches(pattern string, name []byte) bool {
	// back is where to go on in the pattern and the name if this fails: the last
	// star takes one letter more.
	backPattern, backName := -1, 0
	i, j := 0, 0
	for j < len(name) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			i++
			backPattern, backName = i, j
		case i < len(pattern) && (pattern[i] == '?' || pattern[i] == name[j]):
			i++
			j++
		case backPattern >= 0:
			backName++
			i, j = backPattern, backName
		default:
			return false
		}
	}
	return strings.Trim(pattern[i:], "*") == ""
}

// errUntraceable is the error of a function that ftrace does not list.
func errUntraceable(name string) error {
	if found, err := findFunctions(name); err != nil || len(found) == 0 {
		return errNoFunction(name)
	}
	return manifest.WithKind(manifest.KindPrecondition,
		fmt.Errorf("the kernel lets nobody trace function %s: %w", name, unix.EINVAL),
		"The file /sys/kernel/tracing/available_filter_functions lists those that can be traced.")
}
