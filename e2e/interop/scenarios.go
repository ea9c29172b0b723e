// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import "golang.org/x/sys/unix"

// A scenario is a package and what makes its programs send.
type scenario struct {
	// name is that of the source below deployer/ecli/testdata/upstream, without
	// .bpf.c, or of an example.
	name string
	// header has the structs of the events; empty means that there is none.
	header string
	// theirs is the package that eunomia-bpf's ecc made of the same source, in
	// the same folder; empty where there is none.
	theirs string
	// byHand says that the package was written by hand.
	byHand bool
	args   []string
	// trigger makes the events; nil makes none.
	trigger func()
	// textLines and jsonLines are how many lines are compared of maps that are
	// sampled for ever; 0 compares all of them.
	textLines, jsonLines int
	// differs says why the outputs are not equal: what spec says ours does in
	// the place of the other's; empty means that they are equal. In one format
	// only, inFormat names it.
	differs, inFormat string
}

// getpgid fires the tracepoint that the programs wait for; each takes another
// number for its own.
func getpgid(numbers ...int) func() {
	return func() {
		for _, n := range numbers {
			_, _ = unix.Getpgid(n)
		}
	}
}

// Why outputs differ (what eunomia-bpf's ecli 0.2.9 does is seen, not read).
const (
	anonymousMembers = "anonymous members: theirs leaves them out, ours shows their members"
	shortEvents      = "an event shorter than its type: theirs ends, ours says so and goes on"
	floatOrder       = "arguments of floating point: theirs writes them in the wrong byte order"
	unsignedRange    = "unsigned arguments: theirs refuses the upper half of their range"
	otherIntegers    = "arguments of integer types by another name: theirs knows no u32, unsigned long or unsigned char"
	initialBool      = "a bool that the object sets: theirs clears it when the argument is missing"
	dataSections     = ".data and sections of one's own: theirs refuses them"
	shortNames       = "names of five letters or less: theirs finds no section of variables"
	keyLabels        = "struct keys, and values of another struct: theirs labels members with their types and loses some"
	perCPUMaps       = "per-CPU maps: theirs ends at the first key, ours prints a value for each CPU"
	wideCounts       = "histograms: theirs computes bars in 32 bits"
	wideSlots        = "slots of 64 bits: theirs reads 32 bits"
	linearHistograms = "linear histograms: theirs refuses to draw them"
	openStrings      = "text without a NUL: theirs aborts, ours prints all of it"
	badUTF8          = "text that is not UTF-8: theirs ends, ours replaces the bad bytes"
	bitFields        = "bit fields: theirs ends or reads them wrong"
	wideEnums        = "enums of eight bytes: theirs ends at the first event"
	noExportType     = "a ring buffer without export type: theirs hangs, ours refuses the package"
	badConfig        = "an export_config that does not fit: theirs hangs, ours refuses the package"
)

var scenarios = []scenario{
	{name: "scalars/scalars", header: "scalars.h", theirs: "package.json", trigger: getpgid(77101)},
	{name: "floats/floats", header: "floats.h", theirs: "package.json", trigger: getpgid(77102)},
	{name: "arrays/arrays", header: "arrays.h", theirs: "package.json", trigger: getpgid(77103)},
	{name: "composites/composites", header: "composites.h", theirs: "package.json", trigger: getpgid(77104)},
	{name: "composites/anon", header: "anon.h", theirs: "anon.json", trigger: getpgid(77111), differs: anonymousMembers},
	{name: "columns/columns", header: "columns.h", theirs: "package.json", trigger: getpgid(77105)},
	{name: "columns/columns", header: "columns.h"},
	{name: "strings/strings", header: "strings.h", theirs: "package.json", trigger: getpgid(77106)},
	{name: "strings/strings", header: "strings.h", theirs: "package.json", trigger: getpgid(77107), differs: openStrings},
	{name: "strings/strings", header: "strings.h", theirs: "package.json", trigger: getpgid(77108), differs: badUTF8},
	{name: "several-structs/several", header: "several.h", theirs: "package.json", trigger: getpgid(77120)},
	{name: "unsupported-members/bitfield", header: "bitfield.h", theirs: "bitfield.json", trigger: getpgid(77109), differs: bitFields},
	{name: "unsupported-members/enum64", header: "enum64.h", theirs: "enum64.json", trigger: getpgid(77109), differs: wideEnums},

	{name: "event-sizes/sizes", header: "sizes.h", theirs: "package.json", trigger: getpgid(77140)},
	{name: "event-sizes/sizes", header: "sizes.h", theirs: "package.json", trigger: getpgid(77141)},
	{name: "event-sizes/sizes", header: "sizes.h", theirs: "package.json", trigger: getpgid(77142), differs: shortEvents},
	{name: "perf-array/perf", header: "perf.h", theirs: "package.json", trigger: getpgid(77130)},
	{name: "perf-array/perf", header: "perf.h", theirs: "package.json", trigger: getpgid(77131, 77132)},
	{name: "perf-array/perf", header: "perf.h", theirs: "package.json", trigger: getpgid(77133), differs: shortEvents},
	{name: "signals/burst", header: "record.h", theirs: "burst.json", trigger: getpgid(77322)},
	{name: "probes/both", header: "record.h", theirs: "package.json", trigger: func() {
		getpgid(77271)()
		_, _ = unix.Getsid(77272)
	}},
	{name: "no-export/quiet", header: "record.h", theirs: "package.json", trigger: getpgid(77210)},
	{name: "no-export/noheader", theirs: "noheader.json", trigger: getpgid(77210), differs: noExportType},

	{name: "globals/globals", header: "globals.h", theirs: "package.json", trigger: getpgid(77220)},
	{name: "globals/globals", header: "globals.h", theirs: "package.json", trigger: getpgid(77220),
		args: []string{"--i=-5", "--ui", "200", "--s=-32768", "--us", "400", "--l", "500", "--ll=-9223372036854775808", "--ull", "18446744073709551615", "--pid", "800", "--bss", "900", "--text", "ab", "--bss_text", "xyz"}},
	{name: "globals/globals", header: "globals.h", theirs: "package.json", trigger: getpgid(77220), args: []string{"--i", "0x10"}},
	{name: "globals/globals", header: "globals.h", theirs: "package.json", trigger: getpgid(77220), args: []string{"--text", "12345678"}},
	{name: "globals/globals", header: "globals.h", theirs: "package.json", trigger: getpgid(77220), args: []string{"--nothing", "1"}},
	{name: "globals/globals", header: "globals.h", theirs: "package.json", trigger: getpgid(77220), args: []string{"--d", "1.25"}, differs: floatOrder},
	{name: "globals/globals", header: "globals.h", theirs: "package.json", trigger: getpgid(77220), args: []string{"--ui", "2147483648"}, differs: unsignedRange},
	{name: "globals/globals", header: "globals.h", theirs: "package.json", trigger: getpgid(77220), args: []string{"--a_u32", "7"}, differs: otherIntegers},
	{name: "cmdarg/cmdarg", header: "cmdarg.h", theirs: "package.json", trigger: getpgid(77230), differs: initialBool},
	{name: "cmdarg/cmdarg", header: "cmdarg.h", theirs: "package.json", trigger: getpgid(77230),
		args: []string{"--plain", "10", "--new-name", "20", "-d30", "-t=T", "--disable-defon", "--enable-off-by-default", "--on", "--init"}},
	{name: "cmdarg/cmdarg", header: "cmdarg.h", theirs: "package.json", trigger: getpgid(77230), args: []string{"--defon"}},
	{name: "data-section/data", header: "record.h", theirs: "data.json", trigger: getpgid(77240), differs: dataSections},
	{name: "data-section/custom", header: "record.h", theirs: "custom.json", trigger: getpgid(77241), differs: dataSections},
	{name: "data-section/static", header: "record.h", theirs: "static.json", trigger: getpgid(77242, 77242)},
	{name: "data-section/mixed", header: "record.h", theirs: "mixed.json", trigger: getpgid(77244), args: []string{"--open", "80"}},
	{name: "short-name/a", header: "record.h", theirs: "package.json", trigger: getpgid(77340), differs: shortNames},

	{name: "default-kv/kv", header: "kv.h", theirs: "package.json", trigger: getpgid(77150), textLines: 2, jsonLines: 1},
	{name: "default-kv/array", header: "kv.h", theirs: "array.json", textLines: 3, jsonLines: 2},
	{name: "default-kv/clear", header: "kv.h", theirs: "clear.json", trigger: getpgid(77153), textLines: 3, jsonLines: 2},
	{name: "default-kv/percpu", header: "kv.h", theirs: "percpu.json", trigger: getpgid(77154), textLines: 3, jsonLines: 2, differs: perCPUMaps},
	{name: "kv-struct-key/key", header: "key.h", theirs: "package.json", trigger: getpgid(77160), textLines: 2, jsonLines: 1, differs: keyLabels},
	{name: "kv-struct-key/scalar", header: "key.h", theirs: "scalar-header.json", trigger: getpgid(77161), textLines: 2, jsonLines: 1},
	{name: "kv-struct-key/other", header: "key.h", theirs: "other.json", trigger: getpgid(77162), textLines: 2, jsonLines: 1, differs: keyLabels},
	{name: "kv-struct-key/comm", header: "key.h", theirs: "comm.json", trigger: getpgid(77163), textLines: 2, jsonLines: 1},
	{name: "log2-hist/few", header: "few.h", theirs: "few.json", trigger: getpgid(77170), textLines: 9, jsonLines: 1},
	{name: "log2-hist/first", header: "first.h", theirs: "first.json", trigger: getpgid(77171), textLines: 5, jsonLines: 1},
	{name: "log2-hist/unit", header: "unit.h", theirs: "unit.json", trigger: getpgid(77172), textLines: 32, jsonLines: 1},
	{name: "log2-hist/wide", header: "wide.h", theirs: "wide.json", trigger: getpgid(77173), textLines: 44, jsonLines: 1, differs: wideCounts, inFormat: "text"},
	{name: "log2-hist/limit", header: "limit.h", theirs: "limit.json", trigger: getpgid(77174), textLines: 37, jsonLines: 1},
	{name: "log2-hist/over", header: "over.h", theirs: "over.json", trigger: getpgid(77175), textLines: 38, jsonLines: 1},
	{name: "log2-hist/zero", header: "zero.h", theirs: "zero.json", trigger: getpgid(77176), textLines: 3, jsonLines: 1},
	{name: "log2-hist/wide64", header: "wide64.h", theirs: "wide64.json", trigger: getpgid(77178), textLines: 9, jsonLines: 1, differs: wideSlots, inFormat: "text"},
	{name: "log2-hist/before", header: "before.h", theirs: "before.json", trigger: getpgid(77179), textLines: 10, jsonLines: 1},
	{name: "log2-hist/big", header: "big.h", theirs: "big.json", trigger: getpgid(77180), textLines: 7, jsonLines: 1, differs: wideCounts, inFormat: "text"},
	{name: "linear-hist/linear", header: "linear.h", theirs: "package.json", trigger: getpgid(77190), textLines: 9, jsonLines: 1, differs: linearHistograms, inFormat: "text"},

	// Written by hand: no ecc makes an export_config.
	{name: "multi-export/multi", theirs: "only-two.json", byHand: true, trigger: getpgid(77200)},
	{name: "multi-export/multi", theirs: "scalar.json", byHand: true, trigger: getpgid(77200)},
	{name: "multi-export/multi", theirs: "none.json", byHand: true, trigger: getpgid(77200)},
	{name: "multi-export/multi", theirs: "off.json", byHand: true, trigger: getpgid(77200)},
	{name: "multi-export/multi", theirs: "sample.json", byHand: true, trigger: getpgid(77200), textLines: 2, jsonLines: 1},
	{name: "multi-export/multi", theirs: "scalar-value.json", byHand: true, trigger: getpgid(77200), textLines: 2, jsonLines: 1},
	{name: "multi-export/multi", theirs: "overlap.json", byHand: true, trigger: getpgid(77200), differs: badConfig},
	{name: "multi-export/multi", theirs: "badbtf.json", byHand: true, trigger: getpgid(77200), differs: badConfig},

	{name: "examples/opensnoop", header: "opensnoop.h", args: []string{"-p", ownPID}, trigger: func() {
		_, _ = unix.Open("/run/ebpm-interop/nothing", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}},
}
