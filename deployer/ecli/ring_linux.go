// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A ring reads the records of a ring buffer where they lie. The library's
// reader gives a record back to the kernel as soon as it has copied it; here
// records are given back by [ring.release], once they were written out. So
// whoever else holds the map goes on just where a process stopped that died.
//
// One goroutine uses it at a time; only Flush may be called by others.
type ring struct {
	consumerPage, dataPages []byte // as mapped
	consumed, produced      *atomic.Uint64
	data                    []byte // twice the size of the buffer
	mask                    uint64
	// at is where the next record is. What lies between consumed and at was
	// returned and is not given back yet.
	at uint64
	// held are records that were taken out while nobody printed; next returns
	// them first.
	held      [][]byte
	heldBytes int

	epoll, event int
	timeout      time.Duration
	flushing     atomic.Bool
	// woken is when wait last found records, and wokenAt where; resting is how long a
	// rest is.
	woken   time.Time
	wokenAt uint64
	resting time.Duration
}

// What the header of a record consists of, linux/bpf.h of Linux 5.8.
const (
	ringHeaderSize = 8 // bytes: the length with two flags, then the kernel's own
	ringBusy       = 1 << 31
	ringDiscarded  = 1 << 30
)

// busyTurns is how often a record that its program has not finished is looked at
// before the reader sleeps: programs take a microsecond, unless the processor is
// taken from them.
const (
	busyTurns = 64
	busyPause = 50 * time.Microsecond
)

// A stream of single events would wake the reader up for each of them, which
// costs many times what it does to print one. So after each batch the reader rests
// for a moment; an event that comes alone is printed at once. It does not rest
// where that moment could fill the buffer: when a batch was more than a part of
// the buffer it rests half as long from then on, in the end not at all, and when it
// was much less twice as long, up to what 128 MiB a second would need to fill it.
const (
	restTime    = time.Millisecond
	restLongest = 4 * time.Millisecond
	restSize    = 128 << 10 // bytes, of the least buffer
	restPart    = 8
)

// openRing reads m, whose programs may send without waking the reader up: such a
// record is found within the timeout.
func openRing(m *ebpf.Map, timeout time.Duration) (_ *ring, err error) {
	size := int(m.MaxEntries())
	if m.Type() != ebpf.RingBuf || bits.OnesCount(uint(size)) != 1 {
		return nil, fmt.Errorf("a map of type %s and %d bytes is no ring buffer", m.Type(), size)
	}
	r := &ring{mask: uint64(size - 1), epoll: -1, event: -1, timeout: timeout}
	defer func() {
		if err != nil {
			_ = r.Close()
		}
	}()
	page := os.Getpagesize()
	if r.consumerPage, err = unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the reader's page: %w", err)
	}
	// The kernel maps the records twice, one behind the other, so that each is
	// in one piece.
	if r.dataPages, err = unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the records: %w", err)
	}
	r.consumed = (*atomic.Uint64)(unsafe.Pointer(&r.consumerPage[0]))
	r.produced = (*atomic.Uint64)(unsafe.Pointer(&r.dataPages[0]))
	r.data = r.dataPages[page:]
	r.at = r.consumed.Load()
	if r.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	for _, fd := range []int{m.FD(), r.event} {
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return nil, fmt.Errorf("wait for records: %w", err)
		}
	}
	return r, nil
}

// next returns the next record, which is valid until it is released. The error
// is errDry when all that is there was returned and is not released yet; once
// it is, next waits, and returns os.ErrDeadlineExceeded after the timeout, or
// errFlushed while the ring is flushed.
func (r *ring) next() (record []byte, lost uint64, err error) {
	if len(r.held) > 0 {
		record, r.held = r.held[0], r.held[1:]
		r.heldBytes -= len(record) + heldCost
		return record, 0, nil
	}
	for turn := 0; ; {
		produced := r.produced.Load()
		if r.at == produced {
			if r.at != r.consumed.Load() {
				return nil, 0, errDry
			}
			if err := r.wait(); err != nil {
				return nil, 0, err
			}
			continue
		}
		head := r.data[r.at&r.mask:]
		// Atomic, as the kernel clears the flag after it has written the record.
		length := atomic.LoadUint32((*uint32)(unsafe.Pointer(&head[0])))
		if length&ringBusy != 0 {
			if turn++; turn < busyTurns {
				runtime.Gosched()
			} else {
				time.Sleep(busyPause)
			}
			continue
		}
		size := uint64(length &^ (ringBusy | ringDiscarded))
		// Only the kernel can write here. Were it wrong, nothing behind would be a
		// record.
		total := ringHeaderSize + (size+7)&^7
		if total > produced-r.at {
			return nil, 0, fmt.Errorf("a record of %d bytes where %d are left", size, produced-r.at)
		}
		r.at += total
		if length&ringDiscarded == 0 {
			return head[ringHeaderSize : ringHeaderSize+size : ringHeaderSize+size], 0, nil
		}
	}
}

const (
	// holdPause is how often a ring is looked at that fills while nobody prints.
	holdPause = time.Millisecond
	// heldCost is what a record takes beside its bytes: its place in the list, which
	// grows to twice its length, and what the allocator rounds up.
	heldCost = 64
)

// maxHeld is how many bytes of memory are held before the ring runs over. A Pod's
// limit has that much above what its runner takes.
var maxHeld = 32 << 20

// hold waits until stop is closed, and takes records into memory whenever the ring
// is more than half full. next must not have returned what is not released.
func (r *ring) hold(stop <-chan struct{}) error {
	woken := make(chan struct{})
	defer func() { <-woken }()
	go func() {
		defer close(woken)
		<-stop
		_ = r.wake()
	}()
	for {
		waiting, size := r.waiting()
		var err error
		switch {
		case waiting == 0:
			if err = r.wait(); errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
		case waiting <= size/2 || r.heldBytes >= maxHeld:
			time.Sleep(holdPause)
		}
		select {
		case <-stop:
			return err
		default:
		}
		if err != nil {
			return err
		}
		if waiting, _ := r.waiting(); waiting <= size/2 || r.heldBytes >= maxHeld {
			continue
		}
		held := r.held
		r.held = nil // else next would return them
		for r.heldBytes < maxHeld {
			record, _, err := r.next()
			if errors.Is(err, errDry) {
				break
			}
			if err != nil {
				return err
			}
			held = append(held, bytes.Clone(record))
			r.heldBytes += len(record) + heldCost
		}
		r.held = held
		r.release()
	}
}

// release gives the kernel the room of all records that next has returned.
func (r *ring) release() { r.consumed.Store(r.at) }

// waiting returns how many bytes of records nobody has given back yet, and how
// many there is room for.
func (r *ring) waiting() (n, size uint64) { return r.produced.Load() - r.consumed.Load(), r.mask + 1 }

// wait waits until there are records.
func (r *ring) wait() error {
	if r.flushing.Load() {
		// A record may have come between the look and the flush.
		if r.at != r.produced.Load() {
			return nil
		}
		r.flushing.Store(false)
		return errFlushed
	}
	if rest := r.rest(time.Since(r.woken)); rest > 0 {
		time.Sleep(rest)
		if r.at != r.produced.Load() {
			r.woken, r.wokenAt = time.Now(), r.at
			return nil
		}
	}
	var events [2]unix.EpollEvent
	n, err := unix.EpollWait(r.epoll, events[:], int(r.timeout.Milliseconds()))
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("wait for records: %w", err)
	case n == 0 && r.at == r.produced.Load():
		return os.ErrDeadlineExceeded
	}
	for _, e := range events[:n] {
		if int(e.Fd) == r.event {
			var count [8]byte
			_, _ = unix.Read(r.event, count[:]) // it is only there to wake up
		}
	}
	r.woken, r.wokenAt = time.Now(), r.at
	return nil
}

// rest returns how long the reader may sleep that woke up so long ago, after a
// batch.
func (r *ring) rest(ago time.Duration) time.Duration {
	size, batch := r.mask+1, r.at-r.wokenAt
	if ago > r.resting {
		r.resting = 0 // no stream, of which a rest would tell how fast it is
	}
	switch {
	case size < restSize:
		return 0
	case batch > size/restPart:
		if r.resting /= 2; r.resting < restTime {
			r.resting = 0
		}
	case batch <= size/restPart/4:
		longest := min(restTime*time.Duration(size/restSize), restLongest)
		r.resting = min(max(2*r.resting, restTime), longest)
	}
	return r.resting - ago
}

// Flush makes next return errFlushed once nothing is waiting.
func (r *ring) Flush() error {
	r.flushing.Store(true)
	return r.wake()
}

// wake ends a wait.
func (r *ring) wake() error {
	one := binary.NativeEndian.AppendUint64(nil, 1)
	if _, err := unix.Write(r.event, one); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("wake the reader up: %w", err)
	}
	return nil
}

// Close lets go of the buffer. The records that next returned are gone with it.
func (r *ring) Close() error {
	var errs []error
	for _, pages := range [][]byte{r.consumerPage, r.dataPages} {
		if pages != nil {
			errs = append(errs, unix.Munmap(pages))
		}
	}
	for _, fd := range []int{r.epoll, r.event} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	*r = ring{epoll: -1, event: -1}
	return errors.Join(errs...)
}
