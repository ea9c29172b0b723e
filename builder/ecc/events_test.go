// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"testing"
)

// What will not run is said when it is compiled.
func TestRingBufferWithoutStruct(t *testing.T) {
	needTools(t)
	const (
		ring = `#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
`
		hash = `#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __type(key, int); __type(value, int); } events SEC(".maps");
`
		none   = "no header"
		events = "struct event { int id; };\n"
	)
	for _, tt := range []struct{ name, source, header, want string }{
		{"no header", ring, none, "x.bpf.c: warning: no header with the structs of events was given; the runner will refuse ring buffer events\n"},
		{"header without structs", ring, "#define N 1\ntypedef int event_t;\n", "x.h: warning: it has no struct that an event could be; the runner will refuse ring buffer events\n"},
		{"header with a struct", ring, events, ""},
		{"hash", hash, none, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			opts := Options{Source: "x.bpf.c"}
			writeFile(t, ".", "x.bpf.c", tt.source)
			if tt.header != none {
				opts.Header = "x.h"
				writeFile(t, ".", "x.h", tt.header)
				writeFile(t, ".", "x.bpf.c", "#include \"vmlinux.h\"\n#include \"x.h\"\n"+tt.source)
			}
			var diagnostics bytes.Buffer
			opts.Diagnostics = &diagnostics
			if _, err := Compile(t.Context(), opts); err != nil {
				t.Fatalf("%v\n%s", err, &diagnostics)
			}
			if diagnostics.String() != tt.want {
				t.Errorf("diagnostics %q, want %q", &diagnostics, tt.want)
			}
		})
	}
}
