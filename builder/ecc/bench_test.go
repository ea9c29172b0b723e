// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// cpuTime is what this process and the children that it waited for have used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var total time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if err := syscall.Getrusage(who, &usage); err != nil {
			b.Fatal(err)
		}
		total += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return total
}

// BenchmarkCompile compares a compile with the bare clang command that a person
// would run on the same source: cpu-ms/op of each, and their ratio.
func BenchmarkCompile(b *testing.B) {
	needTools(b)
	dir := copyDir(b, "testdata/upstream/event-one")
	source := filepath.Join(dir, "greeter.bpf.c")
	vmlinux, libbpf := headersFor("x86")
	root, err := extractHeaders(append(libbpf, vmlinux), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	var bare, own time.Duration
	n := 0
	for b.Loop() {
		start := cpuTime(b)
		object := filepath.Join(dir, "bare.o")
		cmd := exec.Command("clang", "-g", "-O2", "-target", "bpf", "-D__TARGET_ARCH_x86",
			"-I"+root, "-I"+filepath.Join(root, "vmlinux/x86"), "-c", source, "-o", object)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		middle := cpuTime(b)
		if _, err := Compile(b.Context(), Options{Source: source, Header: filepath.Join(dir, "event.h"), Arch: "amd64"}); err != nil {
			b.Fatal(err)
		}
		bare += middle - start
		own += cpuTime(b) - middle
		n++
	}
	b.ReportMetric(float64(bare.Milliseconds())/float64(n), "clang-cpu-ms/op")
	b.ReportMetric(float64(own.Milliseconds())/float64(n), "ecc-cpu-ms/op")
	b.ReportMetric(float64(own)/float64(bare), "cpu-ratio")
}
