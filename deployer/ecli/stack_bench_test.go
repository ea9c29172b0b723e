// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ecli

import (
	"encoding/binary"
	"io"
	"os"
	"testing"
	"time"
)

// BenchmarkStackPrinter prints stacks of 20 addresses of the kernel and 20 of a
// process whose symbols are known already.
func BenchmarkStackPrinter(b *testing.B) {
	f, err := planStacks(stackMap(`{"stack_trace":{}}`), stackLayout(b, stackStruct(20)))
	if err != nil {
		b.Fatal(err)
	}
	symbols := newSymbolizer("", newReporter(&Options{Stderr: io.Discard, Now: time.Now}, ""))
	defer symbols.close()
	for symbols.kernelList == nil {
		symbols.kernel(0)
	}
	ne := binary.NativeEndian
	event := make([]byte, 40+16*20)
	ne.PutUint32(event, uint32(os.Getpid()))
	copy(event[8:], "bench")
	ne.PutUint32(event[24:], 8*20)
	ne.PutUint32(event[28:], 8*20)
	p := &process{pid: uint64(os.Getpid())}
	p.refresh(time.Now())
	for i := range 20 {
		ne.PutUint64(event[40+8*i:], symbols.kernelList.symbols[100*i].start)
		ne.PutUint64(event[40+160+8*i:], p.mappings[0].start+uint64(4096+100*i))
	}
	for _, asJSON := range []bool{false, true} {
		name := "text"
		if asJSON {
			name = "json"
		}
		b.Run(name, func(b *testing.B) {
			printer := &stackPrinter{stackFormat: f, json: asJSON, symbols: symbols}
			var out []byte
			b.ReportAllocs()
			for b.Loop() {
				out = printer.event(out[:0], event)
			}
			b.SetBytes(int64(len(out)))
		})
	}
}
