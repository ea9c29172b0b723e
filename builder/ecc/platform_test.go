// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"bytes"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
)

func TestArchitectures(t *testing.T) {
	archs := Architectures()
	for _, arch := range archs {
		if vmlinux, _ := headersFor(includeArch(arch)); vmlinux.path == "" {
			t.Errorf("there is no vmlinux.h for %s", arch)
		}
	}
	n := 0
	for _, f := range embeddedHeaders() {
		if f.gzip {
			n++
		}
	}
	if n != len(archs) {
		t.Errorf("%d files vmlinux.h for the architectures %q", n, archs)
	}
}

const kprobe = `#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

unsigned long first = 0, second = 0, ret = 0;

SEC("kprobe/do_unlinkat")
int BPF_KPROBE(enter, int dfd, struct filename *name)
{
	first = dfd;
	second = (unsigned long)name;
	return 0;
}

SEC("kretprobe/do_unlinkat")
int BPF_KRETPROBE(leave, long value)
{
	ret = value;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
`

// access is a read of a register that was saved when a probe hit.
type access struct {
	Struct string // of the kernel's, by which a loader moves the offset
	Offset int16  // in the headers' kernel, in bytes
}

// contextReads returns how a program reads from its context.
func contextReads(t *testing.T, object []byte, program string) []access {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	p := spec.Programs[program]
	if p == nil {
		t.Fatalf("no program %s", program)
	}
	var reads []access
	for i := range p.Instructions {
		ins := &p.Instructions[i]
		relocation := btf.CORERelocationMetadata(ins)
		if relocation == nil || ins.OpCode.Class() != asm.LdXClass || ins.Src != asm.R1 {
			continue
		}
		// A relocation prints as its kind, and its type with the accessor.
		text := relocation.String()
		name := ""
		for _, s := range []string{"user_pt_regs", "pt_regs"} {
			if strings.Contains(text, `"`+s+`"`) {
				name = s
				break
			}
		}
		if name == "" {
			t.Errorf("%s: relocation %s", program, text)
		}
		reads = append(reads, access{name, ins.Offset})
	}
	return reads
}

// The registers of a probe are those of the architecture that was compiled for,
// not of the one that compiles.
func TestProbeRegisters(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	writeFile(t, dir, "probe.bpf.c", kprobe)
	// Offsets of arch/*/include/uapi/asm/ptrace.h: regs[0] and regs[1] of arm64;
	// di, si and ax of x86.
	for arch, want := range map[string]map[string][]access{
		"arm64": {"enter": {{"user_pt_regs", 0}, {"user_pt_regs", 8}}, "leave": {{"user_pt_regs", 0}}},
		"amd64": {"enter": {{"pt_regs", 112}, {"pt_regs", 104}}, "leave": {{"pt_regs", 80}}},
	} {
		t.Run(arch, func(t *testing.T) {
			result, err := Compile(t.Context(), Options{Source: dir + "/probe.bpf.c", Output: t.TempDir(), Arch: arch})
			if err != nil {
				t.Fatal(err)
			}
			for program, reads := range want {
				got := contextReads(t, result.Object, program)
				slices.SortFunc(got, func(a, b access) int { return slices.Index(reads, a) - slices.Index(reads, b) })
				if diff := cmp.Diff(reads, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", program, diff)
				}
			}
			if flag := "-D__TARGET_ARCH_" + includeArch(arch); !slices.Contains(result.Build.Flags, flag) {
				t.Errorf("build facts lack %s: %q", flag, result.Build.Flags)
			}
		})
	}
}

// A header of this machine that says something else on the other architecture is
// named; one that says the same is not.
func TestForeignHeaders(t *testing.T) {
	needTools(t)
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	for _, tt := range []struct {
		name, include, arch, want string
	}{
		{"numbers of system calls", "#include <linux/unistd.h>\n", other, "<asm/unistd.h> is that of this machine"},
		{"the same on this machine", "#include <linux/unistd.h>\n", runtime.GOARCH, ""},
		{"types", "#include <linux/bpf.h>\n#include <linux/if_ether.h>\n", other, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			var diagnostics bytes.Buffer
			source := writeFile(t, dir, "x.bpf.c", tt.include+"int x = 1;\n")
			if _, err := Compile(t.Context(), Options{Source: source, Arch: tt.arch, Diagnostics: &diagnostics}); err != nil {
				t.Fatalf("%v\n%s", err, &diagnostics)
			}
			if got := diagnostics.String(); !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
				t.Errorf("diagnostics %q, want %q", got, tt.want)
			}
		})
	}
}
