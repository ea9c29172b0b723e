// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// A ringFiller is a ring buffer with a program that numbers its records.
type ringFiller struct {
	ring, count *ebpf.Map
	output      *ebpf.Program // sends a record of 8 bytes
	discard     *ebpf.Program // takes room for a record and gives it back
}

func newRingFiller(t *testing.T, size uint32, flags int32) *ringFiller {
	t.Helper()
	needRoot(t)
	f := &ringFiller{}
	keep := func(m *ebpf.Map, err error) *ebpf.Map {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		return m
	}
	f.ring = keep(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: size}))
	f.count = keep(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}))
	load := func(ins asm.Instructions) *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return())})
		if err != nil {
			t.Fatalf("%+v", err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	f.output = load(asm.Instructions{
		asm.LoadMapValue(asm.R1, f.count.FD(), 0),
		asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord),
		asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R1, 0, asm.R2, asm.DWord),
		asm.LoadMapPtr(asm.R1, f.ring.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -8),
		asm.Mov.Imm(asm.R3, 8),
		asm.Mov.Imm(asm.R4, flags),
		asm.FnRingbufOutput.Call(),
	})
	f.discard = load(asm.Instructions{
		asm.LoadMapPtr(asm.R1, f.ring.FD()),
		asm.Mov.Imm(asm.R2, 24),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Imm(asm.R2, flags),
		asm.FnRingbufDiscard.Call(),
	})
	return f
}

func (f *ringFiller) run(t *testing.T, p *ebpf.Program, times int) {
	t.Helper()
	for range times {
		if _, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
			t.Fatal(err)
		}
	}
}

func openTestRing(t *testing.T, m *ebpf.Map) *ring {
	t.Helper()
	r, err := openRing(m, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// take returns the numbers of the records until there are none.
func take(t *testing.T, r *ring) (numbers []uint64, end error) {
	t.Helper()
	for {
		record, lost, err := r.next()
		if err != nil {
			return numbers, err
		}
		if lost != 0 || len(record) != 8 {
			t.Fatalf("record %x, %d lost", record, lost)
		}
		numbers = append(numbers, binary.NativeEndian.Uint64(record))
	}
}

// TestRingReleases: what a reader has not released is there for the next one.
func TestRingReleases(t *testing.T) {
	f := newRingFiller(t, uint32(os.Getpagesize()), 0)
	first := openTestRing(t, f.ring)
	f.run(t, f.output, 3)
	f.run(t, f.discard, 2)
	if got, err := take(t, first); !slices.Equal(got, []uint64{0, 1, 2}) || !errors.Is(err, errDry) {
		t.Fatalf("got %d, %v", got, err)
	}
	if _, _, err := first.next(); !errors.Is(err, errDry) {
		t.Fatalf("without a release: %v", err)
	}
	second := openTestRing(t, f.ring)
	if got, err := take(t, second); !slices.Equal(got, []uint64{0, 1, 2}) || !errors.Is(err, errDry) {
		t.Fatalf("the second reader got %d, %v", got, err)
	}
	second.release()
	if n, size := second.waiting(); n != 0 || size != uint64(os.Getpagesize()) {
		t.Errorf("%d of %d bytes are waiting", n, size)
	}
	if got, err := take(t, openTestRing(t, f.ring)); len(got) != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third reader got %d, %v", got, err)
	}
}

// TestRingWrapsAround: records that lie over the end of the buffer are whole, and
// those that are sent without waking the reader up are found.
func TestRingWrapsAround(t *testing.T) {
	const noWakeup = 1 // BPF_RB_NO_WAKEUP
	f := newRingFiller(t, uint32(os.Getpagesize()), noWakeup)
	r := openTestRing(t, f.ring)
	var want uint64
	for range 100 {
		f.run(t, f.output, 7)
		f.run(t, f.discard, 1)
		got, err := take(t, r)
		if !errors.Is(err, errDry) {
			t.Fatal(err)
		}
		for _, n := range got {
			if n != want {
				t.Fatalf("record %d where %d is next", n, want)
			}
			want++
		}
		r.release()
	}
	if want != 700 {
		t.Errorf("%d records of 700", want)
	}
}

// TestRingFlush: a flush ends the wait, after all that is there.
func TestRingFlush(t *testing.T) {
	f := newRingFiller(t, uint32(os.Getpagesize()), 0)
	r, err := openRing(f.ring, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		_, _, err := r.next()
		done <- err
	}()
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, errFlushed) {
		t.Fatal(err)
	}
	f.run(t, f.output, 2)
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := take(t, r); !slices.Equal(got, []uint64{0, 1}) || !errors.Is(err, errDry) {
		t.Fatalf("got %d, %v", got, err)
	}
	r.release()
	if _, err := take(t, r); !errors.Is(err, errFlushed) {
		t.Fatal(err)
	}
}

// TestRingRests: the reader rests after small batches, longer in a large buffer, and
// never where that could fill the buffer.
func TestRingRests(t *testing.T) {
	const size = 1 << 20
	for _, tt := range []struct {
		name string
		size uint64
		read []uint64 // bytes of the batches
		ago  time.Duration
		want string // in ms
	}{
		{"stream", size, []uint64{64, 64, 64, 64}, 0, "[1 2 4 4]"},
		{"stream, later", size, []uint64{64}, restTime / 4, "[0.75]"},
		{"event after silence", size, []uint64{64}, time.Second, "[-999]"},
		{"events after silence", size, []uint64{64, 0, 64}, time.Second, "[-999 -999 -999]"},
		{"burst", size, []uint64{size/restPart + 1}, 0, "[0]"},
		{"a stream that grows", size, []uint64{64, 64, 64, size / restPart, size/restPart + 1, size, size, size}, 0, "[1 2 4 4 2 1 0 0]"},
		{"the least buffer", restSize, []uint64{64, 64}, 0, "[1 1]"},
		{"twice the least", 2 * restSize, []uint64{64, 64, 64}, 0, "[1 2 2]"},
		{"small buffer", restSize / 2, []uint64{64}, 0, "[0]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &ring{mask: tt.size - 1, at: 5 << 30} // where in the buffer does not matter
			var got []float64
			for _, n := range tt.read {
				r.wokenAt = r.at
				r.at += n
				got = append(got, float64(r.rest(tt.ago))/float64(time.Millisecond))
			}
			if fmt.Sprint(got) != tt.want {
				t.Errorf("got %v ms, want %s", got, tt.want)
			}
		})
	}
}

// TestRingRestFindsRecords: what comes while the reader rests is found at its end,
// and a flush ends the wait as ever.
func TestRingRestFindsRecords(t *testing.T) {
	f := newRingFiller(t, restSize, 0)
	r := openTestRing(t, f.ring)
	for i := range 3 {
		f.run(t, f.output, 1)
		record, _, err := r.next()
		if err != nil || binary.NativeEndian.Uint64(record) != uint64(i) {
			t.Fatalf("record %d: %v, %v", i, record, err)
		}
		r.release()
		if rest := r.rest(0); rest != restTime {
			t.Fatalf("the reader does not rest after a record, but %s", rest)
		}
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.next(); !errors.Is(err, errFlushed) {
		t.Fatalf("after the flush: %v", err)
	}
}

// TestRingHolds: while nobody prints nothing is lost, and the order stays.
func TestRingHolds(t *testing.T) {
	f := newRingFiller(t, uint32(os.Getpagesize()), 0)
	r := openTestRing(t, f.ring)
	stop, held := make(chan struct{}), make(chan error, 1)
	go func() { held <- r.hold(stop) }()
	// Four times what there is room for.
	for range 16 {
		f.run(t, f.output, 64)
		eventually(t, "there is room", func() bool {
			waiting, size := r.produced.Load()-r.consumed.Load(), uint64(os.Getpagesize())
			return waiting <= size/2
		})
	}
	close(stop)
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	f.run(t, f.output, 8)
	got, err := take(t, r)
	if !errors.Is(err, errDry) || len(got) != 16*64+8 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i, n := range got {
		if n != uint64(i) {
			t.Fatalf("record %d where %d is next", n, i)
		}
	}
	r.release()
	if r.heldBytes != 0 {
		t.Errorf("%d bytes are held", r.heldBytes)
	}
}

// TestRingHoldsLittle: a Pod that took more memory than its limit would be killed,
// and lose all that is held.
func TestRingHoldsLittle(t *testing.T) {
	most := maxHeld
	maxHeld = 4096
	t.Cleanup(func() { maxHeld = most })
	f := newRingFiller(t, uint32(os.Getpagesize()), 0)
	r := openTestRing(t, f.ring)
	stop, held := make(chan struct{}), make(chan error, 1)
	go func() { held <- r.hold(stop) }()
	f.run(t, f.output, 192)
	// A record takes 16 bytes of the ring, and holds 8.
	eventually(t, "records are held", func() bool { return r.consumed.Load() > 0 })
	close(stop)
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if r.heldBytes > maxHeld+8+heldCost {
		t.Errorf("%d bytes are held, of %d", r.heldBytes, maxHeld)
	}
	got, err := take(t, r)
	if !errors.Is(err, errDry) || len(got) != 192 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i, n := range got {
		if n != uint64(i) {
			t.Fatalf("record %d where %d is next", n, i)
		}
	}
	r.release()
	if r.heldBytes != 0 {
		t.Errorf("%d bytes are held", r.heldBytes)
	}
}

func TestRingRefuses(t *testing.T) {
	needRoot(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := openRing(m, 0); err == nil {
		t.Error("an array was opened as a ring buffer")
	}
}
